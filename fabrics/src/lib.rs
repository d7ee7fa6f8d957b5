//! Sans-IO state machines of NVMe over Fabrics, host and target: bytes and `now` in, effects out.
#![forbid(unsafe_code)]
