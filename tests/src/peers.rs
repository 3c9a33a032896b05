//! Simulated peers of a Chia port: blocking TLS sessions with certificates under the Chia CA, the WebSocket upgrade, the
//! handshake, and raw messages. What the other side sends is read only where a caller asks for it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::check::{Context, Outcome};
use hedgerow_policy::tls::ca::Authority;
use hedgerow_policy::tls::mint;
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

/// Longest wait for any step of a session.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Longest frame of a node.
const LONGEST: u64 = 50 << 20;

/// Believes any server: attackers do not care whom they attack, and nodes have no names.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PKCS1_SHA256,
        ]
    }
}

/// TLS as a client that shows a certificate.
pub fn identity(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Outcome<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS versions")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_client_auth_cert(chain, key)
        .context("a client certificate")?;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Identities of peers under the Chia CA, each another node id. The same `first` gives the same ones.
pub fn identities(first: u64, count: u64) -> Outcome<Vec<Arc<ClientConfig>>> {
    let authority = Authority::chia().context("the Chia CA")?;
    (first..first + count)
        .map(|seed| {
            let credential = mint::peer(&authority, seed).context("a certificate")?;
            identity(credential.chain, credential.key)
        })
        .collect()
}

/// A TCP connection from one of this namespace's addresses.
pub fn tcp(from: Ipv4Addr, to: SocketAddrV4, receive_buffer: Option<usize>) -> io::Result<TcpStream> {
    let socket: OwnedFd = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if let Some(bytes) = receive_buffer {
        sockopt::set_socket_recv_buffer_size(&socket, bytes)?;
    }
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))?;
    rustix::net::bind(&socket, &SocketAddr::from((from, 0)))?;
    rustix::net::connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A TLS session.
pub struct Session(StreamOwned<ClientConnection, TcpStream>);

impl Session {
    /// Finishes a handshake over a connection.
    pub fn start(config: &Arc<ClientConfig>, stream: TcpStream) -> io::Result<Self> {
        let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
        let client = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        let mut session = StreamOwned::new(client, stream);
        while session.conn.is_handshaking() {
            session.conn.complete_io(&mut session.sock)?;
        }
        Ok(Session(session))
    }

    /// Writes plain bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.flush()
    }

    /// Reads an HTTP answer; its head and as much of its body as `Content-Length` says.
    pub fn http(&mut self) -> io::Result<Vec<u8>> {
        let mut text = vec![];
        let mut piece = [0; 4096];
        loop {
            let read = self.0.read(&mut piece)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            text.extend_from_slice(&piece[..read]);
            if let Some(end) = text.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&text[..end]).to_ascii_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
                let length = length.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
                if text.len() >= end + 4 + length {
                    return Ok(text);
                }
            }
        }
    }

    /// Upgrades to a WebSocket, offering `extension`.
    pub fn upgrade(&mut self, extension: &str) -> io::Result<()> {
        let offer = match extension {
            "" => String::new(),
            name => format!("Sec-WebSocket-Extensions: {name}\r\n"),
        };
        self.write(
            format!(
                "GET /ws HTTP/1.1\r\nHost: node\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n"
            )
            .as_bytes(),
        )?;
        let answer = self.http()?;
        if answer.starts_with(b"HTTP/1.1 101") { Ok(()) } else { Err(io::Error::other("no upgrade")) }
    }

    /// Shakes hands as a full node of the test network, and hears the answer.
    pub fn shake_hands(&mut self) -> io::Result<()> {
        self.say_whole(&handshake())?;
        let mut piece = [0; 4096];
        if self.0.read(&mut piece)? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// A whole session of a valid peer.
    pub fn join(
        config: &Arc<ClientConfig>,
        from: Ipv4Addr,
        to: SocketAddrV4,
        receive_buffer: Option<usize>,
    ) -> io::Result<Self> {
        let mut session = Session::start(config, tcp(from, to, receive_buffer)?)?;
        session.upgrade("")?;
        session.shake_hands()?;
        Ok(session)
    }

    /// The connection beneath, to set its limits of time and to end it from elsewhere.
    pub fn connection(&self) -> &TcpStream {
        &self.0.sock
    }

    /// The next whole frame that the server sends: its opcode and payload. Servers do not mask (RFC 6455, section 5.1).
    pub fn hear(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.0.read_exact(&mut head)?;
        let mut long = [0; 8];
        let more = match head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        self.0.read_exact(&mut long[8 - more..])?;
        let length = if more == 0 { u64::from(head[1] & 0x7f) } else { u64::from_be_bytes(long) };
        if length > LONGEST {
            return Err(io::Error::other("a frame longer than any"));
        }
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload)?;
        Ok((head[0] & 0x0f, payload))
    }

    /// Sends a Chia message.
    pub fn say(&mut self, kind: u8, id: Option<u16>, body: &[u8]) -> io::Result<()> {
        self.say_whole(&message(kind, id, body))
    }

    /// Sends a Chia message that has its envelope.
    pub fn say_whole(&mut self, message: &[u8]) -> io::Result<()> {
        self.write(&frame(2, false, message))
    }

    /// Takes in and drops what has arrived, without waiting long.
    pub fn drain(&mut self) -> io::Result<()> {
        self.0.sock.set_read_timeout(Some(Duration::from_millis(1)))?;
        let mut piece = [0; 1 << 14];
        match self.0.read(&mut piece) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }
}

