//! `[cores]`: which cores poll the ports, and what stands beside them.

use std::time::Duration;

use toml::Spanned;

use super::super::file::CoreChoice;
use super::super::{Cores, Diagnostic, Limits, file};
use super::Lowering;

/// A shard with fewer connections or less memory for them than this serves nobody well.
const FLOWS_LEAST: usize = 16;
const BUFFERS_LEAST: u64 = 1 << 20;
/// Threads for cryptographic steps, at most.
const WORKERS: i64 = 64;

impl Lowering<'_> {
    pub(super) fn cores(&mut self, file: file::Cores, limits: &Limits) -> Cores {
        let standard = Cores::default();
        let dataplane = file.dataplane.as_ref().and_then(|choice| self.dataplane(choice, limits));
        let seconds = Duration::from_secs;
        Cores {
            dataplane,
            poll: file.poll.unwrap_or_default(),
            workers: self.number(file.workers.as_ref(), 0..=WORKERS, 0) as usize,
            watchdog: self.period(file.watchdog.as_ref(), seconds(2)..=seconds(600), standard.watchdog),
            stuck: file.stuck.unwrap_or_default(),
        }
    }

    fn dataplane(&mut self, choice: &Spanned<CoreChoice>, limits: &Limits) -> Option<Vec<usize>> {
        let cores = match choice.get_ref() {
            CoreChoice::Auto => return None,
            CoreChoice::Number(core) => vec![*core],
            CoreChoice::List(cores) => cores.clone(),
        };
        let mut wrong = |title: String, expected: String| {
            self.error(Diagnostic::error(choice.span(), title, expected));
        };
        let twin = cores.iter().enumerate().find(|(place, core)| cores[..*place].contains(core));
        if cores.is_empty() {
            wrong("no core polls the ports".into(), "expected at least one core, or \"auto\"".into());
        } else if cores.len() > Cores::SHARDS {
            wrong(
                format!("{} cores are too many", cores.len()),
                format!("expected {} at most", Cores::SHARDS),
            );
        } else if let Some((_, core)) = twin {
            wrong(format!("core {core} is named twice"), "expected each core once: it has one shard".into());
        } else if limits.flows / cores.len() < FLOWS_LEAST {
            let least = FLOWS_LEAST * cores.len();
            wrong(
                format!("{} connections are too few for {} shards", limits.flows, cores.len()),
                format!("expected `limits.flows` to be {least} at least, or fewer cores"),
            );
        } else if limits.buffer_memory / (cores.len() as u64) < BUFFERS_LEAST {
            wrong(
                format!("too little memory for {} shards", cores.len()),
                format!("expected `limits.buffer_memory` to be {} MiB at least, or fewer cores", cores.len()),
            );
        }
        Some(cores)
    }
}
