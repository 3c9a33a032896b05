//! A pool's application: a client of the nodes' RPC that asks again and again, and remembers every call.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;

use crate::check::{Context, Outcome};
use crate::peers::{self, Session};
use crate::rig::Namespace;

/// Between two calls.
const PAUSE: Duration = Duration::from_millis(100);

/// The certificate that a node's RPC accepts: that of the node with this root. Nodes that share a private authority accept
/// each other's.
pub fn rpc_identity(root: &Path) -> Outcome<Arc<ClientConfig>> {
    let file = |name: &str| root.join("config/ssl/full_node").join(name);
    let chain =
        CertificateDer::pem_file_iter(file("private_full_node.crt")).context("the RPC's certificate")?;
    let chain = chain.collect::<Result<Vec<_>, _>>().context("the RPC's certificate")?;
    let key = PrivateKeyDer::from_pem_file(file("private_full_node.key")).context("the RPC's key")?;
    peers::identity(chain, key)
}

/// A connection to a node's RPC.
pub struct Rpc(Session);

impl Rpc {
    /// Opens one from an address of the namespace that the calling thread is in.
    pub fn open(identity: &Arc<ClientConfig>, from: Ipv4Addr, to: SocketAddrV4) -> io::Result<Self> {
        Session::start(identity, peers::tcp(from, to, None)?).map(Rpc)
    }

    /// The height of the node's peak.
    pub fn height(&mut self) -> io::Result<Option<u64>> {
        self.0.write(
            b"POST /get_blockchain_state HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        )?;
        let answer = self.0.http()?;
        let body = answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |at| at + 4);
        let state: Value = serde_json::from_slice(&answer[body..]).map_err(io::Error::other)?;
        Ok(state["blockchain_state"]["peak"]["height"].as_u64())
    }
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// When it began.
    pub begin: Instant,
    /// The height that the node told, or what went wrong.
    pub answer: Result<u64, String>,
}

/// Calls until it is dropped: over one connection for as long as that lives, or over a new one each time.
#[derive(Debug)]
pub struct Caller {
    stop: Arc<AtomicBool>,
    calls: Arc<Mutex<Vec<Call>>>,
    thread: Option<JoinHandle<()>>,
}

impl Caller {
    /// Starts calling in `namespace`, from its address `from`.
    pub fn start(
        namespace: &Namespace,
        identity: &Arc<ClientConfig>,
        from: Ipv4Addr,
        to: SocketAddrV4,
        keeps_connection: bool,
    ) -> Outcome<Self> {
        let (stop, calls): (Arc<AtomicBool>, Arc<Mutex<Vec<Call>>>) = Default::default();
        let (stopping, noting, identity) = (stop.clone(), calls.clone(), identity.clone());
        let thread = namespace.enter(move || {
            Ok(std::thread::spawn(move || {
                let mut open = None;
                while !stopping.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    let answer = call(&mut open, || Rpc::open(&identity, from, to));
                    if answer.is_err() || !keeps_connection {
                        open = None;
                    }
                    noting.lock().unwrap_or_else(PoisonError::into_inner).push(Call { begin, answer });
                    std::thread::sleep(PAUSE);
                }
            }))
        })?;
        Ok(Caller { stop, calls, thread: Some(thread) })
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn call(open: &mut Option<Rpc>, connect: impl Fn() -> io::Result<Rpc>) -> Result<u64, String> {
    let said = |error: io::Error| error.to_string();
    let rpc = match open {
        Some(rpc) => rpc,
        None => open.insert(connect().map_err(said)?),
    };
    rpc.height().map_err(said)?.ok_or_else(|| "the node told no height".to_owned())
}
