//! See `libp2p_quinn::fuzzing::endpoints`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| libp2p_quinn::fuzzing::endpoints(data));
