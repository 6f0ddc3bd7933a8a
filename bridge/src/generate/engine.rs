//! The network on slices: forward passes over ragged rows with a key–value cache.

use super::kernels::{self, Attention, LANES, NEIGHBOURS, add, cap, head_norm};
use super::linear::{Linear, Stored, TILE};
use super::weights::{BlockWeights, Norm, Weights, Write};
use crate::family::{Activation, Head, ModelConfig, QkNorm};
use crate::ops::rotary::HeadLayout;
use crate::ops::{activation, gated};
use crate::{Error, Result};
use candle_core::Tensor;
use rayon::prelude::*;
use rto::Token;
use std::collections::BTreeMap;

/// A network for generation and scoring on a processor, in f32; the weights of its products may be [`Stored`] in fewer bits.
///
/// Numbers of a row do not depend on the rows beside it, on the number of threads or on the cache, bit for bit, on
/// one machine. Weights are copied (and interleaved) once, by [`Engine::new`].
#[derive(Debug)]
pub struct Engine {
    pub(super) config: ModelConfig,
    pub(super) head: Head,
    pub(super) weights: Weights,
    shape: Shape,
    /// Angles per position, of each rotation.
    frequencies: Vec<Vec<f32>>,
    pool: Option<rayon::ThreadPool>,
}

/// Sizes and choices of the passes, read once.
#[derive(Debug, Clone, Copy)]
struct Shape {
    hidden: usize,
    inner: usize,
    /// Where query, key and value lie in a row of the packed projection.
    layout: HeadLayout,
    /// Width of all queries, and of all keys.
    queries: usize,
    keys: usize,
    /// x + attention(x) + mlp(x).
    parallel: bool,
    eps: f32,
    activation: Activation,
    qk_norm: Option<QkNorm>,
    /// Factor on q·k.
    scale: f32,
    score_cap: Option<f32>,
    /// Factor on the hidden states that the head reads, as in training.
    head_factor: f32,
    logit_cap: Option<f32>,
}

impl Shape {
    fn new(config: &ModelConfig) -> Self {
        let (layout, plan) = (config.head_layout(), config.plan());
        Self {
            hidden: config.hidden_size(),
            inner: config.intermediate_size(),
            queries: layout.heads * layout.head_dim,
            keys: layout.kv_heads * layout.head_dim,
            layout,
            parallel: plan.parallel,
            eps: plan.norm.epsilon as f32,
            activation: plan.activation,
            qk_norm: plan.qk_norm,
            scale: config.attention_scale() as f32,
            score_cap: plan.score_cap.map(|cap| cap as f32),
            head_factor: plan.logit_scale.unwrap_or(1.0) as f32,
            logit_cap: plan.logit_cap.map(|cap| cap as f32),
        }
    }
}

/// Some rows and a head: the first row, how many, the head.
type Part = (usize, usize, usize);

/// Every row with every head: rows of neighbouring positions of a slot together, as many as read their keys at once, the others alone.
fn parts(rows: &[Row], heads: usize) -> Vec<Part> {
    let mut parts = Vec::with_capacity(rows.len() * heads);
    let follows =
        |pair: &[Row]| pair[1].slot == pair[0].slot && pair[1].position == pair[0].position + 1;
    let mut first = 0;
    while let Some(rest @ [_, ..]) = rows.get(first..) {
        let together = rest
            .get(..NEIGHBOURS)
            .is_some_and(|rows| rows.windows(2).all(follows));
        let n = if together { NEIGHBOURS } else { 1 };
        parts.extend((0..heads).map(|head| (first, n, head)));
        first += n;
    }
    parts
}

/// Positions that a query sees.
fn seen(window: Option<usize>, position: usize) -> std::ops::Range<usize> {
    (position + 1).saturating_sub(window.unwrap_or(usize::MAX))..position + 1
}

/// A token to feed: where its keys and values go, and which position it has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) slot: usize,
    pub(super) position: usize,
    pub(super) token: Token,
}

