//! What lies on a device: single structures, and a whole store in which anything is changed.

use std::cell::OnceCell;
use std::rc::Rc;

use dataplane::store::format::{
    Bytes, CheckpointHeader, CountsPage, DiskSuperblock, MapPage, Records, VERSION, crc32c,
};
use dataplane::store::{BLOCK_BYTES, Block, CreateOptions, Media, create};
use sim::device::Device;
use uuid::Uuid;

/// Blocks of the device: a few of everything.
const BLOCKS: u64 = 400;
/// Where the checksum lies, by the signature that a structure begins with.
const SIGNATURES: [(&[u8], usize); 5] =
    [(b"PLXSTORE", 8), (b"PLXCHECK", 8), (b"PLXM", 4), (b"PLXC", 4), (b"PLXL", 4)];

/// Makes the checksum right, so that the fields are what is looked at.
fn seal(bytes: &mut Bytes) {
    let signature = SIGNATURES.iter().find(|(signature, _)| bytes.starts_with(signature));
    let Some((_, at)) = signature else { return };
    bytes[*at..*at + 4].fill(0);
    let crc = crc32c(&bytes[..]);
    bytes[*at..*at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Byte 0: which structure. The rest is its content behind the signature.
pub fn store_structures(input: &[u8]) {
    let Some((&kind, rest)) = input.split_first() else { return };
    let (signature, _) = SIGNATURES[usize::from(kind) % SIGNATURES.len()];
    let mut bytes = [0; BLOCK_BYTES];
    bytes[..signature.len()].copy_from_slice(signature);
    let len = rest.len().min(BLOCK_BYTES - signature.len());
    bytes[signature.len()..signature.len() + len].copy_from_slice(&rest[..len]);
    seal(&mut bytes);
    if let Ok((_, layout)) = DiskSuperblock::decode(&bytes) {
        assert!(layout.data_start() < layout.data_end());
    }
    if let Ok(header) = CheckpointHeader::decode(&bytes) {
        assert_eq!(CheckpointHeader::decode(&header.encode()), Ok(header));
    }
    let address = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|at| bytes[8 + at]));
    if let Ok(page) = MapPage::decode(&bytes, Block(address), bytes[24], |_| true) {
        assert_eq!(page.targets.len(), page.sums.len());
    }
    if let Ok(counts) = CountsPage::decode(&bytes, u32::try_from(address).unwrap_or(0)) {
        assert!(counts.0.iter().all(|count| *count < 1 << 15));
    }
    if let Ok((_, records)) = Records::decode(&bytes) {
        for record in records.flatten() {
            assert!(record.bytes() <= BLOCK_BYTES);
            assert!(!format!("{record:?}").is_empty());
        }
    }
}

thread_local! {
    static STORE: OnceCell<Device> = const { OnceCell::new() };
}

/// A store that has lived a little: volumes, a snapshot, a log.
fn lived() -> Device {
    STORE.with(|store| {
        store
            .get_or_init(|| {
                let mut device = Device::new(BLOCKS);
                let uuid = Uuid::from_u128(1);
                let options =
                    CreateOptions { uuid, volumes: 20, log_blocks: Some(32), force: false, version: VERSION };
                create(&mut device, &options).expect("the device is empty");
                sim::live(&mut device);
                device
            })
            .clone()
    })
}

/// Changes of a store's blocks: block (2 bytes), offset (2), length (1), then as many bytes. A block whose signature is right
/// gets the right checksum if the highest bit of its number is not set.
pub fn store_open(input: &[u8]) {
    let mut device = lived();
    let mut rest = input;
    while let Some((&[b0, b1, o0, o1, len], more)) = rest.split_first_chunk() {
        let (block, offset) = (u16::from_le_bytes([b0, b1]), u16::from_le_bytes([o0, o1]));
        let (content, more) = more.split_at(usize::from(len).min(more.len()));
        change(&mut device, block, usize::from(offset), content);
        rest = more;
    }
    sim::exercise(device);
}

fn change(device: &mut Device, block: u16, offset: usize, content: &[u8]) {
    let place = Block(u64::from(block & 0x7FFF) % BLOCKS);
    let mut bytes = *device.block(place);
    let offset = offset % BLOCK_BYTES;
    let len = content.len().min(BLOCK_BYTES - offset);
    bytes[offset..offset + len].copy_from_slice(&content[..len]);
    if block & 0x8000 == 0 {
        seal(&mut bytes);
    }
    device.put(place, Rc::new(bytes));
    device.flush().unwrap_or_else(|error| panic!("{error}"));
}
