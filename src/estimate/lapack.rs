//! Cholesky factors by LAPACK (feature `lapack`), for dimensions where they beat nalgebra's.
//!
//! The system's OpenBLAS is used. It starts one thread per core for every call unless the environment says
//! `OPENBLAS_NUM_THREADS=1`, and those threads fight with the ones of rayon: set it.

use nalgebra::{Cholesky, DMatrix, Dyn};
use ndarray::ArrayView2;
use ndarray_linalg::{Cholesky as _, UPLO};

use crate::check;
use crate::{Error, Result};

/// From this d on LAPACK is faster than nalgebra (5.4 against 7.4 ms at d = 512, slower at d = 64).
pub(crate) const FROM_DIM: usize = 256;

/// L with M = LLᵀ for a symmetric positive definite M, `[d, d]`, by LAPACK's `dpotrf`. Only one triangle
/// of M is read.
///
/// # Errors
/// [`Error::Shape`] unless M is square; [`Error::NonFinite`] unless it is positive definite.
pub fn lapack_cholesky(matrix: &DMatrix<f64>) -> Result<Cholesky<f64, Dyn>> {
    let d = matrix.nrows();
    check::len("columns of a square matrix", d, matrix.ncols())?;
    // nalgebra stores columns, ndarray rows: the view is Mᵀ, and M = Mᵀ = UᵀU has L = Uᵀ.
    let transposed = ArrayView2::from_shape((d, d), matrix.as_slice())
        .expect("a square matrix of d times d values");
    let refused = |value| Error::NonFinite {
        what: "Cholesky factor by LAPACK".into(),
        value,
    };
    let upper = transposed
        .cholesky(UPLO::Upper)
        .map_err(|_| refused(f64::NAN))?;
    // OpenBLAS lets NaN through.
    if let Some(pivot) = upper.diag().iter().find(|x| !(x.is_finite() && **x > 0.0)) {
        return Err(refused(*pivot));
    }
    let lower = DMatrix::from_fn(d, d, |i, j| upper[[j, i]]);
    Ok(Cholesky::pack_dirty(lower))
}
