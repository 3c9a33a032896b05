//! Sessions that a node begins: dialled outward, one per peer and node, and ended with what they hang on.

use hedgerow_dataplane::Reason as FlowReason;
use hedgerow_dataplane::shard::FlowId;
use hedgerow_policy::Reason;

use super::super::Happened;
use super::rig::{HELLO, OTHER_PEER, PEER, Plan, World};
use super::seconds;

fn world() -> World {
    let mut world = World::scripted(Plan::default());
    world.let_out(true);
    world
}

/// The node's connection to a peer whose identity is this, and the peer's end.
fn underway(world: &mut World, id: u8) -> (FlowId, FlowId) {
    let node = world.depart(PEER);
    let peer = world.peer.last().expect("the peer is dialled");
    world.say(peer, &[b'S', b'C', id]);
    (node, peer)
}

fn is_empty(world: &World) -> bool {
    world.holdings().iter().all(|(_, count)| *count == 0)
}

#[test]
fn a_node_s_connection_goes_out_as_ours_and_comes_in_as_the_peer_s() {
    let mut world = world();
    let node = world.depart(PEER);
    let peer = world.peer.last().expect("the peer is dialled");
    let shown = world.peer.remote(peer);
    assert_eq!(shown.ip().to_string(), "198.18.0.1", "what nodes show outside");
    assert_eq!(world.peer.heard(peer), b"dialled", "the node waits until the peer is known");
    world.say(peer, b"SCa");
    assert_eq!(world.peer.heard(peer), HELLO);
    world.say(peer, b"FhFi");
    assert_eq!(world.node.heard(node), b"hi");
    let statistics = world.statistics();
    assert_eq!((statistics.sessions_begun, statistics.sessions_dialled), (1, 0));
    assert_eq!(statistics.pools[0].nodes[0].1.begun, 1);
    world.node.abort(node);
    world.settle();
    assert_eq!(world.peer.closed(peer), Some(FlowReason::Reset));
    assert!(is_empty(&world), "{:?}", world.holdings());
    let events = world.events();
    let node = "10.0.0.2:8444";
    let [dialled, closed] = &events[..] else { panic!("{events:?}") };
    assert!(matches!(&dialled.what, Happened::Dialled { node: name } if **name == *node), "{dialled:?}");
    assert!(matches!(&closed.what, Happened::Closed { reason: Reason::NodeLost, .. }), "{closed:?}");
    assert!(events.iter().all(|event| event.begun_by.as_deref() == Some(node) && event.peer.ip() == PEER));
}

#[test]
fn a_peer_that_is_not_there_is_a_refused_connection_to_the_node() {
    let mut world = world();
    let node = world.depart("198.18.0.99".parse().unwrap());
    world.pass(seconds(60));
    assert_eq!(world.node.closed(node), Some(FlowReason::Reset));
    assert_eq!(world.statistics().ended[Reason::PeerUnreachable], 1);
    assert!(is_empty(&world), "{:?}", world.holdings());
    assert!(world.events().is_empty(), "nobody has proved anything");
}

#[test]
fn a_node_that_gives_up_while_its_peer_is_dialled_leaves_nothing_behind() {
    let mut world = world();
    let node = world.depart("198.18.0.99".parse().unwrap());
    world.node.abort(node);
    world.settle();
    assert!(is_empty(&world), "{:?}", world.holdings());
}

#[test]
fn a_node_has_one_connection_with_a_peer_whoever_began_it() {
    // The peer came first.
    let mut world = world();
    let inbound = world.connect(PEER);
    world.say(inbound, b"SDa");
    let (node, outbound) = underway(&mut world, b'a');
    world.say(inbound, b".");
    assert_eq!(world.node.closed(node), Some(FlowReason::Reset));
    assert_eq!((world.peer.closed(outbound), world.peer.closed(inbound)), (Some(FlowReason::Reset), None));
    assert_eq!(world.statistics().ended[Reason::DuplicateId], 1);
    // One with another identity at the same address is another peer.
    let (node, outbound) = underway(&mut world, b'b');
    assert_eq!((world.node.closed(node), world.peer.closed(outbound)), (None, None));
    // The node came first: even from that very address the peer is asked first whether it lives.
    let inbound = world.connect(PEER);
    world.say(inbound, b"SDb");
    world.say(outbound, b".");
    assert_eq!((world.peer.closed(inbound), world.node.closed(node)), (Some(FlowReason::Reset), None));
    // Who is silent has gone.
    let inbound = world.connect(OTHER_PEER);
    world.say(inbound, b"SDb");
    world.pass(seconds(6));
    assert_eq!((world.peer.closed(inbound), world.node.closed(node)), (None, Some(FlowReason::Reset)));
    assert_eq!(world.statistics().ended[Reason::Replaced], 1);
}

