//! Sockets against real peers on the loopback device: the same events, quotas and ends as the shard has.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown};
use std::thread;

use hedgerow_dataplane::admit::{Census, Limits};
use hedgerow_dataplane::wire::Prefix;

use super::*;

const LINK: LinkId = LinkId(0);
const BASE: u32 = 100;

struct Bench {
    sockets: Sockets,
    at: SocketAddr,
    started: std::time::Instant,
}

impl Bench {
    fn new(limits: Limits, memory: u64) -> Bench {
        let setup = Setup {
            listeners: vec![Wanted { address: (Ipv4Addr::LOCALHOST, 0).into(), listener: ListenerId(3) }],
            sources: vec![Some(vec![Ipv4Addr::new(127, 0, 0, 9).into()])],
            limits,
            flows: 64,
            memory,
            shard: (0, 1),
            census: Census::new(1, 64, [1; 16]),
            seed: [2; 16],
        };
        let mut sockets = Sockets::open(setup).unwrap();
        sockets.set_base(BASE);
        let at = sockets.bound().next().unwrap();
        Bench { sockets, at, started: std::time::Instant::now() }
    }

    fn plain() -> Bench {
        Bench::new(Limits::default(), 1 << 20)
    }

    fn now(&self) -> Instant {
        Instant::ZERO + Duration::from_secs(1) + self.started.elapsed()
    }

    /// One round, in a test that does not go on for ever.
    #[track_caller]
    fn round(&mut self) {
        assert!(self.started.elapsed() < Duration::from_secs(20), "{:?}", self.sockets.statistics());
        let now = self.now();
        self.sockets.poll(now);
        self.sockets.flush();
        thread::yield_now();
    }

    /// Goes round until something happened that `wanted` takes.
    #[track_caller]
    fn until<T>(&mut self, mut wanted: impl FnMut(&mut Sockets, Event) -> Option<T>) -> T {
        loop {
            self.round();
            while let Some(event) = self.sockets.event() {
                if let Some(found) = wanted(&mut self.sockets, event) {
                    return found;
                }
            }
        }
    }

    fn accepted(&mut self) -> FlowId {
        self.until(|_, event| match event {
            Event::Accepted(id, ListenerId(3)) => Some(id),
            _ => None,
        })
    }

    fn closed(&mut self, wanted: FlowId) -> Reason {
        self.until(|_, event| match event {
            Event::Closed(id, reason) if id == wanted => Some(reason),
            _ => None,
        })
    }

    /// Reads from a flow until there are `count` bytes.
    fn read(&mut self, id: FlowId, count: usize) -> Vec<u8> {
        let mut got = Vec::new();
        while got.len() < count {
            let mut flow = self.sockets.flow(id).unwrap();
            let bytes = flow.peek().to_vec();
            flow.consume(bytes.len());
            if bytes.is_empty() {
                self.until(|_, event| matches!(event, Event::Readable(_)).then_some(()));
            }
            got.extend(bytes);
        }
        got
    }
}

fn write(sockets: &mut Sockets, id: FlowId, bytes: &[u8]) -> usize {
    let mut flow = sockets.flow(id).unwrap();
    let space = flow.spare();
    let n = space.len().min(bytes.len());
    space[..n].copy_from_slice(&bytes[..n]);
    flow.commit(n);
    n
}

/// A peer that waits for a bounded time.
fn caller(at: SocketAddr) -> TcpStream {
    let peer = TcpStream::connect(at).unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    peer
}

#[test]
fn bytes_go_both_ways_and_each_side_ends_by_itself() {
    let mut bench = Bench::plain();
    let mut peer = caller(bench.at);
    peer.write_all(b"hello").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    let id = bench.accepted();
    assert!(id.slot >= BASE);
    assert_eq!(bench.sockets.flow(id).unwrap().key().unwrap().remote(), peer.local_addr().unwrap());
    assert_eq!(bench.read(id, 5), b"hello");
    while !bench.sockets.flow(id).unwrap().finished() {
        bench.round();
        bench.sockets.flow(id).unwrap().peek();
    }
    assert_eq!(write(&mut bench.sockets, id, b"world"), 5);
    bench.sockets.flow(id).unwrap().finish();
    bench.sockets.flush();
    let mut answer = Vec::new();
    peer.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"world");
    let now = bench.now();
    bench.sockets.flow(id).unwrap().close(now);
    assert!(bench.sockets.flow(id).is_none(), "nothing is left to wait for");
    assert_eq!((bench.sockets.flows(), bench.sockets.statistics().buffer_bytes), (0, 0));
}

/// The session is over, the peer is slow: what was written still arrives, and what the peer still says is no reset.
#[test]
fn last_words_arrive_after_the_session() {
    let mut bench = Bench::plain();
    let mut peer = caller(bench.at);
    let id = bench.accepted();
    peer.write_all(&[7; 10_000]).unwrap();
    write(&mut bench.sockets, id, b"farewell");
    let now = bench.now();
    bench.sockets.flow(id).unwrap().close(now);
    let reader = thread::spawn(move || {
        let mut answer = Vec::new();
        peer.read_to_end(&mut answer).map(|_| answer)
    });
    while bench.sockets.flows() > 0 {
        bench.round();
    }
    assert_eq!(reader.join().unwrap().unwrap(), b"farewell");
}

