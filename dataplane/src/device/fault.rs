//! A device that fails, delays or holds I/O of another device by rules: for tests, and for drills.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nvme::Status;
use reactors::{Clock, Timestamp};
use uuid::Uuid;

use super::counters::{CounterBook, Meter};
use super::{
    BlockSize, Claim, ClaimKind, Device, DeviceCounters, DeviceError, DeviceInfo, DeviceRegistry, Done, Io,
    IoDone, OpKind, Queue, QueueContext, Submission,
};

/// What the name of a device that injects errors begins with, before that of the device below.
const PREFIX: &str = "EE_";

/// What happens to an I/O that a rule applies to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// It completes with this status and never reaches the device.
    Fail(Status),
    /// It reaches the device so much later.
    Delay(Duration),
    /// It reaches the device after the next [`FaultDevice::release`].
    Hold,
}

/// Which I/Os an effect is for. The first rule that applies decides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Only this kind of operation; any by default.
    pub kind: Option<OpKind>,
    /// Only I/O that touches one of these blocks; any by default, flushes included.
    pub blocks: Option<Range<u64>>,
    /// Only so many I/Os, then the rule is gone; no limit by default.
    pub count: Option<u32>,
    /// What happens.
    pub effect: Effect,
}

impl Rule {
    /// Every I/O.
    pub fn always(effect: Effect) -> Self {
        Self { kind: None, blocks: None, count: None, effect }
    }

    fn applies(&self, io: &Io, block_size: BlockSize) -> bool {
        let kind = self.kind.is_none_or(|kind| kind == io.op.kind());
        let blocks = self.blocks.as_ref().is_none_or(|own| {
            io.op.blocks(block_size).is_some_and(|touched| own.start < touched.end && touched.start < own.end)
        });
        kind && blocks
    }
}

#[derive(Default)]
struct Rules {
    rules: Mutex<Vec<Rule>>,
    /// Whether there are any, without taking the lock.
    any: AtomicBool,
    /// How often held I/O was released.
    releases: AtomicU64,
}

impl Rules {
    fn lock(&self) -> MutexGuard<'_, Vec<Rule>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn effect(&self, io: &Io, block_size: BlockSize) -> Option<Effect> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let mut rules = self.lock();
        let index = rules.iter().position(|rule| rule.applies(io, block_size))?;
        let effect = rules[index].effect;
        match &mut rules[index].count {
            Some(0 | 1) => drop(rules.remove(index)),
            Some(count) => *count -= 1,
            None => {}
        }
        self.any.store(!rules.is_empty(), Ordering::Release);
        Some(effect)
    }
}

/// A device in front of another. Without rules it passes everything on.
pub struct FaultDevice {
    name: Arc<str>,
    inner: Arc<dyn Device>,
    rules: Arc<Rules>,
    injected: CounterBook,
    /// Keeps others from the device below.
    _claim: Option<Claim>,
}

impl FaultDevice {
    /// A device named `name` in front of `inner`.
    pub fn new(name: &str, inner: Arc<dyn Device>) -> Self {
        let (rules, injected) = (Arc::default(), CounterBook::default());
        Self { name: name.into(), inner, rules, injected, _claim: None }
    }

    fn over(name: &str, claim: Claim) -> Self {
        let inner = Arc::clone(claim.device());
        Self { _claim: Some(claim), ..Self::new(name, inner) }
    }

    /// Adds a rule behind the others.
    pub fn add(&self, rule: Rule) {
        let mut rules = self.rules.lock();
        rules.push(rule);
        self.rules.any.store(true, Ordering::Release);
    }

    /// Removes all rules. What is held or delayed stays so.
    pub fn clear(&self) {
        let mut rules = self.rules.lock();
        rules.clear();
        self.rules.any.store(false, Ordering::Release);
    }

    /// Lets all I/O go that is held now.
    pub fn release(&self) {
        self.rules.releases.fetch_add(1, Ordering::AcqRel);
    }
}

impl Device for FaultDevice {
    fn info(&self) -> DeviceInfo {
        let inner = self.inner.info();
        let uuid = Uuid::new_v5(&inner.uuid, self.name.as_bytes());
        DeviceInfo { name: Arc::clone(&self.name), product: "Error injection disk", uuid, ..inner }
    }

