//! Algorithm 2 and its baselines on a token tree, with the exact suboptimality as it goes.

use crate::arrays::{html, out1, value_error};
use crate::callback::{Callback, PythonLoss, PythonReward};
use crate::long::{self, Watch};
use crate::mdp::{Policy, TokenTree};
use crate::plan::reward_table;
use crate::seam::pair_loss;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rto::algorithm2::{DpoConfig, Fit, IterationReport, Pair, PpoConfig, PpoRun, Step};
use rto::mdp::{Beta, TabularPolicy};
use rto::objective::{DpoLoss, PairLoss};
use rto::policy::{
    ExactEvaluator, ExactReport, OptimizerConfig, StateMap, TabularLearner, TabularSoftmax,
};
use rto::reward::{RewardFunction, TabularReward};
use rto::seed::SeedTree;
use rto::seq::{Episode, PolicyLearner, StepReport, TokenReward};
use rto_harness::methods::{self, Given, Keys, Method, Model, Parts};
use rto_harness::on_tree::{
    Trainer, dpo_learner, fit_dpo, fit_reward_model, prefix_sums, read_pairs, tabulate,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The settings of `algorithm2`, which are made for trees of this size.
const DEFAULTS: &str = include_str!("../../experiments/configs/algorithm2.toml");

/// A table of settings: those of `algorithm2`, and what is given of them.
fn settings<T: DeserializeOwned>(name: &str, defaults: &Value, given: &str) -> PyResult<T> {
    let given: Map<String, Value> = serde_json::from_str(given)
        .map_err(|_| value_error(format!("{name}: expected a dict of settings")))?;
    let mut all = defaults.clone();
    for (key, value) in given {
        all[&key] = value;
        // One after the other, so that what is wrong has its key.
        serde_json::from_value::<T>(all.clone())
            .map_err(|e| value_error(format!("{name}.{key}: {e}")))?;
    }
    serde_json::from_value(all).map_err(|e| value_error(format!("{name}: {e}")))
}

/// The loss of line 2.
enum Line2 {
    Named(DpoLoss),
    Python(PythonLoss),
}

impl Line2 {
    fn get(&self) -> &dyn PairLoss {
        match self {
            Self::Named(loss) => loss.loss(),
            Self::Python(loss) => loss,
        }
    }
}

/// Everything that a run needs.
struct Job {
    map: Arc<StateMap>,
    reward: TabularReward,
    reference: TabularPolicy,
    beta: Beta,
    pairs: Vec<Pair>,
    demonstrations: Vec<Episode>,
    method: &'static Method,
    dpo: DpoConfig,
    loss: Line2,
    ppo: PpoConfig,
    keys: Keys,
    token_reward: Option<PythonReward>,
    seeds: SeedTree,
    eval_every: u64,
}

/// Iterations done, of how many, and SubOpt there.
type Progress = (u64, u64, f64);

/// A policy measured exactly, with what the training said of the step before.
struct Row {
    step: u64,
    tokens: u64,
    exact: ExactReport,
    own: Option<f64>,
    fit: Option<StepReport>,
    ppo: Option<IterationReport>,
}

struct Outcome {
    policy: TabularPolicy,
    dpo: Option<TabularPolicy>,
    rows: Vec<Row>,
}

impl Job {
    fn run(&self, watch: &Watch<'_, Progress>) -> anyhow::Result<Outcome> {
        let start = TabularSoftmax::from_policy(self.map.clone(), &self.reference)?;
        match self.method.name {
            "sft" | "dpo" => self.fit(&start, watch),
            _ => self.iterate(&start, watch),
        }
    }

    fn exact(&self) -> rto::Result<ExactEvaluator> {
        let (map, reference) = (self.map.clone(), self.reference.clone());
        ExactEvaluator::try_new(map, &self.reward, reference, self.beta)
    }

    /// SFT on demonstrations, or line 2 alone.
    fn fit(&self, start: &TabularSoftmax, watch: &Watch<'_, Progress>) -> anyhow::Result<Outcome> {
        let (exact, settings) = (self.exact()?, self.dpo.fit.check()?);
        let (supervised, node) = (self.method.name == "sft", self.seeds.child("fit"));
        let (mut learner, mut fit) = match supervised {
            true => (
                TabularLearner::try_new(
                    start.clone(),
                    OptimizerConfig::adam(settings.learning_rate),
                )?,
                Fit::sft(&self.demonstrations, &settings, &node)?,
            ),
            false => (
                dpo_learner(start, self.loss.get(), &self.dpo)?,
                Fit::pairs(
                    start,
                    &self.pairs,
                    (self.loss.get(), self.dpo.beta),
                    &settings,
                    &node,
                )?,
            ),
        };
        let total = fit.total();
        let mut rows = Vec::new();
        let mut measure = |learner: &TabularLearner, step, fit| -> rto::Result<()> {
            let exact = exact.report(&learner.policy().table()?)?;
            watch.tell((step, total, exact.suboptimality));
            rows.push(Row {
                step,
                tokens: 0,
                exact,
                own: None,
                fit,
                ppo: None,
            });
            Ok(())
        };
        measure(&learner, 0, None)?;
        while let Some(step) = fit.next(&mut learner)? {
            watch.check()?;
            let done = fit.done();
            if done == total || done.is_multiple_of(self.eval_every) {
                measure(&learner, done, Some(step.report))?;
            }
        }
        let policy = learner.policy().table()?;
        Ok(Outcome {
            dpo: (!supervised).then(|| policy.clone()),
            policy,
            rows,
        })
    }

    /// Lines 2 to 8.
    fn iterate(
        &self,
        start: &TabularSoftmax,
        watch: &Watch<'_, Progress>,
    ) -> anyhow::Result<Outcome> {
        let (training, node) = (self.method.training(), self.seeds.child("fit"));
        let own_reward = self.token_reward.is_none();
        let reads = |model| own_reward && training.reads.contains(&model);
        let mut on_step =
            |_: &Step| -> std::result::Result<(), rto::BoxError> { Ok(watch.check()?) };
        let dpo = match reads(Model::Dpo) || training.critic_from_prefix {
            true => Some(fit_dpo(
                start,
                &self.pairs,
                (self.loss.get(), &self.dpo),
                &node,
                &mut on_step,
            )?),
            false => None,
        };
        // On a table r_φ of (2.2) pays every token.
        let model = match reads(Model::RewardModel) || reads(Model::TokenRewardModel) {
            true => Some(fit_reward_model(
                &self.map,
                &self.pairs,
                &self.dpo,
                &node,
                &mut on_step,
            )?),
            false => None,
        };
        let beta1 = self.dpo.beta;
        // What a reward does not read is never asked.
        let parts = Parts {
            dpo: dpo.as_ref().unwrap_or(start),
            reference: start,
            reward_model: match &model {
                Some(model) => model,
                None => start,
            },
            reward_mean: 0.0,
            beta1,
            beta2: self.ppo.beta2,
            keys: &self.keys,
        };
        let reward: Box<dyn TokenReward + '_> = match &self.token_reward {
            Some(reward) => Box::new(reward),
            None => (training.reward)(&parts)?,
        };
        let ppo = self.ppo.check()?;
        let prompts: Vec<_> = (0..self.map.n_prompts()).map(StateMap::prompt).collect();
        let seeds = self.seeds.child("ppo");
        let run = PpoRun {
            reference: start,
            reward: &*reward,
            prompts: &prompts,
            config: &ppo,
            seeds: &seeds,
        };
        let table = tabulate(&self.map, &*reward)?;
        let values = match training.critic_from_prefix {
            true => prefix_sums(self.map.mdp(), &tabulate(&self.map, &parts.dpo_reward()?)?),
            false => vec![0.0; self.map.mdp().n_states()],
        };
        let (exact, beta2) = (self.exact()?, Beta::try_new(ppo.beta2)?);
        let own = ExactEvaluator::try_new(self.map.clone(), &table, self.reference.clone(), beta2)?;
        let mut trainer = Trainer::new(start, &self.reference, &ppo, &values)?;
        let mut rows = Vec::new();
        let mut last = None;
        loop {
            let step = trainer.state().iteration;
            let ends = step == ppo.iterations;
            if ends || step.is_multiple_of(self.eval_every) {
                let policy = trainer.policy()?;
                let report = exact.report(&policy)?;
                watch.tell((step, ppo.iterations, report.suboptimality));
                rows.push(Row {
                    step,
                    tokens: trainer.state().sampled_tokens,
                    exact: report,
                    own: Some(own.report(&policy)?.suboptimality),
                    fit: None,
                    ppo: last.take(),
                });
            }
            watch.check()?;
            match trainer.next(&run)? {
                Some(iteration) => last = Some(iteration.report),
                None => break,
            }
        }
        Ok(Outcome {
            policy: trainer.policy()?,
            dpo: dpo.as_ref().map(|p| p.table()).transpose()?,
            rows,
        })
    }
}

