//! What hosts asked and were told, and whether it could be true.
//!
//! Every written value is used once, so a block's history is linearizable exactly when its values can be put in an order that
//! agrees with time. (P. Gibbons, E. Korach: Testing Shared Memories, 1997: zones of reads-from clusters.) Writes that
//! failed may have happened at any later time, or never.
//!
//! When every replica that counts restarted, writes that were not flushed may be gone: then a new era begins, with one
//! value in each block that no flushed write had replaced.

use std::collections::BTreeMap;

use super::disk::{LITTER, Stamp};

/// Later than everything.
const NEVER: u64 = u64::MAX;

#[derive(Clone, Copy, Debug)]
struct Write {
    stamp: Stamp,
    asked: u64,
    /// Acknowledged; [`NEVER`] if not.
    answered: u64,
    fua: bool,
}

#[derive(Clone, Copy, Debug)]
struct Read {
    stamp: Stamp,
    asked: u64,
    answered: u64,
}

#[derive(Clone, Default, Debug)]
struct Block {
    writes: Vec<Write>,
    reads: Vec<Read>,
}

/// The histories of all blocks.
pub(super) struct History {
    blocks: Vec<Block>,
    /// When acknowledged flushes were asked for, in order of acknowledgement.
    flushes: Vec<u64>,
    /// When eras began.
    eras: Vec<u64>,
}

impl History {
    pub(super) fn new(blocks: usize) -> Self {
        Self { blocks: vec![Block::default(); blocks], flushes: Vec::new(), eras: Vec::new() }
    }

    pub(super) fn read(&mut self, block: usize, stamp: Stamp, asked: u64, answered: u64) {
        self.blocks[block].reads.push(Read { stamp, asked, answered });
    }

    pub(super) fn write_asked(&mut self, block: usize, stamp: Stamp, asked: u64, fua: bool) {
        self.blocks[block].writes.push(Write { stamp, asked, answered: NEVER, fua });
    }

    pub(super) fn write_answered(&mut self, block: usize, stamp: Stamp, answered: u64) {
        let write = self.blocks[block].writes.iter_mut().rev().find(|write| write.stamp == stamp);
        write.expect("it was asked for").answered = answered;
    }

    pub(super) fn flushed(&mut self, asked: u64) {
        self.flushes.push(asked);
    }

    /// What was not flushed may be gone.
    pub(super) fn new_era(&mut self, now: u64) {
        self.eras.push(now);
    }

    pub(super) fn eras(&self) -> usize {
        self.eras.len()
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let ends = self.eras.iter().copied().chain([NEVER]);
        let starts = [0].into_iter().chain(self.eras.iter().copied());
        for (start, end) in starts.zip(ends) {
            for (number, block) in self.blocks.iter().enumerate() {
                self.check_block(block, start, end).map_err(|what| format!("block {number}: {what}"))?;
            }
        }
        Ok(())
    }

