//! Damages the files of a reader, a thousand times by a seed, and looks at what the reader makes of it.
//!
//! Shared by the tests of several crates, which include it by its path.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Once, mpsc};
use std::thread;
use std::time::Duration;

/// Half of the inputs are cut short, in half of them one bit is another.
const INPUTS: usize = 1000;

/// An input is read in milliseconds; a reader that takes this long hangs.
const LONGEST: Duration = Duration::from_secs(60);

/// Bytes that a reader may allocate for each byte of its files, and beside that: parsed text is larger
/// than the text, but no length field of a damaged header may be taken at its word.
const TIMES: usize = 64;
const BESIDE: usize = 16 << 20;

/// What a reader can know of a file that was cut short.
#[allow(dead_code)] // Not every crate has files of every kind.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Cut {
    /// That it was, wherever the cut is.
    Known,
    /// What the format tells: lines say nothing of those that should follow.
    Lines,
    /// Nothing: half a line at the end is left out.
    Nothing,
}

/// Peak of memory in bytes while the work is done.
pub(crate) type Peak = fn(&mut dyn FnMut()) -> usize;

/// How an input was read: the message of an error, or the message of a panic.
type Read = (Result<Result<(), String>, String>, usize);

/// Reads the undamaged `files`, then damages each in turn. `read` reads all of them and returns the
/// message of its error.
///
/// No input may panic, hang or take much memory, and an error names the damaged file.
#[allow(clippy::print_stdout)]
pub(crate) fn corrupt(
    reader: &str,
    files: impl Into<Vec<PathBuf>>,
    cut: Cut,
    peak: Peak,
    read: impl Fn() -> Result<(), String> + Send + 'static,
) {
    // Where backtraces are asked for, errors of candle read the symbols of this binary, once: no memory of a
    // reader's.
    static SYMBOLS: Once = Once::new();
    SYMBOLS.call_once(|| drop(Backtrace::capture().to_string()));
    let files = files.into();
    let whole: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let allowed = TIMES * whole.iter().map(Vec::len).sum::<usize>() + BESIDE;
    // A thread of its own, so that one that hangs is left behind.
    let (go, wait) = mpsc::channel::<()>();
    let (done, outcome) = mpsc::channel::<Read>();
    thread::spawn(move || {
        while wait.recv().is_ok() {
            let mut result = Ok(Ok(()));
            let bytes = peak(&mut || {
                result = catch_unwind(AssertUnwindSafe(&read)).map_err(|panic| {
                    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
                    text.or(panic.downcast_ref::<String>().cloned()).unwrap_or_default()
                });
            });
            if done.send((result, bytes)).is_err() {
                break;
            }
        }
    });
    let read = |input: &str| -> Read {
        go.send(()).unwrap();
        outcome.recv_timeout(LONGEST).unwrap_or_else(|e| panic!("{reader}: {input}: hangs ({e})"))
    };
    let (result, bytes) = read("undamaged");
    assert_eq!(result, Ok(Ok(())), "{reader}: the undamaged file");
    assert!(bytes < allowed, "{reader}: the undamaged file: {bytes} bytes");

    let (mut tried, mut detected, mut harmless, mut cuts) = (0, 0, 0, 0);
    let mut faults = Vec::new();
    let mut random = Random(0);
    for i in 0..INPUTS {
        // Pairs of inputs, so that every file is cut short as often as it is changed.
        let (at, is_cut) = (i / 2 % files.len(), i % 2 == 0);
        let (file, mut damaged) = (&files[at], whole[at].clone());
        let place = random.below(damaged.len());
        let input = if is_cut {
            damaged.truncate(place);
            format!("{} cut to {place} of {} bytes", file.display(), whole[at].len())
        } else {
            let bit = random.below(8);
            damaged[place] ^= 1 << bit;
            format!("{} with bit {bit} of byte {place} flipped", file.display())
        };
        put(file, &damaged);
        let (result, bytes) = read(&input);
        put(file, &whole[at]);
        tried += 1;
        if bytes >= allowed {
            faults.push(format!("{input}: {bytes} bytes of memory"));
        }
        match result {
            Err(panic) => faults.push(format!("{input}: panics: {panic}")),
            Ok(Err(error)) => {
                detected += 1;
                cuts += usize::from(is_cut);
                if !error.contains(file.to_str().unwrap()) {
                    faults.push(format!("{input}: not named: {error}"));
                }
            }
            Ok(Ok(())) => {
                harmless += 1;
                if is_cut && cut == Cut::Known {
                    faults.push(format!("{input}: read as if it were whole"));
                }
            }
        }
    }
    println!("{reader}: {tried} tried, {detected} detected, {harmless} harmless");
    let some = faults.iter().take(8).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(faults.is_empty(), "{reader}: {} faults:\n{some}", faults.len());
    assert_eq!((tried, detected + harmless), (INPUTS, INPUTS), "{reader}");
    let some = cut == Cut::Nothing || cuts > 0;
    assert!(some && detected > cuts, "{reader}: {cuts} cuts of {detected} detected");
}

/// Overwrites a file in place, which some file systems do much faster than to empty and fill it.
fn put(path: &Path, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
}

/// SplitMix64: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static HIGHEST: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, which counts by thread: tests run side by side.
pub(crate) struct Counting;

fn count(bytes: isize) {
    let now = NOW.get() + bytes;
    NOW.set(now);
    HIGHEST.set(HIGHEST.get().max(now));
}

// SAFETY: every call is handed on to the system's allocator as it is; counting allocates nothing.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller's.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's.
        unsafe { System.dealloc(old, layout) }
    }
}

/// Peak of what this thread allocates, where [`Counting`] is the allocator.
pub(crate) fn allocated(work: &mut dyn FnMut()) -> usize {
    let before = NOW.get();
    let probe = std::hint::black_box(vec![0u8]);
    assert!(NOW.get() > before, "the test has another allocator");
    drop(probe);
    HIGHEST.set(before);
    work();
    (HIGHEST.get() - before) as usize
}
