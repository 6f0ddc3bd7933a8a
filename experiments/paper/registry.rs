//! The index of papers: claims with their verdicts, each judged again on the numbers of this run.

use anyhow::{Context, Result, bail};
use rto_harness::run_dir::RunDir;
use rto_harness::table::Table;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

use crate::expectations;

const REGISTRY: &str = include_str!("registry.toml");

/// The paper whose statements `paper-notes/equations.md` lists, and whose page is `report.html`.
pub const SEED: &str = "2404.18922";

/// All papers and claims.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    #[serde(rename = "paper")]
    pub papers: Vec<Paper>,
    #[serde(rename = "claim")]
    pub claims: Vec<Claim>,
}

/// A paper.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paper {
    /// Its number on arXiv, or a name for what is no paper of its own.
    pub id: String,
    /// A word for `--only`.
    pub short: String,
    pub title: String,
}

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Holds,
    /// True, at a cost or under a condition that the claim does not name.
    Price,
    False,
    /// Nothing that an exact experiment on tables could decide.
    Untestable,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Holds, Self::Price, Self::False, Self::Untestable];

    pub fn word(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Price => "holds with a price",
            Self::False => "false",
            Self::Untestable => "not testable here",
        }
    }

    /// The class of its badge.
    pub fn class(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Price => "repaired",
            Self::False => "false",
            Self::Untestable => "taken",
        }
    }
}

/// One claim of a paper, in our words.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Its number in the index.
    pub id: String,
    pub paper: String,
    pub statement: String,
    /// Instance family and seeds.
    pub family: String,
    pub verdict: Kind,
    /// What is true, in a sentence.
    pub says: String,
    /// Whose rows of `claims.csv` its numbers are; those of its own number unless said.
    #[serde(default)]
    pub data: Option<String>,
    #[serde(default)]
    pub figure: Option<String>,
    /// Tests as `file::name`.
    pub tests: Vec<String>,
    /// The experiment that the numbers are of; `bench` unless said.
    #[serde(default = "bench")]
    pub experiment: String,
    /// The numbers that the verdict stands on.
    #[serde(default, rename = "check")]
    pub checks: Vec<Check>,
}

fn bench() -> String {
    "bench".into()
}

/// A number of `claims.csv` with the bounds inside which the verdict stands.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    pub setting: String,
    pub quantity: String,
    #[serde(default)]
    pub stat: Stat,
    #[serde(default)]
    pub at_least: Option<f64>,
    #[serde(default)]
    pub at_most: Option<f64>,
}

/// Which number of a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stat {
    /// The mean, shown with its interval.
    #[default]
    Mean,
    Median,
    Least,
    Most,
    /// The lower end of the interval of the mean.
    Low,
    /// The upper end.
    High,
}

/// A claim after its checks.
#[derive(Debug, Serialize)]
pub struct Judged {
    pub claim: String,
    pub paper: String,
    pub verdict: Kind,
    /// The numbers.
    pub found: Vec<String>,
    /// Whether the numbers of this run bear the verdict out.
    pub holds: bool,
}

/// The registry, checked in itself.
pub fn load() -> Result<Registry> {
    let registry: Registry =
        toml::from_str(REGISTRY).map_err(|e| anyhow::anyhow!("registry.toml: {e}"))?;
    let mut ids = HashSet::new();
    for claim in &registry.claims {
        if !ids.insert(&claim.id) {
            bail!("registry.toml: claim {} is there twice", claim.id);
        }
        if !registry.papers.iter().any(|p| p.id == claim.paper) {
            bail!(
                "registry.toml: claim {}: no paper {}",
                claim.id,
                claim.paper
            );
        }
    }
    Ok(registry)
}

impl Registry {
    /// The paper of this number or short name.
    pub fn paper(&self, name: &str) -> Result<&Paper> {
        let found = self
            .papers
            .iter()
            .find(|p| p.id == name || p.short.eq_ignore_ascii_case(name));
        found.with_context(|| {
            let all: Vec<String> = self
                .papers
                .iter()
                .map(|p| format!("{} ({})", p.short, p.id))
                .collect();
            format!("--only: found {name:?}, expected one of {}", all.join(", "))
        })
    }