    fn open_queue(&self, context: &QueueContext<'_>) -> Result<Box<dyn Queue>, DeviceError> {
        Ok(Box::new(FaultQueue {
            inner: self.inner.open_queue(context)?,
            rules: Arc::clone(&self.rules),
            block_size: self.inner.info().block_size,
            late: Vec::with_capacity(context.depth.max(1) as usize),
            meter: self.injected.open(),
            clock: Clock::new(),
        }))
    }

    /// The other device's, and the injected failures.
    fn counters(&self) -> DeviceCounters {
        self.inner.counters().plus(&self.injected.sum())
    }

    fn rescan(&self) -> Result<bool, DeviceError> {
        self.inner.rescan()
    }

    fn resize(&self, blocks: u64) -> Result<(), DeviceError> {
        self.inner.resize(blocks)
    }
}

enum Until {
    Time(Timestamp),
    /// The count of releases has passed this one.
    Release(u64),
}

struct Late {
    io: Io,
    until: Until,
}

struct FaultQueue {
    inner: Box<dyn Queue>,
    rules: Arc<Rules>,
    block_size: BlockSize,
    late: Vec<Late>,
    meter: Meter,
    clock: Clock,
}

impl FaultQueue {
    fn put_off(&mut self, io: Io, until: Until) -> Submission {
        if self.late.len() == self.late.capacity() {
            return Submission::Busy(io);
        }
        self.late.push(Late { io, until });
        Submission::Queued
    }

    fn submit_due(&mut self, done: &mut Done) {
        let (now, releases) = (self.clock.now(), self.rules.releases.load(Ordering::Acquire));
        let mut index = 0;
        while index < self.late.len() && !done.is_full() {
            let due = match self.late[index].until {
                Until::Time(time) => time <= now,
                Until::Release(release) => releases > release,
            };
            if !due {
                index += 1;
                continue;
            }
            let Late { io, until } = self.late.remove(index);
            match self.inner.submit(io) {
                Submission::Done(finished) => done.push(finished),
                Submission::Queued => {}
                Submission::Busy(io) => return self.late.insert(index, Late { io, until }),
            }
        }
    }
}

impl Queue for FaultQueue {
    fn submit(&mut self, io: Io) -> Submission {
        match self.rules.effect(&io, self.block_size) {
            None => self.inner.submit(io),
            Some(Effect::Fail(status)) => {
                self.meter.failed(io.op.kind());
                Submission::Done(IoDone { tag: io.tag, status, buffer: io.op.into_buffer() })
            }
            Some(Effect::Delay(delay)) => {
                let due = self.clock.now() + delay;
                self.put_off(io, Until::Time(due))
            }
            Some(Effect::Hold) => {
                let release = self.rules.releases.load(Ordering::Acquire);
                self.put_off(io, Until::Release(release))
            }
        }
    }

    fn kick(&mut self) {
        self.inner.kick();
    }

    fn poll(&mut self, done: &mut Done) {
        if !self.late.is_empty() {
            self.submit_due(done);
        }
        self.inner.poll(done);
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.wait_fd()
    }

    /// Nothing would wake for held or delayed I/O, so the reactor stays awake for it.
    fn before_sleep(&mut self) -> bool {
        self.inner.before_sleep() && self.late.is_empty()
    }

    fn has_background(&self) -> bool {
        self.inner.has_background()
    }

    fn in_flight(&self) -> usize {
        self.late.len() + self.inner.in_flight()
    }
}

/// The devices of a process that inject errors.
#[derive(Default)]
pub struct FaultTable(Mutex<BTreeMap<String, (String, Arc<FaultDevice>)>>);

