//! One seed: a store, its lives, its deaths.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::rc::Rc;

use dataplane::store::format::{Bytes, crc32c};
use dataplane::store::{
    BLOCK_BYTES, Block, COMMAND_BLOCKS_MAX, Command, Control, CreateOptions, Event, Failure, Finished,
    Limits, Lsn, Operation, Request, RequestOp, Store, VolumeBlock, VolumeId, check, create, open,
};
use fastrand::Rng;
use uuid::Uuid;

use crate::device::Device;
use crate::model::{Change, Model, State};
use crate::workload::{Action, SMALL_BLOCKS, Workload, holds};

/// Small, so that pages come and go, slots run out and checkpoints are frequent.
const LIMITS: Limits = Limits { commands: 8, map_pages: 16, counts_pages: 2, frames: 96 };
const VOLUMES: u32 = 20;
const LIVES: u32 = 3;
/// More steps than any life needs: beyond it something waits for ever.
const STEPS_MAX: u32 = 200_000;

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
}

impl std::ops::AddAssign for Outcome {
    fn add_assign(&mut self, other: Self) {
        self.deaths += other.deaths;
        self.commands += other.commands;
        self.full += other.full;
        self.records += other.records;
    }
}

/// A promise that was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failed {
    /// The seed.
    pub seed: u64,
    /// What was wrong.
    pub what: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, what } = self;
        write!(f, "seed {seed}: {what}\nreplay: cargo run --release -p pollux-sim -- --seeds 1 --from {seed}")
    }
}

type Check<T = ()> = Result<T, String>;

/// Runs one seed. `commands`: how many in each life.
pub fn run(seed: u64, commands: u32) -> Result<Outcome, Failed> {
    run_lives(seed, commands).map_err(|what| Failed { seed, what })
}

fn run_lives(seed: u64, commands: u32) -> Check<Outcome> {
    let mut rng = Rng::with_seed(seed);
    let mut device = Device::new(*rng.choice(&[250, 350, 1_500, 5_000]).unwrap_or(&350));
    let options = CreateOptions {
        uuid: Uuid::from_u128(rng.u128(..)),
        volumes: VOLUMES,
        log_blocks: Some(rng.u64(16..64)),
        force: false,
    };
    create(&mut device, &options).map_err(|error| format!("create: {error}"))?;
    let mut workload = Workload::new();
    let mut model = Model::new(Rc::default(), Lsn(0));
    let mut outcome = Outcome::default();
    for life in 0..LIVES {
        let store = open(&mut device, LIMITS).map_err(|error| format!("life {life}: open: {error}"))?;
        let mut life = Life::new(store, device, model, Faults::of(seed, life), &mut outcome);
        life.live(commands, &mut workload, &mut rng)?;
        (device, model) = life.die(&mut rng)?;
    }
    let store = open(&mut device, LIMITS).map_err(|error| format!("last life: open: {error}"))?;
    Life::new(store, device, model, Faults::default(), &mut outcome).empty(&mut rng)?;
    Ok(outcome)
}

/// What goes wrong in a life, apart from power. One request in so many; 0 for none.
#[derive(Clone, Copy, Default, Debug)]
struct Faults {
    data: u32,
    metadata: u32,
}

impl Faults {
    fn of(seed: u64, life: u32) -> Self {
        match (seed % 8, life) {
            (3, _) => Self { data: 40, metadata: 0 },
            (7, 0 | 1) => Self { data: 200, metadata: 300 },
            _ => Self::default(),
        }
    }
}

fn strikes(one_in: u32, rng: &mut Rng) -> bool {
    one_in > 0 && rng.u32(..one_in) == 0
}

enum Sent {
    Change { change: Change, data: Vec<Rc<Bytes>>, fua: bool, lsn: Option<Lsn> },
    Read { volume: VolumeId, at: VolumeBlock, data: Vec<Rc<Bytes>>, since: Lsn },
    Flush { promised: Lsn },
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
}

