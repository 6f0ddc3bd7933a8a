//! The tables: win rates, methods, exact suboptimality, config and versions.

use super::finding::{self, ALPHA, p_value, percent, share_range};
use super::load::Results;
use rto_bridge::win_rate::{Comparison, Estimate, Matrix, Summary};
use rto_harness::html::{Page, escape, number};
use rto_harness::methods;

/// What came out, in a few sentences that are computed and not judged; of a run too small to say anything, that.
pub fn summary(page: &mut Page, run: &Results) {
    let Ok(evaluation) = &run.evaluation else {
        return;
    };
    if let Some(few) = run.too_small() {
        return page.banner(&small(&few));
    }
    let rates = &evaluation.win_rates;
    let index = |name: &str| rates.matrix.names().iter().position(|n| n == name);
    let pair = index("rto").zip(index("dppo"));
    let versus = pair.and_then(|(rto, dppo)| {
        let c = rates.matrix.get(rto, dppo)?;
        // The paper's main comparison.
        Some(finding::versus("rto", "dppo", c))
    });
    let apart = rates.matrix.pairs().filter(|(_, _, c)| c.p_holm <= ALPHA);
    let (apart, all) = (apart.count(), rates.matrix.pairs().count());
    let pairs = match all {
        0 => None,
        1 => Some(format!(
            "The two methods {}differ significantly.",
            if apart == 1 { "" } else { "do not " }
        )),
        _ => Some(format!(
            "Pairs of methods that differ significantly: {apart} of {all}."
        )),
    };
    let best = finding::best(&rates.methods, &rates.matrix);
    let sentences: Vec<String> = [pays(run).map(|text| escape(&text)), best, versus, pairs]
        .into_iter()
        .flatten()
        .collect();
    page.lead(&sentences.join(" "));
}

/// Whether training pays, where that is known exactly. Plain text.
pub fn pays(run: &Results) -> Option<String> {
    let (exact, baselines) = (run.exact.as_ref().ok()?, run.exact_baselines.as_ref().ok()?);
    let methods: Vec<(&str, f64)> = exact
        .iter()
        .map(|e| (e.method.as_str(), e.numbers[1]))
        .collect();
    let baselines: Vec<(String, f64)> = baselines
        .iter()
        .filter_map(|b| Some((finding::baseline(&b.policy, b.parameter)?, b.numbers[0])))
        .collect();
    finding::pays(&methods, &baselines, run.setting("exact_beta").as_deref())
}

/// Why no method is called better.
pub fn small(few: &str) -> String {
    format!(
        "<b>Too small to compare methods: {few}.</b> What follows shows that every part runs. Its numbers are noise, and no method is called better."
    )
}

/// What the names mean.
pub fn legend(page: &mut Page, names: &[String]) {
    let known = names.iter().filter_map(|name| methods::find(name));
    let rows: Vec<String> = known
        .map(|m| {
            format!(
                "<dt>{}</dt><dd><code>{}</code>: {}</dd>",
                escape(m.label),
                m.name,
                escape(m.what)
            )
        })
        .collect();
    if !rows.is_empty() {
        page.push(&format!(
            "<details><summary>What the methods are</summary><dl>{}</dl></details>\n",
            rows.concat()
        ));
    }
}

/// Table 1 with intervals.
pub fn win_rates(page: &mut Page, run: &Results) {
    page.section("win-rates", "Win rates (Table 1)");
    let evaluation = match &run.evaluation {
        Ok(evaluation) => evaluation,
        Err(absent) => return page.absent(&absent.why, absent.damaged),
    };
    page.say(&format!(
        "How often the row's answer has a higher reward than the column's, in percent; ties count half. {} prompts, each answered by \
         every method; 95% score intervals by prompt, and “=” the win rate at equal length, “–” where lengths decide everything or all prompts go one way. <b>Bold</b>: still significant at 5% after Holm's correction of the exact sign test.",
        evaluation.methods[0].prompts.len()
    ));
    let rates = &evaluation.win_rates;
    legend(page, rates.matrix.names());
    matrix(page, &rates.matrix, run);
    pair_table(page, &rates.matrix, &rates.methods);
}

