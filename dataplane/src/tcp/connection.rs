//! The state of one flow, split by direction, and what the engine's parts share while they work on it.
//!
//! The rules live beside it: `input` (a segment arrives), `output` (what to send next), `expiry` (a timer ran out). Buffers
//! and range sets are borrowed from the shard's pools, so that an idle flow is this struct and nothing else.

use std::num::NonZeroU32;

use crate::reason::Counters;
use crate::shard::{ListenerId, Opened, Standing};
use crate::time::Instant;
use crate::wire::{Agreed, AgreedTimestamps, FlowKey, LinkId, Mac, Seq};

use super::buffer::{Chain, Pool};
use super::challenge::Budget;
use super::congestion::{Control, NewReno};
use super::ranges::Shelf;
use super::reassembly::Reassembly;
use super::recovery::{Flight, Recovery, RoundTrip};
use super::state::State;
use super::timers::Timer;
use super::{EngineConfig, Statistics};

/// Shift of the windows that we announce, where the peer offers scaling.
pub(crate) const LOCAL_SCALE: u8 = 8;
/// What a SYN-ACK cookie and a SYN announce, unscaled.
pub(crate) const SYN_WINDOW: u16 = 8192;
/// First window of an accepted flow: a TLS record with its header and slack.
pub(crate) const RECORD_WINDOW: u32 = 18 << 10;
/// First window of a flow that we opened, or that has proved more than its address.
pub(crate) const TRUSTED_WINDOW: u32 = 64 << 10;
/// Eighths of the pool beyond which nothing more is queued for sending.
pub(crate) const SEND_SHARE: usize = 6;
/// Smallest send queue.
const SEND_QUEUE_MIN: usize = 64 << 10;
/// Smallest segment that a peer or a path can impose (RFC 1191's 68 bytes would be an attack; RFC 879's default is not).
pub(crate) const MSS_MIN: u16 = 64;
/// Bytes of the timestamp option in every segment, padding included (RFC 7323, appendix A).
pub(crate) const TIMESTAMP_BYTES: u16 = 12;

/// What all flows of an engine share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: EngineConfig,
    pub(crate) pool: Pool,
    pub(crate) shelf: Shelf,
    pub(crate) counters: Counters,
    pub(crate) statistics: Statistics,
    pub(crate) challenge: Budget,
}

impl Shared {
    /// Largest TCP payload of a packet on `link`, options not counted.
    pub(crate) fn link_mss(&self, link: LinkId, key: &FlowKey) -> u16 {
        let mtu = self.config.links.get(usize::from(link.0)).map_or(1280, |link| link.mtu);
        mtu.saturating_sub(if key.remote.is_v4() { 40 } else { 60 }).max(MSS_MIN)
    }

    /// Largest payload that the port cuts by itself.
    pub(crate) fn segmentation(&self, link: LinkId) -> usize {
        self.config.links.get(usize::from(link.0)).map_or(0, |link| link.segmentation)
    }
}

/// Pending events of a flow, in the order in which they are reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending(pub(crate) u8);

impl Pending {
    pub(crate) const ACCEPTED: u8 = 1;
    pub(crate) const CONNECTED: u8 = 2;
    pub(crate) const READABLE: u8 = 4;
    pub(crate) const WRITABLE: u8 = 8;
    pub(crate) const FINISHED: u8 = 16;
    pub(crate) const CLOSED: u8 = 32;

    pub(crate) fn add(&mut self, event: u8) {
        self.0 |= event;
    }

    /// Takes the first one out.
    pub(crate) fn take(&mut self) -> u8 {
        let first = self.0 & self.0.wrapping_neg();
        self.0 ^= first;
        first
    }
}

/// Timestamps of a flow (RFC 7323).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamps {
    /// TS.Recent.
    pub(crate) recent: u32,
    /// When `recent` was taken.
    pub(crate) recent_at: Instant,
    /// Our clock at [`Instant::ZERO`].
    pub(crate) base: u32,
}

impl Stamps {
    /// A clock that shows `value` at `now`; `recent` came just now.
    pub(crate) fn starting(now: Instant, value: u32, recent: u32) -> Self {
        Stamps { recent, recent_at: now, base: value.wrapping_sub(now.millis() as u32) }
    }

