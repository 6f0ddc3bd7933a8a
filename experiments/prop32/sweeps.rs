//! Counts over horizons, vocabularies and ξ, measured beside the closed forms.

use crate::config::Config;
use anyhow::Result;
use num_rational::BigRational;
use rayon::prelude::*;
use rto::search::adversary::Adversary;
use rto::search::best_first::{BestFirst, Pick, best_first};
use rto::search::bounds::{
    chains_for_xi, frontier_max, minimax, paper_bound, paper_queries_max, randomised_lower_bound,
    sentence_worst_case,
};
use rto::search::evaluator::{Chains, Evaluator, EvaluatorOracle};
use rto::search::exhaustive::{Order, exhaustive};
use rto::search::mass::Mass;
use rto::search::oracle::{CountingOracle, Scored, TokenOracle};
use rto::search::paper::paper_search;
use rto_harness::progress::Progress;
use rto_harness::table::{Cell, Table};

/// Trees on which the sweeps search have at most so many chains times levels.
const MOST_CHAINS: u128 = 40_000;

/// Exact masses have some 60 bits a level; runs on deeper trees would take minutes, formulas do not.
const DEEPEST_RUN: usize = 48;

/// What the claim table shows.
pub const CLAIM_TEXT: &str = "\
Proposition 3.2 says that token feedback finds y* within A^min(xi+1,H) scored
responses. It does not: each row is the first horizon at which a count exceeds
that (A = 2, xi = 1, so the claim is 4), k chains of prefixes staying heavy;
`zeros_allowed` says whether pi* may be zero. `exact minimax` is what the best
deterministic learner needs against the worst pi*; it grows linearly in H.";

/// The claim, the counterexample and the corrected bound.
pub fn claim_table() -> Result<Table> {
    let mut table = Table::new(
        "claim",
        &[
            "quantity",
            "zeros_allowed",
            "k",
            "claimed",
            "first_h_above",
            "value_there",
            "at_h_16",
            "corrected_closed_form",
        ],
    );
    type Formula = fn(usize, usize, u128) -> u128;
    let rows: [(&str, Formula, &str); 3] = [
        ("|N|", frontier_max, "(A-1) sum_{h<H} min(A^h,K)"),
        (
            "paper's algorithm",
            paper_queries_max,
            "1 + (A-1) sum_{h<H} min(A^h,K)",
        ),
        (
            "exact minimax M",
            minimax,
            "1 + (A-1) sum_{h<H-1} min(A^h,K) + (A-2) min(A^(H-1),K)",
        ),
    ];
    for (name, formula, form) in rows {
        for zeros in [false, true] {
            let (k, claimed) = (chains_for_xi(2, 1.0, zeros), paper_bound(2, 16, 1.0));
            let first = (1..=64).find(|h| formula(2, *h, k) as f64 > claimed);
            table.push([
                name.into(),
                if zeros { "yes" } else { "no" }.into(),
                k.into(),
                claimed.into(),
                first.into(),
                first.map(|h| formula(2, h, k)).into(),
                formula(2, 16, k).into(),
                form.into(),
            ]);
        }
    }
    Ok(table)
}

/// What the sweep table shows.
pub const SWEEP_TEXT: &str = "\
Scored responses until the optimum is certain. `measured` are runs: the paper's
algorithm and best-first search (luckiest and unluckiest child order) on K
chains, best-first search against the adaptive adversary, sentence feedback by
enumeration. Each measured worst case equals its closed form (K chains:
K = ceil(A^xi)-1).";

/// One cell of a sweep.
#[derive(Debug, Clone)]
struct Setting {
    id: String,
    sweep: &'static str,
    n_actions: usize,
    horizon: usize,
    xi: f64,
}

/// All sweeps, one row for each setting and method; `work` is their share of the run.
pub fn run(config: &Config, progress: &Progress, work: f64) -> Result<Table> {
    let mut settings: Vec<Setting> = Vec::new();
    let mut add = |sweep, n_actions, horizon, xi| {
        let id = format!("prop32/{sweep}/{}", settings.len());
        settings.push(Setting {
            id,
            sweep,
            n_actions,
            horizon,
            xi,
        });
    };
    config
        .horizons
        .iter()
        .for_each(|h| add("horizon", config.actions, *h, config.xi));
    config
        .vocabularies
        .iter()
        .for_each(|a| add("vocabulary", *a, config.vocabulary_horizon, config.xi));
    config
        .xis
        .iter()
        .for_each(|xi| add("xi", config.actions, config.xi_horizon, *xi));

    let bar = progress.part(settings.len() as u64, "counting queries", work);
    let rows: Vec<Vec<Vec<Cell>>> = settings
        .par_iter()
        .map(|setting| {
            let rows = setting.rows(config.enumeration_limit);
            bar.inc(1);
            rows
        })
        .collect::<Result<_>>()?;
    let mut table = Table::new(
        "counts",
        &[
            "id",
            "sweep",
            "n_actions",
            "horizon",
            "xi",
            "chains",
            "method",
            "source",
            "queries",
        ],
    );
    for row in rows.into_iter().flatten() {
        table.push(row);
    }
    Ok(table)
}

