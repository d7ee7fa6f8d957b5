//! Reservation commands on a queue (base 2.1 §7.5–§7.8): their data, their effect, who is told.

use fabrics::{Completion, Execution, IoBuffer as _};
use nvme::nvm::{
    AcquireData, RegisterData, RegisteredControllerExtended, ReleaseData, ReservationAcquire,
    ReservationRegister, ReservationRelease, ReservationReport, ReservationStatus, ReservationStatusExtended,
};
use nvme::opcode::io as opcode;
use nvme::zerocopy::{IntoBytes, transmute};
use nvme::{HostId, Status, U16, U32};
use reactors::IoBuf;
use transport::Data;

use super::admin::copy_data;
use super::io::{Order, sgl_bytes};
use super::jobs::Job;
use super::local::LocalNamespace;
use super::message::{Event, Message};
use super::reservations::{Outcome, State};
use super::service::{ReactorTarget, done};
use super::stats::Kind;

impl ReactorTarget {
    pub(super) fn reservation(
        &mut self,
        order: Order<'_>,
        data: Option<IoBuf>,
    ) -> Result<Execution<IoBuf>, Status> {
        let index = self.reach(order)?;
        if order.io.host == HostId::ZERO {
            return Err(Status::HOST_ID_NOT_INITIALIZED.dnr());
        }
        if order.sqe.opcode == opcode::RESERVATION_REPORT {
            return self.report(order, index);
        }
        let ns = self.namespace_mut(index).ok_or(LocalNamespace::GONE)?;
        let mut changing = ns.shared.reservations.change();
        let outcome = change(changing.state(), order, data.as_ref())?;
        drop(changing);
        self.tell(order, &outcome);
        if !outcome.drain {
            return Ok(done(Status::SUCCESS));
        }
        let flight = self.flight(order, index, Kind::Other, 0, Some(Job::Barrier));
        Ok(self.await_barrier(flight))
    }

    /// Tells the controllers of the hosts concerned, wherever they are.
    fn tell(&mut self, order: Order<'_>, outcome: &Outcome) {
        if outcome.notices.is_empty() {
            return;
        }
        let Ok(sub) = self.subsystem(order.io) else { return };
        let registry = std::sync::Arc::clone(&sub.view.registry);
        for controller in registry.all() {
            let notice = outcome.notices.iter().find(|(host, _)| *host == controller.host.id);
            if let Some((_, notice)) = notice {
                let event = Event::Reservation(order.sqe.nsid(), *notice);
                self.send(controller.home.reactor, Message::Event(controller, event));
            }
        }
    }

    fn report(&mut self, order: Order<'_>, index: u32) -> Result<Execution<IoBuf>, Status> {
        let command = ReservationReport::from(order.sqe);
        // Hosts over fabrics have 128-bit identifiers, which the short form has no room for (base 2.1 §7.8).
        if !command.extended {
            return Err(Status::HOST_ID_INCONSISTENT_FORMAT.dnr());
        }
        let bytes = command.data_bytes();
        if bytes > u64::from(order.io.io_bytes_max) {
            return Err(Status::INVALID_FIELD.dnr());
        }
        if u64::from(sgl_bytes(&order.sqe.sgl)) < bytes {
            return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
        }
        let ns = self.namespace_mut(index).ok_or(LocalNamespace::GONE)?;
        let mut page = report(&ns.shared.reservations.snapshot().1);
        page.resize(usize::try_from(bytes).unwrap_or_default(), 0);
        let buffer = self.local.pool().alloc_io(page.len()).ok_or(Status::COMMAND_INTERRUPTED)?;
        let mut data = Data(buffer);
        data.copy_in(0, &page);
        Ok(Execution::Done(Completion::data(data.0)))
    }
}

fn change(state: &mut State, order: Order<'_>, data: Option<&IoBuf>) -> Result<Outcome, Status> {
    let host = order.io.host;
    match order.sqe.opcode {
        opcode::RESERVATION_REGISTER => {
            let mut bytes = [0; RegisterData::SIZE];
            copy_data(data, &mut bytes)?;
            let keys: RegisterData = transmute!(bytes);
            let by = (host, order.io.controller.id);
            state.register(by, &ReservationRegister::from(order.sqe), keys.crkey.get(), keys.nrkey.get())
        }
        opcode::RESERVATION_ACQUIRE => {
            let mut bytes = [0; AcquireData::SIZE];
            copy_data(data, &mut bytes)?;
            let keys: AcquireData = transmute!(bytes);
            state.acquire(host, &ReservationAcquire::from(order.sqe), keys.crkey.get(), keys.prkey.get())
        }
        _ => {
            let mut bytes = [0; ReleaseData::SIZE];
            copy_data(data, &mut bytes)?;
            let keys: ReleaseData = transmute!(bytes);
            state.release(host, &ReservationRelease::from(order.sqe), keys.crkey.get())
        }
    }
}

/// The extended reservation status (base 2.1 §7.8).
fn report(state: &State) -> Vec<u8> {
    let status = ReservationStatus {
        generation: U32::new(state.generation),
        rtype: state.kind.0,
        regctl: U16::new(u16::try_from(state.registrants.len()).unwrap_or(u16::MAX)),
        ..ReservationStatus::default()
    };
    let header = ReservationStatusExtended { status, ..ReservationStatusExtended::default() };
    let mut page = header.as_bytes().to_vec();
    for registrant in &state.registrants {
        let holder = state.holds(&registrant.host);
        let entry =
            RegisteredControllerExtended::new(registrant.controller, registrant.host, registrant.key, holder);
        page.extend_from_slice(entry.as_bytes());
    }
    page
}
