//! One instance of a user's, under every method: the file, checked, and what comes of it.

use anyhow::{Context, Result, anyhow, bail};
use rto::mdp::Beta;
use rto::preference::{
    Certificate, Compared, DEFAULT_METHODS, Evaluation, Method, MinimiserSet, OptimisticFit,
    PairTable, PreferenceProblem, Prompt, PromptOutcome, PromptSet, Responses, bounded_scores,
    chi_plan, evaluate, ipo_scores, pair_loss_fit, soft_optimum, tilt,
};
use rto_harness::json_error;
use rto_harness::table::Table;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;

use crate::own_loss::Formula;

/// The largest file that is read.
const MOST_BYTES: u64 = 256 << 20;
/// Constants a file may set, with the golden file's defaults; those of DPOP and of IPO's β are not in it.
const CONSTANTS: [(&str, Option<f64>, Range); 10] = [
    ("simpo_beta", Some(2.0), Range::Positive),
    ("simpo_gamma", Some(0.5), Range::NotNegative),
    ("rdpo_alpha", Some(0.2), Range::Any),
    ("tdpo2_alpha", Some(0.5), Range::NotNegative),
    ("rpo_eta", Some(0.1), Range::Positive),
    ("xpo_alpha", Some(0.01), Range::NotNegative),
    ("hypo_lambda", Some(0.05), Range::Positive),
    ("dpop_lambda", Some(5.0), Range::Positive),
    // A divergence.
    ("kto_z0", Some(0.0), Range::NotNegative),
    // β of the file.
    ("ipo_beta", None, Range::Positive),
];

/// What a constant may be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Range {
    Any,
    NotNegative,
    Positive,
}

impl Range {
    fn check(self, field: &str, value: f64) -> Result<f64> {
        match self {
            Self::Positive if value <= 0.0 => {
                bail!("{field}: found {value}, expected a positive number")
            }
            Self::NotNegative if value < 0.0 => {
                bail!("{field}: found {value}, expected at least 0")
            }
            _ => Ok(value),
        }
    }
}
/// Keys of the whole file, and of one prompt.
const FILE_KEYS: [&str; 3] = ["beta", "losses", "prompts"];
const PROMPT_KEYS: [&str; 7] = ["A", "H", "eos", "ref", "reward", "pairs", "policies"];
/// Keys that describe what the other keys say already; they are compared, not believed.
const DESCRIPTIVE: [&str; 7] = [
    "note",
    "prefixes",
    "responses",
    "ref_response",
    "R",
    "length",
    "Vstar",
];
/// Bounds of the classes that a fit without a maximum is reported in.
const BOUNDS: [f64; 2] = [4.0, 8.0];

/// Up to how many responses XPO is solved in these classes, and up to how many with a lower bound, from so many boxes.
const MOST_BOXED: usize = 16;
const MOST_BRANCHED: usize = 8;
const BOXES: usize = 2000;

/// An instance as its file has it.
pub struct Instance {
    set: PromptSet,
    /// Whether the file has a list of prompts, and the answer one as well.
    listed: bool,
    beta: Beta,
    /// IPO's own β.
    ipo_beta: Beta,
    /// XPO's α.
    xpo_alpha: f64,
    methods: Vec<(String, Method)>,
    /// The user's own policies: log π(y) for each prompt.
    policies: Vec<(String, Vec<Vec<f64>>)>,
    /// The user's own losses.
    losses: Vec<(String, Formula)>,
}

/// One prompt as its part of the file has it.
struct Part {
    responses: Responses,
    pairs: PairTable,
    /// The listed pairs; `None` for a population.
    listed: Option<usize>,
    weight: Option<f64>,
    policies: Vec<(String, Vec<f64>)>,
}

impl Part {
    fn parse(fields: &Map<String, Value>) -> Result<Self> {
        let (a, h) = (whole(fields, "A")?, whole(fields, "H")?);
        let eos = match fields.get("eos") {
            None | Some(Value::Null) => None,
            Some(_) => Some(whole(fields, "eos")? as u32),
        };
        let responses =
            Responses::try_new(a, h, eos, &rows(fields, "ref")?, &rows(fields, "reward")?)?;
        compare(fields, &responses)?;
        let law = get(fields, "pairs")?;
        let weight = fields.get("weight").map(|w| number(w, "weight"));
        Ok(Self {
            pairs: pairs(law, &responses)?,
            listed: law.as_array().map(Vec::len),
            weight: weight.transpose()?,
            policies: policies(fields.get("policies"), &responses)?,
            responses,
        })
    }
}

