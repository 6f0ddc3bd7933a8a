//! The claims of `paper-notes/estimators.md`, by their numbers, on random trees.

mod advantages;
mod divergences;
mod optima;
mod samples;

use rand_distr::{Distribution, StandardNormal};
use rto::advantage::Spread;
use rto::algorithm2::KlPlacement;
use rto::audit::{Critic, Estimator, Kl, Problem, Recipe, ResponseTree, Reward, expected_gradient};
use rto::objective::{Ratio, Surrogate};
use rto::seed::SeedTree;
use rto::token_reward::KlEstimator;

const BETA: f64 = 0.3;

/// A random tree with logits, a behaviour, and what the claims are stated in.
struct World {
    problem: Problem,
    theta: Vec<f64>,
    old: Vec<f64>,
    noise: Vec<f64>,
}

fn log_softmax(logits: &[f64], a: usize) -> Vec<f64> {
    let row = |r: &[f64]| -> Vec<f64> {
        let z = r.iter().map(|v| v.exp()).sum::<f64>().ln();
        r.iter().map(|v| v - z).collect()
    };
    logits.chunks(a).flat_map(row).collect()
}

impl World {
    fn draw(tree: ResponseTree, seed: u64) -> Self {
        let mut rng = SeedTree::new(seed).child("claims").rng();
        let mut normals = |scale: f64| -> Vec<f64> {
            let draw = |_| {
                let z: f64 = StandardNormal.sample(&mut rng);
                scale * z
            };
            (0..tree.n_pairs()).map(draw).collect()
        };
        let (r, q, dpo, theta) = (normals(1.0), normals(0.5), normals(1.0), normals(1.0));
        let (away, noise) = (normals(0.3), normals(1.0));
        let problem = Problem::try_new(tree, &r, &q).unwrap();
        Self {
            problem: problem.with_dpo(&dpo, BETA, 0.15).unwrap(),
            old: theta.iter().zip(away).map(|(t, a)| t + a).collect(),
            theta,
            noise,
        }
    }

    fn tree(&self) -> &ResponseTree {
        self.problem.tree()
    }

    fn a(&self) -> usize {
        self.tree().n_actions()
    }

    fn lp(&self) -> Vec<f64> {
        log_softmax(&self.theta, self.a())
    }

    /// E[g], on-policy.
    fn on(&self, recipe: &Recipe) -> Vec<f64> {
        expected_gradient(&self.problem, recipe, &self.theta, None).unwrap()
    }

    /// E[g] with the behaviour of `old`.
    fn stale(&self, recipe: &Recipe) -> Vec<f64> {
        expected_gradient(&self.problem, recipe, &self.theta, Some(&self.old)).unwrap()
    }

    /// ∇J for a reward and β.
    fn grad(&self, reward: Reward, beta: f64) -> Vec<f64> {
        let meant = Recipe {
            reward,
            meant_beta: Some(beta),
            ..Recipe::default()
        };
        self.problem.target(&meant, &self.theta).unwrap()
    }

    fn kl_seq(&self) -> Vec<f64> {
        scaled(&self.grad(Reward::Zero, 1.0), -1.0)
    }

    fn visits(&self, lp: &[f64]) -> Vec<f64> {
        let (tree, a) = (self.tree(), self.a());
        let mut d = vec![0.0; tree.n_states()];
        for (p, w) in tree.prompt_weights().iter().enumerate() {
            d[tree.root(p)] = *w;
        }
        for k in 0..tree.n_pairs() {
            if let Some(next) = tree.next(k) {
                d[next] = d[k / a] * lp[k].exp();
            }
        }
        d
    }

    /// Q(s, a) of token rewards.
    fn q(&self, lp: &[f64], r: &[f64]) -> Vec<f64> {
        let (tree, a) = (self.tree(), self.a());
        let mut v = vec![0.0; tree.n_states()];
        let mut q = r.to_vec();
        for s in (0..tree.n_states()).rev() {
            for k in s * a..(s + 1) * a {
                q[k] += tree.next(k).map_or(0.0, |n| v[n]);
                v[s] += lp[k].exp() * q[k];
            }
        }
        q
    }

    /// Σ_{s,a} C(s,a) ∇log π(a|s).
    fn score(&self, c: impl Fn(usize, usize) -> f64) -> Vec<f64> {
        let (a, lp) = (self.a(), self.lp());
        let table: Vec<f64> = (0..lp.len()).map(|k| c(k / a, k)).collect();
        let row = |(c, l): (&[f64], &[f64])| -> Vec<f64> {
            let sum: f64 = c.iter().sum();
            c.iter().zip(l).map(|(c, l)| c - l.exp() * sum).collect()
        };
        table.chunks(a).zip(lp.chunks(a)).flat_map(row).collect()
    }

    fn d(&self) -> Vec<f64> {
        let reference = self.problem.reference();
        self.lp()
            .iter()
            .zip(reference)
            .map(|(p, q)| p - q)
            .collect()
    }

