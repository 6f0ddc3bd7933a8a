use super::{Evaluator, float_slack};
use crate::search::check_size;
use crate::search::mass::LogMass;
use crate::search::oracle::Scored;
use crate::seed::SeedTree;
use crate::{Error, Result, Token};
use rand_distr::{Distribution, Gamma};

/// A random softmax policy: π\*(a | prefix) ∝ exp(inverse temperature · u(prefix, a)) with u uniform on \[0, 1).
///
/// The logits are a hash of the prefix (the SplitMix64 finaliser), not a stream, so the policy is a
/// function of `key` alone and any node can be evaluated without its siblings. Larger
/// `inverse_temperature` means a more concentrated policy.
#[derive(Debug, Clone)]
pub struct SoftmaxTree {
    n_actions: usize,
    horizon: usize,
    inverse_temperature: f64,
    key: u64,
}

/// State of a [`SoftmaxTree`] prefix: its hash, the log-normaliser of its conditional, its depth.
#[derive(Debug, Clone, Copy)]
pub struct SoftmaxPrefix {
    hash: u64,
    log_normaliser: f64,
    depth: u32,
}

impl SoftmaxTree {
    /// A tree with A = `n_actions`, H = `horizon`.
    ///
    /// # Errors
    /// [`Error::Config`] for a size out of range or an inverse temperature that is not in \[0, 500\].
    pub fn new(
        n_actions: usize,
        horizon: usize,
        inverse_temperature: f64,
        key: u64,
    ) -> Result<Self> {
        check_size(n_actions, horizon)?;
        if !(0.0..=500.0).contains(&inverse_temperature) {
            return Err(Error::config(
                "inverse_temperature",
                inverse_temperature,
                "a number from 0 to 500",
            ));
        }
        Ok(Self {
            n_actions,
            horizon,
            inverse_temperature,
            key,
        })
    }

    /// inverse temperature · (u − 1) ≤ 0, so that exp never overflows and no maximum is needed.
    #[inline]
    fn logit(&self, hash: u64, token: u64) -> f64 {
        let uniform =
            (mix(hash.wrapping_add(token + 1)) >> 11) as f64 * (1.0 / (1u64 << 53) as f64);
        (uniform - 1.0) * self.inverse_temperature
    }

