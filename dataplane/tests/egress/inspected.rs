//! What nodes begin and somebody inspects: it ends here in the name of where it was going, and nothing of it is passed on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hedgerow_dataplane::Reason;
use hedgerow_dataplane::egress::Inspect;
use hedgerow_dataplane::frame::Meta;
use hedgerow_dataplane::screen::DenyList;
use hedgerow_dataplane::shard::{Event, FlowId, ShardIndex, Source, Target};
use hedgerow_dataplane::wire::{Address, Prefix};
use proptest::prelude::*;
use smoltcp::wire::TcpControl;

use super::world::*;

const PEER: End = (IpAddr::V4(WORLD), 8_444);
const PEER_V6: End = (IpAddr::V6(WORLD_V6), 8_444);
const NODE_V6_END: End = (IpAddr::V6(NODE_V6), 5_000);
/// What a ClientHello begins with.
const HELLO: &[u8] = &[22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3];

/// Both nodes' connections to port 8444 are inspected, so many at once.
struct Inspecting {
    world: World,
    held: [Arc<AtomicU32>; 2],
    at_once: u32,
}

impl Inspecting {
    fn new(shards: u16, at_once: u32) -> Inspecting {
        let mut made = Inspecting { world: World::new(shards, 1_500), held: Default::default(), at_once };
        made.open(true);
        made
    }

    fn open(&mut self, open: bool) {
        let inspect = |node: usize| Inspect {
            ports: [8_444].into(),
            at_once: self.at_once,
            held: self.held[node].clone(),
        };
        let rules = rules_inspecting(open, &[inspect(0), inspect(1)]);
        for shard in &mut self.world.shards {
            shard.set_egress(rules.clone());
            shard.advance(self.world.now);
        }
    }

    fn held(&self) -> [u32; 2] {
        [0, 1].map(|node| self.held[node].load(Ordering::Relaxed))
    }

    /// What shards hear about flows.
    fn events(&mut self) -> Vec<(usize, Event)> {
        let now = self.world.now;
        let shards = self.world.shards.iter_mut().enumerate();
        shards.flat_map(|(at, shard)| std::iter::from_fn(move || Some((at, shard.event(now)?)))).collect()
    }

    /// A node begins a connection: what answers its SYN, at one shard.
    fn syn(&mut self, shard: usize, node: End, to: End) -> u32 {
        let answer = self.world.one(shard, INNER, tcp(INNER, node, to, TcpControl::Syn, None, b""), INNER);
        assert_eq!((answer.from, answer.at, answer.to), (to, node, mac(node.0)));
        let What::Tcp { rst: false, seq, payload } = answer.what else { panic!("{answer:?}") };
        assert!(payload.is_empty());
        seq
    }

    /// Its hello, at one shard, and what is sent for it.
    fn hello(&mut self, shard: usize, node: End, to: End, seq: u32) -> Vec<Seen> {
        let ack = Some(seq.wrapping_add(1));
        let hello = tcp_at(INNER, node, to, 1_001, TcpControl::Psh, ack, HELLO);
        let [outer, inner] = self.world.give(shard, INNER, hello, Meta::default());
        assert!(outer.is_empty(), "{outer:?}");
        inner.iter().map(|(bytes, _)| see(bytes)).collect()
    }

    /// A connection as the host hears of it.
    fn begin(&mut self, shard: usize, node: End, to: End) -> (usize, FlowId) {
        let seq = self.syn(shard, node, to);
        self.hello(shard, node, to, seq);
        let begun = self.events().into_iter().find_map(|(at, event)| match event {
            Event::Departing(id, _) => Some((at, id)),
            _ => None,
        });
        begun.expect("it departs")
    }
}

fn is_reset(seen: &[Seen]) -> bool {
    matches!(seen, [Seen { what: What::Tcp { rst: true, .. }, .. }])
}

