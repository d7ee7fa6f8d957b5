//! What changed lately: a bounded ring that `notify_get_notifications` reads.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// How many notifications are kept; the oldest go first.
const NOTIFICATIONS_MAX: usize = 1024;

crate::described_words! {
    /// Kinds of notifications.
    pub enum Topic {
        /// A device was created; the context is its name.
        BdevRegister = "bdev_register",
        /// A device was deleted; the context is its name.
        BdevUnregister = "bdev_unregister",
        /// A subsystem was created; the context is its NQN.
        SubsystemCreate = "nvmf_subsystem_create",
        /// A subsystem was deleted; the context is its NQN.
        SubsystemDelete = "nvmf_subsystem_delete",
    }
}

impl Topic {
    /// Every kind there is.
    pub const ALL: [Topic; 4] =
        [Topic::BdevRegister, Topic::BdevUnregister, Topic::SubsystemCreate, Topic::SubsystemDelete];
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Notification {
    /// What.
    #[serde(rename = "type")]
    pub topic: Topic,
    /// To whom.
    pub ctx: String,
    /// Counts up from 0.
    pub id: u64,
}

/// The ring.
#[derive(Debug, Default)]
pub struct Notifications {
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    next_id: u64,
    kept: VecDeque<Notification>,
}

impl Notifications {
    /// Adds one.
    pub fn push(&self, topic: Topic, ctx: impl Into<String>) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.kept.len() == NOTIFICATIONS_MAX {
            ring.kept.pop_front();
        }
        let id = ring.next_id;
        ring.next_id += 1;
        ring.kept.push_back(Notification { topic, ctx: ctx.into(), id });
    }

    /// Those with at least this `id`, oldest first, at most `max`.
    #[must_use]
    pub fn since(&self, id: u64, max: usize) -> Vec<Notification> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.kept.iter().filter(|event| event.id >= id).take(max).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_notifications_give_way_and_ids_go_on() {
        let notifications = Notifications::default();
        for index in 0..NOTIFICATIONS_MAX + 2 {
            notifications.push(Topic::BdevRegister, format!("d{index}"));
        }
        let kept = notifications.since(0, usize::MAX);
        assert_eq!((kept.len(), kept[0].id, kept[0].ctx.as_str()), (NOTIFICATIONS_MAX, 2, "d2"));
        assert_eq!(notifications.since(5, 2).iter().map(|event| event.id).collect::<Vec<_>>(), [5, 6]);
    }
}
