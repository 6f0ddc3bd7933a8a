//! `rto_llm judge`: a language model compares the responses of a finished run (section 5.1, Table 6).

use std::path::PathBuf;

/// Let a language model over an OpenAI-compatible HTTP endpoint compare the responses of a finished run.
///
/// Which response it reads first is drawn at random; replies are kept in the run folder, so that a stopped command goes on
/// without asking anything twice. Writes judge.csv and draws report.html again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of the run
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// What stands before /chat/completions, for example http://localhost:8000/v1
    #[arg(long, value_name = "URL")]
    pub endpoint: String,
    /// The judge's name there
    #[arg(long, value_name = "NAME")]
    pub judge_model: String,
    /// Environment variable that holds the key; `none` sends none
    #[arg(long, value_name = "NAME", default_value = "OPENAI_API_KEY")]
    pub key_env: String,
    /// Pairs of methods, as rto:dppo,rto:sft [default: every pair]
    #[arg(long, value_name = "LIST", value_delimiter = ',', alias = "pairs")]
    pub compare: Vec<String>,
    /// Prompts to compare on, the first of the held-out ones (the paper: 100)
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
    /// What to ask, with the places {{query}}, {{response_a}} and {{response_b}}
    #[arg(long, value_name = "FILE")]
    pub template: Option<PathBuf>,
    /// How often a failed request is sent again
    #[arg(long, value_name = "N", default_value_t = 6)]
    pub retries: u32,
    /// Seed of the order in which responses are shown
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Say how many requests that takes; send none
    #[arg(long)]
    pub dry_run: bool,
    /// Draw no progress bar
    #[arg(long)]
    pub quiet: bool,
}

#[cfg(not(feature = "judge"))]
pub fn run(_: &Args) -> anyhow::Result<()> {
    anyhow::bail!(
        "judge: this program was built without it, expected `cargo run --features rto-llm/judge --bin rto_llm -- judge …`"
    )
}

#[cfg(feature = "judge")]
pub use asking::run;

#[cfg(feature = "judge")]
mod asking {
    use super::Args;
    use crate::report;
    use anyhow::{Context, Result, anyhow, bail};
    use rto::seed::SeedTree;
    use rto::seq::StreamKey;
    use rto_bridge::checkpoint::atomic::replace_file;
    use rto_bridge::judge::{Contest, Judge, JudgeConfig, Template};
    use rto_harness::cli::print;
    use rto_harness::lock::{self, Sharing};
    use rto_harness::progress::Progress;
    use rto_harness::table::Table;
    use serde::Deserialize;
    use std::collections::BTreeMap;
    use std::path::Path;

    /// A line of `responses.jsonl`; the other keys are not needed here.
    #[derive(Deserialize)]
    struct Response {
        method: String,
        prompt_id: usize,
        prompt: String,
        response: String,
        length: f64,
    }

    type ByMethod = BTreeMap<String, BTreeMap<usize, Response>>;

