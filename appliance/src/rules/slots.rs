//! How many sessions of each kind a listener has at one time, and who holds them.
//!
//! Friends' slots are theirs alone: they count against no kind, and what others of a pool may take leaves room for them.
//! A host asks at the moment at which a peer has said what it is, before its pool is asked for a node.

use std::collections::BTreeMap;

use hedgerow_policy::chia::NodeType;

/// Slots of one listener; `None`: as many as the pool has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slots {
    /// By kind.
    pub kinds: BTreeMap<NodeType, usize>,
    /// Kept for friends.
    pub friends: usize,
}

/// Whose slot a session holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A friend's, whatever its kind.
    Friend,
    /// One of its kind.
    Kind(NodeType),
}

/// Slots that are held, of the whole appliance.
#[derive(Debug, Clone, Default)]
pub struct Ledger(BTreeMap<(usize, Class), usize>);

impl Ledger {
    /// Takes a slot at a listener; false if there is none. `pool`: its listeners, and how many sessions it has room for.
    pub fn take(&mut self, slots: &[Slots], listener: usize, class: Class, pool: (&[usize], usize)) -> bool {
        let standard = Slots::default();
        let of = |listener: usize| slots.get(listener).unwrap_or(&standard);
        let held = self.held(listener, class);
        let fits = match class {
            Class::Friend => true,
            Class::Kind(kind) => {
                let (listeners, room) = pool;
                let kept: usize = listeners
                    .iter()
                    .map(|&listener| of(listener).friends.saturating_sub(self.held(listener, Class::Friend)))
                    .sum();
                let taken: usize =
                    self.0.iter().filter(|((at, _), _)| listeners.contains(at)).map(|(_, held)| held).sum();
                of(listener).kinds.get(&kind).is_none_or(|&most| held < most) && taken + kept < room
            }
        };
        if fits {
            *self.0.entry((listener, class)).or_default() += 1;
        }
        fits
    }

    /// Gives one back.
    pub fn give(&mut self, listener: usize, class: Class) {
        if let Some(held) = self.0.get_mut(&(listener, class)) {
            *held -= 1;
            if *held == 0 {
                self.0.remove(&(listener, class));
            }
        }
    }

    /// Slots that a class holds at a listener.
    pub fn held(&self, listener: usize, class: Class) -> usize {
        self.0.get(&(listener, class)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALLET: Class = Class::Kind(NodeType::Wallet);
    const NODE: Class = Class::Kind(NodeType::FullNode);

    #[test]
    fn kinds_have_slots_of_their_own_and_friends_always_find_one() {
        let slots = [Slots { kinds: [(NodeType::Wallet, 2)].into(), friends: 3 }, Slots::default()];
        let mut ledger = Ledger::default();
        let pool: (&[usize], usize) = (&[0, 1], 10);
        let mut take = |listener, class| ledger.take(&slots, listener, class, pool);
        assert!(take(0, WALLET) && take(0, WALLET) && !take(0, WALLET));
        // Another listener of the pool has its own; together they leave three of ten to friends.
        assert!((0..3).all(|_| take(1, WALLET)));
        assert!(take(0, NODE) && take(0, NODE) && !take(0, NODE) && !take(1, NODE));
        assert!((0..3).all(|_| take(0, Class::Friend)));
        ledger.give(0, WALLET);
        assert!(ledger.take(&slots, 0, NODE, pool) && !ledger.take(&slots, 0, NODE, pool));
        assert_eq!((ledger.held(0, Class::Friend), ledger.held(0, WALLET)), (3, 1));
    }
}
