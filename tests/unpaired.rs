//! Losses of single replies with a label: gradients against finite differences, the reference point by hand, and the policies that
//! `fit_unpaired` reaches on tables against the exact water-filling of `rto::preference`.

use std::sync::Arc;

use ndarray::Array2;
use rand::Rng;
use rto::algorithm2::{FitConfig, Labelled, Schedule, fit_label_reward, fit_steps, fit_unpaired};
use rto::mdp::{Beta, TabularPolicy, TokenTree};
use rto::numerics::sigmoid;
use rto::objective::pair_loss::{Kto, ReferencePoint};
use rto::objective::{PairLoss, Readout, Unpaired, UnpairedLoss};
use rto::policy::{OptimizerConfig, Regressor, StateMap, TabularLearner, TabularSoftmax};
use rto::preference::{Responses, kto_plan};
use rto::seed::SeedTree;
use rto::seq::{
    Channel, Episode, Finish, PerToken, PolicyLearner, Ragged, TokenScorer, loss_and_score_grad,
};

fn episode(prompt: u32, response: &[u32]) -> Episode {
    Episode::try_new(Arc::from([prompt]), response.to_vec(), Finish::Length).unwrap()
}

/// Five rows of three prompts, and scores and offsets drawn for them and for `more` rows.
fn drawn(loss: &Kto) -> (Vec<Episode>, Vec<bool>, Vec<f64>, PerToken) {
    let mut batch = vec![
        episode(0, &[1, 2]),
        episode(0, &[2]),
        episode(1, &[0, 1, 1]),
        episode(2, &[2, 2]),
        episode(1, &[1]),
    ];
    let more = UnpairedLoss::more_rows(loss, &batch);
    batch.extend(more);
    let mut rng = SeedTree::new(5).rng();
    let mut noise = || Ragged::zeros(&batch).map(|_| rng.random_range(-2.0..0.0));
    let reference = noise().row_sums();
    let scores = PerToken::new(&batch)
        .with(Channel::LogProb, noise())
        .unwrap();
    (
        batch,
        vec![true, false, false, true, true],
        reference,
        scores,
    )
}

#[test]
fn a_prompt_is_paired_with_the_next_reply_to_another_one() {
    let loss = Kto::default();
    let (batch, ..) = drawn(&loss);
    let found: Vec<_> = batch[5..]
        .iter()
        .map(|e| (e.prompt[0], &e.response[..]))
        .collect();
    let expected: [(u32, &[u32]); 5] = [
        (0, &[0, 1, 1]),
        (0, &[0, 1, 1]),
        (1, &[2, 2]),
        (2, &[1]),
        (1, &[1, 2]),
    ];
    assert_eq!(found, expected);
    let one_prompt = [episode(0, &[1]), episode(0, &[2])];
    assert!(UnpairedLoss::more_rows(&loss, &one_prompt).is_empty());
    let fixed = Kto {
        reference_point: ReferencePoint::Fixed(0.5),
        ..loss
    };
    assert!(UnpairedLoss::more_rows(&fixed, &batch).is_empty());
}

