//! How a node is, judged by what Hedgerow's own light peer sees of it, against what it sees of the other nodes.
//!
//! A state machine without clock or sockets: facts and time go in, a [`Condition`] comes out. Nothing that strangers do is
//! among the facts. A chain that stands still is no outage: only nodes that fall behind others are behind. A condition
//! changes once its cause has lasted, so that a node does not flap; a node that is gone is known at once.

use std::collections::VecDeque;
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_policy::gate::light::{Peak, Sighting};
use serde::{Deserialize, Serialize};

/// Blocks that a node may be behind the heaviest peak: about a minute and a half of the chain, a long block included.
pub const IN_SYNC: u32 = 5;
/// Blocks behind from which a node is syncing rather than late.
pub const SYNCING: u32 = 300;
/// A light peer's request that takes longer is slow. A healthy node answers in milliseconds.
pub const SLOW: Duration = Duration::from_millis(1_500);
/// Slow replies in a row that count.
const SLOW_REPLIES: u32 = 3;
/// How long a cause must last before a condition gets worse.
const WORSENS: Duration = Duration::from_secs(10);
/// How long it must be gone before a condition gets better.
const RECOVERS: Duration = Duration::from_secs(5);
/// How long a node that was just met has to tell its peak.
const INTRODUCES: Duration = Duration::from_secs(3);
/// How long peaks must differ before that is a fork: reorganisations of a block or two are daily life.
const FORKS: Duration = Duration::from_secs(60);
/// Peaks of a node that are remembered.
const PEAKS: usize = 32;

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// No light peer looks at it: its pool does not speak Chia.
    Unwatched,
    /// The light peer has not seen it yet.
    #[default]
    Unknown,
    /// In sync, and it answers.
    Up,
    /// It answers slowly, or not as a node should.
    Degraded,
    /// Behind the others, or on a lighter fork.
    Lagging,
    /// Far behind, or it has no peak though others have.
    Syncing,
    /// It cannot be reached.
    Down,
}

impl Condition {
    /// In status and events.
    pub const fn name(self) -> &'static str {
        match self {
            Condition::Unwatched => "unwatched",
            Condition::Unknown => "unknown",
            Condition::Up => "up",
            Condition::Degraded => "degraded",
            Condition::Lagging => "lagging",
            Condition::Syncing => "syncing",
            Condition::Down => "down",
        }
    }
}

/// How the light peer's last attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Its connection could not be made, or broke.
    Unreachable,
    /// The node is there, and does not treat it as a peer: TLS, upgrade or handshake failed, or it was closed.
    Refused,
}

/// What is known about one node.
#[derive(Debug, Clone, Default)]
pub struct Health {
    condition: Condition,
    /// What the facts say instead, and since when.
    turning: Option<(Condition, Instant)>,
    /// Since when the light peer's session stands.
    open: Option<Instant>,
    /// Attempts in a row that failed, and how the last one ended.
    losses: u32,
    lost: Option<Loss>,
    peak: Option<(Peak, Instant)>,
    /// By height, the latest last.
    peaks: VecDeque<Peak>,
    reply: Option<Duration>,
    slow: u32,
    /// Since when its chain differs from the heaviest.
    apart: Option<Instant>,
}

/// The heaviest peak that any node of a pool holds.
#[derive(Debug, Clone, Copy)]
pub struct Best {
    /// Whose it is.
    pub node: usize,
    /// The peak.
    pub peak: Peak,
}

impl Health {
    /// A node that nobody looks at.
    pub fn unwatched() -> Health {
        Health { condition: Condition::Unwatched, ..Health::default() }
    }

    /// How the node is.
    pub fn condition(&self) -> Condition {
        self.condition
    }

    /// The light peer has just lost it: whoever has a choice goes elsewhere, before its condition has changed.
    pub fn is_suspect(&self) -> bool {
        self.lost.is_some()
    }

    /// Its peak, and when it came.
    pub fn peak(&self) -> Option<(Peak, Instant)> {
        self.peak
    }

    /// How long the light peer's last request took.
    pub fn reply(&self) -> Option<Duration> {
        self.reply
    }

    /// Whether it follows another chain than the heaviest.
    pub fn is_forked(&self, now: Instant) -> bool {
        self.apart.is_some_and(|since| now.since(since) >= FORKS)
    }

    /// The light peer has seen something.
    pub fn saw(&mut self, now: Instant, sighting: Sighting) {
        match sighting {
            Sighting::Ready => {
                (self.open, self.losses, self.lost, self.slow) = (Some(now), 0, None, 0);
            }
            Sighting::Peak(peak) => {
                self.peak = Some((peak, now));
                // A reorganisation takes heights back.
                self.peaks.retain(|former| former.height < peak.height);
                self.peaks.push_back(peak);
                if self.peaks.len() > PEAKS {
                    self.peaks.pop_front();
                }
            }
            Sighting::Reply(time) => {
                self.reply = Some(time);
                self.slow = if time >= SLOW { self.slow + 1 } else { 0 };
            }
        }
    }

