//! The Llama family: `m = x + attention(norm₁(x))`, `y = m + down(silu(gate(norm₂(m))) ∘ up(norm₂(m)))`, norms by root mean square,
//! queries in groups that share keys and values.

use super::architecture::{Architecture, BlockTape, Pass, TensorPass};
use crate::Result;
use crate::config::LlamaConfig;
use crate::ops::buffer::Buffer;
use crate::ops::gemm::Update;
use crate::ops::rotary::{Turn, rotate};
use crate::ops::{attention, composite, rms_norm, swiglu};
use crate::params::{Gradients, Params};
use candle_core::Tensor;

/// A checked configuration.
#[derive(Debug)]
pub(crate) struct Llama {
    config: LlamaConfig,
    /// Widths of all queries and of all keys (or values) of a token.
    queries: usize,
    keys: usize,
}

/// Places in a block's tape.
const INPUT: usize = 0;
const STATS: usize = 1;
const QKV: usize = 2;
const ATTENDED: usize = 3;
const LOG_SUM: usize = 4;
const MIDDLE: usize = 5;
const MIDDLE_STATS: usize = 6;
const GATE: usize = 7;
const UP: usize = 8;

const FINAL_NORM: &str = "model.norm";

impl Llama {
    /// # Errors
    /// [`crate::Error::Setting`] for sizes that do not fit one another.
    pub fn new(config: &LlamaConfig) -> Result<Self> {
        config.check()?;
        Ok(Self {
            queries: config.n_heads * config.head_dim,
            keys: config.n_kv_heads * config.head_dim,
            config: config.clone(),
        })
    }

    /// The three projections: name, width, and where they stand in a packed row.
    fn projections(&self, block: usize) -> [(String, usize, usize); 3] {
        let [q, k, v] = self.config.head_layout().offsets;
        [
            (Self::name(block, "self_attn.q_proj"), self.queries, q),
            (Self::name(block, "self_attn.k_proj"), self.keys, k),
            (Self::name(block, "self_attn.v_proj"), self.keys, v),
        ]
    }

    fn name(block: usize, part: &str) -> String {
        format!("model.layers.{block}.{part}")
    }

    fn statistics(&self, pass: &Pass<'_>, x: &[f32]) -> Buffer {
        let width = self.config.hidden_size;
        let mut stats = pass.pool.take(x.len() / width);
        rms_norm::statistics(x, width, self.config.rms_norm_eps, &mut stats);
        stats
    }

    fn normed(pass: &Pass<'_>, name: &str, x: &[f32], stats: &[f32], y: &mut [f32]) {
        rms_norm::apply(x, stats, pass.weights.get(&format!("{name}.weight")), y);
    }

    fn norm_backward(
        pass: &Pass<'_>,
        name: &str,
        x: &[f32],
        stats: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        grads: &mut Gradients,
    ) {
        let gain = format!("{name}.weight");
        if let Some(dgain) = grads.slice_mut(&gain) {
            rms_norm::backward_gain(x, stats, dy, dgain);
        }
        rms_norm::backward_input(x, stats, pass.weights.get(&gain), dy, dx);
    }

    /// Rotated queries, keys and values of `norm`; attended values; logarithms of the softmax sums.
    fn attend(&self, pass: &Pass<'_>, block: usize, norm: &[f32]) -> [Buffer; 3] {
        let (h, layout) = (self.config.hidden_size, self.config.head_layout());
        let n = norm.len() / h;
        let mut qkv = pass.pool.take(n * layout.row);
        for (name, width, at) in self.projections(block) {
            let mut part = pass.pool.take(n * width);
            pass.linear_forward(&name, h, width, norm, &mut part, Update::Set);
            let rows = qkv.chunks_exact_mut(layout.row);
            for (row, part) in rows.zip(part.chunks_exact(width)) {
                row[at..at + width].copy_from_slice(part);
            }
        }
        rotate(&mut qkv, &layout, pass.rotary, Turn::Forward);
        let mut out = pass.pool.take(n * self.queries);
        let mut log_sum = pass.pool.take(n * self.config.n_heads);
        attention::forward(
            &qkv,
            &layout,
            self.config.window,
            pass.lengths,
            &mut out,
            &mut log_sum,
            pass.pool,
        );
        [qkv, out, log_sum]
    }

