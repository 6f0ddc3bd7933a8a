//! Token rewards as coloured text: one page that needs nothing else.

use anyhow::Result;
use rto_bridge::checkpoint::atomic;
use rto_harness::html::escape;
use std::path::Path;

/// A scored response.
pub struct Scored {
    pub prompt_text: Option<String>,
    pub prompt: Vec<u32>,
    pub token_ids: Vec<u32>,
    pub tokens: Option<Vec<String>>,
    pub log_probs: Vec<f64>,
    pub token_rewards: Option<Vec<f64>>,
}

const STYLE: &str = "\
:root { color-scheme: light dark; --up: 0 114 178; --down: 213 94 0; --line: #8886; }
@media (prefers-color-scheme: dark) { :root { --up: 86 180 233; --down: 240 130 50; } }
body { font: 16px/1.7 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } small { opacity: .75; } .prompt { opacity: .85; }
article { border-top: 1px solid var(--line); padding: .8rem 0; }
.text { margin-bottom: .4rem; white-space: pre-wrap; overflow-wrap: anywhere; font-family: ui-monospace, monospace; }
.text span { border-radius: .2em; padding: .1em 0; border-bottom: 2px solid transparent; }
.text span:hover { outline: 1px solid; }
.u { background: rgb(var(--up) / var(--a)); } .d { background: rgb(var(--down) / var(--a)); }
.bar { display: inline-block; width: 16rem; height: .9em; vertical-align: middle; border: 1px solid var(--line);
 background: linear-gradient(90deg, rgb(var(--down) / .6), transparent, rgb(var(--up) / .6)); }
";

/// Writes the page; the file is replaced in one step.
pub fn write(
    path: &Path,
    scored: &[Scored],
    model: &str,
    reference: Option<(&str, f64)>,
) -> Result<()> {
    let page = page(scored, model, reference);
    Ok(atomic::replace_file(path, page.as_bytes())?)
}

fn page(scored: &[Scored], model: &str, reference: Option<(&str, f64)>) -> String {
    let (title, what) = heading(model, reference);
    let values = values(scored);
    let scale = values.iter().flatten().map(|v| v.abs()).fold(0.0, f64::max);
    let articles: String = scored
        .iter()
        .zip(&values)
        .enumerate()
        .map(|(i, (s, v))| article(i + 1, s, v, scale))
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>\n{STYLE}</style></head><body>\n<h1>{title}</h1>\n<p>{what}.</p>\n\
         <p><small>{}</small> <span class=\"bar\"></span> <small>+{scale:.4} &nbsp; Point at a token for its numbers.</small></p>\n{articles}</body></html>\n",
        signed(-scale, 4)
    )
}

/// The title, and what the colours say.
fn heading(model: &str, reference: Option<(&str, f64)>) -> (&'static str, String) {
    let model = escape(model);
    match reference {
        Some((name, beta)) => (
            "Token rewards",
            format!(
                "β (log π − log π<sub>ref</sub>), equation (4.5), with π from {model}, π<sub>ref</sub> from {} and β = {beta}. \
                 Blue tokens are likelier under π than under π<sub>ref</sub>, orange ones less likely",
                escape(name)
            ),
        ),
        None => (
            "Token log-probabilities",
            format!(
                "log π minus its mean over all tokens, with π from {model}. Blue tokens are likelier than the average token, orange \
                 ones less likely"
            ),
        ),
    }
}

/// A number with a minus sign as wide as the plus.
fn signed(value: f64, digits: usize) -> String {
    format!("{value:.digits$}").replace('-', "−")
}

/// What is coloured: rewards, or centred log-probabilities.
fn values(scored: &[Scored]) -> Vec<Vec<f64>> {
    let n: usize = scored.iter().map(|s| s.log_probs.len()).sum();
    let mean = scored.iter().flat_map(|s| &s.log_probs).sum::<f64>() / n.max(1) as f64;
    let of = |s: &Scored| match &s.token_rewards {
        Some(rewards) => rewards.clone(),
        None => s.log_probs.iter().map(|l| l - mean).collect(),
    };
    scored.iter().map(of).collect()
}

/// One response after its prompt; `number` is its line among the inputs that were scored.
fn article(number: usize, scored: &Scored, values: &[f64], scale: f64) -> String {
    let prompt = match &scored.prompt_text {
        Some(text) => escape(text),
        None => escape(&format!("{:?}", scored.prompt)),
    };
    let spans: String = (0..values.len())
        .map(|i| span(scored, values[i], scale, i))
        .collect();
    let (of, total): (_, f64) = match &scored.token_rewards {
        Some(rewards) => ("the rewards", rewards.iter().sum()),
        None => ("log π", scored.log_probs.iter().sum()),
    };
    format!(
        "<article><small>{number} · prompt</small><div class=\"text prompt\">{prompt}</div>\n\
         <small>response</small><div class=\"text\">{spans}</div>\n<small>sum of {of}: {}</small></article>\n",
        signed(total, 4)
    )
}

/// One token on its colour, which is at most 0.6 opaque: the page's own text colour stays readable on it, light or dark.
fn span(scored: &Scored, value: f64, scale: f64, i: usize) -> String {
    let alpha = if scale > 0.0 {
        0.6 * value.abs() / scale
    } else {
        0.0
    };
    let side = if value < 0.0 { 'd' } else { 'u' };
    let text = match &scored.tokens {
        // A line break would take its colour with it.
        Some(tokens) => escape(&tokens[i]).replace('\n', "⏎\n"),
        None => format!("{} ", scored.token_ids[i]),
    };
    let reward = scored
        .token_rewards
        .as_ref()
        .map_or(String::new(), |r| format!(", reward {}", signed(r[i], 5)));
    format!(
        "<span class=\"{side}\" style=\"--a:{alpha:.3}\" title=\"id {}, log π {}{reward}\">{text}</span>",
        scored.token_ids[i],
        signed(scored.log_probs[i], 4)
    )
}
