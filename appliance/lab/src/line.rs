//! One Chia connection over a foreign stack: rustls on a smoltcp socket, the WebSocket upgrade, whole messages both ways.
//! Serves peers and nodes alike.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use hedgerow_policy::chia::Message;
use hedgerow_policy::tls::{Clock, Credential};
use hedgerow_policy::websocket::{
    ClientUpgrade, CloseFrame, FrameHeader, Opcode, ServerUpgrade, apply_mask, encode_frame,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, DistinguishedName, Error,
    ServerConfig, ServerConnection, SignatureScheme,
};
use smoltcp::socket::tcp;

use crate::random::Random;

/// What both ends of all lines have in common.
#[derive(Clone)]
pub struct Common {
    /// TLS with seeded randomness.
    pub crypto: Arc<CryptoProvider>,
    /// The time that certificates are judged by.
    pub clock: Arc<Clock>,
}

/// What carries a line: a socket that never blocks.
pub trait Wire {
    /// Whether bytes may be sent.
    fn is_open(&self) -> bool;
    /// Sends some of `bytes`; says how many.
    fn send(&mut self, bytes: &[u8]) -> usize;
    /// Gives TLS what has arrived; `None` where nothing has.
    fn receive(&mut self, tls: &mut Connection) -> Option<io::Result<usize>>;
}

impl Wire for tcp::Socket<'_> {
    fn is_open(&self) -> bool {
        self.can_send()
    }
    fn send(&mut self, bytes: &[u8]) -> usize {
        self.send_slice(bytes).unwrap_or(0)
    }
    fn receive(&mut self, tls: &mut Connection) -> Option<io::Result<usize>> {
        if !self.can_recv() {
            return None;
        }
        let taken = self.recv(|bytes| {
            let mut rest = &*bytes;
            let result = tls.read_tls(&mut rest);
            (bytes.len() - rest.len(), result)
        });
        taken.ok()
    }
}

/// A socket of the operating system, which must have been told not to block. Its end looks like silence.
impl Wire for TcpStream {
    fn is_open(&self) -> bool {
        true
    }
    fn send(&mut self, bytes: &[u8]) -> usize {
        self.write(bytes).unwrap_or(0)
    }
    fn receive(&mut self, tls: &mut Connection) -> Option<io::Result<usize>> {
        tls.read_tls(self).ok().filter(|&n| n > 0).map(Ok)
    }
}

/// How far a line has come.
enum Stage {
    Asking(ClientUpgrade),
    Answering(ServerUpgrade),
    Open,
    Over,
}

/// A connection.
pub struct Line {
    tls: Connection,
    stage: Stage,
    /// Records that the socket had no room for yet.
    sealed: Vec<u8>,
    /// Plaintext that is not parsed yet.
    plain: Vec<u8>,
    /// The message whose fragments are arriving.
    fragments: Vec<u8>,
    random: Random,
    masked: bool,
    /// Messages that arrived.
    pub received: VecDeque<Message>,
    /// The code that the other side closed with, if it did in order.
    pub closed: Option<u16>,
    /// What went wrong, if something did.
    pub failure: Option<String>,
    request: Vec<u8>,
}

