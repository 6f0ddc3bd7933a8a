//! Scratch memory that is used again, so that a step does not pay page faults for its temporaries.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// A shelf of returned buffers; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Pool(Arc<Mutex<Vec<Vec<f32>>>>);

/// A buffer on loan from a [`Pool`]; it goes back when dropped.
#[derive(Debug)]
pub struct Buffer {
    data: Vec<f32>,
    len: usize,
    pool: Pool,
}

impl Pool {
    /// `len` floats of unspecified content.
    pub fn take(&self, len: usize) -> Buffer {
        let fits = |v: &Vec<f32>| v.len() >= len && v.len() <= len + len / 2 + 1024;
        let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let best = (0..shelf.len())
            .filter(|&i| fits(&shelf[i]))
            .min_by_key(|&i| shelf[i].len());
        let data = match best {
            Some(i) => shelf.swap_remove(i),
            None => {
                drop(shelf);
                vec![0.0; size_class(len)]
            }
        };
        Buffer {
            data,
            len,
            pool: self.clone(),
        }
    }

    /// `len` zeros.
    pub fn zeros(&self, len: usize) -> Buffer {
        let mut buffer = self.take(len);
        buffer.fill(0.0);
        buffer
    }

    /// Frees what is not on loan.
    pub fn clear(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// Lengths are rounded up by at most an eighth, so that texts of other lengths find a buffer to use again.
fn size_class(len: usize) -> usize {
    let step = (len.next_power_of_two() / 16).max(16);
    len.div_ceil(step) * step
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.data[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        self.pool
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_buffer_is_lent_again() {
        let pool = Pool::default();
        let mut first = pool.take(1000);
        first.fill(7.0);
        let address = first.as_ptr();
        drop(first);
        let second = pool.take(990);
        assert_eq!((second.as_ptr(), second.len()), (address, 990));
        let third = pool.zeros(990);
        assert_ne!(third.as_ptr(), address);
        assert!(third.iter().all(|&v| v == 0.0));
    }
}
