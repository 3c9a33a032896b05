//! What a shard takes at its start, per connection that it may hold: the figure that documents and `hedgerow check` state.

use hedgerow::assemble::FLOW_BYTES;
use hedgerow_dataplane::Instant;
use hedgerow_dataplane::admit::Limits;
use hedgerow_dataplane::screen::{Master, ScreenConfig};
use hedgerow_dataplane::shard::{Config, Exchange, ExchangeConfig, Shard, ShardIndex};
use hedgerow_dataplane::tcp::EngineConfig;

fn config(flows: usize) -> Config {
    Config {
        links: Vec::new(),
        listeners: Vec::new(),
        admit: Limits { flows: flows as u32, ..Limits::default() },
        engine: EngineConfig { flows, time_waits: flows, ..EngineConfig::default() },
        screen: ScreenConfig::default(),
        cookie_secret: Master([1; 32]),
        seed: [2; 32],
        index: ShardIndex::default(),
        exchange: None,
        egress: None,
    }
}

/// Bytes that stay allocated.
fn kept<T>(make: impl FnOnce() -> T) -> usize {
    let mut made = None;
    let counted = allocation_counter::measure(|| made = Some(make()));
    drop(made);
    usize::try_from(counted.bytes_current).expect("something was kept")
}

#[test]
fn a_shard_takes_no_more_per_connection_than_is_stated() {
    let size = |flows| kept(|| Shard::new(&config(flows), Instant::ZERO));
    // Powers of two, so that tables are neither rounded up nor down between them.
    let (few, many) = (size(1 << 14), size(1 << 17));
    let each = (many - few) / ((1 << 17) - (1 << 14));
    println!("{each} bytes per connection, {} KiB besides", (few - each * (1 << 14)) / 1_024);
    assert!((64..=FLOW_BYTES).contains(&each), "{each} bytes per connection");
}

#[test]
fn an_exchange_takes_what_it_says() {
    let size = |shards| ExchangeConfig { shards, flows: 1 << 16, frame_bytes: vec![2_048; 2], seed: [3; 32] };
    for shards in [2, 4, 64] {
        let (said, kept) = (size(shards).bytes(), kept(|| Exchange::new(&size(shards), Box::new(|_| {}))));
        // Handles and queue slots come on top.
        assert!(kept >= said * 9 / 10 && kept < said * 11 / 10 + (1 << 16), "{kept} for {said}");
    }
}