    /// TSval: a tick per millisecond.
    pub(crate) fn value(&self, now: Instant) -> u32 {
        self.base.wrapping_add(now.millis() as u32)
    }
}

/// The sending direction.
#[derive(Debug)]
pub(crate) struct SendSide {
    /// Oldest unacknowledged sequence number.
    pub(crate) una: Seq,
    /// Next sequence number to send; never goes back.
    pub(crate) nxt: Seq,
    /// End of the queued data. Our FIN, once queued, has this number.
    pub(crate) end: Seq,
    /// Window by the peer, scaled.
    pub(crate) wnd: u32,
    /// Largest window that the peer ever announced.
    pub(crate) max_wnd: u32,
    /// Segment that `wnd` is from: its sequence number.
    pub(crate) wl1: Seq,
    /// And its acknowledgement number.
    pub(crate) wl2: Seq,
    /// Data from `una` on.
    pub(crate) chain: Chain,
    /// Payload bytes per segment, timestamps counted off.
    pub(crate) mss: u16,
    /// Shift of the peer's windows.
    pub(crate) scale: u8,
    /// The host has finished writing.
    pub(crate) fin_queued: bool,
    /// The host has let go of the flow: nobody reads any more.
    pub(crate) orphan: bool,
    /// A SYN or a window probe is to be sent.
    pub(crate) probe: bool,
    /// The congestion window held something back.
    pub(crate) limited: bool,
    /// The host found no space.
    pub(crate) wanted: bool,
    /// The queue waits for the peer's window since `progress_at`, whatever the window did meanwhile.
    pub(crate) stalled: bool,
    /// The segment that is being timed ends here and was sent then (Karn's rule: never one that was sent again).
    pub(crate) timed: Option<(Seq, Instant)>,
    /// When the queue last moved, or began to wait.
    pub(crate) progress_at: Instant,
    /// When data was last sent.
    pub(crate) sent_at: Instant,
}

/// The receiving direction.
#[derive(Debug)]
pub(crate) struct ReceiveSide {
    /// What arrived.
    pub(crate) queue: Reassembly,
    /// Right edge of the window: the largest ever promised.
    pub(crate) edge: Seq,
    /// Last acknowledgement sent (RFC 7323, Last.ACK.sent).
    pub(crate) acked: Seq,
    /// Sequence number of the peer's FIN.
    pub(crate) fin: Option<Seq>,
    /// The FIN was reached in order.
    pub(crate) fin_taken: bool,
    /// An ACK must go out with the next transmission.
    pub(crate) ack_now: bool,
    /// Shift of our windows.
    pub(crate) scale: u8,
    /// Payload of the peer's full segments, as seen so far.
    pub(crate) mss: u16,
    /// Bytes that arrived since the last acknowledgement.
    pub(crate) unacked: u32,
    /// What the host would take.
    pub(crate) appetite: u32,
    /// What the window has grown to by tuning.
    pub(crate) tuned: u32,
    /// Sequence number whose arrival completes the window that is being measured, and when it began.
    pub(crate) mark: (Seq, Instant),
    /// A duplicate to be reported (RFC 2883): where it begins, and its length.
    pub(crate) duplicate: Option<(Seq, NonZeroU32)>,
    /// The last challenge ACK.
    pub(crate) challenged_at: Option<Instant>,
}

/// Timers of a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timers {
    /// Retransmission while something is under way, else window probe.
    pub(crate) retransmit: Timer,
    /// Delayed acknowledgement.
    pub(crate) ack: Timer,
    /// End of the connection attempt, or of an orphan's patience.
    pub(crate) life: Timer,
    /// The host's deadline.
    pub(crate) deadline: Timer,
}

impl Timers {
    const OFF: Timers =
        Timers { retransmit: Timer::OFF, ack: Timer::OFF, life: Timer::OFF, deadline: Timer::OFF };

    /// The first to run out of those that the wheel keeps: all but the delayed acknowledgement.
    pub(crate) fn first(&self) -> Timer {
        self.retransmit.min(self.life).min(self.deadline)
    }
}