/// Keys `[layer][slot][head][head_dim][capacity]`, values `[layer][slot][head][capacity][head_dim]`.
pub(super) struct Cache {
    keys: Vec<f32>,
    values: Vec<f32>,
    slots: usize,
    capacity: usize,
    /// cos and sin of each rotation, each `[capacity][rotated pairs]`.
    rotary: Vec<(Vec<f32>, Vec<f32>)>,
}

/// Buffers of a forward pass, kept between passes.
#[derive(Default)]
pub(super) struct Buffers {
    /// The residual stream `[panel][hidden][16]`; after [`Engine::forward`], the final norm of it.
    pub(super) hidden: Vec<f32>,
    normed: Vec<f32>,
    wide: Vec<f32>,
    gate: Vec<f32>,
    attended: Vec<f32>,
    update: Vec<f32>,
    queries: Vec<f32>,
    heads: Vec<f32>,
}

impl Engine {
    /// An engine from weights under their Hugging Face names, on any device and in any float type. It has one thread.
    ///
    /// # Errors
    /// [`Error::Request`] naming a tensor that is missing, misshapen or not finite.
    pub fn new(
        config: impl Into<ModelConfig>,
        head: Head,
        weights: &BTreeMap<String, Tensor>,
    ) -> Result<Self> {
        Self::stored(config, head, weights, Stored::F32)
    }

