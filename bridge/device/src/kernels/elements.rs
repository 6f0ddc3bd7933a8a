//! Element by element: sums, roundings, copies.

use super::{Kernels, int};
use crate::Result;
use crate::buffer::{Buffer, Element};
use crate::source::Arg;

/// Rows of `width` elements, `stride` apart, that a buffer of `len` elements holds, and the length it must have.
pub(super) fn spread(len: usize, width: usize, stride: usize) -> (usize, usize) {
    let stride = stride.max(width).max(1);
    let rows = match len < width || width == 0 {
        true => 0,
        false => (len - width) / stride + 1,
    };
    (
        rows,
        rows.saturating_sub(1) * stride + width.min(rows * width),
    )
}

impl Kernels<'_> {
    /// `y += x`.
    ///
    /// # Errors
    /// [`Error::Buffer`](crate::Error::Buffer) where lengths or types differ (as in every method here); what the device reports.
    pub fn add(&self, y: &Buffer, x: &Buffer) -> Result<()> {
        let (n, real) = (y.len(), self.real.element());
        self.need("add", &[(y, real, n, "y"), (x, real, n, "x")])?;
        let args = [Arg::Out(y), Arg::In(x), Arg::I64(n as i64)];
        self.run("add", self.over(n), 0, &args)
    }

    /// `y [rows, width] += bias [width]` on every row; rows are `stride` elements apart, and `y` ends with the last one.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn add_bias(&self, y: &Buffer, bias: &Buffer, stride: usize) -> Result<()> {
        let (width, real) = (bias.len(), self.real.element());
        let (rows, used) = spread(y.len(), width, stride);
        self.need("add_bias", &[(y, real, used, "y")])?;
        self.need("add_bias", &[(bias, real, width, "bias")])?;
        let n = rows * width;
        let args = [
            Arg::Out(y),
            Arg::In(bias),
            Arg::I64(n as i64),
            int(width),
            int(stride),
        ];
        self.run("add_bias", self.over(n), 0, &args)
    }

    /// `y = x`, rounded to the type of weights.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn narrow(&self, x: &Buffer, y: &Buffer) -> Result<()> {
        let n = x.len();
        let needs = [(x, Element::F32, n, "x"), (y, self.real.element(), n, "y")];
        self.need("narrow", &needs)?;
        let args = [Arg::In(x), Arg::Out(y), Arg::I64(n as i64)];
        self.run("narrow", self.over(n), 0, &args)
    }

    /// `x = 0`.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn clear(&self, x: &Buffer) -> Result<()> {
        let n = x.len();
        self.need("clear", &[(x, Element::F32, n, "x")])?;
        self.run("clear", self.over(n), 0, &[Arg::Out(x), Arg::I64(n as i64)])
    }

    /// `x = c tanh(x/c)`.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn cap_all(&self, x: &Buffer, cap: f32) -> Result<()> {
        let n = x.len();
        self.need("cap_all", &[(x, Element::F32, n, "x")])?;
        let args = [Arg::Out(x), Arg::I64(n as i64), Arg::F32(cap)];
        self.run("cap_all", self.over(n), 0, &args)
    }

    /// The rows of `from` that `index` names, `to [index, width]`; zeros for [`NO_ROW`](crate::NO_ROW).
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn gather_rows(&self, from: &Buffer, index: &Buffer, to: &Buffer) -> Result<()> {
        let (rows, real) = (index.len(), self.real.element());
        let width = to.len() / rows.max(1);
        let needs = [
            (from, real, from.len() / width.max(1) * width, "from"),
            (index, Element::U32, rows, "index"),
            (to, real, rows * width, "to"),
        ];
        self.need("gather_rows", &needs)?;
        let args = [Arg::In(from), Arg::In(index), Arg::Out(to), int(width)];
        self.run("gather_rows", [rows, 1], 0, &args)
    }

    /// Copies `pieces[0]` pieces of `pieces[1]` elements of every one of `rows` rows; `[row, step]` are the distances of rows and of
    /// pieces within a row. Each buffer begins at its first element and ends with its last.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn regroup(
        &self,
        rows: usize,
        [pieces, width]: [usize; 2],
        (from, from_steps): (&Buffer, [usize; 2]),
        (to, to_steps): (&Buffer, [usize; 2]),
    ) -> Result<()> {
        let real = self.real.element();
        let n = rows * pieces * width;
        let used = |[row, step]: [usize; 2]| match n {
            0 => 0,
            _ => (rows - 1) * row + (pieces - 1) * step + width,
        };
        let needs = [
            (from, real, used(from_steps), "from"),
            (to, real, used(to_steps), "to"),
        ];
        self.need("regroup", &needs)?;
        let args = [
            Arg::In(from),
            Arg::Out(to),
            Arg::I64(n as i64),
            int(pieces),
            int(width),
            int(from_steps[0]),
            int(from_steps[1]),
            int(to_steps[0]),
            int(to_steps[1]),
        ];
        self.run("regroup", self.over(n), 0, &args)
    }
}
