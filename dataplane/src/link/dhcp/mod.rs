//! An address by DHCP (RFC 2131): asked for, probed, renewed, given up when its lease ends.
//!
//! The client is sans-IO: it takes messages and times, and hands out messages and news. Whoever owns it claims the address
//! that it wants and says how that went. Everything is bounded: one lease, a few routes, a few news, a few refusals that
//! are told of per transaction. What a server offers is judged before it is asked for, and again when it is granted: an
//! address, a gateway or a route that could not be written into the configuration is refused here, too.
//!
//! # Choices
//!
//! - The first question waits up to a second, not the 1 to 10 of section 4.4.1: there are few of us on a link, and who
//!   waits is a service.
//! - A restart asks for the address that was ours (INIT-REBOOT, section 4.3.2); where nobody answers, any server is asked.
//! - Answers come to the address that they name or to everybody, as the server likes: whatever a station may receive is
//!   read, and the broadcast flag is not set.
//! - Nothing is released at the end: the address shall be the same after a restart.

mod message;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use core::time::Duration;

use smoltcp::wire::DhcpPacket;

use super::rate::Jitter;
use super::{Prefix, Route};
use crate::Reason;
use crate::time::Instant;
use crate::wire::{Address, Mac};

use message::{Answer, Kind, Question};
pub(super) use message::{MESSAGE_MAX, datagram, payload};

/// Routes of a lease at most.
const ROUTES: usize = 16;
/// News that wait at most; older ones give way.
const NEWS: usize = 8;
/// Refusals that are told of per transaction; all are counted.
const REFUSALS: u8 = 4;
/// The shortest lease that is taken: below it the server would hear from us all the time.
const LEASE_LEAST: Duration = Duration::from_secs(30);
/// A lease "for ever" (section 3.3).
const FOR_EVER: u32 = u32::MAX;
/// The first question waits up to this, in milliseconds.
const START_MS: u64 = 1_000;
/// Time to the second question, doubled each time up to the longest (section 4.1), give or take a second.
const RETRY: Duration = Duration::from_secs(4);
const RETRY_DOUBLED: u32 = 4;
/// Requests for an offer, and for the address that was ours before, until the search begins anew.
const REQUESTS: u32 = 4;
const REBOOT_REQUESTS: u32 = 2;
/// Least time between two requests for more time (section 4.4.5).
const RENEW_GAP: Duration = Duration::from_secs(60);
/// Time to the next search after an address was found to be another's (section 3.1, step 5), doubled up to the longest.
const CONFLICT_WAIT: Duration = Duration::from_secs(10);
const CONFLICT_DOUBLED: u32 = 5;
/// Packets smaller than this are no link's limit for IPv4 hosts (RFC 1122, section 3.3.3).
const MTU_LEAST: u16 = 576;

/// How a port that asks for its address does so.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Dhcp {
    /// Addresses that no server may give us: others of ours, and those of nodes.
    pub taken: Vec<Address>,
    /// The address that was ours when we last ran.
    pub last: Option<Address>,
}

/// An address for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address and its on-link prefix.
    pub own: Prefix,
    /// The default gateway.
    pub gateway: Option<Address>,
    /// Further routes.
    pub routes: Vec<Route>,
    /// Largest packet of the link, where the server names one that is large enough.
    pub mtu: Option<u16>,
    /// Who gave it.
    pub server: Address,
    /// When more time is asked for: of the server, then of anybody; `None`: never.
    pub renew: Option<Instant>,
    /// See `renew`.
    pub rebind: Option<Instant>,
    /// When it ends; `None`: never.
    pub until: Option<Instant>,
}

/// Why an offer or an answer could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unfit {
    /// The address is none that a host may have: loopback, multicast, unspecified, reserved, or the first or last of its
    /// network.
    Address,
    /// The address is another of ours, or a node's.
    Taken,
    /// The mask is none.
    Mask,
    /// The gateway is no neighbour, or is ourselves.
    Gateway,
    /// Routes that are malformed, too many, or lead through no neighbour.
    Routes,
    /// The lease names no time, or one of less than half a minute.
    Time,
    /// Another station has the address already.
    Conflict,
}

