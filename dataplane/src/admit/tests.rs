//! Quotas, deadlines and eviction, held against their promises.

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    flows: 24,
    per_source: 4,
    per_24: 6,
    per_16_percent: 50,
    v6_64: 3,
    v6_48: 5,
    per_listener: 20,
    handshakes_in_flight: 10,
    handshake_longest: Duration::from_secs(10),
    handshake_shortest: Duration::from_secs(2),
    source_per_minute: 0,
    prefix_per_minute: 0,
    sessions_per_second: 0,
    source_bytes: 0,
    prefix_bytes: 0,
    friends_percent: 5,
    known_percent: 10,
};
const SLOTS: usize = 32;
const LISTENER: ListenerId = ListenerId(0);
const NOW: Instant = Instant::ZERO;

fn books(limits: Limits, seed: u8) -> Admission {
    Admission::new(limits, SLOTS, [seed; 16], Census::new(1, SLOTS, [seed; 16]))
}

fn ask(books: &mut Admission, source: Address) -> Result<Option<FlowId>, Reason> {
    books.admit(NOW, source, LISTENER, false)
}

fn v4(a: u8, b: u8, c: u8, d: u8) -> Address {
    Address::from_v4([a, b, c, d])
}

fn id(slot: u32) -> FlowId {
    FlowId { slot, generation: 1 }
}

/// Fills the books with strangers from these addresses.
fn filled(limits: Limits, from: impl IntoIterator<Item = Address>) -> Admission {
    let mut books = books(limits, 5);
    for (slot, remote) in (0..).zip(from) {
        assert_eq!(ask(&mut books, remote), Ok(None), "flow {slot}");
        books.opened(NOW, id(slot), remote, Some(LISTENER), Standing::Stranger);
    }
    books
}

#[test]
fn each_length_of_prefix_has_its_quota() {
    let books = |from: Vec<Address>| filled(Limits { handshakes_in_flight: 24, ..LIMITS }, from);
    let same = books(vec![v4(10, 0, 0, 1); 4]);
    let check = |mut books: Admission, source: Address| ask(&mut books, source);
    assert_eq!(check(same, v4(10, 0, 0, 1)), Err(Reason::SourceQuota));
    let net24 = || books((1..=6).map(|host| v4(10, 0, 0, host)).collect());
    assert_eq!(check(net24(), v4(10, 0, 0, 7)), Err(Reason::PrefixQuota));
    assert_eq!(check(net24(), v4(10, 0, 1, 7)), Ok(None));
    let net16 = || books((1..=12).map(|net| v4(10, 0, net, 1)).collect());
    assert_eq!(check(net16(), v4(10, 0, 99, 1)), Err(Reason::PrefixQuota));
    assert_eq!(check(net16(), v4(10, 1, 99, 1)), Ok(None));
    let v6 = |text: &str| Address::from(text.parse::<std::net::IpAddr>().unwrap());
    let net64 = || books((1..=3).map(|host| v6(&format!("2001:db8:1:1::{host}"))).collect());
    assert_eq!(check(net64(), v6("2001:db8:1:1:ffff::")), Err(Reason::SourceQuota));
    assert_eq!(check(net64(), v6("2001:db8:1:2::1")), Ok(None));
    let net48 = || books((1..=5).map(|net| v6(&format!("2001:db8:1:{net}::1"))).collect());
    assert_eq!(check(net48(), v6("2001:db8:1:9::1")), Err(Reason::PrefixQuota));
    assert_eq!(check(net48(), v6("2001:db8:2:9::1")), Ok(None));
}

#[test]
fn the_fullest_prefix_pays_for_a_newcomer() {
    // Seven strangers of one /16 in as many /24, three from elsewhere.
    let mut from: Vec<Address> = (0..7).map(|net| v4(10, 0, net, 1)).collect();
    from.extend([v4(11, 0, 0, 1), v4(12, 0, 0, 1), v4(12, 1, 0, 1)]);
    let mut victims = [0; 10];
    for seed in 0..200 {
        let mut books = filled(LIMITS, from.clone());
        books.random.drawn = seed * 100;
        let victim = ask(&mut books, v4(13, 0, 0, 1)).expect("room").expect("a victim");
        victims[victim.slot as usize] += 1;
        assert_eq!(books.strangers(), 9);
        books.closed(NOW, victim);
        assert_eq!(books.strangers(), 9);
    }
    assert_eq!(victims[7..], [0, 0, 0]);
    assert!(victims[..7].iter().all(|&count| count > 10), "{victims:?}");
}

