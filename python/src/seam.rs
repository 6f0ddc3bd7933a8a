//! The seam: losses with their gradients, advantages and token rewards on ragged arrays.
//!
//! A ragged array is a list of rows, one for each response, of one number for each token.

use crate::arrays::{elements, found, html, table, value_error, vector};
use numpy::{IntoPyArray, PyArray1, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rto::advantage::{MaskRule, ReturnRule, Spread, WhitenStd};
use rto::objective::{
    Aggregation, BradleyTerry, DpoLoss, Nll, PpoClip, Ratio, Readout, SampledKl, Unpaired,
    ValueLoss,
};
use rto::seq::{
    Channel, Episode, Finish, PerToken, Ragged, TokenObjective, TokenReward, TokenScorer,
    loss_and_score_grad,
};
use rto::token_reward::{DpoReward, KlEstimator, PaidAtEnd, SentenceReward, released};
use std::ops::Range;

/// Rows of results.
type Rows = Vec<Py<PyArray1<f64>>>;

fn out(py: Python<'_>, rows: &Ragged) -> Rows {
    let row = |r: &[f64]| r.to_vec().into_pyarray(py).unbind();
    rows.rows().map(row).collect()
}

/// The argument `name` as rows of numbers.
fn rows(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Ragged> {
    if value.cast::<PyUntypedArray>().is_ok_and(|a| a.ndim() == 2) {
        let all = table(name, "(responses, tokens)", value)?;
        let all = all.as_array();
        return Ok(Ragged::from_rows(
            all.rows().into_iter().map(|r| r.to_vec()),
        ));
    }
    let wrong = || {
        value_error(format!(
            "{name}: found {}, expected a row of numbers for each response",
            found(value)
        ))
    };
    let mut all = Vec::new();
    for (i, row) in value.try_iter().map_err(|_| wrong())?.enumerate() {
        let row = row.map_err(|_| wrong())?;
        all.push(elements(&vector(
            &format!("{name}[{i}]"),
            "(tokens,)",
            &row,
        )?));
    }
    Ok(Ragged::from_rows(all))
}

fn maybe(name: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Ragged>> {
    value.map(|v| rows(name, v)).transpose()
}

/// The same rows of another argument.
fn like(name: &str, value: &Bound<'_, PyAny>, shape: &Ragged) -> PyResult<Ragged> {
    let rows = rows(name, value)?;
    shape.check_same_shape(name, &rows).map_err(value_error)?;
    rows.check_finite(name).map_err(value_error)?;
    Ok(rows)
}

fn numbers(name: &str, value: &Bound<'_, PyAny>, n: usize) -> PyResult<Vec<f64>> {
    let values = elements(&vector(name, "(responses,)", value)?);
    if values.len() != n {
        return Err(value_error(format!(
            "{name}: found {} numbers, expected {n}, one for each response",
            values.len()
        )));
    }
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(values),
        Some(i) => Err(value_error(format!(
            "{name}[{i}]: found {}, expected a finite number",
            values[i]
        ))),
    }
}

/// Responses of these lengths; the rows of a pair share a prompt.
fn batch(shape: &Ragged) -> Vec<Episode> {
    let episode = |(i, row): (usize, &[f64])| Episode {
        prompt: [i as u32 / 2].into(),
        response: vec![0; row.len()],
        finish: Finish::Eos,
    };
    shape.rows().enumerate().map(episode).collect()
}

/// A choice by its name.
fn choice<T: Copy>(argument: &str, name: &str, all: &[(&str, T)]) -> PyResult<T> {
    let found = all.iter().find(|(n, _)| *n == name);
    found.map(|(_, v)| *v).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|(n, _)| *n).collect();
        value_error(format!(
            "{argument}: found \"{name}\", expected one of {}",
            names.join(", ")
        ))
    })
}

fn aggregation(name: &str, length: Option<usize>) -> PyResult<Aggregation> {
    let fixed = matches!(name, "constant" | "per_batch");
    if fixed != length.is_some() {
        let (found, expected) = match length {
            Some(n) => (n.to_string(), "nothing with this aggregation"),
            None => ("nothing".into(), "a number of tokens, at least 1"),
        };
        return Err(value_error(format!(
            "length: found {found}, expected {expected}"
        )));
    }
    let length = length.unwrap_or(1);
    choice(
        "aggregation",
        name,
        &[
            ("token_mean", Aggregation::TokenMean),
            ("sequence_mean", Aggregation::SequenceMean),
            ("sequence_sum", Aggregation::SequenceSum),
            ("constant", Aggregation::Constant { length }),
            ("per_batch", Aggregation::PerBatch { length }),
        ],
    )
}