#[test]
fn a_node_s_connection_ends_here_in_the_name_of_where_it_was_going() {
    for (node, peer) in [(NODE_END, PEER), (NODE_V6_END, PEER_V6)] {
        let mut it = Inspecting::new(1, 4);
        let seq = it.syn(0, node, peer);
        let ack = Some(seq.wrapping_add(1));
        // As with any stranger: nothing is remembered before it has said something.
        let bare = tcp_at(INNER, node, peer, 1_001, TcpControl::None, ack, b"");
        it.world.none(0, INNER, bare, Reason::AwaitingData);
        assert_eq!((it.events(), it.held()), (vec![], [0, 0]));
        it.hello(0, node, peer, seq);
        let events = it.events();
        let [(0, Event::Departing(id, 0)), (0, Event::Readable(_))] = events[..] else {
            panic!("{events:?}")
        };
        let mut flow = it.world.shards[0].flow(id).expect("a flow");
        let key = flow.key();
        assert_eq!((key.local, key.local_port), (Address::from(peer.0), peer.1));
        assert_eq!((key.remote, key.remote_port), (Address::from(node.0), node.1));
        assert_eq!(flow.peek(), HELLO);
        flow.consume(HELLO.len());
        assert_eq!(flow.write(b"hello from afar"), 15);
        drop(flow);
        assert_eq!((it.held(), it.world.shards[0].statistics().departed), ([1, 0], 1));
        // What the host says goes to the node, from where it believes to be.
        let [outer, inner] = it.world.give(
            0,
            INNER,
            udp(INNER, (IpAddr::V4(OTHER_NODE), 1), (INSIDE.into(), 9), b""),
            Meta::default(),
        );
        assert!(outer.is_empty());
        let said = inner.iter().map(|(bytes, _)| see(bytes)).find_map(|seen| match seen.what {
            What::Tcp { payload, .. } if !payload.is_empty() => Some((seen.from, seen.at, payload)),
            _ => None,
        });
        assert_eq!(said, Some((peer, node, b"hello from afar".to_vec())));
        it.world.shards[0].flow(id).expect("a flow").abort(Reason::Aborted);
        assert!(matches!(it.events()[..], [(0, Event::Closed(..))]));
        assert_eq!(it.held(), [0, 0]);
        assert_eq!(it.world.shards[0].egress_sessions().count(), 0, "nothing was passed on");
    }
}

#[test]
fn what_nobody_inspects_is_passed_on_as_ever() {
    let mut it = Inspecting::new(1, 4);
    converse(&mut it.world, NODE_END, WORLD_END);
    for to in [(PEER.0, 443), (PEER.0, 8_443)] {
        let out = it.world.one(0, INNER, tcp(INNER, NODE_END, to, TcpControl::Syn, None, b""), OUTER);
        assert_eq!((out.from.0, out.at), (IpAddr::V4(OURS), to));
    }
    let udp = it.world.one(0, INNER, udp(INNER, NODE_END, PEER, b"no TCP"), OUTER);
    assert_eq!(udp.at, PEER);
}

#[test]
fn who_may_not_go_there_gets_no_connection() {
    let mut it = Inspecting::new(1, 4);
    let syn = |from: End, to: End| tcp(INNER, from, to, TcpControl::Syn, None, b"");
    let spoofed = (IpAddr::V4([10, 0, 0, 99].into()), 5_000);
    it.world.none(0, INNER, syn(spoofed, PEER), Reason::EgressUnknownNode);
    // A stranger outside who shows a node's address.
    let outside = tcp(OUTER, NODE_END, PEER, TcpControl::Syn, None, b"");
    it.world.none(0, OUTER, outside, Reason::EgressUnsolicited);
    // Our own address, past the listener on the other link.
    let told = it.world.one(0, INNER, syn(NODE_END, (IpAddr::V4(OURS), 8_444)), INNER);
    assert!(matches!(told.what, What::Error(3, 13, _)), "{told:?}");
    assert_eq!(it.world.count(Reason::EgressRefused), 1);
    // A peer that is refused itself.
    let deny = DenyList::new([Prefix::host(Address::from(WORLD))], 1);
    it.world.shards[0].set_deny(Arc::new(deny), None);
    let refused = it.world.one(0, INNER, syn(NODE_END, PEER), INNER);
    assert!(is_reset(&[refused]) && it.world.count(Reason::Banned) == 1);
    it.world.shards[0].set_deny(Arc::default(), None);
    // It speaks no TLS.
    let seq = it.syn(0, NODE_END, PEER);
    let odd =
        tcp_at(INNER, NODE_END, PEER, 1_001, TcpControl::Psh, Some(seq.wrapping_add(1)), b"GET / HTTP/1.1");
    let odd = it.world.one(0, INNER, odd, INNER);
    assert!(is_reset(&[odd]) && it.world.count(Reason::NotClientHello) == 1);
    // Its way out is closed.
    it.open(false);
    let told = it.world.one(0, INNER, syn(NODE_END, PEER), INNER);
    assert!(matches!(told.what, What::Error(3, 13, _)), "{told:?}");
    assert_eq!((it.world.count(Reason::EgressClosed), it.held()), (1, [0, 0]));
}

