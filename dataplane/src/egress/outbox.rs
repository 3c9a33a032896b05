//! Packets on their way from one port to another: copied out of the frame that they came in, which goes back to its own port
//! at once, and written into frames of the other port at the next turn.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Instant;
use crate::wire::Address;

/// Bytes that wait for one link.
const BYTES: usize = 2 << 20;
/// Packets that wait for one link.
const PACKETS: usize = 2_048;
/// Packets that wait for a next hop to answer, and how long they are.
const PATIENT: usize = 16;
const PATIENT_BYTES: usize = 1_536;
/// How long they wait: as long as a next hop is asked for.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often they are offered again, beside every other occasion.
const AGAIN: Duration = Duration::from_millis(100);

/// What is to be known of a packet that waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queued {
    /// Where it goes.
    pub(crate) to: Address,
    /// Payload bytes of each segment where it is a super-frame; else 0.
    pub(crate) segment: u16,
    /// Whether its transport checksum is complete; otherwise the field means nothing.
    pub(crate) complete: bool,
    /// Whose it is.
    node: usize,
    since: Instant,
    start: usize,
    len: usize,
}

impl Queued {
    /// A packet that goes as it is.
    pub(super) fn whole(node: usize, to: Address, now: Instant) -> Self {
        Queued { to, segment: 0, complete: true, node, since: now, start: 0, len: 0 }
    }

    /// The same as a super-frame of segments with so much payload (0: none), its checksum complete or not.
    pub(super) fn in_segments(self, segment: u16, complete: bool) -> Self {
        Queued { segment, complete, ..self }
    }
}

/// What became of a packet that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is gone, sent or not.
    Yes,
    /// The port takes no more for now.
    Full,
    /// Its next hop is being asked for.
    Pending,
}

/// What waits, of one node's or in all.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    packets: usize,
    bytes: usize,
}

/// The packets that wait for one link. No node holds more than is left free: one that floods has half of it, and others find
/// room.
pub(crate) struct Outbox {
    /// Twice the room, so that what waits is seldom moved.
    bytes: Vec<u8>,
    queue: VecDeque<Queued>,
    /// By node.
    loads: Vec<Load>,
    load: Load,
    patient: Vec<(Queued, [u8; PATIENT_BYTES])>,
    room: usize,
    /// When those who wait for a next hop are offered again.
    again: Instant,
}

impl Outbox {
    /// An empty outbox; one that is not to be used takes no memory.
    pub(super) fn new(used: bool) -> Self {
        let of = |n| if used { n } else { 0 };
        Outbox {
            bytes: Vec::with_capacity(of(2 * BYTES)),
            queue: VecDeque::with_capacity(of(PACKETS)),
            loads: Vec::new(),
            load: Load::default(),
            patient: Vec::with_capacity(of(PATIENT)),
            room: of(BYTES),
            again: Instant::ZERO,
        }
    }

    /// Makes place for the packets of so many nodes.
    pub(super) fn serve(&mut self, nodes: usize) {
        self.loads.resize(nodes.max(self.loads.len()), Load::default());
    }

    /// Whether nothing can be sent; those who wait for a next hop are not asked about.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// When those who wait for a next hop are to be offered again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.patient.first().map(|_| self.again)
    }

    /// Appends a packet, IP header first, and gives its bytes to be rewritten; `None` where it finds no room.
    pub(super) fn push(&mut self, queued: Queued, packet: &[u8]) -> Option<&mut [u8]> {
        if self.queue.is_empty() {
            self.bytes.clear();
        }
        let own = self.loads.get_mut(queued.node)?;
        let free = Load { packets: PACKETS - self.load.packets, bytes: self.room - self.load.bytes };
        if own.packets >= free.packets || own.bytes + packet.len() > free.bytes {
            return None;
        }
        own.add(packet.len());
        self.load.add(packet.len());
        if self.bytes.len() + packet.len() > 2 * self.room {
            self.compact();
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(packet);
        self.queue.push_back(Queued { start, len: packet.len(), ..queued });
        self.bytes.get_mut(start..)
    }

    /// Moves what waits to the front.
    fn compact(&mut self) {
        let Some(first) = self.queue.front().map(|queued| queued.start) else { return };
        self.bytes.copy_within(first.., 0);
        self.bytes.truncate(self.bytes.len() - first);
        self.queue.iter_mut().for_each(|queued| queued.start -= first);
    }

    /// Offers what waits to `send`, in order, until it takes no more. Gives how many were dropped because their next hop did
    /// not answer, or because too many wait for one.
    pub(crate) fn drain(&mut self, now: Instant, mut send: impl FnMut(&Queued, &[u8]) -> Taken) -> u64 {
        let mut dropped = 0;
        self.again = now + AGAIN;
        self.patient.retain(|(queued, bytes)| match send(queued, &bytes[..queued.len.min(PATIENT_BYTES)]) {
            Taken::Yes => false,
            Taken::Full => true,
            Taken::Pending if now < queued.since + PATIENCE => true,
            Taken::Pending => {
                dropped += 1;
                false
            }
        });
        while let Some(queued) = self.queue.front() {
            let packet = self.bytes.get(queued.start..queued.start + queued.len).unwrap_or_default();
            match send(queued, packet) {
                Taken::Full => break,
                Taken::Yes => {}
                Taken::Pending
                    if packet.len() <= PATIENT_BYTES && has_patience(&self.patient, queued.node) =>
                {
                    let mut kept = [0; PATIENT_BYTES];
                    kept[..packet.len()].copy_from_slice(packet);
                    self.patient.push((*queued, kept));
                }
                Taken::Pending => dropped += 1,
            }
            if let Some(own) = self.loads.get_mut(queued.node) {
                own.remove(queued.len);
            }
            self.load.remove(queued.len);
            self.queue.pop_front();
        }
        dropped
    }
}

impl Load {
    fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.packets = self.packets.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// Whether a packet of a node's may wait for its next hop.
fn has_patience(patient: &[(Queued, [u8; PATIENT_BYTES])], node: usize) -> bool {
    patient.iter().filter(|(queued, _)| queued.node == node).count() < PATIENT - patient.len()
}
