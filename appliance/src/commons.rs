//! What is one for the whole appliance, however many cores it has: the pools with their pace and slots, who holds which
//! identity, which identities are our own nodes', and the letters that cores write each other about sessions.
//!
//! All of it is behind one lock, which is taken when a session asks for a node, is asked for a sign of life, or ends:
//! some times per session, never per frame. A core looks for letters by one atomic flag. With one core everything happens
//! in the same order each time.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::link::dhcp::Lease;
use hedgerow_dataplane::shard::Wake;
use hedgerow_policy::PeerId;

use crate::core::CoreConfig;
use crate::pool::duty::next_turn;
use crate::pool::{Answer, Caller, Pool, PoolConfig, Ticket};
use crate::rules::slots::Ledger;

/// An identity in a pool.
pub type Key = (usize, PeerId);

/// What a core is told about one of its sessions by another one, or by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Letter {
    /// A newer session has its identity: it ends.
    Replaced,
    /// Another source shows its identity: it is to give a sign of life.
    Challenged,
    /// The identity that it waited for is free: it may claim it.
    Free,
    /// The holder of the identity that it waited for lives: it is refused.
    Held,
    /// All slots are taken and it has to go for a newcomer: it ends.
    Displaced,
}

/// Whether a session may use its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It may.
    Granted,
    /// The holder is being asked for a sign of life.
    Waits,
    /// The holder is being asked for a sign of life already.
    Refused,
    /// It is the identity of one of our own nodes, or comes from the address of one.
    OwnNode,
}

/// How a session came about, which decides with whose it can share an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Its peer came, from this address.
    From(IpAddr),
    /// This node of the pool began it.
    By(usize),
}

impl From<IpAddr> for Side {
    fn from(ip: IpAddr) -> Side {
        Side::From(ip)
    }
}

/// The appliance is drained: it takes no new sessions and loses those that it has, one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Since when.
    pub since: Instant,
    /// When it ends at the latest.
    pub until: Instant,
    /// When the next session may end.
    pub turn: Instant,
}

/// Sessions a second that end while the appliance is drained.
const LEAVE_A_SECOND: u32 = 20;

/// Who uses an identity.
#[derive(Debug, Clone, Copy)]
struct Holder {
    ticket: Ticket,
    side: Side,
    /// The node that it is connected to, once it is.
    node: Option<usize>,
    /// Who waits for it to show no sign of life.
    challenger: Option<Ticket>,
}

impl Holder {
    fn new(ticket: Ticket, side: Side) -> Holder {
        let node = if let Side::By(node) = side { Some(node) } else { None };
        Holder { ticket, side, node, challenger: None }
    }

    /// Whether a session of another side cannot have the identity beside this one: a node has one connection with a peer.
    fn bars(&self, side: Side) -> bool {
        match (self.side, side) {
            (Side::From(_), Side::From(_)) => true,
            // Which node it comes to nobody knows yet.
            (Side::By(_), Side::From(_)) => true,
            (_, Side::By(node)) => self.node.is_none_or(|held| held == node),
        }
    }
}

/// What the cores share. See the [module](self).
pub struct Commons {
    books: Mutex<Books>,
    /// By core: letters wait.
    mail: Vec<AtomicBool>,
    /// Addresses by DHCP, by port, and how often they have changed.
    leases: Mutex<Vec<Option<Lease>>>,
    leased: AtomicU64,
    wake: Wake,
}

/// The contents.
pub struct Books {
    /// The pools.
    pub pools: Vec<Pool>,
    /// The appliance itself is drained.
    pub drained: Option<Drained>,
    /// Slots of listeners that sessions hold.
    pub slots: Ledger,
    own_nodes: Vec<PeerId>,
    /// One for each identity, and one more for each node that has begun a session with it.
    holders: BTreeMap<Key, Vec<Holder>>,
    /// By core. Bounded by the sessions: few letters are ever written about one.
    letters: Vec<VecDeque<(Ticket, Letter)>>,
    /// Cores that were written to since the lock was taken.
    posted: Vec<u16>,
}

