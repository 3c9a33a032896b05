//! The highest block that any node of a pool knows, and requests for what lies far above it: for what does not exist.
//!
//! A node says no to such a request at little cost, so they pass, and only very many of them are a reason. Nothing is judged
//! while no node's peak is known, and what our node has told the peer of a higher peak counts as much as what a pool knows.

use core::sync::atomic::{AtomicU64, Ordering};

use super::messages::number;

/// Blocks above the highest that is known from which a height counts as one that does not exist: an hour and a half of the
/// chain, more than the news of a peak is ever late and more than a reorganisation takes back.
pub const HEIGHT_MARGIN: u32 = 300;

/// Requests beyond it that a session may send before more of them are a [`Reason`](crate::Reason).
pub const BEYOND_PEAK_MAX: u64 = 16;

/// The height of the highest block that a pool's nodes know, shared by the host that watches the nodes and all sessions with
/// them.
#[derive(Debug, Default)]
pub struct KnownPeak(AtomicU64);

impl KnownPeak {
    /// The host knows it, or knows it no longer: then no height is judged.
    pub fn set(&self, height: Option<u32>) {
        // Zero is for none.
        self.0.store(height.map_or(0, |height| u64::from(height) + 1), Ordering::Relaxed);
    }

    /// The height, where it is known.
    pub fn get(&self) -> Option<u32> {
        self.0.load(Ordering::Relaxed).checked_sub(1).map(|height| height as u32)
    }
}

/// Finds the height in a body that comes in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HeightScan {
    /// Bytes of the body until the height's last one is in; `None`: nothing is looked for, or it is found.
    left: Option<u32>,
    value: u32,
}

impl HeightScan {
    /// A body begins, whose height begins at this byte.
    pub(super) fn begin(&mut self, at: Option<u32>) {
        *self = HeightScan { left: at.map(|at| at + 4), value: 0 };
    }

    /// The next piece; the height, once, with the piece that completes it.
    #[inline]
    pub(super) fn take(&mut self, piece: &[u8]) -> Option<u32> {
        let left = self.left? as usize;
        let piece = &piece[..piece.len().min(left)];
        let digits = &piece[left.saturating_sub(4).min(piece.len())..];
        self.value = digits.iter().fold(self.value, |value, &digit| value << 8 | u32::from(digit));
        let left = left - piece.len();
        self.left = (left > 0).then_some(left as u32);
        (left == 0).then_some(self.value)
    }
}

/// What one session knows of heights.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heights {
    /// In the peer's message under way.
    asked: HeightScan,
    /// In the node's.
    said: HeightScan,
    /// What the peer's request under way is for.
    pub(super) wanted: Option<u32>,
    /// The highest peak that the node has told the peer.
    told: u32,
}

impl Heights {
    /// A message of the peer's begins, whose height is at this byte; `None`: it asks for none.
    pub(super) fn ask(&mut self, at: Option<u32>) {
        self.asked.begin(at);
        self.wanted = None;
    }

    /// A piece of its body.
    #[inline]
    pub(super) fn asking(&mut self, piece: &[u8]) {
        if let Some(height) = self.asked.take(piece) {
            self.wanted = Some(height);
        }
    }

    /// A message of the node's begins, whose height is at this byte.
    pub(super) fn say(&mut self, kind: u8, at: Option<u32>) {
        self.said.begin(at.filter(|_| matches!(kind, number::NEW_PEAK | number::NEW_PEAK_WALLET)));
    }

    /// A piece of its body.
    #[inline]
    pub(super) fn saying(&mut self, piece: &[u8]) {
        if let Some(height) = self.said.take(piece) {
            self.told = self.told.max(height);
        }
    }

    /// The height that is asked for and the highest that is known, where the one lies far above the other.
    pub(super) fn beyond(&self, known: Option<u32>) -> Option<(u32, u32)> {
        let (wanted, known) = (self.wanted?, known?.max(self.told));
        (wanted > known.saturating_add(HEIGHT_MARGIN)).then_some((wanted, known))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_peak_is_known_or_not() {
        let peak = KnownPeak::default();
        for height in [None, Some(0), Some(7), Some(u32::MAX), None] {
            peak.set(height);
            assert_eq!(peak.get(), height);
        }
    }

    #[test]
    fn only_what_lies_beyond_the_margin_of_the_highest_counts() {
        let mut heights = Heights::default();
        let ask = |heights: &mut Heights, height: u32| {
            heights.ask(Some(0));
            heights.asking(&height.to_be_bytes());
        };
        let edge = 1_000 + HEIGHT_MARGIN;
        ask(&mut heights, edge);
        assert_eq!(heights.beyond(Some(1_000)), None);
        ask(&mut heights, edge + 1);
        assert_eq!((heights.beyond(Some(1_000)), heights.beyond(None)), (Some((edge + 1, 1_000)), None));
        assert_eq!(heights.beyond(Some(u32::MAX)), None);
        // The node's own word, whatever else it says.
        heights.say(number::RESPOND_BLOCK, Some(0));
        heights.saying(&u32::MAX.to_be_bytes());
        heights.say(number::NEW_PEAK, Some(0));
        heights.saying(&1_001u32.to_be_bytes());
        assert_eq!((heights.beyond(Some(1_000)), heights.told), (None, 1_001));
        // A message without a height leaves none behind.
        ask(&mut heights, edge + 2);
        heights.ask(None);
        assert_eq!(heights.beyond(Some(1_000)), None);
    }

    proptest! {
        #[test]
        fn a_height_is_found_in_any_cutting(
            body in proptest::collection::vec(any::<u8>(), 4..80),
            at in 0usize..76,
            cuts in proptest::collection::vec(0usize..20, 0..30),
        ) {
            let at = at.min(body.len() - 4);
            let mut scan = HeightScan::default();
            scan.begin(Some(at as u32));
            let (mut rest, mut found) = (&body[..], None);
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                rest = after;
                if let Some(height) = scan.take(piece) {
                    prop_assert_eq!(found.replace(height), None);
                }
            }
            prop_assert_eq!(found, body[at..at + 4].try_into().ok().map(u32::from_be_bytes));
        }
    }
}
