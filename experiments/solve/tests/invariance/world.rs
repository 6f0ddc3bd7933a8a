//! Random instances, and the same in other units and under other names.

use std::path::Path;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rto_solve::{Instance, solve};
use serde_json::{Map, Value, json};

/// By state and action.
pub type Table<T> = Vec<Vec<T>>;
/// (state, action) steps of a response.
pub type Steps = Vec<(usize, usize)>;

#[derive(Clone)]
pub struct World {
    /// Prompts of a tree; `None` for a table.
    pub prompts: Option<usize>,
    pub actions: usize,
    pub horizon: usize,
    pub eos: Option<usize>,
    pub terminal: Option<usize>,
    /// Of a table: successors with probabilities, none at the end of the episode.
    pub moves: Table<Vec<(usize, f64)>>,
    pub initial: Vec<f64>,
    pub beta: f64,
    pub reference: Table<f64>,
    pub policy: Option<Table<f64>>,
    pub behaviour: Option<Table<f64>>,
    pub features: Option<Table<Vec<f64>>>,
    pub theta: Option<Vec<f64>>,
    pub reward: Option<Table<f64>>,
    /// Winner and loser.
    pub pairs: Option<Vec<[Steps; 2]>>,
    pub estimation: Map<String, Value>,
    pub dpo_beta: Option<f64>,
    pub rto: Option<(f64, f64)>,
}

pub fn short(x: f64) -> f64 {
    (x * 100.0).round() / 100.0
}

impl World {
    /// Prefixes of one prompt in the order of the file.
    pub fn prefixes(actions: usize, horizon: usize) -> Vec<Vec<usize>> {
        let mut all = vec![vec![]];
        let mut layer = all.clone();
        for _ in 1..horizon {
            let longer = |p: &Vec<usize>| {
                let p = p.clone();
                (0..actions).map(move |a| [p.clone(), vec![a]].concat())
            };
            layer = layer.iter().flat_map(longer).collect();
            all.extend(layer.clone());
        }
        all
    }

    pub fn states(&self) -> usize {
        self.reference.len()
    }

    pub fn random(rng: &mut ChaCha8Rng, with_pairs: bool) -> Self {
        let tree = rng.random_bool(0.6);
        let (actions, horizon) = (rng.random_range(2..4usize), rng.random_range(1..3usize));
        let prompts = tree.then(|| rng.random_range(1..4usize));
        let states = match prompts {
            Some(p) => p * Self::prefixes(actions, horizon).len(),
            None => rng.random_range(2..5),
        };
        let roots = prompts.unwrap_or(states);
        let terminal = (!tree && rng.random_bool(0.4)).then(|| states - 1);
        let stochastic = rng.random_bool(0.4) && !with_pairs;
        let moves = (0..states)
            .map(|s| {
                let one = |rng: &mut ChaCha8Rng| match rng.random_range(0..6) {
                    0 => vec![],
                    1 | 2 if stochastic => {
                        let to = rng.random_range(0..states - 1);
                        vec![(to, 0.75), (states - 1, 0.25)]
                    }
                    _ => vec![(rng.random_range(0..states), 1.0)],
                };
                let ends = tree || terminal == Some(s);
                (0..actions)
                    .map(|_| if ends { vec![] } else { one(rng) })
                    .collect()
            })
            .collect();
        let mut initial: Vec<f64> = (0..roots)
            .map(|_| f64::from(rng.random_range(1..5)))
            .collect();
        if let Some(end) = terminal {
            initial[end] = 0.0;
        }
        if roots > 1 && rng.random_bool(0.3) {
            initial[1] = 0.0;
            initial[0] += 1.0;
        }
        let sum: f64 = initial.iter().sum();
        initial.iter_mut().for_each(|x| *x /= sum);
        let holes = rng.random_bool(0.3);
        let row = |rng: &mut ChaCha8Rng| -> Vec<f64> {
            let mut row: Vec<f64> = (0..actions).map(|_| rng.random_range(0.1..1.0)).collect();
            if holes && rng.random_bool(0.3) {
                row[rng.random_range(0..actions)] = 0.0;
            }
            let sum: f64 = row.iter().sum();
            row.iter().map(|x| x / sum).collect()
        };
        let reference: Table<f64> = (0..states).map(|_| row(rng)).collect();
        let within = |rng: &mut ChaCha8Rng| -> Table<f64> {
            let rows = reference.iter().map(|p| {
                let mixed: Vec<f64> = p.iter().map(|p| p * rng.random_range(0.2..1.0)).collect();
                let sum: f64 = mixed.iter().sum();
                mixed.iter().map(|x| x / sum).collect()
            });
            rows.collect()
        };
        let behaviour = rng.random_bool(0.4).then(|| within(rng));
        let policy = rng.random_bool(0.4).then(|| within(rng));
        let dim = rng.random_range(1..4usize);
        let integers = rng.random_bool(0.5);
        let entry = |rng: &mut ChaCha8Rng| match integers {
            true => f64::from(rng.random_range(-2..3)),
            false => short(rng.random_range(-1.5..1.5)),
        };
        let mut features: Table<Vec<f64>> = (0..states)
            .map(|_| {
                (0..actions)
                    .map(|_| (0..dim).map(|_| entry(rng)).collect())
                    .collect()
            })
            .collect();
        if dim > 1 && rng.random_bool(0.3) {
            let copy = |x: &mut Vec<f64>| x[dim - 1] = -2.0 * x[0];
            features.iter_mut().flatten().for_each(copy);
        }
        features[0][0][0] = 1.0;
        let given = rng.random_range(0..5);
        let theta = (given < 3).then(|| {
            (0..dim)
                .map(|_| short(rng.random_range(-1.0..1.0)))
                .collect()
        });
        let reward = (given == 3).then(|| {
            let row = |rng: &mut ChaCha8Rng| {
                (0..actions)
                    .map(|_| short(rng.random_range(-2.0..2.0)))
                    .collect()
            };
            (0..states).map(|_| row(rng)).collect()
        });
        let mut world = Self {
            eos: (tree && rng.random_bool(0.3)).then(|| rng.random_range(0..actions)),
            beta: [0.0, 0.1, 0.5, 1.0, 2.0, 7.0][rng.random_range(0..6)],
            dpo_beta: rng.random_bool(0.5).then_some(0.5),
            rto: rng.random_bool(0.6).then_some((0.75, 1.5)),
            features: Some(features),
            estimation: Map::new(),
            pairs: None,
            prompts,
            actions,
            horizon,
            terminal,
            moves,
            initial,
            reference,
            policy,
            behaviour,
            theta,
            reward,
        };
        if with_pairs {
            let n = rng.random_range(0..13);
            let walk = |rng: &mut ChaCha8Rng, root: usize| world.walk(rng, root);
            let pairs = (0..n).map(|_| {
                let roots: Vec<usize> = (0..roots).filter(|r| world.initial[*r] > 0.0).collect();
                let root = roots[rng.random_range(0..roots.len())];
                [walk(rng, root), walk(rng, root)]
            });
            let pairs = pairs.collect();
            world.pairs = Some(pairs);
            world.estimation = estimation(rng);
        }
        world
    }

