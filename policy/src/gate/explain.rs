//! What exactly a session ended for, in words that hold the numbers: put together once, when the verdict is spoken.

use core::fmt;

use super::exchange::{Exchange, Step};
use crate::chia::{Inspector, Schema};
use crate::finding::{Finding, clean, clean_bytes};
use crate::rules::Source;
use crate::session::Instant;
use crate::verdict::Reason;
use crate::websocket::{CloseFrame, HEADERS_MAX, REQUEST_BYTES_MAX};

/// A handshake is refused for a field of it, or for the whole.
pub(super) fn handshake(field: &str, what: impl fmt::Display) -> Box<Finding> {
    let field = Some(field).filter(|field| !field.is_empty()).map(str::to_owned);
    Box::new(Finding { message: Some("handshake".to_owned()), kind: Some(1), field, ..Finding::new(what) })
}

/// The handshake is longer than a node takes.
pub(super) fn long_handshake(most: u32) -> Box<Finding> {
    let found = handshake("", format!("a body of more than {most} bytes"));
    Box::new(found.limited("size", most))
}

/// The first message is another.
pub(super) fn no_handshake(schema: &Schema, kind: u8) -> Box<Finding> {
    let name = schema.message(kind).map_or_else(|| format!("type {kind}"), |facts| facts.name.to_string());
    let what = Finding::new("it came before a handshake");
    Box::new(Finding { kind: Some(kind), message: Some(name), ..what })
}

impl Exchange {
    /// Says what there is to say about the end that begins; `told` is what a side sent as its last, where it did.
    pub(super) fn explain(&mut self, now: Instant, reason: Reason, told: &CloseFrame) {
        let inspected = self.inspector.as_deref_mut().and_then(Inspector::finding);
        let found = self.finding.take().or(inspected);
        let found = found.or_else(|| self.own_words(now, reason, told).map(Box::new));
        self.finding = found.map(|found| Box::new(Finding { step: self.step.name(), ..*found }));
        self.name_rule();
    }

    /// What only the session as a whole knows.
    fn own_words(&self, now: Instant, reason: Reason, told: &CloseFrame) -> Option<Finding> {
        use Reason as R;
        let deadlines = &self.config.deadlines;
        Some(match reason {
            R::PeerClosed | R::NodeClosed if told.code.is_some() => {
                Finding::new(format!("code {} \"{}\"", told.code.unwrap_or_default(), clean(&told.text)))
            }
            R::HttpMalformed
            | R::HttpTooLarge
            | R::HttpMethod
            | R::HttpPath
            | R::HttpNotUpgrade
            | R::HttpBody
            | R::HttpTimeout => self.request(reason)?,
            R::TlsTimeout => late("TLS", deadlines.tls),
            R::PeerUpgrade => self.answer()?,
            R::PeerUnreachable if now >= self.due => late("the connection", deadlines.dial),
            R::ChiaTimeout => late("the handshake", deadlines.handshake),
            R::NodeTimeout => late("the node's side", deadlines.node),
            R::DialFailed if matches!(self.step, Step::Dial) && now >= self.due => {
                late("the dial", deadlines.dial)
            }
            R::Idle => late("another message", deadlines.idle),
            R::PingTimeout => late("the answer to a ping", deadlines.pong),
            R::NodeStalled => late("the node", deadlines.stall),
            R::TooSlow | R::Stalled => {
                let verb = if reason == R::TooSlow { "sent" } else { "read" };
                let what = format!("{verb} at less than {} bytes a second", self.rate());
                Finding::new(what).limited("rate", self.rate())
            }
            R::EnvelopeMalformed => Finding::new(format!(
                "the message begins with {:02x?}, which is no envelope",
                self.inbound.envelope()
            )),
            R::WsUnmasked
            | R::WsReservedBits
            | R::WsOpcode
            | R::WsTextFrame
            | R::WsLength
            | R::WsControl
            | R::WsContinuation
            | R::WsFragments
            | R::WsControlFlood
            | R::WsTooLarge => self.frame(reason),
            _ => return None,
        })
    }

    /// The upgrade request.
    fn request(&self, reason: Reason) -> Option<Finding> {
        let Step::Upgrade(upgrade) = &self.step else { return None };
        let line = clean_bytes(upgrade.line());
        let seen = upgrade.seen() as u64;
        let found = Finding { byte: Some(seen), ..Finding::new(format!("the request \"{line}\"")) };
        Some(match reason {
            Reason::HttpTooLarge if upgrade.seen() < REQUEST_BYTES_MAX => {
                found.limited("request_headers", HEADERS_MAX as u64)
            }
            Reason::HttpTooLarge => found.limited("request_bytes", REQUEST_BYTES_MAX as u64),
            Reason::HttpTimeout => {
                let late = late("the request", self.config.deadlines.upgrade);
                Finding { what: format!("{} (so far \"{line}\")", late.what), byte: Some(seen), ..late }
            }
            _ => found,
        })
    }

    /// What a dialled peer answered to our upgrade request.
    fn answer(&self) -> Option<Finding> {
        let Step::PeerUpgrade { asked, .. } = &self.step else { return None };
        Some(match asked.status() {
            Some(status) => Finding::new(format!("it answered with status {status}, and no valid upgrade")),
            None if asked.is_begun() => Finding::new("its answer is not HTTP, or not whole"),
            None => late("an answer", self.config.deadlines.upgrade),
        })
    }

    /// The peer's frame that came last.
    fn frame(&self, reason: Reason) -> Finding {
        let (at, [first, second]) = self.public.reader.last_frame();
        let limits = self.public.reader.limits();
        let what = format!("the frame that begins with {first:02x} {second:02x}");
        let found = Finding { byte: Some(at), ..Finding::new(what) };
        match reason {
            Reason::WsTooLarge => found.limited("message_bytes", limits.message_bytes),
            Reason::WsControlFlood => found.limited("controls_per_minute", limits.controls_per_minute),
            _ => found,
        }
    }

    /// Where the limit's value comes from: the node, this program, or a line of the policy.
    fn name_rule(&mut self) {
        let Some(Finding { kind: Some(kind), rule: Some(rule), .. }) = self.finding.as_deref() else {
            return;
        };
        let Some(facts) = self.rules.schema().message(*kind) else { return };
        let tables = self.inspector.as_deref().map(Inspector::tables).unwrap_or_default();
        let explained = self.rules.explain(&self.who(), facts, tables);
        let named = explained.from_peer.iter().find(|value| value.name == rule);
        let Some(source) = named.map(|value| value.source) else { return };
        let source = match source {
            Source::Line(line) => format!("{rule} (line {line} of the policy)"),
            source => format!("{rule} ({source})"),
        };
        if let Some(found) = &mut self.finding {
            found.rule = Some(source);
        }
    }
}

/// Something did not come in time.
fn late(what: &str, limit: core::time::Duration) -> Finding {
    let seconds = limit.as_secs();
    Finding::new(format!("{what} did not come within {seconds} s")).limited("seconds", seconds)
}