impl Commons {
    /// What `cores` cores share; `wake` is called with a core's number when a letter waits for it.
    pub fn new(config: &CoreConfig, cores: u16, wake: Wake, now: Instant) -> Arc<Self> {
        Commons::over(&config.pools, config.own_nodes.clone(), cores, wake, now)
    }

    /// The same over these pools, where the rest of a core's configuration is not there yet.
    pub fn over(
        pools: &[PoolConfig],
        own_nodes: Vec<PeerId>,
        cores: u16,
        wake: Wake,
        now: Instant,
    ) -> Arc<Self> {
        let cores = cores.max(1);
        Arc::new(Commons {
            books: Mutex::new(Books {
                pools: pools.iter().map(|pool| Pool::new(pool.clone(), now)).collect(),
                drained: None,
                slots: Ledger::default(),
                own_nodes,
                holders: BTreeMap::new(),
                letters: (0..cores).map(|_| VecDeque::new()).collect(),
                posted: Vec::new(),
            }),
            mail: (0..cores).map(|_| AtomicBool::new(false)).collect(),
            leases: Mutex::default(),
            leased: AtomicU64::new(0),
            wake,
        })
    }

    /// The same for a core that is alone.
    pub fn alone(config: &CoreConfig, now: Instant) -> Arc<Self> {
        Commons::new(config, 1, Box::new(|_| {}), now)
    }

    /// How many cores share this.
    pub fn cores(&self) -> u16 {
        self.mail.len() as u16
    }

    /// Does something with the books, and wakes whom it wrote to.
    pub fn with<T>(&self, act: impl FnOnce(&mut Books) -> T) -> T {
        // A core that panicked takes the process with it; until then the others go on.
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let result = act(&mut books);
        let posted = std::mem::take(&mut books.posted);
        drop(books);
        for core in posted {
            if let Some(mail) = self.mail.get(usize::from(core)) {
                mail.store(true, Ordering::Release);
                (self.wake)(core);
            }
        }
        result
    }

    /// Tells all cores which address a port has by DHCP, if any.
    pub fn lease(&self, port: usize, lease: Option<Lease>) {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        if leases.len() <= port {
            leases.resize(port + 1, None);
        }
        leases[port] = lease;
        drop(leases);
        self.leased.fetch_add(1, Ordering::Release);
        (0..self.cores()).for_each(|core| (self.wake)(core));
    }

    /// How often leases have changed.
    pub fn leased(&self) -> u64 {
        self.leased.load(Ordering::Acquire)
    }

    /// The addresses by DHCP, by port; ports behind the last that ever had one are left out.
    pub fn leases(&self) -> Vec<Option<Lease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether letters wait for a core.
    pub fn has_mail(&self, core: u16) -> bool {
        self.mail.get(usize::from(core)).is_some_and(|mail| mail.load(Ordering::Acquire))
    }

    /// Takes a core's letters.
    pub fn take_mail(&self, core: u16) -> VecDeque<(Ticket, Letter)> {
        // The flag first: a letter that comes in between raises it again, for nothing at worst.
        if let Some(mail) = self.mail.get(usize::from(core)) {
            mail.store(false, Ordering::Release);
        }
        self.with(|books| books.letters.get_mut(usize::from(core)).map(std::mem::take).unwrap_or_default())
    }
}

impl Books {
    /// Takes an identity for a session. From the same address the newer session wins; otherwise the holder keeps it for as
    /// long as it is alive, and one challenger at a time may wait for that to be found out. So it is between a session that a
    /// node began and one that its peer did: the older stays.
    pub fn claim(&mut self, key: Key, ticket: Ticket, side: impl Into<Side>) -> Claim {
        if self.own_nodes.contains(&key.1) || self.pools.iter().any(|pool| pool.has_met(key.1)) {
            return Claim::OwnNode;
        }
        let side = side.into();
        let holders = self.holders.entry(key).or_default();
        let Some(holder) = holders.iter_mut().find(|holder| holder.bars(side)) else {
            holders.push(Holder::new(ticket, side));
            return Claim::Granted;
        };
        if matches!(side, Side::From(_)) && holder.side == side {
            let old = std::mem::replace(holder, Holder::new(ticket, side));
            self.post(old.ticket, Letter::Replaced);
            if let Some(challenger) = old.challenger {
                self.post(challenger, Letter::Free);
            }
            return Claim::Granted;
        }
        if holder.challenger.is_some() {
            return Claim::Refused;
        }
        holder.challenger = Some(ticket);
        let challenged = holder.ticket;
        self.post(challenged, Letter::Challenged);
        Claim::Waits
    }

