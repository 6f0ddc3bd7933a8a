//! Log-probabilities of given tokens under `softmax(h Wᵀ)`, without the `[tokens, vocabulary]` matrix.
//!
//! The matrix is visited in tiles of [`tile_rows`] tokens by about `COLUMNS` vocabulary entries. The forward pass keeps a running maximum
//! and sum per token; the backward pass makes each tile again from the log-sum-exp, unless there was room to keep the logits.
//! On the way, if asked: the exact entropy `−Σ_a p log p` and the exact divergences `Σ_a p log(p/q)` from a reference distribution and
//! `Σ_a q log(q/p)` of it.

use super::buffer::{Buffer, Pool};
use super::gemm::{Mat, MatMut, Products, Update, product};
use super::linear::{self, Linear};
use super::simd::{LANES, exp, fold, for_each_piece, max, tanh, vectorized};
use rayon::prelude::*;

/// Tokens of a tile, by the width of a hidden state. A product packs the vocabulary's vectors for every tile, which more tokens make
/// cheaper; a row of the weight's gradient is a sum over tiles, so that narrow networks keep the tiles that they had.
fn tile_rows(width: usize) -> usize {
    if width < 512 { 128 } else { 256 }
}

/// Vocabulary entries of a tile, about.
const COLUMNS: usize = 1024;
/// Floats of the tiles that several threads fill between two phases of a backward pass.
const SHARED: usize = 1 << 22;

/// Unnormalised log-probabilities `h Wᵀ` of `rows` tokens over a vocabulary.
#[derive(Debug, Clone, Copy)]
pub struct Distribution<'a> {
    /// `[rows, width]`.
    pub hidden: &'a [f32],
    /// `[vocabulary, width]`.
    pub weight: &'a [f32],
    /// The width of a hidden state.
    pub width: usize,
    /// What is done to every logit.
    pub cap: Option<Cap>,
    /// What is rounded before it is multiplied.
    pub products: Products,
}

/// `l ↦ c tanh(l/c)/T`. Without a cap, 1/T is a factor on the hidden states and costs nothing here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cap {
    /// c.
    pub cap: f32,
    /// T.
    pub temperature: f32,
}

impl Cap {
    #[inline(always)]
    fn apply(self, logit: f32) -> f32 {
        self.cap * tanh(logit / self.cap) / self.temperature
    }

    /// The derivative, from what [`Cap::apply`] gave.
    #[inline(always)]
    fn slope(self, capped: f32) -> f32 {
        let tanh = capped * self.temperature / self.cap;
        (1.0 - tanh * tanh) / self.temperature
    }
}

/// `l ↦ c tanh(l/c)`, where there is a cap.
pub fn bend(logits: &mut [f32], cap: Option<f64>) {
    if let Some(cap) = cap {
        let cap = Cap {
            cap: cap as f32,
            temperature: 1.0,
        };
        vectorized(
            #[inline(always)]
            || logits.iter_mut().for_each(|l| *l = cap.apply(*l)),
        );
    }
}

impl Distribution<'_> {
    fn vocabulary(&self) -> usize {
        self.weight.len() / self.width
    }

    fn logits(&self, rows: Span, columns: Span, out: &mut [f32]) {
        let layer = Linear {
            weight: &self.weight[columns.start * self.width..][..columns.len * self.width],
            bias: None,
            inputs: self.width,
            outputs: columns.len,
            products: self.products,
        };
        linear::forward(&layer, self.hidden_rows(rows), out, Update::Set);
        if let Some(cap) = self.cap {
            vectorized(
                #[inline(always)]
                || out.iter_mut().for_each(|l| *l = cap.apply(*l)),
            );
        }
    }

    fn hidden_rows(&self, rows: Span) -> &[f32] {
        &self.hidden[rows.start * self.width..][..rows.len * self.width]
    }
}

/// What is computed beside the log-probabilities, and how much memory may be spent.
#[derive(Debug, Clone, Copy, Default)]
pub struct HeadOptions<'a> {
    /// Compute the entropy.
    pub entropy: bool,
    /// Compute the divergence from this distribution over the same vocabulary.
    pub reference: Option<Distribution<'a>>,
    /// Compute the divergence of that distribution from this one too.
    pub kl_from: bool,
    /// Keep the logits for the backward pass where they take at most this many floats.
    pub keep: usize,
}

