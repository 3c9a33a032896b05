//! The policy crate alone, over ordinary sockets: a proxy in front of one Chia node.
//!
//! ```text
//! cargo run -p hedgerow-policy --example proxy -- 0.0.0.0:8444 10.0.1.11:8444 mainnet
//! ```
//!
//! One thread carries one session: it waits for either socket or the session's deadline, hands bytes over, and does what
//! the session asks for. The appliance does the same with a TCP stack of its own and without threads.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hedgerow_policy::gate::{Config, Gate};
use hedgerow_policy::identity::Fleet;
use hedgerow_policy::tls::ca::Authority;
use hedgerow_policy::tls::{Acceptor, Clock, Connector, Settings};
use hedgerow_policy::{Close, DialFailure, Done, End, Leg, Request, Session};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, node, network] = arguments.as_slice() else {
        return Err("usage: proxy LISTEN NODE NETWORK".into());
    };
    let (listen, node): (SocketAddr, SocketAddr) = (listen.parse()?, node.parse()?);
    let authority = Authority::chia()?;
    let fleet = Fleet::new(b"an example's secret is no secret", &authority)?;
    let settings = Settings::new(Clock::at(SystemTime::now().duration_since(UNIX_EPOCH)?));
    let acceptor = Acceptor::new(&settings, fleet.service(&authority, listen.ip(), listen.port())?)?;
    let config = Arc::new(Config::new(network, acceptor, Connector::new(&settings, None)?, fleet));
    let listener = TcpListener::bind(listen)?;
    println!("listening on {listen}, node {node}, network {network}");
    for (seed, peer) in (0..).zip(listener.incoming()) {
        let (peer, config) = (peer?, config.clone());
        std::thread::spawn(move || {
            let address = peer.peer_addr();
            let source = address.as_ref().map_or(node.ip(), SocketAddr::ip);
            let mut carrier = Carrier::new(peer, node, Gate::new(config, source, seed, Duration::ZERO));
            let outcome = carrier.run();
            println!(
                "{address:?} {:?} {:?} {:?}",
                carrier.session.verdict(),
                carrier.session.tally(),
                outcome.err()
            );
        });
    }
    Ok(())
}

/// One leg's socket and what the session did not take of it yet.
struct Line {
    socket: TcpStream,
    unread: Vec<u8>,
    unsent: Vec<u8>,
    /// FIN is sent once everything else is.
    finishing: bool,
    /// Nothing more arrives.
    ended: bool,
}

/// One session and its sockets.
struct Carrier {
    session: Gate,
    node: SocketAddr,
    lines: [Option<Line>; 2],
    origin: Instant,
}

impl Carrier {
    fn new(peer: TcpStream, node: SocketAddr, session: Gate) -> Carrier {
        Carrier { session, node, lines: [Some(Line::new(peer)), None], origin: Instant::now() }
    }

    fn run(&mut self) -> Result<(), Failure> {
        while self.lines.iter().any(Option::is_some) {
            while self.step()? {}
            self.wait()?;
            self.session.advance(self.origin.elapsed());
        }
        Ok(())
    }

    /// Moves what can be moved; says whether anything did.
    fn step(&mut self) -> Result<bool, Failure> {
        let now = self.origin.elapsed();
        let mut moved = false;
        while let Some(request) = self.session.request() {
            moved = true;
            self.carry_out(request)?;
        }
        for leg in [Leg::Public, Leg::Private] {
            let Some(line) = &mut self.lines[leg as usize] else { continue };
            let (fresh, end) = line.receive(self.session.appetite(leg));
            moved |= fresh;
            let taken = self.session.receive(now, leg, &mut line.unread);
            line.unread.drain(..taken);
            moved |= taken > 0;
            moved |= line.transmit(|space| self.session.transmit(now, leg, space));
            if let Some(end) = end.filter(|_| line.unread.is_empty()) {
                line.ended = true;
                self.session.ended(now, leg, end);
                moved = true;
            }
            if line.ended && line.finishing && line.unsent.is_empty() {
                self.lines[leg as usize] = None;
            }
        }
        Ok(moved)
    }

    fn carry_out(&mut self, request: Request) -> Result<(), Failure> {
        let now = self.origin.elapsed();
        match request {
            Request::Work(mut work) => {
                work.run();
                self.session.complete(now, Done::Work(work));
            }
            Request::Dial { .. } => match TcpStream::connect_timeout(&self.node, Duration::from_secs(5)) {
                Ok(socket) => {
                    self.lines[Leg::Private as usize] = Some(Line::new(socket));
                    self.session.complete(now, Done::Dialled);
                }
                Err(_) => self.session.complete(now, Done::DialFailed(DialFailure::NoNode)),
            },
            // Only sessions that nodes begin ask for these.
            Request::Reach | Request::Claim(_) => {}
            Request::Alarm(alarm) => eprintln!("{alarm}"),
            Request::Standing(_) | Request::Node(_) | Request::Sighting(_) | Request::Credit(_) => {}
            Request::Close(leg, Close::Abort(_)) => self.lines[leg as usize] = None,
            Request::Close(leg, Close::Finish(_)) => {
                if let Some(line) = &mut self.lines[leg as usize] {
                    line.finishing = true;
                }
            }
        }
        Ok(())
    }

    /// Waits for a socket or the session's deadline.
    fn wait(&self) -> Result<(), Failure> {
        let mut sockets = Vec::new();
        for (leg, line) in [Leg::Public, Leg::Private].into_iter().zip(&self.lines) {
            let Some(line) = line else { continue };
            let reads = !line.ended && line.unread.is_empty() && self.session.appetite(leg) > 0;
            let mut flags = if reads { PollFlags::IN } else { PollFlags::empty() };
            flags.set(PollFlags::OUT, !line.unsent.is_empty());
            sockets.push(PollFd::new(&line.socket, flags));
        }
        let left = self
            .session
            .deadline()
            .map_or(Duration::from_secs(1), |at| at.saturating_sub(self.origin.elapsed()));
        let timeout = Timespec::try_from(left.min(Duration::from_secs(1)))?;
        poll(&mut sockets, Some(&timeout))?;
        Ok(())
    }
}

impl Line {
    fn new(socket: TcpStream) -> Line {
        let _ = (socket.set_nonblocking(true), socket.set_nodelay(true));
        Line { socket, unread: Vec::new(), unsent: Vec::new(), finishing: false, ended: false }
    }

    /// Reads what the session would take; says whether bytes came, and how the connection ended if it did.
    fn receive(&mut self, appetite: usize) -> (bool, Option<End>) {
        if self.ended || !self.unread.is_empty() || appetite == 0 {
            return (false, None);
        }
        let mut bytes = vec![0; appetite.min(64 << 10)];
        match self.socket.read(&mut bytes) {
            Ok(0) => (false, Some(End::Fin)),
            Ok(count) => {
                self.unread.extend_from_slice(&bytes[..count]);
                (true, None)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => (false, None),
            Err(_) => (false, Some(End::Reset)),
        }
    }

    /// Sends what the session has; says whether anything moved.
    fn transmit(&mut self, fill: impl FnOnce(&mut [u8]) -> usize) -> bool {
        if self.unsent.is_empty() {
            let mut space = vec![0; 64 << 10];
            let count = fill(&mut space);
            space.truncate(count);
            self.unsent = space;
        }
        match self.socket.write(&self.unsent) {
            Ok(count) => {
                self.unsent.drain(..count);
                if self.finishing && self.unsent.is_empty() && count == 0 {
                    let _ = self.socket.shutdown(Shutdown::Write);
                }
                count > 0
            }
            Err(_) => false,
        }
    }
}
