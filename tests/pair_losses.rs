//! The losses of pairs that Algorithm 2 can be told to minimise: their values and gradients against the closed forms of
//! `rto::preference`, against finite differences, and the policies that `fit_pairs` reaches against exact minimisers.

use std::collections::BTreeMap;

use rand::Rng;
use rto::algorithm2::{DpoConfig, FitConfig, Pair, dpo, fit_pairs, fit_steps};
use rto::mdp::{Beta, TabularPolicy, TokenTree};
use rto::objective::pair_loss::{CDpo, Dpop, Kto, RDpo, Robust, Rpo, SimPo, Tdpo2};
use rto::objective::{DpoLoss, PairLoss, PairSlopes, SequencePairs};
use rto::policy::{OptimizerConfig, StateMap, TabularLearner, TabularSoftmax};
use rto::preference::{
    Method, Outcome, PairTable, PreferenceLoss, PreferenceProblem, Responses, SupervisedBase,
    forward_kl,
};
use rto::seed::SeedTree;
use rto::seq::{
    Channel, Episode, Finish, PerToken, PolicyLearner, Ragged, TokenObjective, loss_and_score_grad,
};

/// A tree with an end-of-sentence token, so that lengths differ; pairs of which some are drawn twice and some both ways.
struct Tree {
    responses: Responses,
    pairs: Vec<(usize, usize)>,
    /// log π(a|s), `[prefixes, A]`.
    rows: Vec<f64>,
}

fn tree() -> Tree {
    let mut rng = SeedTree::new(11).rng();
    let (a, cells) = (3, 7 * 3);
    let mut softmax = || -> Vec<f64> {
        let z: Vec<f64> = (0..cells).map(|_| rng.random_range(-1.0..1.0)).collect();
        let row = |z: &[f64]| {
            let sum: f64 = z.iter().map(|z| z.exp()).sum();
            z.iter().map(move |z| z.exp() / sum).collect::<Vec<_>>()
        };
        z.chunks(a).flat_map(row).collect()
    };
    let (reference, policy) = (softmax(), softmax());
    let responses = Responses::try_new(a, 3, Some(2), &reference, &[0.0; 21]).unwrap();
    assert_eq!(responses.prefixes().len(), 7);
    let n = responses.len();
    let mut pairs: Vec<(usize, usize)> = (0..n).map(|y| (y, (y + 3) % n)).collect();
    pairs.extend([(0, 3), (3, 0), (5, 1)]);
    Tree {
        responses,
        pairs,
        rows: policy.iter().map(|p| p.ln()).collect(),
    }
}

impl Tree {
    fn batch(&self) -> Vec<Episode> {
        let row = |y: usize| {
            let tokens = self.responses.responses()[y].clone();
            let finish = match tokens.last() {
                Some(2) => Finish::Eos,
                _ => Finish::Length,
            };
            Episode::try_new([0].into(), tokens, finish).unwrap()
        };
        self.pairs
            .iter()
            .flat_map(|&(w, l)| [row(w), row(l)])
            .collect()
    }

    fn reference(&self) -> Vec<f64> {
        let log = self.responses.log_reference();
        self.pairs
            .iter()
            .flat_map(|&(w, l)| [log[w], log[l]])
            .collect()
    }

    /// Log-probabilities and forward divergences of every token.
    fn scores(&self, batch: &[Episode]) -> PerToken {
        let (a, reference) = (3, self.responses.reference_rows());
        let along = |f: &dyn Fn(usize, usize) -> f64| {
            let rows = self.pairs.iter().flat_map(|&(w, l)| [w, l]);
            let row = |y: usize| {
                let path = self.responses.path(y).iter();
                path.map(|&(s, a)| f(s, a)).collect::<Vec<_>>()
            };
            Ragged::from_rows(rows.map(row))
        };
        let log_prob = along(&|s, action| self.rows[s * a + action]);
        let kl = along(&|s, _| {
            (s * a..(s + 1) * a)
                .map(|i| reference[i].exp() * (reference[i] - self.rows[i]))
                .sum()
        });
        PerToken::new(batch)
            .with(Channel::LogProb, log_prob)
            .and_then(|s| s.with(Channel::KlFromReference, kl))
            .unwrap()
    }
}