/// One flow.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) key: FlowKey,
    pub(crate) link: LinkId,
    pub(crate) hop: Option<Mac>,
    /// For whom it is, if others began it.
    pub(crate) opened: Opened,
    /// A peer opened it, by returning our initial sequence number as a cookie.
    pub(crate) accepted: bool,
    pub(crate) iss: Seq,
    pub(crate) state: State,
    pub(crate) standing: Standing,
    pub(crate) pending: Pending,
    /// In the engine's event queue.
    pub(crate) reported: bool,
    /// In the engine's queue of delayed acknowledgements.
    pub(crate) ack_queued: bool,
    pub(crate) stamps: Option<Stamps>,
    pub(crate) sack: bool,
    pub(crate) send: SendSide,
    pub(crate) receive: ReceiveSide,
    pub(crate) recovery: Recovery,
    pub(crate) congestion: NewReno,
    pub(crate) rtt: RoundTrip,
    pub(crate) timers: Timers,
}

impl Connection {
    /// A flow that a returned cookie proves.
    pub(crate) fn accepted(
        now: Instant,
        key: FlowKey,
        link: LinkId,
        hop: Mac,
        agreed: &Agreed,
        link_mss: u16,
    ) -> Self {
        let mut flow = Connection::blank(now, key, link, Some(hop), agreed.iss, State::Established);
        flow.accepted = true;
        flow.agree(now, agreed, link_mss);
        flow
    }

    /// The node that began it, if one did.
    pub(crate) fn node(&self) -> Option<u16> {
        match self.opened {
            Opened::By(node) if self.accepted => Some(node),
            _ => None,
        }
    }

    /// Reads a field of every cache line; the number means nothing.
    #[inline]
    pub(crate) fn warm(&self) -> u64 {
        let Connection { key, send, receive, congestion, rtt, timers, .. } = self;
        let words = u64::from(send.una.0 ^ send.wl2.0 ^ receive.edge.0 ^ receive.queue.next().0);
        let times = send.progress_at.micros() ^ receive.mark.1.micros();
        let small = u64::from(send.mss ^ receive.mss ^ key.remote_port);
        let paces = u64::from(congestion.window()) ^ u64::from(rtt.backoffs());
        let running = u64::from(timers.retransmit.is_on()) ^ u64::from(timers.deadline.is_on());
        words ^ times ^ small ^ paces ^ running
    }

    /// A flow that we open; its SYN is to be sent.
    pub(crate) fn connecting(
        now: Instant,
        key: FlowKey,
        link: LinkId,
        hop: Option<Mac>,
        iss: Seq,
        clock: u32,
    ) -> Self {
        let mut flow = Connection::blank(now, key, link, hop, iss, State::SynSent);
        flow.send.probe = true;
        flow.standing = Standing::Reserved;
        flow.receive.tuned = TRUSTED_WINDOW;
        flow.stamps = Some(Stamps::starting(now, clock, 0));
        flow
    }

    fn blank(now: Instant, key: FlowKey, link: LinkId, hop: Option<Mac>, iss: Seq, state: State) -> Self {
        let first = iss + 1;
        Connection {
            key,
            link,
            hop,
            opened: Opened::To(ListenerId(0)),
            accepted: false,
            iss,
            state,
            standing: Standing::Stranger,
            pending: Pending::default(),
            reported: false,
            ack_queued: false,
            stamps: None,
            sack: false,
            send: SendSide {
                una: if state == State::SynSent { iss } else { first },
                nxt: first,
                end: first,
                wnd: 0,
                max_wnd: 0,
                wl1: Seq(0),
                wl2: first,
                chain: Chain::default(),
                mss: 536,
                scale: 0,
                fin_queued: false,
                orphan: false,
                probe: false,
                limited: false,
                wanted: false,
                stalled: false,
                timed: None,
                progress_at: now,
                sent_at: now,
            },
            receive: ReceiveSide {
                queue: Reassembly::new(Seq(0)),
                edge: Seq(0),
                acked: Seq(0),
                fin: None,
                fin_taken: false,
                ack_now: false,
                scale: 0,
                mss: 536,
                unacked: 0,
                appetite: u32::MAX,
                tuned: RECORD_WINDOW,
                mark: (Seq(0), now),
                duplicate: None,
                challenged_at: None,
            },
            recovery: Recovery::new(first),
            congestion: NewReno::new(536),
            rtt: RoundTrip::default(),
            timers: Timers::OFF,
        }
    }