/// The same by a judge, where one was asked.
pub fn judged(page: &mut Page, run: &Results) {
    let judged = match &run.judged {
        Ok(judged) => judged,
        Err(absent) if absent.damaged => {
            page.section("judge", "Win rates by the judge (Table 1b)");
            return page.absent(&absent.why, absent.damaged);
        }
        Err(_) => return,
    };
    page.section("judge", "Win rates by the judge (Table 1b)");
    page.say(&format!(
        "How often {} prefers the row's answer, in percent; ties count half. {} prompts; {} replies without a verdict are left out. Intervals and bold as above.",
        judged.model.as_deref().map_or("a language model".into(), escape),
        judged.prompts,
        judged.unreadable
    ));
    matrix(page, &judged.matrix, run);
    let methods = run
        .evaluation
        .as_ref()
        .map_or(&[][..], |e| &e.win_rates.methods);
    pair_table(page, &judged.matrix, methods);
}

fn matrix(page: &mut Page, matrix: &Matrix, run: &Results) {
    let plain = run.too_small().is_some();
    let cell = |row, column| {
        let c: &Comparison = matrix.get(row, column)?;
        Some(Cell {
            rate: c.rate,
            equal_length: c.length_controlled,
            bold: c.p_holm <= ALPHA,
            plain,
        })
    };
    heat_map(page, matrix.names(), &cell);
}

/// A cell of a matrix of win rates.
pub struct Cell {
    pub rate: Estimate,
    pub equal_length: Option<Estimate>,
    pub bold: bool,
    /// Whether a cell has neither colour nor weight: its number is noise.
    pub plain: bool,
}

/// Row against column, coloured by how far from a half it is.
pub fn heat_map(page: &mut Page, names: &[String], cell: &dyn Fn(usize, usize) -> Option<Cell>) {
    let labels: Vec<&str> = names.iter().map(|n| methods::label(n)).collect();
    let head: Vec<&str> = std::iter::once("row beats column")
        .chain(labels.iter().copied())
        .collect();
    let rows: Vec<Vec<String>> = labels
        .iter()
        .enumerate()
        .map(|(row, label)| {
            let cells = (0..names.len()).map(|column| cell(row, column).map_or("–".into(), heat));
            std::iter::once(escape(label)).chain(cells).collect()
        })
        .collect();
    page.table("matrix", &head, &rows);
}

fn heat(cell: Cell) -> String {
    let Cell {
        rate,
        equal_length,
        bold,
        plain,
    } = cell;
    let side = if rate.value < 0.5 { 'd' } else { 'u' };
    let alpha = match plain {
        true => 0.0,
        false => 0.65 * (2.0 * (rate.value - 0.5)).abs(),
    };
    let class = if bold && !plain { " sig" } else { "" };
    let equal = match equal_length {
        Some(e) => format!("<small title=\"win rate at equal length, {} to {}\">= {}</small>", percent(e.low), percent(e.high), percent(e.value)),
        None => "<small title=\"no win rate at equal length: lengths decide everything, or all prompts go one way\">= –</small>".into(),
    };
    format!(
        "<td class=\"{side}{class}\" style=\"--a:{alpha:.3}\">{}<small>{} to {}</small>{equal}",
        percent(rate.value),
        percent(rate.low),
        percent(rate.high)
    )
}

