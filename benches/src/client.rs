//! A host of a target elsewhere, for programs that measure: queues that run one command after the other.

use std::net::SocketAddr;

use fabrics::Now;
use fabrics::tcp::host::HostSink;
use nvme::{Cqe, HostId, Lba, Nqn, QueueId, Status};
use reactors::{Clock, DmaPool, PoolConfig};
use transport::Data;
use transport::tcp::host::{Blocking, HostConfig, HostError, HostQueue};
use uuid::Uuid;

use crate::IO_BYTES;
use crate::machines::Kind;

/// Bytes received at a time: a queue that runs one command after the other never has more than one answer waiting.
const RECEIVE_BYTES: usize = 16 << 10;

/// Entries of a queue. One command is in flight at a time; the rest costs nothing here.
const ENTRIES: u16 = 128;

/// What ended on a queue, if anything did.
#[derive(Default)]
struct Last {
    outcome: Option<Result<(), Status>>,
    buffer: Option<Data>,
    lost: bool,
}

impl HostSink<Data> for Last {
    fn completed(&mut self, _tag: u64, cqe: Cqe, data: Option<Data>) {
        let status = cqe.status();
        self.outcome = Some(if status.is_success() { Ok(()) } else { Err(status) });
        self.buffer = data;
    }

    fn failed(&mut self, _tag: u64, data: Option<Data>) {
        self.buffer = data;
        self.lost = true;
    }

    fn timed_out(&mut self, _tag: u64, _cid: u16) {
        self.lost = true;
    }
}

/// An I/O queue with one buffer, which its owner and its command take turns to hold.
pub struct Lane {
    queue: HostQueue<Data>,
    last: Last,
}

/// Why a command of a [`Lane`] did not succeed.
#[derive(Debug)]
pub enum LaneError {
    /// The target refused it.
    Status(Status),
    /// The connection was lost, or the command was not answered in time.
    Lost(String),
}

impl Lane {
    /// Sends a command for the block at `lba`. Its data is what [`Lane::buffer`] gave last, or goes there.
    ///
    /// # Panics
    /// When one is under way.
    pub fn start(&mut self, kind: Kind, lba: Lba, now: Now) {
        let buffer = self.last.buffer.take();
        assert!(buffer.is_some(), "a command is under way");
        let submitted = self.queue.submit(kind.command(lba), kind.data(buffer), 0, now);
        // A refusal means a lost connection: `finished` tells.
        self.last.lost |= submitted.is_err();
        self.queue.flush(&mut self.last);
    }

    /// Looks once whether the command ended. `scratch` is what it receives into.
    ///
    /// # Errors
    /// [`LaneError`] when it did, but not well.
    pub fn finished(&mut self, scratch: &mut [u8], now: Now) -> Result<bool, LaneError> {
        self.queue.receive(scratch, now, &mut self.last);
        self.queue.flush(&mut self.last);
        if self.last.lost {
            let why = self.queue.error().map_or_else(|| "not answered".to_owned(), ToString::to_string);
            return Err(LaneError::Lost(why));
        }
        match self.last.outcome.take() {
            None => Ok(false),
            Some(Ok(())) => Ok(true),
            Some(Err(status)) => Err(LaneError::Status(status)),
        }
    }

    /// The buffer, while no command holds it.
    pub fn buffer(&mut self) -> Option<&mut Data> {
        self.last.buffer.as_mut()
    }
}

/// A controller and its I/O queues.
pub struct Client {
    host: Blocking,
    /// The queues.
    pub lanes: Vec<Lane>,
    clock: Clock,
    scratch: Vec<u8>,
}

impl Client {
    /// Connects a host of its own name with `queues` I/O queues (1–64).
    ///
    /// # Errors
    /// [`HostError`] with what failed.
    pub fn connect(remote: SocketAddr, subsystem: Nqn, queues: u16) -> Result<Self, HostError> {
        let id = Uuid::new_v4();
        let hostnqn = Nqn::from_uuid(*id.as_bytes());
        let mut config = HostConfig::new(remote, hostnqn, HostId(*id.as_bytes()), subsystem);
        config.bringup.io_queues = queues;
        config.io_entries = ENTRIES;
        // One for the data of each command, one for that of Connect.
        let slots = PoolConfig { small_slots: u32::from(queues) + 1, large_slots: 1, prefault: true };
        let pool = DmaPool::new(slots).map_err(|_| HostError::NoBuffer)?;
        let mut host = Blocking::connect(config)?;
        let mut lanes = Vec::with_capacity(usize::from(queues));
        for id in 1..=queues {
            let queue = host.io_queue(QueueId(id), |bytes| {
                let mut buffer = pool.alloc_io(bytes.len())?;
                buffer.copy_in(0, bytes);
                Some(Data(buffer))
            })?;
            let buffer = pool.alloc_io(IO_BYTES).map(Data).ok_or(HostError::NoBuffer)?;
            lanes.push(Lane { queue, last: Last { buffer: Some(buffer), ..Last::default() } });
        }
        Ok(Self { host, lanes, clock: Clock::new(), scratch: vec![0; RECEIVE_BYTES] })
    }

    /// The time, as lanes want it.
    pub fn now(&self) -> Now {
        Now(self.clock.now().as_nanos())
    }

    /// Keep-alives and events. Call it a few times a second.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn turn(&mut self) -> Result<(), HostError> {
        self.host.turn()
    }

    /// Starts a command on one lane.
    pub fn start(&mut self, lane: usize, kind: Kind, lba: Lba) {
        let now = self.now();
        self.lanes[lane].start(kind, lba, now);
    }

    /// Looks once whether the command of one lane ended.
    ///
    /// # Errors
    /// [`LaneError`] when it did, but not well.
    pub fn finished(&mut self, lane: usize) -> Result<bool, LaneError> {
        let now = self.now();
        self.lanes[lane].finished(&mut self.scratch, now)
    }
}
