//! How failures of the store end I/O.

use nvme::Status;

use crate::device::OpKind;
use crate::store::Failure;

/// The NVMe status of a failure of this kind of I/O.
pub(super) fn status(failure: Failure, kind: OpKind) -> Status {
    match failure {
        Failure::Busy => Status::INTERNAL_ERROR,
        Failure::NoVolume => Status::INVALID_NAMESPACE_OR_FORMAT.dnr(),
        Failure::OutOfRange | Failure::Shrinking => Status::LBA_OUT_OF_RANGE.dnr(),
        Failure::ReadOnly => Status::NAMESPACE_WRITE_PROTECTED.dnr(),
        Failure::Full | Failure::TooManyVolumes => Status::CAPACITY_EXCEEDED,
        // Not the data that was written, or nothing: never data that may be wrong.
        Failure::Media if kind != OpKind::Read => Status::WRITE_FAULT.dnr(),
        Failure::Corrupt | Failure::Media => Status::UNRECOVERED_READ_ERROR.dnr(),
        Failure::Stopped => Status::INTERNAL_ERROR.dnr(),
        Failure::NameTaken
        | Failure::BadName
        | Failure::WouldLoseData
        | Failure::ChecksumsDiffer
        | Failure::NoOrigin => Status::INVALID_FIELD.dnr(),
    }
}