/// Per token, what [`forward`] found.
#[derive(Debug)]
pub struct HeadOutput {
    /// `log p(target)`.
    pub log_prob: Vec<f32>,
    /// `−Σ p log p`, if asked for.
    pub entropy: Option<Vec<f32>>,
    /// `Σ p log(p/q)`, if there is a reference.
    pub kl: Option<Vec<f32>>,
    /// `Σ q log(q/p)`, if asked for and there is a reference.
    pub kl_from: Option<Vec<f32>>,
    log_sum: Vec<f32>,
    reference_log_sum: Vec<f32>,
    logits: Option<Buffer>,
}

/// Gradients of a scalar with respect to the outputs of [`forward`], one number a token.
#[derive(Debug, Clone, Copy)]
pub struct HeadGrad<'a> {
    /// `∂ℒ/∂log_prob`, one a target.
    pub log_prob: &'a [f32],
    /// `∂ℒ/∂entropy`, one a target.
    pub entropy: Option<&'a [f32]>,
    /// `∂ℒ/∂kl`, one a target.
    pub kl: Option<&'a [f32]>,
    /// `∂ℒ/∂kl_from`, one a target.
    pub kl_from: Option<&'a [f32]>,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    len: usize,
}

/// `0..total` in consecutive spans of `size`, the last one shorter.
fn spans(total: usize, size: usize) -> Vec<Span> {
    let span = |start: usize| Span {
        start,
        len: size.min(total - start),
    };
    (0..total).step_by(size.max(1)).map(span).collect()
}

/// Vocabulary tiles of nearly equal width.
fn columns(vocabulary: usize) -> Vec<Span> {
    let tiles = vocabulary.div_ceil(COLUMNS).max(1);
    spans(
        vocabulary,
        vocabulary.div_ceil(tiles).next_multiple_of(LANES),
    )
}

/// Running sums of one token: with `w_a = e^{z_a − top}`, `Σ w`, `Σ w z` and `Σ w (z − z′)`; and `Σ w′ (z′ − z)` with
/// the weights of the reference.
#[derive(Debug, Clone, Copy)]
struct Running {
    top: f32,
    sum: f32,
    moment: f32,
    gap: f32,
    reference_top: f32,
    reference_sum: f32,
    reference_gap: f32,
    target: f32,
}

const START: Running = Running {
    top: f32::NEG_INFINITY,
    sum: 0.0,
    moment: 0.0,
    gap: 0.0,
    reference_top: f32::NEG_INFINITY,
    reference_sum: 0.0,
    reference_gap: 0.0,
    target: f32::NAN,
};

/// Log-probabilities of `targets` and what `options` asks for.
pub fn forward(
    policy: &Distribution<'_>,
    targets: &[u32],
    options: &HeadOptions<'_>,
    pool: &Pool,
) -> HeadOutput {
    let (vocabulary, tall) = (policy.vocabulary(), tile_rows(policy.width));
    let mut logits =
        (targets.len() * vocabulary <= options.keep).then(|| pool.take(targets.len() * vocabulary));
    let mut running = vec![START; targets.len()];
    let kept: Vec<Option<&mut [f32]>> = match &mut logits {
        Some(all) => all.chunks_mut(tall * vocabulary).map(Some).collect(),
        None => (0..targets.len().div_ceil(tall)).map(|_| None).collect(),
    };
    let mut tiles: Vec<_> = running
        .chunks_mut(tall)
        .zip(kept)
        .zip(spans(targets.len(), tall))
        .collect();
    for_each_piece(&mut tiles, 1, |_, tile| {
        let ((running, kept), rows) = &mut tile[0];
        scan_rows(
            policy,
            options,
            &targets[rows.start..][..rows.len],
            *rows,
            running,
            kept.as_deref_mut(),
            pool,
        );
    });
    drop(tiles);
    finish(&running, options, logits)
}

fn scan_rows(
    policy: &Distribution<'_>,
    options: &HeadOptions<'_>,
    targets: &[u32],
    rows: Span,
    running: &mut [Running],
    mut kept: Option<&mut [f32]>,
    pool: &Pool,
) {
    let tiles = columns(policy.vocabulary());
    let largest = tiles[0].len * rows.len;
    let mut scratch = pool.take(if kept.is_some() { 0 } else { largest });
    let mut other = pool.take(if options.reference.is_some() {
        largest
    } else {
        0
    });
    for columns in tiles {
        let tile = match &mut kept {
            Some(all) => &mut all[rows.len * columns.start..][..rows.len * columns.len],
            None => &mut scratch[..rows.len * columns.len],
        };
        policy.logits(rows, columns, tile);
        let other = options.reference.map(|reference| {
            let other = &mut other[..rows.len * columns.len];
            reference.logits(rows, columns, other);
            &*other
        });
        vectorized(
            #[inline(always)]
            || {
                for (i, (running, z)) in running
                    .iter_mut()
                    .zip(tile.chunks_exact(columns.len))
                    .enumerate()
                {
                    let target = (targets[i] as usize).wrapping_sub(columns.start);
                    if target < columns.len {
                        running.target = z[target];
                    }
                    match (other, options.entropy) {
                        (Some(other), _) => {
                            let other = &other[i * columns.len..][..columns.len];
                            running.add_pair(z, other, options.kl_from);
                        }
                        (None, true) => running.add_moment(z),
                        (None, false) => running.add(z),
                    }
                }
            },
        );
    }
}

