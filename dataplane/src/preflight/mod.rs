//! What the machine must have before the daemon starts, checked in one place.
//!
//! [`Facts::gather`] looks; [`check`] judges, without looking at anything itself. A finding names what is missing, what
//! that costs, and the command that mends it. Only errors stop a start.

mod facts;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

pub use facts::{Facts, FileFact, raise_limits};

/// What the daemon is about to do.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Cores for reactors.
    pub cores: Vec<u16>,
    /// Bytes of buffers of one reactor.
    pub buffer_bytes_per_reactor: u64,
    /// Files and block devices that will be opened.
    pub files: Vec<PathBuf>,
    /// Addresses that will be listened on.
    pub addresses: Vec<SocketAddr>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The daemon runs, but slower or with less.
    Warning,
    /// The daemon cannot do what it was told.
    Error,
}

/// Something that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// What is missing.
    pub missing: String,
    /// What that costs.
    pub cost: &'static str,
    /// What mends it.
    pub fix: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{severity}: {}\n  cost: {}\n  fix:  {}", self.missing, self.cost, self.fix)
    }
}

/// Bytes of a huge page; the arenas of the reactors are made of such pages.
const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// Descriptors below which a thousand connections, their devices and control do not fit.
const DESCRIPTORS_MIN: u64 = 4096;

/// The first kernel whose io_uring has all that the devices use.
const KERNEL_FULL: (u32, u32) = (6, 1);

/// Judges the facts.
#[must_use]
pub fn check(facts: &Facts, plan: &Plan) -> Vec<Finding> {
    let mut findings = Vec::new();
    cores(&mut findings, facts, plan);
    memory(&mut findings, facts, plan);
    limits(&mut findings, facts);
    io_uring(&mut findings, facts, plan);
    files(&mut findings, facts);
    addresses(&mut findings, facts);
    findings
}

fn cores(findings: &mut Vec<Finding>, facts: &Facts, plan: &Plan) {
    for core in &plan.cores {
        let (missing, fix) = if !facts.cores_online.contains(core) {
            (format!("core {core} does not exist or is offline"), "choose others with --cores".to_owned())
        } else if !facts.cores_allowed.contains(core) {
            let fix = format!("add it to the affinity mask or the cpuset, e.g. taskset -c {core} …");
            (format!("core {core} is not allowed to this process"), fix)
        } else {
            continue;
        };
        findings.push(Finding { severity: Severity::Error, missing, cost: "no reactor can run there", fix });
    }
}

fn memory(findings: &mut Vec<Finding>, facts: &Facts, plan: &Plan) {
    let pages_per_reactor = plan.buffer_bytes_per_reactor.div_ceil(HUGE_PAGE_BYTES);
    let pages = pages_per_reactor * plan.cores.len() as u64;
    if facts.huge_pages_free < pages {
        findings.push(Finding {
            severity: Severity::Warning,
            missing: format!("{} free huge pages of 2 MiB, {pages} wanted", facts.huge_pages_free),
            cost: "buffers use ordinary pages: more TLB misses",
            fix: format!(
                "sysctl -w vm.nr_hugepages={}",
                facts.huge_pages_total + pages - facts.huge_pages_free
            ),
        });
    }
    let bytes = pages * HUGE_PAGE_BYTES;
    if facts.memlock.is_some_and(|limit| limit < bytes) {
        findings.push(Finding {
            severity: Severity::Warning,
            missing: format!("the limit of locked memory is below {} KiB", bytes >> 10),
            cost: "buffers cannot be registered with io_uring: each I/O maps its pages",
            fix: "ulimit -l unlimited, or LimitMEMLOCK=infinity in the service".to_owned(),
        });
    }
}

fn limits(findings: &mut Vec<Finding>, facts: &Facts) {
    if facts.descriptors.is_some_and(|limit| limit < DESCRIPTORS_MIN) {
        findings.push(Finding {
            severity: Severity::Warning,
            missing: format!("the limit of open files is below {DESCRIPTORS_MIN}"),
            cost: "further connections are refused when it is reached",
            fix: format!("ulimit -n {}, or LimitNOFILE= in the service", DESCRIPTORS_MIN * 16),
        });
    }
}

fn io_uring(findings: &mut Vec<Finding>, facts: &Facts, plan: &Plan) {
    let severity = if plan.files.is_empty() { Severity::Warning } else { Severity::Error };
    if let Some(reason) = &facts.io_uring_refused {
        let fix = match facts.io_uring_disabled {
            Some(0) | None => "allow io_uring_setup in the seccomp profile of the container".to_owned(),
            Some(_) => "sysctl -w kernel.io_uring_disabled=0".to_owned(),
        };
        findings.push(Finding {
            severity,
            missing: format!("io_uring ({reason})"),
            cost: "files and block devices cannot be served",
            fix,
        });
    } else if facts.kernel < KERNEL_FULL {
        findings.push(Finding {
            severity: Severity::Warning,
            missing: format!("Linux {}.{} or later", KERNEL_FULL.0, KERNEL_FULL.1),
            cost: "io_uring completes in interrupts instead of when the reactor looks",
            fix: "upgrade the kernel".to_owned(),
        });
    }
}