/// A trained policy and its course.
#[pyclass(frozen, get_all, module = "rto")]
pub struct TrainRun {
    /// The name of the method.
    method: &'static str,
    /// π after the last iteration.
    policy: Py<Policy>,
    /// π_dpo of line 2, where there is one.
    dpo_policy: Option<Py<Policy>>,
    /// Columns by name, one row for each exact measurement: ``pandas.DataFrame(run.history)``.
    history: Py<PyDict>,
    /// The settings of the run, by table: "dpo" (its "fit" is that of SFT and the reward model too) and "ppo".
    settings: Py<PyDict>,
}

#[pymethods]
impl TrainRun {
    /// The last exact measurement.
    fn _repr_html_(&self, py: Python<'_>) -> PyResult<String> {
        let mut rows = vec![("method", self.method.to_string())];
        for name in [
            "iteration",
            "suboptimality",
            "value",
            "reward",
            "kl",
            "own_suboptimality",
        ] {
            if let Some(column) = self.history.bind(py).get_item(name)? {
                rows.push((name, column.get_item(-1)?.extract::<f64>()?.to_string()));
            }
        }
        Ok(html(&rows))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let column = self.history.bind(py).get_item("suboptimality")?;
        let last: f64 = column.map_or(Ok(f64::NAN), |c| c.get_item(-1)?.extract())?;
        Ok(format!(
            "TrainRun(method=\"{}\", suboptimality={last}; policy, dpo_policy, history, settings)",
            self.method
        ))
    }
}

