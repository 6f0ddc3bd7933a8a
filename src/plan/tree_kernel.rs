//! Soft value iteration on full token trees, level by level, at the speed of memory.
//!
//! The tables of a tree need no successor list: the children of state i of a level are the entries
//! i·A … i·A + A − 1 of the next. Two levels of V are alive at a time, everything else is read once and
//! written once, so a tree of 10⁸ pairs needs its inputs, its output and A^{H−1}·8 bytes. Blocks of rows
//! stay in the first-level cache through five short loops without branches or calls.

use ndarray::Array2;
use pulp::Simd;
use rayon::prelude::*;

use crate::check;
use crate::mdp::{Beta, TabularPolicy, TokenTree};
use crate::simd::{self, Kernel, LANES, dispatch};
use crate::{Error, Result};

/// State–action pairs of a cache block.
const BLOCK_PAIRS: usize = 128;
/// Rows longer than this are a block each.
const LONG_ROW: usize = 128;
/// Smallest Σ exp(t − shift) that is accurate: a term lost to the end of the exponents, 2⁻¹⁰²², is then below
/// rounding, and so is what rounding t − shift does to the sum.
const SMALLEST_SUM: f64 = 1e-100;
/// State–action pairs of a parallel task.
const TASK_PAIRS: usize = 1 << 17;

/// V*_β at the root of every prompt, `[P]`, and, where asked for, log π*_β, `[P, S, A]`.
///
/// (3.2)–(3.4) as in [`super::soft_value_iteration`], for β > 0 on a [`TokenTree`]. `reward` and
/// `log_reference` are `[P, S, A]` in the state order of the tree; log_reference rows are normalised, −∞
/// where π_ref = 0. The end-of-sentence action leads to value 0. Results do not depend on the number
/// of threads; the last digit may on the kind of CPU.
///
/// # Errors
/// [`Error::Config`] when β = 0; [`Error::Shape`]; [`Error::NonFinite`] when a root value is not finite,
/// which NaN or +∞ anywhere in a reachable row, or a row without support, causes.
pub fn tree_soft_values(
    tree: &TokenTree,
    reward: &[f64],
    log_reference: &[f64],
    beta: Beta,
    log_policy: Option<&mut [f64]>,
) -> Result<Vec<f64>> {
    let beta = beta.positive()?;
    let pairs = tree.n_states() * tree.n_actions();
    check::len("reward", pairs, reward.len())?;
    check::len("log_reference", pairs, log_reference.len())?;
    if let Some(out) = &log_policy {
        check::len("log_policy", pairs, out.len())?;
    }
    let per_prompt = tree.states_per_prompt() * tree.n_actions();

    let solve = |prompt: usize, out: Option<&mut [f64]>| -> f64 {
        let rows = prompt * per_prompt..(prompt + 1) * per_prompt;
        let inputs = (&reward[rows.clone()], &log_reference[rows]);
        solve_tree(tree, inputs, beta, out, None)
    };
    let roots: Vec<f64> = match log_policy {
        Some(out) => out
            .par_chunks_mut(per_prompt)
            .enumerate()
            .map(|(prompt, out)| solve(prompt, Some(out)))
            .collect(),
        None => (0..tree.n_prompts())
            .into_par_iter()
            .map(|prompt| solve(prompt, None))
            .collect(),
    };
    check_roots(&roots)?;
    Ok(roots)
}

fn check_roots(roots: &[f64]) -> Result<()> {
    match roots.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(prompt) => Err(Error::NonFinite {
            what: format!(
                "soft value of prompt {prompt} (a reward or reference entry below it is not valid)"
            ),
            value: roots[prompt],
        }),
    }
}

