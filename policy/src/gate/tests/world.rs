//! A peer and a node that speak through rustls, a session between them, and nothing else: no sockets, no clock.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName, ServerConfig, ServerConnection,
    SignatureScheme,
};

use crate::chia::{Alarm, Handshake, Message, NodeType, NodeTypes, Schema, Standard, number};
use crate::gate::{Budgets, Config, Departure, Gate, Privacy};
use crate::identity::Fleet;
use crate::rules::{Friends, Layer, Rules};
use crate::session::{Close, DialFailure, Done, End, Instant, Leg, PeerId, Request, Session, Standing};
use crate::tls::ca::Authority;
use crate::tls::{Acceptor, Clock, Connector, Credential, Settings, mint, provider};
use crate::verdict::Reason;
use crate::websocket::{
    CloseFrame, Limits, Opcode, Piece, Reader, Role, ServerUpgrade, encode_frame, upgrade_request,
};

const PROTOCOL: &str = include_str!("../../../schema/protocol.json");
pub(super) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(super) const MASK: [u8; 4] = [1, 2, 3, 4];

/// What is expensive to make and the same for all.
struct Shared {
    config: Config,
    peer: Credential,
    node: Credential,
    outward: Arc<Credential>,
}

static SHARED: LazyLock<Shared> = LazyLock::new(|| {
    let authority = Authority::chia().expect("the authority parses");
    let settings = Settings::new(Clock::at(Duration::from_secs(1_800_000_000)));
    let service = mint::peer(&authority, 1).expect("a certificate");
    let acceptor = Acceptor::new(&settings, service).expect("an acceptor");
    let connector = Connector::new(&settings, None).expect("a connector");
    let fleet = Fleet::new(&[7; 32], &authority).expect("a fleet");
    let outward = fleet.outward(&authority, "node-1").expect("a certificate");
    let service = Some(SocketAddr::from(([203, 0, 113, 1], 8444)));
    let privacy = Some(Privacy { service, ..Privacy::default() });
    Shared {
        config: Config { privacy, ..Config::new("mainnet", acceptor, connector, fleet) },
        outward: outward.into(),
        peer: mint::peer(&authority, 2).expect("a certificate"),
        node: mint::peer(&authority, 3).expect("a certificate"),
    }
});

/// With a standard that knows types and limits but no bodies, pairs nothing, and is older than the node: what is under test is how messages pass.
/// The true one is [`judging`].
pub(super) fn config() -> Config {
    static LENIENT: LazyLock<Arc<Rules>> = LazyLock::new(|| {
        let mut schema: serde_json::Value = serde_json::from_str(PROTOCOL).expect("JSON");
        schema["chia_blockchain"] = "1.0.0".into();
        for message in schema["messages"].as_array_mut().expect("messages") {
            message["body"] = serde_json::Value::Null;
            message["push"] = "always".into();
        }
        let schema = Schema::parse(&schema.to_string()).expect("a schema");
        Arc::new(Rules::new(schema.into(), Layer::default(), Vec::new(), Friends::default()))
    });
    Config { rules: LENIENT.clone(), ..judging() }
}

/// As sessions are judged.
pub(super) fn judging() -> Config {
    Config { budgets: Budgets::default(), standard: Standard::default(), ..SHARED.config.clone() }
}

/// The certificate that the peer shows.
pub(super) fn peer_credential() -> &'static Credential {
    &SHARED.peer
}

/// Where the peer comes from.
pub(super) const PEER_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

/// Where a node's connection leads to.
pub(super) const DESTINATION: SocketAddr = SocketAddr::new(PEER_ADDRESS, 8444);

/// A connection of a node that is known.
pub(super) fn departure() -> Departure {
    Departure { to: DESTINATION, showing: SHARED.outward.clone(), node: Some(node_id()) }
}

/// Rules that know this peer as a friend.
pub(super) fn befriended() -> Arc<Rules> {
    let friends = Friends { ids: [peer_id()].into(), networks: Vec::new() };
    Rules::new(Schema::embedded(), Layer::default(), Vec::new(), friends).into()
}

/// The certificate that the node shows.
pub(super) fn node_credential() -> &'static Credential {
    &SHARED.node
}

pub(super) fn peer_id() -> PeerId {
    SHARED.peer.id().expect("a leaf")
}

pub(super) fn node_id() -> PeerId {
    SHARED.node.id().expect("a leaf")
}

/// Takes any certificate: what is under test is the other side's judgement.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for AnyCertificate {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}

