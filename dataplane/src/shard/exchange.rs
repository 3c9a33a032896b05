//! What the shards of one box share: a directory of their flows, and inboxes for frames that arrived at the wrong one.
//!
//! The kernel, a switch or a network card distributes frames among queues, and each queue feeds a shard. Mostly that is the
//! shard that holds the flow. Where it is not (the answer of a node that came by another queue, a card whose table was
//! changed, an ICMP error about a flow), the frame is copied into a buffer of the owner's inbox. A frame is handed over
//! once: who gets it judges it like a frame of its own, and hands it on to nobody. Buffers are taken at start; where the
//! owner does not keep up, frames are refused with [`Reason::HandoverFull`](crate::Reason::HandoverFull).
//!
//! Messages of neighbours that answer, move or contest an address concern all shards, each of which asks for its own next
//! hops: they are copied to all, within a limit.

use std::fmt;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use super::Seed;
use super::directory::Directory;
use crate::admit::Census;
use crate::frame::Meta;
use crate::wire::{FlowKey, LinkId};

/// Memory of an inbox, at most, unless that were fewer than [`FRAMES_LEAST`] frames.
const INBOX_BYTES: usize = 4 << 20;
/// Frames that an inbox holds.
const FRAMES_LEAST: usize = 64;
const FRAMES_MOST: usize = 256;

/// How large an [`Exchange`] is.
#[derive(Clone, Debug)]
pub struct ExchangeConfig {
    /// Shards, at most 256.
    pub shards: u16,
    /// Flows of all shards together.
    pub flows: usize,
    /// Bytes of the largest frame, by link.
    pub frame_bytes: Vec<usize>,
    /// Randomness of this run, for all shards.
    pub seed: [u8; 32],
}

impl ExchangeConfig {
    /// Memory that the exchange takes, in bytes; that for frames is used only as far as it is needed.
    pub fn bytes(&self) -> usize {
        let inboxes: usize = self.frame_bytes.iter().map(|&bytes| frames(bytes) * bytes).sum();
        self.flows.div_ceil(2).next_power_of_two() * 64
            + Census::bytes(self.flows)
            + usize::from(self.shards) * inboxes
    }
}

/// Called with a shard's number after something was put into its inbox.
pub type Wake = Box<dyn Fn(u16) + Send + Sync>;

/// What the shards share.
pub struct Exchange {
    seed: [u8; 32],
    directory: Directory,
    census: Arc<Census>,
    /// By shard, then by link.
    inboxes: Vec<Vec<Inbox>>,
    wake: Wake,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("shards", &self.inboxes.len()).finish_non_exhaustive()
    }
}

impl Exchange {
    /// An exchange with all its memory taken. `wake` is called by the shard that puts something into an inbox.
    pub fn new(config: &ExchangeConfig, wake: Wake) -> Arc<Self> {
        let inboxes = |_| config.frame_bytes.iter().map(|&bytes| Inbox::new(bytes)).collect();
        Arc::new(Exchange {
            seed: config.seed,
            census: Census::new(config.shards, config.flows, Seed::new(&config.seed, 2).bytes16()),
            directory: Directory::new(config.flows, Seed::new(&config.seed, 1).bytes16()),
            inboxes: (0..config.shards).map(inboxes).collect(),
            wake,
        })
    }

    /// Frames that wait for a shard.
    fn waiting(&self, shard: u16) -> bool {
        self.inboxes.get(usize::from(shard)).is_some_and(|links| links.iter().any(|i| !i.full.is_empty()))
    }

    fn put(&self, shard: u16, link: LinkId, bytes: &[u8], meta: Meta) -> bool {
        let inbox = self.inboxes.get(usize::from(shard)).and_then(|links| links.get(usize::from(link.0)));
        let taken = inbox.is_some_and(|inbox| inbox.put(bytes, meta));
        if taken {
            (self.wake)(shard);
        }
        taken
    }
}

/// One shard's place at the exchange.
pub(super) struct Member {
    exchange: Arc<Exchange>,
    me: u16,
}

impl Member {
    pub(super) fn new(exchange: Arc<Exchange>, me: u16) -> Self {
        Member { exchange, me }
    }

    /// What the shards count together.
    pub(super) fn census(&self) -> Arc<Census> {
        self.exchange.census.clone()
    }

    /// A flow of ours began.
    pub(super) fn opened(&self, flow: &FlowKey) {
        // A flow that is not listed is served all the same.
        let _ = self.exchange.directory.insert(flow, self.me);
    }

    /// A flow of ours ended.
    pub(super) fn closed(&self, flow: &FlowKey) {
        self.exchange.directory.remove(flow, self.me);
    }

    /// The other shard that holds a flow.
    pub(super) fn owner(&self, flow: &FlowKey) -> Option<u16> {
        self.exchange.directory.find(flow).filter(|&shard| shard != self.me)
    }

    /// Copies a frame to another shard; false where its inbox is full.
    pub(super) fn hand_over(&self, to: u16, link: LinkId, bytes: &[u8], meta: Meta) -> bool {
        self.exchange.put(to, link, bytes, meta)
    }

    /// Copies a frame to all other shards; says how many had no room.
    pub(super) fn tell_all(&self, link: LinkId, bytes: &[u8], meta: Meta) -> u64 {
        let others = (0..self.exchange.inboxes.len() as u16).filter(|&shard| shard != self.me);
        others.filter(|&shard| !self.exchange.put(shard, link, bytes, meta)).count() as u64
    }

    /// Whether a frame waits for us.
    pub(super) fn waiting(&self) -> bool {
        self.exchange.waiting(self.me)
    }

