//! Linear layers and norms of one pass.

use super::description::{Linear, Network, Norm, NormKind};
use super::parameters::{Gradients, Parameters};
use crate::Result;
use crate::buffer::{Buffer, Element};
use crate::device::{Gemm, Matrix};
use crate::kernels::Kernels;

/// What every layer of one pass shares.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub kernels: Kernels<'a>,
    pub network: &'a Network,
    pub parameters: &'a Parameters,
    /// Rows of the stream.
    pub rows: usize,
}

/// Columns of rows within a buffer: `row` elements from one row to the next, from element `at` on.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'b> {
    pub buffer: &'b Buffer,
    pub at: usize,
    pub row: usize,
}

impl<'b> Columns<'b> {
    pub fn whole(buffer: &'b Buffer, row: usize) -> Self {
        Self { buffer, at: 0, row }
    }

    /// The part from the first element of `width` columns to their last.
    pub fn part(&self, rows: usize, width: usize) -> Result<Buffer> {
        let len = match rows {
            0 => 0,
            _ => (rows - 1) * self.row + width,
        };
        self.buffer.part(self.at, len)
    }
}

/// A norm's input and its statistics.
#[derive(Debug)]
pub(crate) struct Normed {
    pub input: Buffer,
    pub stats: Buffer,
}

