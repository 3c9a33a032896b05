//! What a core does about nodes by itself, some times a second: the first core keeps a light peer at each node and tells
//! the pools what it sees; every core ends its own sessions with nodes that are drained, when it is their turn.

use std::collections::BTreeMap;
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::frame::Port;
use hedgerow_dataplane::shard::{Source, Target};
use hedgerow_policy::gate::light::Sighting;
use hedgerow_policy::{Leg, Standing, verdict};

use super::seats::{Dial, LegState, Seat};
use super::{Core, to_policy};
use crate::pool::Ticket;
use crate::pool::duty::{IDLE, Leaving, News, PRESSES};
use crate::pool::health::Loss;

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// Longest time before a node that is lost is tried again.
const RETRY_MAX: Duration = Duration::from_secs(4);
/// News that may wait to be taken.
const NEWS: usize = 256;

/// Which node a light peer looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Post {
    pub(super) pool: usize,
    pub(super) node: usize,
    target: Target,
}

/// The light peers, and when to look next.
#[derive(Debug, Default)]
pub(super) struct Watch {
    posts: BTreeMap<(usize, usize), Lookout>,
    next: Option<Instant>,
    /// Something is to be done at the next look, though nothing arrives.
    awake: bool,
    /// New sessions are turned away: the appliance itself is drained.
    pub(super) turns_away: bool,
    news: std::collections::VecDeque<News>,
}

impl Watch {
    /// When it wants to look.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next.filter(|_| self.awake)
    }
}

#[derive(Debug)]
struct Lookout {
    target: Target,
    ticket: Option<Ticket>,
    next: Instant,
    losses: u32,
}

impl<P: Port> Core<P> {
    /// What an operator should hear about nodes.
    pub fn news(&mut self) -> Option<News> {
        self.watch.news.pop_front()
    }

    /// Looks after nodes, if it is time.
    pub(super) fn look_after_nodes(&mut self, now: Instant) {
        if self.stopping || self.watch.next.is_some_and(|at| at > now) {
            return;
        }
        self.watch.next = Some(now + LOOK);
        let first = self.number == 0;
        let (posts, leaving, news, away) = self.commons.with(|books| {
            let mut posts = Vec::new();
            let mut news = Vec::new();
            let mut leaving = Vec::new();
            for (index, pool) in books.pools.iter_mut().enumerate() {
                if first {
                    pool.judge(now);
                    news.extend(std::iter::from_fn(|| pool.news()).map(|news| News { pool: index, ..news }));
                    posts.extend(pool.watched().map(|(node, target)| Post { pool: index, node, target }));
                }
                leaving.extend(pool.leaving().map(|leaving| (index, leaving)));
            }
            (posts, leaving, news, books.drained.is_some())
        });
        let queue = &mut self.watch.news;
        queue.extend(news);
        queue.drain(..queue.len().saturating_sub(NEWS));
        self.watch.awake = !posts.is_empty() || !leaving.is_empty() || away;
        self.watch.turns_away = away;
        self.man_posts(now, &posts);
        for (pool, leaving) in leaving {
            self.clear(now, pool, leaving);
        }
        if away {
            self.clear_all(now);
        }
    }

    /// Puts a light peer where one is missing, and takes away those whose node is no longer there.
    fn man_posts(&mut self, now: Instant, posts: &[Post]) {
        let wanted = |place: &(usize, usize), lookout: &Lookout| {
            posts.iter().any(|post| (post.pool, post.node) == *place && post.target == lookout.target)
        };
        let mut gone = Vec::new();
        self.watch.posts.retain(|place, lookout| {
            let wanted = wanted(place, lookout);
            gone.extend(lookout.ticket.filter(|_| !wanted));
            wanted
        });
        for ticket in gone {
            if let Some(seat) = self.seats.get(ticket) {
                seat.session.close(to_policy(now), verdict::Reason::Drained);
                self.mark(ticket);
            }
        }
        for &post in posts {
            let new = Lookout { target: post.target, ticket: None, next: now, losses: 0 };
            let lookout = self.watch.posts.entry((post.pool, post.node)).or_insert(new);
            if lookout.ticket.is_none() && lookout.next <= now {
                self.post(now, post);
            }
        }
    }

