//! The receive ring of a packet socket (`TPACKET_V2`), mapped into this process.
//!
//! A slot belongs to the kernel while its status word is `TP_STATUS_KERNEL`. It becomes ours by an acquiring read of
//! another status and returns by a releasing write. Bytes are given out of slots that are ours, and of no others.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use hedgerow_dataplane::frame::Frame;

use crate::mapping::Mapping;
use crate::syscall;
use crate::vnet;

/// How the ring is cut: `blocks` pieces of contiguous kernel memory with `per_block` slots each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    block_bytes: usize,
    blocks: u32,
    slot_bytes: usize,
    per_block: u32,
}

impl Layout {
    /// At most `ring_bytes` in slots of at least `slot_bytes`; at least one block.
    pub(crate) fn new(ring_bytes: usize, slot_bytes: usize) -> Self {
        const BLOCK_BYTES: usize = 1 << 20;
        let slot_bytes = slot_bytes.next_multiple_of(libc::TPACKET_ALIGNMENT);
        let block_bytes = BLOCK_BYTES.max(slot_bytes.next_power_of_two());
        Layout {
            block_bytes,
            blocks: u32::try_from(ring_bytes / block_bytes).unwrap_or(u32::MAX).max(1),
            slot_bytes,
            per_block: (block_bytes / slot_bytes) as u32,
        }
    }

    pub(crate) fn slots(&self) -> u32 {
        self.blocks * self.per_block
    }

    fn offset(&self, slot: u32) -> usize {
        (slot / self.per_block) as usize * self.block_bytes
            + (slot % self.per_block) as usize * self.slot_bytes
    }
}

/// A frame that the kernel has put into a slot.
pub(crate) struct Taken {
    /// Its handle; `len` is what the slot holds of it.
    pub(crate) frame: Frame,
    /// Its length on the wire.
    pub(crate) wire_len: usize,
    pub(crate) status: u32,
    pub(crate) vlan_tci: u16,
    pub(crate) vlan_tpid: u16,
    pub(crate) header: vnet::Header,
}

/// The mapped ring. Slots are numbered from 0 in the order in which the kernel fills them.
pub(crate) struct Ring {
    map: Mapping,
    layout: Layout,
    next: u32,
    /// Whether a handle to the slot lives outside.
    held: Vec<bool>,
}

impl Ring {
    /// Sets up and maps the ring. The socket must have been told the version and that frames carry a virtio header.
    pub(crate) fn new(socket: BorrowedFd<'_>, layout: Layout) -> io::Result<Self> {
        let request = [layout.block_bytes as u32, layout.blocks, layout.slot_bytes as u32, layout.slots()];
        syscall::set_option(socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        let map = Mapping::of(socket, layout.block_bytes * layout.blocks as usize, 0)?;
        Ok(Ring { map, layout, next: 0, held: vec![false; layout.slots() as usize] })
    }

    pub(crate) fn slots(&self) -> u32 {
        self.layout.slots()
    }

    /// The next frame, if one waits.
    pub(crate) fn take(&mut self) -> Option<Taken> {
        let slot = self.next;
        if self.held[slot as usize] || self.status(slot).load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return None;
        }
        self.next = if slot + 1 == self.slots() { 0 } else { slot + 1 };
        self.held[slot as usize] = true;
        let start = self.slot(slot);
        // SAFETY: the slot is ours since the acquiring read above, so the kernel has written its header completely and
        // does not write again; the slot begins aligned to TPACKET_ALIGNMENT and is larger than the header.
        let header: libc::tpacket2_hdr = unsafe { start.cast::<libc::tpacket2_hdr>().read() };
        let (mac, stored) = (usize::from(header.tp_mac), header.tp_snaplen as usize);
        // The kernel keeps to these bounds; the price of not relying on it is one comparison.
        let bounds = DATA_START..=self.layout.slot_bytes;
        let frame = if bounds.contains(&mac) && mac + stored <= self.layout.slot_bytes {
            Frame::new(slot, u32::from(header.tp_mac), stored as u32)
        } else {
            Frame::new(slot, DATA_START as u32, 0)
        };
        let at = (frame.head() as usize).saturating_sub(vnet::Header::BYTES);
        // SAFETY: `at` lies behind the ring's own header and before the frame's bytes, both within the slot, which is
        // ours; any bytes are a valid virtio header, and the read needs no alignment.
        let vnet = unsafe { start.add(at).cast::<vnet::Header>().read_unaligned() };
        Some(Taken {
            frame,
            wire_len: header.tp_len as usize,
            status: header.tp_status,
            vlan_tci: header.tp_vlan_tci,
            vlan_tpid: header.tp_vlan_tpid,
            header: vnet,
        })
    }

