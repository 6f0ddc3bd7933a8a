//! The file: every key, checked.

use crate::arrays::{self, Allowed, entry};
use crate::json::{Fields, Json};
use crate::policies;
use crate::preferences;
use crate::transitions::Counts;
use crate::world::{Kind, World};
use anyhow::{Context, Result, anyhow, bail};
use ndarray::Array2;
use rto::estimate::{Curvature, MetricKind, RadiusKind};
use rto::features::{DenseFeatures, OneHot};
use rto::mdp::{Beta, PreferencePair, Problem, Reachable, StateIx, TabularPolicy};
use rto::plan::PairLaw;
use std::fs;
use std::path::Path;

/// A user's instance.
pub struct Instance {
    pub(crate) beta: Beta,
    pub(crate) world: World,
    pub(crate) reference: TabularPolicy,
    /// log π_ref over the user's states.
    pub(crate) reference_table: Array2<f64>,
    pub(crate) policy: Option<TabularPolicy>,
    /// The policy that the responses of the data come from.
    pub(crate) behaviour: Option<TabularPolicy>,
    /// The true reward over the user's states, where it is known.
    pub(crate) reward: Option<Array2<f64>>,
    /// φ over the user's states; one-hot when only a reward is given and there are preferences.
    pub(crate) features: Option<Features>,
    pub(crate) theta_star: Option<Vec<f64>>,
    pub(crate) pairs: Option<Vec<PreferencePair>>,
    pub(crate) estimation: Estimation,
    pub(crate) dpo: DpoSettings,
    pub(crate) rto: Option<Rto>,
    pub(crate) counts: Option<Counts>,
}

/// φ over the user's states, `[states][actions][dim]`.
pub struct Features {
    pub dim: usize,
    values: Vec<f64>,
    one_hot: bool,
}

/// How to estimate, with defaults filled in.
pub struct Estimation {
    pub param_bound: Option<f64>,
    pub feature_bound: Option<f64>,
    pub ridge: f64,
    pub fail_prob: f64,
    pub scale: RadiusKind,
    /// C of (A.2) as printed.
    pub printed_constant: f64,
    /// What the user called the scale.
    pub scale_name: String,
    pub metric: Option<MetricKind>,
}

/// β of DPO where it is not the instance's, and the law of infinitely many pairs.
pub struct DpoSettings {
    pub beta: Option<Beta>,
    pub pairs: PairLaw,
}

impl Default for DpoSettings {
    fn default() -> Self {
        Self {
            beta: None,
            pairs: PairLaw::Reference,
        }
    }
}

/// The token reward that RTO maximises is built from …
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// … π*_β of the true reward.
    Optimal,
    /// … the DPO policy.
    Dpo,
}

/// β₁, β₂ and the source of the token reward.
#[derive(Debug, Clone, Copy)]
pub struct Rto {
    pub beta1: Beta,
    pub beta2: Beta,
    pub source: Source,
}

/// The keys of every instance, of a token tree, and of a general table.
const SHARED_KEYS: &[&str] = &[
    "beta",
    "initial",
    "horizon",
    "n_actions",
    "reference",
    "reference_logits",
    "reward",
    "features",
    "theta",
    "policy_logits",
    "behaviour",
    "behaviour_logits",
    "preferences",
    "estimation",
    "dpo",
    "rto",
];
const TREE_KEYS: &[&str] = &["eos"];
const TABLE_KEYS: &[&str] = &[
    "states",
    "transition",
    "terminal",
    "layered",
    "transition_counts",
    "zeta",
];

/// One-hot features of a reward table have at most this many coordinates.
const MOST_ONE_HOT: usize = 1024;
/// The most feature values of a table.
const MOST_VALUES: usize = 400_000_000;

