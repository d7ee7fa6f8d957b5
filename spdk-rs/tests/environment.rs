//! The environment without huge pages, which runs everywhere. One test: there is one environment per process.
#![cfg(feature = "spdk")]

use std::time::{Duration, Instant};

use spdk_rs::{
    AttachError, ControllerOptions, DmaBuffer, DmaMemory, EnvError, EnvOptions, Environment, Memory,
    PciAddress, PollGroup, TransportId,
};

const OTHER: PciAddress = PciAddress { domain: 0, bus: 0xfe, device: 0x1f, function: 7 };
const ALLOWED: PciAddress = PciAddress { domain: 0, bus: 0xfd, device: 0x1f, function: 7 };

fn cores() -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc is mounted");
    status.lines().find(|line| line.starts_with("Cpus_allowed_list")).unwrap_or_default().into()
}

#[test]
fn the_environment_is_set_up_once_and_gives_memory_for_devices() {
    let cores_before = cores();
    let options = EnvOptions {
        memory: Memory::Ordinary { mib: 64 },
        allowed: Some(vec![ALLOWED]),
        ..EnvOptions::default()
    };
    let environment = Environment::init(&options).unwrap();
    assert_eq!(cores(), cores_before, "the caller's cores are its own");

    Environment::init(&options).unwrap();
    let other = EnvOptions { name: "other".into(), ..options };
    assert!(matches!(Environment::init(&other), Err(EnvError::Differs)));

    let mut buffer = DmaBuffer::zeroed(&environment, 10_000).unwrap();
    assert_eq!((buffer.len(), buffer.byte_count()), (10_000, 10_000));
    assert!(buffer.iter().all(|byte| *byte == 0));
    assert_eq!(buffer.segment(0).unwrap().0.addr().get() % DmaBuffer::ALIGN, 0);
    buffer.fill(7);
    assert!(buffer.segment(1).is_none());
    assert!(DmaBuffer::zeroed(&environment, 1 << 40).is_none(), "more than there is");

    let attach = |id: TransportId| environment.attach(&id, &ControllerOptions::default()).map(|_| ());
    assert!(matches!(attach(OTHER.into()), Err(AttachError::NotAllowed(OTHER))));
    assert!(matches!(attach(ALLOWED.into()), Err(AttachError::NotFound(_))));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let began = Instant::now();
    let refused = attach(TransportId::Tcp { address: nobody, subsystem: "nqn.2026-01.org.example:s".into() });
    assert!(matches!(refused, Err(AttachError::NotFound(_))));
    assert!(began.elapsed() < Duration::from_secs(60));

    let group = PollGroup::new(&environment).unwrap();
    assert_eq!(group.process_completions(0), Ok(0));
}
