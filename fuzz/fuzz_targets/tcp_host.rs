//! See `pollux_fuzz::tcp_host`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pollux_fuzz::tcp_host(data));
