//! Matrix products of strided `f32` views: the one door to the `gemm` crate, checked at its sill; and, where they are asked for, of factors
//! rounded to bf16.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod bf16;

/// A read-only matrix over a slice.
#[derive(Debug, Clone, Copy)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// Row-major, rows next to one another.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Row-major with `row_stride` elements between the starts of rows.
    ///
    /// # Panics
    /// Where the slice does not hold the matrix.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            extent(rows, cols, row_stride) <= data.len(),
            "matrix beyond its slice"
        );
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// The transpose, without moving anything.
    #[must_use]
    pub fn t(self) -> Self {
        Self {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }
}

/// A writable row-major matrix over a slice.
#[derive(Debug)]
pub struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> MatMut<'a> {
    /// Row-major, rows next to one another.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Row-major with `row_stride` elements between the starts of rows.
    ///
    /// # Panics
    /// Where the slice does not hold the matrix, or rows overlap.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            extent(rows, cols, row_stride) <= data.len(),
            "matrix beyond its slice"
        );
        assert!(rows < 2 || row_stride >= cols, "rows overlap");
        Self {
            data,
            rows,
            cols,
            row_stride,
        }
    }
}

/// Elements from the first of a matrix to one past its last.
fn extent(rows: usize, cols: usize, row_stride: usize) -> usize {
    if rows == 0 || cols == 0 {
        return 0;
    }
    let last = (rows - 1)
        .checked_mul(row_stride)
        .and_then(|start| start.checked_add(cols));
    last.expect("a matrix that fits the address space")
}

/// What becomes of the destination's old content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// The old content is overwritten.
    Set,
    /// The product is added to the old content.
    Add,
}

/// What the factors of a product are rounded to before they are multiplied; sums are f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Products {
    /// Nothing: `f32`.
    #[default]
    F32,
    /// bf16, where the processor multiplies it ([`Products::available`]): an element is within about `2⁻⁸ Σ_k |a_ik b_kj|` of the exact one.
    Bf16,
}

impl Products {
    /// Whether this processor has such products: for bf16 the instructions `avx512_bf16`.
    pub fn available(self) -> bool {
        match self {
            Self::F32 => true,
            #[cfg(target_arch = "x86_64")]
            Self::Bf16 => bf16::available(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Bf16 => false,
        }
    }
}

/// `dst = a b` or `dst += a b` in products of the given kind, on the calling thread.
///
/// # Panics
/// Where the shapes do not fit, or the processor has no such products.
pub fn product(products: Products, dst: MatMut<'_>, update: Update, a: Mat<'_>, b: Mat<'_>) {
    if products == Products::F32 {
        return gemm(dst, update, 1.0, a, b);
    }
    assert_eq!(
        (dst.rows, dst.cols, a.cols),
        (a.rows, b.cols, b.rows),
        "shapes of a product"
    );
    #[cfg(target_arch = "x86_64")]
    bf16::gemm(dst, update, a, b);
    #[cfg(not(target_arch = "x86_64"))]
    panic!("bf16 products were asked for where there are none");
}

/// `dst = scale · a b` or `dst += scale · a b`, on the calling thread.
///
/// # Panics
/// Where the shapes do not fit.
pub fn gemm(dst: MatMut<'_>, update: Update, scale: f32, a: Mat<'_>, b: Mat<'_>) {
    assert_eq!(
        (dst.rows, dst.cols, a.cols),
        (a.rows, b.cols, b.rows),
        "shapes of a product"
    );
    let stride = |s: usize| isize::try_from(s).expect("a stride within a slice");
    // SAFETY: the constructors checked that every element of the three matrices lies within its slice, `dst` is
    // borrowed mutably (so it overlaps neither operand), and its rows are disjoint. The strides are those checked.
    unsafe {
        gemm::gemm(
            dst.rows,
            dst.cols,
            a.cols,
            dst.data.as_mut_ptr(),
            1,
            stride(dst.row_stride),
            update == Update::Add,
            a.data.as_ptr(),
            stride(a.col_stride),
            stride(a.row_stride),
            b.data.as_ptr(),
            stride(b.col_stride),
            stride(b.row_stride),
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Asks for the line of memory `ahead` bytes after the start of `place`, which need not be there, before it is read. A hint: nothing is changed by it.
#[inline(always)]
pub(crate) fn fetch<T>(place: &T, ahead: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let at = std::ptr::from_ref(place).cast::<i8>().wrapping_add(ahead);
        // SAFETY: a prefetch reads no memory that the program sees, and faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (place, ahead);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_strided_and_transposed_views() {
        let a: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let mut out = vec![1.0; 6];
        // [2, 3] out of rows of four, times its own transpose.
        let view = Mat::strided(&a, 2, 3, 4);
        gemm(
            MatMut::strided(&mut out, 2, 2, 3),
            Update::Add,
            0.5,
            view,
            view.t(),
        );
        // 0·4 + 1·5 + 2·6 = 17, halved and added to 1.
        assert_eq!(out, [3.5, 9.5, 1.0, 9.5, 39.5, 1.0]);
    }

    #[test]
    #[should_panic(expected = "beyond its slice")]
    fn a_matrix_must_fit_its_slice() {
        let _ = Mat::strided(&[0.0; 7], 2, 4, 4);
    }

    #[test]
    #[should_panic(expected = "shapes of a product")]
    fn shapes_must_fit() {
        gemm(
            MatMut::new(&mut [0.0; 4], 2, 2),
            Update::Set,
            1.0,
            Mat::new(&[0.0; 6], 2, 3),
            Mat::new(&[0.0; 4], 2, 2),
        );
    }
}
