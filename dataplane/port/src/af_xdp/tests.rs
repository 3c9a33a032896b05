//! The program's answer to SYNs against the screen's: whole frames, byte for byte, over many tuples and layouts of options.
//!
//! `TUPLES=N` tries so many instead of the usual few; `tests/run bpf` does.

use std::io::Write;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::admit;
use hedgerow_dataplane::frame::{Abilities, Batch, Checksum, Frame, Meta, Pool};
use hedgerow_dataplane::link::{self, Claiming, LinkConfig};
use hedgerow_dataplane::screen::{Master, ScreenConfig};
use hedgerow_dataplane::shard::{self, Accept, Listener, Shard, ShardIndex, ShardLink};
use hedgerow_dataplane::tcp::EngineConfig;
use hedgerow_dataplane::wire::{Address, LinkId, Mac};

use super::answers::{Answers, Told};
use super::{PROGRAM, partial};
use crate::bpf::{Kind, Map, Object, Program, Purpose};
use crate::lanes::{LaneLimits, Lanes, Ours};
use crate::syscall::monotonic_ms;

const OWN_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const PEER_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);
const OWN4: [u8; 4] = [198, 51, 100, 7];
const OWN6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
const PORT: u16 = 8444;
/// What an XDP program may say.
const DROP: u32 = 1;
const SEND_BACK: u32 = 3;

/// Small numbers that look random (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.roll() as u8).collect()
    }
}

/// A pool of one frame.
struct One(Vec<u8>);

impl Pool for One {
    fn allocate(&mut self) -> Option<Frame> {
        None
    }
    fn release(&mut self, frame: Frame) {
        let _ = frame;
    }
    fn bytes(&self, frame: &Frame) -> &[u8] {
        &self.0[..frame.len()]
    }
    fn bytes_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        &mut self.0[..frame.len()]
    }
    fn resize(&mut self, frame: &mut Frame, len: usize) -> bool {
        frame.set_len(len as u32);
        len <= self.0.len()
    }
}

fn shard(vlan: Option<u16>, mtu: u16, replies_per_second: u32) -> Shard {
    let address = |address, length| link::Prefix { address, length };
    let abilities = Abilities {
        mac: OWN_MAC,
        mtu,
        frame_bytes: 2_048,
        frames: 64,
        checksum: false,
        segmentation: 0,
        vlan: false,
        lanes: true,
        mode: String::new(),
    };
    let link = LinkConfig {
        addresses: vec![address(Address::from_v4(OWN4), 24), address(Address::from_v6(OWN6), 64)],
        vlan,
        mtu,
        claiming: Claiming::Silent,
        ..LinkConfig::default()
    };
    let config = shard::Config {
        links: vec![ShardLink::new(link, &abilities)],
        listeners: vec![Listener { link: LinkId(0), address: None, port: PORT, accept: Accept::ClientHello }],
        admit: admit::Limits::default(),
        engine: EngineConfig { flows: 16, ..EngineConfig::default() },
        screen: ScreenConfig { replies_per_second, ..ScreenConfig::default() },
        cookie_secret: Master([7; 32]),
        seed: [9; 32],
        index: ShardIndex::default(),
        exchange: None,
        egress: None,
    };
    Shard::new(&config, Instant::from_millis(1_000))
}

/// The program with maps of its own; `None` where this user may load none.
fn program(vlan: Option<u16>) -> Option<(Program, Lanes, Answers)> {
    let ours = Ours { addresses: vec![Address::from_v4(OWN4), Address::from_v6(OWN6)], ..Ours::default() };
    let lanes =
        Lanes::new(OWN_MAC, vlan, &ours, LaneLimits { flows: 16, denied: 16, strangers_per_second: 0 }, 1);
    let lanes = match lanes {
        Ok(lanes) => lanes,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "skipped: this user may make no BPF maps ({error})");
            return None;
        }
    };
    let answers = Answers::new(1, false).expect("maps");
    let sockets: Map<u32, u32> = Map::new(Kind::Sockets, "sockets", 2).expect("a map");
    let object = Object::parse(PROGRAM).expect("an object");
    let maps: Vec<_> = (lanes.maps().into_iter())
        .chain(answers.maps())
        .chain([("sockets", std::os::fd::AsFd::as_fd(&sockets))])
        .collect();
    let program = Program::load(&object, "xdp", Purpose::Xdp, &maps).expect("the verifier agrees");
    Some((program, lanes, answers))
}

/// A SYN, and whether the program may leave it to the core.
struct Syn {
    bytes: Vec<u8>,
    unusual: bool,
    partial: bool,
}

