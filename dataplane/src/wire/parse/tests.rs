//! What the parser lets through, and the reason for everything else.

use proptest::prelude::*;

use super::*;
use crate::wire::checksum::{finish, numbers};
use crate::wire::sample::{self, ACK, FIN, LINK, LINUX, OURS, RST, SYN, Sample, THEIRS};

fn good(frame: &[u8]) -> Packet {
    parse(frame, &Meta::default(), &LINK).expect("a good frame")
}

/// Changes a good frame and says why it is refused.
#[track_caller]
fn refused(sample: Sample, change: impl FnOnce(&mut Vec<u8>)) -> Reason {
    let mut frame = sample.frame();
    good(&frame);
    change(&mut frame);
    parse(&frame, &Meta::default(), &LINK).expect_err("a bad frame")
}

/// Says why a segment is refused whose checksums are right.
#[track_caller]
fn refused_as_sent(sample: Sample) -> Reason {
    parse(&sample.frame(), &Meta::default(), &LINK).expect_err("a bad frame")
}

/// Makes the IPv4 header checksum right again.
fn repaired(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let checksum = finish_of(&frame[14..34]);
    frame[24..26].copy_from_slice(&checksum);
}

fn finish_of(header: &[u8]) -> [u8; 2] {
    finish(numbers(sum(header))).to_be_bytes()
}

#[test]
fn a_syn_is_read_in_both_families() {
    for sample in [Sample::syn(), Sample::syn_v6()] {
        let frame = sample.frame();
        let packet = good(&frame);
        assert_eq!(packet.kind, Kind::Tcp);
        assert_eq!((packet.source_mac, packet.destination_mac), (THEIRS, OURS));
        assert_eq!(packet.key.remote().ip(), sample.source);
        assert_eq!(packet.key.local().ip(), sample.destination);
        assert_eq!((packet.key.remote_port, packet.key.local_port), (40_000, 8444));
        let segment = packet.segment(&frame);
        assert_eq!((segment.seq, segment.ack, segment.flags), (Seq(1000), Seq(0), Flags::SYN));
        assert_eq!((segment.window, segment.payload, segment.merged), (64_240, &[][..], 1));
        assert_eq!(segment.options.mss, Some(1460));
        assert_eq!(segment.options.window_scale, Some(7));
        assert!(segment.options.sack_permitted);
        assert_eq!(segment.options.timestamps, Some((0x1234, 0)));
    }
}

#[test]
fn ethernet_padding_is_not_payload() {
    let mut sample = Sample { flags: ACK, options: Vec::new(), payload: b"abc".to_vec(), ..Sample::syn() };
    let mut frame = sample.frame();
    frame.resize(60, 0xee);
    assert_eq!(good(&frame).segment(&frame).payload, b"abc");
    sample.source = "2001:db8:1::7".parse().unwrap();
    sample.destination = "2001:db8:2::1".parse().unwrap();
    let mut frame = sample.frame();
    frame.resize(90, 0xee);
    assert_eq!(good(&frame).segment(&frame).payload, b"abc");
}

#[test]
fn sack_blocks_are_read_where_they_lie() {
    let mut options = vec![1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8, 1, 1, 5, 18];
    for edge in [10u32, 20, 30, 40] {
        options.extend(edge.to_be_bytes());
    }
    let frame = Sample { flags: ACK, options, ..Sample::syn() }.frame();
    let segment = good(&frame).segment(&frame);
    assert_eq!(segment.options.timestamps, Some((9, 8)));
    assert_eq!(segment.options.sack.as_slice(), [(Seq(10), Seq(20)), (Seq(30), Seq(40))]);
}