impl Setting {
    fn rows(&self, enumeration_limit: u64) -> Result<Vec<Vec<Cell>>> {
        let (a, h) = (self.n_actions, self.horizon);
        let k = chains_for_xi(a, self.xi, false);
        let most = (a as f64).powf(h as f64 - 1.0);
        let placed = if (k as f64) < most { k } else { most as u128 };
        let mut rows = Vec::new();
        let mut row = |method: &str, source: &str, queries: Cell| {
            rows.push(vec![
                self.id.as_str().into(),
                self.sweep.into(),
                a.into(),
                h.into(),
                self.xi.into(),
                k.into(),
                method.into(),
                source.into(),
                queries,
            ]);
        };
        row(
            "sentence, A^H - 1",
            "formula",
            Cell::integer(sentence_worst_case(a, h, true)),
        );
        row(
            "paper's bound",
            "formula",
            paper_bound(a, h, self.xi).into(),
        );
        row("exact minimax", "formula", minimax(a, h, k).into());
        row(
            "paper's algorithm, maximum",
            "formula",
            paper_queries_max(a, h, k).into(),
        );
        row(
            "any randomised learner, at least",
            "formula",
            randomised_lower_bound(a, h).into(),
        );
        if placed * h as u128 <= MOST_CHAINS && h <= DEEPEST_RUN {
            let placed = placed as u64;
            let chains = Chains::<BigRational>::new(a, h, placed)?;
            row("paper's algorithm", "measured", self.paper(&chains)?.into());
            row(
                "best-first, luckiest order",
                "measured",
                self.best_first(&chains, Pick::Highest)?.into(),
            );
            row(
                "best-first, unluckiest order",
                "measured",
                self.best_first(&chains, Pick::Lowest)?.into(),
            );
            row(
                "best-first, adversary",
                "measured",
                self.adversary()?.into(),
            );
            if (a as f64).powf(h as f64) <= enumeration_limit as f64 {
                row("sentence", "measured", self.sentence(&chains)?.into());
            }
        }
        Ok(rows)
    }

    fn paper(&self, chains: &Chains<BigRational>) -> Result<u64> {
        let leaf = heaviest_leaf(chains)?;
        let mut oracle = CountingOracle::new(EvaluatorOracle::new(chains));
        paper_search(&mut oracle, |m| *m >= leaf.mass, Pick::Lowest, |_| {})?;
        Ok(oracle.queries())
    }

    fn best_first(&self, chains: &Chains<BigRational>, pick: Pick) -> Result<u64> {
        let mut oracle = CountingOracle::new(EvaluatorOracle::new(chains));
        best_first(
            &mut oracle,
            &BestFirst {
                pick,
                ..BestFirst::default()
            },
        )?;
        Ok(oracle.queries())
    }

    fn adversary(&self) -> Result<u64> {
        let mut oracle =
            CountingOracle::new(Adversary::for_xi(self.n_actions, self.horizon, self.xi)?);
        let found = best_first(&mut oracle, &BestFirst::default())?;
        let p_star = found.mass.ratio(&oracle.root()?.mass);
        anyhow::ensure!(
            p_star >= (self.n_actions as f64).powf(-self.xi),
            "{}: the adversary left Assumption 3.1 (p* = {p_star})",
            self.id
        );
        Ok(oracle.queries())
    }

    fn sentence(&self, chains: &Chains<BigRational>) -> Result<u64> {
        let mut oracle = CountingOracle::new(EvaluatorOracle::new(chains));
        exhaustive(&mut oracle, Order::Lexicographic, true)?;
        Ok(oracle.queries())
    }
}

/// The one heavy leaf of a chain tree: always the last child.
fn heaviest_leaf<E: Evaluator>(tree: &E) -> rto::Result<Scored<E::Mass, E::State>> {
    let last = tree.n_actions() as u32 - 1;
    (0..tree.horizon()).try_fold(tree.root()?, |at, _| tree.child(&at, last))
}

/// The table on the terminal: a setting a row, a method a column.
pub fn summary(counts: &Table) -> Result<Table> {
    let methods = [
        ("sentence, A^H - 1", "A^H-1"),
        ("sentence", "sentence run"),
        ("paper's bound", "claimed"),
        ("paper's algorithm", "paper's alg."),
        ("best-first, adversary", "vs adversary"),
        ("exact minimax", "minimax M"),
        ("best-first, unluckiest order", "unluckiest"),
        ("best-first, luckiest order", "luckiest"),
    ];
    let mut columns = vec!["sweep", "A", "H", "xi"];
    columns.extend(methods.iter().map(|(_, short)| *short));
    let mut table = Table::new("summary", &columns);
    for id in counts.distinct("id")? {
        let rows = counts.filter("id", &id)?;
        let first = &rows.rows()[0];
        let mut row: Vec<Cell> = [1, 2, 3, 4].iter().map(|i| first[*i].clone()).collect();
        for (method, _) in methods {
            let found = rows.filter("method", method)?;
            row.push(found.rows().first().map_or(Cell::Empty, |r| shown(&r[8])));
        }
        table.push(row);
    }
    Ok(table)
}

/// Large numbers by their size.
fn shown(cell: &Cell) -> Cell {
    match cell {
        Cell::Integer(digits) if digits.len() > 9 => {
            format!("{:.2e}", digits.parse::<f64>().unwrap_or(f64::NAN)).into()
        }
        Cell::Float(value) => format!("{value:.4}")
            .trim_end_matches('0')
            .trim_end_matches('.')
            .into(),
        other => other.clone(),
    }
}
