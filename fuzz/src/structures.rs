//! Every wire structure, parsed from anywhere in the input.

use nvme::zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};
use nvme::{Cqe, Nqn, NulStr, Sgl, Sqe, Status, admin, discovery, fabrics, identify, log, nvm, tcp};

/// Reads a `T` at the start of the input, if it is long enough, and formats it: accessors run in `Debug`.
fn view<T>(input: &[u8])
where
    T: FromBytes + KnownLayout + Immutable + Unaligned + std::fmt::Debug,
{
    if let Ok((structure, _)) = T::ref_from_prefix(input) {
        assert!(!format!("{structure:?}").is_empty());
    }
}

/// Byte 0 moves the start, so that short inputs reach long structures' ends and fields see all alignments.
pub fn nvme_structures(input: &[u8]) {
    let Some((&skip, rest)) = input.split_first() else { return };
    let input = rest.get(usize::from(skip)..).unwrap_or(rest);
    commands(input);
    view::<identify::IdentifyController>(input);
    view::<identify::IdentifyNamespace>(input);
    view::<discovery::DiscoveryEntry>(input);
    view::<log::SmartLog>(input);
    view::<log::AnaHeader>(input);
    view::<log::PersistentEventHeader>(input);
    view::<fabrics::ConnectData>(input);
    view::<tcp::IcReq>(input);
    view::<tcp::IcResp>(input);
    view::<tcp::TermReq>(input);
    view::<tcp::R2t>(input);
    view::<NulStr<256>>(input);
    if let Ok(text) = std::str::from_utf8(input)
        && let Ok(nqn) = text.parse::<Nqn>()
    {
        assert_eq!(nqn.to_string(), text);
    }
}

fn commands(input: &[u8]) {
    if let Ok((sqe, _)) = Sqe::ref_from_prefix(input) {
        assert!(!format!("{:?} {:?} {:?}", sqe.fuse(), sqe.psdt(), sqe.direction()).is_empty());
        let read_write = nvm::ReadWrite::from(sqe);
        if let Some(end) = read_write.end() {
            assert!(end.0 >= read_write.slba.0);
        }
        let log_page = admin::GetLogPage::from(sqe);
        assert!(log_page.data_bytes() <= 1 << 34);
        assert!(!format!("{:?}", nvm::DatasetManagement::from(sqe)).is_empty());
        assert!(!format!("{:?}", admin::Identify::from(sqe)).is_empty());
        assert!(!format!("{:?}", admin::SetFeatures::from(sqe)).is_empty());
        assert!(!format!("{:?}", fabrics::ConnectCommand::of(sqe)).is_empty());
    }
    if let Ok((sgl, _)) = Sgl::ref_from_prefix(input)
        && let Ok(descriptor) = sgl.decode()
    {
        assert_eq!(Sgl::from(descriptor).decode(), Ok(descriptor));
    }
    if let Ok((cqe, _)) = Cqe::ref_from_prefix(input) {
        let status: Status = cqe.status();
        assert!(!status.to_string().is_empty());
    }
}
