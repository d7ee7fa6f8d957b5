//! What a head asks of a replica that takes long, in plain writes and reads: snapshots.
//!
//! The [`Errand`] is part of a call through the door; the [`Report`] is read from the block behind the answers. A replica runs
//! one errand at a time, and only for the head that is attached.

use uuid::Uuid;

use super::window::{DOOR_BYTES, part};

const REPORT_MAGIC: [u8; 8] = *b"PLXERRD1";
/// Longest name of a snapshot in bytes; the volume's own goes before it.
pub(super) const NAME_BYTES: usize = 63;
/// Where an errand lies in a call: behind what other calls have.
const AT: usize = 128;
/// Longest message of a failure.
const MESSAGE_BYTES: usize = 256;
/// Where snapshots lie in a report.
const LIST_AT: usize = 512;
const LIST_ENTRY_BYTES: usize = 96;
/// Most snapshots in one report.
pub(super) const LIST_MAX: usize = (DOOR_BYTES - LIST_AT) / LIST_ENTRY_BYTES;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ErrandKind {
    /// Whether it could take a snapshot of this name.
    Probe,
    /// To take one, unconfirmed.
    Take,
    /// To keep the unconfirmed one.
    Keep,
    /// To delete the unconfirmed one.
    Drop,
    /// To delete the one of this name, confirmed or not.
    Delete,
    /// To list them, from one number on.
    List { from: u32 },
}

impl ErrandKind {
    fn code(self) -> (u8, u32) {
        match self {
            Self::Probe => (0, 0),
            Self::Take => (1, 0),
            Self::Keep => (2, 0),
            Self::Drop => (3, 0),
            Self::Delete => (4, 0),
            Self::List { from } => (5, from),
        }
    }
}

/// What a head wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Errand {
    /// Never the same for two.
    pub(super) id: u64,
    pub(super) kind: ErrandKind,
    /// Identity of the moment.
    pub(super) moment: Uuid,
    /// Name of the snapshot.
    pub(super) name: String,
}

impl Errand {
    pub(super) fn encode(&self, bytes: &mut [u8; DOOR_BYTES]) {
        let (kind, from) = self.kind.code();
        bytes[AT..AT + 8].copy_from_slice(&self.id.to_le_bytes());
        bytes[AT + 8] = kind;
        bytes[AT + 12..AT + 16].copy_from_slice(&from.to_le_bytes());
        bytes[AT + 16..AT + 32].copy_from_slice(self.moment.as_bytes());
        put_text(&mut bytes[AT + 32..AT + 96], &self.name);
    }

    pub(super) fn decode(bytes: &[u8; DOOR_BYTES]) -> Option<Self> {
        let kind = match bytes[AT + 8] {
            0 => ErrandKind::Probe,
            1 => ErrandKind::Take,
            2 => ErrandKind::Keep,
            3 => ErrandKind::Drop,
            4 => ErrandKind::Delete,
            5 => ErrandKind::List { from: u32::from_le_bytes(part(bytes, AT + 12)) },
            _ => return None,
        };
        Some(Self {
            id: u64::from_le_bytes(part(bytes, AT)),
            kind,
            moment: Uuid::from_bytes(part(bytes, AT + 16)),
            name: text(&bytes[AT + 32..AT + 96])?,
        })
    }
}

/// Text with its length before it, cut to what fits.
fn put_text(into: &mut [u8], from: &str) {
    let mut len = from.len().min(into.len() - 1).min(usize::from(u8::MAX));
    while !from.is_char_boundary(len) {
        len -= 1;
    }
    into[0] = u8::try_from(len).unwrap_or(u8::MAX);
    into[1..=len].copy_from_slice(&from.as_bytes()[..len]);
}

fn text(from: &[u8]) -> Option<String> {
    let bytes = from.get(1..=usize::from(from[0]))?;
    Some(std::str::from_utf8(bytes).ok()?.to_owned())
}

/// Why an errand failed, for programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ErrandError {
    /// The replica does not lie on a volume of a store.
    NoStore,
    /// There is one of that name.
    Exists,
    /// There is none.
    Missing,
    /// Anything else: see the message.
    Other,
}

