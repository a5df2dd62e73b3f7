//! See `gossip::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gossip::fuzzing::control(bytes));