    /// The gradient of the first norm's output, from `dout`, that of the attended values.
    fn attend_backward(
        &self,
        pass: &Pass<'_>,
        block: usize,
        tape: &[Buffer],
        norm: &[f32],
        dout: &[f32],
        grads: &mut Gradients,
    ) -> Buffer {
        let (h, layout) = (self.config.hidden_size, self.config.head_layout());
        let n = norm.len() / h;
        let mut dqkv = pass.pool.take(tape[QKV].len());
        attention::backward(
            &tape[QKV],
            &layout,
            self.config.window,
            pass.lengths,
            &tape[LOG_SUM],
            dout,
            &mut dqkv,
            pass.pool,
        );
        rotate(&mut dqkv, &layout, pass.rotary, Turn::Backward);
        let mut dnorm = pass.pool.take(norm.len());
        let mut update = Update::Set;
        for (name, width, at) in self.projections(block) {
            let mut part = pass.pool.take(n * width);
            let rows = dqkv.chunks_exact(layout.row);
            for (row, part) in rows.zip(part.chunks_exact_mut(width)) {
                part.copy_from_slice(&row[at..at + width]);
            }
            pass.linear_backward(&name, h, width, norm, &part, &mut dnorm, update, grads);
            update = Update::Add;
        }
        dnorm
    }

