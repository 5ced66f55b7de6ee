//! How much memory something takes: the process's allocator, which counts.
//!
//! All threads are counted together, so nothing else of size may run meanwhile.

use std::time::{Duration, Instant};

use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// No input may keep a target busy for longer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// Does something in bounded time; the most bytes that were in use meanwhile, beyond those before.
pub(crate) fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    HEAP.reset_peak_usage();
    let before = HEAP.current_usage();
    let began = Instant::now();
    let done = work();
    let took = began.elapsed();
    assert!(took < PATIENCE, "took {took:?}, must take less than {PATIENCE:?}");
    (done, HEAP.peak_usage().saturating_sub(before))
}

/// Bytes in use now.
pub(crate) fn in_use() -> usize {
    HEAP.current_usage()
}