#[test]
fn whoever_is_proven_is_no_stranger() {
    let mut books = filled(Limits { handshakes_in_flight: 3, ..LIMITS }, (0..3).map(|net| v4(10, 0, net, 1)));
    for (slot, standing) in [(0, Standing::Proven), (1, Standing::Proven), (2, Standing::Reserved)] {
        assert_eq!(books.standing(NOW, id(slot), standing), None);
    }
    assert_eq!((books.flows(), books.strangers(), books.deadline()), (3, 0, None));
    let mut none = self::books(Limits { handshakes_in_flight: 0, ..LIMITS }, 0);
    assert_eq!(ask(&mut none, v4(1, 0, 0, 1)), Err(Reason::HandshakeQuota));
    assert_eq!(none.admit(NOW, v4(1, 0, 0, 1), LISTENER, true), Err(Reason::BufferQuota));
}

#[test]
fn a_full_table_makes_no_room_for_strangers_of_whom_nothing_is_known() {
    let limits = Limits { flows: 3, handshakes_in_flight: 3, ..LIMITS };
    let mut books = self::books(limits, 1);
    for slot in 0..3 {
        books.opened(NOW, id(slot), v4(10, slot as u8, 0, 1), None, Standing::Reserved);
    }
    assert_eq!(ask(&mut books, v4(99, 0, 0, 1)), Err(Reason::TableFull));
    assert_eq!(books.admit_own(), Err(Reason::TableFull));
}

#[test]
fn a_listener_has_its_quota() {
    let wide = Limits { per_listener: 2, ..LIMITS };
    let mut books = filled(wide, [v4(1, 0, 0, 1), v4(2, 0, 0, 1)]);
    assert_eq!(ask(&mut books, v4(3, 0, 0, 1)), Err(Reason::ListenerQuota));
    assert_eq!(books.admit(NOW, v4(3, 0, 0, 1), ListenerId(1), false), Ok(None));
    books.closed(NOW, id(0));
    assert_eq!(ask(&mut books, v4(3, 0, 0, 1)), Ok(None));
}

#[test]
fn quotas_hold_for_all_shards_together() {
    let census = Census::new(2, 2 * SLOTS, [1; 16]);
    let shard = |seed| Admission::new(LIMITS, SLOTS, [seed; 16], census.clone());
    let (mut one, mut two) = (shard(1), shard(2));
    for slot in 0..4 {
        let books = if slot % 2 == 0 { &mut one } else { &mut two };
        books.opened(NOW, id(slot), v4(10, 0, 0, 1), Some(LISTENER), Standing::Stranger);
    }
    assert_eq!(ask(&mut one, v4(10, 0, 0, 1)), Err(Reason::SourceQuota));
    assert_eq!(ask(&mut two, v4(10, 0, 0, 1)), Err(Reason::SourceQuota));
    one.closed(NOW, id(0));
    assert_eq!(ask(&mut two, v4(10, 0, 0, 1)), Ok(None));
}

/// Opens a flow from `source` and finishes its handshake.
fn session(
    books: &mut Admission,
    now: Instant,
    slot: u32,
    source: Address,
) -> Result<Option<FlowId>, Reason> {
    books.admit(now, source, LISTENER, false)?;
    books.opened(now, id(slot), source, Some(LISTENER), Standing::Stranger);
    Ok(books.standing(now, id(slot), Standing::Proven))
}

