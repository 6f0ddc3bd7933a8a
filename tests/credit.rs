//! What a dense reward is worth to PPO: the identities of RTO, the sentence-level DPO reward ("DPPO") and PPO with a
//! Bradley–Terry reward, token by token through the driver of Algorithm 2, and the conditions they stand on.

use std::sync::Arc;

use ndarray::Array2;
use rand::Rng;
use rto::algorithm2::{CriticSlot, PpoConfig, PpoRun, PpoState, Whitening};
use rto::features::DenseFeatures;
use rto::mdp::{ActionIx, Beta, Problem, StateIx, TokenTree};
use rto::objective::Aggregation;
use rto::plan::soft_value_iteration;
use rto::policy::{
    OptimizerConfig, Regressor, Rule, StateMap, Table, TableFunction, TabularLearner,
    TabularSoftmax,
};
use rto::reward::TabularReward;
use rto::seed::SeedTree;
use rto::seq::{
    Channel, Episode, Finish, PerToken, PolicyLearner, Ragged, StepReport, TokenObjective,
    TokenReward, TokenScorer, Trainable, loss_and_score_grad,
};
use rto::token_reward::{DpoReward, PaidAtEnd, Scaled, SentenceReward};

const ROWS: usize = 24;
const BETA1: f64 = 0.5;
/// Rounding of a few iterations; the quantities are of order 1.
const EXACT: f64 = 1e-12;
/// What counts as visible.
const VISIBLE: f64 = 1e-2;

/// Two prompts, three actions of which the last ends the response, four tokens.
fn tree() -> TokenTree {
    TokenTree::try_new(2, 3, 4, Some(ActionIx(2))).unwrap()
}

fn map() -> Arc<StateMap> {
    StateMap::tree(&tree(), &[0.5, 0.5]).unwrap()
}

fn random(label: &str, columns: usize) -> Array2<f64> {
    let mut rng = SeedTree::new(7).child(label).rng();
    Array2::from_shape_fn((tree().n_states(), columns), |_| {
        2.0 * rng.random::<f64>() - 1.0
    })
}

fn softmax(label: &str) -> TabularSoftmax {
    TabularSoftmax::try_new(map(), &random(label, 3)).unwrap()
}

type Dpo = DpoReward<TabularSoftmax, TabularSoftmax>;

fn dpo_reward() -> Dpo {
    DpoReward::try_new(softmax("dpo"), softmax("reference"), BETA1).unwrap()
}

/// V, arbitrary and not zero anywhere.
fn start() -> Vec<f64> {
    random("values", 1).into_iter().collect()
}

/// C(s) = β₁ Σ_{k<h} log(π_dpo/π_ref)(y_k|s_k), the DPO rewards on the way to s, each cut to ±`clip`.
fn credit(clip: f64) -> Vec<f64> {
    let (tree, dpo, reference) = (tree(), softmax("dpo"), softmax("reference"));
    let (dpo, reference) = (dpo.table().unwrap(), reference.table().unwrap());
    let of = |s: usize| {
        let (prompt, prefix) = tree.prefix(StateIx(s as u32));
        let paid = |h: usize| {
            let (s, a) = (tree.state(prompt, &prefix[..h]), ActionIx(prefix[h]));
            let s = s.unwrap();
            (BETA1 * (dpo.log_prob(s, a) - reference.log_prob(s, a))).clamp(-clip, clip)
        };
        (0..prefix.len()).map(paid).sum()
    };
    (0..tree.n_states()).map(of).collect()
}

fn plus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// Two epochs of one minibatch, so that the first step of an iteration shows the advantages of its whole rollout.
fn config() -> PpoConfig {
    PpoConfig {
        iterations: 5,
        prompts_per_iteration: ROWS,
        minibatch_size: ROWS,
        beta2: 0.3,
        advantage_whitening: Whitening::Off,
        aggregation: Aggregation::SequenceSum,
        learning_rate: 0.5,
        critic_learning_rate: 0.5,
        ..PpoConfig::paper()
    }
}

/// −B ∂ℒ/∂score of every token of every step: Â of a policy while its ratio is 1 (ρÂ or 0 after), c(R − V) of a critic.
#[derive(Default)]
struct Seen {
    all: Vec<f64>,
    /// Tokens of the first step.
    first: usize,
}

