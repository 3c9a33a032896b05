//! The validator of bodies: never a panic, and one judgement in any cutting.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hedgerow_tests::bodies::judge_consistently(data));