const SAMPLED_KL: [(&str, SampledKl); 5] = [
    ("k1", SampledKl::K1),
    ("k2", SampledKl::K2),
    ("k3", SampledKl::K3),
    ("k3_plus", SampledKl::K3Plus),
    ("k3_corrected", SampledKl::K3Corrected),
];

/// A loss and its gradient.
#[pyclass(frozen, get_all, module = "rto")]
pub struct Loss {
    /// ℒ.
    value: f64,
    /// ∂ℒ/∂score by the name of the scores ("log_prob", "value", …): rows like those given.
    grad: Py<PyDict>,
}

#[pymethods]
impl Loss {
    fn _repr_html_(&self) -> String {
        html(&[("value", self.value.to_string())])
    }

    fn __repr__(&self) -> String {
        format!("Loss(value={}; grad)", self.value)
    }
}

/// ℒ and its gradient at some scores.
fn evaluate(py: Python<'_>, objective: &dyn TokenObjective, scores: &PerToken) -> PyResult<Loss> {
    let (value, gradient) = loss_and_score_grad(objective, scores).map_err(value_error)?;
    let grad = PyDict::new(py);
    for &channel in objective.channels() {
        let rows = gradient.get(channel).map_err(value_error)?;
        grad.set_item(channel.name(), out(py, rows))?;
    }
    Ok(Loss {
        value,
        grad: grad.unbind(),
    })
}

fn scored(batch: &[Episode], channel: Channel, values: Ragged) -> PyResult<PerToken> {
    PerToken::new(batch)
        .with(channel, values)
        .map_err(value_error)
}

/// The policy loss of PPO and its relatives, line 7 of Algorithm 2, with its gradient in log π.
///
/// ℒ = Σ w [max(−ρÂ, −clip(ρ, 1 − ε_low, 1 + ε_high)Â) − c_H ℋ + β kl], ρ = π/π_old, w by `aggregation`.
///
/// Parameters
/// ----------
/// log_prob : rows
///     log π(y_h|s_h): the variable of the gradient.
/// advantages : rows
/// old_log_prob : rows, optional
///     Of the policy that drew the responses; not read with ``ratio="log_prob"``.
/// ratio : {"token", "sequence", "geometric_mean", "capped", "log_prob"}
///     PPO and GRPO, RLOO of TRL, GSPO, CISPO (with `cap_low` and `cap_high`), REINFORCE.
/// clip_low, clip_high : float
///     ε_low and ε_high; ε_high is ε_low where it is not given.
/// dual_clip : float, optional
/// aggregation : {"token_mean", "sequence_mean", "sequence_sum", "constant", "per_batch"}
///     The last two with `length`.
/// mask : rows, optional
///     0 at tokens that do not count.
/// kl : {"k1", "k2", "k3", "k3_plus", "k3_corrected"}, optional
///     The penalty β kl of log π − log π_ref, with `beta` and `ref_log_prob`.
/// entropy : rows, optional
///     ℋ(π(·|s_h)), with `entropy_bonus` c_H; has a gradient of its own.
///
/// Returns
/// -------
/// Loss
#[pyfunction]
#[pyo3(signature = (log_prob, advantages, old_log_prob = None, *, ratio = "token", clip_low = 0.2, clip_high = None, dual_clip = None,
    cap_low = 0.0, cap_high = None, aggregation = "token_mean", length = None, mask = None, kl = None, beta = 0.0, ref_log_prob = None,
    entropy = None, entropy_bonus = 0.0))]
