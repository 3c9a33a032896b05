//! A port on a network device of the kernel, through a packet socket with a mapped receive ring.
//!
//! # What it sees, and what the kernel still sees
//!
//! A packet socket receives *copies*: the kernel's own stack gets every frame too. That is harmless as long as the
//! service address is ours alone, because the kernel ignores packets for addresses that it does not own; with
//! `ip_forward` on it would route them instead, so a host that forwards needs a drop rule for the service address. Taking
//! single TCP ports of an address that the kernel owns needs such a rule as well. What this host itself sends through the
//! device is left out, and promiscuous mode stays off: the port has the device's own address and no other.
//!
//! # Choices
//!
//! - **Received frames stay in the ring**: a [`Frame`] is a handle to a slot, an answer is written over the question and
//!   sent from there. Nothing is copied in user space, and a slot that has been handed out cannot be changed by the kernel
//!   until it is released: ownership is one status word per slot, which makes this as sound as a copy.
//! - **`TPACKET_V2` instead of V3.** V3 hands over whole blocks, when they are full or a timer has run out; the timer
//!   counts milliseconds, or ticks of the kernel's clock where that is coarser, and every TCP acknowledgement would wait
//!   for it: from a socket's `send` to a polled ring, over veth, 12 us with V2 and 610 us with V3 (medians, Linux 6.18).
//!   V2 also takes its slots back one by one, where a single frame held in V3 keeps a block.
//! - **Super-frames do not fit the slots**, which are cut for the MTU so that a flood of small frames finds many of them.
//!   The kernel marks such a slot and queues the frame on the socket as well, from which it is read into a frame of the
//!   heap: one system call per up to 64 KiB. That queue needs more room than unprivileged processes may ask for; where it
//!   is refused, slots are made large enough instead.
//! - **Several sockets share a device by `PACKET_FANOUT_HASH`**, one per shard: a hash over addresses and ports, the same
//!   for both directions, chooses the socket. Fragments are not put together before (no `PACKET_FANOUT_FLAG_DEFRAG`): all
//!   of one datagram go by their addresses to one socket, whose shard refuses them like any fragment. A full ring does not
//!   roll over to another socket, which would part a flow's frames.
//! - **Sending** goes through `sendmmsg` with a virtio header per frame. The kernel copies during the call, so every frame
//!   is free again at once, and checksums, cutting and 802.1Q tags cost no copy here: a tag is one more piece of the message.

use std::cell::Cell;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hedgerow_dataplane::frame::{
    Abilities, BATCH, Batch, Frame, Lane, Meta, Pool, Port, PortError, PortStatistics,
};
use hedgerow_dataplane::wire::Mac;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

use crate::error::{OpenError, Problem};
use crate::pool::HeapPool;
use crate::ring::{Layout, Ring, Taken};
use crate::syscall::{self, Messages, PIECES};
use crate::vnet::{self, Header, TAG_OFFSET};

/// How to open an [`AfPacket`] port.
#[derive(Clone, Debug)]
pub struct AfPacketConfig {
    /// The device, in the network namespace of the thread that opens it.
    pub device: String,
    /// Memory of the receive ring, in bytes; the kernel takes it at once.
    pub ring_bytes: usize,
    /// Frames that can be allocated at once. Each can hold a super-frame; memory is taken as it is first used.
    pub frames: usize,
    /// Make slots large enough for super-frames even where they could be read by a call of their own.
    pub large_slots: bool,
}

impl AfPacketConfig {
    /// The defaults for `device`: a ring of 8 MiB (some 5,000 slots at an MTU of 1,500) and 256 frames to send.
    pub fn new(device: &str) -> Self {
        AfPacketConfig { device: device.into(), ring_bytes: 8 << 20, frames: 256, large_slots: false }
    }
}

/// A network device of the kernel. All its frames come in [`Lane::Stranger`].
pub struct AfPacket {
    abilities: Abilities,
    device: String,
    interface: u32,
    socket: OwnedFd,
    /// Slots from 0.
    ring: Ring,
    /// Slots behind those of the ring.
    pool: HeapPool,
    messages: Messages,
    statistics: PortStatistics,
    /// What the kernel says it dropped; it forgets when asked.
    lost_ring: Cell<u64>,
    /// The device went down and has not been seen up since.
    down: bool,
}

