//! Keeps a job's controller alive while fio is busy elsewhere: between I/Os a job may pause for longer than the keep-alive
//! time-out, and nobody calls the engine then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use transport::host::Blocking;

/// Time between two looks at the admin queue: what a tool whose work is elsewhere is asked for.
const TURN: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    lost: OnceLock<String>,
}

/// The thread that owns the admin queue. Dropping it ends the association.
pub struct Keeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Has `open` connect a controller, on the thread that keeps it from then on: a connection stays where it was made.
    /// Beside the keeper comes what `open` wants to be known.
    ///
    /// # Errors
    /// When the system gives no thread; inside, what `open` failed with.
    pub fn open<T, E>(
        open: impl FnOnce() -> Result<(Blocking, T), E> + Send + 'static,
    ) -> std::io::Result<Result<(Self, T), E>>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let (answer, opened) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("pollux-admin".to_owned()).spawn(move || {
            let mut host = match open() {
                Ok((host, known)) => {
                    // The caller waits for it.
                    let _ = answer.send(Ok(known));
                    host
                }
                Err(error) => {
                    let _ = answer.send(Err(error));
                    return;
                }
            };
            while !theirs.stop.load(Ordering::Acquire) {
                if let Err(error) = host.turn() {
                    let _ = theirs.lost.set(error.to_string());
                    return;
                }
                while host.take_event().is_some() {}
                thread::park_timeout(TURN);
            }
        })?;
        let keeper = Self { shared, thread: Some(thread) };
        let opened = opened.recv().map_err(|_| std::io::Error::from(std::io::ErrorKind::UnexpectedEof))?;
        Ok(opened.map(|known| (keeper, known)))
    }

    /// Why the controller is lost, once it is.
    #[must_use]
    pub fn lost(&self) -> Option<&str> {
        self.shared.lost.get().map(String::as_str)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It fails only by a panic, which was reported where it happened.
            let _ = thread.join();
        }
    }
}
