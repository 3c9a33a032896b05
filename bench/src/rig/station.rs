//! An emulated Chia node that does no more than is needed to complete a session: mutual TLS with a P-256 leaf, the upgrade,
//! one answer to the handshake. It stands behind whoever terminates TLS in `session-pairs-*`.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hedgerow_policy::tls::ca::Authority;
use hedgerow_policy::tls::{Credential, mint};
use hedgerow_policy::websocket::accept_key;
use hedgerow_tests::rig::Namespace;
use hedgerow_tests::{Context, Outcome};
use rustix::net::sockopt;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::peers::{PATIENCE, handshake};
use super::pin;

/// How long a thread waits for a caller before it asks whether to stop.
const GLANCE: Duration = Duration::from_millis(250);

/// Nodes at several ports of one namespace; they end when dropped.
#[derive(Debug)]
pub struct Stations {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Stations {
    /// Listens at each of `ports`, with so many threads each.
    pub fn start(namespace: &Namespace, ports: &[(u16, usize)], core: usize) -> Outcome<Self> {
        let (stop, served): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
        let config = server()?;
        let (stopping, serving) = (stop.clone(), served.clone());
        let threads = namespace.enter(move || {
            let mut threads = vec![];
            for &(port, count) in ports {
                let listener = Arc::new(TcpListener::bind(("0.0.0.0", port)).context("a node's port")?);
                // Threads wait in `accept` itself, and look up now and then whether to stop.
                sockopt::set_socket_timeout(&listener, sockopt::Timeout::Recv, Some(GLANCE))
                    .context("a node's port")?;
                for _ in 0..count {
                    let (listener, config) = (listener.clone(), config.clone());
                    let (stop, served) = (stopping.clone(), serving.clone());
                    threads.push(
                        thread::Builder::new()
                            .stack_size(256 << 10)
                            .spawn(move || serve(&listener, &config, core, &stop, &served))
                            .context("a node's thread")?,
                    );
                }
            }
            Ok(threads)
        })?;
        Ok(Stations { stop, served, threads })
    }

    /// Handshakes answered so far.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

impl Drop for Stations {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A credential under the Chia CA that no peer has.
pub fn credential(seed: u64) -> Outcome<Credential> {
    mint::peer(&Authority::chia().context("the Chia CA")?, seed).context("a certificate")
}

fn server() -> Outcome<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(Authority::chia_certificate().context("the Chia CA")?).context("the Chia CA")?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .context("a verifier")?;
    let credential = credential(7)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("TLS 1.3")?
        .with_client_cert_verifier(verifier)
        .with_single_cert(credential.chain, credential.key)
        .context("a node's certificate")?;
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn serve(
    listener: &TcpListener,
    config: &Arc<ServerConfig>,
    core: usize,
    stop: &AtomicBool,
    served: &AtomicU64,
) {
    if pin(None, core).is_err() {
        return;
    }
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            // What a caller does wrong ends its connection, and is the caller's to count.
            Ok((stream, _)) => drop(answer(stream, config, served)),
            Err(_) => continue,
        }
    }
}

/// One session, from its first byte to its end.
fn answer(stream: TcpStream, config: &Arc<ServerConfig>, served: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let connection = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
    let mut tls = StreamOwned::new(connection, stream);
    let head = until(&mut tls, |bytes| bytes.ends_with(b"\r\n\r\n"))?;
    let head = String::from_utf8_lossy(&head).into_owned();
    let key = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
        .map_or("", |(_, key)| key.trim());
    let upgrade = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        accept_key(key)
    );
    tls.write_all(upgrade.as_bytes())?;
    tls.flush()?;
    // A masked frame of less than 126 bytes: two bytes, a mask of four, the payload.
    until(&mut tls, |bytes| bytes.len() >= 2 && bytes.len() >= 6 + usize::from(bytes[1] & 0x7f))?;
    let reply = handshake();
    tls.write_all(&[&[0x82, reply.len() as u8][..], &reply].concat())?;
    tls.flush()?;
    served.fetch_add(1, Ordering::Relaxed);
    let mut rest = [0; 1024];
    while tls.read(&mut rest)? > 0 {}
    Ok(())
}

/// Reads until `enough` of the bytes so far.
fn until(tls: &mut impl Read, enough: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    let (mut bytes, mut piece) = (vec![], [0; 2048]);
    while !enough(&bytes) {
        let read = tls.read(&mut piece)?;
        if read == 0 || bytes.len() > 1 << 14 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&piece[..read]);
    }
    Ok(bytes)
}
