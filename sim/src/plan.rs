//! Many seeds, on several threads.

use std::cell::Cell;
use std::panic;
use std::sync::Mutex;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::run::{Failed, Outcome, replay, run};

/// Seeds that follow each other.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The first.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// Commands in each life of a store.
    pub commands: u32,
}

/// Runs all seeds of a plan, `threads` at a time. Of seeds that fail the lowest one found is given.
pub fn run_all(plan: Plan, threads: usize) -> Result<Outcome, Failed> {
    name_seeds_that_panic();
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let result: Mutex<Result<Outcome, Failed>> = Mutex::new(Ok(Outcome::default()));
    let worker = || {
        while !stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= plan.seeds {
                return;
            }
            let seed = plan.from + index;
            RUNNING.set(Some((seed, plan.commands)));
            let outcome = run(seed, plan.commands);
            RUNNING.set(None);
            let mut result = result.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            match (outcome, &mut *result) {
                (Ok(outcome), Ok(total)) => *total += outcome,
                (Ok(_), Err(_)) => {}
                (Err(failed), Err(first)) if first.seed < failed.seed => {}
                (Err(failed), _) => {
                    stop.store(true, Ordering::Relaxed);
                    *result = Err(failed);
                }
            }
        }
    };
    std::thread::scope(|scope| (0..threads.max(1)).for_each(|_| drop(scope.spawn(worker))));
    result.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

thread_local! {
    static RUNNING: Cell<Option<(u64, u32)>> = const { Cell::new(None) };
}

/// An assertion of the store that fails is told with the seed, too.
fn name_seeds_that_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            before(info);
            if let Some((seed, commands)) = RUNNING.get() {
                eprintln!("seed {seed}: a panic\n{}", replay(seed, commands));
            }
        }));
    });
}