impl Seen {
    fn record(&mut self, channel: Channel, scores: &PerToken, objective: &dyn TokenObjective) {
        let (_, grad) = loss_and_score_grad(objective, scores).unwrap();
        let grad = grad.get(channel).unwrap();
        let rows = grad.n_rows() as f64;
        self.all.extend(grad.values().iter().map(|g| -g * rows));
        if self.first == 0 {
            self.first = self.all.len();
        }
    }
}

struct Policy(TabularLearner, Seen);

impl Trainable for Policy {
    fn step(&mut self, batch: &[Episode], loss: &dyn TokenObjective) -> rto::Result<StepReport> {
        let scores = self.0.policy().scores(batch)?;
        self.1.record(Channel::LogProb, &scores, loss);
        self.0.step(batch, loss)
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.0.set_learning_rate(learning_rate);
    }
}

impl PolicyLearner for Policy {
    type Policy = TabularSoftmax;

    fn policy(&self) -> &TabularSoftmax {
        self.0.policy()
    }

    fn snapshot(&self) -> rto::Result<TabularSoftmax> {
        self.0.snapshot()
    }
}

struct Critic<T> {
    inner: Regressor<T>,
    /// Whether the final value is that of the state before it, as of a head that does not know that the response is over.
    lingers: bool,
    /// Whether its loss is that of values and targets divided by the deviation of the batch's targets.
    normalises: bool,
    seen: Seen,
}

impl<T: TableFunction> TokenScorer for Critic<T> {
    fn channels(&self) -> &[Channel] {
        self.inner.channels()
    }

    fn scores(&self, batch: &[Episode]) -> rto::Result<PerToken> {
        let scores = self.inner.scores(batch)?;
        if !self.lingers {
            return Ok(scores);
        }
        let values = scores.get(Channel::Value)?;
        let last = values.rows().map(|v| [v[v.len() - 1]]);
        let last = Ragged::from_rows(last);
        scores.with(Channel::FinalValue, last)
    }
}

impl<T: TableFunction> Trainable for Critic<T> {
    fn step(&mut self, batch: &[Episode], loss: &dyn TokenObjective) -> rto::Result<StepReport> {
        let scores = self.inner.scores(batch)?;
        let before = self.seen.all.len();
        self.seen.record(Channel::Value, &scores, loss);
        if self.normalises {
            let values = scores.get(Channel::Value)?.values();
            let errors = &self.seen.all[before..];
            let targets: Vec<f64> = values.iter().zip(errors).map(|(v, e)| v + e).collect();
            let n = targets.len() as f64;
            let mean = targets.iter().sum::<f64>() / n;
            let variance = targets.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / n;
            self.inner.set_learning_rate(0.5 / variance);
        }
        self.inner.step(batch, loss)
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.inner.set_learning_rate(learning_rate);
    }
}

/// What a whole run showed: every token of every step of policy and critic, and the policy at its end.
struct Trace {
    advantages: Vec<f64>,
    first: usize,
    errors: Vec<f64>,
    end: Vec<f64>,
}

/// Responses stopped after two tokens, so that their last state has a value.
fn cut(batch: Vec<Episode>) -> Vec<Episode> {
    let one = |e: Episode| match e.len() > 2 {
        true => Episode::try_new(e.prompt, e.response[..2].to_vec(), Finish::Length).unwrap(),
        false => e,
    };
    batch.into_iter().map(one).collect()
}

fn train<T: TableFunction>(
    reward: &dyn TokenReward,
    mut critic: Critic<T>,
    config: PpoConfig,
    change: fn(Vec<Episode>) -> Vec<Episode>,
) -> Trace {
    let (reference, prompts) = (softmax("reference"), [0, 1].map(StateMap::prompt));
    let (checked, seeds) = (config.check().unwrap(), SeedTree::new(3));
    let run = PpoRun {
        reference: &reference,
        reward,
        prompts: &prompts,
        config: &checked,
        seeds: &seeds,
    };
    let learner = TabularLearner::try_new(reference.clone(), OptimizerConfig::sgd(1.0)).unwrap();
    let mut policy = Policy(learner, Seen::default());
    let mut state = PpoState::new(&config);
    while state.iteration < config.iterations {
        let batch = change(run.rollout(policy.policy(), &state).unwrap());
        let mut slot = CriticSlot::Separate(&mut critic);
        run.update(&mut policy, &mut slot, &mut state, batch)
            .unwrap();
    }
    Trace {
        advantages: policy.1.all,
        first: policy.1.first,
        errors: critic.seen.all,
        end: policy.0.policy().params().to_vec(),
    }
}

