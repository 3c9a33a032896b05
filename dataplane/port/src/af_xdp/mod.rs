//! A port on a network device whose frames an XDP program hands to user space before the kernel takes memory for them.
//!
//! # What it sees, and what the kernel still sees
//!
//! The program (`bpf/xdp.bpf.c`) takes what is [`Ours`] and leaves the rest to the kernel, which may have addresses of its
//! own on the device. ARP and neighbour discovery go to both. Malformed frames for us and those of denied prefixes end in the
//! program and are counted in [`PortStatistics::refused`].
//!
//! # Two lanes
//!
//! Each queue has two sockets over one memory: [`Lane::Known`] gets the segments of flows that the shard announced, all else
//! goes to [`Lane::Stranger`]. A ring that is full gives its frame back, and there are enough frames for both rings, for those
//! that are being sent and for those that user code holds; so **a flood that nobody reads cannot take a frame from a known
//! flow behind the hook**. What the device's own ring, or a veth's, loses before is in no lane: the device's counters are in
//! [`PortStatistics::lost_before`], as far as there are any. A veth device counts such losses at the far end alone (its
//! `tx_dropped`); a queueing discipline there (`tc qdisc replace dev FAR root pfifo`) avoids them.
//!
//! # Choices
//!
//! - **Modes**: in the driver without copies, in the driver with copies, behind the driver with copies; the first that works,
//!   unless [`AfXdpConfig::attach`] forbids it. [`Abilities::mode`] says which.
//! - **One device, several ports**: one per queue, each with memory and rings of its own, and one program for all. Queues
//!   that nobody opened would lose frames, so all of them are opened, or none.
//! - **A link holds the program**: the kernel takes it off when the process ends, in whatever way. A second program, ours or
//!   another's, is refused by the kernel.
//! - **SYNs are answered by the program** where frames would have to be copied to reach the core, with the screen's own cookie
//!   (`bpf/answer.h`), once the shard has told how; see [`AfXdpConfig::answer`].
//! - **No offloads**: frames are sent and received one by one with complete checksums. Frames of senders on the same host
//!   have partial ones and are told by that value.
//! - **802.1Q tags stay in the bytes**: a device that takes them out would hide them from the program, so with a VLAN it must
//!   not (`ethtool -K DEVICE rxvlan off`).

mod answers;
mod device;
mod neighbours;
mod partial;
mod rings;
mod socket;
mod umem;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use hedgerow_dataplane::frame::{
    Abilities, Batch, Checksum, Frame, Lane, Meta, Pool, Port, PortError, PortStatistics,
};
use hedgerow_dataplane::screen::SynPlan;
use hedgerow_dataplane::wire::{Address, FlowKey, Mac, Prefix};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

use crate::error::{OpenError, Problem};
use crate::ethtool;
use crate::lanes::{Hints, LaneLimits, Ours};
use crate::syscall::{self, Interface};
use answers::Told;
use device::{CAPABILITIES, Device, Hook};
use neighbours::Neighbours;
use rings::{Consumer, Descriptor, Producer};
use socket::{Kick, Socket};
use umem::{HEADROOM, Umem};

/// The compiled program; `tests/run bpf` compiles it again and compares.
pub(crate) const PROGRAM: &[u8] = include_bytes!("../../bpf/xdp.o");

/// Where the program may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Attach {
    /// In the driver where it can, else behind it.
    #[default]
    Auto,
    /// In the driver.
    Driver,
    /// Behind the driver.
    Generic,
}

/// Who answers SYNs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AnswerSyns {
    /// The program where frames would be copied to the core, else the core.
    #[default]
    Auto,
    /// The core: the program only sorts.
    Core,
    /// The program.
    Program,
}

/// How to open the queues of a device as [`AfXdp`] ports.
#[derive(Clone, Debug)]
pub struct AfXdpConfig {
    /// The device, in the network namespace of the thread that opens it.
    pub device: String,
    /// What of its traffic is ours.
    pub ours: Ours,
    /// The VLAN that our frames carry.
    pub vlan: Option<u16>,
    /// Where the program may run.
    pub attach: Attach,
    /// Who answers SYNs.
    pub answer: AnswerSyns,
    /// Copy frames even where the driver could do without.
    pub copy: bool,
    /// Frames that the ring of each lane holds; a power of two. The known lane must hold a burst: at least 2,048.
    pub ring: u32,
    /// Frames that can be allocated at once.
    pub frames: u32,
    /// Sizes of the program's tables.
    pub limits: LaneLimits,
}

