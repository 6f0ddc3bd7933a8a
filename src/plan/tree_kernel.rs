//! Soft value iteration on full token trees at the speed of memory.
//!
//! The tables of a tree need no successor list: the children of state i of a level are the entries
//! i·A … i·A + A − 1 of the next. Subtrees are solved level by level while their V stays in the second-level cache, so that
//! inputs are read once, the output is written once, and nothing else goes to memory. Blocks of rows stay in the first-level
//! cache through a few short loops without branches or calls.

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
/// State–action pairs of a parallel task, on its last level.
const TASK_PAIRS: usize = 1 << 16;

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
    inputs: (&[f64], &[f64]),
    beta: f64,
    mut out: Option<&mut [f64]>,
    mut values: Option<&mut [f64]>,
) -> f64 {
    let na = tree.n_actions();
    let cut = tree.horizon() - levels_of_a_task(na, tree.horizon());
    let solve = Solve { tree, inputs, beta };
    let mut v = vec![0.0; tree.level(0, cut).len()];
    // The tables below the cut, level by level, each cut into what the tasks read and write.
    let below = tree.level(0, cut).start;
    let states = roots_of_a_task(na, tree.horizon() - cut);
    let mut tasks: Vec<Task<'_>> = v.chunks_mut(states).map(Task::new).collect();
    let mut out_below = out.as_deref_mut().map(|o| &mut o[below * na..]);
    let mut values_below = values.as_deref_mut().map(|v| &mut v[below..]);
    for depth in cut..tree.horizon() {
        let (level, a_task) = (
            tree.level(0, depth).len(),
            states * na.pow((depth - cut) as u32),
        );
        deal(&mut out_below, level * na, a_task * na, |i, chunk| {
            tasks[i].out.push(chunk)
        });
        deal(&mut values_below, level, a_task, |i, chunk| {
            tasks[i].values.push(chunk)
        });
    }
    tasks
        .into_par_iter()
        .enumerate()
        .for_each_init(Buffers::default, |buffers, (i, task)| {
            solve.subtrees(cut, i * states, task, buffers);
        });
    for depth in (0..cut).rev() {
        v = solve.level(depth, v, out.as_deref_mut());
        if let Some(values) = &mut values {
            values[tree.level(0, depth)].copy_from_slice(&v);
        }
    }
    v[0]
}

/// Hands the next `level` numbers of a table out in chunks.
fn deal<'a>(
    table: &mut Option<&'a mut [f64]>,
    level: usize,
    chunk: usize,
    mut to: impl FnMut(usize, &'a mut [f64]),
) {
    if let Some(rest) = table.take() {
        let (here, below) = rest.split_at_mut(level);
        here.chunks_mut(chunk)
            .enumerate()
            .for_each(|(i, chunk)| to(i, chunk));
        *table = Some(below);
    }
}

/// Levels of the subtrees of a task: as many as leave its last level within [`TASK_PAIRS`] and its first a whole block.
fn levels_of_a_task(na: usize, horizon: usize) -> usize {
    let whole = na
        .checked_pow(horizon as u32)
        .is_some_and(|pairs| pairs <= TASK_PAIRS);
    if whole || na == 1 {
        return horizon;
    }
    let mut levels = 1;
    while block_rows(na) * na.pow(levels as u32 + 1) <= TASK_PAIRS {
        levels += 1;
    }
    levels.min(horizon)
}

/// Roots of the subtrees of a task: whole blocks.
fn roots_of_a_task(na: usize, levels: usize) -> usize {
    let pairs_of_a_root = na.saturating_pow(levels as u32);
    let block = block_rows(na);
    (TASK_PAIRS / pairs_of_a_root / block * block).max(block)
}

/// What one task writes.
struct Task<'a> {
    /// V of its roots.
    v: &'a mut [f64],
    /// log π of its states, level by level; nothing where it is not asked for.
    out: Vec<&'a mut [f64]>,
    /// V of its states, level by level; nothing where it is not asked for.
    values: Vec<&'a mut [f64]>,
}

impl<'a> Task<'a> {
    fn new(v: &'a mut [f64]) -> Self {
        let (out, values) = (Vec::new(), Vec::new());
        Self { v, out, values }
    }
}

/// V of two levels, in memory that a thread uses again.
#[derive(Default)]
struct Buffers {
    v: Vec<f64>,
    next: Vec<f64>,
}

struct Solve<'a> {
    tree: &'a TokenTree,
    /// r and log π_ref.
    inputs: (&'a [f64], &'a [f64]),
    beta: f64,
}