/// The columns of a run.
fn history(py: Python<'_>, rows: &[Row]) -> PyResult<Py<PyDict>> {
    let columns = PyDict::new(py);
    let column = |name: &str, of: &dyn Fn(&Row) -> f64| {
        let values = rows.iter().map(of).collect();
        columns.set_item(name, out1(py, values))
    };
    column("iteration", &|r| r.step as f64)?;
    column("tokens", &|r| r.tokens as f64)?;
    column("suboptimality", &|r| r.exact.suboptimality)?;
    column("value", &|r| r.exact.value)?;
    column("reward", &|r| r.exact.reward)?;
    column("kl", &|r| r.exact.kl)?;
    column("entropy", &|r| r.exact.entropy)?;
    column("length", &|r| r.exact.length)?;
    if rows.iter().any(|r| r.fit.is_some()) {
        column("loss", &|r| r.fit.map_or(f64::NAN, |f| f.loss))?;
        column("grad_norm", &|r| r.fit.map_or(f64::NAN, |f| f.grad_norm))?;
        return Ok(columns.unbind());
    }
    column("own_suboptimality", &|r| r.own.unwrap_or(f64::NAN))?;
    type Of = fn(&IterationReport) -> f64;
    let sampled: [(&str, Of); 9] = [
        ("objective", |p| p.objective),
        ("sampled_kl", |p| p.kl),
        ("beta2", |p| p.beta2),
        ("clip_fraction", |p| p.clip_fraction),
        ("approx_kl", |p| p.approx_kl),
        ("policy_loss", |p| p.policy_loss),
        ("grad_norm", |p| p.grad_norm),
        ("value_loss", |p| p.value_loss.unwrap_or(f64::NAN)),
        ("explained_variance", |p| {
            p.explained_variance.unwrap_or(f64::NAN)
        }),
    ];
    for (name, of) in sampled {
        column(name, &|r| r.ppo.as_ref().map_or(f64::NAN, of))?;
    }
    Ok(columns.unbind())
}

