//! Whatever both sides, the host and the clock do, and in whatever order: messages arrive whole and in order for as long as
//! the session lives, and once it is over it holds nothing.

use proptest::prelude::*;

use super::world::{World, message};
use crate::gate::Budgets;
use crate::session::{End, Leg, Session};
use crate::verdict::Reason;
use crate::websocket::{CloseFrame, Opcode, encode_frame};

/// What happens next.
#[derive(Debug, Clone)]
enum Event {
    Says(Side, usize, Vec<prop::sample::Index>),
    Pings(Side),
    Reads(Side, bool),
    Closes(Side),
    Ends(Side, End),
    Waits(u64),
    Probed,
    HostCloses,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Side {
    Peer,
    Node,
}

impl Side {
    const fn leg(self) -> Leg {
        match self {
            Side::Peer => Leg::Public,
            Side::Node => Leg::Private,
        }
    }
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Peer), Just(Side::Node)]
}

/// Sizes of whole messages around those at which the framing changes, of frames, records and fragments.
fn size() -> impl Strategy<Value = usize> {
    const EDGES: &[usize] =
        &[6, 7, 125, 126, 127, 1_024, 16_384, 32_768, 65_535, 65_536, 65_542, 131_072, 300_000];
    (prop::sample::select(EDGES), 0..4usize).prop_map(|(edge, more)| edge + more)
}

fn event() -> impl Strategy<Value = Event> {
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..3);
    prop_oneof![
        24 => (side(), size(), cuts).prop_map(|(side, size, cuts)| Event::Says(side, size, cuts)),
        4 => side().prop_map(Event::Pings),
        6 => (side(), any::<bool>()).prop_map(|(side, reads)| Event::Reads(side, reads)),
        3 => (0..40u64).prop_map(Event::Waits),
        1 => Just(Event::Probed),
        1 => side().prop_map(Event::Closes),
        1 => (side(), prop::sample::select(&[End::Fin, End::Reset, End::TimedOut, End::Aborted][..]))
            .prop_map(|(side, how)| Event::Ends(side, how)),
        1 => Just(Event::HostCloses),
    ]
}

/// The message in fragments, a ping before each but the first.
fn frames(mask: Option<[u8; 4]>, message: &[u8], cuts: &[prop::sample::Index]) -> Vec<u8> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(message.len())).collect();
    ends.push(message.len());
    ends.sort_unstable();
    let (mut bytes, mut from) = (Vec::new(), 0);
    for (count, &end) in ends.iter().enumerate() {
        let opcode = if count == 0 { Opcode::Binary } else { Opcode::Continuation };
        if count > 0 {
            bytes.extend(encode_frame(true, Opcode::Ping, mask, b"alive"));
        }
        bytes.extend(encode_frame(count + 1 == ends.len(), opcode, mask, &message[from..end]));
        from = end;
    }
    bytes
}

/// What each side has said, in order.
#[derive(Default)]
struct Said {
    by_peer: Vec<Vec<u8>>,
    by_node: Vec<Vec<u8>>,
    ended: Vec<Side>,
}

fn says(world: &mut World, side: Side, plain: &[u8]) {
    match side {
        Side::Peer => world.say(plain),
        Side::Node => world.node_says(plain),
    }
}

fn happen(world: &mut World, said: &mut Said, event: &Event) {
    match event {
        // Nobody speaks after its end.
        Event::Says(side, ..) | Event::Pings(side) | Event::Closes(side) if said.ended.contains(side) => {}
        Event::Says(side, size, cuts) => {
            // A block, which a node takes without having asked; its bytes differ from those of others.
            let mut message = message(27, size - 6);
            let count = said.by_peer.len() + said.by_node.len();
            message.iter_mut().skip(6).enumerate().for_each(|(at, byte)| *byte = (at * 7 + count) as u8);
            let bytes = frames(world.mask(side.leg()), &message, cuts);
            match side {
                Side::Peer => said.by_peer.push(message),
                Side::Node => said.by_node.push(message),
            }
            says(world, *side, &bytes);
        }
        Event::Pings(side) => {
            let frame = encode_frame(true, Opcode::Ping, world.mask(side.leg()), b"?");
            says(world, *side, &frame);
        }
        Event::Closes(side) => {
            said.ended.push(*side);
            let frame = CloseFrame::new(1_000, "enough").encode();
            let frame = encode_frame(true, Opcode::Close, world.mask(side.leg()), &frame);
            says(world, *side, &frame);
        }
        Event::Reads(Side::Peer, reads) => world.peer.reads = *reads,
        Event::Reads(Side::Node, reads) => world.node.as_mut().expect("a node").reads = *reads,
        Event::Ends(side, how) => {
            said.ended.push(*side);
            world.ends(side.leg(), *how);
        }
        Event::Waits(seconds) => world.wait(*seconds),
        Event::Probed => world.gate.probe(world.now),
        Event::HostCloses => world.gate.close(world.now, Reason::Aborted),
    }
    world.run();
}

/// What arrived, without the handshake, against what was said: all of it while the session lives, its beginning after.
fn arrived(lives: bool, arrived: &[Vec<u8>], said: &[Vec<u8>]) -> Result<(), TestCaseError> {
    let arrived = &arrived[1..];
    prop_assert!(arrived.len() <= said.len());
    prop_assert!(!lives || arrived.len() == said.len(), "{} of {} arrived", arrived.len(), said.len());
    for (at, (arrived, said)) in arrived.iter().zip(said).enumerate() {
        prop_assert!(arrived == said, "message {} is another", at);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_changed_or_kept(
        chunk in prop::sample::select(&[61, 1_400, 2_048, usize::MAX][..]),
        events in prop::collection::vec(event(), 1..24),
        node_began in any::<bool>(),
    ) {
        let mut world = if node_began { World::departed() } else { World::open() };
        world.chunk = chunk;
        let Budgets { nodes, held } = world.gate.exchange.config.budgets.clone();
        let all = [nodes.free(), held.free()];
        let mut said = Said::default();
        for event in &events {
            happen(&mut world, &mut said, event);
        }
        for side in [Side::Peer, Side::Node] {
            happen(&mut world, &mut said, &Event::Reads(side, true));
        }
        let lives = world.verdict().is_none();
        arrived(lives, world.node_messages(), &said.by_peer)?;
        arrived(lives, &world.peer.messages, &said.by_node)?;

        world.ends(Leg::Public, End::Reset);
        world.ends(Leg::Private, End::Reset);
        world.wait(60);
        prop_assert!(world.verdict().is_some());
        prop_assert_eq!([nodes.free(), held.free()], all);
        prop_assert_eq!(world.gate.deadline(), None);
        prop_assert!(world.gate.request().is_none());
    }
}
