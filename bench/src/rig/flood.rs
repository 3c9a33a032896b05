//! The flood: batches of ready-made frames through a packet socket, at most so many a second, for so long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hedgerow_dataplane::frame::BATCH;
use hedgerow_port::PacketSender;
use hedgerow_tests::rig::Namespace;
use hedgerow_tests::{Context, Outcome};

use super::{OUTSIDE, pin};

/// No flood lasts longer, whatever becomes of the one who started it.
const LONGEST: Duration = Duration::from_secs(120);

/// A running flood; it stops when dropped.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<Outcome>>,
}

impl Flood {
    /// Starts sending `frames`, over and over, through `device` of `namespace`, at most `per_second`.
    pub fn start(
        namespace: &Namespace,
        device: &str,
        frames: Arc<Vec<Vec<u8>>>,
        per_second: u32,
    ) -> Outcome<Self> {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopping, sending) = (stop.clone(), sent.clone());
        // Started from inside, so that the socket belongs to the namespace.
        let thread = namespace.enter(move || {
            let mut sender = PacketSender::open(device).context("the flood")?;
            Ok(thread::spawn(move || {
                pin(None, OUTSIDE)?;
                run(&mut sender, &frames, per_second, &stopping, &sending)
            }))
        })?;
        Ok(Flood { stop, sent, thread: Some(thread) })
    }

    /// Frames that the device took so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it; says how many frames the device took.
    pub fn end(mut self) -> Outcome<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the flood's thread")?;
        thread.join().map_err(|_| "the flood panicked".to_owned())??;
        Ok(self.sent())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(
    sender: &mut PacketSender,
    frames: &[Vec<u8>],
    per_second: u32,
    stop: &AtomicBool,
    sent: &AtomicU64,
) -> Outcome {
    let begin = Instant::now();
    let (mut due, mut at) = (0, 0);
    let mut batch: Vec<&[u8]> = Vec::with_capacity(BATCH);
    while !stop.load(Ordering::Relaxed) && begin.elapsed() < LONGEST {
        let now = (begin.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
        // A generator that stood still does not make up for more than ten milliseconds in one burst.
        due = due.max(now.saturating_sub(u64::from(per_second) / 100));
        if due >= now {
            thread::sleep(Duration::from_micros(50));
            continue;
        }
        batch.clear();
        let count = (now - due).min(BATCH as u64) as usize;
        batch.extend((0..count).map(|n| frames[(at + n) % frames.len()].as_slice()));
        let taken = sender.send(&batch).context("sending a flood")?;
        at = (at + taken) % frames.len();
        due += count as u64;
        sent.fetch_add(taken as u64, Ordering::Relaxed);
    }
    Ok(())
}
