//! What a core counts, and the sum over cores.

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::egress::NodeTraffic;
use hedgerow_dataplane::frame::Port;
use hedgerow_dataplane::shard;
use hedgerow_policy::verdict;

use super::Core;
use super::seats::{Dial, Seat};
use crate::pool::{NodeConfig, NodeStatistics, Pool};
use crate::workers::Desk;

/// What a core counted, and what it holds now.
#[derive(Debug, Clone, Default)]
pub struct CoreStatistics {
    /// The dataplane.
    pub shard: shard::Statistics,
    /// Sessions that ended, by reason.
    pub ended: verdict::Counters,
    /// Sessions now.
    pub sessions: usize,
    /// Most sessions at one time.
    pub sessions_peak: usize,
    /// Sessions begun.
    pub sessions_opened: u64,
    /// Sessions now that are connected to a node.
    pub sessions_dialled: usize,
    /// Sessions now that nodes began.
    pub sessions_begun: usize,
    /// Sessions that a bug in their code has ended.
    pub crashed: u64,
    /// Times that a session had to rest because its source had moved as many bytes as it may.
    pub held_back: u64,
    /// Cryptographic steps run, given up, waiting, and most that waited.
    pub work: WorkStatistics,
    /// The pools.
    pub pools: Vec<PoolStatistics>,
    /// Events that nobody took in time.
    pub events_lost: u64,
    /// What the nodes' way out has carried; one core's alone.
    pub egress: Vec<NodeTraffic>,
}

/// Cryptographic steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkStatistics {
    /// Run.
    pub done: u64,
    /// Given up because the queue was full; their sessions ended.
    pub dropped: u64,
    /// Waiting now.
    pub waiting: usize,
    /// Most that waited at one time.
    pub peak: usize,
}

/// A pool.
#[derive(Debug, Clone, Default)]
pub struct PoolStatistics {
    /// Its name.
    pub name: String,
    /// Sessions that hold a slot.
    pub taken: usize,
    /// Sessions that wait for a node.
    pub waiting: usize,
    /// Its nodes, and their figures.
    pub nodes: Vec<(NodeConfig, NodeStatistics)>,
}

impl CoreStatistics {
    /// Adds those of another core. The pools are the appliance's: any core's report of them will do.
    pub fn absorb(&mut self, other: &CoreStatistics) {
        self.shard.absorb(&other.shard);
        self.ended.absorb(&other.ended);
        self.sessions += other.sessions;
        self.sessions_peak += other.sessions_peak;
        self.sessions_opened += other.sessions_opened;
        self.sessions_dialled += other.sessions_dialled;
        self.sessions_begun += other.sessions_begun;
        self.crashed += other.crashed;
        self.held_back += other.held_back;
        self.work.done += other.work.done;
        self.work.dropped += other.work.dropped;
        self.work.waiting += other.work.waiting;
        self.work.peak += other.work.peak;
        self.events_lost += other.events_lost;
        self.pools.clone_from(&other.pools);
        if !other.egress.is_empty() {
            self.egress.clone_from(&other.egress);
        }
    }
}

impl<P: Port> Core<P> {
    /// What was counted.
    pub fn statistics(&self, now: Instant) -> CoreStatistics {
        let mut shard = self.shard.statistics();
        self.sockets.iter().for_each(|sockets| shard.absorb(&sockets.statistics()));
        let dialled = |seat: &&Seat| matches!(seat.dial, Dial::Connected(..));
        CoreStatistics {
            shard,
            ended: self.ended.clone(),
            sessions: self.seats.live,
            sessions_peak: self.seats.peak,
            sessions_opened: self.seats.opened,
            sessions_dialled: self.seats.iter().filter(dialled).count(),
            sessions_begun: self.seats.iter().filter(|seat| seat.voyage.is_some()).count(),
            crashed: self.crashed,
            held_back: self.held_back,
            work: WorkStatistics {
                done: self.work.done,
                dropped: self.work.dropped,
                waiting: self.work.len() + self.desk.as_ref().map_or(0, Desk::under_way),
                peak: self.work.peak,
            },
            pools: self
                .commons
                .with(|books| books.pools.iter().map(|pool| pool_statistics(pool, now)).collect()),
            events_lost: self.events_lost,
            egress: self.egress_traffic().to_vec(),
        }
    }
}

fn pool_statistics(pool: &Pool, now: Instant) -> PoolStatistics {
    PoolStatistics {
        name: pool.config().name.clone(),
        taken: pool.taken(),
        waiting: pool.waiting(),
        nodes: pool.nodes(now).map(|(node, figures)| (node.clone(), figures)).collect(),
    }
}
