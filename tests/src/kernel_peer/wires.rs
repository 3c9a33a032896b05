//! The rig of a round: `outer` with clients, `box` with the appliance, `inner` with the server, and connections that
//! are made through all three.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketType};

use super::Round;
use crate::appliance::{Appliance, PortSetup, Scratch};
use crate::check::{Context, Outcome, wait_for};
use crate::machine::Machine;
use crate::pattern::{expect, expect_end, send};
use crate::rig::Namespace;

/// Longest wait for any single step of a connection; generous, since loss makes retransmission timers back off.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// What connects the appliance with the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Devices {
    /// veth pairs, read with AF_PACKET.
    Veth,
    /// veth pairs, read with AF_XDP.
    Xdp,
    /// TAP devices of the appliance, whose kernel ends move into the peers' namespaces.
    Tap,
    /// veth pairs whose kernel end is the appliance's machine itself: ordinary sockets.
    Sockets,
    /// veth pairs, the public one read with AF_PACKET, with ordinary sockets on the private side.
    KernelLeg,
    /// virtio devices of a machine that boots the image, read with AF_XDP; their other ends are TAP devices that move, too.
    Virtio,
}

/// The addresses in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The three namespaces of a round.
pub struct Wires {
    /// Where clients are.
    pub outer: Namespace,
    /// Where the server is.
    pub inner: Namespace,
    /// The appliance's listener.
    pub through: SocketAddr,
    /// Frames in a hundred that are lost on each way.
    pub loss: u32,
    /// The appliance's shards.
    pub shards: usize,
    /// Whether the kernel of its machine has the public addresses, too.
    pub shared: bool,
    /// Where the appliance is.
    pub boxed: Namespace,
    listener: TcpListener,
    appliance: Box<dyn Running>,
    _scratch: Scratch,
}

const LISTENER_PORT: u16 = 5000;
const SERVER_PORT: u16 = 5001;

impl Wires {
    /// Builds everything and starts the appliance.
    pub fn new(round: &Round) -> Outcome<Self> {
        Wires::with(round, |_| Ok(()), round.shared)
    }

