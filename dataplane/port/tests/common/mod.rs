//! A private network namespace for each test, and hand-made frames for it.

#![allow(dead_code)] // each test binary uses its own part

use std::collections::VecDeque;
use std::io::Write;
use std::process::Command;

use hedgerow_dataplane::frame::{Batch, Checksum, Lane, Meta, Port};
use hedgerow_dataplane::wire::Mac;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Set in the process that runs inside the namespace.
const INSIDE: &str = "HEDGEROW_TEST_NAMESPACE";

/// Runs `body` in a network namespace of its own: starts this test binary again for the one test `name`, as root or in
/// a user namespace. Where neither is permitted, says so and skips.
pub(crate) fn namespace(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let root = Command::new("unshare").args(["-n", "true"]).output();
    let (flags, probe) = match root {
        Ok(output) if output.status.success() => ("-n", output),
        Ok(_) => {
            ("-Urn", Command::new("unshare").args(["-Urn", "true"]).output().expect("unshare ran before"))
        }
        Err(error) => return skip(name, &format!("unshare (package util-linux): {error}")),
    };
    if !probe.status.success() {
        return skip(name, String::from_utf8_lossy(&probe.stderr).trim());
    }
    let binary = std::env::current_exe().expect("the test binary has a path");
    let status = Command::new("unshare")
        .args([flags, "--"])
        .arg(binary)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare ran before");
    assert!(status.success(), "failed inside the namespace");
}

/// As [`namespace`], and skips where this user may not open `/dev/net/tun`.
pub(crate) fn tap_namespace(name: &str, body: impl FnOnce()) {
    match std::fs::File::options().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => namespace(name, body),
        Err(error) => skip(name, &format!("/dev/net/tun: {error}")),
    }
}

/// Says past the test harness that a test did not run.
pub(crate) fn skip(name: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "skipped {name}: {reason}");
}

/// Runs `ip` with the words of `line`.
#[track_caller]
pub(crate) fn ip(line: &str) {
    let output =
        Command::new("ip").args(line.split_whitespace()).output().expect("ip (package iproute2) is there");
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The kernel's end has 10.9.0.1 on `device` and believes 10.9.0.2 to be at `port`.
pub(crate) fn addresses(device: &str, port: Mac) {
    ip("link set lo up");
    ip(&format!("addr add 10.9.0.1/24 dev {device}"));
    ip(&format!("link set {device} up"));
    ip(&format!("neigh replace 10.9.0.2 lladdr {port} dev {device} nud permanent"));
    until_up(device);
}

/// Waits until the kernel has noticed that the link is there: until then it drops what is sent.
pub(crate) fn until_up(device: &str) {
    for _ in 0..1_000 {
        let output = Command::new("ip")
            .args(["-oneline", "link", "show", "dev", device])
            .output()
            .expect("ip ran before");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if text.contains(",LOWER_UP") && !text.contains("qdisc noop ") && !text.contains("state DOWN") {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{device} did not come up");
}

/// A frame of the kernel's, copied out of a port.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) bytes: Vec<u8>,
    pub(crate) meta: Meta,
}

/// A port with what it has received but nobody has looked at.
pub(crate) struct Wire<'a> {
    pub(crate) port: &'a mut dyn Port,
    waiting: VecDeque<Seen>,
}

impl<'a> Wire<'a> {
    pub(crate) fn new(port: &'a mut dyn Port) -> Self {
        Wire { port, waiting: VecDeque::new() }
    }

    /// The next frame that is `wanted`; those before it are dropped. Waits on the port's descriptor between polls.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, mut wanted: impl FnMut(&Seen) -> bool) -> Seen {
        let mut batch = Batch::new();
        loop {
            while let Some(seen) = self.waiting.pop_front() {
                if wanted(&seen) {
                    return seen;
                }
            }
            let count = self.port.receive(Lane::Stranger, &mut batch).expect("receives");
            for (frame, meta) in batch.drain(count) {
                self.waiting.push_back(Seen { bytes: self.port.bytes(&frame).to_vec(), meta });
                self.port.release(frame);
            }
            if count == 0 {
                wait(self.port);
            }
        }
    }

    /// Sends one frame, and makes sure that it went.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8], meta: Meta) {
        send(self.port, bytes, meta);
    }
}