/// The layouts that the program must answer: `m` stands for an MSS, `t` for timestamps, `w` for a window scale.
const LAYOUTS: [&[u8]; 16] = [
    b"",
    b"m",
    b"m\x01w",
    b"m\x01\x01\x04\x02",
    b"m\x04\x02\x01\x01",
    b"m\x04\x02\x00\x00",
    b"m\x01w\x01\x01\x04\x02",
    b"m\x01w\x04\x02\x00\x00",
    b"m\x01\x01\x04\x02\x01w",
    b"m\x04\x02t",
    b"m\x01\x01t",
    b"m\x04\x02t\x01w",
    b"m\x01\x01t\x01w",
    b"m\x01w\x04\x02t",
    b"m\x01w\x01\x01t\x04\x02\x00\x00",
    b"m\x01w\x01\x01t\x01\x01\x04\x02",
];

fn mss(dice: &mut Dice) -> [u8; 2] {
    let mss = [0, 535, 536, 1219, 1220, 1299, 1300, 1359, 1360, 1400, 1440, 1459, 1460, 9000, 65535];
    (mss[dice.below(15) as usize] as u16).to_be_bytes()
}

/// Options, and whether they are of no layout that the program must know.
fn options(dice: &mut Dice) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    if dice.below(4) > 0 {
        for &piece in LAYOUTS[dice.below(16) as usize] {
            match piece {
                b'm' => bytes.extend([[2, 4], mss(dice)].concat()),
                b'w' => bytes.extend([3, 3, dice.below(20) as u8]),
                b't' => bytes.extend([vec![8, 10], dice.bytes(8)].concat()),
                other => bytes.push(other),
            }
        }
        return (bytes, false);
    }
    for _ in 0..dice.below(9) {
        match dice.below(12) {
            0..=2 => {
                bytes.extend([2, 4]);
                let mss =
                    [0, 535, 536, 1219, 1220, 1299, 1300, 1359, 1360, 1400, 1440, 1459, 1460, 9000, 65535];
                bytes.extend((mss[dice.below(15) as usize] as u16).to_be_bytes());
            }
            3..=4 => bytes.extend([3, 3, dice.below(20) as u8]),
            5..=6 => bytes.extend([4, 2]),
            7 => {
                bytes.extend([8, 10]);
                bytes.extend(dice.bytes(8));
            }
            8..=9 => bytes.push(1),
            10 => {
                // One that nobody knows, or a known kind of a wrong length.
                let length = 2 + dice.below(6) as u8;
                bytes.extend([[2, 3, 4, 8, 34, 254][dice.below(6) as usize], length]);
                bytes.extend(dice.bytes(usize::from(length) - 2));
            }
            _ => bytes.push(0),
        }
    }
    if dice.below(50) == 0 {
        bytes.extend(dice.bytes(4));
    }
    let filling = if dice.below(2) == 0 { 1 } else { 0 };
    while bytes.len() % 4 != 0 {
        bytes.push(filling);
    }
    bytes.truncate(40);
    (bytes, true)
}