#[test]
fn a_cookie_of_before_is_no_way_out_once_it_is_closed() {
    let mut it = Inspecting::new(1, 4);
    let seq = it.syn(0, NODE_END, PEER);
    it.open(false);
    let sent = it.hello(0, NODE_END, PEER, seq);
    assert!(is_reset(&sent), "{sent:?}");
    assert!(it.events().is_empty());
}

#[test]
fn a_node_has_so_many_at_once_in_all_shards_together() {
    let mut it = Inspecting::new(2, 3);
    let ends: Vec<End> = (0..4).map(|n| (NODE_END.0, 6_000 + n)).collect();
    let begun: Vec<_> = ends[..3].iter().map(|&end| it.begin(usize::from(end.1 & 1), end, PEER)).collect();
    assert_eq!(it.held(), [3, 0]);
    let seq = it.syn(0, ends[3], PEER);
    let sent = it.hello(0, ends[3], PEER, seq);
    assert!(is_reset(&sent) && it.world.count(Reason::InspectFull) == 1, "{sent:?}");
    // Another node's are counted for itself, and one that ended makes room.
    it.begin(1, (IpAddr::V4(OTHER_NODE), 6_000), PEER);
    let (at, id) = begun[0];
    it.world.shards[at].flow(id).expect("a flow").abort(Reason::Aborted);
    it.events();
    it.world.transmit(at, INNER, &mut Default::default());
    assert_eq!(it.held(), [2, 1]);
    it.begin(1, ends[3], PEER);
    assert_eq!(it.held(), [3, 1]);
}

#[test]
fn rules_that_no_longer_allow_it_end_a_connection() {
    let mut it = Inspecting::new(2, 4);
    let (at, id) = it.begin(1, NODE_END, PEER);
    it.open(true);
    assert!(it.world.shards[at].flow(id).is_some());
    it.open(false);
    assert_eq!(it.events(), [(at, Event::Closed(id, Reason::EgressClosed))]);
    let mut sent = [Vec::new(), Vec::new()];
    it.world.transmit(at, INNER, &mut sent);
    let [(reset, _)] = &sent[1][..] else { panic!("{sent:?}") };
    assert!(is_reset(&[see(reset)]) && it.held() == [0, 0]);
}

#[test]
fn a_ban_of_where_it_goes_ends_a_connection() {
    let mut it = Inspecting::new(1, 4);
    let (_, id) = it.begin(0, NODE_END, PEER);
    let list = |ip: IpAddr| Arc::new(DenyList::new([Prefix::host(ip.into())], 1));
    for (ip, ends) in [(NODE_END.0, false), (PEER.0, true)] {
        it.world.shards[0].set_deny(list(ip), Some(list(ip)));
        it.world.shards[0].advance(it.world.now);
        let events = it.events();
        assert_eq!(events == [(0, Event::Closed(id, Reason::Banned))], ends, "{events:?}");
    }
}

/// A router on the way, or another queue than before: each frame finds its flow.
#[test]
fn frames_at_other_shards_find_the_connection() {
    let mut it = Inspecting::new(2, 4);
    let seq = it.syn(0, NODE_END, PEER);
    it.hello(1, NODE_END, PEER, seq);
    let events = it.events();
    let Some(&(1, Event::Departing(id, 0))) = events.first() else { panic!("{events:?}") };
    let ack = Some(seq.wrapping_add(1));
    let next = 1_001 + HELLO.len() as u32;
    let more = tcp_at(INNER, NODE_END, PEER, next, TcpControl::Psh, ack, b"more");
    it.world.give(0, INNER, more, Meta::default());
    let mut flow = it.world.shards[1].flow(id).expect("a flow");
    flow.consume(HELLO.len());
    assert_eq!(flow.peek(), b"more");
}

