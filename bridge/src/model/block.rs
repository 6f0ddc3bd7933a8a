//! One block on slices, forward and backward, for every plan ([`BlockPlan`]).

use super::pass::Pass;
use crate::family::{BlockPlan, Layer, ModelConfig, NormKind};
use crate::ops::attention::{self, Scoring};
use crate::ops::buffer::Buffer;
use crate::ops::gemm::Update;
use crate::ops::rotary::{HeadLayout, Turn, rotate};
use crate::ops::simd::for_each_piece;
use crate::ops::{activation, gated, layer_norm, linear, rms_norm};
use crate::params::Gradients;
use std::borrow::Cow;

/// What a block keeps for its backward pass.
pub(crate) struct BlockTape {
    /// x.
    input: Buffer,
    /// Statistics of the norm of x.
    stats: Buffer,
    /// Queries and keys before their norms.
    unnormed: Option<[Normed; 2]>,
    /// Rotated queries and keys, and values.
    qkv: Buffer,
    attended: Buffer,
    log_sum: Buffer,
    /// The attention's output before its norm.
    attention_out: Option<Normed>,
    /// The stream that an MLP after the attention reads.
    middle: Option<Normed>,
    /// What stands before the activation; gate and up where there is a gate.
    inner: Vec<Buffer>,
    /// The MLP's output before its norm.
    mlp_out: Option<Normed>,
}

/// A norm's input and its statistics.
struct Normed {
    input: Buffer,
    stats: Buffer,
}

/// A block of a network: its configuration, which says everything, and its number.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    pub config: &'a ModelConfig,
    pub index: usize,
}

