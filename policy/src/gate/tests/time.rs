//! A deadline for each step, signs of life, and readers that do not read.

use super::world::{Dials, MASK, World, binary, config, greeting, message, upgrade};
use crate::chia::number;
use crate::session::{Close, End, Leg, Session};
use crate::tls::Channel;
use crate::verdict::Reason;
use crate::websocket::{CloseFrame, Opcode, encode_frame};

/// The session lives for `seconds` and not one longer.
#[track_caller]
fn ends_after(world: World, seconds: u64, reason: Reason) -> World {
    let mut world = world;
    world.wait(seconds - 1);
    assert_eq!(world.verdict(), None, "too early");
    world.wait(1);
    assert_eq!(world.verdict(), Some(reason));
    world
}

#[test]
fn each_step_has_its_deadline() {
    let silent = || World::with(config(), None);
    ends_after(silent(), 10, Reason::TlsTimeout);

    let world = ends_after(World::secured(), 5, Reason::HttpTimeout);
    assert!(world.peer.http.starts_with("HTTP/1.1 408 "));

    let world = ends_after(World::upgraded(), 30, Reason::ChiaTimeout);
    assert_eq!(world.peer.close, Some(CloseFrame::new(1002, "-6")));

    let mut dialling = World::upgraded();
    dialling.dials = Dials::Hang;
    dialling.say(&binary(&greeting()));
    ends_after(dialling, 15, Reason::DialFailed);
}

#[test]
fn dripping_does_not_move_a_deadline() {
    let mut world = World::secured();
    let request = upgrade();
    for byte in &request[..4] {
        world.say(&[*byte]);
        world.wait(1);
    }
    world.wait(1);
    assert_eq!(world.verdict(), Some(Reason::HttpTimeout));
}

#[test]
fn a_node_has_deadlines_too() {
    let mut world = World::upgraded();
    world.node_greets = false;
    world.say(&binary(&greeting()));
    let world = ends_after(world, 10, Reason::NodeTimeout);
    assert_eq!(world.node.as_ref().expect("a node").closed, Some(Close::Abort(Reason::NodeTimeout)));
    assert_eq!(world.peer.close, Some(CloseFrame::new(1013, "")));
}

#[test]
fn silent_legs_are_pinged_and_closed_without_an_answer() {
    let mut world = World::open();
    world.wait(60);
    assert_eq!((world.peer.pings, world.node.as_ref().map(|node| node.pings)), (1, Some(1)));
    let pong = encode_frame(true, Opcode::Pong, None, b"");
    world.node_says(&pong);
    world.wait(29);
    assert_eq!(world.verdict(), None);
    world.wait(1);
    assert_eq!(world.verdict(), Some(Reason::PingTimeout));
}

#[test]
fn whoever_answers_stays_until_a_full_node_has_been_silent_for_too_long() {
    let mut world = World::open();
    let mut waited = 0;
    while world.verdict().is_none() && waited < 4_000 {
        world.wait(30);
        waited += 30;
        world.say(&encode_frame(true, Opcode::Pong, Some(MASK), b""));
        world.node_says(&encode_frame(true, Opcode::Pong, None, b""));
    }
    assert_eq!((world.verdict(), waited), (Some(Reason::Idle), 2_100));
}

#[test]
fn a_node_that_answers_no_ping() {
    let mut world = World::open();
    world.wait(60);
    world.say(&encode_frame(true, Opcode::Pong, Some(MASK), b""));
    world.wait(30);
    assert_eq!(world.verdict(), Some(Reason::NodeStalled));
    assert_eq!(world.peer.close, Some(CloseFrame::new(1001, "")));
}

#[test]
fn a_probe_pings_at_once() {
    let mut world = World::open();
    let before = world.now;
    world.wait(7);
    world.gate.probe(world.now);
    world.run();
    assert_eq!(world.peer.pings, 1);
    assert_eq!(world.gate.heard(), before);
    world.say(&encode_frame(true, Opcode::Pong, Some(MASK), b""));
    assert_eq!(world.gate.heard(), world.now);
}

#[test]
fn a_peer_that_does_not_read() {
    let mut world = World::open();
    world.peer.reads = false;
    world.node_sends(&message(27, 1_000_000));
    let world = ends_after(world, 30, Reason::Stalled);
    assert_eq!(world.node.as_ref().expect("a node").close, Some(CloseFrame::new(1000, "")));
}

#[test]
fn a_node_that_does_not_read() {
    let mut world = World::open();
    world.node.as_mut().expect("a node").reads = false;
    for _ in 0..10 {
        world.say(&binary(&message(27, 100_000)));
    }
    assert!(world.gate.buffered() < 512 << 10, "{}", world.gate.buffered());
    ends_after(world, 30, Reason::NodeStalled);
}

