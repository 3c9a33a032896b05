//! Vectors of RFC 6455, limits, and the codec against its own mirror image in any cutting.

use core::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::session::Instant;
use crate::verdict::Reason;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What a reader made of a stream: whole messages, pings, pongs, a close.
#[derive(Debug, Default, PartialEq)]
struct Read {
    messages: Vec<Vec<u8>>,
    partial: Vec<u8>,
    pings: Vec<Vec<u8>>,
    pongs: usize,
    close: Option<CloseFrame>,
}

fn read_all(reader: &mut Reader, now: Instant, bytes: &[u8], chunk: usize) -> Result<Read, Reason> {
    let mut read = Read::default();
    for piece in bytes.chunks(chunk) {
        let mut piece = piece.to_vec();
        let mut at = 0;
        while at < piece.len() {
            let (taken, found) = reader.read(now, &mut piece[at..])?;
            assert!(taken > 0, "no progress");
            at += taken;
            match found {
                None => assert_eq!(at, piece.len(), "bytes were left without a piece"),
                Some(Piece::Data { bytes, left, fin, begins }) => {
                    assert!(!begins || read.partial.is_empty());
                    read.partial.extend_from_slice(bytes);
                    if fin && left == 0 {
                        read.messages.push(core::mem::take(&mut read.partial));
                    }
                }
                Some(Piece::Ping(payload)) => read.pings.push(payload),
                Some(Piece::Pong) => read.pongs += 1,
                Some(Piece::Close(frame)) => read.close = Some(frame),
            }
        }
    }
    Ok(read)
}

fn server(bytes: &[u8]) -> Result<Read, Reason> {
    read_all(&mut Reader::new(Role::Server, Limits::default()), Instant::ZERO, bytes, usize::MAX)
}