impl Unfit {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Unfit::Address => "no host can have this address",
            Unfit::Taken => "the address is another of ours or a node's",
            Unfit::Mask => "the subnet mask is none",
            Unfit::Gateway => "the gateway is no neighbour",
            Unfit::Routes => "the routes are malformed, too many, or lead through no neighbour",
            Unfit::Time => "the lease has no time, or less than 30 seconds",
            Unfit::Conflict => "another station has the address",
        }
    }
}

/// Why an address went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEnd {
    /// Nobody gave it more time.
    Expired,
    /// The server took it away.
    Withdrawn,
}

impl LeaseEnd {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            LeaseEnd::Expired => "its lease ended, and no server gave it more time",
            LeaseEnd::Withdrawn => "the server took it away",
        }
    }
}

/// What happened to an address by DHCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseNews {
    /// It is in use from now on.
    Bound(Lease),
    /// It has more time, and whatever else the server says now.
    Renewed(Lease),
    /// It is no longer in use.
    Lost(Address, LeaseEnd),
    /// An address was offered that cannot be used; by whom, where that is known.
    Refused(Address, Option<Address>, Unfit),
}

/// To whom a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// To everybody, from nobody.
    Everybody,
    /// To everybody, from the address.
    EverybodyFrom(Address),
    /// From the address to the server.
    Server(Address, Address),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Waits to begin.
    Starting { at: Instant },
    /// Asks whoever is there.
    Selecting { tries: u32, next: Instant },
    /// Asks for what was offered.
    Requesting { offer: Lease, tries: u32, next: Instant, asked: Instant },
    /// Asks for what it had before.
    Rebooting { last: Address, tries: u32, next: Instant, asked: Instant },
    /// It was granted, and whoever owns this finds out whether it is free.
    Probing { lease: Lease },
    /// In use.
    Bound { lease: Lease },
    /// In use; more time is asked for, of the server or of everybody.
    Renewing { lease: Lease, anybody: bool, next: Instant, asked: Instant },
    /// It is another's: the server is told.
    Declining { lease: Lease },
}

/// The client of one link.
#[derive(Clone, Debug)]
pub(super) struct Client {
    mac: Mac,
    taken: Vec<Address>,
    jitter: Jitter,
    state: State,
    xid: u32,
    /// When this transaction began.
    began: Instant,
    refusals: u8,
    conflicts: u32,
    news: VecDeque<LeaseNews>,
}

impl Client {
    pub(super) fn new(mac: Mac, config: &Dhcp, seed: u64, now: Instant) -> Self {
        let mut jitter = Jitter::new(seed);
        let at = now + jitter.millis(0, START_MS);
        let last = config.last.filter(|last| judge_address(*last, 32, &config.taken).is_ok());
        let mut client = Client {
            mac,
            taken: config.taken.clone(),
            jitter,
            state: State::Starting { at },
            xid: 0,
            began: at,
            refusals: 0,
            conflicts: 0,
            news: VecDeque::with_capacity(NEWS),
        };
        client.transaction(at);
        if let Some(last) = last {
            client.state = State::Rebooting { last, tries: 0, next: at, asked: at };
        }
        client
    }

    /// The lease whose address is in use, or is to be probed.
    pub(super) fn wanted(&self) -> Option<&Lease> {
        match &self.state {
            State::Probing { lease } | State::Bound { lease } | State::Renewing { lease, .. } => Some(lease),
            _ => None,
        }
    }

    /// Whether the address is still being probed.
    pub(super) fn probes(&self) -> bool {
        matches!(self.state, State::Probing { .. })
    }

    /// Nobody has the address: it is in use.
    pub(super) fn claimed(&mut self) {
        if let State::Probing { lease } = &self.state {
            let lease = lease.clone();
            self.conflicts = 0;
            self.tell(LeaseNews::Bound(lease.clone()));
            self.state = State::Bound { lease };
        }
    }

    /// Another station has the address that was to be probed.
    pub(super) fn contested(&mut self) {
        if let State::Probing { lease } = &self.state {
            let lease = lease.clone();
            self.tell(LeaseNews::Refused(lease.own.address, Some(lease.server), Unfit::Conflict));
            self.state = State::Declining { lease };
        }
    }