impl Instance {
    /// What a reward is maximised in.
    pub(crate) fn problem(&self) -> Problem<'_> {
        Problem::new(&self.world.mdp, &self.reference, self.beta)
    }

    /// Reads `file` and everything it refers to.
    ///
    /// # Errors
    /// As for [`Self::parse`], and when `file` cannot be read.
    pub fn read(file: &Path) -> Result<Self> {
        let name = || file.display().to_string();
        let bytes = fs::read(file)
            .map_err(|e| anyhow!("cannot read: {e}"))
            .with_context(name)?;
        let dir = file.parent().unwrap_or(Path::new("."));
        let parse = || -> Result<Self> {
            let text = std::str::from_utf8(&bytes).context("not UTF-8 text")?;
            Self::parse(text, dir)
        };
        parse().with_context(name)
    }

    /// The instance that `text` (JSON) describes; the files that it names lie below `dir`.
    ///
    /// # Errors
    /// One line in the words of the file: the key, what was found, what was expected.
    pub fn parse(text: &str, dir: &Path) -> Result<Self> {
        let mut fields = Fields::of(Json::parse(text)?, "")?;
        let general = World::is_general(&fields);
        fields.only(&[SHARED_KEYS, if general { TABLE_KEYS } else { TREE_KEYS }].concat())?;
        let beta = fields.number("beta", "a finite number >= 0", |b| b >= 0.0)?;
        let beta = Beta::try_new(beta.ok_or_else(|| anyhow!("beta: missing"))?)?;
        let (world, raw) = World::take(&mut fields, dir)?;
        let reference_table = raw.table(&world)?;
        let reference = policies::lifted(&world, &reference_table)?;
        let policy = policies::policy(&mut fields, &world, &reference, dir)?;
        let behaviour = policies::behaviour(&mut fields, &world, dir)?;
        let (mut reward, mut features, mut theta_star) = truth(&mut fields, &world, dir)?;
        let pairs = match fields.take("preferences") {
            None => None,
            Some(json) => {
                let comparisons = preferences::read(&json, dir)?;
                let pairs = comparisons.iter().map(|c| world.pair(c));
                Some(pairs.collect::<Result<Vec<_>>>()?)
            }
        };
        if let (None, Some(table), Some(_)) = (&features, &reward, &pairs) {
            features = Some(Features::one_hot(&world)?);
            let met = met(&world, &reference, pairs.as_deref())?;
            theta_star = Some(met_entries(&world, table, &met));
        }
        if let (None, Some(f), Some(theta)) = (&reward, &features, &theta_star) {
            reward = Some(f.linear_reward(&world, theta));
        }
        let instance = Self {
            estimation: Estimation::take(&mut fields)?,
            dpo: dpo(&mut fields)?,
            rto: rto(&mut fields, pairs.is_some())?,
            counts: match &world.kind {
                Kind::Tree(_) => None,
                Kind::General(g) => Counts::take(&mut fields, &g.rows, world.n_states(), dir)?,
            },
            beta,
            world,
            reference,
            reference_table,
            policy,
            behaviour,
            reward,
            features,
            theta_star,
            pairs,
        };
        fields.finish()?;
        Ok(instance)
    }
}

impl Instance {
    /// What an episode can meet, and what the preferences show.
    pub(crate) fn met(&self) -> Result<Reachable> {
        met(&self.world, &self.reference, self.pairs.as_deref())
    }

    /// ρ over the entries of `initial`.
    pub fn initial(&self) -> Vec<f64> {
        let rho = self.world.mdp.initial();
        let share = |s: &Option<StateIx>| s.map_or(0.0, |s| rho[s.ix()]);
        self.world.roots.iter().map(share).collect()
    }

    /// What a reader should know about the file as it stands.
    pub fn warnings(&self) -> Vec<String> {
        let pairs = self.pairs.as_deref().unwrap_or_default();
        let same = |p: &&PreferencePair| p.winner() == p.loser();
        let mut out = Vec::new();
        if let Some(first) = pairs.iter().position(|p| same(&p)) {
            let n = pairs.iter().filter(same).count();
            let others = if n > 1 {
                format!(" and {} others", n - 1)
            } else {
                String::new()
            };
            out.push(format!(
                "preferences[{first}]{others}: winner and loser are the same response, which tells nothing"
            ));
        }
        out
    }
}

fn met(
    world: &World,
    reference: &TabularPolicy,
    pairs: Option<&[PreferencePair]>,
) -> Result<Reachable> {
    let met = Reachable::new(&world.mdp, reference)?;
    Ok(met.with_pairs(pairs.unwrap_or_default()))
}

/// The reward table as θ* of one-hot features; coordinates that nothing meets are 0, as no norm may count them.
fn met_entries(world: &World, table: &Array2<f64>, met: &Reachable) -> Vec<f64> {
    let mut out = vec![0.0; table.len()];
    for (s, a) in met.pairs() {
        let (state, action) = (world.origin[s.ix()], a.ix());
        out[state * table.ncols() + action] = table[[state, action]];
    }
    out
}

type Truth = (Option<Array2<f64>>, Option<Features>, Option<Vec<f64>>);

