//! A bounded number of seeds, and the seeds that once found something.

use sim::{Plan, run_all};

/// Seeds of every run of the tests; `scripts/test` runs a thousand, optimised.
const SEEDS: u64 = 10;
const COMMANDS: u32 = 40;

#[test]
fn no_promise_is_broken_by_power_failing_at_any_write() {
    let plan = Plan { from: 0, seeds: SEEDS, commands: COMMANDS };
    let total = run_all(plan, 2).unwrap_or_else(|failed| panic!("{failed}"));
    // The workload is what it is meant to be: it writes, it fills stores, it loses power often.
    assert!(total.deaths > SEEDS * 50, "{total:?}");
    assert!(total.records > SEEDS * 20, "{total:?}");
    assert!(total.full > 0, "{total:?}");
}

#[test]
fn a_seed_gives_the_same_run_every_time() {
    assert_eq!(sim::run(11, COMMANDS), sim::run(11, COMMANDS));
}