impl AfXdpConfig {
    /// The defaults for `device`: rings of 2,048 frames, which takes some 15 MiB per queue.
    pub fn new(device: &str, ours: Ours) -> Self {
        AfXdpConfig {
            device: device.into(),
            ours,
            vlan: None,
            attach: Attach::Auto,
            answer: AnswerSyns::Auto,
            copy: false,
            ring: 2_048,
            frames: 512,
            limits: LaneLimits::default(),
        }
    }
}

/// Frames that user code holds of one lane at one time, some batches.
const HELD: u32 = 256;
/// Drivers whose devices may carry frames of senders on the same host.
const LOCAL_SENDERS: [&str; 4] = ["veth", "virtio_net", "tun", "xen_netfront"];
/// Kicks of one flush, each of which may send a part only.
const KICKS: usize = 64;

/// One queue of a device.
pub struct AfXdp {
    abilities: Abilities,
    device: Arc<Device>,
    queue: u32,
    /// Owns fill and completion ring, sends, and receives what is not known.
    stranger: Socket,
    known: Socket,
    /// Of the first queue alone.
    neighbours: Option<Neighbours>,
    /// Watches all sockets.
    waker: OwnedFd,
    known_ring: Consumer<Descriptor>,
    stranger_ring: Consumer<Descriptor>,
    fill: Producer<u64>,
    send: Producer<Descriptor>,
    completions: Consumer<u64>,
    umem: Umem,
    /// Free chunks that are kept for what will be sent.
    reserve: usize,
    hints: Hints,
    /// The program answers SYNs, when it is told how.
    answers: bool,
    told: Told,
    /// Answers that a veth's far end took, and all of them, when last looked at.
    answered: (u64, u64),
    /// Tell partial checksums by their value.
    local_senders: bool,
    gone: bool,
    statistics: PortStatistics,
}

impl std::fmt::Debug for AfXdp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AfXdp").field("mode", &self.abilities.mode).finish_non_exhaustive()
    }
}

impl AfXdp {
    /// Opens a device that has one queue.
    ///
    /// # Errors
    /// As [`AfXdp::open_queues`].
    pub fn open(config: &AfXdpConfig) -> Result<Self, OpenError> {
        let mut ports = Self::open_queues(config, 1)?;
        ports.pop().ok_or_else(|| Problem::NoDevice(Vec::new()).of(&config.device))
    }

    /// Opens a device as `count` ports, one for each of its queues.
    ///
    /// # Errors
    /// Where the kernel or the driver cannot, another program is attached, capabilities are missing, or the device has
    /// another number of queues; each says what to do.
    pub fn open_queues(config: &AfXdpConfig, count: usize) -> Result<Vec<Self>, OpenError> {
        let name = config.device.as_str();
        let fail =
            |operation| move |source: io::Error| Problem::system(operation, CAPABILITIES, source).of(name);
        let asking = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .map_err(|errno| fail("a socket")(errno.into()))?;
        let interface = syscall::interface(asking.as_fd(), name).map_err(fail("asking for the device"))?;
        let facts = ethtool::facts(asking.as_fd(), name).map_err(fail("asking for the device's driver"))?;
        let chunk = chunk_for(config, &facts, &interface, count).map_err(|problem| problem.of(name))?;
        let device = Arc::new(Device::open(config, asking, facts, &interface)?);
        (0..count as u32).map(|queue| Self::queue(config, &device, &interface, queue, chunk)).collect()
    }

