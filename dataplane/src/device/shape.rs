//! What of an NVMe namespace does not change while it is attached.

use std::sync::Arc;

use nvme::identify::{DLFEAT_READS_ZEROES, IdentifyController, IdentifyNamespace, VWC_PRESENT, nsfeat, oncs};
use uuid::Uuid;

use super::{BlockSize, DeviceInfo, Operations};

/// Bits of DLFEAT that say how deallocated blocks read.
const DLFEAT_BEHAVIOUR: u8 = 0b111;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    pub(super) block_size: BlockSize,
    pub(super) write_cache: bool,
    pub(super) operations: Operations,
    pub(super) atomic_blocks: u32,
    pub(super) preferred_blocks: u32,
}

impl Shape {
    /// The device that a namespace of this shape is.
    pub(super) fn info(&self, name: &Arc<str>, uuid: Uuid, blocks: u64) -> DeviceInfo {
        DeviceInfo {
            name: Arc::clone(name),
            product: "NVMe disk",
            uuid,
            block_size: self.block_size,
            blocks,
            write_cache: self.write_cache,
            operations: self.operations,
            atomic_blocks: self.atomic_blocks,
            preferred_blocks: self.preferred_blocks,
        }
    }

    /// What Identify Controller and Identify Namespace say together; or why it cannot be a device.
    pub(super) fn of(controller: &IdentifyController, namespace: &IdentifyNamespace) -> Result<Self, String> {
        let bytes = namespace.block_bytes().ok_or("it reports no valid block size")?;
        let block_size = BlockSize::try_from(bytes).map_err(|error| error.to_string())?;
        if namespace.format().ms.get() != 0 {
            return Err("its blocks carry metadata, which is not supported".into());
        }
        let write_cache = controller.vwc & VWC_PRESENT != 0;
        let can = |bit: u16| controller.oncs.get() & bit != 0;
        let deallocates = can(oncs::DATASET_MANAGEMENT);
        let zeroes = namespace.dlfeat & DLFEAT_BEHAVIOUR == DLFEAT_READS_ZEROES;
        let mut operations = Operations::FUA;
        operations.set(Operations::FLUSH, write_cache);
        operations.set(Operations::WRITE_ZEROES, can(oncs::WRITE_ZEROES));
        operations.set(Operations::DEALLOCATE, deallocates);
        operations.set(Operations::DEALLOCATE_ZEROES, deallocates && zeroes);
        let own = namespace.nsfeat & nsfeat::ATOMIC != 0;
        let atomic = if own { namespace.nawun.get() } else { controller.awun.get() };
        let prefers = namespace.nsfeat & nsfeat::OPTIMAL_WRITE != 0;
        let preferred = if prefers { namespace.npwg.get() } else { 0 };
        Ok(Self {
            block_size,
            write_cache,
            operations,
            atomic_blocks: u32::from(atomic) + 1,
            preferred_blocks: u32::from(preferred) + 1,
        })
    }
}
