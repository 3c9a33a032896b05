//! Whatever peers and nodes do to their connections, and in whatever order: once they are gone, nobody holds anything.

use std::time::Duration;

use hedgerow_dataplane::shard::FlowId;
use proptest::prelude::*;

use super::rig::{OTHER_PEER, PEER, Plan, World};

/// What happens next. Numbers choose among the connections that there are.
#[derive(Debug, Clone, Copy)]
enum Event {
    Connect { other: bool },
    Say(u8, Words),
    PeerFinishes(u8),
    PeerAborts(u8),
    NodeSays(u8),
    NodeFinishes(u8),
    NodeAborts(u8),
    Turn,
    Settle,
    Pass(u16),
    ShutDown,
}

/// What a scripted session is told; a relay passes it on.
type Words = &'static [u8];

const WORDS: [Words; 12] =
    [b"Da", b"Db", b"SDa", b"SDb", b"W", b"w", b"WDa", b"!", b"E", b"SE", b".", b"DaE"];

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => any::<bool>().prop_map(|other| Event::Connect { other }),
        9 => (any::<u8>(), prop::sample::select(&WORDS[..])).prop_map(|(who, words)| Event::Say(who, words)),
        2 => any::<u8>().prop_map(Event::PeerFinishes),
        2 => any::<u8>().prop_map(Event::PeerAborts),
        1 => any::<u8>().prop_map(Event::NodeSays),
        2 => any::<u8>().prop_map(Event::NodeFinishes),
        2 => any::<u8>().prop_map(Event::NodeAborts),
        8 => Just(Event::Turn),
        4 => Just(Event::Settle),
        3 => (1..8_000u16).prop_map(Event::Pass),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    (0..2usize, 0..2usize, 0..3usize, any::<bool>(), 1..6u32, 1..4usize).prop_map(
        |(dead_nodes, silent_nodes, live_nodes, transparent, dials_per_second, work_queue)| Plan {
            dead_nodes,
            silent_nodes,
            live_nodes,
            transparent,
            dials_per_second,
            work_queue,
            ..Plan::default()
        },
    )
}

fn one_of(flows: &[FlowId], number: u8) -> Option<FlowId> {
    flows.get(usize::from(number) % flows.len().max(1)).copied()
}

fn happen(world: &mut World, peers: &mut Vec<FlowId>, event: Event) {
    let nodes: Vec<FlowId> = world.node.accepted().collect();
    let (peer, node) = (|number| one_of(peers, number), |number| one_of(&nodes, number));
    match event {
        Event::Connect { other } => {
            let flow = world.begin(if other { OTHER_PEER } else { PEER });
            peers.extend(flow);
        }
        Event::Say(number, words) => {
            if let Some(flow) = peer(number) {
                world.peer.say(flow, words);
            }
        }
        Event::PeerFinishes(number) => peer(number).into_iter().for_each(|flow| world.peer.finish(flow)),
        Event::PeerAborts(number) => peer(number).into_iter().for_each(|flow| world.peer.abort(flow)),
        Event::NodeSays(number) => {
            if let Some(flow) = node(number) {
                world.node.say(flow, b"from the node");
            }
        }
        Event::NodeFinishes(number) => node(number).into_iter().for_each(|flow| world.node.finish(flow)),
        Event::NodeAborts(number) => node(number).into_iter().for_each(|flow| world.node.abort(flow)),
        Event::Turn => drop(world.turn()),
        Event::Settle => world.settle(),
        Event::Pass(millis) => world.pass(Duration::from_millis(millis.into())),
        Event::ShutDown => world.shut_down(),
    }
}

/// Plays the events, has all peers hang up, and looks into the books after every deadline has passed.
fn check(mut world: World, events: &[Event]) -> Result<(), TestCaseError> {
    let mut peers = Vec::new();
    for &event in events {
        happen(&mut world, &mut peers, event);
    }
    for flow in peers {
        world.peer.abort(flow);
    }
    world.pass(Duration::from_secs(120));
    for (what, count) in world.holdings() {
        prop_assert_eq!(count, 0, "{} are still held", what);
    }
    let statistics = world.statistics();
    prop_assert_eq!(statistics.ended.total(), statistics.sessions_opened);
    prop_assert!(world.is_empty());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn relays_leave_nothing_behind(plan in plan(), events in prop::collection::vec(event(), 1..60)) {
        check(World::relays(plan), &events)?;
    }

    #[test]
    fn scripted_sessions_leave_nothing_behind(plan in plan(), events in prop::collection::vec(event(), 1..80)) {
        check(World::scripted(plan), &events)?;
    }

    #[test]
    fn a_shutdown_leaves_nothing_behind(
        plan in plan(),
        scripted in any::<bool>(),
        before in prop::collection::vec(event(), 1..40),
        after in prop::collection::vec(event(), 0..20),
    ) {
        let world = if scripted { World::scripted(plan) } else { World::relays(plan) };
        let events: Vec<Event> = before.into_iter().chain([Event::ShutDown]).chain(after).collect();
        check(world, &events)?;
    }
}
