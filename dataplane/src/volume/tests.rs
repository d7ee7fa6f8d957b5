//! The head, step by step. Whole worlds are in the simulator.

use fabrics::Now;
use nvme::Status;

use super::format::Content;
use super::{
    Bitmap, Config, Epoch, Event, Failure, HeadId, Joined, Lane, Lineage, LossReason, Members, Operation,
    Outcome, Pace, Phase, ReplicaIndex, Request, RequestOp, RosterRefused, Volume,
};

const MS: u64 = fabrics::NS_PER_MS;
const A: ReplicaIndex = ReplicaIndex(0);
const B: ReplicaIndex = ReplicaIndex(1);
const C: ReplicaIndex = ReplicaIndex(2);
const WRITE: Operation = Operation::Write { at: 3, blocks: 2, fua: false };
const READ: Operation = Operation::Read { at: 3, blocks: 2 };

fn config() -> Config {
    Config {
        members: Members::first(2),
        blocks: 64,
        region_blocks: 8,
        min_in_sync: 1,
        head: HeadId(1),
        local: Some(A),
        lease_ns: 2000 * MS,
        drift_ppm: 1000,
        slow_ns: 800 * MS,
        commands_max: 8,
        copies_max: 2,
        pace: Pace::full(2),
        clean_ns: 1000 * MS,
        attach_ns: 500 * MS,
    }
}

/// A head, and what it wants and says.
struct Bench {
    volume: Volume,
    now: Now,
    wanted: Vec<Request>,
    told: Vec<Event>,
}

impl Bench {
    /// Both replicas have accepted it; these regions may differ.
    fn active(dirty: &[u64]) -> Self {
        Self::serving(config(), dirty)
    }

    /// The same, with nothing to be copied that nobody wants to read.
    fn paused(dirty: &[u64]) -> Self {
        let pace = Pace { paused: true, ..Pace::full(2) };
        Self::serving(Config { pace, ..config() }, dirty)
    }

    fn serving(config: Config, dirty: &[u64]) -> Self {
        let volume = Volume::new(config, Epoch(1), Members::first(2), Now(0));
        let mut bench = Self { volume, now: Now(0), wanted: Vec::new(), told: Vec::new() };
        let mut intent = Bitmap::new(8);
        for region in dirty {
            intent.set(*region);
        }
        bench.look();
        for replica in [A, B] {
            let joined = joined(Content::Whole, Lineage::NONE, intent.clone());
            bench.answer(replica, is_fence, joined);
        }
        assert_eq!(bench.volume.phase(), Phase::Active);
        bench.told.clear();
        bench
    }

    fn look(&mut self) {
        while let Some(request) = self.volume.next_request(Lane(0)) {
            self.wanted.push(request);
        }
        while let Some(event) = self.volume.next_event() {
            self.told.push(event);
        }
    }

    fn submit(&mut self, tag: u64, operation: Operation) {
        self.volume.submit(tag, Lane(0), operation, self.now).unwrap();
        self.look();
    }

    fn find(&self, replica: ReplicaIndex, is_it: impl Fn(&RequestOp) -> bool) -> Option<usize> {
        self.wanted.iter().position(|request| request.replica == replica && is_it(&request.op))
    }

    /// Answers the first request of that kind.
    fn answer(&mut self, replica: ReplicaIndex, is_it: impl Fn(&RequestOp) -> bool, outcome: Outcome) {
        let at = self.find(replica, is_it).expect("it is wanted");
        let request = self.wanted.remove(at);
        self.volume.finish(request.id, outcome, self.now);
        self.look();
    }

    /// Stores every page that is to be stored.
    fn store_bits(&mut self) {
        for replica in [A, B] {
            while self.find(replica, is_intent).is_some() {
                self.answer(replica, is_intent, Outcome::Done);
            }
        }
    }

    fn ended(&self, tag: u64) -> Option<Result<(), Failure>> {
        self.told.iter().find_map(|event| match event {
            Event::Done { tag: ended, result, .. } if *ended == tag => Some(*result),
            _ => None,
        })
    }
}

