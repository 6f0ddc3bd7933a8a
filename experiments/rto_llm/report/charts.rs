//! Curves of training, and Figure 3.

use super::load::{Curves, Results};
use anyhow::Result;
use rto_harness::html::Page;
use rto_harness::methods;
use rto_harness::plot::{Axis, Figure, Kind, LegendPlace, Panels, Series, SeriesStyle};
use std::collections::BTreeSet;

/// The implicit reward of the DPO model, under the names it may have.
const IMPLICIT: [&str; 3] = ["reward/dpo_token", "reward/dpo", "objective/scores"];
/// What the policies are compared by, during training: the true reward of a world, or that of an oracle.
pub const TRUE_REWARD: [&str; 3] = [
    "reward/true",
    "objective/true_reward",
    "objective/oracle_reward",
];
const BETA2: &str = "objective/beta2";

/// What a reader looks at first, with the axis it gets.
const SHOWN: [(&str, &str); 16] = [
    ("objective/rlhf_reward", "reward less KL penalty"),
    ("objective/true_reward", "true reward per response"),
    ("reward/true", "true reward per response"),
    (
        "objective/oracle_reward",
        "reward by the oracle per response",
    ),
    ("objective/kl", "KL to the reference (nats)"),
    ("policy/clipfrac_avg", "share of clipped ratios"),
    ("policy/approxkl_avg", "KL of an update (nats)"),
    ("sampler/kl", "log q − log π of the sampler (nats a token)"),
    (
        "sampler/clipfrac",
        "share of tokens with π/q outside the clip range",
    ),
    ("objective/entropy", "entropy (nats)"),
    ("loss/value_avg", "value loss"),
    ("rewards/accuracies", "pairs ranked right (share)"),
    ("rewards/margins", "reward margin"),
    ("loss", "loss"),
    ("tokens_per_second", "tokens per second"),
    ("lr", "learning rate"),
];

/// The most points of a curve; more are averaged in bins, as a screen shows no more.
const POINTS: usize = 160;

impl Curves {
    pub fn get(&self, names: &[&str]) -> Option<&Vec<(f64, f64)>> {
        names.iter().find_map(|name| self.series.get(*name))
    }

    fn beta2(&self) -> Option<f64> {
        self.series.get(BETA2)?.first().map(|p| p.1)
    }

    /// The name of the curve, with β₂ where it is logged.
    fn label(&self) -> String {
        match self.beta2() {
            Some(beta2) => format!("{}, β₂ = {beta2}", methods::label(&self.name)),
            None => methods::label(&self.name).to_string(),
        }
    }
}

/// The look of a stage or method, the same in every figure of the page and of every other page.
fn style(run: &Results, name: &str) -> SeriesStyle {
    let evaluated = run.evaluation.iter().flat_map(|e| &e.methods);
    let names = evaluated.map(|m| m.name.as_str());
    let stages = run.stages.iter().flatten().map(|s| s.name.as_str());
    let looks = methods::curves(names.chain(stages));
    let found = looks.into_iter().find(|(n, _)| *n == name);
    found.map_or_else(SeriesStyle::default, |(_, look)| look)
}

/// Means of equal runs of points.
pub fn thinned(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(most).max(1);
    let mean = |bin: &[(f64, f64)]| {
        let n = bin.len() as f64;
        let sum = bin.iter().fold((0.0, 0.0), |s, p| (s.0 + p.0, s.1 + p.1));
        (sum.0 / n, sum.1 / n)
    };
    points.chunks(size).map(mean).collect()
}

fn line(run: &Results, stage: &Curves, points: &[(f64, f64)]) -> Series {
    Series::new(
        &stage.label(),
        thinned(points, POINTS),
        style(run, &stage.name),
    )
}

/// Figure 3 of the paper: the implicit reward of RTO and DPPO, at different β₂ as printed and at equal β₂.
pub fn figure3(page: &mut Page, run: &Results) -> Result<()> {
    page.section("figure3", "Reward during training (Figure 3)");
    let stages = match &run.stages {
        Ok(stages) => stages,
        Err(absent) => {
            page.absent(&absent.why, absent.damaged);
            return Ok(());
        }
    };
    let [rto, dppo] = ["rto", "dppo"].map(|start| family(stages, start));
    if rto.is_empty() || dppo.is_empty() {
        page.say("<span class=\"absent\">The metrics hold no implicit reward of both a stage rto… and a stage dppo….</span>");
        return Ok(());
    }
    let known = rto.iter().chain(&dppo).all(|s| s.beta2().is_some());
    let panels = match known {
        true => vec![
            panel(run, &rto, &dppo, false, "As printed: different β₂"),
            panel(run, &rto, &dppo, true, "Fair: equal β₂"),
        ],
        false => vec![Some(draw(run, rto.iter().chain(&dppo), "RTO and DPPO"))],
    };
    page.say(
        "Mean implicit reward β₁ log π<sub>dpo</sub>/π<sub>ref</sub> of a batch's responses. The paper draws RTO at the smaller β₂ and \
         DPPO at the larger one; a smaller β₂ alone raises this reward, so only curves at equal β₂ compare where reward is paid.",
    );
    for (panel, kind) in panels.iter().zip(["different", "the same"]) {
        if panel.is_none() {
            page.say(&format!(
                "<span class=\"absent\">No run of RTO and run of DPPO have {kind} β₂ here, so that comparison is missing.</span>"
            ));
        }
    }
    let figures: Vec<Figure> = panels.into_iter().flatten().collect();
    let columns = figures.len().max(1);
    let title = "Implicit reward of RTO and of sentence-level DPO reward (DPPO)";
    let size = if columns == 1 { (800, 400) } else { (460, 360) };
    page.panels(&Panels::new(title, columns, figures).with_size(size))
}

