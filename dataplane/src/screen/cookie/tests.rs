//! Cookies: what verifies, for how long, and how often a guess does.

use proptest::prelude::*;

use super::*;
use crate::wire::Address;

const MASTER: Master = Master([0x42; 32]);
/// A time in an even slot, at its beginning.
const START: u64 = 27_000_000 * SLOT_MS;

fn flow(v6: bool, port: u16) -> FlowKey {
    let (local, remote) = if v6 {
        (Address::from_v6([0x20; 16]), Address::from_v6([0x21; 16]))
    } else {
        (Address::from_v4([203, 0, 113, 1]), Address::from_v4([198, 51, 100, 7]))
    };
    FlowKey { local, remote, local_port: 8444, remote_port: port }
}

fn any_choice() -> impl Strategy<Value = Choice> {
    (0u8..4, 0u8..8).prop_map(|(mss, profile)| Choice { mss, profile })
}

const CHOICE: Choice = Choice { mss: 3, profile: 1 };

proptest! {
    /// Issued and checked by two appliances whose clocks differ by up to 16 s.
    #[test]
    fn a_cookie_passes_for_half_a_minute_on_all_appliances_and_never_beyond_its_life(
        v6: bool, port: u16, irs: u32, choice in any_choice(), at in 0..4 * SLOT_MS, age in 0..3 * SLOT_MS, behind in 0..=2 * AHEAD_MS,
    ) {
        let (mut issuer, mut checker) = (Cookies::new(MASTER), Cookies::new(MASTER));
        let (flow, irs) = (flow(v6, port), Seq(irs));
        let iss = issuer.make(START + at, &flow, irs, choice);
        let seen = START + at + age + behind - AHEAD_MS;
        let verdict = checker.check(seen, &flow, irs, iss);
        if age <= SLOT_MS - 2 * AHEAD_MS {
            prop_assert_eq!(verdict, Verdict::Whole(choice));
        }
        if age >= LIFE_MS {
            prop_assert_ne!(verdict, Verdict::Whole(choice));
        }
    }

    #[test]
    fn anything_else_is_foreign(v6: bool, port in 1u16.., irs: u32, choice in any_choice(), bit in 0u32..26) {
        let mut cookies = Cookies::new(MASTER);
        let (flow, irs) = (flow(v6, port), Seq(irs));
        let iss = cookies.make(START, &flow, irs, choice);
        let is_whole = |verdict| matches!(verdict, Verdict::Whole(_));
        prop_assert!(is_whole(cookies.check(START, &flow, irs, iss)));
        prop_assert!(!is_whole(cookies.check(START, &flow, irs, Seq(iss.0 ^ 1 << bit))));
        prop_assert!(!is_whole(Cookies::new(Master([0x43; 32])).check(START, &flow, irs, iss)));
        // Another initial sequence number of the peer leaves the tuple bits alone.
        prop_assert_ne!(cookies.check(START, &flow, irs + 1, iss), Verdict::Foreign);
    }
}

/// The chance of a match by accident is 2^-26, or 2^-20 where the tuple bits match: none in these few thousand.
#[test]
fn every_field_counts() {
    let mut cookies = Cookies::new(MASTER);
    let base = flow(false, 40_000);
    for irs in (0..1_000).map(Seq) {
        let iss = cookies.make(START, &base, irs, CHOICE);
        let others = [
            FlowKey { local: Address::from_v4([203, 0, 113, 2]), ..base },
            FlowKey { remote: Address::from_v4([198, 51, 100, 8]), ..base },
            FlowKey { local_port: 443, ..base },
            FlowKey { remote_port: 40_001, ..base },
            FlowKey { local_port: base.remote_port, remote_port: base.local_port, ..base },
        ];
        for other in others {
            assert!(!matches!(cookies.check(START, &other, irs, iss), Verdict::Whole(_)), "{other:?}");
        }
        for choice in 1..32 {
            let changed = Seq(iss.0 ^ choice << 26);
            assert!(!matches!(cookies.check(START, &base, irs, changed), Verdict::Whole(_)));
        }
        // A slot later the same parity means another key.
        assert!(!matches!(cookies.check(START + 2 * SLOT_MS, &base, irs, iss), Verdict::Whole(_)));
    }
}

/// Guesses against a shortened MAC succeed as often as stated: binomial, five standard deviations either way.
#[test]
fn forgeries_succeed_at_the_stated_rate() {
    for (tuple_bits, whole_bits, guesses) in
        [(6, 4, 400_000u32), (2, 6, 200_000), (0, 8, 200_000), (6, 0, 100_000)]
    {
        let mut cookies = Cookies::shortened(MASTER, tuple_bits, whole_bits);
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        let forged = (0..guesses).filter(|&guess| {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let (irs, iss) = (Seq(guess), Seq((random >> 32) as u32));
            let verdict = cookies.check(
                START + u64::from(guess) % SLOT_MS,
                &flow(guess % 2 == 0, guess as u16),
                irs,
                iss,
            );
            matches!(verdict, Verdict::Whole(_))
        });
        let forged = forged.count() as f64;
        let rate = 0.5f64.powi((tuple_bits + whole_bits) as i32);
        let expected = f64::from(guesses) * rate;
        let deviation = (expected * (1.0 - rate)).sqrt();
        assert!(
            (forged - expected).abs() < 5.0 * deviation,
            "{forged} of {guesses}, expected {expected} +- {deviation}"
        );
    }
}

