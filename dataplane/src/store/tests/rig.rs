//! A store on a device in memory, whose commands are waited for.

use std::collections::HashMap;

use uuid::Uuid;

use crate::store::format::{Bytes, VERSION, crc32c};
use crate::store::{
    BLOCK_BYTES, Block, Command, Control, CreateOptions, Event, Failure, Finished, Limits, Media, MediaError,
    Operation, RequestOp, Store, VolumeBlock, VolumeId, VolumeKind, create, open,
};

pub(super) const BLOCKS: u64 = 3_000;
pub(super) const OPTIONS: CreateOptions = CreateOptions {
    uuid: Uuid::from_u128(7),
    volumes: 40,
    log_blocks: Some(64),
    force: false,
    version: VERSION,
};

/// Blocks in memory, and how many there are.
#[derive(Clone)]
pub(super) struct Memory(pub(super) HashMap<u64, Bytes>, pub(super) u64);

impl Default for Memory {
    fn default() -> Self {
        Self(HashMap::new(), BLOCKS)
    }
}

impl Media for Memory {
    fn blocks(&self) -> u64 {
        self.1
    }

    fn read(&mut self, block: Block, bytes: &mut Bytes) -> Result<(), MediaError> {
        *bytes = self.0.get(&block.0).copied().unwrap_or([0; BLOCK_BYTES]);
        Ok(())
    }

    fn write(&mut self, block: Block, bytes: &Bytes) -> Result<(), MediaError> {
        self.0.insert(block.0, *bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), MediaError> {
        Ok(())
    }
}

pub(super) struct Rig {
    pub(super) media: Memory,
    pub(super) store: Store,
    pub(super) flushes: u32,
    pub(super) data_writes: u32,
    /// Writes of metadata to this block, and those after it, fail.
    pub(super) fails_beyond: Option<Block>,
    /// So many of the next reads of metadata fail.
    pub(super) unreadable: u32,
    data: Vec<Bytes>,
}

impl Rig {
    pub(super) fn new() -> Self {
        let mut media = Memory::default();
        create(&mut media, &OPTIONS).expect("the device is empty");
        Self::open(media)
    }

    pub(super) fn open(mut media: Memory) -> Self {
        let store = open(&mut media, Limits::default()).expect("there is a store");
        Self { media, store, flushes: 0, data_writes: 0, fails_beyond: None, unreadable: 0, data: Vec::new() }
    }

    /// Writes a checkpoint and opens what is on the device.
    pub(super) fn reopen(mut self) -> Self {
        self.store.request_checkpoint();
        while self.store.is_checkpointing() {
            self.turn();
        }
        Self::open(self.media)
    }

    pub(super) fn turn(&mut self) {
        self.store.turn();
        while let Some(request) = self.store.next_request() {
            let mut bytes = [0; BLOCK_BYTES];
            let mut sums = Vec::new();
            let finished = match request.op {
                RequestOp::ReadMeta { .. } if self.unreadable > 0 => {
                    self.unreadable -= 1;
                    Finished::Failed
                }
                RequestOp::ReadMeta { block } => {
                    self.media.read(block, &mut bytes).expect("memory does not fail");
                    Finished::Meta(&bytes)
                }
                RequestOp::WriteMeta { block, .. }
                    if self.fails_beyond.is_some_and(|first| block >= first) =>
                {
                    Finished::Failed
                }
                RequestOp::WriteMeta { block, bytes, .. } => {
                    self.media.write(block, &bytes).expect("memory does not fail");
                    Finished::Done
                }
                RequestOp::ReadData { offset, block, blocks, .. } => {
                    for index in 0..blocks {
                        let at = Block(block.0 + u64::from(index));
                        self.media.read(at, &mut bytes).expect("memory does not fail");
                        sums.push(crc32c(&bytes));
                        self.data[(offset + index) as usize] = bytes;
                    }
                    Finished::Sums(&sums)
                }
                RequestOp::ZeroData { .. } => Finished::Done,
                RequestOp::WriteData { offset, block, blocks, .. } => {
                    self.data_writes += blocks;
                    for index in 0..blocks {
                        let bytes = self.data[(offset + index) as usize];
                        let at = Block(block.0 + u64::from(index));
                        self.media.write(at, &bytes).expect("memory does not fail");
                    }
                    Finished::Done
                }
                RequestOp::Flush => {
                    self.flushes += 1;
                    Finished::Done
                }
            };
            self.store.finish(request.id, finished);
        }
    }

    pub(super) fn run(&mut self, operation: Operation<'_>) -> Result<Option<VolumeId>, Failure> {
        self.store.submit(&Command { tag: 1, operation })?;
        loop {
            self.turn();
            while let Some(event) = self.store.next_event() {
                if let Event::Done { result, .. } = event {
                    return result;
                }
            }
        }
    }

    /// Frees what deleted volumes held.
    pub(super) fn reap(&mut self) {
        while self.store.is_reaping() {
            self.turn();
        }
    }

    pub(super) fn control(&mut self, control: Control) -> Result<Option<VolumeId>, Failure> {
        self.run(Operation::Control(control))
    }

    pub(super) fn create(&mut self, name: &str, blocks: u64) -> VolumeId {
        let control = Control::Create { name: name.to_owned(), uuid: Uuid::from_u128(1), blocks };
        self.control(control).expect("there is room").expect("it made a volume")
    }

    pub(super) fn copy(&mut self, origin: VolumeId, name: &str, kind: VolumeKind) -> VolumeId {
        let control = Control::Copy { origin, name: name.to_owned(), uuid: Uuid::from_u128(2), kind };
        self.control(control).expect("there is room").expect("it made a volume")
    }

    /// Writes blocks that are full of `byte`.
    pub(super) fn write(
        &mut self,
        volume: VolumeId,
        at: u64,
        blocks: usize,
        byte: u8,
    ) -> Result<(), Failure> {
        self.data = vec![[byte; BLOCK_BYTES]; blocks];
        let sums: Vec<u32> = self.data.iter().map(|bytes| crc32c(bytes)).collect();
        let operation = Operation::Write { volume, at: VolumeBlock(at), sums: &sums, fua: false };
        self.run(operation).map(|_| ())
    }

    /// Makes shared blocks the volume's own.
    pub(super) fn own(&mut self, volume: VolumeId, at: u64, blocks: u32) -> Result<(), Failure> {
        self.data = vec![[0; BLOCK_BYTES]; blocks as usize];
        self.run(Operation::Own { volume, at: VolumeBlock(at), blocks }).map(|_| ())
    }

    /// The first byte of every block.
    pub(super) fn read(&mut self, volume: VolumeId, at: u64, blocks: u32) -> Result<Vec<u8>, Failure> {
        self.data = vec![[0; BLOCK_BYTES]; blocks as usize];
        self.run(Operation::Read { volume, at: VolumeBlock(at), blocks })?;
        Ok(self.data.iter().map(|bytes| bytes[0]).collect())
    }
}
