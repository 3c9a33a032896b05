//! What strangers are answered.

use proptest::prelude::*;

use super::*;
use crate::frame::Meta;
use crate::wire::sample::{self, ACK, FIN, LINK, LINUX, OURS, RST, Read, SYN, Sample, THEIRS};
use crate::wire::{AgreedTimestamps, LinkId, parse};

const LISTENER: Listener =
    Listener { link: LinkId(0), address: None, port: 8444, accept: Accept::ClientHello };
const HELLO: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
const UTC: u64 = 1_800_000_000_000;

fn screen() -> Screen {
    let mut screen = Screen::new(ScreenConfig::default(), Master([1; 32]), [2; 16]);
    screen.set_utc(Instant::ZERO, UTC);
    screen
}

fn ask(
    screen: &mut Screen,
    at: u64,
    frame: &mut [u8],
    listener: Option<&Listener>,
    link: &LinkRules,
) -> Answer {
    let packet = parse(frame, &Meta::default(), link).expect("a good frame");
    screen.stranger(Instant::from_millis(at), link, &packet, 0x5eed_0000, frame, listener)
}

/// Shows a segment to the screen.
fn shown(screen: &mut Screen, at: u64, sample: &Sample) -> Answer {
    ask(screen, at, &mut sample.frame(), Some(&LISTENER), &LINK)
}

/// Shows a segment and reads the reply.
#[track_caller]
fn answered(screen: &mut Screen, at: u64, sample: &Sample) -> (Answer, Read) {
    let mut frame = sample.frame();
    let answer = ask(screen, at, &mut frame, Some(&LISTENER), &LINK);
    let (Answer::Reply(len) | Answer::Refuse(len, _)) = answer else { panic!("{answer:?}") };
    (answer, sample::read(&frame[..len]).expect("a good reply"))
}

/// A SYN, its SYN-ACK, and the segment with `payload` that returns the cookie.
fn handshake(screen: &mut Screen, syn: &Sample, payload: &[u8]) -> (Read, Sample) {
    let (_, reply) = answered(screen, 0, syn);
    let mut options = Vec::new();
    if let Some((value, _)) = reply.timestamps {
        options.extend([1, 1, 8, 10, 0, 0, 0x20, 0]);
        options.extend(value.to_be_bytes());
    }
    let first = Sample {
        seq: syn.seq.wrapping_add(1),
        ack: reply.seq.wrapping_add(1),
        flags: ACK,
        options,
        payload: payload.to_vec(),
        ..syn.clone()
    };
    (reply, first)
}

#[test]
fn a_syn_is_answered_in_its_own_frame() {
    for (syn, mss) in [(Sample::syn(), 1460), (Sample::syn_v6(), 1440)] {
        let (answer, reply) = answered(&mut screen(), 0, &syn);
        assert_eq!(answer, Answer::Reply(14 + reply.length));
        assert_eq!(reply.ethernet, (OURS, THEIRS));
        assert_eq!(reply.addresses, (syn.destination, syn.source));
        assert_eq!((reply.ports, reply.flags, reply.hop_limit), ((8444, 40_000), SYN | ACK, 64));
        assert_eq!((reply.ack, reply.window), (1001, 8192));
        assert_eq!((reply.mss, reply.window_scale, reply.sack_permitted), (Some(mss), Some(8), true));
        assert_eq!(reply.timestamps.map(|(_, echo)| echo), Some(0x1234));
        assert_eq!(reply.length, syn.frame().len() - 14);
    }
}

#[test]
fn a_syn_without_options_gets_an_answer_without_options() {
    let (_, reply) = answered(&mut screen(), 0, &Sample { options: Vec::new(), ..Sample::syn() });
    assert_eq!(reply.length, 40);
    assert_eq!(
        (reply.mss, reply.window_scale, reply.sack_permitted, reply.timestamps),
        (None, None, false, None)
    );
}

#[test]
fn data_fast_open_ecn_and_unknown_options_get_the_plain_answer() {
    let mut screen = screen();
    let (_, plain) = answered(&mut screen, 0, &Sample::syn());
    let mut fast_open = LINUX.to_vec();
    fast_open.extend([34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 253, 4, 1, 2]);
    let odd = Sample { flags: SYN | 0xc0, options: fast_open, payload: b"early".to_vec(), ..Sample::syn() };
    let (_, reply) = answered(&mut screen, 0, &odd);
    assert_eq!(
        (reply.seq, reply.ack, reply.flags, reply.length),
        (plain.seq, plain.ack, plain.flags, plain.length)
    );
    assert_eq!(
        (reply.mss, reply.timestamps, reply.window_scale),
        (plain.mss, plain.timestamps, plain.window_scale)
    );
}