#[test]
fn stations_and_tags_must_fit_the_link() {
    assert_eq!(refused(Sample::syn(), |frame| frame[5] ^= 1), Reason::WrongStation);
    assert_eq!(refused(Sample::syn(), |frame| frame[6] |= 1), Reason::WrongStation);
    assert_eq!(refused(Sample::syn(), |frame| frame[..6].fill(0xff)), Reason::WrongStation);
    assert_eq!(
        refused(Sample::syn_v6(), |frame| frame[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1])),
        Reason::WrongStation
    );

    let tagged = LinkRules { vlan: Some(7), ..LINK };
    let priority = 0xe000;
    let in_band = Sample { vlan: Some(priority | 7), ..Sample::syn() }.frame();
    let plain = Sample::syn().frame();
    let out_of_band = Meta { vlan: Some(priority | 7), ..Meta::default() };
    for (frame, meta) in [(&in_band, Meta::default()), (&plain, out_of_band)] {
        let packet = parse(frame, &meta, &tagged).expect("the link's own tag");
        assert_eq!(packet.vlan, Some(priority | 7));
        assert_eq!(packet.segment(frame).options.mss, Some(1460));
        assert_eq!(parse(frame, &meta, &LINK).err(), Some(Reason::WrongVlan));
    }
    assert_eq!(parse(&plain, &Meta::default(), &tagged).err(), Some(Reason::WrongVlan));
    assert_eq!(parse(&in_band, &out_of_band, &tagged).err(), Some(Reason::WrongVlan));
    let priority_only = Sample { vlan: Some(priority), ..Sample::syn() }.frame();
    assert!(parse(&priority_only, &Meta::default(), &LINK).is_ok());
}

#[test]
fn headers_must_be_whole_and_consistent() {
    for family in [Sample::syn(), Sample::syn_v6()] {
        let frame = family.frame();
        for length in 0..frame.len() {
            assert_eq!(
                parse(&frame[..length], &Meta::default(), &LINK).err(),
                Some(Reason::Truncated),
                "{length} bytes"
            );
        }
    }
    assert_eq!(refused(Sample::syn(), |frame| frame[12] = 0x86), Reason::UnknownProtocol);
    assert_eq!(refused(Sample::syn(), |frame| frame[14] = 0x65), Reason::BadIpHeader);
    assert_eq!(refused(Sample::syn(), |frame| frame[14] = 0x44), Reason::BadIpHeader);
    assert_eq!(refused(Sample::syn(), |frame| frame[14] = 0x46), Reason::IpOptions);
    assert_eq!(refused(Sample::syn(), |frame| frame[22] = 0), Reason::BadIpHeader);
    assert_eq!(refused(Sample::syn(), |frame| frame[24] ^= 1), Reason::BadIpHeader);
    assert_eq!(refused(Sample::syn(), |frame| frame[16..18].copy_from_slice(&[0, 19])), Reason::Truncated);
    assert_eq!(refused(Sample::syn_v6(), |frame| frame[14] = 0x45), Reason::BadIpHeader);
    assert_eq!(refused(Sample::syn_v6(), |frame| frame[21] = 0), Reason::BadIpHeader);
    assert_eq!(refused(Sample::syn(), |frame| frame[40] ^= 1), Reason::BadChecksum);
    assert_eq!(refused(Sample::syn_v6(), |frame| frame[30] ^= 1), Reason::BadChecksum);
}

#[test]
fn fragments_and_extension_headers_are_refused() {
    for bits in [[0x20, 0], [0, 1], [0x1f, 0xff]] {
        let reason = refused(Sample::syn(), |frame| {
            frame[20..22].copy_from_slice(&bits);
            repaired(frame);
        });
        assert_eq!(reason, Reason::Fragment);
    }
    assert_eq!(refused(Sample::syn_v6(), |frame| frame[20] = 44), Reason::Fragment);
    for header in IPV6_EXTENSIONS {
        assert_eq!(refused(Sample::syn_v6(), |frame| frame[20] = header), Reason::IpOptions);
    }
    assert_eq!(refused(Sample::syn_v6(), |frame| frame[20] = 17), Reason::UnknownProtocol);
    let udp = refused(Sample::syn(), |frame| {
        frame[23] = 17;
        repaired(frame);
    });
    assert_eq!(udp, Reason::UnknownProtocol);
}

#[test]
fn martians_and_land_are_refused() {
    let v4 = |source: [u8; 4], destination: [u8; 4]| {
        refused_as_sent(Sample { source: source.into(), destination: destination.into(), ..Sample::syn() })
    };
    let ours = [203, 0, 113, 1];
    for bad in
        [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255, 255, 255, 255]]
    {
        assert_eq!(v4(bad, ours), Reason::Martian, "{bad:?}");
        assert_eq!(v4([198, 51, 100, 7], bad), Reason::Martian, "{bad:?}");
    }
    assert_eq!(v4(ours, ours), Reason::Land);

    let v6 = |source: &str, destination: &str| {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        refused_as_sent(Sample { source, destination, ..Sample::syn() })
    };
    let ours = "2001:db8:2::1";
    for bad in ["::", "::1", "::1.2.3.4", "::ffff:1.2.3.4", "ff02::1", "2002:102:304::1", "2001::1"] {
        assert_eq!(v6(bad, ours), Reason::Martian, "{bad}");
    }
    for bad in ["::", "::1", "::1.2.3.4", "::ffff:1.2.3.4", "ff02::1"] {
        assert_eq!(v6("2001:db8:1::7", bad), Reason::Martian, "{bad}");
    }
    assert_eq!(v6(ours, ours), Reason::Land);
}

