//! Wire formats of NVMe, NVMe over Fabrics and NVMe/TCP. Formats only: no I/O, no state, no allocation.
#![forbid(unsafe_code)]