/// The value is that of the formula, and central differences in every score give the gradient with z₀ held.
#[test]
fn values_and_gradients_are_those_of_the_formula() {
    let (beta, desirable, undesirable) = (0.3, 1.0, 1.33);
    for reference_point in [
        ReferencePoint::Mismatched,
        ReferencePoint::Fixed(0.0),
        ReferencePoint::Fixed(0.7),
    ] {
        let loss = Kto {
            desirable,
            undesirable,
            reference_point,
        };
        let (batch, labels, reference, scores) = drawn(&loss);
        let sums = scores.get(Channel::LogProb).unwrap().row_sums();
        let ratio: Vec<f64> = sums.iter().zip(&reference).map(|(s, r)| s - r).collect();
        let z0 = match reference_point {
            ReferencePoint::Fixed(z0) => z0,
            ReferencePoint::Mismatched => (ratio[5..].iter().sum::<f64>() / 5.0).max(0.0),
        };
        let formula = |ratio: &[f64]| {
            let of = |(l, good): (&f64, &bool)| match good {
                true => desirable * (1.0 - sigmoid(beta * (l - z0))),
                false => undesirable * (1.0 - sigmoid(beta * (z0 - l))),
            };
            ratio.iter().zip(&labels).map(of).sum::<f64>() / 5.0
        };
        let objective = UnpairedLoss::objective(&loss, &batch, &labels, &reference, beta).unwrap();
        let (value, grad) = loss_and_score_grad(&*objective, &scores).unwrap();
        assert!(
            (value - formula(&ratio)).abs() < 1e-14,
            "{reference_point:?}"
        );
        for i in 0..batch.len() {
            let slope = match i < 5 {
                false => 0.0,
                true => {
                    let at = |h: f64| {
                        let mut moved = ratio.clone();
                        moved[i] += h;
                        formula(&moved)
                    };
                    (at(1e-5) - at(-1e-5)) / 2e-5
                }
            };
            for found in grad.row(Channel::LogProb, i) {
                assert!((found - slope).abs() < 1e-9, "{i} {found} {slope}");
            }
        }
        // The reference point of pairs and of their two sides differ, a number does not.
        if let ReferencePoint::Fixed(_) = reference_point {
            let pairs = &batch[..2];
            let of_pairs = PairLoss::objective(&loss, pairs, &reference[..2], beta).unwrap();
            let of_rows =
                UnpairedLoss::objective(&loss, pairs, &[true, false], &reference[..2], beta);
            let log_prob = scores.get(Channel::LogProb).unwrap();
            let log_prob = Ragged::from_rows(log_prob.rows().take(2));
            let two = PerToken::new(pairs)
                .with(Channel::LogProb, log_prob)
                .unwrap();
            let value = |l| loss_and_score_grad(l, &two).unwrap().0;
            assert_eq!(value(&*of_pairs), value(&*of_rows.unwrap()));
        }
    }
}

fn schedule(n: usize, epochs: usize) -> rto::algorithm2::Checked<FitConfig> {
    FitConfig {
        learning_rate: 0.02,
        schedule: Schedule::Cosine {
            warmup: 0.0,
            floor: 0.0,
        },
        batch_size: n,
        epochs,
        ..FitConfig::paper_sft()
    }
    .check()
    .unwrap()
}

/// On a bandit with every response more often wanted than not, gradient descent from π_ref reaches the water-filling
/// (`kto_plan`), whose KKT conditions are its own certificate.
#[test]
fn fit_unpaired_reaches_the_exact_minimiser_on_tables() {
    let reference = [0.4, 0.3, 0.2, 0.1];
    // (wanted, not) of each response: net weights 1, 3, 2, 2 of 20 labels.
    let counts = [(3, 2), (4, 1), (3, 1), (4, 2)];
    let bandit = Responses::bandit(&reference, &[0.0; 4]).unwrap();
    let map = StateMap::tree(&TokenTree::try_new(1, 4, 1, None).unwrap(), &[1.0]).unwrap();
    let table = Array2::from_shape_vec((1, 4), reference.to_vec()).unwrap();
    let policy = TabularPolicy::from_probs(&table).unwrap();
    let start = TabularSoftmax::from_policy(map, &policy).unwrap();
    let of = |y: usize, desirable| Labelled {
        episode: Episode::try_new(StateMap::prompt(0), vec![y as u32], Finish::Length).unwrap(),
        desirable,
    };
    let examples: Vec<Labelled> = counts
        .iter()
        .enumerate()
        .flat_map(|(y, &(good, bad))| {
            let good = (0..good).map(move |_| of(y, true));
            good.chain((0..bad).map(move |_| of(y, false)))
        })
        .collect();
    let n = examples.len();
    for (beta, z0) in [(0.5, 0.0), (0.5, 0.4), (0.1, 0.2)] {
        let net: Vec<f64> = counts
            .iter()
            .map(|(good, bad)| f64::from(good - bad) / n as f64)
            .collect();
        let exact = kto_plan(&bandit, &net, Beta::try_new(beta).unwrap(), z0).unwrap();
        assert!(exact.slope_spread < 1e-12);
        let loss = Kto {
            reference_point: ReferencePoint::Fixed(z0),
            ..Kto::default()
        };
        let mut learner =
            TabularLearner::try_new(start.clone(), OptimizerConfig::adam(0.02)).unwrap();
        let config = schedule(n, 4000);
        let (steps, seeds) = (0..fit_steps(n, &config), SeedTree::new(1));
        fit_unpaired(
            &mut learner,
            &start,
            &examples,
            (&loss, beta),
            &config,
            &seeds,
            steps,
            &mut |_| Ok(()),
        )
        .unwrap();
        let found = learner.policy().table().unwrap();
        for (found, exact) in found.log_probs().row(0).iter().zip(&exact.log_policy) {
            assert!((found - exact).abs() < 1e-4, "{beta} {z0} {found} {exact}");
        }
    }
}