    /// The same with the weights of products as `stored` says: another network q, near the one that was given.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn stored(
        config: impl Into<ModelConfig>,
        head: Head,
        weights: &BTreeMap<String, Tensor>,
        stored: Stored,
    ) -> Result<Self> {
        let config = config.into();
        Ok(Self {
            weights: Weights::new(&config, head, weights, stored)?,
            frequencies: config.rotaries().iter().map(|r| r.frequencies()).collect(),
            shape: Shape::new(&config),
            config,
            head,
            pool: None,
        })
    }

    /// The engine with that many threads of its own (0 and 1 mean the caller's alone). No number depends on it.
    ///
    /// # Errors
    /// [`Error::Request`] where the system gives no threads.
    pub fn with_threads(mut self, threads: usize) -> Result<Self> {
        self.pool = match threads {
            0 | 1 => None,
            n => Some(
                rayon::ThreadPoolBuilder::new()
                    .num_threads(n)
                    .build()
                    .map_err(|e| Error::request("threads", e))?,
            ),
        };
        Ok(self)
    }

    /// Shape of the network.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What stands on the trunk.
    pub fn head(&self) -> Head {
        self.head
    }

    pub(super) fn threads(&self) -> usize {
        self.pool
            .as_ref()
            .map_or(1, rayon::ThreadPool::current_num_threads)
    }

    /// Runs inside the engine's threads, where it has some.
    pub(super) fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    pub(super) fn cache(&self, slots: usize, capacity: usize) -> Cache {
        let capacity = capacity.next_multiple_of(LANES);
        let size = self.config.n_layers() * slots * self.shape.keys * capacity;
        Cache {
            keys: vec![0.0; size],
            values: vec![0.0; size],
            slots,
            capacity,
            rotary: self
                .frequencies
                .iter()
                .map(|f| rotary_tables(f, capacity))
                .collect(),
        }
    }

    /// Feeds rows (rows of one slot in the order of their positions) and leaves their final hidden states in
    /// `buffers.hidden`.
    pub(super) fn forward(&self, rows: &[Row], cache: &mut Cache, buffers: &mut Buffers) {
        let hidden = self.shape.hidden;
        let panels = rows.len().div_ceil(LANES);
        buffers.resize(&self.shape, panels);
        buffers.hidden.fill(0.0);
        for (i, row) in rows.iter().enumerate() {
            let embedding = &self.weights.embedding[row.token as usize * hidden..][..hidden];
            scatter(embedding, lane_mut(&mut buffers.hidden, hidden, i));
            if let Some(table) = &self.weights.positions {
                let lane = lane_mut(&mut buffers.hidden, hidden, i);
                for (feature, value) in table[row.position * hidden..][..hidden].iter().enumerate()
                {
                    lane[feature * LANES] += value;
                }
            }
        }
        for (index, layer) in self.weights.layers.iter().enumerate() {
            self.block(index, layer, rows, cache, buffers);
        }
        self.norm(
            &self.weights.final_norm,
            &buffers.hidden,
            &mut buffers.normed,
        );
        std::mem::swap(&mut buffers.hidden, &mut buffers.normed);
    }

    fn block(
        &self,
        index: usize,
        layer: &BlockWeights,
        rows: &[Row],
        cache: &mut Cache,
        b: &mut Buffers,
    ) {
        let hidden = self.shape.hidden;
        let panels = rows.len().div_ceil(LANES);
        self.normed(layer.attention_norm.as_ref(), b);
        self.linear(
            &layer.query_key_value,
            (&b.normed, hidden),
            rows.len(),
            &mut b.wide,
        );
        self.attention(index, layer, rows, cache, b);
        self.update(
            &layer.dense,
            (&b.attended, self.shape.queries),
            rows.len(),
            &mut b.update,
        );
        if self.shape.parallel {
            // Without a norm of its own the MLP reads the attention's.
            if layer.mlp_norm.is_some() {
                self.normed(layer.mlp_norm.as_ref(), b);
            }
            self.add_update(&mut b.hidden, &layer.dense, &b.update);
        } else {
            self.add_update(&mut b.hidden, &layer.dense, &b.update);
            self.normed(layer.mlp_norm.as_ref(), b);
        }
        let inner = layer.up.tiles() * TILE;
        self.linear(&layer.up, (&b.normed, hidden), rows.len(), &mut b.wide);
        let wide = &mut b.wide[..panels * inner * LANES];
        match &layer.gate {
            None => {
                let after = &mut b.gate[..wide.len()];
                activation::forward_alone(self.shape.activation, wide, after);
            }
            Some(gate) => {
                self.linear(gate, (&b.normed, hidden), rows.len(), &mut b.gate);
                let gate = &mut b.gate[..wide.len()];
                gated::forward_alone(self.shape.activation, gate, wide);
            }
        }
        self.update(&layer.down, (&b.gate, inner), rows.len(), &mut b.update);
        self.add_update(&mut b.hidden, &layer.down, &b.update);
    }

    /// The norm of the stream, or the stream where there is none.
    fn normed(&self, norm: Option<&Norm>, b: &mut Buffers) {
        match norm {
            Some(norm) => self.norm(norm, &b.hidden, &mut b.normed),
            None => b.normed.copy_from_slice(&b.hidden),
        }
    }

    /// What is about to be added to the stream, through its norm where it has one.
    fn update(&self, write: &Write, input: (&[f32], usize), rows: usize, update: &mut [f32]) {
        self.linear(&write.linear, input, rows, update);
        let Some(norm) = &write.norm else { return };
        let size = self.shape.hidden * LANES;
        let padded = self.shape.hidden.next_multiple_of(TILE) * LANES;
        let mut out = vec![0.0; size];
        for update in update.chunks_exact_mut(padded) {
            self.norm(norm, &update[..size], &mut out);
            update[..size].copy_from_slice(&out);
        }
    }

    /// Features of `update` are padded to whole tiles.
    fn add_update(&self, hidden: &mut [f32], write: &Write, update: &[f32]) {
        let size = self.shape.hidden * LANES;
        let padded = self.shape.hidden.next_multiple_of(TILE) * LANES;
        for (hidden, update) in hidden
            .chunks_exact_mut(size)
            .zip(update.chunks_exact(padded))
        {
            add(hidden, &write.bias, update);
        }
    }

    fn norm(&self, norm: &Norm, x: &[f32], out: &mut [f32]) {
        let size = self.shape.hidden * LANES;
        let eps = self.shape.eps;
        for (x, out) in x.chunks_exact(size).zip(out.chunks_exact_mut(size)) {
            kernels::norm(x, &norm.gain, &norm.shift, eps, out);
        }
    }

    /// W x + b of `rows` rows, panel by panel; `stride` features lie between panels of the input.
    fn linear(
        &self,
        linear: &Linear,
        (input, stride): (&[f32], usize),
        rows: usize,
        output: &mut [f32],
    ) {
        /// Multiplications below which a second thread costs more than it brings.
        const WORTH_A_THREAD: usize = 1 << 17;
        let (size, panels) = (linear.tiles() * TILE * LANES, rows.div_ceil(LANES));
        let inputs: Vec<&[f32]> = input.chunks_exact(stride * LANES).take(panels).collect();
        let outputs = output.chunks_exact_mut(size).take(panels);
        // All of a panel where there are several: the last one, with few rows, is little of the work then.
        let rows = rows.min(LANES);
        if self.pool.is_none() || size * stride < WORTH_A_THREAD {
            let mut outputs: Vec<&mut [f32]> = outputs.collect();
            return linear.apply(0, rows, &inputs, &mut outputs);
        }
        let share = linear.tiles().div_ceil(self.threads());
        let parts = shares(outputs, share * TILE * LANES);
        parts.into_par_iter().enumerate().for_each(|(i, mut part)| {
            linear.apply(i * share, rows, &inputs, &mut part);
        });
    }

    fn attention(
        &self,
        layer: usize,
        weights: &BlockWeights,
        rows: &[Row],
        cache: &mut Cache,
        b: &mut Buffers,
    ) {
        self.norm_heads(weights, rows.len(), b);
        let window = self.config.window(layer);
        let Shape {
            layout, queries, ..
        } = self.shape;
        let stride = layout.row.next_multiple_of(TILE);
        for (i, row) in rows.iter().enumerate() {
            let lane = &b.wide[i / LANES * stride * LANES + i % LANES..];
            self.store(
                layer,
                *row,
                lane,
                cache,
                &mut b.queries[i * queries..][..queries],
            );
        }
        let head_dim = layout.head_dim;
        let cache = &*cache;
        let one = |((first, n, head), out): (Part, &mut [f32])| {
            let at = cache.at(&self.shape, layer, rows[first].slot)
                + layout.kv_head(head) * head_dim * cache.capacity;
            let size = head_dim * cache.capacity;
            let query = |row: usize| &b.queries[row * queries + head * head_dim..][..head_dim];
            let queries: Vec<&[f32]> = (first..first + n).map(query).collect();
            let see = |row: &Row| seen(window, row.position);
            let seen: Vec<_> = rows[first..first + n].iter().map(see).collect();
            let attention = Attention {
                keys: &cache.keys[at..][..size],
                values: &cache.values[at..][..size],
                capacity: cache.capacity,
                scale: self.shape.scale,
                bound: self.shape.score_cap,
            };
            let mut scores = Scores::of(n * cache.capacity);
            attention.attend(&queries, &seen, scores.slice(), out);
        };
        let parts = parts(rows, layout.heads);
        let mut rest = &mut b.heads[..];
        let mut work = Vec::with_capacity(parts.len());
        for &(first, n, head) in &parts {
            let out = rest.split_off_mut(..n * head_dim);
            work.push(((first, n, head), out.expect("heads of all rows")));
        }
        let seen: usize = rows.iter().map(|r| r.position + 1).sum();
        if self.pool.is_none() || seen * queries < 1 << 17 {
            work.into_iter().for_each(one);
        } else {
            work.into_par_iter().for_each(one);
        }
        b.attended.fill(0.0);
        let mut done = &b.heads[..];
        for (first, n, head) in parts {
            for row in first..first + n {
                let (values, rest) = done.split_at(head_dim);
                let lane = lane_mut(&mut b.attended, queries, row);
                scatter(values, &mut lane[head * head_dim * LANES..]);
                done = rest;
            }
        }
    }

    /// Norms of queries and keys, in the packed projection.
    fn norm_heads(&self, weights: &BlockWeights, rows: usize, b: &mut Buffers) {
        let (Some(norms), Some(kind)) = (&weights.qk_norms, self.shape.qk_norm) else {
            return;
        };
        let (layout, eps) = (&self.shape.layout, self.shape.eps);
        let stride = layout.row.next_multiple_of(TILE);
        for panel in b
            .wide
            .chunks_exact_mut(stride * LANES)
            .take(rows.div_ceil(LANES))
        {
            for (which, heads) in [layout.heads, layout.kv_heads].into_iter().enumerate() {
                let starts: Vec<usize> = (0..heads).map(|h| layout.offset(which, h)).collect();
                let together = match kind {
                    QkNorm::Head => 1,
                    QkNorm::Row => heads,
                };
                let Norm { gain, shift } = &norms[which];
                for starts in starts.chunks(together) {
                    head_norm(panel, starts, layout.head_dim, gain, shift, eps);
                }
            }
        }
    }

    /// Rotates one row's queries and keys; keys and values go to the cache, queries to `queries`.
    fn store(&self, layer: usize, row: Row, lane: &[f32], cache: &mut Cache, queries: &mut [f32]) {
        let (layout, capacity) = (&self.shape.layout, cache.capacity);
        let head_dim = layout.head_dim;
        let base = cache.at(&self.shape, layer, row.slot);
        let Cache {
            keys,
            values,
            rotary,
            ..
        } = cache;
        let (cos, sin): (&[f32], &[f32]) = match self.config.rotary_of(layer) {
            Some(which) => {
                let (cos, sin) = &rotary[which];
                let half = self.frequencies[which].len();
                let at = row.position * half..(row.position + 1) * half;
                (&cos[at.clone()], &sin[at])
            }
            None => (&[], &[]),
        };
        let half = cos.len();
        let rotated = |part: usize, head: usize, d: usize| {
            let value = |d: usize| lane[(layout.offset(part, head) + d) * LANES];
            match d {
                d if d < half => value(d) * cos[d] - value(d + half) * sin[d],
                d if d < 2 * half => value(d) * cos[d - half] + value(d - half) * sin[d - half],
                d => value(d),
            }
        };
        for (head, query) in queries.chunks_exact_mut(head_dim).enumerate() {
            for (d, query) in query.iter_mut().enumerate() {
                *query = rotated(0, head, d);
            }
        }
        for head in 0..layout.kv_heads {
            let at = base + head * head_dim * capacity;
            for d in 0..head_dim {
                let value = lane[(layout.offset(2, head) + d) * LANES];
                keys[at + d * capacity + row.position] = rotated(1, head, d);
                values[at + row.position * head_dim + d] = value;
            }
        }
    }

    /// The head on up to sixteen rows of `hidden`, into `out` `[rows][outputs]`.
    pub(super) fn apply_head(
        &self,
        hidden: &[f32],
        rows: &[usize],
        input: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let (size, head) = (self.shape.hidden, &self.weights.head);
        let factor = match self.head {
            Head::CausalLm => self.shape.head_factor,
            Head::Classification { .. } => 1.0,
        };
        let n_rows = rows.len();
        input.clear();
        input.resize(size * LANES, 0.0);
        for (lane, &row) in rows.iter().enumerate() {
            let from = &hidden[row / LANES * size * LANES + row % LANES..];
            for feature in 0..size {
                input[feature * LANES + lane] = factor * from[feature * LANES];
            }
        }
        let share = head.tiles().div_ceil(self.threads()).max(1);
        let rows = out.chunks_exact_mut(head.outputs()).take(rows.len());
        let parts = shares(rows, share * TILE);
        let input = &*input;
        let one = |(i, part): (usize, Vec<&mut [f32]>)| head_part(head, i * share, input, part);
        match self.pool {
            None => parts.into_iter().enumerate().for_each(one),
            Some(_) => parts.into_par_iter().enumerate().for_each(one),
        }
        if let (Head::CausalLm, Some(bound)) = (self.head, self.shape.logit_cap) {
            cap(&mut out[..n_rows * head.outputs()], bound);
        }
    }
}

