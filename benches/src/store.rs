//! A store's machine whose requests are finished at once: what the machine costs, without a device.

use std::collections::HashMap;

use dataplane::store::format::{Bytes, VERSION};
use dataplane::store::{
    BLOCK_BYTES, Block, Command, Control, CreateOptions, Event, Finished, Limits, Media, MediaError,
    Operation, Request, RequestOp, Store, VolumeBlock, VolumeId, create, open,
};
use uuid::Uuid;

/// The checksum that every block is said to have.
const SUM: u32 = 7;

/// Blocks in memory, as many as were written.
pub struct Sparse {
    blocks: u64,
    written: HashMap<u64, Box<Bytes>>,
    /// Blocks that were read.
    pub reads: u64,
}

impl Sparse {
    /// An empty device.
    pub fn new(blocks: u64) -> Self {
        Self { blocks, written: HashMap::new(), reads: 0 }
    }

    /// Blocks that were written.
    pub fn written(&self) -> usize {
        self.written.len()
    }
}

impl Media for Sparse {
    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn read(&mut self, block: Block, bytes: &mut Bytes) -> Result<(), MediaError> {
        self.reads += 1;
        match self.written.get(&block.0) {
            Some(content) => bytes.copy_from_slice(&content[..]),
            None => bytes.fill(0),
        }
        Ok(())
    }

    fn write(&mut self, block: Block, bytes: &Bytes) -> Result<(), MediaError> {
        let content = self.written.entry(block.0).or_insert_with(|| Box::new([0; BLOCK_BYTES]));
        content.copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), MediaError> {
        Ok(())
    }
}

/// A store and its device.
pub struct Machine<M = Sparse> {
    /// The device.
    pub media: M,
    /// The store.
    pub store: Store,
}

impl Machine {
    /// A new store in memory with one volume as large as the device, [`VolumeId`] 0.
    ///
    /// # Panics
    /// When the device is too small.
    pub fn new(blocks: u64, log_blocks: Option<u64>) -> Self {
        Self::create(Sparse::new(blocks), log_blocks)
    }
}

impl<M: Media> Machine<M> {
    /// A new store with one volume as large as the device, [`VolumeId`] 0. What the device held is lost.
    ///
    /// # Panics
    /// When the device is too small, or fails.
    pub fn create(mut media: M, log_blocks: Option<u64>) -> Self {
        let blocks = media.blocks();
        let options = CreateOptions {
            uuid: Uuid::from_u128(7),
            volumes: 16_384,
            log_blocks,
            force: true,
            version: VERSION,
        };
        create(&mut media, &options).unwrap_or_else(|error| panic!("{error}"));
        let mut machine = Self::open(media);
        let control = Control::Create { name: "v".into(), uuid: Uuid::from_u128(8), blocks };
        machine.run(Operation::Control(control));
        machine
    }

    /// The store on a device.
    ///
    /// # Panics
    /// When there is none.
    pub fn open(mut media: M) -> Self {
        let store = open(&mut media, Limits::default()).unwrap_or_else(|error| panic!("{error}"));
        Self { media, store }
    }

    /// One turn: everything that the store asks for is done at once.
    pub fn turn(&mut self) {
        self.store.turn();
        let mut bytes = [0; BLOCK_BYTES];
        let sums = [SUM; 256];
        while let Some(Request { id, op }) = self.store.next_request() {
            let finished = match op {
                RequestOp::ReadMeta { block } => match self.media.read(block, &mut bytes) {
                    Ok(()) => Finished::Meta(&bytes),
                    Err(_) => Finished::Failed,
                },
                RequestOp::WriteMeta { block, bytes, .. } => {
                    let written = self.media.write(block, &bytes);
                    self.store.recycle(bytes);
                    if written.is_ok() { Finished::Done } else { Finished::Failed }
                }
                RequestOp::ReadData { blocks, .. } => Finished::Sums(&sums[..blocks as usize]),
                RequestOp::ZeroData { .. } | RequestOp::WriteData { .. } | RequestOp::Flush => Finished::Done,
            };
            self.store.finish(id, finished);
        }
    }

    /// Carries a command out.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&mut self, operation: Operation<'_>) {
        let submitted = self.store.submit(&Command { tag: 1, operation });
        submitted.unwrap_or_else(|failure| panic!("{failure}"));
        loop {
            self.turn();
            while let Some(event) = self.store.next_event() {
                if let Event::Done { result, .. } = event {
                    result.unwrap_or_else(|failure| panic!("{failure}"));
                    return;
                }
            }
        }
    }

    /// Reads one block of the volume.
    pub fn read(&mut self, at: u64) {
        self.run(Operation::Read { volume: VolumeId(0), at: VolumeBlock(at), blocks: 1 });
    }

    /// Writes one block of the volume.
    pub fn write(&mut self, at: u64) {
        let volume = VolumeId(0);
        self.run(Operation::Write { volume, at: VolumeBlock(at), sums: &[SUM], fua: false });
    }

    /// Everything is on the media.
    pub fn flush(&mut self) {
        self.run(Operation::Flush);
    }
}
