//! Command identifiers of a host: the slot in the low bits, its generation above them, so that an answer to an earlier
//! command is recognised.

/// Bits of a command identifier: its top bit stays clear, because FFFFh must not be used (base 2.1 §4.1.1).
const CID_BITS: u32 = 15;

/// How identifiers of a queue are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommandIds {
    slot_bits: u32,
}

impl CommandIds {
    /// For a queue of so many slots.
    pub(crate) fn for_slots(slots: u16) -> Self {
        Self { slot_bits: u32::from(slots).next_power_of_two().trailing_zeros() }
    }

    /// The identifier of the command in this slot.
    #[inline]
    pub(crate) fn cid(self, slot: u16, generation: u16) -> u16 {
        let generation_mask = (1u16 << (CID_BITS - self.slot_bits)) - 1;
        (generation & generation_mask) << self.slot_bits | slot
    }

    /// The slot that an identifier names.
    #[inline]
    pub(crate) fn slot(self, cid: u16) -> u16 {
        cid & ((1u16 << self.slot_bits) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_identifier_names_its_slot_and_is_never_ffff(slots in 1u16..4096, slot: u16, generation: u16) {
            let ids = CommandIds::for_slots(slots);
            let slot = slot % slots;
            let cid = ids.cid(slot, generation);
            prop_assert_eq!(ids.slot(cid), slot);
            prop_assert!(cid < 0x8000);
            prop_assert_ne!(cid, ids.cid(slot, generation.wrapping_add(1)));
        }
    }
}
