//! What the store's machine costs per command: finding blocks in the map, writing to new ones; no device, no data.
#![allow(missing_docs, reason = "criterion's macros generate undocumented items")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dataplane::store::format::{Bytes, VERSION};
use dataplane::store::{
    BLOCK_BYTES, Block, Command, Control, CreateOptions, Event, Finished, Limits, Media, MediaError,
    Operation, RequestOp, Store, VolumeBlock, VolumeId, create, open,
};
use uuid::Uuid;

/// Blocks of the device: 1 GiB.
const DEVICE_BLOCKS: u64 = 1 << 18;
/// Blocks of the volume, all of them written: 256 MiB, 256 leaves of the map.
const VOLUME_BLOCKS: u64 = 1 << 16;
/// Blocks per command while the volume is filled.
const FILL_BLOCKS: u32 = 256;
/// Commands under way at once in a batch.
const BATCH: u64 = 32;
/// The checksum of every block: data never moves here.
const SUM: u32 = 0x1234_5678;

/// Metadata in memory; data is not kept.
struct Metadata(Vec<Bytes>);

impl Metadata {
    fn at(&mut self, block: Block) -> Result<&mut Bytes, MediaError> {
        let index = usize::try_from(block.0).map_err(|_| MediaError { block: block.0 })?;
        self.0.get_mut(index).ok_or(MediaError { block: block.0 })
    }
}

impl Media for Metadata {
    fn blocks(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&mut self, block: Block, bytes: &mut Bytes) -> Result<(), MediaError> {
        self.at(block).map(|kept| bytes.copy_from_slice(&kept[..]))
    }

    fn write(&mut self, block: Block, bytes: &Bytes) -> Result<(), MediaError> {
        self.at(block).map(|kept| kept.copy_from_slice(&bytes[..]))
    }

    fn flush(&mut self) -> Result<(), MediaError> {
        Ok(())
    }
}

/// A store with one volume that is mapped everywhere, and a driver that carries out every request at once.
struct Rig {
    store: Store,
    media: Metadata,
    volume: VolumeId,
    sums: Vec<u32>,
    next: u64,
}

impl Rig {
    fn new() -> Self {
        let blocks = usize::try_from(DEVICE_BLOCKS).unwrap_or(usize::MAX);
        let mut media = Metadata(vec![[0; BLOCK_BYTES]; blocks]);
        let options = CreateOptions {
            uuid: Uuid::from_u128(7),
            volumes: 64,
            log_blocks: None,
            force: false,
            version: VERSION,
        };
        let store = create(&mut media, &options).and_then(|_| open(&mut media, Limits::default()));
        let store = store.unwrap_or_else(|error| panic!("{error}"));
        let sums = vec![SUM; FILL_BLOCKS as usize];
        let mut rig = Self { store, media, volume: VolumeId(0), sums, next: 0 };
        let made = Control::Create { name: "v".to_owned(), uuid: Uuid::from_u128(8), blocks: VOLUME_BLOCKS };
        rig.submit(&Command { tag: 0, operation: Operation::Control(made) });
        rig.volume = rig.settle(1).unwrap_or_else(|| panic!("no volume was made"));
        for at in (0..VOLUME_BLOCKS).step_by(FILL_BLOCKS as usize) {
            rig.write(at, FILL_BLOCKS);
            rig.settle(1);
        }
        rig
    }

    fn submit(&mut self, command: &Command<'_>) {
        self.store.submit(command).unwrap_or_else(|failure| panic!("{failure}"));
    }

    fn read(&mut self, at: u64) {
        let operation = Operation::Read { volume: self.volume, at: VolumeBlock(at), blocks: 1 };
        self.submit(&Command { tag: at, operation });
    }

    fn write(&mut self, at: u64, blocks: u32) {
        let sums = std::mem::take(&mut self.sums);
        let written = &sums[..blocks as usize];
        let operation =
            Operation::Write { volume: self.volume, at: VolumeBlock(at), sums: written, fua: false };
        self.submit(&Command { tag: at, operation });
        self.sums = sums;
    }

    /// Carries out requests until `count` commands are done; what the last of them made.
    fn settle(&mut self, count: u64) -> Option<VolumeId> {
        let mut left = count;
        let mut made = None;
        while left > 0 {
            self.store.turn();
            while let Some(request) = self.store.next_request() {
                self.carry_out(request.id, &request.op);
            }
            while let Some(event) = self.store.next_event() {
                if let Event::Done { result, .. } = event {
                    made = result.unwrap_or_else(|failure| panic!("{failure}"));
                    left -= 1;
                }
            }
        }
        made
    }

    fn carry_out(&mut self, id: dataplane::store::RequestId, op: &RequestOp) {
        match op {
            RequestOp::ReadMeta { block } => {
                let read =
                    self.media.at(*block).map(|bytes| *bytes).unwrap_or_else(|error| panic!("{error}"));
                self.store.finish(id, Finished::Meta(&read));
            }
            RequestOp::WriteMeta { block, bytes, .. } => {
                self.media.write(*block, bytes).unwrap_or_else(|error| panic!("{error}"));
                self.store.finish(id, Finished::Done);
            }
            RequestOp::ReadData { blocks, .. } => {
                self.store.finish(id, Finished::Sums(&[SUM; FILL_BLOCKS as usize][..*blocks as usize]));
            }
            _ => self.store.finish(id, Finished::Done),
        }
    }

    /// A walk over the volume in no order a cache knows.
    fn next(&mut self) -> u64 {
        self.next = (self.next * 5 + 4099) % VOLUME_BLOCKS;
        self.next
    }
}

fn store(c: &mut Criterion) {
    let mut rig = Rig::new();
    let mut group = c.benchmark_group("store map");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("32 reads of 4 KiB, found in cached leaves", |b| {
        b.iter(|| {
            for _ in 0..BATCH {
                let at = rig.next();
                rig.read(black_box(at));
            }
            rig.settle(BATCH)
        });
    });
    group.bench_function("32 writes of 4 KiB, mapped anew, log and checkpoints with it", |b| {
        b.iter(|| {
            for _ in 0..BATCH {
                let at = rig.next();
                rig.write(black_box(at), 1);
            }
            rig.settle(BATCH)
        });
    });
    group.finish();
}

criterion_group!(benches, store);
criterion_main!(benches);
