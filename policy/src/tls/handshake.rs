//! The expensive part of a connection as detached work: complete records go in, one flight comes out, the rustls connection
//! travels along. A handshake takes two or three pieces of work on either side.
//!
//! rustls sees one record at a time, so the moment of Finished is exact: what arrives behind it was not touched and belongs
//! to [`super::record`].

use core::any::Any;
use core::fmt;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{CertificateError, ClientConfig, CommonState, Error, InvalidMessage, ServerConfig};
use rustls_pki_types::ServerName;

use super::Failure;
use super::connector::Showing;
use super::record::{self, Kernel, Traffic};
use super::verify::Beyond;
use crate::session::{PeerId, Work};

/// Most records from the other side before Finished. A stock node's flights take five; 512-byte records fit as well.
pub const RECORDS_MAX: usize = 64;

/// Where a handshake stands between two pieces of work.
pub(super) enum Stage {
    /// As server, with an identity to come.
    Hold(Arc<ServerConfig>),
    /// As server; nothing of the peer was looked at yet. Without a `showing` the configuration's own identity is shown.
    Accept { config: Arc<ServerConfig>, showing: Option<Showing> },
    /// As client; nothing was sent yet.
    Connect { config: Arc<ClientConfig>, showing: Showing },
    /// As server, under way.
    Server(Box<UnbufferedServerConnection>),
    /// As client, under way.
    Client(Box<UnbufferedClientConnection>),
}

/// What a piece of work came to.
pub(super) enum Progress {
    /// More records are needed.
    More(Stage),
    /// Both Finished are exchanged.
    Done { traffic: Box<Traffic>, peer: PeerId },
}

/// Received bytes of a handshake, and how far rustls is with them.
#[derive(Default)]
pub(super) struct Inbox {
    /// What arrived and rustls still needs.
    pub(super) bytes: Vec<u8>,
    /// How many of them rustls has seen: parts of a message that spans records. Not records any more.
    pub(super) seen: usize,
    /// Records seen so far.
    pub(super) records: usize,
}

impl Inbox {
    /// Where the first record that rustls has not seen ends, if it is whole.
    fn next_record(&self) -> Option<usize> {
        let rest = self.bytes.get(self.seen..)?;
        record::length(rest).filter(|length| *length <= rest.len()).map(|length| self.seen + length)
    }

    /// Whether there is a record worth a piece of work. A change-cipher-spec alone is not (RFC 8446 appendix D.4).
    pub(super) fn is_ready(&self) -> bool {
        let rest = self.bytes.get(self.seen..).unwrap_or_default();
        match (self.next_record(), rest.first()) {
            (Some(end), Some(&record::CHANGE_CIPHER_SPEC)) => {
                let after = self.bytes.get(end..).unwrap_or_default();
                record::length(after).is_some_and(|length| length <= after.len())
            }
            (end, _) => end.is_some(),
        }
    }
}

/// One step of a handshake, detached from its [`super::Channel`].
pub(super) struct Step {
    stage: Option<Stage>,
    inbox: Inbox,
    outgoing: Vec<u8>,
    outcome: Result<Progress, Failure>,
}

impl Step {
    pub(super) fn new(stage: Stage, inbox: Inbox) -> Step {
        Step { stage: Some(stage), inbox, outgoing: Vec::new(), outcome: Err(Failure::Internal) }
    }

    /// What is left unread, what to send (an alert included), and how the step ended.
    pub(super) fn into_parts(self) -> (Inbox, Vec<u8>, Result<Progress, Failure>) {
        (self.inbox, self.outgoing, self.outcome)
    }

    fn advance(&mut self) -> Result<Progress, Failure> {
        match self.stage.take().ok_or(Failure::Internal)? {
            // Is never handed out as work.
            Stage::Hold(_) => Err(Failure::Internal),
            Stage::Accept { config, showing } => {
                let config = match showing {
                    Some(showing) => showing.serve(&config)?,
                    None => config,
                };
                let server = UnbufferedServerConnection::new(config).map_err(|e| classify(&e))?;
                self.shake(Box::new(server))
            }
            Stage::Server(server) => self.shake(server),
            Stage::Connect { config, showing } => {
                // The name is neither sent (RFC 6066 section 3 allows no addresses) nor checked.
                let nobody = ServerName::IpAddress(core::net::Ipv4Addr::UNSPECIFIED.into());
                let config = showing.apply(&config)?;
                let mut client = UnbufferedClientConnection::new(config, nobody).map_err(|e| classify(&e))?;
                self.pump(&mut client, 0)?;
                self.shake(Box::new(client))
            }
            Stage::Client(client) => self.shake(client),
        }
    }

    /// Shows rustls all whole records up to Finished.
    fn shake<S: Side>(&mut self, mut side: Box<S>) -> Result<Progress, Failure> {
        while let Some(end) = self.inbox.next_record() {
            self.inbox.records += 1;
            if self.inbox.records > RECORDS_MAX {
                return Err(Failure::TooLarge);
            }
            self.pump(&mut *side, end)?;
            if !side.common().is_handshaking() {
                let peer = peer_of(side.common())?;
                let traffic = Box::new(side.finish()?);
                return Ok(Progress::Done { traffic, peer });
            }
        }
        Ok(Progress::More(S::into_stage(side)))
    }