#[allow(clippy::too_many_arguments)] // keywords of one Python call
pub fn policy_loss(
    py: Python<'_>,
    log_prob: &Bound<'_, PyAny>,
    advantages: &Bound<'_, PyAny>,
    old_log_prob: Option<&Bound<'_, PyAny>>,
    ratio: &str,
    clip_low: f64,
    clip_high: Option<f64>,
    dual_clip: Option<f64>,
    cap_low: f64,
    cap_high: Option<f64>,
    aggregation: &str,
    length: Option<usize>,
    mask: Option<&Bound<'_, PyAny>>,
    kl: Option<&str>,
    beta: f64,
    ref_log_prob: Option<&Bound<'_, PyAny>>,
    entropy: Option<&Bound<'_, PyAny>>,
    entropy_bonus: f64,
) -> PyResult<Loss> {
    let log_prob = rows("log_prob", log_prob)?;
    let advantages = like("advantages", advantages, &log_prob)?;
    let mask = maybe("mask", mask)?;
    let how = self::aggregation(aggregation, length)?;
    let batch = batch(&log_prob);
    let needed = |name: &str, with: &str| {
        value_error(format!("{name}: found nothing, expected rows with {with}"))
    };
    let ratio = choice(
        "ratio",
        ratio,
        &[
            ("token", Ratio::Token),
            ("sequence", Ratio::Sequence),
            ("geometric_mean", Ratio::GeometricMean),
            (
                "capped",
                Ratio::Capped {
                    low: cap_low,
                    high: cap_high.unwrap_or(f64::NAN),
                },
            ),
            ("log_prob", Ratio::LogProb),
        ],
    )?;
    if matches!(ratio, Ratio::Capped { .. }) && cap_high.is_none() {
        return Err(value_error(
            "cap_high: found nothing, expected a number with ratio \"capped\"",
        ));
    }
    let old = match (old_log_prob, ratio) {
        (Some(old), _) => like("old_log_prob", old, &log_prob)?,
        // The ratio is not read, and where there is none it is 1.
        (None, Ratio::LogProb) => log_prob.clone(),
        (None, _) => return Err(needed("old_log_prob", "this ratio")),
    };
    let mut loss = PpoClip::new(&batch, old, advantages, clip_low, how, mask.as_ref())
        .and_then(|l| l.with_clip_high(clip_high.unwrap_or(clip_low)))
        .and_then(|l| l.with_ratio(ratio))
        .and_then(|l| l.with_entropy_bonus(entropy_bonus))
        .map_err(value_error)?;
    if let Some(c) = dual_clip {
        loss = loss.with_dual_clip(c).map_err(value_error)?;
    }
    match (kl, ref_log_prob) {
        (None, None) => {}
        (None, Some(_)) => {
            let names: Vec<&str> = SAMPLED_KL.iter().map(|(n, _)| *n).collect();
            return Err(value_error(format!(
                "kl: found nothing with ref_log_prob, expected one of {}",
                names.join(", ")
            )));
        }
        (Some(_), None) => return Err(needed("ref_log_prob", "kl")),
        (Some(kind), Some(reference)) => {
            let kind = choice("kl", kind, &SAMPLED_KL)?;
            let reference = like("ref_log_prob", reference, &log_prob)?;
            loss = loss
                .with_sampled_kl(kind, beta, reference)
                .map_err(value_error)?;
        }
    }
    let shape = log_prob.clone();
    let mut scores = scored(&batch, Channel::LogProb, log_prob)?;
    match entropy {
        Some(entropy) => {
            let entropy = like("entropy", entropy, &shape)?;
            scores = scores
                .with(Channel::Entropy, entropy)
                .map_err(value_error)?;
        }
        None if entropy_bonus > 0.0 => return Err(needed("entropy", "entropy_bonus")),
        None => {}
    }
    evaluate(py, &loss, &scores)
}

/// The critic's loss, c Σ w ½ max{(V − R)², (V_old + clip(V − V_old, ±δ) − R)²}, with its gradient in V.
///
/// Parameters
/// ----------
/// values, returns : rows
/// old_values : rows, optional
///     V_old, with `clip` δ.
/// coefficient : float, default 1
/// aggregation, length, mask
///     As for `policy_loss`.
///
/// Returns
/// -------
/// Loss
#[pyfunction]
#[pyo3(signature = (values, returns, old_values = None, *, coefficient = 1.0, clip = None, aggregation = "token_mean", length = None, mask = None))]
#[allow(clippy::too_many_arguments)] // keywords of one Python call
pub fn value_loss(
    py: Python<'_>,
    values: &Bound<'_, PyAny>,
    returns: &Bound<'_, PyAny>,
    old_values: Option<&Bound<'_, PyAny>>,
    coefficient: f64,
    clip: Option<f64>,
    aggregation: &str,
    length: Option<usize>,
    mask: Option<&Bound<'_, PyAny>>,
) -> PyResult<Loss> {
    let values = rows("values", values)?;
    let returns = like("returns", returns, &values)?;
    let old = match old_values {
        Some(old) => like("old_values", old, &values)?,
        None if clip.is_none() => values.clone(),
        None => {
            return Err(value_error(
                "old_values: found nothing, expected rows with clip",
            ));
        }
    };
    let (how, mask) = (
        self::aggregation(aggregation, length)?,
        maybe("mask", mask)?,
    );
    let batch = batch(&values);
    let loss = ValueLoss::masked(
        &batch,
        (returns, old),
        coefficient,
        clip,
        how,
        mask.as_ref(),
    );
    let scores = scored(&batch, Channel::Value, values)?;
    evaluate(py, &loss.map_err(value_error)?, &scores)
}

