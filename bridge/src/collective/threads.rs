//! Ranks that are threads of one process.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Collective, check_parts};
use crate::{Error, Result};

/// A rank among threads of this process. It shows what a run does on several ranks where no MPI is.
///
/// A rank that is dropped while the others wait for it, by a panic or an error, ends their call with an error.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    board: Arc<Board>,
}

#[derive(Debug)]
struct Board {
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// What is pinned up in this round, `[from][to]`.
    pinned: Vec<Option<Vec<Vec<u8>>>>,
    /// What was taken down, `[to][from]`, until that rank has read it.
    taken: Vec<Option<Vec<Vec<u8>>>>,
    /// A rank that has left.
    lost: Option<usize>,
}

impl Threads {
    /// As many ranks as said, one for each thread.
    pub fn ranks(size: usize) -> Vec<Self> {
        let board = Arc::new(Board {
            size,
            state: Mutex::new(State {
                pinned: vec![None; size],
                taken: vec![None; size],
                lost: None,
            }),
            changed: Condvar::new(),
        });
        let rank = |rank| Self {
            rank,
            board: board.clone(),
        };
        (0..size).map(rank).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.board
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready` gives something.
    fn wait<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> Result<T> {
        let mut state = self.state();
        loop {
            if let Some(found) = ready(&mut state) {
                self.board.changed.notify_all();
                return Ok(found);
            }
            if let Some(lost) = state.lost {
                let why = format!("rank {lost} has left while it was waited for");
                return Err(Error::request(format!("rank {}", self.rank), why));
            }
            let waited = self.board.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.board.size
    }

    fn exchange(&self, parts: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        check_parts(parts, self.board.size)?;
        let mut mine = Some(parts.iter().map(|part| part.to_vec()).collect::<Vec<_>>());
        // What the round before left for this rank was read by it, so its place is free once the round is over.
        self.wait(|state| {
            let free = state.pinned[self.rank].is_none() && state.taken[self.rank].is_none();
            free.then(|| state.pinned[self.rank] = mine.take())
        })?;
        self.wait(|state| {
            let all = state.pinned.iter().all(Option::is_some);
            let read = state.taken.iter().all(Option::is_none);
            if all && read {
                let mut from: Vec<_> = state.pinned.iter_mut().filter_map(Option::take).collect();
                for to in (0..from.len()).rev() {
                    let column = from.iter_mut().filter_map(Vec::pop).collect();
                    state.taken[to] = Some(column);
                }
            }
            state.taken[self.rank].take()
        })
    }

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.exchange(&vec![mine; self.board.size])
    }

    /// Ends this thread; the others get an error at their next call.
    fn abort(&self) -> ! {
        panic!("rank {} has ended the job", self.rank)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.state().lost.get_or_insert(self.rank);
        self.board.changed.notify_all();
    }
}

#[cfg(test)]
mod tests;