#[test]
fn a_tag_in_the_bytes_stays_there() {
    let mut frame = Sample { vlan: Some(7), ..Sample::syn() }.frame();
    let link = LinkRules { vlan: Some(7), ..LINK };
    let answer = ask(&mut screen(), 0, &mut frame, Some(&LISTENER), &link);
    assert_eq!(answer, Answer::Reply(frame.len()));
    assert_eq!(frame[12..16], [0x81, 0, 0, 7]);
    frame.drain(12..16);
    assert_eq!(sample::read(&frame).expect("a good reply").ack, 1001);
}

#[test]
fn data_with_the_cookie_is_proof() {
    let mut screen = screen();
    for (syn, mss) in [(Sample::syn(), 1460), (Sample::syn_v6(), 1440)] {
        let (reply, first) = handshake(&mut screen, &syn, HELLO);
        let Answer::Proof(agreed) = shown(&mut screen, 20, &first) else { panic!("no proof") };
        assert_eq!((agreed.iss, agreed.irs, agreed.mss), (Seq(reply.seq), Seq(syn.seq), mss));
        assert_eq!((agreed.remote_scale, agreed.local_scale, agreed.sack), (7, 8, true));
        let (echoed, _) = reply.timestamps.expect("timestamps");
        assert_eq!(agreed.timestamps, Some(AgreedTimestamps { recent: 0x2000, echoed }));
    }
    assert_eq!(screen.statistics().proofs, 2);
}

#[test]
fn without_timestamps_the_scale_is_rounded_down() {
    for (theirs, ours) in [(0, 0), (5, 0), (6, 6), (7, 7), (8, 8), (14, 8), (255, 8)] {
        let options = vec![2, 4, 5, 0xb4, 4, 2, 3, 3, theirs];
        let mut screen = screen();
        let (reply, first) = handshake(&mut screen, &Sample { options, ..Sample::syn() }, HELLO);
        assert_eq!((reply.window_scale, reply.sack_permitted), (Some(8), true));
        let Answer::Proof(agreed) = shown(&mut screen, 0, &first) else { panic!("no proof") };
        assert_eq!((agreed.remote_scale, agreed.local_scale, agreed.sack), (ours, 8, true), "{theirs}");
    }
}

#[test]
fn the_mss_is_rounded_down_and_fits_the_link() {
    let cases = [
        (None, 536),
        (Some(100), 536),
        (Some(1299), 536),
        (Some(1400), 1300),
        (Some(1452), 1440),
        (Some(8960), 1460),
    ];
    for (theirs, ours) in cases {
        let options = theirs.map_or(Vec::new(), |mss: u16| [[2, 4], mss.to_be_bytes()].concat());
        let mut screen = screen();
        let (_, first) = handshake(&mut screen, &Sample { options, ..Sample::syn() }, HELLO);
        let Answer::Proof(agreed) = shown(&mut screen, 0, &first) else { panic!("no proof") };
        assert_eq!(
            (agreed.mss, agreed.local_scale, agreed.sack, agreed.timestamps),
            (ours, 0, false, None),
            "{theirs:?}"
        );
    }
    // On a link of 1400 bytes we announce 1360 and send no more.
    let (mut screen, link) = (screen(), LinkRules { mtu: 1400, ..LINK });
    let mut frame = Sample::syn().frame();
    let Answer::Reply(len) = ask(&mut screen, 0, &mut frame, Some(&LISTENER), &link) else {
        panic!("no reply")
    };
    let reply = sample::read(&frame[..len]).expect("a good reply");
    assert_eq!(reply.mss, Some(1360));
    let (_, first) = handshake(&mut screen, &Sample::syn(), HELLO);
    let Answer::Proof(agreed) = ask(&mut screen, 0, &mut first.frame(), Some(&LISTENER), &link) else {
        panic!("no proof")
    };
    assert_eq!(agreed.mss, 1360);
}

#[test]
fn a_bare_ack_is_not_remembered_unless_the_listener_takes_it() {
    let mut screen = screen();
    let (_, ack) = handshake(&mut screen, &Sample::syn(), &[]);
    assert_eq!(shown(&mut screen, 0, &ack), Answer::Drop(Reason::AwaitingData));
    let plain = Listener { accept: Accept::Handshake, ..LISTENER };
    assert!(matches!(ask(&mut screen, 0, &mut ack.frame(), Some(&plain), &LINK), Answer::Proof(_)));
}

