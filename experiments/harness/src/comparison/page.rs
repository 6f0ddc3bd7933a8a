//! A comparison as one page: the verdicts on top, then what was measured and how it was chosen, from the CSV files alone.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::figures::{Words, all};
use super::{FAMILY, LEVELS, REPORT, length};
use crate::html::{Page, escape, number};
use crate::methods::label;
use crate::table::Table;

/// The page of a run folder.
///
/// # Errors
/// A table that is missing.
pub fn page(dir: &Path, words: &Words) -> Result<String> {
    let read = |name: &str| Table::from_csv(&dir.join(format!("{name}.csv")));
    let (conclusions, verdicts) = (read("conclusions")?, read("verdicts")?);
    let of_pair = conclusions
        .filter("method", "rto")?
        .filter("against", "dppo")?;
    let report = of_pair.filter("variant", REPORT)?;
    let mut page = Page::new("Does a token reward pay?");
    let seeds = report.parsed::<u32>("seeds", "a number")?;
    let seeds = seeds.into_iter().max().unwrap_or(0);
    // The exact test of n pairs has no smaller p than 2^(1 − n).
    let least = 2f64.powi(1 - seeds as i32) * FAMILY as f64;
    match least <= 0.05 {
        true => page.lead(&escape(&sentence(&verdicts, words)?)),
        false => page.banner(&format!(
            "<b>Too small to decide: {seeds} seeds.</b> Their least corrected p is {}; what follows shows that every part runs.",
            number(least.min(1.0))
        )),
    }
    page.say(&format!(
        "RTO pays the DPO reward token by token, DPPO its sum at the last token (not the later divergence PPO); all else is equal: objective, samples, optimiser steps, networks, \
         data, and the number of settings from which each method chose on other seeds ({}). Intervals are 95% t-intervals over seeds, p the exact sign-flip test of the pairs, \
         corrected by Holm where the protocol tests. Rules: <code>paper-notes/protocol.md</code>; what follows from them: <code>paper-notes/section5.md</code>.",
        escape(&words.subtitle)
    ));
    let figures = all(dir, words)?;
    let draw = |page: &mut Page, name: &str| match figures.iter().find(|f| f.0 == name) {
        Some((_, panels)) => page.panels(panels),
        None => Ok(()),
    };

    page.section("objective", "The objective against samples");
    draw(&mut page, "objective")?;
    let quantities: Vec<String> = ["objective_end".to_string()]
        .into_iter()
        .chain(LEVELS.map(|level| format!("samples_{level}")))
        .collect();
    compared(&mut page, words, &report, &quantities)?;
    page.say("Where each method ends, and what needs no training, as a share of the same lead.");
    ends(&mut page, words, &read("ends")?)?;
    page.say("Against every other method, and every method against the best of SFT at any temperature and best-of-n, chosen with the truth known. Not corrected.");
    others(&mut page, words, &conclusions)?;

    page.section("frontier", "True reward at matched KL");
    draw(&mut page, "frontier")?;
    let matched = distinct(&report, |q| {
        q.contains("matched_kl") || q.contains("both_measured")
    })?;
    compared(&mut page, words, &report, &matched)?;

    page.section("why", "What a difference hangs on");
    draw(&mut page, "removals")?;
    if !words.changes.is_empty() {
        let quantities = [
            "objective_end",
            "objective_end_change",
            "samples_50",
            "reward_at_matched_kl",
            "reward_at_matched_kl_change",
        ];
        compared(&mut page, words, &of_pair, &quantities.map(String::from))?;
    }
    let critic = distinct(&report, |q| q.starts_with("critic_error"))?;
    if !critic.is_empty() {
        page.say("The error of DPPO's critic to that of RTO's, early and at the end.");
        compared(&mut page, words, &report, &critic)?;
    }
    let variants = read("variants")?;
    if !variants.is_empty() {
        whole(&mut page, "variants", &variants);
    }

    if dir.join("gradients.csv").is_file() {
        page.section("gradients", "How noisy is the gradient?");
        page.say(GRADIENTS);
        draw(&mut page, "gradients")?;
        whole(&mut page, "gradients", &read("gradients")?);
    }

    let held_out = dir.join("held_out.csv");
    if held_out.is_file() {
        page.section(
            "held-out",
            "Replies to prompts that nothing was trained or tuned on",
        );
        page.say("True reward sampled and greedy, KL, length in tokens and the share of replies that end, after as many samples for each.");
        replies(&mut page, words, &Table::from_csv(&held_out)?)?;
    }

    if dir.join("lengths.csv").is_file() {
        page.section("length", "Does it grow with length?");
        page.say(LENGTH);
        draw(&mut page, "length")?;
        draw(&mut page, "length_laws")?;
        laws(&mut page, &read("laws")?)?;
        for name in ["lengths", "length_worlds"] {
            whole(&mut page, name, &read(name)?);
        }
    }
    if dir.join("noise.csv").is_file() {
        page.section("noise", "How many pairs?");
        page.say(NOISE);
        draw(&mut page, "noise")?;
        draw(&mut page, "noise_ends")?;
        whole(&mut page, "noise", &read("noise")?);
    }

    page.section("tuning", "How settings were chosen");
    for name in ["points", "same_point"] {
        whole(&mut page, name, &read(name)?);
    }
    page.section("run", "This run");
    let config = fs::read_to_string(dir.join("config.toml")).unwrap_or_default();
    page.push(&format!(
        "<pre>{}\n\n{}</pre>\n",
        words.command,
        escape(&config)
    ));
    Ok(page.finish())
}