    fn queue(
        config: &AfXdpConfig,
        device: &Arc<Device>,
        interface: &Interface,
        queue: u32,
        chunk: u32,
    ) -> Result<Self, OpenError> {
        let name = config.device.as_str();
        let fail =
            |operation| move |source: io::Error| Problem::system(operation, CAPABILITIES, source).of(name);
        let ring = config.ring.max(64).next_power_of_two();
        // Both receive rings, the send ring and the device's own may be full while user code holds batches of both lanes and all
        // that can be allocated; the rest is enough to fill each ring.
        let chunks = 3 * ring + device.facts.ring.min(8_192) + 2 * HELD + config.frames;
        let umem = Umem::new(chunks, chunk).map_err(fail("memory for frames"))?;
        let fills = chunks.next_power_of_two();
        let open = || -> io::Result<_> {
            let (stranger, known) = (Socket::new()?, Socket::new()?);
            stranger.register(&umem)?;
            let fill = stranger.fill_ring(fills)?;
            let completions = stranger.completion_ring(fills)?;
            let (stranger_ring, send) = (stranger.receive_ring(ring)?, stranger.send_ring(ring)?);
            let known_ring = known.receive_ring(ring)?;
            stranger.set_send_budget(ring);
            let copy = config.copy || device.hook == Hook::Generic;
            stranger.bind(device.interface, queue, copy)?;
            known.bind_beside(&stranger, device.interface, queue)?;
            Ok((stranger, known, fill, completions, stranger_ring, send, known_ring))
        };
        let (stranger, known, fill, completions, stranger_ring, send, known_ring) =
            open().map_err(|source| match source.raw_os_error() {
                Some(libc::EBUSY) => Problem::QueueTaken(queue).of(name),
                _ => fail("sockets of AF_XDP")(source),
            })?;
        let zero_copy = stranger.is_zero_copy().unwrap_or(false);
        let answers = match config.answer {
            AnswerSyns::Auto => !zero_copy,
            AnswerSyns::Core => false,
            AnswerSyns::Program => true,
        };
        let mut neighbours = if queue == 0 { Some(Neighbours::open(name, config.ours.dhcp)?) } else { None };
        let waker = syscall::any_of(
            [Some(stranger.as_fd()), Some(known.as_fd()), neighbours.as_mut().and_then(Neighbours::park)]
                .into_iter()
                .flatten(),
        )
        .map_err(fail("waiting for several sockets"))?;
        let mut port = AfXdp {
            abilities: Abilities {
                mac: interface.mac,
                mtu: u16::try_from(interface.mtu).unwrap_or(u16::MAX),
                frame_bytes: (chunk - HEADROOM) as usize,
                frames: config.frames as usize,
                checksum: false,
                segmentation: 0,
                vlan: false,
                lanes: true,
                mode: mode(device, queue, zero_copy, answers),
            },
            local_senders: LOCAL_SENDERS.contains(&device.facts.driver.as_str()),
            device: device.clone(),
            queue,
            stranger,
            known,
            neighbours,
            waker,
            known_ring,
            stranger_ring,
            fill,
            send,
            completions,
            umem,
            reserve: config.frames as usize,
            hints: Hints::new(),
            answers,
            told: Told::default(),
            answered: (device.taken_by_far_end(), 0),
            gone: false,
            statistics: PortStatistics::default(),
        };
        port.refill();
        let connect = |lane, socket: &Socket| device.connect(queue, lane, socket.as_fd());
        connect(Lane::Known, &port.known)
            .and_then(|()| connect(Lane::Stranger, &port.stranger))
            .map_err(fail("connecting the sockets with the XDP program"))?;
        Ok(port)
    }

    /// Lends free chunks to the kernel, but for those that are kept for sending.
    fn refill(&mut self) {
        let mut any = false;
        while self.umem.free() > self.reserve {
            let Some(address) = self.umem.lend() else { break };
            if !self.fill.push(address) {
                self.umem.returned(address);
                break;
            }
            any = true;
        }
        if any {
            self.fill.publish();
        }
    }

    /// Takes back what has been sent.
    fn reap(&mut self) {
        while let Some(address) = self.completions.pop() {
            self.umem.returned(address);
        }
        self.completions.give_back();
    }

    /// Puts a prefix of the batch into the send ring; says how many.
    fn submit(&mut self, from: &mut Batch) -> usize {
        let chunk = u64::from(self.umem.chunk());
        let mut sent = 0;
        for (frame, meta) in from.iter() {
            let address = u64::from(frame.slot()) * chunk + u64::from(frame.head());
            let descriptor = Descriptor { address, len: frame.len() as u32, options: 0 };
            if !sendable(frame, meta) || !self.send.push(descriptor) {
                break;
            }
            sent += 1;
        }
        from.drain(sent).for_each(|(frame, _)| self.umem.hand_over(frame));
        if sent > 0 {
            self.send.publish();
            self.statistics.transmitted += sent as u64;
        }
        sent
    }