impl Running {
    /// Moves the shift of the sums to the larger of the old one and `top`.
    #[inline(always)]
    fn raise(&mut self, top: f32) {
        if top > self.top {
            let factor = if self.sum == 0.0 {
                0.0
            } else {
                exp(self.top - top)
            };
            self.sum *= factor;
            self.moment *= factor;
            self.gap *= factor;
            self.top = top;
        }
    }

    #[inline(always)]
    fn add(&mut self, z: &[f32]) {
        self.raise(max(z));
        self.sum += sum_exp(z, self.top);
    }

    #[inline(always)]
    fn add_moment(&mut self, z: &[f32]) {
        self.raise(max(z));
        let (mut sums, mut moments) = ([0.0f32; LANES], [0.0f32; LANES]);
        for chunk in z.chunks(LANES) {
            for (lane, &z) in chunk.iter().enumerate() {
                let weight = exp(z - self.top);
                sums[lane] += weight;
                moments[lane] = weight.mul_add(z, moments[lane]);
            }
        }
        self.sum += fold(sums);
        self.moment += fold(moments);
    }

    #[inline(always)]
    fn add_pair(&mut self, z: &[f32], reference: &[f32], kl_from: bool) {
        self.add_moment(z);
        let mut gaps = [0.0f32; LANES];
        for (chunk, other) in z.chunks(LANES).zip(reference.chunks(LANES)) {
            for (lane, (&z, &r)) in chunk.iter().zip(other).enumerate() {
                gaps[lane] = exp(z - self.top).mul_add(z - r, gaps[lane]);
            }
        }
        self.gap += fold(gaps);
        let top = max(reference);
        if top > self.reference_top {
            let started = self.reference_sum > 0.0;
            let factor = if started {
                exp(self.reference_top - top)
            } else {
                0.0
            };
            self.reference_sum *= factor;
            self.reference_gap *= factor;
            self.reference_top = top;
        }
        self.reference_sum += sum_exp(reference, self.reference_top);
        if kl_from {
            let mut gaps = [0.0f32; LANES];
            for (chunk, other) in z.chunks(LANES).zip(reference.chunks(LANES)) {
                for (lane, (&z, &r)) in chunk.iter().zip(other).enumerate() {
                    gaps[lane] = exp(r - self.reference_top).mul_add(r - z, gaps[lane]);
                }
            }
            self.reference_gap += fold(gaps);
        }
    }
}

#[inline(always)]
fn sum_exp(z: &[f32], shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (whole, rest) = z.as_chunks::<LANES>();
    for chunk in whole {
        for lane in 0..LANES {
            lanes[lane] += exp(chunk[lane] - shift);
        }
    }
    for (lane, z) in rest.iter().enumerate() {
        lanes[lane] += exp(z - shift);
    }
    fold(lanes)
}

fn finish(running: &[Running], options: &HeadOptions<'_>, logits: Option<Buffer>) -> HeadOutput {
    let all = |f: &dyn Fn(&Running) -> f32| running.iter().map(f).collect::<Vec<f32>>();
    let log_sum = all(&|r| r.top + r.sum.ln());
    let reference_log_sum = match options.reference {
        Some(_) => all(&|r| r.reference_top + r.reference_sum.ln()),
        None => Vec::new(),
    };
    let kl = options.reference.map(|_| {
        let parts = running.iter().zip(&log_sum).zip(&reference_log_sum);
        parts
            .map(|((r, log_sum), reference)| r.gap / r.sum - log_sum + reference)
            .collect()
    });
    let kl_from = options.reference.filter(|_| options.kl_from).map(|_| {
        let parts = running.iter().zip(&log_sum).zip(&reference_log_sum);
        parts
            .map(|((r, log_sum), reference)| {
                r.reference_gap / r.reference_sum - reference + log_sum
            })
            .collect()
    });
    HeadOutput {
        log_prob: running
            .iter()
            .zip(&log_sum)
            .map(|(r, s)| r.target - s)
            .collect(),
        entropy: options.entropy.then(|| {
            running
                .iter()
                .zip(&log_sum)
                .map(|(r, s)| s - r.moment / r.sum)
                .collect()
        }),
        kl,
        kl_from,
        log_sum,
        reference_log_sum,
        logits,
    }
}

