//! Gives every reactor its part of a store, and takes it back. Each step runs on the reactor it is for.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use reactors::mailbox::MailboxSender;
use reactors::reply::{self, Reply};
use reactors::{PollerId, ReactorContext, ReactorHandle};

use super::client::Client;
use super::engine::{Answered, ClientLink, Engine, Gauges};
use super::error::StoreError;
use super::lane::{BASE_DEPTH, Lane, SLOTS};
use super::media::shift;
use super::order::ToOwner;
use super::port::{AnyPort, Port, PortPoller, forget, get, put};
use crate::device::{Device, DeviceError, Operations, QueueContext};
use crate::store::{Control, Store};

/// Messages that wait for a reactor: each I/O has at most one, when it is not fragmented; beyond it the sender waits.
const MAILBOX_CAPACITY: usize = 4 * SLOTS;

/// A store on its reactors.
pub(super) struct Installed {
    store: u64,
    owner: ReactorHandle,
    pollers: Vec<(ReactorHandle, PollerId)>,
}

impl Installed {
    /// Puts `store` on `reactors`; the first owns it.
    pub(super) fn new(
        number: u64,
        name: &str,
        store: Store,
        device: &Arc<dyn Device>,
        gauges: &Arc<Gauges>,
        reactors: &[ReactorHandle],
    ) -> Result<Self, StoreError> {
        let (owner, others) = reactors.split_first().ok_or(reactors::RunError::Stopped)?;
        let mut installed = Self { store: number, owner: owner.clone(), pollers: Vec::new() };
        let outcome = installed.install(name, (store, Arc::clone(gauges)), device, others);
        if let Err(error) = outcome {
            installed.remove();
            return Err(error);
        }
        Ok(installed)
    }

    fn install(
        &mut self,
        name: &str,
        store: Watched,
        device: &Arc<dyn Device>,
        others: &[ReactorHandle],
    ) -> Result<(), StoreError> {
        let (number, title) = (self.store, format!("store {name}"));
        let (base, label) = (Arc::clone(device), title.clone());
        let own = self.owner.call(move |context| own(context, number, label, store, &base))?;
        let (poller, sender) = own.wait()??;
        self.pollers.push((self.owner.clone(), poller));
        for reactor in others {
            let (base, label, sender) = (Arc::clone(device), title.clone(), sender.clone());
            let join = reactor.call(move |context| join(context, number, label, sender, &base))?;
            let (poller, link) = join.wait()??;
            self.pollers.push((reactor.clone(), poller));
            let place = self.on_owner(move |engine| engine.add_client(link))?.wait()?;
            let place = place.ok_or(reactors::RunError::Stopped)?;
            reactor.call(move |_| set_number(number, place))?.wait()?;
        }
        Ok(())
    }

    /// Runs `work` on the owner; `None` when the store is not there any more.
    pub(super) fn on_owner<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Engine) -> R + Send + 'static,
    ) -> Result<Reply<Option<R>>, StoreError> {
        let number = self.store;
        Ok(self.owner.call(move |_| match get(number) {
            Some(AnyPort::Owner(engine)) => Some(work(&mut engine.borrow_mut())),
            _ => None,
        })?)
    }

    /// Makes a change, and waits until it is on the media.
    pub(super) fn control(&self, control: Control) -> Result<Answered, StoreError> {
        let (replier, reply) = reply::channel();
        self.on_owner(move |engine| {
            engine.control(control, replier);
            engine.progress();
        })?
        .wait()?;
        Ok(reply.wait()?)
    }

    /// Waits until everything is on the media, and takes the store off all reactors. Its volumes' queues are closed.
    pub(super) fn close(self) -> Result<(), StoreError> {
        let (replier, reply) = reply::channel();
        self.on_owner(move |engine| engine.close(replier))?.wait()?;
        let settled = reply.wait();
        self.remove();
        Ok(settled?)
    }

    fn remove(&self) {
        let number = self.store;
        for (reactor, poller) in self.pollers.iter().rev() {
            let poller = *poller;
            // A reactor that has stopped has dropped its part.
            let removed = reactor.call(move |context| {
                forget(number);
                drop(context.remove_poller(poller));
            });
            if let Ok(reply) = removed {
                let _ = reply.wait();
            }
        }
    }
}

fn lane(context: &ReactorContext<'_>, device: &Arc<dyn Device>) -> Result<Lane, DeviceError> {
    let pool = context.local().pool();
    let base = device.open_queue(&QueueContext { pool, depth: BASE_DEPTH })?;
    Ok(Lane::new(base, shift(device.as_ref())))
}

fn add_poller<P: Port + 'static>(
    context: &mut ReactorContext<'_>,
    port: &Rc<RefCell<P>>,
    name: String,
) -> Result<PollerId, DeviceError> {
    let refused = |_| DeviceError::NotHere { name: name.clone() };
    let poller = PortPoller::new(port, name.clone()).map_err(refused)?;
    context.add_poller(Box::new(poller)).map_err(|_| DeviceError::NotHere { name })
}

/// A store, and where its owner tells of its space.
type Watched = (Store, Arc<Gauges>);

type Owned = (PollerId, MailboxSender<ToOwner>);

fn own(
    context: &mut ReactorContext<'_>,
    number: u64,
    name: String,
    (store, gauges): Watched,
    device: &Arc<dyn Device>,
) -> Result<Owned, DeviceError> {
    let lane = lane(context, device)?;
    let (sender, mailbox) = context.local().mailbox(MAILBOX_CAPACITY);
    let fua = device.info().operations.contains(Operations::FUA);
    let pool = context.local().pool().clone();
    let engine = Rc::new(RefCell::new(Engine::new(store, lane, mailbox, pool, fua, gauges)));
    let poller = add_poller(context, &engine, name)?;
    put(number, AnyPort::Owner(engine));
    Ok((poller, sender))
}

fn join(
    context: &mut ReactorContext<'_>,
    number: u64,
    name: String,
    owner: MailboxSender<ToOwner>,
    device: &Arc<dyn Device>,
) -> Result<(PollerId, ClientLink), DeviceError> {
    let lane = lane(context, device)?;
    let (sender, mailbox) = context.local().mailbox(MAILBOX_CAPACITY);
    let sums = Arc::clone(lane.sums());
    let client = Rc::new(RefCell::new(Client::new(lane, owner, mailbox)));
    let poller = add_poller(context, &client, name)?;
    put(number, AnyPort::Client(client));
    Ok((poller, ClientLink { sender, sums }))
}

fn set_number(number: u64, place: u16) {
    if let Some(AnyPort::Client(client)) = get(number) {
        client.borrow_mut().set_number(place);
    }
}
