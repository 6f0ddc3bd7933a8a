//! The same prompts answered by every method, side by side.

use super::load::{Run, Sample};
use rto_harness::html::escape;
use rto_harness::html::{Page, number};

/// Prompts shown at once; the others are folded away.
const OPEN: usize = 6;

pub fn section(page: &mut Page, run: &Run) {
    page.section("samples", "Samples");
    let samples = match &run.samples {
        Ok(samples) => samples,
        Err(absent) => return page.absent(&absent.why, absent.damaged),
    };
    let mut prompts: Vec<&str> = Vec::new();
    for sample in samples {
        if !prompts.contains(&sample.prompt.as_str()) {
            prompts.push(&sample.prompt);
        }
    }
    for (i, prompt) in prompts.iter().enumerate() {
        if i == OPEN {
            let more = prompts.len() - OPEN;
            page.push(&format!(
                "<details><summary>{more} more prompts</summary>\n"
            ));
        }
        let answers = samples.iter().filter(|s| s.prompt == *prompt);
        let cards: String = answers.map(card).collect();
        page.push(&format!(
            "<article><p class=\"prompt\">{}</p><div class=\"cards\">{cards}</div></article>\n",
            escape(prompt.trim())
        ));
    }
    if prompts.len() > OPEN {
        page.push("</details>\n");
    }
}

fn card(sample: &Sample) -> String {
    let reward = sample
        .reward
        .map_or(String::new(), |r| format!("reward {}", number(r)));
    let text = match sample.response.trim() {
        "" => "<i>(no words)</i>".into(),
        text => escape(text),
    };
    format!(
        "<div class=\"card\"><header><b>{}</b><span>{reward}</span></header><div>{text}</div></div>",
        escape(&sample.method)
    )
}
