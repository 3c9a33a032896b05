//! What is refused, thrown away, delayed and passed by the true schema: never more than a node would.

use core::slice::from_ref;

use super::world::{MASK, World, binary};
use crate::chia::{Alarm, Handshake, Message, NodeType, number};
use crate::verdict::Reason;
use crate::websocket::{Opcode, encode_frame};

const REQUEST_TRANSACTION: u8 = 22;
const RESPOND_BLOCK: u8 = 27;
const REJECT_BLOCKS: u8 = 31;
const RESPOND_PEERS: u8 = 44;
const INVENTED: u8 = 200;

fn full_node(version: &str, capabilities: &[u16]) -> Handshake {
    Handshake {
        software_version: version.into(),
        capabilities: capabilities.iter().map(|&capability| (capability, "1".into())).collect(),
        ..Handshake::new("mainnet", NodeType::FullNode, 8444)
    }
}

fn new_peak(height: u32) -> Message {
    let mut body = vec![7; 32];
    body.extend_from_slice(&height.to_be_bytes());
    body.extend_from_slice(&[0; 16 + 4 + 32]);
    Message::new(number::NEW_PEAK, body)
}

fn request_blocks(id: u16) -> Message {
    Message::new(number::REQUEST_BLOCKS, [0, 0, 0, 1, 0, 0, 0, 33, 1]).with_id(id)
}

fn reject_blocks(id: u16) -> Message {
    Message::new(REJECT_BLOCKS, [0, 0, 0, 1, 0, 0, 0, 33]).with_id(id)
}

fn says(world: &mut World, messages: &[Message]) {
    let frames: Vec<u8> = messages.iter().flat_map(|message| binary(&message.encode())).collect();
    world.say(&frames);
}

fn encoded(messages: &[Message]) -> Vec<Vec<u8>> {
    messages.iter().map(Message::encode).collect()
}

#[test]
fn fork_day_closes_nothing() {
    let capability_of_tomorrow = full_node("9.1.0", &[1, 2, 3, 5, 4711]);
    let mut world = World::between(&capability_of_tomorrow, &capability_of_tomorrow);
    let invented = Message::new(INVENTED, vec![1; 40]);
    // A block with a flag that does not exist yet, that the node asked for.
    let block = Message::new(RESPOND_BLOCK, [&[0, 0, 0, 0][..], &[9; 900]].concat()).with_id(40_000);
    let ask = Message::new(number::REQUEST_BLOCK, [0, 0, 0, 1, 1]).with_id(40_000);
    world.node_sends(&ask.encode());
    says(&mut world, &[invented.clone(), block.clone()]);
    world.node_sends(&invented.encode());
    assert_eq!(world.verdict(), None, "{:?}", world.detail());
    assert_eq!(world.node_messages()[1..], encoded(&[invented.clone(), block]));
    assert_eq!(world.peer.messages.last(), Some(&invented.encode()));
    assert_eq!(world.alarms, [Alarm::Type(INVENTED)]);
    let noted = world.gate.tally().noted;
    assert_eq!((noted.unknown, noted.shadowed, noted.dropped), (2, 1, 0));
}

#[test]
fn a_type_that_the_node_cannot_know_does_not_reach_it() {
    let mut world = World::judged();
    says(&mut world, &[Message::new(INVENTED, [1]), new_peak(1)]);
    assert_eq!(world.verdict(), None);
    assert_eq!(world.node_messages()[1..], encoded(&[new_peak(1)]));
    assert_eq!(world.gate.tally().noted.dropped, 1);
}

