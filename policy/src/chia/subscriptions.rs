//! How many puzzle hashes and coins a peer has asked a node to tell it of: what a node remembers for it.
//!
//! A node counts each one once, and takes no more of them than its `max_subscribe_items` (200,000). Here each mention counts, since
//! remembering them would cost the memory that is to be spared; what is taken back is taken off.

use super::message::Envelope;
use super::number;

/// Bytes of a hash, and of what stands around lists of them: the count, the smallest height, the answer's wishes.
const HASH: u32 = 32;
const REGISTRATION: u32 = 4 + 4;
const REMOVAL: u32 = 1 + 4;
const COIN_STATE: u32 = 4 + 1 + 32 + 1;
const PUZZLE_STATE: u32 = COIN_STATE + 11;

/// What a session's peer has registered for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Subscriptions {
    puzzles: u64,
    coins: u64,
}

impl Subscriptions {
    /// All of them.
    pub(super) fn count(self) -> u64 {
        self.puzzles + self.coins
    }

    /// Notes a whole message of the peer's, which ends with the byte `last`; how many it adds.
    pub(super) fn note(&mut self, envelope: &Envelope, last: u8) -> u64 {
        let hashes = |around: u32| u64::from(envelope.body.saturating_sub(around) / HASH);
        // Requests for states subscribe where their last field says so.
        let wanted = |around| if last == 1 { hashes(around) } else { 0 };
        let (puzzles, coins) = match envelope.kind {
            number::REGISTER_FOR_PH_UPDATES => (hashes(REGISTRATION), 0),
            number::REGISTER_FOR_COIN_UPDATES => (0, hashes(REGISTRATION)),
            number::REQUEST_PUZZLE_STATE => (wanted(PUZZLE_STATE), 0),
            number::REQUEST_COIN_STATE => (0, wanted(COIN_STATE)),
            number::REQUEST_REMOVE_PUZZLE_SUBSCRIPTIONS => {
                self.puzzles = remove(self.puzzles, envelope, hashes(REMOVAL));
                return 0;
            }
            number::REQUEST_REMOVE_COIN_SUBSCRIPTIONS => {
                self.coins = remove(self.coins, envelope, hashes(REMOVAL));
                return 0;
            }
            _ => return 0,
        };
        self.puzzles += puzzles;
        self.coins += coins;
        puzzles + coins
    }
}

/// What is left of `count`; without a list all is taken back.
fn remove(count: u64, envelope: &Envelope, hashes: u64) -> u64 {
    if envelope.body < REMOVAL { 0 } else { count.saturating_sub(hashes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(subscriptions: &mut Subscriptions, kind: u8, body: u32, last: u8) -> (u64, u64) {
        let added = subscriptions.note(&Envelope { kind, id: Some(1), body }, last);
        (added, subscriptions.count())
    }

    #[test]
    fn each_way_to_subscribe_counts_and_removals_are_taken_off() {
        let mut all = Subscriptions::default();
        assert_eq!(note(&mut all, number::REGISTER_FOR_PH_UPDATES, 4 + 3 * 32 + 4, 9), (3, 3));
        assert_eq!(note(&mut all, number::REGISTER_FOR_COIN_UPDATES, 4 + 2 * 32 + 4, 0), (2, 5));
        for height in [0, 4] {
            let (puzzle, coin) = (4 + 5 * 32 + 1 + height + 32 + 11 + 1, 4 + 7 * 32 + 1 + height + 32 + 1);
            let before = all.count();
            assert_eq!(note(&mut all, number::REQUEST_PUZZLE_STATE, puzzle, 0), (0, before));
            assert_eq!(note(&mut all, number::REQUEST_PUZZLE_STATE, puzzle, 1), (5, before + 5));
            assert_eq!(note(&mut all, number::REQUEST_COIN_STATE, coin, 0), (0, before + 5));
            assert_eq!(note(&mut all, number::REQUEST_COIN_STATE, coin, 1), (7, before + 12));
        }
        assert_eq!(all.count(), 29);
        assert_eq!(note(&mut all, number::REQUEST_REMOVE_COIN_SUBSCRIPTIONS, 1 + 4 + 6 * 32, 0), (0, 23));
        assert_eq!(note(&mut all, number::REQUEST_REMOVE_PUZZLE_SUBSCRIPTIONS, 1, 0), (0, 10));
        assert_eq!(note(&mut all, number::REQUEST_REMOVE_COIN_SUBSCRIPTIONS, 1, 0), (0, 0));
        assert_eq!(note(&mut all, number::REQUEST_BLOCK, 5, 1), (0, 0));
    }
}