#[test]
fn examples_of_the_standard() {
    // RFC 6455, section 5.7, with a binary opcode in place of text.
    let masked = [0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(server(&masked).expect("valid").messages, [b"Hello"]);
    assert_eq!(encode_frame(true, Opcode::Binary, Some(MASK), b"Hello"), masked);
    let fragments = [0x02, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f];
    let mut client = Reader::new(Role::Client, Limits::default());
    let read = read_all(&mut client, Instant::ZERO, &fragments, 1).expect("valid");
    assert_eq!(read.messages, [b"Hello"]);
    // Section 1.3.
    assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[test]
fn lengths_are_written_in_their_shortest_form() {
    for (len, header) in [(125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
        let frame = encode_frame(true, Opcode::Binary, None, &vec![0; len]);
        assert_eq!(frame.len() - len, header);
        let (parsed, at) = FrameHeader::parse(&frame).expect("valid").expect("complete");
        assert_eq!((parsed.len, at), (len as u64, header));
    }
}

#[test]
fn headers_are_refused_at_their_first_wrong_byte() {
    let cases: [(&[u8], Reason); 9] = [
        (&[0xc2], Reason::WsReservedBits),
        (&[0x92], Reason::WsReservedBits),
        (&[0x83], Reason::WsOpcode),
        (&[0x8b], Reason::WsOpcode),
        (&[0x09, 0x80], Reason::WsControl),
        (&[0x88, 0xfe], Reason::WsControl),
        (&[0x82, 0xfe, 0, 125], Reason::WsLength),
        (&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], Reason::WsLength),
        (&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], Reason::WsLength),
    ];
    for (bytes, reason) in cases {
        assert_eq!(FrameHeader::parse(bytes), Err(reason), "{bytes:02x?}");
        for len in 0..bytes.len() - 1 {
            assert_eq!(FrameHeader::parse(&bytes[..len]), Ok(None), "{bytes:02x?}");
        }
    }
}

#[test]
fn each_role_insists_on_the_others_mask() {
    let bare = encode_frame(true, Opcode::Binary, None, b"x");
    let masked = encode_frame(true, Opcode::Binary, Some(MASK), b"x");
    let read = |role, bytes: &[u8]| {
        read_all(&mut Reader::new(role, Limits::default()), Instant::ZERO, bytes, 9)
            .map(|read| read.messages.len())
    };
    assert_eq!(read(Role::Server, &bare), Err(Reason::WsUnmasked));
    assert_eq!(read(Role::Client, &masked), Err(Reason::WsUnmasked));
    assert_eq!((read(Role::Server, &masked), read(Role::Client, &bare)), (Ok(1), Ok(1)));
}

#[test]
fn control_frames_are_counted_by_the_minute() {
    let limits = Limits { controls_per_minute: 3, ..Limits::default() };
    let mut reader = Reader::new(Role::Server, limits);
    let ping = encode_frame(true, Opcode::Ping, Some(MASK), b"1");
    let mut read = |seconds, frames: &[u8]| {
        read_all(&mut reader, Duration::from_secs(seconds), frames, 100).map(|read| read.pings.len())
    };
    assert_eq!(read(10, &ping.repeat(3)), Ok(3));
    assert_eq!(read(70, &ping.repeat(3)), Ok(3));
    assert_eq!(read(129, &ping), Err(Reason::WsControlFlood));
}

#[test]
fn empty_fragments_count_as_control_frames() {
    let mut frames = encode_frame(false, Opcode::Binary, Some(MASK), b"x");
    frames.extend(encode_frame(false, Opcode::Continuation, Some(MASK), b"").repeat(61));
    assert_eq!(server(&frames), Err(Reason::WsControlFlood));
    assert_eq!(
        server(&encode_frame(true, Opcode::Binary, Some(MASK), b"").repeat(500))
            .map(|read| read.messages.len()),
        Ok(500)
    );
}

#[test]
fn close_frames() {
    let decode = |payload: &[u8]| CloseFrame::decode(payload);
    assert_eq!(decode(&[]), Ok(CloseFrame::default()));
    assert_eq!(decode(&[3, 232]), Ok(CloseFrame::new(1000, "")));
    assert_eq!(decode(b"\x03\xea110"), Ok(CloseFrame::new(1002, "110")));
    for payload in [
        &b"\x03"[..],
        b"\x03\xec",
        b"\x03\xed",
        b"\x03\xee",
        b"\x00\x00",
        b"\x03\xf7",
        b"\x13\x88",
        b"\x03\xe8\xff",
    ] {
        assert_eq!(decode(payload), Err(Reason::WsControl), "{payload:02x?}");
    }
    let long = CloseFrame::new(1000, &"ä".repeat(100));
    assert_eq!(long.encode().len(), 2 + 122);
    assert_eq!(decode(&long.encode()), Ok(long));
}

#[test]
fn the_client_accepts_one_answer_only() {
    let good = |accept: &str| {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: {accept}\r\nServer: x\r\n\r\n"
        )
    };
    let (upgrade, request) = ClientUpgrade::new("node", [9; 16]);
    let mut server = ServerUpgrade::default();
    let answer = server.receive(&request).expect("valid").expect("complete").response;
    let answered = |response: &[u8]| {
        let (mut upgrade, _) = ClientUpgrade::new("node", [9; 16]);
        upgrade.receive(response).map_err(|reason| (reason, upgrade.status()))
    };
    assert_eq!(upgrade.status(), None);
    assert_eq!(answered(&answer), Ok(Some(answer.len())));
    assert_eq!(answered(&[answer.clone(), vec![0x82]].concat()), Ok(Some(answer.len())));
    let text = String::from_utf8(answer).expect("text");
    let key = text.split("Accept: ").nth(1).and_then(|rest| rest.split("\r\n").next()).expect("a key");
    assert!(answered(good(key).as_bytes()).is_ok_and(|taken| taken.is_some()));
    let refused = Err((Reason::NodeUpgrade, Some(101)));
    assert_eq!(answered(good("AAAA").as_bytes()), refused);
    assert_eq!(answered(good(key).replace("Upgrade: websocket", "Upgrade: h2c").as_bytes()), refused);
    let extended = good(key).replace("Server: x", "Sec-WebSocket-Extensions: permessage-deflate");
    assert_eq!(answered(extended.as_bytes()), refused);
    let banned = b"HTTP/1.1 403 Forbidden\r\n\r\n";
    assert_eq!(answered(banned), Err((Reason::NodeUpgrade, Some(403))));
    assert_eq!(answered(&[b'x'; 5_000]), Err((Reason::NodeUpgrade, None)));
}

#[test]
fn what_is_withheld_stays_behind_control_frames() {
    let mut writer = Writer::new(Role::Server, 0);
    writer.begin(6, true, true, true);
    writer.push(b"abc");
    writer.ping();
    assert_eq!(writer.ready(), [0x89, 0]);
    writer.push(b"def");
    assert_eq!(writer.ready(), [0x89, 0]);
    writer.release();
    assert_eq!(writer.ready(), b"\x89\x00\x82\x06abcdef");
    writer.sent(10);
    assert_eq!((writer.ready(), writer.memory()), (&[][..], 0));
}

#[test]
fn what_is_not_withheld_goes_out_at_once_and_control_frames_wait() {
    let mut writer = Writer::new(Role::Server, 0);
    writer.begin(4, true, false, false);
    writer.push(b"ab");
    writer.pong(b"1".to_vec());
    writer.pong(b"2".to_vec());
    assert_eq!(writer.ready(), b"\x02\x04ab");
    assert_eq!(writer.push(b"cdef"), 2);
    assert_eq!(writer.ready(), b"\x02\x04abcd\x8a\x012");
}

