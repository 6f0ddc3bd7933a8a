//! How processes that train one network speak with each other: engines that carry bytes, and no arithmetic.
//!
//! A reduction of an engine's own (`MPI_Allreduce`, `ncclAllReduce`) adds in an order that depends on the number of ranks, on the
//! message's length and on the wires between them. Here engines only move bytes, and whoever adds does it in an order of its own
//! ([`crate::learner::Ranks`]), so the same run gives the same bits on any number of ranks.
//!
//! | engine | between | needs |
//! |---|---|---|
//! | [`Solo`] | one process | nothing |
//! | [`Threads`] | threads of one process, for tests and trials | nothing |
//! | `Mpi` | processes of one or many machines, started by `mpirun` or `srun` | feature `mpi`: an MPI library and libclang at build time |
//! | `Nccl` | processes with a GPU each, which meet through another engine or a file | feature `nccl`: CUDA and NCCL |
//!
//! Every rank makes the same calls in the same order, each with what is its own. A rank that cannot go on calls
//! [`Collective::abort`]: the others would wait for it for ever.

#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;
mod threads;

#[cfg(feature = "mpi")]
pub use mpi::Mpi;
#[cfg(feature = "nccl")]
pub use nccl::Nccl;
pub use threads::Threads;

use std::borrow::Cow;
use std::fmt::Debug;
use std::time::Duration;

use crate::Result;

/// An engine that carries bytes between ranks, numbered from 0.
pub trait Collective: Debug + Send + Sync {
    /// The number of this rank, below [`Collective::size`].
    fn rank(&self) -> usize;

    /// How many ranks there are, at least 1.
    fn size(&self) -> usize;

    /// Gives `parts[r]` to rank r and returns what each rank gave to this one, in order of rank. Lengths are free.
    ///
    /// # Errors
    /// [`crate::Error::Request`] for another number of parts than of ranks, and where another rank is lost.
    fn exchange(&self, parts: &[&[u8]]) -> Result<Vec<Vec<u8>>>;

    /// What every rank gave, in order of rank, on every rank. Lengths are free.
    ///
    /// # Errors
    /// As [`Collective::exchange`].
    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// What every rank gave, in order of rank, on rank 0; empty parts elsewhere.
    ///
    /// # Errors
    /// As [`Collective::exchange`].
    fn gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut parts = vec![&[][..]; self.size()];
        parts[0] = mine;
        self.exchange(&parts)
    }

    /// Returns once every rank has called it.
    ///
    /// # Errors
    /// As [`Collective::exchange`].
    fn barrier(&self) -> Result<()> {
        self.all_gather(&[]).map(drop)
    }

    /// Ends the whole job, on every rank, with an exit status that is no success. What went wrong was said before.
    fn abort(&self) -> !;
}

/// How long a rank waits before it says an error that others may say too: the first not at all, the others longer and longer, for one
/// line is enough and whoever has said it ends the job.
pub fn speaks_after(rank: usize) -> Duration {
    match rank {
        0 => Duration::ZERO,
        rank => Duration::from_millis((1750 + 250 * rank as u64).min(6000)),
    }
}

/// One process: what it gives is what it gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Solo;

impl Collective for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn exchange(&self, parts: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        check_parts(parts, 1)?;
        Ok(parts.iter().map(|part| part.to_vec()).collect())
    }

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![mine.to_vec()])
    }

    fn abort(&self) -> ! {
        std::process::exit(1)
    }
}

/// Refuses another number of parts than of ranks.
fn check_parts(parts: &[&[u8]], size: usize) -> Result<()> {
    match parts.len() == size {
        true => Ok(()),
        false => Err(crate::Error::request(
            "parts of an exchange",
            format!(
                "found {}, expected one for each of {size} ranks",
                parts.len()
            ),
        )),
    }
}

/// Numbers of bytes that another rank of this program sent, of machines of one byte order.
pub(crate) fn floats(bytes: &[u8]) -> Cow<'_, [f32]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(values) => Cow::Borrowed(values),
        Err(_) => {
            let one = |b: &[u8]| f32::from_ne_bytes(b.try_into().expect("four bytes"));
            Cow::Owned(bytes.chunks_exact(4).map(one).collect())
        }
    }
}
