//! Tells what happens: a line for each event, a line of figures in between (in place on a terminal), a balance at the end.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use hedgerow_dataplane::Instant;

use crate::subject::Sample;
use crate::summary::{Options, Summary};

/// Width of a bar in the balance.
const BAR: usize = 28;
/// Good peers told one by one before only figures follow.
const TOLD: u32 = 12;

/// The narrator. Silent where JSON is wanted.
pub(crate) struct Story<'a> {
    out: &'a mut dyn Write,
    silent: bool,
    terminal: bool,
    /// A line of figures stands at the bottom of the terminal.
    standing: bool,
    told: u32,
    failed: io::Result<()>,
}

impl<'a> Story<'a> {
    pub(crate) fn new(options: &Options, out: &'a mut dyn Write) -> Self {
        Story {
            out,
            silent: options.json,
            terminal: options.terminal,
            standing: false,
            told: 0,
            failed: Ok(()),
        }
    }

    /// Whether the output could not be written: nobody listens any more.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.failed
    }

    fn write(&mut self, text: &str) {
        if !self.silent && self.failed.is_ok() {
            self.failed = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        }
    }

    fn line(&mut self, text: &str) {
        let clear = if std::mem::take(&mut self.standing) { "\r\x1b[K" } else { "" };
        self.write(&format!("{clear}{text}\n"));
    }

    fn style(&self, code: &str, text: &str) -> String {
        if self.terminal { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn title(&mut self, options: &Options, service: impl std::fmt::Display) {
        let name = self.style("1", "hedgerow lab");
        let (seed, seconds) = (options.seed, options.seconds);
        self.line(&format!(
            "{name}: one Hedgerow, one node, and the Internet, in {seconds} virtual seconds (seed {seed})"
        ));
        self.line(&format!(
            "The node has no public address. Peers come to {service}; so does everybody else."
        ));
        self.line("");
    }

    pub(crate) fn event(&mut self, now: Instant, mark: Mark, text: &str) {
        let (sign, code) = match mark {
            Mark::Good => ("+", "32"),
            Mark::Attack => ("!", "33"),
            Mark::Refused => ("x", "2"),
            Mark::Bad => ("#", "1;31"),
        };
        let sign = self.style(code, sign);
        self.line(&format!("{} {sign} {text}", clock(now)));
    }

    pub(crate) fn ready(&mut self, now: Instant, peer: u32, from: std::net::IpAddr, after: Duration) {
        self.told += 1;
        if self.told <= TOLD {
            let text = format!(
                "peer {peer} from {from}: certificate, upgrade, handshake; node reached in {}",
                ms(after)
            );
            self.event(now, Mark::Good, &text);
        } else if self.told == TOLD + 1 {
            self.event(now, Mark::Good, "more good peers come and go; see the figures");
        }
    }

    pub(crate) fn figures(&mut self, now: Instant, sample: &Sample, held: usize) {
        let data = &sample.dataplane;
        let text = format!(
            "{} = {} peers, {} messages; {} frames, {} refused; strangers: {}",
            clock(now),
            sample.sessions,
            grouped(sample.messages_forwarded),
            grouped(data.frames_in),
            grouped(data.reasons.total()),
            bytes(held),
        );
        if self.terminal {
            let text = self.style("36", &text);
            // Without wrapping: a line that is cut is still one line.
            self.write(&format!("\r\x1b[K\x1b[?7l{text}\x1b[?7h"));
            self.standing = !self.silent;
        } else {
            self.line(&text);
        }
    }

    pub(crate) fn balance(&mut self, summary: &Summary) {
        self.line("");
        let heading = self.style("1", "What came of it");
        self.line(&heading);
        self.line(&format!(
            "  good peers        {} served, {} let down; node reached in {:.0} ms (median), {:.0} ms (slowest)",
            summary.sessions_ok, summary.sessions_failed, summary.session_ms_median, summary.session_ms_worst
        ));
        self.line(&format!(
            "  messages          {} passed between peers and node",
            grouped(summary.messages_forwarded)
        ));
        self.line(&format!(
            "  frames            {} in, {} out; at most {} flows at a time",
            grouped(summary.frames_in),
            grouped(summary.frames_out),
            summary.flows_peak
        ));
        self.line(&format!(
            "  memory            {} at most for strangers, {} for whoever is on the way in, {} in all",
            bytes(summary.stranger_bytes),
            bytes(summary.unfinished_bytes),
            bytes(summary.buffer_bytes_peak)
        ));
        self.line(&format!(
            "  node              {} connections reached it without a good handshake",
            summary.node_unproven
        ));
        self.table("Thrown at it", &summary.attacks);
        self.table("Frames and flows refused or ended, by reason", &summary.frames_refused);
        self.table("Sessions refused or ended, by reason", &summary.sessions_ended);
        self.line("");
        self.line(&format!(
            "Repeat with --seed {}: the same frames, fingerprint {}.",
            summary.seed,
            &summary.fingerprint[..16.min(summary.fingerprint.len())]
        ));
    }

    fn table(&mut self, title: &str, rows: &BTreeMap<&'static str, u64>) {
        if rows.is_empty() {
            return;
        }
        self.line("");
        let title = self.style("1", title);
        self.line(&title);
        let mut rows: Vec<(&str, u64)> = rows.iter().map(|(name, count)| (*name, *count)).collect();
        rows.sort_by_key(|&(name, count)| (std::cmp::Reverse(count), name));
        let most = rows.first().map_or(1, |(_, count)| *count).max(1);
        for (name, count) in rows {
            // Logarithmic: a flood of thousands beside the one who came once.
            let scale = ((count + 1) as f64).ln() / ((most + 1) as f64).ln();
            let bar = "=".repeat(((scale * BAR as f64) as usize).max(1));
            self.line(&format!("  {name:<22} {:>9}  {bar}", grouped(count)));
        }
    }
}

/// What kind of event a line tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Good,
    Attack,
    Refused,
    Bad,
}

fn clock(now: Instant) -> String {
    format!("{:>6.2} s", now.micros() as f64 / 1e6)
}

fn ms(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

fn bytes(count: usize) -> String {
    match count {
        0..=9_999 => format!("{count} bytes"),
        10_000..=9_999_999 => format!("{} KiB", count / 1_024),
        _ => format!("{} MiB", count / (1 << 20)),
    }
}

/// A number with its thousands set apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(
            ["0", "999", "1,000", "1,234,567"],
            [0, 999, 1_000, 1_234_567].map(grouped).each_ref().map(String::as_str)
        );
        assert_eq!([bytes(0), bytes(20_480), bytes(33_554_432)], ["0 bytes", "20 KiB", "32 MiB"]);
    }
}
