//! A packet socket for each lane of one device: a socket filter looks each segment up among the flows that the shard holds,
//! so that a flood fills the strangers' ring and leaves the other alone. It also refuses denied prefixes and, where that is
//! asked for, strangers beyond a rate.
//!
//! Each socket is an [`AfPacket`] of its own with its own slots; a bit in a handle's slot says whose it is.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use hedgerow_dataplane::frame::{
    Abilities, BATCH, Batch, Frame, Lane, Meta, Pool, Port, PortError, PortStatistics,
};
use hedgerow_dataplane::wire::{FlowKey, Mac, Prefix};

use crate::af_packet::{AfPacket, AfPacketConfig};
use crate::bpf::{Object, Program, Purpose};
use crate::error::{OpenError, Problem};
use crate::lanes::{Hints, LaneLimits, Lanes, Ours};
use crate::syscall;

/// The compiled filters; `tests/run bpf` compiles them again and compares.
const FILTERS: &[u8] = include_bytes!("../bpf/lanes.o");

const CAPABILITIES: &str = "CAP_NET_RAW,CAP_BPF";

/// How to open a device as [`PacketLanes`].
#[derive(Clone, Debug)]
pub struct PacketLanesConfig {
    /// The sockets; `ring_bytes` is for each of them.
    pub packet: AfPacketConfig,
    /// Sizes of the filters' tables.
    pub limits: LaneLimits,
}

/// Marks slots of the known lane's socket.
const KNOWN: u32 = 1 << 31;

/// A network device of the kernel, with a packet socket for each lane.
pub struct PacketLanes {
    abilities: Abilities,
    strangers: Side,
    known: Side,
    lanes: Arc<Lanes>,
    hints: Hints,
    /// Reports what the filters counted, for all queues of the device.
    counts: bool,
    waker: OwnedFd,
}

/// One lane's socket.
struct Side {
    port: AfPacket,
    /// Frames that the socket would not take yet.
    unsent: Batch,
}

impl std::fmt::Debug for PacketLanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PacketLanes").field("mode", &self.abilities.mode).finish_non_exhaustive()
    }
}

impl PacketLanes {
    /// Opens the device as `count` ports, among which the kernel distributes flows.
    ///
    /// # Errors
    /// As [`AfPacket::open`], and where this process may load no BPF programs.
    pub fn open_queues(config: &PacketLanesConfig, count: usize) -> Result<Vec<Self>, OpenError> {
        let name = config.packet.device.as_str();
        let fail =
            |operation| move |source: io::Error| Problem::system(operation, CAPABILITIES, source).of(name);
        // The filters ask neither for stations nor for addresses: the sockets see what the device gets.
        let lanes = Lanes::new(Mac::default(), None, &Ours::default(), config.limits, 1)
            .map_err(fail("the maps of the socket filters"))?;
        let object = Object::parse(FILTERS).map_err(fail("reading the socket filters"))?;
        let filter = |section| {
            Program::load(&object, section, Purpose::SocketFilter, &lanes.maps())
                .map_err(fail("loading the socket filters"))
        };
        let (known, stranger) = (filter("filter/known")?, filter("filter/stranger")?);
        let lanes = Arc::new(lanes);
        let mut groups = [None, None];
        let mut open = |index: usize| {
            let side = |filter: &Program, group: &mut Option<u32>| {
                let mut port = AfPacket::open_with(&config.packet, |socket| {
                    syscall::attach_program(socket, filter.as_fd())
                })?;
                port.share(group, index, count)?;
                Ok(Side { port, unsent: Batch::new() })
            };
            let [for_strangers, for_known] = &mut groups;
            let (strangers, known) = (side(&stranger, for_strangers)?, side(&known, for_known)?);
            PacketLanes::new(strangers, known, lanes.clone(), index == 0)
                .map_err(fail("waiting for two sockets"))
        };
        (0..count.max(1)).map(&mut open).collect()
    }

    fn new(strangers: Side, known: Side, lanes: Arc<Lanes>, counts: bool) -> io::Result<Self> {
        let waker = syscall::any_of([strangers.port.as_fd(), known.port.as_fd()].into_iter())?;
        let mode = format!("{}, two lanes", strangers.port.abilities().mode);
        let abilities = Abilities { lanes: true, mode, ..strangers.port.abilities().clone() };
        Ok(PacketLanes { abilities, strangers, known, lanes, hints: Hints::new(), counts, waker })
    }

    /// Adds something to [`Abilities::mode`], for `status`.
    pub fn note(&mut self, text: &str) {
        self.abilities.mode += ", ";
        self.abilities.mode += text;
    }

