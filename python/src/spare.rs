//! Memory of large tables, used again: fresh pages cost more than planning on them (`benchmarks/speed.py`).

use std::sync::{Mutex, PoisonError};

/// Numbers of a table that is worth keeping, 4 MiB, and of the largest that is kept, 1 GiB.
const WORTH: usize = 1 << 19;
const MOST: usize = 1 << 27;

/// The memory of the last such table that nothing refers to any more.
static SPARE: Mutex<Vec<f64>> = Mutex::new(Vec::new());

/// Memory for `len` numbers of any value, or none.
pub fn take(len: usize) -> Vec<f64> {
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    // A small table in large memory would keep all of it.
    match (len..=2 * len).contains(&spare.capacity()) {
        true => std::mem::take(&mut spare),
        false => Vec::new(),
    }
}

/// Keeps memory that is no longer needed, in the place of what was kept.
pub fn keep(memory: Vec<f64>) {
    if (WORTH..=MOST).contains(&memory.capacity()) {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *spare, memory);
        drop(spare);
        drop(old);
    }
}