/// Supervised fine-tuning, −Σ w log π, with its gradient in log π.
///
/// Returns
/// -------
/// Loss
#[pyfunction]
#[pyo3(signature = (log_prob, *, aggregation = "token_mean", length = None, mask = None))]
pub fn sft_loss(
    py: Python<'_>,
    log_prob: &Bound<'_, PyAny>,
    aggregation: &str,
    length: Option<usize>,
    mask: Option<&Bound<'_, PyAny>>,
) -> PyResult<Loss> {
    let log_prob = rows("log_prob", log_prob)?;
    let (how, mask) = (
        self::aggregation(aggregation, length)?,
        maybe("mask", mask)?,
    );
    let batch = batch(&log_prob);
    let loss = Nll::new(&batch, how, mask.as_ref()).map_err(value_error)?;
    evaluate(py, &loss, &scored(&batch, Channel::LogProb, log_prob)?)
}

/// The loss of pairs by its JSON: a name, or {name: {parameter: number}}.
pub fn pair_loss(text: &str) -> PyResult<DpoLoss> {
    serde_json::from_str(text).map_err(|e| {
        value_error(format!(
            "loss: {e}; expected one of {} or {{name: {{parameter: number}}}}",
            DpoLoss::NAMES.join(", ")
        ))
    })
}

/// A loss of preference pairs and its gradient; see `preference_loss` of the package.
#[pyfunction]
pub fn pair_loss_grad(
    py: Python<'_>,
    log_prob: &Bound<'_, PyAny>,
    ref_log_prob: Option<&Bound<'_, PyAny>>,
    beta: f64,
    loss: &str,
    kl_from_reference: Option<&Bound<'_, PyAny>>,
) -> PyResult<Loss> {
    let log_prob = rows("log_prob", log_prob)?;
    let chosen = pair_loss(loss)?;
    let loss = chosen.loss();
    loss.check().map_err(value_error)?;
    let batch = batch(&log_prob);
    if !batch.len().is_multiple_of(2) {
        return Err(value_error(format!(
            "log_prob: found {} rows, expected winner, loser, winner, loser, …",
            batch.len()
        )));
    }
    if !loss.more_rows(&batch).is_empty() {
        return Err(value_error(format!(
            "loss: found \"{}\", which reads replies to other prompts too; expected another one, or kto_loss",
            chosen.name()
        )));
    }
    let reference = match ref_log_prob {
        Some(rows) => like("ref_log_prob", rows, &log_prob)?.row_sums(),
        None if !loss.reads_reference() => vec![0.0; batch.len()],
        None => {
            return Err(value_error(
                "ref_log_prob: found nothing, expected rows with this loss",
            ));
        }
    };
    let objective = loss
        .objective(&batch, &reference, beta)
        .map_err(value_error)?;
    let shape = log_prob.clone();
    let mut scores = scored(&batch, Channel::LogProb, log_prob)?;
    if loss.channels().contains(&Channel::KlFromReference) {
        let Some(kl) = kl_from_reference else {
            return Err(value_error(
                "kl_from_reference: found nothing, expected rows with this loss",
            ));
        };
        scores = scores
            .with(
                Channel::KlFromReference,
                like("kl_from_reference", kl, &shape)?,
            )
            .map_err(value_error)?;
    }
    evaluate(py, &*objective, &scores)
}

