//! Threads that run cryptographic steps beside the shards, where the configuration asks for them.
//!
//! Between each shard and each worker lie two bounded rings, steps one way and results the other; nobody else uses them. A
//! shard gives a worker few steps at a time, so that its own queue goes on to decide whose turn it is. A step that panics
//! comes back as nothing and costs its session alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread::{JoinHandle, Thread};

use crossbeam::queue::ArrayQueue;
use hedgerow_policy::session::Work;

use crate::bell::Bell;
use crate::core::{discard, run_guarded};
use crate::pool::Ticket;

/// Steps that one worker holds of one shard: the next lies ready when one is done.
const DEPTH: usize = 2;

/// A step and whose it is.
type Job = (Ticket, Box<dyn Work>);
/// What came of it; `None`: it panicked.
type Outcome = (Ticket, Option<Box<dyn Work>>);

/// The rings between one shard and one worker.
struct Wire {
    jobs: ArrayQueue<Job>,
    done: ArrayQueue<Outcome>,
}

/// A worker as its shards see it.
struct Worker {
    asleep: AtomicBool,
    stop: AtomicBool,
}

/// A shard's side: what it has given to each worker.
pub struct Desk {
    places: Vec<Place>,
}

struct Place {
    wire: Arc<Wire>,
    worker: Arc<Worker>,
    thread: Thread,
    under_way: usize,
}

/// The worker threads; they end when this is dropped.
pub struct Workers {
    threads: Vec<(Arc<Worker>, JoinHandle<()>)>,
}

impl Workers {
    /// Starts `count` threads for the shards with these bells; each shard gets a desk.
    ///
    /// # Errors
    /// If the kernel refuses a thread.
    pub fn start(count: usize, bells: &[Arc<Bell>]) -> std::io::Result<(Workers, Vec<Desk>)> {
        let mut desks: Vec<Desk> = bells.iter().map(|_| Desk { places: Vec::new() }).collect();
        let mut threads = Vec::new();
        for number in 0..count {
            let wire = |_| Arc::new(Wire { jobs: ArrayQueue::new(DEPTH), done: ArrayQueue::new(DEPTH) });
            let wires: Vec<Arc<Wire>> = bells.iter().map(wire).collect();
            let worker = Arc::new(Worker { asleep: AtomicBool::new(false), stop: AtomicBool::new(false) });
            let served: Vec<(Arc<Wire>, Arc<Bell>)> =
                wires.iter().cloned().zip(bells.iter().cloned()).collect();
            let own = worker.clone();
            let thread = std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || serve(&own, &served))?;
            for (desk, wire) in desks.iter_mut().zip(wires) {
                let (worker, thread) = (worker.clone(), thread.thread().clone());
                desk.places.push(Place { wire, worker, thread, under_way: 0 });
            }
            threads.push((worker, thread));
        }
        Ok((Workers { threads }, desks))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for (worker, thread) in &self.threads {
            worker.stop.store(true, Ordering::SeqCst);
            thread.thread().unpark();
        }
        for (_, thread) in self.threads.drain(..) {
            // One that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

impl Desk {
    /// Whether a worker would take a step now.
    pub fn has_room(&self) -> bool {
        self.places.iter().any(|place| place.under_way < DEPTH)
    }

    /// Gives a step to the worker that has least of ours. To be called where [`Desk::has_room`] says so.
    pub fn give(&mut self, job: Job) {
        let Some(place) = self.places.iter_mut().min_by_key(|place| place.under_way) else { return };
        if place.wire.jobs.push(job).is_ok() {
            place.under_way += 1;
            place.worker.rouse(&place.thread);
        }
    }

    /// The next result.
    pub fn done(&mut self) -> Option<Outcome> {
        self.places.iter_mut().find_map(|place| {
            let outcome = place.wire.done.pop()?;
            place.under_way -= 1;
            Some(outcome)
        })
    }

    /// Whether a result waits.
    pub fn has_done(&self) -> bool {
        self.places.iter().any(|place| !place.wire.done.is_empty())
    }

    /// Steps that workers have, results that were not taken included.
    pub fn under_way(&self) -> usize {
        self.places.iter().map(|place| place.under_way).sum()
    }
}

impl Worker {
    /// Wakes the worker if it sleeps: the same agreement as with a [`Bell`].
    fn rouse(&self, thread: &Thread) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            thread.unpark();
        }
    }
}

