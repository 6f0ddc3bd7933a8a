//! Norms, and sums over rows.

use super::elements::spread;
use super::{Kernels, SCRATCH, flag, int};
use crate::Result;
use crate::buffer::{Buffer, Element};
use crate::source::Arg;

/// Rows that one thread adds up before the chunks are.
const CHUNK: usize = 256;
impl Kernels<'_> {
    /// `y = (x − μ) r γ + β` for rows as wide as `gain`; `stats [rows, 2]` keeps μ and `r = 1/√(σ² + ε)`.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn layer_norm(
        &self,
        x: &Buffer,
        gain: &Buffer,
        bias: &Buffer,
        y: &Buffer,
        stats: &Buffer,
        epsilon: f32,
    ) -> Result<()> {
        let (width, real) = (gain.len(), self.real.element());
        let rows = x.len() / width.max(1);
        let needs = [
            (x, real, rows * width, "x"),
            (gain, real, width, "gain"),
            (bias, real, width, "bias"),
            (y, real, rows * width, "y"),
            (stats, Element::F32, 2 * rows, "stats"),
        ];
        self.need("layer_norm", &needs)?;
        let args = [
            Arg::In(x),
            Arg::In(gain),
            Arg::In(bias),
            Arg::Out(y),
            Arg::Out(stats),
            int(width),
            Arg::F32(epsilon),
        ];
        self.run("layer_norm", [rows, 1], SCRATCH, &args)
    }

    /// `dx = r (g − mean g − x̂ mean(g x̂))` with `g = dy γ`, `x̂ = (x − μ) r`; added to what `dx` holds if `more`.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn layer_norm_backward(
        &self,
        x: &Buffer,
        stats: &Buffer,
        gain: &Buffer,
        dy: &Buffer,
        dx: &Buffer,
        more: bool,
    ) -> Result<()> {
        let (width, real) = (gain.len(), self.real.element());
        let rows = x.len() / width.max(1);
        let needs = [
            (x, real, rows * width, "x"),
            (stats, Element::F32, 2 * rows, "stats"),
            (gain, real, width, "gain"),
            (dy, real, rows * width, "dy"),
            (dx, real, rows * width, "dx"),
        ];
        self.need("layer_norm_backward", &needs)?;
        let args = [
            Arg::In(x),
            Arg::In(stats),
            Arg::In(gain),
            Arg::In(dy),
            Arg::Out(dx),
            int(width),
            flag(more),
        ];
        self.run("layer_norm_backward", [rows, 1], SCRATCH, &args)
    }

    /// `y = x r (offset + γ)` with `r = 1/√(mean x² + ε)`, which `stats [rows]` keeps; Gemma's offset is 1.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn rms_norm(
        &self,
        x: &Buffer,
        gain: &Buffer,
        y: &Buffer,
        stats: &Buffer,
        epsilon: f32,
        offset: f32,
    ) -> Result<()> {
        let (width, real) = (gain.len(), self.real.element());
        let rows = x.len() / width.max(1);
        let needs = [
            (x, real, rows * width, "x"),
            (gain, real, width, "gain"),
            (y, real, rows * width, "y"),
            (stats, Element::F32, rows, "stats"),
        ];
        self.need("rms_norm", &needs)?;
        let args = [
            Arg::In(x),
            Arg::In(gain),
            Arg::Out(y),
            Arg::Out(stats),
            int(width),
            Arg::F32(epsilon),
            Arg::F32(offset),
        ];
        self.run("rms_norm", [rows, 1], SCRATCH, &args)
    }

    /// `dx = r (g − x̂ mean(g x̂))` with `g = dy (offset + γ)`, `x̂ = x r`; added to what `dx` holds if `more`.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    #[expect(clippy::too_many_arguments, reason = "a norm, its input and gradients")]
    pub fn rms_norm_backward(
        &self,
        x: &Buffer,
        stats: &Buffer,
        gain: &Buffer,
        dy: &Buffer,
        dx: &Buffer,
        offset: f32,
        more: bool,
    ) -> Result<()> {
        let (width, real) = (gain.len(), self.real.element());
        let rows = x.len() / width.max(1);
        let needs = [
            (x, real, rows * width, "x"),
            (stats, Element::F32, rows, "stats"),
            (gain, real, width, "gain"),
            (dy, real, rows * width, "dy"),
            (dx, real, rows * width, "dx"),
        ];
        self.need("rms_norm_backward", &needs)?;
        let args = [
            Arg::In(x),
            Arg::In(stats),
            Arg::In(gain),
            Arg::In(dy),
            Arg::Out(dx),
            int(width),
            Arg::F32(offset),
            flag(more),
        ];
        self.run("rms_norm_backward", [rows, 1], SCRATCH, &args)
    }

    /// Elements that [`Kernels::norm_gain`] and [`Kernels::column_sums`] need to work in.
    pub fn column_scratch(rows: usize, width: usize) -> usize {
        rows.div_ceil(CHUNK) * width
    }

    /// `dγ += Σ_rows dy x̂` with the statistics of a norm: pairs of a layer norm, single numbers of an RMS norm.
    /// `scratch` has [`Kernels::column_scratch`] elements.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn norm_gain(
        &self,
        x: &Buffer,
        stats: &Buffer,
        dy: &Buffer,
        dgain: &Buffer,
        scratch: &Buffer,
    ) -> Result<()> {
        let (width, real) = (dgain.len(), self.real.element());
        let rows = x.len() / width.max(1);
        let centred = stats.len() == 2 * rows;
        let chunks = rows.div_ceil(CHUNK);
        let needs = [
            (x, real, rows * width, "x"),
            (stats, Element::F32, rows << usize::from(centred), "stats"),
            (dy, real, rows * width, "dy"),
            (dgain, Element::F32, width, "dgain"),
            (scratch, Element::F32, chunks * width, "scratch"),
        ];
        self.need("norm_gain", &needs)?;
        let args = [
            Arg::In(x),
            Arg::In(stats),
            Arg::In(dy),
            Arg::Out(scratch),
            int(rows),
            int(width),
            int(CHUNK),
            flag(centred),
        ];
        let [blocks, _] = self.over(width);
        self.run("norm_gain_partial", [blocks, chunks], 0, &args)?;
        self.finish_columns(scratch, dgain, chunks)
    }

    /// `total [width] += Σ_rows dy`: the gradient of a bias. Rows of `dy` are `stride` elements apart, and it ends with the last one;
    /// `scratch` as for [`Kernels::norm_gain`].
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn column_sums(
        &self,
        dy: &Buffer,
        stride: usize,
        total: &Buffer,
        scratch: &Buffer,
    ) -> Result<()> {
        let (width, real) = (total.len(), self.real.element());
        let (rows, used) = spread(dy.len(), width, stride);
        let chunks = rows.div_ceil(CHUNK);
        let needs = [
            (dy, real, used, "dy"),
            (total, Element::F32, width, "total"),
            (scratch, Element::F32, chunks * width, "scratch"),
        ];
        self.need("column_sums", &needs)?;
        let args = [
            Arg::In(dy),
            Arg::Out(scratch),
            int(rows),
            int(width),
            int(CHUNK),
            int(stride),
        ];
        let [blocks, _] = self.over(width);
        self.run("column_sums_partial", [blocks, chunks], 0, &args)?;
        self.finish_columns(scratch, total, chunks)
    }

    fn finish_columns(&self, scratch: &Buffer, total: &Buffer, chunks: usize) -> Result<()> {
        let width = total.len();
        let args = [Arg::In(scratch), Arg::Out(total), int(chunks), int(width)];
        self.run("column_sums_finish", self.over(width), 0, &args)
    }
}
