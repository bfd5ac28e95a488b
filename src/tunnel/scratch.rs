//! The buffer that every tunnel of a thread reads into, one after the other.
//!
//! It is borrowed within one `poll` and never across an await, so a tunnel at rest holds none. `relay` alone uses it.

use std::cell::RefCell;

/// A message of 64 KiB with its frame header, in one read.
pub(super) const SIZE: usize = (64 << 10) + 64;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SIZE].into());
}

/// Lends the thread's buffer.
pub(super) fn with<T>(lend: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| lend(scratch))
}