#[test]
fn sessions_begin_at_a_pace() {
    let paced = Limits { source_per_minute: 2, prefix_per_minute: 4, sessions_per_second: 5, ..LIMITS };
    let mut books = self::books(paced, 3);
    let begin = |books: &mut Admission, millis: u64, slot, source| {
        let now = Instant::from_millis(millis);
        let result = session(books, now, slot, source);
        books.closed(now, id(slot));
        result
    };
    assert_eq!(begin(&mut books, 0, 0, v4(1, 0, 0, 1)), Ok(None));
    assert_eq!(begin(&mut books, 0, 0, v4(1, 0, 0, 1)), Ok(None));
    // The source has used its minute up, its neighbour has not; then the prefix has.
    assert_eq!(begin(&mut books, 0, 0, v4(1, 0, 0, 1)), Err(Reason::SessionRate));
    assert_eq!(begin(&mut books, 0, 0, v4(1, 0, 0, 2)), Ok(None));
    assert_eq!(begin(&mut books, 0, 0, v4(1, 0, 0, 2)), Ok(None));
    assert_eq!(begin(&mut books, 0, 0, v4(1, 0, 0, 3)), Err(Reason::SessionRate));
    // One more, and the second is used up for all but those with a record.
    assert_eq!(begin(&mut books, 0, 0, v4(2, 0, 0, 1)), Ok(None));
    assert_eq!(begin(&mut books, 0, 0, v4(3, 0, 0, 1)), Err(Reason::SessionRate));
    books.census.remember(v4(4, 0, 0, 1));
    assert_eq!(begin(&mut books, 0, 0, v4(4, 0, 0, 1)), Ok(None));
    assert_eq!(begin(&mut books, 60_000, 0, v4(1, 0, 0, 1)), Ok(None));
}

#[test]
fn flows_of_a_source_share_what_it_may_move() {
    const CHUNK: usize = 16 << 10;
    let limits = Limits { source_bytes: 1 << 20, ..LIMITS };
    let mut books = self::books(limits, 3);
    let friend: crate::wire::Prefix = "99.0.0.0/8".parse().expect("a prefix");
    books.set_friends(Arc::new(PrefixSet::new([friend])));
    let enter = |books: &mut Admission, slot, source, standing| {
        books.opened(NOW, id(slot), source, Some(LISTENER), Standing::Stranger);
        books.standing(NOW, id(slot), standing);
    };
    (0..3).for_each(|slot| enter(&mut books, slot, v4(1, 0, 0, 1), Standing::Proven));
    enter(&mut books, 3, v4(2, 0, 0, 1), Standing::Proven);
    enter(&mut books, 4, v4(99, 0, 0, 1), Standing::Reserved);
    books.opened(NOW, id(5), v4(1, 0, 0, 1), Some(LISTENER), Standing::Stranger);
    // Each moves a chunk whenever it may, for ten seconds.
    let (mut moved, mut rests) = ([0usize; 5], [NOW; 5]);
    for millis in 0..10_000 {
        let now = Instant::from_millis(millis);
        for slot in 0..5 {
            if rests[slot] <= now {
                moved[slot] += CHUNK;
                rests[slot] = books.moved(now, id(slot as u32), CHUNK).unwrap_or(now);
            }
        }
    }
    let together: usize = moved[..3].iter().sum();
    // A second's worth at once, then a second's worth each second, and what the last turns were ahead.
    assert!((11 << 20..=(11 << 20) + 3 * CHUNK).contains(&together), "{together}");
    assert!(moved[..3].iter().all(|share| share.abs_diff(together / 3) <= 2 * CHUNK), "{moved:?}");
    assert!(moved[3].abs_diff(11 << 20) <= CHUNK, "another source has its own: {moved:?}");
    assert_eq!(moved[4], 10_000 * CHUNK, "a friend has no limit");
    assert_eq!(books.moved(NOW, id(5), 1 << 30), None, "nobody has proved to be a stranger's source");
    books.set_quotas(&quotas(&LIMITS));
    assert_eq!(books.moved(NOW, id(0), 1 << 30), None);
}

