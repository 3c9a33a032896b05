//! What a session does by rules that are not the node's: other limits, other actions, shadow, and rules that change while
//! it goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::world::{World, binary, judging, peer_credential, upgrade};
use crate::chia::{
    BEYOND_PEAK_MAX, HEIGHT_MARGIN, Handshake, Message, NodeType, NodeTypes, Schema, Would, number,
};
use crate::gate::Config;
use crate::rules::{
    Action, Enforcement, Friends, Layer, LimitRule, MessageRule, Numbers, ReasonRule, Response, Rules, Stated,
};
use crate::session::Session;
use crate::verdict::Reason;

fn at<T>(value: T) -> Option<Stated<T>> {
    Some(Stated { value, line: 1 })
}

/// Lets two `request_peers` pass in a minute, and does this about more.
fn two_requests(action: Action, shadow: bool) -> Layer {
    let from_peer = LimitRule { messages: at(2), ..LimitRule::default() };
    let rule =
        MessageRule { from_peer, to_peer: LimitRule::default(), action: at(action), shadow: at(shadow) };
    Layer { messages: [(number::REQUEST_PEERS, rule)].into(), ..Layer::default() }
}

fn reason(reason: Reason, action: Action) -> Layer {
    let reasons = BTreeMap::from([(reason, ReasonRule { action: at(action), shadow: None })]);
    Layer { reasons, ..Layer::default() }
}

fn rules(layer: Layer) -> Rules {
    Rules::new(Schema::embedded(), layer, Vec::new(), Friends::default())
}

fn world(rules: Rules) -> World {
    World::with(Config { rules: Arc::new(rules), ..judging() }, Some(peer_credential())).opened()
}

/// Asks for the block at a height.
fn request_block(height: u32, id: u16) -> Vec<u8> {
    let body = [&height.to_be_bytes()[..], &[1]].concat();
    binary(&Message::new(number::REQUEST_BLOCK, body).with_id(id).encode())
}

/// A node's word of its peak.
fn new_peak(height: u32) -> Vec<u8> {
    Message::new(number::NEW_PEAK, [&[7; 32][..], &height.to_be_bytes(), &[0; 52]].concat()).encode()
}

/// A session with a pool whose highest block is this one, if it is known, as so many requests for one height have come and
/// each was refused by the node.
fn asking(layer: Layer, known: Option<u32>, told: Option<u32>, height: u32, times: u64) -> World {
    let config = Config { rules: Arc::new(rules(layer)), ..judging() };
    config.standard.peak.set(known);
    let mut world = World::with(config, Some(peer_credential())).opened();
    if let Some(height) = told {
        world.node_sends(&new_peak(height));
    }
    for id in 0..times as u16 {
        world.say(&request_block(height, id));
        let refusal = Message::new(28, height.to_be_bytes()).with_id(id);
        if world.verdict().is_none() {
            world.node_sends(&refusal.encode());
        }
    }
    world
}

#[test]
fn requests_for_what_no_node_knows_pass_are_counted_and_end_a_session_where_the_rules_say_so() {
    let close = || reason(Reason::BeyondPeak, Action::Close);
    let (known, most) = (1_000, BEYOND_PEAK_MAX);
    let (edge, far) = (known + HEIGHT_MARGIN, known + HEIGHT_MARGIN + 1);
    let counted = |world: &World| (world.verdict(), world.gate.tally().noted.beyond_peak);
    // As a node does it: nothing is done about any number of them, but it can be seen.
    let mut world = asking(Layer::default(), Some(known), None, far, 2 * most);
    assert_eq!(counted(&world), (None, 2 * most));
    assert_eq!(world.node_messages().len() as u64, 1 + 2 * most);
    let response = Response { action: Action::Log, shadow: false };
    let expected = Would { reason: Reason::BeyondPeak, kind: number::REQUEST_BLOCK, response };
    assert_eq!(world.gate.would(), Some(expected));
    // A few are nobody's fault whatever the rules say, and beyond them they decide.
    assert_eq!(counted(&asking(close(), Some(known), None, far, most)), (None, most));
    let world = asking(close(), Some(known), None, far, most + 1);
    assert_eq!(counted(&world), (Some(Reason::BeyondPeak), most + 1));
    assert_eq!(world.node_messages().len() as u64, 1 + most, "the last one does not reach the node");
    let found = world.gate.finding().expect("a finding");
    assert_eq!((found.limit, found.message.as_deref()), (Some(most), Some("request_block")));
    // Within the margin, with no peak known, and above one that our node has told: nothing counts.
    for (known, told, height) in
        [(Some(known), None, edge), (None, None, far), (Some(known), Some(known + 1), far)]
    {
        let world = asking(close(), known, told, height, most + 5);
        assert_eq!(counted(&world), (None, 0), "{known:?} {told:?} {height}");
    }
}

