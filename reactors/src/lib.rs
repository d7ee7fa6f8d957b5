//! Per-core run-to-completion reactors.