/// What of the limits may change.
fn quotas(limits: &Limits) -> Quotas {
    let Limits { per_source, per_24, per_16_percent, v6_64, v6_48, .. } = *limits;
    let Limits { source_per_minute, prefix_per_minute, sessions_per_second, .. } = *limits;
    let Limits { source_bytes, prefix_bytes, .. } = *limits;
    Quotas {
        per_source,
        per_24,
        per_16_percent,
        v6_64,
        v6_48,
        source_per_minute,
        prefix_per_minute,
        sessions_per_second,
        source_bytes,
        prefix_bytes,
    }
}

#[test]
fn a_prefix_may_move_so_much_however_many_sources_it_has() {
    let books = |limits| {
        let mut books = self::books(limits, 3);
        for slot in 0..4 {
            let source = v4(1, 0, 0, slot as u8);
            books.opened(NOW, id(slot), source, Some(LISTENER), Standing::Stranger);
            books.standing(NOW, id(slot), Standing::Proven);
        }
        books
    };
    let until = |limits| (0..4).map(|slot| books(limits).moved(NOW, id(slot), 4 << 20)).max().flatten();
    assert_eq!(until(Limits { prefix_bytes: 4 << 20, ..LIMITS }), None);
    let books = books(Limits { prefix_bytes: 4 << 20, source_bytes: 8 << 20, ..LIMITS });
    let rests: Vec<_> = (0..4).map(|slot| books.moved(NOW, id(slot), 4 << 20).map(Instant::millis)).collect();
    assert_eq!(rests, [None, Some(1_000), Some(2_000), Some(3_000)]);
}

#[test]
fn a_forged_flow_writes_nothing_about_its_victim() {
    let paced = Limits { source_per_minute: 1, prefix_per_minute: 1, ..LIMITS };
    let mut books = self::books(paced, 3);
    let victim = v4(81, 2, 3, 4);
    // Many guesses are right, one after the other: each flow waits for a Finished that never comes.
    for round in 0..200 {
        let now = Instant::from_millis(round * 20_000);
        assert_eq!(books.admit(now, victim, LISTENER, false), Ok(None));
        books.opened(now, id(0), victim, Some(LISTENER), Standing::Stranger);
        books.remember(id(0));
        books.credit(now, id(0), 1_000);
        assert_eq!(books.expired(now + LIMITS.handshake_longest), Some(id(0)));
    }
    assert!(!books.census.remembers(victim));
    assert_eq!((0..3).map(|level| books.census.held(victim, level)).sum::<u32>(), 0);
    // Its pace is that of someone who was never here.
    let now = Instant::from_millis(4_000_000);
    assert_eq!(session(&mut books, now, 1, victim), Ok(None));
    assert_eq!(session(&mut books, now, 2, victim), Err(Reason::SessionRate));
}

#[test]
fn room_is_kept_for_friends_and_for_those_with_a_record() {
    let limits = Limits {
        flows: 100,
        handshakes_in_flight: 20,
        friends_percent: 10,
        known_percent: 20,
        per_listener: 200,
        ..LIMITS
    };
    let mut books = Admission::new(limits, 128, [1; 16], Census::new(1, 128, [1; 16]));
    let friend: crate::wire::Prefix = "99.0.0.0/8".parse().expect("a prefix");
    books.set_friends(Arc::new(PrefixSet::new([friend])));
    // Sixty peers from as many prefixes take no more than what is left: 100 - 20 - 30.
    let held = |books: &Admission| books.flows() - books.strangers();
    for slot in 0..60 {
        session(&mut books, NOW, slot, v4(slot as u8 + 1, 0, 0, 1)).expect("a stranger's room");
        assert!(held(&books) <= 50);
    }
    assert_eq!(held(&books), 50);
    for slot in 60..70 {
        let source = v4(slot as u8 + 1, 0, 0, 1);
        books.census.remember(source);
        assert_eq!(session(&mut books, NOW, slot, source), Ok(None), "those with a record displace nobody");
    }
    // Friends: whatever they hold already, and more than a source may.
    for slot in 70..80 {
        assert_eq!(books.admit(NOW, v4(99, 0, 0, 1), LISTENER, false), Ok(None));
        books.opened(NOW, id(slot), v4(99, 0, 0, 1), Some(LISTENER), Standing::Stranger);
        assert_eq!(books.standing(NOW, id(slot), Standing::Reserved), None);
    }
    assert_eq!(held(&books), 70);
}

