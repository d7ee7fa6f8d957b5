//! The connections of one driver, found by index in one array read; generations tell a reused place from its last use.

use crate::{ConnId, TransportId};

/// Bits of a tag that are the generation; the others are the place, of which a transport has fewer.
const TAG_GENERATION_BITS: u32 = 16;
const TAG_GENERATION_MASK: u32 = (1 << TAG_GENERATION_BITS) - 1;

struct Entry<C> {
    generation: u32,
    connection: Option<Box<C>>,
}

/// A slab of connections. Grows to the most that were ever open at once.
pub(crate) struct Connections<C> {
    transport: TransportId,
    entries: Vec<Entry<C>>,
    free: Vec<u32>,
    open: usize,
}

impl<C> Connections<C> {
    pub(crate) fn new(transport: TransportId) -> Self {
        Self { transport, entries: Vec::new(), free: Vec::new(), open: 0 }
    }

    /// Puts in the connection that `make` builds for its identifier.
    pub(crate) fn insert(&mut self, make: impl FnOnce(ConnId) -> C) -> ConnId {
        let index = self.free.pop().unwrap_or_else(|| self.grow());
        let generation = self.entries[index as usize].generation;
        let id = ConnId { transport: self.transport, index, generation };
        let before = self.entries[index as usize].connection.replace(Box::new(make(id)));
        assert!(before.is_none());
        self.open += 1;
        id
    }

    /// The identifier that the next connection gets.
    pub(crate) fn next_id(&mut self) -> ConnId {
        let index = self.free.pop().unwrap_or_else(|| self.grow());
        self.free.push(index);
        ConnId { transport: self.transport, index, generation: self.entries[index as usize].generation }
    }

    /// The identifier that was to be next was given away, and there will be no connection of it: it never names one.
    pub(crate) fn skip(&mut self, id: ConnId) {
        let Some(entry) = self.entries.get_mut(id.index as usize) else { return };
        if entry.generation == id.generation && entry.connection.is_none() {
            entry.generation = entry.generation.wrapping_add(1);
        }
    }

    fn grow(&mut self) -> u32 {
        let index = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        self.entries.push(Entry { generation: 0, connection: None });
        index
    }

    /// Takes a connection out; its identifier never names another.
    pub(crate) fn remove(&mut self, id: ConnId) -> Option<Box<C>> {
        let entry = self.entries.get_mut(id.index as usize)?;
        if entry.generation != id.generation {
            return None;
        }
        let connection = entry.connection.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(id.index);
        self.open -= 1;
        Some(connection)
    }

    /// The connection this names, if it is still there.
    #[inline]
    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut C> {
        let entry = self.entries.get_mut(id.index as usize)?;
        if entry.generation == id.generation { entry.connection.as_deref_mut() } else { None }
    }

    /// A connection in 32 bits: its place, and enough of its generation to tell it from those that were there lately.
    pub(crate) fn tag(id: ConnId) -> u32 {
        id.index << TAG_GENERATION_BITS | id.generation & TAG_GENERATION_MASK
    }

    /// The connection that a tag names, if it is still there.
    #[inline]
    pub(crate) fn by_tag(&self, tag: u32) -> Option<ConnId> {
        let index = tag >> TAG_GENERATION_BITS;
        let Entry { generation, connection } = self.entries.get(index as usize)?;
        let is_same = connection.is_some() && generation & TAG_GENERATION_MASK == tag & TAG_GENERATION_MASK;
        is_same.then_some(ConnId { transport: self.transport, index, generation: *generation })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.open
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ConnId, &C)> {
        (0..).zip(&self.entries).filter_map(|(index, entry)| {
            let id = ConnId { transport: self.transport, index, generation: entry.generation };
            Some((id, entry.connection.as_deref()?))
        })
    }

    /// Identifiers of all of them, to change some.
    pub(crate) fn ids(&self) -> Vec<ConnId> {
        self.iter().map(|(id, _)| id).collect()
    }
}

/// The key under which epoll reports a connection.
pub(crate) fn key(id: ConnId) -> u64 {
    u64::from(id.generation) << 32 | u64::from(id.index)
}

/// The connection an epoll key names.
pub(crate) fn id_of_key(transport: TransportId, key: u64) -> ConnId {
    let [a, b, c, d, e, f, g, h] = key.to_le_bytes();
    ConnId {
        transport,
        index: u32::from_le_bytes([a, b, c, d]),
        generation: u32::from_le_bytes([e, f, g, h]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_names_its_connection_until_that_is_gone() {
        let mut connections = Connections::new(TransportId(1));
        let first = connections.insert(|_| 'a');
        let tag = Connections::<char>::tag(first);
        assert_eq!(connections.by_tag(tag), Some(first));
        connections.remove(first);
        assert_eq!(connections.by_tag(tag), None);
        let second = connections.insert(|_| 'b');
        assert_eq!(second.index, first.index);
        assert_eq!(connections.by_tag(tag), None);
        assert_eq!(connections.by_tag(Connections::<char>::tag(second)), Some(second));
    }

    #[test]
    fn an_identifier_that_is_skipped_names_no_connection() {
        let mut connections = Connections::new(TransportId(1));
        let skipped = connections.next_id();
        connections.skip(skipped);
        let first = connections.insert(|_| 'a');
        assert_eq!(
            (first.index, connections.by_tag(Connections::<char>::tag(skipped))),
            (skipped.index, None)
        );
        connections.skip(first);
        assert_eq!(connections.get_mut(first), Some(&mut 'a'));
    }
}
