//! An emulated full node: demands a certificate, answers the upgrade and the handshake, announces its peak and serves
//! blocks. It notes who reached it, and whether they had any business to.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_policy::PeerId;
use hedgerow_policy::chia::{Handshake, NodeType, number};
use hedgerow_policy::tls;
use rustls::ServerConfig;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, State};

use crate::chain;
use crate::host::{App, socket};
use crate::line::Line;
use crate::random::Random;
use crate::visitor::Note;

/// Time between two blocks, on this chain.
const BLOCK_TIME: Duration = Duration::from_millis(1_500);
/// Height when the world begins.
pub const HEIGHT: u32 = 5_000;
const BUFFER: usize = 1 << 17;

struct Caller {
    handle: SocketHandle,
    line: Option<Line>,
    /// The network that it named in its handshake.
    greeted: bool,
    id: Option<PeerId>,
    announced: u32,
}

/// The node.
pub struct Node {
    port: u16,
    spare: usize,
    network: String,
    config: Arc<ServerConfig>,
    callers: Vec<Caller>,
    known: BTreeSet<PeerId>,
    random: Random,
    /// Of the chain; the node has it unless it lags.
    tip: u32,
    height: u32,
    next_block: Instant,
    fate: Fate,
    /// Sockets that were aborted: their resets must go out before they are gone.
    dead: Vec<SocketHandle>,
}

/// What happens to a node, told from outside its host.
#[derive(Clone, Debug, Default)]
pub struct Fate(Rc<Cell<Happening>>);

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Happening {
    /// Everything that it should.
    #[default]
    Lives,
    /// Its process was killed: connections are reset, and nobody listens.
    Killed,
    /// It takes no new blocks.
    Lags,
}

impl Fate {
    /// From now on this happens.
    pub fn turn(&self, to: Happening) {
        self.0.set(to);
    }
}

impl Node {
    /// A node of `network` that listens on `port` with `spare` sockets.
    pub fn new(port: u16, network: &str, config: Arc<ServerConfig>, random: Random) -> Self {
        Node {
            port,
            spare: 16,
            network: network.to_owned(),
            config,
            callers: Vec::new(),
            known: BTreeSet::new(),
            random,
            tip: HEIGHT,
            height: HEIGHT,
            next_block: Instant::ZERO + BLOCK_TIME,
            fate: Fate::default(),
            dead: Vec::new(),
        }
    }

    /// What happens to it, in the hands of who asks.
    pub fn fate(&self) -> Fate {
        self.fate.clone()
    }

    fn listen(&mut self, sockets: &mut SocketSet<'static>) {
        let listening = |caller: &&Caller| sockets.get::<tcp::Socket>(caller.handle).state() == State::Listen;
        for _ in self.callers.iter().filter(listening).count()..self.spare {
            let mut socket = socket(BUFFER, BUFFER, true);
            if socket.listen(self.port).is_err() {
                return;
            }
            let handle = sockets.add(socket);
            self.callers.push(Caller { handle, line: None, greeted: false, id: None, announced: 0 });
        }
    }

    fn serve(&mut self, place: usize, sockets: &mut SocketSet<'static>, notes: &mut Vec<Note>) {
        let Node { callers, config, random, network, known, height, .. } = self;
        let Some(caller) = callers.get_mut(place) else { return };
        let socket = sockets.get_mut::<tcp::Socket>(caller.handle);
        if matches!(socket.state(), State::Listen | State::SynReceived) {
            return;
        }
        if caller.line.is_none() {
            caller.line = Line::server(config.clone(), random.branch("line")).ok();
        }
        let Some(line) = &mut caller.line else { return socket.abort() };
        line.drive(socket);
        if caller.id.is_none() && line.is_secure() {
            caller.id = line.certificate().map(tls::peer_id);
        }
        while let Some(message) = line.received.pop_front() {
            if !caller.greeted {
                let handshake = Handshake::decode(&message.body).ok();
                let right = message.kind == number::HANDSHAKE
                    && handshake.is_some_and(|handshake| handshake.network_id == *network);
                let (true, Some(id)) = (right, caller.id) else {
                    notes.push(Note::NodeUnproven(format!("first message of type {}", message.kind)));
                    return socket.abort();
                };
                caller.greeted = true;
                notes.push(Note::NodeReached(known.insert(id)));
                line.send(&Handshake::new(network, NodeType::FullNode, 8444).message());
            } else if let Some(answer) = chain::answer(&message) {
                line.send(&answer);
            }
        }
        if caller.greeted && line.is_open() && caller.announced < *height {
            caller.announced = *height;
            line.send(&chain::new_peak(*height));
        }
        if line.closed.is_some() || line.failure.is_some() || socket.state() == State::CloseWait {
            socket.close();
        }
        line.drive(socket);
    }
}

impl App<Note> for Node {
    fn drive(
        &mut self,
        now: Instant,
        sockets: &mut SocketSet<'static>,
        notes: &mut Vec<Note>,
    ) -> Option<Instant> {
        while now >= self.next_block {
            self.tip += 1;
            self.next_block += BLOCK_TIME;
        }
        if self.fate.0.get() == Happening::Lives {
            self.height = self.tip;
        }
        if self.fate.0.get() == Happening::Killed {
            for caller in self.callers.drain(..) {
                sockets.get_mut::<tcp::Socket>(caller.handle).abort();
                self.dead.push(caller.handle);
            }
            return Some(self.next_block);
        }
        self.dead.drain(..).for_each(|handle| drop(sockets.remove(handle)));
        for place in 0..self.callers.len() {
            self.serve(place, sockets, notes);
        }
        self.callers.retain(|caller| {
            let gone = sockets.get::<tcp::Socket>(caller.handle).state() == State::Closed;
            if gone {
                if !caller.greeted && caller.line.is_some() {
                    notes.push(Note::NodeUnproven("a connection that said nothing".into()));
                }
                sockets.remove(caller.handle);
            }
            !gone
        });
        self.listen(sockets);
        Some(self.next_block)
    }

    fn done(&self) -> bool {
        false
    }
}
