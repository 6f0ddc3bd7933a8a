//! Causal attention of packed texts: kernels and batched products, forward and backward.

use crate::buffer::{Buffer, Element};
use crate::device::{Gemm, Matrix};
use crate::kernels::{Angles, Heads, Kernels, Scoring, Texts};
use crate::{Error, Result};

/// Attention of one layer on one batch.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// The kernels, and with them the device and the type of activations.
    pub kernels: Kernels<'a>,
    /// The batch.
    pub texts: Texts<'a>,
    /// The layout of a row.
    pub heads: Heads,
    /// Cosines and sines of a text's positions.
    pub angles: Angles<'a>,
    /// From products to scores.
    pub scoring: Scoring,
}

/// What the backward pass needs of the forward pass: padded heads and the logarithms of the softmax's denominators. Scores and weights
/// are made again.
#[derive(Debug)]
pub struct AttentionTape {
    q: Buffer,
    k: Buffer,
    v: Buffer,
    log_sum: Buffer,
}

impl Attention<'_> {
    fn count(&self) -> usize {
        self.texts.starts.len().saturating_sub(1)
    }

    /// Elements of padded heads.
    fn padded(&self, heads: usize) -> usize {
        self.count() * heads * self.texts.time * self.heads.head_dim
    }

    fn scores(&self) -> usize {
        self.count() * self.heads.heads * self.texts.time * self.texts.time
    }

    fn alloc(&self, count: usize) -> Result<Buffer> {
        let device = self.kernels.device();
        device.alloc(self.kernels.real().element(), count)
    }

    /// A product for every text and head of keys, the query heads that share it below each other: `C = alpha A B`.
    fn product(
        &self,
        (m, n, k): (usize, usize, usize),
        a: One<'_>,
        b: One<'_>,
        c: One<'_>,
    ) -> Result<()> {
        self.kernels.device().gemm(&Gemm {
            m,
            n,
            k,
            batch: self.count() * self.heads.kv_heads,
            alpha: 1.0,
            beta: 0.0,
            a: a.matrix(),
            b: b.matrix(),
            c: c.matrix(),
        })
    }

    fn shape(&self) -> Result<Shape> {
        let Heads {
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.heads;
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(Error::Launch {
                kernel: "attention".into(),
                why: format!("found {heads} heads, expected a multiple of {kv_heads}"),
            });
        }
        Ok(Shape {
            rows: heads / kv_heads * self.texts.time,
            time: self.texts.time,
            dim: head_dim,
        })
    }

    /// `out [tokens, heads · head_dim] = Σ_j softmax_j(score(q_i·k_j)) v_j` from the packed rows `qkv [tokens, row]`, of which queries and
    /// keys are turned on the way.
    ///
    /// # Errors
    /// As [`Kernels::heads_split`].
    pub fn forward(&self, qkv: &Buffer, out: &Buffer) -> Result<AttentionTape> {
        let (heads, s) = (&self.heads, self.shape()?);
        let q = self.alloc(self.padded(heads.heads))?;
        let k = self.alloc(self.padded(heads.kv_heads))?;
        let v = self.alloc(self.padded(heads.kv_heads))?;
        self.kernels
            .heads_split(&self.texts, heads, &self.angles, qkv, [&q, &k, &v])?;
        let device = self.kernels.device();
        let scores = device.alloc(Element::F32, self.scores())?;
        self.product(
            (s.rows, s.time, s.dim),
            s.tall(&q),
            s.short(&k).t(),
            s.square(&scores),
        )?;
        let p = self.alloc(self.scores())?;
        let log_sum = device.alloc(Element::F32, self.scores() / s.time.max(1))?;
        self.kernels.softmax(
            &self.texts,
            heads.heads,
            &self.scoring,
            &scores,
            &p,
            &log_sum,
        )?;
        drop(scores);
        let padded = self.alloc(self.padded(heads.heads))?;
        self.product(
            (s.rows, s.dim, s.time),
            s.square(&p),
            s.short(&v),
            s.tall(&padded),
        )?;
        self.kernels
            .heads_pack(&self.texts, heads.head_dim, &padded, out)?;
        Ok(AttentionTape { q, k, v, log_sum })
    }

    /// The gradient of `qkv` from that of `out`: `dv = Pᵀ dout`, `dq = dS k`, `dk = dSᵀ q` with dS the gradient of the products, turned
    /// back. What lies between heads in a row is not written.
    ///
    /// # Errors
    /// As [`Attention::forward`].
    pub fn backward(&self, tape: &AttentionTape, dout: &Buffer, dqkv: &Buffer) -> Result<()> {
        let (heads, s) = (&self.heads, self.shape()?);
        let AttentionTape { q, k, v, log_sum } = tape;
        let dpadded = self.alloc(self.padded(heads.heads))?;
        self.kernels
            .heads_pad(&self.texts, heads.head_dim, dout, &dpadded)?;
        let device = self.kernels.device();
        let (p, ds) = (self.alloc(self.scores())?, self.alloc(self.scores())?);
        {
            let scores = device.alloc(Element::F32, self.scores())?;
            let dp = device.alloc(Element::F32, self.scores())?;
            self.product(
                (s.rows, s.time, s.dim),
                s.tall(q),
                s.short(k).t(),
                s.square(&scores),
            )?;
            self.product(
                (s.rows, s.time, s.dim),
                s.tall(&dpadded),
                s.short(v).t(),
                s.square(&dp),
            )?;
            let (count, to) = (heads.heads, [&p, &ds]);
            self.kernels.softmax_backward(
                &self.texts,
                count,
                &self.scoring,
                &scores,
                &dp,
                log_sum,
                to,
            )?;
        }
        let dq = self.alloc(q.len())?;
        let (dk, dv) = (self.alloc(k.len())?, self.alloc(v.len())?);
        self.product(
            (s.time, s.dim, s.rows),
            s.square(&p).t(),
            s.tall(&dpadded),
            s.short(&dv),
        )?;
        self.product(
            (s.rows, s.dim, s.time),
            s.square(&ds),
            s.short(k),
            s.tall(&dq),
        )?;
        self.product(
            (s.time, s.dim, s.rows),
            s.square(&ds).t(),
            s.tall(q),
            s.short(&dk),
        )?;
        self.kernels
            .heads_split_backward(&self.texts, heads, &self.angles, [&dq, &dk, &dv], dqkv)
    }
}