/// KL stands beside the win rates of the methods in `summaries`.
fn pair_table(page: &mut Page, matrix: &Matrix, summaries: &[Summary]) {
    let head = [
        "pair",
        "won, tied, lost",
        "win rate",
        "p, sign test",
        "p, Holm",
        "win rate at equal length",
        "mean length difference",
        "mean KL of both",
    ];
    let kl = |name: &str| {
        let found = summaries.iter().find(|s| s.name == name);
        found
            .and_then(|s| s.kl)
            .map_or("–".into(), |e| number(e.value))
    };
    let rows = matrix.pairs().map(|(row, column, c)| {
        let [a, b] = [row, column].map(|i| matrix.names()[i].as_str());
        let [won, tied, lost] = c.won_tied_lost;
        vec![
            format!(
                "{} : {}",
                escape(methods::label(a)),
                escape(methods::label(b))
            ),
            format!("{won}, {tied}, {lost}"),
            share_range(c.rate),
            p_value(c.p_value),
            p_value(c.p_holm),
            c.length_controlled.map_or("–".into(), share_range),
            number(c.length_difference),
            format!("{} : {}", kl(a), kl(b)),
        ]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    page.push("<details><summary>Every pair: significance, equal lengths, KL</summary>\n");
    page.table("sortable", &head, &rows);
    page.push("<p class=\"note\">At equal length: what a logistic regression of wins on the difference in length expects at no difference; “–” where lengths decide everything.</p></details>\n");
}

/// Reward, KL and length of every method.
pub fn methods(page: &mut Page, run: &Results) {
    page.section("methods", "Methods");
    let evaluation = match &run.evaluation {
        Ok(evaluation) => evaluation,
        Err(absent) => return page.absent(&absent.why, absent.damaged),
    };
    let rows = evaluation
        .win_rates
        .methods
        .iter()
        .enumerate()
        .map(|(i, m)| {
            let answers: usize = evaluation.methods[i].prompts.iter().map(Vec::len).sum();
            vec![
                escape(methods::label(&m.name)),
                interval_cell(Some(m.score)),
                interval_cell(m.kl),
                interval_cell(Some(m.length)),
                format!("{}%", percent(evaluation.finished[i])),
                answers.to_string(),
            ]
        });
    let head = [
        "method",
        run.reward_name(),
        "KL to the reference (nats)",
        "length (tokens)",
        "ended by itself",
        "answers",
    ];
    let rows: Vec<Vec<String>> = rows.collect();
    page.say("Means over held-out prompts with 95% intervals.");
    page.table("sortable", &head, &rows);
}

/// The table of agreement with people's labels on held-out replies, where they are known.
pub fn agreement(page: &mut Page, run: &Results) {
    let agreement = match &run.agreement {
        Ok(agreement) => agreement,
        Err(absent) if absent.damaged => {
            page.section("agreement", "Agreement with people");
            return page.absent(&absent.why, absent.damaged);
        }
        Err(_) => return,
    };
    page.section("agreement", "Agreement with people");
    page.say("How often each model ranks two held-out replies as people did, with Clopper and Pearson's 95% interval: the two of a pair or, where people gave single replies a label, the i-th wanted one above the i-th unwanted one. The oracle judges the policies, so its own agreement bounds what their win rates mean.");
    let row = |a: &super::load::Agreement| {
        let [share, low, high] = a.accuracy.map(percent);
        vec![
            escape(&a.model),
            format!("{share}% [{low}, {high}]"),
            format!("{:.0}", a.pairs),
        ]
    };
    let rows: Vec<Vec<String>> = agreement.iter().map(row).collect();
    page.table("sortable", &["model", "agreement", "pairs"], &rows);
}

/// How good the fitted token reward is, where a file of token rewards was given.
pub fn token_reward(page: &mut Page, run: &Results) {
    let found = match &run.token_reward {
        Ok(found) => found,
        Err(absent) if absent.damaged => {
            page.section("token-reward", "The fitted token reward");
            return page.absent(&absent.why, absent.damaged);
        }
        Err(_) => return,
    };
    page.section("token-reward", "The fitted token reward");
    page.say("What <code>ppo_dense</code> is paid with, against the rewards of the file on rows that it has not learned from. R² is 1 − Σ (r − r̂)² / Σ (r − r̄)²: 1 where every reward is foretold, 0 for their mean, “–” where all of them are equal; the error is √(Σ (r − r̂)² / n) in the file's units.");
    page.table(
        "values",
        &["R²", "root mean square error", "rows", "tokens"],
        &[vec![
            number(found.r2),
            number(found.rmse),
            format!("{:.0}", found.rows),
            format!("{:.0}", found.tokens),
        ]],
    );
}

/// What it cost that responses were written with other weights or products than are scored, where they were.
pub fn sampler(page: &mut Page, run: &Results) {
    let stages = run.stages.iter().flatten();
    let rows = stages.filter_map(|stage| {
        let [kl, clipped] = ["sampler/kl", "sampler/clipfrac"].map(|name| stage.series.get(name));
        let cells = [
            (kl?, number as fn(f64) -> String),
            (clipped?, |x| format!("{}%", percent(x))),
        ]
        .map(|(points, shown)| {
            let values = points.iter().map(|p| p.1);
            let mean = values.clone().sum::<f64>() / points.len().max(1) as f64;
            let most = values.fold(f64::NEG_INFINITY, f64::max);
            format!("{} (at most {})", shown(mean), shown(most))
        });
        let [kl, clipped] = cells;
        let label = escape(methods::label(&stage.name));
        Some(vec![label, kl, clipped, kl_steps(&stage.series)])
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        return;
    }
    page.section("sampler", "What was sampled beside what is scored");
    page.say("Responses were drawn from a distribution q that is not quite the policy π which scores them: its weights are stored in fewer bits, or π's products are rounded. Old log-probabilities are π's own, so the first step of an iteration has the ratio 1 and clips nothing. How far off that is: the mean over tokens of log q − log π on what was written, an estimate of KL(q ‖ π), and the share of tokens whose π/q lies outside the clip range, which the first step would clip if q were taken for the old policy. Means over iterations.");
    page.table(
        "sortable",
        &[
            "method",
            "log q − log π (nats a token)",
            "π/q outside the clip range",
            "iterations",
        ],
        &rows,
    );
}

fn kl_steps(series: &std::collections::BTreeMap<String, Vec<(f64, f64)>>) -> String {
    series.get("sampler/kl").map_or(0, Vec::len).to_string()
}

/// The exact values, on a world small enough to enumerate.
pub fn exact(page: &mut Page, run: &Results) {
    // Real text has neither a known reward nor an end.
    if run.agreement.is_ok() && run.exact.as_ref().is_err_and(|absent| !absent.damaged) {
        return;
    }
    page.section("exact", "Exact suboptimality");
    let exact = match &run.exact {
        Ok(exact) => exact,
        Err(absent) => return page.absent(&absent.why, absent.damaged),
    };
    page.say("On a part of the world small enough to enumerate: no sampling, so no intervals. SubOpt is the value of the best policy less that of the method, in units of reward.");
    // The optimum's own is a difference of equal numbers, and what rounding leaves of it is no number to read.
    let largest = exact
        .iter()
        .fold(0.0, |m, e| f64::max(m, e.numbers[1].abs()));
    let row = |e: &super::load::Exact| {
        let [subopt, value, kl] = e.numbers;
        let rounding = subopt.abs() <= 1e-12 * largest;
        let numbers = [if rounding { 0.0 } else { subopt }, value, kl].map(number);
        std::iter::once(escape(methods::label(&e.method)))
            .chain(numbers)
            .collect::<Vec<_>>()
    };
    let rows: Vec<Vec<String>> = exact.iter().map(row).collect();
    page.table(
        "sortable",
        &["method", "SubOpt", "value", "KL to the reference (nats)"],
        &rows,
    );
}

/// The resolved config, as it was.
pub fn config(page: &mut Page, run: &Results) {
    page.section("config", "Config");
    match &run.config {
        Ok(text) => {
            let seeds: Vec<String> = ["preset", "seed", "seeds"]
                .into_iter()
                .filter_map(|key| Some(format!("{key} {}", escape(&run.setting(key)?))))
                .collect();
            if !seeds.is_empty() {
                page.say(&seeds.join(", "));
            }
            page.push(&format!(
                "<details><summary>config.toml</summary><pre>{}</pre></details>\n",
                escape(text)
            ));
        }
        Err(absent) => page.absent(&absent.why, absent.damaged),
    }
}

/// What made the run.
pub fn versions(page: &mut Page, run: &Results) {
    page.section("versions", "Versions and seeds");
    let versions = match &run.versions {
        Ok(versions) => versions,
        Err(absent) => return page.absent(&absent.why, absent.damaged),
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (key, value) in versions {
        let mut row = |key: &str, value: &serde_json::Value| {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), String::from);
            rows.push(vec![escape(key), escape(&text)]);
        };
        match value.as_object() {
            Some(map) => map.iter().for_each(|(k, v)| row(k, v)),
            None => row(key, value),
        }
    }
    for key in ["seed", "seeds"] {
        if let Some(value) = run.setting(key) {
            rows.push(vec![key.into(), escape(&value)]);
        }
    }
    page.table("values", &["what", "value"], &rows);
}

fn interval_cell(estimate: Option<Estimate>) -> String {
    match estimate {
        None => "–".into(),
        Some(e) => format!(
            "<td>{}<small>{} to {}</small>",
            number(e.value),
            number(e.low),
            number(e.high)
        ),
    }
}