#[test]
fn discarding_tells_whether_the_stream_stands_between_frames() {
    let mut writer = Writer::new(Role::Server, 0);
    assert!(writer.discard());
    writer.begin(4, true, true, true);
    writer.push(b"ab");
    assert!(writer.discard());
    assert_eq!(writer.ready(), b"");
    writer.begin(4, true, true, false);
    writer.push(b"ab");
    assert!(!writer.discard());
}

#[test]
fn nothing_follows_a_close_frame() {
    let mut writer = Writer::new(Role::Server, 0);
    writer.close(&CloseFrame::new(1000, ""));
    writer.close(&CloseFrame::new(1002, ""));
    writer.ping();
    assert_eq!(writer.ready(), [0x88, 2, 3, 232]);
}

#[test]
fn memory_follows_what_arrived_not_what_was_announced() {
    let mut writer = Writer::new(Role::Client, 0);
    writer.begin(8 << 20, true, true, true);
    writer.push(&[0; 100]);
    assert!(writer.memory() < 4 << 10, "{}", writer.memory());
}

/// A message as fragments, or a control frame.
#[derive(Clone, Debug)]
enum Sent {
    Message(Vec<Vec<u8>>),
    Ping(Vec<u8>),
    Pong,
}

fn sent() -> impl Strategy<Value = Sent> {
    let bytes = |max| prop::collection::vec(any::<u8>(), 0..max);
    prop_oneof![
        4 => prop::collection::vec(bytes(300), 1..5).prop_map(Sent::Message),
        1 => bytes(125).prop_map(Sent::Ping),
        1 => Just(Sent::Pong),
    ]
}

proptest! {
    #[test]
    fn masks_are_involutions_at_any_offset(bytes in prop::collection::vec(any::<u8>(), 0..100), mask: [u8; 4], cut in 0_usize..100) {
        let expected: Vec<u8> = bytes.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        let mut masked = bytes.clone();
        let cut = cut.min(masked.len());
        let (front, back) = masked.split_at_mut(cut);
        apply_mask(front, mask, 0);
        apply_mask(back, mask, cut);
        prop_assert_eq!(masked, expected);
    }

    #[test]
    fn any_cutting_of_any_stream_reads_the_same(stream in prop::collection::vec(sent(), 0..12), chunk in 1_usize..300) {
        let mut expected = Read::default();
        let mut bytes = Vec::new();
        for item in &stream {
            let frame = |fin, opcode, payload: &[u8]| encode_frame(fin, opcode, Some(MASK), payload);
            match item {
                Sent::Message(fragments) => {
                    for (at, fragment) in fragments.iter().enumerate() {
                        let opcode = if at == 0 { Opcode::Binary } else { Opcode::Continuation };
                        bytes.extend(frame(at + 1 == fragments.len(), opcode, fragment));
                    }
                    expected.messages.push(fragments.concat());
                }
                Sent::Ping(payload) => {
                    bytes.extend(frame(true, Opcode::Ping, payload));
                    expected.pings.push(payload.clone());
                }
                Sent::Pong => {
                    bytes.extend(frame(true, Opcode::Pong, b""));
                    expected.pongs += 1;
                }
            }
        }
        let mut reader = Reader::new(Role::Server, Limits { controls_per_minute: u32::MAX, ..Limits::default() });
        prop_assert_eq!(read_all(&mut reader, Instant::ZERO, &bytes, chunk), Ok(expected));
        prop_assert!(!reader.is_within());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), chunk in 1_usize..50) {
        let read = |chunk| read_all(&mut Reader::new(Role::Server, Limits::default()), Instant::ZERO, &bytes, chunk);
        match (read(chunk), read(usize::MAX)) {
            (Ok(pieces), Ok(whole)) => prop_assert_eq!(pieces, whole),
            (pieces, whole) => prop_assert_eq!(pieces.err(), whole.err()),
        }
    }

    #[test]
    fn any_request_is_accepted_or_refused_in_any_cutting(
        index in any::<prop::sample::Index>(),
        value: u8,
        chunk in 1_usize..80,
    ) {
        let mut request = upgrade_request("host", "dGhlIHNhbXBsZSBub25jZQ==");
        let at = index.index(request.len());
        request[at] ^= value;
        let receive = |chunk| {
            let mut upgrade = ServerUpgrade::default();
            request.chunks(chunk).map(|piece| upgrade.receive(piece)).find(|result| result != &Ok(None))
        };
        // A mutation can end the head early; how much of the rest comes along then decides about HttpBody.
        let (pieces, whole) = (receive(chunk), receive(usize::MAX));
        if whole != Some(Err(Reason::HttpBody)) {
            prop_assert_eq!(pieces, whole);
        }
    }
}
