//! Making sockets: listeners bound before anything starts, connections to nodes, and how many there may be.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::admit::{Admission, Census, Limits};
use hedgerow_dataplane::frame::BATCH;
use hedgerow_dataplane::shard::{ListenerId, Statistics};
use rustix::event::epoll;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::blocks::Blocks;
use super::{Ear, LISTENER, Slot, Sockets};

/// Connections that may wait to be accepted; the kernel takes less where its own bound is lower (net.core.somaxconn).
const BACKLOG: i32 = 1_024;
/// Descriptors that are left to everything else.
const OTHERS: u64 = 128;

/// A listener to be bound.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Where.
    pub address: SocketAddr,
    /// Whose connections they are.
    pub listener: ListenerId,
}

/// What the sockets of a core are told.
#[derive(Clone)]
pub struct Setup {
    /// The listeners.
    pub listeners: Vec<Wanted>,
    /// By link: our addresses, where sockets serve it.
    pub sources: Vec<Option<Vec<IpAddr>>>,
    /// Quotas for peers.
    pub limits: Limits,
    /// Most connections, both ways.
    pub flows: usize,
    /// Buffer memory, in bytes.
    pub memory: u64,
    /// This core, and how many there are.
    pub shard: (u16, u16),
    /// What all cores count together.
    pub census: Arc<Census>,
    /// Decides whom admission lets go among equals.
    pub seed: [u8; 16],
}

/// A listener could not be bound.
#[derive(Debug)]
pub struct BindError {
    /// Where.
    pub address: Option<SocketAddr>,
    /// What the kernel said.
    pub error: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(address) = self.address else { return write!(f, "sockets: {}", self.error) };
        write!(f, "cannot listen at {address}: {}", self.error)?;
        match self.error.kind() {
            io::ErrorKind::AddrInUse => {
                f.write_str("; another program has this port: stop it, or choose another `local_port`")
            }
            io::ErrorKind::AddrNotAvailable => f.write_str(
                "; this machine does not have the address: add it to a device, or write \"0.0.0.0/0\" for all that it has",
            ),
            io::ErrorKind::PermissionDenied => {
                f.write_str("; ports below 1024 need a privilege: choose a higher `local_port`")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for BindError {}

impl Sockets {
    /// Binds the listeners and takes the table's memory.
    ///
    /// # Errors
    /// The first address at which the kernel does not let us listen, and why.
    pub fn open(setup: Setup) -> Result<Sockets, BindError> {
        let plain = |error: rustix::io::Errno| BindError { address: None, error: error.into() };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(plain)?;
        let slots = setup.flows.min(descriptors(setup.shard.1));
        // Those that had to go keep their place until their end is told.
        let places = slots + BATCH;
        let mut ears = Vec::new();
        for (index, wanted) in (0u64..).zip(&setup.listeners) {
            let failed = |error| BindError { address: Some(wanted.address), error };
            let socket = listener(wanted.address, setup.shard.1 > 1).map_err(failed)?;
            let data = epoll::EventData::new_u64(LISTENER | index);
            epoll::add(&epoll, &socket, data, epoll::EventFlags::IN).map_err(plain)?;
            ears.push(Ear { socket, listener: wanted.listener, resting: false });
        }
        let limits = Limits {
            flows: u32::try_from(slots).unwrap_or(u32::MAX).min(setup.limits.flows),
            ..setup.limits
        };
        Ok(Sockets {
            epoll,
            ears,
            rest: None,
            sources: setup.sources,
            slots: (0..places).map(|_| Slot::default()).collect(),
            free: (0..places as u32).rev().collect(),
            base: 0,
            shard: setup.shard.0,
            now: Instant::ZERO,
            admission: Admission::new(limits, places, setup.seed, setup.census),
            deny: Arc::default(),
            ends: None,
            blocks: Blocks::new(setup.memory),
            dirty: Vec::new(),
            starved: Default::default(),
            events: Default::default(),
            orphans: 0,
            sweep: None::<Instant>,
            statistics: Statistics::default(),
        })
    }
}

/// Descriptors that each core may have: the process may take as many as the system allows it to allow itself.
fn descriptors(shards: u16) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // Where it is refused, what there was remains.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let now = getrlimit(Resource::Nofile).current.or(current).unwrap_or(u64::MAX);
    let each = now.saturating_sub(OTHERS).max(16) / u64::from(shards.max(1));
    usize::try_from(each).unwrap_or(usize::MAX)
}

fn stream_socket(to: SocketAddr) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?)
}

/// A bound listener. Where several cores listen at one address, the kernel deals connections out among them.
fn listener(address: SocketAddr, several: bool) -> io::Result<TcpListener> {
    let socket = stream_socket(address)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if several {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// Begins a connection from `source`, or from what the kernel chooses.
pub(super) fn connect(to: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = stream_socket(to)?;
    if let Some(source) = source {
        bind(&socket, &SocketAddr::new(source, 0))?;
    }
    sockopt::set_tcp_nodelay(&socket, true)?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}

/// Has an accepted connection never wait.
pub(super) fn ready(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)
}

/// The connection shall end with a reset when it is dropped.
pub(super) fn forget(stream: impl AsFd) {
    // Where it is refused, it ends with a FIN.
    let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}
