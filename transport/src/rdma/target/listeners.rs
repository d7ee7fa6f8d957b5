//! Where a transport listens, and where it does not any more because what was under it failed or went away.
//!
//! Invariants: a listener is in the table from the moment management made it until management removed it; it has a socket
//! exactly while hosts can reach it; none is on a device that is known to have failed.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::ListenerId;

/// What listens: an identifier of the connection manager.
pub(super) trait Socket {
    /// Names a device.
    type Device: Copy + PartialEq;
    /// Names the socket in events.
    type Key: PartialEq;
    /// The device it is on; `None` for a listener on every address.
    fn device(&self) -> Option<Self::Device>;
    /// How events name it.
    fn key(&self) -> Self::Key;
}

/// A listener: where, and with what while it does.
struct Listener<S> {
    address: SocketAddr,
    socket: Option<S>,
}

/// See the module.
pub(super) struct Listeners<S: Socket> {
    table: BTreeMap<ListenerId, Listener<S>>,
    failed: Vec<S::Device>,
}

impl<S: Socket> Default for Listeners<S> {
    fn default() -> Self {
        Self { table: BTreeMap::new(), failed: Vec::new() }
    }
}

impl<S: Socket> Listeners<S> {
    /// A listener that listens.
    pub(super) fn insert(&mut self, id: ListenerId, address: SocketAddr, socket: S) {
        let before = self.table.insert(id, Listener { address, socket: Some(socket) });
        assert!(before.is_none(), "an identifier is used once");
    }

    /// Management does not want it any more. `false`: there was none.
    pub(super) fn remove(&mut self, id: ListenerId) -> bool {
        self.table.remove(&id).is_some()
    }

    pub(super) fn clear(&mut self) {
        self.table.clear();
    }

    /// The listener that events call so.
    pub(super) fn find(&self, key: &S::Key) -> Option<ListenerId> {
        let is = |listener: &Listener<S>| listener.socket.as_ref().is_some_and(|socket| socket.key() == *key);
        self.table.iter().find(|(_, listener)| is(listener)).map(|(id, _)| *id)
    }

