//! Queries per core-second of the searches, one JSON line per run, for `benches/side_by_side.py`.
//!
//! `search_rate best-first A H TEMPERATURE` | `search_rate sentence A H` | `search_rate needle A H`

use rto::search::best_first::{BestFirst, Pick, best_first};
use rto::search::bounds::needle_queries;
use rto::search::evaluator::{EvaluatorOracle, NeedleChain, SoftmaxTree};
use rto::search::exhaustive::{Order, exhaustive};
use rto::search::mass::LogMass;
use rto::search::oracle::CountingOracle;
use rto::seed::SeedTree;
use rto::{Error, Result, Token};
use std::time::Instant;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| -> Result<f64> {
        let text = args.get(i).map(String::as_str).unwrap_or("");
        text.parse()
            .map_err(|_| Error::config(format!("argument {i}"), text, "a number"))
    };
    let run: Box<dyn Fn() -> Result<u64>> = match args.first().map(String::as_str) {
        Some("best-first") => {
            let tree = SoftmaxTree::new(number(1)? as usize, number(2)? as usize, number(3)?, 0)?;
            Box::new(move || {
                let mut oracle = CountingOracle::with_budget(EvaluatorOracle::new(&tree), 200_000);
                best_first(&mut oracle, &BestFirst::default())?;
                Ok(oracle.queries())
            })
        }
        Some("sentence") => {
            let tree = SoftmaxTree::new(number(1)? as usize, number(2)? as usize, 2.0, 0)?;
            Box::new(move || {
                let mut oracle = CountingOracle::new(EvaluatorOracle::new(&tree));
                exhaustive(&mut oracle, Order::Lexicographic, false)?;
                Ok(oracle.queries())
            })
        }
        Some("needle") => {
            use rand::Rng;
            let (a, h) = (number(1)? as usize, number(2)? as usize);
            let mut rng = SeedTree::new(0).child("needle").rng();
            let main: Vec<Token> = (0..h)
                .map(|_| rng.random_range(0..64.min(a as Token)))
                .collect();
            let tree = NeedleChain::<LogMass>::with_optimum(a, main.clone(), 0.6)?;
            Box::new(move || {
                let mut oracle = CountingOracle::new(EvaluatorOracle::new(&tree));
                let found = best_first(&mut oracle, &BestFirst::default())?;
                assert!(found.certified && found.response == main);
                assert_eq!(oracle.queries(), needle_queries(a, &main, Pick::Lowest));
                Ok(oracle.queries())
            })
        }
        other => {
            return Err(Error::config(
                "search",
                other.unwrap_or("nothing"),
                "best-first, sentence or needle",
            ));
        }
    };
    // The system's clock of core time is coarse: a sample repeats the search for a tenth of a second.
    let queries = run()?;
    let mut times = Vec::new();
    for _ in 0..5 {
        let (before, mut searches) = (core_seconds(), 0.0);
        while searches == 0.0 || core_seconds() - before < 0.1 {
            run()?;
            searches += 1.0;
        }
        times.push((core_seconds() - before) / searches);
    }
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    println!(
        "{{\"queries\": {queries}, \"core_seconds\": {median}, \"us_per_query\": {}}}",
        median * 1e6 / queries as f64
    );
    Ok(())
}

/// Seconds this thread has run on a core, where the system tells (Linux); wall time elsewhere.
fn core_seconds() -> f64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let wall = START.get_or_init(Instant::now).elapsed().as_secs_f64();
    let on_core = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    on_core
        .and_then(|s| s.split(' ').next()?.parse::<f64>().ok())
        .map_or(wall, |ns| ns * 1e-9)
}