/// `reward`, `features` and `theta`.
fn truth(fields: &mut Fields, world: &World, dir: &Path) -> Result<Truth> {
    let reward = match fields.take("reward") {
        None => None,
        Some(json) => {
            let array = arrays::read(&json, "reward", &world.axes(), Allowed::Finite, dir)?;
            let shape = (world.n_states(), world.n_actions());
            Some(Array2::from_shape_vec(shape, array.values)?)
        }
    };
    let features = match fields.take("features") {
        None => None,
        Some(json) => Some(Features::read(&json, world, dir)?),
    };
    let theta = match (fields.take("theta"), &features) {
        (None, _) => None,
        (Some(_), None) => bail!("theta: needs features"),
        (Some(_), Some(_)) if reward.is_some() => {
            bail!("theta: give reward or theta, not both")
        }
        (Some(json), Some(f)) => {
            let axes = [("features", Some(f.dim))];
            Some(arrays::read(&json, "theta", &axes, Allowed::Finite, dir)?.values)
        }
    };
    if reward.is_none() && features.is_none() {
        bail!("reward: missing, give reward or features");
    }
    Ok((reward, features, theta))
}

impl Features {
    fn read(json: &Json, world: &World, dir: &Path) -> Result<Self> {
        let mut axes = world.axes();
        axes.push(("features", None));
        let array = arrays::read(json, "features", &axes, Allowed::Finite, dir)?;
        let dim = *array.shape.last().expect("at least one axis");
        if dim == 0 {
            bail!(
                "{}: found no features, expected at least 1",
                entry("features", &vec![1; axes.len() - 1], 0)
            );
        }
        if world.origin.len().saturating_mul(world.n_actions() * dim) > MOST_VALUES {
            bail!("features: more than {MOST_VALUES} values over all steps");
        }
        Ok(Self {
            dim,
            values: array.values,
            one_hot: false,
        })
    }

    fn one_hot(world: &World) -> Result<Self> {
        let dim = world.n_states() * world.n_actions();
        if dim > MOST_ONE_HOT {
            bail!(
                "features: missing; one-hot features for these preferences would have {dim} coordinates, at most {MOST_ONE_HOT} are used"
            );
        }
        Ok(Self {
            dim,
            values: Vec::new(),
            one_hot: true,
        })
    }

    fn at(&self, pair: usize, k: usize) -> f64 {
        if self.one_hot {
            f64::from(u8::from(pair == k))
        } else {
            self.values[pair * self.dim + k]
        }
    }

    /// φ over states of a table whose states are the user's states `origin`.
    pub fn over(&self, origin: &[usize], actions: usize) -> Result<DenseFeatures> {
        if self.one_hot && origin.len() * actions == self.dim {
            let identity = origin.iter().enumerate().all(|(i, s)| i == *s);
            if identity {
                return Ok(DenseFeatures::tabulate(&OneHot {
                    n_states: origin.len(),
                    n_actions: actions,
                }));
            }
        }
        Ok(DenseFeatures::from_fn(
            origin.len(),
            actions,
            self.dim,
            |s, a, k| self.at(origin[s] * actions + a, k),
        )?)
    }

    fn linear_reward(&self, world: &World, theta: &[f64]) -> Array2<f64> {
        Array2::from_shape_fn((world.n_states(), world.n_actions()), |(s, a)| {
            let pair = s * world.n_actions() + a;
            theta
                .iter()
                .enumerate()
                .map(|(k, t)| t * self.at(pair, k))
                .sum()
        })
    }
}