    /// Shows the next frame that was handed to us; it leaves the inbox if `take` says so.
    pub(super) fn next(&self, link: LinkId, take: impl FnOnce(&[u8], Meta)) -> bool {
        let links = self.exchange.inboxes.get(usize::from(self.me));
        links.and_then(|links| links.get(usize::from(link.0))).is_some_and(|inbox| inbox.take(take))
    }

    /// A seed that is the same in all shards of the box.
    pub(super) fn seed(&self) -> &[u8; 32] {
        &self.exchange.seed
    }
}

/// Frames of one link that wait for one shard. Any shard may put, only its owner takes.
struct Inbox {
    full: ArrayQueue<Box<Stray>>,
    free: ArrayQueue<Box<Stray>>,
}

struct Stray {
    meta: Meta,
    len: usize,
    bytes: Box<[u8]>,
}

/// Frames in an inbox for frames of `bytes`.
fn frames(bytes: usize) -> usize {
    (INBOX_BYTES / bytes.max(1)).clamp(FRAMES_LEAST, FRAMES_MOST)
}

impl Inbox {
    fn new(frame_bytes: usize) -> Self {
        let count = frames(frame_bytes);
        let inbox = Inbox { full: ArrayQueue::new(count), free: ArrayQueue::new(count) };
        for _ in 0..count {
            let stray =
                Stray { meta: Meta::default(), len: 0, bytes: vec![0; frame_bytes].into_boxed_slice() };
            // As many as there are places.
            let _ = inbox.free.push(Box::new(stray));
        }
        inbox
    }

    fn put(&self, bytes: &[u8], meta: Meta) -> bool {
        let Some(mut stray) = self.free.pop() else { return false };
        let Some(space) = stray.bytes.get_mut(..bytes.len()) else {
            let _ = self.free.push(stray);
            return false;
        };
        space.copy_from_slice(bytes);
        (stray.meta, stray.len) = (meta, bytes.len());
        // There are as many places as buffers.
        self.full.push(stray).is_ok()
    }

    fn take(&self, with: impl FnOnce(&[u8], Meta)) -> bool {
        let Some(stray) = self.full.pop() else { return false };
        with(&stray.bytes[..stray.len], stray.meta);
        let _ = self.free.push(stray);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn exchange(shards: u16) -> Arc<Exchange> {
        let config = ExchangeConfig { shards, flows: 64, frame_bytes: vec![64, 2_048], seed: [3; 32] };
        Exchange::new(&config, Box::new(|_| {}))
    }

    #[test]
    fn frames_arrive_whole_in_order_and_at_their_link() {
        let exchange = exchange(2);
        let (one, other) = (Member::new(exchange.clone(), 0), Member::new(exchange, 1));
        for n in 0..3u8 {
            assert!(one.hand_over(1, LinkId(1), &[n; 100], Meta { segment: n.into(), ..Meta::default() }));
        }
        assert!(other.waiting() && !one.waiting());
        assert!(!other.next(LinkId(0), |_, _| panic!("nothing came by this link")));
        for n in 0..3u8 {
            assert!(other.next(LinkId(1), |bytes, meta| {
                assert_eq!((bytes, meta.segment), (&[n; 100][..], n.into()));
            }));
        }
        assert!(!other.waiting());
    }

    #[test]
    fn a_full_inbox_and_a_frame_that_does_not_fit_are_refused_and_nothing_leaks() {
        let exchange = exchange(2);
        let (one, other) = (Member::new(exchange.clone(), 0), Member::new(exchange, 1));
        for _ in 0..3 {
            assert!(!one.hand_over(1, LinkId(0), &[0; 65], Meta::default()), "larger than the link's frames");
            let count = (0..1_000).filter(|_| one.hand_over(1, LinkId(0), &[1], Meta::default())).count();
            assert_eq!(count, FRAMES_MOST);
            assert_eq!((0..1_000).filter(|_| other.next(LinkId(0), |_, _| {})).count(), FRAMES_MOST);
        }
        assert!(!one.hand_over(7, LinkId(0), &[1], Meta::default()), "no such shard");
    }

    /// Several threads put while one takes: nothing is lost, doubled or torn.
    #[test]
    fn many_put_and_one_takes() {
        const EACH: u64 = 20_000;
        let exchange = exchange(4);
        let (put, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        let mut taken = 0;
        std::thread::scope(|scope| {
            for me in 1..4 {
                let (member, put, refused) = (Member::new(exchange.clone(), me), &put, &refused);
                scope.spawn(move || {
                    for n in 0..EACH {
                        let bytes = [me as u8; 48];
                        let counter =
                            if member.hand_over(0, LinkId(0), &bytes[..1 + n as usize % 48], Meta::default())
                            {
                                put
                            } else {
                                refused
                            };
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let member = Member::new(exchange.clone(), 0);
            let done = || put.load(Ordering::Relaxed) + refused.load(Ordering::Relaxed) == 3 * EACH;
            while !done() || member.waiting() {
                taken += u64::from(member.next(LinkId(0), |bytes, _| {
                    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "torn: {bytes:?}");
                }));
            }
        });
        assert_eq!(taken, put.load(Ordering::Relaxed));
    }

    #[test]
    fn memory_for_sixty_four_shards_is_bounded() {
        let config = ExchangeConfig { shards: 64, flows: 16_384, frame_bytes: vec![2_048; 2], seed: [0; 32] };
        assert!(config.bytes() < 80 << 20, "{}", config.bytes());
    }
}
