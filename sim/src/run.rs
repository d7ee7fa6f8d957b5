//! One seed: a store, its lives, its deaths.

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

use dataplane::store::format::{Bytes, VERSION, VERSION_OF_ONE_LOG, crc32c};
use dataplane::store::{
    BLOCK_BYTES, Block, Command, Control, CreateOptions, Event, Failure, Finished, GrowError, Limits, Lsn,
    Media, Operation, READS_MAX, Request, RequestOp, Store, VolumeBlock, VolumeId, create, open, upgrade,
};
use fastrand::Rng;
use uuid::Uuid;

use crate::device::Device;
use crate::model::{Change, Model, holds};
use crate::rot::rot;
use crate::verify::{live_volumes, verify};
use crate::workload::{Action, Workload};

/// Small, so that pages come and go, slots run out and checkpoints are frequent.
pub(crate) const LIMITS: Limits = Limits { commands: 8, map_pages: 16, counts_pages: 2, frames: 96 };
const VOLUMES: u32 = 20;
/// One step in so many makes the device larger.
const GROWS: u16 = 200;
/// Bits that flip after each life, each on a device of its own.
const ROTS: u32 = 6;
const LIVES: u32 = 3;
/// More steps than any life needs: beyond it something waits for ever.
pub(crate) const STEPS_MAX: u32 = 200_000;

/// Commands in each life of a store, unless told otherwise.
pub const COMMANDS: u32 = 60;

/// What a run did.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Power failures after which the store was compared with the model.
    pub deaths: u64,
    /// Commands that were done.
    pub commands: u64,
    /// Commands that met a full store.
    pub full: u64,
    /// Records of the log.
    pub records: u64,
    /// Times that a store began to grow with its device.
    pub grown: u64,
    /// Reads of metadata that failed.
    pub lookups: u64,
    /// Commands that failed because of them.
    pub unreachable: u64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { deaths, commands, full, records, grown, lookups, unreachable } = self;
        write!(
            f,
            "{commands} commands, {records} records, {full} met a full store, {grown} growths; \
             {unreachable} failed by {lookups} failed reads of metadata; {deaths} power failures"
        )
    }
}

impl std::ops::AddAssign for Outcome {
    fn add_assign(&mut self, other: Self) {
        self.deaths += other.deaths;
        self.commands += other.commands;
        self.full += other.full;
        self.records += other.records;
        self.grown += other.grown;
        self.lookups += other.lookups;
        self.unreachable += other.unreachable;
    }
}

/// A promise that was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failed {
    /// The seed.
    pub seed: u64,
    /// Commands in each life of a store.
    pub commands: u32,
    /// What was wrong.
    pub what: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, commands, what } = self;
        write!(f, "seed {seed}: {what}\n{}", replay(*seed, *commands))
    }
}

/// The command that runs a seed again.
pub(crate) fn replay(seed: u64, commands: u32) -> String {
    format!("replay: cargo run --release -p pollux-sim -- --seeds 1 --from {seed} --commands {commands}")
}

pub(crate) type Check<T = ()> = Result<T, String>;

/// Runs one seed. `commands`: how many in each life.
pub fn run(seed: u64, commands: u32) -> Result<Outcome, Failed> {
    run_lives(seed, commands).map_err(|what| Failed { seed, commands, what })
}

fn run_lives(seed: u64, commands: u32) -> Check<Outcome> {
    let mut rng = Rng::with_seed(seed);
    let mut device = Device::new(*rng.choice(&[250, 350, 1_500, 5_000]).unwrap_or(&350));
    let older = seed % 8 == 6;
    let options = CreateOptions {
        uuid: Uuid::from_u128(rng.u128(..)),
        volumes: VOLUMES,
        log_blocks: Some(2 * rng.u64(16..64)),
        force: false,
        version: if older { VERSION_OF_ONE_LOG } else { VERSION },
    };
    create(&mut device, &options).map_err(|error| format!("create: {error}"))?;
    let mut workload = Workload::new();
    let mut model = Model::new(Rc::default(), Lsn(0));
    let mut outcome = Outcome::default();
    for life in 0..LIVES {
        // Some stay as old as they are.
        if older && life == 1 && seed % 16 == 6 {
            device = upgraded(device, &model, &mut rng)?;
        }
        let store = open(&mut device, LIMITS).map_err(|error| format!("life {life}: open: {error}"))?;
        let mut life = Life::new(store, device, model, Faults::of(seed, life), &mut outcome);
        life.live(commands, &mut workload, &mut rng)?;
        (device, model) = life.die(&mut rng)?;
        for _ in 0..ROTS {
            rot(&device, &model, &mut rng)?;
        }
    }
    let store = open(&mut device, LIMITS).map_err(|error| format!("last life: open: {error}"))?;
    Life::new(store, device, model, Faults::default(), &mut outcome).empty(&mut rng)?;
    Ok(outcome)
}

