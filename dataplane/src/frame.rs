//! Where frames come from and go to: the [`Port`] trait, its two lanes, batches, linear frame handles and metadata.
//!
//! # How the trait fits its drivers
//!
//! A [`Frame`] is a handle, not memory: the bytes stay in the port's own pool, so that AF_XDP can hand out UMEM chunks,
//! AF_PACKET slots of its mapped ring and the memory port pieces of the heap. Handles are linear: each one that
//! [`Port::receive`] or [`Pool::allocate`] gave out goes back through [`Port::transmit`] or [`Pool::release`], exactly
//! once. A reply is written into the frame that asked for it, so that answering a flood allocates nothing.
//!
//! AF_XDP in copy mode was tried against this trait (two sockets on one queue of a veth device, Linux 6.18) before the
//! trait was settled. What that taught, and what a driver has to honour:
//!
//! - **One pool under two lanes.** Sockets on one queue share one UMEM, one fill and one completion ring; each has its own
//!   receive ring. The second socket binds with `XDP_SHARED_UMEM` as its only flag. Frames of either lane are sent through
//!   one socket and come back through the one completion ring.
//! - **Lanes do not starve each other if there are enough frames.** A full receive ring gives the frame back to the fill
//!   ring, so a flood that nobody reads costs the other lane nothing, as long as
//!   `frames >= ring_stranger + ring_known + frames that user code holds` (zero copy: plus the NIC's own ring). Hence
//!   [`Abilities::frames`], and the rule that a shard holds no received frame across two polls.
//! - **A frame does not begin where its chunk begins**: received ones lie behind 256 bytes of headroom, and the completion
//!   ring returns the address that was sent. Hence `head` in the handle, and a driver finds the chunk by rounding down.
//!   Hints for transmit offloads want room before the frame; [`Pool::allocate`] may choose `head` for that.
//! - **Metadata are poorer than the kernel's.** Neither ring says that a checksum is partial: frames of a sender on the
//!   same host arrive with the pseudo-header's sum and no mark. A driver on veth or virtio must have the sender's checksum
//!   offload turned off, or tell such frames by their value. Tags that a driver took out of the bytes are to be had inside
//!   the XDP program only, which must store them before the frame. Super-frames do not occur: an attached program turns
//!   the far end's segmentation off.
//! - **What is lost before the hook is in no lane**: in the NIC's or the veth's own ring. Drivers report it in
//!   [`PortStatistics::lost_before`], so that every drop is explained.
//! - **The known lane must hold a burst**: at least 2,048 frames.
//! - **System calls are per poll**: the kick, the reaping of completions, the refill and any updates of the tables of known
//!   flows and denied prefixes belong into [`Port::flush`]; [`Port::known`] and [`Port::deny`] may only note what they are
//!   told.
//! - **One descriptor to wait on.** Two sockets need an epoll descriptor above them, which is what [`Port::park`] returns.

use std::os::fd::BorrowedFd;

use crate::reason::Counters;
use crate::screen::SynPlan;
use crate::wire::{Address, FlowKey, Mac, Prefix};

/// Largest number of frames in a [`Batch`].
pub const BATCH: usize = 64;

/// A linear handle to one frame in a port's pool.
///
/// `head` and `len` describe the frame's bytes within its slot; both are moved with [`Frame::truncate`] and
/// [`Pool::resize`] rather than by copying.
#[must_use = "a frame goes back to its pool through `transmit` or `release`"]
#[derive(Debug)]
pub struct Frame {
    slot: u32,
    head: u32,
    len: u32,
}

impl Frame {
    /// A handle to `len` bytes at offset `head` of slot `slot`. For implementations of [`Pool`]: the pool vouches that
    /// no other handle to the slot lives.
    pub fn new(slot: u32, head: u32, len: u32) -> Self {
        Frame { slot, head, len }
    }

    /// The slot in the pool.
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Offset of the first byte within the slot.
    pub fn head(&self) -> u32 {
        self.head
    }

    /// Bytes in the frame.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the frame has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Shortens the frame to `len` bytes; does nothing if it is shorter already.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(u32::try_from(len).unwrap_or(u32::MAX));
    }

    /// Sets the length. For implementations of [`Pool::resize`], which checks it against the slot.
    pub fn set_len(&mut self, len: u32) {
        self.len = len;
    }
}

/// State of a frame's transport checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Checksum {
    /// Received: verify it. To be sent: it is complete.
    #[default]
    Unverified,
    /// Received: hardware checked it, or it never left this host.
    Verified,
    /// Only the pseudo-header sum is in place. Received: the sender was local and its bytes are trusted. To be sent: the
    /// port completes it, from byte `start` of the frame into `start + offset`.
    Partial {
        /// First byte of the sum, from the start of the frame.
        start: u16,
        /// Where the checksum field lies, from `start`.
        offset: u16,
    },
}