#[test]
fn no_peer_comes_with_what_stands_for_a_node_outside() {
    let mut world = world();
    let (node, outbound) = underway(&mut world, b'z');
    assert_eq!(world.statistics().ended[Reason::OwnNode], 1);
    assert!(world.node.closed(node).is_some() && world.peer.closed(outbound).is_some());
    let inbound = world.connect(OTHER_PEER);
    world.say(inbound, b"SDz");
    assert_eq!(world.statistics().ended[Reason::OwnNode], 2);
}

#[test]
fn what_a_node_began_ends_when_its_way_out_closes_and_by_a_ban() {
    let mut world = world();
    let (node, peer) = underway(&mut world, b'a');
    world.events();
    world.let_out(false);
    assert_eq!(
        (world.node.closed(node), world.peer.closed(peer)),
        (Some(FlowReason::Reset), Some(FlowReason::Reset))
    );
    let closed = |world: &mut World| {
        world.events().into_iter().find_map(|event| match event.what {
            Happened::Closed { flow, .. } => flow,
            _ => None,
        })
    };
    assert_eq!(closed(&mut world), Some(FlowReason::EgressClosed));
    world.let_out(true);
    let (node, peer) = underway(&mut world, b'a');
    world.ban(PEER);
    assert_eq!(
        (world.node.closed(node), world.peer.closed(peer)),
        (Some(FlowReason::Reset), Some(FlowReason::Reset))
    );
    assert_eq!(closed(&mut world), Some(FlowReason::Banned));
    // And nothing is begun to it any more.
    let before = world.peer.accepted().count();
    let node = world.depart(PEER);
    assert_eq!((world.node.closed(node), world.peer.accepted().count()), (Some(FlowReason::Refused), before));
    assert!(is_empty(&world), "{:?}", world.holdings());
}

#[test]
fn a_drained_node_loses_what_it_began_and_begins_nothing_more() {
    let mut world = World::scripted(Plan { live_nodes: 1, silent_nodes: 1, ..Plan::default() });
    world.let_out(true);
    let (node, peer) = underway(&mut world, b'a');
    world.books(|books, now| books.pools[0].drain(now, "10.0.0.2:8444", None)).unwrap();
    let refused = world.depart(OTHER_PEER);
    assert_eq!(world.node.closed(refused), Some(FlowReason::Reset));
    world.pass(seconds(10));
    assert!(world.peer.heard(peer).ends_with(b"bye"));
    world.peer.abort(peer);
    world.node.abort(node);
    world.pass(seconds(1));
    assert_eq!(world.statistics().ended[Reason::Drained], 1);
    let duty = world.statistics().pools[0].nodes[1].1.duty;
    assert!(matches!(duty, crate::pool::node::Duty::Maintenance(None)), "{duty:?}");
    world.books(|books, now| books.pools[0].undrain(now, "10.0.0.2:8444")).unwrap();
    let (node, _) = underway(&mut world, b'a');
    assert_eq!(world.node.closed(node), None);
    // A node that is removed by force loses it at once.
    let peer = world.peer.last().expect("it stands");
    world.books(|books, _| books.pools[0].remove("10.0.0.2:8444", true)).unwrap();
    world.pass(seconds(1));
    assert!(world.peer.heard(peer).ends_with(b"bye"));
    world.peer.abort(peer);
    world.node.abort(node);
    world.pass(seconds(1));
    assert_eq!(world.statistics().ended[Reason::Drained], 2);
    assert!(is_empty(&world), "{:?}", world.holdings());
}

#[test]
fn a_shutdown_takes_nothing_out_and_leaves_nothing_behind() {
    let mut world = world();
    let (node, peer) = underway(&mut world, b'a');
    world.shut_down();
    assert!(world.peer.heard(peer).ends_with(b"bye"));
    let refused = world.depart(OTHER_PEER);
    assert_eq!(world.node.closed(refused), Some(FlowReason::Reset));
    world.node.abort(node);
    world.peer.abort(peer);
    world.cut_off();
    assert!(is_empty(&world), "{:?}", world.holdings());
}
