//! What peers did, and what comes of it: bans that are enforced, complaints, records.

use std::sync::Arc;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::frame::Port;
use hedgerow_dataplane::screen::DenyList;
use hedgerow_dataplane::wire::{Prefix, PrefixSet};
use hedgerow_policy::{Leg, Standing, verdict};

use super::Core;
use super::pump::KNOWN_AFTER;
use super::seats::{Dial, Seat};
use crate::bans::{Bans, score};

/// The bans with the list that the shard has.
pub(super) struct Enforced {
    bans: Arc<Bans>,
    version: u64,
    list: Arc<DenyList>,
}

impl<P: Port> Core<P> {
    /// Refuses who is banned from now on, and reports who should be.
    pub fn enforce(&mut self, bans: Arc<Bans>) {
        // No list has this number, so that the first one is taken at the next step.
        self.bans = Some(Enforced { bans, version: u64::MAX, list: Arc::default() });
    }

    /// Says from where friends come from now on.
    pub fn befriend(&mut self, friends: Arc<PrefixSet>) {
        self.shard.set_friends(friends);
    }

    /// Takes the list of bans if it has changed: one atomic load where it has not.
    pub(super) fn take_bans(&mut self) {
        let Some(Enforced { bans, version, list }) = &mut self.bans else { return };
        let current = bans.version();
        if current == *version {
            return;
        }
        *version = current;
        let former = std::mem::replace(list, bans.list());
        self.shard.set_deny(list.clone(), bans.close());
        for attached in &mut self.ports {
            differences(former.prefixes(), list.prefixes(), |prefix, on| attached.port.deny(prefix, on));
        }
    }

    /// A session is over: what its peer did counts for its address, once TLS is through. Nothing is ever written about an
    /// address that has returned no more than a cookie.
    pub(super) fn judge(&mut self, now: Instant, seat: &Seat, reason: verdict::Reason) {
        if seat.standing != Standing::Proven {
            return;
        }
        if score::points(reason) > 0 {
            if let Some(Enforced { bans, .. }) = &self.bans {
                bans.complain(seat.peer.ip(), reason);
            }
        } else if let Dial::Connected(_, since) = seat.dial
            && now.since(since) >= KNOWN_AFTER
            && let Some((flow, ..)) = seat.legs[Leg::Public as usize].flow
        {
            self.shard.commend(flow);
        }
    }
}

/// Tells which prefixes of two sorted lists came and which went.
fn differences(former: &[Prefix], latter: &[Prefix], mut tell: impl FnMut(Prefix, bool)) {
    let (mut old, mut new) = (former.iter().peekable(), latter.iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (Some(a), Some(b)) if a == b => {
                old.next();
                new.next();
            }
            (Some(&&a), other) if other.is_none_or(|b| a < **b) => {
                tell(a, false);
                old.next();
            }
            (_, Some(&&b)) => {
                tell(b, true);
                new.next();
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_hear_of_what_changed_only() {
        let list = |texts: &[&str]| -> Vec<Prefix> {
            let mut list: Vec<Prefix> = texts.iter().map(|text| text.parse().unwrap()).collect();
            list.sort();
            list
        };
        let former = list(&["10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"]);
        let latter = list(&["10.0.0.0/9", "192.0.2.0/24", "203.0.113.7"]);
        let mut told = Vec::new();
        differences(&former, &latter, |prefix, on| {
            told.push(format!("{}{prefix}", if on { '+' } else { '-' }))
        });
        told.sort();
        assert_eq!(told, ["+10.0.0.0/9", "+203.0.113.7/32", "-10.0.0.0/8", "-2001:db8::/32"]);
    }
}
