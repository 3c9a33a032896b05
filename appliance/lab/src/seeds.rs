//! Which seeds a simulation test takes: `SEEDS=1000` or `SEEDS=17..40` says how many or which, `SEED=17` repeats one.

use std::ops::Range;

/// The seeds that the environment asks for, or `0..default`.
///
/// # Panics
/// If the environment asks for something that is no number: a test had better say so than take other seeds.
pub fn from_environment(default: u64) -> Range<u64> {
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("a number instead of `{text}`"));
    if let Ok(seed) = std::env::var("SEED") {
        let seed = number(&seed);
        return seed..seed + 1;
    }
    match std::env::var("SEEDS") {
        Ok(text) => match text.split_once("..") {
            Some((from, to)) => number(from)..number(to),
            None => 0..number(&text),
        },
        Err(_) => 0..default,
    }
}
