//! A grammar whose states merge, so that replies of hundreds of tokens have exact values, with the reward where one wants it.

use ndarray::{Array1, Array2};
use rand_distr::{Distribution, StandardNormal};

use crate::mdp::{LayeredGraph, TabularMdp, TabularPolicy};
use crate::reward::TabularReward;
use crate::seed::SeedTree;
use crate::{Error, Result};

/// Where the reward of a [`grammar`] stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// On the first ⌈H/4⌉ tokens.
    Early,
    /// On the last ⌈H/4⌉ tokens.
    Late,
    /// On every token.
    Spread,
    /// On one token of the vocabulary, where it first stands in the reply; few replies of π_ref have it.
    Rare,
}

/// A family of grammars.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GrammarSpec {
    /// A ≥ 2, and ≥ 3 with [`Placement::Rare`].
    pub actions: usize,
    /// H ≥ 1.
    pub horizon: usize,
    /// Where the reward stands.
    pub placement: Placement,
    /// Standard deviation of a reply's reward under π_ref, > 0, the same for every H and every placement.
    pub reward_sd: f64,
    /// Standard deviation of the logits of π_ref, ≥ 0, and so small that every token keeps a probability that a reward can stand on: see [`grammar`].
    pub reference_scale: f64,
    /// The share of replies of π_ref that have the rare token, in (0, 1); read with [`Placement::Rare`] alone.
    pub rare: f64,
}

/// A token MDP, its reference policy and its reward.
#[derive(Debug, Clone, PartialEq)]
pub struct Grammar {
    /// States (h, last token), and whether the rare token stands already where that is paid.
    pub mdp: TabularMdp,
    /// π_ref, which knows the last token and not h.
    pub reference: TabularPolicy,
    /// r.
    pub reward: TabularReward,
}

