//! Controller properties (base 2.1 §3.1.4) and what writing them leads to.

use fabrics::{Completion, Execution, Now};
use nvme::fabrics::{PropertyGet, PropertySet, PropertySize, fctype, fctype_of};
use nvme::properties::{Cap, Cc, Crto, Csts, ShutdownStatus, Vs, offset};
use nvme::{Sqe, Status};

use super::{AdminController, Answer, INVALID_FIELD, INVALID_OPCODE};
use crate::target::limits::ASSOCIATION_TIMEOUT_NS;
use crate::target::service::{ReactorTarget, done};
use transport::CloseReason;

/// CAP.TO and CRTO.CRWMT, in 500 ms: becoming ready takes no time here; hosts get slack for a busy machine.
const READY_TIMEOUT: u8 = 30;
/// CAP.CSS: the NVM command set, and the command sets that CNS 1Ch names.
const COMMAND_SETS: u8 = 1 << 0 | 1 << 6;
/// CC.CSS: the NVM command set.
const CSS_NVM: u8 = 0;
/// CC.CSS: all supported command sets.
const CSS_ALL: u8 = 6;
/// CC.IOSQES and CC.IOCQES of the NVM command set.
const ENTRY_SIZES: (u8, u8) = (6, 4);

/// The properties of a controller.
pub(in crate::target) struct Registers {
    cap: Cap,
    cc: Cc,
    csts: Csts,
}

/// What a write of CC changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Transition {
    None,
    Enable,
    Reset,
    Shutdown,
}

impl Registers {
    pub(super) fn new(queue_depth_max: u32) -> Self {
        let mqes = u16::try_from(queue_depth_max - 1).unwrap_or(u16::MAX);
        let cap =
            Cap(0).with_mqes(mqes).with_cqr(true).with_to(READY_TIMEOUT).with_css(COMMAND_SETS).with_crms(1);
        Self { cap, cc: Cc(0), csts: Csts(0) }
    }

    /// Whether commands other than fabrics commands are served: CC.EN is set.
    pub(in crate::target) fn is_enabled(&self) -> bool {
        self.cc.en()
    }

    pub(super) fn version() -> Vs {
        Vs::V2_1
    }

    /// Fatal: nothing is served any more.
    pub(in crate::target) fn fail(&mut self) {
        self.csts = self.csts.with_cfs(true);
    }

    fn get(&self, at: u32, size: PropertySize) -> Result<u64, Status> {
        let (value, own_size) = match at {
            offset::CAP => (self.cap.0, PropertySize::Eight),
            offset::VS => (u64::from(Self::version().0), PropertySize::Four),
            offset::CC => (u64::from(self.cc.0), PropertySize::Four),
            offset::CSTS => (u64::from(self.csts.0), PropertySize::Four),
            offset::CRTO => {
                let crto = Crto(0).with_crwmt(u16::from(READY_TIMEOUT));
                (u64::from(crto.0), PropertySize::Four)
            }
            // Without "do not retry": nvme-cli's register dump takes only the bare code as "no such property".
            _ => return Err(Status::INVALID_FIELD),
        };
        if size == own_size { Ok(value) } else { Err(INVALID_FIELD) }
    }

    /// Writes CC (base 2.1 §3.1.4.5, §3.5.2, §3.6).
    fn set_cc(&mut self, cc: Cc) -> Result<Transition, Status> {
        check_cc(cc, self.cc)?;
        let (was, is) = (self.cc, cc);
        self.cc = cc;
        if is.shn() != 0 && was.shn() == 0 {
            self.csts = self.csts.with_shst(ShutdownStatus::Complete);
            return Ok(Transition::Shutdown);
        }
        match (was.en(), is.en()) {
            (false, true) => {
                self.csts = Csts(0).with_rdy(true);
                Ok(Transition::Enable)
            }
            (true, false) => {
                self.csts = Csts(0);
                Ok(Transition::Reset)
            }
            _ => Ok(Transition::None),
        }
    }
}

fn check_cc(cc: Cc, was: Cc) -> Result<(), Status> {
    let enabling = cc.en() && !was.en();
    let sizes = (cc.iosqes(), cc.iocqes());
    let valid = matches!(cc.css(), CSS_NVM | CSS_ALL)
        && cc.mps() == 0
        && cc.ams() == 0
        && cc.shn() <= 2
        && !(enabling && sizes != ENTRY_SIZES && sizes != (0, 0));
    if valid { Ok(()) } else { Err(INVALID_FIELD) }
}