/// What the section on gradients measures.
const GRADIENTS: &str = "Along the reported runs, the estimate of the gradient that the first pass over a batch follows: the trace of the covariance of one reply over the squared mean, \
     the number of replies at which error and signal are as large. Exact, by all replies; of GRPO alone from groups that are drawn. With V^π as critic, or λ = 1, policies and critics are those of the same runs. Nothing here is corrected.";

/// What the section on length measures.
const LENGTH: &str = "Samples until J has come half of the way from SFT to the optimum, DPPO's to RTO's, on grammars whose states are (h, last token), so that all is exact at every length. \
     A critic is V = w C + v(s), C the DPO reward of the tokens so far: both from zero; w from 1 (the reward model); both fitted to replies of SFT; or w = 0 for good (the state alone). \
     Each method chose its learning rate at every length, λ and critic, on other seeds. Nothing here is corrected.";

/// What the section on noise measures.
const NOISE: &str = "The trees again, with π_dpo and the reward model from fewer pairs and more, fitted in as many steps, at one setting for all. Shares are of the optimum's lead over SFT. \
     A loss is counted from where the mean of the other seeds is largest. Nothing here is corrected.";

/// The laws of length, and what they say of the length that is held out.
fn laws(page: &mut Page, laws: &Table) -> Result<()> {
    let texts = ["placement", "critic", "lambda", "held_out", "holds"].map(|c| laws.texts(c));
    let [placements, critics, lambdas, held_out, holds] = texts;
    let (placements, critics, lambdas) = (placements?, critics?, lambdas?);
    let (held_out, holds) = (held_out?, holds?);
    let columns = [
        "a",
        "b",
        "b_low",
        "b_high",
        "predicted",
        "measured",
        "measured_low",
        "measured_high",
    ];
    let floats: Vec<Vec<f64>> = columns
        .iter()
        .map(|c| laws.floats(c))
        .collect::<Result<_>>()?;
    let row = |i: usize| {
        let [a, b, b_low, b_high, predicted, measured, low, high] =
            std::array::from_fn(|c| floats[c][i]);
        vec![
            escape(&placements[i]),
            escape(length::figures::critic(&critics[i])),
            escape(&lambdas[i]),
            number(a),
            interval(b, b_low, b_high),
            number(predicted),
            interval(measured, low, high),
            escape(&holds[i]),
        ]
    };
    let rows: Vec<Vec<String>> = (0..laws.len()).map(row).collect();
    let at = held_out.first().map_or("", String::as_str);
    let (says, found) = (
        format!("ratio it says at H = {at}"),
        format!("found at H = {at}"),
    );
    let head = [
        "reward",
        "critic",
        "λ",
        "a",
        "b",
        says.as_str(),
        found.as_str(),
        "holds",
    ];
    page.table("sortable", &head, &rows);
    Ok(())
}

/// The protocol's verdict on each ground.
fn sentence(verdicts: &Table, words: &Words) -> Result<String> {
    let texts = ["instance", "objective", "samples"].map(|c| verdicts.texts(c));
    let [instances, objective, samples] = texts;
    let (instances, objective, samples) = (instances?, objective?, samples?);
    let one = |i: usize| {
        let title = words.short(&instances[i]);
        format!(
            "{title}: {}; samples: {}.",
            match objective[i].as_str() {
                verdict @ ("not decided" | "equal") => format!("RTO against DPPO {verdict}"),
                verdict => verdict.to_string(),
            },
            samples[i]
        )
    };
    Ok((0..verdicts.len()).map(one).collect::<Vec<_>>().join(" "))
}

