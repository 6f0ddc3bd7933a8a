//! Reading what there is of a run folder.

use super::finding::too_small;
use anyhow::{Result, anyhow, bail};
use rto_bridge::win_rate::{Answer, Comparison, Contestant, Matrix, WinRates};
use rto_harness::json_error::explain;
use rto_harness::table::Table;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The KL to the reference, in the metrics of a stage.
pub const KL: &str = "objective/kl";

/// A file's contents, or why there is nothing to show.
pub type Part<T> = std::result::Result<T, Absent>;

/// Why there is nothing to show.
#[derive(Debug, Clone)]
pub struct Absent {
    pub why: String,
    /// There is a file, and it is damaged.
    pub damaged: bool,
}

/// The metrics of a stage: name → (step, value) in order.
pub struct Curves {
    pub name: String,
    pub series: BTreeMap<String, Vec<(f64, f64)>>,
}

/// The answers of all methods.
pub struct Evaluation {
    pub methods: Vec<Contestant>,
    /// Share of answers that ended themselves.
    pub finished: Vec<f64>,
    pub win_rates: WinRates,
}

/// What a judge decided.
pub struct Judged {
    pub matrix: Matrix,
    pub prompts: usize,
    /// Replies without a verdict.
    pub unreadable: usize,
    /// The judge's name, where `judge.json` gives it.
    pub model: Option<String>,
}

pub struct Sample {
    /// The number of the prompt, where the evaluation has numbers.
    pub prompt_id: Option<u64>,
    pub method: String,
    pub prompt: String,
    pub response: String,
    pub reward: Option<f64>,
}

/// How well the reward that was fitted to a file of token rewards foretells rows of it that were held out.
pub struct TokenReward {
    pub rows: f64,
    pub tokens: f64,
    /// NaN where all rewards are equal.
    pub r2: f64,
    pub rmse: f64,
}

pub struct Credit {
    pub prompt: String,
    pub tokens: Vec<String>,
    pub dpo: Vec<f64>,
    /// The true token rewards, where they are known.
    pub truth: Option<Vec<f64>>,
}

pub struct Exact {
    pub method: String,
    /// Suboptimality, value, KL.
    pub numbers: [f64; 3],
    /// E Σ r, where it was written.
    pub reward: Option<f64>,
}

/// SFT, sampled, sharpened or greedy, or the best of n of its replies.
pub struct Baseline {
    /// sft, greedy, sharpened, best_of_reward_model or best_of_dpo.
    pub policy: String,
    /// Temperature or n.
    pub parameter: f64,
    /// Value, KL, reward.
    pub numbers: [f64; 3],
}

/// How often a model ranks held-out pairs as people did.
pub struct Agreement {
    pub model: String,
    /// Share with its 95% interval.
    pub accuracy: [f64; 3],
    pub pairs: f64,
}

pub struct Results {
    pub config: Part<String>,
    pub versions: Part<Map<String, Value>>,
    pub stages: Part<Vec<Curves>>,
    pub evaluation: Part<Evaluation>,
    /// Win rates by a judge; most runs have none.
    pub judged: Part<Judged>,
    pub samples: Part<Vec<Sample>>,
    pub exact: Part<Vec<Exact>>,
    /// What needs no training of PPO, where [`Self::exact`] is.
    pub exact_baselines: Part<Vec<Baseline>>,
    /// (KL, reward) of the best policies where [`Self::exact`] is, one for each β.
    pub exact_frontier: Part<Vec<(f64, f64)>>,
    /// Every response of the evaluation; fewer are in `samples`.
    pub responses: Part<Vec<Sample>>,
    pub credit: Part<Vec<Credit>>,
    /// Agreement with people's labels; most runs of the synthetic world have none.
    pub agreement: Part<Vec<Agreement>>,
    pub token_reward: Part<TokenReward>,
}

