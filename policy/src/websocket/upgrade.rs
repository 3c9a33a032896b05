//! The HTTP/1.1 upgrade, both roles (RFC 6455, section 4): the one request that a listener answers with something other
//! than an error, and the one that a node gets from us.

use aws_lc_rs::digest;
use base64ct::{Base64, Encoding};

use crate::verdict::Reason;

/// Longest request or response head, in bytes. A node's own request has some 250.
pub const REQUEST_BYTES_MAX: usize = 4 * 1024;

/// Most header lines. A node's own request has eight.
pub const HEADERS_MAX: usize = 32;

/// RFC 6455, section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const END: &[u8] = b"\r\n\r\n";

/// An error response without a body.
macro_rules! answer {
    ($status:literal, $headers:literal) => {
        concat!("HTTP/1.1 ", $status, "\r\n", $headers, "Content-Length: 0\r\nConnection: close\r\n\r\n")
            .as_bytes()
    };
}

/// The value of `Sec-WebSocket-Accept` that answers a key.
pub fn accept_key(key: &str) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(GUID);
    Base64::encode_string(context.finish().as_ref())
}

/// A head that is being collected.
#[derive(Debug, Default)]
struct Head(Vec<u8>);

impl Head {
    /// Takes bytes up to the end of the head. Says how many, and whether it is complete.
    fn take(&mut self, bytes: &[u8]) -> Result<(usize, bool), Reason> {
        let before = self.0.len();
        let room = REQUEST_BYTES_MAX - before;
        self.0.extend_from_slice(&bytes[..room.min(bytes.len())]);
        let from = before.saturating_sub(END.len() - 1);
        match self.0[from..].windows(END.len()).position(|window| window == END) {
            Some(at) => {
                self.0.truncate(from + at + END.len());
                Ok((self.0.len() - before, true))
            }
            None if bytes.len() >= room => Err(Reason::HttpTooLarge),
            None => Ok((bytes.len(), false)),
        }
    }
}

/// The answering side: collects one request and decides.
#[derive(Debug, Default)]
pub struct ServerUpgrade(Head);

/// A request that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgraded {
    /// What to send back; frames follow it.
    pub response: Vec<u8>,
}

impl ServerUpgrade {
    /// Takes bytes of the request; all of them, unless it fails. `Some` once the request is complete and accepted.
    ///
    /// A client waits for the answer before it sends frames, so bytes behind the request are refused.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Option<Upgraded>, Reason> {
        let (taken, complete) = self.0.take(bytes)?;
        if !complete {
            return Ok(None);
        }
        let key = check_request(&self.0.0)?;
        if taken < bytes.len() {
            return Err(Reason::HttpBody);
        }
        let response = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            accept_key(&key)
        );
        Ok(Some(Upgraded { response: response.into_bytes() }))
    }

    /// The request's first line, as far as it has come.
    pub fn line(&self) -> &[u8] {
        self.0.0.split(|&byte| byte == b'\r' || byte == b'\n').next().unwrap_or_default()
    }

    /// Bytes of the request that have come.
    pub fn seen(&self) -> usize {
        self.0.0.len()
    }

    /// What a client is told whose request was good, but cannot be passed on.
    pub const BAD_GATEWAY: &'static [u8] = answer!("502 Bad Gateway", "");

    /// What a refused client is told; `None` where silence is the better answer.
    pub fn refusal(reason: Reason) -> Option<&'static [u8]> {
        Some(match reason {
            Reason::HttpMalformed | Reason::HttpBody => answer!("400 Bad Request", ""),
            Reason::HttpNotUpgrade => answer!("400 Bad Request", "Sec-WebSocket-Version: 13\r\n"),
            Reason::HttpPath => answer!("404 Not Found", ""),
            Reason::HttpMethod => answer!("405 Method Not Allowed", "Allow: GET\r\n"),
            Reason::HttpTooLarge => answer!("431 Request Header Fields Too Large", ""),
            Reason::HttpTimeout => answer!("408 Request Timeout", ""),
            _ => return None,
        })
    }
}

