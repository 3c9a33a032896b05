//! The rule of eviction after Finished: against a slow model, and against those who want all slots.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const HOUR: u64 = 3_600;

fn at(seconds: u64) -> Instant {
    Instant::from_millis(seconds * 1_000)
}

fn net(number: u16) -> Address {
    let [b, c] = number.to_be_bytes();
    Address::from_v4([81 + b, c, 0, 0])
}

/// Slots with whoever holds one, as a host keeps them.
struct House {
    slots: usize,
    roster: Roster<u32>,
    seats: BTreeMap<u32, Seat>,
}

impl House {
    fn new(slots: usize, seed: u8) -> Self {
        House { slots, roster: Roster::new(slots, [seed; 16]), seats: BTreeMap::new() }
    }

    /// Lets `who` in; says who had to go.
    fn enter(&mut self, now: Instant, who: u32, prefix: Address) -> Option<u32> {
        let seat = self.roster.enter(now, who, prefix);
        self.seats.insert(who, seat);
        if self.roster.len() <= self.slots {
            return None;
        }
        let (seat, victim) =
            self.roster.victim(now, Some(seat)).expect("half of the slots are never protected");
        self.roster.leave(now, seat);
        self.seats.remove(&victim);
        Some(victim)
    }

    fn holds(&self, who: u32) -> bool {
        self.seats.contains_key(&who)
    }

    fn credit(&mut self, now: Instant, who: u32, points: u32) {
        if let Some(&seat) = self.seats.get(&who) {
            self.roster.credit(now, seat, points);
        }
    }
}

#[test]
fn one_prefix_displaces_only_itself() {
    let mut house = House::new(40, 1);
    // Thirty honest peers from as many networks, then a /16 that never stops coming.
    for who in 0..30 {
        assert_eq!(house.enter(at(0), who, net(who as u16)), None);
    }
    for who in 1_000..3_000 {
        let victim = house.enter(at(60), who, net(500));
        assert!(victim.is_none_or(|victim| victim >= 1_000), "{victim:?}");
    }
    // And whoever comes from elsewhere gets in at once, at its expense.
    for who in 100..108 {
        let victim = house.enter(at(70), who, net(who as u16));
        assert!(victim.is_some_and(|victim| victim >= 1_000));
    }
    assert!((0..30).chain(100..108).all(|who| house.holds(who)));
}

#[test]
fn of_the_largest_prefix_the_youngest_goes() {
    let mut house = House::new(4, 1);
    for (who, prefix) in [(0, 7), (1, 7), (2, 7), (3, 8)] {
        house.enter(at(u64::from(who)), who, net(prefix));
    }
    assert_eq!(house.enter(at(9), 4, net(9)), Some(2));
    assert_eq!(house.enter(at(9), 5, net(10)), Some(1));
    // Its own prefix is the largest now: it is turned away.
    assert_eq!(house.enter(at(9), 6, net(9)), Some(6));
}

#[test]
fn sixty_polite_bots_cannot_hold_all_slots() {
    let (slots, mut kept) = (60, 0);
    for seed in 0..50 {
        let mut house = House::new(slots, seed);
        // They were first, come from sixty networks, stay for ever and do no harm; who is displaced comes back at once.
        for bot in 0..60 {
            house.enter(at(0), bot, net(bot as u16));
        }
        // A day later an honest newcomer comes every ten minutes and brings something now and then.
        let mut honest = Vec::new();
        for step in 0..144u64 {
            let (now, who) = (at(24 * HOUR + 600 * step), 1_000 + step as u32);
            let displaced = house.enter(now, who, net(who as u16));
            assert_ne!(displaced, Some(who), "a newcomer of a new network always gets in");
            honest.push(who);
            honest.iter().filter(|&&who| who % 3 == 0).for_each(|&who| house.credit(now, who, 1));
            if let Some(bot) = displaced.filter(|&who| who < 1_000) {
                house.enter(now, bot, net(bot as u16));
            }
        }
        kept += honest.iter().filter(|&&who| house.holds(who)).count();
        let (elders, useful) = house.roster.protected();
        assert!(elders <= slots / 4 && useful == slots / 4, "{elders} {useful}");
    }
    // After that day honest peers hold two fifths of the slots or more, on the average.
    assert!(kept >= 50 * 24, "{} of {slots} slots on the average", kept as f64 / 50.0);
}