fn joined(content: Content, lineage: Lineage, intent: Bitmap) -> Outcome {
    Outcome::Joined(Joined { sound: true, content, lineage, blocks: 64, room: 128, intent: Box::new(intent) })
}

fn is_fence(op: &RequestOp) -> bool {
    matches!(op, RequestOp::Fence { .. })
}

fn is_adopt(op: &RequestOp) -> bool {
    matches!(op, RequestOp::Adopt { .. })
}

fn is_intent(op: &RequestOp) -> bool {
    matches!(op, RequestOp::Intent { .. })
}

fn is_write(op: &RequestOp) -> bool {
    matches!(op, RequestOp::Write { .. })
}

fn is_read(op: &RequestOp) -> bool {
    matches!(op, RequestOp::Read { .. })
}

#[test]
fn a_write_starts_when_its_bit_is_stored_everywhere_and_ends_when_every_copy_has_it() {
    let mut bench = Bench::active(&[]);
    bench.store_bits();
    bench.submit(7, WRITE);
    bench.answer(A, is_intent, Outcome::Done);
    assert!(bench.find(A, is_write).is_none() && bench.find(B, is_write).is_none());
    bench.answer(B, is_intent, Outcome::Done);
    bench.answer(A, is_write, Outcome::Done);
    assert_eq!(bench.ended(7), None);
    bench.answer(B, is_write, Outcome::Done);
    assert_eq!(bench.ended(7), Some(Ok(())));
    // The bit is there now: the next write to the region waits for nothing.
    bench.submit(8, WRITE);
    assert!(bench.find(A, is_write).is_some() && bench.find(B, is_write).is_some());
}

#[test]
fn a_write_that_lacks_a_copy_waits_for_the_record_without_it() {
    let mut bench = Bench::active(&[]);
    bench.store_bits();
    bench.submit(7, WRITE);
    bench.store_bits();
    bench.answer(A, is_write, Outcome::Done);
    bench.answer(B, is_write, Outcome::Lost);
    let out = Event::ProposeOut { replicas: Members::one(B), epoch: Epoch(1), reason: LossReason::Path };
    assert!(bench.told.contains(&out), "{:?}", bench.told);
    assert_eq!(bench.ended(7), None);
    assert!(bench.volume.set_members(Epoch(1), Members::one(A), bench.now).is_err());
    bench.volume.set_members(Epoch(2), Members::one(A), bench.now).unwrap();
    bench.look();
    assert_eq!(bench.ended(7), None, "the survivor has not accepted the epoch");
    let joined = joined(Content::Whole, Lineage::NONE, Bitmap::new(8));
    bench.answer(A, |op| matches!(op, RequestOp::Fence { epoch: Epoch(2), .. }), joined);
    assert_eq!(bench.ended(7), Some(Ok(())));
}

#[test]
fn nothing_is_acknowledged_once_a_lease_has_run_out() {
    let mut bench = Bench::active(&[]);
    bench.store_bits();
    bench.submit(7, READ);
    bench.now = Now(1999 * MS);
    bench.answer(A, is_read, Outcome::Done);
    assert_eq!(bench.ended(7), Some(Err(Failure::NotHead)));
    assert_eq!(bench.volume.phase(), Phase::Deposed);
    assert!(bench.volume.submit(8, Lane(0), READ, bench.now).is_err());
}

#[test]
fn a_read_of_a_region_that_may_differ_waits_until_it_is_copied() {
    let mut bench = Bench::active(&[0]);
    bench.submit(7, READ);
    assert!(bench.find(A, is_read).is_none());
    bench.answer(A, |op| matches!(op, RequestOp::CopyRead { at: 0, blocks: 8, .. }), Outcome::Done);
    assert!(bench.find(A, is_read).is_none());
    bench.answer(B, |op| matches!(op, RequestOp::CopyWrite { at: 0, blocks: 8, .. }), Outcome::Done);
    bench.answer(A, is_read, Outcome::Done);
    assert_eq!(bench.ended(7), Some(Ok(())));
    assert_eq!(bench.volume.counters().regions_copied, 1);
}