/// Upgrades the store, or dies with that half done.
fn upgraded(mut device: Device, model: &Model, rng: &mut Rng) -> Check<Device> {
    upgrade(&mut device, LIMITS).map_err(|error| format!("upgrade: {error}"))?;
    if rng.bool() {
        device.lose_power(std::iter::empty(), rng);
    }
    verify(device, model, model.promised).map(|(device, _)| device)
}

/// What goes wrong in a life, apart from power. One request in so many; 0 for none.
#[derive(Clone, Copy, Default, Debug)]
struct Faults {
    /// Reads and writes of data.
    data: u32,
    /// Writes of metadata, and flushes.
    metadata: u32,
    /// Reads of metadata: for as long as the store is open, what needs them fails.
    lookups: u32,
}

impl Faults {
    fn of(seed: u64, life: u32) -> Self {
        match (seed % 8, life) {
            (3, _) => Self { data: 40, ..Self::default() },
            (5, _) => Self { lookups: 15, ..Self::default() },
            (7, 0 | 1) => Self { data: 200, metadata: 300, lookups: 0 },
            _ => Self::default(),
        }
    }
}

impl Faults {
    fn for_request(&self, op: &RequestOp) -> u32 {
        match op {
            RequestOp::ReadMeta { .. } => self.lookups,
            RequestOp::WriteMeta { .. } | RequestOp::Flush => self.metadata,
            RequestOp::ReadData { .. } | RequestOp::WriteData { .. } | RequestOp::ZeroData { .. } => {
                self.data
            }
        }
    }
}

fn strikes(one_in: u32, rng: &mut Rng) -> bool {
    one_in > 0 && rng.u32(..one_in) == 0
}

#[derive(Debug)]
enum Sent {
    /// `promised`: a write to a volume whose space is promised, now.
    Change {
        change: Change,
        data: Vec<Rc<Bytes>>,
        fua: bool,
        lsn: Option<Lsn>,
        promised: bool,
    },
    Read {
        volume: VolumeId,
        at: VolumeBlock,
        data: Vec<Rc<Bytes>>,
        since: Lsn,
    },
    Flush {
        promised: Lsn,
    },
}

struct UnderWay {
    request: Request,
    /// For a flush: what was written before.
    mark: u64,
}

struct Life<'a> {
    store: Store,
    device: Device,
    model: Model,
    faults: Faults,
    outcome: &'a mut Outcome,
    sent: HashMap<u64, Sent>,
    under_way: Vec<UnderWay>,
    tags: u64,
    /// A page of the map, or of counts, could not be read: some commands fail until the store is opened again.
    out_of_reach: bool,
    /// Blocks of metadata, and how often the device failed to read them in turn. Some it never reads again.
    unread: HashMap<u64, u32>,
}

impl<'a> Life<'a> {
    fn new(store: Store, device: Device, model: Model, faults: Faults, outcome: &'a mut Outcome) -> Self {
        Self {
            store,
            device,
            model,
            faults,
            outcome,
            sent: HashMap::new(),
            under_way: Vec::new(),
            tags: 0,
            out_of_reach: false,
            unread: HashMap::new(),
        }
    }

    fn live(&mut self, commands: u32, workload: &mut Workload, rng: &mut Rng) -> Check {
        let mut left = commands;
        for _ in 0..STEPS_MAX {
            if left == 0 || self.store.is_stopped() {
                return Ok(());
            }
            if rng.u8(0..3) == 0 && self.sent.len() < LIMITS.commands {
                let action = workload.next(self.model.now(), rng);
                self.send(action)?;
                left -= 1;
            } else if rng.u16(0..GROWS) == 0 {
                self.grow(rng)?;
            } else {
                self.step(rng)?;
            }
        }
        Err("commands wait for ever".to_owned())
    }

