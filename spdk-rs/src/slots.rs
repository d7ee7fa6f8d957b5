//! The commands in flight of a queue pair, and SPDK's callbacks into them.
//!
//! Invariants
//! - A slot is free, submitted or completed. Only the callback takes it from submitted to completed, and only once; only
//!   [`Slots::pop`] and [`Slots::take_back`] make it free.
//! - A submitted slot keeps its buffer, and stays at its place: [`Slots`] are shared, never moved, and are given up rather
//!   than dropped while SPDK may still call.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::{c_int, c_void};
use std::rc::Rc;

use crate::command::{CommandStatus, Completion};
use crate::dma::DmaMemory;
use crate::sys;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    Submitted,
    Completed,
}

/// Where SPDK is in a buffer: a segment, and a byte of it.
#[derive(Clone, Copy, Default)]
struct Cursor {
    segment: usize,
    byte: usize,
}

/// One command. Its address is what SPDK passes to the callbacks.
pub(crate) struct Slot<B> {
    index: u32,
    state: Cell<State>,
    tag: Cell<u64>,
    status: Cell<CommandStatus>,
    result: Cell<u32>,
    cursor: Cell<Cursor>,
    buffer: RefCell<Option<B>>,
    /// Completed slots of the queue pair, oldest first. Room for all.
    done: Rc<RefCell<VecDeque<u32>>>,
}

impl<B: DmaMemory> Slot<B> {
    pub(crate) fn argument(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// The whole buffer, if it is one segment or none: SPDK then needs no callbacks to find its way.
    #[inline]
    pub(crate) fn only_segment(&self) -> Option<(*mut c_void, usize)> {
        let buffer = self.buffer.borrow();
        let Some(buffer) = buffer.as_ref() else { return Some((std::ptr::null_mut(), 0)) };
        let (start, len) = buffer.segment(0)?;
        (len == buffer.byte_count()).then(|| (start.as_ptr().cast(), len))
    }

    fn complete(&self, status: CommandStatus, result: u32) {
        assert_eq!(self.state.get(), State::Submitted, "SPDK completed a command twice");
        self.state.set(State::Completed);
        self.status.set(status);
        self.result.set(result);
        self.done.borrow_mut().push_back(self.index);
    }

    fn seek(&self, mut byte: usize) {
        let buffer = self.buffer.borrow();
        let mut segment = 0;
        while let Some((_, len)) = buffer.as_ref().and_then(|buffer| buffer.segment(segment)) {
            if byte < len {
                break;
            }
            byte -= len;
            segment += 1;
        }
        self.cursor.set(Cursor { segment, byte });
    }

    /// The rest of the segment at the cursor.
    fn next(&self) -> Option<(*mut u8, usize)> {
        let Cursor { segment, byte } = self.cursor.get();
        let (start, len) = self.buffer.borrow().as_ref()?.segment(segment)?;
        self.cursor.set(Cursor { segment: segment + 1, byte: 0 });
        Some((start.as_ptr().wrapping_add(byte), len - byte))
    }
}

/// All commands of a queue pair.
pub(crate) struct Slots<B> {
    slots: Rc<[Slot<B>]>,
    free: Vec<u32>,
    done: Rc<RefCell<VecDeque<u32>>>,
}

impl<B: DmaMemory> Slots<B> {
    pub(crate) fn new(depth: u32) -> Self {
        let done = Rc::new(RefCell::new(VecDeque::with_capacity(depth as usize)));
        let slot = |index| Slot {
            index,
            state: Cell::new(State::Free),
            tag: Cell::new(0),
            status: Cell::new(CommandStatus::SUCCESS),
            result: Cell::new(0),
            cursor: Cell::default(),
            buffer: RefCell::new(None),
            done: Rc::clone(&done),
        };
        Self { slots: (0..depth).map(slot).collect(), free: (0..depth).rev().collect(), done }
    }

    /// Commands that were taken and did not come back yet.
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a free slot for a command that is about to be submitted.
    pub(crate) fn begin(&mut self, tag: u64, buffer: Option<B>) -> Result<&Slot<B>, Option<B>> {
        let Some(index) = self.free.pop() else { return Err(buffer) };
        let slot = &self.slots[index as usize];
        slot.state.set(State::Submitted);
        slot.tag.set(tag);
        slot.cursor.set(Cursor::default());
        slot.buffer.replace(buffer);
        Ok(slot)
    }

