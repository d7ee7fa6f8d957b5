//! Every metric: its name, shape, unit and labels, and how a scrape reads it.

use nvme::log::SmartLog;
use reactors::ReactorSnapshot;
use transport::rdma::target::{RdmaDeviceEvents, RdmaReactorTraffic};
use transport::tcp::target::ReactorTraffic;

use crate::device::{ControllerCounts, DeviceCounters, OpCounters, OpKind};
use crate::lvol::StoreSpace;
use crate::target::{LatencyHistogram, NamespaceStats, TargetStats};

/// What is read at one scrape.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Each reactor's core and counters.
    pub reactors: Vec<(u16, ReactorSnapshot)>,
    /// What each reactor's TCP driver did, in the order of `reactors`; empty without the transport.
    pub traffic: Vec<ReactorTraffic>,
    /// What each reactor's RDMA driver did, in the order of `reactors`; empty without the transport.
    pub rdma_traffic: Vec<RdmaReactorTraffic>,
    /// What RDMA devices said.
    pub rdma_events: RdmaDeviceEvents,
    /// What the target did. Reactors are those of `reactors`, by index.
    pub target: TargetStats,
    /// Each device's name and counters.
    pub devices: Vec<(String, DeviceCounters)>,
    /// Each store's name and space.
    pub stores: Vec<(String, StoreSpace)>,
    /// Each subsystem's NQN and the number of its controllers.
    pub controllers: Vec<(String, u64)>,
    /// Each NVMe controller of this machine.
    pub local_controllers: Vec<LocalController>,
}

/// An NVMe controller of this machine.
#[derive(Debug)]
pub struct LocalController {
    /// Its name.
    pub name: String,
    /// Its SMART log, if it was read.
    pub health: Option<SmartLog>,
    /// What it went through.
    pub counts: ControllerCounts,
}

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

/// What a metric counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UnitOf {
    Count,
    Seconds,
    Bytes,
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Reading {
    Number(u64),
    Seconds(f64),
    /// `buckets`: upper bound in seconds, and how many lie between it and the bound before.
    Histogram {
        sum: f64,
        count: u64,
        buckets: Vec<(f64, u64)>,
    },
}

/// Values of the labels, in the order of [`Family::labels`].
pub(super) type Labels = Vec<String>;

/// A metric with all its labels.
pub(super) struct Family {
    /// Without the suffixes that OpenMetrics adds for the unit and `_total`.
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) unit: UnitOf,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
    pub(super) read: fn(&Snapshot, &mut Vec<(Labels, Reading)>),
}

/// Upper bounds of the latency buckets, in nanoseconds.
const LATENCY_BOUNDS_NS: [u64; 17] = [
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
];

const CORE: &[&str] = &["core"];
const NAMESPACE: &[&str] = &["subsystem", "nsid", "device"];
const NAMESPACE_OPERATION: &[&str] = &["subsystem", "nsid", "device", "operation"];
const EVENT: &[&str] = &["event"];
const LOCAL: &[&str] = &["controller"];
const DEVICE_OPERATION: &[&str] = &["device", "operation"];
const STORE: &[&str] = &["store"];

macro_rules! family {
    ($name:literal, $shape:ident, $unit:ident, $labels:expr, $help:literal, $read:expr) => {
        Family {
            name: $name,
            shape: Shape::$shape,
            unit: UnitOf::$unit,
            labels: $labels,
            help: $help,
            read: $read,
        }
    };
}