/// The i-th piece of `size` of every one of `all`, for each i.
fn shares<'a>(all: impl Iterator<Item = &'a mut [f32]>, size: usize) -> Vec<Vec<&'a mut [f32]>> {
    let mut parts: Vec<Vec<&mut [f32]>> = Vec::new();
    for one in all {
        for (i, part) in one.chunks_mut(size).enumerate() {
            if parts.len() == i {
                parts.push(Vec::with_capacity(LANES));
            }
            parts[i].push(part);
        }
    }
    parts
}

/// Some tiles of the head, turned from panels to rows while they are in the second cache.
fn head_part(head: &Linear, first: usize, input: &[f32], mut rows: Vec<&mut [f32]>) {
    const TOGETHER: usize = 8;
    let mut panel = vec![0.0; TOGETHER * TILE * LANES];
    let columns = rows.first().map_or(0, |row| row.len());
    for start in (0..columns).step_by(TOGETHER * TILE) {
        let width = (TOGETHER * TILE).min(columns - start);
        let panel = &mut panel[..width.next_multiple_of(TILE) * LANES];
        head.apply(
            first + start / TILE,
            rows.len(),
            &[input],
            &mut [&mut *panel],
        );
        for (lane, row) in rows.iter_mut().enumerate() {
            for (column, out) in row[start..][..width].iter_mut().enumerate() {
                *out = panel[column * LANES + lane];
            }
        }
    }
}