impl<'a> Block<'a> {
    fn plan(self) -> &'a BlockPlan {
        &self.config.plan
    }

    fn name(self, module: &str) -> String {
        self.config.module(self.index, module)
    }

    fn scoring(self) -> Scoring {
        Scoring {
            window: self.config.window(self.index),
            scale: self.config.attention_scale() as f32,
            cap: self.plan().score_cap.map(|cap| cap as f32),
        }
    }

    /// The norm `module` of this block, or of the stream where it has no name.
    fn normed(
        self,
        pass: &Pass<'_>,
        module: Option<&str>,
        x: &[f32],
        stats: &[f32],
        y: &mut [f32],
    ) {
        match module {
            Some(module) => apply_norm(self.config, pass, &self.name(module), x, stats, y),
            None => y.copy_from_slice(x),
        }
    }

    fn statistics(self, pass: &Pass<'_>, module: Option<&str>, x: &[f32]) -> Buffer {
        match module {
            Some(_) => norm_statistics(self.config, pass, x, self.config.hidden_size),
            None => pass.pool.take(0),
        }
    }

    /// `dx +=` the gradient of the norm's input.
    #[allow(
        clippy::too_many_arguments,
        reason = "a norm, its input and the three gradients"
    )]
    fn norm_backward(
        self,
        pass: &Pass<'_>,
        module: Option<&str>,
        x: &[f32],
        stats: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        grads: &mut Gradients,
    ) {
        match module {
            Some(module) => {
                let name = self.name(module);
                norm_backward(self.config, pass, &name, x, stats, dy, dx, grads);
            }
            None => add(dx, dy),
        }
    }

    fn forward_linear(self, pass: &Pass<'_>, layer: Layer, x: &[f32]) -> Buffer {
        let mut y = pass.pool.take(x.len() / layer.inputs * layer.outputs);
        self.linear_into(pass, layer, x, &mut y, Update::Set);
        y
    }

    fn linear_into(self, pass: &Pass<'_>, l: Layer, x: &[f32], y: &mut [f32], update: Update) {
        pass.linear_forward(&self.name(l.module), l.inputs, l.outputs, x, y, update);
    }

    /// Projections of `x`, beside each other in rows of `row`.
    fn project(self, pass: &Pass<'_>, layers: &[Layer], x: &[f32]) -> Buffer {
        if let [layer] = layers {
            return self.forward_linear(pass, *layer, x);
        }
        let row: usize = layers.iter().map(|l| l.outputs).sum();
        let mut packed = pass.pool.take(x.len() / self.config.hidden_size * row);
        let mut at = 0;
        for layer in layers {
            let part = self.forward_linear(pass, *layer, x);
            put_columns(&mut packed, row, at, &part, layer.outputs);
            at += layer.outputs;
        }
        packed
    }

    /// `dx =` the gradient of the projections' input.
    fn project_backward(
        self,
        pass: &Pass<'_>,
        layers: &[Layer],
        x: &[f32],
        dy: &[f32],
        grads: &mut Gradients,
    ) -> Buffer {
        let row: usize = layers.iter().map(|l| l.outputs).sum();
        let mut dx = pass.pool.take(x.len());
        let (mut at, mut update) = (0, Update::Set);
        for l in layers {
            let part;
            let dy = match layers.len() {
                1 => dy,
                _ => {
                    part = columns(pass, dy, row, at, l.outputs);
                    &part[..]
                }
            };
            let name = self.name(l.module);
            pass.linear_backward(&name, l.inputs, l.outputs, x, dy, &mut dx, update, grads);
            (at, update) = (at + l.outputs, Update::Add);
        }
        dx
    }

    /// Rotated queries, keys and values of `norm`; what was before the norms of queries and keys; attended values; logarithms of the
    /// softmax sums.
    fn attend(
        self,
        pass: &Pass<'_>,
        norm: &[f32],
    ) -> (Buffer, Option<[Normed; 2]>, Buffer, Buffer) {
        let (c, layout) = (self.config, self.config.head_layout());
        let n = norm.len() / c.hidden_size;
        let mut qkv = self.project(pass, &c.qkv_layers(), norm);
        let unnormed = self.norm_heads(pass, &layout, &mut qkv);
        if let Some(rotary) = c.rotary_of(self.index) {
            rotate(&mut qkv, &layout, &pass.rotary[rotary], Turn::Forward);
        }
        let mut out = pass.pool.take(n * layout.heads * layout.head_dim);
        let mut log_sum = pass.pool.take(n * layout.heads);
        attention::forward(
            &qkv,
            &layout,
            self.scoring(),
            pass.lengths,
            &mut out,
            &mut log_sum,
            pass.pool,
        );
        (qkv, unnormed, out, log_sum)
    }

    /// The gradient of the first norm's output, from `dout`, that of the attended values.
    fn attend_backward(
        self,
        pass: &Pass<'_>,
        tape: &BlockTape,
        norm: &[f32],
        dout: &[f32],
        grads: &mut Gradients,
    ) -> Buffer {
        let layout = self.config.head_layout();
        let mut dqkv = pass.pool.take(tape.qkv.len());
        attention::backward(
            &tape.qkv,
            &layout,
            self.scoring(),
            pass.lengths,
            &tape.log_sum,
            dout,
            &mut dqkv,
            pass.pool,
        );
        if let Some(rotary) = self.config.rotary_of(self.index) {
            rotate(&mut dqkv, &layout, &pass.rotary[rotary], Turn::Backward);
        }
        self.norm_heads_backward(pass, &layout, tape, &mut dqkv, grads);
        self.project_backward(pass, &self.config.qkv_layers(), norm, &dqkv, grads)
    }

    /// Norms of queries and keys, in place.
    fn norm_heads(
        self,
        pass: &Pass<'_>,
        layout: &HeadLayout,
        qkv: &mut [f32],
    ) -> Option<[Normed; 2]> {
        let norms = self.config.qk_norms()?;
        Some([0, 1].map(|which| {
            let (module, width) = norms[which];
            let input = heads(pass, qkv, layout, which);
            let stats = norm_statistics(self.config, pass, &input, width);
            let mut y = pass.pool.take(input.len());
            apply_norm(
                self.config,
                pass,
                &self.name(module),
                &input,
                &stats,
                &mut y,
            );
            put_heads(qkv, layout, which, &y);
            Normed { input, stats }
        }))
    }

    fn norm_heads_backward(
        self,
        pass: &Pass<'_>,
        layout: &HeadLayout,
        tape: &BlockTape,
        dqkv: &mut [f32],
        grads: &mut Gradients,
    ) {
        let (Some(norms), Some(kept)) = (self.config.qk_norms(), &tape.unnormed) else {
            return;
        };
        for (which, (module, _)) in norms.into_iter().enumerate() {
            let dy = heads(pass, dqkv, layout, which);
            let (name, mut dx) = (self.name(module), pass.pool.zeros(dy.len()));
            let Normed { input, stats } = &kept[which];
            norm_backward(self.config, pass, &name, input, stats, &dy, &mut dx, grads);
            put_heads(dqkv, layout, which, &dx);
        }
    }

    /// What stands before the activation (gate first), and what the MLP's last layer reads.
    fn mlp_inner(self, pass: &Pass<'_>, norm: &[f32]) -> (Vec<Buffer>, Buffer) {
        let (plan, layers) = (self.plan(), self.config.up_layers());
        let mut inner: Vec<Buffer> = layers
            .iter()
            .map(|layer| self.forward_linear(pass, *layer, norm))
            .collect();
        let width = self.config.intermediate_size;
        if let (true, [packed]) = (plan.gated, &inner[..]) {
            inner = vec![
                columns(pass, packed, 2 * width, 0, width),
                columns(pass, packed, 2 * width, width, width),
            ];
        }
        let mut after = pass.pool.take(inner[0].len());
        match &inner[..] {
            [gate, up] => gated::forward(plan.activation, gate, up, &mut after),
            _ => activation::forward(plan.activation, &inner[0], &mut after),
        }
        (inner, after)
    }

    /// The gradient of the MLP's input `norm` from `dy`, that of its output.
    fn mlp_backward(
        self,
        pass: &Pass<'_>,
        inner: &[Buffer],
        norm: &[f32],
        dy: &[f32],
        grads: &mut Gradients,
    ) -> Buffer {
        let (plan, down) = (self.plan(), self.config.down_layer());
        let name = self.name(down.module);
        let (inputs, outputs) = (down.inputs, down.outputs);
        let mut dinner = pass.pool.take(inner[0].len());
        let mut after = pass.pool.take(inner[0].len());
        pass.linear_input_backward(&name, inputs, outputs, dy, &mut dinner, Update::Set);
        let mut dup = None;
        match inner {
            [gate, up] => {
                let d = dup.insert(pass.pool.take(up.len()));
                gated::backward(plan.activation, gate, up, &mut dinner, d, &mut after);
            }
            _ => activation::backward(plan.activation, &inner[0], &mut dinner, &mut after),
        }
        pass.linear_weights_backward(&name, inputs, outputs, &after, dy, grads);
        drop(after);
        let layers = self.config.up_layers();
        let width = self.config.intermediate_size;
        match (&layers[..], dup) {
            ([_], Some(dup)) => {
                let mut packed = pass.pool.take(2 * dup.len());
                put_columns(&mut packed, 2 * width, 0, &dinner, width);
                put_columns(&mut packed, 2 * width, width, &dup, width);
                self.project_backward(pass, &layers, norm, &packed, grads)
            }
            (_, dup) => {
                let mut dnorm = pass.pool.take(norm.len());
                let mut update = Update::Set;
                for (l, d) in layers.iter().zip([Some(&dinner), dup.as_ref()]) {
                    let (Some(d), name) = (d, self.name(l.module)) else {
                        continue;
                    };
                    let (inputs, outputs) = (l.inputs, l.outputs);
                    pass.linear_backward(
                        &name, inputs, outputs, norm, d, &mut dnorm, update, grads,
                    );
                    update = Update::Add;
                }
                dnorm
            }
        }
    }

    /// Adds a layer's output to the stream, through its norm where it has one.
    fn write(
        self,
        pass: &Pass<'_>,
        layer: Layer,
        norm: Option<&str>,
        input: &[f32],
        x: &mut [f32],
    ) -> Option<Normed> {
        let Some(norm) = norm else {
            self.linear_into(pass, layer, input, x, Update::Add);
            return None;
        };
        let out = self.forward_linear(pass, layer, input);
        let stats = norm_statistics(self.config, pass, &out, self.config.hidden_size);
        let mut normed = pass.pool.take(out.len());
        apply_norm(
            self.config,
            pass,
            &self.name(norm),
            &out,
            &stats,
            &mut normed,
        );
        add(x, &normed);
        Some(Normed { input: out, stats })
    }

    /// The gradient of a layer's output from `dx`, that of the stream it was added to.
    fn write_backward<'d>(
        self,
        pass: &Pass<'_>,
        norm: Option<&str>,
        kept: Option<&Normed>,
        dx: &'d [f32],
        grads: &mut Gradients,
    ) -> Pulled<'d> {
        let (Some(norm), Some(Normed { input, stats })) = (norm, kept) else {
            return Pulled::Same(dx);
        };
        let (name, mut d) = (self.name(norm), pass.pool.zeros(dx.len()));
        norm_backward(self.config, pass, &name, input, stats, dx, &mut d, grads);
        Pulled::Through(d)
    }

    /// `x` becomes the block's output.
    pub fn forward(self, pass: &Pass<'_>, x: &mut [f32], keep: bool) -> Option<BlockTape> {
        let (plan, names) = (self.plan(), &self.config.family.names);
        let copy = |x: &[f32]| {
            let n = if keep { x.len() } else { 0 };
            let mut copy = pass.pool.take(n);
            copy.copy_from_slice(&x[..n]);
            copy
        };
        let first = names.attention_norm;
        // Two norms of one stream share its statistics.
        let of_input = first.or(names.mlp_norm.filter(|_| plan.parallel));
        let stats = self.statistics(pass, of_input, x);
        let mut norm = pass.pool.take(x.len());
        self.normed(pass, first, x, &stats, &mut norm);
        let (qkv, unnormed, attended, log_sum) = self.attend(pass, &norm);
        let input = copy(x);
        if let (true, Some(second)) = (plan.parallel, names.mlp_norm) {
            self.normed(pass, Some(second), x, &stats, &mut norm);
        }
        let out = self.config.out_layer();
        let attention_out = self.write(pass, out, names.attention_out_norm, &attended, x);
        let mut middle = None;
        if !plan.parallel {
            let stats = self.statistics(pass, names.mlp_norm, x);
            self.normed(pass, names.mlp_norm, x, &stats, &mut norm);
            middle = Some(Normed {
                input: copy(x),
                stats,
            });
        }
        let (inner, after) = self.mlp_inner(pass, &norm);
        let down = self.config.down_layer();
        let mlp_out = self.write(pass, down, names.mlp_out_norm, &after, x);
        keep.then(|| BlockTape {
            input,
            stats,
            unnormed,
            qkv,
            attended,
            log_sum,
            attention_out,
            middle,
            inner,
            mlp_out,
        })
    }

    /// `dx` comes in as the gradient of the output and leaves as that of the input.
    pub fn backward(
        self,
        pass: &Pass<'_>,
        tape: &BlockTape,
        dx: &mut [f32],
        grads: &mut Gradients,
    ) {
        let (plan, names) = (self.plan(), &self.config.family.names);
        let (first, second) = (names.attention_norm, names.mlp_norm);
        // Attention and MLP that share a norm share its output too.
        let shared = plan.parallel && second.is_none();
        let middle = tape.middle.as_ref();
        let (x, stats) = middle.map_or((&tape.input, &tape.stats), |m| (&m.input, &m.stats));
        let mut norm = pass.pool.take(dx.len());
        self.normed(
            pass,
            if shared { first } else { second },
            x,
            stats,
            &mut norm,
        );
        let kept = tape.mlp_out.as_ref();
        let dmlp = self.write_backward(pass, names.mlp_out_norm, kept, dx, grads);
        let dsecond = self.mlp_backward(pass, &tape.inner, &norm, dmlp.get(), grads);
        drop(dmlp);

        let out = self.config.out_layer();
        let name = self.name(out.module);
        let mut dattended = pass.pool.take(tape.attended.len());
        let mut out_backward = |dx: &[f32], grads: &mut Gradients| {
            let kept = tape.attention_out.as_ref();
            let dy = self.write_backward(pass, names.attention_out_norm, kept, dx, grads);
            pass.linear_backward(
                &name,
                out.inputs,
                out.outputs,
                &tape.attended,
                dy.get(),
                &mut dattended,
                Update::Set,
                grads,
            );
        };
        // The parallel form's attention sees the gradient of the output alone, the sequential one's also the MLP's.
        if plan.parallel {
            out_backward(dx, grads);
        }
        if !shared {
            self.norm_backward(pass, second, x, stats, &dsecond, dx, grads);
        }
        if !plan.parallel {
            out_backward(dx, grads);
        }
        let dshared = shared.then_some(dsecond);
        self.normed(pass, first, &tape.input, &tape.stats, &mut norm);
        let mut dnorm = self.attend_backward(pass, tape, &norm, &dattended, grads);
        if let Some(dshared) = dshared {
            add(&mut dnorm, &dshared);
        }
        self.norm_backward(pass, first, &tape.input, &tape.stats, &dnorm, dx, grads);
    }
}