    /// The socket that a frame belongs to, and its handle there.
    fn side(&mut self, frame: Frame) -> (&mut Side, Frame) {
        if is_known(&frame) { (&mut self.known, switched(frame)) } else { (&mut self.strangers, frame) }
    }
}

impl Side {
    /// Sends what waits; whether nothing waits any more.
    fn send(&mut self) -> Result<bool, PortError> {
        if !self.unsent.is_empty() {
            self.port.transmit(&mut self.unsent)?;
        }
        Ok(self.unsent.is_empty())
    }
}

fn is_known(frame: &Frame) -> bool {
    frame.slot() & KNOWN != 0
}

/// A handle as the other one of port and socket knows it.
fn switched(frame: Frame) -> Frame {
    Frame::new(frame.slot() ^ KNOWN, frame.head(), frame.len() as u32)
}

impl Pool for PacketLanes {
    fn allocate(&mut self) -> Option<Frame> {
        self.strangers.port.allocate()
    }

    fn release(&mut self, frame: Frame) {
        let (side, frame) = self.side(frame);
        side.port.release(frame);
    }

    fn bytes(&self, frame: &Frame) -> &[u8] {
        match is_known(frame) {
            true => {
                self.known.port.bytes(&Frame::new(frame.slot() ^ KNOWN, frame.head(), frame.len() as u32))
            }
            false => self.strangers.port.bytes(frame),
        }
    }

    fn bytes_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        match is_known(frame) {
            true => {
                let mut inner = Frame::new(frame.slot() ^ KNOWN, frame.head(), frame.len() as u32);
                self.known.port.bytes_mut(&mut inner)
            }
            false => self.strangers.port.bytes_mut(frame),
        }
    }

    fn resize(&mut self, frame: &mut Frame, len: usize) -> bool {
        if !is_known(frame) {
            return self.strangers.port.resize(frame, len);
        }
        let mut inner = Frame::new(frame.slot() ^ KNOWN, frame.head(), frame.len() as u32);
        let fits = self.known.port.resize(&mut inner, len);
        frame.set_len(inner.len() as u32);
        fits
    }

    fn prefetch(&self, frame: &Frame) {
        syscall::prefetch(self.bytes(frame));
    }
}

impl Port for PacketLanes {
    fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    fn receive(&mut self, lane: Lane, into: &mut Batch) -> Result<usize, PortError> {
        if lane == Lane::Stranger {
            return self.strangers.port.receive(Lane::Stranger, into);
        }
        let before = into.len();
        let count = self.known.port.receive(Lane::Stranger, into)?;
        for (frame, _) in &mut into.as_mut_slice()[before..] {
            *frame = Frame::new(frame.slot() ^ KNOWN, frame.head(), frame.len() as u32);
        }
        Ok(count)
    }

    fn transmit(&mut self, from: &mut Batch) -> Result<usize, PortError> {
        let before = from.len();
        while let Some((first, _)) = from.as_slice().first() {
            let known = is_known(first);
            let side = if known { &mut self.known } else { &mut self.strangers };
            // A socket takes a run of its own frames at once, in order.
            let run = from.iter().take_while(|(frame, _)| is_known(frame) == known).count();
            if !side.send()? {
                break;
            }
            for (frame, meta) in from.drain(run.min(BATCH)) {
                let frame = if known { switched(frame) } else { frame };
                keep(side, frame, meta);
            }
            side.send()?;
        }
        Ok(before - from.len())
    }

    fn flush(&mut self) -> Result<(), PortError> {
        self.hints.tell(&self.lanes);
        self.strangers.send()?;
        self.known.send()?;
        Ok(())
    }

    fn known(&mut self, key: &FlowKey, on: bool) {
        self.hints.known(&self.lanes, key, on);
    }

    fn deny(&mut self, prefix: Prefix, on: bool) {
        self.hints.deny(&self.lanes, prefix, on);
    }

    fn join(&mut self, group: Mac) -> Result<(), PortError> {
        self.strangers.port.join(group)
    }

    fn park(&mut self) -> Option<BorrowedFd<'_>> {
        // Each takes the error off its socket that would end every wait at once.
        self.strangers.port.park()?;
        self.known.port.park()?;
        (self.strangers.unsent.is_empty() && self.known.unsent.is_empty()).then(|| self.waker.as_fd())
    }

    fn statistics(&self) -> PortStatistics {
        let mut statistics = self.strangers.port.statistics();
        statistics.absorb(&self.known.port.statistics());
        if self.counts {
            statistics.refused = self.lanes.counted(0).refused;
        }
        statistics
    }
}

/// Puts a frame into a batch that has room for it.
fn keep(side: &mut Side, frame: Frame, meta: Meta) {
    if let Err(frame) = side.unsent.push(frame, meta) {
        side.port.release(frame);
    }
}
