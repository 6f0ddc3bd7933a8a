//! Algorithm 2 on tables: one trunk for actor and critic, reward fits against the maximum-likelihood estimate, the scores of
//! the reference, forced tokens, and what is refused at the seam.

use std::cell::Cell;
use std::sync::Arc;

use ndarray::Array2;
use rand::Rng;
use rto::algorithm2::{
    CriticSlot, DpoConfig, FitConfig, KlPlacement, NoCritic, Pair, PpoConfig, PpoRun, PpoState,
    RtoConfig, Step, dpo, fit_reward, fit_steps, sft,
};
use rto::estimate::{Design, FitOptions, fit_bradley_terry, sample_preferences};
use rto::features::DenseFeatures;
use rto::mdp::{ActionIx, Beta, PreferencePair, TabularPolicy, TokenTree, Trajectory};
use rto::objective::{BradleyTerry, Readout};
use rto::policy::{
    LogLinearSoftmax, Logits, OptimizerConfig, Regressor, RowGradient, SoftmaxPolicy, StateMap,
    TabularActorCritic, TabularActorCriticLearner, TabularLearner, TabularSoftmax,
};
use rto::reward::TabularReward;
use rto::seed::SeedTree;
use rto::seq::{
    Channel, Decoder, Episode, Finish, PerToken, Policy, PolicyLearner, Ragged, StepReport,
    StreamKey, TokenObjective, TokenReward, TokenScorer, Trainable,
};
use rto::token_reward::{
    AdaptiveKl, DenseReward, DpoReward, KlEstimator, PaidAtEnd, Redistributed, SentenceReward,
    Uniform,
};
use rto::{Result, Token};

const EOS: Token = 2;

/// Three actions of which the last ends the response, at most `horizon` tokens.
fn map(prompts: usize, horizon: usize) -> Arc<StateMap> {
    let tree = TokenTree::try_new(prompts, 3, horizon, Some(ActionIx(EOS))).unwrap();
    StateMap::tree(&tree, &vec![1.0 / prompts as f64; prompts]).unwrap()
}

/// A function of label, row and column: shorter tables are the beginning of longer ones.
fn random(map: &StateMap, label: &str, columns: usize) -> Array2<f64> {
    let mut rng = SeedTree::new(5).child(label).rng();
    Array2::from_shape_fn((map.mdp().n_states(), columns), |_| {
        2.0 * rng.random::<f64>() - 1.0
    })
}

fn flat(table: Array2<f64>) -> Vec<f64> {
    table.into_iter().collect()
}

fn softmax(map: &Arc<StateMap>, label: &str) -> TabularSoftmax {
    TabularSoftmax::try_new(map.clone(), &random(map, label, 3)).unwrap()
}

fn draw(policy: &impl Policy, n: usize, label: &str) -> Vec<Episode> {
    let prompts: Vec<_> = (0..n).map(|i| StateMap::prompt(i / 2 % 2)).collect();
    let keys = StreamKey::batch(&SeedTree::new(2).child(label), n);
    policy.sample(&prompts, &keys).unwrap()
}

/// Two responses to a prompt, the first one preferred.
fn pairs(policy: &impl Policy, n: usize) -> Vec<Pair> {
    let rows = draw(policy, 2 * n, "pairs");
    let pair = |r: &[Episode]| Pair {
        winner: r[0].clone(),
        loser: r[1].clone(),
    };
    rows.chunks_exact(2).map(pair).collect()
}

fn cut(batch: Vec<Episode>) -> Vec<Episode> {
    let one = |e: Episode| match e.len() > 2 {
        true => Episode::try_new(e.prompt, e.response[..2].to_vec(), Finish::Length).unwrap(),
        false => e,
    };
    batch.into_iter().map(one).collect()
}

fn ppo() -> PpoConfig {
    PpoConfig {
        iterations: 8,
        prompts_per_iteration: 24,
        minibatch_size: 8,
        beta2: 0.3,
        learning_rate: 0.3,
        critic_learning_rate: 0.3,
        ..PpoConfig::paper()
    }
}

fn furthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let off = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    off.fold(0.0, f64::max)
}

/// What becomes of a rollout.
type Change = fn(Vec<Episode>) -> Vec<Episode>;

