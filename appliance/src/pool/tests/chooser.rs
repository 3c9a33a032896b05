//! Whatever happens to nodes and sessions, in whatever order: who is dialled may serve and is the least busy of the best,
//! nobody waits beside a node that could serve or for longer than patience lasts, and no slot is lost.

use std::time::Duration;

use hedgerow_policy::DialFailure;
use hedgerow_policy::gate::light::Sighting;
use proptest::prelude::*;

use super::super::duty::Unchanged;
use super::super::health::{Condition, Loss};
use super::super::node::{Duty, Role};
use super::super::{Answer, Caller, PATIENCE, Pool, Stage, Wish};
use super::{START, caller, peak, pool, ticket};

const NODES: usize = 4;

#[derive(Debug, Clone)]
enum Step {
    Ask {
        backend: bool,
    },
    /// The oldest dial under way ends.
    Dialled {
        works: bool,
    },
    /// The session that is so many places from the oldest leaves.
    Leaves(usize),
    Ready(usize),
    Peak(usize, u32),
    Lost(usize),
    Drain(usize),
    Undrain(usize),
    Weigh(usize, u32),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..NODES;
    prop_oneof![
        6 => any::<bool>().prop_map(|backend| Step::Ask { backend }),
        5 => any::<bool>().prop_map(|works| Step::Dialled { works }),
        2 => (0..8usize).prop_map(Step::Leaves),
        2 => node.clone().prop_map(Step::Ready),
        2 => (node.clone(), 90..500u32).prop_map(|(node, height)| Step::Peak(node, height)),
        1 => node.clone().prop_map(Step::Lost),
        1 => node.clone().prop_map(Step::Drain),
        1 => node.clone().prop_map(Step::Undrain),
        1 => (node, 1..9u32).prop_map(|(node, weight)| Step::Weigh(node, weight)),
        3 => (1..8_000u64).prop_map(Step::Wait),
    ]
}

/// A pool, its sessions in the order in which they came, and what the time is.
struct Play {
    pool: Pool,
    sessions: Vec<(Caller, Stage, Option<Wish>)>,
    now: hedgerow_dataplane::Instant,
    asked: u32,
}

impl Play {
    /// Two public nodes, one protected, one hidden; a pace that never binds.
    fn new() -> Play {
        let mut config = pool(NODES as u8, 100_000).config.clone();
        config.watched = true;
        config.nodes[2].role = Role::Protected;
        config.nodes[3].role = Role::Hidden;
        let mut pool = Pool::new(config, START);
        for node in 0..NODES {
            pool.saw(START, node, Sighting::Ready);
            pool.saw(START, node, peak(100));
        }
        Play { pool, sessions: Vec::new(), now: START, asked: 0 }
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let now = self.now;
        match *step {
            Step::Ask { backend } => {
                self.asked += 1;
                let caller = Caller { backend, ..caller(ticket(self.asked), None, true) };
                let answer = self.pool.ask(now, caller);
                self.answered(answer, caller)?;
            }
            Step::Dialled { works } => self.dialled(works)?,
            Step::Leaves(place) if place < self.sessions.len() => {
                let (caller, stage, _) = self.sessions.remove(place);
                self.pool.leave(START, &caller, stage);
            }
            Step::Leaves(_) => {}
            Step::Ready(node) => self.pool.saw(now, node, Sighting::Ready),
            Step::Peak(node, height) => self.pool.saw(now, node, peak(height)),
            Step::Lost(node) => self.pool.lost(now, node, Loss::Unreachable),
            Step::Drain(node) => prop_assert_eq!(self.pool.drain(now, &node.to_string(), None), Ok(())),
            Step::Undrain(node) => {
                let serves = self.pool.nodes[node].duty == Duty::Serving;
                let expected = if serves { Err(Unchanged::Serving(node.to_string())) } else { Ok(()) };
                prop_assert_eq!(self.pool.undrain(now, &node.to_string()), expected);
            }
            Step::Weigh(node, weight) => {
                prop_assert_eq!(self.pool.weigh(&node.to_string(), weight), Ok(()));
            }
            Step::Wait(millis) => {
                self.now = now + Duration::from_millis(millis);
                self.pool.judge(self.now);
            }
        }
        self.poll()
    }

