//! The optimiser's step.

use super::{Adam, Eight, Kernels, SCRATCH, SQUARES, Weights, int};
use crate::Result;
use crate::buffer::{Buffer, Element};
use crate::source::Arg;

/// Weights whose 8-bit moments share a scale; also the threads of a block there.
const BLOCK: usize = 256;

impl Kernels<'_> {
    /// Partial sums that [`Kernels::squares`] makes of `count` values.
    pub fn squares_len(count: usize) -> usize {
        count.div_ceil(SQUARES)
    }

    /// Sums of squares of `g`, into `partial [squares_len]` of doubles.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn squares(&self, g: &Buffer, partial: &Buffer) -> Result<()> {
        let blocks = Self::squares_len(g.len());
        let needs = [
            (g, Element::F32, g.len(), "g"),
            (partial, Element::F64, blocks, "partial"),
        ];
        self.need("squares_partial", &needs)?;
        let args = [
            Arg::In(g),
            Arg::Out(partial),
            Arg::I64(g.len() as i64),
            int(SQUARES),
        ];
        self.run("squares_partial", [blocks, 1], SCRATCH, &args)
    }

    /// From the partial sums of all gradients: `norm [2]`, their length and the factor `min(1, longest/(length + 1e-6))` of clipping (1
    /// without a longest), −1 where the length is not finite: steps then change nothing.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn gradient_norm(
        &self,
        partial: &Buffer,
        longest: Option<f32>,
        norm: &Buffer,
    ) -> Result<()> {
        let n = partial.len();
        let needs = [
            (partial, Element::F64, n, "partial"),
            (norm, Element::F32, 2, "norm"),
        ];
        self.need("gradient_norm", &needs)?;
        let args = [
            Arg::In(partial),
            Arg::Out(norm),
            int(n),
            Arg::F32(longest.unwrap_or(0.0)),
        ];
        self.run("gradient_norm", [1, 1], SCRATCH, &args)
    }

    /// Cuts `f32` masters into bfloat16 weights and their low 16 bits; [`Kernels::join`] gives the same bits back.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn split(&self, x: &Buffer, high: &Buffer, low: &Buffer) -> Result<()> {
        let n = x.len();
        let needs = [
            (x, Element::F32, n, "x"),
            (high, Element::U16, n, "high"),
            (low, Element::U16, n, "low"),
        ];
        self.need("split", &needs)?;
        let args = [
            Arg::In(x),
            Arg::Out(high),
            Arg::Out(low),
            Arg::I64(n as i64),
        ];
        self.run("split", self.over(n), 0, &args)
    }

    /// The masters that [`Kernels::split`] cut.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn join(&self, high: &Buffer, low: &Buffer, x: &Buffer) -> Result<()> {
        let n = x.len();
        let needs = [
            (x, Element::F32, n, "x"),
            (high, Element::U16, n, "high"),
            (low, Element::U16, n, "low"),
        ];
        self.need("join", &needs)?;
        let args = [Arg::In(high), Arg::In(low), Arg::Out(x), Arg::I64(n as i64)];
        self.run("join", self.over(n), 0, &args)
    }

    /// `m ← β₁m + (1−β₁)g`, `v ← β₂v + (1−β₂)g²`, `w ← w(1−ηλ) − η/(1−β₁ᵗ) m/(√v/√(1−β₂ᵗ) + ε)`, with g times the factor of `norm`.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn adamw(
        &self,
        weights: Weights<'_>,
        [m, v]: [&Buffer; 2],
        g: &Buffer,
        norm: &Buffer,
        adam: &Adam,
    ) -> Result<()> {
        let n = g.len();
        let (kernel, mut needs, mut args) = weights.parts("adamw", "adamw_split", n);
        needs.push((m, Element::F32, n, "m"));
        needs.push((v, Element::F32, n, "v"));
        needs.push((g, Element::F32, n, "g"));
        needs.push((norm, Element::F32, 2, "norm"));
        self.need(kernel, &needs)?;
        args.extend([Arg::Out(m), Arg::Out(v), Arg::In(g), Arg::In(norm)]);
        args.push(Arg::I64(n as i64));
        args.extend(adam.args());
        self.run(kernel, self.over(n), 0, &args)
    }

    /// The same step with both moments in 8 bits.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn adamw_eight_bit(
        &self,
        weights: Weights<'_>,
        moments: &Eight<'_>,
        g: &Buffer,
        norm: &Buffer,
        adam: &Adam,
    ) -> Result<()> {
        let n = g.len();
        let blocks = n.div_ceil(BLOCK);
        let names = ("adamw_eight_bit", "adamw_eight_bit_split");
        let (kernel, mut needs, mut args) = weights.parts(names.0, names.1, n);
        for moment in [moments.m, moments.v] {
            needs.push((moment.codes, Element::U8, n, "codes"));
            needs.push((moment.scales, Element::F32, blocks, "scales"));
            args.push(Arg::Out(moment.codes));
            args.push(Arg::Out(moment.scales));
        }
        needs.push((g, Element::F32, n, "g"));
        needs.push((norm, Element::F32, 2, "norm"));
        self.need(kernel, &needs)?;
        args.extend([Arg::In(g), Arg::In(norm), Arg::I64(n as i64)]);
        args.extend(adam.args());
        args.push(Arg::U32(moments.step));
        self.run_by(kernel, [blocks, 1], BLOCK as u32, SCRATCH, &args)
    }
}

impl<'a> Weights<'a> {
    fn parts(
        self,
        whole: &'static str,
        split: &'static str,
        n: usize,
    ) -> (&'static str, Vec<super::Need<'a>>, Vec<Arg<'a>>) {
        match self {
            Self::Whole(w) => (whole, vec![(w, Element::F32, n, "w")], vec![Arg::Out(w)]),
            Self::Split { high, low } => (
                split,
                vec![
                    (high, Element::U16, n, "high"),
                    (low, Element::U16, n, "low"),
                ],
                vec![Arg::Out(high), Arg::Out(low)],
            ),
        }
    }
}

impl Adam {
    fn args(&self) -> [Arg<'static>; 6] {
        [
            self.decay1,
            self.decay2,
            self.keep,
            self.rate,
            self.root,
            self.epsilon,
        ]
        .map(Arg::F32)
    }
}