    /// Σ_s d(s) ∇KL(π(·|s) ‖ ref(·|s)) with a visitation held fixed.
    fn reverse(&self, visits: &[f64]) -> Vec<f64> {
        let (lp, d) = (self.lp(), self.d());
        self.score(|s, k| visits[s] * lp[k].exp() * d[k])
    }

    /// Σ_s d(s) ∇KL(q(·|s) ‖ π(·|s)) with a visitation held fixed.
    fn forward(&self, visits: &[f64], q: &[f64]) -> Vec<f64> {
        self.score(|s, k| -visits[s] * q[k].exp())
    }

    /// ∂f/∂θ of a function of logits.
    fn numerically(&self, f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
        let h = 1e-3;
        let at = |k: usize, step: f64| {
            let mut theta = self.theta.clone();
            theta[k] += step;
            f(&theta)
        };
        let slope = |k| {
            let near = at(k, h) - at(k, -h);
            (8.0 * near - at(k, 2.0 * h) + at(k, -2.0 * h)) / (12.0 * h)
        };
        (0..self.theta.len()).map(slope).collect()
    }

    /// Σ_y w P(y) f(y).
    fn mean(&self, logits: &[f64], f: impl Fn(usize) -> f64) -> f64 {
        let (tree, lp) = (self.tree(), log_softmax(logits, self.a()));
        let prob = |y: usize| {
            let log: f64 = tree.response(y).iter().map(|p| lp[*p as usize]).sum();
            log.exp() * tree.prompt_weights()[tree.prompt_of(y)]
        };
        (0..tree.n_responses()).map(|y| prob(y) * f(y)).sum()
    }

    fn score_of(&self, y: usize) -> f64 {
        self.tree()
            .response(y)
            .iter()
            .map(|p| self.problem.reward()[*p as usize])
            .sum()
    }
}

fn worlds() -> Vec<World> {
    let shapes: [(usize, usize, Option<usize>, &[f64]); 4] = [
        (2, 2, None, &[1.0]),
        (3, 2, Some(2), &[1.0]),
        (2, 3, Some(1), &[0.7, 0.3]),
        (2, 3, None, &[1.0]),
    ];
    let mut out = Vec::new();
    for (t, (a, h, eos, w)) in shapes.into_iter().enumerate() {
        for seed in 0..5 {
            let tree = ResponseTree::try_new(a, h, eos, w).unwrap();
            out.push(World::draw(tree, 100 * t as u64 + seed));
        }
    }
    out
}

fn scaled(x: &[f64], c: f64) -> Vec<f64> {
    x.iter().map(|v| c * v).collect()
}

fn minus(x: &[f64], y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(a, b)| a - b).collect()
}

fn plus(x: &[f64], y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(a, b)| a + b).collect()
}

fn gap(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len());
    minus(x, y).iter().fold(0.0, |m: f64, v| m.max(v.abs()))
}

#[track_caller]
fn same(claim: &str, x: &[f64], y: &[f64], tolerance: f64) {
    let g = gap(x, y);
    assert!(g <= tolerance, "{claim}: {g:e}");
}

/// Claims of inequality: the largest gap over all trees exceeds `least`.
struct Differs(&'static str, f64);

impl Differs {
    fn see(&mut self, gap: f64) {
        self.1 = self.1.max(gap);
    }

    fn hold(&self, least: f64) {
        assert!(self.1 >= least, "{}: only {:e}", self.0, self.1);
    }
}

fn kl(placement: KlPlacement, estimator: KlEstimator) -> Option<Kl> {
    Some(Kl {
        placement,
        estimator,
    })
}

/// −Â log π of one response.
fn pg() -> Recipe {
    Recipe {
        surrogate: Surrogate {
            ratio: Ratio::LogProb,
            ..Surrogate::default()
        },
        ..Recipe::default()
    }
}

fn with_kl(placement: KlPlacement, estimator: KlEstimator, beta: f64) -> Recipe {
    Recipe {
        kl: kl(placement, estimator),
        beta,
        ..pg()
    }
}

fn gae(lambda: f64, critic: Critic) -> Estimator {
    Estimator::Gae {
        gamma: 1.0,
        lambda,
        critic,
    }
}

fn unclipped(ratio: Ratio) -> Surrogate {
    Surrogate {
        ratio,
        clip_low: 1.0,
        clip_high: 1e9,
        dual_clip: None,
    }
}

fn grouped(advantage: Estimator, responses: usize) -> Recipe {
    Recipe {
        advantage,
        responses,
        ..pg()
    }
}

fn centred(responses: usize) -> Recipe {
    let spread = Spread::One;
    grouped(Estimator::Group { spread }, responses)
}

fn z_score(responses: usize, eps: f64) -> Recipe {
    let spread = Spread::Group { eps };
    grouped(Estimator::Group { spread }, responses)
}
