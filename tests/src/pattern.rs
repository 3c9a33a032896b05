//! Bytes whose every position is known from a seed, so that a stream is compared exactly while it passes and a
//! difference is named by its offset.

use std::io::{ErrorKind, Read, Write};

use crate::check::{Context, Outcome, ensure};

const CHUNK: usize = 64 * 1024;

/// Writes the bytes from position `at` of the stream named by `seed`.
pub fn fill(seed: u64, at: u64, into: &mut [u8]) {
    let mut position = at;
    let mut rest = into;
    while !rest.is_empty() {
        let word = mix(seed.wrapping_add(position / 8)).to_le_bytes();
        let piece = &word[(position % 8) as usize..];
        let take = piece.len().min(rest.len());
        let (now, later) = rest.split_at_mut(take);
        now.copy_from_slice(&piece[..take]);
        position += take as u64;
        rest = later;
    }
}

/// The finaliser of SplitMix64: every bit of the input touches every bit of the output.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Sends the first `count` bytes of a stream.
pub fn send(to: &mut impl Write, seed: u64, count: u64) -> Outcome {
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < count {
        let piece = CHUNK.min((count - at) as usize);
        fill(seed, at, &mut buffer[..piece]);
        to.write_all(&buffer[..piece]).context(format_args!("sending at {at} of {count}"))?;
        at += piece as u64;
    }
    Ok(())
}

/// Receives bytes `from..to` of a stream and compares each.
pub fn expect_range(stream: &mut impl Read, seed: u64, from: u64, to: u64) -> Outcome {
    let mut got = vec![0; CHUNK];
    let mut want = vec![0; CHUNK];
    let mut at = from;
    while at < to {
        let room = CHUNK.min((to - at) as usize);
        let count = stream.read(&mut got[..room]).context(format_args!("receiving at {at} of {to}"))?;
        ensure(count > 0, || format!("the stream ended at {at} of {to}"))?;
        fill(seed, at, &mut want[..count]);
        if let Some(wrong) = (0..count).find(|&index| got[index] != want[index]) {
            return Err(format!(
                "byte {} is {:#04x}, not {:#04x}",
                at + wrong as u64,
                got[wrong],
                want[wrong]
            ));
        }
        at += count as u64;
    }
    Ok(())
}

/// Receives the first `count` bytes of a stream and compares each.
pub fn expect(stream: &mut impl Read, seed: u64, count: u64) -> Outcome {
    expect_range(stream, seed, 0, count)
}

/// The other side has finished: no byte is left.
pub fn expect_end(stream: &mut impl Read) -> Outcome {
    match stream.read(&mut [0; 1]).context("waiting for the end")? {
        0 => Ok(()),
        _ => Err("a byte came after the end".into()),
    }
}

/// The other side has reset the connection: an end in order is not enough.
pub fn expect_reset(stream: &mut impl Read) -> Outcome {
    let mut buffer = vec![0; CHUNK];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Err("the connection ended in order instead of by a reset".into()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(format!("waiting for a reset: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_up_the_whole() {
        let mut whole = vec![0; 100];
        fill(7, 0, &mut whole);
        for cut in 0..100 {
            let mut piece = vec![0; 100 - cut];
            fill(7, cut as u64, &mut piece);
            assert_eq!(piece, whole[cut..]);
        }
    }

    #[test]
    fn a_difference_is_found_and_named() {
        let mut stream = vec![0; 1000];
        fill(1, 0, &mut stream);
        assert_eq!(expect(&mut stream.as_slice(), 1, 1000), Ok(()));
        stream[613] ^= 1;
        let failure = expect(&mut stream.as_slice(), 1, 1000).expect_err("one byte differs");
        assert!(failure.starts_with("byte 613 "), "{failure}");
        assert!(expect(&mut &stream[..600], 1, 1000).is_err(), "too short");
    }
}