fn distinct(table: &Table, keep: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let all = table.distinct("quantity")?.into_iter();
    Ok(all.filter(|q| keep(q)).collect())
}

/// What a quantity of `conclusions.csv` is called.
fn quantity(name: &str) -> String {
    let (name, at) = match name.strip_suffix("_one_beta2") {
        Some(name) => (name, ", at one β₂"),
        None => (name, ""),
    };
    let words = match name {
        "objective_end" => "J at the end, RTO less DPPO, share".into(),
        "objective_end_change" => "J at the end: change from as tuned".into(),
        "reward_at_matched_kl" => "reward at matched KL, share".into(),
        "reward_at_matched_kl_change" => "matched KL: change from as tuned".into(),
        "reward_where_both_measured" => "reward where both have points".into(),
        "matched_kl_below_measured" => "share of the KLs below those".into(),
        "critic_error_first" => "critic's error, early, ratio".into(),
        "critic_error_end" => "critic's error, at the end, ratio".into(),
        other => match other.strip_prefix("samples_") {
            Some(level) => format!("samples to {level}%, DPPO to RTO"),
            None => other.replace('_', " "),
        },
    };
    words + at
}

/// `0.021 [−0.012, 0.055]`.
fn interval(estimate: f64, low: f64, high: f64) -> String {
    let one = |v: f64| {
        let text = format!("{v:.3}");
        match text.parse::<f64>() {
            Ok(0.0) => text.trim_start_matches('-').to_string(),
            _ => text.replace('-', "−"),
        }
    };
    match (estimate.is_finite(), low.is_finite() && high.is_finite()) {
        (false, _) => String::new(),
        (true, false) => one(estimate),
        (true, true) => format!("{} [{}, {}]", one(estimate), one(low), one(high)),
    }
}

fn p_value(p: f64) -> String {
    match p.is_finite() {
        true => format!("{p:.3}"),
        false => String::new(),
    }
}

/// Rows of `conclusions.csv` with these quantities, quantity by quantity.
fn compared(page: &mut Page, words: &Words, rows: &Table, quantities: &[String]) -> Result<()> {
    let columns = [
        "estimate",
        "low",
        "high",
        "p",
        "p_holm",
        "seeds",
        "missed",
        "missed_against",
    ];
    let called = |stage: &str| match words.changes.iter().find(|c| c.0 == stage) {
        Some((_, name)) => name.clone(),
        None => "as tuned".into(),
    };
    let mut out = Vec::new();
    for name in quantities {
        let rows = rows.filter("quantity", name)?;
        let (instances, variants) = (rows.texts("instance")?, rows.texts("variant")?);
        let floats = columns.map(|c| rows.floats(c));
        let floats: Vec<Vec<f64>> = floats.into_iter().collect::<Result<_>>()?;
        for i in 0..rows.len() {
            let [estimate, low, high, p, holm, seeds, missed, against] =
                std::array::from_fn(|c| floats[c][i]);
            out.push(vec![
                escape(&quantity(name)),
                escape(words.short(&instances[i])),
                escape(&called(&variants[i])),
                interval(estimate, low, high),
                p_value(p),
                p_value(holm),
                format!("{seeds:.0}"),
                match missed.is_finite() {
                    true => format!("{missed:.0}, {against:.0}"),
                    false => String::new(),
                },
            ]);
        }
    }
    let head = [
        "quantity",
        "where",
        "settings",
        "estimate",
        "p",
        "p, Holm",
        "seeds",
        "missed by RTO, DPPO",
    ];
    // Without variants all are as tuned.
    let tuned = |row: &Vec<String>| row[2] == "as tuned";
    let mut head = head.to_vec();
    if out.iter().all(tuned) {
        head.remove(2);
        out.iter_mut().for_each(|row| drop(row.remove(2)));
    }
    page.table("sortable", &head, &out);
    Ok(())
}