    /// Has the kernel send what waits. An answer to it belongs into its lane already, so the program hears of flows first.
    fn push_out(&mut self) -> Result<(), PortError> {
        self.hints.tell(&self.device.lanes);
        for _ in 0..KICKS {
            if self.send.waiting() == 0 || !self.send.wants_kick() {
                break;
            }
            match self.stranger.kick_send().map_err(|source| self.fault("sending", source))? {
                Kick::Done => {}
                Kick::Again => self.reap(),
                Kick::Down => break,
            }
        }
        Ok(())
    }

    /// Leaves SYNs to the core if the program's answers get lost: a veth takes frames from XDP only where the far end is ready
    /// for them (`ethtool -K FAR gro on`, or a program of its own), which nobody can tell from here but by trying.
    fn look_after_answers(&mut self) {
        let (taken, made) = (self.device.taken_by_far_end(), self.device.lanes.cookies(self.queue));
        let (taken_before, made_before) = std::mem::replace(&mut self.answered, (taken, made));
        let (taken, made) = (taken - taken_before.min(taken), made - made_before.min(made));
        if taken * 2 < made {
            self.answers = false;
            self.told.stop(&self.device.answers, self.queue);
            self.abilities.mode = self.abilities.mode.replace(
                ANSWERS,
                ", SYNs answered by the core: the far end takes no frames from XDP (`ethtool -K FAR gro on` there)",
            );
        }
    }

    fn fault(&self, operation: &'static str, source: io::Error) -> PortError {
        let source = match source.raw_os_error() {
            Some(libc::ENXIO | libc::ENODEV) => {
                io::Error::new(source.kind(), format!("device {:?} is gone ({source})", self.device.name))
            }
            _ => source,
        };
        PortError { operation, source }
    }
}

/// Bytes of a chunk for the device's frames, if it can serve.
fn chunk_for(
    config: &AfXdpConfig,
    facts: &ethtool::Facts,
    interface: &Interface,
    count: usize,
) -> Result<u32, Problem> {
    /// `ARPHRD_ETHER`.
    const ETHERNET: u16 = 1;
    if interface.kind != ETHERNET {
        return Err(Problem::NotEthernet(interface.kind));
    }
    if facts.queues as usize != count {
        return Err(Problem::QueueCount { device: facts.queues as usize, shards: count });
    }
    if config.vlan.is_some() && facts.strips_tags {
        return Err(Problem::TagsStripped);
    }
    let frame = interface.mtu.saturating_add(crate::LINK_BYTES as u32).saturating_add(HEADROOM);
    match [2_048, 4_096].into_iter().find(|chunk| frame <= *chunk) {
        Some(chunk) => Ok(chunk),
        None => Err(Problem::MtuTooLarge {
            mtu: interface.mtu,
            most: 4_096 - HEADROOM - crate::LINK_BYTES as u32,
        }),
    }
}

/// What the mode says where the program answers SYNs.
const ANSWERS: &str = ", SYNs answered by the program";

fn mode(device: &Device, queue: u32, zero_copy: bool, answers: bool) -> String {
    let hook = match device.hook {
        Hook::Driver => "in the driver",
        Hook::Generic => "behind the driver",
    };
    let copy = if zero_copy { "zero-copy" } else { "copy" };
    let mut mode = format!("af-xdp {hook}, {copy}, two lanes");
    if answers {
        mode += ANSWERS;
    }
    if device.facts.queues > 1 {
        mode += &format!(", queue {} of {}", queue + 1, device.facts.queues);
    }
    mode
}

/// Whether a frame can be sent as it is: nothing here completes checksums, cuts or tags.
fn sendable(frame: &Frame, meta: &Meta) -> bool {
    !frame.is_empty()
        && meta.vlan.is_none()
        && meta.segment == 0
        && !matches!(meta.checksum, Checksum::Partial { .. })
}

impl Pool for AfXdp {
    fn allocate(&mut self) -> Option<Frame> {
        if self.umem.free() == 0 {
            self.reap();
        }
        self.umem.allocate()
    }

    fn release(&mut self, frame: Frame) {
        self.umem.release(frame);
    }

    fn bytes(&self, frame: &Frame) -> &[u8] {
        self.umem.bytes(frame)
    }

    fn bytes_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        self.umem.bytes_mut(frame)
    }

    fn resize(&mut self, frame: &mut Frame, len: usize) -> bool {
        self.umem.resize(frame, len)
    }

    fn prefetch(&self, frame: &Frame) {
        syscall::prefetch(self.umem.bytes(frame));
    }
}

