//! Which rule holds for whom, and that tables say what layers state.

use core::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::chia::{Envelope, Limiter, NodeTypes, Tables, number};
use crate::verdict::Reason;

const SECOND: Tables = Tables { second: true, third: false };

fn at<T>(line: u32, value: T) -> Option<Stated<T>> {
    Some(Stated { value, line })
}

fn who() -> Who {
    let version = Version::parse("2.7.5");
    Who { listener: 1, source: [192, 0, 2, 7].into(), id: None, kind: Some(NodeType::FullNode), version }
}

/// A layer that lets so many `request_blocks` pass in a minute.
fn blocks(line: u32, messages: u32) -> Layer {
    let from_peer = LimitRule { messages: at(line, messages), ..LimitRule::default() };
    let rule = MessageRule { from_peer, ..MessageRule::default() };
    Layer { messages: [(number::REQUEST_BLOCKS, rule)].into(), ..Layer::default() }
}

fn rules(everybody: Layer, scopes: Vec<Scope>, friends: Friends) -> Rules {
    Rules::new(Schema::embedded(), everybody, scopes, friends)
}

fn messages(rules: &Rules, who: &Who) -> u32 {
    let limit = rules.table(who).from_peer().limit(SECOND, number::REQUEST_BLOCKS).expect("a limit");
    limit.rate.expect("a rate").messages
}

#[test]
fn without_a_file_everything_is_as_the_nodes_tables_say() {
    let rules = Rules::default();
    let table = rules.table(&who());
    for facts in rules.schema().messages() {
        for (second, third) in [(false, false), (true, false), (false, true), (true, true)] {
            let tables = Tables { second, third };
            assert_eq!(table.from_peer().limit(tables, facts.number), tables.limit(facts), "{}", facts.name);
            assert_eq!(table.to_peer().limit(tables, facts.number), tables.limit(facts), "{}", facts.name);
        }
    }
    for &reason in Reason::ALL {
        // A node goes on after it has said no to a height that it does not know.
        let passes = reason == Reason::BeyondPeak;
        let action = if passes { Action::Log } else { Action::Close };
        assert_eq!(table.response(reason, None), Response { action, shadow: false }, "{reason}");
        assert_eq!(table.response(reason, None).passes(reason), passes);
    }
    assert_eq!((table.in_flight, table.interiors, table.hold), (2, false, None));
}

#[test]
fn scopes_go_before_everybody_and_later_ones_before_earlier_ones() {
    let scope =
        |name: &str, messages| Scope { name: name.into(), layer: blocks(9, messages), ..Scope::default() };
    let peers = |scope: Scope, change: fn(&mut Scope)| {
        let mut scope = scope;
        change(&mut scope);
        scope
    };
    let scopes = vec![
        peers(scope("listener", 1), |scope| scope.listener = Some(0)),
        peers(scope("kind", 2), |scope| scope.kinds = Some(NodeTypes::NONE.with(NodeType::Wallet))),
        peers(scope("source", 3), |scope| scope.sources = Some(vec!["198.51.100.0/24".parse().unwrap()])),
        peers(scope("version", 4), |scope| scope.versions = VersionRange::parse("< 2.6")),
        peers(scope("friend", 5), |scope| scope.friend = Some(true)),
    ];
    let friends =
        Friends { ids: [PeerId([7; 32])].into(), networks: vec!["203.0.113.8/29".parse().unwrap()] };
    let rules = rules(blocks(2, 100), scopes, friends);
    assert_eq!(messages(&rules, &who()), 100);
    assert_eq!(messages(&rules, &Who { listener: 0, ..who() }), 1);
    assert_eq!(messages(&rules, &Who { kind: Some(NodeType::Wallet), listener: 0, ..who() }), 2);
    assert_eq!(messages(&rules, &Who { kind: None, ..who() }), 100);
    assert_eq!(messages(&rules, &Who { source: "::ffff:198.51.100.9".parse().unwrap(), ..who() }), 3);
    assert_eq!(messages(&rules, &Who { version: Version::parse("2.5.9"), ..who() }), 4);
    assert_eq!(messages(&rules, &Who { version: None, ..who() }), 100);
    assert_eq!(messages(&rules, &Who { id: Some(PeerId([7; 32])), listener: 0, ..who() }), 5);
    assert_eq!(messages(&rules, &Who { source: [203, 0, 113, 9].into(), ..who() }), 5);
}