#[test]
fn a_read_that_fails_is_read_elsewhere_and_repaired() {
    let mut bench = Bench::active(&[]);
    bench.submit(7, READ);
    bench.answer(A, is_read, Outcome::Failed(Status::UNRECOVERED_READ_ERROR));
    bench.answer(B, is_read, Outcome::Done);
    assert_eq!(bench.ended(7), None);
    bench.answer(A, is_write, Outcome::Done);
    assert_eq!(bench.ended(7), Some(Ok(())));
    assert_eq!(bench.volume.counters().blocks_repaired, 2);
    bench.submit(8, READ);
    for replica in [A, B] {
        bench.answer(replica, is_read, Outcome::Failed(Status::UNRECOVERED_READ_ERROR));
    }
    assert_eq!(bench.ended(8), Some(Err(Failure::Media(Status::UNRECOVERED_READ_ERROR))));
}

#[test]
fn commands_on_the_same_blocks_follow_each_other() {
    let mut bench = Bench::active(&[]);
    bench.store_bits();
    bench.submit(1, WRITE);
    bench.store_bits();
    bench.submit(2, READ);
    assert!(bench.find(A, is_read).is_none());
    bench.answer(A, is_write, Outcome::Done);
    bench.answer(B, is_write, Outcome::Done);
    assert!(bench.find(A, is_read).is_some());
}

#[test]
fn a_head_that_meets_a_later_one_stops() {
    let mut bench = Bench::active(&[]);
    bench.submit(7, READ);
    bench.answer(A, is_read, Outcome::Superseded);
    assert_eq!(bench.ended(7), Some(Err(Failure::NotHead)));
    assert!(bench.told.contains(&Event::Deposed { superseded: true }));
}

#[test]
fn a_replica_that_was_made_anew_gets_everything_and_is_never_taken_for_an_old_one() {
    let volume = Volume::new(config(), Epoch(5), Members::first(2), Now(0));
    let mut bench = Bench { volume, now: Now(0), wanted: Vec::new(), told: Vec::new() };
    let joined = |content| joined(content, Lineage::NONE, Bitmap::new(8));
    bench.look();
    bench.answer(A, is_fence, joined(Content::Whole));
    bench.answer(B, is_fence, joined(Content::Fresh));
    let out = Event::ProposeOut { replicas: Members::one(B), epoch: Epoch(5), reason: LossReason::Restarted };
    assert_eq!(bench.told, [out]);
    bench.volume.set_members(Epoch(6), Members::one(A), bench.now).unwrap();
    bench.look();
    bench.answer(A, is_fence, joined(Content::Whole));
    assert_eq!(bench.volume.phase(), Phase::Active);
    bench.now = Now(600 * MS);
    bench.volume.on_tick(bench.now);
    bench.look();
    bench.answer(B, is_fence, joined(Content::Fresh));
    assert!(bench.told.contains(&Event::Resync { replica: B, regions: 8 }), "{:?}", bench.told);
}

#[test]
fn copying_is_paused_and_goes_on_but_what_reads_wait_for_is_copied_all_the_same() {
    let is_copy = |op: &RequestOp| matches!(op, RequestOp::CopyRead { .. });
    let copies = |bench: &Bench| bench.wanted.iter().filter(|request| is_copy(&request.op)).count();
    assert_eq!(copies(&Bench::active(&[0, 3])), 2);
    let mut bench = Bench::paused(&[0, 3]);
    assert_eq!(copies(&bench), 0);
    bench.submit(7, READ);
    assert_eq!(copies(&bench), 1);
    bench.answer(A, |op| matches!(op, RequestOp::CopyRead { at: 0, .. }), Outcome::Done);
    bench.answer(B, |op| matches!(op, RequestOp::CopyWrite { at: 0, .. }), Outcome::Done);
    assert_eq!(copies(&bench), 0);
    bench.volume.set_pace(Pace::full(1), bench.now);
    bench.look();
    assert_eq!(copies(&bench), 1);
}

