//! What a device's driver says about itself: name, queues, ring, tags (`SIOCETHTOOL`).

use std::io;
use std::os::fd::BorrowedFd;

use bytemuck::{Pod, Zeroable};

use crate::syscall::{self, Listing};

/// What is asked before a device's queues are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The driver's name; empty where it does not tell.
    pub(crate) driver: String,
    /// Queues that frames arrive on.
    pub(crate) queues: u32,
    /// Frames that the device's own receive ring holds; zero where it has none.
    pub(crate) ring: u32,
    /// The device takes 802.1Q tags out of the bytes.
    pub(crate) strips_tags: bool,
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    texts: [[u8; 32]; 4],
    reserved: [u8; 12],
    flags: u32,
    statistics: u32,
    rest: [u32; 3],
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Channels {
    command: u32,
    most: [u32; 4],
    receive: u32,
    transmit: u32,
    other: u32,
    combined: u32,
}

/// `struct ethtool_ringparam`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RingParameters {
    command: u32,
    most: [u32; 4],
    receive: u32,
    rest: [u32; 3],
}

/// `struct ethtool_value`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Value {
    command: u32,
    data: u32,
}

const GET_DRIVER: u32 = 0x3;
const GET_RING: u32 = 0x10;
const GET_FLAGS: u32 = 0x25;
const GET_CHANNELS: u32 = 0x3c;
/// `ETH_FLAG_RXVLAN`.
const STRIPS_TAGS: u32 = 1 << 8;

/// Asks for a device of the calling thread's network namespace, through any socket. What a driver does not tell is taken
/// to be the simplest case.
pub(crate) fn facts(socket: BorrowedFd<'_>, device: &str) -> io::Result<Facts> {
    let ask = Ask { socket, device };
    let info: DriverInfo = ask.get(DriverInfo { command: GET_DRIVER, ..Zeroable::zeroed() })?;
    let channels: Channels = ask.get(Channels { command: GET_CHANNELS, ..Zeroable::zeroed() })?;
    let ring: RingParameters = ask.get(RingParameters { command: GET_RING, ..Zeroable::zeroed() })?;
    let flags: Value = ask.get(Value { command: GET_FLAGS, data: 0 })?;
    let end = info.driver.iter().position(|&byte| byte == 0).unwrap_or(info.driver.len());
    Ok(Facts {
        driver: String::from_utf8_lossy(&info.driver[..end]).into_owned(),
        queues: (channels.receive + channels.combined).max(1),
        ring: ring.receive,
        strips_tags: flags.data & STRIPS_TAGS != 0,
    })
}

/// Frames of programs that a veth device has given to the far end.
pub(crate) fn taken_by_far_end(socket: BorrowedFd<'_>, device: &str) -> io::Result<u64> {
    const GET_STRINGS: u32 = 0x1b;
    const GET_STATISTICS: u32 = 0x1d;
    /// `ETH_SS_STATS`.
    const STATISTICS: u32 = 1;
    let info: DriverInfo =
        Ask { socket, device }.get(DriverInfo { command: GET_DRIVER, ..Zeroable::zeroed() })?;
    let mut names = Listing::new(&[GET_STRINGS, STATISTICS, info.statistics]);
    let mut values = Listing::new(&[GET_STATISTICS, info.statistics]);
    syscall::ethtool_list(socket, device, &mut names)?;
    syscall::ethtool_list(socket, device, &mut values)?;
    let names = names.bytes()[12..].chunks_exact(32);
    let values = values.bytes()[8..].as_chunks::<8>().0.iter().map(|value| u64::from_ne_bytes(*value));
    let counted = names.zip(values).take(info.statistics as usize);
    Ok(counted.filter(|(name, _)| is_taken(&String::from_utf8_lossy(name))).map(|(_, value)| value).sum())
}

/// `tx_queue_N_xdp_xmit`, which is one of several that begin so.
fn is_taken(name: &str) -> bool {
    let end = name.find('\0').unwrap_or(name.len());
    name[..end].starts_with("tx_queue_") && name[..end].ends_with("_xdp_xmit")
}

struct Ask<'a> {
    socket: BorrowedFd<'a>,
    device: &'a str,
}

impl Ask<'_> {
    /// The answer, or the question where the driver does not know the request.
    fn get<T: Pod>(&self, question: T) -> io::Result<T> {
        let mut answer = question;
        match syscall::ethtool(self.socket, self.device, &mut answer) {
            Ok(()) => Ok(answer),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(question),
            Err(error) => Err(error),
        }
    }
}

/// Frames that the device counts as lost before anybody saw them, from the table of the calling thread's namespace.
pub(crate) fn lost(device: &str) -> u64 {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    lost_in(&table, device).unwrap_or(0)
}

/// Receive columns: bytes, packets, errors, drops (with those that found no buffer), FIFO overruns.
fn lost_in(table: &str, device: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))?;
    let mut columns = line.split_whitespace().skip(3).map(str::parse::<u64>);
    Some(columns.next()?.ok()? + columns.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_far_ends_counter_is_told_from_others() {
        assert!(is_taken("tx_queue_0_xdp_xmit\0\0") && is_taken("tx_queue_12_xdp_xmit"));
        assert!(!is_taken("tx_queue_0_xdp_xmit_errors\0") && !is_taken("rx_queue_0_xdp_tx"));
    }

    #[test]
    fn losses_are_read_from_the_table_of_devices() {
        let table = "Inter-|   Receive\n face |bytes packets errs drop fifo frame compressed multicast|bytes\n\
                     \x20   lo: 1 2 3 4 5 6 7 8 9\n  eth0:100 20 0 30 4 0 0 0 7 7 7\n eth01: 0 0 0 9 9 0 0 0 0\n";
        assert_eq!(lost_in(table, "eth0"), Some(34));
        assert_eq!(lost_in(table, "eth01"), Some(18));
        assert_eq!(lost_in(table, "eth"), None);
    }
}
