//! The cases of the Autobahn testsuite (WebSocket protocol fuzzing, version 25.10) as raw bytes, each by its number, against
//! the reader that takes peers' and nodes' frames apart.
//!
//! Every case is played from either end (masked towards a server, unmasked towards a client) and in four cuttings: at once,
//! frame by frame, in octets and in pieces of 997 bytes, so that the suite's variants of one case by chopping fall together.
//!
//! What differs from an echo server, for which the suite was made:
//! - **Text** (1.1.*, 6.*, 9.1.*, 9.3.*, 9.5.*, 9.7.*, 10.1.1): Chia speaks binary messages only, so a text frame is refused
//!   by its header, whatever its payload: there is no UTF-8 to be validated but in close frames. Where the suite uses text
//!   merely as something to send (3.*, 4.*, 5.*, 7.1.*) the cases use binary messages.
//! - **Fragments** (9.4.1, 9.4.2): beyond the first 64 each must carry a kibibyte on average.
//! - **Control frames**: sixty a minute; the suite stays below that in all cases but none.
//! - **Compression** (12.*, 13.*): no extension is ever agreed on, so its first bit (RSV1) is refused as in section 3.

use core::time::Duration;

use hedgerow_policy::Reason;
use hedgerow_policy::websocket::{CloseFrame, Limits, Opcode, Piece, Reader, Role, encode_frame};

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What the reader makes of it, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Message(usize),
    Ping(Vec<u8>),
    Pong,
    Close(Option<u16>, String),
    Refused(Reason),
}

use Seen::{Close, Message, Ping, Pong, Refused};

/// A frame: first byte of its header, payload.
#[derive(Clone)]
struct Frame(u8, Vec<u8>);

impl Frame {
    fn bytes(&self, mask: Option<[u8; 4]>) -> Vec<u8> {
        // A correct frame whose first byte, and where it must be the length, are then what the case wants.
        let mut bytes = encode_frame(true, Opcode::Binary, mask, &self.1);
        bytes[0] = self.0;
        bytes
    }
}

const FIN: u8 = 0x80;

fn part(opcode: u8, payload: &[u8]) -> Frame {
    Frame(opcode, payload.to_vec())
}

fn whole(opcode: u8, payload: &[u8]) -> Frame {
    Frame(FIN | opcode, payload.to_vec())
}

fn binary(len: usize) -> Frame {
    Frame(FIN | 2, pattern(len))
}

fn ping(payload: &[u8]) -> Frame {
    whole(9, payload)
}

fn close(payload: &[u8]) -> Frame {
    whole(8, payload)
}

fn coded(code: u16, text: &[u8]) -> Frame {
    close(&[&code.to_be_bytes(), text].concat())
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 251) as u8).collect()
}

/// One turn of a connection: what comes of `frames`, cut into pieces of `cut` bytes, or frame by frame.
fn play(frames: &[Frame], role: Role, cut: Option<usize>) -> Vec<Seen> {
    let mask = (role == Role::Server).then_some(MASK);
    let mut reader = Reader::new(role, Limits::default());
    let (mut seen, mut message) = (vec![], vec![]);
    let encoded: Vec<Vec<u8>> = frames.iter().map(|frame| frame.bytes(mask)).collect();
    let pieces: Vec<Vec<u8>> = match cut {
        None => encoded,
        Some(size) => encoded.concat().chunks(size).map(<[u8]>::to_vec).collect(),
    };
    for mut bytes in pieces {
        let mut at = 0;
        while at < bytes.len() {
            let (taken, piece) = match reader.read(Duration::ZERO, &mut bytes[at..]) {
                Ok(read) => read,
                Err(reason) => {
                    seen.push(Refused(reason));
                    return seen;
                }
            };
            at += taken;
            match piece {
                None => {}
                Some(Piece::Data { bytes, left, fin, .. }) => {
                    message.extend_from_slice(bytes);
                    if fin && left == 0 {
                        let message = core::mem::take(&mut message);
                        seen.push(Message(message.len()));
                    }
                }
                Some(Piece::Ping(payload)) => seen.push(Ping(payload)),
                Some(Piece::Pong) => seen.push(Pong),
                Some(Piece::Close(CloseFrame { code, text })) => {
                    // Nothing counts after it.
                    seen.push(Close(code, text));
                    return seen;
                }
            }
        }
    }
    seen
}

