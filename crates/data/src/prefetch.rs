//! Batches made ahead of their use by threads, handed out in order.

use std::any::Any;
use std::io;
use std::iter::StepBy;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{Builder, JoinHandle};

use crate::{Error, Result};

/// Finished batches that may wait for each thread.
const QUEUE: usize = 2;

type Make<T> = Arc<dyn Fn(usize) -> T + Send + Sync>;

/// `make(i)` for each i of a range in steps, in order.
///
/// Thread k of W makes number k, k + W, ... of them into its own bounded queue and the queues are read in
/// turn: order needs no bookkeeping and cannot depend on which thread is faster.
pub(crate) struct Prefetch<T> {
    remaining: StepBy<Range<usize>>,
    /// Batches handed out.
    given: usize,
    make: Make<T>,
    /// Empty when batches are made on demand.
    workers: Vec<Worker<T>>,
}

impl<T: Send + 'static> Prefetch<T> {
    pub(crate) fn new(range: StepBy<Range<usize>>, workers: usize, make: Make<T>) -> Self {
        let workers = workers.min(range.len());
        let start = |k| Worker::start(range.clone().skip(k).step_by(workers), make.clone());
        let workers = (0..workers).map(start).collect();
        Self { remaining: range, given: 0, make, workers }
    }
}

impl<T> Iterator for Prefetch<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.remaining.next()?;
        if self.workers.is_empty() {
            return Some(Ok((self.make)(batch)));
        }
        let turn = self.given % self.workers.len();
        self.given += 1;
        let result = self.workers[turn].receive(batch);
        if result.is_err() {
            self.remaining = (0..0).step_by(1);
        }
        Some(result)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.remaining.size_hint()
    }
}

struct Worker<T> {
    /// `None` once closed, which ends the thread at its next batch.
    queue: Option<Receiver<T>>,
    thread: Option<io::Result<JoinHandle<()>>>,
}

impl<T: Send + 'static> Worker<T> {
    fn start(batches: impl Iterator<Item = usize> + Send + 'static, make: Make<T>) -> Self {
        let (sender, receiver) = sync_channel(QUEUE);
        let work = move || {
            for batch in batches {
                if sender.send(make(batch)).is_err() {
                    return;
                }
            }
        };
        let thread = Builder::new().name("loader".into()).spawn(work);
        Self { queue: Some(receiver), thread: Some(thread) }
    }
}

impl<T> Worker<T> {
    fn receive(&mut self, batch: usize) -> Result<T> {
        let received = self.queue.as_ref().and_then(|queue| queue.recv().ok());
        received.ok_or_else(|| Error::Worker { batch, problem: self.end() })
    }

    /// Closes the queue, waits for the thread, and says how it ended.
    fn end(&mut self) -> String {
        self.queue = None;
        match self.thread.take() {
            Some(Err(e)) => format!("could not be started: {e}"),
            Some(Ok(thread)) => match thread.join() {
                Err(panic) => format!("panicked: {}", message(panic.as_ref())),
                Ok(()) => "ended early".into(),
            },
            None => "ended before".into(),
        }
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.end();
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    #[test]
    fn a_panic_surfaces_as_an_error_after_the_batches_before_it() {
        let make = |i: usize| if i == 5 { panic!("no batch {i}") } else { i };
        for workers in 1..=3 {
            let mut batches = Prefetch::new((2..9).step_by(1), workers, Arc::new(make));
            let before: Vec<usize> = batches.by_ref().take(3).map(Result::unwrap).collect();
            assert_eq!(before, [2, 3, 4]);
            let error = batches.next().unwrap().unwrap_err().to_string();
            assert!(error.contains("batch 5") && error.contains("panicked: no batch 5"), "{error}");
            assert!(batches.next().is_none());
        }
    }

    #[test]
    fn dropping_ends_the_threads() {
        let alive = Arc::new(());
        let held = alive.clone();
        let make: Make<usize> = Arc::new(move |i| {
            let _held = &held;
            i
        });
        let mut batches = Prefetch::new((0..1_000_000).step_by(1), 3, make);
        assert_eq!(batches.next().unwrap().unwrap(), 0);
        drop(batches);
        // Each thread owned the closure and with it `held`; the joins in `drop` released them all.
        assert_eq!(Arc::strong_count(&alive), 1);
    }

    #[test]
    fn queues_are_bounded() {
        let made = Arc::new(AtomicUsize::new(0));
        let counter = made.clone();
        let make: Make<usize> = Arc::new(move |_| counter.fetch_add(1, SeqCst));
        let batches = Prefetch::new((0..1000).step_by(1), 2, make);
        // Each of the two threads fills its queue and holds one more batch in hand.
        let limit = 2 * (QUEUE + 1);
        while made.load(SeqCst) < limit {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(made.load(SeqCst), limit);
        drop(batches);
    }
}
