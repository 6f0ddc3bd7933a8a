//! The tables: win rates, methods, exact suboptimality, config and versions.

use super::load::Run;
use rto_bridge::win_rate::{Comparison, Estimate, Matrix, Summary};
use rto_harness::html::escape;
use rto_harness::html::{Page, number};

const ALPHA: f64 = 0.05;

/// What came out, in a few sentences that are computed and not judged.
pub fn summary(page: &mut Page, run: &Run) {
    let Ok(evaluation) = &run.evaluation else {
        return;
    };
    let rates = &evaluation.win_rates;
    let by_score = |a: &usize, b: &usize| {
        let score = |i: &usize| rates.methods[*i].score.value;
        score(a).total_cmp(&score(b))
    };
    let Some(best) = (0..rates.methods.len()).max_by(by_score) else {
        return;
    };
    let best_of = &rates.methods[best];
    let mut text = format!(
        "<b>{}</b> has the highest mean reward, {}.",
        escape(&best_of.name),
        range(best_of.score)
    );
    text += &rto_against_dppo(&rates.matrix).unwrap_or_default();
    let apart = rates.matrix.pairs().filter(|(_, _, c)| c.p_holm <= ALPHA);
    text += &format!(
        " Of {} pairs of methods {} differ significantly.",
        rates.matrix.pairs().count(),
        apart.count()
    );
    page.say(&text);
}

/// The paper's main comparison.
fn rto_against_dppo(matrix: &Matrix) -> Option<String> {
    let index = |name: &str| matrix.names().iter().position(|n| n == name);
    let c = matrix.get(index("rto")?, index("dppo")?)?;
    let apart = match c.p_holm <= ALPHA {
        true => "significant",
        false => "not significant",
    };
    let p = match p_value(c.p_holm) {
        p if p.starts_with('&') => p,
        p => format!("= {p}"),
    };
    let rate = share_range(c.rate);
    Some(format!(
        " RTO beats DPPO on {rate} of the prompts, which is {apart} after Holm's correction (p {p})."
    ))
}

/// Table 1 with intervals.
pub fn win_rates(page: &mut Page, run: &Run) {
    page.section("win-rates", "Win rates (Table 1)");
    let evaluation = match &run.evaluation {
        Ok(evaluation) => evaluation,
        Err(absent) => return page.absent(&absent.why, absent.damaged),
    };
    page.say(&format!(
        "How often the row's answer has a higher reward than the column's, in percent; ties count half. {} prompts, each answered by \
         every method; 95% score intervals by prompt. <b>Bold</b>: still significant at 5% after Holm's correction of the exact sign test.",
        evaluation.methods[0].prompts.len()
    ));
    let rates = &evaluation.win_rates;
    matrix(page, &rates.matrix);
    pair_table(page, &rates.matrix, &rates.methods);
}

/// The same by a judge, where one was asked.
pub fn judged(page: &mut Page, run: &Run) {
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
    matrix(page, &judged.matrix);
    let methods = run
        .evaluation
        .as_ref()
        .map_or(&[][..], |e| &e.win_rates.methods);
    pair_table(page, &judged.matrix, methods);
}

fn matrix(page: &mut Page, matrix: &Matrix) {
    let names = matrix.names();
    let head: Vec<&str> = std::iter::once("row beats column")
        .chain(names.iter().map(String::as_str))
        .collect();
    let row = |(row, name): (usize, &String)| {
        let cells = (0..names.len()).map(|column| cell(matrix.get(row, column)));
        std::iter::once(escape(name)).chain(cells).collect()
    };
    let rows: Vec<Vec<String>> = names.iter().enumerate().map(row).collect();
    page.table("matrix", &head, &rows);
}

fn cell(comparison: Option<&Comparison>) -> String {
    let Some(c) = comparison else {
        return "–".into();
    };
    let side = if c.rate.value < 0.5 { 'd' } else { 'u' };
    let alpha = 0.65 * (2.0 * (c.rate.value - 0.5)).abs();
    let class = if c.p_holm <= ALPHA { " sig" } else { "" };
    format!(
        "<td class=\"{side}{class}\" style=\"--a:{alpha:.3}\">{}<small>{} to {}</small>",
        percent(c.rate.value),
        percent(c.rate.low),
        percent(c.rate.high)
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
            format!("{} : {}", escape(a), escape(b)),
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
    page.table("", &head, &rows);
    page.push("<p class=\"note\">At equal length: what a logistic regression of wins on the difference in length expects at no difference; “–” where lengths decide everything.</p></details>\n");
}

/// Reward, KL and length of every method.
pub fn methods(page: &mut Page, run: &Run) {
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
                escape(&m.name),
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
    page.table("", &head, &rows);
}

/// Where people's labels on held-out pairs are known.
pub fn agreement(page: &mut Page, run: &Run) {
    let agreement = match &run.agreement {
        Ok(agreement) => agreement,
        Err(absent) if absent.damaged => {
            page.section("agreement", "Agreement with people");
            return page.absent(&absent.why, absent.damaged);
        }
        Err(_) => return,
    };
    page.section("agreement", "Agreement with people");
    page.say("How often each model ranks the two replies of a held-out pair as people did, with Clopper and Pearson's 95% interval. The oracle judges the policies, so its own agreement bounds what their win rates mean.");
    let row = |a: &super::load::Agreement| {
        let [share, low, high] = a.accuracy.map(percent);
        vec![
            escape(&a.model),
            format!("{share}% [{low}, {high}]"),
            format!("{:.0}", a.pairs),
        ]
    };
    let rows: Vec<Vec<String>> = agreement.iter().map(row).collect();
    page.table("", &["model", "agreement", "pairs"], &rows);
}

/// On a world small enough to enumerate.
pub fn exact(page: &mut Page, run: &Run) {
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
    let row = |e: &super::load::Exact| {
        let numbers = e.numbers.map(number);
        std::iter::once(escape(&e.method))
            .chain(numbers)
            .collect::<Vec<_>>()
    };
    let rows: Vec<Vec<String>> = exact.iter().map(row).collect();
    page.table(
        "",
        &["method", "SubOpt", "value", "KL to the reference (nats)"],
        &rows,
    );
}

/// The resolved config, as it was.
pub fn config(page: &mut Page, run: &Run) {
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
pub fn versions(page: &mut Page, run: &Run) {
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
    page.table("", &["what", "value"], &rows);
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

fn range(e: Estimate) -> String {
    format!(
        "{} [{}, {}]",
        number(e.value),
        number(e.low),
        number(e.high)
    )
}

fn share_range(e: Estimate) -> String {
    format!(
        "{}% [{}, {}]",
        percent(e.value),
        percent(e.low),
        percent(e.high)
    )
}

fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

fn p_value(p: f64) -> String {
    match p {
        p if p < 1e-4 => "&lt; 0.0001".into(),
        p => format!("{p:.4}"),
    }
}
