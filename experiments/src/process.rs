//! What a program sets up for training before anything else: its allocator, and how idle threads of candle wait.

use std::env;
use std::ffi::c_int;

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// `mi_option_purge_delay` of mimalloc 2 and 3, which the bindings do not name.
const PURGE_DELAY: c_int = 15;

/// How often candle's idle threads look for work before they sleep.
const SPIN_LIMIT: &str = "CANDLE_BARRIER_POOL_SPIN_LIMIT";

/// Keeps memory and leaves the cores to the threads that work. To be called first in `main`, before any thread starts.
///
/// A training step frees what the next one allocates again, in the same sizes. mimalloc returns free memory to the
/// system after 10 ms, and the next step pays for fresh pages: for a ViT-S about a seventh of its time. So it keeps
/// all; the peak stays what it was.
///
/// candle's own threads, which add tensors, spin for about a millisecond before they sleep, and take the cores from
/// the threads of the layers: 1 to 4 % of a step on two cores. So they sleep at once.
///
/// `MIMALLOC_PURGE_DELAY` and `CANDLE_BARRIER_POOL_SPIN_LIMIT` in the environment have precedence.
#[allow(unsafe_code)]
pub fn prepare() {
    // SAFETY: sets an integer option, which mimalloc allows at any time from one thread.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) }
    if env::var_os(SPIN_LIMIT).is_none() {
        // SAFETY: no other thread runs that could read the environment.
        unsafe { env::set_var(SPIN_LIMIT, "1") }
    }
}