/// Sizes of the matrices of one head of keys.
struct Shape {
    /// Queries of all heads that share it.
    rows: usize,
    time: usize,
    dim: usize,
}

/// One matrix a head of keys, one after the other.
struct One<'a> {
    buffer: &'a Buffer,
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl Shape {
    /// `[rows, dim]`: queries, outputs.
    fn tall<'a>(&self, buffer: &'a Buffer) -> One<'a> {
        One::new(buffer, self.rows, self.dim)
    }

    /// `[time, dim]`: keys, values.
    fn short<'a>(&self, buffer: &'a Buffer) -> One<'a> {
        One::new(buffer, self.time, self.dim)
    }

    /// `[rows, time]`: scores, weights.
    fn square<'a>(&self, buffer: &'a Buffer) -> One<'a> {
        One::new(buffer, self.rows, self.time)
    }
}

impl<'a> One<'a> {
    fn new(buffer: &'a Buffer, rows: usize, columns: usize) -> Self {
        Self {
            buffer,
            rows,
            columns,
            transposed: false,
        }
    }

    fn t(self) -> Self {
        Self {
            transposed: !self.transposed,
            ..self
        }
    }

    fn matrix(&self) -> Matrix<'a> {
        Matrix {
            buffer: self.buffer,
            row: self.columns,
            stride: self.rows * self.columns,
            transposed: self.transposed,
        }
    }
}
