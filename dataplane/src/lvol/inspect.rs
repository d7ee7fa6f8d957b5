//! Reads a store without opening it, for people.

use crate::store::{Contents, Limits, Media, OpenError, contents};

/// Reads what the store on a device says of itself, as the last records of its log left it, writing nothing.
///
/// # Errors
/// When there is none, or its metadata cannot be read.
pub fn dump(media: &mut impl Media) -> Result<Contents, OpenError> {
    contents(media, Limits::default())
}
