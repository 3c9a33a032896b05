//! Answers to whom we do not know, as functions of frame, secrets and time: cookie SYN-ACKs, resets, stateless closes,
//! and the proof that lets a flow be remembered. What is kept is of fixed size: counters, a sketch of reply rates and a
//! filter of spent cookies.

mod cap;
pub mod cookie;
mod deny;
mod hello;
mod listeners;
mod plan;
mod spent;
mod synack;

pub use deny::DenyList;
pub use hello::plausible as plausible_hello;
pub use listeners::Listeners;
pub use plan::{PlanKey, SynPlan};

use cap::ReplyCap;
use cookie::{Cookies, Verdict};
use spent::Spent;

use crate::Reason;
use crate::shard::{Accept, Listener};
use crate::time::Instant;
use crate::wire::{Address, Agreed, Emitted, Flags, FlowKey, Head, LinkRules, Packet, Seq};

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
    cookies: Cookies,
    cap: ReplyCap,
    spent: Spent,
    /// Microseconds from the clock's origin to the Unix epoch, wrapping.
    epoch: u64,
    statistics: ScreenStatistics,
}

impl Screen {
    /// A screen with the fleet's secret; `seed` keys the tables that are this shard's own. The clock starts at the Unix
    /// epoch until [`Screen::set_utc`] says better.
    pub fn new(config: ScreenConfig, master: Master, seed: [u8; 16]) -> Self {
        Screen {
            config,
            cookies: Cookies::new(master),
            cap: ReplyCap::new(config.replies_per_second, config.reply_buckets_log2, seed),
            spent: Spent::new(config.spent_log2, seed),
            epoch: 0,
            statistics: ScreenStatistics::default(),
        }
    }

    /// Says that `now` is `unix_ms` milliseconds of UTC. To be repeated whenever the host's clock may have moved.
    pub fn set_utc(&mut self, now: Instant, unix_ms: u64) {
        self.epoch = unix_ms.wrapping_mul(1_000).wrapping_sub(now.micros());
    }

    /// What a port needs to answer SYNs to `listeners` as [`Screen::syn_ack`] does. `stamp` is the key of the hash whose upper
    /// half is that function's `offset`.
    pub(crate) fn plan(
        &self,
        now: Instant,
        mtu: u16,
        stamp: PlanKey,
        listeners: Vec<(Address, u16)>,
    ) -> SynPlan {
        let unix_ms = self.utc(now);
        let config = &self.config;
        SynPlan {
            unix_ms,
            slots: self.cookies.coming(unix_ms),
            stamp,
            mss_v4: config.mss_v4,
            mss_v6: config.mss_v6,
            mtu,
            listeners,
            replies_per_second: self.cap.half(config.replies_per_second),
            cap_secret: self.cap.secrets(),
        }
    }

    /// Says whether a port answers SYNs by [`Screen::plan`], and so needs half of the replies that a prefix may get.
    pub(crate) fn share_cap(&mut self, shared: bool) {
        self.cap.set_rate(match self.cap.half(self.config.replies_per_second) {
            Some(half) if shared => half,
            _ => self.config.replies_per_second,
        });
    }

    /// Replaces the fleet's secret from the slot that contains `from_unix_ms` on. The former one stays valid for cookies
    /// of earlier slots, so all appliances can be told before the time comes. At most one change may be ahead.
    pub fn rotate(&mut self, master: Master, from_unix_ms: u64) {
        self.cookies.rotate(master, from_unix_ms);
    }

    /// Judges a TCP segment that belongs to no flow. `bytes` are those of `packet`; the answer is written over them. `offset`
    /// is a number that the 4-tuple decides and nobody else can guess: where its timestamp clock begins (RFC 7323, section
    /// 5.4; the flow goes on from the value that comes back).
    #[inline]
    pub fn stranger(
        &mut self,
        now: Instant,
        link: &LinkRules,
        packet: &Packet,
        offset: u32,
        bytes: &mut [u8],
        listener: Option<&Listener>,
    ) -> Answer {
        if packet.flags.has(Flags::RST) {
            return Answer::Drop(Reason::NoFlow);
        }
        let Some(listener) = listener else {
            return match link.resets {
                true => self.reset(now, packet, bytes, Reason::NoListener),
                false => Answer::Drop(Reason::NoListener),
            };
        };
        match (packet.flags.has(Flags::SYN), packet.flags.has(Flags::ACK)) {
            (true, false) => self.syn_ack(now, link, packet, offset, bytes),
            (true, true) => self.reset(now, packet, bytes, Reason::NoFlow),
            (false, _) => self.returned(now, link, packet, bytes, listener.accept),
        }
    }

