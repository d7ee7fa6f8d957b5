//! Which copies are damaged of what lies on the device twice. Nothing is lost with one; opening writes them all anew.

use super::format::{CheckpointHeader, DiskSuperblock, Layout, LogHeader, Records};
use super::open::Media;
use super::recover::{payload, payload_copy};
use super::{BLOCK_BYTES, Block};

/// Copies that do not hold what they should. What power cut short is not among them: a block of the log counts only
/// when a later one tells that it was on the media, a header that was never written is empty.
pub(crate) fn damaged(
    media: &mut impl Media,
    layout: &Layout,
    header: &CheckpointHeader,
    log_end: u64,
) -> Vec<Block> {
    let mut damaged = Vec::new();
    let mut bytes = [0; BLOCK_BYTES];
    for block in [Block(0), layout.data_end()] {
        if media.read(block, &mut bytes).is_err() || DiskSuperblock::decode(&bytes).is_err() {
            damaged.push(block);
        }
    }
    for block in layout.headers(header.seq) {
        let unread = media.read(block, &mut bytes).is_err();
        if unread || bytes != [0; BLOCK_BYTES] && CheckpointHeader::decode(&bytes).is_err() {
            damaged.push(block);
        }
    }
    damaged.extend(of_payload(media, layout, header).into_iter().flatten());
    damaged.extend(of_log(media, layout, header, log_end));
    damaged
}

fn of_payload(media: &mut impl Media, layout: &Layout, header: &CheckpointHeader) -> Option<Vec<Block>> {
    let whole = payload(media, header, layout)?;
    let mut damaged = Vec::new();
    for copy in 0..2 {
        let found = payload_copy(media, header, layout, copy)?;
        let differs = (0..).zip(found.iter().zip(&whole)).filter(|(_, (found, whole))| found != whole);
        damaged.extend(differs.map(|(index, _)| layout.payload(header.seq, index)[copy]));
    }
    Some(damaged)
}

fn of_log(media: &mut impl Media, layout: &Layout, header: &CheckpointHeader, end: u64) -> Vec<Block> {
    let (mut missing, mut committed) = (Vec::new(), 0);
    let mut bytes = [0; BLOCK_BYTES];
    for position in header.log_position..end {
        for copy in 0..layout.log_copies() {
            let block = layout.log(position, copy);
            let read = media.read(block, &mut bytes).is_ok();
            match Records::decode(&bytes).ok().filter(|_| read) {
                Some((found, _)) if belongs(&found, header, position) => {
                    committed = committed.max(found.committed)
                }
                _ => missing.push((position, block)),
            }
        }
    }
    missing.retain(|(position, _)| *position < committed);
    missing.into_iter().map(|(_, block)| block).collect()
}

fn belongs(found: &LogHeader, header: &CheckpointHeader, position: u64) -> bool {
    found.incarnation == header.incarnation && found.position == position
}