    /// The state in which prompt or first state `root` starts.
    pub fn start(&self, root: usize) -> usize {
        self.prompts.map_or(root, |p| root * self.states() / p)
    }

    pub fn walk(&self, rng: &mut ChaCha8Rng, root: usize) -> Vec<(usize, usize)> {
        let (mut s, mut steps, mut prefix) = (self.start(root), vec![], vec![]);
        let prefixes = Self::prefixes(self.actions, self.horizon);
        for h in 0..self.horizon {
            let allowed: Vec<usize> = (0..self.actions)
                .filter(|a| self.reference[s][*a] > 0.0)
                .collect();
            let a = allowed[rng.random_range(0..allowed.len())];
            steps.push((s, a));
            prefix.push(a);
            if self.eos == Some(a) || h + 1 == self.horizon {
                break;
            }
            s = match self.prompts {
                Some(_) => self.start(root) + prefixes.iter().position(|p| *p == prefix).unwrap(),
                None => match self.moves[s][a].first() {
                    Some((to, _)) if self.terminal != Some(*to) => *to,
                    _ => break,
                },
            };
        }
        steps
    }

    pub fn json(&self) -> Value {
        let mut out = Map::new();
        let size = self.prompts.map_or(1, |p| self.states() / p);
        let split = |table: Vec<Value>| match self.prompts {
            Some(_) => Value::from(table.chunks(size).map(|x| json!(x)).collect::<Vec<_>>()),
            None => json!(table),
        };
        let of = |table: &Table<f64>| split(table.iter().map(|row| json!(row)).collect());
        let logits = |table: &Table<f64>| {
            let log = |p: &f64| if *p > 0.0 { json!(p.ln()) } else { Value::Null };
            split(
                table
                    .iter()
                    .map(|row| row.iter().map(log).collect())
                    .collect(),
            )
        };
        out.insert("beta".into(), json!(self.beta));
        out.insert("initial".into(), json!(self.initial));
        out.insert("horizon".into(), json!(self.horizon));
        match self.prompts {
            Some(_) => {
                out.insert("n_actions".into(), json!(self.actions));
                if let Some(eos) = self.eos {
                    out.insert("eos".into(), json!(eos));
                }
            }
            None => {
                out.insert("states".into(), json!(self.states()));
                let cell = |s: usize, row: &Vec<(usize, f64)>| match row.is_empty() {
                    true if self.terminal == Some(s) => json!(s),
                    true => Value::Null,
                    false => json!(row),
                };
                let rows = self.moves.iter().enumerate();
                let rows = rows.map(|(s, row)| row.iter().map(|r| cell(s, r)).collect::<Value>());
                out.insert("transition".into(), rows.collect());
                if let Some(end) = self.terminal {
                    out.insert("terminal".into(), json!([end]));
                }
            }
        }
        out.insert("reference".into(), of(&self.reference));
        if let Some(p) = &self.behaviour {
            out.insert("behaviour".into(), of(p));
        }
        if let Some(p) = &self.policy {
            out.insert("policy_logits".into(), logits(p));
        }
        if let Some(f) = &self.features {
            out.insert(
                "features".into(),
                split(f.iter().map(|row| json!(row)).collect()),
            );
        }
        if let Some(theta) = &self.theta {
            out.insert("theta".into(), json!(theta));
        }
        if let Some(r) = &self.reward {
            out.insert("reward".into(), of(r));
        }
        if let Some(pairs) = &self.pairs {
            let prompt = |steps: &[(usize, usize)]| steps[0].0 / size;
            let response = |steps: &[(usize, usize)]| match self.prompts {
                Some(_) => json!(steps.iter().map(|s| s.1).collect::<Vec<_>>()),
                None => json!(steps),
            };
            let pair = |[w, l]: &[Steps; 2]| {
                let mut pair = json!({"winner": response(w), "loser": response(l)});
                if self.prompts.is_some() {
                    pair["prompt"] = json!(prompt(w));
                }
                pair
            };
            out.insert("preferences".into(), pairs.iter().map(pair).collect());
            out.insert("estimation".into(), Value::Object(self.estimation.clone()));
        }
        if let Some(beta) = self.dpo_beta {
            out.insert("dpo".into(), json!({"beta": beta}));
        }
        if let Some((beta1, beta2)) = self.rto {
            out.insert("rto".into(), json!({"beta1": beta1, "beta2": beta2}));
        }
        Value::Object(out)
    }