/// The loss of `rto::preference` that is the same function, where there is one.
fn closed_form(loss: &DpoLoss, pairs: &PairTable) -> Option<PreferenceLoss> {
    Some(match *loss {
        DpoLoss::Dpo => PreferenceLoss::Dpo { alpha: 0.0 },
        DpoLoss::RDpo(RDpo { alpha }) => PreferenceLoss::Dpo { alpha },
        DpoLoss::Ipo => PreferenceLoss::Ipo { mean: false },
        DpoLoss::SimPo(SimPo { gamma }) => PreferenceLoss::SimPo { gamma },
        DpoLoss::ChiPo => PreferenceLoss::Chi,
        DpoLoss::CalDpo => PreferenceLoss::CalDpo,
        DpoLoss::Dpop(Dpop { lambda }) => PreferenceLoss::Dpop { lambda },
        DpoLoss::Rpo(Rpo { eta }) => PreferenceLoss::Rpo {
            eta,
            base: pairs.chosen(),
        },
        DpoLoss::Tdpo1 => PreferenceLoss::Tdpo { alpha: 1.0 },
        DpoLoss::Tdpo2(Tdpo2 { alpha }) => PreferenceLoss::Tdpo2 { alpha },
        _ => return None,
    })
}

#[test]
fn a_loss_on_episodes_is_the_loss_on_the_simplex() {
    let tree = tree();
    let n = tree.responses.len();
    let table = PairTable::from_counts(n, &tree.pairs).unwrap();
    let (batch, beta) = (tree.batch(), Beta::try_new(0.7).unwrap());
    let scores = tree.scores(&batch);
    let (log_policy, divergence) = (
        tree.responses.response_log_probs(&tree.rows),
        forward_kl(&tree.responses, &tree.rows),
    );
    let mut compared = 0;
    for loss in DpoLoss::all() {
        let Some(exact) = closed_form(&loss, &table) else {
            continue;
        };
        let at = exact
            .at(&tree.responses, &table, beta, &log_policy, &divergence)
            .unwrap();
        let objective = loss.loss().objective(&batch, &tree.reference(), beta.get());
        let (value, grad) = loss_and_score_grad(&*objective.unwrap(), &scores).unwrap();
        let near = |a: f64, b: f64| (a - b).abs() < 1e-12 * (1.0 + b.abs());
        assert!(near(value, at.value), "{loss:?} {value} {}", at.value);
        for (channel, exact) in [
            (Channel::LogProb, &at.by_log_prob),
            (Channel::KlFromReference, &at.by_forward_kl),
        ] {
            let mut found = vec![0.0; n];
            let rows = tree.pairs.iter().flat_map(|&(w, l)| [w, l]);
            for (i, y) in rows.enumerate() {
                // Every token of a sum has the same derivative.
                found[y] += grad.row(channel, i)[0];
            }
            for (y, (found, exact)) in found.iter().zip(exact).enumerate() {
                assert!(
                    near(*found, *exact),
                    "{loss:?} {channel:?} {y} {found} {exact}"
                );
            }
        }
        compared += 1;
    }
    assert_eq!(compared, 10);
}

/// Central differences in every score; TDPO2's winner and KTO's reference point are held fixed by definition.
#[test]
fn gradients_are_those_of_the_losses() {
    let tree = tree();
    for loss in DpoLoss::all() {
        let mut batch = tree.batch();
        batch.extend(loss.loss().more_rows(&tree.batch()));
        let pairs = tree.batch().len();
        assert_eq!(loss.loss().pair_rows(batch.len()), pairs, "{loss:?}");
        let mut rng = SeedTree::new(3).rng();
        let mut noise = || Ragged::zeros(&batch).map(|_| rng.random_range(-2.0..0.0));
        let reference = noise().row_sums();
        let scores = PerToken::new(&batch)
            .with(Channel::LogProb, noise())
            .and_then(|s| s.with(Channel::KlFromReference, noise()))
            .unwrap();
        let objective = loss.loss().objective(&batch, &reference, 0.3).unwrap();
        let (_, grad) = loss_and_score_grad(&*objective, &scores).unwrap();
        for &channel in objective.channels() {
            for i in 0..batch.len() {
                let held = i >= pairs
                    || matches!(loss, DpoLoss::Tdpo2(_))
                        && channel == Channel::KlFromReference
                        && i % 2 == 0;
                let found = grad.row(channel, i)[0];
                if held {
                    assert_eq!(found, 0.0, "{loss:?} {channel:?} {i}");
                    continue;
                }
                let at = |h: f64| {
                    let mut moved = scores.clone();
                    let mut values = moved.take(channel).unwrap();
                    values.row_mut(i)[0] += h;
                    let moved = moved.with(channel, values).unwrap();
                    loss_and_score_grad(&*objective, &moved).unwrap().0
                };
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!(
                    (found - slope).abs() < 1e-7,
                    "{loss:?} {channel:?} {i} {found} {slope}"
                );
            }
        }
    }
}