/// All iterations of a configuration, each rollout passed through `change`.
fn train<L: PolicyLearner>(
    (learner, critic): (&mut L, &mut CriticSlot<'_>),
    (reference, reward): (&dyn TokenScorer, &dyn TokenReward),
    config: PpoConfig,
    (prompts, change): (usize, Change),
) -> Vec<f64> {
    let prompts: Vec<_> = (0..prompts).map(StateMap::prompt).collect();
    let (checked, seeds) = (config.check().unwrap(), SeedTree::new(3));
    let run = PpoRun {
        reference,
        reward,
        prompts: &prompts,
        config: &checked,
        seeds: &seeds,
    };
    let (mut state, mut seen) = (PpoState::new(&config), Vec::new());
    while state.iteration < config.iterations {
        let batch = change(run.rollout(learner.policy(), &state).unwrap());
        let report = run.update(learner, critic, &mut state, batch).unwrap();
        seen.extend([report.objective, report.kl, report.approx_kl]);
        seen.push(report.explained_variance.unwrap_or_default());
    }
    seen
}

// ---------------------------------------------------------------- one trunk

/// The parameters of actor and critic are apart in a table, so their losses decouple: one learner on one trunk takes the steps of a
/// policy and a separate critic, final values of cut responses included, under gradient descent and under Adam.
#[test]
fn a_trunk_of_tables_is_a_policy_and_a_separate_critic() {
    let map = map(2, 4);
    let (reference, values) = (softmax(&map, "reference"), flat(random(&map, "values", 1)));
    let reward = DpoReward::try_new(softmax(&map, "dpo"), reference.clone(), 0.5).unwrap();
    for optimizer in [OptimizerConfig::sgd(1.0), OptimizerConfig::adam(1.0)] {
        for bootstrap_truncated in [false, true] {
            let config = PpoConfig {
                bootstrap_truncated,
                learning_rate: 0.05,
                critic_learning_rate: 0.05,
                ..ppo()
            };
            let mut policy = TabularLearner::try_new(reference.clone(), optimizer).unwrap();
            let mut critic = Regressor::critic(map.clone(), &values, optimizer).unwrap();
            let apart = train(
                (&mut policy, &mut CriticSlot::Separate(&mut critic)),
                (&reference, &reward),
                config,
                (2, cut),
            );
            let logits = random(&map, "reference", 3);
            let trunk = TabularActorCritic::try_new(map.clone(), &logits, &values).unwrap();
            let mut trunk = TabularActorCriticLearner::try_new(trunk, optimizer).unwrap();
            let one = train(
                (&mut trunk, &mut CriticSlot::SharedTrunk),
                (&reference, &reward),
                config,
                (2, cut),
            );
            assert!(furthest(&apart, &one) < 1e-12);
            let (mut z, mut v) = (Vec::new(), Vec::new());
            for row in trunk.policy().params().chunks_exact(4) {
                z.extend_from_slice(&row[..3]);
                v.push(row[3]);
            }
            assert!(furthest(&z, policy.policy().params()) < 1e-12);
            assert!(furthest(&v, critic.params()) < 1e-12);
            assert!(furthest(&v, &values) > 0.05, "the critic learnt nothing");
            assert!(furthest(&z, reference.params()) > 0.05);
        }
    }
}

/// Whether final values are read decides what is learnt from cut responses.
#[test]
fn a_cut_response_is_bootstrapped_from_the_trunk() {
    let map = map(2, 4);
    let (reference, values) = (softmax(&map, "reference"), flat(random(&map, "values", 1)));
    let reward = DpoReward::try_new(softmax(&map, "dpo"), reference.clone(), 0.5).unwrap();
    let ends = |bootstrap_truncated, change| {
        let config = PpoConfig {
            bootstrap_truncated,
            ..ppo()
        };
        let logits = random(&map, "reference", 3);
        let trunk = TabularActorCritic::try_new(map.clone(), &logits, &values).unwrap();
        let sgd = OptimizerConfig::sgd(1.0);
        let mut trunk = TabularActorCriticLearner::try_new(trunk, sgd).unwrap();
        train(
            (&mut trunk, &mut CriticSlot::SharedTrunk),
            (&reference, &reward),
            config,
            (2, change),
        );
        trunk.policy().params().to_vec()
    };
    assert!(furthest(&ends(false, cut), &ends(true, cut)) > 1e-2);
    let whole = |batch| batch;
    assert_eq!(
        furthest(&ends(false, whole), &ends(true, whole)),
        0.0,
        "where the table ends there is nothing to bootstrap"
    );
}

/// ⟨w, scores⟩ against its pull-back, central differences with h = 1e-5.
fn check_gradient<L: Logits>(policy: &SoftmaxPolicy<L>, batch: &[Episode]) {
    let walk = policy.map().walk_all(batch).unwrap();
    let mut rng = SeedTree::new(8).rng();
    let mut w = policy.scores(batch).unwrap().zeros_like();
    for &c in policy.channels() {
        for i in 0..batch.len() {
            let row = w.row_mut(c, i);
            row.iter_mut().for_each(|w| *w = rng.random::<f64>() - 0.5);
        }
    }
    let loss = |params: &[f64]| {
        let moved = policy.clone().with_params(params).unwrap();
        let scores = moved.scores(batch).unwrap();
        let one = |&c: &Channel| {
            let (w, s) = (w.get(c).unwrap().values(), scores.get(c).unwrap().values());
            w.iter().zip(s).map(|(w, s)| w * s).sum::<f64>()
        };
        policy.channels().iter().map(one).sum::<f64>()
    };
    let theta = policy.params().to_vec();
    let width = if theta.len() > 10 { 4 } else { theta.len() };
    let mut grad = RowGradient::zeros(theta.len(), width);
    policy.pull_back(batch, &w, &mut grad).unwrap();
    for k in 0..theta.len() {
        let at = |h: f64| {
            let mut theta = theta.clone();
            theta[k] += h;
            loss(&theta)
        };
        let want = (at(1e-5) - at(-1e-5)) / 2e-5;
        let got = grad.values()[k];
        assert!(
            (got - want).abs() < 1e-6 * want.abs().max(0.1),
            "{k}: {got} {want}"
        );
    }
    // Every parameter that some response touches has a gradient.
    let touched = |row: usize| match theta.len() > 10 {
        true => walk.steps.iter().any(|(s, _)| s.ix() == row),
        false => true,
    };
    for (row, g) in grad.values().chunks_exact(width).enumerate() {
        assert!(
            g.iter().all(|g| (*g != 0.0) == touched(row)),
            "{row}: {g:?}"
        );
    }
}

#[test]
fn trunks_pull_back_policy_and_value_channels() {
    let map = map(2, 3);
    let mut batch = draw(&softmax(&map, "reference"), 60, "batch");
    batch.extend(cut(batch.clone()));
    let values = flat(random(&map, "values", 1));
    let table = TabularActorCritic::try_new(map.clone(), &random(&map, "policy", 3), &values);
    let reference = Arc::new(softmax(&map, "reference").table().unwrap());
    let table = table.and_then(|p| p.with_temperature(0.7)).unwrap();
    let table = table.with_entropy().with_reference(reference).unwrap();
    check_gradient(&table, &batch);

    let features = |label: &str, columns: usize| {
        let all = random(&map, label, 4 * columns);
        let n = map.mdp().n_states();
        let phi = |s: usize, a: usize, k: usize| all[[s, 4 * a + k]];
        Arc::new(DenseFeatures::from_fn(n, columns, 4, phi).unwrap())
    };
    let base = Arc::new(softmax(&map, "reference").table().unwrap());
    let theta = [0.3, -0.8, 0.5, 1.1];
    let linear = LogLinearSoftmax::try_new(map.clone(), features("phi", 3), base, &theta);
    let linear = linear
        .and_then(|p| p.with_values(features("psi", 1)))
        .unwrap();
    check_gradient(&linear, &batch);
    assert!(linear.with_values(features("psi", 3)).is_err());
}

// ---------------------------------------------------------------- reward fitting

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

// ---------------------------------------------------------------- the reference of DPO

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

// ---------------------------------------------------------------- forced tokens

/// A policy on four tokens whose fourth is the end-of-sentence token, whatever it would have drawn. The scores of that token are
/// left as they are, so that only the mask can keep them out.
#[derive(Clone)]
struct Forced {
    inner: TabularSoftmax,
    masked: bool,
}

impl TokenScorer for Forced {
    fn channels(&self) -> &[Channel] {
        self.inner.channels()
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        self.inner.scores(batch)
    }
}

impl Policy for Forced {
    fn sample(&self, prompts: &[Arc<[Token]>], keys: &[StreamKey]) -> Result<Vec<Episode>> {
        let force = |mut e: Episode| {
            if e.len() == 4 {
                e.response[3] = EOS;
                e.finish = Finish::Eos;
            }
            e
        };
        let drawn = self.inner.sample(prompts, keys)?;
        Ok(drawn.into_iter().map(force).collect())
    }

    fn chosen(&self, batch: &[Episode]) -> Result<Option<Ragged>> {
        let row = |e: &Episode| (0..e.len()).map(|h| f64::from(h < 3)).collect::<Vec<_>>();
        let mask = Ragged::from_rows(batch.iter().map(row));
        Ok(self.masked.then_some(mask))
    }
}

struct ForcedLearner(TabularLearner, Forced);

impl Trainable for ForcedLearner {
    fn step(&mut self, batch: &[Episode], objective: &dyn TokenObjective) -> Result<StepReport> {
        let report = self.0.step(batch, objective)?;
        self.1.inner = self.0.snapshot()?;
        Ok(report)
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.0.set_learning_rate(learning_rate);
    }
}

impl PolicyLearner for ForcedLearner {
    type Policy = Forced;

    fn policy(&self) -> &Forced {
        &self.1
    }

    fn snapshot(&self) -> Result<Forced> {
        Ok(self.1.clone())
    }
}

/// A sentence reward of the first three tokens, paid at the last one.
struct OfThree;

impl TokenReward for OfThree {
    fn rewards(&self, batch: &[Episode]) -> Result<Ragged> {
        let mut out = Ragged::zeros(batch);
        for (i, e) in batch.iter().enumerate() {
            let of = |(h, t): (usize, &Token)| f64::from(7 * t + h as u32).sin();
            let sum = e.response.iter().take(3).enumerate().map(of).sum::<f64>();
            *out.row_mut(i).last_mut().unwrap() = sum;
        }
        Ok(out)
    }
}

/// Three chosen tokens and a forced one are the token MDP of three tokens: advantages, their whitening, the KL term and the
/// normaliser of the loss see the chosen tokens only, and the reward on the forced one reaches them.
#[test]
fn forced_tokens_are_no_part_of_the_loss() {
    let (long, short) = (map(1, 4), map(1, 3));
    let n = 3 * short.mdp().n_states();
    let sgd = OptimizerConfig::sgd(1.0);
    let forced = |masked: bool, config: PpoConfig| {
        let inner = softmax(&long, "policy");
        let learner = TabularLearner::try_new(inner.clone(), sgd).unwrap();
        let mut learner = ForcedLearner(learner, Forced { inner, masked });
        let reference = softmax(&long, "reference");
        train(
            (&mut learner, &mut CriticSlot::Separate(&mut NoCritic)),
            (&reference, &OfThree),
            config,
            (1, |batch| batch),
        );
        learner.1.inner.params().to_vec()
    };
    let loss = PpoConfig {
        kl_placement: KlPlacement::Loss,
        kl_estimator: KlEstimator::K3,
        ..ppo()
    };
    for config in [
        PpoConfig {
            lambda: 1.0,
            ..ppo()
        },
        PpoConfig {
            lambda: 1.0,
            ..loss
        },
    ] {
        let start = softmax(&short, "policy");
        let mut learner = TabularLearner::try_new(start.clone(), sgd).unwrap();
        train(
            (&mut learner, &mut CriticSlot::Separate(&mut NoCritic)),
            (&softmax(&short, "reference"), &OfThree),
            config,
            (1, |batch| batch),
        );
        let want = learner.policy().params();
        assert!(furthest(want, start.params()) > 0.05);
        let masked = forced(true, config);
        assert!(furthest(&masked[..n], want) < 1e-12);
        let untouched = softmax(&long, "policy");
        assert_eq!(masked[n..], untouched.params()[n..]);
        let all = forced(false, config);
        assert!(furthest(&all[..n], want) > 1e-3, "the mask is needed");
        assert!(furthest(&all[n..], &untouched.params()[n..]) > 1e-3);
    }
}

// ---------------------------------------------------------------- bad input

/// A model whose scores, or reward, are what a closure says.
struct Says<F>(Channel, F);

impl<F: Fn(&[Episode]) -> Ragged> TokenScorer for Says<F> {
    fn channels(&self) -> &[Channel] {
        std::slice::from_ref(&self.0)
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        PerToken::new(batch).with(self.0, (self.1)(batch))
    }
}

struct Pays<F>(F);

impl<F: Fn(&[Episode]) -> Ragged> TokenReward for Pays<F> {
    fn rewards(&self, batch: &[Episode]) -> Result<Ragged> {
        Ok((self.0)(batch))
    }
}

fn nan_at(row: usize) -> impl Fn(&[Episode]) -> Ragged {
    move |batch| {
        let mut out = Ragged::zeros(batch);
        out.row_mut(row)[0] = f64::NAN;
        out
    }
}

/// Every row one number short.
fn short(batch: &[Episode]) -> Ragged {
    Ragged::zeros_like_lengths(batch.iter().map(|e| e.len() - 1))
}

/// The one line that an iteration ends with; the learner must not have moved.
fn refused(reference: &dyn TokenScorer, reward: &dyn TokenReward, batch: &[Episode]) -> String {
    let map = map(2, 4);
    let (config, prompts, seeds) = (ppo(), [StateMap::prompt(0)], SeedTree::new(0));
    let checked = config.check().unwrap();
    let run = PpoRun {
        reference,
        reward,
        prompts: &prompts,
        config: &checked,
        seeds: &seeds,
    };
    let start = softmax(&map, "policy");
    let mut learner = TabularLearner::try_new(start.clone(), OptimizerConfig::sgd(1.0)).unwrap();
    let (mut none, mut state) = (NoCritic, PpoState::new(&config));
    let mut slot = CriticSlot::Separate(&mut none);
    let said = run.update(&mut learner, &mut slot, &mut state, batch.to_vec());
    let said = said.unwrap_err().to_string();
    assert_eq!(learner.policy().params(), start.params());
    assert_eq!(state, PpoState::new(&config));
    assert_eq!(said.lines().count(), 1);
    said
}

#[test]
fn numbers_that_are_not_finite_stop_at_the_seam() {
    let reference = softmax(&map(2, 4), "reference");
    let batch = draw(&reference, 6, "batch");
    let zero = Pays(Ragged::zeros);
    let broken = Says(Channel::LogProb, nan_at(2));
    assert_eq!(
        refused(&broken, &zero, &batch),
        "log_prob of row 2, token 0 is not finite (found NaN)"
    );
    let want = "reward of row 3, token 0 is not finite (found NaN)";
    for reward in [
        &Pays(nan_at(3)) as &dyn TokenReward,
        &DenseReward(Says(Channel::Reward, nan_at(3))),
        &SentenceReward::new(Says(Channel::Reward, nan_at(3))),
    ] {
        assert_eq!(refused(&reference, reward, &batch), want);
    }
    let infinite = Says(Channel::LogProb, |batch: &[Episode]| {
        Ragged::zeros(batch).map(|_| f64::NEG_INFINITY)
    });
    assert_eq!(
        refused(&infinite, &zero, &batch),
        "log_prob of row 0, token 0 is not finite (found -inf)"
    );
}

#[test]
fn a_reward_or_score_that_does_not_fit_its_response_is_named() {
    let reference = softmax(&map(2, 4), "reference");
    let batch = draw(&reference, 6, "batch");
    let h = batch[0].len();
    let want = |what: &str| {
        let less = h - 1;
        format!("{what}: tokens of row 0: expected {h} values, got {less}")
    };
    for reward in [
        &Pays(short) as &dyn TokenReward,
        &PaidAtEnd(Pays(short)),
        &Redistributed::try_new(Pays(short), Uniform, 1.0).unwrap(),
        &DenseReward(Says(Channel::Reward, short)),
    ] {
        assert_eq!(refused(&reference, reward, &batch), want("reward"));
    }
    let zero = Pays(Ragged::zeros);
    let said = refused(&Says(Channel::LogProb, short), &zero, &batch);
    assert_eq!(said, want("log_prob"));
}

#[test]
fn empty_responses_and_empty_batches_are_refused() {
    let map = map(2, 4);
    let reference = softmax(&map, "reference");
    let mut batch = draw(&reference, 6, "batch");
    let none = "batch: found no response, must be at least one";
    let zero = Pays(Ragged::zeros);
    assert_eq!(refused(&reference, &zero, &[]), none);
    let said = Episode::try_new([0].into(), vec![], Finish::Eos).unwrap_err();
    let must = "must be at least one token (the end-of-sentence token counts)";
    assert_eq!(
        said.to_string(),
        format!("response: found an empty response, {must}")
    );
    // Written out by hand.
    batch[4].response.clear();
    let want = format!("response of row 4: found an empty response, {must}");
    assert_eq!(refused(&reference, &zero, &batch), want);
    let said = PaidAtEnd(Pays(Ragged::zeros)).rewards(&batch).unwrap_err();
    assert_eq!(said.to_string(), want);

    let (seeds, fit) = (SeedTree::new(0), FitConfig::paper_sft().check().unwrap());
    let quiet = &mut |_: &Step| Ok(());
    let sgd = OptimizerConfig::sgd(1.0);
    let mut learner = TabularLearner::try_new(reference.clone(), sgd).unwrap();
    let nothing = "data set: found nothing, must be at least one item";
    let said = sft(&mut learner, &[], &fit, &seeds, 0..1, quiet).unwrap_err();
    assert_eq!(said.to_string(), nothing);
    let said = sft(&mut learner, &batch, &fit, &seeds, 0..1, quiet).unwrap_err();
    assert!(
        said.to_string().contains("found an empty response"),
        "{said}"
    );
    let config = DpoConfig::default().check().unwrap();
    let said = dpo(&mut learner, &reference, &[], &config, &seeds, 0..1, quiet).unwrap_err();
    assert_eq!(said.to_string(), nothing);
    let pair = [Pair {
        winner: batch[3].clone(),
        loser: Episode {
            prompt: batch[3].prompt.clone(),
            ..batch[4].clone()
        },
    }];
    let said = dpo(
        &mut learner,
        &reference,
        &pair,
        &config,
        &seeds,
        0..1,
        quiet,
    )
    .unwrap_err();
    assert!(
        said.to_string()
            .starts_with("response of row 1: found an empty"),
        "{said}"
    );
    let said = BradleyTerry::reward(&[], Readout::Last).unwrap_err();
    assert!(
        said.to_string()
            .starts_with("rows of a batch of pairs: found 0"),
        "{said}"
    );
    assert_eq!(learner.policy().params(), reference.params());
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let said = |config: PpoConfig| {
        // Through Algorithm 2's settings too.
        let rto = RtoConfig {
            ppo: config,
            ..RtoConfig::paper()
        };
        let (alone, inside) = (config.check().unwrap_err(), rto.check().unwrap_err());
        assert_eq!(alone, inside);
        alone.to_string()
    };
    for (beta2, found) in [(-0.1, "-0.1"), (f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
        let want = format!("beta2: found {found}, must be finite and >= 0");
        assert_eq!(said(PpoConfig { beta2, ..ppo() }), want);
    }
    for lambda in [1.1, -0.1] {
        let want = format!("lambda: found {lambda}, must be in [0, 1]");
        assert_eq!(said(PpoConfig { lambda, ..ppo() }), want);
    }
    let adaptive_kl = Some(AdaptiveKl {
        target: 0.0,
        horizon: 10.0,
    });
    assert!(
        said(PpoConfig {
            adaptive_kl,
            ..ppo()
        })
        .starts_with("adaptive_kl.target: found 0")
    );
    let own = Decoder::default();
    for (field, rollout) in [
        (
            "temperature: found 0.9",
            Decoder {
                temperature: 0.9,
                ..own
            },
        ),
        ("top_p: found 0.99", Decoder { top_p: 0.99, ..own }),
        ("top_k: found 50", Decoder { top_k: 50, ..own }),
        (
            "min_new_tokens: found 8",
            Decoder {
                min_new_tokens: 8,
                ..own
            },
        ),
    ] {
        let said = said(PpoConfig { rollout, ..ppo() });
        assert!(said.starts_with(field), "{said}");
        assert!(
            said.contains("in training: samples must follow the distribution"),
            "{said}"
        );
    }
}

/// A state that was read from a file is not trusted.
#[test]
fn a_state_with_a_negative_beta2_is_refused() {
    let map = map(2, 4);
    let reference = softmax(&map, "reference");
    let (config, seeds, zero) = (ppo(), SeedTree::new(0), Pays(Ragged::zeros));
    let (checked, prompts) = (config.check().unwrap(), [StateMap::prompt(0)]);
    let run = PpoRun {
        reference: &reference,
        reward: &zero,
        prompts: &prompts,
        config: &checked,
        seeds: &seeds,
    };
    let sgd = OptimizerConfig::sgd(1.0);
    let mut learner = TabularLearner::try_new(reference.clone(), sgd).unwrap();
    for beta2 in [-0.1, f64::NAN] {
        let mut state = PpoState {
            beta2,
            ..PpoState::new(&config)
        };
        let mut slot = CriticSlot::Separate(&mut NoCritic);
        let said = run
            .iterate(&mut learner, &mut slot, &mut state)
            .unwrap_err();
        assert!(
            said.to_string().starts_with("beta2 of the state: found"),
            "{said}"
        );
    }
    let beta = Beta::try_new(-0.1).unwrap_err();
    assert!(beta.to_string().contains("-0.1"), "{beta}");
}