#[test]
fn a_later_piece_of_a_split_hello_is_dropped_in_silence() {
    let mut screen = screen();
    let (_, first) = handshake(&mut screen, &Sample::syn(), HELLO);
    let later = Sample { seq: first.seq + 1448, payload: vec![0xaa; 120], ..first.clone() };
    assert_eq!(shown(&mut screen, 0, &later), Answer::Drop(Reason::Overtaken));
    assert!(matches!(shown(&mut screen, 0, &first), Answer::Proof(_)));
}

#[test]
fn what_cannot_begin_a_hello_is_reset() {
    let mut screen = screen();
    let (_, first) = handshake(&mut screen, &Sample::syn(), b"GET / HTTP/1.1\r\n");
    let (answer, reply) = answered(&mut screen, 0, &first);
    assert!(matches!(answer, Answer::Refuse(_, Reason::NotClientHello)));
    assert_eq!((reply.flags, reply.seq, reply.length), (RST, first.ack, 40));
    let plain = Listener { accept: Accept::Handshake, ..LISTENER };
    assert!(matches!(ask(&mut screen, 0, &mut first.frame(), Some(&plain), &LINK), Answer::Proof(_)));
}

#[test]
fn connect_and_hang_up_is_answered_without_state() {
    let mut screen = screen();
    let (_, ack) = handshake(&mut screen, &Sample::syn(), &[]);
    let fin = Sample { flags: FIN | ACK, ..ack };
    let (answer, reply) = answered(&mut screen, 0, &fin);
    assert!(matches!(answer, Answer::Reply(_)));
    assert_eq!((reply.flags, reply.seq, reply.ack), (FIN | ACK, fin.ack, fin.seq + 1));
    let (echoed, _) = reply.timestamps.expect("timestamps were agreed");
    assert!(echoed > 0 && reply.length <= fin.frame().len() - 14);
    // The peer's last ACK, and its FIN once more where our answer was lost.
    let last = Sample { flags: ACK, seq: fin.seq + 1, ack: fin.ack + 1, ..fin.clone() };
    assert_eq!(shown(&mut screen, 0, &last), Answer::Drop(Reason::NoFlow));
    assert!(matches!(answered(&mut screen, 0, &fin).0, Answer::Reply(_)));
}

#[test]
fn foreign_segments_are_reset_and_resets_are_not() {
    let mut screen = screen();
    let foreign = Sample { flags: ACK, ack: 77, options: Vec::new(), payload: vec![1; 9], ..Sample::syn() };
    let (answer, reply) = answered(&mut screen, 0, &foreign);
    assert_eq!(answer, Answer::Refuse(54, Reason::BadCookie));
    assert_eq!((reply.flags, reply.seq, reply.length), (RST, 77, 40));
    let syn_ack = Sample { flags: SYN | ACK, ..foreign.clone() };
    assert!(matches!(answered(&mut screen, 0, &syn_ack).0, Answer::Refuse(_, Reason::NoFlow)));
    for flags in [RST, RST | ACK] {
        assert_eq!(shown(&mut screen, 0, &Sample { flags, ..foreign.clone() }), Answer::Drop(Reason::NoFlow));
    }
}

#[test]
fn without_a_listener_only_a_link_of_our_own_resets() {
    let (mut screen, own) = (screen(), LinkRules { resets: true, ..LINK });
    let syn = Sample { payload: b"data".to_vec(), ..Sample::syn() };
    assert_eq!(ask(&mut screen, 0, &mut syn.frame(), None, &LINK), Answer::Drop(Reason::NoListener));
    let mut frame = syn.frame();
    assert_eq!(ask(&mut screen, 0, &mut frame, None, &own), Answer::Refuse(54, Reason::NoListener));
    let reply = sample::read(&frame[..54]).expect("a good reset");
    assert_eq!((reply.flags, reply.seq, reply.ack), (RST | ACK, 0, syn.seq + 1 + 4));
    let reset = Sample { flags: RST, ..syn };
    assert_eq!(ask(&mut screen, 0, &mut reset.frame(), None, &own), Answer::Drop(Reason::NoFlow));
}

