//! The simulation of the TCP engine over many seeds. `SEEDS=1000` or `SEEDS=17..40` says which; `SEED=17` repeats one and
//! tells about it; with `TRACE=1` it shows every frame.

use hedgerow_lab::{seeds, tcp_world};

/// How many seeds an ordinary test run takes: some twenty seconds.
const SEEDS: u64 = 1_000;

#[test]
fn streams_survive_every_seed() {
    let mut failures = Vec::new();
    let (mut whole, mut bytes, mut retransmissions, mut too_big, mut overtaken) = (0, 0, 0, 0, 0);
    let seeds = seeds::from_environment(SEEDS);
    for seed in seeds.clone() {
        // A panic inside is a failure of its seed, not of the whole run.
        match std::panic::catch_unwind(|| tcp_world::run(seed)) {
            Ok(Ok(report)) => {
                whole += report.whole;
                bytes += report.bytes;
                retransmissions += report.retransmissions;
                too_big += report.traffic.too_big;
                overtaken += report.overtaken;
                if seeds.end - seeds.start == 1 {
                    println!("{report:#?}");
                }
            }
            Ok(Err(failure)) => failures.push(failure.to_string()),
            Err(_) => failures.push(format!("seed {seed}: panicked")),
        }
    }
    println!(
        "{whole} connections, {bytes} bytes compared, {retransmissions} retransmissions, {too_big} packets too big, {overtaken} overtaken"
    );
    let count = failures.len();
    assert!(
        failures.is_empty(),
        "{count} of {seeds:?} failed; repeat one with SEED=n:\n{}",
        failures.join("\n")
    );
    assert!(whole > 0 && bytes > 0, "nothing was compared");
}

#[test]
fn a_seed_repeats_itself_frame_by_frame() {
    for seed in [3, 4] {
        let (one, two) = (tcp_world::run(seed), tcp_world::run(seed));
        assert_eq!(one, two);
        assert!(one.is_ok_and(|report| report.traffic.to_device > 0));
    }
    let fingerprint = |seed| tcp_world::run(seed).map(|report| report.fingerprint);
    assert_ne!(fingerprint(3), fingerprint(4));
}
