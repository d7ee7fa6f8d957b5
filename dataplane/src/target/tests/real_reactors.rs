//! The target on reactors with threads of their own, which sleep when there is nothing to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nvme::Nsid;
use reactors::{CoreSet, IdleMode, PoolConfig, Reactors, ReactorsConfig};

use super::lab::{memory, subsystem};
use crate::target::{NamespaceOptions, ReactorTarget, SubsystemOptions, Target, TargetPoller};

/// Ten times what a starved machine needs.
const LOST_AFTER: Duration = Duration::from_secs(20);

#[test]
fn sleeping_reactors_wake_for_changes_and_acknowledge_them() {
    let buffers = PoolConfig { small_slots: 16, large_slots: 2, prefault: false };
    let cores = CoreSet::available().into_vec().into_iter().take(2).collect();
    let config = ReactorsConfig { cores, mode: IdleMode::Interrupt, buffers, ..ReactorsConfig::default() };
    let reactors = Reactors::start(config).unwrap();
    let target = Target::new();
    for handle in reactors.handles() {
        let target = Arc::clone(&target);
        let attached = handle.call(move |context| {
            let service = ReactorTarget::attach(&target, context.local()).unwrap();
            context.add_poller(Box::new(TargetPoller::new(&service))).unwrap();
        });
        attached.unwrap().wait().unwrap();
    }
    let start = Instant::now();
    while !reactors.handles().iter().all(|handle| handle.is_asleep()) {
        assert!(start.elapsed() < LOST_AFTER, "a reactor does not sleep");
        std::thread::yield_now();
    }
    target.create_subsystem(SubsystemOptions::new(subsystem())).unwrap();
    let nsid = target.add_namespace(&subsystem(), NamespaceOptions::new(memory("m0")));
    assert_eq!(nsid.unwrap(), Nsid(1));
    target.remove_namespace(&subsystem(), Nsid(1)).unwrap();
    target.delete_subsystem(&subsystem()).unwrap();
    assert_eq!(target.stats().reactors.len(), reactors.len());
    assert!(start.elapsed() < LOST_AFTER);
    reactors.shutdown();
    for outcome in reactors.join() {
        assert!(outcome.undrained.is_empty());
    }
}
