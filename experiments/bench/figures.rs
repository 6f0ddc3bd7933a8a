//! Figures from the CSV files alone.

use anyhow::Result;
use rto_harness::plot::{Axis, Figure, Kind, LegendPlace, Marker, Panels, Series, SeriesStyle};
use rto_harness::settings::Settings;
use rto_harness::table::Table;
use std::path::Path;

use crate::config::{Config, PARTS};
use crate::{coverage, offline, online, overopt};

/// A figure, the table that it is drawn from, and how.
pub type Drawing = (&'static str, &'static str, fn(&Table) -> Result<Panels>);

/// Every figure of the bench, part by part.
pub const FIGURES: [Drawing; 7] = [
    ("offline", "offline", offline_figure),
    ("ties", "offline", ties_figure),
    (
        "offline_coverage",
        "offline_coverage",
        offline_coverage_figure,
    ),
    ("online", "online", online_figure),
    ("overopt", "overopt", overopt_figure),
    ("coverage", "coverage", coverage_figure),
    ("claims", "claims", claims_figure),
];

/// Draws every figure of a run folder: those of its parts, or all where no config says which.
pub fn draw_all(dir: &Path) -> Result<()> {
    for (figure, table, draw) in figures_of(dir)? {
        draw(&read(dir, table)?)?.save(dir, figure)?;
    }
    Ok(())
}

/// The figures of the parts that a run has.
pub fn figures_of(dir: &Path) -> Result<Vec<Drawing>> {
    let config = dir.join("config.toml");
    let parts = match config.is_file() {
        true => Config::saved(dir, &serde_json::Map::new())?.parts,
        false => PARTS.map(String::from).to_vec(),
    };
    let of = |table: &str| match table {
        "offline_coverage" => "offline".to_string(),
        other => other.to_string(),
    };
    let run = |(_, table, _): &Drawing| parts.contains(&of(table));
    Ok(FIGURES.into_iter().filter(run).collect())
}

pub fn read(dir: &Path, name: &str) -> Result<Table> {
    Table::from_csv(&dir.join(format!("{name}.csv")))
}

/// Label and look of a method in the offline figure; the rest stands in the table.
const SHOWN: [(&str, &str, usize, Marker); 6] = [
    ("dpo", "DPO", 0, Marker::Square),
    ("chipo", "χPO", 1, Marker::Circle),
    ("rpo", "RPO, η = n^(−1/2)", 2, Marker::Triangle),
    ("ipo", "IPO", 3, Marker::Diamond),
    ("tdpo1", "TDPO-1", 5, Marker::Cross),
    ("kto", "KTO", 7, Marker::Circle),
];

/// Methods of the table that the figure leaves out, as a sentence calls them.
const LEFT_OUT: [(&str, &str); 6] = [
    ("rdpo", "R-DPO"),
    ("ipo_mean", "IPO on means per token"),
    ("simpo", "SimPO without a margin"),
    ("simpo_gamma", "SimPO"),
    ("hypo", "HyPO"),
    ("caldpo", "Cal-DPO"),
];

/// The name of a method in figures and sentences.
pub fn label(method: &str) -> &str {
    let shown = SHOWN.iter().map(|(name, label, ..)| (name, label));
    let mut all = shown.chain(LEFT_OUT.iter().map(|(name, label)| (name, label)));
    all.find(|(name, _)| **name == method)
        .map_or(method, |(_, label)| label)
}

/// Where a band of few trees that reaches 0 ends on a log axis.
const BAND_FLOOR: f64 = 2e-3;

fn offline_figure(table: &Table) -> Result<Panels> {
    let mut figures = Vec::new();
    for family in &offline::FAMILIES {
        let rows = table.filter("family", family.name)?;
        let mut figure = Figure::new(
            &family_title(family),
            Axis::log10("preference pairs"),
            Axis::log10("plain regret at the best β"),
        );
        for (name, label, color, marker) in SHOWN {
            let rows = rows.filter("method", name)?;
            let style = SeriesStyle::new(Kind::LineMarkers, color, marker);
            // Regret is positive; an interval of few trees may reach below, which a log axis cannot show.
            let positive =
                |band: Vec<(f64, f64)>| band.iter().map(|(l, h)| (l.max(BAND_FLOOR), *h)).collect();
            let band = positive(rows.points("regret_low", "regret_high")?);
            figure =
                figure.with(Series::new(label, rows.points("pairs", "regret")?, style).band(band));
        }
        figures.push(figure.legend(LegendPlace::Below));
    }
    let trees = table.texts("trees")?.first().cloned().unwrap_or_default();
    let mut panels = Panels::new("Offline methods at their best β: plain regret against pairs", 3, figures)
        .subtitle("random token trees, pairs from π_ref, exact minimisers")
        .caption(&format!(
            "Means over {trees} trees with 95% intervals. β is chosen from six on the trees of the other parity. Bands that reach 0 end at {BAND_FLOOR}. TDPO-1 and KTO target other policies than the soft optimum."
        ));
    panels.panel_size = (400, 340);
    Ok(panels)
}