#[test]
fn only_flags_that_stacks_send_pass() {
    let passing = |flags: u8| parse(&Sample { flags, ..Sample::syn() }.frame(), &Meta::default(), &LINK);
    for flags in [SYN, SYN | ACK, SYN | 0x20, RST, RST | ACK, FIN | ACK, ACK, ACK | 0x20, FIN | ACK | 0x20] {
        for more in [0, 0x08, 0x40, 0x80, 0xc8] {
            assert!(passing(flags | more).is_ok(), "{flags:#x} with {more:#x}");
        }
    }
    for flags in [
        0,
        FIN,
        SYN | FIN,
        SYN | RST,
        FIN | RST,
        FIN | RST | ACK,
        0x08,
        0x20,
        0x29,
        0x3f,
        SYN | FIN | ACK,
        RST | 0x20,
    ] {
        assert_eq!(passing(flags).err(), Some(Reason::BadFlags), "{flags:#x}");
    }
}

#[test]
fn tcp_headers_must_make_sense() {
    assert_eq!(refused(Sample::syn(), |frame| frame[46] = 0x40), Reason::BadTcpHeader);
    assert_eq!(refused(Sample::syn(), |frame| frame[46] = 0xf0), Reason::BadTcpHeader);
    assert_eq!(refused_as_sent(Sample { source_port: 0, ..Sample::syn() }), Reason::PortZero);
    assert_eq!(refused_as_sent(Sample { destination_port: 0, ..Sample::syn() }), Reason::PortZero);
    for options in
        [vec![2, 0, 0, 0], vec![2, 1, 0, 0], vec![1, 1, 1, 2], vec![2, 8, 0, 0], vec![1, 254, 255, 3]]
    {
        assert_eq!(
            refused_as_sent(Sample { options: options.clone(), ..Sample::syn() }),
            Reason::BadOptions,
            "{options:?}"
        );
    }
    // Unknown kinds and odd lengths are skipped, what follows the end does not count.
    let options = vec![254, 4, 9, 9, 2, 3, 9, 3, 2, 4, 2, 4, 2, 0, 2, 0];
    let frame = Sample { options, ..Sample::syn() }.frame();
    let options = good(&frame).segment(&frame).options;
    assert_eq!((options.mss, options.window_scale, options.sack_permitted), (None, None, true));
}

#[test]
fn the_driver_may_vouch_for_the_checksum() {
    let mut frame = Sample { payload: vec![7; 4000], flags: ACK, ..Sample::syn() }.frame();
    frame[50] ^= 0xff;
    let partial = Checksum::Partial { start: 34, offset: 16 };
    for checksum in [Checksum::Verified, partial] {
        let meta = Meta { checksum, segment: 1448, ..Meta::default() };
        let packet = parse(&frame, &meta, &LINK).expect("vouched for");
        assert_eq!((packet.merged, packet.segment(&frame).payload.len()), (3, 4000));
    }
    let merged = Meta { segment: 1448, ..Meta::default() };
    assert_eq!(parse(&frame, &merged, &LINK).err(), Some(Reason::BadChecksum));
}