#[test]
fn a_body_that_is_none_ends_the_session_and_says_where() {
    let mut world = World::judged();
    let mut peak = new_peak(1);
    peak.body.pop();
    says(&mut world, &[peak]);
    assert_eq!(world.verdict(), Some(Reason::BodyMalformed));
    assert_eq!(world.detail().as_deref(), Some("new_peak: header_hash, byte 0: leads beyond the body's end"));
    assert_eq!(world.node_messages().len(), 1);
    // In any cutting, and before the end has come.
    let request = Message::new(number::REQUEST_BLOCKS, [0, 0, 0, 1, 0, 0, 0, 33, 2]).encode();
    let mut world = World::judged();
    for byte in &request {
        world.say(&encode_frame(
            false,
            if byte == &request[0] { Opcode::Binary } else { Opcode::Continuation },
            Some(MASK),
            &[*byte],
        ));
        if world.verdict().is_some() {
            break;
        }
    }
    assert_eq!(world.verdict(), Some(Reason::BodyMalformed), "{:?}", world.detail());
    let expected = "request_blocks: include_transaction_block, byte 8: no such form";
    assert_eq!(world.detail().as_deref(), Some(expected));
}

#[test]
fn what_our_node_sends_is_right_even_if_the_schema_is_not() {
    let mut world = World::judged();
    let mut odd = new_peak(1);
    odd.body.push(1);
    world.node_sends(&odd.encode());
    world.node_sends(&odd.encode());
    assert_eq!(world.peer.messages[1..], encoded(&[odd.clone(), odd.clone()]));
    let [Alarm::Body { kind: number::NEW_PEAK, what }] = &world.alarms[..] else {
        panic!("{:?}", world.alarms)
    };
    assert_eq!(what, "the body, byte 88: bytes are left over");
    // From now on peers may do the same.
    says(&mut world, from_ref(&odd));
    assert_eq!((world.verdict(), world.gate.tally().noted.shadowed), (None, 1));
    assert_eq!(world.node_messages()[1..], encoded(&[odd]));
}

#[test]
fn replies_to_nothing_are_thrown_away_and_then_end_the_session() {
    let mut world = World::judged();
    for _ in 0..16 {
        says(&mut world, &[reject_blocks(5)]);
    }
    says(&mut world, &[new_peak(1)]);
    assert_eq!(world.verdict(), None);
    assert_eq!(world.node_messages()[1..], encoded(&[new_peak(1)]));
    says(&mut world, &[reject_blocks(5)]);
    assert_eq!(world.verdict(), Some(Reason::Unsolicited));
    assert_eq!(world.detail().as_deref(), Some("reject_blocks: answers nothing, as 16 before it"));
}

#[test]
fn what_only_looks_unsolicited_passes() {
    let mut world = World::judged();
    let gossip = Message::new(RESPOND_PEERS, [0, 0, 0, 0]);
    let failed = Message::new(number::ERROR, [0, 1, 0, 0, 0, 0, 0]);
    says(&mut world, &[gossip.clone(), failed.clone()]);
    assert_eq!(world.node_messages()[1..], encoded(&[gossip, failed]));
}

#[test]
fn a_late_reply_reaches_the_node_which_ignores_it() {
    let mut world = World::judged();
    let ask = |id| request_blocks(id).encode();
    // More requests than are remembered one by one, over so long that the node has given up.
    for id in 0..200 {
        world.node_sends(&ask(32_768 + id));
        if id % 50 == 0 {
            world.wait(25);
            says(&mut world, &[new_peak(1)]);
        }
    }
    world.wait(25);
    let replies: Vec<Message> = [32_768, 32_900, 32_967].map(reject_blocks).to_vec();
    says(&mut world, &replies);
    assert_eq!((world.verdict(), world.gate.tally().noted.dropped), (None, 0));
    assert!(world.node_messages().ends_with(&encoded(&replies)));
}

#[test]
fn a_reply_without_a_body_is_an_answer() {
    let mut world = World::judged();
    world.node_sends(&request_blocks(40_000).encode());
    let nothing = Message::new(number::RESPOND_BLOCKS, []).with_id(40_000);
    says(&mut world, from_ref(&nothing));
    assert_eq!((world.verdict(), world.node_messages()[1..].to_vec()), (None, encoded(&[nothing])));
}

