//! Stages that need nothing of one another are trained at the same time.
//!
//! Kernels give the same bits on any number of threads, and every stage has streams and files of its own, so no result depends on
//! how many run at once. For small networks it is the better use of the cores: their kernels are too short to be shared out.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::run::stage::Stage;

/// A stage to train.
pub struct Task<'a> {
    pub stage: Stage,
    pub work: Box<dyn FnOnce() -> Result<()> + Send + 'a>,
}

/// The sign to stages that one of them has failed.
#[derive(Debug, Default)]
pub struct Stop(AtomicBool);

impl Stop {
    /// # Errors
    /// An error where another stage has failed; it is that stage's error that is reported.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("stopped, as another stage has failed");
        }
        Ok(())
    }
}

/// Runs every task, at most `jobs` at once with an equal share of the threads each, and tells `finished` of each in turn.
///
/// # Errors
/// The first of a task; the others are stopped, and what has not begun does not begin.
pub fn run(
    tasks: Vec<Task<'_>>,
    jobs: usize,
    stop: &Stop,
    finished: &mut dyn FnMut(Stage, Duration) -> Result<()>,
) -> Result<()> {
    let jobs = jobs.min(tasks.len());
    if jobs <= 1 {
        for task in tasks {
            let start = Instant::now();
            (task.work)()?;
            finished(task.stage, start.elapsed())?;
        }
        return Ok(());
    }
    let share = (rayon::current_num_threads() / jobs).max(1);
    let queue = Mutex::new(VecDeque::from(tasks));
    let (sender, results) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let (queue, sender) = (&queue, sender.clone());
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(share)
                .build()
                .context("the system gives no threads")?;
            scope.spawn(move || {
                let next = || {
                    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                    queue.pop_front()
                };
                while let Some(task) = next() {
                    let start = Instant::now();
                    // A panic must stop the others as an error does.
                    let work = AssertUnwindSafe(|| pool.install(task.work));
                    let done = stop.check().and_then(|()| {
                        let crashed = |_| {
                            Err(anyhow!(
                                "stage {}: ended by a fault of the program",
                                task.stage.name()
                            ))
                        };
                        catch_unwind(work).unwrap_or_else(crashed)
                    });
                    let failed = done.is_err();
                    let sent = sender.send((task.stage, start.elapsed(), done));
                    // Only now: what it stops reports after the cause.
                    if failed {
                        stop.0.store(true, Ordering::Relaxed);
                    }
                    if sent.is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut first = Ok(());
        for (stage, time, done) in results {
            let done = match first.is_ok() {
                true => done.and_then(|()| finished(stage, time)),
                false => continue,
            };
            if done.is_err() {
                stop.0.store(true, Ordering::Relaxed);
                first = done;
            }
        }
        first
    })
}

#[cfg(test)]
mod tests;
