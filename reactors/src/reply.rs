//! A single value on its way from a reactor to whoever asked: a blocked thread or a future.
//!
//! Invariant: a [`Reply`] always ends. When the [`Replier`] is dropped unused, it ends with [`Canceled`].

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// The reply will not come: the reactor stopped, or dropped the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request was dropped without a reply")]
pub struct Canceled;

enum State<T> {
    Waiting(Option<Waker>),
    Answered(T),
    Closed,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    answered: Condvar,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, outcome: State<T>) {
        let before = std::mem::replace(&mut *self.lock(), outcome);
        self.answered.notify_one();
        if let State::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }

    fn take(state: &mut State<T>) -> Option<Result<T, Canceled>> {
        match std::mem::replace(state, State::Closed) {
            State::Answered(value) => Some(Ok(value)),
            State::Closed => Some(Err(Canceled)),
            waiting @ State::Waiting(_) => {
                *state = waiting;
                None
            }
        }
    }
}

/// Gives the value, once.
pub struct Replier<T> {
    shared: Option<Arc<Shared<T>>>,
}

/// Receives the value: `.await` it, or block with [`Reply::wait`].
pub struct Reply<T> {
    shared: Arc<Shared<T>>,
}

/// A connected pair.
#[must_use]
pub fn channel<T>() -> (Replier<T>, Reply<T>) {
    let shared = Arc::new(Shared { state: Mutex::new(State::Waiting(None)), answered: Condvar::new() });
    (Replier { shared: Some(Arc::clone(&shared)) }, Reply { shared })
}

impl<T> Replier<T> {
    /// Gives `value` to the other end.
    pub fn reply(mut self, value: T) {
        if let Some(shared) = self.shared.take() {
            shared.finish(State::Answered(value));
        }
    }
}

impl<T> Drop for Replier<T> {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.finish(State::Closed);
        }
    }
}

impl<T> Reply<T> {
    /// Blocks until the value is there. Never call it on a reactor.
    ///
    /// # Errors
    /// [`Canceled`] when it will not come.
    pub fn wait(self) -> Result<T, Canceled> {
        let mut state = self.shared.lock();
        loop {
            if let Some(outcome) = Shared::take(&mut state) {
                return outcome;
            }
            state = self.shared.answered.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Blocks at most `limit`. Never call it on a reactor.
    ///
    /// # Errors
    /// The reply itself when the time is over, to wait again.
    pub fn wait_timeout(self, limit: Duration) -> Result<Result<T, Canceled>, Self> {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.lock();
        loop {
            if let Some(outcome) = Shared::take(&mut state) {
                return Ok(outcome);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(state);
                return Err(self);
            }
            state = self.shared.answered.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl<T> Future for Reply<T> {
    type Output = Result<T, Canceled>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.lock();
        match Shared::take(&mut state) {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                *state = State::Waiting(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl<T> std::fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reply")
    }
}

impl<T> std::fmt::Debug for Replier<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Replier")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_thread_gets_the_value() {
        let (replier, reply) = channel();
        let waiter = std::thread::spawn(move || reply.wait());
        replier.reply(7);
        assert_eq!(waiter.join().unwrap(), Ok(7));
    }

    #[test]
    fn a_dropped_replier_cancels() {
        let (replier, reply) = channel::<u8>();
        drop(replier);
        assert_eq!(reply.wait(), Err(Canceled));
    }

    #[test]
    fn a_timed_out_reply_can_be_waited_for_again() {
        let (replier, reply) = channel();
        let reply = reply.wait_timeout(Duration::from_millis(1)).unwrap_err();
        replier.reply('x');
        assert_eq!(reply.wait_timeout(Duration::from_secs(60)).unwrap(), Ok('x'));
    }
}
