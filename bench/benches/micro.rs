//! Micro figures with criterion: the small steps that every frame or message pays for.
//! `cargo bench -p hedgerow-bench --bench micro`

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hedgerow_bench::world::{BOX, LINK, PEER, SERVICE, shard, syn_frame, wire};
use hedgerow_dataplane::Instant;
use hedgerow_dataplane::frame::{Batch, Meta, Pool, Port};
use hedgerow_dataplane::shard::Accept;
use hedgerow_dataplane::wire::{
    self, Address, BuildRules, Flags, FlowKey, LinkRules, Mac, Options, Outgoing, Seq,
};
use hedgerow_policy::chia::{Handshake, NodeType};
use hedgerow_policy::identity::Fleet;
use hedgerow_policy::session::PeerId;
use hedgerow_policy::tls::ca::Authority;
use hedgerow_policy::websocket::apply_mask;

fn frames(criterion: &mut Criterion) {
    let rules = LinkRules { mac: Mac(BOX.1), vlan: None, mtu: 1500, resets: true };
    let syn = syn_frame();
    criterion
        .bench_function("parse a SYN", |b| b.iter(|| wire::parse(black_box(&syn), &Meta::default(), &rules)));

    let payload = [7; 1448];
    let segment = Outgoing {
        key: FlowKey {
            local: Address::from_v4(BOX.0),
            remote: Address::from_v4(PEER.0),
            local_port: SERVICE,
            remote_port: 40_000,
        },
        link: LINK,
        hop: None,
        seq: Seq(1),
        ack: Seq(2),
        flags: Flags::ACK,
        window: 512,
        options: Options { timestamps: Some((1, 2)), ..Options::default() },
        payload: [&payload[..], &[]].into(),
        segment: 0,
    };
    let mut frame = vec![0; 1514];
    let mut group = criterion.benchmark_group("segment of 1448 bytes");
    group.throughput(Throughput::Bytes(1448));
    group.bench_function("build", |b| {
        b.iter(|| {
            wire::build_tcp(black_box(&mut frame), &segment, Mac(PEER.1), Mac(BOX.1), &BuildRules::default())
        });
    });
    group.bench_function("parse", |b| b.iter(|| wire::parse(black_box(&frame), &Meta::default(), &rules)));
    group.finish();
}

fn strangers(criterion: &mut Criterion) {
    let (mut port, _) = wire();
    let mut shard = shard(BOX, port.abilities(), Accept::ClientHello);
    let syn = syn_frame();
    let (mut rx, mut tx) = (Batch::new(), Batch::new());
    criterion.bench_function("SYN to SYN-ACK through a shard", |b| {
        b.iter(|| {
            let Some(mut frame) = port.allocate() else { return };
            port.resize(&mut frame, syn.len());
            port.bytes_mut(&mut frame).copy_from_slice(&syn);
            let _ = rx.push(frame, Meta::default());
            shard.ingest(Instant::from_millis(1), LINK, &mut port, &mut rx, &mut tx);
            for (frame, _) in tx.drain(1) {
                port.release(frame);
            }
        });
    });
}

fn messages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("16 KiB");
    group.throughput(Throughput::Bytes(16 << 10));
    group.bench_function("unmask", |b| {
        b.iter_batched_ref(
            || vec![1_u8; 16 << 10],
            |bytes| apply_mask(black_box(bytes), [1, 2, 3, 4], 1),
            BatchSize::SmallInput,
        );
    });
    group.finish();
    let body = Handshake::new("mainnet", NodeType::FullNode, 8444).encode();
    criterion.bench_function("decode a handshake", |b| b.iter(|| Handshake::decode(black_box(&body))));
    let fleet = Fleet::new(&[7; 32], &Authority::chia().expect("the network's CA")).expect("a fleet");
    criterion.bench_function("derive an identity", |b| b.iter(|| fleet.identity(black_box(PeerId([1; 32])))));
}

criterion_group!(micro, frames, strangers, messages);
criterion_main!(micro);