impl Line {
    /// The side of a peer. It asks for `path` and shows `credential`, if it has one.
    pub fn client(
        common: &Common,
        credential: Option<Credential>,
        path: &str,
        mut random: Random,
    ) -> Result<Line, Error> {
        let config = ClientConfig::builder_with_details(common.crypto.clone(), common.clock.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(common.crypto.clone())));
        let mut config = match credential {
            Some(Credential { chain, key }) => config.with_client_auth_cert(chain, key)?,
            None => config.with_no_client_auth(),
        };
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        let name = ServerName::try_from("chia.net").map_err(|_| Error::General("server name".into()))?;
        let mut tls = ClientConnection::new(Arc::new(config), name)?;
        tls.set_buffer_limit(None);
        let mut key = [0; 16];
        random.fill(&mut key);
        let (upgrade, request) = ClientUpgrade::new("chia.net:8444", key);
        let request = match path {
            "/ws" => request,
            other => String::from_utf8_lossy(&request).replacen("/ws", other, 1).into_bytes(),
        };
        Ok(Line::new(tls.into(), Stage::Asking(upgrade), request, true, random))
    }

    /// The side of a node: asks for a certificate and answers an upgrade.
    pub fn server(config: Arc<ServerConfig>, random: Random) -> Result<Line, Error> {
        let mut tls = ServerConnection::new(config)?;
        tls.set_buffer_limit(None);
        Ok(Line::new(tls.into(), Stage::Answering(ServerUpgrade::default()), Vec::new(), false, random))
    }

    fn new(tls: Connection, stage: Stage, request: Vec<u8>, masked: bool, random: Random) -> Line {
        Line {
            tls,
            stage,
            sealed: Vec::new(),
            plain: Vec::new(),
            fragments: Vec::new(),
            random,
            masked,
            received: VecDeque::new(),
            closed: None,
            failure: None,
            request,
        }
    }

    /// Whether messages can be sent.
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    /// Whether TLS is through.
    pub fn is_secure(&self) -> bool {
        !self.tls.is_handshaking()
    }

    /// The other side's leaf certificate.
    pub fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.tls.peer_certificates()?.first()
    }

    /// Sends a message once the line is open.
    pub fn send(&mut self, message: &Message) {
        self.send_frame(Opcode::Binary, &message.encode());
    }

    /// Sends a close frame.
    pub fn close(&mut self, code: u16) {
        self.send_frame(Opcode::Close, &CloseFrame::new(code, "").encode());
    }

    /// Sends bytes as they are, inside TLS.
    pub fn send_plain(&mut self, bytes: &[u8]) {
        // rustls buffers without limit here, so this cannot fail.
        let _ = self.tls.writer().write_all(bytes);
    }

    /// Sends one frame.
    pub fn send_frame(&mut self, opcode: Opcode, payload: &[u8]) {
        let mask = self.masked.then(|| (self.random.next() as u32).to_be_bytes());
        self.send_plain(&encode_frame(true, opcode, mask, payload));
    }

    /// Moves everything that can move between socket, TLS and messages.
    pub fn drive(&mut self, socket: &mut impl Wire) {
        self.flush(socket);
        self.receive(socket);
        if self.is_secure() && !self.request.is_empty() {
            let request = std::mem::take(&mut self.request);
            self.send_plain(&request);
        }
        if self.failure.is_none()
            && let Err(what) = self.read()
        {
            self.fail(what);
        }
        self.flush(socket);
    }

    fn fail(&mut self, what: impl ToString) {
        self.failure.get_or_insert(what.to_string());
        self.stage = Stage::Over;
    }

    fn flush(&mut self, socket: &mut impl Wire) {
        while socket.is_open() {
            if self.sealed.is_empty() && self.tls.wants_write() {
                // Writing into a vector does not fail.
                let _ = self.tls.write_tls(&mut self.sealed);
            }
            let sent = socket.send(&self.sealed);
            self.sealed.drain(..sent);
            if !self.sealed.is_empty() || !self.tls.wants_write() {
                return;
            }
        }
    }

    fn receive(&mut self, socket: &mut impl Wire) {
        while self.failure.is_none() {
            match socket.receive(&mut self.tls) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return self.fail(error),
                None => return,
            }
            match self.tls.process_new_packets() {
                Ok(state) => {
                    let start = self.plain.len();
                    self.plain.resize(start + state.plaintext_bytes_to_read(), 0);
                    if self.tls.reader().read_exact(&mut self.plain[start..]).is_err() {
                        self.plain.truncate(start);
                    }
                }
                Err(error) => self.fail(error),
            }
        }
    }

    /// Parses what arrived.
    fn read(&mut self) -> Result<(), String> {
        match &mut self.stage {
            Stage::Asking(upgrade) if !self.plain.is_empty() => {
                let plain = std::mem::take(&mut self.plain);
                let status = |upgrade: &ClientUpgrade| format!("upgrade refused with {:?}", upgrade.status());
                match upgrade.receive(&plain) {
                    Ok(Some(head)) => {
                        self.plain = plain[head..].to_vec();
                        self.stage = Stage::Open;
                    }
                    Ok(None) => {}
                    Err(_) => return Err(status(upgrade)),
                }
            }
            Stage::Answering(upgrade) if !self.plain.is_empty() => {
                let plain = std::mem::take(&mut self.plain);
                match upgrade.receive(&plain) {
                    Ok(Some(upgraded)) => {
                        self.stage = Stage::Open;
                        self.send_plain(&upgraded.response);
                    }
                    Ok(None) => {}
                    Err(reason) => return Err(format!("bad upgrade: {reason:?}")),
                }
            }
            _ => {}
        }
        while self.is_open() && self.frame()? {}
        Ok(())
    }

    /// Takes one whole frame; false where there is none.
    fn frame(&mut self) -> Result<bool, String> {
        let parsed = FrameHeader::parse(&self.plain).map_err(|reason| format!("bad frame: {reason:?}"))?;
        let Some((header, start)) = parsed else { return Ok(false) };
        let end = start + header.len as usize;
        if self.plain.len() < end {
            return Ok(false);
        }
        let mut payload: Vec<u8> = self.plain.drain(..end).skip(start).collect();
        if header.mask.is_some() == self.masked {
            return Err("a frame masked the wrong way round".into());
        }
        if let Some(mask) = header.mask {
            apply_mask(&mut payload, mask, 0);
        }
        match header.opcode {
            Opcode::Binary | Opcode::Continuation => {
                self.fragments.extend_from_slice(&payload);
                if header.fin {
                    let message = Message::decode(&std::mem::take(&mut self.fragments));
                    self.received.push_back(message.map_err(|reason| format!("bad message: {reason:?}"))?);
                }
            }
            Opcode::Ping => self.send_frame(Opcode::Pong, &payload),
            Opcode::Pong => {}
            Opcode::Close => {
                let code = CloseFrame::decode(&payload).ok().and_then(|close| close.code);
                self.closed = Some(code.unwrap_or(1005));
                self.send_frame(Opcode::Close, &payload);
                self.stage = Stage::Over;
            }
            Opcode::Text => return Err("a text frame".into()),
        }
        Ok(true)
    }
}

/// A node's TLS: whoever comes must show a certificate.
pub fn server_config(common: &Common, credential: Credential) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_details(common.crypto.clone(), common.clock.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(Anyone(common.crypto.clone())))
        .with_single_cert(credential.chain, credential.key)?;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// Believes every chain, as long as its owner holds the key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
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
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Anyone {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