    /// Gives the frame's slot back to the kernel.
    pub(crate) fn release(&mut self, frame: Frame) {
        let slot = frame.slot();
        debug_assert!(self.is_held(slot), "{frame:?} was not given out");
        if self.is_held(slot) {
            self.held[slot as usize] = false;
            self.status(slot).store(libc::TP_STATUS_KERNEL, Ordering::Release);
        }
    }

    /// A frame's bytes; nothing for a handle to a slot that is not ours.
    pub(crate) fn bytes(&self, frame: &Frame) -> &[u8] {
        match self.range(frame) {
            // SAFETY: `range` vouches for bounds and ownership: the kernel leaves the slot alone until `release`, which
            // needs `&mut self` and so waits for the end of this borrow.
            Some((start, len)) => unsafe { std::slice::from_raw_parts(start, len) },
            None => &[],
        }
    }

    /// As [`Ring::bytes`], to write.
    pub(crate) fn bytes_mut(&mut self, frame: &Frame) -> &mut [u8] {
        match self.range(frame) {
            // SAFETY: as in `bytes`; `&mut self` keeps every other slice of the ring away.
            Some((start, len)) => unsafe { std::slice::from_raw_parts_mut(start, len) },
            None => &mut [],
        }
    }

    pub(crate) fn resize(&self, frame: &mut Frame, len: usize) -> bool {
        let fits = (frame.head() as usize).checked_add(len).is_some_and(|end| end <= self.layout.slot_bytes);
        if fits {
            frame.set_len(len as u32);
        }
        fits
    }

    /// Where a frame lies, if its slot is ours and its bytes are within the slot and behind the ring's header.
    fn range(&self, frame: &Frame) -> Option<(*mut u8, usize)> {
        let (head, len) = (frame.head() as usize, frame.len());
        let within =
            head >= DATA_START && head.checked_add(len).is_some_and(|end| end <= self.layout.slot_bytes);
        // SAFETY: `head` is within the slot, as just checked.
        (within && self.is_held(frame.slot())).then(|| (unsafe { self.slot(frame.slot()).add(head) }, len))
    }

    fn is_held(&self, slot: u32) -> bool {
        self.held.get(slot as usize).copied().unwrap_or(false)
    }

    /// The first byte of a slot, which must be one of the ring's.
    fn slot(&self, slot: u32) -> *mut u8 {
        debug_assert!(slot < self.slots());
        // SAFETY: callers pass slots of the ring; the layout puts each of them within the mapping.
        unsafe { self.map.start().add(self.layout.offset(slot)) }
    }

    fn status(&self, slot: u32) -> &AtomicU32 {
        // SAFETY: the status word is the first of the slot and aligned with it; it lives as long as the mapping, and is
        // accessed atomically by both sides while either may write it.
        unsafe { AtomicU32::from_ptr(self.slot(slot).cast()) }
    }
}

/// Where frames begin at the earliest: behind the ring's header and the virtio header.
const DATA_START: usize = size_of::<libc::tpacket2_hdr>() + vnet::Header::BYTES;
