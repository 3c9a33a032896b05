//! ARP and neighbour discovery beside the rings: the program leaves them to the kernel, which may need them as much as we do,
//! and a packet socket gives us copies.

use std::os::fd::{AsFd, BorrowedFd};

use hedgerow_dataplane::frame::{
    BATCH, Batch, Checksum, Frame, Lane, Meta, Pool, Port, PortError, PortStatistics,
};
use hedgerow_dataplane::wire::Mac;

use super::umem::Umem;
use crate::af_packet::{AfPacket, AfPacketConfig};
use crate::error::OpenError;
use crate::syscall::{self, Filter};

/// Memory of the socket's ring: what a storm of broadcasts may leave between two polls.
const RING_BYTES: usize = 1 << 20;

/// Passes ARP, and ICMPv6 of types 133 to 137. The kernel has taken tags out of the bytes before.
const FILTER: [Filter; 10] = [
    Filter::load_half(12),
    Filter::jump_if_equal(0x0806, 7, 0),
    Filter::jump_if_equal(0x86dd, 0, 5),
    Filter::load_byte(20),
    Filter::jump_if_equal(58, 0, 3),
    Filter::load_byte(54),
    Filter::jump_if_at_least(133, 0, 1),
    Filter::jump_if_above(137, 0, 1),
    Filter::give(0),
    Filter::give(0x4_0000),
];

/// The same, and UDP to the port of DHCP clients (68), without IPv4 options.
const WITH_DHCP: [Filter; 17] = [
    Filter::load_half(12),
    Filter::jump_if_equal(0x0806, 14, 0),
    Filter::jump_if_equal(0x0800, 6, 0),
    Filter::jump_if_equal(0x86dd, 0, 11),
    Filter::load_byte(20),
    Filter::jump_if_equal(58, 0, 9),
    Filter::load_byte(54),
    Filter::jump_if_at_least(133, 0, 7),
    Filter::jump_if_above(137, 6, 7),
    Filter::load_byte(14),
    Filter::jump_if_equal(0x45, 0, 4),
    Filter::load_byte(23),
    Filter::jump_if_equal(17, 0, 2),
    Filter::load_half(36),
    Filter::jump_if_equal(68, 1, 0),
    Filter::give(0),
    Filter::give(0x4_0000),
];

/// The socket.
pub(crate) struct Neighbours {
    socket: AfPacket,
    batch: Batch,
}

impl Neighbours {
    pub(crate) fn open(device: &str, dhcp: bool) -> Result<Self, OpenError> {
        let config = AfPacketConfig { ring_bytes: RING_BYTES, frames: 1, ..AfPacketConfig::new(device) };
        let socket = AfPacket::open_with(&config, |socket| match dhcp {
            true => syscall::attach_filter(socket, &WITH_DHCP),
            false => syscall::attach_filter(socket, &FILTER),
        })?;
        Ok(Neighbours { socket, batch: Batch::new() })
    }

    /// Copies what has come into frames of `umem`, up to the free space of `into`; says how many. A tag goes back into the
    /// bytes, where all other frames of the port have theirs.
    pub(crate) fn receive(&mut self, umem: &mut Umem, into: &mut Batch) -> Result<usize, PortError> {
        if self.batch.is_empty() {
            self.socket.receive(Lane::Stranger, &mut self.batch)?;
        }
        let mut count = 0;
        for (frame, meta) in self.batch.drain(into.space().min(BATCH)) {
            let bytes = self.socket.bytes(&frame);
            if let Some(copy) = copy(umem, bytes, meta.vlan) {
                // What the kernel has looked at, or a local sender has left to the device, is not looked at again.
                let checksum = match meta.checksum {
                    Checksum::Unverified => Checksum::Unverified,
                    Checksum::Verified | Checksum::Partial { .. } => Checksum::Verified,
                };
                match into.push(copy, Meta { checksum, ..Meta::default() }) {
                    Ok(()) => count += 1,
                    Err(copy) => umem.release(copy),
                }
            }
            self.socket.release(frame);
        }
        Ok(count)
    }

    pub(crate) fn join(&mut self, group: Mac) -> Result<(), PortError> {
        self.socket.join(group)
    }

    pub(crate) fn statistics(&self) -> PortStatistics {
        self.socket.statistics()
    }

    /// Whether frames wait that were read already.
    pub(crate) fn is_behind(&self) -> bool {
        !self.batch.is_empty()
    }

    pub(crate) fn park(&mut self) -> Option<BorrowedFd<'_>> {
        self.socket.park()
    }
}

impl AsFd for Neighbours {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn copy(umem: &mut Umem, bytes: &[u8], tag: Option<u16>) -> Option<Frame> {
    let (addresses, rest) = bytes.split_at_checked(12)?;
    let [high, low] = tag.unwrap_or_default().to_be_bytes();
    let inserted = [0x81, 0, high, low];
    let inserted = if tag.is_some() { &inserted[..] } else { &[] };
    let mut frame = umem.allocate()?;
    if !umem.resize(&mut frame, bytes.len() + inserted.len()) {
        umem.release(frame);
        return None;
    }
    let to = umem.bytes_mut(&frame);
    for (place, byte) in to.iter_mut().zip(addresses.iter().chain(inserted).chain(rest)) {
        *place = *byte;
    }
    Some(frame)
}
