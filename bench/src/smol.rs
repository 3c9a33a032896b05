//! smoltcp as the peer of the in-memory figures: an interface over a device that is a pair of queues.

use std::collections::VecDeque;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};

/// Bytes of an Ethernet frame with an IP packet of 1,500 bytes.
const FRAME: usize = 1_514;

/// A device whose frames come from `incoming` and go to `outgoing`; buffers are used again and again.
#[derive(Default)]
pub struct Queues {
    /// Frames to be received.
    pub incoming: VecDeque<Vec<u8>>,
    /// Frames that were sent.
    pub outgoing: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
}

/// A received frame, whose buffer goes back to the spare ones.
pub struct Rx<'a> {
    frame: Vec<u8>,
    spare: &'a mut Vec<Vec<u8>>,
}

/// Room for a frame to be sent.
pub struct Tx<'a> {
    outgoing: &'a mut VecDeque<Vec<u8>>,
    buffer: Vec<u8>,
}

impl RxToken for Rx<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        let result = f(&self.frame);
        self.spare.push(self.frame);
        result
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, len: usize, f: F) -> R {
        self.buffer.resize(len, 0);
        let result = f(&mut self.buffer);
        self.outgoing.push_back(self.buffer);
        result
    }
}

impl Queues {
    /// A buffer that is not in use.
    pub fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_else(|| Vec::with_capacity(FRAME))
    }

    /// Takes a buffer back.
    pub fn give_back(&mut self, buffer: Vec<u8>) {
        self.spare.push(buffer);
    }
}

impl Device for Queues {
    type RxToken<'a> = Rx<'a>;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Rx<'_>, Tx<'_>)> {
        let frame = self.incoming.pop_front()?;
        let buffer = self.buffer();
        Some((Rx { frame, spare: &mut self.spare }, Tx { outgoing: &mut self.outgoing, buffer }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        let buffer = self.buffer();
        Some(Tx { outgoing: &mut self.outgoing, buffer })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities
    }
}

/// A host: an interface, its device and its sockets.
pub struct Host {
    /// The device.
    pub device: Queues,
    /// The sockets.
    pub sockets: SocketSet<'static>,
    interface: Interface,
}

impl Host {
    /// A host with an address in a /24.
    pub fn new(mac: [u8; 6], address: [u8; 4]) -> Self {
        let mut device = Queues::default();
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        config.random_seed = 1;
        let mut interface = Interface::new(config, &mut device, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let [a, b, c, d] = address;
            let pushed = addresses.push(IpCidr::new(IpAddress::v4(a, b, c, d), 24));
            assert!(pushed.is_ok(), "an empty list has room");
        });
        Host { device, sockets: SocketSet::new(vec![]), interface }
    }

    /// Lets the host take in and send what it can.
    pub fn poll(&mut self, now_us: i64) {
        self.interface.poll(Instant::from_micros(now_us), &mut self.device, &mut self.sockets);
    }

    /// A TCP socket with buffers of `bytes` each way.
    pub fn socket(&mut self, bytes: usize) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; bytes]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    /// Connects a socket.
    pub fn connect(&mut self, socket: SocketHandle, to: ([u8; 4], u16), from: u16) {
        let [a, b, c, d] = to.0;
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(socket);
        let connected = socket.connect(self.interface.context(), (IpAddress::v4(a, b, c, d), to.1), from);
        assert!(connected.is_ok(), "a fresh socket connects");
    }

    /// Moves what this host sent to `other`.
    pub fn deliver(&mut self, other: &mut Host) -> bool {
        let some = !self.device.outgoing.is_empty();
        other.device.incoming.append(&mut self.device.outgoing);
        some
    }
}