impl std::fmt::Debug for AfPacket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AfPacket").field("device", &self.device).finish_non_exhaustive()
    }
}

/// `ARPHRD_ETHER`.
const ETHERNET: u16 = 1;

/// Room that the socket's own queue needs for super-frames: what a poll may find after a pause of some milliseconds.
const QUEUE_BYTES: usize = 16 << 20;

/// What precedes a frame in its slot: the ring's header, an address, the virtio header, and alignment.
const SLOT_OVERHEAD: usize = 128;

impl AfPacket {
    /// Opens the device with `count` sockets, each a port of its own, among which the kernel distributes flows.
    pub fn open_queues(config: &AfPacketConfig, count: usize) -> Result<Vec<Self>, OpenError> {
        let mut group = None;
        let queue = |index: usize| {
            let mut port = Self::open(config)?;
            port.share(&mut group, index, count)?;
            Ok(port)
        };
        (0..count.max(1)).map(queue).collect()
    }

    /// Makes this one of `count` sockets of `group`, which the first one founds.
    pub(crate) fn share(
        &mut self,
        group: &mut Option<u32>,
        index: usize,
        count: usize,
    ) -> Result<(), OpenError> {
        if count > 1 {
            let joined = syscall::join_fanout(self.socket.as_fd(), *group).map_err(|source| {
                Problem::system("sharing the device among sockets", "CAP_NET_RAW", source).of(&self.device)
            })?;
            *group = Some(joined);
            self.abilities.mode += &format!(", socket {} of {count}", index + 1);
        }
        Ok(())
    }

    /// Opens the device. Needs `CAP_NET_RAW`.
    pub fn open(config: &AfPacketConfig) -> Result<Self, OpenError> {
        Self::open_with(config, |_| Ok(()))
    }

    /// As [`AfPacket::open`], with a filter that `attach` puts on the socket before it receives anything.
    pub(crate) fn open_with(
        config: &AfPacketConfig,
        attach: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
    ) -> Result<Self, OpenError> {
        let name = config.device.as_str();
        let fail =
            |operation| move |source: io::Error| Problem::system(operation, "CAP_NET_RAW", source).of(name);
        // Without a protocol the socket receives nothing until it is bound: no frame of another device slips in.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)
            .map_err(|errno| fail("a packet socket")(errno.into()))?;
        let facts = syscall::interface(socket.as_fd(), name).map_err(fail("asking for the device"))?;
        if facts.kind != ETHERNET {
            return Err(Problem::NotEthernet(facts.kind).of(name));
        }
        let interface = rustix::net::netdevice::name_to_index(&socket, name)
            .map_err(|errno| fail("asking for the device")(errno.into()))?;
        let mtu = u16::try_from(facts.mtu).unwrap_or(u16::MAX);
        attach(socket.as_fd()).map_err(fail("the filter of the socket"))?;
        let (ring, large) = prepare(socket.as_fd(), config, mtu).map_err(fail("the receive ring"))?;
        syscall::bind_packet(socket.as_fd(), interface, libc::ETH_P_ALL)
            .map_err(fail("binding to the device"))?;

        let frame_bytes = crate::frame_bytes(mtu, crate::SEGMENTATION);
        let slots = ring.slots();
        Ok(AfPacket {
            abilities: Abilities {
                mac: facts.mac,
                mtu,
                frame_bytes,
                frames: config.frames,
                checksum: true,
                segmentation: crate::SEGMENTATION,
                vlan: true,
                lanes: false,
                mode: format!("af-packet, {slots} {}slots", if large { "large " } else { "" }),
            },
            device: name.into(),
            interface,
            socket,
            pool: HeapPool::new(config.frames, frame_bytes, slots),
            ring,
            messages: Messages::new(BATCH),
            statistics: PortStatistics::default(),
            lost_ring: Cell::new(0),
            down: false,
        })
    }