/// Responses given as lists of tokens, or as (prompt, tokens).
fn responses(tree: &TokenTree, given: &Bound<'_, PyAny>) -> PyResult<Vec<Episode>> {
    let mut all = Vec::new();
    for (i, item) in given
        .try_iter()
        .map_err(|_| value_error("demonstrations: expected a list of responses"))?
        .enumerate()
    {
        let item = item?;
        let (prompt, tokens) = match item.extract::<(usize, Vec<u32>)>() {
            Ok(both) => both,
            Err(_) => (
                0,
                item.extract().map_err(|_| {
                    value_error(format!(
                        "demonstrations[{i}]: expected a list of tokens or (prompt, tokens)"
                    ))
                })?,
            ),
        };
        all.push(tree.episode(&format!("demonstrations[{i}]"), prompt, &tokens)?);
    }
    Ok(all)
}

/// Trains a policy on a tree; see `train` of the package.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // keywords of one Python call
pub fn train_run(
    py: Python<'_>,
    tree: PyRef<'_, TokenTree>,
    method: &str,
    reward: &Bound<'_, PyAny>,
    reference: &Bound<'_, PyAny>,
    beta: f64,
    pairs: Option<&Bound<'_, PyAny>>,
    demonstrations: Option<&Bound<'_, PyAny>>,
    token_reward: Option<&Bound<'_, PyAny>>,
    preference_loss: &Bound<'_, PyAny>,
    texts: (String, String, String, String),
    seed: u64,
    eval_every: u64,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<TrainRun> {
    let (line2, fit, ppo, own) = texts;
    let Some(method) = methods::find(method) else {
        let names: Vec<&str> = methods::METHODS.iter().map(|m| m.name).collect();
        return Err(value_error(format!(
            "method: found \"{method}\", expected one of {}",
            names.join(", ")
        )));
    };
    let beta = Beta::try_new(beta).map_err(value_error)?;
    let map = tree.state_map()?;
    let reference = Policy::argument("reference", reference)?;
    let reward = reward_table(reward)?;
    let defaults: Value = toml::from_str(DEFAULTS).map_err(value_error)?;
    let mut dpo: DpoConfig = settings("dpo", &defaults["dpo"], &line2)?;
    dpo.fit = settings("fit", &defaults["dpo"]["fit"], &fit)?;
    dpo.check().map_err(value_error)?;
    let loss_callback = match preference_loss.extract::<String>() {
        Ok(_) => None,
        Err(_) => Some(Callback::new("preference_loss", preference_loss)?),
    };
    let loss = match (&loss_callback, preference_loss.extract::<String>()) {
        (Some(callback), _) => Line2::Python(PythonLoss(callback.clone())),
        (None, text) => Line2::Named(pair_loss(&text?)?),
    };
    let reward_callback = token_reward
        .map(|f| Callback::new("token_reward", f))
        .transpose()?;
    let mut ppo: PpoConfig = settings("ppo", &defaults["ppo"], &ppo)?;
    let own: BTreeMap<String, f64> = serde_json::from_str(&own)
        .map_err(|_| value_error("settings: expected a dict of numbers"))?;
    let keys = match &method.training {
        Some(_) => {
            let given: Given = [(method.name.to_string(), own)].into();
            methods::check(&given).map_err(|e| value_error(format!("settings: {e:#}")))?;
            let keys = method
                .keys(&given)
                .map_err(|e| value_error(format!("settings: {e:#}")))?;
            ppo = method.ppo(ppo, &keys);
            ppo.check().map_err(|e| value_error(format!("ppo.{e}")))?;
            keys
        }
        None if own.is_empty() => Keys::default(),
        None => {
            return Err(value_error(format!(
                "settings: found {} keys, expected none: {} has no settings of its own",
                own.len(),
                method.name
            )));
        }
    };
    if eval_every == 0 {
        return Err(value_error("eval_every: found 0, expected at least 1"));
    }
    let job = Job {
        pairs: match pairs {
            Some(pairs) => tree.pairs(pairs)?,
            None => Vec::new(),
        },
        demonstrations: match demonstrations {
            Some(given) => responses(&tree, given)?,
            None => Vec::new(),
        },
        reward,
        reference: (*reference).clone(),
        map,
        beta,
        method,
        dpo,
        loss,
        ppo,
        keys,
        token_reward: reward_callback.clone().map(PythonReward),
        seeds: SeedTree::new(seed),
        eval_every,
    };
    job.needs()?;
    let settings = PyDict::new(py);
    let loads = py.import("json")?.getattr("loads")?;
    settings.set_item("dpo", loads.call1((json(&job.dpo)?,))?)?;
    if method.training.is_some() {
        settings.set_item("ppo", loads.call1((json(&job.ppo)?,))?)?;
    }
    let progress = progress.map(|f| f.clone().unbind());
    let tell = |py: Python<'_>, (done, total, gap): Progress| match &progress {
        Some(f) => f.call1(py, (done, total, gap)).map(drop),
        None => Ok(()),
    };
    let callbacks: Vec<&Callback> = [&reward_callback, &loss_callback]
        .into_iter()
        .flatten()
        .collect();
    let outcome = match callbacks.is_empty() {
        true => long::apart(py, move |watch| job.run(watch), |m| tell(py, m))?,
        false => long::here(py, move |watch| job.run(watch), tell)?,
    };
    let outcome = outcome.map_err(|e| {
        let error = value_error(format!("{e:#}"));
        callbacks
            .iter()
            .fold(error, |error, callback| callback.or(error))
    })?;
    let policy = |p| Py::new(py, Policy::new(p));
    Ok(TrainRun {
        method: method.name,
        history: history(py, &outcome.rows)?,
        policy: policy(outcome.policy)?,
        dpo_policy: outcome.dpo.map(policy).transpose()?,
        settings: settings.unbind(),
    })
}