impl<'a> Life<'a> {
    fn new(store: Store, device: Device, model: Model, faults: Faults, outcome: &'a mut Outcome) -> Self {
        Self { store, device, model, faults, outcome, sent: HashMap::new(), under_way: Vec::new(), tags: 0 }
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
            } else {
                self.step(rng)?;
            }
        }
        Err("commands wait for ever".to_owned())
    }

    /// Ends everything under way, without new commands.
    fn drain(&mut self, rng: &mut Rng) -> Check {
        for _ in 0..STEPS_MAX {
            if self.sent.is_empty() && self.under_way.is_empty() && self.store.is_idle() {
                return Ok(());
            }
            self.step(rng)?;
        }
        Err("something waits for ever".to_owned())
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
                    Change::Write { volume, at, stamps } => {
                        data.extend(stamps.iter().map(|stamp| Rc::new(stamp.bytes())));
                        sums.extend(data.iter().map(|bytes| crc32c(&bytes[..])));
                        Operation::Write { volume: *volume, at: *at, sums: &sums, fua }
                    }
                    Change::Unmap { volume, at, blocks } => {
                        Operation::Unmap { volume: *volume, at: *at, blocks: *blocks, fua }
                    }
                    Change::Control(control, _) => Operation::Control(control.clone()),
                };
                (Sent::Change { change, data, fua, lsn: None }, operation)
            }
        };
        self.sent.insert(tag, sent);
        if let Err(failure) = self.store.submit(&Command { tag, operation }) {
            self.sent.remove(&tag);
            self.expect(failure)?;
        }
        self.collect()
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
        let fails = strikes(if is_data(&op) { self.faults.data } else { self.faults.metadata }, rng);
        let mut sums = Vec::new();
        let mut bytes = Rc::new([0; BLOCK_BYTES]);
        match op {
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
            // Metadata is read whenever it can be: what happens when it cannot is another test's.
            RequestOp::ReadMeta { .. } => Finished::Meta(&bytes),
            RequestOp::ZeroData { .. } => Finished::Done,
            _ if fails => Finished::Failed,
            RequestOp::ReadData { .. } => Finished::Sums(&sums),
            _ => Finished::Done,
        };
        self.store.finish(id, finished);
    }

    fn fill(&mut self, tag: u64, offset: u32, blocks: &[Rc<Bytes>]) {
        let Some(Sent::Read { data, .. }) = self.sent.get_mut(&tag) else { unreachable!("reads were sent") };
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
                    Err(failure) => self.expect(failure),
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
                    if !holds(self.model.since(*since), *volume, block, &bytes[..]) {
                        return Err(format!("read of {volume:?} block {block}: neither old nor new"));
                    }
                }
            }
        }
        Ok(())
    }

    fn expect(&mut self, failure: Failure) -> Check {
        match failure {
            Failure::Full => self.outcome.full += 1,
            Failure::NoVolume | Failure::OutOfRange | Failure::ReadOnly | Failure::Shrinking => {}
            Failure::TooManyVolumes | Failure::NameTaken => {}
            Failure::Media if self.faults.data > 0 => {}
            Failure::Stopped if self.faults.metadata > 0 => {}
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
        }
        let device = self.after_power_failure(rng);
        self.outcome.deaths += 1;
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

fn is_data(op: &RequestOp) -> bool {
    matches!(op, RequestOp::ReadData { .. } | RequestOp::WriteData { .. } | RequestOp::ZeroData { .. })
}

/// Compares what is on a device with the model. Gives the device back, as a store left it that opened it and did nothing.
fn verify(mut device: Device, model: &Model, newest: Lsn) -> Check<(Device, Model)> {
    sound(&mut device, "before opening")?;
    let mut store = open(&mut device, LIMITS).map_err(|error| format!("open: {error}"))?;
    let lsn = store.lsn();
    if lsn < model.promised || lsn > newest {
        return Err(format!("found {lsn:?}, promised {:?}, last {newest:?}", model.promised));
    }
    let state = Rc::clone(model.at(lsn).ok_or("found a state from before the store was opened")?);
    same_volumes(&store, &state)?;
    for id in state.keys() {
        same_content(&mut store, &device, VolumeId(*id), &state)?;
    }
    sound(&mut device, "after opening")?;
    Ok((device, Model::new(state, lsn)))
}

fn sound(device: &mut Device, when: &str) -> Check {
    let report = check(device, true).map_err(|error| format!("check {when}: {error}"))?;
    match report.faults.first() {
        None => Ok(()),
        Some(fault) => Err(format!("check {when}: {} faults, the first: {fault}", report.faults.len())),
    }
}

fn same_volumes(store: &Store, state: &State) -> Check {
    let found: Vec<_> = store.volumes().map(|info| (info.id.0, info.name, info.blocks, info.kind)).collect();
    let wanted: Vec<_> =
        state.iter().map(|(id, volume)| (*id, volume.name.clone(), volume.blocks, volume.kind)).collect();
    if found == wanted { Ok(()) } else { Err(format!("volumes are {found:?}, should be {wanted:?}")) }
}

/// Reads what was written and what lies around it; of a small volume everything.
fn same_content(store: &mut Store, device: &Device, id: VolumeId, state: &Rc<State>) -> Check {
    let volume = &state[&id.0];
    let step = u64::from(COMMAND_BLOCKS_MAX);
    let mut starts: BTreeSet<u64> = volume.content.keys().map(|block| block / step * step).collect();
    starts.extend((0..volume.blocks.min(SMALL_BLOCKS)).step_by(COMMAND_BLOCKS_MAX as usize));
    for at in starts {
        let blocks = u32::try_from(step.min(volume.blocks - at)).expect("at most a command's");
        for (block, bytes) in (at..).zip(read(store, device, id, VolumeBlock(at), blocks)?) {
            if !holds(std::iter::once(state), id, block, &bytes[..]) {
                let wanted = volume.content.get(&block);
                return Err(format!("{id:?} block {block} does not hold {wanted:?}"));
            }
        }
    }
    Ok(())
}

/// Reads through the store.
fn read(
    store: &mut Store,
    device: &Device,
    volume: VolumeId,
    at: VolumeBlock,
    blocks: u32,
) -> Check<Vec<Rc<Bytes>>> {
    let zero = Rc::new([0; BLOCK_BYTES]);
    let mut data = vec![zero; blocks as usize];
    let operation = Operation::Read { volume, at, blocks };
    store.submit(&Command { tag: 0, operation }).map_err(|failure| format!("read: {failure}"))?;
    for _ in 0..STEPS_MAX {
        while let Some(Request { id, op }) = store.next_request() {
            match op {
                RequestOp::ReadMeta { block } => store.finish(id, Finished::Meta(&device.block(block))),
                RequestOp::ReadData { offset, block, blocks, .. } => {
                    let read: Vec<_> =
                        (block.0..).map(|at| device.block(Block(at))).take(blocks as usize).collect();
                    let sums: Vec<u32> = read.iter().map(|bytes| crc32c(&bytes[..])).collect();
                    data[offset as usize..][..read.len()].clone_from_slice(&read);
                    store.finish(id, Finished::Sums(&sums));
                }
                RequestOp::ZeroData { .. } => store.finish(id, Finished::Done),
                // Deleted volumes may be freed meanwhile: that needs no answer.
                RequestOp::WriteMeta { .. } | RequestOp::WriteData { .. } | RequestOp::Flush => {}
            }
        }
        match store.next_event() {
            Some(Event::Done { result: Ok(_), .. }) => return Ok(data),
            Some(event) => return Err(format!("read: {event:?}")),
            None => store.turn(),
        }
    }
    Err("a read waits for ever".to_owned())
}
