//! See `pollux_fuzz::tcp_target`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pollux_fuzz::tcp_target(data));
