//! Cryptographic steps that wait for their turn: at most one runs between two receive polls, or as many as there are worker
//! threads beside the core.
//!
//! Those of proven peers run in order. Those of strangers run newest first: in a flood the newest may still be waiting
//! for its answer, the oldest has given up; where the queue is full, the oldest is given up.

use std::collections::VecDeque;

use hedgerow_policy::session::Work;

use crate::pool::Ticket;

/// A step and whose it is.
pub(crate) type Job = (Ticket, Box<dyn Work>);

/// The bounded queue.
#[derive(Debug)]
pub(super) struct WorkQueue {
    proven: VecDeque<Job>,
    strangers: VecDeque<Job>,
    room: usize,
    /// Steps run.
    pub(super) done: u64,
    /// Steps given up because the queue was full.
    pub(super) dropped: u64,
    /// Most steps that waited at one time.
    pub(super) peak: usize,
}

impl WorkQueue {
    /// A queue for `room` steps of each kind.
    pub(super) fn new(room: usize) -> Self {
        WorkQueue {
            proven: VecDeque::new(),
            strangers: VecDeque::new(),
            room: room.max(1),
            done: 0,
            dropped: 0,
            peak: 0,
        }
    }

    /// Queues a step. Returns whose step had to make room.
    pub(super) fn push(&mut self, job: Job, stranger: bool) -> Option<Ticket> {
        let queue = if stranger { &mut self.strangers } else { &mut self.proven };
        let victim = match queue.len() < self.room {
            true => None,
            false if stranger => queue.pop_front().map(|(ticket, _)| ticket),
            false => {
                self.dropped += 1;
                return Some(job.0);
            }
        };
        self.dropped += u64::from(victim.is_some());
        queue.push_back(job);
        self.peak = self.peak.max(self.len());
        victim
    }

    /// The step to run now.
    pub(super) fn pop(&mut self) -> Option<Job> {
        let job = self.proven.pop_front().or_else(|| self.strangers.pop_back());
        self.done += u64::from(job.is_some());
        job
    }

    /// Gives up the steps of a session that is over.
    pub(super) fn forget(&mut self, ticket: Ticket) {
        self.proven.retain(|(other, _)| *other != ticket);
        self.strangers.retain(|(other, _)| *other != ticket);
    }

    /// Steps that wait.
    pub(super) fn len(&self) -> usize {
        self.proven.len() + self.strangers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Nothing;

    impl Work for Nothing {
        fn run(&mut self) {}
        fn into_any(self: Box<Self>) -> Box<dyn core::any::Any + Send> {
            self
        }
    }

    fn ticket(index: u32) -> Ticket {
        Ticket { core: 0, index, generation: 0 }
    }

    fn push(queue: &mut WorkQueue, index: u32, stranger: bool) -> Option<Ticket> {
        queue.push((ticket(index), Box::new(Nothing)), stranger)
    }

    fn order(queue: &mut WorkQueue) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop()).map(|(ticket, _)| ticket.index).collect()
    }

    #[test]
    fn proven_first_and_in_order_then_the_newest_stranger() {
        let mut queue = WorkQueue::new(8);
        for (index, stranger) in [(1, true), (2, false), (3, true), (4, false)] {
            assert_eq!(push(&mut queue, index, stranger), None);
        }
        assert_eq!(order(&mut queue), [2, 4, 3, 1]);
    }

    #[test]
    fn a_full_queue_gives_up_the_oldest_stranger_but_the_newest_proven() {
        let mut queue = WorkQueue::new(2);
        for index in 0..2 {
            push(&mut queue, index, true);
            push(&mut queue, 10 + index, false);
        }
        assert_eq!(push(&mut queue, 2, true), Some(ticket(0)));
        assert_eq!(push(&mut queue, 12, false), Some(ticket(12)));
        assert_eq!((queue.len(), queue.dropped, queue.peak), (4, 2, 4));
        assert_eq!(order(&mut queue), [10, 11, 2, 1]);
    }

    #[test]
    fn steps_of_a_dead_session_are_forgotten() {
        let mut queue = WorkQueue::new(8);
        for index in 0..3 {
            push(&mut queue, index, true);
        }
        queue.forget(ticket(1));
        assert_eq!(order(&mut queue), [2, 0]);
    }
}