    fn dialled(&mut self, works: bool) -> Result<(), TestCaseError> {
        let dialling = self.sessions.iter().position(|(_, stage, _)| matches!(stage, Stage::Dialling(_)));
        let Some(place) = dialling else { return Ok(()) };
        let (caller, Stage::Dialling(node), Some(wish)) = self.sessions.remove(place) else {
            return Err(TestCaseError::fail("a dial without a wish"));
        };
        if works {
            prop_assert!(self.pool.connected(node, caller.backend).is_some());
            self.sessions.push((caller, Stage::Connected(node), None));
            return Ok(());
        }
        let answer = self.pool.failed(self.now, wish, node);
        self.answered(answer, caller)
    }

    fn poll(&mut self) -> Result<(), TestCaseError> {
        while let Some(answer) = self.pool.poll(self.now, 0) {
            let ticket = match answer {
                Answer::Dial(wish, _) => wish.caller.ticket,
                Answer::Refused(ticket, _) => ticket,
                Answer::Queued => return Err(TestCaseError::fail("queued again")),
            };
            let place = self.sessions.iter().position(|(caller, ..)| caller.ticket == ticket);
            let Some(place) = place else { return Err(TestCaseError::fail("who left was answered")) };
            let (caller, stage, _) = self.sessions.remove(place);
            prop_assert_eq!(stage, Stage::Queued);
            // A node may be up again at the very look at which patience is over.
            if !matches!(answer, Answer::Refused(_, DialFailure::Busy)) {
                self.answered(answer, caller)?;
            }
        }
        for queue in &self.pool.queues {
            for wish in queue {
                prop_assert!(self.now.since(wish.since) < PATIENCE, "{:?} waits too long", wish);
                prop_assert_eq!(self.pool.best(self.now, wish), None, "{:?} waits for nothing", wish);
            }
        }
        Ok(())
    }

    fn answered(&mut self, answer: Answer, caller: Caller) -> Result<(), TestCaseError> {
        match answer {
            Answer::Queued => self.sessions.push((caller, Stage::Queued, None)),
            Answer::Dial(wish, node) => {
                self.is_rightly_chosen(&wish, node)?;
                self.sessions.push((caller, Stage::Dialling(node), Some(wish)));
            }
            Answer::Refused(ticket, why) => {
                prop_assert_eq!(ticket, caller.ticket);
                prop_assert_eq!(why, DialFailure::NoNode, "neither pace nor slots are short");
            }
        }
        Ok(())
    }

    fn is_rightly_chosen(&mut self, wish: &Wish, node: usize) -> Result<(), TestCaseError> {
        let (now, backend) = (self.now, wish.caller.backend);
        let chosen = &mut self.pool.nodes[node];
        chosen.dialling -= 1;
        let load = chosen.load(now);
        chosen.dialling += 1;
        let chosen = &self.pool.nodes[node];
        prop_assert_eq!(wish.tried & 1 << node, 0, "tried already");
        prop_assert_eq!(chosen.duty, Duty::Serving);
        prop_assert!(chosen.config.role == Role::Public || backend && chosen.config.role == Role::Protected);
        let condition = chosen.health.condition();
        prop_assert!(!matches!(condition, Condition::Down | Condition::Syncing), "{:?}", condition);
        let rank = self.pool.rank(now, wish, node);
        for other in self.pool.candidates(wish).filter(|other| *other != node) {
            let Some(theirs) = self.pool.rank(now, wish, other) else { continue };
            prop_assert!(Some(theirs) >= rank, "node {} is better than {}", other, node);
            let least = Some(theirs) != rank || self.pool.nodes[other].load(now) >= load;
            prop_assert!(least, "node {} carries less than {}", other, node);
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn the_best_node_is_dialled_and_no_slot_is_lost(steps in prop::collection::vec(step(), 1..120)) {
        let mut play = Play::new();
        for step in &steps {
            play.take(step)?;
            let peers = play.sessions.iter().filter(|(caller, ..)| !caller.backend).count();
            prop_assert_eq!(play.pool.taken(), peers);
            for (index, node) in play.pool.nodes.iter().enumerate() {
                let at = |stage| play.sessions.iter().filter(|(_, other, _)| *other == stage).count();
                prop_assert_eq!(node.sessions, at(Stage::Connected(index)));
                prop_assert_eq!(node.dialling, at(Stage::Dialling(index)));
            }
        }
        for (caller, stage, _) in std::mem::take(&mut play.sessions) {
            play.pool.leave(START, &caller, stage);
        }
        prop_assert!(play.pool.is_empty() && play.pool.taken() == 0);
    }
}
