//! A reactor that does not own the store: asks the owner where blocks lie, and moves its data itself.

use std::collections::VecDeque;

use nvme::{Lba, Status};
use reactors::IoBuf;
use reactors::mailbox::{Mailbox, MailboxSender, SendError};

use super::lane::{Finished, Lane};
use super::order::{Order, ToClient, ToOwner, Way};
use super::port::Port;
use crate::store::VolumeId;

/// Messages of the owner taken at a time.
const MESSAGES_MAX: usize = 256;
/// Commands of unmaps that go on, per turn.
const STEPS_MAX: usize = 16;

/// See the module.
pub(super) struct Client {
    lane: Lane,
    /// Its number with the owner.
    number: u16,
    owner: MailboxSender<ToOwner>,
    mailbox: Mailbox<ToClient>,
    unsent: VecDeque<ToOwner>,
    finished: Vec<Finished>,
    /// The owner's reactor has stopped.
    gone: bool,
}

impl Client {
    pub(super) fn new(lane: Lane, owner: MailboxSender<ToOwner>, mailbox: Mailbox<ToClient>) -> Self {
        Self { lane, number: 0, owner, mailbox, unsent: VecDeque::new(), finished: Vec::new(), gone: false }
    }

    /// By which number the owner knows it.
    pub(super) fn set_number(&mut self, number: u16) {
        self.number = number;
    }

    fn send(&mut self, message: ToOwner) {
        let sent = if self.unsent.is_empty() { self.try_send(message) } else { Err(message) };
        if let Err(message) = sent {
            self.unsent.push_back(message);
        }
    }

    /// The message, when there is no room for it.
    fn try_send(&mut self, message: ToOwner) -> Result<(), ToOwner> {
        match self.owner.send(message) {
            Ok(()) => Ok(()),
            Err(SendError::Full(message)) => Err(message),
            Err(SendError::Closed(_)) => {
                self.gone = true;
                Ok(())
            }
        }
    }

    fn receive(&mut self) -> bool {
        let mut any = false;
        for _ in 0..MESSAGES_MAX {
            let Some(message) = self.mailbox.recv() else { break };
            any = true;
            match message {
                ToClient::Move(what) => {
                    if let Some(finished) = self.lane.start(what) {
                        self.tell(finished);
                    }
                }
                ToClient::Done { slot, result } => self.lane.done(slot, result),
            }
        }
        while let Some(message) = self.unsent.pop_front() {
            if let Err(message) = self.try_send(message) {
                self.unsent.push_front(message);
                break;
            }
        }
        any
    }

    fn tell(&mut self, finished: Finished) {
        let Finished::Data(moved) = finished else { return };
        if moved.what.way != Way::Zero {
            self.send(ToOwner::Moved { client: self.number, moved });
        }
    }
}

impl Port for Client {
    fn lane(&mut self) -> &mut Lane {
        &mut self.lane
    }

    fn start(&mut self, slot: u32, order: Order) {
        self.send(ToOwner::Submit { client: self.number, slot, order });
    }

    /// The map is elsewhere.
    fn lend(&mut self, _: u32, _: VolumeId, _: Lba, _: u32) -> Option<IoBuf> {
        None
    }

    fn take_over(&mut self, _: u32, _: VolumeId, _: Lba, buffer: IoBuf) -> Result<(), IoBuf> {
        Err(buffer)
    }

    fn expect_write(&mut self, _: u32) {}

    fn expect_read(&mut self, _: VolumeId, _: Lba, _: u32) {}

    fn kick(&mut self) {
        self.lane.kick();
    }

    fn progress(&mut self) -> bool {
        let mut busy = self.receive();
        let mut finished = std::mem::take(&mut self.finished);
        busy |= self.lane.collect(&mut finished);
        finished.drain(..).for_each(|finished| self.tell(finished));
        self.finished = finished;
        for _ in 0..STEPS_MAX {
            let Some((slot, order)) = self.lane.take_step() else { break };
            self.start(slot, order);
            busy = true;
        }
        self.gone |= self.owner.is_closed();
        if self.gone && !self.lane.is_idle() {
            self.lane.end_all(Status::INTERNAL_ERROR);
            busy = true;
        }
        self.lane.kick();
        busy
    }

    fn may_sleep(&mut self) -> bool {
        self.unsent.is_empty() && self.lane.before_sleep()
    }

    fn drain(&mut self) -> bool {
        self.progress();
        self.lane.is_idle()
    }
}