/// What travels beside a frame's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Meta {
    /// State of the transport checksum.
    pub checksum: Checksum,
    /// The 802.1Q tag, where the driver took it out of the bytes (received) or shall put it in (sent). Includes the
    /// priority bits.
    pub vlan: Option<u16>,
    /// Payload bytes per wire segment where the frame is a GRO super-frame (received) or shall be cut by the port
    /// (sent); zero otherwise.
    pub segment: u16,
}

/// One of a port's two receive queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Flows that the shard announced with [`Port::known`]; polled first.
    Known,
    /// Everything else.
    Stranger,
}

/// Up to [`BATCH`] frames with their metadata, in order.
#[derive(Debug)]
pub struct Batch {
    frames: Vec<(Frame, Meta)>,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// An empty batch, with its memory taken once.
    pub fn new() -> Self {
        Batch { frames: Vec::with_capacity(BATCH) }
    }

    /// Frames in the batch.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Free places.
    pub fn space(&self) -> usize {
        BATCH - self.frames.len()
    }

    /// Appends a frame, or gives it back where the batch is full.
    pub fn push(&mut self, frame: Frame, meta: Meta) -> Result<(), Frame> {
        if self.frames.len() == BATCH {
            return Err(frame);
        }
        self.frames.push((frame, meta));
        Ok(())
    }

    /// Takes the first `count` frames out, in order.
    pub fn drain(&mut self, count: usize) -> std::vec::Drain<'_, (Frame, Meta)> {
        let count = count.min(self.frames.len());
        self.frames.drain(..count)
    }

    /// The frames, in order.
    pub fn iter(&self) -> impl Iterator<Item = &(Frame, Meta)> {
        self.frames.iter()
    }

    /// The frames, in order.
    pub fn as_slice(&self) -> &[(Frame, Meta)] {
        &self.frames
    }

    /// The frames, in order, to change in place.
    pub fn as_mut_slice(&mut self) -> &mut [(Frame, Meta)] {
        &mut self.frames
    }
}

/// Memory for frames.
pub trait Pool {
    /// A frame to write into, with length 0 and at least [`Abilities::frame_bytes`] of room; `None` where all are out.
    fn allocate(&mut self) -> Option<Frame>;
    /// Takes a frame back unsent.
    fn release(&mut self, frame: Frame);
    /// The bytes of a frame.
    fn bytes(&self, frame: &Frame) -> &[u8];
    /// The bytes of a frame, to write.
    fn bytes_mut(&mut self, frame: &mut Frame) -> &mut [u8];
    /// Sets a frame's length; false, and unchanged, if the slot is too small.
    fn resize(&mut self, frame: &mut Frame, len: usize) -> bool;
    /// Hints that the first bytes of a frame will be read soon.
    fn prefetch(&self, frame: &Frame) {
        let _ = frame;
    }
}

/// What a port can do; fixed at its opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// The address that frames are sent from. Never another one.
    pub mac: Mac,
    /// Largest IP packet.
    pub mtu: u16,
    /// Bytes that fit an allocated frame, Ethernet header included.
    pub frame_bytes: usize,
    /// Frames that [`Pool::allocate`] can hand out while none of them is held.
    pub frames: usize,
    /// Whether [`Checksum::Partial`] may be sent.
    pub checksum: bool,
    /// Largest TCP payload that the port cuts by itself ([`Meta::segment`]); zero: none.
    pub segmentation: usize,
    /// Whether [`Meta::vlan`] may be sent.
    pub vlan: bool,
    /// Whether [`Lane::Known`] is a queue of its own.
    pub lanes: bool,
    /// The driver and its mode in words, for `status`.
    pub mode: String,
}

/// Counters of a port, from its opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PortStatistics {
    /// Frames received.
    pub received: u64,
    /// Frames given to the device.
    pub transmitted: u64,
    /// Frames lost because a receive ring was full.
    pub lost_ring: u64,
    /// Frames lost before they reached a ring of ours, where the driver can tell.
    pub lost_before: u64,
    /// Frames lost because the device took no more.
    pub lost_transmit: u64,
    /// Frames that the driver could not represent.
    pub malformed: u64,
    /// Frames that the driver itself refused before they were received, by reason.
    pub refused: Counters,
    /// SYNs that the driver itself answered with a cookie ([`Port::answer`]).
    pub cookies: u64,
}

