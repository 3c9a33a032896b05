//! A foreign host: smoltcp's stack on a cable, and the application that runs on it.

use std::collections::VecDeque;
use std::net::IpAddr;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::wire::Mac;
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::{Socket, tcp};
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint, TcpControl};

use crate::network::clock_millis;
use crate::router;

/// What runs on a host. `N` is what it reports.
pub trait App<N> {
    /// Does what it can do now with the host's sockets; says when it wants to be called though nothing happens. It is
    /// called after every frame that arrives.
    fn drive(
        &mut self,
        now: Instant,
        sockets: &mut SocketSet<'static>,
        notes: &mut Vec<N>,
    ) -> Option<Instant>;

    /// Whether the host may be taken away.
    fn done(&self) -> bool;
}

/// Where a host lives.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its address.
    pub address: IpAddr,
    /// Length of its on-link prefix.
    pub prefix: u8,
    /// Where everything else goes.
    pub gateway: IpAddr,
    /// Largest IP packet.
    pub mtu: usize,
    /// Start of its initial sequence numbers.
    pub seed: u64,
}

/// One host with its stack.
pub struct Host {
    place: Place,
    interface: Interface,
    cable: Cable,
    pub(crate) sockets: SocketSet<'static>,
}

impl Host {
    /// A host without sockets.
    pub fn new(place: Place, now: Instant) -> Self {
        let mut cable = Cable { incoming: VecDeque::new(), outgoing: Vec::new(), mtu: place.mtu };
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(place.mac.0)));
        config.random_seed = place.seed;
        let mut interface = Interface::new(config, &mut cable, smol(now));
        interface.update_ip_addrs(|addresses| {
            // The list has room for two: the one error that there could be.
            let _ = addresses.push(IpCidr::new(place.address.into(), place.prefix));
        });
        let routes = interface.routes_mut();
        let added = match place.gateway {
            IpAddr::V4(gateway) => routes.add_default_ipv4_route(gateway),
            IpAddr::V6(gateway) => routes.add_default_ipv6_route(gateway),
        };
        debug_assert!(added.is_ok(), "a fresh table has room for a default route");
        Host { place, interface, cable, sockets: SocketSet::new(Vec::new()) }
    }

    /// Where it lives.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Opens a connection from a given local port; false if the stack refuses.
    pub fn connect(&mut self, socket: tcp::Socket<'static>, to: (IpAddr, u16), from: u16) -> bool {
        let handle = self.sockets.add(socket);
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        socket.connect(self.interface.context(), (IpAddress::from(to.0), to.1), from).is_ok()
    }

    /// Gives the stack a frame; it looks at it when it is polled.
    pub(crate) fn receive(&mut self, frame: Vec<u8>) {
        if !self.repeats_syn(&frame) {
            self.cable.incoming.push_back(frame);
        }
    }

    /// Whether a frame repeats the SYN of a connection that a socket has. smoltcp would give it to the first socket that
    /// listens, and two sockets would hold one connection; the socket sends its own SYN-ACK again anyway.
    fn repeats_syn(&self, frame: &[u8]) -> bool {
        let Some((from, _, segment)) = router::tcp(frame) else { return false };
        let remote = IpEndpoint::new(from.into(), segment.src_port);
        segment.control == TcpControl::Syn
            && segment.ack_number.is_none()
            && self.sockets.iter().any(|(_, socket)| match socket {
                Socket::Tcp(socket) => {
                    socket.state() == tcp::State::SynReceived && socket.remote_endpoint() == Some(remote)
                }
            })
    }

    /// Lets stack and application work. Gives what they send, and when they want to be polled again.
    pub(crate) fn poll<N>(
        &mut self,
        now: Instant,
        app: &mut dyn App<N>,
        notes: &mut Vec<N>,
    ) -> (Vec<Vec<u8>>, Option<Instant>) {
        self.interface.poll(smol(now), &mut self.cable, &mut self.sockets);
        let wanted = app.drive(now, &mut self.sockets, notes);
        self.interface.poll(smol(now), &mut self.cable, &mut self.sockets);
        let next = self.interface.poll_at(smol(now), &self.sockets).map(|at| {
            // Never the same instant again: the stack has just had its say.
            let micros = u64::try_from(at.total_micros()).unwrap_or(0);
            Instant::from_micros(micros.max(now.micros() + 1_000))
        });
        let next = [wanted, next].into_iter().flatten().min();
        (std::mem::take(&mut self.cable.outgoing), next)
    }
}

/// A socket with buffers of the given sizes, with or without timestamps.
pub fn socket(receive: usize, send: usize, timestamps: bool) -> tcp::Socket<'static> {
    let mut socket =
        tcp::Socket::new(tcp::SocketBuffer::new(vec![0; receive]), tcp::SocketBuffer::new(vec![0; send]));
    socket.set_nagle_enabled(false);
    socket.set_tsval_generator(timestamps.then_some(clock_millis as fn() -> u32));
    socket
}

fn smol(now: Instant) -> SmolInstant {
    SmolInstant::from_micros(i64::try_from(now.micros()).unwrap_or(i64::MAX))
}

struct Cable {
    incoming: VecDeque<Vec<u8>>,
    outgoing: Vec<Vec<u8>>,
    mtu: usize,
}

impl Device for Cable {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Incoming, Outgoing<'_>)> {
        self.incoming.pop_front().map(|frame| (Incoming(frame), Outgoing(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Outgoing<'_>> {
        Some(Outgoing(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + 14;
        capabilities
    }
}

struct Incoming(Vec<u8>);

impl phy::RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Outgoing<'a>(&'a mut Vec<Vec<u8>>);

impl phy::TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let result = write(&mut frame);
        self.0.push(frame);
        result
    }
}
