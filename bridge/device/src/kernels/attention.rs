//! Heads, softmax, activations and embeddings.

use super::{Heads, Kernels, SCRATCH, Scoring, flag, input, int};
use crate::buffer::{Buffer, Element};
use crate::source::Arg;
use crate::{Error, Result};

/// Activations of the MLP, by the number that the kernels know them by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x Φ(x).
    Gelu,
    /// ½ x (1 + tanh(√(2/π)(x + 0.044715 x³))).
    GeluTanh,
    /// x/(1 + e^{−x}).
    Silu,
}

impl Activation {
    fn number(self) -> Arg<'static> {
        Arg::I32(self as i32)
    }
}

/// Texts of a batch: where each begins, and how long the padded ones are.
#[derive(Debug, Clone, Copy)]
pub struct Texts<'a> {
    /// `[texts + 1]`, the last entry the number of all tokens.
    pub starts: &'a Buffer,
    /// Tokens of all texts together.
    pub tokens: usize,
    /// Tokens of a padded text, at least those of the longest.
    pub time: usize,
}

impl Texts<'_> {
    fn count(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }
}

/// Cosines and sines `[positions, dims/2]` each, `f32`; of no length where nothing turns.
#[derive(Debug, Clone, Copy)]
pub struct Angles<'a> {
    /// Cosines of the angles, `f32 [positions, dims/2]`.
    pub cosines: &'a Buffer,
    /// Sines of the same angles.
    pub sines: &'a Buffer,
}

impl Heads {
    pub(super) fn check(&self, kernel: &str) -> Result<()> {
        let last =
            |at: usize, heads: usize| at + heads.saturating_sub(1) * self.step + self.head_dim;
        let ends = [
            last(self.offsets[0], self.heads),
            last(self.offsets[1], self.kv_heads),
            last(self.offsets[2], self.kv_heads),
        ];
        let fits = (1..=256).contains(&self.head_dim)
            && self.kv_heads > 0
            && self.heads > 0
            && self.heads.is_multiple_of(self.kv_heads)
            && self.dims <= self.head_dim
            && self.dims.is_multiple_of(2)
            && ends.iter().all(|&e| e <= self.row);
        fits.then_some(()).ok_or_else(|| Error::Launch {
            kernel: kernel.into(),
            why: format!("found heads {self:?}, expected heads within a row, of at most 256 dimensions, an even number of which turn"),
        })
    }

    pub(super) fn angles(&self, kernel: &str, angles: &Angles<'_>, positions: usize) -> Result<()> {
        let needed = positions * self.dims / 2;
        for (name, buffer) in [("cosines", angles.cosines), ("sines", angles.sines)] {
            if buffer.element() != Element::F32 || buffer.len() < needed {
                return Err(Error::Buffer {
                    what: format!("{kernel}: {name}"),
                    found: format!("{:?}[{}]", buffer.element(), buffer.len()),
                    expected: format!("F32[{needed}] or more"),
                });
            }
        }
        Ok(())
    }
}