/// KTO on labelled responses: λ_D(1 − σ(β(r − z₀))) or λ_U(1 − σ(β(z₀ − r))), r = log π(y|x) − log π_ref(y|x), with its gradient in log π.
///
/// Parameters
/// ----------
/// log_prob, ref_log_prob : rows
/// desirable : sequence of bool
/// beta : float
/// z0 : float
///     The reference point, which gets no gradient.
/// desirable_weight, undesirable_weight : float, default 1
///
/// Returns
/// -------
/// Loss
#[pyfunction]
#[pyo3(signature = (log_prob, ref_log_prob, desirable, *, beta, z0 = 0.0, desirable_weight = 1.0, undesirable_weight = 1.0))]
#[allow(clippy::too_many_arguments)] // keywords of one Python call
pub fn kto_loss(
    py: Python<'_>,
    log_prob: &Bound<'_, PyAny>,
    ref_log_prob: &Bound<'_, PyAny>,
    desirable: &Bound<'_, PyAny>,
    beta: f64,
    z0: f64,
    desirable_weight: f64,
    undesirable_weight: f64,
) -> PyResult<Loss> {
    let log_prob = rows("log_prob", log_prob)?;
    let reference = like("ref_log_prob", ref_log_prob, &log_prob)?.row_sums();
    let labels = numbers("desirable", desirable, log_prob.n_rows())?;
    if let Some(bad) = labels.iter().find(|v| **v != 0.0 && **v != 1.0) {
        return Err(value_error(format!(
            "desirable: found {bad}, expected True or False"
        )));
    }
    let labels: Vec<bool> = labels.iter().map(|v| *v == 1.0).collect();
    let batch = batch(&log_prob);
    let weights = (desirable_weight, undesirable_weight);
    let loss =
        Unpaired::kto(&batch, &reference, &labels, beta, z0, weights).map_err(value_error)?;
    evaluate(py, &loss, &scored(&batch, Channel::LogProb, log_prob)?)
}

/// Fitting a reward model, (2.2), with its gradient in the rewards of the tokens.
///
/// Parameters
/// ----------
/// rewards : rows
///     Winner, loser, winner, loser, …
/// readout : {"sum", "mean", "last"}
///     How the tokens of a response make its reward.
///
/// Returns
/// -------
/// Loss
#[pyfunction]
#[pyo3(signature = (rewards, readout = "sum"))]
pub fn reward_loss(py: Python<'_>, rewards: &Bound<'_, PyAny>, readout: &str) -> PyResult<Loss> {
    let rewards = rows("rewards", rewards)?;
    let readout = choice(
        "readout",
        readout,
        &[
            ("sum", Readout::Sum),
            ("mean", Readout::Mean),
            ("last", Readout::Last),
        ],
    )?;
    let batch = batch(&rewards);
    let loss = BradleyTerry::reward(&batch, readout).map_err(value_error)?;
    evaluate(py, &loss, &scored(&batch, Channel::Reward, rewards)?)
}

/// Generalised advantage estimation: δ_h = r_h + γV(s_{h+1}) − V(s_h), Â_h = Σ_k (γλ)^{k−h} δ_k, and the returns Â + V.
///
/// Parameters
/// ----------
/// rewards, values : rows
/// gamma, lam : float
/// last_values : array_like, optional
///     V after the last token, one for each response; 0 by default.
/// mask : rows, optional
///     0 at tokens that the policy did not write.
/// mask_rule : {"pass_over", "step", "step_of_value_zero"}
///     What such a token is to those around it.
///
/// Returns
/// -------
/// (rows, rows)
///     Advantages and returns.
#[pyfunction]
#[pyo3(signature = (rewards, values, *, gamma = 1.0, lam = 0.95, last_values = None, mask = None, mask_rule = "pass_over"))]
#[allow(clippy::too_many_arguments)] // keywords of one Python call
pub fn gae(
    py: Python<'_>,
    rewards: &Bound<'_, PyAny>,
    values: &Bound<'_, PyAny>,
    gamma: f64,
    lam: f64,
    last_values: Option<&Bound<'_, PyAny>>,
    mask: Option<&Bound<'_, PyAny>>,
    mask_rule: &str,
) -> PyResult<(Rows, Rows)> {
    let rewards = rows("rewards", rewards)?;
    let values = like("values", values, &rewards)?;
    let n = rewards.n_rows();
    let last = match last_values {
        Some(given) => numbers("last_values", given, n)?,
        None => vec![0.0; n],
    };
    let rule = choice(
        "mask_rule",
        mask_rule,
        &[
            ("pass_over", MaskRule::PassOver),
            ("step", MaskRule::Step),
            ("step_of_value_zero", MaskRule::StepOfValueZero),
        ],
    )?;
    let both = match maybe("mask", mask)? {
        None => rto::advantage::gae(&rewards, &values, &last, gamma, lam),
        Some(m) => rto::advantage::gae_masked(&rewards, &values, (&m, rule), &last, gamma, lam),
    }
    .map_err(value_error)?;
    Ok((out(py, &both.advantages), out(py, &both.returns)))
}