    /// Adds the MLP's output to `y` and returns gate and up.
    fn mlp(&self, pass: &Pass<'_>, block: usize, norm: &[f32], y: &mut [f32]) -> [Buffer; 2] {
        let (h, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let n = norm.len() / h;
        let project = |part: &str| {
            let mut out = pass.pool.take(n * inner);
            let name = Self::name(block, part);
            pass.linear_forward(&name, h, inner, norm, &mut out, Update::Set);
            out
        };
        let (gate, up) = (project("mlp.gate_proj"), project("mlp.up_proj"));
        let mut gated = pass.pool.take(n * inner);
        swiglu::forward(&gate, &up, &mut gated);
        let name = Self::name(block, "mlp.down_proj");
        pass.linear_forward(&name, inner, h, &gated, y, Update::Add);
        [gate, up]
    }

    /// The gradient of the MLP's input, a norm's output; `norm` is that output.
    fn mlp_backward(
        &self,
        pass: &Pass<'_>,
        block: usize,
        tape: &[Buffer],
        norm: &[f32],
        dy: &[f32],
        grads: &mut Gradients,
    ) -> Buffer {
        let (h, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let (gate, up) = (&tape[GATE], &tape[UP]);
        let name = Self::name(block, "mlp.down_proj");
        let mut dgate = pass.pool.take(gate.len());
        pass.linear_input_backward(&name, inner, h, dy, &mut dgate, Update::Set);
        let (mut dup, mut gated) = (pass.pool.take(gate.len()), pass.pool.take(gate.len()));
        swiglu::backward(gate, up, &mut dgate, &mut dup, &mut gated);
        pass.linear_weights_backward(&name, inner, h, &gated, dy, grads);
        drop(gated);
        let mut dnorm = pass.pool.take(norm.len());
        let parts = [
            ("mlp.gate_proj", &dgate, Update::Set),
            ("mlp.up_proj", &dup, Update::Add),
        ];
        for (part, d, update) in parts {
            let name = Self::name(block, part);
            pass.linear_backward(&name, h, inner, norm, d, &mut dnorm, update, grads);
        }
        dnorm
    }
}

impl Architecture for Llama {
    fn block_prefix(&self, block: usize) -> String {
        Self::name(block, "")
    }

    fn final_norm_prefix(&self) -> &'static str {
        "model.norm."
    }

    fn forward(
        &self,
        pass: &Pass<'_>,
        block: usize,
        x: &mut [f32],
        keep: bool,
    ) -> Option<BlockTape> {
        let copy = |x: &[f32]| {
            let n = if keep { x.len() } else { 0 };
            let mut copy = pass.pool.take(n);
            copy.copy_from_slice(&x[..n]);
            copy
        };
        let (first, second) = (
            Self::name(block, "input_layernorm"),
            Self::name(block, "post_attention_layernorm"),
        );
        let mut norm = pass.pool.take(x.len());
        let stats = self.statistics(pass, x);
        Self::normed(pass, &first, x, &stats, &mut norm);
        let [qkv, attended, log_sum] = self.attend(pass, block, &norm);
        let input = copy(x);
        let name = Self::name(block, "self_attn.o_proj");
        let h = self.config.hidden_size;
        pass.linear_forward(&name, self.queries, h, &attended, x, Update::Add);
        let middle = copy(x);
        let middle_stats = self.statistics(pass, x);
        Self::normed(pass, &second, x, &middle_stats, &mut norm);
        let [gate, up] = self.mlp(pass, block, &norm, x);
        keep.then(|| {
            BlockTape(vec![
                input,
                stats,
                qkv,
                attended,
                log_sum,
                middle,
                middle_stats,
                gate,
                up,
            ])
        })
    }

    fn backward(
        &self,
        pass: &Pass<'_>,
        block: usize,
        tape: BlockTape,
        dx: &mut [f32],
        grads: &mut Gradients,
    ) {
        let (h, tape) = (self.config.hidden_size, tape.0);
        let (first, second) = (
            Self::name(block, "input_layernorm"),
            Self::name(block, "post_attention_layernorm"),
        );
        let mut norm = pass.pool.take(dx.len());
        let (middle, stats) = (&tape[MIDDLE], &tape[MIDDLE_STATS]);
        Self::normed(pass, &second, middle, stats, &mut norm);
        let dnorm = self.mlp_backward(pass, block, &tape, &norm, dx, grads);
        Self::norm_backward(pass, &second, middle, stats, &dnorm, dx, grads);
        drop(dnorm);

        let name = Self::name(block, "self_attn.o_proj");
        let attended = &tape[ATTENDED];
        let mut dattended = pass.pool.take(attended.len());
        pass.linear_backward(
            &name,
            self.queries,
            h,
            attended,
            dx,
            &mut dattended,
            Update::Set,
            grads,
        );
        let (input, stats) = (&tape[INPUT], &tape[STATS]);
        Self::normed(pass, &first, input, stats, &mut norm);
        let dnorm = self.attend_backward(pass, block, &tape, &norm, &dattended, grads);
        Self::norm_backward(pass, &first, input, stats, &dnorm, dx, grads);
    }

    fn final_norm(&self, pass: &Pass<'_>, x: &[f32], y: &mut [f32]) -> Buffer {
        let stats = self.statistics(pass, x);
        Self::normed(pass, FINAL_NORM, x, &stats, y);
        stats
    }

    fn final_norm_backward(
        &self,
        pass: &Pass<'_>,
        x: &[f32],
        kept: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        grads: &mut Gradients,
    ) {
        Self::norm_backward(pass, FINAL_NORM, x, kept, dy, dx, grads);
    }

    fn block_tensor(&self, pass: &TensorPass<'_>, block: usize, x: &Tensor) -> Result<Tensor> {
        let c = &self.config;
        let linear = |part: &str, x: &Tensor| pass.linear(&Self::name(block, part), x);
        let norm = |part: &str, x: &Tensor| -> Result<Tensor> {
            let gain = pass
                .params
                .get(&Self::name(block, &format!("{part}.weight")))?;
            Ok(composite::rms_norm(x, gain, c.rms_norm_eps)?)
        };
        let (batch, time, _) = x.dims3()?;
        let normed = norm("input_layernorm", x)?;
        let heads = |part: &str, heads: usize| -> Result<Tensor> {
            let y = linear(part, &normed)?;
            Ok(y.reshape((batch, time, heads, c.head_dim))?
                .transpose(1, 2)?)
        };
        let turn = |x: Tensor| composite::rotate(&x, &pass.cos, &pass.sin);
        let group = c.n_heads / c.n_kv_heads;
        let query = turn(heads("self_attn.q_proj", c.n_heads)?)?;
        let key = turn(heads("self_attn.k_proj", c.n_kv_heads)?)?;
        let key = composite::repeat_heads(&key, group)?;
        let value = composite::repeat_heads(&heads("self_attn.v_proj", c.n_kv_heads)?, group)?;
        let attended = composite::attention(&query, &key, &value, &pass.mask)?;
        let attended = attended
            .transpose(1, 2)?
            .reshape((batch, time, self.queries))?;
        let middle = (x + linear("self_attn.o_proj", &attended)?)?;
        let normed = norm("post_attention_layernorm", &middle)?;
        let gated = composite::swiglu(
            &linear("mlp.gate_proj", &normed)?,
            &linear("mlp.up_proj", &normed)?,
        )?;
        Ok((middle + linear("mlp.down_proj", &gated)?)?)
    }

    fn final_norm_tensor(&self, params: &Params, x: &Tensor) -> Result<Tensor> {
        let gain = params.get("model.norm.weight")?;
        Ok(composite::rms_norm(x, gain, self.config.rms_norm_eps)?)
    }
}