    /// What is printed, or the one line that refuses it.
    pub fn solved(&self) -> Result<Value, String> {
        let text = self.json().to_string();
        let instance = Instance::parse(&text, Path::new(".")).map_err(|e| format!("{e:#}"))?;
        let report = solve(&instance).map_err(|e| format!("{e:#}"))?;
        let mut report = serde_json::to_value(report).unwrap();
        // (B.1) does not determine what happens where no episode starts.
        for key in ["/theorem_b1/root_policy", "/baselined/root_policy"] {
            if let Some(Value::Array(rows)) = report.pointer_mut(key) {
                let unmet = |(row, rho): (&mut Value, &f64)| {
                    if *rho == 0.0 {
                        *row = Value::Null;
                    }
                };
                rows.iter_mut().zip(&self.initial).for_each(unmet);
            }
        }
        // At β = 0 several policies may be optimal: their values are one, what else follows from the one that is taken is not.
        if self.beta == 0.0 {
            for key in ["root_policy", "feature_expectation", "coverage"] {
                report[key] = Value::Null;
            }
            if let Some(algorithm1) = report["algorithm1"].as_object_mut() {
                algorithm1.retain(|key, _| {
                    ["bonus_scale", "pessimistic_value", "metric"].contains(&key.as_str())
                });
            }
        }
        Ok(report)
    }

    /// H times the largest reward of the instance, with what β adds.
    pub fn size(&self) -> f64 {
        let largest = |r: &[f64]| r.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        let reward = self
            .reward
            .as_ref()
            .map(|r| r.iter().map(|r| largest(r)).fold(0.0, f64::max));
        let theta = self
            .theta
            .as_ref()
            .map(|t| t.iter().map(|t| 2.0 * t.abs()).sum::<f64>());
        self.horizon as f64 * (reward.or(theta).unwrap_or(1.0) + 3.0 * self.beta)
    }
}

pub fn estimation(rng: &mut ChaCha8Rng) -> Map<String, Value> {
    let kinds = [
        "wald",
        "wald_ridge",
        "theory",
        "theory_kappa",
        "printed",
        "likelihood_ratio",
        "likelihood_ratio_asymptotic",
        "self_concordant",
    ];
    let scale = match rng.random_range(0..4) {
        0 => json!(0.3),
        _ => json!(kinds[rng.random_range(0..kinds.len())]),
    };
    let fields = [
        (
            "param_bound",
            json!([0.5, 1.0, 3.0, 20.0][rng.random_range(0..4)]),
        ),
        (
            "ridge",
            json!([0.01, 0.3, 1.0, 5.0][rng.random_range(0..4)]),
        ),
        ("bonus_scale", scale),
    ];
    fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}