fn client(credential: Option<&Credential>) -> rustls::Connection {
    let provider = Arc::new(provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)));
    let config = match credential {
        None => config.with_no_client_auth(),
        Some(own) => {
            config.with_client_auth_cert(own.chain.clone(), own.key.clone_key()).expect("a credential")
        }
    };
    let name = ServerName::try_from("chia.net").expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a client").into()
}

fn server(own: &Credential) -> rustls::Connection {
    let provider = Arc::new(provider());
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(Arc::new(AnyCertificate(provider)))
        .with_single_cert(own.chain.clone(), own.key.clone_key())
        .expect("a credential");
    ServerConnection::new(Arc::new(config)).expect("a server").into()
}

/// One end outside: TLS, HTTP as text, frames taken apart.
pub(super) struct Side {
    pub(super) tls: rustls::Connection,
    role: Role,
    reader: Reader,
    plain: VecDeque<u8>,
    upgraded: bool,
    /// How many of its lines an end that plays its part by itself has said.
    lines: usize,
    /// The HTTP head that came.
    pub(super) http: String,
    /// Whole messages that came.
    pub(super) messages: Vec<Vec<u8>>,
    /// What came of a message that has not ended.
    pub(super) partial: Vec<u8>,
    pub(super) pings: usize,
    pub(super) pongs: usize,
    pub(super) close: Option<CloseFrame>,
    /// The connection's end, as the host would see it.
    pub(super) closed: Option<Close>,
    /// What TLS complained about.
    pub(super) error: Option<rustls::Error>,
    /// Whether TLS ended in order.
    pub(super) notified: bool,
    /// Whether it takes what is sent to it.
    pub(super) reads: bool,
    /// Bytes to send that are not TLS.
    raw: Vec<u8>,
}

impl Side {
    fn new(tls: rustls::Connection, role: Role) -> Side {
        let limits = Limits { message_bytes: u64::MAX, controls_per_minute: u32::MAX };
        Side {
            tls,
            role,
            reader: Reader::new(role, limits),
            plain: VecDeque::new(),
            upgraded: false,
            lines: 0,
            http: String::new(),
            messages: Vec::new(),
            partial: Vec::new(),
            pings: 0,
            pongs: 0,
            close: None,
            closed: None,
            error: None,
            notified: false,
            reads: true,
            raw: Vec::new(),
        }
    }

    /// A message in one frame, masked where its role wants it.
    pub(super) fn frame(&self, message: &[u8]) -> Vec<u8> {
        encode_frame(true, Opcode::Binary, self.mask(), message)
    }

    fn mask(&self) -> Option<[u8; 4]> {
        (self.role == Role::Client).then_some(MASK)
    }

    pub(super) fn write(&mut self, plain: &[u8]) {
        self.tls.set_buffer_limit(None);
        self.tls.writer().write_all(plain).expect("room");
    }

    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.error.is_none() {
            self.tls.read_tls(&mut bytes).expect("memory");
            match self.tls.process_new_packets() {
                Ok(state) => self.notified |= state.peer_has_closed(),
                Err(error) => self.error = Some(error),
            }
            let mut plain = Vec::new();
            let _ = self.tls.reader().read_to_end(&mut plain);
            self.plain.extend(plain);
        }
        self.parse();
    }

    fn parse(&mut self) {
        while !self.upgraded {
            let Some(byte) = self.plain.pop_front() else { return };
            self.http.push(char::from(byte));
            self.upgraded = self.http.ends_with("\r\n\r\n");
        }
        let mut bytes: Vec<u8> = self.plain.drain(..).collect();
        let mut at = 0;
        while at < bytes.len() {
            let read = self.reader.read(Instant::ZERO, &mut bytes[at..]);
            let (taken, piece) = read.expect("the session sends valid frames");
            at += taken;
            match piece {
                None => {}
                Some(Piece::Data { bytes, left, fin, .. }) => {
                    self.partial.extend_from_slice(bytes);
                    if fin && left == 0 {
                        self.messages.push(core::mem::take(&mut self.partial));
                    }
                }
                Some(Piece::Ping(_)) => self.pings += 1,
                Some(Piece::Pong) => self.pongs += 1,
                Some(Piece::Close(frame)) => self.close = Some(frame),
            }
        }
    }

    /// Says the next line of a part that is played by itself: upgrade and handshake, as a client or as a server.
    pub(super) fn play(&mut self, greeting: &[u8]) {
        let heard = self.messages.first().is_some_and(|first| first.first() == Some(&number::HANDSHAKE));
        let line = match (self.role, self.lines) {
            (Role::Client, 0) if !self.tls.is_handshaking() => upgrade(),
            (Role::Client, 1) if self.http.starts_with("HTTP/1.1 101 ") => self.frame(greeting),
            (Role::Server, 0) if self.upgraded => {
                let response = ServerUpgrade::default().receive(self.http.as_bytes());
                response.expect("a valid request").expect("a whole request").response
            }
            (Role::Server, 1) if heard => self.frame(greeting),
            _ => return,
        };
        self.lines += 1;
        self.write(&line);
    }

    fn pending(&mut self) -> Vec<u8> {
        let mut bytes = core::mem::take(&mut self.raw);
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).expect("memory");
        }
        bytes
    }
}