/// Σ_{k≥h} γ^{k−h} r_k.
///
/// Parameters
/// ----------
/// rewards : rows
/// gamma : float, default 1
/// mask : rows, optional
/// mask_rule : {"pass_over", "reset"}
///     Whether a return goes on over a masked token or starts anew before it.
///
/// Returns
/// -------
/// rows
#[pyfunction]
#[pyo3(signature = (rewards, *, gamma = 1.0, mask = None, mask_rule = "pass_over"))]
pub fn reward_to_go(
    py: Python<'_>,
    rewards: &Bound<'_, PyAny>,
    gamma: f64,
    mask: Option<&Bound<'_, PyAny>>,
    mask_rule: &str,
) -> PyResult<Rows> {
    let rewards = rows("rewards", rewards)?;
    let all = [
        ("pass_over", ReturnRule::Carry),
        ("reset", ReturnRule::Reset),
    ];
    let rule = choice("mask_rule", mask_rule, &all)?;
    let result = match maybe("mask", mask)? {
        None => rto::advantage::reward_to_go(&rewards, gamma),
        Some(m) => rto::advantage::reward_to_go_masked(&rewards, &m, rule, gamma),
    };
    Ok(out(py, &result.map_err(value_error)?))
}

/// Consecutive groups of so many responses.
fn groups(n: usize, group: usize) -> PyResult<Vec<Range<usize>>> {
    if group == 0 || !n.is_multiple_of(group) {
        return Err(value_error(format!(
            "group: found {group}, expected a divisor of {n}, the number of responses"
        )));
    }
    Ok((0..n / group).map(|k| k * group..(k + 1) * group).collect())
}

/// RLOO: the return of a response less the mean of the others of its group.
///
/// Parameters
/// ----------
/// returns : array_like of shape (responses,)
/// group : int
///     Responses to one prompt, which stand together.
///
/// Returns
/// -------
/// ndarray of shape (responses,)
#[pyfunction]
pub fn leave_one_out(
    py: Python<'_>,
    returns: &Bound<'_, PyAny>,
    group: usize,
) -> PyResult<Py<PyArray1<f64>>> {
    let returns = elements(&vector("returns", "(responses,)", returns)?);
    let groups = groups(returns.len(), group)?;
    let result = rto::advantage::leave_one_out(&returns, &groups).map_err(value_error)?;
    Ok(crate::arrays::out1(py, result))
}

/// GRPO and its relatives: the return of a response less the mean of its group, over a spread.
///
/// Parameters
/// ----------
/// returns : array_like of shape (responses,)
/// group : int
/// spread : {"group", "batch", "one"}
///     The standard deviation of the group plus `eps` (GRPO), that of the batch, or 1 (Dr. GRPO).
/// eps : float, default 1e-4
///
/// Returns
/// -------
/// ndarray of shape (responses,)
#[pyfunction]
#[pyo3(signature = (returns, group, *, spread = "group", eps = 1e-4))]
pub fn group_relative(
    py: Python<'_>,
    returns: &Bound<'_, PyAny>,
    group: usize,
    spread: &str,
    eps: f64,
) -> PyResult<Py<PyArray1<f64>>> {
    let returns = elements(&vector("returns", "(responses,)", returns)?);
    let groups = groups(returns.len(), group)?;
    let spread = choice(
        "spread",
        spread,
        &[
            ("group", Spread::Group { eps }),
            ("batch", Spread::Batch { eps }),
            ("one", Spread::One),
        ],
    )?;
    let result = rto::advantage::group_relative_by(&returns, &groups, spread);
    Ok(crate::arrays::out1(py, result.map_err(value_error)?))
}

/// RLOO as OpenRLHF has it: the reward to go less the mean score of the others of the group.
///
/// Parameters
/// ----------
/// rewards : rows
///     Scores and KL terms, token by token.
/// scores : array_like of shape (responses,)
/// group : int
/// mask : rows, optional
///
/// Returns
/// -------
/// rows
#[pyfunction]
#[pyo3(signature = (rewards, scores, group, *, mask = None))]
pub fn leave_one_out_of_score(
    py: Python<'_>,
    rewards: &Bound<'_, PyAny>,
    scores: &Bound<'_, PyAny>,
    group: usize,
    mask: Option<&Bound<'_, PyAny>>,
) -> PyResult<Rows> {
    let rewards = rows("rewards", rewards)?;
    let scores = numbers("scores", scores, rewards.n_rows())?;
    let (groups, mask) = (groups(scores.len(), group)?, maybe("mask", mask)?);
    let result = rto::advantage::leave_one_out_of_score(&rewards, &scores, &groups, mask.as_ref());
    Ok(out(py, &result.map_err(value_error)?))
}