/// V*_β of every state, `[P·S]`, and π*_β: [`super::soft_value_iteration`] on a [`TokenTree`] for β > 0, by the same kernel as
/// [`tree_soft_values`]. Q*_β(s, a) is V*_β(s) + β log π*_β(a|s), (3.4).
///
/// ```
/// use rto::mdp::{Problem, Beta, TabularPolicy, TokenTree};
/// use rto::plan::{soft_value_iteration, tree_kernel::tree_soft_optimum};
/// use rto::reward::TabularReward;
///
/// let (tree, beta) = (TokenTree::try_new(2, 3, 3, None)?, Beta::try_new(0.3)?);
/// let reward = ndarray::Array2::from_shape_fn((tree.n_states(), 3), |(s, a)| (s * 7 + a) as f64 % 5.0 - 2.0);
/// let reference = TabularPolicy::uniform(tree.n_states(), 3);
/// let (v, policy) = tree_soft_optimum(&tree, reward.as_slice().unwrap(), &reference, beta)?;
/// let mdp = tree.compile(&[0.5, 0.5])?;
/// let same = soft_value_iteration(Problem::new(&mdp, &reference, beta), &TabularReward::try_new(reward.clone())?)?;
/// assert!(v.iter().zip(&same.v).all(|(a, b)| (a - b).abs() < 1e-13));
/// assert!((policy.log_probs() - same.policy.log_probs()).iter().all(|d| d.abs() < 1e-12));
/// # Ok::<(), rto::Error>(())
/// ```
///
/// # Errors
/// Those of [`tree_soft_values`].
pub fn tree_soft_optimum(
    tree: &TokenTree,
    reward: &[f64],
    reference: &TabularPolicy,
    beta: Beta,
) -> Result<(Vec<f64>, TabularPolicy)> {
    tree_soft_optimum_in(tree, reward, reference, beta, Vec::new())
}

/// [`tree_soft_optimum`] with the policy in memory of the caller's, where it is large enough; its contents are lost. Pages that the
/// system has to hand out cost more than planning on them, so who plans often on a large tree keeps the table of a policy that
/// is no longer needed ([`TabularPolicy::into_log_probs`]).
///
/// # Errors
/// Those of [`tree_soft_values`].
pub fn tree_soft_optimum_in(
    tree: &TokenTree,
    reward: &[f64],
    reference: &TabularPolicy,
    beta: Beta,
    mut memory: Vec<f64>,
) -> Result<(Vec<f64>, TabularPolicy)> {
    let (beta, states, na) = (beta.positive()?, tree.n_states(), tree.n_actions());
    check::len("reward", states * na, reward.len())?;
    reference.check_shape("reference", states, na)?;
    let log_reference = reference.log_probs().as_slice();
    let log_reference = log_reference.expect("policies are stored in row order");
    let mut v = vec![0.0; states];
    match memory.capacity() >= states * na {
        true => memory.resize(states * na, 0.0),
        false => memory = vec![0.0; states * na],
    }
    let mut log_pi =
        Array2::from_shape_vec((states, na), memory).expect("as many numbers as pairs");
    let log_all = log_pi
        .as_slice_mut()
        .expect("fresh tables are in row order");
    let per_prompt = tree.states_per_prompt();
    let roots: Vec<f64> = v
        .par_chunks_mut(per_prompt)
        .zip(log_all.par_chunks_mut(per_prompt * na))
        .enumerate()
        .map(|(prompt, (v, out))| {
            let rows = prompt * per_prompt * na..(prompt + 1) * per_prompt * na;
            let inputs = (&reward[rows.clone()], &log_reference[rows]);
            solve_tree(tree, inputs, beta, Some(out), Some(v))
        })
        .collect();
    check_roots(&roots)?;
    Ok((v, TabularPolicy::trusted(log_pi)))
}

/// One prompt; tables are `[S, A]`, `values` is `[S]`.
fn solve_tree(
    tree: &TokenTree,
    (reward, log_reference): (&[f64], &[f64]),
    beta: f64,
    mut out: Option<&mut [f64]>,
    mut values: Option<&mut [f64]>,
) -> f64 {
    let na = tree.n_actions();
    let mut next: Vec<f64> = Vec::new();
    for depth in (0..tree.horizon()).rev() {
        let level = tree.level(0, depth);
        let rows = level.start * na..level.end * na;
        if let (Some(eos), false) = (tree.eos(), next.is_empty()) {
            next.iter_mut()
                .skip(eos.ix())
                .step_by(na)
                .for_each(|v| *v = 0.0);
        }
        let mut v = vec![0.0; level.len()];
        solve_level(
            na,
            &reward[rows.clone()],
            &log_reference[rows.clone()],
            &next,
            beta,
            &mut v,
            out.as_deref_mut().map(|o| &mut o[rows]),
        );
        if let Some(values) = &mut values {
            values[level].copy_from_slice(&v);
        }
        next = v;
    }
    next[0]
}

