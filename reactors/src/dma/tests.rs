//! What the pools promise.

use std::collections::BTreeSet;

use super::*;

fn pool(small_slots: u32, large_slots: u32) -> DmaPool {
    DmaPool::new(PoolConfig { small_slots, large_slots, prefault: false }).unwrap()
}

#[test]
fn every_slot_is_aligned_and_lies_alone_in_the_arena() {
    let pool = pool(64, 8);
    let arena = pool.arena();
    assert_eq!(arena.ptr.addr().get() % (2 << 20), 0);
    assert_eq!(arena.len % (2 << 20), 0);
    let mut taken = BTreeSet::new();
    let buffers: Vec<_> = (0..64)
        .map(|_| pool.alloc(SMALL_SLOT_SIZE).unwrap())
        .chain((0..8).map(|_| pool.alloc(LARGE_SLOT_SIZE).unwrap()))
        .collect();
    for buffer in &buffers {
        let offset = buffer.offset_in_arena();
        assert_eq!(buffer.as_ptr().addr(), arena.ptr.addr().get() + offset);
        assert_eq!(offset % SMALL_SLOT_SIZE, 0);
        assert!(offset + buffer.len() <= arena.len);
        for page in (offset..offset + buffer.len()).step_by(SMALL_SLOT_SIZE) {
            assert!(taken.insert(page), "two buffers share the page at {page}");
        }
    }
}

#[test]
fn an_exhausted_class_says_so_and_the_freed_counter_tells_when_to_retry() {
    let pool = pool(2, 1);
    let (first, second) = (pool.alloc(1).unwrap(), pool.alloc(SMALL_SLOT_SIZE).unwrap());
    assert!(pool.alloc(1).is_none());
    let freed = pool.freed();
    assert!(pool.alloc(SMALL_SLOT_SIZE + 1).is_some(), "the other class is not affected");
    let large_came_back = pool.freed();
    assert_ne!(large_came_back, freed);
    drop(second);
    assert_ne!(pool.freed(), large_came_back);
    assert!(pool.alloc(1).is_some());
    drop(first);
    let usage = pool.usage();
    assert_eq!((usage.small_in_use, usage.large_in_use), (0, 0));
    assert_eq!((usage.small_free_min, usage.large_free_min), (0, 0));
}

#[test]
fn the_slot_freed_last_goes_out_first() {
    let pool = pool(8, 1);
    let buffer = pool.alloc(100).unwrap();
    let offset = buffer.offset_in_arena();
    drop(buffer);
    assert_eq!(pool.alloc(200).unwrap().offset_in_arena(), offset);
}

#[test]
fn fresh_memory_is_zero_and_buffers_hold_what_is_written() {
    let pool = pool(2, 1);
    let mut buffer = pool.alloc(4000).unwrap();
    assert_eq!((buffer.len(), buffer.capacity()), (4000, SMALL_SLOT_SIZE));
    assert!(buffer.iter().all(|byte| *byte == 0));
    buffer.fill(7);
    buffer.set_len(SMALL_SLOT_SIZE);
    assert_eq!(buffer.iter().filter(|byte| **byte == 7).count(), 4000);
}

#[test]
#[should_panic(expected = "cannot hold 4097")]
fn a_buffer_does_not_grow_beyond_its_slot() {
    pool(1, 1).alloc(1).unwrap().set_len(SMALL_SLOT_SIZE + 1);
}

#[test]
fn buffers_outlive_their_pool() {
    let pool = pool(4, 2);
    let mut buffer = pool.alloc(10).unwrap();
    let io = pool.alloc_io(LARGE_SLOT_SIZE + 1).unwrap();
    drop(pool);
    buffer.fill(1);
    assert_eq!(io.part(0).len() + io.part(1).len(), LARGE_SLOT_SIZE + 1);
}

#[test]
fn an_io_buffer_takes_all_its_slots_or_none() {
    let pool = pool(1, 3);
    let io = pool.alloc_io(2 * LARGE_SLOT_SIZE).unwrap();
    assert_eq!(io.part_count(), 2);
    assert!(pool.alloc_io(LARGE_SLOT_SIZE + 1).is_none());
    assert_eq!(pool.usage().large_in_use, 2);
    drop(io);
    assert_eq!(pool.usage().large_in_use, 0);
    assert!(pool.alloc_io(3 * LARGE_SLOT_SIZE).is_some());
    assert!(pool.alloc_io(IO_SIZE_MAX + 1).is_none());
    assert!(pool.alloc(LARGE_SLOT_SIZE + 1).is_none());
}

