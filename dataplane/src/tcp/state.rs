//! The states of RFC 9293, section 3.3.2, their transitions, and the outcomes that a segment can have.
//!
//! LISTEN and SYN-RECEIVED do not exist here: passive opens are cookies, held by nobody. TIME-WAIT is no state of a flow
//! either: it lives in a table of its own, which needs a tenth of the memory.

use crate::Reason;

/// State of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// We sent SYN.
    SynSent,
    /// Both directions are open.
    Established,
    /// We sent FIN.
    FinWait1,
    /// Our FIN is acknowledged.
    FinWait2,
    /// The peer sent FIN.
    CloseWait,
    /// Both sent FIN, ours is not acknowledged; the peer's came second.
    Closing,
    /// Both sent FIN, ours is not acknowledged; the peer's came first.
    LastAck,
    /// Over on the wire. What was received can still be read.
    Closed,
}

impl State {
    /// Whether the peer's data is still to come.
    pub(crate) fn receives(self) -> bool {
        matches!(self, State::Established | State::FinWait1 | State::FinWait2)
    }

    /// Whether data of ours may be sent or sent again.
    pub(crate) fn sends(self) -> bool {
        !matches!(self, State::SynSent | State::FinWait2 | State::Closed)
    }

    /// Whether our FIN has been sent.
    pub(crate) fn fin_sent(self) -> bool {
        matches!(self, State::FinWait1 | State::FinWait2 | State::Closing | State::LastAck)
    }

    /// Whether our FIN is under way: sent and not acknowledged.
    pub(crate) fn fin_in_flight(self) -> bool {
        matches!(self, State::FinWait1 | State::Closing | State::LastAck)
    }

    /// After our FIN was sent.
    pub(crate) fn after_fin_sent(self) -> State {
        match self {
            State::Established => State::FinWait1,
            State::CloseWait => State::LastAck,
            other => other,
        }
    }

    /// After our FIN was acknowledged.
    pub(crate) fn after_fin_acked(self) -> Step {
        match self {
            State::FinWait1 => Step::To(State::FinWait2),
            State::Closing => Step::TimeWait,
            State::LastAck => Step::Closed,
            other => Step::To(other),
        }
    }

    /// After the peer's FIN was received in order.
    pub(crate) fn after_fin_received(self) -> Step {
        match self {
            State::Established => Step::To(State::CloseWait),
            State::FinWait1 => Step::To(State::Closing),
            State::FinWait2 => Step::TimeWait,
            other => Step::To(other),
        }
    }
}

/// Where a FIN or its acknowledgement leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// On to a state.
    To(State),
    /// Both sides are done and we closed first or at the same time: the 4-tuple rests.
    TimeWait,
    /// Both sides are done and the peer closed first.
    Closed,
}

/// What a segment did to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was processed.
    Taken,
    /// It was refused.
    Dropped(Reason),
    /// It was refused, and whatever connection it belongs to gets a reset (RFC 9293, section 3.5.2, group 2).
    Repelled(Reason),
    /// It was processed and both sides are done; the 4-tuple rests in TIME-WAIT.
    TimeWait,
    /// It ended the flow without a word from us.
    Closed(Reason),
    /// It ended the flow, and the peer is told by a reset.
    Reset(Reason),
}
