//! The README of a saved policy: a model card as the Hugging Face hub reads it.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use crate::files::atomic;
use crate::{Error, Result};

/// A measured number.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// The name as tables show it, for example `win rate against sft`.
    pub name: String,
    /// The number.
    pub value: f64,
    /// The 95% interval of the value, where there is one.
    pub interval: Option<(f64, f64)>,
}

/// What a card says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelCard {
    /// The model's name, for example `rto-tiny-seed1`.
    pub name: String,
    /// How it was trained: `sft`, `dpo`, `ppo`, `dppo`, `rto`, …
    pub method: String,
    /// What `config.json` calls the architecture: `gpt_neox`, `llama`, …
    pub family: String,
    /// The preset of the run.
    pub preset: String,
    /// The seed of the run.
    pub seed: u64,
    /// The model it began as, a hub id or folder name; `None` for one trained from scratch.
    pub base_model: Option<String>,
    /// Data sets, hub ids or file names.
    pub datasets: Vec<String>,
    /// What the metrics were measured on, for example `400 held-out prompts`.
    pub evaluated_on: String,
    /// What a reader must know before the results, for example that nothing was trained yet.
    pub caution: Option<String>,
    /// Results.
    pub metrics: Vec<Metric>,
    /// Settings worth reading, in this order.
    pub settings: Vec<(String, String)>,
    /// Program, version and revision.
    pub made_by: String,
}

impl ModelCard {
    /// The card.
    ///
    /// # Errors
    /// [`Error::Request`]: no name or method, a number that is not finite.
    pub fn to_markdown(&self) -> Result<String> {
        self.check()?;
        let mut text = self.front_matter();
        let _ = write!(text, "\n# {}\n\n", line(&self.name));
        let method = line(&self.method);
        let _ = writeln!(text, "{}\n", explain(&self.method, &method));
        let _ = writeln!(
            text,
            "- Preset: `{}`\n- Seed: {}",
            line(&self.preset),
            self.seed
        );
        match &self.base_model {
            Some(base) => _ = writeln!(text, "- Base model: `{}`", line(base)),
            None => _ = writeln!(text, "- Trained from scratch"),
        }
        for data in &self.datasets {
            let _ = writeln!(text, "- Data: `{}`", line(data));
        }
        if let Some(caution) = &self.caution {
            let _ = writeln!(text, "\n> **{}**", line(caution));
        }
        self.results(&mut text);
        if !self.settings.is_empty() {
            text.push_str("\n## Settings\n\n| setting | value |\n|---|---|\n");
            for (key, value) in &self.settings {
                let _ = writeln!(text, "| {} | {} |", cell(key), cell(value));
            }
        }
        text.push_str(USE);
        let _ = write!(text, "\nMade by {}.\n", line(&self.made_by));
        Ok(text)
    }

    /// Writes `README.md` into a policy's folder, in one step.
    ///
    /// # Errors
    /// Those of [`ModelCard::to_markdown`]; [`Error::File`].
    pub fn save(&self, folder: &Path) -> Result<()> {
        atomic::replace_file(&folder.join("README.md"), self.to_markdown()?.as_bytes())
    }

    /// YAML, whose texts are JSON strings: every JSON value is YAML, and nothing a user names can break out of one.
    fn front_matter(&self) -> String {
        let mut text =
            String::from("---\nlibrary_name: transformers\npipeline_tag: text-generation\n");
        if let Some(base) = &self.base_model {
            let _ = writeln!(text, "base_model: {}", quoted(base));
        }
        if !self.datasets.is_empty() {
            text.push_str("datasets:\n");
            for data in &self.datasets {
                let _ = writeln!(text, "- {}", quoted(data));
            }
        }
        let _ = writeln!(text, "tags:\n- rlhf\n- {}", quoted(&self.family));
        let _ = writeln!(text, "- {}", quoted(&self.method));
        // A hub ranks by what stands here, so that what is worth nothing does not.
        if !self.metrics.is_empty() && self.caution.is_none() {
            let _ = write!(
                text,
                "model-index:\n- name: {}\n  results:\n  - task:\n      type: text-generation\n",
                quoted(&self.name)
            );
            let data = quoted(&self.evaluated_on);
            let _ = write!(
                text,
                "    dataset:\n      name: {data}\n      type: {data}\n    metrics:\n"
            );
            for metric in &self.metrics {
                let name = quoted(&metric.name);
                let _ = write!(
                    text,
                    "    - name: {name}\n      type: {name}\n      value: {}\n",
                    metric.value
                );
            }
        }
        text + "---\n"
    }

    fn results(&self, text: &mut String) {
        if self.metrics.is_empty() {
            return;
        }
        let _ = write!(
            text,
            "\n## Results\n\nOn {}, with 95% intervals.\n\n",
            line(&self.evaluated_on)
        );
        text.push_str("| metric | value | interval |\n|---|---|---|\n");
        for metric in &self.metrics {
            let interval = match metric.interval {
                Some((low, high)) => format!("{low:.4} to {high:.4}"),
                None => "–".into(),
            };
            let _ = writeln!(
                text,
                "| {} | {:.4} | {interval} |",
                cell(&metric.name),
                metric.value
            );
        }
    }

    fn check(&self) -> Result<()> {
        let refuse = |why: String| Err(Error::request("model card", why));
        if self.name.trim().is_empty() || self.method.trim().is_empty() {
            return refuse("found no name or no method, expected both".into());
        }
        for metric in &self.metrics {
            let (low, high) = metric.interval.unwrap_or_default();
            if ![metric.value, low, high].iter().all(|x| x.is_finite()) {
                let why = format!(
                    "metric {}: found {metric:?}, expected finite numbers",
                    metric.name
                );
                return refuse(why);
            }
        }
        Ok(())
    }
}

const USE: &str = "
## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(\".\")
tokenizer = AutoTokenizer.from_pretrained(\".\")
```

A research artefact: it was trained to study where reward is paid, and has no safeguards of its own.
";

/// What the method is, since `dppo` alone would be taken for another one.
fn explain(method: &str, shown: &str) -> String {
    let what = match method {
        "sft" => "supervised fine-tuning on the preferred responses",
        "dpo" => "direct preference optimisation from the SFT policy",
        "ppo" => "PPO on a reward model's score at the end of a response",
        m if m.starts_with("dppo") => {
            "PPO on the DPO reward of the whole response, paid at its end (\"DPPO\" in the paper; not divergence PPO)"
        }
        m if m.starts_with("rto") => {
            "Reinforced Token Optimization: PPO on the DPO reward of every token, after \"DPO Meets PPO: Reinforced Token Optimization for RLHF\""
        }
        _ => return format!("A policy trained by `{shown}`."),
    };
    format!("A policy trained by `{shown}`: {what}.")
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The text on one line of Markdown.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn cell(text: &str) -> String {
    line(text).replace('|', "\\|")
}