#[test]
fn old_peers_answer_with_transactions_and_new_ones_do_not() {
    // An empty bundle: no spends, and infinity for a signature.
    let mut body = vec![0; 4 + 96];
    body[4] = 0xc0;
    let transaction = Message::new(number::RESPOND_TRANSACTION, body);
    let ask = Message::new(number::REQUEST_MEMPOOL_TRANSACTIONS, [0, 0, 0, 0]).encode();
    for (version, passes) in [("2.5.7", true), ("2.6.0", false), ("who knows", true)] {
        let mut world = World::between(&full_node(version, &[1, 3]), &full_node("2.7.5", &[1, 3]));
        says(&mut world, from_ref(&transaction));
        assert_eq!(world.node_messages().len(), 1, "nobody asked");
        world.node_sends(&ask);
        says(&mut world, from_ref(&transaction));
        assert_eq!(
            (world.verdict(), world.node_messages().len()),
            (None, 1 + usize::from(passes)),
            "{version}"
        );
    }
}

#[test]
fn expensive_requests_wait_until_the_node_is_done() {
    let mut world = World::judged();
    let requests: Vec<Message> = (1..=5).map(request_blocks).collect();
    says(&mut world, &[&requests[..], &[new_peak(1)]].concat());
    assert_eq!(world.node_messages()[1..], encoded(&requests[..2]));
    // What comes now waits in the connection.
    says(&mut world, &[new_peak(2)]);
    assert_eq!(world.node_messages().len(), 3);
    world.node_sends(&reject_blocks(2).encode());
    assert_eq!(world.node_messages()[3..], encoded(&requests[2..3]));
    world.node_sends(&reject_blocks(1).encode());
    world.node_sends(&reject_blocks(3).encode());
    let rest = [&requests[3..], &[new_peak(1), new_peak(2)]].concat();
    assert_eq!(world.node_messages()[4..], encoded(&rest));
    assert_eq!((world.verdict(), world.gate.buffered()), (None, 0));
}

#[test]
fn a_node_that_does_not_answer_holds_nobody_for_ever() {
    let mut world = World::judged();
    let requests: Vec<Message> = (1..=3).map(request_blocks).collect();
    says(&mut world, &requests);
    assert_eq!(world.node_messages()[1..], encoded(&requests[..2]));
    world.wait(29);
    assert_eq!(world.node_messages().len(), 3);
    world.wait(2);
    assert_eq!(world.node_messages()[1..], encoded(&requests));
}

#[test]
fn a_large_message_behind_a_request_that_waits_goes_on_as_it_comes() {
    let mut world = World::judged();
    let requests: Vec<Message> = (1..=3).map(request_blocks).collect();
    world.node_sends(&request_blocks(40_000).encode());
    // Empty: no blocks but a long tail would be a flaw, so the reply is a block's worth of bytes in shadow.
    let large = Message::new(
        number::RESPOND_BLOCKS,
        [&[0, 0, 0, 9, 0, 0, 0, 9, 0, 0, 0, 1][..], &vec![9; 300_000]].concat(),
    );
    let large = large.with_id(40_000);
    let frames: Vec<u8> =
        requests.iter().chain([&large]).flat_map(|message| binary(&message.encode())).collect();
    world.say(&frames[..5_000]);
    world.say(&frames[5_000..]);
    assert_eq!(world.node_messages()[1..], encoded(&requests[..2]));
    world.node_sends(&reject_blocks(1).encode());
    assert_eq!(world.node_messages()[3..], encoded(&[requests[2].clone(), large]));
    assert_eq!((world.verdict(), world.gate.buffered()), (None, 0));
}