/// Regret under the tie rules: what the class leaves open matters where pairs are few.
fn ties_figure(table: &Table) -> Result<Panels> {
    let mut figures = Vec::new();
    for family in &offline::FAMILIES {
        let rows = table.filter("family", family.name)?;
        let mut figure = Figure::new(
            &family_title(family),
            Axis::log10("preference pairs"),
            Axis::log10("plain regret at the best β"),
        );
        for (i, name) in offline::TIED.iter().enumerate() {
            let rows = rows.filter("method", name)?;
            let label = match *name {
                "dpo, zero mean" => "DPO, zero mean",
                "dpo, least KL" => "DPO, least KL",
                "dpo, worst in the band" => "DPO, worst in the band",
                "chipo, zero mean" => "χPO, zero mean",
                _ => "χPO, worst in the band",
            };
            let band = (rows.points("regret_low", "regret_high")?.into_iter())
                .map(|(l, h)| (l.max(BAND_FLOOR), h))
                .collect();
            figure = figure.with(
                Series::new(label, rows.points("pairs", "regret")?, SeriesStyle::nth(i)).band(band),
            );
        }
        figures.push(figure.legend(LegendPlace::Below));
    }
    let mut panels = Panels::new("What the pairs leave open: scores tied by three rules", 3, figures)
        .subtitle("components of the comparison graph with mean 0 each, with the masses of least KL, or where regret is largest in |t − t′| ≤ 4")
        .caption("Scores are fitted in the class |t − t′| ≤ 4, in which every table has a minimiser. Where all responses are compared the rules are one. Means with 95% intervals; β as in the figure of methods.");
    panels.panel_size = (400, 340);
    Ok(panels)
}

/// SubOpt at the common β in quarters of the trees by the coverage of π*, at the middle number of pairs.
fn offline_coverage_figure(table: &Table) -> Result<Panels> {
    let sizes = table.distinct("pairs")?;
    let pairs = sizes.get(sizes.len() / 2).cloned().unwrap_or_default();
    let mut figures = Vec::new();
    for family in &offline::FAMILIES {
        let rows = table
            .filter("family", family.name)?
            .filter("pairs", &pairs)?;
        let mut figure = Figure::new(
            &family_title(family),
            Axis::log10("coverage E_π*[π*/π_ref]"),
            Axis::log10("SubOpt at the common β"),
        );
        for (name, label, color, marker) in SHOWN {
            let rows = rows.filter("method", name)?;
            let style = SeriesStyle::new(Kind::LineMarkers, color, marker);
            let band = (rows.points("subopt_low", "subopt_high")?.into_iter())
                .map(|(l, h)| (l.max(BAND_FLOOR), h))
                .collect();
            figure = figure
                .with(Series::new(label, rows.points("coverage", "subopt")?, style).band(band));
        }
        figures.push(figure.legend(LegendPlace::Below));
    }
    let mut panels = Panels::new("SubOpt against how badly the data cover the optimum", 3, figures)
        .subtitle(&format!("{pairs} pairs from π_ref; quarters of the trees by coverage"))
        .caption(&format!("Means over the trees of a quarter with 95% intervals. Bands that reach 0 end at {BAND_FLOOR}."));
    panels.panel_size = (400, 340);
    Ok(panels)
}

pub fn family_title(family: &offline::Family) -> String {
    let eos = if family.eos.is_some() {
        ", end of sentence"
    } else {
        ""
    };
    format!("A = {}, H = {}{eos}", family.actions, family.horizon)
}