#[test]
fn a_spent_cookie_opens_nothing() {
    let mut screen = screen();
    let (_, first) = handshake(&mut screen, &Sample::syn(), HELLO);
    let Answer::Proof(agreed) = shown(&mut screen, 0, &first) else { panic!("no proof") };
    let key = parse(&first.frame(), &Meta::default(), &LINK).expect("a good frame").key;
    screen.spent(Instant::ZERO, &key, agreed.iss);
    let (answer, reply) = answered(&mut screen, 1, &first);
    assert!(matches!(answer, Answer::Refuse(_, Reason::SpentCookie)));
    assert_eq!((reply.flags, reply.seq), (RST, first.ack));
    // A new connection between the same ports has another number and passes.
    let (_, first) = handshake(&mut screen, &Sample { seq: 5000, ..Sample::syn() }, HELLO);
    assert!(matches!(shown(&mut screen, 1, &first), Answer::Proof(_)));
}

/// Where it has received little, the number it acknowledges still has the cookie's upper bits.
#[test]
fn the_peer_of_a_flow_that_is_gone_is_reset_again() {
    let mut screen = screen();
    let (_, first) = handshake(&mut screen, &Sample::syn(), HELLO);
    let Answer::Proof(agreed) = shown(&mut screen, 0, &first) else { panic!("no proof") };
    let key = parse(&first.frame(), &Meta::default(), &LINK).expect("a good frame").key;
    for received in [0, 1, 64, 1_000, 100_000, 900_000] {
        let later = Sample { seq: first.seq + 517, ack: first.ack + received, ..first.clone() };
        if shown(&mut screen, 0, &later) == Answer::Drop(Reason::Overtaken) {
            screen.spent(Instant::ZERO, &key, agreed.iss);
        }
        let (answer, reply) = answered(&mut screen, 1, &later);
        assert!(matches!(answer, Answer::Refuse(_, Reason::NoFlow | Reason::BadCookie)), "{received}");
        assert_eq!((reply.flags, reply.seq), (RST, later.ack));
    }
}

#[test]
fn promised_timestamps_must_come() {
    let mut screen = screen();
    let (_, first) = handshake(&mut screen, &Sample::syn(), HELLO);
    let bare = Sample { options: Vec::new(), ..first };
    assert_eq!(shown(&mut screen, 0, &bare), Answer::Drop(Reason::BadCookie));
}

#[test]
fn a_cookie_ends_with_its_slots() {
    let mut screen = screen();
    let (_, first) = handshake(&mut screen, &Sample::syn(), HELLO);
    assert!(matches!(shown(&mut screen, 40_000, &first), Answer::Proof(_)));
    assert!(matches!(shown(&mut screen, 130_000, &first), Answer::Refuse(_, Reason::BadCookie)));
}

#[test]
fn replies_to_one_prefix_are_capped() {
    let mut screen = screen();
    let mut replied = 0;
    for host in 0..5_000u32 {
        let mut sample = Sample { source: [198, 51, 100, host as u8].into(), seq: host, ..Sample::syn() };
        sample.flags = if host % 3 == 0 { ACK } else { SYN };
        match shown(&mut screen, 0, &sample) {
            Answer::Reply(_) | Answer::Refuse(_, Reason::BadCookie) => replied += 1,
            answer => assert_eq!(answer, Answer::Drop(Reason::ReplyCap)),
        }
    }
    assert_eq!(replied, 2_001);
    let statistics = screen.statistics();
    assert_eq!(statistics.syn_acks + statistics.resets, 2_001);
    let other = Sample { source: [198, 51, 101, 1].into(), ..Sample::syn() };
    assert!(matches!(shown(&mut screen, 0, &other), Answer::Reply(_)));
}

#[test]
fn listeners_are_found_by_place() {
    let listener = |link, address: Option<[u8; 4]>, port| Listener {
        link: LinkId(link),
        address: address.map(crate::wire::Address::from_v4),
        port,
        accept: Accept::ClientHello,
    };
    let all = [
        listener(0, None, 8444),
        listener(0, Some([10, 0, 0, 2]), 8444),
        listener(1, None, 8444),
        listener(0, Some([10, 0, 0, 1]), 443),
        listener(0, None, 8444),
    ];
    let listeners = Listeners::new(&all);
    let find = |link, address, port| {
        listeners.find(LinkId(link), crate::wire::Address::from_v4(address), port).map(|(id, _)| id.0)
    };
    assert_eq!(find(0, [10, 0, 0, 1], 8444), Some(0));
    assert_eq!(find(0, [10, 0, 0, 2], 8444), Some(1));
    assert_eq!(find(1, [10, 0, 0, 2], 8444), Some(2));
    assert_eq!(find(0, [10, 0, 0, 1], 443), Some(3));
    assert_eq!(find(0, [10, 0, 0, 2], 443), None);
    assert_eq!(find(2, [10, 0, 0, 1], 8444), None);
}