/// Plays a case in all ways.
fn case(number: &str, frames: &[Frame], expected: &[Seen]) {
    for role in [Role::Server, Role::Client] {
        let total: usize = frames.iter().map(|frame| frame.1.len()).sum();
        for cut in [Some(usize::MAX), None, Some(997), Some(1)] {
            // Megabytes octet by octet show nothing that kilobytes do not.
            if cut == Some(1) && total > 200_000 {
                continue;
            }
            assert_eq!(play(frames, role, cut), expected, "case {number}, {role:?}, cut {cut:?}");
        }
    }
}

const TEXT: [Seen; 1] = [Refused(Reason::WsTextFrame)];

#[test]
fn section_1_framing() {
    let sizes = [0, 125, 126, 127, 128, 65_535, 65_536, 65_536];
    for (n, size) in (1..).zip(sizes) {
        case(&format!("1.1.{n}"), &[whole(1, &vec![b'*'; size])], &TEXT);
        case(&format!("1.2.{n}"), &[binary(size)], &[Message(size)]);
    }
}

#[test]
fn section_2_pings_and_pongs() {
    let small: &[u8] = b"Hello, world!";
    let odd: &[u8] = &[0x00, 0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0x00, 0xff];
    let long = [0xfe; 125];
    case("2.1", &[ping(&[])], &[Ping(vec![])]);
    case("2.2", &[ping(small)], &[Ping(small.to_vec())]);
    case("2.3", &[ping(odd)], &[Ping(odd.to_vec())]);
    case("2.4", &[ping(&long)], &[Ping(long.to_vec())]);
    case("2.5", &[ping(&[0xfe; 126])], &[Refused(Reason::WsControl)]);
    case("2.6", &[ping(&long)], &[Ping(long.to_vec())]);
    case("2.7", &[whole(10, &[])], &[Pong]);
    case("2.8", &[whole(10, b"unsolicited pong payload")], &[Pong]);
    let both = [whole(10, b"unsolicited pong payload"), ping(b"ping payload")];
    case("2.9", &both, &[Pong, Ping(b"ping payload".to_vec())]);
    let ten: Vec<Vec<u8>> = (0..10).map(|n| format!("payload-{n}").into_bytes()).collect();
    let frames: Vec<Frame> = ten.iter().map(|payload| ping(payload)).collect();
    let answers: Vec<Seen> = ten.into_iter().map(Ping).collect();
    case("2.10", &frames, &answers);
    case("2.11", &frames, &answers);
}

/// 12.* and 13.* would use the first of the reserved bits.
#[test]
fn section_3_reserved_bits() {
    let with = |bits: u8, frame: Frame| Frame(frame.0 | bits << 4, frame.1);
    let refused = Refused(Reason::WsReservedBits);
    let (good, bad) = (binary(13), || ping(b"after"));
    case("3.1", &[with(4, binary(13))], core::slice::from_ref(&refused));
    for (number, bits) in [("3.2", 2), ("3.3", 6), ("3.4", 1)] {
        let frames = [good.clone(), with(bits, good.clone()), bad()];
        case(number, &frames, &[Message(13), refused.clone()]);
    }
    case("3.5", &[with(5, binary(8))], core::slice::from_ref(&refused));
    case("3.6", &[with(3, ping(b"Hello"))], core::slice::from_ref(&refused));
    case("3.7", &[with(7, close(&[]))], &[refused]);
}

#[test]
fn section_4_opcodes() {
    let refused = Refused(Reason::WsOpcode);
    for (group, opcodes) in [("4.1", 3..8), ("4.2", 11..16)] {
        for (n, opcode) in (1..).zip(opcodes) {
            let number = format!("{group}.{n}");
            match n {
                1 => case(&number, &[whole(opcode, &[])], core::slice::from_ref(&refused)),
                2 => case(
                    &number,
                    &[whole(opcode, b"reserved opcode payload")],
                    core::slice::from_ref(&refused),
                ),
                3 => {
                    case(&number, &[binary(9), whole(opcode, &[]), ping(&[])], &[Message(9), refused.clone()])
                }
                _ => case(
                    &number,
                    &[binary(9), whole(opcode, b"payload"), ping(&[])],
                    &[Message(9), refused.clone()],
                ),
            }
        }
    }
}