#[test]
fn arp_and_icmp_are_told_apart() {
    let mut arp = vec![0xff; 6];
    arp.extend(THEIRS.0);
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend(THEIRS.0);
    arp.extend([10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    let packet = good(&arp);
    assert_eq!(packet.kind, Kind::Arp);
    assert_eq!(
        (packet.key.remote, packet.key.local),
        (Address::from_v4([10, 0, 0, 2]), Address::from_v4([10, 0, 0, 1]))
    );
    assert_eq!(packet.message(&arp).len(), 28);
    arp[18] = 8;
    assert_eq!(parse(&arp, &Meta::default(), &LINK).err(), Some(Reason::NeighbourInvalid));

    let mut echo = Sample { options: Vec::new(), ..Sample::syn() }.frame();
    echo[23] = 1;
    echo[34..].fill(0);
    echo[34] = 8;
    let checksum = finish_of(&echo[34..]);
    echo[36..38].copy_from_slice(&checksum);
    repaired(&mut echo);
    assert_eq!(good(&echo).kind, Kind::Icmpv4);
    echo[40] ^= 1;
    assert_eq!(parse(&echo, &Meta::default(), &LINK).err(), Some(Reason::BadChecksum));

    // Duplicate-address detection: from nobody to a group.
    let mut solicit = Sample { options: Vec::new(), ..Sample::syn_v6() }.frame();
    solicit[..6].copy_from_slice(&[0x33, 0x33, 0xff, 0, 0, 1]);
    solicit[20] = 58;
    solicit[22..38].fill(0);
    solicit[38..54].copy_from_slice(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1]);
    solicit[54..].fill(0);
    let total = sum(&solicit[22..]) + pseudo(PROTOCOL_ICMPV6, 20);
    solicit[56..58].copy_from_slice(&finish(numbers(total)).to_be_bytes());
    assert_eq!(good(&solicit).kind, Kind::Icmpv6);
}

fn any_sample() -> impl Strategy<Value = Sample> {
    let options = prop_oneof![
        Just(Vec::new()),
        Just(LINUX.to_vec()),
        proptest::collection::vec(any::<u8>(), 0..=40),
        Just(vec![1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8]),
    ];
    let numbers = (any::<bool>(), any::<u16>(), any::<u16>(), any::<u32>(), any::<u32>(), any::<u8>());
    (numbers, options, proptest::collection::vec(any::<u8>(), 0..100)).prop_map(
        |(numbers, options, payload)| {
            let (v6, source_port, destination_port, seq, ack, flags) = numbers;
            let base = if v6 { Sample::syn_v6() } else { Sample::syn() };
            Sample { source_port, destination_port, seq, ack, flags, options, payload, ..base }
        },
    )
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), vlan: Option<u16>, segment: u16) {
        let meta = Meta { vlan, segment, checksum: Checksum::Verified };
        if let Ok(packet) = parse(&bytes, &meta, &LINK) {
            packet.segment(&bytes);
        }
    }

    /// Damage deep in a frame reaches code that random bytes do not; what passes stays within the frame.
    #[test]
    fn damaged_frames_never_panic(
        sample in any_sample(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        whole: bool,
    ) {
        let mut frame = sample.frame();
        for (at, value) in damage {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        if !whole {
            frame.truncate(cut.index(frame.len()));
        }
        let meta = Meta { checksum: Checksum::Verified, ..Meta::default() };
        if let Ok(packet) = parse(&frame, &meta, &LINK) {
            prop_assert!(packet.network() < packet.transport() || packet.kind == Kind::Arp);
            prop_assert!(packet.transport() <= packet.payload() && packet.payload() <= packet.end());
            prop_assert!(packet.end() <= frame.len());
            packet.segment(&frame);
        }
    }

    #[test]
    fn what_passes_reads_as_smoltcp_reads_it(sample in any_sample()) {
        let frame = sample.frame();
        if let Ok(packet) = parse(&frame, &Meta::default(), &LINK) {
            let ours = packet.segment(&frame);
            let length = frame.len() - 14;
            let key = packet.key;
            // smoltcp refuses known options of a wrong length, which are skipped here.
            if let Some(theirs) = sample::read(&frame) {
                prop_assert_eq!(theirs.addresses, (key.remote().ip(), key.local().ip()));
                prop_assert_eq!(theirs.ports, (key.remote_port, key.local_port));
                prop_assert_eq!((theirs.seq, theirs.flags), (ours.seq.0, ours.flags.0));
                prop_assert_eq!((theirs.window, theirs.length), (ours.window, length));
                prop_assert_eq!(theirs.mss, ours.options.mss);
                prop_assert_eq!(theirs.sack_permitted, ours.options.sack_permitted);
                prop_assert_eq!(theirs.timestamps, ours.options.timestamps);
                prop_assert_eq!(&theirs.payload[..], ours.payload);
            }
        }
    }
}
