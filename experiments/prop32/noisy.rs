//! The question actually asked of RLHF: feedback is noisy pairwise preference.

use crate::config::Config;
use anyhow::Result;
use rayon::prelude::*;
use rto::Token;
use rto::numerics::wilson_interval;
use rto::search::evaluator::{NeedleChain, SoftmaxTree};
use rto::search::oracle::CountingOracle;
use rto::search::preference::{LogMassTable, PreferenceOracle, sentence_knockout, token_plug_in};
use rto::seed::SeedTree;
use rto_harness::progress::Progress;
use rto_harness::table::Table;

/// The quantile of a 95% normal interval.
const Z: f64 = 1.959_963_984_540_054;

/// The heading of the table on the terminal.
pub fn describe(config: &Config) -> String {
    format!(
        "Noisy preferences (A = {}): labels until the best response is found with\n\
         probability {}, {} replicates. One label is one Bradley-Terry comparison, of\n\
         two responses (sentence) or of two tokens after a shared prefix (token).\n\
         Intervals: the counts at which the 95% interval of the success rate first\n\
         reaches, and first lies above, the target.",
        config.preference_actions, config.success, config.replicates
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Needle,
    Softmax,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Feedback {
    Sentence,
    Token,
}

/// One row for each family, feedback and horizon.
pub fn run(config: &Config, progress: &Progress, work: f64) -> Result<Table> {
    let families = [(Family::Needle, "needle"), (Family::Softmax, "softmax")];
    let feedbacks = [(Feedback::Sentence, "sentence"), (Feedback::Token, "token")];
    let cells = 4 * config.preference_horizons.len() as u64;
    let bar = progress.part(cells, "asking for preferences", work);
    let mut table = Table::new(
        "preferences",
        &[
            "id",
            "family",
            "feedback",
            "n_actions",
            "horizon",
            "target",
            "labels_per_match",
            "success",
            "queries",
            "queries_low",
            "queries_high",
            "noiseless",
        ],
    );
    for (family, family_name) in families {
        for (feedback, feedback_name) in feedbacks {
            for horizon in &config.preference_horizons {
                let cell = Cell95::find(config, family, feedback, *horizon)?;
                let id = format!("prop32/preferences/{}", table.len());
                let a = config.preference_actions;
                table.push([
                    id.into(),
                    family_name.into(),
                    feedback_name.into(),
                    a.into(),
                    (*horizon).into(),
                    config.success.into(),
                    cell.labels.into(),
                    cell.success.into(),
                    cell.queries.into(),
                    cell.low.into(),
                    cell.high.into(),
                    cell.noiseless.into(),
                ]);
                bar.inc(1);
            }
        }
    }
    Ok(table)
}

/// The number of labels at which the target is reached; `None` where `most_labels` does not reach it.
#[derive(Debug, Default)]
struct Cell95 {
    labels: Option<u64>,
    success: Option<f64>,
    queries: Option<f64>,
    low: Option<f64>,
    high: Option<f64>,
    /// Comparisons that the learner makes when labels come without noise, each counted once.
    noiseless: f64,
}

impl Cell95 {
    /// Tries odd numbers of labels a match, each about 1.2 times the last.
    fn find(config: &Config, family: Family, feedback: Feedback, horizon: usize) -> Result<Self> {
        let seeds = SeedTree::new(config.seed)
            .child("preferences")
            .index(family as u64)
            .index(horizon as u64);
        let tables = (0..config.replicates)
            .into_par_iter()
            .map(|i| table(config, family, horizon, &seeds.child("instance").index(i)))
            .collect::<Result<Vec<_>>>()?;
        let noise = seeds.child("noise").index(feedback as u64);
        let mut cell = Self {
            noiseless: noiseless(feedback, &tables)?,
            ..Self::default()
        };
        let mut labels = 1;
        while labels <= config.most_labels && cell.high.is_none() {
            let noise = noise.index(labels);
            let outcomes = tables
                .par_iter()
                .enumerate()
                .map(|(i, table)| {
                    trial(
                        feedback,
                        table,
                        table.annotator(noise.index(i as u64).rng()),
                        labels,
                    )
                })
                .collect::<Result<Vec<_>>>()?;
            let successes = outcomes.iter().filter(|(found, _)| *found).count() as u64;
            let mean = outcomes
                .iter()
                .map(|(_, queries)| *queries as f64)
                .sum::<f64>()
                / outcomes.len() as f64;
            cell.observe(labels, successes, mean, config);
            labels = (labels + 2).max((labels as f64 * 1.2) as u64 | 1);
        }
        Ok(cell)
    }

    fn observe(&mut self, labels: u64, successes: u64, queries: f64, config: &Config) {
        let success = successes as f64 / config.replicates as f64;
        let (low, high) = wilson_interval(successes, config.replicates, Z);
        if high >= config.success {
            self.low.get_or_insert(queries);
        }
        if success >= config.success && self.queries.is_none() {
            (self.labels, self.success, self.queries) =
                (Some(labels), Some(success), Some(queries));
        }
        if low >= config.success {
            self.high = Some(queries);
        }
    }
}

fn table(
    config: &Config,
    family: Family,
    horizon: usize,
    seeds: &SeedTree,
) -> Result<LogMassTable> {
    use rand::Rng;
    let a = config.preference_actions;
    Ok(match family {
        Family::Needle => {
            let mut rng = seeds.rng();
            let main = (0..horizon)
                .map(|_| rng.random_range(0..a as Token))
                .collect();
            LogMassTable::new(&NeedleChain::with_optimum(a, main, config.p_star)?)?
        }
        Family::Softmax => LogMassTable::new(&SoftmaxTree::new(
            a,
            horizon,
            config.inverse_temperature,
            seeds.key64(),
        )?)?,
    })
}

/// Mean comparisons without noise.
fn noiseless(feedback: Feedback, tables: &[LogMassTable]) -> Result<f64> {
    const LABELS: u64 = 1 << 40; // so many that rounding to whole labels cannot matter
    let counts = tables
        .par_iter()
        .map(|table| Ok(trial(feedback, table, table.noiseless_annotator(), LABELS)?.1 / LABELS))
        .collect::<Result<Vec<u64>>>()?;
    Ok(counts.iter().sum::<u64>() as f64 / counts.len() as f64)
}

/// Whether the best response was found, and with how many labels.
fn trial(
    feedback: Feedback,
    table: &LogMassTable,
    annotator: impl PreferenceOracle,
    labels: u64,
) -> Result<(bool, u64)> {
    let mut oracle = CountingOracle::new(annotator);
    let found = match feedback {
        Feedback::Sentence => sentence_knockout(&mut oracle, labels)?,
        Feedback::Token => token_plug_in(&mut oracle, labels)?,
    };
    Ok((found == table.best(), oracle.queries()))
}
