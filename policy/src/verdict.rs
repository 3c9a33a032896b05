//! The closed set of reasons for which a session is refused or ended: each has a counter and a paragraph in the manual.
//!
//! The dataplane has a set of its own for frames and flows; this one begins where a session's bytes begin.

use core::ops::{Index, IndexMut};

use crate::session::DialFailure;

macro_rules! reasons {
    ($( $(#[doc = $doc:literal])+ $name:ident = $text:literal, )+) => {
        /// Why a session was refused or ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason { $( $(#[doc = $doc])+ $name, )+ }

        impl Reason {
            /// All reasons, in the order of their counters.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)+];

            /// The name in counters, logs and the manual.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$name => $text,)+ }
            }

            /// The paragraph in the manual.
            pub const fn manual(self) -> &'static str {
                match self { $(Reason::$name => concat!($($doc),+),)+ }
            }
        }
    };
}

reasons! {
    // Ends that are nobody's fault.
    /// Both sides finished in order.
    Finished = "finished",
    /// The peer closed the session, with a WebSocket close or by ending its connection.
    PeerClosed = "peer_closed",
    /// The peer reset its connection or stopped answering on it.
    PeerLost = "peer_lost",
    /// The node closed the session; its close code and text were passed on to the peer.
    NodeClosed = "node_closed",
    /// The node's connection broke or was reset.
    NodeLost = "node_lost",
    /// The appliance ended the session: shutdown, eviction, or memory that ran out.
    Aborted = "aborted",

    // TLS towards the peer.
    /// The first bytes are not TLS at all.
    TlsGarbage = "tls_garbage",
    /// Plain HTTP where TLS is expected: a browser, a scanner or a health check on the wrong port, or a web server that a node of
    /// ours dialled.
    PlainHttp = "plain_http",
    /// A TLS record longer than the standard allows, or a first flight that never completes within its limit.
    TlsTooLarge = "tls_too_large",
    /// The peer offers no protocol version, cipher suite or group that the listener accepts. Real nodes speak TLS 1.3.
    TlsIncompatible = "tls_incompatible",
    /// The peer showed no client certificate. Every Chia peer has one.
    TlsNoCertificate = "tls_no_certificate",
    /// The peer's certificate does not chain to the Chia CA.
    TlsUntrusted = "tls_untrusted",
    /// The peer's certificate has expired or is not valid yet.
    TlsExpired = "tls_expired",
    /// The peer's certificate cannot be parsed, or its key, depth or size is beyond the limits for verification.
    TlsBadCertificate = "tls_bad_certificate",
    /// The peer broke the TLS protocol: a bad signature, a wrong Finished, a record that does not decrypt, a message out
    /// of order.
    TlsProtocol = "tls_protocol",
    /// The peer ended the TLS handshake with an alert.
    TlsAlert = "tls_alert",
    /// More key updates or renegotiations than any peer needs.
    TlsKeyUpdates = "tls_key_updates",
    /// The TLS handshake with the peer was not finished within its deadline.
    TlsTimeout = "tls_timeout",

    // HTTP upgrade.
    /// The request is not HTTP/1.1, or its lines and headers cannot be parsed.
    HttpMalformed = "http_malformed",
    /// More header lines or bytes than a peer's upgrade request has.
    HttpTooLarge = "http_too_large",
    /// A method other than GET.
    HttpMethod = "http_method",
    /// A path other than `/ws`.
    HttpPath = "http_path",
    /// A request for `/ws` that asks for no WebSocket upgrade, or for a version other than 13.
    HttpNotUpgrade = "http_not_upgrade",
    /// The upgrade request carries a body, or bytes follow that only a smuggled request would have.
    HttpBody = "http_body",
    /// The upgrade request was not complete within its deadline.
    HttpTimeout = "http_timeout",

    // WebSocket.
    /// A frame from the peer without a mask, or from one that a node of ours dialled with one.
    WsUnmasked = "ws_unmasked",
    /// A frame with reserved bits set: an extension that was never agreed on, such as compression.
    WsReservedBits = "ws_reserved_bits",
    /// A frame with an unknown operation code.
    WsOpcode = "ws_opcode",
    /// A text frame. Chia messages are binary.
    WsTextFrame = "ws_text_frame",
    /// A length that is not encoded in its shortest form, or beyond 63 bits.
    WsLength = "ws_length",
    /// A control frame that is longer than 125 bytes or fragmented, or a close frame with an invalid body.
    WsControl = "ws_control",
    /// A continuation without a beginning, or a new message inside an unfinished one.
    WsContinuation = "ws_continuation",
    /// A message in more fragments than any peer needs.
    WsFragments = "ws_fragments",
    /// More pings, pongs or empty frames than any peer needs.
    WsControlFlood = "ws_control_flood",
    /// A WebSocket message longer than the largest Chia message.
    WsTooLarge = "ws_too_large",
    /// The peer answered none of our pings in time.
    PingTimeout = "ping_timeout",

    // Chia.
    /// The first message is not a handshake.
    ChiaNoHandshake = "chia_no_handshake",
    /// The handshake's body does not follow the protocol.
    ChiaBadHandshake = "chia_bad_handshake",
    /// The handshake is for another network.
    ChiaWrongNetwork = "chia_wrong_network",
    /// The handshake names a node type that this listener does not serve.
    ChiaWrongType = "chia_wrong_type",
    /// The Chia handshake did not arrive within its deadline.
    ChiaTimeout = "chia_timeout",
    /// A second handshake in one session.
    ChiaSecondHandshake = "chia_second_handshake",
    /// A message whose envelope does not parse, or whose length differs from what the envelope says.
    EnvelopeMalformed = "envelope_malformed",
    /// A message of an unknown type that is too large, or one of too many: a few small ones pass, so that a newer peer
    /// is not shut out.
    UnknownMessage = "unknown_message",
    /// A message type that this kind of peer never sends to a full node.
    NotForThisSender = "not_for_this_sender",
    /// A message larger than what is held for a request, or than a node takes at all.
    MessageTooLarge = "message_too_large",
    /// More messages or bytes of a type in a minute than a node takes before it bans, or a body larger than its type may
    /// have. The tables and the window are the node's own; real peers keep well within them.
    RateLimited = "rate_limited",
    /// A body that the node's own parser would refuse: bytes missing or left over, a length that leads beyond the end, a
    /// flag that does not exist. The event names the field and the byte. Flaws inside blocks, headers and proofs are not
    /// among these unless that is configured.
    BodyMalformed = "body_malformed",
    /// Replies that answer nothing the node asked for, again and again. The first ones are thrown away.
    Unsolicited = "unsolicited",
    /// The peer wants to be told of more puzzle hashes and coins than the policy's `subscriptions` allows; without one there is no such
    /// limit here, and a node takes no more than its own.
    Subscriptions = "subscriptions",
    /// More than a few requests for blocks, headers or coins at heights that no node of the pool knows, far above the highest
    /// peak: for nothing that exists. A node says no to each and goes on, so by default they pass and are counted; the
    /// policy can end such a session. While no peak is known nothing is judged.
    BeyondPeak = "beyond_peak",
    /// Windows for requests were set although both sides had not agreed on them, or a second time.
    WindowsUnexpected = "windows_unexpected",

    // Session.
    /// The identity belongs to one of our own nodes, or the connection comes from the address of one: it found its own public
    /// address. What runs on a node's machine reaches nodes by a back-end listener.
    OwnNode = "own_node",
    /// Another session holds the same identity, and it is alive.
    DuplicateId = "duplicate_id",
    /// A newer session from the same source took over the identity.
    Replaced = "replaced",
    /// All slots were taken, and it gave its own up for a newcomer: it was the youngest of the largest prefix, neither a friend nor
    /// long there nor useful. One slot changes hands in a second at most.
    Displaced = "displaced",
    /// The operator takes its node, or the whole appliance, out of service: the peer was told to come back, and finds
    /// another node. Sessions end one by one, those that are idle first.
    Drained = "drained",
    /// No node of the pool accepts connections. A peer waits some seconds for one that comes up before it is told to try again
    /// later.
    NoNode = "no_node",
    /// The pool's dial rate and queue are used up.
    DialBusy = "dial_busy",
    /// The listener's slots for this kind of peer are taken, as the policy counts them; friends have slots of their own.
    SlotsTaken = "slots_taken",
    /// The node could not be reached in time, or refused the connection.
    DialFailed = "dial_failed",
    /// The peer outside that a node of ours dialled could not be reached in time, or refused the connection. Addresses that
    /// nobody answers at are common in gossip: the node tries others.
    PeerUnreachable = "peer_unreachable",
    /// The peer outside that a node of ours dialled answered the WebSocket upgrade with something other than a valid yes,
    /// or not in time. Status 403 is a ban in that peer's memory; other answers come from what is no Chia node.
    PeerUpgrade = "peer_upgrade",
    /// The node's certificate or TLS does not fit: it is not one of ours, or not a Chia node.
    NodeTls = "node_tls",
    /// The node refused the WebSocket upgrade. Status 403 is a ban in the node's own memory. Of a connection that the node
    /// began: its own upgrade request is none that a node makes.
    NodeUpgrade = "node_upgrade",
    /// The node broke WebSocket or message framing, or began a connection of its own with something other than a handshake.
    NodeProtocol = "node_protocol",
    /// The node did not complete TLS, upgrade or handshake within its deadline.
    NodeTimeout = "node_timeout",
    /// The peer does not read what the node sends it.
    Stalled = "stalled",
    /// The node does not read what the peer sent, or answers no pings.
    NodeStalled = "node_stalled",
    /// A message arrives slower than the minimum rate.
    TooSlow = "too_slow",
    /// No message for longer than any live peer stays silent.
    Idle = "idle",
}

