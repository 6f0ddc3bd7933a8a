//! What the search for a separating direction asks of the pairs.

use nalgebra::DVector;

use crate::estimate::design::Design;
use crate::estimate::kernels;
use crate::estimate::row_space::column_scales;
use crate::estimate::sparse::SparseDesign;
use crate::features::SparseRows;

/// Rows x_i, `[n, d]`.
pub(in crate::estimate) trait Pairs: Sized {
    fn n(&self) -> usize;
    fn dim(&self) -> usize;
    /// Xθ, θ `[d]`.
    fn margins(&self, theta: &[f64]) -> Vec<f64>;
    fn is_zero(&self, i: usize) -> bool;
    /// Some of the rows.
    fn select(&self, kept: &[usize]) -> Self;
    /// Divides the columns by their lengths, then the rows by theirs, which it returns.
    fn equilibrate(&mut self) -> Vec<f64>;
    /// out += w·x_i.
    fn add(&self, i: usize, w: f64, out: &mut DVector<f64>);
}

impl Pairs for Design {
    fn n(&self) -> usize {
        self.n()
    }

    fn dim(&self) -> usize {
        self.dim()
    }

    fn margins(&self, theta: &[f64]) -> Vec<f64> {
        kernels::margins(self.rows(), self.dim(), theta)
    }

    fn is_zero(&self, i: usize) -> bool {
        self.row(i).iter().all(|x| *x == 0.0)
    }

    fn select(&self, kept: &[usize]) -> Self {
        let rows = kept.iter().flat_map(|&i| self.row(i)).copied().collect();
        Self::with_rounding(self.dim(), rows, self.rounding().to_vec())
    }

    fn equilibrate(&mut self) -> Vec<f64> {
        let d = self.dim();
        let columns = column_scales(self.rows(), d);
        let mut rows = self.rows().to_vec();
        let lengths = rows.chunks_exact_mut(d).map(|x| {
            let seen = x.iter_mut().zip(&columns).filter(|(_, s)| **s > 0.0);
            seen.for_each(|(x, scale)| *x /= scale);
            let length = x.iter().map(|x| x * x).sum::<f64>().sqrt();
            x.iter_mut().for_each(|x| *x /= length);
            length
        });
        let lengths = lengths.collect();
        *self = Self::with_rounding(d, rows, self.rounding().to_vec());
        lengths
    }

    fn add(&self, i: usize, w: f64, out: &mut DVector<f64>) {
        for (o, x) in out.iter_mut().zip(self.row(i)) {
            *o += w * x;
        }
    }
}

impl Pairs for SparseDesign {
    fn n(&self) -> usize {
        self.n()
    }

    fn dim(&self) -> usize {
        self.dim()
    }

    fn margins(&self, theta: &[f64]) -> Vec<f64> {
        super::super::sparse::margins(self.rows(), theta)
    }

    fn is_zero(&self, i: usize) -> bool {
        self.rows().slices(i).0.is_empty()
    }

    fn select(&self, kept: &[usize]) -> Self {
        let mut rows = SparseRows::empty(self.dim());
        kept.iter().for_each(|&i| rows.push(self.rows().row(i)));
        Self::new(rows)
    }

    fn equilibrate(&mut self) -> Vec<f64> {
        let mut rows = self.rows().clone();
        let mut top = vec![0.0f64; rows.dim()];
        let mut squares = top.clone();
        for i in 0..rows.n() {
            rows.row(i)
                .for_each(|(k, x)| top[k as usize] = top[k as usize].max(x.abs()));
        }
        for i in 0..rows.n() {
            for (k, x) in rows.row(i) {
                squares[k as usize] += (x / top[k as usize]).powi(2);
            }
        }
        let mut lengths = Vec::with_capacity(rows.n());
        for i in 0..rows.n() {
            let (indices, values) = rows.values_mut(i);
            for (k, x) in indices.iter().zip(values.iter_mut()) {
                *x /= top[*k as usize] * squares[*k as usize].sqrt();
            }
            let length = values.iter().map(|x| x * x).sum::<f64>().sqrt();
            values.iter_mut().for_each(|x| *x /= length);
            lengths.push(length);
        }
        *self = Self::new(rows);
        lengths
    }

    fn add(&self, i: usize, w: f64, out: &mut DVector<f64>) {
        for (k, x) in self.rows().row(i) {
            out[k as usize] += w * x;
        }
    }
}
