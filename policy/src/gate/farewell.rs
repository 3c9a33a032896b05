//! What each side is told when a session ends: with the code that fits best and the text that a node would send, which says
//! nothing that the peer did not know. Nodes take every code alike.

use crate::tls::Failure;
use crate::verdict::Reason;
use crate::websocket::{CloseFrame, close_code};

/// The close frame for the peer. Texts are the error numbers that stock nodes send.
pub(super) fn to_peer(reason: Reason) -> CloseFrame {
    use Reason as R;
    let (code, text) = match reason {
        R::ChiaWrongNetwork => (close_code::PROTOCOL_ERROR, "110"),
        R::ChiaNoHandshake | R::ChiaBadHandshake | R::ChiaTimeout => (close_code::PROTOCOL_ERROR, "-6"),
        R::EnvelopeMalformed | R::UnknownMessage | R::WindowsUnexpected => (close_code::PROTOCOL_ERROR, "-4"),
        R::ChiaSecondHandshake | R::NotForThisSender | R::BodyMalformed => (close_code::PROTOCOL_ERROR, "1"),
        R::WsUnmasked
        | R::WsReservedBits
        | R::WsOpcode
        | R::WsLength
        | R::WsControl
        | R::WsContinuation
        | R::WsFragments
        | R::WsControlFlood => (close_code::PROTOCOL_ERROR, ""),
        R::WsTextFrame => (close_code::UNSUPPORTED, ""),
        R::WsTooLarge | R::MessageTooLarge => (close_code::TOO_BIG, ""),
        R::RateLimited | R::Subscriptions | R::BeyondPeak | R::Unsolicited | R::TooSlow | R::Stalled => {
            (close_code::POLICY_VIOLATION, "")
        }
        R::SlotsTaken
        | R::Displaced
        | R::NoNode
        | R::DialBusy
        | R::DialFailed
        | R::NodeTls
        | R::NodeUpgrade
        | R::NodeTimeout => (close_code::TRY_AGAIN_LATER, ""),
        R::NodeLost | R::NodeProtocol | R::NodeStalled | R::Aborted | R::Drained => {
            (close_code::GOING_AWAY, "")
        }
        _ => (close_code::NORMAL, ""),
    };
    CloseFrame::new(code, text)
}

/// Why TLS with the peer failed, as a session's reason.
pub(super) fn peer_tls(failure: Failure) -> Reason {
    match failure {
        Failure::Garbage => Reason::TlsGarbage,
        Failure::PlainHttp => Reason::PlainHttp,
        Failure::TooLarge => Reason::TlsTooLarge,
        Failure::Incompatible => Reason::TlsIncompatible,
        Failure::NoCertificate => Reason::TlsNoCertificate,
        Failure::Untrusted | Failure::WrongIdentity => Reason::TlsUntrusted,
        Failure::Expired => Reason::TlsExpired,
        Failure::BadCertificate => Reason::TlsBadCertificate,
        Failure::Protocol | Failure::Unexpected => Reason::TlsProtocol,
        Failure::Alert => Reason::TlsAlert,
        Failure::KeyUpdates => Reason::TlsKeyUpdates,
        Failure::Internal => Reason::Aborted,
    }
}