impl Results {
    pub fn load(dir: &Path) -> Self {
        Self {
            config: part(dir, "config.toml", |path| {
                Ok(std::fs::read_to_string(path)?)
            }),
            versions: part(dir, "versions.json", |path| {
                let text = std::fs::read_to_string(path)?;
                object(&text)
            }),
            stages: part(dir, "metrics", stages),
            evaluation: part(dir, "evaluation.csv", evaluation),
            judged: part(dir, "judge.csv", judged),
            samples: part(dir, "samples.jsonl", |path| lines(path, sample)),
            exact: part(dir, "exact.csv", exact),
            exact_baselines: part(dir, "exact_baselines.csv", baselines),
            exact_frontier: part(dir, "exact_frontier.csv", |path| {
                let table = Table::from_csv(path)?;
                let (kl, reward) = (table.floats("kl")?, table.floats("reward")?);
                Ok(kl.into_iter().zip(reward).collect())
            }),
            responses: part(dir, "responses.jsonl", |path| lines(path, sample)),
            credit: part(dir, "credit.jsonl", |path| lines(path, credit)),
            agreement: part(dir, "agreement.csv", agreement),
            token_reward: part(dir, "token_reward.csv", token_reward),
        }
    }

    /// Whether no file of a run is here.
    pub fn is_empty(&self) -> bool {
        let absent = self.absent();
        absent
            .iter()
            .all(|part| part.is_some_and(|absent| !absent.damaged))
    }

    /// Damaged files, a line each.
    pub fn problems(&self) -> Vec<String> {
        let absent = self.absent().into_iter().flatten();
        absent
            .filter(|a| a.damaged)
            .map(|a| a.why.clone())
            .collect()
    }

    fn absent(&self) -> [Option<&Absent>; 13] {
        [
            self.config.as_ref().err(),
            self.versions.as_ref().err(),
            self.stages.as_ref().err(),
            self.evaluation.as_ref().err(),
            self.judged.as_ref().err(),
            self.samples.as_ref().err(),
            self.exact.as_ref().err(),
            self.exact_baselines.as_ref().err(),
            self.exact_frontier.as_ref().err(),
            self.responses.as_ref().err(),
            self.credit.as_ref().err(),
            self.agreement.as_ref().err(),
            self.token_reward.as_ref().err(),
        ]
    }

    /// Why this run says nothing about which method is better, where that is so: iterations of the shortest stage of
    /// Algorithm 2, and held-out prompts.
    pub fn too_small(&self) -> Option<String> {
        let prompts = self.evaluation.as_ref().ok()?.methods[0].prompts.len();
        let stages = self.stages.iter().flatten();
        let ends = stages.filter_map(|s| s.series.get(KL)?.last());
        let shortest = ends.map(|p| p.0).min_by(f64::total_cmp);
        too_small(shortest.map(|steps| steps as u64), prompts)
    }

    /// What the policies are compared by.
    pub fn reward_name(&self) -> &'static str {
        let mut stages = self.stages.iter().flatten();
        match stages.any(|s| s.series.contains_key("objective/oracle_reward")) {
            true => "reward by the oracle",
            false => "true reward",
        }
    }

    /// A top-level line `key = value` of the config, without quotes.
    pub fn setting(&self, key: &str) -> Option<String> {
        let config = self.config.as_ref().ok()?;
        let top = config.lines().take_while(|line| !line.starts_with('['));
        let mut settings = top.filter_map(|line| line.split_once('='));
        let (_, value) = settings.find(|(name, _)| name.trim() == key)?;
        Some(value.trim().trim_matches('"').to_string())
    }
}

fn part<T>(dir: &Path, name: &str, read: impl FnOnce(&Path) -> Result<T>) -> Part<T> {
    let path = dir.join(name);
    if !path.exists() {
        let why = format!("{name} is not in this run folder.");
        return Err(Absent {
            why,
            damaged: false,
        });
    }
    read(&path).map_err(|e| {
        // Only the part below the run folder: the page travels.
        let said = e.to_string().replace(&format!("{}/", dir.display()), "");
        let why = match said.starts_with(name) {
            true => said,
            false => format!("{name}: {said}"),
        };
        Absent { why, damaged: true }
    })
}

