//! Feature `lapack`: the metric factored by the system's OpenBLAS is the one nalgebra factors.
//!
//! Run with `OPENBLAS_NUM_THREADS=1 cargo test -p rto --features lapack --test lapack`.

use nalgebra::{Cholesky, DMatrix, DVector};
use ndarray::{Array1, Array2};
use ndarray_linalg::{FactorizeC, SolveC, UPLO};
use rand::Rng;
use rto::estimate::{Design, Metric, lapack_cholesky};
use rto::seed::SeedTree;

const RELATIVE: f64 = 1e-10;

fn design(n: usize, d: usize) -> Design {
    let mut rng = SeedTree::new(d as u64).child("rows").rng();
    let rows = (0..n * d).map(|_| rng.random_range(-1.0..1.0)).collect();
    Design::try_new(d, rows).unwrap()
}

#[track_caller]
fn agree<'a>(
    what: &str,
    got: impl IntoIterator<Item = &'a f64>,
    want: impl IntoIterator<Item = &'a f64>,
) {
    let (got, want): (DVector<f64>, DVector<f64>) = (
        DVector::from_vec(got.into_iter().copied().collect()),
        DVector::from_vec(want.into_iter().copied().collect()),
    );
    let error = (&got - &want).norm() / want.norm();
    assert!(error <= RELATIVE, "{what}: relative error {error:e}");
}

#[test]
fn factors_and_solutions_agree_with_nalgebra() {
    for d in [3, 64, 300] {
        let metric = Metric::sigma_d(&design(4 * d, d), 0.5).unwrap();
        let plain = Cholesky::new(metric.matrix().clone()).unwrap();
        let factor = lapack_cholesky(metric.matrix()).unwrap();
        agree("L", factor.l().iter(), plain.l().iter());
        let v: Vec<f64> = (0..d).map(|i| (1.7 * i as f64 + 0.2).sin()).collect();
        let x = plain.solve(&DVector::from_column_slice(&v));
        agree("metric.solve", &metric.solve(&v), x.iter());
        agree(
            "factor.solve",
            factor.solve(&DVector::from_column_slice(&v)).iter(),
            x.iter(),
        );
        // LAPACK's own solve, from the matrix alone.
        let matrix = Array2::from_shape_fn((d, d), |(i, j)| metric.matrix()[(i, j)]);
        let factored = matrix.factorizec(UPLO::Lower).unwrap();
        let theirs = factored.solvec(&Array1::from_vec(v.clone())).unwrap();
        agree("dpotrs", theirs.iter(), x.iter());
        agree("log det", &[metric.log_det()], &[plain.ln_determinant()]);
        let norm = metric.inverse_norm(&v).powi(2);
        let want: f64 = x.iter().zip(&v).map(|(x, v)| x * v).sum();
        agree("inverse norm", &[norm], &[want]);
    }
}

#[test]
fn rank_one_updates_go_on_from_the_factor() {
    let data = design(40, 300);
    let mut grown = Metric::sigma_d(&Design::try_new(300, Vec::new()).unwrap(), 1.0).unwrap();
    for i in 0..data.n() {
        grown.add_row(data.row(i)).unwrap();
    }
    let whole = Metric::sigma_d(&data, 1.0).unwrap();
    agree("log det", &[grown.log_det()], &[whole.log_det()]);
    let v: Vec<f64> = (0..300).map(|i| (0.3 * i as f64).cos()).collect();
    agree("solve", &grown.solve(&v), &whole.solve(&v));
}

#[test]
fn what_has_no_factor_is_refused() {
    let mut matrix = DMatrix::identity(300, 300);
    matrix[(7, 7)] = -1.0;
    assert!(lapack_cholesky(&matrix).is_err());
    matrix[(7, 7)] = f64::NAN;
    assert!(lapack_cholesky(&matrix).is_err());
    assert!(lapack_cholesky(&DMatrix::zeros(2, 3)).is_err());
}
