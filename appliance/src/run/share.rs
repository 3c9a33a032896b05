//! Shared addresses: the kernel keeps an address, the listeners' TCP ports of it are ours.
//!
//! A packet socket sees copies of frames, so the kernel would answer the same segments, with a reset. A rule in the
//! device's ingress hook keeps it from seeing them: IP destination and TCP port of a listener, nothing else, so no other
//! service of the machine is touched. Packet sockets get their copies before that hook.
//!
//! The rules stand in a table with an owner (`flags owner`, Linux 5.12, nftables 0.9.9): the `nft` process that made it and
//! waits at the other end of a pipe. Nobody else can change or flush the table, and it goes with that process, which ends
//! when the pipe does: at our end, however it comes, nothing is left behind. What remains to guard is that the process
//! lives; where it does not, it is started again, and where that fails the appliance stops.

use std::fmt;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::RunError;
use crate::config::{Config, Port, Share};

/// How long the rules may take to be there.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why an address cannot be shared with the kernel.
#[derive(Debug)]
pub enum ShareError {
    /// The kernel does not have the address.
    NotThere(IpAddr),
    /// A program of this machine listens there.
    Taken(SocketAddr),
    /// No listener uses the port.
    NoListener,
    /// `nft` cannot be started.
    NoTool(std::io::Error),
    /// It did not make the rules.
    Refused(String),
}

impl fmt::Display for ShareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShareError::NotThere(address) => write!(
                f,
                "the kernel does not have {address}, so there is nothing to share: remove `share`, or add the address to \
                 the device"
            ),
            ShareError::Taken(address) => write!(
                f,
                "a program of this machine listens at {address}, and Hedgerow would cut it off: stop it, or choose \
                 another `local_port`"
            ),
            ShareError::NoListener => {
                write!(
                    f,
                    "`share = \"listeners\"` takes the ports of listeners, and no listener is at this port"
                )
            }
            ShareError::NoTool(error) => write!(
                f,
                "sharing an address needs `nft` to keep the kernel from answering ({error}): install the package nftables"
            ),
            ShareError::Refused(why) => write!(
                f,
                "the rules that keep the kernel from answering could not be made: {why} (needs CAP_NET_ADMIN, Linux 5.12 \
                 and nftables 0.9.9; another Hedgerow with the same device holds them, too)"
            ),
        }
    }
}

impl std::error::Error for ShareError {}

/// The rules of one port, for as long as this is.
#[derive(Debug)]
pub(super) struct Kept {
    name: String,
    table: String,
    script: String,
    keeper: Child,
}

/// Makes the rules of all ports that share their addresses.
pub(super) fn keep(config: &Config) -> Result<Vec<Kept>, RunError> {
    let shared = config.ports.iter().enumerate().filter(|(_, port)| port.share == Share::Listeners);
    shared
        .map(|(index, port)| {
            let keep = || {
                let served = served(config, index);
                examine(&served)?;
                Kept::new(port, &served)
            };
            keep().map_err(|error| RunError::Share(port.name.clone(), error))
        })
        .collect()
}

/// Looks whether the rules still stand, and makes those anew that do not.
pub(super) fn check(kept: &mut [Kept]) -> Result<(), RunError> {
    for rules in kept {
        if let Ok(None) = rules.keeper.try_wait() {
            continue;
        }
        tracing::error!(
            port = rules.name,
            table = rules.table,
            "the rules that keep the kernel from answering are gone, and connections with them: made anew"
        );
        rules.keeper =
            spawn(&rules.table, &rules.script).map_err(|error| RunError::Share(rules.name.clone(), error))?;
    }
    Ok(())
}

/// Where the listeners of a port listen.
fn served(config: &Config, index: usize) -> Vec<SocketAddr> {
    let port = &config.ports[index];
    let listeners = config.listeners.iter().filter(|listener| listener.port == index);
    listeners
        .flat_map(|listener| {
            let own = port.addresses.iter().map(|own| own.address);
            own.filter(|own| listener.address.is_none_or(|wanted| wanted == *own))
                .map(|own| SocketAddr::new(own, listener.local_port))
        })
        .collect()
}

/// Refuses what would do harm: a port that somebody uses, an address that is not there.
fn examine(served: &[SocketAddr]) -> Result<(), ShareError> {
    if served.is_empty() {
        return Err(ShareError::NoListener);
    }
    let kernel = crate::check::kernel_addresses();
    if let Some(absent) = served.iter().find(|address| !kernel.contains(&address.ip())) {
        return Err(ShareError::NotThere(absent.ip()));
    }
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let taken: Vec<SocketAddr> =
        ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().flat_map(|path| listening(&read(path))).collect();
    let clash = |address: &&SocketAddr| {
        let same = |ip: IpAddr| ip == address.ip() || ip.is_unspecified();
        taken.iter().any(|other| other.port() == address.port() && same(other.ip()))
    };
    served.iter().find(clash).map_or(Ok(()), |address| Err(ShareError::Taken(*address)))
}

