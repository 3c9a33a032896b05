//! `bulk-memory`: one stream from engine to engine, MTU 1500, both ends on one core, against smoltcp to smoltcp over the
//! same kind of wire; both compute and verify all checksums, and both ends hold buffers of the same size.

use std::hint::black_box;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::frame::Port;
use hedgerow_dataplane::shard::{Accept, Event, FlowId, Source, Target};
use hedgerow_dataplane::wire::Address;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;

use crate::smol::Host;
use crate::world::{BOX, End, LINK, PEER, SERVICE, shard, wire};
use crate::{Figure, processor_time};

/// Send and receive buffers of both contestants.
const BUFFER: usize = 256 << 10;
/// What the application writes at once.
const CHUNK: usize = 16 << 10;
/// Virtual time of one turn.
const TURN_US: u64 = 20;

/// The figure.
pub struct Bulk {
    bytes: usize,
    chunk: Vec<u8>,
}

impl Bulk {
    /// `bytes` a round.
    pub fn new(bytes: usize) -> Self {
        Bulk { bytes, chunk: (0..CHUNK).map(|n| n as u8).collect() }
    }
}

/// Two ends with a connection between them.
struct Pair {
    client: End,
    server: End,
    from: FlowId,
    to: FlowId,
    now: u64,
}

impl Pair {
    fn connect() -> Self {
        let (box_port, peer_port) = wire();
        let mut server = End::new(shard(BOX, box_port.abilities(), Accept::Handshake), box_port);
        let mut client = End::new(shard(PEER, peer_port.abilities(), Accept::Handshake), peer_port);
        let target = Target { link: LINK, address: Address::from_v4(BOX.0), port: SERVICE };
        let opened = client.shard.connect(Instant::ZERO, target, Source::Own);
        let from = opened.unwrap_or_else(|reason| panic!("connect: {reason:?}"));
        for turn in 1..10_000 {
            let now = Instant::from_micros(turn * 1_000);
            client.step(now);
            server.step(now);
            while client.shard.event(now).is_some() {}
            if let Some(Event::Accepted(to, _)) = server.shard.event(now) {
                return Pair { client, server, from, to, now: turn * 1_000 };
            }
        }
        panic!("the connection was not accepted")
    }

    /// One turn: write, carry, read. Says how many bytes were read.
    fn turn(&mut self, chunk: &[u8]) -> usize {
        self.now += TURN_US;
        let now = Instant::from_micros(self.now);
        if let Some(mut flow) = self.client.shard.flow(self.from) {
            while flow.unacknowledged() < BUFFER && flow.write(chunk) == chunk.len() {}
        }
        self.client.step(now);
        self.server.step(now);
        while self.client.shard.event(now).is_some() {}
        while self.server.shard.event(now).is_some() {}
        let mut read = 0;
        if let Some(mut flow) = self.server.shard.flow(self.to) {
            flow.limit_window(BUFFER);
            loop {
                let piece = black_box(flow.peek()).len();
                if piece == 0 {
                    break;
                }
                flow.consume(piece);
                read += piece;
            }
        }
        self.server.step(now);
        self.client.step(now);
        read
    }
}

impl Figure for Bulk {
    fn name(&self) -> &'static str {
        "bulk-memory"
    }

    fn unit(&self) -> &'static str {
        "Gbit/s"
    }

    fn peer(&self) -> &'static str {
        "smoltcp to smoltcp"
    }

    fn bar(&self) -> f64 {
        1.0
    }

    fn note(&self) -> String {
        format!("{} MiB a round, MTU 1500, {} KiB buffers, checksums on", self.bytes >> 20, BUFFER >> 10)
    }

    fn ours(&mut self) -> f64 {
        let mut pair = Pair::connect();
        let start = processor_time();
        let (mut read, mut idle) = (0, 0);
        while read < self.bytes {
            let more = pair.turn(&self.chunk);
            read += more;
            idle = if more == 0 { idle + 1 } else { 0 };
            assert!(idle < 1_000_000, "the stream stands still after {read} bytes");
        }
        read as f64 * 8.0 / (processor_time() - start).as_secs_f64() / 1e9
    }

    fn theirs(&mut self) -> f64 {
        let mut smol = SmolPair::connect();
        let start = processor_time();
        let mut read = 0;
        while read < self.bytes {
            read += smol.turn(&self.chunk);
        }
        read as f64 * 8.0 / (processor_time() - start).as_secs_f64() / 1e9
    }
}

/// The same with smoltcp.
struct SmolPair {
    client: Host,
    server: Host,
    from: SocketHandle,
    to: SocketHandle,
    now: i64,
}

impl SmolPair {
    fn connect() -> Self {
        let (mut server, mut client) = (Host::new(BOX.1, BOX.0), Host::new(PEER.1, PEER.0));
        let (to, from) = (server.socket(BUFFER), client.socket(BUFFER));
        let listening = server.sockets.get_mut::<tcp::Socket<'_>>(to).listen(SERVICE);
        assert!(listening.is_ok(), "a fresh socket listens");
        client.connect(from, (BOX.0, SERVICE), 40_000);
        let mut pair = SmolPair { client, server, from, to, now: 0 };
        while !pair.client.sockets.get::<tcp::Socket<'_>>(from).may_send() {
            pair.carry();
        }
        pair
    }

    fn carry(&mut self) {
        self.now += TURN_US as i64;
        self.client.poll(self.now);
        self.client.deliver(&mut self.server);
        self.server.poll(self.now);
        self.server.deliver(&mut self.client);
    }

    fn turn(&mut self, chunk: &[u8]) -> usize {
        let socket = self.client.sockets.get_mut::<tcp::Socket<'_>>(self.from);
        while socket.send_slice(chunk).is_ok_and(|sent| sent == chunk.len()) {}
        self.carry();
        let socket = self.server.sockets.get_mut::<tcp::Socket<'_>>(self.to);
        let mut read = 0;
        while let Ok(piece @ 1..) = socket.recv(|bytes| (bytes.len(), black_box(bytes).len())) {
            read += piece;
        }
        self.carry();
        read
    }
}