fn object(text: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str(text).map_err(|e| explain(text, &e))? {
        Value::Object(map) => Ok(map),
        other => bail!("found {other}, expected a JSON object"),
    }
}

/// JSON lines, each made into a value. A last line without its end is what a killed process left, and is passed over.
fn lines<T>(path: &Path, make: impl Fn(&Map<String, Value>) -> Result<T>) -> Result<Vec<T>> {
    let text = std::fs::read_to_string(path)?;
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let mut all = Vec::new();
    for (i, line) in text[..whole].lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let made = object(line).and_then(|map| make(&map));
        all.push(made.map_err(|e| anyhow!("{}:{}: {e}", path.display(), i + 1))?);
    }
    if all.is_empty() {
        bail!("{}: is empty", path.display());
    }
    Ok(all)
}

fn text(map: &Map<String, Value>, key: &str) -> Result<String> {
    match map.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => bail!("{key}: found {other}, expected a text"),
        None => bail!("no key {key:?}"),
    }
}

fn sample(map: &Map<String, Value>) -> Result<Sample> {
    Ok(Sample {
        prompt_id: map.get("prompt_id").and_then(Value::as_u64),
        method: text(map, "method")?,
        prompt: text(map, "prompt")?,
        response: text(map, "response")?,
        reward: map.get("reward").and_then(Value::as_f64),
    })
}

fn agreement(path: &Path) -> Result<Vec<Agreement>> {
    let table = Table::from_csv(path)?;
    let column = |name: &str| table.floats(name);
    let (share, low, high) = (column("accuracy")?, column("low")?, column("high")?);
    let (models, pairs) = (table.texts("model")?, column("pairs")?);
    let row = |i: usize| Agreement {
        model: models[i].clone(),
        accuracy: [share[i], low[i], high[i]],
        pairs: pairs[i],
    };
    Ok((0..table.len()).map(row).collect())
}

fn token_reward(path: &Path) -> Result<TokenReward> {
    let table = Table::from_csv(path)?;
    let one = |name: &str| match table.floats(name)?.as_slice() {
        [value] => anyhow::Ok(*value),
        all => bail!("found {} rows, expected one", all.len()),
    };
    Ok(TokenReward {
        rows: one("rows")?,
        tokens: one("tokens")?,
        r2: one("r2")?,
        rmse: one("rmse")?,
    })
}

fn credit(map: &Map<String, Value>) -> Result<Credit> {
    let list = |key: &str| match map.get(key) {
        Some(Value::Array(list)) => Ok(list),
        _ => Err(anyhow!("{key}: expected a list")),
    };
    let tokens: Vec<String> = list("tokens")?
        .iter()
        .map(|t| t.as_str().map_or_else(|| t.to_string(), String::from))
        .collect();
    let numbers = |key: &str| -> Result<Vec<f64>> {
        let found: Option<Vec<f64>> = list(key)?.iter().map(Value::as_f64).collect();
        match found {
            Some(found) if found.len() == tokens.len() => Ok(found),
            Some(found) => bail!(
                "{key}: found {} numbers, expected {} as there are tokens",
                found.len(),
                tokens.len()
            ),
            None => bail!("{key}: expected numbers"),
        }
    };
    let truth = match map.get("true_reward") {
        None | Some(Value::Null) => None,
        Some(_) => Some(numbers("true_reward")?),
    };
    Ok(Credit {
        prompt: text(map, "prompt")?,
        dpo: numbers("dpo_reward")?,
        truth,
        tokens,
    })
}

fn stages(dir: &Path) -> Result<Vec<Curves>> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "jsonl") {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        bail!("metrics: holds no <stage>.jsonl");
    }
    paths.sort();
    paths.iter().map(|path| stage(path)).collect()
}