#[test]
fn a_messages_own_action_goes_before_that_of_the_reason() {
    let ban = Action::Ban(Duration::from_secs(60));
    let mut everybody = blocks(2, 100);
    everybody.messages.get_mut(&number::REQUEST_BLOCKS).unwrap().action = at(3, Action::Delay);
    everybody.reasons.insert(Reason::RateLimited, ReasonRule { action: at(5, ban), shadow: None });
    let rules = rules(everybody, Vec::new(), Friends::default());
    let table = rules.table(&who());
    assert_eq!(table.response(Reason::RateLimited, Some(number::REQUEST_BLOCKS)).action, Action::Delay);
    assert_eq!(
        table.response(Reason::RateLimited, Some(number::NEW_PEAK)).ban(),
        Some(Duration::from_secs(60))
    );
    let facts = rules.schema().message(number::REQUEST_BLOCKS).unwrap();
    let why = rules.explain(&who(), facts, SECOND);
    let value = |values: &[Value], name| values.iter().find(|value| value.name == name).unwrap().clone();
    assert_eq!(value(&why.response, "action").source, Source::Line(3));
    assert_eq!(value(&why.from_peer, "per_minute").source, Source::Line(2));
    assert_eq!(value(&why.from_peer, "size").source, Source::Node);
}

#[test]
fn in_shadow_all_that_can_pass_passes_and_nobody_is_banned() {
    let ban = ReasonRule { action: at(1, Action::Ban(Duration::from_secs(60))), shadow: None };
    let reasons = Reason::ALL.iter().map(|&reason| (reason, ban)).collect();
    let rules = rules(Layer { reasons, ..Layer::default() }, Vec::new(), Friends::default());
    let table = rules.enforced(Enforcement::Shadow).table(&who());
    for &reason in Reason::ALL {
        let response = table.response(reason, None);
        assert_eq!(response.ban(), None);
        assert_eq!(response.passes(reason), fits(reason, Action::Log), "{reason}");
    }
    assert!(table.response(Reason::RateLimited, Some(1)).passes(Reason::RateLimited));
    assert!(!table.response(Reason::TlsGarbage, None).passes(Reason::TlsGarbage));
}

#[test]
fn a_postponed_message_counts_for_the_next_minute() {
    let rules = rules(blocks(1, 2), Vec::new(), Friends::default());
    let table = rules.table(&who());
    let envelope = Envelope { kind: number::REQUEST_BLOCKS, id: Some(1), body: 9 };
    let mut limiter = Limiter::default();
    let count = |limiter: &mut Limiter, second| {
        limiter.count(Duration::from_secs(second), table.from_peer(), SECOND, &envelope)
    };
    assert!(count(&mut limiter, 61).is_ok() && count(&mut limiter, 61).is_ok());
    assert!(count(&mut limiter, 61).is_err());
    assert_eq!(limiter.postpone(table.from_peer(), SECOND, &envelope), Duration::from_secs(120));
    // One of two places of the next minute is taken, although it has not begun.
    assert!(count(&mut limiter, 62).is_ok());
    assert!(count(&mut limiter, 62).is_err());
    assert_eq!(limiter.take_over().iter().map(|minute| minute.messages).sum::<u32>(), 3);
}

proptest! {
    /// A table has what a slow reading of the layers has, whatever the scopes.
    #[test]
    fn tables_say_what_the_last_layer_states(stated in prop::collection::vec(prop::option::of(1..1_000_u32), 1..6)) {
        let layer = |index: usize| stated[index].map(|messages| blocks(index as u32, messages)).unwrap_or_default();
        let scopes = (1..stated.len()).map(|index| Scope { layer: layer(index), ..Scope::default() }).collect();
        let rules = rules(layer(0), scopes, Friends::default());
        let node = SECOND.limit(rules.schema().message(number::REQUEST_BLOCKS).unwrap()).unwrap();
        let expected = stated.iter().rev().find_map(|messages| *messages);
        prop_assert_eq!(messages(&rules, &who()), expected.unwrap_or(node.rate.unwrap().messages));
    }
}