    /// The light peer's session or attempt is over.
    pub fn lost(&mut self, loss: Loss) {
        self.open = None;
        self.losses = self.losses.saturating_add(1);
        self.lost = Some(loss);
        self.slow = 0;
    }

    /// The peak that counts for the others: that of a node which is there.
    pub fn holds(&self) -> Option<Peak> {
        self.peak.filter(|_| self.open.is_some()).map(|(peak, _)| peak)
    }

    /// Judges the node against the heaviest peak of the pool; the new condition where it has changed.
    pub fn judge(&mut self, now: Instant, best: Option<(Best, &[Peak])>, own: bool) -> Option<Condition> {
        if self.condition == Condition::Unwatched {
            return None;
        }
        self.compare(now, best.filter(|_| !own).map(|(_, peaks)| peaks));
        let facts = self.facts(now, best.map(|(best, _)| best.peak));
        if facts == self.condition {
            self.turning = None;
            return None;
        }
        let since = match self.turning {
            Some((turning, since)) if turning == facts => since,
            _ => now,
        };
        self.turning = Some((facts, since));
        if now.since(since) < hold(self.condition, facts) {
            return None;
        }
        self.turning = None;
        self.condition = facts;
        Some(facts)
    }

    /// Its latest peaks, by height.
    pub fn peaks(&self) -> Vec<Peak> {
        self.peaks.iter().copied().collect()
    }

    /// What the facts say now.
    fn facts(&self, now: Instant, best: Option<Peak>) -> Condition {
        let Some(open) = self.open else {
            return match (self.lost, self.losses) {
                (None, _) => self.condition,
                // One loss may be a restart, or a hand that slipped; the next attempt follows at once.
                (Some(_), 0..2) => self.condition,
                (Some(Loss::Unreachable), _) => Condition::Down,
                (Some(Loss::Refused), _) => Condition::Degraded,
            };
        };
        let behind = match (self.peak, best) {
            (_, None) => 0,
            (None, Some(_)) if now.since(open) < INTRODUCES => return self.condition,
            (None, Some(_)) => u32::MAX,
            (Some((own, _)), Some(best)) => best.height.saturating_sub(own.height),
        };
        match behind {
            SYNCING.. => Condition::Syncing,
            behind if behind > IN_SYNC || self.is_forked(now) => Condition::Lagging,
            _ if self.slow >= SLOW_REPLIES => Condition::Degraded,
            _ => Condition::Up,
        }
    }

    /// Notes whether its chain differs from the heaviest at the highest block that both have told.
    fn compare(&mut self, now: Instant, heaviest: Option<&[Peak]>) {
        let differs = heaviest.is_some_and(|heaviest| {
            let common = self.peaks.iter().rev().find_map(|own| {
                heaviest.iter().find(|other| other.height == own.height).map(|other| (own, other))
            });
            common.is_some_and(|(own, other)| own.hash != other.hash)
        });
        self.apart = differs.then(|| self.apart.unwrap_or(now)).filter(|_| self.open.is_some());
    }
}