fn stage(path: &Path) -> Result<Curves> {
    let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let records = lines(path, |map| Ok(map.clone()))?;
    for (i, map) in records.iter().enumerate() {
        let Some(step) = map.get("step").and_then(Value::as_f64) else {
            bail!("{}: record {}: no number \"step\"", path.display(), i + 1);
        };
        for (key, value) in map.iter().filter(|(key, _)| *key != "step") {
            if let Some(value) = value.as_f64() {
                series.entry(key.clone()).or_default().push((step, value));
            }
        }
    }
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok(Curves {
        name: name.into_owned(),
        series,
    })
}

/// Answers and how many of them ended themselves, by prompt.
type ByPrompt<'a> = BTreeMap<&'a str, (Vec<Answer>, usize)>;

fn evaluation(path: &Path) -> Result<Evaluation> {
    let table = Table::from_csv(path)?;
    let (names, prompts) = (table.texts("method")?, table.texts("prompt_id")?);
    let (answers, ends) = answers(&table)?;
    let order = table.distinct("method")?;
    let mut by_method: BTreeMap<&str, ByPrompt> = BTreeMap::new();
    for i in 0..table.len() {
        let of_method = by_method.entry(&names[i]).or_default();
        let (of_prompt, ended) = of_method.entry(&prompts[i]).or_default();
        of_prompt.push(answers[i]);
        *ended += usize::from(ends[i]);
    }
    same_prompts(&order, &by_method)?;
    let method = |name: &String| Contestant {
        name: name.clone(),
        prompts: by_method[name.as_str()]
            .values()
            .map(|p| p.0.clone())
            .collect(),
    };
    let methods: Vec<Contestant> = order.iter().map(method).collect();
    let win_rates = WinRates::try_new(&methods).map_err(|e| anyhow!("evaluation.csv: {e}"))?;
    let share = |name: &String| {
        let of_method = by_method[name.as_str()].values();
        let (all, ended) = of_method.fold((0, 0), |n, p| (n.0 + p.0.len(), n.1 + p.1));
        ended as f64 / all as f64
    };
    Ok(Evaluation {
        finished: order.iter().map(share).collect(),
        methods,
        win_rates,
    })
}

/// The rows, and whether each ended itself.
fn answers(table: &Table) -> Result<(Vec<Answer>, Vec<bool>)> {
    let (scores, lengths) = (table.floats("reward")?, table.floats("length")?);
    let (kls, kl_texts) = (table.floats("kl")?, table.texts("kl")?);
    let answer = |i: usize| Answer {
        score: scores[i],
        length: lengths[i],
        // An empty field is an unknown KL; a NaN that was written is a mistake, found later.
        kl: (!kl_texts[i].is_empty()).then_some(kls[i]),
    };
    let ended = |(i, text): (usize, &String)| match text.as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(anyhow!(
            "evaluation.csv: row {}, column `finished`: found `{other}`, expected true or false",
            i + 1
        )),
    };
    let ends = table.texts("finished")?;
    let ends = ends.iter().enumerate().map(ended).collect::<Result<_>>()?;
    Ok(((0..table.len()).map(answer).collect(), ends))
}

/// A win rate compares answers to the same prompts.
fn same_prompts(order: &[String], by_method: &BTreeMap<&str, ByPrompt>) -> Result<()> {
    let Some(first) = order.first() else {
        bail!("evaluation.csv: is empty");
    };
    for name in order {
        let (ours, theirs) = (&by_method[name.as_str()], &by_method[first.as_str()]);
        let missing = theirs.keys().find(|p| !ours.contains_key(**p));
        let extra = ours.keys().find(|p| !theirs.contains_key(**p));
        if let Some(prompt) = missing.or(extra) {
            let has = if missing.is_some() { first } else { name };
            bail!(
                "evaluation.csv: prompt {prompt} is answered by {has} alone of {first} and {name}; expected the same prompts for every method"
            );
        }
    }
    Ok(())
}