    /// Adds something to [`Abilities::mode`], for `status`.
    pub fn note(&mut self, text: &str) {
        self.abilities.mode += ", ";
        self.abilities.mode += text;
    }

    /// The next frame that can be represented.
    fn next(&mut self) -> Result<Option<(Frame, Meta)>, PortError> {
        while let Some(taken) = self.ring.take() {
            let received = if taken.status & libc::TP_STATUS_COPY != 0 {
                self.ring.release(taken.frame);
                self.fetch()?
            } else {
                self.judge(taken)
            };
            if received.is_some() {
                return Ok(received);
            }
        }
        Ok(None)
    }

    /// A frame that lies in its slot, if whole and well described.
    fn judge(&mut self, taken: Taken) -> Option<(Frame, Meta)> {
        if taken.wire_len > taken.frame.len() {
            // Larger than its slot, and the socket's queue was full.
            self.statistics.lost_before += 1;
            self.ring.release(taken.frame);
            return None;
        }
        match meta(&taken.header, taken.frame.len(), taken.status, taken.vlan_tci, taken.vlan_tpid) {
            Some(meta) => Some((taken.frame, meta)),
            None => {
                self.statistics.malformed += 1;
                self.ring.release(taken.frame);
                None
            }
        }
    }

    /// Reads a frame from the socket's queue: one that was too large for its slot.
    ///
    /// Metadata come with the message rather than from the slot: where frames arrive on several processors, queue and
    /// ring may disagree about their order.
    fn fetch(&mut self) -> Result<Option<(Frame, Meta)>, PortError> {
        let mut header = Header::default();
        let mut frame = self.pool.allocate();
        let buffer = match &mut frame {
            Some(frame) => {
                self.pool.resize(frame, self.abilities.frame_bytes);
                self.pool.bytes_mut(frame)
            }
            // Read into nothing, so that it leaves the queue.
            None => &mut [],
        };
        let room = buffer.len();
        let mut pieces = [IoSliceMut::new(bytemuck::bytes_of_mut(&mut header)), IoSliceMut::new(buffer)];
        let result = syscall::receive_packet(self.socket.as_fd(), &mut pieces);
        let Some(mut frame) = frame else {
            self.statistics.lost_before += 1;
            return Ok(None);
        };
        let received = match result {
            Ok(received) => received,
            Err(source) => {
                self.pool.release(frame);
                return match source.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::NetworkDown => {
                        Ok(None)
                    }
                    _ => Err(PortError { operation: "reading a large frame", source }),
                };
            }
        };
        let len = received.len.saturating_sub(Header::BYTES);
        let auxiliary = received.auxiliary;
        let meta = meta(&header, len, auxiliary.status, auxiliary.vlan_tci, auxiliary.vlan_tpid);
        match meta.filter(|_| len <= room && self.pool.resize(&mut frame, len)) {
            Some(meta) => Ok(Some((frame, meta))),
            None => {
                self.statistics.malformed += 1;
                self.pool.release(frame);
                Ok(None)
            }
        }
    }

    /// Sends a prefix of the batch in one call. Frames whose metadata contradict them end the prefix; a first one that
    /// does is dropped. Says whether to go on.
    fn send(&mut self, from: &mut Batch) -> Result<Progress, PortError> {
        let AfPacket { ring, pool, messages, socket, .. } = self;
        let mut headers = [Header::default(); BATCH];
        let mut tags = [[0; 4]; BATCH];
        let mut count = 0;
        for (_, (frame, meta)) in (0..BATCH).zip(from.iter()) {
            let Some(header) = Header::outgoing(bytes(ring, pool, frame), meta) else { break };
            headers[count] = header;
            tags[count] = vnet::tag(meta).unwrap_or_default();
            count += 1;
        }
        if count == 0 {
            return Ok(Progress::Unsendable);
        }
        let mut pieces = [[IoSlice::new(&[]); PIECES]; BATCH];
        for (index, (frame, meta)) in from.iter().take(count).enumerate() {
            let (addresses, rest) = bytes(ring, pool, frame).split_at(TAG_OFFSET);
            let tag = if meta.vlan.is_some() { &tags[index][..] } else { &[] };
            let header = bytemuck::bytes_of(&headers[index]);
            pieces[index] = [header, addresses, tag, rest].map(IoSlice::new);
        }
        match messages.send(socket.as_fd(), &pieces[..count]) {
            Ok(sent) => Ok(Progress::Sent(sent)),
            Err(source) => match source.raw_os_error() {
                Some(libc::EINTR) => Ok(Progress::Sent(0)),
                // The socket's buffer or the device's queue is full.
                Some(libc::EAGAIN | libc::ENOBUFS) => Ok(Progress::Full),
                Some(libc::ENETDOWN) => Ok(Progress::Down),
                Some(libc::EINVAL | libc::EMSGSIZE) => Ok(Progress::Unsendable),
                _ => Err(PortError { operation: "sending", source }),
            },
        }
    }

    fn discard(&mut self, from: &mut Batch, count: usize) {
        for (frame, _) in from.drain(count) {
            if frame.slot() < self.ring.slots() {
                self.ring.release(frame);
            } else {
                self.pool.release(frame);
            }
        }
    }

    /// Whether the device is up, asked until it is: going down leaves a mark on the socket, but not what comes after.
    /// Fails where the device is gone.
    fn is_up(&self) -> Result<bool, PortError> {
        let name =
            rustix::net::netdevice::index_to_name(&self.socket, self.interface).map_err(io::Error::from);
        name.and_then(|name| syscall::interface_is_up(self.socket.as_fd(), &name)).map_err(|source| {
            let text = format!("device {:?} is gone ({source})", self.device);
            PortError { operation: "receiving", source: io::Error::new(source.kind(), text) }
        })
    }
}