/// How long facts must stay the same before the condition follows.
fn hold(from: Condition, to: Condition) -> Duration {
    match (from, to) {
        // Two attempts have failed, or nothing was known.
        (_, Condition::Down) | (Condition::Unknown, _) => Duration::ZERO,
        (from, to) if to > from => WORSENS,
        _ => RECOVERS,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1_000)
    }

    fn peak(height: u32, chain: u8) -> Peak {
        Peak { hash: [chain; 32], height, weight: u128::from(height) * 1_000 }
    }

    /// The second is judged against the first's peaks.
    fn judge(one: &mut Health, two: &mut Health, now: Instant) -> (Condition, Condition) {
        let peaks = one.peaks();
        let best = one.holds().map(|peak| (Best { node: 0, peak }, peaks.as_slice()));
        one.judge(now, best, true);
        two.judge(now, best, false);
        (one.condition(), two.condition())
    }

    fn met(now: Instant, height: u32) -> Health {
        let mut health = Health::default();
        health.saw(now, Sighting::Ready);
        health.saw(now, Sighting::Peak(peak(height, 1)));
        health
    }

    #[test]
    fn a_stalled_chain_is_no_outage_and_a_node_that_falls_behind_is() {
        let (mut one, mut two) = (met(at(0), 100), met(at(0), 100));
        assert_eq!(judge(&mut one, &mut two, at(0)), (Condition::Up, Condition::Up));
        assert_eq!(judge(&mut one, &mut two, at(7_200)), (Condition::Up, Condition::Up));
        for height in 101..=110 {
            one.saw(at(7_200), Sighting::Peak(peak(height, 1)));
        }
        assert_eq!(judge(&mut one, &mut two, at(7_201)), (Condition::Up, Condition::Up), "not at once");
        assert_eq!(judge(&mut one, &mut two, at(7_211)), (Condition::Up, Condition::Lagging));
        one.saw(at(7_212), Sighting::Peak(peak(1_000, 1)));
        judge(&mut one, &mut two, at(7_212));
        assert_eq!(judge(&mut one, &mut two, at(7_222)), (Condition::Up, Condition::Syncing));
        two.saw(at(7_223), Sighting::Peak(peak(1_000, 1)));
        judge(&mut one, &mut two, at(7_223));
        assert_eq!(judge(&mut one, &mut two, at(7_228)), (Condition::Up, Condition::Up));
    }

    #[test]
    fn a_node_without_a_peak_is_syncing_only_if_another_has_one() {
        let (mut one, mut two) = (Health::default(), Health::default());
        one.saw(at(0), Sighting::Ready);
        two.saw(at(0), Sighting::Ready);
        assert_eq!(judge(&mut one, &mut two, at(10)), (Condition::Up, Condition::Up));
        one.saw(at(10), Sighting::Peak(peak(5, 1)));
        judge(&mut one, &mut two, at(20));
        assert_eq!(judge(&mut one, &mut two, at(30)), (Condition::Up, Condition::Syncing));
    }

    #[test]
    fn one_loss_makes_a_node_suspect_and_two_bring_it_down() {
        let (mut one, mut two) = (met(at(0), 100), met(at(0), 100));
        judge(&mut one, &mut two, at(0));
        two.lost(Loss::Unreachable);
        assert_eq!(judge(&mut one, &mut two, at(1)).1, Condition::Up);
        assert!(two.is_suspect() && !one.is_suspect());
        two.lost(Loss::Unreachable);
        assert_eq!(judge(&mut one, &mut two, at(1)).1, Condition::Down);
        two.saw(at(2), Sighting::Ready);
        assert_eq!(judge(&mut one, &mut two, at(2)).1, Condition::Down, "it must last");
        assert_eq!(judge(&mut one, &mut two, at(7)).1, Condition::Up);
    }

    #[test]
    fn slow_replies_degrade_once_they_have_lasted_and_one_quick_one_is_a_beginning() {
        let (mut one, mut two) = (met(at(0), 100), met(at(0), 100));
        judge(&mut one, &mut two, at(0));
        for _ in 0..SLOW_REPLIES {
            two.saw(at(1), Sighting::Reply(SLOW));
        }
        assert_eq!(judge(&mut one, &mut two, at(1)).1, Condition::Up);
        assert_eq!(judge(&mut one, &mut two, at(11)).1, Condition::Degraded);
        two.saw(at(12), Sighting::Reply(Duration::from_millis(3)));
        assert_eq!(judge(&mut one, &mut two, at(12)).1, Condition::Degraded);
        assert_eq!(judge(&mut one, &mut two, at(17)).1, Condition::Up);
    }

    #[test]
    fn a_fork_shows_after_a_minute_and_a_reorganisation_does_not() {
        let (mut one, mut two) = (met(at(0), 100), met(at(0), 100));
        judge(&mut one, &mut two, at(0));
        one.saw(at(1), Sighting::Peak(peak(101, 1)));
        two.saw(at(1), Sighting::Peak(peak(101, 2)));
        judge(&mut one, &mut two, at(1));
        assert_eq!(judge(&mut one, &mut two, at(60)).1, Condition::Up);
        let mut healed = two.clone();
        healed.saw(at(60), Sighting::Peak(peak(101, 1)));
        judge(&mut one, &mut healed, at(70));
        assert!(!healed.is_forked(at(120)));
        judge(&mut one, &mut two, at(61));
        assert!(two.is_forked(at(61)));
        assert_eq!(judge(&mut one, &mut two, at(72)).1, Condition::Lagging);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Saw(u8),
        Peak(u32),
        Lost(bool),
        Wait(u64),
    }

    proptest! {
        /// Whatever happens in whatever order: a condition never changes to anything worse than down for what has not lasted,
        /// a node without a session is never newly up, and what is remembered stays bounded.
        #[test]
        fn conditions_follow_facts(steps in proptest::collection::vec(prop_oneof![
            (0u8..3).prop_map(Step::Saw),
            (0u32..2_000).prop_map(Step::Peak),
            any::<bool>().prop_map(Step::Lost),
            (1u64..20).prop_map(Step::Wait),
        ], 1..200)) {
            let (mut one, mut two) = (met(at(0), 1_000), Health::default());
            let mut now = 0;
            for step in steps {
                let before = two.condition();
                match step {
                    Step::Saw(0) => two.saw(at(now), Sighting::Ready),
                    Step::Saw(n) => two.saw(at(now), Sighting::Reply(SLOW * u32::from(n - 1))),
                    Step::Peak(height) => two.saw(at(now), Sighting::Peak(peak(height, 1))),
                    Step::Lost(there) => two.lost(if there { Loss::Refused } else { Loss::Unreachable }),
                    Step::Wait(seconds) => now += seconds,
                }
                judge(&mut one, &mut two, at(now));
                let after = two.condition();
                prop_assert!(after != Condition::Up || before == Condition::Up || two.open.is_some());
                prop_assert!(after == before || after == Condition::Down || before == Condition::Unknown
                    || matches!(step, Step::Wait(seconds) if seconds > 0) || two.turning.is_none());
                prop_assert!(two.peaks.len() <= PEAKS);
                prop_assert!(two.peaks.iter().zip(two.peaks.iter().skip(1)).all(|(a, b)| a.height < b.height));
            }
        }
    }
}
