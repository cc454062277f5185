//! The allocator of the binaries: mimalloc, which gives nothing back.
//!
//! A training step frees what the next one allocates again, in the same sizes. mimalloc returns
//! free memory to the system after 10 ms, and the next step pays for fresh pages: for a ViT-S about
//! a seventh of its time. [`keep_memory`] turns that off; the peak stays what it was.

use std::ffi::c_int;

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// `mi_option_purge_delay` of mimalloc 2 and 3, which the bindings do not name.
const PURGE_DELAY: c_int = 15;

/// Keeps freed memory for the next step. To be called first in `main`; `MIMALLOC_PURGE_DELAY` in the
/// environment has precedence.
#[allow(unsafe_code)]
pub fn keep_memory() {
    // SAFETY: sets an integer option, which mimalloc allows at any time from one thread.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) }
}
