//! A session that may have a bug: a panic inside it ends that session and nothing else.
//!
//! Unwinding is caught at this one boundary, around each call into the session. What the session was given (bytes of its
//! own flow) is discarded with it, and the session itself is never called again, so no half-changed state is observed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use hedgerow_policy::rules::Rules;
use hedgerow_policy::session::{Instant, Work};
use hedgerow_policy::{Done, End, Finding, Leg, Reason, Request, Session};

/// A session with its fuse.
pub(super) struct Guarded {
    session: Option<Box<dyn Session>>,
}

impl Guarded {
    pub(super) fn new(session: Box<dyn Session>) -> Self {
        Guarded { session: Some(session) }
    }

    /// Whether a panic has ended it.
    pub(super) fn broken(&self) -> bool {
        self.session.is_none()
    }

    /// Calls the session; a panic blows the fuse and yields `otherwise`.
    fn call<T>(&mut self, otherwise: T, call: impl FnOnce(&mut dyn Session) -> T) -> T {
        let Some(session) = self.session.as_deref_mut() else { return otherwise };
        match catch_unwind(AssertUnwindSafe(|| call(session))) {
            Ok(value) => value,
            Err(_) => {
                discard(self.session.take());
                otherwise
            }
        }
    }

    pub(super) fn receive(&mut self, now: Instant, leg: Leg, bytes: &mut [u8]) -> usize {
        self.call(0, |session| session.receive(now, leg, bytes))
    }

    pub(super) fn transmit(&mut self, now: Instant, leg: Leg, space: &mut [u8]) -> usize {
        self.call(0, |session| session.transmit(now, leg, space))
    }

    pub(super) fn appetite(&mut self, leg: Leg) -> usize {
        self.call(0, |session| session.appetite(leg))
    }

    pub(super) fn ended(&mut self, now: Instant, leg: Leg, how: End) {
        self.call((), |session| session.ended(now, leg, how));
    }

    pub(super) fn deadline(&mut self) -> Option<Instant> {
        self.call(None, |session| session.deadline())
    }

    pub(super) fn advance(&mut self, now: Instant) {
        self.call((), |session| session.advance(now));
    }

    pub(super) fn request(&mut self) -> Option<Request> {
        self.call(None, |session| session.request())
    }

    pub(super) fn complete(&mut self, now: Instant, done: Done) {
        self.call((), |session| session.complete(now, done));
    }

    pub(super) fn close(&mut self, now: Instant, reason: Reason) {
        self.call((), |session| session.close(now, reason));
    }

    pub(super) fn probe(&mut self, now: Instant) {
        self.call((), |session| session.probe(now));
    }

    pub(super) fn heard(&mut self) -> Instant {
        self.call(Instant::ZERO, |session| session.heard())
    }

    pub(super) fn penalty(&mut self) -> Option<Duration> {
        self.call(None, |session| session.penalty())
    }

    pub(super) fn adopt(&mut self, rules: &Arc<Rules>) {
        self.call((), |session| session.adopt(rules));
    }

    pub(super) fn verdict(&mut self) -> Option<Reason> {
        self.call(None, |session| session.verdict())
    }

    pub(super) fn finding(&mut self) -> Option<Box<Finding>> {
        self.call(None, |session| session.finding().cloned().map(Box::new))
    }

    pub(super) fn software(&mut self) -> Option<Box<str>> {
        self.call(None, |session| Some(session.software()).filter(|text| !text.is_empty()).map(Box::from))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        discard(self.session.take());
    }
}

/// Runs a step of a session; false after a panic.
pub(crate) fn run(work: &mut dyn Work) -> bool {
    catch_unwind(AssertUnwindSafe(|| work.run())).is_ok()
}

/// Drops what may panic once more.
pub(crate) fn discard<T>(value: T) {
    // The second panic says nothing that the first has not said.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
}