/// A masked WebSocket frame (RFC 6455, section 5.2), final; `compressed` sets RSV1 (RFC 7692).
pub fn frame(opcode: u8, compressed: bool, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x5a, 0x11, 0xc3, 0x77];
    let mut frame = vec![0x80 | if compressed { 0x40 } else { 0 } | opcode];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        middle @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((middle as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A message's envelope: type, optional id, body with its length.
pub fn message(kind: u8, id: Option<u16>, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, u8::from(id.is_some())];
    message.extend(id.map(u16::to_be_bytes).into_iter().flatten());
    message.extend((body.len() as u32).to_be_bytes());
    message.extend(body);
    message
}

/// The handshake of a full node of the test network.
pub fn handshake() -> Vec<u8> {
    handshake_as("testnet0", FULL_NODE)
}

/// The number of full nodes in a handshake.
pub const FULL_NODE: u8 = 1;
/// That of wallets.
pub const WALLET: u8 = 6;

/// The handshake of a peer of this kind on that network.
pub fn handshake_as(network: &str, kind: u8) -> Vec<u8> {
    let text = |value: &str| [&(value.len() as u32).to_be_bytes()[..], value.as_bytes()].concat();
    let capabilities: [(u16, &str); 4] = [(1, "1"), (2, "1"), (3, "1"), (5, "1")];
    let mut body = [text(network), text("0.0.37"), text("2.7.5")].concat();
    body.extend(8444_u16.to_be_bytes());
    body.push(kind);
    body.extend((capabilities.len() as u32).to_be_bytes());
    for (number, value) in capabilities {
        body.extend(number.to_be_bytes());
        body.extend(text(value));
    }
    message(1, None, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_say_their_length_and_are_masked() {
        for length in [0, 125, 126, 65_535, 65_536] {
            let framed = frame(2, true, &vec![0; length]);
            let head = framed.len() - length;
            assert_eq!(framed[0], 0xc2);
            assert_eq!(
                head,
                6 + [0, 0, 2, 2, 8]
                    [[0, 125, 126, 65_535, 65_536].iter().position(|l| *l == length).unwrap_or(0)]
            );
            assert_eq!(framed[1] & 0x80, 0x80);
            assert!(framed[head..].iter().zip([0x5a, 0x11, 0xc3, 0x77].iter().cycle()).all(|(a, b)| a == b));
        }
    }

    #[test]
    fn identities_differ() {
        let made = identities(1, 3).expect("identities");
        assert_eq!(made.len(), 3);
        assert_eq!(message(5, Some(7), &[1, 2]), [5, 1, 0, 7, 0, 0, 0, 2, 1, 2]);
    }
}
