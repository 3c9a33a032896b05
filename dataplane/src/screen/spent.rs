//! Cookies of flows that are gone: without them a late copy of a ClientHello would open its connection once more, and a
//! peer that missed our reset would not get another.

use core::time::Duration;

use super::cookie::LIFE_MS;
use crate::sip::{Sip13, SipKey};
use crate::time::Instant;
use crate::wire::{FlowKey, Seq};

/// Places that a cookie may take.
const WAYS: usize = 4;

/// Two generations of entries in sets of four: 32 bits of a hash of the 4-tuple, and the cookie. A cookie is found for at
/// least as long as it could pass, because the older generation is forgotten only after that time.
///
/// A 4-tuple that never had a flow is taken for one that did with probability 2^-29 (eight entries), however full the
/// filter is. Where a set is full, one entry in it is forgotten: the worst that follows is a flow without a peer.
pub(super) struct Spent {
    key: SipKey,
    /// The current generation first.
    generations: [Vec<[u64; WAYS]>; 2],
    turns: Instant,
}

impl Spent {
    const LIFE: Duration = Duration::from_millis(LIFE_MS);

    pub(super) fn new(log2: u8, seed: [u8; 16]) -> Self {
        let sets = 1 << log2.clamp(2, 26).saturating_sub(2);
        Spent {
            key: SipKey::new(seed),
            generations: [vec![[0; WAYS]; sets], vec![[0; WAYS]; sets]],
            turns: Instant::ZERO + Self::LIFE,
        }
    }

    pub(super) fn insert(&mut self, now: Instant, flow: &FlowKey, iss: Seq) {
        self.turn(now);
        let (set, print) = self.place(flow);
        let entry = entry(print, iss);
        if let Some(ways) = self.generations[0].get_mut(set) {
            let free = ways.iter().position(|&way| way == 0 || way == entry);
            ways[free.unwrap_or(entry as usize % WAYS)] = entry;
        }
    }

    /// Whether a flow that is gone came of this cookie.
    pub(super) fn contains(&mut self, now: Instant, flow: &FlowKey, iss: Seq) -> bool {
        self.find(now, flow, |print, way| way == entry(print, iss))
    }

    /// Whether a flow that is gone had this 4-tuple, whatever its cookie.
    pub(super) fn knows(&mut self, now: Instant, flow: &FlowKey) -> bool {
        self.find(now, flow, |print, way| (way >> 32) as u32 == print)
    }

    fn find(&mut self, now: Instant, flow: &FlowKey, is: impl Fn(u32, u64) -> bool) -> bool {
        self.turn(now);
        let (set, print) = self.place(flow);
        let ways = self.generations.iter().filter_map(|sets| sets.get(set)).flatten();
        ways.into_iter().any(|&way| is(print, way))
    }

    /// Forgets the older generation when its time has come.
    fn turn(&mut self, now: Instant) {
        if now < self.turns {
            return;
        }
        if now >= self.turns + Self::LIFE {
            self.generations[0].fill([0; WAYS]);
        }
        self.generations.swap(0, 1);
        self.generations[0].fill([0; WAYS]);
        self.turns = now + Self::LIFE;
    }

    /// The set, and a fingerprint that is never zero.
    fn place(&self, flow: &FlowKey) -> (usize, u32) {
        let (remote, local) = (flow.remote.bits(), flow.local.bits());
        let ports = u64::from(flow.remote_port) << 16 | u64::from(flow.local_port);
        let hash = [(remote >> 64) as u64, remote as u64, (local >> 64) as u64, local as u64]
            .iter()
            .fold(Sip13::new(&self.key), |sip, &word| sip.word(word))
            .word(ports)
            .finish(40, 0);
        (hash as usize & (self.generations[0].len() - 1), ((hash >> 32) as u32).max(1))
    }
}

fn entry(print: u32, iss: Seq) -> u64 {
    u64::from(print) << 32 | u64::from(iss.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Address;

    fn flow(port: u16) -> FlowKey {
        let address = |last| Address::from_v4([192, 0, 2, last]);
        FlowKey { local: address(1), remote: address(2), local_port: 8444, remote_port: port }
    }

    #[test]
    fn a_cookie_is_remembered_for_as_long_as_it_passes_and_then_forgotten() {
        for start in [0, 1, 100_000, 127_999, 128_000, 300_000] {
            let mut spent = Spent::new(8, [1; 16]);
            let at = |later| Instant::from_millis(start + later);
            assert!(!spent.contains(at(0), &flow(1), Seq(5)));
            spent.insert(at(0), &flow(1), Seq(5));
            for later in [0, 1, 60_000, LIFE_MS - 1] {
                assert!(spent.contains(at(later), &flow(1), Seq(5)), "{start} + {later}");
                assert!(!spent.contains(at(later), &flow(1), Seq(6)));
                assert!(!spent.contains(at(later), &flow(2), Seq(5)));
                assert!(spent.knows(at(later), &flow(1)) && !spent.knows(at(later), &flow(2)));
            }
            assert!(!spent.contains(at(3 * LIFE_MS), &flow(1), Seq(5)));
            assert!(!spent.knows(at(3 * LIFE_MS), &flow(1)));
        }
    }

    #[test]
    fn an_overfull_filter_forgets_but_does_not_invent() {
        let mut spent = Spent::new(8, [1; 16]);
        for port in 1..=2_000 {
            spent.insert(Instant::ZERO, &flow(port), Seq(5));
        }
        let found = |spent: &mut Spent, iss| {
            (1..=2_000).filter(|&port| spent.contains(Instant::ZERO, &flow(port), Seq(iss))).count()
        };
        assert!((250..=256).contains(&found(&mut spent, 5)), "{}", found(&mut spent, 5));
        assert_eq!(found(&mut spent, 6), 0);
    }
}