/// What the host does when a leg or an identity is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dials {
    Succeed,
    Fail(DialFailure),
    Hang,
}

pub(super) struct World {
    pub(super) gate: Gate,
    pub(super) now: Instant,
    pub(super) peer: Side,
    pub(super) node: Option<Side>,
    pub(super) dials: Dials,
    pub(super) claims: Dials,
    /// Whether the node says its part of the upgrade and the handshake by itself, and with what.
    pub(super) node_greets: bool,
    pub(super) node_greeting: Vec<u8>,
    /// The same for a peer that a node dials.
    pub(super) peer_greets: bool,
    pub(super) peer_greeting: Vec<u8>,
    pub(super) dialled: Vec<Option<PeerId>>,
    /// How often a peer was asked for.
    pub(super) reached: usize,
    pub(super) claimed: Vec<PeerId>,
    pub(super) standings: Vec<Standing>,
    /// Identities that the node was reported to have.
    pub(super) node_ids: Vec<PeerId>,
    /// What the host was told although nothing was refused.
    pub(super) alarms: Vec<Alarm>,
    pub(super) credit: u32,
    /// Largest piece in which bytes move between host and session.
    pub(super) chunk: usize,
    /// A byte of what the peer sends below TLS, counted from now, and what is added to it.
    pub(super) corrupts: Option<(usize, u8)>,
    to_gate: [Vec<u8>; 2],
}

pub(super) fn greeting() -> Vec<u8> {
    Handshake::new("mainnet", NodeType::FullNode, 8444).message().encode()
}

pub(super) fn upgrade() -> Vec<u8> {
    upgrade_request("203.0.113.7:8444", KEY)
}

/// A masked, whole binary frame.
pub(super) fn binary(message: &[u8]) -> Vec<u8> {
    encode_frame(true, Opcode::Binary, Some(MASK), message)
}

/// A message of a type, its body of so many zeros.
pub(super) fn message(kind: u8, body: usize) -> Vec<u8> {
    Message::new(kind, vec![0; body]).encode()
}

impl World {
    pub(super) fn new() -> World {
        World::with(config(), Some(&SHARED.peer))
    }

    pub(super) fn with(config: Config, credential: Option<&Credential>) -> World {
        let now = Duration::from_secs(1_000);
        World {
            gate: Gate::new(Arc::new(config), PEER_ADDRESS, 5, now),
            now,
            peer: Side::new(client(credential), Role::Client),
            node: None,
            dials: Dials::Succeed,
            claims: Dials::Succeed,
            node_greets: true,
            node_greeting: greeting(),
            peer_greets: false,
            peer_greeting: greeting(),
            dialled: Vec::new(),
            reached: 0,
            claimed: Vec::new(),
            standings: Vec::new(),
            node_ids: Vec::new(),
            alarms: Vec::new(),
            credit: 0,
            chunk: usize::MAX,
            corrupts: None,
            to_gate: [Vec::new(), Vec::new()],
        }
    }

    /// A node's connection outward, of which nothing has happened yet.
    pub(super) fn departing() -> World {
        World::departing_with(config(), departure(), &SHARED.peer, Some(&SHARED.node))
    }

    pub(super) fn departing_with(
        config: Config,
        departure: Departure,
        peer: &Credential,
        node: Option<&Credential>,
    ) -> World {
        let types = NodeTypes::NONE.with(NodeType::FullNode).with(NodeType::Introducer);
        let config = Config { types, server_port: None, ..config };
        let mut world = World::with(config.clone(), None);
        world.gate = Gate::outbound(Arc::new(config), departure, 5, world.now);
        world.peer = Side::new(server(peer), Role::Server);
        world.peer_greets = true;
        world.node = Some(Side::new(client(node), Role::Client));
        world
    }