    /// Whether one of our nodes has this address: where peers and nodes share a link it can reach the service address itself.
    pub fn is_node(&self, ip: IpAddr) -> bool {
        self.pools.iter().any(|pool| pool.has_node_at(ip))
    }

    /// A session with an identity is connected to a node.
    pub fn settled(&mut self, key: Key, ticket: Ticket, node: usize) {
        if let Some(holder) = self.holder(key, ticket) {
            holder.node = Some(node);
        }
    }

    /// No peer may come with an identity that stands for a node of ours outside.
    pub fn own(&mut self, id: PeerId) {
        if !self.own_nodes.contains(&id) {
            self.own_nodes.push(id);
        }
    }

    fn holder(&mut self, key: Key, ticket: Ticket) -> Option<&mut Holder> {
        self.holders.get_mut(&key)?.iter_mut().find(|holder| holder.ticket == ticket)
    }

    /// A session asks its pool for a node. Where it gets the slot of another, that one is told.
    pub fn ask(&mut self, pool: usize, now: Instant, caller: Caller) -> Answer {
        let answer = self.pools[pool].ask(now, caller);
        while let Some(victim) = self.pools[pool].displaced() {
            self.post(victim, Letter::Displaced);
        }
        answer
    }

    /// The holder of an identity has given a sign of life: who waited for its silence is refused.
    pub fn lives(&mut self, key: Key, ticket: Ticket) {
        if let Some(challenger) = self.holder(key, ticket).and_then(|holder| holder.challenger.take()) {
            self.post(challenger, Letter::Held);
        }
    }

    /// A challenger's wait is over: where the holder it waited for is still there, it was silent, and the identity changes
    /// hands.
    pub fn outlasted(&mut self, key: Key, ticket: Ticket, side: impl Into<Side>) -> Claim {
        let holders = self.holders.entry(key).or_default();
        let silent = holders.iter().position(|holder| holder.challenger == Some(ticket));
        if let Some(old) = silent.map(|place| holders.swap_remove(place)) {
            self.post(old.ticket, Letter::Replaced);
        }
        if self.holders.get(&key).is_some_and(Vec::is_empty) {
            self.holders.remove(&key);
        }
        // Another one may still be in the way.
        self.claim(key, ticket, side)
    }

    /// A challenger gives up; another may try.
    pub fn withdraw(&mut self, key: Key, ticket: Ticket) {
        let mut holders = self.holders.get_mut(&key).into_iter().flatten();
        if let Some(holder) = holders.find(|holder| holder.challenger == Some(ticket)) {
            holder.challenger = None;
        }
    }

    /// A session is over: its identity is free, and who waited for it is next.
    pub fn release(&mut self, key: Key, ticket: Ticket) {
        let Some(holders) = self.holders.get_mut(&key) else { return };
        let mine = holders.iter().position(|holder| holder.ticket == ticket);
        let gone = mine.map(|place| holders.swap_remove(place));
        if holders.is_empty() {
            self.holders.remove(&key);
        }
        if let Some(Holder { challenger: Some(challenger), .. }) = gone {
            self.post(challenger, Letter::Free);
        }
    }

    /// Whether a session may end because the appliance is drained; takes the turn.
    pub fn take_turn(&mut self, now: Instant) -> bool {
        let Some(drained) = self.drained.as_mut().filter(|drained| drained.turn <= now) else { return false };
        drained.turn = next_turn(drained.turn, now, LEAVE_A_SECOND);
        true
    }

    /// Identities in use.
    pub fn identities(&self) -> usize {
        self.holders.values().map(Vec::len).sum()
    }

    fn post(&mut self, to: Ticket, letter: Letter) {
        if let Some(letters) = self.letters.get_mut(usize::from(to.core)) {
            letters.push_back((to, letter));
            if !self.posted.contains(&to.core) {
                self.posted.push(to.core);
            }
        }
    }
}

#[cfg(test)]
mod tests;
