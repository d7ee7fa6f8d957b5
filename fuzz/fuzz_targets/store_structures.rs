//! See `pollux_fuzz::store_structures`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pollux_fuzz::store_structures(data));