impl<'a> Solve<'a> {
    /// The rows of states of a level, `from` counted within it.
    fn rows(&self, depth: usize, from: usize, states: usize) -> (&'a [f64], &'a [f64]) {
        let na = self.tree.n_actions();
        let start = self.tree.level(0, depth).start + from;
        let span = start * na..(start + states) * na;
        (&self.inputs.0[span.clone()], &self.inputs.1[span])
    }

    /// Nothing is earned after the end of a sentence.
    fn end(&self, next: &mut [f64]) {
        if let Some(eos) = self.tree.eos() {
            let ends = next
                .iter_mut()
                .skip(eos.ix())
                .step_by(self.tree.n_actions());
            ends.for_each(|v| *v = 0.0);
        }
    }

    /// The subtrees below states `from`… of depth `cut`.
    fn subtrees(&self, cut: usize, from: usize, task: Task<'_>, buffers: &mut Buffers) {
        let Buffers { v, next } = buffers;
        let (na, roots) = (self.tree.n_actions(), task.v.len());
        let (mut out, mut values) = (task.out, task.values);
        next.clear();
        for depth in (cut..self.tree.horizon()).rev() {
            let growth = na.pow((depth - cut) as u32);
            v.resize(roots * growth, 0.0);
            self.end(next);
            let rows = self.rows(depth, from * growth, v.len());
            solve_rows(na, rows, next, self.beta, v, out.pop());
            if let Some(values) = values.pop() {
                values.copy_from_slice(v);
            }
            std::mem::swap(v, next);
        }
        task.v.copy_from_slice(next);
    }

    /// V of a level from that of the next, in parallel tasks.
    fn level(&self, depth: usize, mut next: Vec<f64>, out: Option<&mut [f64]>) -> Vec<f64> {
        let (na, level) = (self.tree.n_actions(), self.tree.level(0, depth));
        self.end(&mut next);
        let mut v = vec![0.0; level.len()];
        let states = roots_of_a_task(na, 1);
        let mut out = out.map(|o| &mut o[level.start * na..level.end * na]);
        let mut tasks: Vec<Task<'_>> = v.chunks_mut(states).map(Task::new).collect();
        deal(&mut out, level.len() * na, states * na, |i, chunk| {
            tasks[i].out.push(chunk)
        });
        tasks.into_par_iter().enumerate().for_each(|(i, mut task)| {
            let (from, here) = (i * states, task.v.len());
            let rows = self.rows(depth, from, here);
            let next = &next[from * na..(from + here) * na];
            solve_rows(na, rows, next, self.beta, task.v, task.out.pop());
        });
        v
    }
}

/// V, and log π where it is asked for, of rows of A actions. `next` is empty on the last level.
fn solve_rows(
    na: usize,
    (reward, log_reference): (&[f64], &[f64]),
    next: &[f64],
    beta: f64,
    v: &mut [f64],
    out: Option<&mut [f64]>,
) {
    let rows = Rows {
        na,
        reward,
        log_reference,
        next,
        beta,
        v,
        out,
    };
    match na {
        2 => dispatch(RowsOf::<2>(rows)),
        3 => dispatch(RowsOf::<3>(rows)),
        4 => dispatch(RowsOf::<4>(rows)),
        5 => dispatch(RowsOf::<5>(rows)),
        6 => dispatch(RowsOf::<6>(rows)),
        7 => dispatch(RowsOf::<7>(rows)),
        8 => dispatch(RowsOf::<8>(rows)),
        9 => dispatch(RowsOf::<9>(rows)),
        10 => dispatch(RowsOf::<10>(rows)),
        16 => dispatch(RowsOf::<16>(rows)),
        32 => dispatch(RowsOf::<32>(rows)),
        64 => dispatch(RowsOf::<64>(rows)),
        _ => dispatch(RowsOf::<0>(rows)),
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

/// Rows of A actions; A = 0 stands for a width known at run time only. Every width is compiled by itself: within one function for all
/// of them the compiler lost registers.
struct RowsOf<'a, const A: usize>(Rows<'a>);

impl<const A: usize> Kernel for RowsOf<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.0;
        let na = if A == 0 { rows.na } else { A };
        let block = block_rows(na);
        let inverse = 1.0 / rows.beta;
        let inputs = |from: usize, states: usize| {
            let span = from * na..(from + states) * na;
            Inputs {
                reward: &rows.reward[span.clone()],
                log_reference: &rows.log_reference[span.clone()],
                next: (!rows.next.is_empty()).then(|| &rows.next[span]),
                inverse,
            }
        };
        let states = rows.v.len();
        let mut out = rows.out;
        let (mut now, mut later) = (Scratch::new(block, na), Scratch::new(block, na));
        let mut top = now.fill_logits(simd, inputs(0, block.min(states)));
        for from in (0..states).step_by(block) {
            let (here, after) = (block.min(states - from), from + block);
            let ahead = (after < states).then(|| inputs(after, block.min(states - after)));
            let later_top = match ahead {
                Some(ahead) if ahead.reward.len() == now.logits.len() => {
                    now.sum_while_filling(simd, na, top, &mut later, ahead)
                }
                ahead => {
                    now.sum(simd, na, here, top);
                    ahead.map_or(top, |ahead| later.fill_logits(simd, ahead))
                }
            };
            now.normalise(simd, na, here, top);
            for (v, norm) in rows.v[from..from + here].iter_mut().zip(&now.norms) {
                *v = rows.beta * norm;
            }
            if let Some(out) = out.as_deref_mut() {
                now.write_log_policy(simd, na, &mut out[from * na..(from + here) * na]);
            }
            std::mem::swap(&mut now, &mut later);
            top = later_top;
        }
    }
}