/// Waits until the port's descriptor is readable. A silence of ten seconds is a failure.
#[track_caller]
pub(crate) fn wait(port: &mut dyn Port) {
    let fd = port.park().expect("a descriptor");
    let timeout = Timespec { tv_sec: 10, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).expect("polls");
    assert!(ready > 0, "nothing came for ten seconds");
}

/// Sends one frame, and makes sure that it went.
#[track_caller]
pub(crate) fn send(port: &mut dyn Port, bytes: &[u8], meta: Meta) {
    let mut frame = port.allocate().expect("a frame");
    assert!(port.resize(&mut frame, bytes.len()));
    port.bytes_mut(&mut frame).copy_from_slice(bytes);
    let mut batch = Batch::new();
    batch.push(frame, meta).expect("space");
    assert_eq!(port.transmit(&mut batch).expect("sends"), 1);
    port.flush().expect("flushes");
}

/// A TCP segment over IPv4 and Ethernet, from the port to the kernel's 10.9.0.1.
#[derive(Clone, Debug)]
pub(crate) struct Tcp {
    pub(crate) to: Mac,
    pub(crate) from: Mac,
    pub(crate) source: u16,
    pub(crate) destination: u16,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) options: Vec<u8>,
}

pub(crate) const SYN: u8 = 2;
pub(crate) const ACK: u8 = 16;

pub(crate) const OUR_IP: [u8; 4] = [10, 9, 0, 2];
pub(crate) const KERNEL_IP: [u8; 4] = [10, 9, 0, 1];

impl Tcp {
    /// The frame, with only the pseudo-header's sum in the TCP checksum.
    pub(crate) fn partial(&self, payload: &[u8]) -> (Vec<u8>, Checksum) {
        let tcp_len = 20 + self.options.len() + payload.len();
        let mut bytes = Vec::new();
        bytes.extend(self.to.0);
        bytes.extend(self.from.0);
        bytes.extend([8, 0]);
        bytes.extend([0x45, 0]);
        bytes.extend((20 + tcp_len as u16).to_be_bytes());
        bytes.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        bytes.extend(OUR_IP);
        bytes.extend(KERNEL_IP);
        let header_sum = !sum(0, &bytes[14..34]);
        bytes[24..26].copy_from_slice(&header_sum.to_be_bytes());
        bytes.extend(self.source.to_be_bytes());
        bytes.extend(self.destination.to_be_bytes());
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.ack.to_be_bytes());
        bytes.extend([(((20 + self.options.len()) / 4) << 4) as u8, self.flags, 0xff, 0xff]);
        bytes.extend(pseudo(OUR_IP, KERNEL_IP, tcp_len).to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(&self.options);
        bytes.extend(payload);
        (bytes, Checksum::Partial { start: 34, offset: 16 })
    }

    /// The frame with a complete checksum.
    pub(crate) fn complete(&self, payload: &[u8]) -> Vec<u8> {
        let (mut bytes, _) = self.partial(payload);
        let checksum = !sum(0, &bytes[34..]);
        bytes[50..52].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

/// The sum of the pseudo-header (RFC 9293, section 3.1).
pub(crate) fn pseudo(source: [u8; 4], destination: [u8; 4], len: usize) -> u16 {
    sum(6 + len as u32, &[source, destination].concat())
}

/// The ones' complement sum (RFC 1071), not complemented.
pub(crate) fn sum(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The kernel's TCP segments: offset of the TCP header, if the frame is one from `port`.
pub(crate) fn tcp_from(seen: &Seen, port: u16) -> bool {
    let bytes = &seen.bytes;
    bytes.len() >= 54 && bytes[12..14] == [8, 0] && bytes[23] == 6 && bytes[34..36] == port.to_be_bytes()
}

pub(crate) fn payload(bytes: &[u8]) -> &[u8] {
    let end = 14 + usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
    &bytes[34 + usize::from(bytes[46] >> 4) * 4..end]
}

pub(crate) fn seq(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[38..42].try_into().expect("four bytes"))
}