/// A gradient that is another one, or was made of it.
enum Pulled<'a> {
    Same(&'a [f32]),
    Through(Buffer),
}

impl Pulled<'_> {
    fn get(&self) -> &[f32] {
        match self {
            Self::Same(d) => d,
            Self::Through(d) => d,
        }
    }
}

/// The last norm; returns its statistics.
pub(crate) fn final_norm(
    config: &ModelConfig,
    pass: &Pass<'_>,
    x: &[f32],
    y: &mut [f32],
) -> Buffer {
    let stats = norm_statistics(config, pass, x, config.hidden_size);
    apply_norm(config, pass, config.family.names.final_norm, x, &stats, y);
    stats
}

/// Adds the gradient of the last norm's input to `dx`.
pub(crate) fn final_norm_backward(
    config: &ModelConfig,
    pass: &Pass<'_>,
    x: &[f32],
    stats: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    grads: &mut Gradients,
) {
    let name = config.family.names.final_norm;
    norm_backward(config, pass, name, x, stats, dy, dx, grads);
}

fn norm_statistics(config: &ModelConfig, pass: &Pass<'_>, x: &[f32], width: usize) -> Buffer {
    let (norm, rows) = (config.plan.norm, x.len() / width);
    match norm.kind {
        NormKind::Layer => {
            let mut stats = pass.pool.take(rows * 2);
            layer_norm::statistics(x, width, norm.epsilon, &mut stats);
            stats
        }
        NormKind::Rms => {
            let mut stats = pass.pool.take(rows);
            rms_norm::statistics(x, width, norm.epsilon, &mut stats);
            stats
        }
    }
}

