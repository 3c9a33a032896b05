//! What is built can be parsed, with complete checksums.

use proptest::prelude::*;

use super::*;
use crate::wire::checksum::{numbers, sum};
use crate::wire::sample::{self, LINK, OURS, THEIRS};
use crate::wire::{LinkId, LinkRules, Options, SackBlocks, parse};

fn key(v6: bool) -> FlowKey {
    let (local, remote) = match v6 {
        false => ("203.0.113.1:8444", "198.51.100.7:40000"),
        true => ("[2001:db8:2::1]:8444", "[2001:db8:1::7]:40000"),
    };
    FlowKey::new(local.parse().unwrap(), remote.parse().unwrap())
}

fn outgoing<'a>(v6: bool, first: &'a [u8], second: &'a [u8]) -> Outgoing<'a> {
    Outgoing {
        key: key(v6),
        link: LinkId(0),
        hop: None,
        seq: Seq(7),
        ack: Seq(9),
        flags: Flags::ACK.with(Flags::PSH),
        window: 512,
        options: Options::default(),
        payload: [first, second].into(),
        segment: 0,
    }
}

#[test]
fn a_frame_that_is_too_small_is_refused() {
    let payload = [1; 100];
    for v6 in [false, true] {
        let segment = outgoing(v6, &payload, &[]);
        let length =
            build_tcp(&mut [0; 300], &segment, OURS, THEIRS, &BuildRules::default()).expect("room").len;
        for short in 0..length {
            let mut frame = vec![0; short];
            assert_eq!(build_tcp(&mut frame, &segment, OURS, THEIRS, &BuildRules::default()), None);
        }
        let huge = vec![0; 65_536];
        let mut frame = vec![0; 70_000];
        assert_eq!(
            build_tcp(&mut frame, &outgoing(v6, &huge, &[]), OURS, THEIRS, &BuildRules::default()),
            None
        );
    }
}

#[test]
fn tags_go_where_the_port_wants_them() {
    let mut frame = [0; 100];
    let rules = BuildRules { vlan: Some(0x2007), ..BuildRules::default() };
    let built = build_tcp(&mut frame, &outgoing(false, b"hi", &[]), THEIRS, OURS, &rules).expect("room");
    assert_eq!((built.len, built.meta), (14 + 4 + 20 + 20 + 2, Meta::default()));
    let link = LinkRules { vlan: Some(7), ..LINK };
    let packet = parse(&frame[..built.len], &built.meta, &link).expect("a good frame");
    assert_eq!((packet.vlan, packet.segment(&frame).payload), (Some(0x2007), &b"hi"[..]));

    let rules = BuildRules { vlan_offload: true, ..rules };
    let built = build_tcp(&mut frame, &outgoing(false, b"hi", &[]), THEIRS, OURS, &rules).expect("room");
    assert_eq!((built.len, built.meta.vlan), (14 + 20 + 20 + 2, Some(0x2007)));
    assert!(parse(&frame[..built.len], &built.meta, &link).is_ok());
}

#[test]
fn partial_checksums_are_completed_by_summing_from_the_start() {
    let payload = [0x5a; 3001];
    for (v6, cut) in [(false, 0), (true, 0), (false, 1460), (true, 1440)] {
        let mut frame = [0; 4000];
        let rules = BuildRules { checksum_offload: cut == 0, ..BuildRules::default() };
        let segment = Outgoing { segment: cut, ..outgoing(v6, &payload[..1001], &payload[1001..]) };
        let built = build_tcp(&mut frame, &segment, OURS, THEIRS, &rules).expect("room");
        assert_eq!(built.meta.segment, cut);
        let Checksum::Partial { start, offset } = built.meta.checksum else { panic!("{:?}", built.meta) };
        let (start, offset) = (usize::from(start), usize::from(offset));
        let checksum = finish(numbers(sum(&frame[start..built.len]))).to_be_bytes();
        frame[start + offset..start + offset + 2].copy_from_slice(&checksum);
        assert_eq!(sample::read(&frame[..built.len]).expect("a good frame").payload, payload);
    }
}

fn any_options() -> impl Strategy<Value = Options> {
    let syn = (any::<Option<u16>>(), prop::option::of(0u8..=14), any::<bool>(), any::<Option<(u32, u32)>>());
    let syn = syn.prop_map(|(mss, window_scale, sack_permitted, timestamps)| Options {
        mss,
        window_scale,
        sack_permitted,
        timestamps,
        sack: SackBlocks::default(),
    });
    let blocks = proptest::collection::vec(any::<(u32, u32)>(), 0..=4);
    let established = (any::<Option<(u32, u32)>>(), blocks).prop_map(|(timestamps, blocks)| {
        let mut sack = SackBlocks::default();
        for (left, right) in blocks {
            sack.push(Seq(left), Seq(right));
        }
        Options { timestamps, sack, ..Options::default() }
    });
    prop_oneof![syn, established]
}

proptest! {
    #[test]
    fn smoltcp_reads_what_was_meant(
        v6: bool,
        options in any_options(),
        payload in proptest::collection::vec(any::<u8>(), 0..1400),
        at in any::<prop::sample::Index>(),
    ) {
        let (first, second) = payload.split_at(at.index(payload.len() + 1));
        let segment = Outgoing { options, ..outgoing(v6, first, second) };
        let mut frame = [0xaa; 1600];
        let built = build_tcp(&mut frame, &segment, OURS, THEIRS, &BuildRules::default()).expect("room");
        let read = sample::read(&frame[..built.len]).expect("a good frame");
        prop_assert_eq!(read.ethernet, (OURS, THEIRS));
        prop_assert_eq!(read.addresses, (segment.key.local().ip(), segment.key.remote().ip()));
        prop_assert_eq!(read.ports, (8444, 40_000));
        prop_assert_eq!((read.seq, read.ack, read.flags, read.window, read.hop_limit), (7, 9, 0x18, 512, 64));
        prop_assert_eq!((read.mss, read.window_scale), (options.mss, options.window_scale));
        prop_assert_eq!((read.sack_permitted, read.timestamps), (options.sack_permitted, options.timestamps));
        prop_assert_eq!(&read.payload, &payload);
        // Beside timestamps three blocks fit; smoltcp reads no more than three.
        let sack: Vec<_> = options.sack.as_slice().iter().map(|(left, right)| (left.0, right.0)).take(3).collect();
        prop_assert_eq!(read.sack, sack);
    }

    #[test]
    fn our_parser_reads_what_was_meant(v6: bool, options in any_options(), payload in proptest::collection::vec(any::<u8>(), 0..100)) {
        let segment = Outgoing { options, ..outgoing(v6, &payload, &[]) };
        let mut frame = [0; 300];
        let built = build_tcp(&mut frame, &segment, THEIRS, OURS, &BuildRules::default()).expect("room");
        let frame = &frame[..built.len];
        let read = parse(frame, &built.meta, &LINK).expect("a good frame").segment(frame);
        let fit = if options.timestamps.is_some() { 3 } else { 4 };
        let mut expected = options;
        expected.sack.truncate(fit);
        prop_assert_eq!(read.options, expected);
        prop_assert_eq!(read.payload, &payload[..]);
    }
}
