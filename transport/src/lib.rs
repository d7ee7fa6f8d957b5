//! Drives the `fabrics` machines over real links.