/// The gain as it is applied.
fn gain<'a>(config: &ModelConfig, pass: &Pass<'a>, name: &str) -> Cow<'a, [f32]> {
    let stored = pass.weights.get(&format!("{name}.weight"));
    match config.plan.norm.offset as f32 {
        0.0 => Cow::Borrowed(stored),
        offset => stored.iter().map(|w| offset + w).collect(),
    }
}

fn apply_norm(
    config: &ModelConfig,
    pass: &Pass<'_>,
    name: &str,
    x: &[f32],
    stats: &[f32],
    y: &mut [f32],
) {
    let gain = gain(config, pass, name);
    match config.plan.norm.kind {
        NormKind::Layer => {
            let bias = pass.weights.get(&format!("{name}.bias"));
            layer_norm::apply(x, stats, &gain, bias, y);
        }
        NormKind::Rms => rms_norm::apply(x, stats, &gain, y),
    }
}

/// `dx +=` the gradient of the norm's input; those of its weights, unless they are frozen.
#[allow(
    clippy::too_many_arguments,
    reason = "a norm, its input and the three gradients"
)]
fn norm_backward(
    config: &ModelConfig,
    pass: &Pass<'_>,
    name: &str,
    x: &[f32],
    stats: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    grads: &mut Gradients,
) {
    let kind = config.plan.norm.kind;
    if let Some(dgain) = grads.slice_mut(&format!("{name}.weight")) {
        match kind {
            NormKind::Layer => layer_norm::backward_gain(x, stats, dy, dgain),
            NormKind::Rms => rms_norm::backward_gain(x, stats, dy, dgain),
        }
    }
    if let Some(dbias) = grads.slice_mut(&format!("{name}.bias")) {
        linear::backward_bias(dy, dbias);
    }
    let gain = gain(config, pass, name);
    match kind {
        NormKind::Layer => layer_norm::backward_input(x, stats, &gain, dy, dx),
        NormKind::Rms => rms_norm::backward_input(x, stats, &gain, dy, dx),
    }
}