/// How an errand is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    Running,
    /// It is done; for a list, some of the snapshots, and how many there are in all.
    Done {
        list: Vec<Held>,
        total: u32,
    },
    Failed(ErrandError, String),
}

/// A snapshot of a replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Held {
    pub(super) name: String,
    /// The moment, as far as it can be told.
    pub(super) moment: Uuid,
    /// Whether a head has confirmed it.
    pub(super) confirmed: bool,
}

/// The last errand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Report {
    pub(super) id: u64,
    pub(super) progress: Progress,
}

impl Report {
    pub(super) fn encode(&self) -> [u8; DOOR_BYTES] {
        let mut bytes = [0; DOOR_BYTES];
        bytes[..8].copy_from_slice(&REPORT_MAGIC);
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        match &self.progress {
            Progress::Running => bytes[16] = 1,
            Progress::Done { list, total } => {
                bytes[16] = 2;
                bytes[18] = u8::try_from(list.len().min(LIST_MAX)).unwrap_or(u8::MAX);
                bytes[20..24].copy_from_slice(&total.to_le_bytes());
                for (held, at) in list.iter().zip(bytes[LIST_AT..].chunks_exact_mut(LIST_ENTRY_BYTES)) {
                    put_text(&mut at[..64], &held.name);
                    at[64..80].copy_from_slice(held.moment.as_bytes());
                    at[80] = u8::from(held.confirmed);
                }
            }
            Progress::Failed(error, message) => {
                bytes[16] = 3;
                bytes[17] = match error {
                    ErrandError::NoStore => 0,
                    ErrandError::Exists => 1,
                    ErrandError::Missing => 2,
                    ErrandError::Other => 3,
                };
                put_text(&mut bytes[32..32 + MESSAGE_BYTES], message);
            }
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8; DOOR_BYTES]) -> Option<Self> {
        let held = |at: &[u8]| {
            let (name, moment) = (text(&at[..64])?, Uuid::from_slice(&at[64..80]).ok()?);
            Some(Held { name, moment, confirmed: at[80] != 0 })
        };
        let progress = match bytes[16] {
            1 => Progress::Running,
            2 => Progress::Done {
                list: bytes[LIST_AT..]
                    .chunks_exact(LIST_ENTRY_BYTES)
                    .take(usize::from(bytes[18]))
                    .map(held)
                    .collect::<Option<_>>()?,
                total: u32::from_le_bytes(part(bytes, 20)),
            },
            3 => {
                let error = match bytes[17] {
                    0 => ErrandError::NoStore,
                    1 => ErrandError::Exists,
                    2 => ErrandError::Missing,
                    _ => ErrandError::Other,
                };
                Progress::Failed(error, text(&bytes[32..32 + MESSAGE_BYTES])?)
            }
            _ => return None,
        };
        (bytes[..8] == REPORT_MAGIC).then(|| Self { id: u64::from_le_bytes(part(bytes, 8)), progress })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_read_back_as_they_were_written_and_nonsense_is_none() {
        let held = |number: usize| Held {
            name: format!("{}{number:02}", "n".repeat(61)),
            moment: Uuid::from_u128(number as u128),
            confirmed: number.is_multiple_of(2),
        };
        let list: Vec<Held> = (0..LIST_MAX).map(held).collect();
        for progress in [
            Progress::Running,
            Progress::Done { list, total: 1000 },
            Progress::Failed(ErrandError::Exists, "there is one".to_owned()),
        ] {
            let report = Report { id: u64::MAX - 1, progress };
            assert_eq!(Report::decode(&report.encode()), Some(report));
        }
        assert_eq!(Report::decode(&[0; DOOR_BYTES]), None);
        let failed = Report { id: 1, progress: Progress::Failed(ErrandError::Other, "é".repeat(300)) };
        let Some(Progress::Failed(_, message)) =
            Report::decode(&failed.encode()).map(|report| report.progress)
        else {
            panic!("it failed");
        };
        assert_eq!(message, "é".repeat(127), "as much as fits");
        let mut torn = Report { id: 1, progress: Progress::Running }.encode();
        torn[0] ^= 1;
        assert_eq!(Report::decode(&torn), None);
    }
}