/// Draws a grammar: a state is (h, last token), so that all prefixes of h tokens that end alike merge.
///
/// π_ref(·|last) is a softmax of Gaussian logits. Where k steps pay, r = (reward_sd/√k) g(last, a) with g Gaussian, of mean 0 and variance 1
/// under π_ref(·|last): the rewards of a reply are then uncorrelated under π_ref, and their sum has variance reward_sd² exactly. The rare token is
/// written with the same small probability in every state, such that the share `rare` of replies has it, and pays reward_sd/√(rare(1 − rare)) once,
/// which has that variance too.
///
/// # Errors
/// [`Error::Config`] on a size or a number out of range, and on a `reference_scale` at which π_ref is so nearly deterministic that a token's probability
/// is none of f64's normal numbers, or that rounding leaves g another mean or variance than 0 and 1.
pub fn grammar(spec: &GrammarSpec, seeds: &SeedTree) -> Result<Grammar> {
    check(spec)?;
    let (na, horizon) = (spec.actions, spec.horizon);
    let rare = spec.placement == Placement::Rare;
    // Contexts: the last token, and after all of them "none", which is that of the first step.
    let normal = |name: &str| {
        let mut rng = seeds.child(name).rng();
        Array2::from_shape_fn((na + 1, na), |_| -> f64 { StandardNormal.sample(&mut rng) })
    };
    let mut probs = normal("reference").mapv(|z| (spec.reference_scale * z).exp());
    // A reply lacks the rare token with probability 1 − rare, a token is another one with the H-th root of it. Not by powers: 1 − (1 − p)^(1/H) has no
    // digit left where p is small.
    let log_other = (-spec.rare).ln_1p() / horizon as f64;
    let (once, other) = (-log_other.exp_m1(), log_other.exp());
    for mut row in probs.rows_mut() {
        if rare {
            row[0] = 0.0;
        }
        let sum = row.sum();
        let left = if rare { other } else { 1.0 };
        row.mapv_inplace(|p| p / sum * left);
        if rare {
            row[0] = once;
        }
    }
    // NaN, where exp overflows, is no normal number either.
    if !probs.iter().all(|p| p.is_normal()) {
        return Err(too_sharp(spec));
    }
    let mut gains = normal("reward");
    if !rare {
        for (mut g, p) in gains.rows_mut().into_iter().zip(probs.rows()) {
            let square = |g: &Array1<f64>| g.iter().zip(p).map(|(g, p)| p * g * g).sum::<f64>();
            let mut standard = &g - g.dot(&p);
            standard /= square(&standard).sqrt();
            let off = standard.dot(&p).abs().max((square(&standard) - 1.0).abs());
            if off.is_nan() || off > 1e-9 {
                return Err(too_sharp(spec));
            }
            g.assign(&standard);
        }
    }
    let (first, steps) = match spec.placement {
        Placement::Early => (0, horizon.div_ceil(4)),
        Placement::Late => (horizon - horizon.div_ceil(4), horizon.div_ceil(4)),
        Placement::Spread | Placement::Rare => (0, horizon),
    };
    let scale = spec.reward_sd / (steps as f64).sqrt();
    let once_paid = spec.reward_sd / (spec.rare * (1.0 - spec.rare)).sqrt();
    // Where the rare token is paid, states A to 2A − 1 of a layer are those of replies that have it.
    let width = if rare { 2 * na } else { na };
    let mut sizes = vec![width; horizon];
    sizes[0] = 1;
    let mut next = Vec::with_capacity(horizon);
    let (mut logs, mut rewards) = (Vec::new(), Vec::new());
    for (h, size) in sizes.iter().enumerate() {
        let mut row = Vec::with_capacity(size * na);
        for at in 0..*size {
            let (context, has) = match h {
                0 => (na, false),
                _ => (at % na, at >= na),
            };
            for a in 0..na {
                let now = has || rare && a == 0;
                let to = a + if now { na } else { 0 };
                row.push((h + 1 < horizon).then_some(if rare { to } else { a } as u32));
                logs.push(probs[[context, a]].ln());
                rewards.push(match rare {
                    true if a == 0 && !has => once_paid,
                    false if (first..first + steps).contains(&h) => scale * gains[[context, a]],
                    _ => 0.0,
                });
            }
        }
        next.push(row);
    }
    let mdp = LayeredGraph::try_new(&sizes, na, &next)?.compile(&[1.0])?;
    let shape = (mdp.n_states(), na);
    let table = |values| Array2::from_shape_vec(shape, values).expect("a row for each state");
    Ok(Grammar {
        reference: TabularPolicy::from_logits(table(logs))?,
        reward: TabularReward::try_new(table(rewards))?,
        mdp,
    })
}

/// What is wrong with a `reference_scale` whose π_ref nearly always writes one token.
fn too_sharp(spec: &GrammarSpec) -> Error {
    let must = "so small that in every context two tokens or more have probabilities that f64 can tell from 0 and 1; up to 5 nearly always is";
    Error::config("reference_scale", spec.reference_scale, must)
}