impl Pass<'_> {
    pub fn alloc(&self, count: usize) -> Result<Buffer> {
        let device = self.kernels.device();
        device.alloc(self.kernels.real().element(), count)
    }

    pub fn copy(&self, x: &Buffer) -> Result<Buffer> {
        let (y, width) = (self.alloc(x.len())?, self.network.width);
        let rows = x.len() / width;
        self.kernels
            .regroup(rows, [1, width], (x, [width, 0]), (&y, [width, 0]))?;
        Ok(y)
    }

    fn gemm(
        &self,
        [m, n, k]: [usize; 3],
        a: Matrix<'_>,
        b: Matrix<'_>,
        c: Matrix<'_>,
        (alpha, beta): (f32, f32),
    ) -> Result<()> {
        self.kernels.device().gemm(&Gemm {
            m,
            n,
            k,
            batch: 1,
            alpha,
            beta,
            a,
            b,
            c,
        })
    }

    /// `y = x Wᵀ + b + s (x Aᵀ) Bᵀ`, added to what y holds where `more`.
    pub fn linear(&self, l: &Linear, x: &Buffer, y: Columns<'_>, more: bool) -> Result<()> {
        let (rows, to) = (self.rows, y.part(self.rows, l.outputs)?);
        let weight = self.parameters.get(&l.weight())?;
        self.gemm(
            [rows, l.outputs, l.inputs],
            Matrix::rows(x, l.inputs),
            Matrix::rows(weight, l.inputs).t(),
            Matrix::rows(&to, y.row),
            (1.0, if more { 1.0 } else { 0.0 }),
        )?;
        if l.bias {
            let bias = self.parameters.get(&l.bias())?;
            self.kernels.add_bias(&to, bias, y.row)?;
        }
        let Some(adapter) = l.adapter else {
            return Ok(());
        };
        let u = self.inside(l, x)?;
        self.gemm(
            [rows, l.outputs, adapter.rank],
            Matrix::rows(&u, adapter.rank),
            Matrix::rows(self.parameters.get(&l.b())?, adapter.rank).t(),
            Matrix::rows(&to, y.row),
            (adapter.scale, 1.0),
        )
    }

    /// `x Aᵀ` of an adapted layer.
    fn inside(&self, l: &Linear, x: &Buffer) -> Result<Buffer> {
        let rank = l.adapter.map_or(0, |a| a.rank);
        let u = self.alloc(self.rows * rank)?;
        self.gemm(
            [self.rows, rank, l.inputs],
            Matrix::rows(x, l.inputs),
            Matrix::rows(self.parameters.get(&l.a())?, l.inputs).t(),
            Matrix::rows(&u, rank),
            (1.0, 0.0),
        )?;
        Ok(u)
    }

    /// `s dy B` of an adapted layer.
    fn pulled(&self, l: &Linear, dy: Matrix<'_>) -> Result<Buffer> {
        let (rank, scale) = l.adapter.map_or((0, 0.0), |a| (a.rank, a.scale));
        let v = self.alloc(self.rows * rank)?;
        let b = Matrix::rows(self.parameters.get(&l.b())?, rank);
        let to = Matrix::rows(&v, rank);
        self.gemm([self.rows, rank, l.outputs], dy, b, to, (scale, 0.0))?;
        Ok(v)
    }

    /// Adds the gradients of a layer's weights, those that are trained.
    pub fn linear_weights_backward(
        &self,
        l: &Linear,
        x: &Buffer,
        dy: Columns<'_>,
        grads: &Gradients,
    ) -> Result<()> {
        let (rows, from) = (self.rows, dy.part(self.rows, l.outputs)?);
        let dy_rows = Matrix::rows(&from, dy.row);
        if let Some(dw) = grads.get(&l.weight())? {
            self.gemm(
                [l.outputs, l.inputs, rows],
                dy_rows.t(),
                Matrix::rows(x, l.inputs),
                Matrix::rows(&dw, l.inputs),
                (1.0, 1.0),
            )?;
        }
        if l.bias
            && let Some(db) = grads.get(&l.bias())?
        {
            self.column_sums(&from, dy.row, &db)?;
        }
        let Some(adapter) = l.adapter else {
            return Ok(());
        };
        if let Some(da) = grads.get(&l.a())? {
            let v = self.pulled(l, dy_rows)?;
            self.gemm(
                [adapter.rank, l.inputs, rows],
                Matrix::rows(&v, adapter.rank).t(),
                Matrix::rows(x, l.inputs),
                Matrix::rows(&da, l.inputs),
                (1.0, 1.0),
            )?;
        }
        if let Some(db) = grads.get(&l.b())? {
            let u = self.inside(l, x)?;
            self.gemm(
                [l.outputs, adapter.rank, rows],
                dy_rows.t(),
                Matrix::rows(&u, adapter.rank),
                Matrix::rows(&db, adapter.rank),
                (adapter.scale, 1.0),
            )?;
        }
        Ok(())
    }

    /// `dx = dy W + (s dy B) A`, added to what dx holds where `more`.
    pub fn linear_input_backward(
        &self,
        l: &Linear,
        dy: Columns<'_>,
        dx: &Buffer,
        more: bool,
    ) -> Result<()> {
        let (rows, from) = (self.rows, dy.part(self.rows, l.outputs)?);
        let dy_rows = Matrix::rows(&from, dy.row);
        let weight = self.parameters.get(&l.weight())?;
        self.gemm(
            [rows, l.inputs, l.outputs],
            dy_rows,
            Matrix::rows(weight, l.inputs),
            Matrix::rows(dx, l.inputs),
            (1.0, if more { 1.0 } else { 0.0 }),
        )?;
        let Some(adapter) = l.adapter else {
            return Ok(());
        };
        let v = self.pulled(l, dy_rows)?;
        self.gemm(
            [rows, l.inputs, adapter.rank],
            Matrix::rows(&v, adapter.rank),
            Matrix::rows(self.parameters.get(&l.a())?, l.inputs),
            Matrix::rows(dx, l.inputs),
            (1.0, 1.0),
        )
    }

    /// Adds the sums over rows of `dy`.
    pub fn column_sums(&self, dy: &Buffer, stride: usize, total: &Buffer) -> Result<()> {
        let rows = dy.len().div_ceil(stride.max(1));
        let scratch = self.column_scratch(rows, total.len())?;
        self.kernels.column_sums(dy, stride, total, &scratch)
    }

    fn column_scratch(&self, rows: usize, width: usize) -> Result<Buffer> {
        let count = Kernels::column_scratch(rows, width);
        self.kernels.device().alloc(Element::F32, count)
    }

    /// A norm of rows of its width, and what its backward pass needs.
    pub fn norm(&self, norm: &Norm, x: &Buffer) -> Result<(Buffer, Buffer)> {
        let (kernels, epsilon) = (&self.kernels, self.network.epsilon);
        let gain = self.parameters.get(&format!("{}.weight", norm.name))?;
        let (y, rows) = (self.alloc(x.len())?, x.len() / norm.width);
        let stats = |n: usize| kernels.device().alloc(Element::F32, n * rows);
        let stats = match self.network.norm {
            NormKind::Layer => {
                let bias = self.parameters.get(&format!("{}.bias", norm.name))?;
                let stats = stats(2)?;
                kernels.layer_norm(x, gain, bias, &y, &stats, epsilon)?;
                stats
            }
            NormKind::Rms { offset } => {
                let stats = stats(1)?;
                kernels.rms_norm(x, gain, &y, &stats, epsilon, offset)?;
                stats
            }
        };
        Ok((y, stats))
    }

    /// The gradient of a norm's input, added to what dx holds where `more`; those of its weights where they are trained.
    pub fn norm_backward(
        &self,
        norm: &Norm,
        kept: (&Buffer, &Buffer),
        dy: &Buffer,
        (dx, more): (&Buffer, bool),
        grads: &Gradients,
    ) -> Result<()> {
        let ((x, stats), kernels) = (kept, &self.kernels);
        let name = format!("{}.weight", norm.name);
        if let Some(dgain) = grads.get(&name)? {
            let scratch = self.column_scratch(x.len() / norm.width, norm.width)?;
            kernels.norm_gain(x, stats, dy, &dgain, &scratch)?;
        }
        let gain = self.parameters.get(&name)?;
        match self.network.norm {
            NormKind::Layer => {
                if let Some(dbias) = grads.get(&format!("{}.bias", norm.name))? {
                    self.column_sums(dy, norm.width, &dbias)?;
                }
                kernels.layer_norm_backward(x, stats, gain, dy, dx, more)
            }
            NormKind::Rms { offset } => {
                kernels.rms_norm_backward(x, stats, gain, dy, dx, offset, more)
            }
        }
    }
}