/// ReMax: the reward to go less the score of the greedy response to the same prompt.
///
/// Returns
/// -------
/// rows
#[pyfunction]
#[pyo3(signature = (rewards, greedy_scores, *, mask = None))]
pub fn remax(
    py: Python<'_>,
    rewards: &Bound<'_, PyAny>,
    greedy_scores: &Bound<'_, PyAny>,
    mask: Option<&Bound<'_, PyAny>>,
) -> PyResult<Rows> {
    let rewards = rows("rewards", rewards)?;
    let greedy = numbers("greedy_scores", greedy_scores, rewards.n_rows())?;
    let mask = maybe("mask", mask)?;
    let result = rto::advantage::remax(&rewards, &greedy, mask.as_ref());
    Ok(out(py, &result.map_err(value_error)?))
}

/// Whitening over the tokens that count: x less its mean, over its standard deviation.
///
/// Parameters
/// ----------
/// x : rows
/// mask : rows, optional
/// shift : bool, default True
///     Whether the mean is removed.
/// std : {"biased", "unbiased", "biased_clamped", "one"}
///     √(var + 1e-8), with Bessel's correction, √max(var, 1e-8), or 1.
///
/// Returns
/// -------
/// rows
#[pyfunction]
#[pyo3(signature = (x, *, mask = None, shift = true, std = "biased"))]
pub fn whiten(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    mask: Option<&Bound<'_, PyAny>>,
    shift: bool,
    std: &str,
) -> PyResult<Rows> {
    let (x, mask) = (rows("x", x)?, maybe("mask", mask)?);
    let std = choice(
        "std",
        std,
        &[
            ("biased", WhitenStd::Biased),
            ("unbiased", WhitenStd::Unbiased),
            ("biased_clamped", WhitenStd::BiasedClamped),
            ("one", WhitenStd::One),
        ],
    )?;
    let result = rto::advantage::whiten_by(&x, mask.as_ref(), shift, std);
    Ok(out(py, &result.map_err(value_error)?))
}

/// A scorer that knows the numbers of one batch.
struct Known(Channel, Ragged);

impl TokenScorer for Known {
    fn channels(&self) -> &[Channel] {
        std::slice::from_ref(&self.0)
    }

    fn scores(&self, batch: &[Episode]) -> rto::Result<PerToken> {
        PerToken::new(batch).with(self.0, self.1.clone())
    }
}

/// Row i, scores[i] at the last token that counts.
fn at_last(shape: &Ragged, scores: &[f64], mask: Option<&Ragged>) -> PyResult<Ragged> {
    let mut at_end = shape.map(|_| 0.0);
    for (i, s) in scores.iter().enumerate() {
        let last = match mask {
            Some(m) => m.row(i).iter().rposition(|v| *v != 0.0),
            None => shape.row(i).len().checked_sub(1),
        };
        let last = last.ok_or_else(|| {
            value_error(format!(
                "mask[{i}]: found no token that counts, expected at least one"
            ))
        })?;
        at_end.row_mut(i)[last] = *s;
    }
    Ok(at_end)
}