/// The runs of a method that log the implicit reward. RTO as released has another objective, and a reward of its own.
fn family<'a>(stages: &'a [Curves], start: &str) -> Vec<&'a Curves> {
    let has = |s: &&Curves| {
        s.name.starts_with(start) && !s.name.contains("released") && s.get(&IMPLICIT).is_some()
    };
    stages.iter().filter(has).collect()
}

/// The runs that have a partner with another, or with the same, β₂.
fn panel(
    run: &Results,
    rto: &[&Curves],
    dppo: &[&Curves],
    equal: bool,
    title: &str,
) -> Option<Figure> {
    let partner =
        |s: &Curves, others: &[&Curves]| others.iter().any(|o| (o.beta2() == s.beta2()) == equal);
    let paired = |some: &[&Curves], others: &[&Curves]| -> Vec<String> {
        let kept = some.iter().filter(|s| partner(s, others));
        kept.map(|s| s.name.clone()).collect()
    };
    let kept: BTreeSet<String> = [paired(rto, dppo), paired(dppo, rto)]
        .concat()
        .into_iter()
        .collect();
    let all = rto.iter().chain(dppo).filter(|s| kept.contains(&s.name));
    (!kept.is_empty()).then(|| draw(run, all, title))
}

fn draw<'a>(run: &Results, stages: impl Iterator<Item = &'a &'a Curves>, title: &str) -> Figure {
    let figure = Figure::new(
        title,
        Axis::linear("iteration"),
        Axis::linear("implicit reward"),
    );
    stages.fold(figure, |figure, stage| {
        let mut series = line(run, stage, stage.get(&IMPLICIT).map_or(&[], |p| p));
        // Two methods, two kinds of line, whatever their colours.
        series.style.kind = match stage.name.starts_with("rto") {
            true => Kind::Line,
            false => Kind::Dashed,
        };
        figure.with(series)
    })
}

/// Everything that was logged, the usual things first.
pub fn training(page: &mut Page, run: &Results) -> Result<()> {
    page.section("training", "Training");
    let stages = match &run.stages {
        Ok(stages) => stages,
        Err(absent) => {
            page.absent(&absent.why, absent.damaged);
            return Ok(());
        }
    };
    let names: BTreeSet<&String> = stages.iter().flat_map(|s| s.series.keys()).collect();
    let first = SHOWN
        .iter()
        .filter(|(name, _)| names.iter().any(|n| n == name));
    let figures: Vec<Figure> = first
        .map(|(name, axis)| metric(run, stages, name, axis))
        .collect();
    if !figures.is_empty() {
        page.panels(&Panels::new("Metrics by step", 3, figures).with_size((340, 300)))?;
    }
    let rest = names
        .into_iter()
        .filter(|name| SHOWN.iter().all(|(shown, _)| shown != name));
    let rest: Vec<Figure> = rest.map(|name| metric(run, stages, name, "")).collect();
    if !rest.is_empty() {
        page.push(&format!(
            "<details><summary>{} more metrics</summary>\n",
            rest.len()
        ));
        page.panels(&Panels::new("All other metrics by step", 3, rest).with_size((340, 280)))?;
        page.push("</details>\n");
    }
    Ok(())
}

fn metric(run: &Results, stages: &[Curves], name: &str, axis: &str) -> Figure {
    let mut figure = Figure::new(name, Axis::linear("step"), Axis::linear(axis));
    figure.legend = LegendPlace::Hidden;
    for stage in stages {
        if let Some(points) = stage.series.get(name) {
            let mut series = line(run, stage, points);
            series.label = methods::label(&stage.name).to_string();
            figure.series.push(series);
        }
    }
    figure
}

trait WithSize {
    fn with_size(self, size: (u32, u32)) -> Self;
}

impl WithSize for Panels {
    fn with_size(self, panel_size: (u32, u32)) -> Self {
        Panels { panel_size, ..self }
    }
}
