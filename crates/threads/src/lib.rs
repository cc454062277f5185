//! Loops on the threads of candle, which wait awake from one loop to the next.
//!
//! A training step is a few thousand short loops. Threads that sleep between them are woken each time, late and often
//! on the processor of the thread that wakes them, which costs a step up to a third of its time. So the loops of this
//! workspace run where candle's own do ([`candle_core::utils::barrier_pool`]): on threads that spin for about a
//! millisecond before they sleep, one pool for both. Their number is that of `CANDLE_NUM_THREADS`, else of
//! `RAYON_NUM_THREADS`, else of the processor's cores.
//!
//! Items are handed out in order, fewer and fewer at a time, to whichever thread is free. A loop inside a loop runs on its thread alone.
//! The work of an item must not call operations of candle on tensors: they would wait for the pool that waits for them.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use candle_core::utils::barrier_pool;

thread_local! {
    /// What [`count`] says on this thread; none: those of the pool.
    static COUNT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Threads that a loop which starts here is to be cut for: 1 inside of a loop.
pub fn count() -> usize {
    COUNT.get().unwrap_or_else(|| barrier_pool().n_workers() + 1)
}

/// Runs `work` with its loops cut for `count` threads: with one, on this thread alone. Inside of a loop it is always one.
///
/// More threads than the pool has are not made; what is cut for them waits for those that there are. Operations of
/// candle take no notice.
pub fn with_count<R>(count: usize, work: impl FnOnce() -> R) -> R {
    /// Puts back what was before, after a panic too.
    struct Before(Option<usize>);
    impl Drop for Before {
        fn drop(&mut self) {
            COUNT.set(self.0);
        }
    }
    // More inside of a loop would wait for the pool that waits for them.
    let count = if COUNT.get() == Some(1) { 1 } else { count.max(1) };
    let _before = Before(COUNT.replace(Some(count)));
    work()
}

/// Runs `work(i, item)` for every item and its index, on all threads.
///
/// # Panics
/// When the work of an item does, with the first panic; other items may not have run then.
pub fn for_each<I: Send>(items: impl IntoIterator<Item = I>, work: impl Fn(usize, I) + Sync) {
    if count() == 1 {
        return items.into_iter().enumerate().for_each(|(i, item)| work(i, item));
    }
    let items: Vec<_> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
    if items.len() < 2 {
        return items.into_iter().filter_map(taken).for_each(|item| work(0, item));
    }
    // Many at once in the beginning, one by one in the end: threads should end together.
    let threads = barrier_pool().n_workers() + 1;
    let end_of = |start: usize| start + ((items.len() - start) / (4 * threads)).max(1);
    let next = AtomicUsize::new(0);
    let take = || {
        let end = |start| (start < items.len()).then(|| end_of(start));
        next.fetch_update(Relaxed, Relaxed, end).ok().map(|start| start..end_of(start))
    };
    // A panic that left the pool would leave its lock poisoned.
    let panic: Mutex<Option<Box<dyn Any + Send>>> = Mutex::new(None);
    barrier_pool().execute(|_| {
        let work = || {
            for i in std::iter::from_fn(take).flatten() {
                if let Some(item) = lock(&items[i]).take() {
                    work(i, item);
                }
            }
        };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| with_count(1, work))) {
            lock(&panic).get_or_insert(payload);
        }
    });
    if let Some(payload) = taken(panic) {
        resume_unwind(payload);
    }
}

/// What `work` makes of every item, in order, on all threads.
///
/// # Panics
/// As [`for_each`].
pub fn map<I: Send, R: Send>(
    items: impl IntoIterator<Item = I>,
    work: impl Fn(I) -> R + Sync,
) -> Vec<R> {
    let mut items: Vec<_> = items.into_iter().map(Some).collect();
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    for_each(items.iter_mut().zip(&mut results), |_, (item, result)| {
        *result = item.take().map(&work);
    });
    results.into_iter().flatten().collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn taken<T>(mutex: Mutex<Option<T>>) -> Option<T> {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_once_and_results_keep_their_order() {
        for len in [0, 1, 2, 3, 17, 1000] {
            let mut seen = vec![0; len];
            for_each(seen.iter_mut(), |i, seen| *seen += i + 1);
            assert_eq!(seen, (1..=len).collect::<Vec<_>>());
            assert_eq!(map(0..len, |i| 2 * i), (0..len).map(|i| 2 * i).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_loop_inside_a_loop_runs_on_its_thread() {
        let sums = map(0..50, |i| {
            let thread = std::thread::current().id();
            assert_eq!((count(), with_count(3, count)), (1, 1));
            map(0..i, |j| (std::thread::current().id() == thread, j))
        });
        for (i, sum) in sums.iter().enumerate() {
            assert_eq!(sum.len(), i);
            assert!(sum.iter().enumerate().all(|(at, &(same, j))| same && at == j));
        }
    }

    #[test]
    fn loops_of_several_callers_do_not_meet() {
        let calls = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        for_each(0..20, |_, _| _ = calls.fetch_add(1, Relaxed));
                    }
                });
            }
        });
        assert_eq!(calls.load(Relaxed), 4 * 100 * 20);
    }

    #[test]
    fn after_a_panic_the_threads_go_on() {
        for bad in [0, 7, 63] {
            let caught = catch_unwind(|| for_each(0..64, |i, _| assert!(i != bad, "item {i}")));
            let payload = caught.unwrap_err();
            let message = payload.downcast_ref::<String>().map(String::as_str);
            assert_eq!(message, Some(format!("item {bad}").as_str()));
            assert!(count() == barrier_pool().n_workers() + 1, "the thread is free again");
            assert_eq!(map(0..9, |i| i).len(), 9);
        }
        let caught = catch_unwind(|| with_count(1, || panic!("alone")));
        assert!(caught.is_err() && count() == barrier_pool().n_workers() + 1);
    }
}
