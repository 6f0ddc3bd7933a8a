//! Training through Algorithm 2's seam, in three classes of policies, and how far from the exact minimiser it ends.

use anyhow::Result;
use rto::algorithm2::{FitConfig, Pair, Schedule, fit_pairs, fit_steps};
use rto::mdp::TabularPolicy;
use rto::objective::DpoLoss;
use rto::objective::pair_loss::{RDpo, Rpo, SimPo};
use rto::policy::{OptimizerConfig, TabularLearner, TabularSoftmax};
use rto::preference::{Method, SupervisedBase};
use rto::seq::{PolicyLearner, TokenScorer, Trainable};
use rto_bridge::learner::{LearnerOptions, NeuralLearner, NeuralPolicy, NeuralScorer};
use rto_bridge::params::Params;
use rto_harness::sweep::Task;
use rto_harness::table::{Cell, Table};
use std::sync::Arc;

use crate::Study;
use crate::world::{HORIZON, World, tabulate};

const COLUMNS: &[&str] = &[
    "class",
    "loss",
    "world",
    "steps",
    "subopt",
    "subopt_exact",
    "gap",
    "kl",
];

/// The classes of policies.
pub const CLASSES: [&str; 3] = ["table", "head", "network"];

/// A loss of pairs as the seam trains it, and as the bench solves it.
pub struct Loss {
    pub name: &'static str,
    trained: DpoLoss,
    pub exact: Method,
}

impl Loss {
    /// The losses; β is that of the fit, which SimPO alone has as its own.
    pub fn all(beta: f64) -> [Self; 7] {
        let base = SupervisedBase::Chosen;
        let (gamma, eta, alpha) = (0.5, 0.1, 0.2);
        [
            ("dpo", DpoLoss::Dpo, Method::Dpo),
            (
                "rdpo",
                DpoLoss::RDpo(RDpo { alpha }),
                Method::RDpo { alpha },
            ),
            ("ipo", DpoLoss::Ipo, Method::Ipo),
            (
                "simpo",
                DpoLoss::SimPo(SimPo { gamma }),
                Method::SimPo { beta, gamma },
            ),
            ("chi_po", DpoLoss::ChiPo, Method::ChiPo),
            ("rpo", DpoLoss::Rpo(Rpo { eta }), Method::Rpo { eta, base }),
            ("tdpo1", DpoLoss::Tdpo1, Method::Tdpo { alpha: 1.0 }),
        ]
        .map(|(name, trained, exact)| Self {
            name,
            trained,
            exact,
        })
    }
}

/// A cell for each class, loss and world.
pub fn tasks(study: &Study) -> Vec<Task<'_>> {
    let mut tasks = Vec::new();
    for class in CLASSES {
        for (i, loss) in Loss::all(study.config.beta).iter().enumerate() {
            let name = loss.name;
            for world in 0..study.config.worlds {
                let id = format!("{}/a/{class}/{name}/{world}", crate::NAME);
                tasks.push(Task::new(id, COLUMNS, move || {
                    curve(study, class, i, world)
                }));
            }
        }
    }
    tasks
}

/// One training for each number of steps.
fn curve(study: &Study, class: &str, loss: usize, number: u64) -> Result<Vec<Vec<Cell>>> {
    let c = &study.config;
    let loss = &Loss::all(c.beta)[loss];
    let seeds = study.seeds.index(number);
    let world = World::draw(c.beta, c.pairs, &seeds)?;
    let exact = world.minimiser(loss)?;
    let subopt_exact = world.subopt(&exact)?;
    let mut rows = Vec::new();
    for &steps in &c.steps {
        let found = match class {
            "table" => table(&world, loss, steps, c.table_learning_rate)?,
            "head" => network(&world, loss, steps, c.head_learning_rate, true)?,
            _ => network(&world, loss, steps, c.network_learning_rate, false)?,
        };
        let found = world.policy(&found)?;
        let subopt = world.subopt(&found)?;
        rows.push(vec![
            class.into(),
            loss.name.into(),
            number.into(),
            steps.into(),
            subopt.into(),
            subopt_exact.into(),
            (subopt - subopt_exact).abs().into(),
            world.kl(&found, &exact).into(),
        ]);
    }
    Ok(rows)
}