#[test]
fn the_useful_and_the_old_outlast_a_crowd_of_networks() {
    let mut house = House::new(40, 3);
    for who in 0..20 {
        house.enter(at(0), who, net(who as u16));
    }
    for who in 10..20 {
        house.credit(at(10), who, who);
    }
    // Two hours later as many networks come as an attacker can pay for.
    for who in 1_000..6_000 {
        house.enter(at(2 * HOUR), who, net(who as u16));
        (10..20).for_each(|who| house.credit(at(2 * HOUR), who, 1));
    }
    assert!((0..20).all(|who| house.holds(who)), "ten by their age, ten by what they brought");
}

#[test]
fn old_merits_fade() {
    let mut house = House::new(8, 3);
    for who in 0..8 {
        house.enter(at(0), who, net(who as u16));
    }
    house.credit(at(0), 0, 1_000);
    house.credit(at(0), 1, 900);
    assert_eq!(house.roster.protected(), (0, 2));
    // Ten hours later a single point is worth more than a thousand were.
    house.credit(at(10 * HOUR), 2, 2);
    let useful: Vec<u32> = house.roster.useful.iter().map(|&(_, seat)| seat).collect();
    assert_eq!(useful, [house.seats[&0].0, house.seats[&2].0]);
}

/// The rule by the letter.
#[derive(Default)]
struct Model {
    /// Number, prefix, since, in the order of entering.
    members: Vec<(u32, Address, Instant)>,
}

#[derive(Clone, Debug)]
enum Step {
    Enter(u16),
    Leave(prop::sample::Index),
    Wait(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u16..6).prop_map(Step::Enter),
        2 => any::<prop::sample::Index>().prop_map(Step::Leave),
        1 => (0u64..3_000).prop_map(Step::Wait),
    ]
}

impl Model {
    fn elders(&self, slots: usize, now: Instant) -> usize {
        let old = self.members.iter().take(slots / PART);
        old.take_while(|member| now.since(member.2) >= LONG).count()
    }

    /// Who may have to go, the last of the members being the newcomer.
    fn candidates(&self, elders: usize) -> Vec<u32> {
        let risked = &self.members[elders..];
        let size = |prefix: Address| risked.iter().filter(|member| member.1 == prefix).count();
        let most = risked.iter().map(|member| size(member.1)).max().unwrap_or(0);
        let newcomer = risked.last().expect("the newcomer").1;
        let mut largest: Vec<Address> =
            risked.iter().map(|member| member.1).filter(|&prefix| size(prefix) == most).collect();
        if largest.iter().any(|&prefix| prefix != newcomer) {
            largest.retain(|&prefix| prefix != newcomer);
        }
        let youngest =
            |prefix: Address| risked.iter().rfind(|member| member.1 == prefix).expect("a member").0;
        largest.into_iter().map(youngest).collect()
    }
}

proptest! {
    #[test]
    fn the_roster_agrees_with_the_model(steps in proptest::collection::vec(any_step(), 0..300)) {
        const SLOTS: usize = 12;
        let mut house = House::new(SLOTS, 1);
        let mut model = Model::default();
        let (mut now, mut next) = (at(1), 0);
        // The long-lived stay so: nobody takes their place before they leave.
        for step in steps {
            match step {
                Step::Enter(number) => {
                    let who = next;
                    next += 1;
                    model.members.push((who, net(number), now));
                    let (full, elders) = (model.members.len() > SLOTS, model.elders(SLOTS, now));
                    let victim = house.enter(now, who, net(number));
                    prop_assert_eq!(victim.is_some(), full);
                    if let Some(victim) = victim {
                        prop_assert!(model.candidates(elders).contains(&victim));
                        model.members.retain(|member| member.0 != victim);
                    }
                }
                Step::Leave(which) if !model.members.is_empty() => {
                    let (who, ..) = model.members.remove(which.index(model.members.len()));
                    let seat = house.seats.remove(&who).expect("a seat");
                    house.roster.leave(now, seat);
                }
                Step::Wait(seconds) => now += Duration::from_secs(seconds),
                Step::Leave(_) => {}
            }
            prop_assert_eq!(house.roster.len(), model.members.len());
        }
    }
}