fn files(findings: &mut Vec<Finding>, facts: &Facts) {
    for (path, fact) in &facts.files {
        let path = path.display();
        let (severity, missing, cost, fix) = match fact {
            FileFact::Good => continue,
            FileFact::NoDirectIo => (
                Severity::Warning,
                format!("{path}: its file system has no direct I/O"),
                "data passes through the page cache",
                "put the file on ext4 or XFS, or use a block device".to_owned(),
            ),
            FileFact::Unusable(reason) => (
                Severity::Error,
                format!("{path}: {reason}"),
                "the device cannot be created",
                format!("check the path and its permissions: ls -l {path}"),
            ),
        };
        findings.push(Finding { severity, missing, cost, fix });
    }
}

fn addresses(findings: &mut Vec<Finding>, facts: &Facts) {
    for (address, refused) in &facts.addresses {
        let Some(reason) = refused else { continue };
        let fix = match reason {
            std::io::ErrorKind::PermissionDenied => {
                format!("sysctl -w net.ipv4.ip_unprivileged_port_start={}", address.port())
            }
            std::io::ErrorKind::AddrInUse => {
                format!("ss -ltnp 'sport = {}' names who has it", address.port())
            }
            _ => "ip address lists the addresses of this machine".to_owned(),
        };
        findings.push(Finding {
            severity: Severity::Error,
            missing: format!("cannot listen on {address}: {reason}"),
            cost: "hosts cannot connect there",
            fix,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            cores_online: vec![0, 1, 2],
            cores_allowed: vec![0, 1],
            huge_pages_total: 100,
            huge_pages_free: 100,
            memlock: None,
            descriptors: Some(1 << 20),
            io_uring_disabled: Some(0),
            io_uring_refused: None,
            kernel: (6, 12),
            files: Vec::new(),
            addresses: Vec::new(),
        }
    }

    fn plan() -> Plan {
        Plan { cores: vec![0, 1], buffer_bytes_per_reactor: 48 << 20, ..Plan::default() }
    }

    #[test]
    fn a_machine_that_has_everything_has_no_findings() {
        assert_eq!(check(&good(), &plan()), []);
    }

    #[test]
    fn cores_that_are_missing_or_forbidden_stop_the_start() {
        let findings = check(&good(), &Plan { cores: vec![2, 7], ..Plan::default() });
        assert_eq!(findings.len(), 2);
        assert!(findings.iter().all(|finding| finding.severity == Severity::Error));
        assert!(findings[0].missing.contains("core 2 is not allowed"));
        assert!(findings[1].missing.contains("core 7 does not exist"));
    }

    #[test]
    fn missing_huge_pages_warn_with_the_number_that_is_enough() {
        let facts = Facts { huge_pages_free: 10, ..good() };
        let findings = check(&facts, &plan());
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].severity, Severity::Warning);
        assert_eq!(findings[0].fix, "sysctl -w vm.nr_hugepages=138");
    }

    #[test]
    fn limits_that_are_too_low_warn() {
        let facts = Facts { memlock: Some(8 << 20), descriptors: Some(1024), ..good() };
        let findings = check(&facts, &plan());
        assert_eq!(findings.len(), 2);
        assert!(findings.iter().all(|finding| finding.severity == Severity::Warning));
    }

    #[test]
    fn no_io_uring_is_an_error_only_when_a_file_is_to_be_served() {
        let facts = Facts {
            io_uring_refused: Some("Operation not permitted".to_owned()),
            io_uring_disabled: Some(2),
            ..good()
        };
        let severity = |plan: &Plan| check(&facts, plan)[0].severity;
        assert_eq!(severity(&plan()), Severity::Warning);
        assert_eq!(severity(&Plan { files: vec!["/dev/x".into()], ..plan() }), Severity::Error);
        assert_eq!(check(&facts, &plan())[0].fix, "sysctl -w kernel.io_uring_disabled=0");
    }

    #[test]
    fn gathering_finds_what_a_path_and_an_address_lack() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("disk");
        std::fs::write(&file, [0; 4096]).expect("written");
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = taken.local_addr().expect("bound");
        let plan = Plan {
            files: vec![file, folder.path().join("none")],
            addresses: vec![address, "127.0.0.1:0".parse().expect("an address")],
            ..Plan::default()
        };
        let facts = Facts::gather(&plan);
        assert!(!matches!(facts.files[0].1, FileFact::Unusable(_)));
        assert!(matches!(facts.files[1].1, FileFact::Unusable(_)));
        assert_eq!(facts.addresses[0].1, Some(std::io::ErrorKind::AddrInUse));
        assert_eq!(facts.addresses[1].1, None);
        assert!(facts.cores_online.contains(&facts.cores_allowed[0]));
        assert!(facts.kernel > (3, 0));
    }
}