    pub fn run(args: &Args) -> Result<()> {
        let path = args.run.join("responses.jsonl");
        let (order, all) = read(&path)?;
        let pairs = pairs(args, &order)?;
        let config = JudgeConfig {
            api_key_env: (args.key_env != "none").then(|| args.key_env.clone()),
            retries: args.retries,
            template: match &args.template {
                Some(file) => Template::from_file(file)?,
                None => Template::default(),
            },
            ..JudgeConfig::new(&args.endpoint, &args.judge_model)
        };
        let _hold = lock::hold(&args.run, Sharing::Alone)?;
        let judge = Judge::open(config, &args.run.join("judge_transcripts.jsonl"))?;
        let seeds = SeedTree::new(args.seed).child("judge");
        let mut contests = Vec::new();
        let mut rows = Vec::new();
        for (row, column) in &pairs {
            let node = seeds.child(row).child(column);
            for (id, first) in all[row].iter().take(args.limit) {
                let second = all[column].get(id).filter(|r| r.prompt == first.prompt);
                let second = second.with_context(|| {
                    format!(
                        "{}: {column} has no response to prompt {id} of {row}",
                        path.display()
                    )
                })?;
                contests.push(Contest {
                    query: first.prompt.trim().into(),
                    first: first.response.trim().into(),
                    second: second.response.trim().into(),
                    key: StreamKey::new(node.index(*id as u64)),
                });
                rows.push((row, column, *id, first.length - second.length));
            }
        }
        let open = judge.n_open(&contests);
        print(&format!(
            "{} comparisons, {open} requests to send\n",
            contests.len()
        ))?;
        if args.dry_run {
            return Ok(());
        }
        let bar = Progress::new(args.quiet).bar(open as u64, "judging");
        let verdicts = judge.decide(&contests, &|_| bar.inc(1))?;
        drop(bar);
        let columns = [
            "row",
            "column",
            "prompt_id",
            "preference",
            "length_difference",
        ];
        let mut table = Table::new("judge", &columns);
        for ((row, column, id, difference), verdict) in rows.into_iter().zip(verdicts) {
            let preference = match verdict.preference() {
                Some(w) => w.into(),
                None => "".into(),
            };
            table.push([
                row.as_str().into(),
                column.as_str().into(),
                id.into(),
                preference,
                difference.into(),
            ]);
        }
        let asked = serde_json::json!({
            "model": args.judge_model, "endpoint": args.endpoint, "template": args.template, "limit": args.limit, "seed": args.seed,
        });
        replace_file(
            &args.run.join("judge.json"),
            format!("{asked:#}\n").as_bytes(),
        )?;
        replace_file(&args.run.join("judge.csv"), table.to_csv().as_bytes())?;
        let page = args.run.join("report.html");
        report::write(&args.run, &page)?;
        print(&format!("{}\n", report::judged_text(&args.run)?))?;
        print(&format!("everything on one page: {}\n", page.display()))
    }

    /// Methods in the order of the file, and their responses.
    fn read(path: &Path) -> Result<(Vec<String>, ByMethod)> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            anyhow!(
                "{}: cannot read: {e}; --run names the folder of a finished run",
                path.display()
            )
        })?;
        let (mut order, mut all) = (Vec::new(), ByMethod::new());
        for (i, line) in text.lines().enumerate() {
            let response: Response = serde_json::from_str(line)
                .map_err(|e| anyhow!("{}:{}: {e}", path.display(), i + 1))?;
            if !order.contains(&response.method) {
                order.push(response.method.clone());
            }
            let of_method = all.entry(response.method.clone()).or_default();
            of_method.insert(response.prompt_id, response);
        }
        match order.len() {
            0 | 1 => bail!(
                "{}: found {} methods, expected two or more",
                path.display(),
                order.len()
            ),
            _ => Ok((order, all)),
        }
    }

    fn pairs(args: &Args, order: &[String]) -> Result<Vec<(String, String)>> {
        if args.limit == 0 {
            bail!("--limit: found 0, expected at least 1");
        }
        if args.compare.is_empty() {
            let after = |i: usize| {
                order[i + 1..]
                    .iter()
                    .map(move |b| (order[i].clone(), b.clone()))
            };
            return Ok((0..order.len()).flat_map(after).collect());
        }
        let pair = |text: &String| match text.split_once(':') {
            Some((a, b)) if a != b && [a, b].iter().all(|m| order.iter().any(|n| n == m)) => {
                Ok((a.to_string(), b.to_string()))
            }
            _ => Err(anyhow!(
                "--compare {text}: expected two different ones of {}, as rto:sft",
                order.join(", ")
            )),
        };
        let pairs: Vec<(String, String)> = args.compare.iter().map(pair).collect::<Result<_>>()?;
        let mut sorted: Vec<[&String; 2]> =
            pairs.iter().map(|(a, b)| [a.min(b), a.max(b)]).collect();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|w| w[0] == w[1]) {
            bail!(
                "--compare: found {}:{} twice, expected each pair once",
                twice[0][0],
                twice[0][1]
            );
        }
        Ok(pairs)
    }
}