#[rustfmt::skip]
pub(super) const FAMILIES: &[Family] = &[
    family!("pollux_reactor_busy", Counter, Seconds, CORE, "Time in turns that found work", |s, out| times(s, out, |r| r.busy_ns)),
    family!("pollux_reactor_idle", Counter, Seconds, CORE, "Time polling without finding work", |s, out| times(s, out, |r| r.idle_ns)),
    family!("pollux_reactor_sleeping", Counter, Seconds, CORE, "Time asleep in the kernel", |s, out| times(s, out, |r| r.sleeping_ns)),
    family!("pollux_reactor_turns", Counter, Count, CORE, "Turns of the loop", |s, out| counts(s, out, |r| r.turns)),
    family!("pollux_reactor_busy_turns", Counter, Count, CORE, "Turns that found work", |s, out| counts(s, out, |r| r.busy_turns)),
    family!("pollux_reactor_sleeps", Counter, Count, CORE, "Times it slept; each was ended by one wake-up", |s, out| counts(s, out, |r| r.sleeps)),
    family!("pollux_reactor_messages", Counter, Count, CORE, "Messages from other threads", |s, out| counts(s, out, |r| r.messages)),
    family!("pollux_reactor_stalls", Counter, Count, CORE, "Pieces of work that ran longer than allowed", |s, out| counts(s, out, |r| r.stalls)),
    family!("pollux_reactor_buffers_in_use", Gauge, Count, &["core", "size"], "Buffers in use, of 4 KiB (`small`) and 128 KiB (`large`)", buffers_in_use),
    family!("pollux_reactor_buffers_free_min", Gauge, Count, &["core", "size"], "The fewest buffers ever free", buffers_free_min),
    family!("pollux_reactor_queues", Gauge, Count, &["core", "kind"], "Queue pairs connected now, `admin` and `io`", queues),
    family!("pollux_reactor_queues_connected", Counter, Count, &["core", "kind"], "Queue pairs ever connected", queues_connected),
    family!("pollux_reactor_device_io_pending", Gauge, Count, CORE, "Commands that wait for a device now", device_io_pending),
    family!("pollux_reactor_io_commands", Counter, Count, CORE, "I/O commands completed", io_commands),
    family!("pollux_tcp_connections", Gauge, Count, CORE, "TCP connections now", |s, out| tcp(s, out, |t| t.accepted.saturating_sub(t.closed))),
    family!("pollux_tcp_accepted", Counter, Count, CORE, "TCP connections ever accepted", |s, out| tcp(s, out, |t| t.accepted)),
    family!("pollux_tcp_received", Counter, Bytes, CORE, "Received over TCP, protocol included", |s, out| tcp(s, out, |t| t.traffic.bytes_received)),
    family!("pollux_tcp_sent", Counter, Bytes, CORE, "Sent over TCP, protocol included", |s, out| tcp(s, out, |t| t.traffic.bytes_sent)),
    family!("pollux_tcp_receive_calls", Counter, Count, CORE, "System calls that received, or found nothing", |s, out| tcp(s, out, |t| t.traffic.receive_calls)),
    family!("pollux_tcp_send_calls", Counter, Count, CORE, "System calls that sent", |s, out| tcp(s, out, |t| t.traffic.send_calls)),
    family!("pollux_tcp_commands", Counter, Count, CORE, "Commands that arrived over TCP", |s, out| tcp(s, out, |t| t.traffic.commands)),
    family!("pollux_tcp_blocked", Counter, Count, CORE, "Times a connection was not read because no slot or buffer was free, or its host did not read", |s, out| tcp(s, out, |t| t.traffic.blocked)),
    family!("pollux_rdma_connections", Gauge, Count, CORE, "RDMA connections now", |s, out| rdma(s, out, |t| t.accepted.saturating_sub(t.closed))),
    family!("pollux_rdma_accepted", Counter, Count, CORE, "RDMA connections ever accepted", |s, out| rdma(s, out, |t| t.accepted)),
    family!("pollux_rdma_received", Counter, Bytes, CORE, "Read from hosts' memory and received in capsules", |s, out| rdma(s, out, |t| t.traffic.bytes_received)),
    family!("pollux_rdma_sent", Counter, Bytes, CORE, "Written into hosts' memory", |s, out| rdma(s, out, |t| t.traffic.bytes_sent)),
    family!("pollux_rdma_commands", Counter, Count, CORE, "Commands that arrived over RDMA", |s, out| rdma(s, out, |t| t.traffic.commands)),
    family!("pollux_rdma_in_capsule", Counter, Count, CORE, "Commands that arrived over RDMA with their data", |s, out| rdma(s, out, |t| t.traffic.in_capsule)),
    family!("pollux_rdma_reads", Counter, Count, CORE, "Commands whose data was read from a host's memory", |s, out| rdma(s, out, |t| t.traffic.reads)),
    family!("pollux_rdma_writes", Counter, Count, CORE, "Commands whose data was written into a host's memory", |s, out| rdma(s, out, |t| t.traffic.writes)),
    family!("pollux_rdma_blocked", Counter, Count, CORE, "Times a command capsule waited for a slot or a buffer", |s, out| rdma(s, out, |t| t.traffic.blocked)),
    family!("pollux_rdma_held", Counter, Count, CORE, "Responses that waited for the host to have room for them", |s, out| rdma(s, out, |t| t.traffic.held)),
    family!("pollux_rdma_shared", Counter, Count, CORE, "Connections whose receives were shared with others", |s, out| rdma(s, out, |t| t.traffic.shared)),
    family!("pollux_rdma_device_events", Counter, Count, EVENT, "Events of RDMA devices, by kind: `port_down`, `port_up`, `changed` (addresses, keys, subnet manager), `queue_pair_failed`, `device_failed`, `listener_lost`", rdma_events),
    family!("pollux_controllers", Gauge, Count, &["subsystem"], "Controllers of a subsystem now", controllers),
    family!("pollux_namespace_commands", Counter, Count, NAMESPACE_OPERATION, "Commands completed: `read`, `write`, `flush`, `other`", namespace_commands),
    family!("pollux_namespace_transferred", Counter, Bytes, NAMESPACE_OPERATION, "Data of completed commands: `read`, `write`", namespace_bytes),
    family!("pollux_namespace_errors", Counter, Count, NAMESPACE, "Commands that ended in an error", namespace_errors),
    family!("pollux_namespace_latency", Histogram, Seconds, NAMESPACE_OPERATION, "From the arrival of a command to its completion: `read`, `write`", namespace_latency),
    family!("pollux_device_operations", Counter, Count, DEVICE_OPERATION, "Operations finished, failed ones included", |s, out| operations(s, out, |c| Reading::Number(c.operations))),
    family!("pollux_device_transferred", Counter, Bytes, DEVICE_OPERATION, "Data of operations that succeeded", |s, out| operations(s, out, |c| Reading::Number(c.bytes))),
    family!("pollux_device_errors", Counter, Count, DEVICE_OPERATION, "Operations that failed", |s, out| operations(s, out, |c| Reading::Number(c.errors))),
    family!("pollux_device_time", Counter, Seconds, DEVICE_OPERATION, "Sum of the time of all operations in the device; none for those that finish at once", |s, out| operations(s, out, |c| seconds(c.latency_ns_total))),
    family!("pollux_device_time_max", Gauge, Seconds, DEVICE_OPERATION, "The longest time of an operation in the device", |s, out| operations(s, out, |c| seconds(c.latency_ns_max))),
    family!("pollux_store_size", Gauge, Bytes, STORE, "Space for data and map", |s, out| spaces(s, out, |space| space.total)),
    family!("pollux_store_free", Gauge, Bytes, STORE, "Space that is free", |s, out| spaces(s, out, |space| space.free)),
    family!("pollux_store_freeing", Gauge, Bytes, STORE, "Space that is free once what is under way is on the media", |s, out| spaces(s, out, |space| space.freeing)),
    family!("pollux_store_promised", Gauge, Bytes, STORE, "Free space that is promised to reserved volumes", |s, out| spaces(s, out, |space| space.promised)),
    family!("pollux_store_stopped", Gauge, Count, STORE, "1 when an error of its device has stopped the store's writes until it is opened again", |s, out| spaces(s, out, |space| u64::from(space.stopped))),
    family!("pollux_nvme_healthy", Gauge, Count, LOCAL, "1 when a local NVMe controller answers and warns of nothing, else 0", healthy),
    family!("pollux_nvme_critical_warning", Gauge, Count, LOCAL, "Critical warnings as bits (NVMe base 2.1 §5.1.12.1.3)", |s, out| health(s, out, |log| log.critical_warning.into())),
    family!("pollux_nvme_temperature_kelvins", Gauge, Count, LOCAL, "Composite temperature", |s, out| health(s, out, |log| log.temperature.get().into())),
    family!("pollux_nvme_spare_percent", Gauge, Count, LOCAL, "Spare capacity left", |s, out| health(s, out, |log| log.available_spare.into())),
    family!("pollux_nvme_life_used_percent", Gauge, Count, LOCAL, "Life used, may exceed 100", |s, out| health(s, out, |log| log.percentage_used.into())),
    family!("pollux_nvme_media_errors", Counter, Count, LOCAL, "Unrecovered data integrity errors in the life of the device", |s, out| health(s, out, |log| saturated(log.media_errors))),
    family!("pollux_nvme_unsafe_shutdowns", Counter, Count, LOCAL, "Unexpected power losses in the life of the device", |s, out| health(s, out, |log| saturated(log.unsafe_shutdowns))),
    family!("pollux_nvme_events", Counter, Count, LOCAL, "Asynchronous events of a local NVMe controller", |s, out| went_through(s, out, |counts| counts.events)),
    family!("pollux_nvme_late_commands", Counter, Count, LOCAL, "Commands that a local NVMe controller did not answer in time", |s, out| went_through(s, out, |counts| counts.late_commands)),
    family!("pollux_nvme_aborts", Counter, Count, LOCAL, "Late commands that a local NVMe controller was asked to abort", |s, out| went_through(s, out, |counts| counts.aborts)),
    family!("pollux_nvme_resets", Counter, Count, LOCAL, "Resets that a local NVMe controller came up from", |s, out| went_through(s, out, |counts| counts.resets)),
];

