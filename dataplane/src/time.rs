//! Time as the dataplane sees it: a monotonic [`Instant`] that the host passes into every call.
//!
//! Nothing in this crate asks the operating system for the time.

use core::fmt;
use core::num::NonZeroU64;
use core::ops::{Add, AddAssign, Sub};
use core::time::Duration;

/// A point on the host's monotonic clock, in microseconds since an origin that the host chose.
///
/// Kept as one more than that, so that an `Option` of it takes no more room: a flow holds several.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(NonZeroU64);

impl Instant {
    /// The origin of the clock.
    pub const ZERO: Instant = Instant(NonZeroU64::MIN);

    /// The instant `micros` microseconds after the origin; the last one is half a million years away.
    #[inline]
    pub const fn from_micros(micros: u64) -> Self {
        Instant(NonZeroU64::MIN.saturating_add(micros))
    }

    /// The instant `millis` milliseconds after the origin.
    pub const fn from_millis(millis: u64) -> Self {
        Instant::from_micros(millis.saturating_mul(1_000))
    }

    /// Microseconds since the origin.
    #[inline]
    pub const fn micros(self) -> u64 {
        self.0.get() - 1
    }

    /// Whole milliseconds since the origin.
    #[inline]
    pub const fn millis(self) -> u64 {
        self.micros() / 1_000
    }

    /// Time passed since `earlier`; zero if `earlier` is later.
    #[inline]
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_micros(self.0.get().saturating_sub(earlier.0.get()))
    }
}

impl Default for Instant {
    fn default() -> Self {
        Instant::ZERO
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(rhs.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, rhs: Duration) {
        *self = *self + rhs;
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;
    fn sub(self, rhs: Instant) -> Duration {
        self.since(rhs)
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.micros() / 1_000_000, self.micros() % 1_000_000)
    }
}
