//! The one use of unsafe code here: the same memory as elements of one type or another.
#![allow(unsafe_code)]

use std::cell::Cell;

mod sealed {
    /// Types of which any bits are a value, with no more alignment than eight bytes.
    pub trait Plain: Copy {}
    impl Plain for f32 {}
    impl Plain for f64 {}
    impl Plain for u8 {}
    impl Plain for u16 {}
    impl Plain for u32 {}
}
pub(super) use sealed::Plain;

/// An allocation, in words of eight bytes.
pub(super) struct Block {
    words: Box<[Cell<u64>]>,
    /// Bytes that were asked for.
    pub len: usize,
}

impl Block {
    /// Fresh memory, full of NaN as the emulator's is: what is read before it is written shows.
    pub fn new(len: usize) -> Self {
        const POISON: u64 = 0x7fa1_7fa1_7fa1_7fa1;
        let words = (0..len.div_ceil(8)).map(|_| Cell::new(POISON)).collect();
        Self { words, len }
    }

    /// `len` elements from byte `offset` on. Two such views may overlap: a kernel may read and write one buffer.
    ///
    /// # Panics
    /// Where they leave the allocation or do not lie on a whole number of elements.
    pub fn cells<T: Plain>(&self, offset: usize, len: usize) -> &[Cell<T>] {
        let size = size_of::<T>();
        let end = len.checked_mul(size).and_then(|n| n.checked_add(offset));
        assert!(
            end.is_some_and(|end| end <= self.len) && offset.is_multiple_of(size),
            "a part of an allocation lies within it, on whole elements"
        );
        let first = self.words.as_ptr().cast::<Cell<T>>();
        // SAFETY: the words begin at a multiple of eight bytes, so a whole number of elements behind their start is aligned for T; the
        // assertion keeps `len` elements within the allocation, which lives as long as `self`. All bits are values of T (`Plain`), and
        // memory is only ever seen as cells, which may be shared and changed. Cells are not `Sync`: one thread has them at a time.
        unsafe { std::slice::from_raw_parts(first.add(offset / size), len) }
    }
}