    /// As [`Wires::new`], with something done to the appliance's machine before it starts. `addressed`: its kernel has the
    /// public addresses.
    pub fn with(round: &Round, before: impl FnOnce(&Namespace) -> Outcome, addressed: bool) -> Outcome<Self> {
        let Round { devices, family, loss, shards, shared, .. } = *round;
        let (outer, boxed, inner) =
            (Namespace::new("outer")?, Namespace::new("box")?, Namespace::new("inner")?);
        let prefix = if devices.is_veth() { "veth-" } else { "tap-" };
        let ports = [
            port("public", prefix, devices.drivers()[0], "10.1.0.1/24", "fd01::1/64"),
            port("private", prefix, devices.drivers()[1], "10.2.0.1/24", "fd02::1/64"),
        ];
        if devices.is_veth() {
            let queues = if devices == Devices::Xdp { shards } else { 1 };
            outer.veth_queues("wan", &boxed, &ports[0].device, queues)?;
            inner.veth_queues("lan", &boxed, &ports[1].device, queues)?;
        }
        let scratch = Scratch::new("kernel-peer")?;
        let server = match family {
            Family::V4 => "10.2.0.2",
            Family::V6 => "[fd02::2]",
        };
        let of_the_kernel =
            |port: &&PortSetup| addressed && port.name == "public" || port.driver == "sockets";
        for port in ports.iter().filter(of_the_kernel) {
            boxed.address(&port.device, &port.addresses.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        before(&boxed)?;
        let mut appliance: Box<dyn Running> = match devices {
            Devices::Virtio => {
                let inside = [("eth0", &ports[0]), ("eth1", &ports[1])]
                    .map(|(name, port)| PortSetup { device: name.into(), ..port.clone() });
                let taps = [ports[0].device.as_str(), &ports[1].device];
                let machine = Machine::start(&boxed, &scratch, &sections(&inside, server, round), taps)?;
                wait_for("QEMU has made its TAP devices", PATIENCE, || {
                    Ok(taps
                        .iter()
                        .all(|tap| boxed.shell(&format!("ip link show {tap}")).is_ok())
                        .then_some(()))
                })?;
                Box::new(machine)
            }
            _ => Box::new(Appliance::start(&boxed, &scratch, &sections(&ports, server, round))?),
        };
        if !devices.is_veth() {
            for (port, namespace, name) in [(&ports[0], &outer, "wan"), (&ports[1], &inner, "lan")] {
                boxed.give(&port.device, namespace)?;
                namespace.shell(&format!("ip link set {} name {name}", port.device))?;
            }
        }
        outer.address("wan", &["10.1.0.2/24", "fd01::2/64"])?;
        inner.address("lan", &["10.2.0.2/24", "fd02::2/64"])?;
        appliance.wait_until_up()?;
        if devices == Devices::Virtio {
            let status = appliance.status()?;
            let driven = |port: &serde_json::Value| {
                port["mode"].as_str().is_some_and(|mode| mode.starts_with("af-xdp in the driver"))
            };
            let ports = status["ports"].as_array().context("ports in the status")?;
            if ports.len() != 2 || !ports.iter().all(driven) {
                return Err(format!("AF_XDP does not run in the driver: {}", status["ports"]));
            }
        }
        for (namespace, address) in
            [(&outer, "10.1.0.1"), (&outer, "fd01::1"), (&inner, "10.2.0.1"), (&inner, "fd02::1")]
        {
            namespace.await_neighbour(address.parse().context("an address")?)?;
        }
        if loss > 0 {
            lose(&outer, "wan", loss)?;
            lose(&inner, "lan", loss)?;
        }
        let through = match family {
            Family::V4 => SocketAddr::new([10, 1, 0, 1].into(), LISTENER_PORT),
            Family::V6 => SocketAddr::new([0xfd01, 0, 0, 0, 0, 0, 0, 1].into(), LISTENER_PORT),
        };
        let listener = inner.enter(|| TcpListener::bind(("::", SERVER_PORT)).context("listening"))?;
        listener.set_nonblocking(true).context("preparing the listener")?;
        Ok(Wires {
            outer,
            inner,
            boxed,
            through,
            loss,
            shards,
            shared,
            listener,
            appliance,
            _scratch: scratch,
        })
    }

    /// A client's connection to the appliance.
    pub fn connect(&self) -> Outcome<TcpStream> {
        self.connect_with(None)
    }

    fn connect_with(&self, receive_buffer: Option<usize>) -> Outcome<TcpStream> {
        let family = if self.through.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket =
            self.outer.enter(|| rustix::net::socket(family, SocketType::STREAM, None).context("a socket"))?;
        if let Some(bytes) = receive_buffer {
            sockopt::set_socket_recv_buffer_size(&socket, bytes).context("setting a buffer size")?;
        }
        sockopt::set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE)).context("setting a deadline")?;
        rustix::net::connect(&socket, &self.through).context("connecting")?;
        prepare(TcpStream::from(socket))
    }

