//! What a SYN-ACK says, what of it the cookie has to carry, and what it means when it comes back.
//!
//! With timestamps the peer's exact options travel in the low bits of TSval. Without them three bits must do: the
//! peer's window scale is rounded down to one that stacks without timestamps use, which costs window but never overruns
//! the peer.

use super::cookie::Choice;
use crate::wire::{Address, Agreed, AgreedTimestamps, Found, Seq};

/// Our window scale, where the peer offers scaling.
pub(super) const WINDOW_SCALE: u8 = 8;
/// The window of a SYN-ACK, which is never scaled.
pub(super) const WINDOW: u16 = 8192;

/// Low bits of TSval that hold options: four of window scale, one of SACK.
const STAMP_BITS: u32 = 5;
/// No window scale offered; the largest one is 14 (RFC 7323, section 2.3).
const NO_SCALE: u32 = 15;
const SCALE_MAX: u8 = 14;

/// The profile that says: look into TSval.
const TIMESTAMPS: u8 = 1;

/// Bytes of IP and TCP header that an MSS does not count.
fn headers(v4: bool) -> u16 {
    if v4 { 40 } else { 60 }
}

/// The MSS that we announce on a link.
pub(super) fn own_mss(v4: bool, mtu: u16) -> u16 {
    mtu.saturating_sub(headers(v4))
}

/// Window scale and SACK of a profile without timestamps.
fn terms(profile: u8) -> (Option<u8>, bool) {
    match profile & 7 {
        2 => (None, true),
        3 => (Some(0), false),
        4 => (Some(0), true),
        5 => (Some(6), true),
        6 => (Some(7), true),
        7 => (Some(8), true),
        _ => (None, false),
    }
}

/// What a cookie says about the SYN's options. An MSS below the table's first entry counts as that: every host takes
/// datagrams of 576 bytes (RFC 1122, section 3.3.2) or 1280 (RFC 8200, section 5), and tiny segments are an attack.
pub(super) fn choose(offer: &Found, table: &[u16; 4]) -> Choice {
    let mss = offer.mss.unwrap_or(0);
    let mss = table.iter().rposition(|&entry| entry <= mss).unwrap_or(0);
    let profile = match (offer.timestamps, offer.window_scale, offer.sack_permitted) {
        (Some(_), _, _) => TIMESTAMPS,
        (None, None, false) => 0,
        (None, None, true) => 2,
        (None, Some(_), false) => 3,
        (None, Some(0..=5), true) => 4,
        (None, Some(6), true) => 5,
        (None, Some(7), true) => 6,
        (None, Some(8..), true) => 7,
    };
    Choice { mss: mss as u8, profile }
}

/// Our TSval: milliseconds of UTC from an offset that the 4-tuple decides, with the SYN's options in its low bits. The
/// clock loses nothing by that: it still never runs backwards.
pub(super) fn stamp(unix_ms: u64, offset: u32, offer: &Found) -> u32 {
    let clock = (unix_ms as u32).wrapping_add(offset);
    let scale = offer.window_scale.map_or(NO_SCALE, |scale| scale.min(SCALE_MAX).into());
    clock >> STAMP_BITS << STAMP_BITS | u32::from(offer.sack_permitted) << 4 | scale
}

/// What the handshake agreed on, by a cookie that came back with `timestamps`; `None` where it promised timestamps and
/// the segment has none (RFC 7323, section 3.2).
pub(super) fn agreed(
    choice: Choice,
    numbers: (Seq, Seq),
    timestamps: Option<(u32, u32)>,
    mss: u16,
) -> Option<Agreed> {
    let (iss, irs) = numbers;
    let (scale, sack, timestamps) = if choice.profile == TIMESTAMPS {
        let (recent, echoed) = timestamps?;
        let scale = Some(echoed & 0xf).filter(|&scale| scale != NO_SCALE).map(|scale| scale as u8);
        (scale, echoed >> 4 & 1 == 1, Some(AgreedTimestamps { recent, echoed }))
    } else {
        let (scale, sack) = terms(choice.profile);
        (scale, sack, None)
    };
    Some(Agreed {
        iss,
        irs,
        mss,
        remote_scale: scale.unwrap_or(0),
        local_scale: scale.map_or(0, |_| WINDOW_SCALE),
        sack,
        timestamps,
    })
}

/// The MSS that an entry of the table stands for on a link.
pub(super) fn mss(choice: Choice, table: &[u16; 4], remote: Address, mtu: u16) -> u16 {
    table[usize::from(choice.mss & 3)].min(own_mss(remote.is_v4(), mtu))
}