type Out = Vec<(Labels, Reading)>;

#[expect(clippy::cast_precision_loss, reason = "seconds to a relative precision of 2^-53")]
fn seconds(ns: u64) -> Reading {
    Reading::Seconds(ns as f64 / 1e9)
}

fn times(snapshot: &Snapshot, out: &mut Out, field: fn(&ReactorSnapshot) -> u64) {
    out.extend(snapshot.reactors.iter().map(|(core, r)| (vec![core.to_string()], seconds(field(r)))));
}

fn counts(snapshot: &Snapshot, out: &mut Out, field: fn(&ReactorSnapshot) -> u64) {
    out.extend(snapshot.reactors.iter().map(|(core, r)| (vec![core.to_string()], Reading::Number(field(r)))));
}

fn tcp(snapshot: &Snapshot, out: &mut Out, field: fn(&ReactorTraffic) -> u64) {
    for (index, traffic) in snapshot.traffic.iter().enumerate() {
        out.push((vec![core(snapshot, index)], Reading::Number(field(traffic))));
    }
}

fn rdma(snapshot: &Snapshot, out: &mut Out, field: fn(&RdmaReactorTraffic) -> u64) {
    for (index, traffic) in snapshot.rdma_traffic.iter().enumerate() {
        out.push((vec![core(snapshot, index)], Reading::Number(field(traffic))));
    }
}

