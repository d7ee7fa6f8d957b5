//! Private data of a connection request: made by a host, checked by a target (NVMe/RDMA transport 1.0 §3.2).

use nvme::rdma::{CmRequest, CmStatus};
use nvme::zerocopy::FromBytes;
use nvme::{ControllerId, QueueId, U16};

use super::DEPTH_MAX;

/// What a target grants at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestLimits {
    /// Entries of an admin queue.
    pub admin_entries_max: u16,
    /// Entries of an I/O queue.
    pub io_entries_max: u16,
    /// Highest queue identifier.
    pub qid_max: u16,
}

/// What a host asked for and gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostQueueSizes {
    /// Which queue it says that this will be.
    pub qid: QueueId,
    /// Commands that may be on their way, which is what the target posts receives for (CRQSIZE).
    pub commands: u16,
    /// Responses that may be on their way (HRQSIZE).
    pub responses: u16,
}

/// Checks a request: its private data, and how many reads of its memory the host serves at a time.
///
/// # Errors
/// The status to reject the connection with.
pub fn check_request(
    private_data: &[u8],
    reads_served: u8,
    limits: &RequestLimits,
) -> Result<HostQueueSizes, CmStatus> {
    let Ok((request, _)) = CmRequest::ref_from_prefix(private_data) else {
        return Err(CmStatus::INVALID_LENGTH);
    };
    if request.recfmt.get() != 0 {
        return Err(CmStatus::INVALID_RECFMT);
    }
    let qid = QueueId(request.qid.get());
    if qid.0 > limits.qid_max {
        return Err(CmStatus::INVALID_QID);
    }
    // Which controller it is the Connect command says; what is none is refused at once.
    if qid != QueueId::ADMIN && request.cntlid.get() > ControllerId::MAX.0 {
        return Err(CmStatus::INVALID_CNTLID);
    }
    let most = if qid == QueueId::ADMIN { limits.admin_entries_max } else { limits.io_entries_max };
    let commands = request.hsqsize.get().checked_add(1).ok_or(CmStatus::INVALID_HSQSIZE)?;
    if commands < 2 || commands > most.min(DEPTH_MAX) {
        return Err(CmStatus::INVALID_HSQSIZE);
    }
    match request.hrqsize.get() {
        0 => Err(CmStatus::INVALID_HRQSIZE),
        // Data of commands is read from the host: it must let us.
        _ if reads_served == 0 => Err(CmStatus::INVALID_IRD),
        responses => Ok(HostQueueSizes { qid, commands, responses }),
    }
}

/// The private data of a host that asks for a queue with room for `depth` commands.
pub fn request(qid: QueueId, cntlid: ControllerId, depth: u16) -> CmRequest {
    CmRequest {
        qid: U16::new(qid.0),
        hrqsize: U16::new(depth.saturating_add(1)),
        hsqsize: U16::new(depth),
        cntlid: U16::new(if qid == QueueId::ADMIN { 0 } else { cntlid.0 }),
        ..CmRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvme::zerocopy::IntoBytes;
    use proptest::prelude::*;

    const LIMITS: RequestLimits = RequestLimits { admin_entries_max: 128, io_entries_max: 1024, qid_max: 64 };

    fn refused(change: impl Fn(&mut CmRequest)) -> CmStatus {
        let mut request = request(QueueId(1), ControllerId(7), 127);
        change(&mut request);
        check_request(request.as_bytes(), 1, &LIMITS).expect_err("refused")
    }

    #[test]
    fn a_request_of_our_host_is_granted_by_our_target() {
        let request = request(QueueId(1), ControllerId(7), 127);
        let granted = check_request(request.as_bytes(), 1, &LIMITS);
        assert_eq!(granted, Ok(HostQueueSizes { qid: QueueId(1), commands: 128, responses: 128 }));
    }

    #[test]
    fn every_field_out_of_range_is_refused_with_its_own_status() {
        assert_eq!(refused(|r| r.recfmt = U16::new(1)), CmStatus::INVALID_RECFMT);
        assert_eq!(refused(|r| r.qid = U16::new(65)), CmStatus::INVALID_QID);
        assert_eq!(refused(|r| r.hsqsize = U16::new(0)), CmStatus::INVALID_HSQSIZE);
        assert_eq!(refused(|r| r.hsqsize = U16::new(1024)), CmStatus::INVALID_HSQSIZE);
        assert_eq!(refused(|r| r.hsqsize = U16::new(u16::MAX)), CmStatus::INVALID_HSQSIZE);
        assert_eq!(refused(|r| r.hrqsize = U16::new(0)), CmStatus::INVALID_HRQSIZE);
        assert_eq!(refused(|r| r.cntlid = U16::new(0xFFF0)), CmStatus::INVALID_CNTLID);
        assert_eq!(refused(|r| r.cntlid = U16::new(u16::MAX)), CmStatus::INVALID_CNTLID);
        let admin_too_deep = refused(|r| {
            r.qid = U16::new(0);
            r.hsqsize = U16::new(128);
        });
        assert_eq!(admin_too_deep, CmStatus::INVALID_HSQSIZE);
    }

    #[test]
    fn private_data_that_is_short_and_a_host_that_lets_nothing_be_read_are_refused() {
        let request = request(QueueId(1), ControllerId(7), 127);
        let whole = request.as_bytes();
        for len in 0..whole.len() {
            assert_eq!(check_request(&whole[..len], 1, &LIMITS), Err(CmStatus::INVALID_LENGTH));
        }
        // InfiniBand's field is longer than what is in it.
        let padded = [whole, &[0xFF; 24]].concat();
        assert!(check_request(&padded, 1, &LIMITS).is_ok());
        assert_eq!(check_request(whole, 0, &LIMITS), Err(CmStatus::INVALID_IRD));
        assert_eq!(check_request(&[0; 56], 1, &LIMITS), Err(CmStatus::INVALID_HSQSIZE));
    }

    proptest! {
        #[test]
        fn no_private_data_is_granted_more_than_the_limits(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            match check_request(&bytes, 1, &LIMITS) {
                Ok(sizes) => {
                    prop_assert!(bytes.len() >= CmRequest::SIZE);
                    prop_assert!((2..=1024).contains(&sizes.commands));
                    prop_assert!(sizes.responses > 0);
                }
                Err(CmStatus::INVALID_LENGTH) => prop_assert!(bytes.len() < CmRequest::SIZE),
                Err(_) => prop_assert!(bytes.len() >= CmRequest::SIZE),
            }
        }
    }
}