impl ReactorTarget {
    /// A fabrics command on an admin queue (base 2.1 §6).
    pub(super) fn fabrics_command(&mut self, admin: &mut AdminController, sqe: &Sqe) -> Answer {
        match fctype_of(sqe) {
            fctype::PROPERTY_GET => property_get(admin, PropertyGet::of(sqe)),
            fctype::PROPERTY_SET => self.property_set(admin, PropertySet::of(sqe)),
            fctype::CONNECT => Err(Status::COMMAND_SEQUENCE_ERROR.dnr()),
            fctype::DISCONNECT => Err(Status::INVALID_QUEUE_TYPE.dnr()),
            _ => Err(INVALID_OPCODE),
        }
    }

    fn property_set(&mut self, admin: &mut AdminController, command: &PropertySet) -> Answer {
        let four = PropertySize::from_attrib(command.attrib) == Some(PropertySize::Four);
        if command.offset.get() != offset::CC || !four {
            return Err(INVALID_FIELD);
        }
        let [a, b, c, d, ..] = command.value.get().to_le_bytes();
        match admin.registers.set_cc(Cc(u32::from_le_bytes([a, b, c, d])))? {
            Transition::None => {}
            Transition::Enable => {
                admin.association_ends = Now::NEVER;
                admin.alive_at = self.now;
                admin.controller.set_ready();
            }
            Transition::Reset => self.reset(admin),
            Transition::Shutdown => {
                self.close_io_queues(&admin.controller, CloseReason::Service);
                admin.features.stop_keep_alive();
                admin.association_ends = self.now.after_ns(ASSOCIATION_TIMEOUT_NS);
            }
        }
        Ok(done(Status::SUCCESS))
    }

    /// Controller Level Reset by CC.EN (base 2.1 §3.7.2): I/O queues end, requests end, features go back.
    fn reset(&mut self, admin: &mut AdminController) {
        self.close_io_queues(&admin.controller, CloseReason::Service);
        for (command, _) in admin.events.reset() {
            self.complete(admin.conn, command, Completion::status(Status::ABORTED_SQ_DELETION));
        }
        let keep_alive = admin.features.keep_alive_ms();
        admin.events = super::AsyncEvents::new(admin.events.supported());
        admin.features = super::Features::new(self.now);
        admin.features.set_keep_alive(keep_alive);
        admin.controller.io_queues_granted.store(u16::MAX, std::sync::atomic::Ordering::Relaxed);
        admin.association_ends = self.now.after_ns(ASSOCIATION_TIMEOUT_NS);
    }
}

fn property_get(admin: &AdminController, command: &PropertyGet) -> Answer {
    let size = PropertySize::from_attrib(command.attrib).ok_or(INVALID_FIELD)?;
    let value = admin.registers.get(command.offset.get(), size)?;
    Ok(Execution::Done(Completion::result(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controller_follows_what_is_written_to_cc() {
        let mut registers = Registers::new(128);
        assert!(!registers.is_enabled());
        assert_eq!(registers.set_cc(Cc::ENABLE_NVM), Ok(Transition::Enable));
        assert_eq!(registers.get(offset::CSTS, PropertySize::Four), Ok(1));
        assert_eq!(registers.set_cc(Cc::ENABLE_NVM), Ok(Transition::None));
        assert_eq!(registers.set_cc(Cc::ENABLE_NVM.with_shn(1)), Ok(Transition::Shutdown));
        let csts = registers.get(offset::CSTS, PropertySize::Four).map(|v| Csts(u32::try_from(v).unwrap()));
        assert_eq!(csts.map(Csts::shst), Ok(ShutdownStatus::Complete));
        assert_eq!(registers.set_cc(Cc(0)), Ok(Transition::Reset));
        assert_eq!(registers.get(offset::CSTS, PropertySize::Four), Ok(0));
        assert_eq!(registers.set_cc(Cc::ENABLE_NVM), Ok(Transition::Enable));
    }

    #[test]
    fn what_the_controller_cannot_do_is_refused() {
        let mut registers = Registers::new(128);
        for cc in [
            Cc::ENABLE_NVM.with_css(1),
            Cc::ENABLE_NVM.with_mps(1),
            Cc::ENABLE_NVM.with_ams(1),
            Cc::ENABLE_NVM.with_shn(3),
            Cc::ENABLE_NVM.with_iosqes(5),
        ] {
            assert_eq!(registers.set_cc(cc), Err(INVALID_FIELD), "{cc:?}");
        }
        assert!(!registers.is_enabled());
    }

    #[test]
    fn properties_have_their_size_and_no_other() {
        let registers = Registers::new(128);
        assert_eq!(registers.get(offset::CAP, PropertySize::Eight).map(|cap| Cap(cap).mqes()), Ok(127));
        assert_eq!(registers.get(offset::CAP, PropertySize::Four), Err(INVALID_FIELD));
        assert_eq!(registers.get(offset::VS, PropertySize::Four), Ok(0x0002_0100));
        assert_eq!(registers.get(offset::NSSR, PropertySize::Four), Err(Status::INVALID_FIELD));
    }
}
