//! How a head talks to a replica, in plain reads and writes.
//!
//! The blocks of a replica are seen through windows. Window 0 is the door: the head writes a [`Call`] there, and reads the
//! [`Answer`]s. Being accepted gives the head a window of its own, in which the device's blocks lie: data first, in the
//! second half the pages of the write-intent bitmap. When another head is accepted, or the same one anew, the window changes, and what was
//! sent to the one before is refused, wherever it is on its way. So fencing needs nothing of the connections between them:
//! every single command carries its attachment.
//!
//! A flush names no blocks, so it is called through the door.

use std::ops::Range;

use nvme::Lba;
use uuid::Uuid;

use super::errand::Errand;
use crate::volume::format::Content;
use crate::volume::{Epoch, HeadId, Lineage, Session};

/// Bytes of a call and of the answers.
pub(super) const DOOR_BYTES: usize = 4096;
/// Logical blocks of a window: its first half is 128 TiB of 4 KiB.
const WINDOW_SHIFT: u32 = 36;
/// Where the metadata lies in a window: the data has the half before.
pub(super) const METADATA: u64 = 1 << (WINDOW_SHIFT - 1);
/// Windows, the door included. Numbers are used in turn, so that one comes again only after all others.
pub(super) const WINDOWS: u16 = 1 << 12;
/// Answers that are kept: one for each head that may ask at a time, with room to spare.
pub(super) const ANSWERS_MAX: usize = 16;

const CALL_MAGIC: [u8; 8] = *b"PLXCALL1";
const ANSWER_MAGIC: [u8; 8] = *b"PLXANSW1";
const ANSWER_BYTES: usize = 64;
/// Where the lineage lies behind all answers.
const LINEAGE_AT: usize = 64 + ANSWERS_MAX * ANSWER_BYTES;

/// Capacity of a replica's device in logical blocks, all windows together.
pub(crate) const BLOCKS: u64 = (WINDOWS as u64) << WINDOW_SHIFT;

/// The address of a block in a window.
pub(super) fn lba(window: u16, block: u64) -> Lba {
    Lba(u64::from(window) << WINDOW_SHIFT | block)
}

/// The window and the blocks within that a range of addresses lies in, when it is one window.
pub(super) fn split(blocks: &Range<u64>) -> Option<(u16, Range<u64>)> {
    let window = blocks.start >> WINDOW_SHIFT;
    if blocks.is_empty() {
        return None;
    }
    let last = (blocks.end - 1) >> WINDOW_SHIFT;
    let base = window << WINDOW_SHIFT;
    (window == last)
        .then(|| (u16::try_from(window).unwrap_or(u16::MAX), blocks.start - base..blocks.end - base))
}

/// What a head asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ask {
    /// To be accepted.
    Fence { epoch: Epoch, sound: bool },
    /// That its lease be renewed.
    Renew { sound: bool, mapped: bool },
    /// That its lease end.
    Release,
    /// That the device be flushed.
    Flush,
    /// That it store whose bits it shares.
    Adopt { lineage: Lineage },
    /// Something that takes long: its end is read from the block behind the answers.
    Errand(Errand),
    /// That it say whether it has room for so many bytes, or store that hosts see as many.
    Grow { bytes: u64, store: bool },
}

/// Written to the door.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Call {
    pub(super) volume: Uuid,
    pub(super) session: Session,
    pub(super) ask: Ask,
}

impl Call {
    pub(super) fn encode(&self) -> [u8; DOOR_BYTES] {
        let mut bytes = [0; DOOR_BYTES];
        bytes[..8].copy_from_slice(&CALL_MAGIC);
        bytes[8..24].copy_from_slice(self.volume.as_bytes());
        bytes[24..40].copy_from_slice(&self.session.head.0.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.session.number.to_le_bytes());
        let none = Lineage::NONE;
        let (kind, epoch, (sound, mapped), lineage) = match &self.ask {
            Ask::Fence { epoch, sound } => (0, *epoch, (*sound, false), none),
            Ask::Renew { sound, mapped } => (1, Epoch(0), (*sound, *mapped), none),
            Ask::Release => (2, Epoch(0), (false, false), none),
            Ask::Flush => (3, Epoch(0), (false, false), none),
            Ask::Adopt { lineage } => (4, Epoch(0), (false, false), *lineage),
            Ask::Errand(errand) => {
                errand.encode(&mut bytes);
                (5, Epoch(0), (false, false), none)
            }
            // The bytes lie where the epoch does otherwise.
            Ask::Grow { bytes, store } => (6, Epoch(*bytes), (*store, false), none),
        };
        (bytes[44], bytes[45], bytes[46]) = (kind, u8::from(sound), u8::from(mapped));
        bytes[48..56].copy_from_slice(&epoch.0.to_le_bytes());
        put_lineage(&mut bytes, 64, lineage);
        bytes
    }

