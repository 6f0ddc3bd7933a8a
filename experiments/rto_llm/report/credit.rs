//! Which tokens the DPO reward (4.5) credits, above the true token reward where it is known.

use super::load::{Credit, Results};
use rto_harness::html::escape;
use rto_harness::html::{Page, number};

pub fn section(page: &mut Page, run: &Results) {
    page.section("credit", "Token credit");
    let credit = match &run.credit {
        Ok(credit) => credit,
        Err(absent) => return page.absent(&absent.why, absent.damaged),
    };
    let dpo = largest(credit.iter().map(|c| &c.dpo));
    let truth = largest(credit.iter().filter_map(|c| c.truth.as_ref()));
    page.say(
        "Each token coloured by β₁ log π<sub>dpo</sub>/π<sub>ref</sub>, equation (4.5), and by the true token reward. The two agree only up to a potential \
         of the state, so a token may be credited early for what a later one earns; for an exact DPO fit their sums over a response differ by a constant of the prompt, up to the scale β₁/β.",
    );
    for (name, scale) in [("DPO reward", dpo), ("true reward", truth)] {
        if scale > 0.0 {
            page.push(&format!(
                "<p class=\"note\">{name}: {} <span class=\"bar\"></span> +{}. Point at a token for its number.</p>\n",
                number(-scale),
                number(scale)
            ));
        }
    }
    for c in credit {
        page.push(&article(c, dpo, truth));
    }
}

fn largest<'a>(all: impl Iterator<Item = &'a Vec<f64>>) -> f64 {
    all.flatten().map(|v| v.abs()).fold(0.0, f64::max)
}

fn article(c: &Credit, dpo: f64, truth: f64) -> String {
    let mut rows = row("DPO reward", &c.tokens, &c.dpo, dpo);
    if let Some(values) = &c.truth {
        rows += &row("true reward", &c.tokens, values, truth);
        if let Some(r) = correlation(&c.dpo, values) {
            // Adding 0 turns a rounded −0 into 0.
            let text = format!("{:.2}", (100.0 * r).round() / 100.0 + 0.0).replace('-', "−");
            rows += &format!("<small></small><small>correlation over tokens {text}</small>");
        }
    }
    format!(
        "<article><p class=\"prompt\">{}</p><div class=\"row\">{rows}</div></article>\n",
        escape(c.prompt.trim())
    )
}

fn row(name: &str, tokens: &[String], values: &[f64], scale: f64) -> String {
    let spans = tokens.iter().zip(values).map(|(t, v)| span(t, *v, scale));
    // Tokens of a vocabulary of words bring no blanks along.
    let words = tokens.iter().all(|t| !t.contains(char::is_whitespace));
    let between = if words { " " } else { "" };
    let spans: Vec<String> = spans.collect();
    let spans = spans.join(between);
    let sum: f64 = values.iter().sum();
    format!(
        "<small>{name}, sum {}</small><div class=\"tokens\">{spans}</div>",
        number(sum)
    )
}

fn span(token: &str, value: f64, scale: f64) -> String {
    let alpha = if scale > 0.0 {
        0.65 * value.abs() / scale
    } else {
        0.0
    };
    let side = if value < 0.0 { 'd' } else { 'u' };
    // A line break would take its colour with it.
    let text = escape(token).replace('\n', "⏎");
    format!(
        "<span class=\"{side}\" style=\"--a:{alpha:.3}\" title=\"{}\">{text}</span>",
        number(value)
    )
}

/// Pearson's; none of constant numbers.
fn correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let n = a.len() as f64;
    let mean = |v: &[f64]| v.iter().sum::<f64>() / n;
    let (ma, mb) = (mean(a), mean(b));
    let sum =
        |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(x, y)| f(x - ma, y - mb)).sum::<f64>();
    let r = sum(&|x, y| x * y) / (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt();
    r.is_finite().then_some(r)
}