    /// The device becomes larger, and the store is to follow. The same when that is not enough for more of a store.
    fn grow(&mut self, rng: &mut Rng) -> Check {
        self.device.grow(rng.u64(1..400));
        let before = self.store.layout().blocks();
        match self.store.grow(self.device.blocks(), "") {
            Ok(()) => self.outcome.grown += 1,
            Err(GrowError::TooLittle { .. } | GrowError::TooOften | GrowError::Busy | GrowError::Stopped) => {
            }
            Err(error) => return Err(format!("from {before} to {}: {error}", self.device.blocks())),
        }
        Ok(())
    }

    /// Ends everything under way, without new commands.
    fn drain(&mut self, rng: &mut Rng) -> Check {
        for _ in 0..STEPS_MAX {
            if self.sent.is_empty()
                && self.under_way.is_empty()
                && self.store.is_idle()
                && !self.store.is_growing()
            {
                return Ok(());
            }
            self.step(rng)?;
        }
        let brief = |sent: &Sent| format!("{sent:?}").chars().take(200).collect::<String>();
        let sent: Vec<_> = self.sent.values().map(brief).collect();
        let (counters, requests) = (self.store.counters(), self.under_way.len());
        let (stopped, checkpointing) = (self.store.is_stopped(), self.store.is_checkpointing());
        Err(format!(
            "something waits for ever: {sent:?}, {counters:?}, {requests} requests under way, \
             stopped: {stopped}, checkpointing: {checkpointing}, faults: {:?}",
            self.faults
        ))
    }

    fn send(&mut self, action: Action) -> Check {
        self.tags += 1;
        let tag = self.tags;
        let zero = || Rc::new([0; BLOCK_BYTES]);
        let mut sums = Vec::new();
        let (sent, operation) = match action {
            Action::Flush => (Sent::Flush { promised: self.store.lsn() }, Operation::Flush),
            Action::Read { volume, at, blocks } => {
                let data = (0..blocks).map(|_| zero()).collect();
                let since = self.store.lsn();
                (Sent::Read { volume, at, data, since }, Operation::Read { volume, at, blocks })
            }
            Action::Change { change, fua } => {
                let mut data = Vec::new();
                let operation = match &change {
                    Change::Write { volume, at, data: written } => {
                        data.clone_from(written);
                        sums.extend(data.iter().map(|bytes| crc32c(&bytes[..])));
                        Operation::Write { volume: *volume, at: *at, sums: &sums, fua }
                    }
                    Change::Unmap { volume, at, blocks } => {
                        Operation::Unmap { volume: *volume, at: *at, blocks: *blocks, fua }
                    }
                    Change::Own { volume, at, blocks } => {
                        data.resize_with(*blocks as usize, zero);
                        Operation::Own { volume: *volume, at: *at, blocks: *blocks }
                    }
                    Change::Control(control, _) => Operation::Control(control.clone()),
                };
                let promised = self.is_promised(&change);
                (Sent::Change { change, data, fua, lsn: None, promised }, operation)
            }
        };
        self.sent.insert(tag, sent);
        if let Err(failure) = self.store.submit(&Command { tag, operation }) {
            let sent = self.sent.remove(&tag).ok_or("a refused command was done")?;
            self.expect(failure, &sent)?;
        }
        self.collect()
    }

    /// Whether space for a write is promised.
    fn is_promised(&self, change: &Change) -> bool {
        let Change::Write { volume, .. } = change else { return false };
        self.model.now().get(&volume.0).is_some_and(|volume| volume.settings.reserved)
    }

    /// One thing happens.
    fn step(&mut self, rng: &mut Rng) -> Check {
        self.store.turn();
        self.collect()?;
        if self.under_way.is_empty() {
            return Ok(());
        }
        let next = rng.usize(..self.under_way.len());
        // Reads are slow: what they read may be freed, and taken again, meanwhile.
        if matches!(self.under_way[next].request.op, RequestOp::ReadData { .. }) && rng.u8(0..8) > 0 {
            return Ok(());
        }
        let next = self.under_way.swap_remove(next);
        let changes = !matches!(next.request.op, RequestOp::ReadMeta { .. } | RequestOp::ReadData { .. });
        self.carry_out(next, rng);
        self.collect()?;
        if changes { self.imagine_death(rng) } else { Ok(()) }
    }