    /// Refuses a segment that belongs to no flow, with a reset where one is due.
    pub(crate) fn refuse(
        &mut self,
        now: Instant,
        packet: &Packet,
        bytes: &mut [u8],
        reason: Reason,
    ) -> Answer {
        match packet.flags.has(Flags::RST) {
            true => Answer::Drop(reason),
            false => self.reset(now, packet, bytes, reason),
        }
    }

    /// Answers a SYN with a cookie. Also for 4-tuples whose TIME-WAIT flow allows it (RFC 6191). What else the SYN may
    /// carry (data, fast open, ECN, unknown options) is passed over: the answer is the plain one.
    pub fn syn_ack(
        &mut self,
        now: Instant,
        link: &LinkRules,
        packet: &Packet,
        offset: u32,
        bytes: &mut [u8],
    ) -> Answer {
        if !self.cap.take(now, packet.key.remote) {
            return Answer::Drop(Reason::ReplyCap);
        }
        let (utc, offer) = (self.utc(now), packet.found());
        let (irs, _) = packet.numbers(bytes);
        let choice = synack::choose(offer, self.table(packet));
        let options = Emitted::handshake(
            offer.mss.map(|_| synack::own_mss(packet.key.remote.is_v4(), link.mtu)),
            offer.sack_permitted,
            offer.timestamps.map(|(value, _)| (synack::stamp(utc, offset, offer), value)),
            offer.window_scale.map(|_| synack::WINDOW_SCALE),
        );
        let iss = self.cookies.make(utc, &packet.key, irs, choice);
        let flags = Flags::SYN.with(Flags::ACK);
        let reply = Reply { seq: iss, ack: irs + 1, flags, window: synack::WINDOW, options };
        let answer = write(bytes, packet, reply).map_or(Answer::Drop(Reason::NoFrame), Answer::Reply);
        self.statistics.syn_acks += u64::from(answer != Answer::Drop(Reason::NoFrame));
        answer
    }

    /// Notes that the cookie of an accepted flow, now closed, is spent: what comes of its peer is reset for as
    /// long as the cookie could pass ([`Reason::SpentCookie`] for copies of the first segment).
    pub fn spent(&mut self, now: Instant, key: &FlowKey, iss: Seq) {
        self.spent.insert(now, key, iss);
    }

    /// Counters.
    pub fn statistics(&self) -> ScreenStatistics {
        self.statistics
    }

    /// A segment with ACK: does it return a cookie, and does it say enough?
    fn returned(
        &mut self,
        now: Instant,
        link: &LinkRules,
        packet: &Packet,
        bytes: &mut [u8],
        accept: Accept,
    ) -> Answer {
        let (seq, ack) = packet.numbers(bytes);
        let (irs, iss) = (seq - 1, ack - 1);
        let choice = match self.cookies.check(self.utc(now), &packet.key, irs, iss) {
            Verdict::Whole(choice) => choice,
            _ if self.closing(now, packet, irs, iss) => return Answer::Drop(Reason::NoFlow),
            // The peer of a flow that is gone, to which our reset was lost.
            Verdict::Tuple if self.spent.knows(now, &packet.key) => {
                return self.reset(now, packet, bytes, Reason::NoFlow);
            }
            Verdict::Tuple => return Answer::Drop(Reason::Overtaken),
            Verdict::Foreign => return self.reset(now, packet, bytes, Reason::BadCookie),
        };
        if self.spent.contains(now, &packet.key, iss) {
            return self.reset(now, packet, bytes, Reason::SpentCookie);
        }
        let payload = bytes.get(packet.payload()..packet.end()).unwrap_or_default();
        match (accept, payload.is_empty(), packet.flags.has(Flags::FIN)) {
            (_, true, true) => return self.close(now, packet, bytes),
            (Accept::ClientHello, true, false) => return Answer::Drop(Reason::AwaitingData),
            (Accept::ClientHello, false, _) if !plausible_hello(payload) => {
                return self.reset(now, packet, bytes, Reason::NotClientHello);
            }
            _ => {}
        }
        let mss = synack::mss(choice, self.table(packet), packet.key.remote, link.mtu);
        match synack::agreed(choice, (iss, irs), packet.found().timestamps, mss) {
            Some(agreed) => {
                self.statistics.proofs += 1;
                Answer::Proof(agreed)
            }
            None => Answer::Drop(Reason::BadCookie),
        }
    }