    /// The server's side of the next connection.
    pub fn accept(&self) -> Outcome<TcpStream> {
        let stream =
            wait_for("a connection reaches the server", PATIENCE, || match self.listener.accept() {
                Ok((stream, _)) => Ok(Some(stream)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(error.to_string()),
            })?;
        stream.set_nonblocking(false).context("preparing a connection")?;
        prepare(stream)
    }

    /// Both ends of a new connection.
    pub fn pair(&self) -> Outcome<(TcpStream, TcpStream)> {
        let client = self.connect()?;
        self.meet(client)
    }

    /// The other end of a connection. Where frames get lost the client says a byte first: behind cookies, as with the
    /// kernel's own, nobody knows of a connection whose last handshake segment was lost and whose client keeps silent.
    fn meet(&self, mut client: TcpStream) -> Outcome<(TcpStream, TcpStream)> {
        if self.loss == 0 {
            return Ok((client, self.accept()?));
        }
        client.write_all(&[1]).context("the client's first byte")?;
        let mut server = self.accept()?;
        server.read_exact(&mut [0]).context("the client's first byte at the server")?;
        Ok((client, server))
    }

    /// Both ends of a new connection, each with a receive buffer of about `bytes`.
    pub fn tight_pair(&self, bytes: usize) -> Outcome<(TcpStream, TcpStream)> {
        sockopt::set_socket_recv_buffer_size(&self.listener, bytes).context("setting a buffer size")?;
        let client = self.connect_with(Some(bytes))?;
        self.meet(client)
    }

    /// Whether a connection waits at the server.
    pub fn quiet(&self) -> bool {
        matches!(self.listener.accept(), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// TCP flows that the appliance holds.
    pub fn flows(&self) -> Outcome<u64> {
        let status = self.appliance.status()?;
        status["flows"]["now"].as_u64().context(format_args!("flows in {status}"))
    }

    /// The appliance's process.
    pub fn process(&self) -> u32 {
        self.appliance.process()
    }

    /// The process that keeps the rules of shared addresses.
    pub fn keeper(&self) -> Outcome<u32> {
        let children = format!("/proc/{0}/task/{0}/children", self.process());
        let text = std::fs::read_to_string(&children).context("reading the appliance's children")?;
        text.split_whitespace().next().and_then(|child| child.parse().ok()).context("a child")
    }

    /// What `hedgerow status` says.
    pub fn status(&self) -> Outcome<serde_json::Value> {
        self.appliance.status()
    }

    /// Fails if the appliance has ended.
    pub fn alive(&mut self) -> Outcome {
        self.appliance.alive()
    }

    /// A failure together with what the appliance knows about it.
    pub fn explain(&self, failure: String) -> String {
        let status = self.appliance.status().map_or_else(|error| error, |status| status.to_string());
        format!("{failure}\nstatus: {status}\nlog: {}", self.appliance.log())
    }
}

fn prepare(stream: TcpStream) -> Outcome<TcpStream> {
    stream.set_read_timeout(Some(PATIENCE)).context("setting a deadline")?;
    stream.set_write_timeout(Some(PATIENCE)).context("setting a deadline")?;
    stream.set_nodelay(true).context("setting nodelay")?;
    Ok(stream)
}

/// What runs between the two kernels.
trait Running: Send + Sync {
    fn wait_until_up(&mut self) -> Outcome;
    fn alive(&mut self) -> Outcome;
    fn status(&self) -> Outcome<serde_json::Value>;
    fn process(&self) -> u32;
    fn log(&self) -> String;
}

macro_rules! running {
    ($($what:ty),*) => { $(impl Running for $what {
        fn wait_until_up(&mut self) -> Outcome {
            self.wait_until_up()
        }

        fn alive(&mut self) -> Outcome {
            self.alive()
        }

        fn status(&self) -> Outcome<serde_json::Value> {
            self.status()
        }

        fn process(&self) -> u32 {
            self.process()
        }

        fn log(&self) -> String {
            self.log()
        }
    })* };
}

running!(Appliance, Machine);

impl Devices {
    fn is_veth(self) -> bool {
        matches!(self, Devices::Veth | Devices::Xdp | Devices::Sockets | Devices::KernelLeg)
    }

    /// Of the public port, and of the private one.
    fn drivers(self) -> [&'static str; 2] {
        match self {
            Devices::Veth => ["af-packet"; 2],
            Devices::Xdp | Devices::Virtio => ["af-xdp"; 2],
            Devices::Tap => ["tap"; 2],
            Devices::Sockets => ["sockets"; 2],
            Devices::KernelLeg => ["af-packet", "sockets"],
        }
    }
}

fn port(name: &'static str, prefix: &str, driver: &'static str, v4: &str, v6: &str) -> PortSetup {
    PortSetup {
        name,
        device: format!("{prefix}{name}"),
        driver,
        addresses: vec![v4.to_owned(), v6.to_owned()],
    }
}

fn sections(ports: &[PortSetup], server: &str, round: &Round) -> String {
    let cores = match round.shards {
        1 => String::new(),
        shards => {
            let cores: Vec<usize> = (0..shards).collect();
            format!("[cores]\ndataplane = {cores:?}\nworkers = 1\nwatchdog = \"2s\"\nstuck = \"abort\"\n\n")
        }
    };
    let ports: String = ports
        .iter()
        .map(|port| match round.shared && port.name == "public" {
            true => format!("{}\nshare = \"listeners\"\n\n", port.section().trim_end()),
            false => port.section(),
        })
        .collect();
    format!(
        "{cores}{ports}\
         [[listener]]\nname = \"relay\"\nport = \"public\"\nlocal_port = {LISTENER_PORT}\nprotocol = \"tcp\"\npool = \"kernel\"\n\n\
         [pool.kernel]\nnodes = [\"kernel={server}:{SERVER_PORT}\"]\nslots = 1000\ndials_per_second = 1000\n\n\
         [limits]\nper_source = 1000\nper_24 = 1000\nper_16_percent = 100\nv6_64 = 1000\nv6_48 = 1000\n"
    )
}

/// Makes `device` lose some of the frames of each direction, without telling the sender.
fn lose(namespace: &Namespace, device: &str, percent: u32) -> Outcome {
    let chain = |hook: &str| {
        format!(
            " chain {hook} {{\n  type filter hook {hook} device \"{device}\" priority 0;\n  \
             meta protocol {{ ip, ip6 }} numgen random mod 100 < {percent} counter drop\n }}\n"
        )
    };
    namespace.nftables(&format!("table netdev loss {{\n{}{}}}", chain("egress"), chain("ingress")))
}

/// Whether this user may load XDP programs: what `CAP_BPF` of the first user namespace is for, and root of a further one has
/// not.
pub fn xdp_is_possible() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    rustix::process::geteuid().is_root() && map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Whether TAP devices can be made here.
pub fn tap_is_possible() -> bool {
    OpenOptions::new().read(true).write(true).open("/dev/net/tun").is_ok()
}

/// Sends so many bytes both ways at once over a connection whose ends these are, each up to the other's FIN.
pub(super) fn exchange(client: TcpStream, server: TcpStream, bytes: u64) -> Outcome {
    let carry = |stream: TcpStream, mine: u64, theirs: u64| {
        let (mut reader, mut writer) = (stream.try_clone().context("cloning")?, stream);
        both(
            || {
                send(&mut writer, mine, bytes)?;
                writer.shutdown(Shutdown::Write).context("closing")
            },
            || {
                expect(&mut reader, theirs, bytes)?;
                expect_end(&mut reader)
            },
        )
    };
    both(|| carry(client, 3, 4), || carry(server, 4, 3)).map(drop)
}

/// Runs two halves of a case at the same time; both must succeed.
pub fn both<A: Send, B: Send>(
    one: impl FnOnce() -> Outcome<A> + Send,
    other: impl FnOnce() -> Outcome<B> + Send,
) -> Outcome<(A, B)> {
    thread::scope(|scope| {
        let other = scope.spawn(other);
        let one = one();
        let other = other.join().map_err(|_| "a thread panicked".to_owned())?;
        match (one, other) {
            (Ok(one), Ok(other)) => Ok((one, other)),
            (Err(a), Err(b)) => Err(format!("{a}; and: {b}")),
            (Err(failure), _) | (_, Err(failure)) => Err(failure),
        }
    })
}

/// Writes until the other side takes nothing more for `still`; says how much it took.
pub fn fill_up(stream: &mut TcpStream, seed: u64, still: Duration) -> Outcome<u64> {
    use std::io::Write;
    let mut at = 0;
    let mut piece = vec![0; 16 * 1024];
    let mut progress = Instant::now();
    stream.set_nonblocking(true).context("preparing to fill")?;
    while progress.elapsed() < still {
        crate::pattern::fill(seed, at, &mut piece);
        match stream.write(&piece) {
            Ok(count) => {
                at += count as u64;
                progress = Instant::now();
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(5))
            }
            Err(error) => return Err(format!("filling at {at}: {error}")),
        }
    }
    stream.set_nonblocking(false).context("preparing to go on")?;
    Ok(at)
}