    /// One block in one era.
    fn check_block(&self, block: &Block, start: u64, end: u64) -> Result<(), String> {
        let within = |at: u64| start <= at && at < end;
        let mut clusters: BTreeMap<Stamp, Cluster> = BTreeMap::new();
        for write in block.writes.iter().filter(|write| within(write.asked)) {
            clusters.insert(write.stamp, Cluster::new(write.asked, write.answered));
        }
        let mut first = None;
        for read in block.reads.iter().filter(|read| within(read.answered)) {
            if !clusters.contains_key(&read.stamp) {
                if first.replace(read.stamp).is_some_and(|other| other != read.stamp) {
                    return Err(format!("{read:?}: another value was there when the era began"));
                }
                self.check_first(block, read.stamp, start)?;
            }
            // What was there when the era began was written before everything in it.
            let cluster = clusters.entry(read.stamp).or_insert_with(|| Cluster::new(start, start));
            if cluster.asked > read.answered {
                return Err(format!("{read:?} is older than its write"));
            }
            cluster.add(read);
        }
        let told: Vec<(&Stamp, &Cluster)> =
            clusters.iter().filter(|(_, cluster)| cluster.is_told()).collect();
        for (index, (stamp, a)) in told.iter().enumerate() {
            for (other, b) in &told[index + 1..] {
                if a.conflicts(b) {
                    return Err(format!(
                        "values {stamp} {a:?} and {other} {b:?} follow each other both ways"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether a value of earlier may be what is left of it.
    fn check_first(&self, block: &Block, stamp: Stamp, start: u64) -> Result<(), String> {
        let written = block.writes.iter().find(|write| write.stamp == stamp);
        let (asked, answered) = match (stamp, written) {
            (0 | LITTER.., _) => (0, 0),
            (_, Some(write)) => (write.asked, write.answered),
            (_, None) => return Err(format!("value {stamp} was never written")),
        };
        if written.is_some() && asked >= start {
            return Err(format!("value {stamp} was read before it was written"));
        }
        // What earlier eras lost was not there to be flushed in the last one.
        let last = self.eras.iter().copied().filter(|era| *era < start).max().unwrap_or(0);
        let durable = |write: &&Write| {
            write.asked >= last
                && write.answered < start
                && write.asked > answered
                && (write.fua || self.flushes.iter().any(|flush| *flush > write.answered && *flush < start))
        };
        match block.writes.iter().find(durable) {
            Some(lost) => Err(format!("{lost:?} was flushed and is lost: {stamp} is there")),
            None => Ok(()),
        }
    }
}

/// A write and the reads that returned it.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    asked: u64,
    acknowledged: bool,
    read: bool,
    /// The earliest answer: by then the value was there.
    first_answer: u64,
    /// The last request: until then it was not replaced.
    last_request: u64,
}

impl Cluster {
    fn new(asked: u64, answered: u64) -> Self {
        Self {
            asked,
            acknowledged: answered != NEVER,
            read: false,
            first_answer: answered,
            last_request: asked,
        }
    }

    fn add(&mut self, read: &Read) {
        self.read = true;
        self.first_answer = self.first_answer.min(read.answered);
        self.last_request = self.last_request.max(read.asked);
    }

    /// Whether it happened for sure.
    fn is_told(&self) -> bool {
        self.acknowledged || self.read
    }

    /// Whether there is a time in which nothing but this value was there.
    fn is_forward(&self) -> bool {
        self.first_answer < self.last_request
    }

    fn zone(&self) -> (u64, u64) {
        (self.first_answer.min(self.last_request), self.first_answer.max(self.last_request))
    }

    fn conflicts(&self, other: &Self) -> bool {
        let ((a, b), (c, d)) = (self.zone(), other.zone());
        match (self.is_forward(), other.is_forward()) {
            (true, true) => a < d && c < b,
            (true, false) => a < c && d < b,
            (false, true) => c < a && b < d,
            (false, false) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(writes: &[(Stamp, u64, u64)], reads: &[(Stamp, u64, u64)]) -> History {
        let mut history = History::new(1);
        for (stamp, asked, answered) in writes {
            history.write_asked(0, *stamp, *asked, false);
            if *answered != NEVER {
                history.write_answered(0, *stamp, *answered);
            }
        }
        for (stamp, asked, answered) in reads {
            history.read(0, *stamp, *asked, *answered);
        }
        history
    }

    #[test]
    fn reads_see_the_last_write_or_one_that_is_under_way() {
        let good = history(
            &[(1, 10, 20), (2, 30, 50)],
            &[(0, 1, 9), (1, 25, 28), (1, 35, 40), (2, 36, 45), (2, 60, 70)],
        );
        good.check().unwrap();
    }

    #[test]
    fn a_stale_read_is_found() {
        let stale = history(&[(1, 10, 20), (2, 30, 50)], &[(1, 60, 70)]);
        assert!(stale.check().is_err());
        assert!(history(&[(1, 10, 20)], &[(0, 30, 40)]).check().is_err());
    }

    #[test]
    fn a_value_that_was_read_is_not_taken_back() {
        let back = history(&[(1, 10, 20), (2, 30, NEVER)], &[(2, 40, 50), (1, 60, 70)]);
        assert!(back.check().is_err());
        // A failed write may happen at any later time.
        history(&[(1, 10, 20), (2, 30, NEVER)], &[(1, 40, 50), (2, 60, 70)]).check().unwrap();
    }

    #[test]
    fn a_lost_flush_is_found_and_a_lost_write_is_not() {
        let mut lost = history(&[(1, 10, 20), (2, 30, 40)], &[(1, 100, 110)]);
        lost.new_era(90);
        lost.check().unwrap();
        lost.flushed(50);
        assert!(lost.check().is_err());
    }
}
