//! Reads the whole discovery log, in pages, all of one generation (base 2.1 §5.1.12.3.1).
//!
//! The log may change while it is read: the header is read again at the end, and everything anew when its generation
//! counter is not the one the reading began with.

use nvme::admin::GetLogPage;
use nvme::discovery::{DiscoveryEntry, DiscoveryHeader};
use nvme::log::lid;
use zerocopy::FromBytes;

use super::{Payload, Request};

/// Entries read with one command: 16 KiB, which every controller can transfer at once.
const ENTRIES_PER_PAGE: u64 = 16;

/// Most entries a log may have here: a bound on what a hostile controller makes us hold (4 MiB).
const ENTRIES_MAX: u64 = 4096;

/// Times that a log may change under the reading before that is given up.
const RESTARTS_MAX: u32 = 8;

/// Why the log could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The controller answered a read with an error.
    #[error("the discovery controller answered {0:?}")]
    Status(nvme::Status),
    /// The controller sent less data than a page.
    #[error("the discovery controller sent {bytes} bytes instead of a page")]
    Short {
        /// Bytes it sent.
        bytes: usize,
    },
    /// Record format other than 0.
    #[error("record format {0} of the discovery log is unknown")]
    Format(u16),
    /// More entries than anyone can have.
    #[error("the discovery log has {0} entries")]
    TooMany(u64),
    /// The log changed every time it was read.
    #[error("the discovery log never stands still")]
    Unstable,
}

/// What comes next.
#[derive(Clone, PartialEq, Debug)]
pub enum DiscoveryStep {
    /// Send this, and give its completion to [`DiscoveryReader::on_completed`].
    Send(Request),
    /// The log is read: its generation and entries.
    Done {
        /// Generation counter of the log.
        generation: u64,
        /// Its entries.
        entries: Vec<DiscoveryEntry>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Header,
    Entries { generation: u64, count: u64 },
    Check { generation: u64 },
}

/// Whether the reading may go from one state to the other.
#[rustfmt::skip]
const fn is_legal(from: State, to: State) -> bool {
    use State::{Check, Entries, Header};
    matches!((from, to),
        (Header,         Entries { .. })
      | (Header,         Check { .. })
      | (Entries { .. }, Entries { .. })
      | (Entries { .. }, Check { .. })
      | (Check { .. },   Header)
    )
}

/// Reads one discovery log.
#[derive(Clone, Debug)]
pub struct DiscoveryReader {
    state: State,
    entries: Vec<DiscoveryEntry>,
    restarts: u32,
    lsp: u8,
}

impl DiscoveryReader {
    /// A reading with this log specific parameter ([`nvme::discovery::lsp`]), and its first command.
    pub fn new(lsp: u8) -> (Self, Request) {
        let reader = Self { state: State::Header, entries: Vec::new(), restarts: 0, lsp };
        let request = reader.header();
        (reader, request)
    }

    fn read(&self, bytes: u32, offset: u64) -> Request {
        let command = GetLogPage { lsp: self.lsp, ..GetLogPage::new(lid::DISCOVERY, bytes, offset) };
        Request { sqe: command.to_sqe(0), data: Payload::FromController(bytes as usize) }
    }

    fn header(&self) -> Request {
        self.read(u32::try_from(DiscoveryHeader::SIZE).unwrap_or(0), 0)
    }

    fn advance(&mut self, to: State) {
        assert!(is_legal(self.state, to), "illegal transition {:?} to {to:?}", self.state);
        self.state = to;
    }

    /// The command sent last completed with this status and data.
    ///
    /// # Errors
    /// The log cannot be read: [`DiscoveryError`] says why.
    pub fn on_completed(
        &mut self,
        status: nvme::Status,
        data: &[u8],
    ) -> Result<DiscoveryStep, DiscoveryError> {
        if !status.is_success() {
            return Err(DiscoveryError::Status(status));
        }
        match self.state {
            State::Header => self.on_header(data),
            State::Entries { generation, count } => self.on_entries(data, generation, count),
            State::Check { generation } => self.on_check(data, generation),
        }
    }

    fn on_header(&mut self, data: &[u8]) -> Result<DiscoveryStep, DiscoveryError> {
        let header = header_of(data)?;
        if header.recfmt.get() != 0 {
            return Err(DiscoveryError::Format(header.recfmt.get()));
        }
        let (generation, count) = (header.genctr.get(), header.numrec.get());
        if count > ENTRIES_MAX {
            return Err(DiscoveryError::TooMany(count));
        }
        self.entries.clear();
        Ok(self.next_page(generation, count))
    }

    /// Asks for the next entries, or for the header again when there are no more.
    fn next_page(&mut self, generation: u64, count: u64) -> DiscoveryStep {
        let have = self.entries.len() as u64;
        debug_assert!(have <= count);
        if have == count {
            self.advance(State::Check { generation });
            return DiscoveryStep::Send(self.header());
        }
        self.advance(State::Entries { generation, count });
        let entries = (count - have).min(ENTRIES_PER_PAGE);
        let bytes = u32::try_from(entries * DiscoveryEntry::SIZE as u64).unwrap_or(u32::MAX);
        let offset = DiscoveryHeader::SIZE as u64 + have * DiscoveryEntry::SIZE as u64;
        DiscoveryStep::Send(self.read(bytes, offset))
    }

