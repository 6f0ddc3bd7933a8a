//! Sums over a tree: log-probabilities, visitation, values, the objective and its gradient.

use super::problem::Problem;
use super::tree::ResponseTree;
use crate::dual::Real;

/// log π of logits, row by row of `a` numbers.
pub(super) fn log_softmax<T: Real>(logits: &[T], a: usize) -> Vec<T> {
    let mut out = logits.to_vec();
    for row in out.chunks_exact_mut(a) {
        let max = row.iter().fold(f64::NEG_INFINITY, |m, v| m.max(v.value()));
        let mut sum = T::constant(0.0);
        for v in row.iter_mut() {
            *v = *v - max;
            sum += v.exp();
        }
        let log = sum.ln();
        row.iter_mut().for_each(|v| *v -= log);
    }
    out
}

/// π(y|x) of every response.
pub(super) fn response_probs<T: Real>(tree: &ResponseTree, lp: &[T]) -> Vec<T> {
    let of = |y| {
        let mut sum = T::constant(0.0);
        for p in tree.response(y) {
            sum += lp[*p as usize];
        }
        sum.exp()
    };
    (0..tree.n_responses()).map(of).collect()
}

/// d(s) = Σ_p w_p P(s is visited).
pub(super) fn visitation<T: Real>(tree: &ResponseTree, lp: &[T]) -> Vec<T> {
    let (n, a) = (tree.n_states(), tree.n_actions());
    let mut d = vec![T::constant(0.0); n];
    for (p, w) in tree.prompt_weights().iter().enumerate() {
        d[tree.root(p)] = T::constant(*w);
    }
    for s in 0..n {
        (s * a..(s + 1) * a).for_each(|k| {
            if let Some(next) = tree.next(k) {
                d[next] = d[s] * lp[k].exp();
            }
        });
    }
    d
}

/// V(s) of token rewards under π, discounted.
pub(super) fn values<T: Real>(tree: &ResponseTree, lp: &[T], r: &[T], gamma: f64) -> Vec<T> {
    let (n, a) = (tree.n_states(), tree.n_actions());
    let mut v = vec![T::constant(0.0); n];
    for s in (0..n).rev() {
        let q = |k: usize| match tree.next(k) {
            Some(next) => r[k] + v[next] * gamma,
            None => r[k],
        };
        let row = s * a..(s + 1) * a;
        v[s] = row.fold(T::constant(0.0), |sum, k| sum + lp[k].exp() * q(k));
    }
    v
}

/// Σ_{s,a} C(s,a) ∇log π(a|s) = C − π Σ_a C, in place.
pub(super) fn scores_to_logits<T: Real>(c: &mut [T], pi: &[T], a: usize) {
    for (c, pi) in c.chunks_exact_mut(a).zip(pi.chunks_exact(a)) {
        let mut sum = T::constant(0.0);
        for v in c.iter() {
            sum += *v;
        }
        for (v, p) in c.iter_mut().zip(pi) {
            *v -= *p * sum;
        }
    }
}

/// J(π) by V of r − β(log π − log π_ref).
pub(super) fn objective<T: Real>(problem: &Problem, lp: &[T], reward: &[f64], beta: f64) -> T {
    let tree = problem.tree();
    let r = shaped(problem, lp, reward, beta);
    let v = values(tree, lp, &r, 1.0);
    let mut j = T::constant(0.0);
    for (p, w) in tree.prompt_weights().iter().enumerate() {
        j += v[tree.root(p)] * *w;
    }
    j
}

fn shaped<T: Real>(problem: &Problem, lp: &[T], reward: &[f64], beta: f64) -> Vec<T> {
    let both = lp.iter().zip(problem.reference()).zip(reward);
    both.map(|((l, q), r)| (*l - *q) * -beta + *r).collect()
}

/// ∇J = d(s) π(a|s) (Q(s,a) − V(s)), with Q of r − β(log π − log π_ref).
pub(super) fn objective_gradient<T: Real>(
    problem: &Problem,
    logits: &[T],
    reward: &[f64],
    beta: f64,
) -> Vec<T> {
    let tree = problem.tree();
    let a = tree.n_actions();
    let lp = log_softmax(logits, a);
    let r = shaped(problem, &lp, reward, beta);
    let (v, d) = (values(tree, &lp, &r, 1.0), visitation(tree, &lp));
    let of = |k: usize| {
        let q = tree.next(k).map_or(r[k], |next| r[k] + v[next]);
        d[k / a] * lp[k].exp() * (q - v[k / a])
    };
    (0..logits.len()).map(of).collect()
}

/// J*, by soft backward induction.
pub(super) fn optimum(problem: &Problem, reward: &[f64], beta: f64) -> f64 {
    let (tree, (v, _)) = (problem.tree(), soft_optimum(problem, reward, beta));
    let weights = tree.prompt_weights().iter().enumerate();
    weights.map(|(p, w)| w * v[tree.root(p)]).sum()
}

/// V* and log π* of r at β; at β = 0 the largest return, and no policy.
pub(super) fn soft_optimum(problem: &Problem, reward: &[f64], beta: f64) -> (Vec<f64>, Vec<f64>) {
    let tree = problem.tree();
    let (n, a) = (tree.n_states(), tree.n_actions());
    let (mut v, mut lp) = (vec![0.0; n], vec![0.0; n * a]);
    for s in (0..n).rev() {
        let q: Vec<f64> = (s * a..(s + 1) * a)
            .map(|k| reward[k] + tree.next(k).map_or(0.0, |next| v[next]))
            .collect();
        if beta == 0.0 {
            v[s] = q.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            continue;
        }
        let reference = &problem.reference()[s * a..(s + 1) * a];
        let l: Vec<f64> = q.iter().zip(reference).map(|(q, r)| r + q / beta).collect();
        let z = crate::numerics::log_sum_exp(&l);
        v[s] = beta * z;
        for (k, l) in l.iter().enumerate() {
            lp[s * a + k] = l - z;
        }
    }
    (v, lp)
}
