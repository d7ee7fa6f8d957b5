//! The reactors' I/O buffer as the protocol machines see it.

use fabrics::{Completion, Execution, IoBuffer};
use reactors::IoBuf;
use reactors::dma::LARGE_SLOT_SIZE;

/// An [`IoBuf`] that a protocol machine fills and sends from.
#[derive(Debug)]
pub struct Data(pub IoBuf);

impl IoBuffer for Data {
    #[inline]
    fn len(&self) -> usize {
        self.0.len()
    }

    #[inline]
    fn copy_in(&mut self, offset: usize, bytes: &[u8]) {
        self.0.copy_in(offset, bytes);
    }

    #[inline]
    fn part(&self, offset: usize) -> &[u8] {
        &self.0.part(offset / LARGE_SLOT_SIZE)[offset % LARGE_SLOT_SIZE..]
    }

    #[inline]
    fn part_mut(&mut self, offset: usize) -> &mut [u8] {
        &mut self.0.part_mut(offset / LARGE_SLOT_SIZE)[offset % LARGE_SLOT_SIZE..]
    }
}

/// A buffer that a host's queue can move over any transport.
pub trait HostBuffer: IoBuffer {
    /// The buffer itself when it lies in a reactor's pool: RDMA then moves its bytes without a copy. Others are copied.
    fn pooled(&self) -> Option<&IoBuf>;
}

impl HostBuffer for Data {
    #[inline]
    fn pooled(&self) -> Option<&IoBuf> {
        Some(&self.0)
    }
}

impl HostBuffer for Vec<u8> {
    fn pooled(&self) -> Option<&IoBuf> {
        None
    }
}

impl From<IoBuf> for Data {
    #[inline]
    fn from(buffer: IoBuf) -> Self {
        Self(buffer)
    }
}

impl From<Data> for IoBuf {
    #[inline]
    fn from(data: Data) -> Self {
        data.0
    }
}

/// The same completion, for a machine.
#[inline]
pub(crate) fn completion(done: Completion<IoBuf>) -> Completion<Data> {
    Completion { status: done.status, result: done.result, data: done.data.map(Data) }
}

/// The same outcome, for a machine.
#[inline]
pub(crate) fn execution(outcome: Execution<IoBuf>) -> Execution<Data> {
    match outcome {
        Execution::Done(done) => Execution::Done(completion(done)),
        Execution::Pending => Execution::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reactors::{DmaPool, PoolConfig};

    #[test]
    fn parts_of_a_large_buffer_follow_each_other_without_a_gap() {
        let pool = DmaPool::new(PoolConfig::default()).unwrap();
        let len = LARGE_SLOT_SIZE * 2 + 4096;
        let bytes: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let mut data = Data(pool.alloc_io(len).unwrap());
        data.copy_in(0, &bytes[..5000]);
        data.copy_in(5000, &bytes[5000..]);
        for start in [0, 1, LARGE_SLOT_SIZE - 1, LARGE_SLOT_SIZE, len - 1] {
            let mut seen = Vec::new();
            while start + seen.len() < len {
                let part = data.part(start + seen.len());
                assert!(!part.is_empty());
                seen.extend_from_slice(part);
            }
            assert_eq!(seen, bytes[start..]);
        }
    }
}