fn ends(page: &mut Page, words: &Words, ends: &Table) -> Result<()> {
    let texts = |c: &str| ends.texts(c);
    let (instances, policies) = (texts("instance")?, texts("policy")?);
    let columns = [
        "parameter",
        "share",
        "share_low",
        "share_high",
        "reward",
        "kl",
        "greedy_reward",
    ];
    let floats: Vec<Vec<f64>> = columns
        .iter()
        .map(|c| ends.floats(c))
        .collect::<Result<_>>()?;
    let plain = |v: f64| match v.is_finite() {
        true => number(v),
        false => String::new(),
    };
    let row = |i: usize| {
        let [parameter, share, low, high, reward, kl, greedy] =
            std::array::from_fn(|c| floats[c][i]);
        let policy = match policies[i].as_str() {
            "optimum" => "exact optimum".into(),
            "greedy" => "SFT, greedy".into(),
            "dpo_greedy" => "DPO, greedy".into(),
            "sharpened" => format!("SFT at temperature {parameter}"),
            "best_of_dpo" => format!("best of {parameter}, DPO reward"),
            "best_of_reward_model" => format!("best of {parameter}, reward model"),
            other => label(other).to_string(),
        };
        vec![
            escape(&policy),
            escape(words.short(&instances[i])),
            interval(share, low, high),
            plain(reward),
            plain(kl),
            plain(greedy),
        ]
    };
    let rows: Vec<Vec<String>> = (0..ends.len()).map(row).collect();
    let head = [
        "policy",
        "where",
        "J, share",
        words.reward(),
        "KL",
        "greedy reward",
    ];
    page.table("sortable", &head, &rows);
    Ok(())
}

fn others(page: &mut Page, words: &Words, conclusions: &Table) -> Result<()> {
    let rows = conclusions.filter("variant", REPORT)?;
    let texts = ["instance", "quantity", "method", "against"].map(|c| rows.texts(c));
    let [instances, quantities, methods, against] = texts;
    let (instances, quantities) = (instances?, quantities?);
    let (methods, against) = (methods?, against?);
    let floats = ["estimate", "low", "high", "p"].map(|c| rows.floats(c));
    let floats: Vec<Vec<f64>> = floats.into_iter().collect::<Result<_>>()?;
    let mut out = Vec::new();
    for i in 0..rows.len() {
        let beside = quantities[i] == "above_baselines"
            || (methods[i].as_str(), against[i].as_str()) != ("rto", "dppo");
        if beside {
            let measured = match quantities[i].as_str() {
                "above_baselines" | "objective_end" => "J at the end, share".to_string(),
                other => format!(
                    "samples to {}%, ratio",
                    other.trim_start_matches("samples_")
                ),
            };
            out.push(vec![
                escape(&format!(
                    "{} against {}",
                    label(&methods[i]),
                    match against[i].as_str() {
                        "best_baseline" => "the best baseline",
                        other => label(other),
                    }
                )),
                escape(words.short(&instances[i])),
                measured,
                interval(floats[0][i], floats[1][i], floats[2][i]),
                p_value(floats[3][i]),
            ]);
        }
    }
    page.table(
        "sortable",
        &["of", "where", "quantity", "estimate", "p"],
        &out,
    );
    Ok(())
}

fn replies(page: &mut Page, words: &Words, held_out: &Table) -> Result<()> {
    let texts = ["instance", "method", "quantity"].map(|c| held_out.texts(c));
    let [instances, methods, quantities] = texts;
    let (instances, methods, quantities) = (instances?, methods?, quantities?);
    let columns = [
        "mean",
        "low",
        "high",
        "rto_less_it",
        "rto_low",
        "rto_high",
        "p",
    ];
    let floats: Vec<Vec<f64>> = columns
        .iter()
        .map(|c| held_out.floats(c))
        .collect::<Result<_>>()?;
    let row = |i: usize| {
        let [mean, low, high, less, less_low, less_high, p] = std::array::from_fn(|c| floats[c][i]);
        let what = match quantities[i].as_str() {
            "held_out" => words.reward().to_string(),
            "held_out_greedy" => format!("{}, greedy", words.reward()),
            "held_out_kl" => "KL".into(),
            other => other.to_string(),
        };
        vec![
            escape(label(&methods[i])),
            escape(words.short(&instances[i])),
            what,
            interval(mean, low, high),
            interval(less, less_low, less_high),
            p_value(p),
        ]
    };
    let rows: Vec<Vec<String>> = (0..held_out.len()).map(row).collect();
    let head = ["method", "where", "quantity", "mean", "RTO less it", "p"];
    page.table("sortable", &head, &rows);
    Ok(())
}

/// A table as it is, folded.
fn whole(page: &mut Page, name: &str, table: &Table) {
    page.push(&format!(
        "<details><summary>{name}.csv, {} rows</summary>\n",
        table.len()
    ));
    page.rows_of(table);
    page.push("</details>\n");
}
