//! Asks a target over RDMA for connections as no host may, and checks that each is refused with its own status (NVMe/RDMA
//! transport 1.0 §3.2), and that one in order is accepted, before and after.
//!
//! `rdma_stranger ADDRESS exact|padded`: `padded` where the transport fills private data up with zeroes, as InfiniBand does.
//! Ends with 1 when an answer was another than it should be.
#![allow(missing_docs, clippy::unwrap_used, reason = "a program for tests")]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use nvme::U16;
use nvme::rdma::{CmAccept, CmReject, CmRequest, CmStatus};
use nvme::zerocopy::{FromBytes, IntoBytes};
use transport::rdma::stranger::{Answer, ask};

const TIMEOUT: Duration = Duration::from_secs(20);
/// Reads that we say we serve.
const READS: u8 = 1;
/// Depth asked for, 0's based.
const HSQSIZE: u16 = 31;

/// An I/O queue as a host in order asks for it.
fn good() -> CmRequest {
    CmRequest {
        qid: U16::new(1),
        hrqsize: U16::new(HSQSIZE + 1),
        hsqsize: U16::new(HSQSIZE),
        cntlid: U16::new(1),
        ..CmRequest::default()
    }
}

struct Case {
    name: &'static str,
    private_data: Vec<u8>,
    reads: u8,
    status: CmStatus,
}

fn case(name: &'static str, status: CmStatus, change: impl Fn(&mut CmRequest)) -> Case {
    let mut request = good();
    change(&mut request);
    Case { name, private_data: request.as_bytes().to_vec(), reads: READS, status }
}

fn cases(padded: bool) -> Vec<Case> {
    let mut cases = vec![
        case("a record format of its own", CmStatus::INVALID_RECFMT, |r| r.recfmt = U16::new(1)),
        case("a queue beyond the last", CmStatus::INVALID_QID, |r| r.qid = U16::new(u16::MAX)),
        case("HSQSIZE 0", CmStatus::INVALID_HSQSIZE, |r| r.hsqsize = U16::new(0)),
        case("HSQSIZE too large", CmStatus::INVALID_HSQSIZE, |r| r.hsqsize = U16::new(u16::MAX - 1)),
        case("HSQSIZE that overflows", CmStatus::INVALID_HSQSIZE, |r| r.hsqsize = U16::new(u16::MAX)),
        case("an admin queue too deep", CmStatus::INVALID_HSQSIZE, |r| {
            r.qid = U16::new(0);
            r.hsqsize = U16::new(4095);
        }),
        case("HRQSIZE 0", CmStatus::INVALID_HRQSIZE, |r| r.hrqsize = U16::new(0)),
        case("a reserved controller", CmStatus::INVALID_CNTLID, |r| r.cntlid = U16::new(0xFFF0)),
        Case {
            name: "nothing but ones",
            private_data: vec![0xFF; 56],
            reads: READS,
            status: CmStatus::INVALID_RECFMT,
        },
    ];
    let nothing = if padded { CmStatus::INVALID_HSQSIZE } else { CmStatus::INVALID_LENGTH };
    cases.push(Case { name: "nothing", private_data: Vec::new(), reads: READS, status: nothing });
    if !padded {
        let mut short = good().as_bytes().to_vec();
        short.pop();
        let status = CmStatus::INVALID_LENGTH;
        cases.push(Case { name: "a byte less than a request", private_data: short, reads: READS, status });
    }
    cases
}

fn status(answer: &Answer) -> Option<CmStatus> {
    let Answer::Rejected(private_data) = answer else { return None };
    CmReject::ref_from_prefix(private_data).ok().map(|(reject, _)| reject.status())
}

fn is_accepted(target: SocketAddr) -> bool {
    let answer = ask(target, good().as_bytes(), READS, TIMEOUT);
    println!("in order: {answer:?}");
    let Ok(Answer::Accepted(private_data)) = answer else { return false };
    let granted = CmAccept::ref_from_prefix(&private_data).map(|(accept, _)| accept.crqsize.get());
    granted.is_ok_and(|granted| granted == HSQSIZE + 1)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let target: SocketAddr = args[0].parse().unwrap();
    let mut is_right = is_accepted(target);
    for case in cases(args[1] == "padded") {
        let answer = ask(target, &case.private_data, case.reads, TIMEOUT);
        let said = answer.as_ref().ok().and_then(status);
        println!("{}: {}", case.name, said.map_or_else(|| format!("{answer:?}"), |said| said.to_string()));
        is_right &= said == Some(case.status);
    }
    is_right &= is_accepted(target);
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
