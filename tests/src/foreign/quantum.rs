//! rustls as a client that offers a post-quantum key share, its first flight in pieces of any size: no hello of that kind fits one
//! segment.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hedgerow_policy::chia::{Handshake, NodeType};
use hedgerow_policy::websocket::{Opcode, encode_frame, upgrade_request};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::check::{Context, Outcome, ensure};

const PATIENCE: Duration = Duration::from_secs(30);
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A connection that sends at most so many bytes in a segment.
struct Cut {
    stream: TcpStream,
    most: usize,
}

impl Write for Cut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(&bytes[..bytes.len().min(self.most)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Read for Cut {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.read(into)
    }
}

/// A session in pieces of at most `most` bytes, from `source`, with the certificate `pem`: the node answers its handshake.
pub(super) fn visits(to: SocketAddr, source: SocketAddr, pem: &Path, most: usize) -> Outcome {
    let connection = client(pem)?;
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None)
        .context("a socket")?;
    rustix::net::bind(&socket, &source).context(source)?;
    rustix::net::connect(&socket, &to).context(to)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true).context("a socket")?;
    stream.set_read_timeout(Some(PATIENCE)).context("a socket")?;
    let mut stream = StreamOwned::new(connection, Cut { stream, most });
    let group = "X25519MLKEM768 offered, X25519 taken";

    stream
        .write_all(&upgrade_request("node", "dGhlIHNhbXBsZSBub25jZQ=="))
        .context("asking for the upgrade")?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).context(format_args!("the upgrade ({group})"))?;
        head.extend(byte);
    }
    ensure(head.starts_with(b"HTTP/1.1 101 "), || String::from_utf8_lossy(&head).into_owned())?;
    let taken = stream.conn.negotiated_key_exchange_group().map(|group| group.name());
    ensure(taken == Some(rustls::NamedGroup::X25519), || format!("{taken:?}, not {group}"))?;

    let greeting = Handshake::new("testnet0", NodeType::FullNode, 8444);
    let said = encode_frame(true, Opcode::Binary, Some(MASK), &greeting.message().encode());
    stream.write_all(&said).context("saying the handshake")?;
    let mut answer = [0; 3];
    stream.read_exact(&mut answer).context("the node's handshake")?;
    ensure(answer[0] == 0x82 && answer[2] == 1, || format!("no handshake but {answer:?}"))?;
    let close = encode_frame(true, Opcode::Close, Some(MASK), &1000u16.to_be_bytes());
    stream.write_all(&close).context("saying goodbye")?;
    while stream.read(&mut [0; 512]).is_ok_and(|count| count > 0) {}
    Ok(())
}

fn client(pem: &Path) -> Outcome<ClientConnection> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519];
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(pem).context(pem.display())?.collect();
    let key = PrivateKeyDer::from_pem_file(pem.with_extension("key")).context("a key")?;
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .context("TLS 1.3")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_auth_cert(chain.context(pem.display())?, key)
        .context("a client's certificate")?;
    let name = ServerName::try_from("chia.net").context("a name")?;
    ClientConnection::new(Arc::new(config), name).context("a client")
}

/// Peers do not look at the server's name, and here not at its certificate either.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