/// The addresses at which the kernel's own sockets listen: second column, where the fourth is `0A`. Addresses are words in
/// the host's byte order.
fn listening(table: &str) -> Vec<SocketAddr> {
    let line = |line: &str| {
        let mut columns = line.split_whitespace().skip(1);
        let local = columns.next()?;
        columns.nth(1).filter(|state| *state == "0A")?;
        let (address, port) = local.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let word = |place: usize| u32::from_str_radix(address.get(place * 8..place * 8 + 8)?, 16).ok();
        let ip: IpAddr = match address.len() {
            8 => word(0)?.to_ne_bytes().into(),
            32 => {
                let mut bytes = [0; 16];
                for (place, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                    chunk.copy_from_slice(&word(place)?.to_ne_bytes());
                }
                bytes.into()
            }
            _ => return None,
        };
        Some(SocketAddr::new(ip, port))
    };
    table.lines().filter_map(line).collect()
}

impl Kept {
    fn new(port: &Port, served: &[SocketAddr]) -> Result<Kept, ShareError> {
        let table = format!("hedgerow_{}", port.device.replace(|c: char| !c.is_ascii_alphanumeric(), "_"));
        let script = script(&table, &port.device, served);
        let keeper = spawn(&table, &script)?;
        Ok(Kept { name: port.name.clone(), table, script, keeper })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Its end of the pipe closes, it ends, and the table goes with it.
        self.keeper.stdin = None;
        let _ = self.keeper.wait();
    }
}

/// The rules in the words of nft(8). Fragments need no rule: without its first piece the kernel puts no segment together.
fn script(table: &str, device: &str, served: &[SocketAddr]) -> String {
    let mut text = format!(
        "add table netdev {table} {{ flags owner; }}\nadd chain netdev {table} ingress {{ type filter hook ingress device \
         \"{device}\" priority -300; policy accept; }}\n"
    );
    for address in served {
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        text += &format!(
            "add rule netdev {table} ingress {family} daddr {} tcp dport {} counter drop\n",
            address.ip(),
            address.port()
        );
    }
    text
}

/// Starts the process that owns the table, and waits until the kernel has all of it.
fn spawn(table: &str, script: &str) -> Result<Child, ShareError> {
    if let Some(text) = list(table)? {
        return Err(ShareError::Refused(format!("there is a table of that name: {text}")));
    }
    let mut keeper = Command::new("nft")
        .arg("--interactive")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(ShareError::NoTool)?;
    // A pipe that nobody reads any more says less than what `nft` has written.
    let _ = keeper.stdin.as_mut().map(|pipe| pipe.write_all(script.as_bytes()).and_then(|()| pipe.flush()));
    match standing(table, script.matches("add rule").count(), &mut keeper) {
        Ok(true) => Ok(keeper),
        Ok(false) => Err(ShareError::Refused(last_words(keeper))),
        Err(error) => {
            last_words(keeper);
            Err(error)
        }
    }
}

/// Ends the process, and gives what it had to complain about.
fn last_words(mut keeper: Child) -> String {
    keeper.stdin = None;
    let mut said = String::new();
    if let Some(mut pipe) = keeper.stderr.take() {
        let _ = pipe.read_to_string(&mut said);
    }
    let _ = keeper.wait();
    let line = said.lines().find(|line| !line.trim().is_empty());
    line.map_or_else(|| "nft made no rules and did not say why".to_owned(), |line| line.trim().to_owned())
}

/// The table in words, in one line; `None` where there is none.
fn list(table: &str) -> Result<Option<String>, ShareError> {
    let listed = Command::new("nft").args(["list", "table", "netdev", table]).output();
    let listed = listed.map_err(ShareError::NoTool)?;
    let text = String::from_utf8_lossy(&listed.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(Some(text).filter(|text| listed.status.success() && !text.is_empty()))
}

/// Waits until the table stands, is owned and has so many rules; false where that does not happen.
fn standing(table: &str, rules: usize, keeper: &mut Child) -> Result<bool, ShareError> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until && !matches!(keeper.try_wait(), Ok(Some(_))) {
        let text = list(table)?.unwrap_or_default();
        if text.contains("flags owner")
            && text.contains("hook ingress")
            && text.matches("counter").count() == rules
        {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_listen_are_read_from_the_kernels_tables() {
        let v4 = "  sl  local_address rem_address   st\n   0: 0100007F:0016 00000000:0000 0A 00000000\n   1: 0100007F:1F90 \
                  0100007F:A000 01 00000000\n";
        let v6 =
            "   0: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 00000000\n";
        assert_eq!(listening(v4), ["127.0.0.1:22".parse().unwrap()]);
        assert_eq!(listening(v6), ["[::]:443".parse().unwrap()]);
        assert_eq!(listening("nonsense\n 0: 12:0016 0 0A\n"), []);
    }

    #[test]
    fn rules_name_the_listeners_and_nothing_else() {
        let text = script(
            "hedgerow_ens5",
            "ens5",
            &["192.0.2.1:8444".parse().unwrap(), "[2001:db8::1]:8444".parse().unwrap()],
        );
        assert!(text.contains("ingress ip daddr 192.0.2.1 tcp dport 8444 counter drop\n"), "{text}");
        assert!(text.contains("ingress ip6 daddr 2001:db8::1 tcp dport 8444 counter drop\n"), "{text}");
        assert_eq!(text.matches("drop").count(), 2);
    }
}
