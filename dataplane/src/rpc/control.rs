//! What methods act on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use reactors::{IdleMode, ReactorHandle};

use super::notify::Notifications;
use crate::assembly::Assembly;
use crate::device::fault::FaultTable;
use crate::device::nvmf::ControllerTable;
use crate::device::{DeviceRegistry, NvmeOptions};
use crate::logs::LogControl;
use crate::lvol::StoreSet;
use crate::metrics::{LocalController, Snapshot, Source};
use crate::replication::VolumeTable;
use crate::target::Target;

/// Everything that methods act on.
pub struct Control {
    /// Reactors, target and transports.
    pub assembly: Assembly,
    /// The devices.
    pub devices: DeviceRegistry,
    /// Those of them that inject errors.
    pub faults: FaultTable,
    /// The stores on them.
    pub stores: Arc<StoreSet>,
    /// Replicas, and the volumes that consist of them.
    pub volumes: VolumeTable,
    /// Controllers of other targets, and what made devices of their namespaces.
    pub controllers: ControllerTable,
    /// How controllers are treated that are attached.
    pub nvme_options: Mutex<NvmeOptions>,
    /// Controllers of this machine, through SPDK.
    #[cfg(feature = "spdk")]
    pub spdk: crate::device::spdk::SpdkTable,
    /// How reactors idle.
    pub mode: IdleMode,
    /// What is logged.
    pub log: LogControl,
    /// What changed lately.
    pub notifications: Notifications,
    /// When the process started.
    pub started: Instant,
}

impl Control {
    pub(super) fn target(&self) -> &Target {
        self.assembly.target()
    }

    /// The target, for whoever outlives this call.
    pub(super) fn shared_target(&self) -> &Arc<Target> {
        self.assembly.target()
    }

    /// How controllers are treated that are attached.
    pub(super) fn nvme_options(&self) -> NvmeOptions {
        *self.nvme_options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reactors(&self) -> &[ReactorHandle] {
        self.assembly.reactors()
    }
}

impl Control {
    #[cfg(feature = "spdk")]
    fn local_controllers(&self) -> Vec<LocalController> {
        let described = |controller: &Arc<crate::device::spdk::SpdkController>| LocalController {
            name: controller.config().name.clone(),
            health: controller.last_health(),
            counts: controller.counts(),
        };
        self.spdk.list().iter().map(described).collect()
    }

    #[cfg(not(feature = "spdk"))]
    fn local_controllers(&self) -> Vec<LocalController> {
        Vec::new()
    }
}

impl Source for Control {
    fn snapshot(&self) -> Snapshot {
        let target = self.target();
        let reactors = self.reactors().iter();
        let nqns = target.subsystems().into_iter().map(|subsystem| subsystem.options.nqn);
        Snapshot {
            reactors: reactors.map(|r| (r.core().map_or(0, |core| core.0), r.metrics())).collect(),
            traffic: self.assembly.tcp_traffic(),
            rdma_traffic: self.assembly.rdma_traffic(),
            rdma_events: self.assembly.rdma_events(),
            target: target.stats(),
            devices: self
                .devices
                .list()
                .iter()
                .map(|listed| (listed.device.info().name.to_string(), listed.device.counters()))
                .collect(),
            stores: self.stores.list().iter().map(|store| (store.name(), store.space())).collect(),
            controllers: nqns
                .filter_map(|nqn| {
                    let count = target.controllers(&nqn).ok()?.len();
                    Some((nqn.as_str().to_owned(), count as u64))
                })
                .collect(),
            local_controllers: self.local_controllers(),
        }
    }
}