fn check(spec: &GrammarSpec) -> Result<()> {
    let least = if spec.placement == Placement::Rare {
        3
    } else {
        2
    };
    if spec.actions < least {
        return Err(Error::config(
            "actions",
            spec.actions,
            format!("at least {least}"),
        ));
    }
    if spec.horizon == 0 {
        return Err(Error::config("horizon", 0, "at least 1"));
    }
    crate::check::positive("reward_sd", spec.reward_sd)?;
    crate::check::not_negative("reference_scale", spec.reference_scale)?;
    match spec.rare > 0.0 && spec.rare < 1.0 {
        true => Ok(()),
        false => Err(Error::config("rare", spec.rare, "in (0, 1)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mdp::{Beta, Problem, StateIx, for_each_trajectory};
    use crate::plan::{soft_value_iteration, visitation};
    use crate::reward::RewardFunction;

    const ALL: [Placement; 4] = [
        Placement::Early,
        Placement::Late,
        Placement::Spread,
        Placement::Rare,
    ];

    fn draw(placement: Placement, horizon: usize) -> Grammar {
        let spec = GrammarSpec {
            actions: 3,
            horizon,
            placement,
            reward_sd: 2.0,
            reference_scale: 0.5,
            rare: 0.1,
        };
        grammar(&spec, &SeedTree::new(7)).unwrap()
    }

    /// Every reply of small grammars, listed: how many, the variance of their reward, the optimum β log E exp(R/β), and where it is paid.
    #[test]
    fn all_replies_listed_have_the_stated_reward_and_optimum() {
        for placement in ALL {
            for horizon in [1, 2, 5, 6] {
                let g = draw(placement, horizon);
                let (beta, mut count) = (0.3, 0);
                let (mut mass, mut mean, mut square, mut tilted) = (0.0, 0.0, 0.0, 0.0);
                let quarter = horizon.div_ceil(4);
                for_each_trajectory(&g.mdp, StateIx(0), |steps| {
                    let log: f64 = steps
                        .iter()
                        .map(|(s, a)| g.reference.log_prob(*s, *a))
                        .sum();
                    let paid: Vec<f64> =
                        steps.iter().map(|(s, a)| g.reward.reward(*s, *a)).collect();
                    let (p, total): (f64, f64) = (log.exp(), paid.iter().sum());
                    count += 1;
                    mass += p;
                    mean += p * total;
                    square += p * total * total;
                    tilted += p * (total / beta).exp();
                    let is_paid = |h: usize| match placement {
                        Placement::Early => h < quarter,
                        Placement::Late => h >= horizon - quarter,
                        Placement::Spread => true,
                        Placement::Rare => steps.iter().position(|(_, a)| a.0 == 0) == Some(h),
                    };
                    assert!(
                        paid.iter()
                            .enumerate()
                            .all(|(h, r)| (*r != 0.0) == is_paid(h))
                    );
                })
                .unwrap();
                assert_eq!(count, 3usize.pow(horizon as u32));
                assert!((mass - 1.0).abs() < 1e-12, "{mass}");
                assert!(
                    (square - mean * mean - 4.0).abs() < 1e-10,
                    "{placement:?} {horizon}"
                );
                let expected = match placement {
                    // 2/√(0.09) with probability 0.1.
                    Placement::Rare => 2.0 / 3.0,
                    _ => 0.0,
                };
                assert!((mean - expected).abs() < 1e-12, "{placement:?} {mean}");
                let problem = Problem::new(&g.mdp, &g.reference, Beta::try_new(beta).unwrap());
                let best = soft_value_iteration(problem, &g.reward).unwrap();
                let listed = beta * tilted.ln();
                assert!(
                    (best.mean_value(&g.mdp) - listed).abs() < 1e-10,
                    "{placement:?}"
                );
            }
        }
    }

    /// At 128 tokens, which nobody lists: uncorrelated rewards of mean 0, whose squares under d^π sum to the variance; and the optimum of the rare
    /// token in closed form, β log(1 − rare + rare e^{c/β}) for a payment c.
    #[test]
    fn long_replies_keep_the_variance_and_the_closed_form() {
        for placement in ALL {
            let g = draw(placement, 128);
            let d = visitation(&g.mdp, &g.reference).unwrap().pair;
            let rewards = g.reward.values();
            let square: f64 = d.iter().zip(rewards).map(|(d, r)| d * r * r).sum();
            let mean: f64 = d.iter().zip(rewards).map(|(d, r)| d * r).sum();
            if placement != Placement::Rare {
                assert!(
                    (square - 4.0).abs() < 1e-9 && mean.abs() < 1e-9,
                    "{square} {mean}"
                );
                continue;
            }
            let (beta, paid) = (0.3f64, 2.0 / 0.3f64);
            assert!((square - 0.1 * paid * paid).abs() < 1e-9 && (mean - 0.1 * paid).abs() < 1e-9);
            let problem = Problem::new(&g.mdp, &g.reference, Beta::try_new(beta).unwrap());
            let best = soft_value_iteration(problem, &g.reward)
                .unwrap()
                .mean_value(&g.mdp);
            let closed = beta * (0.9 + 0.1 * (paid / beta).exp()).ln();
            assert!((best - closed).abs() < 1e-9, "{best} {closed}");
        }
    }

    /// 1 − (1 − p)^(1/H) = p/H + (1 − 1/H) p²/(2H) + …, of which the first term is all that f64 holds where p is tiny; and a share near 1 keeps the others.
    #[test]
    fn a_rare_token_may_be_as_rare_as_one_likes() {
        for (rare, horizon, once) in [
            (1e-18, 4, 2.5e-19),
            (1e-30, 128, 7.8125e-33),
            (1e-9, 2, 5.00000000125e-10),
        ] {
            let spec = GrammarSpec {
                actions: 3,
                horizon,
                placement: Placement::Rare,
                reward_sd: 2.0,
                reference_scale: 0.5,
                rare,
            };
            let g = grammar(&spec, &SeedTree::new(7)).unwrap();
            for s in 0..g.mdp.n_states() {
                let probs = g.reference.probs(StateIx(s as u32));
                assert!((probs[0] / once - 1.0).abs() < 1e-13, "{rare} {s}");
            }
            // The expected payment, √(rare/(1 − rare)) reward_sd: nothing of it is lost over H steps.
            let d = visitation(&g.mdp, &g.reference).unwrap().pair;
            let mean: f64 = d.iter().zip(g.reward.values()).map(|(d, r)| d * r).sum();
            let expected = 2.0 * (rare / (1.0 - rare)).sqrt();
            assert!((mean / expected - 1.0).abs() < 1e-12, "{rare} {mean}");
        }
    }

    /// What is drawn at a large scale has the stated variance or is refused by name, and nothing else happens.
    #[test]
    fn a_reference_that_leaves_the_reward_no_variance_is_refused() {
        let (mut drawn, mut refused) = (0, 0);
        for placement in ALL {
            for scale in [1.0, 3.0, 6.0, 12.0, 25.0, 50.0, 200.0, 1e4, 1e300] {
                for seed in 0..10 {
                    let spec = GrammarSpec {
                        actions: 3,
                        horizon: 6,
                        placement,
                        reward_sd: 2.0,
                        reference_scale: scale,
                        rare: 0.1,
                    };
                    match grammar(&spec, &SeedTree::new(seed)) {
                        Ok(g) => {
                            let d = visitation(&g.mdp, &g.reference).unwrap().pair;
                            let rewards = g.reward.values();
                            let square: f64 = d.iter().zip(rewards).map(|(d, r)| d * r * r).sum();
                            let expected = match placement {
                                Placement::Rare => 4.0 / 0.9,
                                _ => 4.0,
                            };
                            assert!((square - expected).abs() < 1e-7, "{spec:?} {square}");
                            assert!(scale < 1e4);
                            drawn += 1;
                        }
                        Err(e) => {
                            let said = e.to_string();
                            assert!(said.starts_with("reference_scale: found"), "{said}");
                            assert!(!said.contains('\n') && scale > 3.0, "{said}");
                            refused += 1;
                        }
                    }
                }
            }
        }
        assert!(drawn > 100 && refused > 100, "{drawn} {refused}");
    }

    #[test]
    fn sizes_out_of_range_are_named() {
        let spec = GrammarSpec {
            actions: 2,
            horizon: 4,
            placement: Placement::Rare,
            reward_sd: 1.0,
            reference_scale: 0.5,
            rare: 0.1,
        };
        for (bad, says) in [
            (spec, "actions: found 2"),
            (
                GrammarSpec {
                    actions: 3,
                    horizon: 0,
                    ..spec
                },
                "horizon: found 0",
            ),
            (
                GrammarSpec {
                    actions: 3,
                    reward_sd: 0.0,
                    ..spec
                },
                "reward_sd: found 0",
            ),
            (
                GrammarSpec {
                    actions: 3,
                    rare: f64::NAN,
                    ..spec
                },
                "rare: found NaN",
            ),
            (
                GrammarSpec {
                    actions: 3,
                    reference_scale: f64::INFINITY,
                    ..spec
                },
                "reference_scale",
            ),
        ] {
            let said = grammar(&bad, &SeedTree::new(1)).unwrap_err().to_string();
            assert!(said.starts_with(says), "{said}");
        }
    }
}
