//! `[limits]`: every number in its range, and the defaults.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;

use super::super::units::{Network, Size};
use super::super::{Diagnostic, Limits, file};
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
            per_listener_percent: self
                .percent(file.per_listener_percent.as_ref(), standard.per_listener_percent),
            source_per_minute: self.pace(file.source_per_minute.as_ref(), standard.source_per_minute),
            prefix_per_minute: self.pace(file.prefix_per_minute.as_ref(), standard.prefix_per_minute),
            sessions_per_second: self.pace(file.sessions_per_second.as_ref(), standard.sessions_per_second),
            source_bytes: self.pace_of_bytes(file.source_bytes.as_ref(), standard.source_bytes),
            prefix_bytes: self.pace_of_bytes(file.prefix_bytes.as_ref(), standard.prefix_bytes),
            friends: self.friends(file.friends.as_ref()),
            friends_percent: self.share(file.friends_percent.as_ref(), standard.friends_percent),
            known_percent: self.share(file.known_percent.as_ref(), standard.known_percent),
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

    /// A share that is kept: beside both of them there is room for others.
    fn share(&mut self, value: Option<&Spanned<i64>>, default: u32) -> u32 {
        u32::try_from(self.number(value, 0..=40, i64::from(default))).unwrap_or(default)
    }

    /// Sessions in a time; zero means any number.
    fn pace(&mut self, value: Option<&Spanned<i64>>, default: u32) -> u32 {
        u32::try_from(self.number(value, 0..=1_000_000, i64::from(default))).unwrap_or(default)
    }

    /// Bytes in a second; zero means any number.
    fn pace_of_bytes(&mut self, value: Option<&Spanned<Size>>, default: u32) -> u32 {
        let Some(size) = value else { return default };
        let (least, most) = (u64::from(Limits::BYTES_LEAST), u64::from(u32::MAX));
        let bytes = size.get_ref().0;
        if bytes > 0 && !(least..=most).contains(&bytes) {
            self.error(Diagnostic::error(
                size.span(),
                format!("{} a second is out of range", size.get_ref()),
                format!("expected {} to 4095 MiB, or \"0 B\" for any number", Size(least)),
            ));
        }
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// Friends are named one by one: nobody is a friend of half the Internet.
    fn friends(&mut self, value: Option<&Spanned<Vec<Network>>>) -> Vec<ipnet::IpNet> {
        let Some(value) = value else { return Vec::new() };
        let least = |net: &ipnet::IpNet| if net.addr().is_ipv4() { 16 } else { 32 };
        let networks: Vec<ipnet::IpNet> = value.get_ref().iter().map(|network| network.0).collect();
        if let Some(wide) = networks.iter().find(|net| net.prefix_len() < least(net)) {
            self.error(Diagnostic::error(
                value.span(),
                format!("{wide} is too wide for friends"),
                format!("expected /{} or longer", least(wide)),
            ));
        }
        networks
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