/// A worker's life.
fn serve(worker: &Worker, served: &[(Arc<Wire>, Arc<Bell>)]) {
    while !worker.stop.load(Ordering::SeqCst) {
        if round(served) {
            continue;
        }
        worker.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if served.iter().all(|(wire, _)| wire.jobs.is_empty()) && !worker.stop.load(Ordering::SeqCst) {
            std::thread::park();
        }
        worker.asleep.store(false, Ordering::Relaxed);
    }
}

/// Runs a step of each shard that has one; whether there was any.
fn round(served: &[(Arc<Wire>, Arc<Bell>)]) -> bool {
    let mut any = false;
    for (wire, bell) in served {
        let Some((ticket, mut work)) = wire.jobs.pop() else { continue };
        any = true;
        let done = match run_guarded(work.as_mut()) {
            true => Some(work),
            false => {
                discard(work);
                None
            }
        };
        // As many results as steps are under way, so there is room.
        let _ = wire.done.push((ticket, done));
        bell.ring();
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Step {
        number: u32,
        ran: bool,
    }

    impl Work for Step {
        fn run(&mut self) {
            assert!(self.number != 13, "as it should");
            self.ran = true;
        }
        fn into_any(self: Box<Self>) -> Box<dyn core::any::Any + Send> {
            self
        }
    }

    fn ticket(core: u16, index: u32) -> Ticket {
        Ticket { core, index, generation: 0 }
    }

    /// Gives steps and takes results until all have come back; their numbers, and how many came back as nothing.
    fn play(desk: &mut Desk, bell: &Bell, core: u16, count: u32) -> (Vec<u32>, usize) {
        let (mut next, mut back, mut lost) = (0, Vec::new(), 0);
        while back.len() + lost < count as usize {
            while desk.has_room() && next < count {
                desk.give((ticket(core, next), Box::new(Step { number: next, ran: false })));
                next += 1;
            }
            assert!(desk.under_way() <= DEPTH * desk.places.len());
            while let Some((ticket, work)) = desk.done() {
                assert_eq!(ticket.core, core, "another shard's result");
                match work.map(|work| *work.into_any().downcast::<Step>().unwrap()) {
                    Some(step) => {
                        assert!(step.ran && step.number == ticket.index);
                        back.push(step.number);
                    }
                    None => lost += 1,
                }
            }
            bell.doze();
            if !desk.has_done() && desk.under_way() > 0 {
                use rustix::event::{PollFd, PollFlags, Timespec, poll};
                let timeout = Timespec { tv_sec: 20, tv_nsec: 0 };
                let mut fds = [PollFd::from_borrowed_fd(bell.fd(), PollFlags::IN)];
                assert!(poll(&mut fds, Some(&timeout)).unwrap() > 0, "slept over a result");
            }
            bell.awake();
        }
        (back, lost)
    }

    #[test]
    fn every_step_comes_back_to_its_shard_and_one_that_panics_as_nothing() {
        let bells: Vec<Arc<Bell>> = (0..2).map(|_| Arc::new(Bell::new().unwrap())).collect();
        let (workers, desks) = Workers::start(3, &bells).unwrap();
        std::thread::scope(|scope| {
            for (core, (mut desk, bell)) in (0..).zip(desks.into_iter().zip(&bells)) {
                scope.spawn(move || {
                    let (mut back, lost) = play(&mut desk, bell, core, 500);
                    back.sort();
                    let expected: Vec<u32> = (0..500).filter(|number| *number != 13).collect();
                    assert_eq!((back, lost, desk.under_way()), (expected, 1, 0));
                });
            }
        });
        drop(workers);
    }

    #[test]
    fn workers_end_with_steps_under_way() {
        let bells = [Arc::new(Bell::new().unwrap())];
        let (workers, mut desks) = Workers::start(1, &bells).unwrap();
        while desks[0].has_room() {
            desks[0].give((ticket(0, 1), Box::new(Step { number: 1, ran: false })));
        }
        drop(workers);
    }
}