/// The mean of the robust loss over labels that are wrong with probability ε is DPO's on right labels; that of cDPO is not.
#[test]
fn the_robust_loss_is_unbiased() {
    let tree = tree();
    let (batch, reference) = (tree.batch(), tree.reference());
    let swapped =
        |values: &[f64]| -> Vec<f64> { values.chunks(2).flat_map(|p| [p[1], p[0]]).collect() };
    let flipped: Vec<Episode> = batch
        .chunks(2)
        .flat_map(|p| [p[1].clone(), p[0].clone()])
        .collect();
    let scores = tree.scores(&batch);
    let turned = {
        let log_prob = scores.get(Channel::LogProb).unwrap();
        let rows: Vec<&[f64]> = log_prob.rows().collect();
        let rows = rows.chunks(2).flat_map(|p| [p[1], p[0]]);
        PerToken::new(&flipped)
            .with(Channel::LogProb, Ragged::from_rows(rows))
            .unwrap()
    };
    let epsilon = 0.2;
    let mean = |loss: &dyn PairLoss| {
        let right = loss.objective(&batch, &reference, 0.5).unwrap();
        let wrong = loss.objective(&flipped, &swapped(&reference), 0.5).unwrap();
        let value = |l: &dyn TokenObjective, s| loss_and_score_grad(l, s).unwrap().0;
        (1.0 - epsilon) * value(&*right, &scores) + epsilon * value(&*wrong, &turned)
    };
    let right = DpoLoss::Dpo.loss().objective(&batch, &reference, 0.5);
    let right = loss_and_score_grad(&*right.unwrap(), &scores).unwrap().0;
    assert!((mean(&Robust { epsilon }) - right).abs() < 1e-12);
    assert!((mean(&CDpo { epsilon }) - right).abs() > 1e-3);
}

/// Adam on the one state of a bandit, every pair in every step.
fn fitted(loss: &dyn PairLoss, reference: &[f64], pairs: &[(usize, usize)], beta: f64) -> Vec<f64> {
    let a = reference.len();
    let map = StateMap::tree(&TokenTree::try_new(1, a, 1, None).unwrap(), &[1.0]).unwrap();
    let table = ndarray::Array2::from_shape_vec((1, a), reference.to_vec()).unwrap();
    let policy = TabularPolicy::from_probs(&table).unwrap();
    let start = TabularSoftmax::from_policy(map, &policy).unwrap();
    let of =
        |y: usize| Episode::try_new(StateMap::prompt(0), vec![y as u32], Finish::Length).unwrap();
    let pairs: Vec<Pair> = pairs
        .iter()
        .map(|&(w, l)| Pair {
            winner: of(w),
            loser: of(l),
        })
        .collect();
    let watched = start.clone().with_reference(policy.into()).unwrap();
    let mut learner = TabularLearner::try_new(watched, OptimizerConfig::adam(0.02)).unwrap();
    let config = FitConfig {
        learning_rate: 0.02,
        schedule: rto::algorithm2::Schedule::Cosine {
            warmup: 0.0,
            floor: 0.0,
        },
        batch_size: pairs.len(),
        epochs: 4000,
        ..FitConfig::paper_sft()
    }
    .check()
    .unwrap();
    let steps = 0..fit_steps(pairs.len(), &config);
    let seeds = SeedTree::new(1);
    fit_pairs(
        &mut learner,
        &start,
        &pairs,
        (loss, beta),
        &config,
        &seeds,
        steps,
        &mut |_| Ok(()),
    )
    .unwrap();
    let table = learner.policy().table().unwrap();
    table.log_probs().row(0).to_vec()
}