fn critic<T>(inner: Regressor<T>) -> Critic<T> {
    Critic {
        inner,
        lingers: false,
        normalises: false,
        seen: Seen::default(),
    }
}

fn table(values: &[f64]) -> Critic<Table> {
    critic(Regressor::critic(map(), values, OptimizerConfig::sgd(1.0)).unwrap())
}

fn tabular(reward: &dyn TokenReward, values: &[f64], config: PpoConfig) -> Trace {
    train(reward, table(values), config, |batch| batch)
}

fn furthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let off = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    off.fold(0.0, f64::max)
}

#[track_caller]
fn same(a: &Trace, b: &Trace) {
    for (what, a, b) in [
        ("advantages", &a.advantages, &b.advantages),
        ("errors of the critic", &a.errors, &b.errors),
        ("policies", &a.end, &b.end),
    ] {
        let off = furthest(a, b);
        assert!(off < EXACT, "{what} differ by {off:e}");
    }
    let size = a.advantages.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    assert!(size > 0.1, "advantages of size {size} show nothing");
    let start = softmax("reference");
    assert!(furthest(&a.end, start.params()) > 0.1, "nothing was learnt");
}

/// The first rollout is the same in both runs, so its advantages must be what differs.
#[track_caller]
fn differ(a: &Trace, b: &Trace) {
    let n = a.first;
    assert_eq!(n, b.first);
    let off = furthest(&a.advantages[..n], &b.advantages[..n]);
    assert!(off > VISIBLE, "advantages differ by {off:e} only");
}

/// The settings under which the identities hold: any λ, whitened advantages, PPO's and the critic's clip.
fn settings() -> Vec<PpoConfig> {
    let mut all: Vec<_> = [0.0, 0.5, 0.95, 1.0]
        .map(|lambda| PpoConfig { lambda, ..config() })
        .into();
    all.push(PpoConfig {
        advantage_whitening: Whitening::ShiftAndScale,
        ..config()
    });
    all.push(PpoConfig {
        value_clip: None,
        clip: 0.05,
        ..config()
    });
    all
}

#[test]
fn rto_with_critic_v_is_dppo_with_critic_v_plus_credit() {
    let (dense, sparse) = (dpo_reward(), PaidAtEnd(dpo_reward()));
    let shifted = plus(&start(), &credit(f64::INFINITY));
    for config in settings() {
        let rto = tabular(&dense, &start(), config);
        same(&rto, &tabular(&sparse, &shifted, config));
        // The offset is what does it.
        differ(&rto, &tabular(&sparse, &start(), config));
    }
}

/// The reward model r, β log(π*/π_ref) of the DPO policy of the same r, and V* at the first state of every state's prompt.
fn same_model() -> (SentenceReward<Regressor<Table>>, PaidAtEnd<Dpo>, Vec<f64>) {
    let (map, r) = (map(), random("reward", 3));
    let reference = softmax("reference");
    let reward = TabularReward::try_new(r.clone()).unwrap();
    let beta = Beta::try_new(BETA1).unwrap();
    let best = soft_value_iteration(
        Problem::new(map.mdp(), &reference.table().unwrap(), beta),
        &reward,
    )
    .unwrap();
    let flat: Vec<f64> = r.into_iter().collect();
    let model = Regressor::reward(map.clone(), &flat, OptimizerConfig::sgd(0.0)).unwrap();
    let dpo = TabularSoftmax::from_policy(map, &best.policy).unwrap();
    let prompt = |s: usize| tree().prefix(StateIx(s as u32)).0;
    let constant = |s| best.v[tree().root(prompt(s)).ix()];
    (
        SentenceReward::new(model),
        PaidAtEnd(DpoReward::try_new(dpo, reference, BETA1).unwrap()),
        (0..tree().n_states()).map(constant).collect(),
    )
}

