//! fio's structures, generated from its headers by the build script.
#![allow(
    missing_docs,
    unused,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unsafe_op_in_unsafe_fn,
    unreachable_pub,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

include!(concat!(env!("OUT_DIR"), "/fio.rs"));