#[test]
fn a_replica_that_is_kept_out_is_left_alone_until_it_may_come_back() {
    let mut bench = Bench::active(&[]);
    let joined = || joined(Content::Fresh, Lineage::NONE, Bitmap::new(8));
    assert!(bench.volume.keep_out(B, bench.now).is_err(), "it is in sync");
    bench.store_bits();
    bench.submit(7, WRITE);
    bench.answer(B, is_intent, Outcome::Lost);
    bench.volume.set_members(Epoch(2), Members::one(A), bench.now).unwrap();
    bench.look();
    bench.answer(A, is_fence, joined());
    let later = |bench: &mut Bench, ns: u64| {
        bench.now = bench.now.after_ns(ns);
        bench.volume.on_tick(bench.now);
        bench.look();
        while bench.find(A, |op| matches!(op, RequestOp::Renew { .. })).is_some() {
            bench.answer(A, |op| matches!(op, RequestOp::Renew { .. }), Outcome::Done);
        }
        bench.store_bits();
    };
    later(&mut bench, 600 * MS);
    bench.answer(B, is_fence, joined());
    assert!(bench.told.iter().any(|event| matches!(event, Event::Resync { .. })));
    bench.volume.keep_out(B, bench.now).unwrap();
    bench.look();
    assert!(bench.told.contains(&Event::Detached { replica: B, reason: LossReason::Cancelled }));
    while let Some(at) = bench.wanted.iter().position(|request| request.replica == B) {
        let request = bench.wanted.remove(at);
        bench.volume.finish(request.id, Outcome::Lost, bench.now);
    }
    later(&mut bench, 700 * MS);
    assert!(bench.find(B, is_fence).is_none());
    bench.volume.let_come(B);
    later(&mut bench, 100 * MS);
    assert!(bench.find(B, is_fence).is_some());
}

/// A head with two replicas in sync, to which a third comes that says this of itself.
fn joined_by_a_third(content: Content, lacks: &[u64]) -> Bench {
    let config = Config { members: Members::first(3), copies_max: 4, pace: Pace::full(4), ..config() };
    let mut bench = Bench::serving(config, &[]);
    let mut intent = Bitmap::new(8);
    for region in lacks {
        intent.set(*region);
    }
    bench.now = Now(600 * MS);
    bench.volume.on_tick(bench.now);
    bench.look();
    let joined = joined(content, Lineage::NONE, intent);
    bench.answer(C, |op| matches!(op, RequestOp::Fence { .. }), joined);
    bench
}

#[test]
fn a_replica_that_is_filled_is_copied_to_from_all_that_are_in_sync() {
    let bench = joined_by_a_third(Content::Fresh, &[]);
    let read_from = |replica| {
        let is_copy = |op: &RequestOp| matches!(op, RequestOp::CopyRead { .. });
        bench.wanted.iter().filter(|request| request.replica == replica && is_copy(&request.op)).count()
    };
    assert_eq!([A, B, C].map(read_from), [2, 2, 0]);
}

#[test]
fn filling_goes_on_where_it_was_once_the_bitmap_of_the_replica_counts() {
    let resync = |regions| Event::Resync { replica: C, regions };
    let mut bench = joined_by_a_third(Content::Fresh, &[1, 5]);
    assert!(bench.told.contains(&resync(8)), "its bitmap was never filled in: {:?}", bench.told);
    let renewal = |bench: &mut Bench| {
        bench.now = bench.now.after_ns(300 * MS);
        bench.volume.on_tick(bench.now);
        bench.look();
        let at = bench.find(C, |op| matches!(op, RequestOp::Renew { .. })).expect("its lease is renewed");
        let RequestOp::Renew { sound, mapped } = bench.wanted.remove(at).op else { unreachable!() };
        (sound, mapped)
    };
    assert_eq!(renewal(&mut bench), (false, false), "no page of its bitmap is on its media");

    let mut bench = joined_by_a_third(Content::Fresh, &[]);
    bench.answer(C, is_intent, Outcome::Done);
    assert_eq!(renewal(&mut bench), (false, true));

    let bench = joined_by_a_third(Content::Partial, &[1, 5]);
    assert!(bench.told.contains(&resync(2)), "{:?}", bench.told);
}

