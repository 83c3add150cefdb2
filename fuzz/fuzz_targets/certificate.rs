//! See `libp2p_quinn::fuzzing::certificate`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| libp2p_quinn::fuzzing::certificate(data));
