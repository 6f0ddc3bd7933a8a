//! GPT-NeoX (Pythia): `y = x + attention(norm₁(x)) + mlp(norm₂(x))`, or the two one after the other.

use super::architecture::{Architecture, BlockTape, Pass, TensorPass};
use crate::config::GptNeoXConfig;
use crate::ops::buffer::Buffer;
use crate::ops::gemm::Update;
use crate::ops::rotary::{Turn, rotate};
use crate::ops::{attention, composite, gelu, layer_norm, linear};
use crate::params::{Gradients, Params};
use crate::{Error, Result};
use candle_core::Tensor;

/// A checked configuration.
#[derive(Debug)]
pub(crate) struct GptNeoX {
    config: GptNeoXConfig,
}

/// Places in a block's tape. The sequential form keeps the stream between attention and MLP as well.
const INPUT: usize = 0;
const STATS: usize = 1;
const QKV: usize = 2;
const ATTENDED: usize = 3;
const LOG_SUM: usize = 4;
const INNER: usize = 5;
const MIDDLE: usize = 6;
const MIDDLE_STATS: usize = 7;

impl GptNeoX {
    /// # Errors
    /// [`Error::Setting`] for sizes that do not fit one another.
    pub fn new(config: &GptNeoXConfig) -> Result<Self> {
        let refuse = |field, found: String, expected: String| {
            Err(Error::Setting {
                field,
                found,
                expected,
            })
        };
        let sizes = [
            ("vocab_size", config.vocab_size),
            ("hidden_size", config.hidden_size),
            ("n_layers", config.n_layers),
            ("n_heads", config.n_heads),
            ("intermediate_size", config.intermediate_size),
            ("max_positions", config.max_positions),
        ];
        if let Some((field, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return refuse(field, "0".into(), "at least 1".into());
        }
        if !config.hidden_size.is_multiple_of(config.n_heads) {
            return refuse(
                "hidden_size",
                config.hidden_size.to_string(),
                format!("a multiple of n_heads = {}", config.n_heads),
            );
        }
        let head_dim = config.hidden_size / config.n_heads;
        if !config.rotary_dims.is_multiple_of(2) || config.rotary_dims > head_dim {
            return refuse(
                "rotary_dims",
                config.rotary_dims.to_string(),
                format!("an even number up to {head_dim}"),
            );
        }
        Ok(Self {
            config: config.clone(),
        })
    }

    fn name(block: usize, part: &str) -> String {
        format!("gpt_neox.layers.{block}.{part}")
    }

    fn normed(&self, pass: &Pass<'_>, name: &str, x: &[f32], stats: &[f32], y: &mut [f32]) {
        let (gain, bias) = (
            pass.weights.get(&format!("{name}.weight")),
            pass.weights.get(&format!("{name}.bias")),
        );
        layer_norm::apply(x, stats, gain, bias, y);
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
            layer_norm::backward_gain(x, stats, dy, dgain);
        }
        if let Some(dbias) = grads.slice_mut(&format!("{name}.bias")) {
            linear::backward_bias(dy, dbias);
        }
        layer_norm::backward_input(x, stats, pass.weights.get(&gain), dy, dx);
    }

    fn statistics(&self, pass: &Pass<'_>, x: &[f32]) -> Buffer {
        let width = self.config.hidden_size;
        let mut stats = pass.pool.take(x.len() / width * 2);
        layer_norm::statistics(x, width, self.config.layer_norm_eps, &mut stats);
        stats
    }

    /// Rotated queries, keys and values; attended values; logarithms of the softmax sums.
    fn attend(
        &self,
        pass: &Pass<'_>,
        block: usize,
        x: &[f32],
        stats: &[f32],
        norm: &mut [f32],
    ) -> [Buffer; 3] {
        let (h, n) = (self.config.hidden_size, x.len() / self.config.hidden_size);
        self.normed(pass, &Self::name(block, "input_layernorm"), x, stats, norm);
        let mut qkv = pass.pool.take(n * 3 * h);
        let name = Self::name(block, "attention.query_key_value");
        pass.linear_forward(&name, h, 3 * h, norm, &mut qkv, Update::Set);
        let layout = self.config.head_layout();
        rotate(&mut qkv, &layout, pass.rotary, Turn::Forward);
        let (mut out, mut log_sum) = (
            pass.pool.take(n * h),
            pass.pool.take(n * self.config.n_heads),
        );
        attention::forward(
            &qkv,
            &layout,
            None,
            pass.lengths,
            &mut out,
            &mut log_sum,
            pass.pool,
        );
        [qkv, out, log_sum]
    }