#[test]
fn nodes_are_dialled_from_our_address_and_refusals_are_told() {
    let mut bench = Bench::plain();
    let node = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let to = |port| Target { link: LINK, address: Ipv4Addr::LOCALHOST.into(), port };
    let port = node.local_addr().unwrap().port();
    let now = bench.now();
    let id = bench.sockets.connect(now, to(port)).unwrap();
    let connected = bench.until(|_, event| match event {
        Event::Connected(id) => Some(id),
        _ => None,
    });
    assert_eq!(connected, id);
    let (mut stream, from) = node.accept().unwrap();
    assert_eq!(from.ip(), Ipv4Addr::new(127, 0, 0, 9));
    stream.write_all(b"peak").unwrap();
    assert_eq!(bench.read(id, 4), b"peak");
    drop(node);
    let id = bench.sockets.connect(now, to(port)).unwrap();
    assert_eq!(bench.closed(id), Reason::Refused);
    assert_eq!(bench.sockets.statistics().connected, 1);
}

#[test]
fn an_abort_is_a_reset_and_a_reset_is_told() {
    let mut bench = Bench::plain();
    let mut peer = caller(bench.at);
    let id = bench.accepted();
    bench.sockets.flow(id).unwrap().abort(Reason::Aborted);
    assert!(bench.sockets.flow(id).is_none());
    let error = peer.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(bench.closed(id), Reason::Aborted);
    let peer = caller(bench.at);
    let id = bench.accepted();
    open::forget(&peer);
    drop(peer);
    assert_eq!(bench.closed(id), Reason::Reset);
}

#[test]
fn quotas_bans_and_late_strangers() {
    let limits = Limits { per_source: 2, handshake_longest: Duration::from_millis(300), ..Limits::default() };
    let mut bench = Bench::new(Limits { handshake_shortest: limits.handshake_longest, ..limits }, 1 << 20);
    let peers: Vec<TcpStream> = (0..3).map(|_| caller(bench.at)).collect();
    let ids = [bench.accepted(), bench.accepted()];
    let now = bench.now();
    bench.sockets.standing(now, ids[0], Standing::Proven);
    while bench.sockets.statistics().reasons[Reason::SourceQuota] == 0 {
        bench.round();
    }
    assert_eq!((&peers[2]).read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    // The stranger does not get on, the other one is proven.
    assert!(bench.sockets.statistics().reasons[Reason::HandshakeTimeout] <= 1);
    let banned = Arc::new(DenyList::new(["127.0.0.0/8".parse::<Prefix>().unwrap()], 1));
    bench.sockets.set_deny(banned.clone(), Some(banned));
    assert_eq!(bench.closed(ids[0]), Reason::Banned);
    let before = bench.sockets.statistics().reasons[Reason::Banned];
    let mut late = caller(bench.at);
    while bench.sockets.statistics().reasons[Reason::Banned] == before {
        bench.round();
    }
    assert_eq!(late.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_stranger_who_says_nothing_is_let_go() {
    let span = Duration::from_millis(50);
    let mut bench = Bench::new(
        Limits { handshake_longest: span, handshake_shortest: span, ..Limits::default() },
        1 << 20,
    );
    let _peer = caller(bench.at);
    let id = bench.accepted();
    assert!(bench.sockets.deadline().is_some());
    assert_eq!(bench.closed(id), Reason::HandshakeTimeout);
}

/// Without an appetite nothing is read, and the kernel makes the peer wait.
#[test]
fn no_appetite_no_reading() {
    let mut bench = Bench::plain();
    let peer = caller(bench.at);
    let id = bench.accepted();
    bench.sockets.flow(id).unwrap().limit_window(0);
    peer.set_nonblocking(true).unwrap();
    let mut sent = 0;
    // Until the kernel's buffers are full.
    while let Ok(n) = (&peer).write(&[1; 65_536]) {
        sent += n;
    }
    bench.until(|_, event| matches!(event, Event::Readable(_)).then_some(()));
    assert!(bench.sockets.flow(id).unwrap().peek().is_empty());
    assert_eq!(bench.sockets.statistics().buffer_bytes, 0);
    bench.sockets.flow(id).unwrap().limit_window(1 << 20);
    assert_eq!(bench.read(id, sent).len(), sent);
}

/// More connections than blocks: each gets its turn, and the memory's bound holds.
#[test]
fn memory_is_bounded_and_shared() {
    let mut bench = Bench::new(Limits::default(), 2 * blocks::BLOCK as u64);
    let mut peers: Vec<(FlowId, TcpStream)> = (0..2)
        .map(|_| {
            let peer = caller(bench.at);
            (bench.accepted(), peer)
        })
        .collect();
    for (_, peer) in &mut peers {
        peer.write_all(b"me").unwrap();
    }
    // The first one's bytes and answer take all there is.
    let (first, second) = (peers[0].0, peers[1].0);
    while bench.sockets.flow(first).unwrap().peek().is_empty() {
        bench.round();
    }
    assert_eq!(write(&mut bench.sockets, first, b"you"), 3);
    assert!(bench.sockets.flow(second).unwrap().peek().is_empty());
    let _refused = caller(bench.at);
    while bench.sockets.statistics().reasons[Reason::BufferQuota] == 0 {
        bench.round();
    }
    bench.sockets.flow(first).unwrap().consume(2);
    assert_eq!(bench.read(second, 2), b"me");
    assert!(bench.sockets.statistics().buffer_bytes_peak <= 2 * blocks::BLOCK);
}
