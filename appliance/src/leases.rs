//! Addresses by DHCP beside the shards: no ban concerns them, and they are asked for again after a restart.
//!
//! The file has a line for each port, `PORT ADDRESS`. It is a help and no truth: what in it cannot be read is left out.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use hedgerow_dataplane::wire::Prefix;

use crate::bans::Bans;
use crate::bans::file::replace;
use crate::commons::Commons;
use crate::config::Config;

/// Who looks after them.
#[derive(Debug)]
pub struct Leases {
    path: Option<PathBuf>,
    names: Vec<String>,
    /// How often leases had changed when this last looked.
    seen: u64,
    /// What no ban may concern because of a lease.
    sheltered: Vec<(Prefix, String)>,
    /// The last address of each port.
    last: BTreeMap<String, Ipv4Addr>,
}

impl Leases {
    /// Reads the file, if there is one, and has the ports of `config` ask for what they had.
    ///
    /// # Errors
    /// If it is there and cannot be read.
    pub fn recall(config: &mut Config) -> io::Result<Leases> {
        let path = config.management.leases.clone();
        let text = match path.as_ref().map(std::fs::read_to_string) {
            None => String::new(),
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Some(read) => read?,
        };
        let mut last = BTreeMap::new();
        for line in text.lines() {
            let Some((name, address)) = line.split_once(' ') else { continue };
            let port = config.ports.iter_mut().find(|port| port.name == name && port.dhcp);
            if let (Some(port), Ok(address)) = (port, address.parse()) {
                port.last = Some(address);
                last.insert(name.to_owned(), address);
            }
        }
        let names = config.ports.iter().map(|port| port.name.clone()).collect();
        Ok(Leases { path, names, seen: 0, sheltered: Vec::new(), last })
    }

    /// Does what a change since the last look calls for.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn step(&mut self, commons: &Commons, bans: &Bans) -> io::Result<()> {
        let leased = commons.leased();
        if leased == self.seen {
            return Ok(());
        }
        self.seen = leased;
        let mut sheltered = Vec::new();
        let mut last = self.last.clone();
        for (name, lease) in self.names.iter().zip(commons.leases()) {
            let Some(lease) = lease else { continue };
            if let IpAddr::V4(own) = IpAddr::from(lease.own.address) {
                last.insert(name.clone(), own);
            }
            for address in [Some(lease.own.address), lease.gateway].into_iter().flatten() {
                sheltered.push((Prefix::host(address), format!("port.{name}")));
            }
        }
        if sheltered != self.sheltered {
            let before = std::mem::replace(&mut self.sheltered, sheltered.clone());
            bans.change(|book, _| {
                before.iter().for_each(|(prefix, name)| book.expose(*prefix, name));
                for (prefix, name) in sheltered {
                    book.protect(prefix, name);
                }
            })?;
        }
        if last == self.last {
            return Ok(());
        }
        self.last = last;
        let Some(path) = &self.path else { return Ok(()) };
        let mut text = String::new();
        for (name, address) in &self.last {
            let _ = writeln!(text, "{name} {address}");
        }
        replace(path, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use hedgerow_dataplane::Instant;
    use hedgerow_dataplane::link::{self, dhcp::Lease};
    use hedgerow_dataplane::wire::Address;

    use super::*;
    use crate::bans::{Rules, Setup};

    const TEXT: &str = "version = 1\n[port.a]\ndevice = \"eth0\"\naddress = [\"dhcp\"]\n[[listener]]\nname = \"l\"\nport = \"a\"\n\
                        local_port = 5000\nprotocol = \"tcp\"\npool = \"p\"\n[pool.p]\nnodes = [\"n=10.2.0.5:8444\"]\n";

    fn lease(last: u8) -> Lease {
        Lease {
            own: link::Prefix { address: Address::from_v4([10, 1, 0, last]), length: 24 },
            gateway: Some(Address::from_v4([10, 1, 0, 1])),
            routes: Vec::new(),
            mtu: None,
            server: Address::from_v4([10, 1, 0, 1]),
            renew: None,
            rebind: None,
            until: Some(Instant::from_millis(1)),
        }
    }

    /// A restart asks for the last address, whatever else is in the file; and bans stay away from the present one alone.
    #[test]
    fn a_lease_is_kept_over_a_restart_and_sheltered_while_it_lasts() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("leases");
        std::fs::write(&path, "b 10.9.0.9\na nonsense\n\n").expect("a file");
        let open = || {
            let (mut config, _) =
                Config::parse("test", TEXT).unwrap_or_else(|r| panic!("{}", r.render(false)));
            config.management.leases = Some(path.clone());
            let leases = Leases::recall(&mut config).expect("leases");
            (config, leases)
        };
        let (config, mut leases) = open();
        assert_eq!(config.ports[0].last, None);
        let commons =
            Commons::over(&crate::assemble::pools(&config), Vec::new(), 1, Box::new(|_| {}), Instant::ZERO);
        let bans = Bans::open(Setup {
            rules: Rules { most: 9, ..Rules::default() },
            file: None,
            close: false,
            shards: 1,
            tell: Box::new(|_| {}),
            clock: || 0,
        })
        .expect("bans");
        let protected = |last: u8| {
            let prefix = Prefix::host(Address::from_v4([10, 1, 0, last]));
            bans.change(|book, _| book.protector(prefix).is_some()).expect("a look")
        };
        for last in [7, 8] {
            commons.lease(0, Some(lease(last)));
            leases.step(&commons, &bans).expect("a step");
            assert!(protected(last) && protected(1) && !protected(15 - last));
        }
        commons.lease(0, None);
        leases.step(&commons, &bans).expect("a step");
        assert!(!protected(8) && !protected(1));
        assert_eq!(open().0.ports[0].last, Some(Ipv4Addr::new(10, 1, 0, 8)));
    }
}
