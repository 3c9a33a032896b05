//! What ports are told of who is denied: a little now and then, since a list may have a hundred thousand prefixes and each
//! may cost a system call. What they do not know yet, the shard refuses by itself.

use std::sync::Arc;
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::screen::DenyList;
use hedgerow_dataplane::wire::Prefix;

/// Prefixes that ports are told of at a time.
const AT_A_TIME: usize = 32;
/// How long they have peace then.
const PEACE: Duration = Duration::from_millis(1);

/// From one sorted list to another, as far as ports know.
#[derive(Debug, Default)]
pub(super) struct Denials {
    from: Arc<DenyList>,
    to: Arc<DenyList>,
    /// How many prefixes of each are done with.
    done: (usize, usize),
    /// The list after that: the last of those that came meanwhile.
    next: Option<Arc<DenyList>>,
    /// When there is more to tell, if there is.
    due: Option<Instant>,
}

impl Denials {
    /// Ports are to know this list in the end.
    pub(super) fn aim(&mut self, list: Arc<DenyList>) {
        self.next = Some(list);
        self.due.get_or_insert(Instant::ZERO);
    }

    /// When there is more to tell.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Tells some more, if it is time, of which prefixes came (true) and which went.
    pub(super) fn tell(&mut self, now: Instant, tell: impl FnMut(Prefix, bool)) {
        if self.due.is_some_and(|due| due <= now) {
            self.due = self.go_on(tell).then_some(now + PEACE);
        }
    }

    /// Whether there is more to tell.
    fn go_on(&mut self, mut tell: impl FnMut(Prefix, bool)) -> bool {
        let mut left = AT_A_TIME;
        loop {
            let (old, new) = (self.from.prefixes().get(self.done.0), self.to.prefixes().get(self.done.1));
            match (old, new) {
                (None, None) => match self.next.take() {
                    Some(next) => {
                        self.from = std::mem::replace(&mut self.to, next);
                        self.done = (0, 0);
                        continue;
                    }
                    None => {
                        // Both are alike to the ports: nobody needs the first one any more.
                        self.from = self.to.clone();
                        self.done = (self.to.prefixes().len(), self.to.prefixes().len());
                        return false;
                    }
                },
                // What both have costs nothing to pass over, but a long list should not take a round of its own either.
                (Some(a), Some(b)) if a == b => {
                    self.done = (self.done.0 + 1, self.done.1 + 1);
                    if self.done.0.is_multiple_of(4_096) {
                        return true;
                    }
                    continue;
                }
                _ if left == 0 => return true,
                (Some(&a), other) if other.is_none_or(|b| a < *b) => {
                    tell(a, false);
                    self.done.0 += 1;
                }
                (_, Some(&b)) => {
                    tell(b, true);
                    self.done.1 += 1;
                }
                (Some(_), None) => unreachable!("the arm before takes it"),
            }
            left -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn list(texts: &[&str]) -> Arc<DenyList> {
        Arc::new(DenyList::new(texts.iter().map(|text| text.parse::<Prefix>().unwrap()), 1))
    }

    #[test]
    fn ports_hear_of_what_changed_only() {
        let mut denials = Denials::default();
        denials.aim(list(&["10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"]));
        while denials.go_on(|_, on| assert!(on)) {}
        denials.aim(list(&["10.0.0.0/9", "192.0.2.0/24", "203.0.113.7"]));
        let mut told = Vec::new();
        while denials.go_on(|prefix, on| told.push(format!("{}{prefix}", if on { '+' } else { '-' }))) {}
        told.sort();
        assert_eq!(told, ["+10.0.0.0/9", "+203.0.113.7/32", "-10.0.0.0/8", "-2001:db8::/32"]);
        assert!(!denials.go_on(|_, _| panic!("told twice")));
    }

    fn hosts() -> impl Strategy<Value = Vec<u32>> {
        prop::collection::vec(0..400_u32, 0..300)
    }

    proptest! {
        /// Whatever lists come, and however late: in the end the ports know the last one, and no round takes long.
        #[test]
        fn ports_know_the_last_list_in_the_end(lists in prop::collection::vec((hosts(), 0..12_usize), 1..6)) {
            let prefix = |host: &u32| Prefix::host(hedgerow_dataplane::wire::Address::from_v4(host.to_be_bytes()));
            let mut denials = Denials::default();
            let mut known = BTreeSet::new();
            let mut last = BTreeSet::new();
            for (hosts, rounds) in &lists {
                last = hosts.iter().map(prefix).collect();
                denials.aim(Arc::new(DenyList::new(last.iter().copied(), 1)));
                for _ in 0..*rounds {
                    let mut told = 0;
                    denials.go_on(|prefix, on| {
                        told += 1;
                        assert!(if on { known.insert(prefix) } else { known.remove(&prefix) }, "told what it knew");
                    });
                    prop_assert!(told <= AT_A_TIME);
                }
            }
            while denials.go_on(|prefix, on| {
                if on { known.insert(prefix); } else { known.remove(&prefix); }
            }) {}
            prop_assert_eq!(known, last);
        }
    }
}