/// What the logits t = (r + V')/β + log π_ref of a block are made of.
struct Inputs<'a> {
    reward: &'a [f64],
    log_reference: &'a [f64],
    /// V' of the children; nothing on the last level.
    next: Option<&'a [f64]>,
    /// 1/β.
    inverse: f64,
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
    fn fill_logits<S: Simd>(&mut self, simd: S, inputs: Inputs<'_>) -> f64 {
        let Inputs {
            reward,
            log_reference,
            next,
            inverse,
        } = inputs;
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
        let mut top = simd.splat_f64s(f64::NEG_INFINITY);
        simd::soft_logits(
            simd,
            &reward[..whole],
            next.map(|n| &n[..whole]),
            &log_reference[..whole],
            inverse,
            head,
            &mut top,
        );
        let top = simd.reduce_max_f64s(top);
        tail.iter().fold(top, |a, t| if *t > a { *t } else { a })
    }

    /// Σ exp(t − top) of `rows` rows.
    #[inline(always)]
    fn sum<S: Simd>(&mut self, simd: S, na: usize, rows: usize, top: f64) {
        self.norms[rows..].fill(1.0);
        if na.is_multiple_of(LANES) {
            let norms = &mut self.norms[..rows];
            for (norm, t) in norms.iter_mut().zip(self.logits.chunks_exact(na)) {
                *norm = simd::total_exp(simd, t, top);
            }
        } else {
            simd::exp_shifted(simd, &self.logits, top, &mut self.weights);
            self.sum_weights(na, rows);
        }
    }

    /// [`Self::sum`] of a whole block and [`Self::fill_logits`] of the next, which is whole too, a little of each in turn, so that
    /// memory and arithmetic wait for each other less; the largest logit of the next.
    #[inline(always)]
    fn sum_while_filling<S: Simd>(
        &mut self,
        simd: S,
        na: usize,
        top: f64,
        later: &mut Self,
        ahead: Inputs<'_>,
    ) -> f64 {
        let mut later_top = simd.splat_f64s(f64::NEG_INFINITY);
        let Inputs {
            reward,
            log_reference,
            next,
            inverse,
        } = ahead;
        if na.is_multiple_of(LANES) {
            let there = reward.chunks_exact(na).zip(log_reference.chunks_exact(na));
            let there = there.zip(later.logits.chunks_exact_mut(na));
            let here = self.norms.iter_mut().zip(self.logits.chunks_exact(na));
            for (i, ((norm, t), ((r, p), out))) in here.zip(there).enumerate() {
                let next = next.map(|n| &n[i * na..(i + 1) * na]);
                simd::soft_logits(simd, r, next, p, inverse, out, &mut later_top);
                *norm = simd::total_exp(simd, t, top);
            }
        } else {
            let logits = (&mut later.logits[..], &mut later_top);
            let exponentials = (&self.logits[..], top, &mut self.weights[..]);
            let inputs = (reward, next, log_reference);
            simd::soft_logits_beside_exp(simd, inputs, inverse, logits, exponentials);
            self.sum_weights(na, self.norms.len());
        }
        simd.reduce_max_f64s(later_top)
    }

    #[inline(always)]
    fn sum_weights(&mut self, na: usize, rows: usize) {
        for (norm, w) in self.norms[..rows]
            .iter_mut()
            .zip(self.weights.chunks_exact(na))
        {
            *norm = w.iter().sum();
        }
    }

    /// Makes log Σ exp t of the sums.
    ///
    /// One shift for the whole block leaves nothing to do row by row but sums; where it makes a sum so
    /// small that figures are lost, every row gets a shift of its own.
    #[inline(always)]
    fn normalise<S: Simd>(&mut self, simd: S, na: usize, rows: usize, top: f64) {
        let mut enough = true;
        for norm in &self.norms[..rows] {
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
    fn write_log_policy<S: Simd>(&self, simd: S, na: usize, out: &mut [f64]) {
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
