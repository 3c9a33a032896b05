//! The handshake message's body: parsed before any node is dialled, passed on unchanged but for the server port.

use core::fmt;
use core::ops::Range;

use super::message::Message;
use super::messages::number;
use super::node_type::NodeType;
use crate::verdict::Reason;

/// Longest software version that a node accepts, in bytes.
const VERSION_BYTES_MAX: usize = 128;

/// Longest protocol version: a dotted number.
const PROTOCOL_BYTES_MAX: usize = 64;

/// What a service says about itself when it connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The network, such as `mainnet`.
    pub network_id: String,
    /// Version of the protocol, such as `0.0.36`.
    pub protocol_version: String,
    /// Version of the software.
    pub software_version: String,
    /// The TCP port on which the service takes connections itself; 0 for none.
    pub server_port: u16,
    /// The number of its [`NodeType`].
    pub node_type: u8,
    /// Numbers of capabilities, each with `"1"` where it is on.
    pub capabilities: Vec<(u16, String)>,
}

/// Why a handshake's body was refused. Each maps to one [`Reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// Bytes are missing, left over, or not UTF-8 where text belongs.
    Malformed,
    /// The software version is longer than a node accepts.
    LongVersion,
    /// The protocol version is no version number.
    BadProtocolVersion,
    /// The node type is none that exists.
    UnknownType,
}

impl From<HandshakeError> for Reason {
    fn from(error: HandshakeError) -> Reason {
        match error {
            HandshakeError::UnknownType => Reason::ChiaWrongType,
            _ => Reason::ChiaBadHandshake,
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HandshakeError::Malformed => "the body does not follow the protocol",
            HandshakeError::LongVersion => "the software version is too long",
            HandshakeError::BadProtocolVersion => "the protocol version is no version number",
            HandshakeError::UnknownType => "the node type does not exist",
        })
    }
}

impl std::error::Error for HandshakeError {}

impl Handshake {
    /// A handshake as a stock service sends it.
    pub fn new(network_id: &str, kind: NodeType, server_port: u16) -> Handshake {
        Handshake {
            network_id: network_id.to_owned(),
            protocol_version: "0.0.36".to_owned(),
            software_version: "2.7.5".to_owned(),
            server_port,
            node_type: kind as u8,
            capabilities: [1, 2, 3, 5].map(|capability| (capability, "1".to_owned())).to_vec(),
        }
    }

    /// The body on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let text = |body: &mut Vec<u8>, text: &str| {
            body.extend_from_slice(&(text.len() as u32).to_be_bytes());
            body.extend_from_slice(text.as_bytes());
        };
        text(&mut body, &self.network_id);
        text(&mut body, &self.protocol_version);
        text(&mut body, &self.software_version);
        body.extend_from_slice(&self.server_port.to_be_bytes());
        body.push(self.node_type);
        body.extend_from_slice(&(self.capabilities.len() as u32).to_be_bytes());
        for (capability, state) in &self.capabilities {
            body.extend_from_slice(&capability.to_be_bytes());
            text(&mut body, state);
        }
        body
    }

    /// The whole message.
    pub fn message(&self) -> Message {
        Message::new(number::HANDSHAKE, self.encode())
    }

    /// Reads a body and checks what a node checks before it looks at network and type.
    pub fn decode(body: &[u8]) -> Result<Handshake, HandshakeError> {
        let mut rest = Reader { bytes: body, at: 0 };
        let network_id = rest.text()?.to_owned();
        let protocol_version = rest.text()?.to_owned();
        let software_version = rest.text()?.to_owned();
        let server_port = u16::from_be_bytes(rest.array()?);
        let [node_type] = rest.array()?;
        let count = u32::from_be_bytes(rest.array()?);
        let mut capabilities = Vec::new();
        for _ in 0..count {
            capabilities.push((u16::from_be_bytes(rest.array()?), rest.text()?.to_owned()));
        }
        if rest.at != body.len() {
            return Err(HandshakeError::Malformed);
        }
        if software_version.len() > VERSION_BYTES_MAX {
            return Err(HandshakeError::LongVersion);
        }
        if !is_version(&protocol_version) {
            return Err(HandshakeError::BadProtocolVersion);
        }
        NodeType::from_number(node_type).ok_or(HandshakeError::UnknownType)?;
        Ok(Handshake { network_id, protocol_version, software_version, server_port, node_type, capabilities })
    }

    /// The kind of service; `None` only for a handshake that was built by hand.
    pub fn kind(&self) -> Option<NodeType> {
        NodeType::from_number(self.node_type)
    }

    /// Where the server port lies in a valid body.
    pub fn server_port_bytes(body: &[u8]) -> Option<Range<usize>> {
        let mut rest = Reader { bytes: body, at: 0 };
        for _ in 0..3 {
            rest.text().ok()?;
        }
        let at = rest.at;
        rest.array::<2>().ok()?;
        Some(at..at + 2)
    }
}

/// Whether the text begins like a version number and holds nothing else than versions may: a node fails on the rest.
fn is_version(text: &str) -> bool {
    let text = text.trim();
    let number = text.strip_prefix(['v', 'V']).unwrap_or(text);
    text.len() <= PROTOCOL_BYTES_MAX
        && number.starts_with(|first: char| first.is_ascii_digit())
        && number.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+-_!".contains(&byte))
}

/// Walks a body in the encoding of the protocol.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], HandshakeError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let array = *rest.first_chunk().ok_or(HandshakeError::Malformed)?;
        self.at += N;
        Ok(array)
    }

    fn text(&mut self) -> Result<&'a str, HandshakeError> {
        let len =
            usize::try_from(u32::from_be_bytes(self.array()?)).map_err(|_| HandshakeError::Malformed)?;
        let end = self.at.checked_add(len).ok_or(HandshakeError::Malformed)?;
        let text = self.bytes.get(self.at..end).ok_or(HandshakeError::Malformed)?;
        self.at = end;
        core::str::from_utf8(text).map_err(|_| HandshakeError::Malformed)
    }
}
