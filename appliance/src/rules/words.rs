//! The words of a policy file, once for the reader and for the JSON Schema.

/// What can stand at the top.
pub(super) const TOP: &[&str] = &[
    "version",
    "quotas",
    "schema",
    "interiors",
    "in_flight",
    "subscriptions",
    "hold",
    "min_rate",
    "message",
    "reason",
    "scope",
    "friends",
    "lists",
    "slots",
];

/// What can be said for everybody and for a scope.
pub(super) const LAYER: &[&str] =
    &["interiors", "in_flight", "subscriptions", "hold", "min_rate", "message", "reason"];

/// What can be said of a scope beside.
pub(super) const SCOPE: &[&str] = &["name", "listener", "type", "source", "version", "friend"];

/// What can be said of a message.
pub(super) const MESSAGE: &[&str] = &["from_peer", "to_peer", "action", "shadow"];

/// What can be said of a direction.
pub(super) const LIMIT: &[&str] = &["per_minute", "bytes_per_minute", "size"];

/// What can be said of a reason.
pub(super) const REASON: &[&str] = &["action", "shadow"];

/// What can be said of friends.
pub(super) const FRIENDS: &[&str] = &["ids", "networks"];

/// What can be said of quotas; the configuration's `[limits]` holds for the rest.
pub(super) const QUOTAS: &[&str] = &[
    "per_source",
    "per_24",
    "per_16_percent",
    "v6_64",
    "v6_48",
    "source_per_minute",
    "prefix_per_minute",
    "sessions_per_second",
    "source_bytes",
    "prefix_bytes",
];

/// Whether a quota is of bytes a second.
pub(super) fn counts_bytes(quota: &str) -> bool {
    matches!(quota, "source_bytes" | "prefix_bytes")
}

/// The range of a quota.
pub(super) fn quota(word: &str) -> Range {
    match word {
        "per_16_percent" => Range { least: 1, most: 100 },
        "source_per_minute" | "prefix_per_minute" | "sessions_per_second" => {
            Range { least: 0, most: 1_000_000 }
        }
        _ if counts_bytes(word) => Range { least: 0, most: u32::MAX.into() },
        _ => Range { least: 1, most: 1_000_000 },
    }
}

/// The lists.
pub(super) const LISTS: &[&str] = &["deny", "allow"];

/// How flaws inside blocks are judged.
pub(super) const INTERIORS: &[&str] = &["shadow", "enforce"];

/// Networks of a scope at most: each is looked at when a session begins.
pub(super) const SOURCES_MAX: usize = 64;

/// Friends at most, by identity and by network each.
pub(super) const FRIENDS_MAX: usize = 256;

/// A whole number and its range.
pub(super) struct Range {
    pub(super) least: i64,
    pub(super) most: i64,
}

/// Messages in a minute.
pub(super) const PER_MINUTE: Range = Range { least: 0, most: 1_000_000 };
/// Expensive requests of a peer in the works.
pub(super) const IN_FLIGHT: Range = Range { least: 1, most: 64 };
/// Puzzle hashes and coins that a peer may ask to be told of.
pub(super) const SUBSCRIPTIONS: Range = Range { least: 0, most: 100_000_000 };
/// Slots.
pub(super) const SLOTS: Range = Range { least: 0, most: 1_000_000 };
/// Bytes of one body.
pub(super) const SIZE: Range = Range { least: 0, most: 64 << 20 };
/// Bytes in a minute.
pub(super) const BYTES_PER_MINUTE: Range = Range { least: 0, most: 1 << 40 };
/// Bytes that are held of a message.
pub(super) const HOLD: Range = Range { least: 64 << 10, most: 16 << 20 };
/// Bytes a second that a peer has to manage.
pub(super) const MIN_RATE: Range = Range { least: 0, most: 16 << 20 };
/// Seconds of a ban.
pub(super) const BAN_SECONDS: Range = Range { least: 1, most: 366 * 86_400 };