    /// Every listener, its address, and whether hosts can reach it.
    pub(super) fn all(&self) -> impl Iterator<Item = (ListenerId, SocketAddr, bool)> + '_ {
        self.table.iter().map(|(id, listener)| (*id, listener.address, listener.socket.is_some()))
    }

    /// What is under it went away. Its address, unless it was lost already.
    pub(super) fn lose(&mut self, id: ListenerId) -> Option<SocketAddr> {
        let listener = self.table.get_mut(&id)?;
        listener.socket.take().map(|_| listener.address)
    }

    /// A device does not work any more: the addresses of those that were on it and are lost.
    pub(super) fn fail_device(&mut self, device: S::Device) -> Vec<SocketAddr> {
        if !self.failed.contains(&device) {
            self.failed.push(device);
        }
        let mut lost = Vec::new();
        for listener in self.table.values_mut() {
            if listener.socket.as_ref().is_some_and(|socket| socket.device() == Some(device)) {
                listener.socket = None;
                lost.push(listener.address);
            }
        }
        lost
    }

    /// A device was removed: what comes in its place may have its name, and works.
    pub(super) fn forget_device(&mut self, device: S::Device) {
        self.failed.retain(|failed| *failed != device);
    }

    /// Tries to listen again where that was lost. The addresses that hosts can reach again.
    pub(super) fn retry<E>(&mut self, listen: impl Fn(SocketAddr) -> Result<S, E>) -> Vec<SocketAddr> {
        let mut back = Vec::new();
        for listener in self.table.values_mut().filter(|listener| listener.socket.is_none()) {
            // What is dropped here listened on a device that failed, and is still there.
            let socket = listen(listener.address).ok();
            let works = |socket: &S| !socket.device().is_some_and(|device| self.failed.contains(&device));
            listener.socket = socket.filter(works);
            if listener.socket.is_some() {
                back.push(listener.address);
            }
        }
        back
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    struct Fake {
        device: Option<u32>,
        key: u32,
    }

    impl Socket for Fake {
        type Device = u32;
        type Key = u32;
        fn device(&self) -> Option<u32> {
            self.device
        }
        fn key(&self) -> u32 {
            self.key
        }
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    /// Listeners 1 and 2 on devices 1 and 2, listener 3 on every address.
    fn three() -> Listeners<Fake> {
        let mut listeners = Listeners::default();
        for (id, device) in [(1, Some(1)), (2, Some(2)), (3, None)] {
            let port = 4420 + u16::try_from(id).unwrap();
            listeners.insert(ListenerId(id), address(port), Fake { device, key: 100 + id });
        }
        listeners
    }

    fn reachable(listeners: &Listeners<Fake>) -> Vec<u32> {
        listeners.all().filter(|(.., up)| *up).map(|(id, ..)| id.0).collect()
    }

    #[test]
    fn a_device_that_fails_takes_its_listeners_and_no_others() {
        let mut listeners = three();
        assert_eq!(listeners.fail_device(1), [address(4421)]);
        assert_eq!(reachable(&listeners), [2, 3]);
        assert_eq!(listeners.all().count(), 3);
        assert_eq!(listeners.find(&101), None);
        assert_eq!(listeners.find(&102), Some(ListenerId(2)));
        assert_eq!(listeners.fail_device(1), [], "it is told once");
    }

    #[test]
    fn a_listener_returns_on_another_device_and_not_on_the_one_that_failed() {
        let mut listeners = three();
        listeners.fail_device(1);
        let on = |device: u32| move |_: SocketAddr| Ok::<_, ()>(Fake { device: Some(device), key: 200 });
        assert_eq!(listeners.retry(on(1)), []);
        assert_eq!(reachable(&listeners), [2, 3]);
        assert_eq!(listeners.retry(|_| Err(())), []);
        assert_eq!(listeners.retry(on(7)), [address(4421)]);
        assert_eq!(reachable(&listeners), [1, 2, 3]);
        assert_eq!(listeners.find(&200), Some(ListenerId(1)));
        assert_eq!(listeners.retry(on(7)), [], "nothing is lost any more");
    }

    #[test]
    fn what_comes_after_a_removed_device_may_have_its_name() {
        let mut listeners = three();
        listeners.fail_device(1);
        listeners.forget_device(1);
        assert_eq!(listeners.retry(|_| Ok::<_, ()>(Fake { device: Some(1), key: 200 })), [address(4421)]);
    }

    #[test]
    fn a_listener_that_is_removed_while_it_is_lost_does_not_return() {
        let mut listeners = three();
        assert_eq!(listeners.lose(ListenerId(2)), Some(address(4422)));
        assert_eq!(listeners.lose(ListenerId(2)), None);
        assert!(listeners.remove(ListenerId(2)));
        assert!(!listeners.remove(ListenerId(2)));
        assert_eq!(listeners.retry(|_| Ok::<_, ()>(Fake { device: None, key: 200 })), []);
        assert_eq!(reachable(&listeners), [1, 3]);
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Fail(u32),
        Remove(u32),
        Lose(u32),
        Retry(u32),
    }

    fn event() -> impl Strategy<Value = Event> {
        let device = 1..4_u32;
        prop_oneof![
            device.clone().prop_map(Event::Fail),
            device.clone().prop_map(Event::Remove),
            device.clone().prop_map(Event::Lose),
            device.prop_map(Event::Retry),
        ]
    }

    proptest! {
        #[test]
        fn whatever_devices_say_no_listener_is_lost_for_good_nor_on_a_failed_device(
            events in proptest::collection::vec(event(), 0..40)
        ) {
            let mut listeners = three();
            for event in events {
                match event {
                    Event::Fail(device) => drop(listeners.fail_device(device)),
                    Event::Remove(device) => listeners.forget_device(device),
                    Event::Lose(id) => drop(listeners.lose(ListenerId(id))),
                    Event::Retry(device) => {
                        drop(listeners.retry(|_| Ok::<_, ()>(Fake { device: Some(device), key: 200 })));
                    }
                }
                let sound = |socket: &Fake| !socket.device.is_some_and(|at| listeners.failed.contains(&at));
                prop_assert!(listeners.table.values().filter_map(|l| l.socket.as_ref()).all(sound));
                prop_assert_eq!(listeners.all().count(), 3);
            }
            listeners.retry(|_| Ok::<_, ()>(Fake { device: Some(9), key: 300 }));
            prop_assert_eq!(reachable(&listeners), [1, 2, 3]);
        }
    }
}