#[test]
fn section_5_fragmentation() {
    let control = [Refused(Reason::WsControl)];
    let continuation = Refused(Reason::WsContinuation);
    let (one, two) = (b"fragment1", b"fragment2");
    case("5.1", &[part(9, one), whole(0, two)], &control);
    case("5.2", &[part(10, one), whole(0, two)], &control);
    for number in ["5.3", "5.4", "5.5"] {
        case(number, &[part(2, one), whole(0, two)], &[Message(18)]);
    }
    for number in ["5.6", "5.7", "5.8"] {
        let frames = [part(2, one), ping(b"ping"), whole(0, two)];
        case(number, &frames, &[Ping(b"ping".to_vec()), Message(18)]);
    }
    for number in ["5.9", "5.10", "5.11"] {
        case(
            number,
            &[whole(0, b"non-continuation payload"), binary(13)],
            core::slice::from_ref(&continuation),
        );
    }
    for number in ["5.12", "5.13", "5.14"] {
        case(
            number,
            &[part(0, b"non-continuation payload"), binary(13)],
            core::slice::from_ref(&continuation),
        );
    }
    let frames = [part(2, one), whole(0, two), part(0, b"fragment3"), binary(9)];
    case("5.15", &frames, &[Message(18), continuation.clone()]);
    let twice = |first: u8| {
        let round = [Frame(first, one.to_vec()), part(2, one), whole(0, two)];
        [round.clone(), round].concat()
    };
    case("5.16", &twice(0), core::slice::from_ref(&continuation));
    case("5.17", &twice(FIN), core::slice::from_ref(&continuation));
    case("5.18", &[part(2, one), part(2, two)], &[continuation]);
    for number in ["5.19", "5.20"] {
        let frames = [
            part(2, one),
            part(0, two),
            ping(b"pongme 1!"),
            part(0, b"fragment3"),
            ping(b"pongme 2!"),
            part(0, b"fragment4"),
            whole(0, b"fragment5"),
        ];
        let answers = [Ping(b"pongme 1!".to_vec()), Ping(b"pongme 2!".to_vec()), Message(45)];
        case(number, &frames, &answers);
    }
}

