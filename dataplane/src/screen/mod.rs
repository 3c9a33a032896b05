//! Answers to whom we do not know, as functions of frame, secrets and time: cookie SYN-ACKs, resets, stateless closes,
//! and the proof that lets a flow be remembered. What is kept is of fixed size: counters, a sketch of reply rates and a
//! filter of spent cookies.

mod cookie;
mod hello;
mod listeners;
mod sip;

pub use hello::plausible as plausible_hello;
pub use listeners::Listeners;

use crate::Reason;
use crate::shard::Listener;
use crate::time::Instant;
use crate::wire::{Agreed, FlowKey, LinkRules, Packet, Seq};

/// What becomes of a segment that belongs to no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The first so many bytes of the frame now hold the reply (SYN-ACK or stateless close). Its checksums are complete:
    /// send it with the metadata's VLAN tag and nothing else.
    Reply(usize),
    /// Likewise, and the reply is a reset: count the reason.
    Refuse(usize, Reason),
    /// Nothing to send.
    Drop(Reason),
    /// The peer returned our cookie: ask admission, create a flow and give it the segment.
    Proof(Agreed),
}

/// Settings of a [`Screen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScreenConfig {
    /// MSS values that a cookie can hold for IPv4, ascending.
    pub mss_v4: [u16; 4],
    /// MSS values that a cookie can hold for IPv6, ascending.
    pub mss_v6: [u16; 4],
    /// Replies a second to one IPv4 /24 or IPv6 /48 ([`Reason::ReplyCap`]); bursts of two seconds' worth pass.
    pub replies_per_second: u32,
    /// Base-two logarithm of the number of token buckets in each of the reply cap's two rows.
    pub reply_buckets_log2: u8,
    /// Base-two logarithm of the number of spent cookies remembered per generation.
    pub spent_log2: u8,
}

impl Default for ScreenConfig {
    fn default() -> Self {
        ScreenConfig {
            mss_v4: [536, 1300, 1440, 1460],
            mss_v6: [1220, 1360, 1420, 1440],
            replies_per_second: 1_000,
            reply_buckets_log2: 14,
            spent_log2: 16,
        }
    }
}

/// The secret that all appliances of a fleet share; cookie keys of limited life are derived from it.
#[derive(Clone)]
pub struct Master(pub [u8; 32]);

/// What the screen did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ScreenStatistics {
    /// Cookie SYN-ACKs written.
    pub syn_acks: u64,
    /// Resets written.
    pub resets: u64,
    /// Stateless answers to FIN.
    pub closes: u64,
    /// Cookies that came back with data.
    pub proofs: u64,
}

/// The screen of one shard.
pub struct Screen {
    config: ScreenConfig,
    statistics: ScreenStatistics,
}

impl Screen {
    /// A screen with the fleet's secret; `seed` keys the tables that are this shard's own. The clock starts at the Unix
    /// epoch until [`Screen::set_utc`] says better.
    pub fn new(config: ScreenConfig, master: Master, seed: [u8; 16]) -> Self {
        let _ = (master, seed);
        Screen { config, statistics: ScreenStatistics::default() }
    }

    /// Says that `now` is `unix_ms` milliseconds of UTC. To be repeated whenever the host's clock may have moved.
    pub fn set_utc(&mut self, now: Instant, unix_ms: u64) {
        let _ = (now, unix_ms, self.config);
    }

    /// Replaces the fleet's secret from the slot that contains `from_unix_ms` on. The former one stays valid for cookies
    /// of earlier slots, so that all appliances can be told before the time comes.
    pub fn rotate(&mut self, master: Master, from_unix_ms: u64) {
        let _ = (master, from_unix_ms);
    }

    /// Judges a TCP segment that belongs to no flow. `bytes` are those of `packet`; the answer is written over them.
    pub fn stranger(
        &mut self,
        now: Instant,
        link: &LinkRules,
        packet: &Packet,
        bytes: &mut [u8],
        listener: Option<&Listener>,
    ) -> Answer {
        let _ = (now, link, packet, bytes, listener);
        Answer::Drop(Reason::NoListener)
    }

    /// Answers a SYN with a cookie, for 4-tuples whose TIME-WAIT flow allows it (RFC 6191).
    pub fn syn_ack(&mut self, now: Instant, link: &LinkRules, packet: &Packet, bytes: &mut [u8]) -> Answer {
        let _ = (now, link, packet, bytes);
        Answer::Drop(Reason::NoListener)
    }

    /// Notes that the cookie of an accepted flow, now closed, is spent: copies of its first flight are refused for as
    /// long as they could pass ([`Reason::SpentCookie`]).
    pub fn spent(&mut self, now: Instant, key: &FlowKey, iss: Seq) {
        let _ = (now, key, iss);
    }

    /// Counters.
    pub fn statistics(&self) -> ScreenStatistics {
        self.statistics
    }
}
