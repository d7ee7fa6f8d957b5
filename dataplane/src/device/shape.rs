//! What of an NVMe namespace does not change while it is attached.

use std::sync::Arc;

use nvme::identify::{DLFEAT_READS_ZEROES, IdentifyController, IdentifyNamespace, VWC_PRESENT, nsfeat, oncs};
use uuid::Uuid;

use super::{Atomicity, BlockSize, DeviceInfo, Operations};

/// Bits of DLFEAT that say how deallocated blocks read.
const DLFEAT_BEHAVIOUR: u8 = 0b111;

/// Where whoever submits to a namespace splits what is written at once: a write that is split is not atomic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Splits {
    /// Longer ones are split.
    pub(super) transfer_bytes_max: u64,
    /// Those across the optimal I/O boundary (NOIOB) are split.
    pub(super) at_optimal_boundary: bool,
}

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    pub(super) block_size: BlockSize,
    pub(super) write_cache: bool,
    pub(super) operations: Operations,
    pub(super) atomic: Atomicity,
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
            atomic: self.atomic,
            preferred_blocks: self.preferred_blocks,
        }
    }

    /// What Identify Controller and Identify Namespace say together; or why it cannot be a device.
    pub(super) fn of(
        controller: &IdentifyController,
        namespace: &IdentifyNamespace,
        splits: Splits,
    ) -> Result<Self, String> {
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
        let prefers = namespace.nsfeat & nsfeat::OPTIMAL_WRITE != 0;
        let preferred = if prefers { namespace.npwg.get() } else { 0 };
        Ok(Self {
            block_size,
            write_cache,
            operations,
            atomic: atomicity(controller, namespace, block_size, splits),
            preferred_blocks: u32::from(preferred) + 1,
        })
    }
}

/// What holds of whole writes, given what becomes of them on the way to the namespace.
fn atomicity(
    controller: &IdentifyController,
    namespace: &IdentifyNamespace,
    block_size: BlockSize,
    splits: Splits,
) -> Atomicity {
    let whole = u32::try_from(splits.transfer_bytes_max >> block_size.shift()).unwrap_or(u32::MAX).max(1);
    let own = namespace.nsfeat & nsfeat::ATOMIC != 0;
    let (normal, power_fail) = match own {
        true => (namespace.nawun.get(), namespace.nawupf.get()),
        false => (controller.awun.get(), controller.awupf.get()),
    };
    // Zero-based, but for boundaries: there zero says that there is none.
    let count = |field: u16| (u32::from(field) + 1).min(whole);
    let boundary = |field: nvme::U16| match (own, field.get()) {
        (false, _) | (_, 0) => 0,
        (true, blocks) => u32::from(blocks) + 1,
    };
    let mut atomic = Atomicity {
        blocks: count(normal),
        power_fail_blocks: count(power_fail).min(count(normal)),
        boundary_blocks: boundary(namespace.nabsn),
        boundary_power_fail_blocks: boundary(namespace.nabspf),
        boundary_offset: u32::from(namespace.nabo.get()),
    };
    let optimal = u32::from(namespace.noiob.get());
    if !splits.at_optimal_boundary || optimal == 0 {
        return atomic;
    }
    // Only one grid of boundaries can be told: that of the splits, when every other boundary is one of them.
    let fits = |boundary: u32| boundary == 0 || boundary.is_multiple_of(optimal);
    if !fits(atomic.boundary_blocks)
        || !fits(atomic.boundary_power_fail_blocks)
        || !atomic.boundary_offset.is_multiple_of(optimal)
    {
        return Atomicity::BLOCK;
    }
    atomic.blocks = atomic.blocks.min(optimal);
    atomic.power_fail_blocks = atomic.power_fail_blocks.min(optimal);
    atomic.boundary_blocks = optimal;
    atomic.boundary_power_fail_blocks = optimal;
    atomic.boundary_offset = 0;
    atomic
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvme::{U16, identify::LbaFormat};

    const WHOLE: Splits = Splits { transfer_bytes_max: 1 << 20, at_optimal_boundary: true };

    fn controller() -> IdentifyController {
        IdentifyController { awun: U16::new(31), awupf: U16::new(7), ..IdentifyController::default() }
    }

    fn namespace() -> IdentifyNamespace {
        let mut namespace = IdentifyNamespace::default();
        namespace.lbaf[0] = LbaFormat::new(12);
        namespace
    }

    fn own() -> IdentifyNamespace {
        let (nsfeat, word) = (nsfeat::ATOMIC, U16::new);
        IdentifyNamespace { nsfeat, nawun: word(15), nawupf: word(3), ..namespace() }
    }

    fn atomic(namespace: &IdentifyNamespace, splits: Splits) -> Atomicity {
        Shape::of(&controller(), namespace, splits).expect("a device").atomic
    }

    #[test]
    fn the_atomic_write_unit_is_the_namespaces_own_else_the_controllers() {
        let of = |blocks, power_fail_blocks| Atomicity { power_fail_blocks, ..Atomicity::of(blocks) };
        assert_eq!(atomic(&namespace(), WHOLE), of(32, 8));
        assert_eq!(atomic(&own(), WHOLE), of(16, 4));
    }

    #[test]
    fn a_write_that_is_split_on_its_way_is_not_atomic() {
        let short = Splits { transfer_bytes_max: 8 << 10, ..WHOLE };
        let told = atomic(&own(), short);
        assert_eq!((told.blocks, told.power_fail_blocks), (2, 2));
        let none = Splits { transfer_bytes_max: 0, ..WHOLE };
        assert_eq!(atomic(&own(), none), Atomicity::BLOCK);
    }

    #[test]
    fn boundaries_are_passed_on_with_those_at_which_writes_are_split() {
        let bounded = |noiob| IdentifyNamespace {
            nabsn: U16::new(63),
            nabspf: U16::new(31),
            nabo: U16::new(8),
            noiob: U16::new(noiob),
            ..own()
        };
        let told = |noiob, splits| {
            let told = atomic(&bounded(noiob), splits);
            (told.blocks, told.boundary_blocks, told.boundary_power_fail_blocks, told.boundary_offset)
        };
        let unsplit = Splits { at_optimal_boundary: false, ..WHOLE };
        assert_eq!(told(8, unsplit), (16, 64, 32, 8));
        assert_eq!(told(0, WHOLE), (16, 64, 32, 8));
        assert_eq!(told(8, WHOLE), (8, 8, 8, 0));
        assert_eq!(told(48, WHOLE), (1, 0, 0, 0));
        let unbounded = IdentifyNamespace { noiob: U16::new(256), ..own() };
        let told = atomic(&unbounded, WHOLE);
        assert_eq!((told.blocks, told.boundary_blocks, told.boundary_offset), (16, 256, 0));
    }
}
