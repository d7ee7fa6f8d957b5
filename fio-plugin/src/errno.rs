//! How an NVMe status looks to fio, whose I/Os end with an `errno`.

use nvme::{Status, StatusCodeType};

/// An error number of the system; never zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i32);

impl Errno {
    /// The connection was lost, or the device failed.
    pub const IO: Self = Self(libc::EIO);
    /// The request is not one a device can be asked.
    pub const INVALID: Self = Self(libc::EINVAL);
    /// A command was not answered in time.
    pub const TIMED_OUT: Self = Self(libc::ETIMEDOUT);

    /// Of a status that is not a success: what the Linux block layer makes of it, where it makes something of it.
    #[must_use]
    pub fn of(status: Status) -> Self {
        Self(match status.code() {
            code if code == Status::LBA_OUT_OF_RANGE.code() => libc::ENOSPC,
            code if code == Status::CAPACITY_EXCEEDED.code() => libc::ENOSPC,
            code if code == Status::INVALID_OPCODE.code() => libc::EOPNOTSUPP,
            code if code == Status::INVALID_FIELD.code() => libc::EINVAL,
            code if code == Status::INVALID_NAMESPACE_OR_FORMAT.code() => libc::ENODEV,
            code if code == Status::NAMESPACE_WRITE_PROTECTED.code() => libc::EROFS,
            code if code == Status::WRITE_TO_READ_ONLY_RANGE.code() => libc::EROFS,
            code if code == Status::RESERVATION_CONFLICT.code() => libc::EBADE,
            code if code == Status::ACCESS_DENIED.code() => libc::EACCES,
            code if code == Status::TRANSIENT_TRANSPORT_ERROR.code() => libc::EILSEQ,
            _ if status.sct() == StatusCodeType::Media => libc::ENODATA,
            _ => libc::EIO,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_look_as_they_do_to_users_of_the_block_layer() {
        assert_eq!(Errno::of(Status::LBA_OUT_OF_RANGE), Errno(libc::ENOSPC));
        assert_eq!(Errno::of(Status::UNRECOVERED_READ_ERROR), Errno(libc::ENODATA));
        assert_eq!(Errno::of(Status::INTERNAL_PATH_ERROR), Errno::IO);
        assert_eq!(Errno::of(Status::ACCESS_DENIED), Errno(libc::EACCES));
    }

    #[test]
    fn do_not_retry_changes_nothing() {
        let status = Status::from_cqe_field(Status::INVALID_OPCODE.to_cqe_field(false) | 1 << 15);
        assert_ne!(status, Status::INVALID_OPCODE);
        assert_eq!(Errno::of(status), Errno(libc::EOPNOTSUPP));
    }
}