fn request_peers() -> Vec<u8> {
    Message::new(number::REQUEST_PEERS, []).with_id(7).encode()
}

/// The session as three requests have come; how many went on.
fn after_three(rules: Rules) -> (World, usize) {
    let mut world = world(rules);
    // Every minute of the limits begins with a full minute of the clock.
    world.wait_until(Duration::from_secs(1_021));
    for _ in 0..3 {
        world.say(&binary(&request_peers()));
    }
    let passed = world.node_messages().len() - 1;
    (world, passed)
}

#[test]
fn beyond_a_limit_the_rules_decide() {
    let minute = Duration::from_secs(60);
    for (action, verdict, penalty) in [
        (Action::Close, Some(Reason::RateLimited), None),
        (Action::Ban(minute), Some(Reason::RateLimited), Some(minute)),
        (Action::Drop, None, None),
    ] {
        let (world, passed) = after_three(rules(two_requests(action, false)));
        assert_eq!((world.verdict(), passed, world.gate.penalty()), (verdict, 2, penalty), "{action}");
    }
    let (world, passed) = after_three(rules(two_requests(Action::Log, false)));
    assert_eq!((world.verdict(), passed), (None, 3));
}

#[test]
fn in_shadow_it_passes_and_is_told() {
    let ban = Action::Ban(Duration::from_secs(60));
    for rules in
        [rules(two_requests(ban, true)), rules(two_requests(ban, false)).enforced(Enforcement::Shadow)]
    {
        let (mut world, passed) = after_three(rules);
        assert_eq!((world.verdict(), passed, world.gate.penalty()), (None, 3, None));
        let response = Response { action: ban, shadow: true };
        let expected = Would { reason: Reason::RateLimited, kind: number::REQUEST_PEERS, response };
        assert_eq!((world.gate.would(), world.gate.would()), (Some(expected), None));
    }
}

#[test]
fn what_is_delayed_goes_on_in_its_order_once_the_minute_is_over() {
    let (mut world, passed) = after_three(rules(two_requests(Action::Delay, false)));
    assert_eq!((world.verdict(), passed), (None, 2));
    let other = Message::new(number::NONE_RESPONSE, []).with_id(7).encode();
    world.say(&binary(&other));
    world.wait_until(Duration::from_secs(1_079));
    assert_eq!(world.node_messages().len(), 3, "before the minute is over nothing goes on");
    world.wait_until(Duration::from_secs(1_081));
    assert_eq!(world.node_messages()[3], request_peers());
    assert_eq!(world.verdict(), None);
    // The node lives.
    world.node_sends(&Message::new(number::NEW_PEAK, vec![0; 88]).encode());
    // The delayed one counted for this minute: one more passes, and the next waits again.
    world.say(&binary(&request_peers()));
    let before = world.node_messages().len();
    world.say(&binary(&request_peers()));
    assert_eq!(world.node_messages().len(), before);
    world.wait_until(Duration::from_secs(1_141));
    assert_eq!((world.node_messages().len(), world.verdict()), (before + 1, None));
}

