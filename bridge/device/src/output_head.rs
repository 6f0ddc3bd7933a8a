//! Log-probabilities of given tokens under `softmax(h Wᵀ)`, tile by tile of the vocabulary: `[tokens, vocabulary]` is never kept.

use crate::buffer::{Buffer, Element};
use crate::device::{Gemm, Matrix};
use crate::kernels::{Bend, Head, HeadGrad, Kernels, Tile};
use crate::{Error, Result};
use std::ops::Range;

/// A distribution over the vocabulary for every row.
#[derive(Debug, Clone, Copy)]
pub struct Distribution<'a> {
    /// `[rows, width]`.
    pub hidden: &'a Buffer,
    /// `[vocabulary, width]`.
    pub weight: &'a Buffer,
    /// Factor on products, which makes them raw logits.
    pub scale: f32,
    /// What becomes of a raw logit.
    pub bend: Bend,
}

/// The output head on one batch.
#[derive(Clone, Copy)]
pub struct OutputHead<'a> {
    /// The kernels, and with them the device and the type of weights.
    pub kernels: Kernels<'a>,
    /// p, the policy's distribution of the next token.
    pub policy: Distribution<'a>,
    /// q of the divergences, over the same vocabulary; its width may differ.
    pub other: Option<Distribution<'a>>,
    /// `[rows]`.
    pub targets: &'a Buffer,
    /// Vocabulary entries of a tile.
    pub columns: usize,
}

impl OutputHead<'_> {
    fn rows(&self) -> usize {
        self.targets.len()
    }

    fn width(&self, of: &Distribution<'_>) -> usize {
        of.hidden.len() / self.rows().max(1)
    }

    fn vocabulary(&self) -> Result<usize> {
        let of = |d: &Distribution<'_>| d.weight.len() / self.width(d).max(1);
        let vocabulary = of(&self.policy);
        let wrong = self.other.map(|o| of(&o)).filter(|&o| o != vocabulary);
        if self.columns == 0 || wrong.is_some() {
            return Err(Error::Launch {
                kernel: "output head".into(),
                why: format!(
                    "found tiles of {} and vocabularies of {vocabulary} and {wrong:?}, expected tiles and one vocabulary",
                    self.columns
                ),
            });
        }
        Ok(vocabulary)
    }

    fn tiles(&self) -> Result<Vec<Range<usize>>> {
        let vocabulary = self.vocabulary()?;
        let tile = |from: usize| from..vocabulary.min(from + self.columns);
        Ok((0..vocabulary).step_by(self.columns).map(tile).collect())
    }

    /// Raw logits of a tile, `[rows, columns]`.
    fn logits(&self, of: &Distribution<'_>, tile: &Range<usize>, out: &Buffer) -> Result<Buffer> {
        let (width, n) = (self.width(of), tile.len());
        let weight = of.weight.part(tile.start * width, n * width)?;
        let out = out.part(0, self.rows() * n)?;
        self.kernels.device().gemm(&Gemm {
            m: self.rows(),
            n,
            k: width,
            batch: 1,
            alpha: of.scale,
            beta: 0.0,
            a: Matrix::rows(of.hidden, width),
            b: Matrix::rows(&weight, width).t(),
            c: Matrix::rows(&out, n),
        })?;
        Ok(out)
    }

    /// Room for the logits of one tile, and of the other distribution's.
    fn scratch(&self) -> Result<(Buffer, Option<Buffer>)> {
        let size = self.rows() * self.columns.min(self.vocabulary()?);
        let one = || self.kernels.device().alloc(Element::F32, size);
        Ok((one()?, self.other.map(|_| one()).transpose()?))
    }

    fn with_tile<R>(
        &self,
        range: &Range<usize>,
        (logits, other): &(Buffer, Option<Buffer>),
        f: impl FnOnce(&Tile<'_>) -> Result<R>,
    ) -> Result<R> {
        let logits = self.logits(&self.policy, range, logits)?;
        let other = match (&self.other, other) {
            (Some(of), Some(out)) => Some(self.logits(of, range, out)?),
            _ => None,
        };
        f(&Tile {
            logits: &logits,
            other: other.as_ref(),
            first: range.start,
            bend: self.policy.bend,
            other_bend: self.other.map_or(self.policy.bend, |o| o.bend),
        })
    }

    /// Log-probabilities of the targets, entropies, and the divergences where there is another distribution (`out.other` is there
    /// exactly then).
    ///
    /// # Errors
    /// As [`Kernels::head_scan`].
    pub fn forward(&self, out: &Head<'_>) -> Result<()> {
        let scratch = self.scratch()?;
        let running = self.kernels.device().alloc(Element::F32, 8 * self.rows())?;
        for range in self.tiles()? {
            self.with_tile(&range, &scratch, |tile| {
                self.kernels
                    .head_scan(tile, self.targets, &running, range.start == 0)
            })?;
        }
        self.kernels.head_finish(&running, out)
    }

    /// `dhidden [rows, width] += ∂ W` and, unless the weight is frozen, `dweight [vocabulary, width] += ∂ᵀ h`, both `f32`, with ∂ the
    /// gradient of the raw logits times their scale, made again tile by tile.
    ///
    /// # Errors
    /// As [`Kernels::head_pull`].
    pub fn backward(
        &self,
        out: &Head<'_>,
        grad: &HeadGrad<'_>,
        dhidden: &Buffer,
        dweight: Option<&Buffer>,
    ) -> Result<()> {
        let (width, rows, device) = (self.width(&self.policy), self.rows(), self.kernels.device());
        let scratch = self.scratch()?;
        let pulled = device.alloc(self.kernels.real().element(), scratch.0.len())?;
        for range in self.tiles()? {
            let n = range.len();
            let pulled = pulled.part(0, rows * n)?;
            self.with_tile(&range, &scratch, |tile| {
                self.kernels
                    .head_pull(tile, self.targets, out, grad, &pulled)
            })?;
            let weight = self.policy.weight.part(range.start * width, n * width)?;
            let add = Gemm {
                m: rows,
                n: width,
                k: n,
                batch: 1,
                alpha: self.policy.scale,
                beta: 1.0,
                a: Matrix::rows(&pulled, n),
                b: Matrix::rows(&weight, width),
                c: Matrix::rows(dhidden, width),
            };
            device.gemm(&add)?;
            if let Some(dweight) = dweight {
                let dweight = dweight.part(range.start * width, n * width)?;
                device.gemm(&Gemm {
                    m: n,
                    k: rows,
                    a: Matrix::rows(&pulled, n).t(),
                    b: Matrix::rows(self.policy.hidden, width),
                    c: Matrix::rows(&dweight, width),
                    ..add
                })?;
            }
        }
        Ok(())
    }
}