#[test]
fn ppo_with_the_reward_of_the_same_model_is_dppo_plus_a_constant() {
    let (ppo, dppo, constant) = same_model();
    let shifted = plus(&start(), &constant);
    assert!(constant.iter().all(|c| c.abs() > 0.1));
    for config in settings() {
        let plain = tabular(&dppo, &start(), config);
        same(&plain, &tabular(&ppo, &shifted, config));
        differ(&plain, &tabular(&ppo, &start(), config));
    }
}

/// A critic that is no table will do where C is among the functions it can take: adding C is then a move of θ.
#[test]
fn a_linear_critic_that_can_take_the_credit_will_do() {
    let (map, noise, credit) = (map(), random("features", 2), credit(f64::INFINITY));
    let psi = |s: usize, _: usize, k: usize| match k {
        2 => credit[s],
        k => noise[[s, k]],
    };
    let psi = DenseFeatures::from_fn(tree().n_states(), 1, 3, psi).unwrap();
    let psi = Arc::new(psi);
    let ends = |reward: &dyn TokenReward, theta: [f64; 3]| {
        let sgd = OptimizerConfig::sgd(1.0);
        let linear = Regressor::linear_critic(map.clone(), psi.clone(), &theta, sgd).unwrap();
        train(reward, critic(linear), config(), |batch| batch)
    };
    let rto = ends(&dpo_reward(), [0.4, -0.2, 0.1]);
    same(&rto, &ends(&PaidAtEnd(dpo_reward()), [0.4, -0.2, 1.1]));
    differ(&rto, &ends(&PaidAtEnd(dpo_reward()), [0.4, -0.2, 0.1]));
}

/// Both runs begin alike, and some later step of the critic is not what it was.
#[track_caller]
fn part(a: &Trace, b: &Trace) {
    let off = furthest(&a.advantages[..a.first], &b.advantages[..b.first]);
    assert!(off < EXACT, "the first advantages differ by {off:e}");
    let off = furthest(&a.errors, &b.errors);
    assert!(off > VISIBLE, "errors of the critic differ by {off:e} only");
}

/// Decay pulls V + C towards 0 and V towards 0: the offset does not survive it. Adam itself is harmless.
#[test]
fn the_first_identity_needs_a_critic_without_weight_decay() {
    let ends = |reward: &dyn TokenReward, values: &[f64], weight_decay: f64| {
        let rule = match Rule::ADAM {
            Rule::Adam {
                decay1,
                decay2,
                epsilon,
                ..
            } => Rule::Adam {
                decay1,
                decay2,
                epsilon,
                weight_decay,
            },
            Rule::Sgd => unreachable!("ADAM is Adam"),
        };
        let adam = OptimizerConfig {
            rule,
            ..OptimizerConfig::adam(1.0)
        };
        let table = critic(Regressor::critic(map(), values, adam).unwrap());
        let config = PpoConfig {
            critic_learning_rate: 0.05,
            ..config()
        };
        train(reward, table, config, |batch| batch)
    };
    let shifted = plus(&start(), &credit(f64::INFINITY));
    let both = |decay| {
        let rto = ends(&dpo_reward(), &start(), decay);
        (rto, ends(&PaidAtEnd(dpo_reward()), &shifted, decay))
    };
    let (rto, dppo) = both(0.0);
    same(&rto, &dppo);
    let (rto, dppo) = both(1.0);
    part(&rto, &dppo);
}

/// The targets of DPPO contain C, so that their deviation, by which a normalising critic divides, is another.
#[test]
fn the_first_identity_needs_a_critic_that_does_not_normalise() {
    let ends = |reward: &dyn TokenReward, values: &[f64]| {
        let critic = Critic {
            normalises: true,
            ..table(values)
        };
        train(reward, critic, config(), |batch| batch)
    };
    let shifted = plus(&start(), &credit(f64::INFINITY));
    let rto = ends(&dpo_reward(), &start());
    part(&rto, &ends(&PaidAtEnd(dpo_reward()), &shifted));
}

