//! The connections of one driver, found by index in one array read; generations tell a reused place from its last use.

use super::connection::Connection;
use crate::{ConnId, TransportId};

struct Entry<Q> {
    generation: u32,
    connection: Option<Box<Connection<Q>>>,
}

/// A slab of connections. Grows to the most that were ever open at once.
pub(super) struct Connections<Q> {
    transport: TransportId,
    entries: Vec<Entry<Q>>,
    free: Vec<u32>,
    open: usize,
}

impl<Q> Connections<Q> {
    pub(super) fn new(transport: TransportId) -> Self {
        Self { transport, entries: Vec::new(), free: Vec::new(), open: 0 }
    }

    /// Puts in the connection that `make` builds for its identifier.
    pub(super) fn insert(&mut self, make: impl FnOnce(ConnId) -> Connection<Q>) -> ConnId {
        let index = self.free.pop().unwrap_or_else(|| self.grow());
        let generation = self.entries[index as usize].generation;
        let id = ConnId { transport: self.transport, index, generation };
        let before = self.entries[index as usize].connection.replace(Box::new(make(id)));
        assert!(before.is_none());
        self.open += 1;
        id
    }

    fn grow(&mut self) -> u32 {
        let index = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        self.entries.push(Entry { generation: 0, connection: None });
        index
    }

    /// Takes a connection out; its identifier never names another.
    pub(super) fn remove(&mut self, id: ConnId) -> Option<Box<Connection<Q>>> {
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
    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Connection<Q>> {
        let entry = self.entries.get_mut(id.index as usize)?;
        if entry.generation == id.generation { entry.connection.as_deref_mut() } else { None }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.open
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnId, &Connection<Q>)> {
        (0..).zip(&self.entries).filter_map(|(index, entry)| {
            let id = ConnId { transport: self.transport, index, generation: entry.generation };
            Some((id, entry.connection.as_deref()?))
        })
    }

    /// Identifiers of all of them, to change some.
    pub(super) fn ids(&self) -> Vec<ConnId> {
        self.iter().map(|(id, _)| id).collect()
    }
}

/// The key under which epoll reports a connection.
pub(super) fn key(id: ConnId) -> u64 {
    u64::from(id.generation) << 32 | u64::from(id.index)
}

/// The connection an epoll key names.
pub(super) fn id_of_key(transport: TransportId, key: u64) -> ConnId {
    let [a, b, c, d, e, f, g, h] = key.to_le_bytes();
    ConnId {
        transport,
        index: u32::from_le_bytes([a, b, c, d]),
        generation: u32::from_le_bytes([e, f, g, h]),
    }
}
