//! The same prompts answered by every method, side by side, and which of them a reader wants to see.

use super::load::{Results, Sample};
use rto_harness::html::{Page, escape, number};
use rto_harness::methods::label;
use serde_json::{Value, json};

/// Prompts shown at once; the others are folded away.
const OPEN: usize = 6;
/// Bytes of responses that a page carries along.
const CARRIED: usize = 8 << 20;
const SCRIPT: &str = include_str!("samples.js");

pub fn section(page: &mut Page, run: &Results) {
    page.section("samples", "Samples");
    let samples = match &run.samples {
        Ok(samples) => samples,
        Err(absent) => return page.absent(&absent.why, absent.damaged),
    };
    filter(page, run, samples);
    page.push("<div id=\"samples-shown\">\n");
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
    page.push("</div>\n");
    page.script(SCRIPT);
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
        escape(label(&sample.method))
    )
}

/// Every response where they are there and not too many, else the samples: the page's script chooses among them.
fn filter(page: &mut Page, run: &Results, samples: &[Sample]) {
    let size = |all: &[Sample]| -> usize {
        all.iter()
            .map(|s| s.prompt.len() + s.response.len() + 24)
            .sum()
    };
    let carried = match &run.responses {
        Ok(all) if size(all) <= CARRIED => all,
        _ => samples,
    };
    let (methods, prompts) = grouped(carried);
    if methods.len() < 2 {
        return;
    }
    let labels: Vec<&str> = methods.iter().map(|m| label(m)).collect();
    page.push(
        "<div class=\"filters\" id=\"sample-filter\" hidden>Prompts where <select name=\"one\" aria-label=\"method\"></select>\
         <select name=\"how\" aria-label=\"comparison\"></select><select name=\"other\" aria-label=\"other method\"></select>\
         <label>and the text holds <input name=\"text\" type=\"search\" size=\"12\"></label><span class=\"note\" role=\"status\"></span></div>\n\
         <div id=\"samples-found\" hidden></div>\n",
    );
    let data = json!({ "names": methods, "labels": labels, "prompts": prompts });
    page.data("sample-data", &data);
}

/// Methods in order, and per prompt its text and `[response, reward]` of each method.
fn grouped(samples: &[Sample]) -> (Vec<&str>, Vec<Value>) {
    let mut methods: Vec<&str> = Vec::new();
    let mut index = std::collections::HashMap::new();
    let mut prompts: Vec<(&str, Vec<Value>)> = Vec::new();
    for sample in samples {
        let method = match methods.iter().position(|m| *m == sample.method) {
            Some(at) => at,
            None => {
                methods.push(&sample.method);
                methods.len() - 1
            }
        };
        let key = (sample.prompt_id, sample.prompt.as_str());
        let at = *index.entry(key).or_insert_with(|| {
            prompts.push((&sample.prompt, Vec::new()));
            prompts.len() - 1
        });
        let answers = &mut prompts[at].1;
        answers.resize(answers.len().max(method + 1), Value::Null);
        // Several answers of a method to a prompt: the first is shown.
        if answers[method].is_null() {
            answers[method] = json!([sample.response.trim(), sample.reward]);
        }
    }
    let prompts = prompts
        .into_iter()
        .map(|(prompt, answers)| json!([prompt.trim(), answers]))
        .collect();
    (methods, prompts)
}
