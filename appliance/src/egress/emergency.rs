//! When the way out of protected nodes opens by itself, and when it closes again.
//!
//! A state machine without a clock: the time and whether a public node is healthy go in.

use std::time::Duration;

use hedgerow_dataplane::Instant;

use crate::config::egress::Emergency as Rules;

/// What has just happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It has begun: no public node has been healthy for so long.
    Begun(Duration),
    /// A public node has been healthy for so long.
    Recovered(Duration),
    /// It has lasted as long as it may.
    Exhausted(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Since when no public node is healthy.
    Calm(Option<Instant>),
    /// Since when it lasts, and since when a public node is healthy.
    On(Instant, Option<Instant>),
    /// None begins before.
    Cooling(Instant),
}

/// The state. See the [module](self).
#[derive(Debug, Clone)]
pub(super) struct Emergency {
    rules: Rules,
    state: State,
}

impl Emergency {
    /// Calm.
    pub(super) fn new(rules: Rules) -> Emergency {
        Emergency { rules, state: State::Calm(None) }
    }

    /// Whether it lasts.
    pub(super) fn is_on(&self) -> bool {
        matches!(self.state, State::On(..))
    }

    /// In a word, and how long until that must change at the latest.
    pub(super) fn state(&self, now: Instant) -> (&'static str, Option<Duration>) {
        let left = |until: Instant| Some(until.since(now));
        match self.state {
            State::Calm(None) => ("calm", None),
            State::Calm(Some(since)) => ("threatening", left(since + self.rules.after)),
            State::On(since, _) => ("on", left(since + self.rules.at_most)),
            State::Cooling(until) => ("cooling down", left(until)),
        }
    }

    /// Goes on. `healthy`: at least one public node is.
    pub(super) fn step(&mut self, now: Instant, healthy: bool) -> Option<Turn> {
        let Rules { after, hold, at_most, cool_down } = self.rules;
        if matches!(self.state, State::Cooling(until) if until <= now) {
            self.state = State::Calm(None);
        }
        let over = |since: Option<Instant>, time| since.is_some_and(|since| since + time <= now);
        match &mut self.state {
            State::Cooling(_) => None,
            State::Calm(sick) => {
                *sick = if healthy { None } else { sick.or(Some(now)) };
                over(*sick, after).then(|| {
                    self.state = State::On(now, None);
                    Turn::Begun(after)
                })
            }
            State::On(since, well) => {
                *well = if healthy { well.or(Some(now)) } else { None };
                let turn = match (over(*well, hold), over(Some(*since), at_most)) {
                    (true, _) => Turn::Recovered(hold),
                    (_, true) => Turn::Exhausted(at_most),
                    _ => return None,
                };
                self.state = State::Cooling(now + cool_down);
                Some(turn)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        after: Duration::from_secs(60),
        hold: Duration::from_secs(300),
        at_most: Duration::from_secs(3_600),
        cool_down: Duration::from_secs(1_800),
    };

    /// What happens in so many seconds, with the second in which it does.
    fn run(healthy: impl Fn(u64) -> bool, seconds: u64) -> Vec<(u64, Turn)> {
        let mut emergency = Emergency::new(RULES);
        let at = |second| Instant::from_millis(1_000 + 1_000 * second);
        (0..seconds)
            .filter_map(|second| Some((second, emergency.step(at(second), healthy(second))?)))
            .collect()
    }

    #[test]
    fn it_begins_when_no_node_has_been_healthy_for_long_and_ends_when_one_has() {
        let turns = run(|second| !(1_000..2_000).contains(&second), 10_000);
        assert_eq!(turns, [(1_060, Turn::Begun(RULES.after)), (2_300, Turn::Recovered(RULES.hold))]);
    }

    #[test]
    fn a_node_that_comes_and_goes_neither_begins_nor_ends_it() {
        assert_eq!(run(|second| second % 50 == 0, 10_000), []);
        let turns = run(|second| second < 100 || second % 200 < 190, 3_000);
        assert_eq!(turns, [], "never sixty seconds without");
        let turns = run(|second| second > 500 && second % 250 != 0, 3_000);
        assert_eq!(turns, [(60, Turn::Begun(RULES.after))]);
    }

    #[test]
    fn it_ends_after_the_longest_time_and_none_follows_at_once() {
        let turns = run(|_| false, 10_000);
        let begins: Vec<u64> =
            turns.iter().filter(|(_, turn)| matches!(turn, Turn::Begun(_))).map(|(at, _)| *at).collect();
        assert_eq!(begins, [60, 60 + 3_600 + 1_800 + 60]);
        assert_eq!(turns[1], (3_660, Turn::Exhausted(RULES.at_most)));
    }
}