fn judged(path: &Path) -> Result<Judged> {
    let table = Table::from_csv(path)?;
    let (rows, columns) = (table.texts("row")?, table.texts("column")?);
    let mut names: Vec<String> = Vec::new();
    for name in rows.iter().chain(&columns) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let index = |name: &String| names.iter().position(|n| n == name).unwrap_or(0);
    let ids = table.texts("prompt_id")?;
    let (preferences, lengths) = (
        table.floats("preference")?,
        table.floats("length_difference")?,
    );
    let mut pairs: BTreeMap<(usize, usize), BTreeMap<&str, Verdicts>> = BTreeMap::new();
    // An empty field: the judge gave no verdict.
    let readable = (0..table.len()).filter(|i| !preferences[*i].is_nan());
    for i in readable.clone() {
        let pair = pairs.entry((index(&rows[i]), index(&columns[i])));
        let of_prompt = pair.or_default().entry(&ids[i]).or_default();
        of_prompt.push((preferences[i], lengths[i]));
    }
    if pairs.is_empty() {
        bail!("judge.csv: holds no verdict");
    }
    let unreadable = table.len() - readable.count();
    let matrix = judged_matrix(names, &pairs).map_err(|e| anyhow!("judge.csv: {e}"))?;
    Ok(Judged {
        matrix,
        prompts: table.distinct("prompt_id")?.len(),
        unreadable,
        model: std::fs::read_to_string(path.with_extension("json"))
            .ok()
            .and_then(|text| object(&text).ok())
            .and_then(|asked| Some(asked.get("model")?.as_str()?.to_string())),
    })
}

/// Preference and length difference of the answers to a prompt.
type Verdicts = Vec<(f64, f64)>;

/// Several verdicts on a prompt are averaged first: prompts are what is independent.
fn judged_matrix(
    names: Vec<String>,
    pairs: &BTreeMap<(usize, usize), BTreeMap<&str, Verdicts>>,
) -> rto_bridge::Result<Matrix> {
    let mean = |verdicts: &Verdicts, of: fn(&(f64, f64)) -> f64| {
        verdicts.iter().map(of).sum::<f64>() / verdicts.len() as f64
    };
    let compared = pairs.iter().map(|((row, column), prompts)| {
        let w: Vec<f64> = prompts.values().map(|v| mean(v, |v| v.0)).collect();
        let d: Vec<f64> = prompts.values().map(|v| mean(v, |v| v.1)).collect();
        Ok((*row, *column, Comparison::try_new(&w, &d)?))
    });
    Matrix::try_new(names, compared.collect::<rto_bridge::Result<_>>()?)
}

fn exact(path: &Path) -> Result<Vec<Exact>> {
    let table = Table::from_csv(path)?;
    let names = table.texts("method")?;
    let columns = ["subopt", "value", "kl"].map(|c| table.floats(c));
    let [subopt, value, kl] = columns;
    let (subopt, value, kl) = (subopt?, value?, kl?);
    let reward = match table.columns().iter().any(|c| c == "reward") {
        true => Some(table.floats("reward")?),
        false => None,
    };
    let row = |(i, method): (usize, String)| Exact {
        method,
        numbers: [subopt[i], value[i], kl[i]],
        reward: reward.as_ref().map(|r| r[i]),
    };
    Ok(names.into_iter().enumerate().map(row).collect())
}

fn baselines(path: &Path) -> Result<Vec<Baseline>> {
    let table = Table::from_csv(path)?;
    let names = table.texts("policy")?;
    let columns = ["parameter", "value", "kl", "reward"].map(|c| table.floats(c));
    let [parameter, value, kl, reward] = columns;
    let (parameter, value, kl, reward) = (parameter?, value?, kl?, reward?);
    let row = |(i, policy): (usize, String)| Baseline {
        policy,
        parameter: parameter[i],
        numbers: [value[i], kl[i], reward[i]],
    };
    Ok(names.into_iter().enumerate().map(row).collect())
}