/// Token rewards of RTO and its relatives, lines 6 of Algorithm 2: (4.5), (4.6), (5.1), (2.3), with their KL term.
///
/// Parameters
/// ----------
/// method : {"rto", "dppo", "ppo", "rto_released"}
///     β₁ log(π_dpo/π_ref) at every token (4.6); its sum at the last token (5.1); `scores` at the last token (2.3); the first cut to
///     ±`clip`, and `scores` cut to ±10 at the last token.
/// ref_log_prob : rows, optional
///     log π_ref of the tokens; gives the lengths too.
/// dpo_log_prob : rows, optional
///     log π_dpo of the tokens, with `beta1`.
/// scores : array_like of shape (responses,), optional
///     Of a reward model.
/// clip : float, optional
/// log_prob : rows, optional
///     log π of the policy that wrote the responses: −β₂ kl is added to every token, with `beta2` and `kl`.
/// kl : {"k1", "k2", "k3"}
/// mask : rows, optional
///     0 at tokens that the policy did not write: no KL term and no DPO reward there.
///
/// Returns
/// -------
/// rows
#[pyfunction]
#[pyo3(signature = (method, ref_log_prob, *, dpo_log_prob = None, beta1 = None, scores = None, clip = None, log_prob = None, beta2 = 0.0, kl = "k1", mask = None))]
#[allow(clippy::too_many_arguments)] // keywords of one Python call
pub fn token_rewards(
    py: Python<'_>,
    method: &str,
    ref_log_prob: &Bound<'_, PyAny>,
    dpo_log_prob: Option<&Bound<'_, PyAny>>,
    beta1: Option<f64>,
    scores: Option<&Bound<'_, PyAny>>,
    clip: Option<f64>,
    log_prob: Option<&Bound<'_, PyAny>>,
    beta2: f64,
    kl: &str,
    mask: Option<&Bound<'_, PyAny>>,
) -> PyResult<Rows> {
    let reference = rows("ref_log_prob", ref_log_prob)?;
    reference
        .check_finite("ref_log_prob")
        .map_err(value_error)?;
    let mask = match mask {
        Some(m) => Some(like("mask", m, &reference)?),
        None => None,
    };
    let masked = |x: Ragged| match &mask {
        Some(m) => x.zip("mask", m, |a, b| a * b).map_err(value_error),
        None => Ok(x),
    };
    let missing = |name: &str| {
        value_error(format!(
            "{name}: found nothing, expected it with method \"{method}\""
        ))
    };
    let batch = batch(&reference);
    let dpo = || -> PyResult<DpoReward<Known, Known>> {
        let given = dpo_log_prob.ok_or_else(|| missing("dpo_log_prob"))?;
        let given = like("dpo_log_prob", given, &reference)?;
        let ratio = given.zip("ref_log_prob", &reference, |p, q| p - q);
        let chosen = masked(ratio.map_err(value_error)?)?;
        let chosen = chosen.zip("ref_log_prob", &reference, |d, q| d + q);
        DpoReward::try_new(
            Known(Channel::LogProb, chosen.map_err(value_error)?),
            Known(Channel::LogProb, reference.clone()),
            beta1.ok_or_else(|| missing("beta1"))?,
        )
        .map_err(value_error)
    };
    let sentence = || -> PyResult<SentenceReward<Known>> {
        let given = scores.ok_or_else(|| missing("scores"))?;
        let given = numbers("scores", given, batch.len())?;
        let paid = at_last(&reference, &given, mask.as_ref())?;
        Ok(SentenceReward::new(Known(Channel::Reward, paid)))
    };
    let all = ["rto", "dppo", "ppo", "rto_released"].map(|m| (m, m));
    let method_name = choice("method", method, &all)?;
    let cut = |reward: DpoReward<Known, Known>| match clip {
        Some(c) => reward.clipped(c).map_err(value_error),
        None => Ok(reward),
    };
    let paid = match method_name {
        "rto" => cut(dpo()?)?.rewards(&batch),
        "dppo" => PaidAtEnd(cut(dpo()?)?).rewards(&batch),
        "rto_released" => {
            let clip = clip.ok_or_else(|| missing("clip"))?;
            released(dpo()?, clip, sentence()?).and_then(|r| r.rewards(&batch))
        }
        _ => match clip {
            Some(c) => sentence()?.clipped(c).and_then(|r| r.rewards(&batch)),
            None => sentence()?.rewards(&batch),
        },
    };
    // A reward of the sentence stands at the last token that counts.
    let paid = match (paid.map_err(value_error)?, &mask) {
        (paid, Some(_)) if matches!(method_name, "dppo" | "ppo") => {
            at_last(&reference, &paid.row_sums(), mask.as_ref())?
        }
        (paid, _) => paid,
    };
    let Some(log_prob) = log_prob else {
        return match beta2 == 0.0 {
            true => Ok(out(py, &paid)),
            false => Err(value_error(
                "log_prob: found nothing, expected rows with beta2",
            )),
        };
    };
    let log_prob = like("log_prob", log_prob, &reference)?;
    let estimator = choice(
        "kl",
        kl,
        &[
            ("k1", KlEstimator::K1),
            ("k2", KlEstimator::K2),
            ("k3", KlEstimator::K3),
        ],
    )?;
    let now = scored(&batch, Channel::LogProb, log_prob)?;
    let per_token = estimator.per_token(&now, &reference).map_err(value_error)?;
    let result = rto::token_reward::add_kl_penalty(&paid, &masked(per_token)?, beta2);
    Ok(out(py, &result.map_err(value_error)?))
}
