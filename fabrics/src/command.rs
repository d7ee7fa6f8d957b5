//! What passes between a protocol machine and the code that runs commands: time, buffers, command tokens, results.

use nvme::Status;

/// A point in time: nanoseconds since an origin that the driver chooses and never moves. Time is always an argument.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Now(pub u64);

impl Now {
    /// Later than anything: "no deadline".
    pub const NEVER: Self = Self(u64::MAX);

    /// This point plus `ns` nanoseconds; saturates at [`Now::NEVER`].
    #[inline]
    #[must_use]
    pub const fn after_ns(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// Nanoseconds from `earlier` to this point; zero when `earlier` is not earlier.
    #[inline]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Nanoseconds in a millisecond; the unit of most time-outs of NVMe.
pub const NS_PER_MS: u64 = 1_000_000;
/// Nanoseconds in a second.
pub const NS_PER_S: u64 = 1_000_000_000;

/// Data of one command: `len` bytes that may lie in several parts.
pub trait IoBuffer {
    /// Length in bytes.
    fn len(&self) -> usize;

    /// Whether there is no byte at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies `bytes` to `offset..offset + bytes.len()`, which lies within the buffer.
    fn copy_in(&mut self, offset: usize, bytes: &[u8]);

    /// The longest contiguous part starting at `offset`: never empty while `offset < len`.
    fn part(&self, offset: usize) -> &[u8];

    /// The same part, to write. Only for a buffer that data comes into.
    fn part_mut(&mut self, offset: usize) -> &mut [u8];
}

/// The simplest buffer, for tests, simulation and slow paths.
impl IoBuffer for Vec<u8> {
    #[inline]
    fn len(&self) -> usize {
        Vec::len(self)
    }

    #[inline]
    fn copy_in(&mut self, offset: usize, bytes: &[u8]) {
        self[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    #[inline]
    fn part(&self, offset: usize) -> &[u8] {
        &self[offset..]
    }

    #[inline]
    fn part_mut(&mut self, offset: usize) -> &mut [u8] {
        &mut self[offset..]
    }
}

/// One command in flight on one queue pair: a token that is consumed by completing the command, and cannot be copied.
#[derive(PartialEq, Eq, Hash, Debug)]
#[must_use = "a command that is never completed stays in flight for ever"]
pub struct CommandId {
    slot: u16,
    generation: u16,
}

impl CommandId {
    pub(crate) const fn new(slot: u16, generation: u16) -> Self {
        Self { slot, generation }
    }

    pub(crate) const fn slot(&self) -> u16 {
        self.slot
    }

    pub(crate) const fn generation(&self) -> u16 {
        self.generation
    }

    /// The token as a number, for tags that travel through devices. Generation in the high half.
    #[inline]
    pub fn to_bits(self) -> u32 {
        u32::from(self.generation) << 16 | u32::from(self.slot)
    }

    /// The token that [`CommandId::to_bits`] gave. Each number may be turned back at most once; a machine recognises
    /// and ignores a token whose command is already complete.
    #[inline]
    pub fn from_bits(bits: u32) -> Self {
        let [a, b, c, d] = bits.to_le_bytes();
        Self { slot: u16::from_le_bytes([a, b]), generation: u16::from_le_bytes([c, d]) }
    }
}

/// How a command ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Completion<B> {
    /// Status without phase tag.
    pub status: Status,
    /// Dwords 0 and 1 of the completion queue entry, dword 0 in the low half.
    pub result: u64,
    /// Controller-to-host data; all [`IoBuffer::len`] bytes are sent when `status` is a success, none otherwise.
    pub data: Option<B>,
}

impl<B> Completion<B> {
    /// Ends with this status, without result and data.
    #[inline]
    pub const fn status(status: Status) -> Self {
        Self { status, result: 0, data: None }
    }

    /// Ends well with this result.
    #[inline]
    pub const fn result(result: u64) -> Self {
        Self { status: Status::SUCCESS, result, data: None }
    }

    /// Ends well with this data for the host.
    #[inline]
    pub const fn data(data: B) -> Self {
        Self { status: Status::SUCCESS, result: 0, data: Some(data) }
    }
}

/// What became of a command that was handed over for execution.
#[derive(Debug)]
pub enum Execution<B> {
    /// It is finished; the machine answers at once. The [`CommandId`] is spent.
    Done(Completion<B>),
    /// It will be completed later with its [`CommandId`].
    Pending,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_id_survives_its_travel_as_a_number() {
        let bits = CommandId::new(0x1234, 0xABCD).to_bits();
        assert_eq!(bits, 0xABCD_1234);
        assert_eq!(CommandId::from_bits(bits), CommandId::new(0x1234, 0xABCD));
    }

    #[test]
    fn time_never_overflows() {
        assert_eq!(Now(5).after_ns(u64::MAX), Now::NEVER);
        assert_eq!(Now(5).since(Now(7)), 0);
    }
}