    /// What has happened since this was last asked.
    pub(super) fn news(&mut self) -> Option<LeaseNews> {
        self.news.pop_front()
    }

    /// When [`Client::say`] has something to say or to decide.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Starting { at } => Some(*at),
            State::Selecting { next, .. }
            | State::Requesting { next, .. }
            | State::Rebooting { next, .. } => Some(*next),
            State::Probing { .. } => None,
            State::Bound { lease } => lease.renew,
            State::Renewing { lease, anybody, next, .. } => {
                let rebind = lease.rebind.filter(|_| !anybody);
                [Some(*next), rebind, lease.until].into_iter().flatten().min()
            }
            State::Declining { .. } => Some(Instant::ZERO),
        }
    }

    /// Writes the message that is due, and says to whom it goes; call until there is none.
    pub(super) fn say(&mut self, now: Instant, space: &mut [u8; MESSAGE_MAX]) -> Option<(usize, To)> {
        self.decide(now);
        let question = self.question(now)?;
        let to = match &self.state {
            State::Renewing { lease, anybody: true, .. } => To::EverybodyFrom(lease.own.address),
            State::Renewing { lease, .. } => To::Server(lease.own.address, lease.server),
            _ => To::Everybody,
        };
        let secs = u16::try_from(now.since(self.began).as_secs()).unwrap_or(u16::MAX);
        let length = question.write(space, self.mac, self.xid, secs);
        if let State::Declining { .. } = self.state {
            self.conflicts += 1;
            let wait = CONFLICT_WAIT * (1 << self.conflicts.saturating_sub(1).min(CONFLICT_DOUBLED));
            self.start(now + wait);
        }
        Some((length?, to))
    }

    /// What the message to be sent now asks; notes that it was sent.
    fn question(&mut self, now: Instant) -> Option<Question> {
        let pause = |jitter: &mut Jitter, tries: u32| {
            let base = RETRY * (1 << tries.min(RETRY_DOUBLED)) - Duration::from_secs(1);
            base + jitter.millis(0, 2_000)
        };
        match &mut self.state {
            State::Selecting { tries, next } if *next <= now => {
                *next = now + pause(&mut self.jitter, *tries);
                *tries = tries.saturating_add(1);
                Some(Question::Discover)
            }
            State::Requesting { offer, tries, next, asked } if *next <= now => {
                *next = now + pause(&mut self.jitter, *tries);
                *tries += 1;
                *asked = now;
                Some(Question::Request { address: offer.own.address, server: offer.server })
            }
            State::Rebooting { last, tries, next, asked } if *next <= now => {
                *next = now + pause(&mut self.jitter, *tries);
                *tries += 1;
                *asked = now;
                Some(Question::Reboot { address: *last })
            }
            State::Renewing { lease, anybody, next, asked } if *next <= now => {
                // Half of what is left (section 4.4.5).
                let end = if *anybody { lease.until } else { lease.rebind };
                let left = end.map_or(RENEW_GAP, |end| end.since(now));
                *next = now + (left / 2).max(RENEW_GAP);
                *asked = now;
                Some(Question::Renew { address: lease.own.address })
            }
            State::Declining { lease } => {
                Some(Question::Decline { address: lease.own.address, server: lease.server })
            }
            _ => None,
        }
    }

    /// The changes of state that time alone brings about.
    fn decide(&mut self, now: Instant) {
        match &self.state {
            State::Starting { at } if *at <= now => {
                self.transaction(now);
                self.state = State::Selecting { tries: 0, next: now };
            }
            State::Requesting { tries: REQUESTS, next, .. } if *next <= now => self.start(now),
            State::Rebooting { tries: REBOOT_REQUESTS, next, .. } if *next <= now => self.start(now),
            State::Bound { lease } | State::Renewing { lease, .. }
                if lease.until.is_some_and(|until| until <= now) =>
            {
                self.lose(now, lease.own.address, LeaseEnd::Expired);
            }
            State::Bound { lease } if lease.renew.is_some_and(|renew| renew <= now) => {
                let lease = lease.clone();
                self.transaction(now);
                self.state = State::Renewing { lease, anybody: false, next: now, asked: now };
            }
            State::Renewing { lease, anybody: false, .. } if lease.rebind.is_some_and(|at| at <= now) => {
                let lease = lease.clone();
                self.state = State::Renewing { lease, anybody: true, next: now, asked: now };
            }
            _ => return,
        }
        if matches!(&self.state, State::Starting { at } if *at <= now) {
            self.decide(now);
        }
    }

    /// Takes a message of a server.
    pub(super) fn hear(&mut self, now: Instant, bytes: &[u8]) -> Result<(), Reason> {
        let packet = DhcpPacket::new_checked(bytes).map_err(|_| Reason::DhcpInvalid)?;
        let answer = Answer::read(&packet, self.mac, self.xid).ok_or(Reason::DhcpInvalid)?;
        match (&self.state, answer.kind) {
            (State::Selecting { .. }, Kind::Offer) => {
                let offer = self.judge(now, &answer)?;
                self.state = State::Requesting { offer, tries: 0, next: now, asked: now };
            }
            (State::Requesting { offer, asked, .. }, Kind::Ack)
                if answer.server == Some(offer.server) && answer.address == offer.own.address =>
            {
                let lease = self.judge(*asked, &answer)?;
                self.state = State::Probing { lease };
            }
            (State::Rebooting { last, asked, .. }, Kind::Ack) if answer.address == *last => {
                let lease = self.judge(*asked, &answer)?;
                self.state = State::Probing { lease };
            }
            (State::Renewing { lease, anybody, asked, .. }, Kind::Ack)
                if answer.address == lease.own.address
                    && (*anybody || answer.server == Some(lease.server)) =>
            {
                let lease = self.judge(*asked, &answer)?;
                self.tell(LeaseNews::Renewed(lease.clone()));
                self.state = State::Bound { lease };
            }
            (State::Requesting { offer, .. }, Kind::Nak) if answer.server == Some(offer.server) => {
                // Not at once, or a server that says no to all it offers would have us at full speed.
                self.start(now + RETRY);
            }
            (State::Rebooting { .. }, Kind::Nak) => self.start(now),
            (State::Renewing { lease, anybody, .. }, Kind::Nak)
                if *anybody || answer.server == Some(lease.server) =>
            {
                self.lose(now, lease.own.address, LeaseEnd::Withdrawn);
            }
            _ => return Err(Reason::DhcpInvalid),
        }
        Ok(())
    }

    fn start(&mut self, at: Instant) {
        self.state = State::Starting { at };
    }

    fn lose(&mut self, now: Instant, address: Address, why: LeaseEnd) {
        self.tell(LeaseNews::Lost(address, why));
        self.start(now);
    }

    fn transaction(&mut self, now: Instant) {
        self.xid = self.jitter.number() as u32;
        self.began = now;
        self.refusals = 0;
    }

    fn tell(&mut self, news: LeaseNews) {
        if self.news.len() == NEWS {
            self.news.pop_front();
        }
        self.news.push_back(news);
    }

    /// A lease from what a server says, counted from when it was asked for (section 4.4.1).
    fn judge(&mut self, asked: Instant, answer: &Answer<'_>) -> Result<Lease, Reason> {
        let Some(server) = answer.server.filter(|server| is_host(*server)) else {
            return Err(Reason::DhcpInvalid);
        };
        lease(asked, answer, server, &self.taken).map_err(|unfit| {
            if self.refusals < REFUSALS {
                self.refusals += 1;
                self.tell(LeaseNews::Refused(answer.address, Some(server), unfit));
            }
            Reason::DhcpRefused
        })
    }
}