impl Cache {
    fn at(&self, shape: &Shape, layer: usize, slot: usize) -> usize {
        (layer * self.slots + slot) * shape.keys * self.capacity
    }
}

/// Attention scores of one row and head; on the stack for usual lengths.
#[allow(
    clippy::large_enum_variant,
    reason = "the large variant is there to need no allocation"
)]
enum Scores {
    Short([f32; 512], usize),
    Long(Vec<f32>),
}

impl Scores {
    fn of(capacity: usize) -> Self {
        if capacity <= 512 {
            Self::Short([0.0; 512], capacity)
        } else {
            Self::Long(vec![0.0; capacity])
        }
    }

    fn slice(&mut self) -> &mut [f32] {
        match self {
            Self::Short(array, n) => &mut array[..*n],
            Self::Long(vec) => vec,
        }
    }
}

impl Buffers {
    fn resize(&mut self, shape: &Shape, panels: usize) {
        let padded = |features: usize| panels * features.next_multiple_of(TILE) * LANES;
        for (buffer, features) in [
            (&mut self.hidden, shape.hidden),
            (&mut self.normed, shape.hidden),
            (&mut self.attended, shape.queries),
            (&mut self.queries, shape.queries),
            (&mut self.heads, shape.queries),
        ] {
            buffer.resize(panels * features * LANES, 0.0);
        }
        let widest = padded(shape.layout.row.max(shape.inner));
        self.wide.resize(widest, 0.0);
        self.gate.resize(padded(shape.inner), 0.0);
        self.update.resize(padded(shape.hidden), 0.0);
    }
}

/// Lane `i % 16` of panel `i / 16`, as the start of a strided column.
fn lane_mut(panels: &mut [f32], features: usize, i: usize) -> &mut [f32] {
    &mut panels[i / LANES * features * LANES + i % LANES..]
}

fn scatter(values: &[f32], lane: &mut [f32]) {
    for (feature, value) in values.iter().enumerate() {
        lane[feature * LANES] = *value;
    }
}

/// cos and sin of position · frequency, the angle in f32 as Hugging Face computes it.
pub(super) fn rotary_tables(frequencies: &[f32], positions: usize) -> (Vec<f32>, Vec<f32>) {
    let angles = (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f));
    angles
        .map(|a| (f64::from(a).cos() as f32, f64::from(a).sin() as f32))
        .unzip()
}