/// All pairs in every step, with a learning rate that falls to 0.
fn fit(
    learner: &mut dyn Trainable,
    reference: &dyn TokenScorer,
    pairs: &[Pair],
    (loss, beta): (&Loss, f64),
    steps: usize,
    learning_rate: f64,
) -> Result<()> {
    let config = FitConfig {
        learning_rate,
        schedule: Schedule::Cosine {
            warmup: 0.0,
            floor: 0.0,
        },
        batch_size: pairs.len(),
        epochs: steps,
        ..FitConfig::paper_sft()
    };
    let all = 0..fit_steps(pairs.len(), &config);
    // The order of pairs within a step changes nothing but rounding.
    let seeds = rto::seed::SeedTree::new(0);
    fit_pairs(
        learner,
        reference,
        pairs,
        (loss.trained.loss(), beta),
        &config.check()?,
        &seeds,
        all,
        &mut |_| Ok(()),
    )?;
    Ok(())
}

fn table(world: &World, loss: &Loss, steps: usize, rate: f64) -> Result<TabularPolicy> {
    let start = TabularSoftmax::from_policy(world.map.clone(), &world.reference)?;
    let watched = start
        .clone()
        .with_reference(world.reference.clone().into())?;
    let mut learner = TabularLearner::try_new(watched, OptimizerConfig::adam(rate))?;
    let how = (loss, world.beta.get());
    fit(&mut learner, &start, &world.pairs, how, steps, rate)?;
    Ok(learner.policy().table()?)
}

/// All weights, or those of the head alone.
fn network(
    world: &World,
    loss: &Loss,
    steps: usize,
    rate: f64,
    head_alone: bool,
) -> Result<TabularPolicy> {
    let config = world.network.config().clone();
    let weights = world.network.weights()?;
    let reference = Arc::new(NeuralScorer::try_new(
        config.clone(),
        Params::frozen(weights.clone())?,
    )?);
    let mut params = Params::new(weights)?;
    if head_alone {
        params.freeze(&["gpt_neox.*"]);
    }
    let scorer = NeuralScorer::try_new(config, params)?.with_kl_from(reference);
    let options = LearnerOptions {
        learning_rate: rate,
        // One pass of all rows.
        micro_batch: 2 * world.pairs.len(),
        ..LearnerOptions::default()
    };
    let policy = NeuralPolicy::try_new(scorer, HORIZON)?;
    let mut learner = NeuralLearner::try_new(policy, options)?;
    let (pairs, how) = (world.spoken_pairs()?, (loss, world.beta.get()));
    fit(&mut learner, &world.network, &pairs, how, steps, rate)?;
    tabulate(learner.policy().scorer(), &world.tree)
}

/// Means over worlds after the longest training, for reading.
pub fn last(runs: &Table) -> Result<Table> {
    let mut table = Table::new(
        "longest",
        &[
            "class",
            "loss",
            "steps",
            "subopt",
            "subopt_exact",
            "gap",
            "kl",
        ],
    );
    let steps = runs.distinct("steps")?.pop().unwrap_or_default();
    let longest = runs.filter("steps", &steps)?;
    for class in CLASSES {
        let rows = longest.filter("class", class)?;
        for loss in rows.distinct("loss")? {
            let rows = rows.filter("loss", &loss)?;
            let mean = |column: &str| -> Result<f64> {
                let values = rows.floats(column)?;
                Ok(values.iter().sum::<f64>() / values.len() as f64)
            };
            table.push([
                class.into(),
                loss.as_str().into(),
                steps.parse::<usize>()?.into(),
                mean("subopt")?.into(),
                mean("subopt_exact")?.into(),
                mean("gap")?.into(),
                mean("kl")?.into(),
            ]);
        }
    }
    Ok(table)
}