    /// A node's connection outward over which messages pass.
    pub(super) fn departed() -> World {
        let mut world = World::departing();
        world.run();
        assert!(world.gate.is_open(), "{:?}", world.gate);
        world
    }

    /// What the frames of an end are masked with.
    pub(super) fn mask(&self, leg: Leg) -> Option<[u8; 4]> {
        match leg {
            Leg::Public => self.peer.mask(),
            Leg::Private => self.node.as_ref().expect("a node").mask(),
        }
    }

    /// The peer sends a message in one frame.
    pub(super) fn peer_sends(&mut self, message: &[u8]) {
        let frame = self.peer.frame(message);
        self.say(&frame);
    }

    pub(super) fn configured(change: impl FnOnce(&mut Config)) -> World {
        let mut config = config();
        change(&mut config);
        World::with(config, Some(&SHARED.peer))
    }

    /// A session that is judged as in life, in which messages pass.
    pub(super) fn judged() -> World {
        World::with(judging(), Some(&SHARED.peer)).opened()
    }

    /// The same with other handshakes.
    pub(super) fn between(peer: &Handshake, node: &Handshake) -> World {
        let mut world = World::with(judging(), Some(&SHARED.peer));
        world.node_greeting = node.message().encode();
        world.run();
        world.say(&upgrade());
        world.say(&binary(&peer.message().encode()));
        assert!(world.gate.is_open(), "{:?}", world.gate);
        world
    }

    /// A session in which TLS is done.
    pub(super) fn secured() -> World {
        let mut world = World::new();
        world.run();
        assert!(!world.peer.tls.is_handshaking());
        world
    }

    /// A session whose upgrade is done.
    pub(super) fn upgraded() -> World {
        let mut world = World::secured();
        world.say(&upgrade());
        assert!(world.peer.http.starts_with("HTTP/1.1 101 "), "{}", world.peer.http);
        world
    }

    /// A session in which messages pass.
    pub(super) fn open() -> World {
        World::new().opened()
    }

    pub(super) fn opened(mut self) -> World {
        self.run();
        self.say(&upgrade());
        self.say(&binary(&greeting()));
        assert!(self.gate.is_open(), "{:?}", self.gate);
        self
    }

    /// The peer sends plaintext.
    pub(super) fn say(&mut self, plain: &[u8]) {
        self.peer.write(plain);
        self.run();
    }

    /// The peer sends plaintext, the last bytes of it below TLS only with what it sends next.
    pub(super) fn say_but(&mut self, plain: &[u8], kept: usize) {
        self.peer.write(plain);
        let mut bytes = self.peer.pending();
        let rest = bytes.split_off(bytes.len() - kept);
        self.peer.raw = bytes;
        self.run();
        self.peer.raw = rest;
    }

    /// The peer sends bytes outside of TLS.
    pub(super) fn say_raw(&mut self, bytes: &[u8]) {
        self.peer.raw.extend_from_slice(bytes);
        self.run();
    }

    /// The node sends bytes outside of TLS.
    pub(super) fn node_says_raw(&mut self, bytes: &[u8]) {
        self.node.as_mut().expect("a node").raw.extend_from_slice(bytes);
        self.run();
    }

    /// The node sends plaintext.
    pub(super) fn node_says(&mut self, plain: &[u8]) {
        self.node.as_mut().expect("a node").write(plain);
        self.run();
    }

    /// The node sends a message in one frame.
    pub(super) fn node_sends(&mut self, message: &[u8]) {
        let frame = self.node.as_ref().expect("a node").frame(message);
        self.node_says(&frame);
    }

    pub(super) fn node_messages(&self) -> &[Vec<u8>] {
        self.node.as_ref().map_or(&[], |node| &node.messages)
    }

    pub(super) fn wait(&mut self, seconds: u64) {
        self.wait_until(self.now + Duration::from_secs(seconds));
    }

    /// Lets time pass, waking the session whenever it asks for it.
    pub(super) fn wait_until(&mut self, end: Instant) {
        for _ in 0..1_000_000 {
            let Some(at) = self.gate.deadline().filter(|&at| at <= end) else { break };
            self.now = self.now.max(at);
            self.gate.advance(self.now);
            self.run();
        }
        self.now = self.now.max(end);
    }