    #[inline]
    fn prefix(&self, hash: u64, depth: u32) -> SoftmaxPrefix {
        let mut sum = 1.0;
        if (depth as usize) < self.horizon {
            sum = (0..self.n_actions as u64)
                .map(|a| self.logit(hash, a).exp())
                .sum::<f64>();
        }
        SoftmaxPrefix {
            hash,
            log_normaliser: sum.ln(),
            depth,
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014), a bijection of 64-bit words.
#[inline]
fn mix(word: u64) -> u64 {
    let x = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

impl Evaluator for SoftmaxTree {
    type Mass = LogMass;
    type State = SoftmaxPrefix;

    fn n_actions(&self) -> usize {
        self.n_actions
    }

    fn horizon(&self) -> usize {
        self.horizon
    }

    fn root(&self) -> Result<Scored<LogMass, SoftmaxPrefix>> {
        Ok(Scored {
            mass: LogMass(0.0),
            prefix: self.prefix(mix(self.key), 0),
        })
    }

    #[inline]
    fn child(
        &self,
        at: &Scored<LogMass, SoftmaxPrefix>,
        token: Token,
    ) -> Result<Scored<LogMass, SoftmaxPrefix>> {
        let SoftmaxPrefix {
            hash,
            log_normaliser,
            depth,
        } = at.prefix;
        let mass = LogMass(at.mass.0 + self.logit(hash, token.into()) - log_normaliser);
        let below = hash
            .wrapping_mul(self.n_actions as u64)
            .wrapping_add(u64::from(token) + 1);
        Ok(Scored {
            mass,
            prefix: self.prefix(mix(below), depth + 1),
        })
    }

    fn slack(&self) -> f64 {
        float_slack(self.n_actions)
    }
}

/// A random tree whose conditionals are independent symmetric Dirichlet(α) draws; small α is peaked.
#[derive(Debug, Clone)]
pub struct DirichletTree {
    n_actions: usize,
    horizon: usize,
    alpha: f64,
    /// Gamma(α + 1, 1).
    gamma: Gamma<f64>,
    seeds: SeedTree,
}

/// State of a [`DirichletTree`] prefix: its stream and the log-conditional there.
#[derive(Debug, Clone)]
pub struct DirichletPrefix {
    seeds: SeedTree,
    log_conditional: Vec<f64>,
    depth: u32,
}

impl DirichletTree {
    /// A tree with A = `n_actions`, H = `horizon` and concentration α = `alpha`.
    ///
    /// # Errors
    /// [`Error::Config`] for a size out of range or α outside \[1e-3, 1e6\].
    pub fn new(n_actions: usize, horizon: usize, alpha: f64, seeds: SeedTree) -> Result<Self> {
        check_size(n_actions, horizon)?;
        let refused = || Error::config("alpha", alpha, "a number from 1e-3 to 1e6");
        if !(1e-3..=1e6).contains(&alpha) {
            return Err(refused());
        }
        // Drawn as Gamma(α + 1)·U^{1/α} in log space, which does not underflow for small α.
        let gamma = Gamma::new(alpha + 1.0, 1.0).map_err(|_| refused())?;
        Ok(Self {
            n_actions,
            horizon,
            alpha,
            gamma,
            seeds,
        })
    }

    fn prefix(&self, seeds: SeedTree, depth: u32) -> DirichletPrefix {
        let mut log_conditional = Vec::new();
        if (depth as usize) < self.horizon {
            let mut rng = seeds.rng();
            log_conditional.extend((0..self.n_actions).map(|_| {
                let uniform: f64 = rand_distr::OpenClosed01.sample(&mut rng);
                self.gamma.sample(&mut rng).ln() + uniform.ln() / self.alpha
            }));
            let normaliser = crate::numerics::log_sum_exp(&log_conditional);
            log_conditional.iter_mut().for_each(|l| *l -= normaliser);
        }
        DirichletPrefix {
            seeds,
            log_conditional,
            depth,
        }
    }
}

impl Evaluator for DirichletTree {
    type Mass = LogMass;
    type State = DirichletPrefix;

    fn n_actions(&self) -> usize {
        self.n_actions
    }

    fn horizon(&self) -> usize {
        self.horizon
    }

    fn root(&self) -> Result<Scored<LogMass, DirichletPrefix>> {
        Ok(Scored {
            mass: LogMass(0.0),
            prefix: self.prefix(self.seeds.clone(), 0),
        })
    }

    fn child(
        &self,
        at: &Scored<LogMass, DirichletPrefix>,
        token: Token,
    ) -> Result<Scored<LogMass, DirichletPrefix>> {
        let mass = LogMass(at.mass.0 + at.prefix.log_conditional[token as usize]);
        let prefix = self.prefix(at.prefix.seeds.index(token.into()), at.prefix.depth + 1);
        Ok(Scored { mass, prefix })
    }

    fn slack(&self) -> f64 {
        float_slack(self.n_actions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum_of_leaves<E: Evaluator<Mass = LogMass>>(tree: &E) -> f64 {
        let mut level = vec![tree.root().unwrap()];
        for _ in 0..tree.horizon() {
            level = level
                .iter()
                .flat_map(|n| {
                    (0..tree.n_actions()).map(move |a| tree.child(n, a as Token).unwrap())
                })
                .collect();
        }
        level.iter().map(|leaf| leaf.mass.0.exp()).sum()
    }

    #[test]
    fn random_trees_are_distributions() {
        for key in 0..5 {
            assert!(
                (sum_of_leaves(&SoftmaxTree::new(3, 4, 6.0, key).unwrap()) - 1.0).abs() < 1e-12
            );
            for alpha in [0.01, 0.5, 10.0] {
                let tree = DirichletTree::new(3, 4, alpha, SeedTree::new(key)).unwrap();
                assert!((sum_of_leaves(&tree) - 1.0).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn dirichlet_conditionals_have_the_right_mean_square() {
        // E[q²] = (α+1)/(A(Aα+1)) for a symmetric Dirichlet; 4000 draws put the mean within 5 standard errors.
        let (n, alpha) = (3usize, 0.7);
        let tree = DirichletTree::new(n, 1, alpha, SeedTree::new(1)).unwrap();
        let draws: Vec<f64> = (0..4000)
            .map(|i| {
                tree.prefix(SeedTree::new(i), 0).log_conditional[0]
                    .exp()
                    .powi(2)
            })
            .collect();
        let mean = draws.iter().sum::<f64>() / 4000.0;
        let sd = (draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 4000.0).sqrt();
        let expected = (alpha + 1.0) / (n as f64 * (n as f64 * alpha + 1.0));
        assert!(
            (mean - expected).abs() < 5.0 * sd / 4000f64.sqrt(),
            "{mean} against {expected}"
        );
    }

    #[test]
    fn an_inverse_temperature_outside_its_range_is_refused() {
        for bad in [-1.0, f64::NAN, f64::INFINITY, 501.0] {
            assert!(SoftmaxTree::new(2, 2, bad, 0).is_err());
        }
        assert!(DirichletTree::new(2, 2, 0.0, SeedTree::new(0)).is_err());
    }
}