impl FaultTable {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (String, Arc<FaultDevice>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a device in front of another, and adds it to the registry; its name is that of the other after `EE_`.
    ///
    /// # Errors
    /// The other is missing or in use, or the name taken.
    pub fn create(&self, registry: &DeviceRegistry, base: &str) -> Result<String, DeviceError> {
        let name = format!("{PREFIX}{base}");
        let claim = registry.claim(base, ClaimKind::Exclusive, &format!("device {name}"))?;
        let device = Arc::new(FaultDevice::over(&name, claim));
        registry.add(Arc::clone(&device) as Arc<dyn Device>)?;
        self.lock().insert(name.clone(), (base.to_owned(), device));
        Ok(name)
    }

    /// The device of that name.
    ///
    /// # Errors
    /// There is none that injects errors.
    pub fn get(&self, name: &str) -> Result<Arc<FaultDevice>, DeviceError> {
        let found = self.lock().get(name).map(|(_, device)| Arc::clone(device));
        found.ok_or_else(|| DeviceError::NotFound { name: name.to_owned() })
    }

    /// Removes a device that nobody uses; the one below is free again.
    ///
    /// # Errors
    /// There is none of that name that injects errors, or it is in use.
    pub fn delete(&self, registry: &DeviceRegistry, name: &str) -> Result<(), DeviceError> {
        drop(self.get(name)?);
        registry.delete(name)?;
        self.lock().remove(name);
        Ok(())
    }

    /// The names of the devices below, in the order of names.
    pub fn bases(&self) -> Vec<String> {
        self.lock().values().map(|(base, _)| base.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::memory::MemoryDevice;
    use crate::device::tests::rig::Rig;
    use crate::device::{Lba, Op};

    fn fault() -> FaultDevice {
        let memory = MemoryDevice::new("memory", BlockSize::B512, 64, Uuid::nil()).unwrap();
        FaultDevice::new("fault", Arc::new(memory))
    }

    #[test]
    fn a_rule_fails_what_it_names_as_often_as_it_says() {
        let device = fault();
        let mut rig = Rig::new(&device);
        device.add(Rule {
            kind: Some(OpKind::Write),
            blocks: Some(8..9),
            count: Some(1),
            effect: Effect::Fail(Status::WRITE_FAULT),
        });
        assert_eq!(rig.write(0, &[1; 4096]), Status::SUCCESS);
        assert!(rig.read(8, 512).is_ok());
        assert_eq!(rig.write(7, &[2; 1024]), Status::WRITE_FAULT);
        assert_eq!(rig.read(7, 1024).unwrap(), [&[1; 512][..], &[0; 512]].concat());
        assert_eq!(rig.write(7, &[2; 1024]), Status::SUCCESS);
        let writes = *device.counters().of(OpKind::Write);
        assert_eq!((writes.operations, writes.errors), (3, 1));
    }

    #[test]
    fn held_io_waits_for_its_release() {
        let device = fault();
        let mut rig = Rig::new(&device);
        device.add(Rule { count: Some(1), ..Rule::always(Effect::Hold) });
        let buffer = rig.buffer(&[3; 512]);
        assert!(rig.submit(7, Op::Write { lba: Lba(0), buffer, fua: false }).is_none());
        assert_eq!(rig.read(0, 512).unwrap(), [0; 512]);
        assert_eq!(rig.queue.in_flight(), 1);
        assert!(!rig.queue.before_sleep());
        device.release();
        let done = rig.wait();
        assert_eq!((done[0].tag, done[0].status), (7, Status::SUCCESS));
        assert_eq!(rig.read(0, 512).unwrap(), [3; 512]);
    }

    #[test]
    fn delayed_io_takes_its_time() {
        let device = fault();
        let mut rig = Rig::new(&device);
        device.add(Rule::always(Effect::Delay(Duration::from_millis(20))));
        let start = std::time::Instant::now();
        assert_eq!(rig.flush(), Status::SUCCESS);
        assert!(start.elapsed() >= Duration::from_millis(20));
        device.clear();
        assert!(rig.submit(1, Op::Flush).is_some());
    }

    #[test]
    fn a_device_with_one_in_front_is_nobody_elses() {
        let (registry, faults) = (DeviceRegistry::default(), FaultTable::default());
        let memory = MemoryDevice::new("m", BlockSize::B512, 64, Uuid::nil()).unwrap();
        registry.add(Arc::new(memory)).unwrap();
        assert_eq!(faults.create(&registry, "m").unwrap(), "EE_m");
        assert!(matches!(registry.delete("m"), Err(DeviceError::Claimed { .. })));
        assert!(matches!(faults.create(&registry, "m"), Err(DeviceError::Claimed { .. })));
        assert!(matches!(faults.delete(&registry, "m"), Err(DeviceError::NotFound { .. })));
        assert_eq!(faults.bases(), ["m"]);
        faults.delete(&registry, "EE_m").unwrap();
        assert!(faults.get("EE_m").is_err() && registry.get("EE_m").is_err());
        registry.delete("m").unwrap();
    }

    #[test]
    fn more_than_fits_is_given_back() {
        let device = fault();
        let mut rig = Rig::with_depth(&device, 1);
        device.add(Rule::always(Effect::Hold));
        assert!(rig.submit(1, Op::Flush).is_none());
        assert!(matches!(
            rig.queue.submit(Io { tag: 2, op: Op::Flush }),
            Submission::Busy(Io { tag: 2, .. })
        ));
    }
}