impl Instance {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// One line naming the file and the field.
    pub fn read(file: &Path) -> Result<Self> {
        let name = || file.display().to_string();
        let size = fs::metadata(file)
            .map_err(|e| anyhow!("{}: {e}", name()))?
            .len();
        if size > MOST_BYTES {
            bail!(
                "{}: found {size} bytes, expected at most {MOST_BYTES}",
                name()
            );
        }
        let text = fs::read_to_string(file).map_err(|e| anyhow!("{}: {e}", name()))?;
        Self::parse_text(&text).with_context(name)
    }

    /// Checks an instance given as JSON text.
    ///
    /// # Errors
    /// One line naming the field.
    pub fn parse_text(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).map_err(|e| json_error::explain(text, &e))?;
        Self::parse(&value)
    }

    fn parse(value: &Value) -> Result<Self> {
        let Value::Object(fields) = value else {
            bail!(
                "found {}, expected one object with the keys A, H, beta, ref, reward and pairs",
                kind(value)
            );
        };
        let listed = match fields.get("prompts") {
            None => None,
            Some(Value::Array(list)) if !list.is_empty() => Some(list),
            Some(other) => bail!(
                "prompts: found {}, expected a list of at least one prompt",
                brief(other)
            ),
        };
        let constants = CONSTANTS.map(|(name, ..)| name);
        let mut whole_file: Vec<&str> = FILE_KEYS.iter().chain(&constants).copied().collect();
        if listed.is_none() {
            whole_file.extend(PROMPT_KEYS);
            whole_file.extend(DESCRIPTIVE);
        } else {
            whole_file.push("note");
        }
        known(fields, &whole_file)?;
        let parts: Vec<Part> = match listed {
            None => vec![Part::parse(fields)?],
            Some(list) => {
                let mut parts = Vec::with_capacity(list.len());
                for (x, prompt) in list.iter().enumerate() {
                    let Value::Object(fields) = prompt else {
                        bail!("prompts[{x}]: found {}, expected an object", kind(prompt));
                    };
                    let mut keys = PROMPT_KEYS.to_vec();
                    keys.extend(["weight"].iter().chain(&DESCRIPTIVE));
                    let part = known(fields, &keys).and_then(|()| Part::parse(fields));
                    parts.push(part.with_context(|| format!("prompts[{x}]"))?);
                }
                parts
            }
        };
        let beta = Range::Positive.check("beta", number(get(fields, "beta")?, "beta")?)?;
        let mut values = Vec::new();
        for (name, default, range) in CONSTANTS {
            let default = default.unwrap_or(beta);
            let value = fields.get(name).map_or(Ok(default), |v| number(v, name))?;
            values.push(range.check(name, value)?);
        }
        let beta = Beta::try_new(beta)?;
        Ok(Self {
            ipo_beta: Beta::try_new(values[9])?,
            xpo_alpha: values[5],
            policies: own_policies(&parts)?,
            losses: losses(fields.get("losses"))?,
            methods: methods(&values),
            set: set(parts)?,
            listed: listed.is_some(),
            beta,
        })
    }

    /// Every method on the instance, as the answer's JSON.
    ///
    /// # Errors
    /// A fit that does not converge.
    pub fn solve(&self) -> Result<Value> {
        self.solve_while(&|| Ok(()))
    }

    /// [`Instance::solve`] for one who may have to stop: `go_on` is asked before every method, loss and prompt, and its error ends the work.
    ///
    /// # Errors
    /// Those of [`Instance::solve`], and that of `go_on`.
    pub fn solve_while(&self, go_on: &dyn Fn() -> rto::Result<()>) -> Result<Value> {
        let problems = self.set.problems(self.beta)?;
        let mut out = Map::new();
        for (name, method) in &self.methods {
            go_on()?;
            out.insert(name.clone(), self.method(&problems, method)?);
        }
        for (name, formula) in &self.losses {
            go_on()?;
            out.insert(name.clone(), self.own_loss(formula)?);
        }
        let mut own = Map::new();
        for (name, each) in &self.policies {
            own.insert(name.clone(), self.judged(each, &[])?);
        }
        let mut each = Vec::new();
        for (prompt, problem) in self.set.prompts().iter().zip(&problems) {
            go_on()?;
            each.push(self.prompt(prompt, problem)?);
        }
        let star = |p: &Prompt| soft_optimum(&p.responses, self.beta).0;
        let reference = |p: &Prompt| p.responses.log_reference().to_vec();
        let all = |policy: &dyn Fn(&Prompt) -> Vec<f64>| {
            self.judged(
                &self.set.prompts().iter().map(policy).collect::<Vec<_>>(),
                &[],
            )
        };
        let mut answer = Map::new();
        answer.insert("optimum".into(), all(&star)?);
        answer.insert("reference".into(), all(&reference)?);
        answer.insert("methods".into(), out.into());
        answer.insert("policies".into(), own.into());
        if self.listed {
            answer.insert("prompts".into(), each.into());
        } else if let Some(Value::Object(only)) = each.pop() {
            answer.extend(only);
        }
        Ok(answer.into())
    }

    /// What does not depend on a method: responses, fit, and the set of minimisers.
    fn prompt(&self, prompt: &Prompt, problem: &PreferenceProblem<'_>) -> Result<Value> {
        let responses = &prompt.responses;
        let fit = match problem.fit() {
            Ok(fit) => {
                let Certificate {
                    loss,
                    grad_inf,
                    hessian_min,
                    error_bound,
                } = fit.certificate;
                json!({
                    "R_mle": fit.scores, "loss": loss, "grad_inf": grad_inf,
                    "hessian_min": hessian_min, "error_bound": error_bound,
                })
            }
            Err(why) => json!({
                "no_minimiser": why, "vanishing": prompt.pairs.vanishing(), "bounded": self.bounded(prompt)?,
            }),
        };
        let text = |y: &Vec<u32>| y.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        Ok(json!({
            "responses": responses.responses().iter().map(text).collect::<Vec<_>>(),
            "R": responses.rewards(),
            "value_star": soft_optimum(responses, self.beta).1,
            "fit": fit,
            "connected": prompt.pairs.connected(),
            "set": self.minimisers(prompt, problem)?,
            "xpo": self.exploration(prompt)?,
        }))
    }

    /// The direction along which XPO's objective falls without end, if it does, and its minimiser in bounded classes, where it always has one: the
    /// best of many descents, and for few responses a lower bound by branch and bound.
    fn exploration(&self, prompt: &Prompt) -> Result<Value> {
        let (responses, n) = (&prompt.responses, prompt.responses.len());
        if self.xpo_alpha == 0.0 || n > MOST_BOXED {
            return Ok(Value::Null);
        }
        let mut wins = vec![0.0; n * n];
        for row in prompt.pairs.rows() {
            wins[row.first * n + row.second] += row.weight * row.preference;
            wins[row.second * n + row.first] += row.weight * (1.0 - row.preference);
        }
        let calibration: Vec<f64> = responses.log_reference().iter().map(|u| u.exp()).collect();
        // A penalty is a mean over prompts, the likelihood one over pairs.
        let weight = self.xpo_alpha / self.beta.get() * prompt.weight / prompt.share;
        let mut out = Map::new();
        for bound in BOUNDS {
            let log_reference = responses.log_reference();
            let fit = OptimisticFit::try_new(
                log_reference,
                self.beta,
                &wins,
                &calibration,
                weight,
                bound,
            )?;
            let (rewards, value) = fit.best(&[]);
            let exponent: Vec<f64> = rewards.iter().map(|r| r / self.beta.get()).collect();
            let policy = tilt(responses, &exponent)?;
            let mut entry = evaluation(&evaluate(responses, self.beta, &policy)?);
            entry.insert("loss".into(), json!(value));
            let least = (n <= MOST_BRANCHED).then(|| fit.lower_bound(value, 1e-8, BOXES));
            entry.insert("loss_at_least".into(), json!(least));
            out.insert(format!("{bound}"), entry.into());
            if bound == BOUNDS[0] {
                out.insert("unbounded_along".into(), json!(fit.unbounded_along()));
            }
        }
        Ok(out.into())
    }

    fn method(&self, problems: &[PreferenceProblem<'_>], method: &Method) -> Result<Value> {
        // IPO may have a β of its own; policies are judged at the file's.
        let own = matches!(method, Method::Ipo | Method::IpoMean) && self.ipo_beta != self.beta;
        let beta = if own { self.ipo_beta } else { self.beta };
        let outcome = if own {
            let at: rto::Result<Vec<_>> = problems.iter().map(|p| p.at(beta)).collect();
            self.set.solve(&at?, method, beta)
        } else {
            self.set.solve(problems, method, beta)
        };
        match outcome {
            Ok(PromptOutcome::Solved(_, solved)) => {
                let policies: Vec<_> = solved.iter().map(|s| s.log_policy.clone()).collect();
                let certificates: Vec<_> = solved.iter().map(|s| &*s.certificates).collect();
                self.judged(&policies, &certificates)
            }
            Ok(PromptOutcome::NoMinimiser(x, why)) if self.listed => {
                Ok(json!({ "no_minimiser": format!("prompts[{x}]: {why}") }))
            }
            Ok(PromptOutcome::NoMinimiser(_, why)) => Ok(json!({ "no_minimiser": why })),
            Err(error) => Ok(json!({ "error": error.to_string() })),
        }
    }

    /// A loss of the user's: the best of two starts for each prompt.
    fn own_loss(&self, formula: &Formula) -> Result<Value> {
        let beta = self.beta.get();
        let (mut policies, mut certificates) = (Vec::new(), Vec::new());
        for (x, prompt) in self.set.prompts().iter().enumerate() {
            let loss = |at: &Compared| formula.at(at, beta);
            let zeros = vec![0.0; prompt.responses.len()];
            let starts = [zeros, ipo_scores(&prompt.pairs, self.beta)?];
            match pair_loss_fit(&prompt.responses, &prompt.pairs, &loss, &starts) {
                Ok(fit) => {
                    certificates.push(vec![
                        ("loss", fit.certificate.loss),
                        ("kkt_inf", fit.kkt_inf),
                        ("hessian_min", fit.certificate.hessian_min),
                        ("multiplier", fit.multiplier),
                        ("spread_of_losses", fit.spread_of_losses),
                    ]);
                    policies.push(fit.log_policy);
                }
                Err(rto::Error::NotConverged { residual, .. }) => {
                    let place = if self.listed {
                        format!("prompts[{x}]: ")
                    } else {
                        String::new()
                    };
                    return Ok(json!({
                        "no_minimiser": format!("{place}no start reached a stationary point of the loss (gradient {residual:.1e})")
                    }));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let certificates: Vec<_> = certificates.iter().map(|c| &**c).collect();
        self.judged(&policies, &certificates)
    }

    /// The entry of a policy: its numbers, and with several prompts their means with those of each.
    fn judged(
        &self,
        policies: &[Vec<f64>],
        certificates: &[&[(&'static str, f64)]],
    ) -> Result<Value> {
        let mut each = Vec::new();
        for (prompt, u) in self.set.prompts().iter().zip(policies) {
            each.push(evaluate(&prompt.responses, self.beta, u)?);
        }
        let entry = |x: usize| {
            let mut entry = evaluation(&each[x]);
            for (key, value) in certificates.get(x).copied().unwrap_or_default() {
                entry.insert((*key).into(), json!(value));
            }
            entry
        };
        if !self.listed {
            return Ok(entry(0).into());
        }
        let mean = self.set.average(each.iter());
        Ok(json!({
            "reward": mean.reward, "kl": mean.kl, "value": mean.value, "subopt": mean.subopt,
            "plain_regret": mean.plain_regret, "chi2": mean.chi2, "max_ratio": mean.max_ratio,
            "prompts": (0..each.len()).map(entry).collect::<Vec<_>>(),
        }))
    }

    /// Fits in bounded classes, for pairs whose likelihood has no maximum.
    fn bounded(&self, prompt: &Prompt) -> Result<Value> {
        let responses = &prompt.responses;
        let mut out = Map::new();
        for bound in BOUNDS {
            let fit = bounded_scores(&prompt.pairs, bound)?;
            let exponent: Vec<f64> = fit.scores.iter().map(|s| s / self.beta.get()).collect();
            let judged = |u: &[f64]| evaluate(responses, self.beta, u).map(|e| evaluation(&e));
            let entry = json!({
                "loss": fit.loss,
                "kkt_inf": fit.kkt_inf,
                "dpo": judged(&tilt(responses, &exponent)?)?,
                "chipo": judged(&chi_plan(responses, &fit.scores, self.beta)?.0)?,
            });
            out.insert(format!("{bound}"), entry);
        }
        Ok(Value::Object(out))
    }

    /// The set of DPO's minimisers, where the pairs leave several components.
    fn minimisers(&self, prompt: &Prompt, problem: &PreferenceProblem<'_>) -> Result<Value> {
        let (Ok(fit), false) = (problem.fit(), prompt.pairs.connected()) else {
            return Ok(Value::Null);
        };
        let set = MinimiserSet::new(&prompt.responses, &prompt.pairs, &fit.scores, self.beta)?;
        let minimal = set.policy(&set.log_kl_minimal)?;
        Ok(json!({
            "components": set.components,
            "subopt_low": set.subopt.0,
            "subopt_high": set.subopt.1,
            "kl_minimal": evaluation(&evaluate(&prompt.responses, self.beta, &minimal)?),
        }))
    }
}

/// The table that people read.
pub fn table(answer: &Value) -> Table {
    let mut table = Table::new(
        "methods",
        &[
            "method",
            "SubOpt",
            "plain regret",
            "E R",
            "KL",
            "max pi/ref",
            "note",
        ],
    );
    let mut push = |name: &str, entry: &Value| {
        let cell = |key: &str| entry[key].as_f64();
        let note = entry["no_minimiser"]
            .as_str()
            .or(entry["error"].as_str())
            .unwrap_or("");
        table.push([
            name.into(),
            cell("subopt").into(),
            cell("plain_regret").into(),
            cell("reward").into(),
            cell("kl").into(),
            cell("max_ratio").into(),
            note.into(),
        ]);
    };
    push("soft optimum", &answer["optimum"]);
    push("reference", &answer["reference"]);
    for part in ["methods", "policies"] {
        for (name, entry) in answer[part].as_object().into_iter().flatten() {
            push(name, entry);
        }
    }
    table
}

fn evaluation(e: &Evaluation) -> Map<String, Value> {
    let entries = [
        ("policy", json!(e.policy)),
        ("reward", json!(e.reward)),
        ("kl", json!(e.kl)),
        ("value", json!(e.value)),
        ("subopt", json!(e.subopt)),
        ("plain_regret", json!(e.plain_regret)),
        ("chi2", json!(e.chi2)),
        ("max_ratio", json!(e.max_ratio)),
    ];
    entries
        .into_iter()
        .map(|(key, value)| (key.to_string(), value))
        .collect()
}

/// The methods with the golden file's names; a constant that is part of a name is the user's.
fn methods(constants: &[f64]) -> Vec<(String, Method)> {
    let [
        simpo_beta,
        simpo_gamma,
        rdpo,
        tdpo2,
        rpo,
        xpo,
        hypo,
        dpop,
        z0,
        _,
    ] = constants[..]
    else {
        unreachable!("one value for each constant");
    };
    let with = |(name, method): (&str, Method)| {
        let shown = |value: f64| format!("{value:?}");
        match method {
            Method::RDpo { .. } => (name.into(), Method::RDpo { alpha: rdpo }),
            Method::SimPo { gamma, .. } => {
                let gamma = if gamma == 0.0 { 0.0 } else { simpo_gamma };
                let method = Method::SimPo {
                    beta: simpo_beta,
                    gamma,
                };
                (format!("simpo_gamma{}", shown(gamma)), method)
            }
            Method::Tdpo { alpha } => {
                let alpha = if alpha == 1.0 { 1.0 } else { tdpo2 };
                (
                    format!("tdpo_full_alpha{}", shown(alpha)),
                    Method::Tdpo { alpha },
                )
            }
            Method::Tdpo2 { .. } => (name.into(), Method::Tdpo2 { alpha: tdpo2 }),
            Method::Rpo { base, .. } => (name.into(), Method::Rpo { eta: rpo, base }),
            Method::Xpo { .. } => (name.into(), Method::Xpo { alpha: xpo }),
            Method::HyPo { .. } => (name.into(), Method::HyPo { lambda: hypo }),
            Method::Dpop { .. } => (name.into(), Method::Dpop { lambda: dpop }),
            Method::KtoAt { .. } => (format!("kto_z0_{z0}"), Method::KtoAt { z0 }),
            other => (name.into(), other),
        }
    };
    DEFAULT_METHODS.into_iter().map(with).collect()
}

/// The user's policies by name, each with one law for every prompt.
fn own_policies(parts: &[Part]) -> Result<Vec<(String, Vec<Vec<f64>>)>> {
    let mut all: Vec<(String, Vec<Vec<f64>>)> = Vec::new();
    for (x, part) in parts.iter().enumerate() {
        for (name, u) in &part.policies {
            match all.iter_mut().find(|(known, _)| known == name) {
                Some((_, list)) => list.push(u.clone()),
                None if x == 0 => all.push((name.clone(), vec![u.clone()])),
                None => bail!("prompts[{x}].policies.{name}: not in prompts[0]"),
            }
        }
        if let Some((name, _)) = all.iter().find(|(_, list)| list.len() != x + 1) {
            bail!("prompts[{x}].policies.{name}: not there, as it is in prompts[0]");
        }
    }
    Ok(all)
}

/// Prompts with their probabilities, equal ones unless the file says otherwise, and their shares of the pairs.
fn set(parts: Vec<Part>) -> Result<PromptSet> {
    let n = parts.len() as f64;
    let listed = parts.iter().filter(|p| p.listed.is_some()).count();
    if listed > 0 && listed < parts.len() {
        bail!("prompts: found listed pairs in {listed} of {n}, expected them in all or in none");
    }
    let weighted = parts.iter().filter(|p| p.weight.is_some()).count();
    if weighted > 0 && weighted < parts.len() {
        bail!("prompts: found a weight in {weighted} of {n}, expected one in all or in none");
    }
    let total: usize = parts.iter().filter_map(|p| p.listed).sum();
    let prompt = |part: Part| {
        let weight = part.weight.unwrap_or(1.0 / n);
        Prompt {
            weight,
            share: part.listed.map_or(weight, |l| l as f64 / total as f64),
            responses: part.responses,
            pairs: part.pairs,
        }
    };
    Ok(PromptSet::try_new(parts.into_iter().map(prompt).collect())?)
}

fn losses(value: Option<&Value>) -> Result<Vec<(String, Formula)>> {
    let fields = match value {
        None => return Ok(Vec::new()),
        Some(Value::Object(fields)) => fields,
        Some(other) => bail!(
            "losses: found {}, expected an object of name: \"formula\"",
            kind(other)
        ),
    };
    let mut all = Vec::new();
    for (name, text) in fields {
        let Value::String(text) = text else {
            bail!(
                "losses.{name}: found {}, expected a formula in quotes",
                brief(text)
            );
        };
        if DEFAULT_METHODS.iter().any(|(taken, _)| taken == name) {
            bail!("losses.{name}: the name of a method, expected another one");
        }
        let formula =
            Formula::parse(text).with_context(|| format!("losses.{}", name.escape_debug()))?;
        all.push((name.clone(), formula));
    }
    Ok(all)
}

/// Fails on a key that is none of `keys`.
fn known(fields: &Map<String, Value>, keys: &[&str]) -> Result<()> {
    match fields.keys().find(|key| !keys.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => bail!(
            "{}: unknown key, expected one of {}",
            key.escape_debug(),
            keys.join(", ")
        ),
    }
}

fn pairs(value: &Value, responses: &Responses) -> Result<PairTable> {
    let n = responses.len();
    Ok(match value {
        Value::String(law) if law == "ref" => {
            let mu: Vec<f64> = responses.log_reference().iter().map(|u| u.exp()).collect();
            PairTable::population(responses, &mu)?
        }
        Value::String(law) if law == "uniform" => {
            PairTable::population(responses, &vec![1.0 / n as f64; n])?
        }
        Value::Array(list) => {
            let mut all = Vec::with_capacity(list.len());
            for (i, pair) in list.iter().enumerate() {
                let places = pair
                    .as_array()
                    .map(|p| p.iter().map(Value::as_u64).collect::<Vec<_>>());
                let Some([Some(w), Some(l)]) = places.as_deref() else {
                    bail!(
                        "pairs[{i}]: found {}, expected [winner, loser], places in the list of responses",
                        brief(pair)
                    );
                };
                all.push((*w as usize, *l as usize));
            }
            PairTable::from_counts(n, &all)?
        }
        other => bail!(
            "pairs: found {}, expected \"ref\", \"uniform\" or a list of [winner, loser]",
            brief(other)
        ),
    })
}

fn policies(value: Option<&Value>, responses: &Responses) -> Result<Vec<(String, Vec<f64>)>> {
    let fields = match value {
        None => return Ok(Vec::new()),
        Some(Value::Object(fields)) => fields,
        Some(other) => bail!(
            "policies: found {}, expected an object of name: [probability of each response]",
            kind(other)
        ),
    };
    let mut all = Vec::new();
    for (name, law) in fields {
        let field = format!("policies.{name}");
        let law = list(law, &field)?;
        if law.len() != responses.len() {
            bail!(
                "{field}: found {} values, expected {}",
                law.len(),
                responses.len()
            );
        }
        let sum: f64 = law.iter().sum();
        if law.iter().any(|p| *p < 0.0) || (sum - 1.0).abs() > 1e-9 {
            bail!("{field}: found a sum of {sum}, expected probabilities that sum to 1");
        }
        all.push((name.clone(), law.iter().map(|p| p.ln()).collect()));
    }
    Ok(all)
}

/// What the file says twice must agree.
fn compare(fields: &Map<String, Value>, responses: &Responses) -> Result<()> {
    let join = |texts: &[Vec<u32>]| -> Vec<Value> {
        let text = |y: &Vec<u32>| Value::from(y.iter().map(u32::to_string).collect::<String>());
        texts.iter().map(text).collect()
    };
    for (key, texts) in [
        ("prefixes", responses.prefixes()),
        ("responses", responses.responses()),
    ] {
        if fields
            .get(key)
            .is_some_and(|found| *found != Value::Array(join(texts)))
        {
            bail!("{key}: another list than A, H and eos give");
        }
    }
    if let Some(found) = fields.get("R") {
        let found = list(found, "R")?;
        let agree = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-9 * b.abs().max(1.0);
        if found.len() != responses.len() || !found.iter().zip(responses.rewards()).all(agree) {
            bail!("R: other numbers than the sums of reward along each response");
        }
    }
    Ok(())
}

fn get<'a>(fields: &'a Map<String, Value>, key: &str) -> Result<&'a Value> {
    fields.get(key).ok_or_else(|| {
        anyhow!("{key}: not there, expected the keys A, H, beta, ref, reward and pairs")
    })
}

fn whole(fields: &Map<String, Value>, key: &str) -> Result<usize> {
    let value = get(fields, key)?;
    match value.as_u64() {
        Some(n) if n <= 1 << 20 => Ok(n as usize),
        _ => bail!("{key}: found {}, expected a whole number", brief(value)),
    }
}

fn number(value: &Value, field: &str) -> Result<f64> {
    match value.as_f64() {
        Some(x) if x.is_finite() => Ok(x),
        _ => bail!("{field}: found {}, expected a number", brief(value)),
    }
}

fn list(value: &Value, field: &str) -> Result<Vec<f64>> {
    let Value::Array(items) = value else {
        bail!("{field}: found {}, expected a list of numbers", kind(value));
    };
    items
        .iter()
        .enumerate()
        .map(|(i, v)| number(v, &format!("{field}[{i}]")))
        .collect()
}

/// Rows per prefix, shortest first.
fn rows(fields: &Map<String, Value>, key: &str) -> Result<Vec<f64>> {
    let Value::Array(rows) = get(fields, key)? else {
        bail!("{key}: expected a list of rows, one for each prefix, shortest first");
    };
    let mut all = Vec::new();
    let width = whole(fields, "A")?;
    for (s, row) in rows.iter().enumerate() {
        let field = format!("{key}[{s}]");
        let row = list(row, &field)?;
        if row.len() != width {
            bail!("{field}: found {} values, expected A = {width}", row.len());
        }
        all.extend(row);
    }
    Ok(all)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A value, or its kind where it is long.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 40 {
        text
    } else {
        kind(value).into()
    }
}
