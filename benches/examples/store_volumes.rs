//! How long making, copying, renaming, resizing and deleting volumes takes in a store that has many.
//!
//!     cargo run --release -p pollux-benches --example store_volumes -- --volumes 10000
//!     cargo run --release -p pollux-benches --example store_volumes -- --volumes 10000 --file /mnt/nvme/store
//!
//! Each call is what control does for one request: it is done when the change is on the media and the volume is a device.
#![allow(missing_docs, reason = "a measuring program")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use dataplane::device::memory::MemoryDevice;
use dataplane::device::uring::{UringConfig, UringDevice};
use dataplane::device::{BlockSize, Device, DeviceRegistry};
use dataplane::lvol::{CreateStore, DeviceMedia, OpenStore, StoreError, StoreSet};
use dataplane::store::{BLOCK_BYTES, Block, Media, MediaError, Settings, VolumeKind};
use hdrhistogram::Histogram;
use reactors::{CoreSet, Reactors, ReactorsConfig};
use uuid::Uuid;

/// Measures changes of volumes in a store that has many
#[derive(Parser)]
struct Args {
    /// Volumes that are there before anything is measured
    #[arg(long, default_value_t = 10_000)]
    volumes: u32,
    /// Calls of each kind that are measured
    #[arg(long, default_value_t = 500)]
    samples: u32,
    /// File or block device that the store is made on, which becomes 64 GiB; what it holds is lost
    #[arg(long)]
    file: Option<PathBuf>,
}

/// Calls that take longer count as this: a minute.
const LONGEST_US: u64 = 60_000_000;
const GIB: u64 = 1 << 30;
/// Size of every volume.
const VOLUME_BLOCKS: u64 = 1 << 18;

struct Bench {
    stores: StoreSet,
    store: Arc<OpenStore>,
    samples: u32,
}

fn main() {
    let args = Args::parse();
    let config = ReactorsConfig { cores: CoreSet::available().into_vec(), ..ReactorsConfig::default() };
    let reactors = Reactors::start(config).unwrap_or_else(|error| panic!("{error}"));
    let devices = DeviceRegistry::default();
    let device = device(args.file);
    bare(&*device, args.samples);
    devices.add(device).unwrap_or_else(|error| panic!("{error}"));
    let stores = StoreSet::new(devices, reactors.handles().to_vec());
    let options = CreateStore {
        device: "base".into(),
        name: "s".into(),
        uuid: None,
        volumes_max: Some(args.volumes + 4 * args.samples + 16),
        unmap: false,
        force: true,
    };
    let store = done(stores.create(&options));
    let bench = Bench { stores, store, samples: args.samples };
    (0..args.volumes).for_each(|index| bench.create(&format!("volume-{index}")));
    bench.run();
    done(bench.stores.destroy(&bench.store));
}

fn device(file: Option<PathBuf>) -> Arc<dyn Device> {
    match file {
        None => {
            let memory = MemoryDevice::new("base", BlockSize::B4096, (8 * GIB) >> 12, Uuid::new_v4());
            Arc::new(memory.unwrap_or_else(|error| panic!("{error}")))
        }
        Some(path) => {
            let config = UringConfig { size_bytes: Some(64 * GIB), ..UringConfig::new("base", path) };
            Arc::new(UringDevice::open(&config).unwrap_or_else(|error| panic!("{error}")))
        }
    }
}

fn done<T>(result: Result<T, StoreError>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

/// What the device itself takes for the least that makes a change durable: data written and flushed, then a block that tells of
/// it, written and flushed.
fn bare(device: &dyn Device, samples: u32) {
    let mut media = DeviceMedia::open(device).unwrap_or_else(|error| panic!("{error}"));
    let mut write = |index: u32| -> Result<(), MediaError> {
        let place = Block(2 * u64::from(index) + 1);
        media.write(place, &[0x5A; BLOCK_BYTES])?;
        media.flush()?;
        media.write(Block(place.0 + 1), &[0x5A; BLOCK_BYTES])?;
        media.flush()
    };
    measure("the device alone", samples, |index| write(index).unwrap_or_else(|error| panic!("{error}")));
}

fn measure(what: &str, samples: u32, mut call: impl FnMut(u32)) {
    let mut took =
        Histogram::<u64>::new_with_bounds(1, LONGEST_US, 3).unwrap_or_else(|error| panic!("{error}"));
    for index in 0..samples {
        let began = Instant::now();
        call(index);
        took.saturating_record(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    let ms = |us: u64| us as f64 / 1e3;
    println!(
        "{what:<16} median {:>7.3} ms, 99 % {:>7.3} ms, longest {:>7.3} ms",
        ms(took.value_at_quantile(0.5)),
        ms(took.value_at_quantile(0.99)),
        ms(took.max())
    );
}

impl Bench {
    fn create(&self, name: &str) {
        let made = self.stores.create_volume(&self.store, name, VOLUME_BLOCKS, None, Settings::default());
        done(made);
    }

    fn run(&self) {
        let name = |what: &str, index| format!("{what}-{index}");
        let at = |what: &str, index| format!("s/{what}-{index}");
        self.measure("create", |index| self.create(&name("new", index)));
        self.measure("snapshot", |index| {
            done(self.stores.copy_volume(&at("new", index), &name("snap", index), VolumeKind::Snapshot));
        });
        self.measure("clone", |index| {
            done(self.stores.copy_volume(&at("snap", index), &name("clone", index), VolumeKind::Writable));
        });
        self.measure("resize", |index| {
            done(self.stores.resize_volume(&at("clone", index), 2 * VOLUME_BLOCKS, false));
        });
        self.measure("rename", |index| {
            done(self.stores.rename_volume(&at("clone", index), &name("copy", index)));
        });
        self.measure("rollback", |index| {
            done(self.stores.roll_back(&at("new", index), &at("snap", index)));
        });
        self.measure("delete snapshot", |index| done(self.stores.delete_volume(&at("snap", index))));
        self.measure("delete", |index| done(self.stores.delete_volume(&at("new", index))));
    }

    fn measure(&self, what: &str, call: impl FnMut(u32)) {
        measure(what, self.samples, call);
    }
}