    /// What exactly it ended for, in words.
    pub(super) fn detail(&self) -> Option<String> {
        self.gate.finding().map(ToString::to_string)
    }

    pub(super) fn verdict(&self) -> Option<Reason> {
        self.gate.verdict()
    }

    /// Moves everything that can move.
    pub(super) fn run(&mut self) {
        for _ in 0..1_000_000 {
            let moved = self.serve() | self.deliver(Leg::Public) | self.deliver(Leg::Private);
            let moved = moved | self.collect(Leg::Public) | self.collect(Leg::Private);
            if !moved {
                return;
            }
            self.greet();
        }
        panic!("the session never comes to rest: {:?}", self.gate);
    }

    /// Carries out the session's requests.
    fn serve(&mut self) -> bool {
        let mut any = false;
        while let Some(request) = self.gate.request() {
            any = true;
            match request {
                Request::Work(mut work) => {
                    work.run();
                    self.gate.complete(self.now, Done::Work(work));
                }
                Request::Standing(standing) => self.standings.push(standing),
                Request::Node(id) => self.node_ids.push(id),
                Request::Sighting(_) => {}
                Request::Alarm(alarm) => self.alarms.push(alarm),
                Request::Credit(points) => self.credit += points,
                Request::Dial { peer, .. } => {
                    self.dialled.push(peer);
                    match self.dials {
                        Dials::Hang => {}
                        Dials::Fail(failure) => self.gate.complete(self.now, Done::DialFailed(failure)),
                        Dials::Succeed => {
                            self.node = Some(Side::new(server(&SHARED.node), Role::Server));
                            self.gate.complete(self.now, Done::Dialled);
                        }
                    }
                }
                Request::Reach => {
                    self.reached += 1;
                    self.answer(self.dials, Done::Dialled);
                }
                Request::Claim(peer) => {
                    self.claimed.push(peer);
                    self.answer(self.claims, Done::Claimed);
                }
                Request::Close(leg, close) => {
                    if let Some(end) = self.end(leg) {
                        end.closed.get_or_insert(close);
                    }
                }
            }
        }
        any
    }

    fn answer(&mut self, how: Dials, done: Done) {
        match how {
            Dials::Hang => {}
            Dials::Fail(failure) => self.gate.complete(self.now, Done::DialFailed(failure)),
            Dials::Succeed => self.gate.complete(self.now, done),
        }
    }

    fn end(&mut self, leg: Leg) -> Option<&mut Side> {
        match leg {
            Leg::Public => Some(&mut self.peer),
            Leg::Private => self.node.as_mut(),
        }
    }

    /// Hands in what an end has sent.
    fn deliver(&mut self, leg: Leg) -> bool {
        let Some(end) = self.end(leg) else { return false };
        let mut bytes = end.pending();
        if let Some((at, by)) = self.corrupts.take_if(|_| leg == Leg::Public) {
            match bytes.get_mut(at) {
                Some(byte) => *byte = byte.wrapping_add(by),
                None => self.corrupts = Some((at - bytes.len(), by)),
            }
        }
        let queue = &mut self.to_gate[leg as usize];
        queue.extend(bytes);
        let offer = queue.len().min(self.chunk);
        if offer == 0 {
            return false;
        }
        let mut piece = queue[..offer].to_vec();
        let taken = self.gate.receive(self.now, leg, &mut piece);
        queue.drain(..taken);
        taken > 0
    }

    /// Takes out what an end shall get.
    fn collect(&mut self, leg: Leg) -> bool {
        let mut space = vec![0; self.chunk.min(1 << 16)];
        let now = self.now;
        let end = match leg {
            Leg::Public => &mut self.peer,
            Leg::Private => match &mut self.node {
                Some(node) => node,
                None => return false,
            },
        };
        if !end.reads || matches!(end.closed, Some(Close::Abort(_))) {
            return false;
        }
        let written = self.gate.transmit(now, leg, &mut space);
        end.read(&space[..written]);
        written > 0
    }

    /// Plays the parts of those who do it by themselves.
    fn greet(&mut self) {
        if let Some(node) = self.node.as_mut().filter(|_| self.node_greets) {
            node.play(&self.node_greeting);
        }
        if self.peer_greets {
            self.peer.play(&self.peer_greeting);
        }
    }

    /// A leg's connection ends.
    pub(super) fn ends(&mut self, leg: Leg, how: End) {
        self.run();
        self.gate.ended(self.now, leg, how);
        self.run();
    }
}