    /// After SPDK refused a command: the buffer. `Err` if it called back all the same: then the command has completed.
    pub(crate) fn take_back(&mut self, index: u32) -> Result<Option<B>, ()> {
        let slot = &self.slots[index as usize];
        if slot.state.get() == State::Completed {
            return Err(());
        }
        slot.state.set(State::Free);
        self.free.push(index);
        Ok(slot.buffer.take())
    }

    /// The oldest completed command.
    pub(crate) fn pop(&mut self) -> Option<Completion<B>> {
        let index = self.done.borrow_mut().pop_front()?;
        let slot = &self.slots[index as usize];
        let buffer = slot.buffer.take();
        slot.state.set(State::Free);
        self.free.push(index);
        Some(Completion { tag: slot.tag.get(), status: slot.status.get(), result: slot.result.get(), buffer })
    }

    /// Whether SPDK may still call back.
    pub(crate) fn any_submitted(&self) -> bool {
        self.slots.iter().any(|slot| slot.state.get() == State::Submitted)
    }

    /// Leaves the slots and the buffers in them where they are for good, for a device may still access them, and tells of
    /// every command that is lost with its buffer.
    pub(crate) fn give_up(&self) -> impl Iterator<Item = Completion<B>> + '_ {
        std::mem::forget(Rc::clone(&self.slots));
        let lost = self.slots.iter().filter(|slot| slot.state.get() == State::Submitted);
        lost.map(|slot| Completion {
            tag: slot.tag.get(),
            status: CommandStatus::ABORTED_QUEUE_DELETED,
            result: 0,
            buffer: None,
        })
    }
}

impl<B> Slot<B> {
    pub(crate) fn index(&self) -> u32 {
        self.index
    }
}

/// The slot behind a callback's argument.
///
/// # Safety
/// `argument` came from [`Slot::argument`] of a slot of the same `B` that is still there.
unsafe fn slot<'a, B>(argument: *mut c_void) -> &'a Slot<B> {
    // SAFETY: the caller's promise; slots are only changed through cells.
    unsafe { &*argument.cast::<Slot<B>>() }
}

/// `spdk_nvme_cmd_cb`.
pub(crate) unsafe extern "C" fn completed<B: DmaMemory>(
    argument: *mut c_void,
    cpl: *const sys::spdk_nvme_cpl,
) {
    // SAFETY: SPDK passes back the argument of a command that it was given, while its slot is submitted.
    let slot = unsafe { slot::<B>(argument) };
    // SAFETY: SPDK passes a completion that is there during the call.
    let (status, result) = unsafe { read_completion(cpl) };
    slot.complete(status, result);
}

/// Status and dword 0 of a completion.
///
/// # Safety
/// `cpl` points to one.
pub(crate) unsafe fn read_completion(cpl: *const sys::spdk_nvme_cpl) -> (CommandStatus, u32) {
    const _: () = assert!(size_of::<sys::spdk_nvme_cpl>() == 16);
    // SAFETY: the caller's promise; sixteen bytes laid out as the specification says.
    let dwords = unsafe { cpl.cast::<[u32; 4]>().read_unaligned() };
    let [_, _, low, high] = dwords[3].to_le_bytes();
    (CommandStatus::from_field(u16::from_le_bytes([low, high]) >> 1), dwords[0])
}

/// `spdk_nvme_req_reset_sgl_cb`.
pub(crate) unsafe extern "C" fn reset_segments<B: DmaMemory>(argument: *mut c_void, offset: u32) {
    // SAFETY: as in `completed`.
    unsafe { slot::<B>(argument) }.seek(offset as usize);
}

/// `spdk_nvme_req_next_sge_cb`.
pub(crate) unsafe extern "C" fn next_segment<B: DmaMemory>(
    argument: *mut c_void,
    address: *mut *mut c_void,
    length: *mut u32,
) -> c_int {
    // SAFETY: as in `completed`.
    let Some((start, len)) = unsafe { slot::<B>(argument) }.next() else { return -libc::EFAULT };
    // SAFETY: SPDK passes where to write the address.
    unsafe { address.write(start.cast()) };
    // SAFETY: SPDK passes where to write the length.
    unsafe { length.write(u32::try_from(len).unwrap_or(u32::MAX)) };
    0
}

#[cfg(test)]
mod tests {
    use std::ptr::NonNull;

    use super::*;