/// Checks a complete request; yields its key.
fn check_request(head: &[u8]) -> Result<String, Reason> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Reason::HttpTooLarge),
        _ => return Err(Reason::HttpMalformed),
    }
    if request.version != Some(1) || single(request.headers, "Host").is_none_or(str::is_empty) {
        return Err(Reason::HttpMalformed);
    }
    if request.path != Some("/ws") {
        return Err(Reason::HttpPath);
    }
    if request.method != Some("GET") {
        return Err(Reason::HttpMethod);
    }
    if has_body(request.headers) {
        return Err(Reason::HttpBody);
    }
    let upgrade = has_token(request.headers, "Upgrade", "websocket")
        && has_token(request.headers, "Connection", "upgrade")
        && single(request.headers, "Sec-WebSocket-Version") == Some("13");
    let key = single(request.headers, "Sec-WebSocket-Key").filter(|key| is_key(key));
    key.filter(|_| upgrade).map(str::to_owned).ok_or(Reason::HttpNotUpgrade)
}

/// Whether a request announces a body, or contradicts itself about it (RFC 9112, section 6.3).
fn has_body(headers: &[httparse::Header<'_>]) -> bool {
    let named =
        |name: &'static str| headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    let lengths = named("Content-Length").count();
    named("Transfer-Encoding").next().is_some()
        || lengths > 1
        || lengths == 1 && single(headers, "Content-Length") != Some("0")
}

/// Whether a key is the base64 of 16 bytes.
fn is_key(key: &str) -> bool {
    let mut bytes = [0; 18];
    key.len() == 24 && Base64::decode(key, &mut bytes).is_ok_and(|bytes| bytes.len() == 16)
}

/// The value of a header that stands there exactly once.
fn single<'a>(headers: &[httparse::Header<'a>], name: &str) -> Option<&'a str> {
    let mut found = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    let value = core::str::from_utf8(found.next()?.value).ok()?.trim();
    found.next().is_none().then_some(value)
}

/// Whether a header's comma-separated values name a token.
fn has_token(headers: &[httparse::Header<'_>], name: &str, token: &str) -> bool {
    let values = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    values
        .filter_map(|header| core::str::from_utf8(header.value).ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(token))
}

/// The request that nodes get from us, and peers that a node dials, in the shape in which they send it to each other.
pub fn upgrade_request(host: &str, key: &str) -> Vec<u8> {
    format!(
        "GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nAccept: */*\r\nUser-Agent: hedgerow/{}\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    )
    .into_bytes()
}

/// The asking side.
#[derive(Debug)]
pub struct ClientUpgrade {
    head: Head,
    accept: String,
    status: Option<u16>,
}

impl ClientUpgrade {
    /// Asks `host` for an upgrade with a key made of 16 random bytes; yields the request to be sent.
    pub fn new(host: &str, random: [u8; 16]) -> (ClientUpgrade, Vec<u8>) {
        let key = Base64::encode_string(&random);
        let request = upgrade_request(host, &key);
        (ClientUpgrade { head: Head::default(), accept: accept_key(&key), status: None }, request)
    }

    /// Takes bytes of the response. `Some` with their number once it is complete and valid: frames follow.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Option<usize>, Reason> {
        let (taken, complete) = self.head.take(bytes).map_err(|_| Reason::NodeUpgrade)?;
        if !complete {
            return Ok(None);
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        if !matches!(response.parse(&self.head.0), Ok(httparse::Status::Complete(_))) {
            return Err(Reason::NodeUpgrade);
        }
        self.status = response.code;
        let valid = response.code == Some(101)
            && has_token(response.headers, "Upgrade", "websocket")
            && has_token(response.headers, "Connection", "upgrade")
            && single(response.headers, "Sec-WebSocket-Accept") == Some(&self.accept)
            && single(response.headers, "Sec-WebSocket-Extensions").is_none();
        if valid { Ok(Some(taken)) } else { Err(Reason::NodeUpgrade) }
    }

    /// Whether bytes of a response have come.
    pub fn is_begun(&self) -> bool {
        !self.head.0.is_empty()
    }

    /// The status of the response, once it is there: 403 means that the node has banned the address.
    pub fn status(&self) -> Option<u16> {
        self.status
    }
}