    /// Sends a light peer to a node.
    fn post(&mut self, now: Instant, post: Post) {
        let Some(session) = self.sessions.watch(to_policy(now), post.pool) else { return };
        let flow = self.open(now, post.target, Source::Own).ok();
        let flow = flow.and_then(|flow| Some((flow, self.flow(flow)?.key()?)));
        // Our own address is not in use yet, or a table is full: that says nothing about the node.
        let Some((flow, key)) = flow else { return self.relieved(now, post, None) };
        let (ticket, number) = self.seats.open();
        let mut legs = [LegState::default(), LegState::default()];
        legs[Leg::Private as usize].flow = Some((flow, key, post.target.link));
        let mut seat = Seat::new(ticket, number, session, key.remote(), now, legs);
        seat.pool = post.pool;
        seat.standing = Standing::Proven;
        seat.dial = Dial::Watching(false);
        seat.post = Some(post);
        self.seats.put(Box::new(seat));
        self.attach(flow, ticket, Leg::Private);
        self.mark(ticket);
        if let Some(lookout) = self.watch.posts.get_mut(&(post.pool, post.node)) {
            lookout.ticket = Some(ticket);
        }
    }

    /// A light peer has seen something.
    pub(super) fn sighted(&mut self, now: Instant, seat: &Seat, sighting: Sighting) {
        let Some(post) = seat.post.filter(|post| self.is_manned(post, seat.ticket)) else { return };
        if sighting == Sighting::Ready
            && let Some(lookout) = self.watch.posts.get_mut(&(post.pool, post.node))
        {
            lookout.losses = 0;
        }
        self.commons.with(|books| books.pools[post.pool].saw(now, post.node, sighting));
    }

    fn is_manned(&self, post: &Post, ticket: Ticket) -> bool {
        self.watch.posts.get(&(post.pool, post.node)).is_some_and(|lookout| lookout.ticket == Some(ticket))
    }

    /// A light peer's session is over.
    pub(super) fn watch_ended(&mut self, now: Instant, seat: &Seat, reason: verdict::Reason) {
        use verdict::Reason as R;
        let Some(post) = seat.post.filter(|post| self.is_manned(post, seat.ticket)) else { return };
        let loss = match reason {
            // Our own doing says nothing about the node.
            R::Aborted | R::Drained => None,
            R::NodeTls | R::NodeUpgrade | R::NodeProtocol | R::NodeClosed | R::ChiaWrongNetwork => {
                Some(Loss::Refused)
            }
            _ => Some(Loss::Unreachable),
        };
        self.relieved(now, post, loss);
    }

    fn relieved(&mut self, now: Instant, post: Post, loss: Option<Loss>) {
        if let Some(lookout) = self.watch.posts.get_mut(&(post.pool, post.node)) {
            lookout.ticket = None;
            // At once after the first loss, so that a node which is gone is known to be.
            lookout.next = now + (LOOK * (1 << lookout.losses.min(5)) - LOOK).min(RETRY_MAX);
            lookout.losses = lookout.losses.saturating_add(1);
            self.watch.next = self.watch.next.map(|next| next.min(lookout.next));
        }
        if let Some(loss) = loss {
            self.commons.with(|books| books.pools[post.pool].lost(now, post.node, loss));
        }
    }

    /// Ends sessions with a node that is to have none.
    fn clear(&mut self, now: Instant, pool: usize, leaving: Leaving) {
        let at = |seat: &Seat| seat.post.is_none() && seat.pool == pool && seat.node() == Some(leaving.node);
        let Some(since) = leaving.since else {
            let tickets: Vec<Ticket> =
                self.seats.iter().filter(|seat| at(seat)).map(|seat| seat.ticket).collect();
            return tickets.into_iter().for_each(|ticket| self.send_away(now, ticket));
        };
        while let Some(ticket) = self.idlest(now, since, at) {
            if !self.commons.with(|books| books.pools[pool].take_turn(now, leaving.node)) {
                return;
            }
            self.send_away(now, ticket);
        }
    }

    /// Ends sessions because the appliance is to have none.
    fn clear_all(&mut self, now: Instant) {
        let Some(since) = self.commons.with(|books| books.drained.as_ref().map(|drained| drained.since))
        else {
            return;
        };
        while let Some(ticket) = self.idlest(now, since, |seat| seat.post.is_none() && seat.node().is_some())
        {
            if !self.commons.with(|books| books.take_turn(now)) {
                return;
            }
            self.send_away(now, ticket);
        }
    }

    /// Of certain sessions the one that was silent longest, if it is idle or a drain has lasted long enough.
    fn idlest(&self, now: Instant, since: Instant, among: impl Fn(&Seat) -> bool) -> Option<Ticket> {
        let presses = now.since(since) >= PRESSES;
        let seats = self.seats.iter().filter(|seat| seat.linger.is_none() && among(seat));
        let idlest = seats.min_by_key(|seat| (seat.moved, seat.number))?;
        (presses || now.since(idlest.moved) >= IDLE).then_some(idlest.ticket)
    }

    fn send_away(&mut self, now: Instant, ticket: Ticket) {
        if let Some(mut seat) = self.seats.take(ticket) {
            seat.session.close(to_policy(now), verdict::Reason::Drained);
            self.go_on(now, seat);
        }
    }
}
