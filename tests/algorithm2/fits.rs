//! The fits before PPO: the reward model and DPO.

use crate::{furthest, map, pairs, random, softmax};
use rto::algorithm2::{DpoConfig, FitConfig, Pair, Step, dpo, fit_reward, fit_steps};
use rto::estimate::{Design, FitOptions, fit_bradley_terry, sample_preferences};
use rto::features::DenseFeatures;
use rto::mdp::{PreferencePair, TabularPolicy, Trajectory};
use rto::objective::Readout;
use rto::policy::{OptimizerConfig, Regressor, StateMap, TabularLearner, TabularSoftmax};
use rto::reward::TabularReward;
use rto::seed::SeedTree;
use rto::seq::PolicyLearner;
use rto::seq::{Channel, Episode, PerToken, TokenScorer, Trainable};
use rto::{Result, Token};
use std::cell::Cell;
use std::sync::Arc;

fn episode(map: &StateMap, prompt: usize, trajectory: &Trajectory) -> Episode {
    let y: Vec<Token> = trajectory.steps().iter().map(|(_, a)| a.0).collect();
    let finish = map.finish(y[y.len() - 1]);
    Episode::try_new(StateMap::prompt(prompt), y, finish).unwrap()
}

fn as_episodes(map: &StateMap, data: &[PreferencePair]) -> Vec<Pair> {
    let prompt = |t: &Trajectory| {
        let at = |p: &usize| map.root(&StateMap::prompt(*p)).unwrap() == t.start();
        (0..map.n_prompts()).find(at).unwrap()
    };
    let pair = |p: &PreferencePair| Pair {
        winner: episode(map, prompt(p.winner()), p.winner()),
        loser: episode(map, prompt(p.loser()), p.loser()),
    };
    data.iter().map(pair).collect()
}

/// Full batches of plain gradient descent reach the estimate of the second-order solver in what comparisons can show: the
/// reward differences of the pairs.
#[test]
fn fitting_a_reward_reaches_the_maximum_likelihood_estimate() {
    let map = map(1, 2);
    let (n, mdp) = (map.mdp().n_states(), map.mdp());
    let truth = TabularReward::try_new(random(&map, "truth", 3)).unwrap();
    let uniform = TabularPolicy::uniform(n, 3);
    let seeds = SeedTree::new(6);
    let data = sample_preferences(mdp, &truth, (&uniform, &uniform), 400, &seeds).unwrap();
    let differ = |p: &PreferencePair| p.winner() != p.loser();
    let data: Vec<_> = data.into_iter().filter(differ).collect();
    let pairs = as_episodes(&map, &data);
    let config = FitConfig {
        learning_rate: 2.0,
        batch_size: pairs.len(),
        epochs: 6000,
        ..FitConfig::paper_reward_model()
    };
    let checked = config.check().unwrap();
    let fit = |learner: &mut dyn Trainable| {
        let steps = 0..fit_steps(pairs.len(), &config);
        let quiet = &mut |_: &Step| Ok(());
        fit_reward(
            learner,
            &pairs,
            Readout::Sum,
            &checked,
            &seeds,
            steps,
            quiet,
        )
        .unwrap();
    };
    let check = |model: &dyn TokenScorer, features: &DenseFeatures| {
        let design = Design::from_pairs(mdp, features, &data).unwrap();
        let best = fit_bradley_terry(&design, &FitOptions::default()).unwrap();
        let want = design.margins(&best.theta).unwrap();
        let rows: Vec<_> = pairs
            .iter()
            .flat_map(|p| [p.winner.clone(), p.loser.clone()])
            .collect();
        let total = model.scores(&rows).unwrap();
        let total = total.get(Channel::Reward).unwrap().row_sums();
        let got: Vec<_> = total.chunks_exact(2).map(|t| t[0] - t[1]).collect();
        let off = furthest(&got, &want);
        assert!(off < 1e-6, "reward differences are {off:e} apart");
        assert!(want.iter().any(|d| d.abs() > 0.3));
    };
    let sgd = OptimizerConfig::sgd(1.0);

    let mut table = Regressor::reward(map.clone(), &vec![0.0; 3 * n], sgd).unwrap();
    fit(&mut table);
    let one_hot = |s: usize, a: usize, k: usize| f64::from(3 * s + a == k);
    check(
        &table,
        &DenseFeatures::from_fn(n, 3, 3 * n, one_hot).unwrap(),
    );

    let phi = random(&map, "phi", 9);
    let phi = DenseFeatures::from_fn(n, 3, 3, |s, a, k| phi[[s, 3 * a + k]]).unwrap();
    let phi = Arc::new(phi);
    let mut linear = Regressor::linear_reward(map.clone(), phi.clone(), &[0.0; 3], sgd).unwrap();
    fit(&mut linear);
    check(&linear, &phi);
}

/// Counts the responses it scores.
struct Counted(TabularSoftmax, Cell<usize>);

impl TokenScorer for Counted {
    fn channels(&self) -> &[Channel] {
        self.0.channels()
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        self.1.set(self.1.get() + batch.len());
        self.0.scores(batch)
    }
}

#[test]
fn the_reference_scores_each_pair_once_whatever_the_epochs() {
    let map = map(2, 4);
    let reference = softmax(&map, "reference");
    let data = pairs(&reference, 22);
    let seeds = SeedTree::new(9);
    let fit = |epochs: usize, at_once: bool| {
        let mut config = DpoConfig::default();
        config.fit.epochs = epochs;
        config.fit.batch_size = 4;
        config.fit.learning_rate = 0.05;
        let (checked, total) = (config.check().unwrap(), fit_steps(data.len(), &config.fit));
        let counted = Counted(reference.clone(), Cell::new(0));
        let adam = OptimizerConfig::adam(0.1);
        let mut learner = TabularLearner::try_new(reference.clone(), adam).unwrap();
        // A call knows the pairs it has scored, so a call per step has to score all of them again.
        let stride = if at_once { total } else { 1 };
        for start in (0..total).step_by(stride as usize) {
            let quiet = &mut |_: &Step| Ok(());
            let steps = start..start + stride;
            dpo(
                &mut learner,
                &counted,
                &data,
                &checked,
                &seeds,
                steps,
                quiet,
            )
            .unwrap();
        }
        (learner.policy().params().to_vec(), counted.1.get())
    };
    for epochs in [1, 2, 5] {
        let (cached, scored) = fit(epochs, true);
        assert_eq!(scored, 2 * data.len(), "{epochs} epochs");
        let (fresh, scored) = fit(epochs, false);
        assert_eq!(scored, 2 * data.len() * epochs);
        let bits = |p: &[f64]| p.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&cached), bits(&fresh), "{epochs} epochs");
        assert!(furthest(&cached, reference.params()) > 0.1);
    }
}