    pub(super) fn decode(bytes: &[u8; DOOR_BYTES]) -> Option<Self> {
        let sound = bytes[45] != 0;
        let ask = match bytes[44] {
            0 => Ask::Fence { epoch: Epoch(u64::from_le_bytes(part(bytes, 48))), sound },
            1 => Ask::Renew { sound, mapped: bytes[46] != 0 },
            2 => Ask::Release,
            3 => Ask::Flush,
            4 => Ask::Adopt { lineage: lineage(bytes, 64) },
            5 => Ask::Errand(Errand::decode(bytes)?),
            6 => Ask::Grow { bytes: u64::from_le_bytes(part(bytes, 48)), store: sound },
            _ => return None,
        };
        let session = Session {
            head: HeadId(u128::from_le_bytes(part(bytes, 24))),
            number: u32::from_le_bytes(part(bytes, 40)),
        };
        (bytes[..8] == CALL_MAGIC).then(|| Self { volume: Uuid::from_bytes(part(bytes, 8)), session, ask })
    }
}

pub(super) fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}

fn put_lineage(bytes: &mut [u8], at: usize, lineage: Lineage) {
    bytes[at..at + 16].copy_from_slice(&lineage.head.0.to_le_bytes());
    bytes[at + 16..at + 20].copy_from_slice(&lineage.number.to_le_bytes());
}

fn lineage(bytes: &[u8], at: usize) -> Lineage {
    let head = HeadId(u128::from_le_bytes(part(bytes, at)));
    Lineage { head, number: u32::from_le_bytes(part(bytes, at + 16)) }
}

/// What became of a fence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Accepted { window: u16, sound: bool, content: Content },
    Later { ns: u64 },
    Superseded,
}

/// An answer to the fence of one attachment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    pub(super) session: Session,
    pub(super) verdict: Verdict,
}

/// What is read from the door.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Answers {
    pub(super) volume: Uuid,
    /// Bytes that hosts see.
    pub(super) bytes: u64,
    pub(super) region_bytes: u32,
    pub(super) epoch: Epoch,
    /// Whose bits it shares.
    pub(super) lineage: Lineage,
    /// Blocks of metadata in front of the data.
    pub(super) front: u32,
    /// Bytes that hosts could see, as large as the device is now.
    pub(super) room: u64,
    pub(super) list: Vec<Answer>,
}

