//! ψ(τ) of many responses where few of its d entries are not 0, as counts of tokens are.

use crate::check;
use crate::{Error, Result};

/// Section 4.1: Rows of ψ(τ), `[n, d]`, in compressed form (CSR): row i has the entries `values[indptr[i]..indptr[i + 1]]` in the
/// columns `indices[indptr[i]..indptr[i + 1]]`, which increase; all others are 0.
///
/// ```
/// use rto::features::SparseRows;
///
/// let counts = SparseRows::counts(4, &[vec![3, 0, 3], vec![1]])?; // d = 4 tokens
/// assert_eq!(counts.row(0).collect::<Vec<_>>(), [(0, 1.0), (3, 2.0)]);
/// let same = SparseRows::try_new(4, vec![0, 2, 3], vec![0, 3, 1], vec![1.0, 2.0, 1.0])?;
/// assert_eq!(counts, same);
/// # Ok::<(), rto::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct SparseRows {
    dim: usize,
    indptr: Vec<usize>,
    indices: Vec<u32>,
    values: Vec<f64>,
}

impl SparseRows {
    /// From the three arrays of CSR, as SciPy's `csr_matrix` has them (`indptr`, `indices`, `data`). Entries that are 0 are dropped.
    ///
    /// # Errors
    /// [`Error::Config`] when d is 0 or above 2³² − 1, or where `indptr` does not begin with 0, decreases or does not end with the
    /// number of indices, or an index is not below d, repeated or out of order; [`Error::Shape`] on lengths; [`Error::NonFinite`].
    /// Each names the entry.
    pub fn try_new(
        dim: usize,
        indptr: Vec<usize>,
        indices: Vec<u32>,
        values: Vec<f64>,
    ) -> Result<Self> {
        if dim == 0 || dim > u32::MAX as usize {
            return Err(Error::config(
                "feature dimension",
                dim,
                "from 1 to 2^32 - 1",
            ));
        }
        check::len(
            "values (one for each of indices)",
            indices.len(),
            values.len(),
        )?;
        if indptr.first() != Some(&0) {
            let found = indptr.first().map_or("nothing".into(), |f| f.to_string());
            return Err(Error::config("indptr[0]", found, "0"));
        }
        for (i, ends) in indptr.windows(2).enumerate() {
            if ends[1] < ends[0] || ends[1] > indices.len() {
                return Err(Error::config(
                    format!("indptr[{}]", i + 1),
                    ends[1],
                    format!(
                        "from {} to {}, the number of indices",
                        ends[0],
                        indices.len()
                    ),
                ));
            }
        }
        let last = indptr.len() - 1;
        if indptr[last] != indices.len() {
            let must = format!("{}, the number of indices", indices.len());
            return Err(Error::config(format!("indptr[{last}]"), indptr[last], must));
        }
        for (row, ends) in indptr.windows(2).enumerate() {
            for e in ends[0]..ends[1] {
                let (column, wrong) = (indices[e], |must: String| {
                    Error::config(format!("indices[{e}] (row {row})"), indices[e], must)
                });
                if column as usize >= dim {
                    return Err(wrong(format!("below d = {dim}")));
                }
                if e > ends[0] && column <= indices[e - 1] {
                    let before = indices[e - 1];
                    return Err(wrong(format!(
                        "above {before}, the index before it in the row"
                    )));
                }
                if !values[e].is_finite() {
                    return Err(Error::NonFinite {
                        what: format!("values[{e}] (row {row}, column {column})"),
                        value: values[e],
                    });
                }
            }
        }
        let mut out = Self {
            dim,
            indptr,
            indices,
            values,
        };
        out.drop_zeros();
        Ok(out)
    }

    /// How often each of d tokens occurs in each response: ψ of φ(s, a) = e_a.
    ///
    /// # Errors
    /// [`Error::Config`] on d = 0 and on a token that is not below d.
    pub fn counts(dim: usize, responses: &[Vec<u32>]) -> Result<Self> {
        let mut out = Self::empty(dim);
        for (i, response) in responses.iter().enumerate() {
            if let Some((h, token)) = response
                .iter()
                .enumerate()
                .find(|(_, t)| **t as usize >= dim)
            {
                let field = format!("responses[{i}][{h}]");
                return Err(Error::config(
                    field,
                    token,
                    format!("a token below d = {dim}"),
                ));
            }
            let mut sorted = response.clone();
            sorted.sort_unstable();
            let runs = sorted.chunk_by(|a, b| a == b);
            out.push(runs.map(|run| (run[0], run.len() as f64)));
        }
        Self::try_new(dim, out.indptr, out.indices, out.values)
    }

    /// The rows of a dense `[n, d]`.
    ///
    /// # Errors
    /// As [`Self::try_new`].
    pub fn from_dense(dim: usize, rows: &[f64]) -> Result<Self> {
        check::len("rows", rows.len() / dim.max(1) * dim.max(1), rows.len())?;
        let mut out = Self::empty(dim);
        for x in rows.chunks_exact(dim.max(1)) {
            out.push(x.iter().enumerate().map(|(k, x)| (k as u32, *x)));
        }
        Self::try_new(dim, out.indptr, out.indices, out.values)
    }

    pub(crate) fn empty(dim: usize) -> Self {
        Self {
            dim,
            indptr: vec![0],
            indices: Vec::new(),
            values: Vec::new(),
        }
    }