/// One level, in parallel tasks. `next` is empty on the last level.
fn solve_level(
    na: usize,
    reward: &[f64],
    log_reference: &[f64],
    next: &[f64],
    beta: f64,
    v: &mut [f64],
    out: Option<&mut [f64]>,
) {
    let states = (TASK_PAIRS / na).max(1);
    let task = |i: usize, v: &mut [f64], out: Option<&mut [f64]>| {
        let rows = i * states * na..(i * states + v.len()) * na;
        dispatch(Rows {
            na,
            reward: &reward[rows.clone()],
            log_reference: &log_reference[rows.clone()],
            next: if next.is_empty() { next } else { &next[rows] },
            beta,
            v,
            out,
        });
    };
    match out {
        Some(out) => v
            .par_chunks_mut(states)
            .zip(out.par_chunks_mut(states * na))
            .enumerate()
            .for_each(|(i, (v, out))| task(i, v, Some(out))),
        None => v
            .par_chunks_mut(states)
            .enumerate()
            .for_each(|(i, v)| task(i, v, None)),
    }
}

struct Rows<'a> {
    na: usize,
    reward: &'a [f64],
    log_reference: &'a [f64],
    next: &'a [f64],
    beta: f64,
    v: &'a mut [f64],
    out: Option<&'a mut [f64]>,
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.na {
            2 => rows_of::<2, S>(simd, self),
            3 => rows_of::<3, S>(simd, self),
            4 => rows_of::<4, S>(simd, self),
            5 => rows_of::<5, S>(simd, self),
            6 => rows_of::<6, S>(simd, self),
            7 => rows_of::<7, S>(simd, self),
            8 => rows_of::<8, S>(simd, self),
            9 => rows_of::<9, S>(simd, self),
            10 => rows_of::<10, S>(simd, self),
            16 => rows_of::<16, S>(simd, self),
            32 => rows_of::<32, S>(simd, self),
            64 => rows_of::<64, S>(simd, self),
            _ => rows_of::<0, S>(simd, self),
        }
    }
}

/// Rows of A actions; A = 0 stands for a width known at run time only.
#[inline(always)]
fn rows_of<const A: usize, S: Simd>(simd: S, rows: Rows<'_>) {
    let na = if A == 0 { rows.na } else { A };
    let block = block_rows(na);
    let inverse = 1.0 / rows.beta;
    let mut scratch = Scratch::new(block, na);
    let mut out = rows.out;
    for (b, v) in rows.v.chunks_mut(block).enumerate() {
        let span = b * block * na..(b * block + v.len()) * na;
        let (r, p) = (
            &rows.reward[span.clone()],
            &rows.log_reference[span.clone()],
        );
        let next = (!rows.next.is_empty()).then(|| &rows.next[span.clone()]);
        let top = scratch.fill_logits(simd, r, next, p, inverse);
        scratch.normalise::<A, S>(simd, na, v.len(), top);
        for (v, norm) in v.iter_mut().zip(&scratch.norms) {
            *v = rows.beta * norm;
        }
        if let Some(out) = out.as_deref_mut() {
            scratch.write_log_policy::<A, S>(simd, na, &mut out[span]);
        }
    }
}

/// Rows of a cache block: whole vectors of rows where they are short.
const fn block_rows(na: usize) -> usize {
    if na > LONG_ROW {
        return 1;
    }
    let rows = BLOCK_PAIRS / na;
    if rows < LANES {
        LANES
    } else {
        rows / LANES * LANES
    }
}