fn sum(start: u64, bytes: &[u8]) -> u16 {
    let mut sum = start
        + bytes.chunks(2).map(|p| u64::from(p[0]) << 8 | u64::from(*p.get(1).unwrap_or(&0))).sum::<u64>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn syn(dice: &mut Dice, vlan: Option<u16>) -> Syn {
    let (options, mut unusual) = options(dice);
    let payload = if dice.below(40) == 0 { dice.below(20) as usize } else { 0 };
    unusual |= payload > 0;
    let v4 = dice.below(2) == 0;
    let mut bytes = [OWN_MAC.0, PEER_MAC.0].concat();
    if let Some(vlan) = vlan {
        bytes.extend([0x81, 0]);
        bytes.extend((vlan | (dice.below(8) as u16) << 13).to_be_bytes());
    }
    let mut tcp = Vec::new();
    tcp.extend((1 + dice.below(65_535) as u16).to_be_bytes());
    tcp.extend(PORT.to_be_bytes());
    tcp.extend(dice.bytes(8));
    // SYN, now and then with push, urgent or ECN bits.
    let flags = 2 | if dice.below(10) == 0 { [8, 0x20, 0x40, 0x80, 0xc0][dice.below(5) as usize] } else { 0 };
    tcp.extend([((20 + options.len()) * 4) as u8, flags]);
    tcp.extend(dice.bytes(2));
    tcp.extend([0, 0]);
    tcp.extend(dice.bytes(2));
    tcp.extend(options);
    tcp.extend(dice.bytes(payload));
    let (mut source4, mut source6) = ([0; 4], [0; 16]);
    source4.copy_from_slice(&dice.bytes(4));
    source6.copy_from_slice(&dice.bytes(16));
    source4[0] = 1 + source4[0] % 99;
    source6[0] = 0x26;
    let addresses: Vec<u8> = if v4 {
        let total = (20 + tcp.len()) as u16;
        let mut ip = vec![0x45, dice.roll() as u8];
        ip.extend(total.to_be_bytes());
        ip.extend(dice.bytes(2));
        ip.extend([0x40, 0, 1 + dice.below(255) as u8, 6, 0, 0]);
        ip.extend(source4);
        ip.extend(OWN4);
        let checksum = !sum(0, &ip);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes.extend([8, 0]);
        bytes.extend(&ip);
        ip[12..].to_vec()
    } else {
        bytes.extend([0x86, 0xdd, 0x60 | dice.below(16) as u8]);
        bytes.extend(dice.bytes(3));
        bytes.extend((tcp.len() as u16).to_be_bytes());
        bytes.extend([6, 1 + dice.below(255) as u8]);
        bytes.extend(source6);
        bytes.extend(OWN6);
        [source6, OWN6].concat()
    };
    let pseudo = sum(6 + tcp.len() as u64, &addresses);
    let partial = dice.below(10) == 0;
    let checksum = if partial { pseudo } else { !sum(pseudo.into(), &tcp) };
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    if dice.below(50) == 0 {
        let at = dice.below(tcp.len() as u64) as usize;
        // Never the ports or flags: then it would be another kind of frame.
        if !matches!(at, 0..=3 | 12..=13) {
            tcp[at] ^= 1 << dice.below(8);
            unusual = true;
        }
    }
    bytes.extend(&tcp);
    // Ethernet padding, and more.
    while bytes.len() < 60 || dice.below(30) == 0 {
        bytes.push(dice.roll() as u8);
    }
    Syn { bytes, unusual, partial }
}

/// What the shard answers at a time of day.
fn answered(shard: &mut Shard, unix_ms: u64, bytes: &[u8]) -> Option<Vec<u8>> {
    let now = Instant::from_millis(1_000);
    shard.set_utc(now, unix_ms);
    let mut pool = One(bytes.to_vec());
    let (mut rx, mut tx) = (Batch::new(), Batch::new());
    let checksum = partial::checksum(bytes);
    rx.push(Frame::new(0, 0, bytes.len() as u32), Meta { checksum, ..Meta::default() }).expect("space");
    shard.ingest(now, LinkId(0), &mut pool, &mut rx, &mut tx);
    let (frame, meta) = tx.drain(1).next()?;
    assert!(meta.vlan.is_none() && meta.checksum == Checksum::Unverified);
    Some(pool.bytes(&frame).to_vec())
}

fn same_answers(vlan: Option<u16>, mtu: u16, count: usize) {
    let Some((program, _lanes, answers)) = program(vlan) else { return };
    let mut shard = shard(vlan, mtu, u32::MAX);
    let mut dice = Dice(u64::from(mtu));
    let mut unix_ms = 0;
    let mut skew = 0;
    let mut space = vec![0; 4_096];
    let (mut replies, mut refused) = (0, 0);
    for number in 0..count {
        if number % 1_000 == 0 {
            // Any time of this century, also a moment before a slot ends.
            unix_ms = dice.below(1 << 42);
            if dice.below(4) == 0 {
                unix_ms = unix_ms / 64_000 * 64_000 + 63_999;
            }
            shard.set_utc(Instant::from_millis(1_000), unix_ms);
            let plan = shard.syn_plan(Instant::from_millis(1_000), LinkId(0)).expect("a link");
            assert_eq!(plan.listeners.len(), 2);
            let mut told = Told::default();
            let before = monotonic_ms();
            told.tell(&answers, 0, &plan).expect("maps");
            if monotonic_ms() != before {
                // The millisecond ended meanwhile, and nobody knows which one the plan took.
                told.tell(&answers, 0, &plan).expect("maps");
            }
            skew = told.skew_ms();
        }
        let Syn { bytes, unusual, partial } = syn(&mut dice, vlan);
        let from = monotonic_ms();
        let (verdict, length) = program.run(&bytes, &mut space).expect("runs");
        let to = monotonic_ms();
        let expected: Vec<_> =
            (from..=to).map(|ms| answered(&mut shard, ms.wrapping_add(skew), &bytes)).collect();
        if verdict == SEND_BACK {
            let given = Some(space[..length].to_vec());
            assert!(
                expected.contains(&given),
                "frame {number} at {unix_ms}, partial {partial}: {bytes:02x?}\nprogram {given:02x?}\nscreen  {expected:02x?}"
            );
            replies += 1;
        } else {
            assert_eq!(verdict, DROP, "{bytes:02x?}");
            assert!(unusual || expected.contains(&None), "the screen answers: {bytes:02x?}\n{expected:02x?}");
            refused += 1;
        }
    }
    assert!(replies > count * 6 / 10, "{replies} replies, {refused} refused or left");
    assert!(refused > 0);
}

fn tuples() -> usize {
    std::env::var("TUPLES").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000)
}