impl Answers {
    pub(super) fn encode(&self) -> [u8; DOOR_BYTES] {
        let mut bytes = [0; DOOR_BYTES];
        bytes[..8].copy_from_slice(&ANSWER_MAGIC);
        bytes[8..24].copy_from_slice(self.volume.as_bytes());
        bytes[24..32].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.region_bytes.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.epoch.0.to_le_bytes());
        put_lineage(&mut bytes, LINEAGE_AT, self.lineage);
        bytes[36..40].copy_from_slice(&self.front.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.room.to_le_bytes());
        for (answer, at) in self.list.iter().take(ANSWERS_MAX).zip(bytes[64..].chunks_exact_mut(ANSWER_BYTES))
        {
            at[..16].copy_from_slice(&answer.session.head.0.to_le_bytes());
            at[16..20].copy_from_slice(&answer.session.number.to_le_bytes());
            let (kind, sound, window, ns, content) = match answer.verdict {
                Verdict::Accepted { window, sound, content } => (1, sound, window, 0, content.to_byte()),
                Verdict::Later { ns } => (2, false, 0, ns, 0),
                Verdict::Superseded => (3, false, 0, 0, 0),
            };
            (at[20], at[21], at[32]) = (kind, u8::from(sound), content);
            at[22..24].copy_from_slice(&window.to_le_bytes());
            at[24..32].copy_from_slice(&ns.to_le_bytes());
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8; DOOR_BYTES]) -> Option<Self> {
        let answer = |at: &[u8]| {
            let verdict = match at[20] {
                1 => Verdict::Accepted {
                    window: u16::from_le_bytes(part(at, 22)),
                    sound: at[21] != 0,
                    content: Content::from_byte(at[32]),
                },
                2 => Verdict::Later { ns: u64::from_le_bytes(part(at, 24)) },
                3 => Verdict::Superseded,
                _ => return None,
            };
            let head = HeadId(u128::from_le_bytes(part(at, 0)));
            let session = Session { head, number: u32::from_le_bytes(part(at, 16)) };
            Some(Answer { session, verdict })
        };
        (bytes[..8] == ANSWER_MAGIC).then(|| Self {
            volume: Uuid::from_bytes(part(bytes, 8)),
            bytes: u64::from_le_bytes(part(bytes, 24)),
            region_bytes: u32::from_le_bytes(part(bytes, 32)),
            epoch: Epoch(u64::from_le_bytes(part(bytes, 40))),
            lineage: lineage(bytes, LINEAGE_AT),
            front: u32::from_le_bytes(part(bytes, 36)),
            room: u64::from_le_bytes(part(bytes, 48)),
            list: bytes[64..64 + ANSWERS_MAX * ANSWER_BYTES]
                .chunks_exact(ANSWER_BYTES)
                .filter_map(answer)
                .collect(),
        })
    }

    pub(super) fn of(&self, session: Session) -> Option<Verdict> {
        self.list.iter().find(|answer| answer.session == session).map(|answer| answer.verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::super::errand::ErrandKind;
    use super::*;

    const SESSION: Session = Session { head: HeadId(u128::MAX - 1), number: 9 };

    #[test]
    fn calls_and_answers_read_back_as_they_were_written() {
        let volume = Uuid::from_u128(5);
        for ask in [
            Ask::Fence { epoch: Epoch(77), sound: true },
            Ask::Renew { sound: false, mapped: true },
            Ask::Release,
            Ask::Flush,
            Ask::Adopt { lineage: Lineage { head: HeadId(u128::MAX - 9), number: 7 } },
            Ask::Errand(Errand { id: 77, kind: ErrandKind::Keep, moment: volume, name: "monday".to_owned() }),
            Ask::Grow { bytes: 1 << 42, store: true },
        ] {
            let call = Call { volume, session: SESSION, ask };
            assert_eq!(Call::decode(&call.encode()), Some(call));
        }
        assert_eq!(Call::decode(&[0; DOOR_BYTES]), None);
        let verdicts = [
            Verdict::Accepted { window: 4095, sound: true, content: Content::Partial },
            Verdict::Later { ns: 12 },
            Verdict::Superseded,
        ];
        let list = (0..)
            .zip(verdicts)
            .map(|(number, verdict)| Answer { session: Session { number, ..SESSION }, verdict });
        let answers = Answers {
            volume,
            bytes: 1 << 40,
            region_bytes: 1 << 20,
            epoch: Epoch(3),
            lineage: Lineage { head: HeadId(u128::MAX - 2), number: 5 },
            front: 256,
            room: 1 << 41,
            list: list.collect(),
        };
        assert_eq!(Answers::decode(&answers.encode()).as_ref(), Some(&answers));
        assert_eq!(answers.of(Session { number: 1, ..SESSION }), Some(Verdict::Later { ns: 12 }));
        assert_eq!(answers.of(SESSION), None);
    }

    #[test]
    fn addresses_lie_in_one_window_or_in_none() {
        let at = lba(7, 100).get();
        assert_eq!(split(&(at..at + 8)), Some((7, 100..108)));
        let end = lba(8, 0).get();
        assert_eq!(split(&(end - 1..end)), Some((7, (1 << WINDOW_SHIFT) - 1..1 << WINDOW_SHIFT)));
        assert_eq!(split(&(end - 1..end + 1)), None);
        assert_eq!(split(&(5..5)), None);
    }
}