/// A block of rows; nothing here is larger than the first-level cache unless one row is.
struct Scratch {
    /// t = (r + V')/β + log π_ref, −∞ beyond the block.
    logits: Vec<f64>,
    /// exp(t − shift), for rows that are not whole vectors.
    weights: Vec<f64>,
    /// Σ exp(t − shift) of every row, then log Σ exp t; padded to whole vectors.
    norms: Vec<f64>,
}

impl Scratch {
    fn new(block: usize, na: usize) -> Self {
        let pairs = (block * na).next_multiple_of(LANES);
        Self {
            logits: vec![f64::NEG_INFINITY; pairs],
            weights: vec![0.0; pairs],
            norms: vec![1.0; block.next_multiple_of(LANES)],
        }
    }

    /// Returns the largest logit of the block.
    #[inline(always)]
    fn fill_logits<S: Simd>(
        &mut self,
        simd: S,
        reward: &[f64],
        next: Option<&[f64]>,
        log_reference: &[f64],
        inverse: f64,
    ) -> f64 {
        if reward.len() < self.logits.len() {
            self.logits.truncate(reward.len().next_multiple_of(LANES));
            self.weights.truncate(self.logits.len());
            self.logits[reward.len()..].fill(f64::NEG_INFINITY);
        }
        let whole = reward.len() / LANES * LANES;
        for i in whole..reward.len() {
            let later = next.map_or(0.0, |n| n[i]);
            self.logits[i] = (reward[i] + later) * inverse + log_reference[i];
        }
        let (head, tail) = self.logits.split_at_mut(whole);
        let next = next.map(|n| &n[..whole]);
        let top = simd::soft_logits(
            simd,
            &reward[..whole],
            next,
            &log_reference[..whole],
            inverse,
            head,
        );
        tail.iter().fold(top, |a, t| if *t > a { *t } else { a })
    }

    /// Sets `norms` to log Σ exp t of `rows` rows.
    ///
    /// One shift for the whole block leaves nothing to do row by row but sums; where it makes a sum so
    /// small that figures are lost, every row gets a shift of its own.
    #[inline(always)]
    fn normalise<const A: usize, S: Simd>(&mut self, simd: S, na: usize, rows: usize, top: f64) {
        self.norms[rows..].fill(1.0);
        let norms = &mut self.norms[..rows];
        if na.is_multiple_of(LANES) {
            for (norm, t) in norms.iter_mut().zip(self.logits.chunks_exact(na)) {
                *norm = simd::total_exp(simd, t, top);
            }
        } else {
            simd::exp_shifted(simd, &self.logits, top, &mut self.weights);
            for (norm, w) in norms.iter_mut().zip(self.weights.chunks_exact(na)) {
                *norm = w.iter().sum();
            }
        }
        let mut enough = true;
        for norm in &*norms {
            enough &= *norm >= SMALLEST_SUM;
        }
        if !(enough && top.is_finite()) {
            return self.normalise_each(simd, na, rows);
        }
        for norm in &mut self.norms {
            *norm = top + simd::ln(*norm);
        }
    }

    /// [`Self::normalise`] with the largest logit of each row as its shift.
    #[inline(never)]
    fn normalise_each<S: Simd>(&mut self, simd: S, na: usize, rows: usize) {
        for (norm, t) in self.norms[..rows]
            .iter_mut()
            .zip(self.logits.chunks_exact(na))
        {
            let top = simd::largest(simd, t);
            let sum = if na.is_multiple_of(LANES) {
                simd::total_exp(simd, t, top)
            } else {
                t.iter().map(|t| simd::exp(t - top)).sum()
            };
            *norm = top + simd::ln(sum);
        }
    }

    #[inline(always)]
    fn write_log_policy<const A: usize, S: Simd>(&self, simd: S, na: usize, out: &mut [f64]) {
        let rows = self.logits.chunks_exact(na).zip(out.chunks_exact_mut(na));
        for ((t, o), norm) in rows.zip(&self.norms) {
            if na.is_multiple_of(LANES) {
                simd::subtract(simd, t, *norm, o);
            } else {
                for (o, t) in o.iter_mut().zip(t) {
                    *o = t - norm;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