fn online_figure(table: &Table) -> Result<Panels> {
    let mut figures = Vec::new();
    for instance in ["rare good", "rare bad", "five"] {
        let rows = table.filter("instance", instance)?;
        let betas = rows.distinct("beta")?;
        let Some(hardest) = betas.last() else {
            continue;
        };
        let rows = rows.filter("beta", hardest)?;
        let title = match instance {
            "five" => format!("five responses, β = {hardest}"),
            other => format!("the {} response, β = {hardest}", other),
        };
        let mut figure = Figure::new(
            &title,
            Axis::log10("rounds"),
            Axis::log10("regret, exact per round"),
        );
        for learner in rows.distinct("learner")? {
            let rows = rows.filter("learner", &learner)?;
            for sampler in rows.distinct("sampler")? {
                let rows = rows.filter("sampler", &sampler)?;
                let all = (table.distinct("learner")?, table.distinct("sampler")?);
                let (label, look) = learner_look(&learner, &sampler, &all);
                let band = rows
                    .points("regret_low", "regret_high")?
                    .iter()
                    .map(|(l, h)| (l.max(1e-4), *h))
                    .collect();
                let line = rows.points("round", "regret")?;
                figure = figure.with(Series::new(&label, line, SeriesStyle::nth(look)).band(band));
            }
        }
        if instance == "rare good" {
            let bound = rows
                .filter("learner", "greedy")?
                .filter("sampler", "policy, reference")?
                .points("round", "passive_bound")?;
            let style = SeriesStyle::new(Kind::Dashed, 9, Marker::Circle);
            figure = figure.with(Series::new("lower bound, passive", bound, style));
        }
        figures.push(figure.legend(LegendPlace::Below));
    }
    let mut panels = Panels::new("Online learners: what optimism buys, and what it costs", 3, figures)
        .subtitle("π_ref(rare) = e^(−0.5/β) in the first two")
        .caption("Means with 95% intervals. Optimistic learners draw pairs from (π_t, π_ref), two-stage ones from a greedy policy and its explorer. The lower bound holds in expectation for every learner that draws from policies equal to π_ref until the rare response was met.");
    panels.panel_size = (400, 340);
    Ok(panels)
}

/// Label and look of a learner, the same in every panel.
fn learner_look(
    learner: &str,
    sampler: &str,
    (all, samplers): &(Vec<String>, Vec<String>),
) -> (String, usize) {
    if let Some(rho) = sampler.strip_prefix(online::EXPLORER) {
        let explorers = samplers.iter().filter(|s| s.starts_with(online::EXPLORER));
        let place = explorers.take_while(|s| *s != sampler).count();
        // The first beside the greedy learners, the others behind the optimistic ones.
        let look = if place == 0 { 2 } else { 1 + all.len() + place };
        return (format!("two-stage, ρ ={rho}"), look);
    }
    match (learner, sampler) {
        ("greedy", "policy, reference") => ("greedy, pairs (π_t, π_ref)".into(), 0),
        ("greedy", "policy, policy") => ("greedy, pairs (π_t, π_t)".into(), 1),
        _ => {
            let place = all.iter().position(|name| name == learner).unwrap_or(0);
            let label = learner
                .replace("xpo", "XPO, α =")
                .replace("selm", "SELM, α =");
            (label, 2 + place)
        }
    }
}

fn overopt_figure(table: &Table) -> Result<Panels> {
    let mut figures = Vec::new();
    for error in overopt::ERRORS {
        let rows = table.filter("error", error)?;
        let title = match error {
            "gaussian" => "Gaussian error",
            "student" => "Student t(2) error",
            "rare_trap" => "trap on rare responses",
            "length" => "length error",
            _ => "token-level error",
        };
        let mut figure = Figure::new(
            title,
            Axis::linear("√KL(π‖π_ref)"),
            Axis::linear("gain in true reward"),
        );
        for (i, method) in overopt::METHODS.iter().enumerate() {
            let rows = rows.filter("method", method)?;
            let (label, style) = match *method {
                "frontier" => (
                    "exact frontier",
                    SeriesStyle::new(Kind::Dashed, 7, Marker::Circle),
                ),
                "best_of_n" => ("best-of-N", SeriesStyle::nth_line(i)),
                "soft_best_of_n" => ("soft best-of-N", SeriesStyle::nth_line(i)),
                "tilt" => ("tilt: DPO, RTO, DPPO", SeriesStyle::nth_line(i)),
                _ => ("χPO", SeriesStyle::nth_line(i)),
            };
            figure = figure.with(Series::new(label, rows.points("root_kl", "gain")?, style));
        }
        figures.push(figure.legend(LegendPlace::Below));
    }
    let runs = table.texts("runs")?.first().cloned().unwrap_or_default();
    let mut panels = Panels::new("Over-optimising a proxy: true reward against √KL, exact populations", 3, figures)
        .caption(&format!("Means over {runs} instances at each √KL that all reach. No policy lies above the frontier at its KL."));
    panels.panel_size = (400, 340);
    Ok(panels)
}

fn coverage_figure(table: &Table) -> Result<Panels> {
    let mut figures = Vec::new();
    for family in coverage::FAMILIES {
        let rows = table.filter("family", family)?;
        let title = if family == "random" {
            "random policies, medians"
        } else {
            "deterministic target, data 1 in 4"
        };
        let mut figure = Figure::new(title, Axis::linear("H"), Axis::log10("coefficient"));
        for (i, (column, label)) in [
            ("c_sa", "C_sa, states and actions"),
            ("c_add", "C_add, additive rewards"),
            ("c_tau", "C_τ, responses"),
            ("c_lin", "C_lin, comparisons of π* − μ"),
        ]
        .iter()
        .enumerate()
        {
            figure = figure.with(Series::new(
                label,
                rows.points("horizon", column)?,
                SeriesStyle::nth(i),
            ));
        }
        figures.push(figure.legend(LegendPlace::Below));
    }
    let mut panels = Panels::new(
        "Coverage of additive rewards grows with states, not with responses",
        2,
        figures,
    )
    .subtitle("layered graphs: two states a layer, the next state is the action");
    panels.panel_size = (440, 340);
    Ok(panels)
}

