//! I/O commands that are not finished: with a device, or waiting for a barrier. A slab whose index is the tag that
//! travels through the device. It grows when queues connect, not on the path of an I/O, and to no more than the entries of
//! the queues that were ever open at a time, but for what the device still has of queues that are gone.

use fabrics::Now;
use nvme::{HostId, Lba};
use transport::ConnId;

use super::jobs::Job;
use super::stats::Kind;
use crate::device::Op;

/// One I/O command.
pub(super) struct Flight {
    pub(super) conn: ConnId,
    /// The command's token, as a number.
    pub(super) command: u32,
    pub(super) cid: u16,
    pub(super) kind: Kind,
    /// Which half of the namespace's in-flight count it is in.
    pub(super) parity: bool,
    /// Index of the namespace on this reactor.
    pub(super) namespace: u32,
    pub(super) bytes: u32,
    pub(super) started: Now,
    /// What takes more than one device I/O.
    pub(super) job: Option<Box<Job>>,
}

/// The slab.
#[derive(Default)]
pub(super) struct Flights {
    slots: Vec<Option<Flight>>,
    free: Vec<u32>,
    /// Commands that the open queues may have at a time.
    reserved: usize,
}

impl Flights {
    /// Makes room for `count` more commands at a time.
    pub(super) fn reserve(&mut self, count: usize) {
        self.reserved += count;
        while self.slots.len() < self.reserved {
            self.grow();
        }
    }

    /// Gives room back that was reserved: it is there for the queues to come.
    pub(super) fn release(&mut self, count: usize) {
        debug_assert!(count <= self.reserved);
        self.reserved -= count;
    }

    fn grow(&mut self) {
        // A tag is 32 bits; there is no memory for that many queues.
        let index = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.slots.push(None);
        self.free.push(index);
    }

    /// The tag of the command that is put in next.
    #[inline]
    pub(super) fn next(&mut self) -> u32 {
        if self.free.is_empty() {
            self.grow();
        }
        self.free.last().copied().unwrap_or(u32::MAX)
    }

    /// Puts a command in, under the tag that [`Self::next`] gave.
    #[inline]
    pub(super) fn put(&mut self, tag: u32, flight: Flight) {
        debug_assert!(self.free.last() == Some(&tag));
        self.free.pop();
        self.slots[tag as usize] = Some(flight);
    }

    #[inline]
    pub(super) fn take(&mut self, tag: u32) -> Option<Flight> {
        let flight = self.slots.get_mut(tag as usize)?.take()?;
        self.free.push(tag);
        Some(flight)
    }

    /// Commands in the slab.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The tag of a command of a connection.
    pub(super) fn find(&self, conn: ConnId, cid: u16) -> Option<u32> {
        let is_it = |slot: &Option<Flight>| slot.as_ref().is_some_and(|f| f.conn == conn && f.cid == cid);
        self.slots.iter().position(is_it).and_then(|index| u32::try_from(index).ok())
    }
}

/// A command that could not start: no buffer was free, or its range belongs to somebody else for now.
pub(super) struct Parked {
    pub(super) flight: Flight,
    /// Its host: reservations are looked at again when it starts.
    pub(super) host: HostId,
    pub(super) request: Request,
}

/// What a parked command wants.
pub(super) enum Request {
    /// A read, which has no buffer yet.
    Read { lba: Lba },
    /// An operation that is complete.
    Op(Op),
    /// The next step of its job.
    Step,
}

#[cfg(test)]
mod tests {
    use super::*;
    use transport::TransportId;

    fn flight(cid: u16) -> Flight {
        let conn = ConnId { transport: TransportId(0), index: 1, generation: 1 };
        let kind = Kind::Read;
        let (parity, namespace, bytes, started) = (false, 0, 512, Now(0));
        Flight { conn, command: 0, cid, kind, parity, namespace, bytes, started, job: None }
    }

    #[test]
    fn a_tag_names_one_command_until_it_is_taken() {
        let mut flights = Flights::default();
        flights.reserve(1);
        let tags: Vec<u32> = (0..3)
            .map(|cid| {
                let tag = flights.next();
                flights.put(tag, flight(cid));
                tag
            })
            .collect();
        assert_eq!(flights.len(), 3);
        assert_eq!(flights.find(flight(1).conn, 1), Some(tags[1]));
        assert_eq!(flights.take(tags[1]).map(|f| f.cid), Some(1));
        assert!(flights.take(tags[1]).is_none());
        assert_eq!(flights.next(), tags[1]);
        assert_eq!(flights.find(flight(1).conn, 1), None);
    }

    #[test]
    fn queues_that_come_and_go_do_not_grow_the_slab() {
        let mut flights = Flights::default();
        flights.reserve(32);
        for _ in 0..100 {
            flights.reserve(128);
            flights.release(128);
        }
        assert_eq!(flights.slots.len(), 160);
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn a_flight_fits_one_cache_line() {
        assert!(size_of::<Option<Flight>>() <= 64);
    }
}