impl PortStatistics {
    /// Adds those of another queue of the same device.
    pub fn absorb(&mut self, other: &PortStatistics) {
        self.received += other.received;
        self.transmitted += other.transmitted;
        self.lost_ring += other.lost_ring;
        self.lost_before += other.lost_before;
        self.lost_transmit += other.lost_transmit;
        self.malformed += other.malformed;
        for (reason, count) in other.refused.iter() {
            self.refused[reason] += count;
        }
        self.cookies += other.cookies;
    }
}

/// Why a port stopped working.
#[derive(Debug)]
pub struct PortError {
    /// What was being done.
    pub operation: &'static str,
    /// What the operating system said.
    pub source: std::io::Error,
}

impl std::fmt::Display for PortError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.operation, self.source)
    }
}

impl std::error::Error for PortError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// A device that frames come from and go to. No call blocks.
pub trait Port: Pool {
    /// What the port can do.
    fn abilities(&self) -> &Abilities;
    /// Appends frames of one lane to `into`, up to its free space; says how many.
    fn receive(&mut self, lane: Lane, into: &mut Batch) -> Result<usize, PortError>;
    /// Sends a prefix of `from` and takes it out; says how many. The rest stays for the next call.
    fn transmit(&mut self, from: &mut Batch) -> Result<usize, PortError>;
    /// Kicks the device and reaps what it has sent. Once per poll.
    fn flush(&mut self) -> Result<(), PortError>;
    /// Hints that frames of `key` belong into [`Lane::Known`], or no longer. May do nothing.
    fn known(&mut self, key: &FlowKey, on: bool) {
        let _ = (key, on);
    }
    /// Hints that frames whose source lies in `prefix` may be dropped before any lane, or no longer. May do nothing: the
    /// shard refuses them in any case. Prefixes may overlap; each is told on and off by itself.
    fn deny(&mut self, prefix: Prefix, on: bool) {
        let _ = (prefix, on);
    }
    /// Says that an address is ours from now on, all that is sent to it, or no longer. For ports that take only what is ours;
    /// addresses that are ours from the beginning are told when such a port is opened.
    fn own(&mut self, address: Address, on: bool) {
        let _ = (address, on);
    }
    /// Tells the port how to answer SYNs by itself, in the way of the screen, until it is told anew or the plan's slots are over.
    /// Says whether it does; where it does not, SYNs arrive like all other frames. Some arrive in any case, and what was
    /// answered is in [`PortStatistics::cookies`].
    fn answer(&mut self, plan: &SynPlan) -> bool {
        let _ = plan;
        false
    }
    /// Asks the device for frames to an Ethernet group address, such as those of IPv6 neighbour discovery.
    fn join(&mut self, group: Mac) -> Result<(), PortError> {
        let _ = group;
        Ok(())
    }
    /// A descriptor that becomes readable when a frame waits; `None` where there is none, or where the port holds frames
    /// that only another poll will bring out.
    fn park(&mut self) -> Option<BorrowedFd<'_>>;
    /// Counters.
    fn statistics(&self) -> PortStatistics;
}

impl<P: Pool + ?Sized> Pool for Box<P> {
    fn allocate(&mut self) -> Option<Frame> {
        (**self).allocate()
    }
    fn release(&mut self, frame: Frame) {
        (**self).release(frame);
    }
    fn bytes(&self, frame: &Frame) -> &[u8] {
        (**self).bytes(frame)
    }
    fn bytes_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        (**self).bytes_mut(frame)
    }
    fn resize(&mut self, frame: &mut Frame, len: usize) -> bool {
        (**self).resize(frame, len)
    }
    fn prefetch(&self, frame: &Frame) {
        (**self).prefetch(frame);
    }
}

impl<P: Port + ?Sized> Port for Box<P> {
    fn abilities(&self) -> &Abilities {
        (**self).abilities()
    }
    fn receive(&mut self, lane: Lane, into: &mut Batch) -> Result<usize, PortError> {
        (**self).receive(lane, into)
    }
    fn transmit(&mut self, from: &mut Batch) -> Result<usize, PortError> {
        (**self).transmit(from)
    }
    fn flush(&mut self) -> Result<(), PortError> {
        (**self).flush()
    }
    fn known(&mut self, key: &FlowKey, on: bool) {
        (**self).known(key, on);
    }
    fn deny(&mut self, prefix: Prefix, on: bool) {
        (**self).deny(prefix, on);
    }
    fn own(&mut self, address: Address, on: bool) {
        (**self).own(address, on);
    }
    fn answer(&mut self, plan: &SynPlan) -> bool {
        (**self).answer(plan)
    }
    fn join(&mut self, group: Mac) -> Result<(), PortError> {
        (**self).join(group)
    }
    fn park(&mut self) -> Option<BorrowedFd<'_>> {
        (**self).park()
    }
    fn statistics(&self) -> PortStatistics {
        (**self).statistics()
    }
}