#[test]
fn patience_shrinks_as_handshakes_fill_up() {
    let after = |strangers: u8| {
        let books = filled(LIMITS, (0..strangers).map(|net| v4(net, 0, 0, 1)));
        books.deadline().map(Instant::millis)
    };
    assert_eq!(after(0), None);
    assert_eq!((after(1), after(5)), (Some(10_000), Some(10_000)));
    assert_eq!((after(6), after(8), after(10)), (Some(8_400), Some(5_200), Some(2_000)));
}

#[test]
fn strangers_expire_oldest_first() {
    let mut books = books(LIMITS, 0);
    for slot in 0..4 {
        books.opened(
            Instant::from_millis(slot.into()),
            id(slot),
            v4(slot as u8, 0, 0, 1),
            Some(LISTENER),
            Standing::Stranger,
        );
    }
    books.closed(NOW, id(1));
    books.standing(NOW, id(2), Standing::Proven);
    assert_eq!(books.expired(Instant::from_millis(9_999)), None);
    assert_eq!(books.expired(Instant::from_millis(20_000)), Some(id(0)));
    assert_eq!(books.expired(Instant::from_millis(20_000)), Some(id(3)));
    assert_eq!(books.expired(Instant::from_millis(20_000)), None);
    assert_eq!((books.flows(), books.strangers()), (1, 0));
}

#[test]
fn stale_ids_change_nothing() {
    let mut books = filled(LIMITS, [v4(1, 0, 0, 1)]);
    books.closed(NOW, FlowId { slot: 0, generation: 0 });
    books.standing(NOW, FlowId { slot: 0, generation: 2 }, Standing::Proven);
    books.closed(NOW, FlowId { slot: 1_000, generation: 1 });
    assert_eq!((books.flows(), books.strangers()), (1, 1));
    // A slot that is taken again forgets whom it held.
    books.opened(NOW, FlowId { slot: 0, generation: 2 }, v4(2, 0, 0, 1), None, Standing::Reserved);
    assert_eq!((books.flows(), books.strangers()), (1, 0));
}

/// The books by the letter: a list of flows, gone through for every question.
#[derive(Default)]
struct Model {
    flows: Vec<(FlowId, Address, Standing, Instant)>,
    /// Those who are proven now, in the order in which they became so, with their wide prefixes.
    order: Vec<(FlowId, Address)>,
}

impl Model {
    fn held(&self, source: Address, level: usize) -> u32 {
        let same = |remote: Address| prefix(remote, level) == prefix(source, level);
        self.flows.iter().filter(|flow| same(flow.1) && flow.2 != Standing::Reserved).count() as u32
    }

    fn forget(&mut self, id: FlowId) {
        self.flows.retain(|flow| flow.0 != id);
        self.order.retain(|entry| entry.0 != id);
    }

    fn strangers(&self) -> Vec<(FlowId, Address, Instant)> {
        let strangers = self.flows.iter().filter(|flow| flow.2 == Standing::Stranger);
        strangers.map(|&(id, remote, _, opened)| (id, remote, opened)).collect()
    }

    /// Strangers whose wide prefix holds the most of them.
    fn candidates(&self) -> Vec<FlowId> {
        let strangers = self.strangers();
        let mates =
            |remote: Address| strangers.iter().filter(|mate| prefix(mate.1, 2) == prefix(remote, 2)).count();
        let most = strangers.iter().map(|stranger| mates(stranger.1)).max();
        strangers
            .iter()
            .filter(|stranger| Some(mates(stranger.1)) == most)
            .map(|stranger| stranger.0)
            .collect()
    }