    pub fn claims_of<'a>(&'a self, paper: &'a str) -> impl Iterator<Item = &'a Claim> {
        self.claims.iter().filter(move |c| c.paper == paper)
    }

    /// Every claim of these papers on the tables of a run.
    pub fn judge(
        &self,
        dir: &RunDir,
        papers: &[&Paper],
        figures: &[expectations::Outcome],
    ) -> Result<Vec<Judged>> {
        let mut tables: BTreeMap<&str, Table> = BTreeMap::new();
        let mut all = Vec::new();
        for claim in &self.claims {
            if !papers.iter().any(|p| p.id == claim.paper) {
                continue;
            }
            let (mut holds, mut found) = (true, Vec::new());
            if claim.experiment == "bench" {
                if !tables.contains_key("bench") {
                    let path = dir.path("bench/claims.csv");
                    tables.insert("bench", Table::from_csv(&path)?);
                }
                for check in &claim.checks {
                    let (inside, text) =
                        check.on(claim.data.as_ref().unwrap_or(&claim.id), &tables["bench"])?;
                    holds &= inside;
                    found.push(text);
                }
            } else if let Some(figure) = &claim.figure {
                let outcome = figures
                    .iter()
                    .find(|o| o.figure == figure)
                    .with_context(|| format!("registry.toml: claim {}: {figure}", claim.id))?;
                holds = outcome.holds;
                found.push(outcome.found.clone());
            }
            all.push(Judged {
                claim: claim.id.clone(),
                paper: claim.paper.clone(),
                verdict: claim.verdict,
                found,
                holds,
            });
        }
        Ok(all)
    }
}

impl Check {
    /// Whether the number is inside its bounds, and how it reads.
    fn on(&self, claim: &str, table: &Table) -> Result<(bool, String)> {
        let rows = table
            .filter("claim", claim)?
            .filter("setting", &self.setting)?
            .filter("quantity", &self.quantity)?;
        let number = |column: &str| -> Result<f64> {
            let values = rows.floats(column)?;
            values.first().copied().with_context(|| {
                format!(
                    "claims.csv: no row of claim {claim} with setting {:?} and quantity {:?}",
                    self.setting, self.quantity
                )
            })
        };
        let (column, word) = match self.stat {
            Stat::Mean => ("mean", ""),
            Stat::Median => ("median", "median "),
            Stat::Least => ("least", "least "),
            Stat::Most => ("most", "largest "),
            Stat::Low => ("low", "lower end "),
            Stat::High => ("high", "upper end "),
        };
        let value = number(column)?;
        let inside = self.at_least.is_none_or(|b| value >= b)
            && self.at_most.is_none_or(|b| value <= b)
            && !value.is_nan();
        let half = number("high").ok().map(|h| h - number("mean").unwrap_or(h));
        let around = match (self.stat, half) {
            (Stat::Mean, Some(half)) if half.is_finite() && half > 0.0 => {
                format!(" ± {}", short(half))
            }
            _ => String::new(),
        };
        let runs = number("runs")?;
        let outside = if inside { "" } else { " (OUTSIDE its bounds)" };
        let over = if runs > 1.0 {
            format!(", {runs} instances")
        } else {
            String::new()
        };
        Ok((
            inside,
            format!(
                "{}: {word}{} {}{around}{outside}{over}",
                self.setting,
                self.quantity,
                short(value)
            ),
        ))
    }
}

/// Three digits.
fn short(x: f64) -> String {
    match x.abs() {
        0.0 => "0".into(),
        a if !(1e-3..1e5).contains(&a) => format!("{x:.1e}"),
        a if a >= 100.0 => format!("{x:.0}"),
        a if a >= 10.0 => format!("{x:.1}"),
        a if a >= 1.0 => format!("{x:.2}"),
        _ => format!("{x:.3}"),
    }
}
