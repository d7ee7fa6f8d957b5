//! Every limit of the target, with its reason.

/// Largest NSID a subsystem may offer: bounds the per-reactor namespace tables and the ANA log page.
pub const NAMESPACES_MAX: u32 = 1024;
/// Namespaces of a subsystem when nobody says how many.
pub const NAMESPACES_DEFAULT: u32 = 32;
/// Subsystems of one target: bounds the discovery log page to about a megabyte per listener.
pub const SUBSYSTEMS_MAX: usize = 1024;
/// Listeners of one subsystem: a discovery log record each.
pub const LISTENERS_MAX: usize = 64;
/// Hosts on one allow-list: looked through once per Connect.
pub const HOSTS_MAX: usize = 1024;
/// Referrals of the discovery log page.
pub const REFERRALS_MAX: usize = 128;
/// I/O queues of one controller that the target grants at most.
pub const IO_QUEUES_MAX: u16 = 64;
/// Controllers of one subsystem at a time; each costs about 2 KiB.
pub const CONTROLLERS_MAX: usize = 4096;
/// Registrants of one namespace: the reservation status stays within one report of 64 bytes each.
pub const REGISTRANTS_MAX: usize = 128;
/// Asynchronous Event Requests outstanding per controller (AERL + 1).
pub const ASYNC_EVENTS_MAX: u8 = 4;
/// Abort commands outstanding per controller (ACL + 1).
pub const ABORTS_MAX: u8 = 4;
/// Entries of the Error Information log (ELPE + 1).
pub const ERROR_LOG_ENTRIES: usize = 64;
/// Reservation notifications kept per controller; the oldest are lost beyond it.
pub const RESERVATION_NOTICES_MAX: usize = 64;
/// Ranges of one Dataset Management command: NR is eight bits, 0's based.
pub const DSM_RANGES_MAX: u32 = 256;
/// Logical blocks a Compare and Write writes atomically (ACWU + 1): what a device guarantees over a power loss.
pub const COMPARE_WRITE_BLOCKS_MAX: u32 = 1;
/// Bytes a Verify reads at a time.
pub const VERIFY_STEP_BYTES: u32 = 64 * 1024;
/// Messages that may wait for a reactor from other reactors and control threads.
pub const MAILBOX_CAPACITY: usize = 4096;
/// How long a control call waits for the reactors before it gives up: device I/O in flight may have to end first.
pub const ACKNOWLEDGE_TIMEOUT_MS: u64 = 30_000;
/// How long a first fused command waits for its second before it is aborted.
pub const FUSED_WAIT_NS: u64 = 2_000_000_000;
/// How long a new connection may take until its Connect is accepted; a host needs milliseconds.
pub const CONNECT_WAIT_NS: u64 = 30_000_000_000;
/// How long a disabled or shut down controller keeps its association before it is ended.
pub const ASSOCIATION_TIMEOUT_NS: u64 = 120_000_000_000;