    /// One more row, its columns in order; what is 0 is left out.
    pub(crate) fn push(&mut self, row: impl Iterator<Item = (u32, f64)>) {
        for (k, x) in row {
            if x != 0.0 {
                self.indices.push(k);
                self.values.push(x);
            }
        }
        self.indptr.push(self.indices.len());
    }

    fn drop_zeros(&mut self) {
        if self.values.iter().all(|x| *x != 0.0) {
            return;
        }
        let mut out = Self::empty(self.dim);
        for i in 0..self.n() {
            out.push(self.row(i));
        }
        *self = out;
    }

    /// Row i times `factors[i]`.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there is a factor for each row; [`Error::NonFinite`].
    pub fn scaled(mut self, factors: &[f64]) -> Result<Self> {
        check::len("factors", self.n(), factors.len())?;
        for (i, factor) in factors.iter().enumerate() {
            let (_, values) = self.values_mut(i);
            values.iter_mut().for_each(|x| *x *= factor);
        }
        Self::try_new(self.dim, self.indptr, self.indices, self.values)
    }

    /// n.
    pub fn n(&self) -> usize {
        self.indptr.len() - 1
    }

    /// d.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How many entries are not 0.
    pub fn entries(&self) -> usize {
        self.values.len()
    }

    /// The columns and values of row i that are not 0, in order.
    pub fn row(&self, i: usize) -> impl Iterator<Item = (u32, f64)> + Clone + '_ {
        let (indices, values) = self.slices(i);
        indices.iter().copied().zip(values.iter().copied())
    }

    /// Columns and values of row i.
    #[inline]
    pub(crate) fn slices(&self, i: usize) -> (&[u32], &[f64]) {
        let of = self.indptr[i]..self.indptr[i + 1];
        (&self.indices[of.clone()], &self.values[of])
    }

    pub(crate) fn values_mut(&mut self, i: usize) -> (&[u32], &mut [f64]) {
        let of = self.indptr[i]..self.indptr[i + 1];
        (&self.indices[of.clone()], &mut self.values[of])
    }

    /// Rows as they are in `[n, d]`.
    pub fn to_dense(&self) -> Vec<f64> {
        self.dense(0..self.n())
    }

    /// Some rows, one after the other.
    pub(crate) fn dense(&self, rows: std::ops::Range<usize>) -> Vec<f64> {
        let mut out = vec![0.0; rows.len() * self.dim];
        for (i, out) in rows.zip(out.chunks_exact_mut(self.dim)) {
            for (k, x) in self.row(i) {
                out[k as usize] = x;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slip_is_named() {
        let said = |d, p: &[usize], i: &[u32], v: &[f64]| {
            let made = SparseRows::try_new(d, p.to_vec(), i.to_vec(), v.to_vec());
            made.unwrap_err().to_string()
        };
        let one = [1.0, 1.0];
        assert_eq!(
            said(0, &[0], &[], &[]),
            "feature dimension: found 0, must be from 1 to 2^32 - 1"
        );
        assert_eq!(
            said(3, &[], &[], &[]),
            "indptr[0]: found nothing, must be 0"
        );
        assert_eq!(
            said(3, &[1, 2], &[0, 1], &one),
            "indptr[0]: found 1, must be 0"
        );
        assert_eq!(
            said(3, &[0, 2, 1, 2], &[0, 1], &one),
            "indptr[2]: found 1, must be from 2 to 2, the number of indices"
        );
        assert_eq!(
            said(3, &[0, 7], &[0, 1], &one),
            "indptr[1]: found 7, must be from 0 to 2, the number of indices"
        );
        assert_eq!(
            said(3, &[0, 1], &[0, 1], &one),
            "indptr[1]: found 1, must be 2, the number of indices"
        );
        assert_eq!(
            said(3, &[0, 0, 2], &[0, 3], &one),
            "indices[1] (row 1): found 3, must be below d = 3"
        );
        assert_eq!(
            said(3, &[0, 2], &[1, 1], &one),
            "indices[1] (row 0): found 1, must be above 1, the index before it in the row"
        );
        assert_eq!(
            said(3, &[0, 2], &[2, 0], &one),
            "indices[1] (row 0): found 0, must be above 2, the index before it in the row"
        );
        assert_eq!(
            said(3, &[0, 2], &[0, 2], &[1.0, f64::NAN]),
            "values[1] (row 0, column 2) is not finite (found NaN)"
        );
        assert_eq!(
            said(3, &[0, 2], &[0, 2], &[1.0]),
            "values (one for each of indices): expected 2 values, got 1"
        );
        let error = SparseRows::counts(3, &[vec![0], vec![1, 3]]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "responses[1][1]: found 3, must be a token below d = 3"
        );
    }

    #[test]
    fn dense_rows_come_back_without_their_zeros() {
        let dense = [0.0, 2.0, 0.0, -1.0, 0.0, 0.5, 0.0, 0.0, 0.0];
        let rows = SparseRows::from_dense(3, &dense).unwrap();
        assert_eq!((rows.n(), rows.entries()), (3, 3));
        assert_eq!(rows.to_dense(), dense);
        let padded = SparseRows::try_new(
            3,
            vec![0, 2, 4, 4],
            vec![0, 1, 0, 2],
            vec![0.0, 2.0, -1.0, 0.5],
        );
        assert_eq!(padded.unwrap(), rows);
    }
}