/// Neither DPPO with its critic offset nor PPO with the reward of the same model runs as before under these settings.
#[track_caller]
fn both_identities_break(config: PpoConfig) {
    let shifted = plus(&start(), &credit(f64::INFINITY));
    let rto = tabular(&dpo_reward(), &start(), config);
    differ(&rto, &tabular(&PaidAtEnd(dpo_reward()), &shifted, config));
    let (ppo, dppo, constant) = same_model();
    let plain = tabular(&dppo, &start(), config);
    differ(&plain, &tabular(&ppo, &plus(&start(), &constant), config));
}

/// Under γ < 1 an offset of the critic is discounted and a reward paid later is too.
#[test]
fn the_identities_need_no_discount() {
    let config = PpoConfig {
        gamma: 0.9,
        ..config()
    };
    both_identities_break(config);
}

/// A dense and a sparse reward of the same sum have different deviations, and so have two sparse ones with different means.
#[test]
fn the_identities_need_rewards_that_are_not_whitened() {
    for reward_whitening in [Whitening::Scale, Whitening::ShiftAndScale] {
        let config = PpoConfig {
            reward_whitening,
            ..config()
        };
        both_identities_break(config);
    }
}

/// A reward model that is normalised is no longer the log-ratio plus a constant.
#[test]
fn the_second_identity_needs_a_reward_that_is_not_normalised() {
    let (ppo, dppo, constant) = same_model();
    let shifted = plus(&start(), &constant);
    let plain = tabular(&dppo, &start(), config());
    let scaled = ppo.clone().normalised(0.0, 2.0).unwrap();
    differ(&plain, &tabular(&scaled, &shifted, config()));
    // Centring alone is one more constant.
    let centred = ppo.normalised(0.7, 1.0).unwrap();
    let less: Vec<_> = shifted.iter().map(|v| v - 0.7).collect();
    same(&plain, &tabular(&centred, &less, config()));
}

/// Cut per token and cut per sentence are different rewards; a sentence reward that pays what was cut is the same one.
#[test]
fn the_identities_need_rewards_that_are_not_clipped() {
    let (c, start) = (0.1, start());
    let clipped = || dpo_reward().clipped(c).unwrap();
    let rto = tabular(&clipped(), &start, config());
    let whole = plus(&start, &credit(f64::INFINITY));
    differ(&rto, &tabular(&PaidAtEnd(dpo_reward()), &whole, config()));
    let end = Scaled::try_new(PaidAtEnd(dpo_reward()), 1.0, Some(c)).unwrap();
    differ(&rto, &tabular(&end, &whole, config()));
    let of_the_clipped = plus(&start, &credit(c));
    differ(&rto, &tabular(&end, &of_the_clipped, config()));
    same(
        &rto,
        &tabular(&PaidAtEnd(clipped()), &of_the_clipped, config()),
    );

    let (ppo, dppo, constant) = same_model();
    let plain = tabular(&dppo, &start, config());
    let cut = ppo.clipped(0.3).unwrap();
    differ(&plain, &tabular(&cut, &plus(&start, &constant), config()));
}

/// A response cut at two tokens: with V(s₃) read as its final value, the offset C(s₃) is paid by the critic and the reward both.
/// A critic that goes on past the end of a whole response pays the constant of the second identity twice.
#[test]
fn the_identities_need_a_final_value_of_zero() {
    let config = |bootstrap_truncated| PpoConfig {
        bootstrap_truncated,
        ..config()
    };
    let (dense, sparse) = (dpo_reward(), PaidAtEnd(dpo_reward()));
    let shifted = plus(&start(), &credit(f64::INFINITY));
    for bootstrap in [false, true] {
        let rto = train(&dense, table(&start()), config(bootstrap), cut);
        let dppo = train(&sparse, table(&shifted), config(bootstrap), cut);
        match bootstrap {
            false => same(&rto, &dppo),
            true => differ(&rto, &dppo),
        }
    }
    let (ppo, dppo, constant) = same_model();
    let moved = plus(&start(), &constant);
    for bootstrap in [false, true] {
        let ends = |reward: &dyn TokenReward, values: &[f64]| {
            let lingering = Critic {
                lingers: true,
                ..table(values)
            };
            train(reward, lingering, config(bootstrap), |batch| batch)
        };
        let (plain, ppo) = (ends(&dppo, &start()), ends(&ppo, &moved));
        match bootstrap {
            false => same(&plain, &ppo),
            true => differ(&plain, &ppo),
        }
    }
}