#[test]
fn the_other_leg_shows_the_way_out_s_address_and_no_port_of_the_nodes() {
    let bits = ShardIndex::of(1, 2).bits;
    let mut it = Inspecting::new(2, 4);
    let far = |ip: IpAddr| Target { link: OUTER, address: ip.into(), port: 8_444 };
    for (to, ours) in [(PEER, IpAddr::V4(OURS)), (PEER_V6, IpAddr::V6(OURS_V6))] {
        for n in 0..40 {
            let port = 1_024 + n;
            let target = Target { port, ..far(to.0) };
            let Ok(id) = it.world.shards[1].connect(it.world.now, target, Source::Shown) else {
                panic!("there is room")
            };
            let key = it.world.shards[1].flow(id).expect("a flow").key();
            assert_eq!(key.local, Address::from(ours));
            assert!(key.local_port & ((1 << bits) - 1) == 1, "the port names the shard");
            let blocks = FIRST_PORT..FIRST_PORT + 2 * BLOCK;
            assert!(to.0.is_ipv6() || !blocks.contains(&key.local_port) && key.local_port != LISTENS);
            it.world.shards[1].flow(id).expect("a flow").abort(Reason::Aborted);
            it.events();
        }
    }
    // Where nodes show nothing by IPv4, neither does this.
    let mut bare = World::with(1, |index, exchange| {
        let mut config = config(index, 1, 1_500, exchange);
        config.egress.iter_mut().for_each(|way| way.address = None);
        config
    });
    let refused = bare.shards[0].connect(bare.now, far(PEER.0), Source::Shown);
    assert_eq!(refused, Err(Reason::EgressClosed));
}

/// What a node, or whoever has taken one over, may do next.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Syn(usize, u8, u16),
    Hello(usize, u8, u16),
    /// A segment in the middle of nothing.
    Stray(usize, u8, u16),
    /// The host ends the oldest.
    End,
    Turn(bool),
}

fn deed() -> impl Strategy<Value = Deed> {
    let what = || (0..2_usize, 0..2_u8, 0..6_u16);
    prop_oneof![
        3 => what().prop_map(|(shard, node, port)| Deed::Syn(shard, node, port)),
        4 => what().prop_map(|(shard, node, port)| Deed::Hello(shard, node, port)),
        1 => what().prop_map(|(shard, node, port)| Deed::Stray(shard, node, port)),
        2 => Just(Deed::End),
        1 => any::<bool>().prop_map(Deed::Turn),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever nodes do and whenever rules change: a node has the connections that the host knows of and no more than it may,
    /// none while its way out is closed, and nothing for an inspected port ever goes outside.
    #[test]
    fn a_model_of_what_is_held(deeds in prop::collection::vec(deed(), 1..80)) {
        let mut it = Inspecting::new(2, 3);
        let mut cookies: BTreeMap<(u8, u16), u32> = BTreeMap::new();
        let mut live: Vec<(usize, FlowId, u16)> = Vec::new();
        let mut open = true;
        let node = |node: u8| IpAddr::V4([NODE, OTHER_NODE][usize::from(node)]);
        for deed in deeds {
            let packet = match deed {
                Deed::Syn(shard, who, port) => {
                    Some((shard, tcp(INNER, (node(who), 6_000 + port), PEER, TcpControl::Syn, None, b"")))
                }
                Deed::Hello(shard, who, port) => cookies.get(&(who, port)).map(|seq| {
                    let ack = Some(seq.wrapping_add(1));
                    let from = (node(who), 6_000 + port);
                    (shard, tcp_at(INNER, from, PEER, 1_001, TcpControl::Psh, ack, HELLO))
                }),
                Deed::Stray(shard, who, port) => {
                    let from = (node(who), 6_000 + port);
                    Some((shard, tcp_at(INNER, from, PEER, 77, TcpControl::Psh, Some(9), b"stray")))
                }
                Deed::End => {
                    if let Some(&(at, id, _)) = live.first() {
                        it.world.shards[at].flow(id).expect("a live flow").abort(Reason::Aborted);
                    }
                    None
                }
                Deed::Turn(on) => {
                    open = on;
                    it.open(on);
                    None
                }
            };
            if let Some((shard, packet)) = packet {
                let [outer, inner] = it.world.give(shard, INNER, packet, Meta::default());
                prop_assert!(outer.is_empty(), "{outer:?}");
                if let Deed::Syn(_, who, port) = deed
                    && let Some(What::Tcp { rst: false, seq, .. }) = inner.first().map(|(bytes, _)| see(bytes).what)
                {
                    cookies.insert((who, port), seq);
                }
            }
            for (at, event) in it.events() {
                match event {
                    Event::Departing(id, node) => live.push((at, id, node)),
                    Event::Closed(id, _) => live.retain(|&(place, live, _)| (place, live) != (at, id)),
                    _ => {}
                }
            }
            let count = |node| live.iter().filter(|&&(_, _, whose)| whose == node).count() as u32;
            prop_assert_eq!(it.held(), [count(0), count(1)]);
            prop_assert!(it.held().iter().all(|&held| held <= 3) && (open || live.is_empty()));
        }
    }
}
