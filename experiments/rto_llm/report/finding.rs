//! Sentences about data, each true on both sides of its threshold.

use rto_bridge::win_rate::{Comparison, Estimate, Matrix, OverSeeds, Summary};
use rto_harness::html::{escape, number};
use rto_harness::methods::label;

/// The level of the sign test, after Holm's correction.
pub const ALPHA: f64 = 0.05;
/// The title of a figure that has nothing to say.
pub const NO_FINDING: &str = "What each method pays in KL for its reward";
/// What the paper compares RTO with.
const RIVALS: [&str; 3] = ["dpo", "ppo", "dppo"];

/// Below these, an order of methods is an order of coin flips.
pub const FEWEST_STEPS: u64 = 10;
/// The fewest held-out prompts that a statement is made from.
pub const FEWEST_PROMPTS: usize = 50;

/// Why a run says nothing about which method is better, where that is so.
pub fn too_small(steps: Option<u64>, prompts: usize) -> Option<String> {
    let few = [
        steps
            .filter(|n| *n < FEWEST_STEPS)
            .map(|n| number_of(n as usize, "iteration")),
        (prompts < FEWEST_PROMPTS).then(|| number_of(prompts, "held-out prompt")),
    ];
    let few: Vec<String> = few.into_iter().flatten().collect();
    (!few.is_empty()).then(|| few.join(" and "))
}

/// A method's KL, and its reward with the ends of its interval.
pub struct Mean<'a> {
    pub name: &'a str,
    pub kl: f64,
    pub reward: [f64; 3],
}

/// What the figure of reward against KL shows about RTO and its rivals at the same settings.
pub fn title(means: &[Mean<'_>]) -> String {
    let Some(rto) = means.iter().find(|m| m.name == "rto") else {
        return NO_FINDING.into();
    };
    let rivals = || means.iter().filter(|m| RIVALS.contains(&m.name));
    let names = |some: Vec<&Mean<'_>>| {
        let labels: Vec<&str> = some.iter().map(|m| label(m.name)).collect();
        list(&labels)
    };
    let dearer = |m: &&Mean<'_>| rto.kl > m.kl && rto.reward[0] <= m.reward[0];
    let better = |m: &&Mean<'_>| rto.kl <= m.kl && rto.reward[1] > m.reward[2];
    let (dearer, better): (Vec<_>, Vec<_>) = (
        rivals().filter(dearer).collect(),
        rivals().filter(better).collect(),
    );
    match (dearer.is_empty(), better.is_empty()) {
        (false, true) => format!(
            "RTO pays more KL than {} here, for no more reward",
            names(dearer)
        ),
        (true, false) => format!(
            "RTO gets more reward than {} here, for no more KL",
            names(better)
        ),
        _ => NO_FINDING.into(),
    }
}