fn any_options() -> impl Strategy<Value = Vec<u8>> {
    let option = prop_oneof![
        any::<u16>().prop_map(|mss| [[2, 4], mss.to_be_bytes()].concat()),
        any::<u8>().prop_map(|scale| vec![3, 3, scale]),
        Just(vec![4, 2]),
        any::<[u8; 8]>().prop_map(|stamp| [&[8, 10][..], &stamp].concat()),
        Just(vec![1]),
        proptest::collection::vec(any::<u8>(), 0..12).prop_map(|body| [
            &[254, 2 + body.len() as u8][..],
            &body
        ]
        .concat()),
        (2u8..9, 2u8..7)
            .prop_map(|(kind, length)| [vec![kind, length], vec![0; usize::from(length) - 2]].concat()),
    ];
    proptest::collection::vec(option, 0..8).prop_map(|options| {
        let mut bytes = Vec::new();
        for option in options.into_iter().filter(|option| !option.is_empty()) {
            if bytes.len() + option.len() <= 40 {
                bytes.extend(option);
            }
        }
        bytes
    })
}

proptest! {
    /// Promise 9: whatever a SYN holds, the answer is not longer and names nothing that was not offered.
    #[test]
    fn an_answer_never_outgrows_its_question(
        v6: bool, seq: u32, flags in prop_oneof![Just(SYN), Just(SYN | 0xc8), Just(SYN | ACK), Just(ACK), Just(FIN | ACK)],
        options in any_options(), payload in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let base = if v6 { Sample::syn_v6() } else { Sample::syn() };
        let asked = Sample { seq, flags, options, payload, ..base };
        let mut frame = asked.frame();
        let before = frame.len();
        let packet = parse(&frame, &Meta::default(), &LINK).expect("a good frame");
        let offered = packet.segment(&frame).options;
        match ask(&mut screen(), 0, &mut frame, Some(&LISTENER), &LINK) {
            Answer::Reply(len) => {
                prop_assert!(len <= before);
                let reply = sample::read(&frame[..len]).expect("a good reply");
                prop_assert_eq!(reply.mss.is_some(), offered.mss.is_some());
                prop_assert_eq!(reply.window_scale.is_some(), offered.window_scale.is_some());
                prop_assert_eq!(reply.sack_permitted, offered.sack_permitted);
                prop_assert_eq!(reply.timestamps.is_some(), offered.timestamps.is_some());
            }
            Answer::Refuse(len, _) => prop_assert!(len <= before && flags & ACK != 0),
            Answer::Drop(reason) => prop_assert!(reason == Reason::Overtaken && flags & ACK != 0, "{:?}", reason),
            Answer::Proof(_) => prop_assert!(false, "a forgery in a few hundred tries"),
        }
    }

    /// Whatever a SYN offers, the flow gets what both sides know, rounded down.
    #[test]
    fn what_was_agreed_is_within_what_was_offered(v6: bool, seq: u32, options in any_options()) {
        let base = if v6 { Sample::syn_v6() } else { Sample::syn() };
        let syn = Sample { seq, options, ..base };
        let frame = syn.frame();
        let offered = parse(&frame, &Meta::default(), &LINK).expect("a good frame").segment(&frame).options;
        let mut screen = screen();
        let (_, first) = handshake(&mut screen, &syn, HELLO);
        let Answer::Proof(agreed) = shown(&mut screen, 0, &first) else { panic!("no proof") };
        let least = if v6 { 1220 } else { 536 };
        prop_assert!(agreed.mss <= offered.mss.unwrap_or(least).max(least));
        prop_assert!(agreed.remote_scale <= offered.window_scale.unwrap_or(0).min(14));
        prop_assert_eq!(agreed.local_scale, offered.window_scale.map_or(0, |_| 8));
        prop_assert_eq!(agreed.sack, offered.sack_permitted);
        prop_assert_eq!(agreed.timestamps.is_some(), offered.timestamps.is_some());
        if offered.timestamps.is_some() {
            prop_assert_eq!(agreed.remote_scale, offered.window_scale.unwrap_or(0).min(14));
        }
    }
}