/// What became of a call to send.
enum Progress {
    Sent(usize),
    /// The kernel takes no more for now.
    Full,
    /// The device is down: what would be sent is lost.
    Down,
    /// The first frame cannot be sent, ever.
    Unsendable,
}

/// Sets the options that must come before the ring, and makes the ring. Says whether its slots are large.
fn prepare(socket: BorrowedFd<'_>, config: &AfPacketConfig, mtu: u16) -> io::Result<(Ring, bool)> {
    let set = |option: i32, value: i32| syscall::set_option(socket, libc::SOL_PACKET, option, &value);
    set(libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V2 as i32)?;
    set(libc::PACKET_VNET_HDR, 1)?;
    set(libc::PACKET_IGNORE_OUTGOING, 1)?;
    set(libc::PACKET_AUXDATA, 1)?;
    let large = config.large_slots || !reserve_queue(socket)?;
    let (frame, ring_bytes) = if large {
        // Few slots hold the same number of bytes, so there is twice the memory.
        (crate::frame_bytes(mtu, crate::SEGMENTATION), config.ring_bytes.saturating_mul(2))
    } else {
        set(libc::PACKET_COPY_THRESH, 1)?;
        (usize::from(mtu) + crate::LINK_BYTES, config.ring_bytes)
    };
    let ring = Ring::new(socket, Layout::new(ring_bytes, frame + SLOT_OVERHEAD))?;
    Ok((ring, large))
}

/// Makes room for super-frames in the socket's queue; false where the process may not.
fn reserve_queue(socket: BorrowedFd<'_>) -> io::Result<bool> {
    if sockopt::set_socket_recv_buffer_size_force(socket, QUEUE_BYTES).is_err() {
        sockopt::set_socket_recv_buffer_size(socket, QUEUE_BYTES)?;
    }
    // The kernel doubles what it is asked for, up to its limit.
    Ok(sockopt::socket_recv_buffer_size(socket)? >= QUEUE_BYTES)
}

/// Metadata of a received frame from its virtio header and the ring's status; `None` where they contradict each other,
/// or for a tag that is not 802.1Q.
fn meta(header: &Header, len: usize, status: u32, tci: u16, tpid: u16) -> Option<Meta> {
    let mut meta = header.meta(len)?;
    if status & libc::TP_STATUS_VLAN_VALID != 0 {
        if status & libc::TP_STATUS_VLAN_TPID_VALID != 0 && i32::from(tpid) != libc::ETH_P_8021Q {
            return None;
        }
        meta.vlan = Some(tci);
    }
    Some(meta)
}

