//! What can be done about a peer that gave a reason, and about which reasons what can be done.

use core::fmt;
use core::time::Duration;

use crate::verdict::Reason;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is noted, and passes.
    Log,
    /// The message waits until its minute is over, and the peer is not read meanwhile.
    Delay,
    /// The message is taken and thrown away.
    Drop,
    /// The session ends.
    Close,
    /// The session ends, and the peer's address is refused for so long.
    Ban(Duration),
}

impl Action {
    /// The word in a policy file, without a ban's time.
    pub const fn word(self) -> &'static str {
        match self {
            Action::Log => "log",
            Action::Delay => "delay",
            Action::Drop => "drop",
            Action::Close => "close",
            Action::Ban(_) => "ban",
        }
    }

    /// Whether it ends the session.
    pub const fn ends(self) -> bool {
        matches!(self, Action::Close | Action::Ban(_))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Ban(time) => write!(f, "ban {}s", time.as_secs()),
            _ => f.write_str(self.word()),
        }
    }
}

/// An action, and whether it is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// What is done.
    pub action: Action,
    /// It is only noted what would have been done.
    pub shadow: bool,
}

impl Response {
    /// As a node does it: it ends a session, but for what it merely refuses.
    pub(super) const fn usual(reason: Reason) -> Response {
        let action = match reason {
            Reason::BeyondPeak => Action::Log,
            _ => Action::Close,
        };
        Response { action, shadow: false }
    }

    /// How long the address is refused, if at all.
    pub fn ban(self) -> Option<Duration> {
        match self.action {
            Action::Ban(time) if !self.shadow => Some(time),
            _ => None,
        }
    }
}

/// The words of the actions that a reason can have, in a policy file. Where a message can be told from the next one, it can
/// be passed, dropped or delayed. Where bytes make no sense any more, time or memory has run out, or the reason is no
/// fault of the peer's that it could be let off, a session can only end.
pub fn fitting(reason: Reason) -> &'static [&'static str] {
    match reason {
        Reason::RateLimited => &["log", "delay", "drop", "close", "ban"],
        Reason::NotForThisSender
        | Reason::UnknownMessage
        | Reason::Unsolicited
        | Reason::WindowsUnexpected => &["log", "drop", "close", "ban"],
        Reason::BodyMalformed | Reason::Subscriptions | Reason::BeyondPeak => &["log", "close", "ban"],
        _ => &["close", "ban"],
    }
}

/// Whether a reason can have an action.
pub fn fits(reason: Reason, action: Action) -> bool {
    fitting(reason).contains(&action.word())
}

/// Whether a session can go on after it.
pub(super) fn is_passable(reason: Reason) -> bool {
    fits(reason, Action::Log)
}