fn json(value: &impl Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(value_error)
}

impl Job {
    /// Refuses a run that lacks what its method learns from.
    fn needs(&self) -> PyResult<()> {
        let name = self.method.name;
        let reads_pairs = match &self.method.training {
            None => name == "dpo",
            Some(training) => self.token_reward.is_none() || training.critic_from_prefix,
        };
        if name == "sft" && self.demonstrations.is_empty() {
            return Err(value_error(
                "demonstrations: found nothing, expected responses with method \"sft\"",
            ));
        }
        if reads_pairs && self.pairs.is_empty() {
            return Err(value_error(format!(
                "pairs: found nothing, expected pairs of responses with method \"{name}\""
            )));
        }
        if self.token_reward.is_some() && self.method.training.is_none() {
            return Err(value_error(format!(
                "token_reward: found a function, expected nothing with method \"{name}\""
            )));
        }
        let ((n, a), mdp) = (self.reward.shape(), self.map.mdp());
        match (n, a) == (mdp.n_states(), mdp.n_actions()) {
            true => Ok(()),
            false => Err(value_error(format!(
                "reward: found shape ({n}, {a}), expected ({}, {})",
                mdp.n_states(),
                mdp.n_actions()
            ))),
        }
    }
}

/// (prompt, winner, loser).
type PlainPair = (u32, Vec<u32>, Vec<u32>);

/// Pairs of responses drawn from two behaviours, labelled by (3.1).
///
/// Parameters
/// ----------
/// tree : TokenTree
/// reward : array_like of shape (n_states, n_actions)
/// behaviour : Policy, or its probabilities
/// n : int
/// other : Policy, optional
///     Of the second response; that of the first by default.
/// seed : int, default 0
///
/// Returns
/// -------
/// list of (prompt, winner, loser)
#[pyfunction]
#[pyo3(signature = (tree, reward, behaviour, n, *, other = None, seed = 0))]
pub fn sample_preferences(
    py: Python<'_>,
    tree: PyRef<'_, TokenTree>,
    reward: &Bound<'_, PyAny>,
    behaviour: &Bound<'_, PyAny>,
    n: usize,
    other: Option<&Bound<'_, PyAny>>,
    seed: u64,
) -> PyResult<Vec<PlainPair>> {
    let (reward, map) = (reward_table(reward)?, tree.state_map()?);
    let first = Policy::argument("behaviour", behaviour)?;
    let second = match other {
        Some(p) => Policy::argument("other", p)?,
        None => first.clone(),
    };
    let drawn = py.detach(|| {
        let seeds = SeedTree::new(seed);
        let drawn =
            rto::estimate::sample_preferences(map.mdp(), &reward, (&first, &second), n, &seeds)?;
        Ok::<_, rto::Error>(read_pairs(&map, &drawn))
    });
    let pairs = drawn.map_err(value_error)?;
    let plain = |p: Pair| (p.winner.prompt[0], p.winner.response, p.loser.response);
    Ok(pairs.into_iter().map(plain).collect())
}