#[test]
fn a_message_that_drips() {
    let frame = binary(&message(27, 1_000_000));
    let mut world = World::open();
    for at in 0..40 {
        world.say(&frame[at * 1_000..(at + 1) * 1_000]);
        world.wait(1);
    }
    world.wait(1);
    assert_eq!(world.verdict(), Some(Reason::TooSlow));
    assert_eq!(world.node_messages().len(), 1);
}

#[test]
fn a_message_that_is_announced_and_does_not_come_holds_no_memory_of_others() {
    let mut world = World::open();
    let held = world.gate.exchange.config.budgets.held.clone();
    let all = held.free();
    world.say(&binary(&message(27, 2_000_000))[..200_000]);
    assert!(held.free() < all);
    // 10 s of grace, and 6 s for what came.
    let mut world = ends_after(world, 17, Reason::TooSlow);
    world.run();
    assert_eq!(held.free(), all);
}

#[test]
fn the_time_while_a_peer_is_not_read_does_not_count_against_it() {
    let block = message(27, 500_000);
    let frame = binary(&block);
    let mut world = World::open();
    let node = |world: &mut World, reads| world.node.as_mut().expect("a node").reads = reads;
    node(&mut world, false);
    world.say(&frame[..]);
    world.say(&frame[..400_000]);
    world.wait(29);
    node(&mut world, true);
    world.run();
    // 10 s of grace and 12 s at the minimum rate for what came are left, as if no time had passed.
    world.wait(22);
    assert_eq!(world.verdict(), None);
    world.wait(1);
    assert_eq!(world.verdict(), Some(Reason::TooSlow));
}

#[test]
fn nothing_is_due_once_the_farewell_is_taken() {
    let mut world = World::open();
    let block = message(27, 10_000);
    world.say(&encode_frame(false, Opcode::Binary, Some(MASK), &block[..100]));
    world.say(&encode_frame(true, Opcode::Close, Some(MASK), &[3, 232]));
    assert_eq!(world.verdict(), Some(Reason::PeerClosed));
    world.ends(Leg::Public, End::Fin);
    world.ends(Leg::Private, End::Fin);
    assert_eq!(world.gate.deadline(), None);
}

#[test]
fn a_frame_header_that_never_ends() {
    let mut world = World::open();
    world.say(&binary(&message(27, 100))[..1]);
    ends_after(world, 10, Reason::TooSlow);
}

#[test]
fn a_record_that_drips_is_no_sign_of_life() {
    let mut world = World::open();
    world.say_raw(&[23, 3, 3, 0x40, 0x11]);
    for _ in 0..9 {
        world.say_raw(&[0]);
        world.wait(1);
    }
    assert_eq!(world.verdict(), None);
    world.say_raw(&[0]);
    world.wait(2);
    assert_eq!(world.verdict(), Some(Reason::TooSlow));
}

#[test]
fn a_peer_of_whose_records_one_is_always_under_way_is_in_time() {
    let mut world = World::open();
    for _ in 0..30 {
        world.say_but(&binary(&message(number::NEW_PEAK, 80)), 9);
        assert!(world.gate.public.as_ref().is_some_and(Channel::is_within));
        world.wait(1);
    }
    assert_eq!(world.verdict(), None);
    world.say_but(&binary(&message(number::NEW_PEAK, 80)), 9);
    assert_eq!(world.node_messages().len(), 1 + 30);
}

#[test]
fn a_request_in_two_parts_leaves_the_handshake_its_time() {
    let mut world = World::secured();
    world.say_but(&upgrade(), 9);
    world.wait(1);
    world.run();
    world.wait(28);
    assert_eq!(world.verdict(), None);
    world.say(&binary(&greeting()));
    assert!(world.gate.is_open());
}

#[test]
fn who_does_not_take_its_farewell_is_cut() {
    let mut world = World::open();
    world.peer.reads = false;
    world.say(&binary(&message(number::HANDSHAKE, 4)));
    assert_eq!(world.verdict(), Some(Reason::ChiaSecondHandshake));
    assert!(world.gate.deadline().is_some());
    let at = world.now + core::time::Duration::from_secs(10);
    world.gate.advance(at);
    let request = world.gate.request();
    let cut = matches!(
        request,
        Some(crate::session::Request::Close(Leg::Public, Close::Abort(Reason::ChiaSecondHandshake)))
    );
    assert!(cut, "{request:?}");
}