    /// Segments of these lengths, one after another.
    #[derive(Debug)]
    struct Parts(Vec<Vec<u8>>);

    // SAFETY: vectors that nothing changes; no device is involved.
    unsafe impl DmaMemory for Parts {
        fn byte_count(&self) -> usize {
            self.0.iter().map(Vec::len).sum()
        }

        fn segment(&self, index: usize) -> Option<(NonNull<u8>, usize)> {
            let part = self.0.get(index)?;
            Some((NonNull::from(&part[..]).cast(), part.len()))
        }
    }

    fn completion(status: u16, result: u32) -> [u32; 4] {
        [result, 0, 0, u32::from(status << 1 | 1) << 16]
    }

    fn call_back(slot: *mut c_void, cpl: &[u32; 4]) {
        // SAFETY: the slot is submitted, the completion is here.
        unsafe { completed::<Parts>(slot, std::ptr::from_ref(cpl).cast()) };
    }

    #[test]
    fn a_command_comes_back_once_with_its_tag_status_and_buffer() {
        let mut slots = Slots::new(2);
        let first = slots.begin(7, Some(Parts(vec![vec![1; 512]]))).unwrap().argument();
        let second = slots.begin(8, None).unwrap().argument();
        assert!(slots.begin(9, None).is_err());
        call_back(second, &completion(0x4002, 5));
        call_back(first, &completion(0, 0));
        let done = slots.pop().unwrap();
        assert_eq!((done.tag, done.status.code(), done.result), (8, (0, 2), 5));
        assert!(done.buffer.is_none());
        assert_eq!(slots.in_flight(), 1);
        let done = slots.pop().unwrap();
        assert_eq!((done.tag, done.status, done.buffer.unwrap().0[0][0]), (7, CommandStatus::SUCCESS, 1));
        assert!(slots.pop().is_none());
        assert_eq!(slots.in_flight(), 0);
    }

    #[test]
    fn a_refused_command_gives_its_buffer_back_unless_it_completed_on_the_way() {
        let mut slots = Slots::new(1);
        let index = slots.begin(1, Some(Parts(vec![vec![3]]))).unwrap().index();
        assert_eq!(slots.take_back(index).unwrap().unwrap().0, [[3]]);
        let slot = slots.begin(2, None).unwrap();
        let (index, argument) = (slot.index(), slot.argument());
        call_back(argument, &completion(0x6, 0));
        assert!(slots.take_back(index).is_err());
        assert_eq!(slots.pop().unwrap().status.code(), (0, 6));
    }

    #[test]
    fn what_is_given_up_is_told_of_and_stays_where_it_is() {
        let mut slots = Slots::new(3);
        let first = slots.begin(1, Some(Parts(vec![vec![1]]))).unwrap().argument();
        slots.begin(2, Some(Parts(vec![vec![2]]))).unwrap();
        call_back(first, &completion(0, 0));
        let lost: Vec<_> =
            slots.give_up().map(|lost| (lost.tag, lost.status, lost.buffer.is_some())).collect();
        assert_eq!(lost, [(2, CommandStatus::ABORTED_QUEUE_DELETED, false)]);
        let kept = Rc::downgrade(&slots.slots);
        drop(slots);
        assert!(kept.upgrade().is_some());
    }

    #[test]
    fn segments_are_walked_from_any_byte_to_the_end() {
        let mut slots = Slots::new(1);
        let slot = slots.begin(0, Some(Parts(vec![vec![1; 4], vec![2; 8], vec![3; 2]]))).unwrap();
        assert!(slot.only_segment().is_none());
        let lengths_from = |offset| {
            // SAFETY: the slot is here and submitted.
            unsafe { reset_segments::<Parts>(slot.argument(), offset) };
            std::iter::from_fn(|| {
                let (mut address, mut length) = (std::ptr::null_mut(), 0);
                // SAFETY: the slot is here and submitted, the two results are here.
                let result =
                    unsafe { next_segment::<Parts>(slot.argument(), &raw mut address, &raw mut length) };
                (result == 0).then_some(length)
            })
            .collect::<Vec<_>>()
        };
        assert_eq!(lengths_from(0), [4, 8, 2]);
        assert_eq!(lengths_from(4), [8, 2]);
        assert_eq!(lengths_from(9), [3, 2]);
        assert_eq!(lengths_from(14), [0_u32; 0]);
    }
}
