//! From `errno` of an I/O to the NVMe status a host understands.

use nvme::Status;
use rustix::io::Errno;

use crate::device::OpKind;

/// The status of an operation of this kind that failed with this error. "Do not retry" is set where nothing changes by
/// trying again.
pub(super) fn status(kind: OpKind, errno: Errno) -> Status {
    match errno {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Status::CAPACITY_EXCEEDED,
        Errno::IO | Errno::NODATA | Errno::ILSEQ | Errno::BADMSG | Errno::REMOTEIO => media_error(kind),
        Errno::OPNOTSUPP | Errno::NOSYS => Status::INVALID_OPCODE.dnr(),
        Errno::ROFS | Errno::PERM | Errno::ACCESS => Status::NAMESPACE_WRITE_PROTECTED.dnr(),
        Errno::AGAIN | Errno::INTR | Errno::BUSY | Errno::NOMEM | Errno::TIMEDOUT => {
            Status::COMMAND_INTERRUPTED
        }
        Errno::CANCELED => Status::ABORT_REQUESTED,
        Errno::BADE => Status::RESERVATION_CONFLICT,
        Errno::NOLINK => Status::INTERNAL_PATH_ERROR,
        _ => Status::INTERNAL_ERROR.dnr(),
    }
}

fn media_error(kind: OpKind) -> Status {
    match kind {
        OpKind::Read => Status::UNRECOVERED_READ_ERROR,
        OpKind::Write | OpKind::Flush | OpKind::WriteZeroes | OpKind::Deallocate => Status::WRITE_FAULT,
    }
}

/// Whether the same system call is worth repeating.
pub(super) fn is_transient(errno: Errno) -> bool {
    matches!(errno, Errno::AGAIN | Errno::INTR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_errors_say_which_way_the_data_went() {
        assert_eq!(status(OpKind::Read, Errno::IO), Status::UNRECOVERED_READ_ERROR);
        assert_eq!(status(OpKind::Write, Errno::IO), Status::WRITE_FAULT);
        assert_eq!(status(OpKind::Flush, Errno::IO), Status::WRITE_FAULT);
    }

    #[test]
    fn a_full_file_system_is_capacity_exceeded() {
        assert!(status(OpKind::Write, Errno::NOSPC).is(Status::CAPACITY_EXCEEDED));
    }

    #[test]
    fn only_what_cannot_heal_is_not_to_be_retried() {
        assert!(!status(OpKind::Write, Errno::AGAIN).is_dnr());
        assert!(status(OpKind::Deallocate, Errno::OPNOTSUPP).is_dnr());
    }
}