impl AsFd for AfPacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn bytes<'a>(ring: &'a Ring, pool: &'a HeapPool, frame: &Frame) -> &'a [u8] {
    if frame.slot() < ring.slots() { ring.bytes(frame) } else { pool.bytes(frame) }
}

impl Pool for AfPacket {
    fn allocate(&mut self) -> Option<Frame> {
        self.pool.allocate()
    }

    fn release(&mut self, frame: Frame) {
        if frame.slot() < self.ring.slots() {
            self.ring.release(frame);
        } else {
            self.pool.release(frame);
        }
    }

    fn bytes(&self, frame: &Frame) -> &[u8] {
        bytes(&self.ring, &self.pool, frame)
    }

    fn bytes_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        if frame.slot() < self.ring.slots() { self.ring.bytes_mut(frame) } else { self.pool.bytes_mut(frame) }
    }

    fn resize(&mut self, frame: &mut Frame, len: usize) -> bool {
        if frame.slot() < self.ring.slots() {
            self.ring.resize(frame, len)
        } else {
            self.pool.resize(frame, len)
        }
    }

    fn prefetch(&self, frame: &Frame) {
        syscall::prefetch(self.bytes(frame));
    }
}

impl Port for AfPacket {
    fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    fn receive(&mut self, lane: Lane, into: &mut Batch) -> Result<usize, PortError> {
        if lane == Lane::Known {
            return Ok(0);
        }
        if self.down {
            self.down = !self.is_up()?;
        }
        let mut count = 0;
        while into.space() > 0 {
            let Some((frame, meta)) = self.next()? else { break };
            if let Err(frame) = into.push(frame, meta) {
                self.release(frame);
            }
            count += 1;
        }
        self.statistics.received += count as u64;
        Ok(count)
    }

    fn transmit(&mut self, from: &mut Batch) -> Result<usize, PortError> {
        let before = from.len();
        while !from.is_empty() {
            match self.send(from)? {
                Progress::Sent(sent) => {
                    self.statistics.transmitted += sent as u64;
                    self.discard(from, sent);
                }
                Progress::Full => break,
                Progress::Down => {
                    self.statistics.lost_transmit += from.len() as u64;
                    self.discard(from, BATCH);
                }
                Progress::Unsendable => {
                    self.statistics.malformed += 1;
                    self.discard(from, 1);
                }
            }
        }
        Ok(before - from.len())
    }

    fn flush(&mut self) -> Result<(), PortError> {
        Ok(())
    }

    fn join(&mut self, group: Mac) -> Result<(), PortError> {
        /// `struct packet_mreq`.
        #[repr(C)]
        #[derive(Clone, Copy, bytemuck::NoUninit)]
        struct Membership {
            interface: i32,
            kind: u16,
            len: u16,
            address: [u8; 8],
        }
        let [a, b, c, d, e, f] = group.0;
        let membership = Membership {
            interface: self.interface as i32,
            kind: libc::PACKET_MR_MULTICAST as u16,
            len: 6,
            address: [a, b, c, d, e, f, 0, 0],
        };
        syscall::set_option(self.socket.as_fd(), libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)
            .map_err(|source| PortError { operation: "joining an Ethernet group", source })
    }

    fn park(&mut self) -> Option<BorrowedFd<'_>> {
        // A device that goes down leaves an error on the socket, which would end every wait at once until it is read.
        if !matches!(sockopt::socket_error(&self.socket), Ok(Ok(()))) {
            self.down = true;
        }
        Some(self.socket.as_fd())
    }

    fn statistics(&self) -> PortStatistics {
        // `struct tpacket_stats`: frames, drops.
        let counted =
            syscall::option::<[u32; 2]>(self.socket.as_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS);
        self.lost_ring.set(self.lost_ring.get() + u64::from(counted.map_or(0, |[_, drops]| drops)));
        PortStatistics { lost_ring: self.lost_ring.get(), ..self.statistics }
    }
}