/// A segment that overtook the first one shows another number of the peer, further on by what was lost: a multiple of any
/// power of two. It is taken for the first as rarely as a guess at the whole bits, whatever the distance.
#[test]
fn no_distance_from_the_first_segment_helps_an_overtaker() {
    let mut cookies = Cookies::shortened(MASTER, TUPLE_BITS, 8);
    for distance in [1, 536, 1_024, 1_448, 16_384, 1 << 20, 1 << 27] {
        let overtakers = 100_000u32;
        let taken = (0..overtakers).filter(|&n| {
            let (flow, irs) = (flow(n % 2 == 0, (n >> 2) as u16), Seq(n.wrapping_mul(0x9e37_79b9)));
            let iss = cookies.make(START, &flow, irs, CHOICE);
            matches!(cookies.check(START, &flow, irs + distance, iss), Verdict::Whole(_))
        });
        let (taken, expected) = (taken.count() as f64, f64::from(overtakers) / 256.0);
        let deviation = expected.sqrt();
        assert!((taken - expected).abs() < 5.0 * deviation, "{taken} at {distance}, expected {expected}");
    }
}

/// With the tuple bits right, the rest is still 2^-20; with a wrong peer number the tuple bits match one guess in 64.
#[test]
fn tuple_bits_match_one_guess_in_sixty_four() {
    let mut cookies = Cookies::new(MASTER);
    let guesses = 200_000u32;
    let matched = (0..guesses).filter(|&guess| {
        let iss = Seq(guess.wrapping_mul(0x9e37_79b9));
        cookies.check(START, &flow(false, (guess >> 4) as u16), Seq(guess), iss) == Verdict::Tuple
    });
    let (matched, expected) = (matched.count() as f64, f64::from(guesses) / 64.0);
    assert!((matched - expected).abs() < 5.0 * expected.sqrt(), "{matched}, expected {expected}");
}

#[test]
fn a_new_secret_takes_over_at_its_slot_and_the_old_one_ends_with_its_cookies() {
    let change = START + 10 * SLOT_MS;
    let mut cookies = Cookies::new(MASTER);
    cookies.rotate(Master([0x43; 32]), change);
    let (flow, irs) = (flow(false, 1), Seq(9));
    let before = cookies.make(change - 1, &flow, irs, CHOICE);
    assert_eq!(before, Cookies::new(MASTER).make(change - 1, &flow, irs, CHOICE));
    let after = cookies.make(change, &flow, irs, CHOICE);
    assert_eq!(after, Cookies::new(Master([0x43; 32])).make(change, &flow, irs, CHOICE));
    // Both secrets live in the slots around the change.
    assert_eq!(cookies.check(change + 40_000, &flow, irs, before), Verdict::Whole(CHOICE));
    assert_eq!(cookies.check(change + 40_000, &flow, irs, after), Verdict::Whole(CHOICE));
    assert_eq!(cookies.check(change - 10_000, &flow, irs, after), Verdict::Whole(CHOICE));
    // An appliance that was told later agrees.
    let mut late = Cookies::new(MASTER);
    late.make(change - 1, &flow, irs, CHOICE);
    late.make(change, &flow, irs, CHOICE);
    late.rotate(Master([0x43; 32]), change);
    assert_eq!(late.check(change + 40_000, &flow, irs, before), Verdict::Whole(CHOICE));
    assert_eq!(late.check(change + 40_000, &flow, irs, after), Verdict::Whole(CHOICE));
    // And once more.
    cookies.rotate(Master([0x44; 32]), change + 10 * SLOT_MS);
    let third = cookies.make(change + 10 * SLOT_MS, &flow, irs, CHOICE);
    assert_eq!(third, Cookies::new(Master([0x44; 32])).make(change + 10 * SLOT_MS, &flow, irs, CHOICE));
}

/// All appliances of a fleet, and versions of Hedgerow, must agree on these. The values were computed by a second
/// implementation, written from the description alone.
#[test]
fn cookies_stay_what_they_are() {
    let mut cookies = Cookies::new(MASTER);
    let v4 = cookies.make(START, &flow(false, 40_000), Seq(1), CHOICE).0;
    let v6 = cookies.make(START + SLOT_MS, &flow(true, 40_000), Seq(1), Choice { mss: 0, profile: 7 }).0;
    assert_eq!((v4, v6), (1_693_871_555, 2_630_267_930));
}