fn rdma_events(snapshot: &Snapshot, out: &mut Out) {
    let RdmaDeviceEvents { port_down, port_up, changed, queue_pair_failed, device_failed, listener_lost } =
        snapshot.rdma_events;
    for (event, count) in [
        ("port_down", port_down),
        ("port_up", port_up),
        ("changed", changed),
        ("queue_pair_failed", queue_pair_failed),
        ("device_failed", device_failed),
        ("listener_lost", listener_lost),
    ] {
        out.push((vec![event.to_owned()], Reading::Number(count)));
    }
}

fn pair(out: &mut Out, first: &str, second: [(&str, u64); 2]) {
    for (label, value) in second {
        out.push((vec![first.to_owned(), label.to_owned()], Reading::Number(value)));
    }
}

fn buffers_in_use(snapshot: &Snapshot, out: &mut Out) {
    for (core, reactor) in &snapshot.reactors {
        pair(out, &core.to_string(), [("small", reactor.small_in_use), ("large", reactor.large_in_use)]);
    }
}

fn buffers_free_min(snapshot: &Snapshot, out: &mut Out) {
    for (core, reactor) in &snapshot.reactors {
        pair(out, &core.to_string(), [("small", reactor.small_free_min), ("large", reactor.large_free_min)]);
    }
}

/// The core of a reactor that the target knows by index.
fn core(snapshot: &Snapshot, index: usize) -> String {
    snapshot.reactors.get(index).map(|(core, _)| core.to_string()).unwrap_or_default()
}