    fn verdict(&self, source: Address) -> Result<bool, Reason> {
        let quotas = match source.is_v4() {
            true => [LIMITS.per_source, LIMITS.per_24, 12],
            false => [LIMITS.v6_64, LIMITS.v6_48, 12],
        };
        if self.held(source, 0) >= quotas[0] {
            return Err(Reason::SourceQuota);
        }
        if self.held(source, 1) >= quotas[1] || self.held(source, 2) >= quotas[2] {
            return Err(Reason::PrefixQuota);
        }
        if self.flows.iter().filter(|flow| flow.2 != Standing::Reserved).count() >= 20 {
            return Err(Reason::ListenerQuota);
        }
        let (full, busy) = (
            self.flows.len() as u32 >= LIMITS.flows,
            self.strangers().len() as u32 >= LIMITS.handshakes_in_flight,
        );
        match (full, busy, self.strangers().is_empty()) {
            (true, _, true) => Err(Reason::TableFull),
            (false, true, true) => Err(Reason::HandshakeQuota),
            (full, busy, _) => Ok(full || busy),
        }
    }

    /// Whom the rule may name when `newcomer` has just finished, or somebody who never goes has.
    fn outranked(&self, newcomer: Option<FlowId>) -> Vec<FlowId> {
        let strangers = self.strangers().len();
        // 24, less a quarter for strangers, less 5% and 10% for friends and those with a record.
        let room = if newcomer.is_some() { 15 } else { 18 };
        if self.flows.len() - strangers <= room {
            return Vec::new();
        }
        let proven: Vec<_> = self.flows.iter().filter(|flow| flow.2 == Standing::Proven).collect();
        let mates =
            |remote: Address| proven.iter().filter(|mate| prefix(mate.1, 2) == prefix(remote, 2)).count();
        let most = proven.iter().map(|flow| mates(flow.1)).max().unwrap_or(0);
        let own =
            newcomer.and_then(|id| proven.iter().find(|flow| flow.0 == id)).map(|flow| prefix(flow.1, 2));
        let largest: Vec<Address> =
            proven.iter().map(|flow| prefix(flow.1, 2)).filter(|&wide| mates(wide) == most).collect();
        let others: Vec<Address> = largest.iter().copied().filter(|&wide| Some(wide) != own).collect();
        let named = if others.is_empty() { largest } else { others };
        // The list is in the order of entering.
        let youngest =
            |wide: Address| self.order.iter().rev().find(|entry| entry.1 == wide).map(|entry| entry.0);
        named.into_iter().filter_map(youngest).collect()
    }

    fn deadline(&self) -> Option<Instant> {
        let here = self.strangers().len() as u32;
        let patience = if here <= 5 { 10_000 } else { 10_000 - 8_000 * (2 * here.min(10) - 10) / 10 };
        self.strangers().iter().map(|stranger| stranger.2 + Duration::from_millis(patience.into())).min()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Admit(Address),
    Own(Address),
    Think(prop::sample::Index, Standing),
    Close(prop::sample::Index),
    Wait(u64),
}

fn any_address() -> impl Strategy<Value = Address> {
    let v4 = (0u8..3, 0u8..2, 0u8..3, 0u8..2).prop_map(|(a, b, c, d)| v4(10 + a, b, c, d));
    let v6 = (0u8..3, 0u8..2, 0u8..3, 0u8..2)
        .prop_map(|(a, b, c, d)| Address::from_v6([0x20, 1, 0xd, a, 0, b, 0, c, 0, 0, 0, 0, 0, 0, 0, d]));
    prop_oneof![2 => v4, 1 => v6]
}

fn any_step() -> impl Strategy<Value = Step> {
    let standing = prop_oneof![Just(Standing::Stranger), Just(Standing::Proven), Just(Standing::Reserved)];
    prop_oneof![
        8 => any_address().prop_map(Step::Admit),
        1 => any_address().prop_map(Step::Own),
        3 => (any::<prop::sample::Index>(), standing).prop_map(|(which, standing)| Step::Think(which, standing)),
        2 => any::<prop::sample::Index>().prop_map(Step::Close),
        1 => (0u64..6_000).prop_map(Step::Wait),
    ]
}

struct Pair {
    books: Admission,
    model: Model,
    now: Instant,
    generation: u32,
}

impl Pair {
    fn open(&mut self, remote: Address, standing: Standing) {
        self.generation += 1;
        let slot = (0..).find(|&slot| self.model.flows.iter().all(|flow| flow.0.slot != slot)).unwrap_or(0);
        let id = FlowId { slot, generation: self.generation };
        let listener = (standing == Standing::Stranger).then_some(LISTENER);
        self.books.opened(self.now, id, remote, listener, standing);
        self.model.flows.push((id, remote, standing, self.now));
    }