impl From<DialFailure> for Reason {
    fn from(failure: DialFailure) -> Reason {
        match failure {
            DialFailure::NoNode => Reason::NoNode,
            DialFailure::Busy => Reason::DialBusy,
            DialFailure::Duplicate => Reason::DuplicateId,
            DialFailure::OwnNode => Reason::OwnNode,
            DialFailure::Slots => Reason::SlotsTaken,
            DialFailure::Unreachable => Reason::PeerUnreachable,
        }
    }
}

impl core::fmt::Display for Reason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// One counter per [`Reason`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters([u64; Reason::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Counters([0; Reason::ALL.len()])
    }
}

impl Counters {
    /// Counts one.
    pub fn count(&mut self, reason: Reason) {
        self[reason] += 1;
    }

    /// Reasons that were counted, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.iter().map(|&reason| (reason, self[reason])).filter(|&(_, count)| count > 0)
    }

    /// Adds what was counted elsewhere.
    pub fn absorb(&mut self, other: &Counters) {
        self.0.iter_mut().zip(&other.0).for_each(|(sum, count)| *sum += count);
    }

    /// The sum of all counters.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl Index<Reason> for Counters {
    type Output = u64;
    fn index(&self, reason: Reason) -> &u64 {
        &self.0[reason as usize]
    }
}

impl IndexMut<Reason> for Counters {
    fn index_mut(&mut self, reason: Reason) -> &mut u64 {
        &mut self.0[reason as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Reason;

    #[test]
    fn names_are_distinct_and_every_reason_has_a_paragraph() {
        let names: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!(reason.name().bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase()), "{reason}");
            assert!(reason.manual().trim().len() > 10, "{reason} has no paragraph");
        }
    }
}