    /// Takes over what both sides agreed on.
    pub(crate) fn agree(&mut self, now: Instant, agreed: &Agreed, link_mss: u16) {
        let next = agreed.irs + 1;
        self.receive.queue = Reassembly::new(next);
        self.receive.edge = next + u32::from(SYN_WINDOW);
        self.receive.acked = next;
        self.receive.scale = agreed.local_scale.min(14);
        self.receive.mark = (next + self.receive.tuned, now);
        self.send.una = agreed.iss + 1;
        self.send.scale = agreed.remote_scale.min(14);
        self.send.wl1 = agreed.irs;
        self.send.wl2 = self.send.una;
        self.sack = agreed.sack;
        self.stamps = agreed
            .timestamps
            .map(|AgreedTimestamps { recent, echoed }| Stamps::starting(now, echoed, recent));
        let overhead = if self.stamps.is_some() { TIMESTAMP_BYTES } else { 0 };
        self.send.mss = agreed.mss.min(link_mss).saturating_sub(overhead).max(MSS_MIN - TIMESTAMP_BYTES);
        self.congestion = NewReno::new(self.send.mss.into());
        self.recovery = Recovery::new(self.send.una);
    }

    /// RCV.NXT.
    pub(crate) fn rcv_nxt(&self) -> Seq {
        self.receive.queue.next() + u32::from(self.receive.fin_taken)
    }

    /// What is under way.
    pub(crate) fn flight(&self) -> Flight {
        Flight { una: self.send.una, nxt: self.send.nxt, mss: self.send.mss.into() }
    }

    /// Queued bytes that were never sent.
    pub(crate) fn unsent(&self) -> u32 {
        if self.send.nxt.before(self.send.end) { self.send.end - self.send.nxt } else { 0 }
    }

    /// Queued bytes that are not acknowledged.
    pub(crate) fn queued(&self) -> usize {
        let first = if self.state == State::SynSent { self.send.una + 1 } else { self.send.una };
        if first.before(self.send.end) { (self.send.end - first) as usize } else { 0 }
    }

    /// Bytes of buffer memory in use.
    pub(crate) fn buffered(&self) -> usize {
        self.send.chain.held() + self.receive.queue.held()
    }

    /// First sequence number of the send queue.
    pub(crate) fn queue_start(&self) -> Seq {
        self.send.end - self.queued() as u32
    }

    /// Bytes that the host may queue now. The last quarter of the pool is for what arrives: senders that wait for each
    /// other's acknowledgements must not use it up.
    pub(crate) fn space(&self, shared: &Shared) -> usize {
        if self.send.fin_queued || self.state == State::Closed {
            return 0;
        }
        let memory = shared.pool.left(SEND_SHARE) + self.send.chain.room(self.send.end);
        self.send_limit(shared).saturating_sub(self.queued()).min(memory)
    }

    /// Bytes that the send queue may hold. A queue of two congestion windows keeps the path full.
    pub(crate) fn send_limit(&self, shared: &Shared) -> usize {
        let wanted = (2 * self.congestion.window() as usize).max(SEND_QUEUE_MIN);
        wanted.min(shared.config.send_buffer)
    }

    /// Whether a transmission may find something to send; wrong only in saying yes too often.
    pub(crate) fn may_send(&self) -> bool {
        self.receive.ack_now
            || self.send.probe
            || (self.state.sends()
                && (self.unsent() > 0
                    || (self.send.fin_queued && !self.state.fin_sent())
                    || self.recovery.phase() != super::recovery::Phase::Open))
    }

    /// A router on the path forwards at most `mtu` bytes (RFC 1191, RFC 8201). Says whether the segment size became
    /// smaller. Sizes that no link has are refused (RFC 5927, section 7.2).
    pub(crate) fn path_mtu(&mut self, mtu: u16) -> bool {
        let (least, headers) = if self.key.remote.is_v4() { (576, 40) } else { (1280, 60) };
        let overhead = headers + if self.stamps.is_some() { TIMESTAMP_BYTES } else { 0 };
        if mtu < least || self.state == State::SynSent || mtu - overhead >= self.send.mss {
            return false;
        }
        self.send.mss = mtu - overhead;
        let flight = self.flight();
        self.recovery.cut_off(flight);
        true
    }

    /// Gives back everything that is borrowed.
    pub(crate) fn release(&mut self, shared: &mut Shared) {
        self.send.chain.clear(&mut shared.pool);
        self.receive.queue.release(&mut shared.pool, &mut shared.shelf);
        self.recovery.release(&mut shared.shelf);
    }
}