fn queues(snapshot: &Snapshot, out: &mut Out) {
    for stats in &snapshot.target.reactors {
        let core = core(snapshot, stats.reactor);
        pair(out, &core, [("admin", stats.admin_queues), ("io", stats.io_queues)]);
    }
}

fn queues_connected(snapshot: &Snapshot, out: &mut Out) {
    for stats in &snapshot.target.reactors {
        let core = core(snapshot, stats.reactor);
        pair(out, &core, [("admin", stats.admin_queues_total), ("io", stats.io_queues_total)]);
    }
}

fn device_io_pending(snapshot: &Snapshot, out: &mut Out) {
    for stats in &snapshot.target.reactors {
        out.push((vec![core(snapshot, stats.reactor)], Reading::Number(stats.device_io_pending)));
    }
}

fn io_commands(snapshot: &Snapshot, out: &mut Out) {
    for stats in &snapshot.target.reactors {
        out.push((vec![core(snapshot, stats.reactor)], Reading::Number(stats.io_commands_total)));
    }
}

fn healthy(snapshot: &Snapshot, out: &mut Out) {
    for LocalController { name, health, .. } in &snapshot.local_controllers {
        let well = health.as_ref().is_some_and(|log| log.critical_warning == 0);
        out.push((vec![name.clone()], Reading::Number(well.into())));
    }
}

fn health(snapshot: &Snapshot, out: &mut Out, field: fn(&SmartLog) -> u64) {
    for LocalController { name, health, .. } in &snapshot.local_controllers {
        out.extend(health.as_ref().map(|log| (vec![name.clone()], Reading::Number(field(log)))));
    }
}

fn went_through(snapshot: &Snapshot, out: &mut Out, field: fn(&ControllerCounts) -> u64) {
    for LocalController { name, counts, .. } in &snapshot.local_controllers {
        out.push((vec![name.clone()], Reading::Number(field(counts))));
    }
}

fn saturated(count: nvme::U128) -> u64 {
    u64::try_from(count.get()).unwrap_or(u64::MAX)
}

fn controllers(snapshot: &Snapshot, out: &mut Out) {
    out.extend(snapshot.controllers.iter().map(|(nqn, count)| (vec![nqn.clone()], Reading::Number(*count))));
}

fn namespace_labels(stats: &NamespaceStats) -> Labels {
    vec![stats.subsystem.as_str().to_owned(), stats.nsid.get().to_string(), stats.device.clone()]
}

fn push_operation(out: &mut Out, stats: &NamespaceStats, operation: &str, reading: Reading) {
    let mut labels = namespace_labels(stats);
    labels.push(operation.to_owned());
    out.push((labels, reading));
}

fn namespace_commands(snapshot: &Snapshot, out: &mut Out) {
    for stats in &snapshot.target.namespaces {
        let counters = &stats.counters;
        for (operation, count) in [
            ("read", counters.read_commands),
            ("write", counters.write_commands),
            ("flush", counters.flush_commands),
            ("other", counters.other_commands),
        ] {
            push_operation(out, stats, operation, Reading::Number(count));
        }
    }
}

fn namespace_bytes(snapshot: &Snapshot, out: &mut Out) {
    for stats in &snapshot.target.namespaces {
        push_operation(out, stats, "read", Reading::Number(stats.counters.read_bytes));
        push_operation(out, stats, "write", Reading::Number(stats.counters.written_bytes));
    }
}

fn namespace_errors(snapshot: &Snapshot, out: &mut Out) {
    for stats in &snapshot.target.namespaces {
        out.push((namespace_labels(stats), Reading::Number(stats.counters.errors)));
    }
}

fn namespace_latency(snapshot: &Snapshot, out: &mut Out) {
    for stats in &snapshot.target.namespaces {
        let counters = &stats.counters;
        push_operation(out, stats, "read", histogram(&stats.read_latency, counters.read_ns_total));
        push_operation(out, stats, "write", histogram(&stats.write_latency, counters.write_ns_total));
    }
}