    /// Adds the MLP's output to `y` and returns what stood before the activation.
    fn mlp(&self, pass: &Pass<'_>, block: usize, norm: &[f32], y: &mut [f32]) -> Buffer {
        let (h, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let n = norm.len() / h;
        let mut before = pass.pool.take(n * inner);
        let name = Self::name(block, "mlp.dense_h_to_4h");
        pass.linear_forward(&name, h, inner, norm, &mut before, Update::Set);
        let mut after = pass.pool.take(n * inner);
        gelu::forward(self.config.activation, &before, &mut after);
        let name = Self::name(block, "mlp.dense_4h_to_h");
        pass.linear_forward(&name, inner, h, &after, y, Update::Add);
        before
    }

    /// The gradient of the MLP's input, a norm's output; `norm` is that output.
    fn mlp_backward(
        &self,
        pass: &Pass<'_>,
        block: usize,
        before: &[f32],
        norm: &[f32],
        dy: &[f32],
        grads: &mut Gradients,
    ) -> Buffer {
        let (h, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let (name_up, name_down) = (
            Self::name(block, "mlp.dense_h_to_4h"),
            Self::name(block, "mlp.dense_4h_to_h"),
        );
        let mut dbefore = pass.pool.take(before.len());
        let mut after = pass.pool.take(before.len());
        pass.linear_input_backward(&name_down, inner, h, dy, &mut dbefore, Update::Set);
        gelu::backward(self.config.activation, before, &mut dbefore, &mut after);
        pass.linear_weights_backward(&name_down, inner, h, &after, dy, grads);
        let mut dnorm = pass.pool.take(norm.len());
        pass.linear_backward(
            &name_up,
            h,
            inner,
            norm,
            &dbefore,
            &mut dnorm,
            Update::Set,
            grads,
        );
        dnorm
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
        let h = self.config.hidden_size;
        let layout = self.config.head_layout();
        let mut dqkv = pass.pool.take(tape[QKV].len());
        attention::backward(
            &tape[QKV],
            &layout,
            None,
            pass.lengths,
            &tape[LOG_SUM],
            dout,
            &mut dqkv,
            pass.pool,
        );
        rotate(&mut dqkv, &layout, pass.rotary, Turn::Backward);
        let name = Self::name(block, "attention.query_key_value");
        let mut dnorm = pass.pool.take(norm.len());
        pass.linear_backward(&name, h, 3 * h, norm, &dqkv, &mut dnorm, Update::Set, grads);
        dnorm
    }
}

impl Architecture for GptNeoX {
    fn block_prefix(&self, block: usize) -> String {
        Self::name(block, "")
    }

    fn final_norm_prefix(&self) -> &'static str {
        "gpt_neox.final_layer_norm."
    }

    fn forward(
        &self,
        pass: &Pass<'_>,
        block: usize,
        x: &mut [f32],
        keep: bool,
    ) -> Option<BlockTape> {
        let h = self.config.hidden_size;
        let copy = |x: &[f32]| {
            let mut copy = pass.pool.take(if keep { x.len() } else { 0 });
            copy.copy_from_slice(&x[..if keep { x.len() } else { 0 }]);
            copy
        };
        let stats = self.statistics(pass, x);
        let mut norm = pass.pool.take(x.len());
        let [qkv, attended, log_sum] = self.attend(pass, block, x, &stats, &mut norm);
        let input = copy(x);
        let second = Self::name(block, "post_attention_layernorm");
        if self.config.parallel_residual {
            self.normed(pass, &second, x, &stats, &mut norm);
        }
        let dense = Self::name(block, "attention.dense");
        pass.linear_forward(&dense, h, h, &attended, x, Update::Add);
        let mut kept = Vec::new();
        if !self.config.parallel_residual {
            let middle_stats = self.statistics(pass, x);
            self.normed(pass, &second, x, &middle_stats, &mut norm);
            kept = vec![copy(x), middle_stats];
        }
        let inner = self.mlp(pass, block, &norm, x);
        keep.then(|| {
            let mut tape = vec![input, stats, qkv, attended, log_sum, inner];
            tape.extend(kept);
            BlockTape(tape)
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
        let parallel = self.config.parallel_residual;
        let (second_input, second_stats) = if parallel {
            (INPUT, STATS)
        } else {
            (MIDDLE, MIDDLE_STATS)
        };
        let (first, second) = (
            Self::name(block, "input_layernorm"),
            Self::name(block, "post_attention_layernorm"),
        );
        let mut norm = pass.pool.take(dx.len());
        self.normed(
            pass,
            &second,
            &tape[second_input],
            &tape[second_stats],
            &mut norm,
        );
        let dnorm = self.mlp_backward(pass, block, &tape[INNER], &norm, dx, grads);

        let dense_name = Self::name(block, "attention.dense");
        let mut dattended = pass.pool.take(dx.len());
        let dense_backward = |dy: &[f32], dattended: &mut [f32], grads: &mut Gradients| {
            let attended = &tape[ATTENDED];
            pass.linear_backward(
                &dense_name,
                h,
                h,
                attended,
                dy,
                dattended,
                Update::Set,
                grads,
            );
        };
        // The parallel form's attention sees the gradient of the output alone, the sequential one's also the MLP's.
        if parallel {
            dense_backward(dx, &mut dattended, grads);
        }
        Self::norm_backward(
            pass,
            &second,
            &tape[second_input],
            &tape[second_stats],
            &dnorm,
            dx,
            grads,
        );
        if !parallel {
            dense_backward(dx, &mut dattended, grads);
        }
        drop(dnorm);
        self.normed(pass, &first, &tape[INPUT], &tape[STATS], &mut norm);
        let dnorm = self.attend_backward(pass, block, &tape, &norm, &dattended, grads);
        Self::norm_backward(pass, &first, &tape[INPUT], &tape[STATS], &dnorm, dx, grads);
    }

    fn final_norm(&self, pass: &Pass<'_>, x: &[f32], y: &mut [f32]) -> Buffer {
        let stats = self.statistics(pass, x);
        self.normed(pass, "gpt_neox.final_layer_norm", x, &stats, y);
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
        Self::norm_backward(pass, "gpt_neox.final_layer_norm", x, kept, dy, dx, grads);
    }

    fn block_tensor(&self, pass: &TensorPass<'_>, block: usize, x: &Tensor) -> Result<Tensor> {
        let weight = |part: &str| pass.params.get(&Self::name(block, part));
        let norm = |part: &str, x: &Tensor| -> Result<Tensor> {
            let (gain, bias) = (
                weight(&format!("{part}.weight"))?,
                weight(&format!("{part}.bias"))?,
            );
            Ok(composite::layer_norm(
                x,
                gain,
                bias,
                self.config.layer_norm_eps,
            )?)
        };
        let linear = |part: &str, x: &Tensor| pass.linear(&Self::name(block, part), x);
        let (batch, time, h) = x.dims3()?;
        let heads = self.config.n_heads;
        let qkv = linear("attention.query_key_value", &norm("input_layernorm", x)?)?;
        let qkv = qkv
            .reshape((batch, time, heads, 3 * (h / heads)))?
            .transpose(1, 2)?;
        let part = |i: usize| qkv.narrow(3, i * (h / heads), h / heads);
        let turn = |x: Tensor| composite::rotate(&x, &pass.cos, &pass.sin);
        let attended =
            composite::attention(&turn(part(0)?)?, &turn(part(1)?)?, &part(2)?, &pass.mask)?;
        let attended = attended.transpose(1, 2)?.reshape((batch, time, h))?;
        let middle = (x + linear("attention.dense", &attended)?)?;
        let second = if self.config.parallel_residual {
            x
        } else {
            &middle
        };
        let inner = linear(
            "mlp.dense_h_to_4h",
            &norm("post_attention_layernorm", second)?,
        )?;
        let inner = composite::gelu(&inner, self.config.activation)?;
        Ok((middle + linear("mlp.dense_4h_to_h", &inner)?)?)
    }

    fn final_norm_tensor(&self, params: &Params, x: &Tensor) -> Result<Tensor> {
        let (gain, bias) = (
            params.get("gpt_neox.final_layer_norm.weight")?,
            params.get("gpt_neox.final_layer_norm.bias")?,
        );
        Ok(composite::layer_norm(
            x,
            gain,
            bias,
            self.config.layer_norm_eps,
        )?)
    }
}