/// One backward pass: everything a tile needs to become the gradient of its logits.
struct Pullback<'a> {
    policy: &'a Distribution<'a>,
    targets: &'a [u32],
    reference: Option<Distribution<'a>>,
    output: &'a HeadOutput,
    grad: &'a HeadGrad<'a>,
    pool: &'a Pool,
}

/// Pulls the gradients of the outputs back: `dhidden += …` and, unless the weight is frozen, `dweight += …`.
///
/// `reference` must be the one of the forward pass. With `p` the probabilities, the gradient of a logit is
/// `g (1[a = target] − p_a) − g_H p_a (log p_a + H) + g_K p_a (log(p_a/q_a) − K) + g_F (p_a − q_a)`.
pub fn backward(
    policy: &Distribution<'_>,
    targets: &[u32],
    reference: Option<Distribution<'_>>,
    mut output: HeadOutput,
    grad: &HeadGrad<'_>,
    dhidden: &mut [f32],
    dweight: Option<&mut [f32]>,
    pool: &Pool,
) {
    let logits = output.logits.take();
    let pullback = Pullback {
        policy,
        targets,
        reference,
        output: &output,
        grad,
        pool,
    };
    if rayon::current_num_threads() == 1 {
        pullback.in_turn(logits, dhidden, dweight);
    } else {
        pullback.in_phases(logits, dhidden, dweight);
    }
}