#[test]
fn an_empty_io_buffer_takes_no_slot() {
    let pool = pool(1, 1);
    let io = pool.alloc_io(0).unwrap();
    assert!(io.is_empty());
    assert_eq!(io.slices().len(), 0);
    let from_empty = IoBuf::from(pool.alloc(0).unwrap());
    assert_eq!(pool.usage().small_in_use, 0);
    drop((io, from_empty));
    assert_eq!(pool.usage().small_in_use, 0);
}

#[test]
fn a_single_buffer_becomes_an_io_buffer_without_copying() {
    let pool = pool(1, 1);
    let mut buffer = pool.alloc(5).unwrap();
    buffer.copy_from_slice(b"abcde");
    let io = IoBuf::from(buffer);
    assert_eq!(io.as_contiguous(), Some(&b"abcde"[..]));
    assert_eq!(pool.usage().small_in_use, 1);
    drop(io);
    assert_eq!(pool.usage().small_in_use, 0);
}

#[test]
fn raw_parts_are_the_slices() {
    let pool = pool(1, 2);
    let io = pool.alloc_io(LARGE_SLOT_SIZE + 9).unwrap();
    let raw: Vec<_> = io.raw_parts().map(|(ptr, len)| (ptr.as_ptr().cast_const(), len)).collect();
    let slices: Vec<_> = io.slices().map(|part| (part.as_ptr(), part.len())).collect();
    assert_eq!(raw, slices);
    assert_eq!(io.offset_in_arena(1) - io.offset_in_arena(0), LARGE_SLOT_SIZE);
}

#[test]
#[should_panic(expected = "reach beyond")]
fn copying_beyond_the_end_is_refused() {
    pool(1, 1).alloc_io(10).unwrap().copy_in(8, &[0; 3]);
}

#[test]
fn pools_of_unusable_size_are_refused() {
    for (small_slots, large_slots) in [(0, 0), (u32::MAX, 1)] {
        let config = PoolConfig { small_slots, large_slots, prefault: false };
        assert!(matches!(DmaPool::new(config), Err(PoolError::BadSlotCount)));
    }
}

#[cfg(not(miri))]
#[test]
fn memory_is_resident_only_once_it_is_used_unless_prefault_asks() {
    for prefault in [false, true] {
        let pool = DmaPool::new(PoolConfig { small_slots: 512, large_slots: 0, prefault }).unwrap();
        if pool.huge_pages() {
            return; // Reserved pages are not counted as resident.
        }
        let resident_kib = resident_kib(pool.arena().ptr.addr().get());
        assert_eq!(resident_kib, if prefault { 2048 } else { 0 });
    }
}