fn lease(asked: Instant, answer: &Answer<'_>, server: Address, taken: &[Address]) -> Result<Lease, Unfit> {
    let length = match answer.mask {
        None => 32,
        Some(mask) => {
            let bits = u32::from_be_bytes(mask);
            let length = bits.leading_ones();
            if bits.count_ones() != length || length < 8 {
                return Err(Unfit::Mask);
            }
            length as u8
        }
    };
    judge_address(answer.address, length, taken)?;
    let own = Prefix { address: answer.address, length };
    let (gateway, routes) = match answer.routes {
        // Where there are classless routes, they are all (RFC 3442).
        Some(bytes) => routes(bytes, own)?,
        None => (answer.router, Vec::new()),
    };
    if gateway.is_some_and(|gateway| !is_neighbour(gateway, own, &routes)) {
        return Err(Unfit::Gateway);
    }
    let seconds = answer.seconds.ok_or(Unfit::Time)?;
    let time = Duration::from_secs(seconds.into());
    if time < LEASE_LEAST {
        return Err(Unfit::Time);
    }
    // Section 4.4.5, where the server names no sensible times of its own.
    let named = |seconds: Option<u32>| seconds.map(|seconds| Duration::from_secs(seconds.into()));
    let rebind = named(answer.rebind).filter(|at| *at < time && *at >= time / 4);
    let rebind = rebind.unwrap_or(time / 8 * 7);
    let renew = named(answer.renew).filter(|at| *at < rebind && *at >= LEASE_LEAST / 3);
    let renew = renew.unwrap_or((time / 2).min(rebind));
    let at = |after: Duration| (seconds != FOR_EVER).then(|| asked + after);
    Ok(Lease {
        own,
        gateway,
        routes,
        mtu: answer.mtu.filter(|mtu| *mtu >= MTU_LEAST),
        server,
        renew: at(renew),
        rebind: at(rebind),
        until: at(time),
    })
}