    fn evicted(&mut self, victim: Option<FlowId>, expected: bool) -> Result<(), TestCaseError> {
        prop_assert_eq!(victim.is_some(), expected);
        if let Some(victim) = victim {
            prop_assert!(self.model.candidates().contains(&victim), "{:?}", victim);
            self.model.forget(victim);
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Admit(source) => {
                let (verdict, expected) =
                    (self.books.admit(self.now, source, LISTENER, false), self.model.verdict(source));
                prop_assert_eq!(verdict.map(|victim| victim.is_some()), expected);
                if let Ok(victim) = verdict {
                    self.evicted(victim, expected == Ok(true))?;
                    self.open(source, Standing::Stranger);
                }
            }
            Step::Own(remote) => {
                let full = self.model.flows.len() as u32 >= LIMITS.flows;
                match self.books.admit_own() {
                    Ok(victim) => {
                        self.evicted(victim, full)?;
                        self.open(remote, Standing::Reserved);
                    }
                    Err(reason) => {
                        prop_assert!(full && self.model.strangers().is_empty());
                        prop_assert_eq!(reason, Reason::TableFull);
                    }
                }
            }
            Step::Think(which, standing) if !self.model.flows.is_empty() => {
                let flow = which.index(self.model.flows.len());
                let flow = &mut self.model.flows[flow];
                let (id, wide, rises) = (flow.0, prefix(flow.1, 2), standing > flow.2);
                flow.2 = flow.2.max(standing);
                self.model.order.retain(|entry| entry.0 != id || !rises);
                if rises && standing == Standing::Proven {
                    self.model.order.push((id, wide));
                }
                let newcomer = (standing == Standing::Proven).then_some(id);
                let expected = if rises { self.model.outranked(newcomer) } else { Vec::new() };
                let victim = self.books.standing(self.now, id, standing);
                prop_assert_eq!(victim.is_some(), !expected.is_empty());
                if let Some(victim) = victim {
                    prop_assert!(expected.contains(&victim), "{:?} of {:?}", victim, expected);
                    self.model.forget(victim);
                }
            }
            Step::Close(which) if !self.model.flows.is_empty() => {
                let (id, ..) = self.model.flows[which.index(self.model.flows.len())];
                self.model.forget(id);
                self.books.closed(self.now, id);
            }
            Step::Wait(millis) => {
                self.now += Duration::from_millis(millis);
                while let Some(late) = self.books.expired(self.now) {
                    prop_assert!(self.model.deadline().is_some_and(|deadline| deadline <= self.now));
                    let flow = self.model.flows.iter().position(|flow| flow.0 == late).expect("a known flow");
                    let (_, _, standing, opened) = self.model.flows.remove(flow);
                    prop_assert_eq!(standing, Standing::Stranger);
                    prop_assert!(self.model.strangers().iter().all(|stranger| stranger.2 >= opened));
                }
            }
            _ => {}
        }
        prop_assert_eq!(self.books.deadline(), self.model.deadline());
        prop_assert_eq!(self.books.flows() as usize, self.model.flows.len());
        prop_assert_eq!(self.books.strangers() as usize, self.model.strangers().len());
        Ok(())
    }
}

proptest! {
    #[test]
    fn the_books_agree_with_the_model(steps in proptest::collection::vec(any_step(), 0..300)) {
        // Wide enough that no two of these few prefixes share their counters: counts are exact.
        let books = Admission::new(LIMITS, SLOTS, [9; 16], Census::new(1, 1 << 14, [9; 16]));
        let mut pair = Pair { books, model: Model::default(), now: Instant::ZERO, generation: 0 };
        for step in steps {
            pair.step(step)?;
        }
    }
}
