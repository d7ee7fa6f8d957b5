//! Requests that are under way.

use fabrics::Now;

use super::{Epoch, Lineage, ReplicaIndex, RequestId};

/// What a request is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// A command, by its slot.
    Command(u32),
    /// Writing what a read found elsewhere over what this replica could not read.
    Repair(u32),
    /// Acceptance of this head at an epoch.
    Fence(Epoch),
    /// The lease.
    Renew,
    /// Letting go.
    Release,
    /// Whose bits the replica shares.
    Adopt(Lineage),
    /// Whether the replica has room.
    Room,
    /// That it holds so many blocks.
    Grow(u64),
    /// A page of the intent bitmap, at a version.
    Intent(u32, u64),
    /// A copy, by its place.
    Copy(u8),
    /// The flush after which what was copied to the replica counts.
    CopyFlush,
    /// The flush of this cycle, after which idle regions are clean.
    CleanFlush(u32),
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) replica: ReplicaIndex,
    pub(super) purpose: Purpose,
    pub(super) sent: Now,
    /// Nobody waits for it any more.
    pub(super) dead: bool,
}

/// All requests under way, by number.
#[derive(Default)]
pub(super) struct PendingTable {
    slots: Vec<(u32, Option<Pending>)>,
    free: Vec<u32>,
}

impl PendingTable {
    pub(super) fn add(&mut self, pending: Pending) -> RequestId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let (generation, place) = &mut self.slots[slot as usize];
        assert!(place.is_none());
        *place = Some(pending);
        RequestId(slot, *generation)
    }

    pub(super) fn take(&mut self, id: RequestId) -> Pending {
        let (generation, place) = &mut self.slots[id.0 as usize];
        assert!(*generation == id.1, "a request is finished once");
        let Some(pending) = place.take() else { unreachable!("a request that is under way") };
        *generation = generation.wrapping_add(1);
        self.free.push(id.0);
        pending
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Pending> {
        self.slots.iter_mut().filter_map(|(_, pending)| pending.as_mut())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Pending> {
        self.slots.iter().filter_map(|(_, pending)| pending.as_ref())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.len() == self.free.len()
    }
}