impl Port for AfXdp {
    fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    fn receive(&mut self, lane: Lane, into: &mut Batch) -> Result<usize, PortError> {
        if self.gone {
            let source = io::Error::from_raw_os_error(libc::ENODEV);
            return Err(self.fault("receiving", source));
        }
        // What was released since the last call goes back first.
        self.refill();
        let mut count = 0;
        if let (Lane::Stranger, Some(neighbours)) = (lane, &mut self.neighbours) {
            count += neighbours.receive(&mut self.umem, into)?;
        }
        let ring = if lane == Lane::Known { &mut self.known_ring } else { &mut self.stranger_ring };
        while into.space() > 0 {
            let Some(Descriptor { address, len, .. }) = ring.pop() else { break };
            let Some(frame) = self.umem.received(address, len) else {
                self.statistics.malformed += 1;
                continue;
            };
            let mut meta = Meta::default();
            if self.local_senders {
                meta.checksum = partial::checksum(self.umem.bytes(&frame));
            }
            if let Err(frame) = into.push(frame, meta) {
                self.umem.release(frame);
            }
            count += 1;
        }
        ring.give_back();
        self.statistics.received += count as u64;
        Ok(count)
    }

    fn transmit(&mut self, from: &mut Batch) -> Result<usize, PortError> {
        let before = from.len();
        let mut kicked = false;
        while !from.is_empty() {
            if self.submit(from) > 0 {
                continue;
            }
            if from.as_slice().first().is_some_and(|(frame, meta)| !sendable(frame, meta)) {
                self.statistics.malformed += 1;
                from.drain(1).for_each(|(frame, _)| self.umem.release(frame));
            } else if kicked {
                break;
            } else {
                self.push_out()?;
                self.reap();
                kicked = true;
            }
        }
        Ok(before - from.len())
    }

    fn flush(&mut self) -> Result<(), PortError> {
        self.push_out()?;
        self.reap();
        self.refill();
        if self.fill.wants_kick() {
            self.stranger.kick_receive().map_err(|source| self.fault("receiving", source))?;
        }
        Ok(())
    }

    fn known(&mut self, key: &FlowKey, on: bool) {
        self.hints.known(&self.device.lanes, key, on);
    }

    fn own(&mut self, address: Address, on: bool) {
        // One map for all queues; where it cannot be changed the port is of no use for the address, which shows.
        let _ = self.device.lanes.own(address, on);
    }

    fn deny(&mut self, prefix: Prefix, on: bool) {
        self.hints.deny(&self.device.lanes, prefix, on);
    }

    fn answer(&mut self, plan: &SynPlan) -> bool {
        if self.answers && self.device.is_veth() {
            self.look_after_answers();
        }
        self.answers && self.told.tell(&self.device.answers, self.queue, plan).is_ok()
    }

    fn join(&mut self, group: Mac) -> Result<(), PortError> {
        match &mut self.neighbours {
            Some(neighbours) => neighbours.join(group),
            None => Ok(()),
        }
    }

    fn park(&mut self) -> Option<BorrowedFd<'_>> {
        // A device that goes away leaves an error on its sockets, which would end every wait at once.
        self.gone |= matches!(sockopt::socket_error(&self.stranger), Ok(Err(_)) | Err(_));
        if let Some(neighbours) = &mut self.neighbours {
            neighbours.park();
            if neighbours.is_behind() {
                return None;
            }
        }
        Some(self.waker.as_fd())
    }

    fn statistics(&self) -> PortStatistics {
        let (stranger, known) = (self.stranger.statistics(), self.known.statistics());
        let counted = self.device.lanes.counted(self.queue);
        let mut statistics =
            PortStatistics { refused: counted.refused, cookies: counted.cookies, ..self.statistics };
        statistics.lost_ring = stranger.lost() + known.lost();
        statistics.lost_before = counted.lost;
        statistics.malformed += stranger.invalid_send;
        if let Some(neighbours) = &self.neighbours {
            let beside = neighbours.statistics();
            // The driver's own counter, of all queues, includes what the rings refused.
            let at_hook = if self.device.hook == Hook::Driver { statistics.lost_ring } else { 0 };
            statistics.lost_before += self.device.lost().saturating_sub(at_hook);
            statistics.lost_ring += beside.lost_ring;
        }
        statistics
    }
}

#[cfg(test)]
mod tests;