/// An address that may stand on a wire as a host's.
fn is_host(address: Address) -> bool {
    let Some([first, ..]) = address.v4() else { return false };
    first != 0 && first != 127 && first < 224
}

fn judge_address(address: Address, length: u8, taken: &[Address]) -> Result<(), Unfit> {
    let Some(bytes) = address.v4().filter(|_| is_host(address)) else { return Err(Unfit::Address) };
    let host = u32::from_be_bytes(bytes) & u32::MAX.checked_shr(length.into()).unwrap_or(0);
    // The first and the last of a network, but where it has only two (RFC 3021) or one.
    if length < 31 && (host == 0 || host == u32::MAX >> length) {
        return Err(Unfit::Address);
    }
    if taken.contains(&address) { Err(Unfit::Taken) } else { Ok(()) }
}

/// As `config` demands it: in the prefix, on a link of its own by a route, or beyond a host address.
fn is_neighbour(gateway: Address, own: Prefix, routes: &[Route]) -> bool {
    let direct = |route: &Route| route.gateway.is_none() && route.prefix.covers(gateway);
    is_host(gateway)
        && gateway != own.address
        && (own.length == 32 || own.covers(gateway) || routes.iter().any(direct))
}

/// Classless static routes (RFC 3442): the default gateway among them, and the others.
fn routes(mut bytes: &[u8], own: Prefix) -> Result<(Option<Address>, Vec<Route>), Unfit> {
    let (mut default, mut routes) = (None, Vec::new());
    while let Some((&length, rest)) = bytes.split_first() {
        let significant = usize::from(length).div_ceil(8);
        if length > 32 || rest.len() < significant + 4 || routes.len() == ROUTES {
            return Err(Unfit::Routes);
        }
        let (network, rest) = rest.split_at(significant);
        let (gateway, rest) = rest.split_first_chunk::<4>().ok_or(Unfit::Routes)?;
        bytes = rest;
        let mut address = [0; 4];
        address[..significant].copy_from_slice(network);
        let prefix = Prefix { address: Address::from_v4(address), length }.network();
        // Section "Local Subnet Routes": by nobody, so on the link itself.
        let gateway = Some(Address::from_v4(*gateway)).filter(|_| *gateway != [0; 4]);
        match length {
            0 if gateway.is_some() && default.is_none() => default = gateway,
            // Everything on one link cannot be, nor two ways to everywhere.
            0 => return Err(Unfit::Routes),
            _ => routes.push(Route { prefix, gateway }),
        }
    }
    let through = |route: &Route| route.gateway.is_none_or(|gateway| is_neighbour(gateway, own, &routes));
    if routes.iter().all(through) { Ok((default, routes)) } else { Err(Unfit::Routes) }
}