#[test]
fn the_program_answers_as_the_screen_does() {
    same_answers(None, 1_500, tuples());
    same_answers(Some(7), 1_400, tuples() / 4);
}

#[test]
fn no_prefix_gets_more_answers_than_its_share() {
    let Some((program, lanes, answers)) = program(None) else { return };
    // Half of it is the program's: 50 a second and a burst of two seconds' worth.
    let mut shard = shard(None, 1_500, 100);
    shard.set_utc(Instant::from_millis(1_000), 1 << 40);
    let plan = shard.syn_plan(Instant::from_millis(1_000), LinkId(0)).expect("a link");
    assert_eq!(plan.replies_per_second, Some(50));
    Told::default().tell(&answers, 0, &plan).expect("maps");
    let mut dice = Dice(1);
    let mut space = vec![0; 4_096];
    let mut answered = 0;
    let begun = monotonic_ms();
    for _ in 0..2_000 {
        let mut bytes = usual(&mut dice, 8);
        // All of one /24.
        bytes[26..29].copy_from_slice(&[203, 0, 113]);
        bytes[24..26].fill(0);
        let checksum = !sum(0, &bytes[14..34]);
        bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
        let end = 14 + usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
        bytes[50..52].fill(0);
        let pseudo = sum(6 + (end - 34) as u64, &bytes[26..34]);
        let checksum = !sum(pseudo.into(), &bytes[34..end]);
        bytes[50..52].copy_from_slice(&checksum.to_be_bytes());
        let (verdict, _) = program.run(&bytes, &mut space).expect("runs");
        answered += u64::from(verdict == SEND_BACK);
    }
    let passed = (monotonic_ms() - begun) / 20 + 1;
    assert!((90..=102 + passed).contains(&answered), "{answered} answers");
    let counted = lanes.counted(0);
    assert_eq!(counted.cookies, answered);
    assert!(counted.refused[hedgerow_dataplane::Reason::ReplyCap] > 1_500, "{:?}", counted.refused);
    // Once the screen knows, its own half is no more than that.
    shard.share_replies(true);
    let own = (0..500).filter(|_| answered_from_one_prefix(&mut shard, &mut dice)).count();
    assert!((90..=102).contains(&own), "{own} of the screen");
}

fn answered_from_one_prefix(shard: &mut Shard, dice: &mut Dice) -> bool {
    let mut bytes = usual(dice, 0x86);
    // The checksum is made for the source; so one source it is, and its own.
    let end = 54 + usize::from(u16::from_be_bytes([bytes[18], bytes[19]]));
    bytes[22..38].copy_from_slice(&[0x26, 1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    bytes[70..72].fill(0);
    let pseudo = sum(6 + (end - 54) as u64, &bytes[22..54]);
    let checksum = !sum(pseudo.into(), &bytes[54..end]);
    bytes[70..72].copy_from_slice(&checksum.to_be_bytes());
    answered(shard, 1 << 40, &bytes).is_some()
}

/// A SYN of a family, by the first byte of its EtherType, that the program answers; its checksums are to be made anew.
fn usual(dice: &mut Dice, family: u8) -> Vec<u8> {
    loop {
        let Syn { bytes, unusual: false, .. } = syn(dice, None) else { continue };
        if bytes[12] == family {
            return bytes;
        }
    }
}

#[test]
fn a_plan_that_is_over_leaves_syns_to_the_core() {
    let Some((program, lanes, answers)) = program(None) else { return };
    let mut shard = shard(None, 1_500, u32::MAX);
    let mut dice = Dice(3);
    let mut space = vec![0; 4_096];
    let mut verdict = |dice: &mut Dice| loop {
        let Syn { bytes, unusual: false, .. } = syn(dice, None) else { continue };
        break program.run(&bytes, &mut space).expect("runs").0;
    };
    let left = |lanes: &Lanes| lanes.counted(0).lost;
    assert_eq!(verdict(&mut dice), DROP, "nobody said how");
    assert_eq!(left(&lanes), 1, "for the core, which has no socket here");
    shard.set_utc(Instant::from_millis(1_000), 64_000 * 1_000);
    let mut plan = shard.syn_plan(Instant::from_millis(1_000), LinkId(0)).expect("a link");
    // Two slots later than those of the plan.
    plan.unix_ms += 128_000;
    let mut told = Told::default();
    told.tell(&answers, 0, &plan).expect("maps");
    verdict(&mut dice);
    assert_eq!(left(&lanes), 2);
    plan.unix_ms -= 128_000;
    told.tell(&answers, 0, &plan).expect("maps");
    let sent = (0..20).filter(|_| verdict(&mut dice) == SEND_BACK).count();
    assert!(sent > 10, "{sent}");
    told.stop(&answers, 0);
    let before = left(&lanes);
    assert_eq!(verdict(&mut dice), DROP);
    assert_eq!(left(&lanes), before + 1);
}