impl Estimation {
    fn take(fields: &mut Fields) -> Result<Self> {
        let json = fields
            .take("estimation")
            .unwrap_or(Json::Object(Vec::new()));
        let mut inner = Fields::of(json, "estimation")?;
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let must = "> 0";
        // The square of anything smaller is 0.
        let param_bound = inner.number("param_bound", ">= 1e-100", |x| x >= 1e-100)?;
        let feature_bound = inner.number("feature_bound", must, positive)?;
        let ridge = inner.number("ridge", must, positive)?.unwrap_or(1.0);
        let in_unit = |x: f64| x > 0.0 && x < 1.0;
        let fail_prob = inner.number("fail_prob", "in (0, 1)", in_unit)?;
        let printed_constant = inner
            .number("printed_constant", must, positive)?
            .unwrap_or(1.0);
        let scale = inner.take("bonus_scale");
        let metric = match inner.take("metric") {
            None => None,
            Some(json) => Some(match json.text("estimation.metric")? {
                "sigma_d" => MetricKind::SigmaD,
                "fisher" => MetricKind::Fisher,
                other => bail!("estimation.metric: found {other:?}, expected sigma_d or fisher"),
            }),
        };
        inner.finish()?;
        let (scale, scale_name) = match scale {
            None => (RadiusKind::Wald { ridge_bias: false }, "wald".to_string()),
            Some(Json::Text(name)) => match radius_kind(&name, printed_constant) {
                Some(kind) => (kind, name),
                None => bail!(
                    "estimation.bonus_scale: found {name:?}, expected a number or one of {RADIUS_KINDS}"
                ),
            },
            Some(json) => {
                let x = json.number("estimation.bonus_scale")?;
                if x < 0.0 {
                    bail!("estimation.bonus_scale: found {x}, must be >= 0");
                }
                let kind = RadiusKind::Number(x, metric.unwrap_or(MetricKind::SigmaD));
                (kind, "number".to_string())
            }
        };
        Ok(Self {
            param_bound,
            feature_bound,
            ridge,
            fail_prob: fail_prob.unwrap_or(0.05),
            scale,
            printed_constant,
            scale_name,
            metric,
        })
    }
}

/// The names of [`radius_kind`] that a file's `estimation.bonus_scale` is told of.
pub const RADIUS_KINDS: &str = "printed, theory, theory_kappa, wald, wald_ridge, likelihood_ratio, likelihood_ratio_asymptotic, self_concordant";

/// A radius by its name in a file or in the report's `radii`; `constant` is C of (A.2), for `printed`.
pub fn radius_kind(name: &str, constant: f64) -> Option<RadiusKind> {
    Some(match name {
        "printed" | "rho_printed_Upsilon" => RadiusKind::Printed { constant },
        "theory" | "theory_upsilon" | "rho_theory_Upsilon" => {
            RadiusKind::Theory(Curvature::Upsilon)
        }
        "theory_kappa" | "rho_theory_kappa" => RadiusKind::Theory(Curvature::Data),
        "wald" | "rho_wald_Hmetric" => RadiusKind::Wald { ridge_bias: false },
        "wald_ridge" => RadiusKind::Wald { ridge_bias: true },
        "likelihood_ratio" | "rho_LR_via_kappa" => RadiusKind::LikelihoodRatio {
            finite_sample: true,
        },
        "likelihood_ratio_asymptotic" => RadiusKind::LikelihoodRatio {
            finite_sample: false,
        },
        "self_concordant" | "rho_selfconcordant_Hmetric" => RadiusKind::SelfConcordant,
        _ => return None,
    })
}

fn dpo(fields: &mut Fields) -> Result<DpoSettings> {
    let Some(json) = fields.take("dpo") else {
        return Ok(DpoSettings::default());
    };
    let mut inner = Fields::of(json, "dpo")?;
    let beta = inner.number("beta", "> 0", |b| b > 0.0)?;
    let pairs = match inner.take("pairs") {
        None => PairLaw::Reference,
        Some(json) => match json.text("dpo.pairs")? {
            "reference" => PairLaw::Reference,
            "uniform" => PairLaw::Uniform,
            other => bail!("dpo.pairs: found {other:?}, expected reference or uniform"),
        },
    };
    inner.finish()?;
    Ok(DpoSettings {
        beta: beta.map(Beta::try_new).transpose()?,
        pairs,
    })
}

fn rto(fields: &mut Fields, preferences: bool) -> Result<Option<Rto>> {
    let Some(json) = fields.take("rto") else {
        return Ok(None);
    };
    let mut inner = Fields::of(json, "rto")?;
    let beta1 = inner.number("beta1", "> 0", |b| b > 0.0)?;
    let beta2 = inner.number("beta2", ">= 0", |b| b >= 0.0)?;
    let source = match inner.take("source") {
        None if preferences => Source::Dpo,
        None => Source::Optimal,
        Some(json) => match json.text("rto.source")? {
            "optimal" => Source::Optimal,
            "dpo" => Source::Dpo,
            other => bail!("rto.source: found {other:?}, expected optimal or dpo"),
        },
    };
    inner.finish()?;
    Ok(Some(Rto {
        beta1: Beta::try_new(beta1.ok_or_else(|| anyhow!("rto.beta1: missing"))?)?,
        beta2: Beta::try_new(beta2.ok_or_else(|| anyhow!("rto.beta2: missing"))?)?,
        source,
    }))
}
