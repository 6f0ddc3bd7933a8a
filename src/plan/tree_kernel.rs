//! Soft value iteration on full token trees, level by level, at the speed of memory.
//!
//! The tables of a tree need no successor list: the children of state i of a level are the entries
//! i·A … i·A + A − 1 of the next. Two levels of V are alive at a time, everything else is read once and
//! written once, so a tree of 10⁸ pairs needs its inputs, its output and A^{H−1}·8 bytes. Blocks of rows
//! stay in the first-level cache through five short loops without branches or calls.

use pulp::Simd;
use rayon::prelude::*;

use crate::mdp::{Beta, TokenTree, check_len};
use crate::simd::{self, Kernel, LANES, dispatch};
use crate::{Error, Result};

/// State–action pairs of a cache block.
const BLOCK_PAIRS: usize = 128;
/// State–action pairs of a parallel task.
const TASK_PAIRS: usize = 1 << 17;

/// V*_β at the root of every prompt, `[P]`, and, where asked for, log π*_β, `[P, S, A]`.
///
/// (3.2)–(3.4) as in [`super::soft_value_iteration`], for β > 0 on a [`TokenTree`]. `reward` and
/// `log_reference` are `[P, S, A]` in the state order of the tree; log_reference rows are normalised, −∞
/// where π_ref = 0. The end-of-sentence action leads to value 0. Results do not depend on the number
/// of threads or the vector width.
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
    check_len("reward", pairs, reward.len())?;
    check_len("log_reference", pairs, log_reference.len())?;
    if let Some(out) = &log_policy {
        check_len("log_policy", pairs, out.len())?;
    }
    let per_prompt = tree.states_per_prompt() * tree.n_actions();

    let solve = |prompt: usize, out: Option<&mut [f64]>| -> f64 {
        let rows = prompt * per_prompt..(prompt + 1) * per_prompt;
        solve_tree(tree, &reward[rows.clone()], &log_reference[rows], beta, out)
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
    match roots.iter().position(|v| !v.is_finite()) {
        None => Ok(roots),
        Some(prompt) => Err(Error::NonFinite {
            what: format!(
                "soft value of prompt {prompt} (a reward or reference entry below it is not valid)"
            ),
            value: roots[prompt],
        }),
    }
}

/// One prompt; tables are `[S, A]`.
fn solve_tree(
    tree: &TokenTree,
    reward: &[f64],
    log_reference: &[f64],
    beta: f64,
    mut out: Option<&mut [f64]>,
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
            4 => rows_of::<4, S>(simd, self),
            8 => rows_of::<8, S>(simd, self),
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
    let block = (BLOCK_PAIRS / na).max(1);
    let inverse = 1.0 / rows.beta;
    let mut logits = vec![0.0; block * na];
    // Padded so that the logarithms run over whole vectors.
    let mut tops = vec![0.0; block.next_multiple_of(LANES)];
    let mut sums = vec![1.0; block.next_multiple_of(LANES)];
    let mut out = rows.out;
    for (b, v) in rows.v.chunks_mut(block).enumerate() {
        let span = b * block * na..(b * block + v.len()) * na;
        let logits = &mut logits[..span.len()];
        let (r, p) = (
            &rows.reward[span.clone()],
            &rows.log_reference[span.clone()],
        );
        let next = (!rows.next.is_empty()).then(|| &rows.next[span.clone()]);
        let pairs = r.chunks_exact(na).zip(p.chunks_exact(na));
        let slots = tops.iter_mut().zip(&mut sums);
        for (i, (((r, p), t), (top, sum))) in pairs
            .zip(logits.chunks_exact_mut(na))
            .zip(slots)
            .enumerate()
        {
            let next = next.map(|n| &n[i * na..(i + 1) * na]);
            if A >= LANES {
                *top = simd::soft_row(simd, r, next, p, inverse, t);
            } else {
                (*top, *sum) = short_row(r, next, p, inverse, t);
            }
        }
        // A loop of its own: the chains of several rows then overlap.
        if A >= LANES {
            for ((t, top), sum) in logits.chunks_exact(na).zip(&tops).zip(&mut sums) {
                *sum = simd::total_exp(simd, t, *top);
            }
        }
        let count = v.len().next_multiple_of(LANES);
        for (sum, top) in sums[..count].iter_mut().zip(&tops[..count]) {
            *sum = top + simd::ln(*sum);
        }
        for (v, sum) in v.iter_mut().zip(&sums) {
            *v = rows.beta * sum;
        }
        if let Some(out) = out.as_deref_mut() {
            let rows = logits.chunks_exact(na).zip(out[span].chunks_exact_mut(na));
            for ((t, o), sum) in rows.zip(&sums) {
                simd::subtract(simd, t, *sum, o);
            }
        }
        sums.fill(1.0);
    }
}

/// [`simd::soft_row`] for rows of any length.
#[inline(always)]
fn short_row(
    reward: &[f64],
    next: Option<&[f64]>,
    log_reference: &[f64],
    scale: f64,
    out: &mut [f64],
) -> (f64, f64) {
    let mut top = f64::NEG_INFINITY;
    for (i, t) in out.iter_mut().enumerate() {
        let later = next.map_or(0.0, |n| n[i]);
        *t = (reward[i] + later) * scale + log_reference[i];
        top = if *t > top { *t } else { top };
    }
    (top, out.iter().map(|t| simd::exp(t - top)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mdp::{ActionIx, StateIx, zoo};
    use crate::plan::soft_value_iteration;
    use crate::reward::RewardModel;
    use crate::seed::SeedTree;

    #[test]
    fn agrees_with_the_table_planner() {
        for (i, (p, a, h)) in [
            (1, 1, 3),
            (2, 2, 5),
            (3, 3, 4),
            (1, 4, 4),
            (2, 5, 3),
            (1, 8, 3),
            (2, 16, 3),
            (1, 33, 2),
            (1, 64, 2),
        ]
        .into_iter()
        .enumerate()
        {
            for (eos, zeros) in [(false, 0.0), (true, 0.3)] {
                let spec = zoo::RandomSpec {
                    kind: zoo::Kind::Tree { eos },
                    prompts: p,
                    actions: a,
                    horizon: h,
                    dim: 3,
                    beta: 0.2,
                    theta_norm: 3.0,
                    zeros,
                };
                let g = zoo::random_instance(&spec, &SeedTree::new(i as u64)).unwrap();
                let tree = TokenTree::try_new(p, a, h, eos.then_some(ActionIx(0))).unwrap();
                let table = g.reward().tabulate();
                let want = soft_value_iteration(&g.mdp, &table, &g.reference, g.beta).unwrap();
                let mut log_pi = vec![0.0; tree.n_states() * a];
                let r = table.values().as_slice().unwrap();
                let l = g.reference.log_probs().as_slice().unwrap();
                let roots = tree_soft_values(&tree, r, l, g.beta, Some(&mut log_pi)).unwrap();
                for (x, v) in roots.iter().enumerate() {
                    assert!((v - want.v[tree.root(x).ix()]).abs() < 1e-12);
                }
                assert_eq!(roots, tree_soft_values(&tree, r, l, g.beta, None).unwrap());
                for (s, row) in log_pi.chunks(a).enumerate() {
                    for (b, got) in row.iter().enumerate() {
                        let want = want.policy.log_prob(StateIx(s as u32), ActionIx(b as u32));
                        assert!(got == &want || (got - want).abs() < 1e-12, "{got} {want}");
                    }
                }
            }
        }
    }
}