/// `A`, `A and B`, `A, B and C`.
pub fn list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_string(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// `1 seed`, `2 seeds`.
pub fn number_of(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

/// Which method has the highest mean reward, and which others are significantly behind it. HTML.
pub fn best(methods: &[Summary], matrix: &Matrix) -> Option<String> {
    let names: Vec<&str> = methods.iter().map(|m| m.name.as_str()).collect();
    let values: Vec<f64> = methods.iter().map(|m| m.score.value).collect();
    highest(
        &names,
        &values,
        &|i| range(methods[i].score),
        &|row, column| {
            let ahead = |c: &Comparison| standing(c) == Standing::Ahead;
            matrix.get(row, column).is_some_and(ahead)
        },
    )
}

/// The same over seeds. HTML.
pub fn best_over_seeds(
    names: &[&str],
    rewards: &[f64],
    cells: &[Vec<Option<OverSeeds>>],
) -> Option<String> {
    highest(names, rewards, &|i| number(rewards[i]), &|row, column| {
        cells[row][column].is_some_and(|c| side(&c.rate) == Standing::Ahead)
    })
}

/// Method by method: a mean, how it is written, and whether a row is significantly ahead of a column.
fn highest(
    names: &[&str],
    values: &[f64],
    shown: &dyn Fn(usize) -> String,
    ahead: &dyn Fn(usize, usize) -> bool,
) -> Option<String> {
    let top = values.iter().copied().max_by(f64::total_cmp)?;
    let first: Vec<usize> = (0..names.len()).filter(|&i| values[i] == top).collect();
    let bold: Vec<String> = first
        .iter()
        .map(|&i| format!("<b>{}</b>", escape(label(names[i]))))
        .collect();
    let bold: Vec<&str> = bold.iter().map(String::as_str).collect();
    let [only] = first[..] else {
        return Some(format!(
            "{} share the highest mean reward, {}.",
            list(&bold),
            number(top)
        ));
    };
    let others = (0..names.len()).filter(|&column| column != only);
    let behind = others.filter(|&column| ahead(only, column)).count();
    let rest = match (behind, names.len() - 1) {
        (_, 0) => String::new(),
        (0, 1) => "; the other method is not significantly behind it".into(),
        (0, _) => "; no other method is significantly behind it".into(),
        (1, 1) => "; the other method is significantly behind it".into(),
        (n, all) if n == all => format!("; all {all} others are significantly behind it"),
        (1, all) => format!("; 1 of the {all} others is significantly behind it"),
        (n, all) => format!("; {n} of the {all} others are significantly behind it"),
    };
    Some(format!(
        "{} has the highest mean reward, {}{rest}.",
        bold[0],
        shown(only)
    ))
}

/// What a comparison says about its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Significantly better.
    Ahead,
    /// Significantly worse.
    Behind,
    /// Neither.
    Open,
}

/// The sign test counts prompts and the rate averages over them; where they point to different sides nothing is said.
pub fn standing(c: &Comparison) -> Standing {
    let [won, _, lost] = c.won_tied_lost;
    if c.p_holm > ALPHA {
        return Standing::Open;
    }
    match (won.cmp(&lost), c.rate.value) {
        (std::cmp::Ordering::Greater, rate) if rate > 0.5 => Standing::Ahead,
        (std::cmp::Ordering::Less, rate) if rate < 0.5 => Standing::Behind,
        _ => Standing::Open,
    }
}

/// The side of one half on which an interval lies.
pub fn side(rate: &Estimate) -> Standing {
    match rate {
        rate if rate.low > 0.5 => Standing::Ahead,
        rate if rate.high < 0.5 => Standing::Behind,
        _ => Standing::Open,
    }
}

/// A row against a column over seeds, in words. HTML.
pub fn over_seeds(row: &str, column: &str, c: &OverSeeds) -> String {
    let (row, column) = (escape(label(row)), escape(label(column)));
    let what = match side(&c.rate) {
        Standing::Ahead => format!("{row} is ahead of {column}"),
        Standing::Behind => format!("{row} is behind {column}"),
        Standing::Open => format!("{row} and {column} are not told apart"),
    };
    let equal = match c.length_controlled {
        Some(e) => format!(", at equal length on {}", share_range(e)),
        None => String::new(),
    };
    format!(
        "{what}: {row} has the higher reward on {} of the prompts{equal}.",
        share_range(c.rate)
    )
}

/// A row of the matrix against a column, in words. HTML.
pub fn versus(row: &str, column: &str, c: &Comparison) -> String {
    let (row, column) = (escape(label(row)), escape(label(column)));
    let p = match p_value(c.p_holm) {
        p if p.starts_with('&') => p,
        p => format!("= {p}"),
    };
    let rate = format!(
        "{row} has the higher reward on {} of the prompts, ties counted half",
        share_range(c.rate)
    );
    let equal = match c.length_controlled {
        Some(e) => format!("; at equal length on {}", share_range(e)),
        None => String::new(),
    };
    let (what, test) = match standing(c) {
        Standing::Ahead => (format!("{row} is ahead of {column}"), "significant"),
        Standing::Behind => (format!("{row} is behind {column}"), "significant"),
        Standing::Open if c.p_holm <= ALPHA => (
            format!("{row} and {column} are not told apart"),
            "significant in the number of prompts, whose direction is not that of the mean",
        ),
        Standing::Open => (
            format!("{row} and {column} are not told apart"),
            "not significant",
        ),
    };
    format!("{what}: {rate}{equal} ({test} after Holm's correction, p {p}).")
}

/// `1.234 [1.1, 1.4]`.
pub fn range(e: Estimate) -> String {
    format!(
        "{} [{}, {}]",
        number(e.value),
        number(e.low),
        number(e.high)
    )
}

/// `42.4% [37.6, 47.3]`.
pub fn share_range(e: Estimate) -> String {
    format!(
        "{}% [{}, {}]",
        percent(e.value),
        percent(e.low),
        percent(e.high)
    )
}

/// The share in per cent, without its sign.
pub fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

/// Four decimals, or that it is smaller.
pub fn p_value(p: f64) -> String {
    match p {
        p if p < 1e-4 => "&lt; 0.0001".into(),
        p => format!("{p:.4}"),
    }
}

/// The most replies of a best-of-n that a method has to lie above before it pays.
const BEST_OF: f64 = 4.0;

/// A baseline in words, `None` of one that a method need not lie above.
pub fn baseline(policy: &str, parameter: f64) -> Option<String> {
    match policy {
        "sft" => Some("SFT".into()),
        "greedy" => Some("SFT decoded greedily".into()),
        "sharpened" => Some(format!("SFT at temperature {parameter}")),
        "best_of_reward_model" if parameter <= BEST_OF => Some(format!(
            "the best of {parameter} replies by the reward model"
        )),
        "best_of_dpo" if parameter <= BEST_OF => {
            Some(format!("the best of {parameter} replies by the DPO reward"))
        }
        _ => None,
    }
}

/// Whether anything that was trained on preferences ends, in exact value at β, above SFT at every temperature and the best of up to four of its
/// replies: methods and baselines with their values. Plain text.
pub fn pays(
    methods: &[(&str, f64)],
    baselines: &[(String, f64)],
    beta: Option<&str>,
) -> Option<String> {
    let highest = |a: &f64, b: &f64| a.total_cmp(b);
    let (against, bar) = baselines.iter().max_by(|a, b| highest(&a.1, &b.1))?;
    let trained: Vec<&(&str, f64)> = methods
        .iter()
        .filter(|m| !["sft", "optimum"].contains(&m.0))
        .collect();
    let (top, best) = trained.iter().max_by(|a, b| highest(&a.1, &b.1))?;
    let above: Vec<String> = trained
        .iter()
        .filter(|m| m.1 > *bar)
        .map(|m| format!("{} ({})", label(m.0), number(m.1)))
        .collect();
    let above: Vec<&str> = above.iter().map(String::as_str).collect();
    let value = match beta {
        Some(beta) => format!("In exact value at β = {beta}"),
        None => "In exact value".into(),
    };
    let all = "SFT at every temperature and the best of four of its replies";
    Some(match above.len() {
        0 => format!(
            "{value} nothing that was trained ends above {all}: {} has {}, {} ends highest with {}.",
            against,
            number(*bar),
            label(top),
            number(*best)
        ),
        n => format!(
            "{value} {} {} above {all}, of which {} has the most, {}.",
            list(&above),
            if n == 1 { "ends" } else { "end" },
            against,
            number(*bar)
        ),
    })
}

#[cfg(test)]
mod tests;