fn add(sum: &mut [f32], more: &[f32]) {
    linear::add(sum, more);
}

/// Rows of a piece of what is only copied.
const COPIED: usize = 64;

/// Columns `at..at + width` of rows of `row`.
fn columns(pass: &Pass<'_>, x: &[f32], row: usize, at: usize, width: usize) -> Buffer {
    let mut part = pass.pool.take(x.len() / row * width);
    for_each_piece(&mut part, COPIED * width, |i, part| {
        let rows = x[i * COPIED * row..].chunks_exact(row);
        for (row, part) in rows.zip(part.chunks_exact_mut(width)) {
            part.copy_from_slice(&row[at..at + width]);
        }
    });
    part
}

fn put_columns(x: &mut [f32], row: usize, at: usize, part: &[f32], width: usize) {
    for_each_piece(x, COPIED * row, |i, x| {
        let parts = part[i * COPIED * width..].chunks_exact(width);
        for (row, part) in x.chunks_exact_mut(row).zip(parts) {
            row[at..at + width].copy_from_slice(part);
        }
    });
}

/// All queries (0) or keys (1), `[tokens, heads, head_dim]`.
fn heads(pass: &Pass<'_>, qkv: &[f32], layout: &HeadLayout, which: usize) -> Buffer {
    let (count, d) = ([layout.heads, layout.kv_heads][which], layout.head_dim);
    let mut out = pass.pool.take(qkv.len() / layout.row * count * d);
    let rows = qkv.chunks_exact(layout.row);
    for (row, out) in rows.zip(out.chunks_exact_mut(count * d)) {
        for (head, out) in out.chunks_exact_mut(d).enumerate() {
            out.copy_from_slice(&row[layout.offset(which, head)..][..d]);
        }
    }
    out
}

fn put_heads(qkv: &mut [f32], layout: &HeadLayout, which: usize, heads: &[f32]) {
    let (count, d) = ([layout.heads, layout.kv_heads][which], layout.head_dim);
    let rows = qkv.chunks_exact_mut(layout.row);
    for (row, heads) in rows.zip(heads.chunks_exact(count * d)) {
        for (head, values) in heads.chunks_exact(d).enumerate() {
            row[layout.offset(which, head)..][..d].copy_from_slice(values);
        }
    }
}