    /// Whether this is the last ACK of a connection that was closed without state, one number further on both sides.
    fn closing(&mut self, now: Instant, packet: &Packet, irs: Seq, iss: Seq) -> bool {
        packet.flags == Flags::ACK
            && packet.payload_len() == 0
            && matches!(self.cookies.check(self.utc(now), &packet.key, irs - 1, iss - 1), Verdict::Whole(_))
    }

    /// Answers the FIN of a peer that has said nothing with ours: health checks and introducers connect and hang up.
    fn close(&mut self, now: Instant, packet: &Packet, bytes: &mut [u8]) -> Answer {
        if !self.cap.take(now, packet.key.remote) {
            return Answer::Drop(Reason::ReplyCap);
        }
        let (seq, ack) = packet.numbers(bytes);
        // The clock of a flow goes on from the value that came back; this one ends with it.
        let timestamps = packet.found().timestamps.map(|(value, echo)| (echo, value));
        let options = Emitted::handshake(None, false, timestamps, None);
        let reply = Reply { seq: ack, ack: seq + 1, flags: Flags::FIN.with(Flags::ACK), window: 0, options };
        let answer = write(bytes, packet, reply).map_or(Answer::Drop(Reason::NoFrame), Answer::Reply);
        self.statistics.closes += u64::from(answer != Answer::Drop(Reason::NoFrame));
        answer
    }

    /// Answers with a reset (RFC 9293, section 3.5.2).
    fn reset(&mut self, now: Instant, packet: &Packet, bytes: &mut [u8], reason: Reason) -> Answer {
        if !self.cap.take(now, packet.key.remote) {
            return Answer::Drop(Reason::ReplyCap);
        }
        let (seq, ack) = packet.numbers(bytes);
        let (seq, ack, flags) = if packet.flags.has(Flags::ACK) {
            (ack, Seq(0), Flags::RST)
        } else {
            let controls = u32::from(packet.flags.has(Flags::SYN)) + u32::from(packet.flags.has(Flags::FIN));
            (Seq(0), seq + controls + packet.payload_len() as u32, Flags::RST.with(Flags::ACK))
        };
        let reply = Reply { seq, ack, flags, window: 0, options: Emitted::NONE };
        match write(bytes, packet, reply) {
            Some(len) => {
                self.statistics.resets += 1;
                Answer::Refuse(len, reason)
            }
            None => Answer::Drop(reason),
        }
    }

    fn utc(&self, now: Instant) -> u64 {
        now.micros().wrapping_add(self.epoch) / 1_000
    }

    fn table(&self, packet: &Packet) -> &[u16; 4] {
        if packet.key.remote.is_v4() { &self.config.mss_v4 } else { &self.config.mss_v6 }
    }
}

struct Reply {
    seq: Seq,
    ack: Seq,
    flags: Flags,
    window: u16,
    options: Emitted,
}

/// Writes a reply over the packet that asked for it. It gets only the room that the packet took, so that never more
/// bytes go out than came in.
#[inline]
fn write(bytes: &mut [u8], packet: &Packet, reply: Reply) -> Option<usize> {
    let head = Head {
        key: &packet.key,
        source: packet.destination_mac,
        destination: packet.source_mac,
        tag: packet.vlan.filter(|_| packet.tagged()),
        seq: reply.seq,
        ack: reply.ack,
        flags: reply.flags,
        window: reply.window,
        options: reply.options,
    };
    head.build(bytes.get_mut(..packet.end())?)
}

#[cfg(test)]
mod tests;