#[test]
fn a_kind_of_message_that_is_let_pass_reaches_the_node() {
    let farmers = Message::new(8, vec![0; 40]).encode();
    let mut closed = world(rules(Layer::default()));
    closed.say(&binary(&farmers));
    assert_eq!(closed.verdict(), Some(Reason::NotForThisSender));
    let mut passed = world(rules(reason(Reason::NotForThisSender, Action::Drop)));
    passed.say(&binary(&farmers));
    assert_eq!((passed.verdict(), passed.node_messages().len()), (None, 1));
}

#[test]
fn a_ban_for_a_reason_that_is_no_messages_is_told_to_the_host() {
    let hour = Duration::from_secs(3_600);
    let mut world = world(rules(reason(Reason::EnvelopeMalformed, Action::Ban(hour))));
    world.say(&binary(&[1, 2]));
    assert_eq!((world.verdict(), world.gate.penalty()), (Some(Reason::EnvelopeMalformed), Some(hour)));
}

#[test]
fn a_session_takes_other_rules_when_it_is_told_to_and_not_before() {
    let (mut world, passed) = after_three(rules(two_requests(Action::Log, false)));
    assert_eq!((world.verdict(), passed), (None, 3));
    world.gate.adopt(&Arc::new(rules(two_requests(Action::Close, false))));
    world.run();
    assert_eq!(world.verdict(), None, "what passed has passed");
    world.say(&binary(&request_peers()));
    assert_eq!(world.verdict(), Some(Reason::RateLimited));
}

#[test]
fn a_minute_that_is_over_is_told_once() {
    let (mut world, _) = after_three(rules(two_requests(Action::Log, false)));
    world.wait_until(Duration::from_secs(1_090));
    world.say(&binary(&request_peers()));
    let minute = world.gate.minute();
    let requests = minute.iter().find(|minute| minute.kind == number::REQUEST_PEERS).expect("requests");
    assert_eq!((requests.messages, requests.bytes, requests.largest), (3, 0, 0));
    assert_eq!(world.gate.minute(), []);
}

/// A wallet's session that has asked to be told of two puzzle hashes, and of three more.
fn subscribing(layer: Layer) -> World {
    let types = NodeTypes::NONE.with(NodeType::Wallet);
    let config = Config { rules: Arc::new(rules(layer)), types, ..judging() };
    let network = config.network.clone();
    let mut world = World::with(config, Some(peer_credential()));
    world.run();
    world.say(&upgrade());
    world.say(&binary(&Handshake::new(&network, NodeType::Wallet, 0).message().encode()));
    for (id, count) in [(1, 2u32), (2, 3)] {
        let hashes = vec![7; 32 * count as usize];
        let body = [&count.to_be_bytes()[..], &hashes, &0u32.to_be_bytes()].concat();
        world.say(&binary(&Message::new(number::REGISTER_FOR_PH_UPDATES, body).with_id(id).encode()));
    }
    world
}

#[test]
fn subscriptions_are_counted_and_bounded_where_the_rules_say_so() {
    let at_most = |most, mut layer: Layer| {
        layer.numbers = Numbers { subscriptions: at(most), ..Numbers::default() };
        subscribing(layer)
    };
    for world in [subscribing(Layer::default()), at_most(5, Layer::default())] {
        assert_eq!((world.verdict(), world.gate.tally().noted.subscriptions), (None, 5));
    }
    let world = at_most(4, reason(Reason::Subscriptions, Action::Log));
    assert_eq!((world.verdict(), world.node_messages().len()), (None, 3));
    let world = at_most(4, Layer::default());
    assert_eq!((world.verdict(), world.node_messages().len()), (Some(Reason::Subscriptions), 2));
    let found = world.gate.finding().expect("a finding");
    assert_eq!((found.limit, found.message.as_deref()), (Some(4), Some("register_for_ph_updates")));
}