/// Logistic regression on a table: r(x, y) is the log-odds of the label, exactly, where both labels occur.
#[test]
fn a_reward_of_labels_is_their_log_odds() {
    let map = StateMap::tree(&TokenTree::try_new(1, 3, 1, None).unwrap(), &[1.0]).unwrap();
    let mut reward = Regressor::reward(map, &[0.0; 3], OptimizerConfig::adam(0.02)).unwrap();
    let counts = [(3, 1), (1, 1), (1, 4)];
    let mut examples = Vec::new();
    for (y, &(good, bad)) in counts.iter().enumerate() {
        for desirable in (0..good).map(|_| true).chain((0..bad).map(|_| false)) {
            let episode =
                Episode::try_new(StateMap::prompt(0), vec![y as u32], Finish::Length).unwrap();
            examples.push(Labelled { episode, desirable });
        }
    }
    let config = schedule(examples.len(), 4000);
    let steps = 0..fit_steps(examples.len(), &config);
    let (seeds, last) = (SeedTree::new(1), Readout::Last);
    fit_label_reward(
        &mut reward,
        &examples,
        last,
        &config,
        &seeds,
        steps,
        &mut |_| Ok(()),
    )
    .unwrap();
    let batch: Vec<Episode> = [0, 4, 6].map(|i: usize| examples[i].episode.clone()).into();
    let scores = reward.scores(&batch).unwrap();
    for (i, (good, bad)) in counts.into_iter().enumerate() {
        let (found, odds) = (
            scores.row(Channel::Reward, i)[0],
            (f64::from(good) / f64::from(bad)).ln(),
        );
        assert!((found - odds).abs() < 1e-4, "{found} {odds}");
    }
}

/// A step depends on its number alone, so that steps taken in two calls are those taken in one.
#[test]
fn a_fit_goes_on_where_it_stopped() {
    let map = StateMap::tree(
        &TokenTree::try_new(3, 3, 2, None).unwrap(),
        &[0.2, 0.3, 0.5],
    )
    .unwrap();
    let start =
        TabularSoftmax::try_new(map.clone(), &Array2::zeros((map.mdp().n_states(), 3))).unwrap();
    let mut rng = SeedTree::new(2).rng();
    let examples: Vec<Labelled> = (0..20)
        .map(|i| Labelled {
            episode: Episode::try_new(
                StateMap::prompt(i % 3),
                vec![rng.random_range(0..3), rng.random_range(0..3)],
                Finish::Length,
            )
            .unwrap(),
            desirable: rng.random_bool(0.6),
        })
        .collect();
    let config = schedule(6, 5);
    let total = fit_steps(examples.len(), &config);
    let run = |cuts: &[u64]| {
        let mut learner =
            TabularLearner::try_new(start.clone(), OptimizerConfig::adam(0.02)).unwrap();
        let mut from = 0;
        for &to in cuts {
            fit_unpaired(
                &mut learner,
                &start,
                &examples,
                (&Kto::default(), 0.1),
                &config,
                &SeedTree::new(4),
                from..to,
                &mut |_| Ok(()),
            )
            .unwrap();
            from = to;
        }
        learner.policy().table().unwrap()
    };
    let whole = run(&[total]);
    assert_eq!(whole.log_probs(), run(&[7, total]).log_probs());
    assert_ne!(whole.log_probs(), start.table().unwrap().log_probs());
}

#[test]
fn bad_input_is_refused_by_name() {
    let (batch, labels, reference, _) = drawn(&Kto::default());
    let said = |loss: Kto, labels: &[bool], beta: f64| {
        let refused = UnpairedLoss::objective(&loss, &batch, labels, &reference, beta);
        refused.err().expect("refused").to_string()
    };
    let fixed = |z0| Kto {
        reference_point: ReferencePoint::Fixed(z0),
        ..Kto::default()
    };
    assert!(said(Kto::default(), &labels, 0.0).starts_with("beta"));
    assert!(said(fixed(-1.0), &labels, 0.1).starts_with("kto.reference_point"));
    assert!(said(Kto::default(), &[], 0.1).contains("labels"));
    assert!(Unpaired::reward(&batch, Readout::Last, &labels).is_err());
}
