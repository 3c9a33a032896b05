//! Why a port could not be opened, in words that say what to do about it.

use std::fmt;
use std::io;

/// Why a port could not be opened.
#[derive(Debug)]
pub struct OpenError {
    /// The device that was asked for.
    pub device: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What keeps a port from opening.
#[derive(Debug)]
#[non_exhaustive]
pub enum Problem {
    /// There is no such device in this network namespace; these are there.
    NoDevice(Vec<String>),
    /// No device can have that name.
    BadName,
    /// The device does not carry Ethernet frames; its kind by ARP's numbers.
    NotEthernet(u16),
    /// The process lacks a capability.
    NotPermitted {
        /// Its name.
        capability: &'static str,
        /// What needs it.
        operation: &'static str,
    },
    /// Another process holds the TAP device, or it was made with other flags.
    Busy,
    /// The kernel offers no TAP devices here.
    NoTun,
    /// The mode of `/dev/net/tun` keeps this user out.
    TunNotReadable,
    /// There is no driver of that name.
    NoDriver(String),
    /// The device does not have as many queues as shards ask for.
    Queues {
        /// Queues asked for.
        asked: usize,
        /// Why there are fewer, and what to do.
        why: &'static str,
    },
    /// Another XDP program is attached to the device.
    ProgramAttached,
    /// Another process has the queue's sockets of AF_XDP.
    QueueTaken(u32),
    /// The device's queues are not as many as there are shards.
    QueueCount {
        /// Queues of the device.
        device: usize,
        /// Shards.
        shards: usize,
    },
    /// The device takes 802.1Q tags out of the bytes, where no XDP program sees them.
    TagsStripped,
    /// Packets of the device do not fit the frames of AF_XDP.
    MtuTooLarge {
        /// Its MTU.
        mtu: u32,
        /// The largest one that fits.
        most: u32,
    },
    /// The operating system refused for another reason.
    System {
        /// What was being done.
        operation: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {:?}: ", self.device)?;
        match &self.problem {
            Problem::NoDevice(known) if known.is_empty() => {
                write!(f, "no such device in this network namespace")
            }
            Problem::NoDevice(known) => {
                write!(f, "no such device in this network namespace, which has {}", known.join(", "))
            }
            Problem::BadName => write!(f, "a device name has 1 to 15 bytes and no '/'"),
            Problem::NotEthernet(kind) => write!(f, "not an Ethernet device (link type {kind})"),
            Problem::NotPermitted { capability, operation } => write!(
                f,
                "{operation} needs {capability}: run as root, set AmbientCapabilities={} in the systemd unit, or \
                 `setcap {}+ep` on the program",
                capability.replace(',', " "),
                capability.to_lowercase()
            ),
            Problem::Busy => {
                write!(f, "the TAP device is in use by another process, or was made with other flags")
            }
            Problem::NoTun => {
                write!(f, "/dev/net/tun is missing: `modprobe tun`, or pass the device into the container")
            }
            Problem::TunNotReadable => {
                write!(
                    f,
                    "/dev/net/tun may not be opened by this user: run as root, or `chmod 0666` it, which is its usual mode"
                )
            }
            Problem::NoDriver(name) => {
                write!(f, "no driver {name:?}; there are {}", crate::DRIVERS.join(", "))
            }
            Problem::Queues { asked, why } => {
                write!(f, "{asked} queues, one per shard, are not to be had: {why}")
            }
            Problem::ProgramAttached => write!(
                f,
                "another XDP program is attached, perhaps of another Hedgerow: `ip link show` and `bpftool link` name it"
            ),
            Problem::QueueTaken(queue) => {
                write!(f, "another process has queue {queue} (`ss --xdp --processes` names it)")
            }
            Problem::QueueCount { device, shards } => write!(
                f,
                "it has {device} queues for {shards} shards, and each needs one: `ethtool -L {} combined {shards}`",
                self.device
            ),
            Problem::TagsStripped => write!(
                f,
                "it takes VLAN tags out of frames before an XDP program sees them: `ethtool -K {} rxvlan off`",
                self.device
            ),
            Problem::MtuTooLarge { mtu, most } => {
                write!(f, "its MTU of {mtu} is too large for AF_XDP, which takes {most} at most")
            }
            Problem::System { operation, source } => write!(f, "{operation}: {source}"),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            Problem::System { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Problem {
    pub(crate) fn of(self, device: &str) -> OpenError {
        OpenError { device: device.into(), problem: self }
    }

    /// An error of the operating system, as the problem that it usually stands for.
    pub(crate) fn system(operation: &'static str, capability: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ENODEV) => Problem::NoDevice(devices()),
            Some(libc::EPERM | libc::EACCES) => Problem::NotPermitted { capability, operation },
            _ if source.kind() == io::ErrorKind::InvalidInput && source.raw_os_error().is_none() => {
                Problem::BadName
            }
            _ => Problem::System { operation, source },
        }
    }
}

/// The devices of the calling thread's network namespace.
fn devices() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    table.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(code: i32) -> String {
        Problem::system("opening", "CAP_NET_RAW", io::Error::from_raw_os_error(code)).of("eth0").to_string()
    }

    #[test]
    fn errors_say_what_to_do() {
        assert!(text(libc::EPERM).contains("setcap cap_net_raw+ep"), "{}", text(libc::EPERM));
        assert!(text(libc::ENODEV).contains("which has "), "{}", text(libc::ENODEV));
        assert!(text(libc::ENODEV).contains("lo"), "{}", text(libc::ENODEV));
        assert!(text(libc::ENOMEM).starts_with("device \"eth0\": opening: "), "{}", text(libc::ENOMEM));
        let unknown = Problem::NoDriver("dpdk".into()).of("eth0").to_string();
        assert!(unknown.contains("af-packet"), "{unknown}");
    }
}