#[test]
fn a_peer_that_a_node_would_ban_is_stopped_first() {
    let mut world = World::judged();
    world.wait(20);
    let ask = Message::new(number::REQUEST_PEERS, []);
    says(&mut world, &vec![ask.clone(); 10]);
    assert_eq!((world.verdict(), world.node_messages().len()), (None, 11));
    says(&mut world, &[ask]);
    assert_eq!(world.verdict(), Some(Reason::RateLimited));
    assert_eq!(world.detail().as_deref(), Some("request_peers: more than 10 in a minute"));
}

#[test]
fn what_the_node_sends_is_paced_and_nothing_is_lost() {
    let mut world = World::judged();
    let peaks: Vec<Message> = (0..150).map(new_peak).collect();
    for peak in &peaks {
        world.node_sends(&peak.encode());
    }
    let at_once = world.peer.messages.len() - 1;
    assert!((50..=101).contains(&at_once), "{at_once}");
    assert_eq!(world.peer.messages[1..], encoded(&peaks[..at_once]));
    world.wait(60);
    assert_eq!(world.peer.messages[1..], encoded(&peaks));
    assert_eq!((world.verdict(), world.gate.buffered()), (None, 0));
}

#[test]
fn a_large_message_that_is_paced_goes_on_as_it_comes() {
    let mut world = World::judged();
    let peaks: Vec<u8> = (0..120)
        .flat_map(|height| encode_frame(true, Opcode::Binary, None, &new_peak(height).encode()))
        .collect();
    let block = Message::new(RESPOND_BLOCK, vec![0; 200_000]).encode();
    let large = encode_frame(true, Opcode::Binary, None, &block);
    world.node_says(&[&peaks[..], &large[..]].concat());
    assert!(world.peer.messages.len() < 110);
    world.wait(60);
    assert_eq!(world.peer.messages.last(), Some(&block));
    assert_eq!((world.peer.messages.len(), world.gate.buffered()), (122, 0));
}

#[test]
fn windows_are_set_where_both_agreed_on_them() {
    let windows = Message::new(number::CONFIGURE_WINDOW_SIZES, [0, 0, 0, 1, number::REQUEST_BLOCKS, 0, 1]);
    let (old, new) = (full_node("2.7.5", &[1, 3]), full_node("2.7.5", &[1, 3, 7]));
    let mut world = World::between(&new, &new);
    says(&mut world, from_ref(&windows));
    assert_eq!((world.verdict(), world.node_messages().len()), (None, 2));
    // The peer works on one request at a time: the node's second one waits for the first reply.
    world.node_sends(&request_blocks(40_000).encode());
    world.node_sends(&request_blocks(40_001).encode());
    assert_eq!(world.peer.messages[1..], encoded(&[request_blocks(40_000)]));
    says(&mut world, &[reject_blocks(40_000)]);
    world.wait(1);
    assert_eq!(world.peer.messages[1..], encoded(&[request_blocks(40_000), request_blocks(40_001)]));
    says(&mut world, from_ref(&windows));
    assert_eq!(world.verdict(), Some(Reason::WindowsUnexpected));
    for (peer, node) in [(&old, &new), (&new, &old), (&old, &old)] {
        let mut world = World::between(peer, node);
        says(&mut world, from_ref(&windows));
        assert_eq!(world.verdict(), Some(Reason::WindowsUnexpected));
    }
}

#[test]
fn requests_without_an_id_are_answered_by_type() {
    let mut world = World::judged();
    let ask = Message::new(REQUEST_TRANSACTION, [3; 32]);
    says(&mut world, from_ref(&ask));
    world.node_sends(&ask.encode());
    let mut body = vec![0; 4 + 96];
    body[4] = 0xc0;
    let transaction = Message::new(number::RESPOND_TRANSACTION, body);
    says(&mut world, &[transaction.clone(), transaction.clone()]);
    assert_eq!(world.node_messages()[1..], encoded(&[ask, transaction]));
    assert_eq!(world.gate.tally().noted.dropped, 1);
    // What the node wanted counts for the peer, once.
    assert_eq!(world.credit, 1);
}
