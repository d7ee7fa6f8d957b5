//! Memory that a controller may reach: a pool's buffer in one part where it lies, anything else in a copy.

use std::rc::Rc;

use arrayvec::ArrayVec;
use fabrics::CommandId;
use fabrics::host::HostData;
use fabrics::rdma::Remote;
use fabrics::rdma::host::HostWire;
use nvme::Sqe;
use nvme::zerocopy::IntoBytes;
use reactors::{DmaPool, IoBuf, PoolConfig};

use crate::HostBuffer;
use crate::rdma::verbs::{Domain, Sends, VerbsError};

/// Parts of a capsule: the command, and data in as many pieces as a buffer may have.
const CAPSULE_PARTS: usize = 9;

/// Copies of data that does not lie in a pool, by slot.
pub(super) struct Staging {
    domain: Rc<Domain>,
    /// Made when the first copy is needed.
    pool: Option<DmaPool>,
    copies: Box<[Option<IoBuf>]>,
}

impl Staging {
    pub(super) fn new(domain: &Rc<Domain>, depth: u16) -> Result<Self, VerbsError> {
        let mut copies = Vec::new();
        copies.resize_with(depth.into(), || None);
        Ok(Self { domain: Rc::clone(domain), pool: None, copies: copies.into_boxed_slice() })
    }

    /// Where a buffer can be reached.
    fn reach(&self, buffer: &IoBuf) -> Option<Remote> {
        // One descriptor names one range: more than one part of a copy holds has none.
        let (ptr, len) = buffer.raw_parts().next().filter(|_| buffer.part_count() == 1)?;
        let keys = self.domain.keys(buffer);
        let keys = keys.inspect_err(|error| tracing::warn!(%error, "buffers cannot be registered")).ok()?;
        let address = ptr.as_ptr().addr() as u64;
        Some(Remote { address, length: u32::try_from(len).ok()?, key: keys.remote })
    }

    fn copy(&mut self, slot: u16, len: usize) -> Option<&mut IoBuf> {
        let slots = u32::try_from(self.copies.len()).unwrap_or(u32::MAX);
        let config = PoolConfig { small_slots: slots, large_slots: slots, prefault: false };
        if self.pool.is_none() {
            self.pool = DmaPool::new(config).ok();
        }
        let copy = &mut self.copies[usize::from(slot)];
        // The copy of the slot's last command, whose place this one takes: there is one place for each slot.
        *copy = None;
        Some(copy.insert(self.pool.as_ref()?.alloc_io(len)?))
    }

    fn expose<B: HostBuffer>(&mut self, slot: u16, data: &HostData<B>) -> Option<Remote> {
        let (HostData::ToController(buffer) | HostData::FromController(buffer)) = data else { return None };
        if let Some(pooled) = buffer.pooled().filter(|buffer| !buffer.is_lent() && buffer.part_count() == 1) {
            return self.reach(pooled);
        }
        let copy = self.copy(slot, buffer.len())?;
        let mut at = 0;
        while matches!(data, HostData::ToController(_)) && at < buffer.len() {
            let part = buffer.part(at);
            copy.copy_in(at, part);
            at += part.len();
        }
        let copy = self.copies[usize::from(slot)].as_ref()?;
        self.reach(copy)
    }

    fn collect<B: HostBuffer>(&mut self, slot: u16, buffer: &mut B) {
        let Some(copy) = self.copies[usize::from(slot)].take() else { return };
        let mut at = 0;
        for part in copy.slices() {
            buffer.copy_in(at, part);
            at += part.len();
        }
    }
}

/// A machine's way to its queue pair and its memory.
pub(super) struct Memory<'a> {
    pub(super) sends: &'a mut Sends,
    pub(super) staging: &'a mut Staging,
}

impl<B: HostBuffer> HostWire<B> for Memory<'_> {
    #[inline]
    fn expose(&mut self, slot: u16, data: &HostData<B>) -> Option<Remote> {
        self.staging.expose(slot, data)
    }

    #[inline]
    fn send(&mut self, work: CommandId, sqe: &Sqe, in_capsule: Option<&B>) {
        let mut parts = ArrayVec::<&[u8], CAPSULE_PARTS>::new();
        parts.push(sqe.as_bytes());
        let mut at = 0;
        if let Some(data) = in_capsule {
            while at < data.len() && !parts.is_full() {
                let part = data.part(at);
                parts.push(part);
                at += part.len();
            }
        }
        self.sends.send(work.to_bits(), None, &parts, None);
    }

    #[inline]
    fn collect(&mut self, slot: u16, buffer: &mut B) {
        self.staging.collect(slot, buffer);
    }
}

/// What is left of the way when the queue pair is gone.
pub(super) struct Detached<'a> {
    pub(super) staging: &'a mut Staging,
}

impl<B: HostBuffer> HostWire<B> for Detached<'_> {
    fn expose(&mut self, _slot: u16, _data: &HostData<B>) -> Option<Remote> {
        None
    }

    fn send(&mut self, _work: CommandId, _sqe: &Sqe, _in_capsule: Option<&B>) {}

    fn collect(&mut self, slot: u16, buffer: &mut B) {
        self.staging.collect(slot, buffer);
    }
}