impl Pullback<'_> {
    /// Tile by tile while it is in the cache.
    fn in_turn(
        &self,
        mut logits: Option<Buffer>,
        dhidden: &mut [f32],
        mut dweight: Option<&mut [f32]>,
    ) {
        let (width, vocabulary) = (self.policy.width, self.policy.vocabulary());
        let tall = tile_rows(width);
        let tiles = columns(vocabulary);
        let kept = logits.is_some();
        let mut scratch = self.pool.take(if kept { 0 } else { tall * tiles[0].len });
        for columns in tiles {
            for rows in spans(self.targets.len(), tall) {
                let tile = match &mut logits {
                    Some(all) => &mut all[rows.start * vocabulary + rows.len * columns.start..],
                    None => &mut scratch[..],
                };
                let tile = &mut tile[..rows.len * columns.len];
                self.fill(rows, columns, kept, tile);
                self.add_to_hidden(rows, columns, tile, &mut dhidden[rows.start * width..]);
                if let Some(dweight) = dweight.as_deref_mut() {
                    self.add_to_weight(rows, columns, tile, &mut dweight[columns.start * width..]);
                }
            }
        }
    }

    /// Several tiles at once: first all rows of a group of columns, then all its columns. The same products in the same
    /// order per element as [`Pullback::in_turn`].
    fn in_phases(
        &self,
        mut logits: Option<Buffer>,
        dhidden: &mut [f32],
        mut dweight: Option<&mut [f32]>,
    ) {
        let (width, n) = (self.policy.width, self.targets.len());
        let tall = tile_rows(width);
        let tiles = columns(self.policy.vocabulary());
        let kept = logits.is_some();
        let fits = (SHARED / (n.max(1) * tiles[0].len)).max(1);
        for group in tiles.chunks(if kept { tiles.len() } else { fits }) {
            let group_width: usize = group.iter().map(|c| c.len).sum();
            let mut all = logits
                .take()
                .unwrap_or_else(|| self.pool.take(n * group_width));
            let first = group[0].start;
            let place = |rows: Span, columns: Span| {
                rows.len * (columns.start - first)..rows.len * (columns.start - first + columns.len)
            };
            let row_tiles = dhidden
                .par_chunks_mut(tall * width)
                .zip(all.par_chunks_mut(tall * group_width));
            row_tiles
                .zip(spans(n, tall))
                .for_each(|((dhidden, tiles), rows)| {
                    for &columns in group {
                        let tile = &mut tiles[place(rows, columns)];
                        self.fill(rows, columns, kept, tile);
                        self.add_to_hidden(rows, columns, tile, dhidden);
                    }
                });
            let Some(dweight) = dweight.as_deref_mut() else {
                continue;
            };
            let last = first + group_width;
            dweight[first * width..last * width]
                .par_chunks_mut(group[0].len * width)
                .zip(group)
                .for_each(|(dweight, &columns)| {
                    for (rows, tiles) in spans(n, tall)
                        .into_iter()
                        .zip(all.chunks(tall * group_width))
                    {
                        self.add_to_weight(rows, columns, &tiles[place(rows, columns)], dweight);
                    }
                });
        }
    }

    fn add_to_hidden(&self, rows: Span, columns: Span, tile: &[f32], dhidden: &mut [f32]) {
        let width = self.policy.width;
        let weight = Mat::new(
            &self.policy.weight[columns.start * width..],
            columns.len,
            width,
        );
        product(
            self.policy.products,
            MatMut::new(dhidden, rows.len, width),
            Update::Add,
            Mat::new(tile, rows.len, columns.len),
            weight,
        );
    }

    fn add_to_weight(&self, rows: Span, columns: Span, tile: &[f32], dweight: &mut [f32]) {
        let width = self.policy.width;
        let hidden = Mat::new(self.policy.hidden_rows(rows), rows.len, width);
        let tile = Mat::new(tile, rows.len, columns.len).t();
        product(
            self.policy.products,
            MatMut::new(dweight, columns.len, width),
            Update::Add,
            tile,
            hidden,
        );
    }

    /// The gradient of the logits of one tile; `tile` holds the logits already if they were `kept`.
    fn fill(&self, rows: Span, columns: Span, kept: bool, tile: &mut [f32]) {
        if !kept {
            self.policy.logits(rows, columns, tile);
        }
        let mut other = self.pool.take(if self.reference.is_some() {
            tile.len()
        } else {
            0
        });
        if let Some(reference) = self.reference {
            reference.logits(rows, columns, &mut other);
        }
        let cap = self.policy.cap;
        let mut slopes = self.pool.take(if cap.is_some() { tile.len() } else { 0 });
        if let Some(cap) = cap {
            for (slope, z) in slopes.iter_mut().zip(&*tile) {
                *slope = cap.slope(*z);
            }
        }
        vectorized(
            #[inline(always)]
            || {
                for (i, z) in tile.chunks_exact_mut(columns.len).enumerate() {
                    let row = rows.start + i;
                    match self.reference {
                        Some(_) => self.row_with_reference(
                            row,
                            z,
                            &other[i * columns.len..][..columns.len],
                        ),
                        None => self.row(row, z),
                    }
                    let target = (self.targets[row] as usize).wrapping_sub(columns.start);
                    if target < columns.len {
                        z[target] += self.grad.log_prob[row];
                    }
                }
            },
        );
        tile.iter_mut()
            .zip(&*slopes)
            .for_each(|(z, slope)| *z *= slope);
    }

    #[inline(always)]
    fn row(&self, row: usize, z: &mut [f32]) {
        let (log_sum, g) = (self.output.log_sum[row], self.grad.log_prob[row]);
        match (self.grad.entropy, &self.output.entropy) {
            (Some(g_entropy), Some(entropy)) => {
                let (g_entropy, entropy) = (g_entropy[row], entropy[row]);
                for z in z {
                    let log_p = *z - log_sum;
                    *z = -exp(log_p) * g_entropy.mul_add(log_p + entropy, g);
                }
            }
            _ => z.iter_mut().for_each(|z| *z = -g * exp(*z - log_sum)),
        }
    }

    #[inline(always)]
    fn row_with_reference(&self, row: usize, z: &mut [f32], other: &[f32]) {
        let (log_sum, g) = (self.output.log_sum[row], self.grad.log_prob[row]);
        let pair = |grad: Option<&[f32]>, value: &Option<Vec<f32>>| match (grad, value) {
            (Some(grad), Some(value)) => (grad[row], value[row]),
            _ => (0.0, 0.0),
        };
        let (g_entropy, entropy) = pair(self.grad.entropy, &self.output.entropy);
        let (g_kl, kl) = pair(self.grad.kl, &self.output.kl);
        let g_kl_from = self.grad.kl_from.map(|grad| grad[row]);
        let reference_log_sum = self.output.reference_log_sum[row];
        for (z, r) in z.iter_mut().zip(other) {
            let log_p = *z - log_sum;
            let ratio = log_p - (r - reference_log_sum);
            *z = exp(log_p) * (g_kl * (ratio - kl) - g_entropy * (log_p + entropy) - g);
            if let Some(g) = g_kl_from {
                *z += g * (exp(log_p) - exp(r - reference_log_sum));
            }
        }
    }
}