impl Kernels<'_> {
    /// Packed rows `qkv [tokens, row]` to padded heads: turned queries `[text, heads, time, head_dim]`, turned keys and plain values
    /// `[text, kv_heads, time, head_dim]`, zeros behind a text's end. A text's first token has position 0.
    ///
    /// # Errors
    /// As [`Kernels::add`]; [`Error::Launch`] for heads that do not lie within a row.
    pub fn heads_split(
        &self,
        texts: &Texts<'_>,
        heads: &Heads,
        angles: &Angles<'_>,
        qkv: &Buffer,
        [q, k, v]: [&Buffer; 3],
    ) -> Result<()> {
        self.check_heads("heads_split", texts, heads, angles, qkv, [q, k, v])?;
        let mut args = vec![
            Arg::In(qkv),
            Arg::In(angles.cosines),
            Arg::In(angles.sines),
            Arg::In(texts.starts),
            Arg::Out(q),
            Arg::Out(k),
            Arg::Out(v),
        ];
        args.extend(head_args(texts, heads));
        self.run("heads_split", [texts.time, texts.count()], 0, &args)
    }

    /// The transpose of [`Kernels::heads_split`]: the gradients of packed rows from those of padded heads. What lies between heads in
    /// a row is not written.
    ///
    /// # Errors
    /// As [`Kernels::heads_split`].
    pub fn heads_split_backward(
        &self,
        texts: &Texts<'_>,
        heads: &Heads,
        angles: &Angles<'_>,
        [dq, dk, dv]: [&Buffer; 3],
        dqkv: &Buffer,
    ) -> Result<()> {
        let name = "heads_split_backward";
        self.check_heads(name, texts, heads, angles, dqkv, [dq, dk, dv])?;
        let mut args = vec![
            Arg::In(dq),
            Arg::In(dk),
            Arg::In(dv),
            Arg::In(angles.cosines),
            Arg::In(angles.sines),
            Arg::In(texts.starts),
            Arg::Out(dqkv),
        ];
        args.extend(head_args(texts, heads));
        self.run(name, [texts.time, texts.count()], 0, &args)
    }

    fn check_heads(
        &self,
        kernel: &str,
        texts: &Texts<'_>,
        heads: &Heads,
        angles: &Angles<'_>,
        qkv: &Buffer,
        [q, k, v]: [&Buffer; 3],
    ) -> Result<()> {
        heads.check(kernel)?;
        heads.angles(kernel, angles, texts.time)?;
        let (real, n) = (
            self.real.element(),
            texts.count() * texts.time * heads.head_dim,
        );
        let needs = [
            (texts.starts, Element::U32, texts.count() + 1, "starts"),
            (qkv, real, texts.tokens * heads.row, "qkv"),
            (q, real, n * heads.heads, "q"),
            (k, real, n * heads.kv_heads, "k"),
            (v, real, n * heads.kv_heads, "v"),
        ];
        self.need(kernel, &needs)
    }

    /// Padded `[text, heads, time, head_dim]` to rows `[tokens, heads · head_dim]`.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn heads_pack(
        &self,
        texts: &Texts<'_>,
        head_dim: usize,
        padded: &Buffer,
        rows: &Buffer,
    ) -> Result<()> {
        let heads = self.check_padded("heads_pack", texts, head_dim, padded, rows)?;
        let args = [
            Arg::In(padded),
            Arg::In(texts.starts),
            Arg::Out(rows),
            int(texts.time),
            int(head_dim),
            int(heads),
        ];
        self.run("heads_pack", [texts.time, texts.count()], 0, &args)
    }

    /// Rows `[tokens, heads · head_dim]` to padded `[text, heads, time, head_dim]`, zeros behind a text's end.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn heads_pad(
        &self,
        texts: &Texts<'_>,
        head_dim: usize,
        rows: &Buffer,
        padded: &Buffer,
    ) -> Result<()> {
        let heads = self.check_padded("heads_pad", texts, head_dim, padded, rows)?;
        let args = [
            Arg::In(rows),
            Arg::In(texts.starts),
            Arg::Out(padded),
            int(texts.time),
            int(head_dim),
            int(heads),
        ];
        self.run("heads_pad", [texts.time, texts.count()], 0, &args)
    }

    fn check_padded(
        &self,
        kernel: &str,
        texts: &Texts<'_>,
        head_dim: usize,
        padded: &Buffer,
        rows: &Buffer,
    ) -> Result<usize> {
        let heads = rows.len() / (texts.tokens * head_dim).max(1);
        let real = self.real.element();
        let whole = texts.count() * texts.time * heads * head_dim;
        let needs = [
            (texts.starts, Element::U32, texts.count() + 1, "starts"),
            (rows, real, texts.tokens * heads * head_dim, "rows"),
            (padded, real, whole, "padded"),
        ];
        self.need(kernel, &needs)?;
        Ok(heads)
    }

    /// `p` = causal softmax of scores `[text, heads, time, time]` (products q·k, `f32`) and the logarithms of its denominators
    /// `[text, heads, time]`; zeros behind a text's end.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn softmax(
        &self,
        texts: &Texts<'_>,
        heads: usize,
        scoring: &Scoring,
        scores: &Buffer,
        p: &Buffer,
        log_sum: &Buffer,
    ) -> Result<()> {
        let rows = texts.count() * heads * texts.time;
        let needs = [
            (texts.starts, Element::U32, texts.count() + 1, "starts"),
            (scores, Element::F32, rows * texts.time, "scores"),
            (p, self.real.element(), rows * texts.time, "p"),
            (log_sum, Element::F32, rows, "log_sum"),
        ];
        self.need("softmax", &needs)?;
        let mut args = vec![
            Arg::In(scores),
            Arg::In(texts.starts),
            Arg::Out(p),
            Arg::Out(log_sum),
            int(heads),
            int(texts.time),
        ];
        args.extend(scoring.args());
        let grid = [texts.time, texts.count() * heads];
        self.run("softmax", grid, SCRATCH, &args)
    }

    /// From the gradient `dp` of the weights: the weights `p` again, and `ds = scale p (dp − Σ p dp)`, times `1 − tanh²` under a cap,
    /// the gradient of the products q·k.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    #[expect(clippy::too_many_arguments, reason = "scores, sums and both gradients")]
    pub fn softmax_backward(
        &self,
        texts: &Texts<'_>,
        heads: usize,
        scoring: &Scoring,
        scores: &Buffer,
        dp: &Buffer,
        log_sum: &Buffer,
        [p, ds]: [&Buffer; 2],
    ) -> Result<()> {
        let rows = texts.count() * heads * texts.time;
        let (n, real) = (rows * texts.time, self.real.element());
        let needs = [
            (texts.starts, Element::U32, texts.count() + 1, "starts"),
            (scores, Element::F32, n, "scores"),
            (dp, Element::F32, n, "dp"),
            (log_sum, Element::F32, rows, "log_sum"),
            (p, real, n, "p"),
            (ds, real, n, "ds"),
        ];
        self.need("softmax_backward", &needs)?;
        let mut args = vec![
            Arg::In(scores),
            Arg::In(dp),
            Arg::In(log_sum),
            Arg::In(texts.starts),
            Arg::Out(p),
            Arg::Out(ds),
            int(heads),
            int(texts.time),
        ];
        args.extend(scoring.args());
        let grid = [texts.time, texts.count() * heads];
        self.run("softmax_backward", grid, SCRATCH, &args)
    }

    /// `y = act(x)`.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn activation(&self, kind: Activation, x: &Buffer, y: &Buffer) -> Result<()> {
        let (n, real) = (x.len(), self.real.element());
        self.need("activation", &[(x, real, n, "x"), (y, real, n, "y")])?;
        let args = [Arg::In(x), Arg::Out(y), Arg::I64(n as i64), kind.number()];
        self.run("activation", self.over(n), 0, &args)
    }

    /// `dx = dy act′(x)`, and `y = act(x)` again; `dx` may be `dy`.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn activation_backward(
        &self,
        kind: Activation,
        x: &Buffer,
        dy: &Buffer,
        dx: &Buffer,
        y: &Buffer,
    ) -> Result<()> {
        let (n, real) = (x.len(), self.real.element());
        let needs = [
            (x, real, n, "x"),
            (dy, real, n, "dy"),
            (dx, real, n, "dx"),
            (y, real, n, "y"),
        ];
        self.need("activation_backward", &needs)?;
        let args = [
            Arg::In(x),
            Arg::In(dy),
            Arg::Out(dx),
            Arg::Out(y),
            Arg::I64(n as i64),
            kind.number(),
        ];
        self.run("activation_backward", self.over(n), 0, &args)
    }

    /// `y [rows, width] = act(gate) ∘ up`; the rows of gate and up are `stride` elements apart, each buffer one that begins at its
    /// first element and ends with its last.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn gated(
        &self,
        kind: Activation,
        [gate, up]: [&Buffer; 2],
        y: &Buffer,
        width: usize,
        stride: usize,
    ) -> Result<()> {
        let (needs, count) = self.gated_needs(&[(gate, "gate"), (up, "up")], y, width, stride);
        self.need("gated", &needs)?;
        let args = [
            Arg::In(gate),
            Arg::In(up),
            Arg::Out(y),
            Arg::I64(count as i64),
            int(width),
            int(stride),
            kind.number(),
        ];
        self.run("gated", self.over(count), 0, &args)
    }

    /// `dgate = dy up act′(gate)`, `dup = dy act(gate)` (rows `stride` apart, as those of gate and up), and `y` again.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    #[expect(clippy::too_many_arguments, reason = "two inputs and their gradients")]
    pub fn gated_backward(
        &self,
        kind: Activation,
        [gate, up]: [&Buffer; 2],
        dy: &Buffer,
        [dgate, dup]: [&Buffer; 2],
        y: &Buffer,
        width: usize,
        stride: usize,
    ) -> Result<()> {
        let strided = [(gate, "gate"), (up, "up"), (dgate, "dgate"), (dup, "dup")];
        let (mut needs, count) = self.gated_needs(&strided, y, width, stride);
        needs.push((dy, self.real.element(), count, "dy"));
        self.need("gated_backward", &needs)?;
        let args = [
            Arg::In(gate),
            Arg::In(up),
            Arg::In(dy),
            Arg::Out(dgate),
            Arg::Out(dup),
            Arg::Out(y),
            Arg::I64(count as i64),
            int(width),
            int(stride),
            kind.number(),
        ];
        self.run("gated_backward", self.over(count), 0, &args)
    }

    fn gated_needs<'b>(
        &self,
        strided: &[(&'b Buffer, &'static str)],
        y: &'b Buffer,
        width: usize,
        stride: usize,
    ) -> (Vec<super::Need<'b>>, usize) {
        let (rows, real) = (y.len() / width.max(1), self.real.element());
        let used = rows.saturating_sub(1) * stride.max(width) + width.min(rows * width);
        let mut needs = vec![(y, real, rows * width, "y")];
        needs.extend(strided.iter().map(|(b, name)| (*b, real, used, *name)));
        (needs, rows * width)
    }

    /// `x [tokens, width] = factor table[token]`, plus `places[position]` where there is such a table.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn embed(
        &self,
        tokens: &Buffer,
        table: &Buffer,
        places: Option<(&Buffer, &Buffer)>,
        x: &Buffer,
        factor: f32,
    ) -> Result<()> {
        let (n, real) = (tokens.len(), self.real.element());
        let width = x.len() / n.max(1);
        let mut needs = vec![
            (tokens, Element::U32, n, "tokens"),
            (x, real, n * width, "x"),
        ];
        if let Some((positions, places)) = places {
            needs.push((positions, Element::U32, n, "positions"));
            needs.push((places, real, places.len() / width.max(1) * width, "places"));
        }
        needs.push((table, real, table.len() / width.max(1) * width, "table"));
        self.need("embed", &needs)?;
        let args = [
            Arg::In(tokens),
            input(places.map(|p| p.0)),
            Arg::In(table),
            input(places.map(|p| p.1)),
            Arg::Out(x),
            int(width),
            Arg::F32(factor),
        ];
        self.run("embed", [n, 1], 0, &args)
    }

    /// `dtable[id] += factor Σ dx` over the rows that hold the id: `ids` distinct, those of `ids[i]` in
    /// `order[firsts[i]..firsts[i + 1]]`.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn embed_backward(
        &self,
        dx: &Buffer,
        [ids, firsts, order]: [&Buffer; 3],
        dtable: &Buffer,
        factor: f32,
    ) -> Result<()> {
        let (n, distinct) = (order.len(), ids.len());
        let width = dx.len() / n.max(1);
        let needs = [
            (dx, self.real.element(), n * width, "dx"),
            (order, Element::U32, n, "order"),
            (ids, Element::U32, distinct, "ids"),
            (firsts, Element::U32, distinct + 1, "firsts"),
            (
                dtable,
                Element::F32,
                dtable.len() / width.max(1) * width,
                "dtable",
            ),
        ];
        self.need("embed_backward", &needs)?;
        let args = [
            Arg::In(dx),
            Arg::In(ids),
            Arg::In(firsts),
            Arg::In(order),
            Arg::Out(dtable),
            int(width),
            Arg::F32(factor),
        ];
        self.run("embed_backward", [distinct, 1], 0, &args)
    }
}

impl Scoring {
    pub(super) fn args(&self) -> [Arg<'static>; 3] {
        [
            Arg::F32(self.scale),
            Arg::F32(self.cap.unwrap_or(0.0)),
            // No text is longer than the largest int: a wider window is no window.
            int(self
                .window
                .filter(|&w| i32::try_from(w).is_ok())
                .unwrap_or(0)),
        ]
    }
}

fn head_args(texts: &Texts<'_>, heads: &Heads) -> Vec<Arg<'static>> {
    let [query, key, value] = heads.offsets;
    let sizes = [
        texts.time,
        heads.row,
        heads.head_dim,
        heads.heads,
        heads.kv_heads,
        heads.step,
        query,
        key,
        value,
        heads.dims,
    ];
    let mut args: Vec<_> = sizes.into_iter().map(int).collect();
    args.push(flag(heads.neighbours));
    args
}
