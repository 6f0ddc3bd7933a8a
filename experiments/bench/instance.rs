//! One instance of a user's, under every method: the file, checked, and what comes of it.

use anyhow::{Context, Result, anyhow, bail};
use rto::mdp::Beta;
use rto::preference::{
    Certificate, DEFAULT_METHODS, Evaluation, Method, MinimiserSet, Outcome, PairTable,
    PreferenceProblem, Responses, bounded_scores, chi_plan, evaluate, soft_optimum, tilt,
};
use rto_harness::json_error;
use rto_harness::table::Table;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;

/// The largest file that is read.
const MOST_BYTES: u64 = 256 << 20;
/// Constants a file may set, with the golden file's defaults.
const CONSTANTS: [(&str, f64); 7] = [
    ("simpo_beta", 2.0),
    ("simpo_gamma", 0.5),
    ("rdpo_alpha", 0.2),
    ("tdpo2_alpha", 0.5),
    ("rpo_eta", 0.1),
    ("xpo_alpha", 0.01),
    ("hypo_lambda", 0.05),
];
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

/// An instance as its file has it.
pub struct Instance {
    responses: Responses,
    beta: Beta,
    pairs: PairTable,
    methods: Vec<(String, Method)>,
    /// The user's own policies, log π(y).
    policies: Vec<(String, Vec<f64>)>,
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
        let value: Value = serde_json::from_str(&text)
            .map_err(|e| json_error::explain(&text, &e))
            .with_context(name)?;
        Self::parse(&value).with_context(name)
    }

    fn parse(value: &Value) -> Result<Self> {
        let Value::Object(fields) = value else {
            bail!(
                "found {}, expected one object with the keys A, H, beta, ref, reward and pairs",
                kind(value)
            );
        };
        for key in fields.keys() {
            let known = [
                "A", "H", "eos", "beta", "ref", "reward", "pairs", "policies",
            ];
            let constant = CONSTANTS.iter().any(|(name, _)| name == key);
            if !(known.contains(&key.as_str()) || constant || DESCRIPTIVE.contains(&key.as_str())) {
                let all: Vec<&str> = known
                    .into_iter()
                    .chain(CONSTANTS.map(|(name, _)| name))
                    .collect();
                bail!("{key}: unknown key, expected one of {}", all.join(", "));
            }
        }
        let (a, h) = (whole(fields, "A")?, whole(fields, "H")?);
        let eos = match fields.get("eos") {
            None | Some(Value::Null) => None,
            Some(_) => Some(whole(fields, "eos")? as u32),
        };
        let responses =
            Responses::try_new(a, h, eos, &rows(fields, "ref")?, &rows(fields, "reward")?)?;
        let beta = number(get(fields, "beta")?, "beta")?;
        if beta <= 0.0 {
            bail!("beta: found {beta}, expected a positive number");
        }
        compare(fields, &responses)?;
        let constants = CONSTANTS
            .map(|(name, default)| fields.get(name).map_or(Ok(default), |v| number(v, name)));
        let mut values = Vec::new();
        for constant in constants {
            values.push(constant?);
        }
        let beta = Beta::try_new(beta)?;
        Ok(Self {
            pairs: pairs(get(fields, "pairs")?, &responses)?,
            policies: policies(fields.get("policies"), &responses)?,
            methods: methods(&values),
            responses,
            beta,
        })
    }

    /// Every method on the instance, as the answer's JSON.
    ///
    /// # Errors
    /// A fit that does not converge.
    pub fn solve(&self) -> Result<Value> {
        let problem = PreferenceProblem::try_new(&self.responses, &self.pairs, self.beta)?;
        let (star, value) = soft_optimum(&self.responses, self.beta);
        let mut out = Map::new();
        for (name, method) in &self.methods {
            let entry = match problem.solve(method) {
                Ok(Outcome::Solved(solved)) => {
                    let mut entry = evaluation(&solved.evaluation);
                    for (key, value) in &solved.certificates {
                        entry.insert((*key).into(), json!(value));
                    }
                    Value::Object(entry)
                }
                Ok(Outcome::NoMinimiser(why)) => json!({ "no_minimiser": why }),
                Err(error) => json!({ "error": error.to_string() }),
            };
            out.insert(name.clone(), entry);
        }
        let judge = |u: &[f64]| -> Result<Value> {
            Ok(Value::Object(evaluation(&evaluate(
                &self.responses,
                self.beta,
                u,
            )?)))
        };
        let mut own = Map::new();
        for (name, policy) in &self.policies {
            own.insert(name.clone(), judge(policy)?);
        }
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
                "no_minimiser": why, "vanishing": self.pairs.vanishing(), "bounded": self.bounded()?,
            }),
        };
        let text = |y: &Vec<u32>| y.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        Ok(json!({
            "responses": self.responses.responses().iter().map(text).collect::<Vec<_>>(),
            "R": self.responses.rewards(),
            "value_star": value,
            "optimum": judge(&star)?,
            "reference": judge(self.responses.log_reference())?,
            "fit": fit,
            "connected": self.pairs.connected(),
            "set": self.set(&problem)?,
            "methods": out,
            "policies": own,
        }))
    }

    /// Fits in bounded classes, for pairs whose likelihood has no maximum.
    fn bounded(&self) -> Result<Value> {
        let mut out = Map::new();
        for bound in BOUNDS {
            let fit = bounded_scores(&self.pairs, bound)?;
            let exponent: Vec<f64> = fit.scores.iter().map(|s| s / self.beta.get()).collect();
            let judged =
                |u: &[f64]| evaluate(&self.responses, self.beta, u).map(|e| evaluation(&e));
            let entry = json!({
                "loss": fit.loss,
                "kkt_inf": fit.kkt_inf,
                "dpo": judged(&tilt(&self.responses, &exponent)?)?,
                "chipo": judged(&chi_plan(&self.responses, &fit.scores, self.beta)?.0)?,
            });
            out.insert(format!("{bound}"), entry);
        }
        Ok(Value::Object(out))
    }

    /// The set of DPO's minimisers, where the pairs leave several components.
    fn set(&self, problem: &PreferenceProblem<'_>) -> Result<Value> {
        let (Ok(fit), false) = (problem.fit(), self.pairs.connected()) else {
            return Ok(Value::Null);
        };
        let set = MinimiserSet::new(&self.responses, &self.pairs, &fit.scores, self.beta)?;
        let minimal = set.policy(&set.log_kl_minimal)?;
        Ok(json!({
            "components": set.components,
            "subopt_low": set.subopt.0,
            "subopt_high": set.subopt.1,
            "kl_minimal": evaluation(&evaluate(&self.responses, self.beta, &minimal)?),
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
    let [simpo_beta, simpo_gamma, rdpo, tdpo2, rpo, xpo, hypo] = constants[..] else {
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
            other => (name.into(), other),
        }
    };
    DEFAULT_METHODS.into_iter().map(with).collect()
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