#[test]
fn a_replica_that_was_not_filled_yet_is_not_served_from_while_another_is_whole() {
    let volume = Volume::new(config(), Epoch(5), Members::first(2), Now(0));
    let mut bench = Bench { volume, now: Now(0), wanted: Vec::new(), told: Vec::new() };
    let joined = |content| joined(content, Lineage::NONE, Bitmap::new(8));
    bench.look();
    bench.answer(A, is_fence, joined(Content::Partial));
    bench.answer(B, is_fence, joined(Content::Whole));
    let out = Event::ProposeOut { replicas: Members::one(A), epoch: Epoch(5), reason: LossReason::Restarted };
    assert_eq!(bench.told, [out]);
}

#[test]
fn who_holds_the_lineage_of_a_recorded_one_is_given_what_bits_say_and_any_other_everything() {
    for (lineage, regions) in [(Lineage::NONE, 1), (Lineage { head: HeadId(7), number: 0 }, 8)] {
        let mut bench = Bench::active(&[]);
        bench.store_bits();
        bench.submit(7, WRITE);
        bench.answer(B, is_intent, Outcome::Lost);
        bench.volume.set_members(Epoch(2), Members::one(A), bench.now).unwrap();
        bench.look();
        bench.answer(A, is_fence, joined(Content::Whole, Lineage::NONE, Bitmap::new(8)));
        bench.store_bits();
        bench.now = Now(600 * MS);
        bench.volume.on_tick(bench.now);
        bench.look();
        bench.answer(B, is_fence, joined(Content::Whole, lineage, Bitmap::new(8)));
        let given = Event::Resync { replica: B, regions };
        assert!(bench.told.contains(&given), "{:?}", bench.told);
    }
}

#[test]
fn a_replica_that_counts_is_not_removed_and_one_that_is_added_again_is_given_everything() {
    let mut bench = Bench::active(&[]);
    bench.store_bits();
    assert_eq!(bench.volume.remove_replica(B, bench.now), Err(RosterRefused::InSync));
    bench.volume.on_tick(bench.now);
    bench.look();
    let Some(RequestOp::Adopt { lineage }) = bench.find(B, is_adopt).map(|at| bench.wanted[at].op.clone())
    else {
        panic!("it is told its lineage")
    };
    bench.answer(B, is_adopt, Outcome::Done);
    bench.submit(7, Operation::Flush);
    bench.answer(B, |op| matches!(op, RequestOp::Flush), Outcome::Lost);
    bench.volume.set_members(Epoch(2), Members::one(A), bench.now).unwrap();
    bench.look();
    bench.answer(A, is_fence, joined(Content::Whole, Lineage::NONE, Bitmap::new(8)));
    bench.volume.remove_replica(B, bench.now).unwrap();
    assert_eq!(bench.volume.remove_replica(A, bench.now), Err(RosterRefused::InSync));
    bench.volume.add_replica(B, false);
    while let Some(at) = bench.wanted.iter().position(|request| request.replica == B) {
        let request = bench.wanted.remove(at);
        bench.volume.finish(request.id, Outcome::Lost, bench.now);
    }
    bench.now = Now(100 * MS);
    bench.volume.on_tick(bench.now);
    bench.look();
    bench.answer(B, is_fence, joined(Content::Whole, lineage, Bitmap::new(8)));
    assert!(bench.told.contains(&Event::Resync { replica: B, regions: 8 }), "{:?}", bench.told);
}
