//! `[limits]` and `[messages]`: every number in its range, and the defaults.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;

use super::super::units::Size;
use super::super::{Diagnostic, Limits, Messages, file};
use super::Lowering;

impl Lowering<'_> {
    pub(super) fn limits(&mut self, file: file::Limits) -> Limits {
        let standard = Limits::default();
        let seconds = Duration::from_secs;
        Limits {
            flows: self.count(file.flows.as_ref(), 16..=1_000_000, standard.flows),
            per_source: self.quota(file.per_source.as_ref(), standard.per_source),
            per_24: self.quota(file.per_24.as_ref(), standard.per_24),
            per_16_percent: self.percent(file.per_16_percent.as_ref(), standard.per_16_percent),
            v6_64: self.quota(file.v6_64.as_ref(), standard.v6_64),
            v6_48: self.quota(file.v6_48.as_ref(), standard.v6_48),
            handshakes_in_flight: self
                .quota(file.handshakes_in_flight.as_ref(), standard.handshakes_in_flight),
            handshake_timeout: self.period(
                file.handshake_timeout.as_ref(),
                seconds(1)..=seconds(60),
                standard.handshake_timeout,
            ),
            buffer_memory: self.memory(file.buffer_memory.as_ref(), 1 << 20, standard.buffer_memory),
            // One message of the largest kind must fit.
            message_memory: self.memory(file.message_memory.as_ref(), 16 << 20, standard.message_memory),
            work_queue: self.count(file.work_queue.as_ref(), 1..=65_536, standard.work_queue),
            events: self.count(file.events.as_ref(), 0..=65_536, standard.events),
        }
    }

    pub(super) fn messages(&mut self, file: file::Messages) -> Messages {
        let standard = Messages::default();
        Messages {
            schema: file.schema,
            interiors: file.interiors.unwrap_or_default(),
            in_flight: self.count(file.in_flight.as_ref(), 1..=64, standard.in_flight),
        }
    }

    fn count(&mut self, value: Option<&Spanned<i64>>, range: RangeInclusive<i64>, default: usize) -> usize {
        let number = self.number(value, range, i64::try_from(default).unwrap_or(i64::MAX));
        usize::try_from(number).unwrap_or(default)
    }

    fn quota(&mut self, value: Option<&Spanned<i64>>, default: u32) -> u32 {
        u32::try_from(self.number(value, 1..=1_000_000, i64::from(default))).unwrap_or(default)
    }

    fn percent(&mut self, value: Option<&Spanned<i64>>, default: u32) -> u32 {
        u32::try_from(self.number(value, 1..=100, i64::from(default))).unwrap_or(default)
    }

    fn memory(&mut self, value: Option<&Spanned<Size>>, least: u64, default: u64) -> u64 {
        let Some(size) = value else { return default };
        if !(least..=1 << 40).contains(&size.get_ref().0) {
            self.error(Diagnostic::error(
                size.span(),
                format!("{} is out of range", size.get_ref()),
                format!("expected {} to 1024 GiB", Size(least)),
            ));
        }
        size.get_ref().0
    }
}
