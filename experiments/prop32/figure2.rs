//! Figure 2 of the paper: the tree, its frontier N, and the order in which subtrees are deleted.

use anyhow::Result;
use rto::Token;
use rto::search::best_first::{BestFirst, Pick, best_first_traced};
use rto::search::evaluator::{Evaluator, EvaluatorOracle, LeafWeights};
use rto::search::oracle::CountingOracle;
use rto::search::paper::{Deletion, PaperSearch};
use rto_harness::table::{Cell, Table};
use std::fmt::Write;

/// τ = A^{−ξ} = 1/2, in thirty-seconds.
const THRESHOLD: u128 = 16;

/// The trace for people and the nodes for the figure.
pub struct Figure2 {
    /// What is printed.
    pub text: String,
    /// One row for each node.
    pub nodes: Table,
}

/// Runs the paper's algorithm on the path the figure shows (*, then †, then 1/4), and best-first search.
pub fn run() -> Result<Figure2> {
    let tree = LeafWeights::figure2();
    let mut text = String::from(
        "Figure 2 (A = 2, H = 3, xi = 1): masses in 1/32, heavy means at least 16/32\n",
    );
    let mut oracle = CountingOracle::new(EvaluatorOracle::new(&tree));
    let mut learner = PaperSearch::new(&mut oracle)?;
    let mut deletions = Vec::new();
    for response in [[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]] {
        let deletion = learner.query(&mut oracle, &response, |m| *m >= THRESHOLD)?;
        let what = if deletion.in_frontier {
            "a node of N"
        } else {
            "heavy itself, so no node of N: recorded and removed"
        };
        writeln!(
            text,
            "  query {} ({}/32): delete everything below {:<3} ({what})",
            name(&deletion.query),
            deletion.mass,
            name(&deletion.deleted)
        )?;
        deletions.push(deletion);
    }
    writeln!(
        text,
        "  the paper's algorithm: {} queries, in each of the 8! orders (claimed: at most 4)",
        oracle.queries()
    )?;
    for (pick, how) in [
        (Pick::Highest, "highest child first"),
        (Pick::Lowest, "lowest child first"),
    ] {
        let mut oracle = CountingOracle::new(EvaluatorOracle::new(&tree));
        let mut queries = Vec::new();
        best_first_traced(
            &mut oracle,
            &BestFirst {
                pick,
                ..BestFirst::default()
            },
            &mut |step| queries.push(name(&step.query)),
        )?;
        let last = tree.level(3)[0];
        writeln!(
            text,
            "  best-first, {how}: scores {} ({}), certifying 000 with {last}/32",
            oracle.queries(),
            queries.join(", ")
        )?;
    }
    Ok(Figure2 {
        text,
        nodes: nodes(&tree, &deletions),
    })
}

fn nodes(tree: &LeafWeights<u128>, deletions: &[Deletion<u128>]) -> Table {
    let mut table = Table::new(
        "figure2",
        &[
            "prefix",
            "depth",
            "mass_32nds",
            "heavy",
            "in_frontier",
            "optimal",
            "deleted_by_query",
        ],
    );
    for depth in 0..=tree.horizon() {
        for (code, mass) in tree.level(depth).iter().enumerate() {
            let prefix = tree.tokens(code, depth);
            let deletion = deletions.iter().position(|d| d.deleted == prefix);
            let in_frontier = deletion.is_some_and(|i| deletions[i].in_frontier);
            table.push([
                format!("y{}", name(&prefix)).into(),
                depth.into(),
                (*mass).into(),
                yes(*mass >= THRESHOLD),
                yes(in_frontier),
                yes(depth == tree.horizon() && code == tree.best().0),
                deletion.map(|i| i + 1).into(),
            ]);
        }
    }
    table
}

fn yes(flag: bool) -> Cell {
    if flag { "yes" } else { "no" }.into()
}

/// The tokens one after the other: "011".
fn name(tokens: &[Token]) -> String {
    tokens.iter().map(u32::to_string).collect()
}