/// Each of the suite's groups with one of its payloads, valid or not: none is looked at.
#[test]
fn section_6_text() {
    let payloads: [(&str, &[u8]); 12] = [
        ("6.1.1", b""),
        ("6.2.1", "Hello-\u{b5}@\u{df}\u{f6}\u{e4}\u{fc}\u{e0}\u{e1}-UTF-8!!".as_bytes()),
        ("6.3.1", b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited"),
        ("6.4.1", b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited"),
        ("6.5.1", "\u{3ba}\u{1f79}\u{3c3}\u{3bc}\u{3b5}".as_bytes()),
        ("6.6.1", b"\xce"),
        ("6.7.1", b"\x00"),
        ("6.8.1", b"\xf8\x88\x80\x80\x80"),
        ("6.10.1", b"\xf7\xbf\xbf\xbf"),
        ("6.12.1", b"\x80"),
        ("6.20.1", b"\xed\xa0\x80"),
        ("6.23.1", b"\xef\xbf\xbd"),
    ];
    for (number, payload) in payloads {
        case(number, &[whole(1, payload)], &TEXT);
        case(number, &[part(1, payload), whole(0, payload)], &TEXT);
    }
}

#[test]
fn section_7_closing() {
    let done = Close(Some(1000), String::new());
    let normal = || coded(1000, &[]);
    case("7.1.1", &[binary(12), normal()], &[Message(12), done.clone()]);
    case("7.1.2", &[normal(), normal()], core::slice::from_ref(&done));
    case("7.1.3", &[normal(), ping(&[])], core::slice::from_ref(&done));
    case("7.1.4", &[normal(), binary(12)], core::slice::from_ref(&done));
    case("7.1.5", &[part(2, b"fragment1"), normal(), whole(0, b"fragment2")], core::slice::from_ref(&done));
    case("7.1.6", &[binary(256 * 1024), normal(), ping(&[])], &[Message(256 * 1024), done.clone()]);
    case("7.3.1", &[close(&[])], &[Close(None, String::new())]);
    case("7.3.2", &[close(b"a")], &[Refused(Reason::WsControl)]);
    case("7.3.3", &[normal()], &[done]);
    case("7.3.4", &[coded(1000, b"Hello World!")], &[Close(Some(1000), "Hello World!".into())]);
    case("7.3.5", &[coded(1000, &[b'*'; 123])], &[Close(Some(1000), "*".repeat(123))]);
    case("7.3.6", &[coded(1000, &[b'*'; 124])], &[Refused(Reason::WsControl)]);
    let invalid = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited";
    case("7.5.1", &[coded(1000, invalid)], &[Refused(Reason::WsControl)]);
    let valid = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];
    for (n, code) in (1..).zip(valid) {
        case(&format!("7.7.{n}"), &[coded(code, &[])], &[Close(Some(code), String::new())]);
    }
    let invalid = [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999];
    for (n, code) in (1..).zip(invalid) {
        case(&format!("7.9.{n}"), &[coded(code, &[])], &[Refused(Reason::WsControl)]);
    }
    // The suite leaves these to the receiver.
    for (n, code) in [(1, 5000), (2, 65_535)] {
        case(&format!("7.13.{n}"), &[coded(code, &[])], &[Refused(Reason::WsControl)]);
    }
}

#[test]
fn section_9_limits_and_performance() {
    const KB: usize = 1024;
    const MB: usize = 1024 * KB;
    let sizes = [64 * KB, 256 * KB, MB, 4 * MB, 8 * MB, 16 * MB];
    for (n, size) in (1..).zip(sizes) {
        case(&format!("9.1.{n}"), &[Frame(FIN | 1, vec![b'*'; 64 * KB])], &TEXT);
        case(&format!("9.2.{n}"), &[binary(size)], &[Message(size)]);
    }
    for (n, size) in (1..).zip([64, 256, KB, 4 * KB, 16 * KB, 64 * KB, 256 * KB, MB, 4 * MB]) {
        case(&format!("9.3.{n}"), &[part(1, &vec![b'*'; size])], &TEXT);
        let pieces = 4 * MB / size;
        let frames: Vec<Frame> = (0..pieces)
            .map(|piece| {
                let last = if piece + 1 == pieces { FIN } else { 0 };
                Frame(last | if piece == 0 { 2 } else { 0 }, pattern(size))
            })
            .collect();
        let expected = if size < KB { Refused(Reason::WsFragments) } else { Message(4 * MB) };
        case(&format!("9.4.{n}"), &frames, &[expected]);
    }
    for (n, chop) in (1..).zip([64, 128, 256, 512, 1024, 2048]) {
        for role in [Role::Server, Role::Client] {
            assert_eq!(play(&[binary(MB)], role, Some(chop)), [Message(MB)], "case 9.6.{n}");
            assert_eq!(play(&[whole(1, &[b'*'; 99])], role, Some(chop)), TEXT, "case 9.5.{n}");
        }
    }
    for (n, size) in (1..).zip([0, 16, 64, 256, 1024, 4096]) {
        case(&format!("9.7.{n}"), &vec![whole(1, &vec![b'*'; size]); 3], &TEXT);
        case(&format!("9.8.{n}"), &vec![binary(size); 1_000], &vec![Message(size); 1_000]);
    }
}

#[test]
fn section_10_automatic_fragmentation() {
    let text = vec![b'*'; 65_536];
    let frames = |opcode: u8| -> Vec<Frame> {
        let pieces: Vec<&[u8]> = text.chunks(1_300).collect();
        let last = pieces.len() - 1;
        let opcode = |n: usize| if n == 0 { opcode } else { 0 };
        pieces
            .iter()
            .enumerate()
            .map(|(n, piece)| Frame(opcode(n) | if n == last { FIN } else { 0 }, piece.to_vec()))
            .collect()
    };
    case("10.1.1", &frames(1), &TEXT);
    case("10.1.1, binary", &frames(2), &[Message(65_536)]);
}

/// What the suite takes for granted of its own frames: masks towards servers and none towards clients, shortest lengths.
#[test]
fn beyond_the_suite() {
    for role in [Role::Server, Role::Client] {
        let wrong = (role == Role::Client).then_some(MASK);
        let mut reader = Reader::new(role, Limits::default());
        let mut bytes = binary(5).bytes(wrong);
        assert_eq!(reader.read(Duration::ZERO, &mut bytes), Err(Reason::WsUnmasked), "{role:?}");
        for header in [
            &[0x82, 126, 0, 125][..],
            &[0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
            &[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0],
        ] {
            let mut bytes = header.to_vec();
            bytes[1] |= if role == Role::Server { 0x80 } else { 0 };
            let mut reader = Reader::new(role, Limits::default());
            assert_eq!(reader.read(Duration::ZERO, &mut bytes), Err(Reason::WsLength), "{role:?} {header:?}");
        }
    }
}