/// A quantity of a claim along the numbers that its settings end with, with its interval.
struct Line {
    points: Vec<(f64, f64)>,
    band: Vec<(f64, f64)>,
}

fn line(claims: &Table, prefix: &str, suffix: &str, quantity: &str) -> Result<Line> {
    let rows = claims.filter("quantity", quantity)?;
    let settings = rows.texts("setting")?;
    let [mean, low, high] = ["mean", "low", "high"].map(|c| rows.floats(c));
    let (mean, low, high) = (mean?, low?, high?);
    let mut line = Line {
        points: Vec::new(),
        band: Vec::new(),
    };
    for (i, setting) in settings.iter().enumerate() {
        let inner = setting
            .strip_prefix(prefix)
            .and_then(|s| s.strip_suffix(suffix));
        if let Some(x) = inner.and_then(|s| s.parse::<f64>().ok()) {
            line.points.push((x, mean[i]));
            let known = |x: f64| if x.is_finite() { x } else { mean[i] };
            line.band.push((known(low[i]), known(high[i])));
        }
    }
    Ok(line)
}

fn claims_figure(table: &Table) -> Result<Panels> {
    let of = |claim: &str| table.filter("claim", claim);
    let series = |label: &str, line: Line, i: usize| {
        Series::new(label, line.points, SeriesStyle::nth(i)).band(line.band)
    };
    let k1 = of("K1")?;
    let mut tie = Figure::new(
        "K1: worst tie, rare response unseen",
        Axis::log10("n"),
        Axis::log10("plain regret at the best β"),
    );
    for (i, (quantity, label)) in [("regret, DPO", "DPO"), ("regret, chi-PO", "χPO")]
        .into_iter()
        .enumerate()
    {
        let one = line(&k1, "one prompt, n = ", "", quantity)?;
        let eight = line(&k1, "eight prompts, n = ", "", quantity)?;
        tie = tie
            .with(series(&format!("K1 {label}, one prompt"), one, i))
            .with(series(&format!("K1 {label}, eight prompts"), eight, i + 2));
    }
    let (k7, mix) = (of("K7")?, of("local_mix")?);
    let share = "share of the reference's";
    let tokens = Figure::new(
        "K7, L7: what token-wise optima lose",
        Axis::linear("H"),
        Axis::linear("SubOpt over that of π_ref"),
    )
    .with(series(
        "K7 TDPO-1, one prompt",
        line(&k7, "one prompt, H = ", "", share)?,
        4,
    ))
    .with(series(
        "K7 TDPO-1, four prompts",
        line(&k7, "four prompts, H = ", "", share)?,
        5,
    ))
    .with(series(
        "L7 token-wise mix, β₁/β₂ = 2.5",
        line(&mix, "H = ", "", share)?,
        6,
    ));
    let rate = Figure::new(
        "L6: the KL fast rate and its constant",
        Axis::log10("pairs n"),
        Axis::linear("n · SubOpt over its limit"),
    )
    .with(series(
        "L6 DPO, six responses",
        line(&of("kl_fast_rate")?, "n = ", "", "n SubOpt over its limit")?,
        7,
    ));
    let q = of("q_sharp_rto")?;
    let rollouts = Figure::new(
        "L4: Q♯ and RTO at equal rollouts",
        Axis::log10("rollouts of π_ref"),
        Axis::log10("SubOpt"),
    )
    .with(series(
        "L4 Q♯, from rewards",
        line(&q, "", " rollouts", "SubOpt, Q-sharp")?,
        8,
    ))
    .with(series(
        "L4 RTO, from comparisons",
        line(&q, "", " rollouts", "SubOpt, RTO")?,
        9,
    ));
    let figures = [tie, tokens, rate, rollouts].map(|f| f.legend(LegendPlace::Below));
    let mut panels = Panels::new("Claims of papers, judged exactly", 2, figures.to_vec())
        .caption("Means over instances with 95% intervals. Every claim with its numbers is on the pages of the program paper.");
    panels.panel_size = (460, 340);
    Ok(panels)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sentence names methods as papers do, not as settings.
    #[test]
    fn every_method_has_a_name_of_its_own() {
        let mut labels: Vec<&str> = offline::names()
            .into_iter()
            .filter(|n| !n.contains(','))
            .map(label)
            .collect();
        assert!(
            labels
                .iter()
                .all(|l| *l != l.to_lowercase() || l.starts_with('χ')),
            "{labels:?}"
        );
        let all = labels.len();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), all);
    }
}