    /// Shows rustls everything up to `end`, until it has nothing more to do or to say.
    fn pump<S: Side>(&mut self, side: &mut S, end: usize) -> Result<(), Failure> {
        let bytes = &mut self.inbox.bytes;
        let mut used = 0;
        let mut outcome = Ok(());
        loop {
            let shown = bytes.get_mut(used..end).ok_or(Failure::Internal)?;
            let (discard, next) = side.process(shown, &mut self.outgoing);
            used += discard;
            match next {
                Ok(Next::Again) => {}
                Ok(Next::Blocked) => break,
                Err(failure) => outcome = Err(failure),
            }
            // After an error, what is queued explains it; nothing else may be asked of rustls then.
            if outcome.is_err() && !side.common().wants_write() {
                break;
            }
        }
        bytes.drain(..used);
        self.inbox.seen = end - used;
        outcome
    }
}

/// rustls' connection in either role.
trait Side {
    fn common(&self) -> &CommonState;
    fn process(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) -> (usize, Result<Next, Failure>);
    fn finish(self: Box<Self>) -> Result<Traffic, Failure>;
    fn into_stage(this: Box<Self>) -> Stage;
}

impl Side for UnbufferedServerConnection {
    fn common(&self) -> &CommonState {
        self
    }

    fn process(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) -> (usize, Result<Next, Failure>) {
        absorb(self.process_tls_records(bytes), out)
    }

    fn finish(self: Box<Self>) -> Result<Traffic, Failure> {
        let (secrets, kernel) = self.dangerous_into_kernel_connection().map_err(|e| classify(&e))?;
        Traffic::new(secrets, Kernel::Server(kernel))
    }

    fn into_stage(this: Box<Self>) -> Stage {
        Stage::Server(this)
    }
}

impl Side for UnbufferedClientConnection {
    fn common(&self) -> &CommonState {
        self
    }

    fn process(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) -> (usize, Result<Next, Failure>) {
        absorb(self.process_tls_records(bytes), out)
    }

    fn finish(self: Box<Self>) -> Result<Traffic, Failure> {
        let (secrets, kernel) = self.dangerous_into_kernel_connection().map_err(|e| classify(&e))?;
        Traffic::new(secrets, Kernel::Client(kernel))
    }

    fn into_stage(this: Box<Self>) -> Stage {
        Stage::Client(this)
    }
}

enum Next {
    Again,
    Blocked,
}

/// Carries out what rustls asks for; how many bytes it is done with, and whether there is more to do.
fn absorb<Side>(status: UnbufferedStatus<'_, '_, Side>, out: &mut Vec<u8>) -> (usize, Result<Next, Failure>) {
    let next = match status.state {
        Ok(ConnectionState::EncodeTlsData(encode)) => append(encode, out).map(|()| Next::Again),
        Ok(ConnectionState::TransmitTlsData(transmit)) => {
            transmit.done();
            Ok(Next::Again)
        }
        Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Ok(Next::Blocked),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Err(Failure::Alert),
        // Unreachable: early data is off, and nothing behind Finished is ever shown to rustls.
        Ok(_) => Err(Failure::Internal),
        Err(error) => Err(classify(&error)),
    };
    (status.discard, next)
}

fn append<Side>(mut encode: EncodeTlsData<'_, Side>, out: &mut Vec<u8>) -> Result<(), Failure> {
    let begin = out.len();
    if let Err(EncodeError::InsufficientSize(needed)) = encode.encode(&mut []) {
        out.resize(begin + needed.required_size, 0);
        let space = out.get_mut(begin..).unwrap_or_default();
        encode.encode(space).map_err(|_| Failure::Internal)?;
    }
    Ok(())
}

fn peer_of(connection: &CommonState) -> Result<PeerId, Failure> {
    let leaf = connection.peer_certificates().and_then(|chain| chain.first());
    leaf.map(super::peer_id).ok_or(Failure::NoCertificate)
}

fn classify(error: &Error) -> Failure {
    match error {
        Error::NoCertificatesPresented => Failure::NoCertificate,
        Error::InvalidCertificate(certificate) => classify_certificate(certificate),
        Error::PeerIncompatible(_) => Failure::Incompatible,
        Error::AlertReceived(_) => Failure::Alert,
        Error::PeerSentOversizedRecord
        | Error::InvalidMessage(
            InvalidMessage::MessageTooLarge
            | InvalidMessage::HandshakePayloadTooLarge
            | InvalidMessage::CertificatePayloadTooLarge,
        ) => Failure::TooLarge,
        Error::InvalidMessage(_)
        | Error::PeerMisbehaved(_)
        | Error::DecryptError
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => Failure::Protocol,
        _ => Failure::Internal,
    }
}

fn classify_certificate(error: &CertificateError) -> Failure {
    match error {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => Failure::Expired,
        CertificateError::UnknownIssuer | CertificateError::InvalidPurpose => Failure::Untrusted,
        // Only the signature of CertificateVerify is reported so: the other side does not hold the key.
        CertificateError::BadSignature => Failure::Protocol,
        CertificateError::Other(other) => match other.0.downcast_ref::<Beyond>() {
            Some(Beyond::Identity) => Failure::WrongIdentity,
            Some(Beyond::Usage) => Failure::Untrusted,
            _ => Failure::BadCertificate,
        },
        _ => Failure::BadCertificate,
    }
}

impl Work for Step {
    fn run(&mut self) {
        self.outcome = self.advance();
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tls::Step")
    }
}