/// Fewer buckets than were counted in: each count goes to the first bound that is not below its bucket's end.
#[expect(clippy::cast_precision_loss, reason = "seconds to a relative precision of 2^-53")]
fn histogram(latency: &LatencyHistogram, ns_total: u64) -> Reading {
    let mut counts = [0; LATENCY_BOUNDS_NS.len() + 1];
    for (end_ns, count) in latency.buckets() {
        counts[LATENCY_BOUNDS_NS.partition_point(|bound| *bound < end_ns)] += count;
    }
    let bounds = LATENCY_BOUNDS_NS.iter().map(|ns| *ns as f64 / 1e9).chain([f64::MAX]);
    Reading::Histogram {
        sum: ns_total as f64 / 1e9,
        count: counts.iter().sum(),
        buckets: bounds.zip(counts).collect(),
    }
}

const OPERATIONS: [(OpKind, &str); OpKind::COUNT] = [
    (OpKind::Read, "read"),
    (OpKind::Write, "write"),
    (OpKind::Flush, "flush"),
    (OpKind::WriteZeroes, "write_zeroes"),
    (OpKind::Deallocate, "deallocate"),
];

fn operations(snapshot: &Snapshot, out: &mut Out, field: fn(&OpCounters) -> Reading) {
    for (name, counters) in &snapshot.devices {
        for (kind, operation) in OPERATIONS {
            out.push((vec![name.clone(), operation.to_owned()], field(counters.of(kind))));
        }
    }
}

fn spaces(snapshot: &Snapshot, out: &mut Out, field: fn(&StoreSpace) -> u64) {
    out.extend(
        snapshot.stores.iter().map(|(name, space)| (vec![name.clone()], Reading::Number(field(space)))),
    );
}

#[cfg(test)]
mod tests {
    use nvme::zerocopy::FromBytes;

    use super::*;

    #[test]
    fn an_empty_histogram_has_every_bucket_and_counts_nothing() {
        let Reading::Histogram { sum, count, buckets } = histogram(&LatencyHistogram::default(), 0) else {
            panic!("not a histogram");
        };
        assert_eq!((sum, count, buckets.len()), (0.0, 0, LATENCY_BOUNDS_NS.len() + 1));
        assert_eq!(buckets.last(), Some(&(f64::MAX, 0)));
    }

    fn warning_log() -> SmartLog {
        let mut bytes = [0; size_of::<SmartLog>()];
        (bytes[0], bytes[1], bytes[2]) = (1, 0x43, 0x01);
        SmartLog::read_from_bytes(&bytes).expect("as long")
    }

    fn local(name: &str, health: Option<SmartLog>) -> LocalController {
        let counts = ControllerCounts { late_commands: 3, ..ControllerCounts::default() };
        LocalController { name: name.to_owned(), health, counts }
    }

    #[test]
    fn a_controller_that_does_not_answer_or_warns_is_not_healthy() {
        let local_controllers = vec![local("mute", None), local("worn", Some(warning_log()))];
        let snapshot = Snapshot { local_controllers, ..Snapshot::default() };
        let readings = |name: &str| {
            let family = FAMILIES.iter().find(|family| family.name == name).expect("a metric");
            let mut out = Vec::new();
            (family.read)(&snapshot, &mut out);
            out.into_iter().map(|(labels, reading)| (labels[0].clone(), reading)).collect::<Vec<_>>()
        };
        let number = |name: &str, value| (name.to_owned(), Reading::Number(value));
        assert_eq!(readings("pollux_nvme_healthy"), [number("mute", 0), number("worn", 0)]);
        assert_eq!(readings("pollux_nvme_temperature_kelvins"), [number("worn", 0x143)]);
        assert_eq!(readings("pollux_nvme_late_commands"), [number("mute", 3), number("worn", 3)]);
    }

    #[test]
    fn every_reading_has_as_many_labels_as_its_family() {
        let snapshot = Snapshot {
            reactors: vec![(0, ReactorSnapshot::default())],
            devices: vec![("d".to_owned(), DeviceCounters::default())],
            stores: vec![("s".to_owned(), StoreSpace::default())],
            controllers: vec![("nqn".to_owned(), 1)],
            local_controllers: vec![local("disk", None), local("other", Some(warning_log()))],
            ..Snapshot::default()
        };
        for family in FAMILIES {
            let mut readings = Vec::new();
            (family.read)(&snapshot, &mut readings);
            assert!(
                readings.iter().all(|(labels, _)| labels.len() == family.labels.len()),
                "{}",
                family.name
            );
        }
    }
}