    fn on_entries(
        &mut self,
        data: &[u8],
        generation: u64,
        count: u64,
    ) -> Result<DiscoveryStep, DiscoveryError> {
        let wanted = (count - self.entries.len() as u64).min(ENTRIES_PER_PAGE);
        let before = self.entries.len();
        let (entries, _) = data.as_chunks::<{ DiscoveryEntry::SIZE }>();
        let wanted_entries = usize::try_from(wanted).unwrap_or(0);
        let read = entries
            .iter()
            .take(wanted_entries)
            .filter_map(|bytes| DiscoveryEntry::read_from_bytes(bytes).ok());
        self.entries.extend(read);
        if self.entries.len() - before != wanted_entries {
            return Err(DiscoveryError::Short { bytes: data.len() });
        }
        Ok(self.next_page(generation, count))
    }

    fn on_check(&mut self, data: &[u8], generation: u64) -> Result<DiscoveryStep, DiscoveryError> {
        if header_of(data)?.genctr.get() == generation {
            return Ok(DiscoveryStep::Done { generation, entries: std::mem::take(&mut self.entries) });
        }
        self.restarts += 1;
        if self.restarts > RESTARTS_MAX {
            return Err(DiscoveryError::Unstable);
        }
        self.advance(State::Header);
        self.on_header(data)
    }
}

fn header_of(data: &[u8]) -> Result<&DiscoveryHeader, DiscoveryError> {
    DiscoveryHeader::ref_from_prefix(data)
        .map(|(header, _)| header)
        .map_err(|_| DiscoveryError::Short { bytes: data.len() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvme::Status;
    use zerocopy::IntoBytes;

    /// A log that changes its generation as told, and answers reads of any part of it.
    fn log(generation: u64, entries: u16) -> Vec<u8> {
        let header = DiscoveryHeader {
            genctr: generation.into(),
            numrec: u64::from(entries).into(),
            ..DiscoveryHeader::default()
        };
        let mut bytes = header.as_bytes().to_vec();
        for portid in 0..entries {
            bytes.extend(DiscoveryEntry { portid: portid.into(), ..DiscoveryEntry::default() }.as_bytes());
        }
        bytes
    }

    fn serve(request: &Request, log: &[u8]) -> Vec<u8> {
        let command = GetLogPage::from(&request.sqe);
        assert_eq!(command.lid, lid::DISCOVERY);
        let start = usize::try_from(command.lpo).unwrap();
        let len = usize::try_from(command.data_bytes()).unwrap();
        assert_eq!(request.data, Payload::FromController(len));
        log[start..start + len].to_vec()
    }

    fn read(mut logs: impl Iterator<Item = Vec<u8>>) -> Result<(u64, Vec<u16>), DiscoveryError> {
        let (mut reader, mut request) = DiscoveryReader::new(0);
        for _ in 0..1000 {
            let data = serve(&request, &logs.next().unwrap());
            match reader.on_completed(Status::SUCCESS, &data)? {
                DiscoveryStep::Send(next) => request = next,
                DiscoveryStep::Done { generation, entries } => {
                    return Ok((generation, entries.iter().map(|entry| entry.portid.get()).collect()));
                }
            }
        }
        panic!("the reading never ends");
    }

    #[test]
    fn a_log_is_read_whole_page_by_page() {
        for count in [0, 1, 16, 17, 100] {
            let (generation, ports) = read(std::iter::repeat(log(5, count))).unwrap();
            assert_eq!((generation, ports), (5, (0..count).collect()));
        }
    }

    #[test]
    fn a_log_that_changes_is_read_again() {
        let logs = std::iter::repeat_n(log(1, 20), 3).chain(std::iter::repeat(log(2, 3)));
        assert_eq!(read(logs).unwrap(), (2, vec![0, 1, 2]));
    }

    #[test]
    fn a_log_that_never_stands_still_is_given_up() {
        assert_eq!(read((0..).map(|generation| log(generation, 0))), Err(DiscoveryError::Unstable));
    }

    #[test]
    fn a_controller_that_lies_is_refused() {
        let (mut reader, _) = DiscoveryReader::new(0);
        let mut header = log(1, 0);
        header[14] = 1;
        assert_eq!(reader.on_completed(Status::SUCCESS, &header), Err(DiscoveryError::TooMany(1 << 48)));
        assert_eq!(
            reader.on_completed(Status::SUCCESS, &header[..9]),
            Err(DiscoveryError::Short { bytes: 9 })
        );
        assert_eq!(
            reader.on_completed(Status::INVALID_LOG_PAGE, &[]),
            Err(DiscoveryError::Status(Status::INVALID_LOG_PAGE))
        );
    }
}