#[test]
fn fit_pairs_reaches_the_exact_minimisers() {
    let reference = [0.4, 0.3, 0.2, 0.1];
    let pairs = [
        (0, 1),
        (1, 2),
        (2, 3),
        (3, 0),
        (0, 2),
        (1, 3),
        (2, 0),
        (3, 1),
    ];
    let bandit = Responses::bandit(&reference, &[0.0; 4]).unwrap();
    let table = PairTable::from_counts(4, &pairs).unwrap();
    let beta = 0.5;
    let problem = PreferenceProblem::try_new(&bandit, &table, Beta::try_new(beta).unwrap());
    let problem = problem.unwrap();
    let base = SupervisedBase::Chosen;
    for (loss, method) in [
        (DpoLoss::Dpo, Method::Dpo),
        (DpoLoss::Ipo, Method::Ipo),
        (DpoLoss::ChiPo, Method::ChiPo),
        (DpoLoss::CalDpo, Method::CalDpo),
        (
            DpoLoss::Rpo(Rpo { eta: 0.1 }),
            Method::Rpo { eta: 0.1, base },
        ),
        (
            DpoLoss::SimPo(SimPo { gamma: 0.5 }),
            Method::SimPo { beta, gamma: 0.5 },
        ),
        (DpoLoss::Tdpo1, Method::Tdpo { alpha: 1.0 }),
    ] {
        let Outcome::Solved(exact) = problem.solve(&method).unwrap() else {
            panic!("{loss:?}");
        };
        let found = fitted(loss.loss(), &reference, &pairs, beta);
        for (found, exact) in found.iter().zip(&exact.log_policy) {
            assert!((found - exact).abs() < 1e-4, "{loss:?} {found} {exact}");
        }
    }
}

/// A loss of one's own is one file: minus the probability that the winner is preferred.
struct MinusAccuracy;

impl PairLoss for MinusAccuracy {
    fn objective(
        &self,
        batch: &[Episode],
        reference: &[f64],
        beta: f64,
    ) -> rto::Result<Box<dyn TokenObjective>> {
        SequencePairs::boxed(batch, reference, beta, move |pair| {
            let [w, l] = pair.log_ratio();
            let p = rto::numerics::sigmoid(beta * (w - l));
            let g = -beta * p * (1.0 - p);
            PairSlopes {
                loss: -p,
                slope: [g, -g],
            }
        })
    }
}

#[test]
fn a_loss_of_ones_own_and_one_with_more_rows_are_fitted() {
    let (reference, pairs) = ([0.4, 0.3, 0.3], [(1, 0), (1, 2), (2, 0)]);
    let own = fitted(&MinusAccuracy, &reference, &pairs, 0.5);
    assert!(own[1] > own[2] && own[2] > own[0], "{own:?}");
    let kto = fitted(&Kto::default(), &reference, &pairs, 0.5);
    assert!(kto[1] > kto[2] && kto[2] > kto[0], "{kto:?}");
}

#[test]
fn names_are_told_apart_and_parameters_are_checked() {
    let names: BTreeMap<_, _> = DpoLoss::all().iter().map(|l| (l.name(), *l)).collect();
    assert_eq!(names.len(), DpoLoss::NAMES.len());
    for loss in [
        DpoLoss::CDpo(CDpo { epsilon: 0.5 }),
        DpoLoss::Robust(Robust { epsilon: -0.1 }),
        DpoLoss::SimPo(SimPo { gamma: f64::NAN }),
        DpoLoss::Dpop(Dpop { lambda: -1.0 }),
    ] {
        let config = DpoConfig {
            loss,
            ..DpoConfig::default()
        };
        let said = config.check().unwrap_err().to_string();
        assert!(said.starts_with(loss.name()), "{said}");
    }
    // What the configuration names is what `dpo` minimises.
    let _: fn(_, _, _, _, _, _, _) -> rto::Result<()> = dpo;
}

/// What a file says of a loss: its name, or its name with parameters.
#[cfg(feature = "serde")]
#[test]
fn files_name_a_loss_with_or_without_its_parameters() {
    for loss in DpoLoss::all() {
        let text = serde_json::to_string(&loss).unwrap();
        assert_eq!(serde_json::from_str::<DpoLoss>(&text).unwrap(), loss);
        let name = format!("{:?}", loss.name());
        assert_eq!(serde_json::from_str::<DpoLoss>(&name).unwrap(), loss);
    }
    let text = "a = \"kto\"\nb = { kto = { reference_point = { fixed = 0.5 } } }\nc = { simpo = { gamma = 0.25 } }";
    let read: BTreeMap<String, DpoLoss> = toml::from_str(text).unwrap();
    let kto = Kto {
        reference_point: rto::objective::pair_loss::ReferencePoint::Fixed(0.5),
        ..Kto::default()
    };
    assert_eq!(read["a"], DpoLoss::Kto(Kto::default()));
    assert_eq!(read["b"], DpoLoss::Kto(kto));
    assert_eq!(read["c"], DpoLoss::SimPo(SimPo { gamma: 0.25 }));
    for (text, said) in [
        ("\"dopo\"", "unknown variant `dopo`, expected one of `dpo`"),
        ("3", "expected the name of a loss"),
        ("{\"kto\":{\"desired\":1}}", "unknown field `desired`"),
    ] {
        let error = serde_json::from_str::<DpoLoss>(text).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
}
