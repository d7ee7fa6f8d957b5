//! Fixed slots with generations: finds what a token names in one array read and recognises stale tokens.
//!
//! Invariants: a slot is either on the free list or occupied, never both; its generation changes each time it is
//! freed, so a token of an earlier occupant never matches; the last slot freed is the next one used (it is hot).

/// End of the free list.
const NIL: u16 = u16::MAX;

/// Most slots a slab can have: an index fits `u16` and leaves room for the end mark.
pub const SLOTS_MAX: u16 = u16::MAX - 1;

#[derive(Debug)]
struct Entry<T> {
    generation: u16,
    /// Next free slot; meaningful while `value` is `None`.
    next: u16,
    value: Option<T>,
}

/// A slab of at most [`SLOTS_MAX`] values that grows only when told to.
#[derive(Debug)]
pub struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: u16,
    occupied: u16,
}

impl<T> Slab<T> {
    /// A slab of so many free slots. Allocates.
    ///
    /// # Panics
    /// When there are more than [`SLOTS_MAX`].
    #[must_use]
    pub fn with_slots(slots: u16) -> Self {
        let mut slab = Self { entries: Vec::new(), free: NIL, occupied: 0 };
        slab.grow_to(slots);
        slab
    }

    /// Adds slots until there are `slots`; never removes any. Allocates: called when a queue is set up.
    ///
    /// # Panics
    /// When `slots` is more than [`SLOTS_MAX`].
    pub fn grow_to(&mut self, slots: u16) {
        assert!(slots <= SLOTS_MAX);
        let have = self.slots();
        self.entries.reserve_exact(usize::from(slots.saturating_sub(have)));
        for index in have..slots {
            let next = if index + 1 == slots { self.free } else { index + 1 };
            self.entries.push(Entry { generation: 0, next, value: None });
        }
        if slots > have {
            self.free = have;
        }
    }

    /// How many slots there are.
    #[inline]
    #[must_use]
    pub fn slots(&self) -> u16 {
        u16::try_from(self.entries.len()).unwrap_or(SLOTS_MAX)
    }

    /// How many of them hold a value.
    #[inline]
    #[must_use]
    pub fn occupied(&self) -> u16 {
        self.occupied
    }

    /// Whether no slot is free.
    #[inline]
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.free == NIL
    }

    /// Puts a value into a free slot: the slot and its generation. `None` when there is none: the value is dropped, so ask [`Self::is_full`] first.
    #[inline]
    pub fn insert(&mut self, value: T) -> Option<(u16, u16)> {
        let slot = self.free;
        let entry = self.entries.get_mut(usize::from(slot))?;
        debug_assert!(entry.value.is_none());
        self.free = entry.next;
        self.occupied += 1;
        entry.value = Some(value);
        Some((slot, entry.generation))
    }

    /// The value in this slot, whatever its generation.
    #[inline]
    #[must_use]
    pub fn at(&self, slot: u16) -> Option<&T> {
        self.entries.get(usize::from(slot))?.value.as_ref()
    }

    /// The value in this slot, whatever its generation.
    #[inline]
    pub fn at_mut(&mut self, slot: u16) -> Option<&mut T> {
        self.entries.get_mut(usize::from(slot))?.value.as_mut()
    }

    /// Generation of the slot's present occupant, or of its next one.
    #[inline]
    #[must_use]
    pub fn generation(&self, slot: u16) -> Option<u16> {
        Some(self.entries.get(usize::from(slot))?.generation)
    }

    /// The value that this slot holds in this generation.
    #[inline]
    pub fn get_mut(&mut self, slot: u16, generation: u16) -> Option<&mut T> {
        let entry = self.entries.get_mut(usize::from(slot))?;
        if entry.generation == generation { entry.value.as_mut() } else { None }
    }

    /// Takes the value out and frees the slot.
    #[inline]
    pub fn remove(&mut self, slot: u16) -> Option<T> {
        let entry = self.entries.get_mut(usize::from(slot))?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        entry.next = self.free;
        self.free = slot;
        debug_assert!(self.occupied > 0);
        self.occupied -= 1;
        Some(value)
    }

    /// Drops the value where it lies and frees the slot; `false` when it is free already.
    #[inline]
    pub fn free(&mut self, slot: u16) -> bool {
        let Some(entry) = self.entries.get_mut(usize::from(slot)) else { return false };
        if entry.value.is_none() {
            return false;
        }
        entry.value = None;
        entry.generation = entry.generation.wrapping_add(1);
        entry.next = self.free;
        self.free = slot;
        self.occupied -= 1;
        true
    }

    /// Every occupied slot.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &T)> {
        (0..self.slots()).zip(&self.entries).filter_map(|(slot, entry)| Some((slot, entry.value.as_ref()?)))
    }

    /// What is in every occupied slot.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().filter_map(|entry| entry.value.as_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_of_an_earlier_occupant_is_recognised() {
        let mut slab = Slab::with_slots(1);
        let (slot, generation) = slab.insert('a').unwrap();
        assert_eq!(slab.remove(slot), Some('a'));
        assert_eq!(slab.insert('b'), Some((slot, generation + 1)));
        assert_eq!(slab.get_mut(slot, generation), None);
        assert_eq!(slab.get_mut(slot, generation + 1), Some(&mut 'b'));
    }

    #[test]
    fn growing_keeps_what_is_there() {
        let mut slab = Slab::with_slots(2);
        assert_eq!(slab.insert(10), Some((0, 0)));
        assert_eq!(slab.insert(11), Some((1, 0)));
        assert!(slab.is_full());
        slab.grow_to(4);
        assert_eq!(slab.insert(12), Some((2, 0)));
        assert_eq!(slab.insert(13), Some((3, 0)));
        assert!(slab.is_full());
        assert_eq!(slab.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [10, 11, 12, 13]);
    }

    proptest! {
        #[test]
        fn a_slab_behaves_like_a_map_with_a_bound(steps in proptest::collection::vec(any::<(bool, u16)>(), 0..200)) {
            let mut slab = Slab::with_slots(8);
            let mut model = std::collections::BTreeMap::new();
            for (insert, number) in steps {
                if insert {
                    match slab.insert(number) {
                        Some((slot, _)) => prop_assert!(model.insert(slot, number).is_none()),
                        None => prop_assert_eq!(model.len(), 8),
                    }
                } else {
                    let slot = number % 10;
                    if number % 3 == 0 {
                        prop_assert_eq!(slab.free(slot), model.remove(&slot).is_some());
                    } else {
                        prop_assert_eq!(slab.remove(slot), model.remove(&slot));
                    }
                }
                prop_assert_eq!(usize::from(slab.occupied()), model.len());
            }
        }
    }
}