#[cfg(not(miri))]
fn resident_kib(address: usize) -> usize {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let start = format!("{address:x}-");
    let mapping = maps.lines().skip_while(|line| !line.starts_with(&start));
    let resident = mapping.skip(1).find_map(|line| line.strip_prefix("Rss:")).unwrap();
    resident.trim().trim_end_matches(" kB").parse().unwrap()
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config {
        cases: if cfg!(miri) { 2 } else { 48 },
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn an_io_buffer_reads_back_what_was_copied_in(
        len in 1..=IO_SIZE_MAX,
        writes in proptest::collection::vec((0..1000_usize, 0..200_000_usize, 1..=255_u8), 1..6),
    ) {
        let pool = pool(1, 8);
        let mut io = pool.alloc_io(len).unwrap();
        let mut model = vec![0; len];
        io.fill_zero(0, len);
        for (permille, size, byte) in writes {
            let offset = len * permille / 1000;
            let size = size.min(len - offset);
            io.copy_in(offset, &vec![byte; size]);
            model[offset..offset + size].fill(byte);
            io.fill_zero(offset, size / 3);
            model[offset..offset + size / 3].fill(0);
        }
        let mut copy = vec![0xff; len];
        io.copy_out(0, &mut copy);
        proptest::prop_assert!(copy == model);
        let half: Vec<u8> = io.range(len / 2, len - len / 2).flatten().copied().collect();
        proptest::prop_assert!(half == model[len / 2..]);
    }
}

#[test]
fn pieces_of_a_buffer_hold_its_bytes_and_join_again() {
    let pool = pool(1, 3);
    let len = 2 * LARGE_SLOT_SIZE + 5 * SMALL_SLOT_SIZE;
    let mut whole = pool.alloc_io(len).unwrap();
    let bytes: Vec<u8> = (0..len).map(|at| u8::try_from(at / SMALL_SLOT_SIZE % 251).unwrap()).collect();
    whole.copy_in(0, &bytes);
    let mut pieces = Vec::new();
    for cut in [3, 32, 29, 1] {
        let rest = whole.split_off(cut * SMALL_SLOT_SIZE);
        pieces.push(std::mem::replace(&mut whole, rest));
    }
    pieces.push(whole);
    let mut at = 0;
    for piece in &mut pieces {
        assert!(piece.slices().flatten().eq(&bytes[at..at + piece.len()]));
        let mut found = vec![0; piece.len()];
        piece.copy_out(0, &mut found);
        assert_eq!(found, bytes[at..at + piece.len()]);
        piece.fill_zero(0, 1);
        at += piece.len();
    }
    assert_eq!(at, len);
    let mut pieces = pieces.into_iter();
    let mut joined = pieces.next().unwrap();
    pieces.for_each(|piece| joined.join(piece).unwrap());
    let mut found = vec![0; len];
    joined.copy_out(0, &mut found);
    assert_eq!(found.iter().zip(&bytes).filter(|(found, byte)| found != byte).count(), 4, "block 0 was zero");
    drop(joined);
    assert_eq!(pool.usage().large_in_use, 0);
}

#[test]
fn a_slot_that_pieces_share_is_free_when_the_last_is_gone() {
    let pool = pool(1, 1);
    let mut first = pool.alloc_io(LARGE_SLOT_SIZE).unwrap();
    let mut second = first.split_off(SMALL_SLOT_SIZE);
    let third = second.split_off(SMALL_SLOT_SIZE);
    let third = first.join(third).unwrap_err();
    drop(first);
    drop(third);
    assert_eq!(pool.usage().large_in_use, 1);
    assert!(second.join(pool.alloc_io(1).unwrap()).is_err());
    drop(second);
    assert_eq!(pool.usage().large_in_use, 0);
}

#[test]
#[should_panic(expected = "multiples of 4096")]
fn a_buffer_is_cut_at_blocks() {
    let _ = pool(1, 1).alloc_io(LARGE_SLOT_SIZE).unwrap().split_off(100);
}

#[test]
fn shared_buffers_have_the_same_bytes_and_the_last_one_frees_them() {
    let pool = pool(2, 2);
    for len in [SMALL_SLOT_SIZE, LARGE_SLOT_SIZE + SMALL_SLOT_SIZE] {
        let mut first = pool.alloc_io(len).unwrap();
        first.copy_in(0, &vec![7; len]);
        let mut second = first.share().unwrap();
        let mut third = second.share().unwrap();
        let rest = (len > SMALL_SLOT_SIZE).then(|| third.split_off(SMALL_SLOT_SIZE));
        drop(first);
        assert!(second.slices().flatten().all(|byte| *byte == 7) && second.is_shared());
        drop(second);
        assert!(
            third
                .slices()
                .flatten()
                .chain(rest.iter().flat_map(IoBuf::slices).flatten())
                .all(|byte| *byte == 7)
        );
        assert!(pool.usage().small_in_use + pool.usage().large_in_use > 0);
        if let Some(rest) = rest {
            third.join(rest).unwrap();
        }
        drop(third);
        let usage = pool.usage();
        assert_eq!((usage.small_in_use, usage.large_in_use), (0, 0));
    }
}

#[test]
#[should_panic(expected = "shared bytes are not written")]
fn shared_bytes_are_not_written() {
    let mut first = pool(1, 1).alloc_io(100).unwrap();
    let _second = first.share();
    first.fill_zero(0, 1);
}
