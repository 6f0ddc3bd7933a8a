//! The same question on real language: n-gram models of a text as evaluators.

use crate::config::{Config, Unit};
use anyhow::{Context, Result};
use rayon::prelude::*;
use rto::Token;
use rto::search::best_first::{BestFirst, best_first};
use rto::search::evaluator::{EvaluatorOracle, NgramModel, NgramPolicy};
use rto::search::mass::LogMass;
use rto::search::oracle::CountingOracle;
use rto_harness::progress::Progress;
use rto_harness::table::{Cell, Table};
use rto_harness::text::{parse_documents, read_documents};
use std::collections::HashMap;
use std::path::Path;

const SAMPLE: &str = include_str!("../data/sample.txt");
const SAMPLE_NAME: &str = "experiments/data/sample.txt";

/// A text as sequences over its own vocabulary, the most frequent symbol first.
pub struct Corpus {
    name: String,
    documents: Vec<Vec<Token>>,
    symbols: Vec<String>,
    prompt: Vec<Token>,
    unit: Unit,
}

impl Corpus {
    /// Reads the configured text, or the sample, and checks that every order can be fitted.
    pub fn load(config: &Config) -> Result<Self> {
        let (name, texts) = match config.text.as_str() {
            "" => (
                SAMPLE_NAME.to_string(),
                parse_documents(SAMPLE_NAME, SAMPLE.as_bytes())?,
            ),
            path => (path.to_string(), read_documents(Path::new(path))?),
        };
        let corpus = Self::new(&name, &texts, config).with_context(|| name.clone())?;
        for order in &config.orders {
            corpus.fit(config, *order).with_context(|| name.clone())?;
        }
        Ok(corpus)
    }

    fn new(name: &str, texts: &[String], config: &Config) -> Result<Self> {
        let documents: Vec<Vec<String>> = texts.iter().map(|t| split(t, config.unit)).collect();
        let mut counts: HashMap<&str, u64> = HashMap::new();
        for symbol in documents.iter().flatten() {
            *counts.entry(symbol).or_default() += 1;
        }
        let mut symbols: Vec<&str> = counts.keys().copied().collect();
        symbols.sort_by(|a, b| counts[b].cmp(&counts[a]).then(a.cmp(b)));
        if symbols.len() < 2 {
            anyhow::bail!(
                "text: found {} different symbols, expected at least 2",
                symbols.len()
            );
        }
        let index: HashMap<&str, Token> = symbols.iter().copied().zip(0..).collect();
        let prompt = split(&config.prompt, config.unit)
            .iter()
            .map(|s| {
                index.get(s.as_str()).copied().with_context(|| {
                    format!("prompt: found {s:?}, which does not occur in the text")
                })
            })
            .collect::<Result<_>>()?;
        let encoded = documents
            .iter()
            .map(|d| d.iter().map(|s| index[s.as_str()]).collect())
            .collect();
        let symbols = symbols.iter().map(|s| s.to_string()).collect();
        Ok(Self {
            name: name.to_string(),
            documents: encoded,
            symbols,
            prompt,
            unit: config.unit,
        })
    }

    fn fit(&self, config: &Config, order: usize) -> Result<NgramModel> {
        Ok(NgramModel::fit(
            &self.documents,
            self.symbols.len(),
            order,
            config.smoothing()?,
        )?)
    }

    fn decode(&self, response: &[Token]) -> String {
        let glue = if self.unit == Unit::Words { " " } else { "" };
        response
            .iter()
            .map(|t| self.symbols[*t as usize].as_str())
            .collect::<Vec<_>>()
            .join(glue)
    }

    /// The heading of the table on the terminal.
    pub fn describe(&self, config: &Config) -> String {
        let unit = if self.unit == Unit::Words {
            "words"
        } else {
            "characters"
        };
        let length: usize = self.documents.iter().map(Vec::len).sum();
        format!(
            "Real text: {} ({length} {unit}, A = {} different ones), n-gram models, {} smoothing. How many responses of H {unit}\n\
             must be scored to certify the most probable one? Token feedback against A^H - 1 with sentence feedback; searches stop\n\
             after {} scored responses. For each order, the longest horizon that was certified and the next:",
            self.name,
            self.symbols.len(),
            config.smoothing,
            config.text_budget
        )
    }
}

/// Characters, or words and single visible marks.
fn split(text: &str, unit: Unit) -> Vec<String> {
    if unit == Unit::Characters {
        return text.chars().map(String::from).collect();
    }
    let mut words: Vec<String> = Vec::new();
    let mut in_word = false;
    for c in text.chars() {
        let part_of_word = c.is_alphanumeric() || c == '\'' || c == '\u{2019}';
        if part_of_word && in_word {
            words.last_mut().expect("in a word").push(c);
        } else if !c.is_whitespace() {
            words.push(c.to_string());
        }
        in_word = part_of_word;
    }
    words
}

/// One row for each order and horizon, up to the first horizon that the budget does not certify.
pub fn run(config: &Config, corpus: &Corpus, progress: &Progress, work: f64) -> Result<Table> {
    let searches = config.orders.len() * config.text_horizons.len();
    let bar = progress.part(searches as u64, "searching text", work);
    let mut horizons = config.text_horizons.clone();
    horizons.sort_unstable();
    let rows: Vec<Vec<Vec<Cell>>> = config
        .orders
        .par_iter()
        .map(|order| {
            let model = corpus.fit(config, *order)?;
            let mut rows = Vec::new();
            for horizon in &horizons {
                let policy = NgramPolicy::new(&model, &corpus.prompt, *horizon)?;
                let mut oracle =
                    CountingOracle::with_budget(EvaluatorOracle::new(policy), config.text_budget);
                let found = best_first(&mut oracle, &BestFirst::default())?;
                let LogMass(log_probability) = found.mass;
                let log_responses = *horizon as f64 * (corpus.symbols.len() as f64).log10();
                rows.push(vec![
                    (*order).into(),
                    (*horizon).into(),
                    corpus.symbols.len().into(),
                    oracle.queries().into(),
                    if found.certified { "yes" } else { "no" }.into(),
                    (log_probability / std::f64::consts::LN_10).into(),
                    log_responses.into(),
                    corpus.decode(&found.response).into(),
                ]);
                bar.inc(1);
                if !found.certified {
                    break;
                }
            }
            Ok(rows)
        })
        .collect::<Result<_>>()?;
    let mut table = Table::new(
        "text",
        &[
            "order",
            "horizon",
            "n_actions",
            "queries",
            "certified",
            "log10_probability",
            "log10_responses",
            "best_response",
        ],
    );
    for row in rows.into_iter().flatten() {
        table.push(row);
    }
    Ok(table)
}

/// The longest certified horizon of each order, and the one after it.
pub fn summary(text: &Table) -> Result<Table> {
    let mut table = Table::new(
        "text summary",
        &[
            "order",
            "H",
            "queries",
            "certified",
            "log10 p*",
            "log10 A^H",
            "best response",
        ],
    );
    for order in text.distinct("order")? {
        let rows = text.filter("order", &order)?;
        for row in &rows.rows()[rows.len().saturating_sub(2)..] {
            let rounded = |cell: &Cell| match cell {
                Cell::Float(value) => format!("{value:.2}").into(),
                other => other.clone(),
            };
            let response: Cell = format!("{:?}", row[7].text()).into();
            table.push([
                row[0].clone(),
                row[1].clone(),
                row[3].clone(),
                row[4].clone(),
                rounded(&row[5]),
                rounded(&row[6]),
                response,
            ]);
        }
    }
    Ok(table)
}