    /// Takes up new requests and events.
    fn collect(&mut self) -> Check {
        while let Some(request) = self.store.next_request() {
            self.under_way.push(UnderWay { request, mark: self.device.mark() });
        }
        while let Some(event) = self.store.next_event() {
            self.heed(event)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, under_way: UnderWay, rng: &mut Rng) {
        let UnderWay { request: Request { id, op }, mark } = under_way;
        let fails = match op {
            RequestOp::ReadMeta { block } => self.fails_lookup(block, rng),
            _ => strikes(self.faults.for_request(&op), rng),
        };
        let mut sums = Vec::new();
        let mut bytes = Rc::new([0; BLOCK_BYTES]);
        match op {
            RequestOp::ReadMeta { .. } if fails => self.outcome.lookups += 1,
            RequestOp::ReadMeta { block } => bytes = self.device.block(block),
            RequestOp::ReadData { .. } if fails => {}
            RequestOp::ReadData { tag, offset, block, blocks } => {
                let read = (0..u64::from(blocks)).map(|index| self.device.block(Block(block.0 + index)));
                let read: Vec<Rc<Bytes>> = read.collect();
                sums.extend(read.iter().map(|bytes| crc32c(&bytes[..])));
                self.fill(tag, offset, &read);
            }
            RequestOp::ZeroData { tag, offset, blocks } => {
                self.fill(tag, offset, &vec![bytes.clone(); blocks as usize]);
            }
            RequestOp::WriteMeta { .. } | RequestOp::WriteData { .. } => {
                for (block, bytes) in self.blocks_of(&op) {
                    match op {
                        _ if fails => self.device.put_torn(block, &bytes, rng),
                        RequestOp::WriteMeta { fua: true, .. } => self.device.put_through(block, bytes),
                        _ => self.device.put(block, bytes),
                    }
                }
            }
            RequestOp::Flush if fails => {}
            RequestOp::Flush => self.device.flush_to(mark),
        }
        let finished = match op {
            RequestOp::ZeroData { .. } => Finished::Done,
            _ if fails => Finished::Failed,
            RequestOp::ReadMeta { .. } => Finished::Meta(&bytes),
            RequestOp::ReadData { .. } => Finished::Sums(&sums),
            _ => Finished::Done,
        };
        self.store.finish(id, finished);
    }

    /// A read of metadata fails: once, or, one time in two, for as long as the store is open. As often as it is tried in turn, it is
    /// out of reach.
    fn fails_lookup(&mut self, block: Block, rng: &mut Rng) -> bool {
        let before = self.unread.get(&block.0).copied().unwrap_or(0);
        if before < READS_MAX && !strikes(self.faults.lookups, rng) {
            self.unread.remove(&block.0);
            return false;
        }
        let failed = if before == 0 && rng.bool() { READS_MAX } else { before + 1 };
        self.unread.insert(block.0, failed);
        self.out_of_reach |= failed >= READS_MAX;
        true
    }

    fn fill(&mut self, tag: u64, offset: u32, blocks: &[Rc<Bytes>]) {
        let Some(Sent::Read { data, .. } | Sent::Change { data, .. }) = self.sent.get_mut(&tag) else {
            unreachable!("reads were sent")
        };
        data[offset as usize..][..blocks.len()].clone_from_slice(blocks);
    }

    /// What a request writes.
    fn blocks_of(&self, op: &RequestOp) -> Vec<(Block, Rc<Bytes>)> {
        match op {
            RequestOp::WriteMeta { block, bytes, .. } => vec![(*block, Rc::new(**bytes))],
            RequestOp::WriteData { tag, offset, block, blocks } => {
                let Some(Sent::Change { data, .. }) = self.sent.get(tag) else {
                    unreachable!("writes were sent")
                };
                let data = &data[*offset as usize..][..*blocks as usize];
                (block.0..).map(Block).zip(data.iter().map(Rc::clone)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn heed(&mut self, event: Event) -> Check {
        match event {
            Event::Applied { tag, lsn, made } => {
                let Some(Sent::Change { change, lsn: applied, .. }) = self.sent.get_mut(&tag) else {
                    return Err("applied what is no change".to_owned());
                };
                if let Change::Control(_, volume) = change {
                    *volume = made;
                }
                *applied = Some(lsn);
                self.model.apply(change, lsn);
                self.outcome.records = self.outcome.records.max(lsn.0);
                Ok(())
            }
            Event::Done { tag, result } => {
                self.outcome.commands += 1;
                let sent = self.sent.remove(&tag).ok_or("a command was done twice")?;
                match result {
                    Err(failure) => self.expect(failure, &sent),
                    Ok(_) => self.done(&sent),
                }
            }
        }
    }

    fn done(&mut self, sent: &Sent) -> Check {
        match sent {
            Sent::Flush { promised } => self.model.promise(*promised),
            Sent::Change { fua: true, lsn, .. } => {
                self.model.promise(lsn.ok_or("a change was done without being applied")?);
            }
            Sent::Change { fua: false, .. } => {}
            Sent::Read { volume, at, data, since } => {
                for (block, bytes) in (at.0..).zip(data) {
                    if !holds(self.model.since(*since), *volume, block, bytes) {
                        return Err(format!("read of {volume:?} block {block}: neither old nor new"));
                    }
                }
            }
        }
        Ok(())
    }

    fn expect(&mut self, failure: Failure, sent: &Sent) -> Check {
        match failure {
            Failure::Full
                if !self.out_of_reach
                    && matches!(sent, Sent::Change { promised: true, change, .. } if self.is_promised(change)) =>
            {
                return Err("a write whose space was promised met a full store".to_owned());
            }
            Failure::Full => self.outcome.full += 1,
            Failure::NoVolume | Failure::OutOfRange | Failure::ReadOnly | Failure::Shrinking => {}
            Failure::TooManyVolumes | Failure::NameTaken => {}
            Failure::WouldLoseData | Failure::ChecksumsDiffer | Failure::NoOrigin => {}
            Failure::Media if self.faults.data > 0 => {}
            Failure::Stopped if self.faults.metadata > 0 || self.out_of_reach => {}
            Failure::Corrupt if self.out_of_reach => self.outcome.unreachable += 1,
            failure => return Err(format!("a command failed without reason: {failure}")),
        }
        Ok(())
    }

    /// The device as power failing now would leave it.
    fn after_power_failure(&self, rng: &mut Rng) -> Device {
        let mut device = self.device.clone();
        let lost = self.under_way.iter().flat_map(|under_way| self.blocks_of(&under_way.request.op));
        device.lose_power(lost, rng);
        device
    }

    fn imagine_death(&mut self, rng: &mut Rng) -> Check {
        let mut rng = Rng::with_seed(rng.u64(..));
        let device = self.after_power_failure(&mut rng);
        self.outcome.deaths += 1;
        verify(device, &self.model, self.store.lsn()).map(|_| ())
    }

    /// Power fails; what is left is where the next life begins.
    fn die(mut self, rng: &mut Rng) -> Check<(Device, Model)> {
        if rng.bool() && !self.store.is_stopped() {
            self.drain(rng)?;
            if !self.store.is_stopped() && !self.out_of_reach {
                live_volumes(&mut self.store, &self.device, &self.model)?;
            }
        }
        let device = self.after_power_failure(rng);
        self.outcome.deaths += 1;
        for _ in 0..ROTS {
            rot(&device, &self.model, rng)?;
        }
        verify(device, &self.model, self.store.lsn())
    }

    /// Deletes everything, and finds all space free again.
    fn empty(mut self, rng: &mut Rng) -> Check {
        let volumes: Vec<u32> = self.model.now().keys().copied().collect();
        for volume in volumes {
            let control = Control::Delete { volume: VolumeId(volume) };
            self.send(Action::Change { change: Change::Control(control, None), fua: true })?;
            self.drain(rng)?;
        }
        for _ in 0..STEPS_MAX {
            if !self.store.is_reaping() {
                break;
            }
            self.step(rng)?;
        }
        self.drain(rng)?;
        self.store.request_checkpoint();
        self.step(rng)?;
        self.drain(rng)?;
        let counters = self.store.counters();
        if counters.free == counters.total && counters.freeing == 0 && counters.unplaced == 0 {
            Ok(())
        } else {
            Err(format!("space is lost with the last volume: {counters:?}"))
        }
    }
}
