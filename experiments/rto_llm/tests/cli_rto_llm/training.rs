//! `rto_llm` without a subcommand: the whole run, small.

use super::{error, ok};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn arguments(out: &Path) -> Vec<String> {
    let out = out.to_str().unwrap();
    ["--smoke", "--quiet", "--out", out]
        .map(String::from)
        .into()
}

fn finish(out: &Path) -> String {
    let arguments = arguments(out);
    ok(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Every file under a folder by its path, without what carries the wall clock.
pub fn contents(root: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, all: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_string();
            if path.is_dir() {
                walk(root, &path, all);
            } else if name != "timings.json" && !name.contains("tfevents") {
                all.insert(name, fs::read(path).unwrap());
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(root, root, &mut all);
    all
}

#[track_caller]
pub fn same(a: &BTreeMap<String, Vec<u8>>, b: &BTreeMap<String, Vec<u8>>) {
    let names = |m: &BTreeMap<String, Vec<u8>>| m.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(a), names(b));
    for (name, bytes) in a {
        assert!(bytes == &b[name], "{name} differs");
    }
}

/// Runs until `ready` and then kills the process; whether there was still one to kill.
fn kill_when(out: &Path, more: &[&str], ready: impl Fn() -> bool) -> bool {
    let mut child = Command::new(env!("CARGO_BIN_EXE_rto_llm"))
        .args(arguments(out))
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !ready() && child.try_wait().unwrap().is_none() {
        assert!(
            start.elapsed() < Duration::from_secs(300),
            "never got there"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    let alive = child.try_wait().unwrap().is_none();
    // SIGKILL on Unix.
    child.kill().ok();
    child.wait().unwrap();
    alive
}

/// Whether the run has come to where it is to be killed.
type Moment<'a> = Box<dyn Fn() -> bool + 'a>;

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).map_or(0, |t| t.lines().count())
}

#[test]
fn a_killed_run_ends_with_the_bytes_of_an_undisturbed_one() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    let text = finish(&whole);
    assert!(
        text.contains("rto_released") && text.contains("results in"),
        "{text}"
    );
    let expected = contents(&whole);
    for name in [
        "config.toml",
        "evaluation.csv",
        "evaluation_greedy.csv",
        "exact.csv",
        "exact_frontier.csv",
        "frontier.csv",
        "frontier.svg",
        "responses.jsonl",
        "policies/rto/README.md",
        "summary.csv",
        "samples.jsonl",
        "credit.jsonl",
        "metrics/sft.jsonl",
        "metrics/reward.jsonl",
        "metrics/dpo.jsonl",
        "metrics/ppo.jsonl",
        "metrics/dppo.jsonl",
        "metrics/rto.jsonl",
        "metrics/rto_released.jsonl",
        "policies/rto/model.safetensors",
        "policies/rto/tokenizer.json",
        "policies/rto/config.json",
        "policies/reward/config.json",
        "stages/rto/checkpoint/critic/optimizer.safetensors",
    ] {
        assert!(expected.contains_key(name), "{name} is missing");
    }
    assert!(
        whole
            .join("tensorboard/rto/events.out.tfevents.rto")
            .is_file()
    );

    let at = |file: &str| killed.join(file);
    let moments: [Moment; 6] = [
        Box::new(|| lines(&at("metrics/sft.jsonl")) >= 2),
        Box::new(|| lines(&at("metrics/reward.jsonl")) >= 1),
        Box::new(|| at("stages/dpo/done.json").is_file()),
        Box::new(|| lines(&at("metrics/ppo.jsonl")) >= 1),
        Box::new(|| at("stages/rto/checkpoint/state.json").is_file()),
        Box::new(|| at("stages/rto_released/done.json").is_file()),
    ];
    let kills = moments
        .iter()
        .filter(|ready| kill_when(&killed, &[], ready))
        .count();
    assert!(kills >= 4, "only {kills} processes were killed");
    finish(&killed);
    same(&expected, &contents(&killed));

    // Once more: everything is there already, and nothing changes.
    finish(&killed);
    same(&expected, &contents(&killed));

    // Another seed is another run, and does not go on here.
    let out = killed.to_str().unwrap();
    let said = error(&["--smoke", "--quiet", "--seed", "2", "--out", out]);
    assert!(said.contains("`seed` is 1 there and 2 now"), "{said}");
    same(&expected, &contents(&killed));
}

/// What other weights for writing cost is in the metrics, the table, the answer and the page; threads and kills change no byte of such a run.
#[test]
fn a_run_that_writes_with_narrow_weights_says_what_that_costs() {
    const MORE: [&str; 4] = ["--methods", "rto", "--set", "sampling_weights=\"int8\""];
    let dir = tempfile::tempdir().unwrap();
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    let go = |out: &Path, threads: &str, more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_rto_llm"))
            .args(arguments(out))
            .args(MORE)
            .args(more)
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let answer: serde_json::Value = serde_json::from_str(&go(&whole, "1", &["--json"])).unwrap();
    let file = |name: &str| fs::read_to_string(whole.join(name)).unwrap();
    let steps: Vec<serde_json::Value> = file("metrics/rto.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mean = |key: &str| {
        let all = steps.iter().map(|step| step[key].as_f64().unwrap());
        all.sum::<f64>() / steps.len() as f64
    };
    let (kl, clipped) = (mean("sampler/kl"), mean("sampler/clipfrac"));
    // Not zero, as the weights are others, and small, as they are near.
    assert!(
        kl != 0.0 && kl.abs() < 0.01 && clipped < 0.01,
        "{kl} {clipped}"
    );
    let row = &answer["sampler"][0];
    assert_eq!(row["method"], "rto");
    for (column, mean) in [("sampler_kl", kl), ("sampler_clipped", clipped)] {
        let said = row[column].as_f64().unwrap();
        assert!((said - mean).abs() <= 1e-12 * mean.abs(), "{said} {mean}");
    }
    let table = file("sampler.csv");
    assert!(
        table.starts_with("method,iterations,sampler_kl,"),
        "{table}"
    );
    assert!(file("report.html").contains("π/q outside the clip range"));

    let metrics = killed.join("metrics/rto.jsonl");
    assert!(kill_when(&killed, &MORE, || lines(&metrics) >= 1));
    go(&killed, "2", &[]);
    same(&contents(&whole), &contents(&killed));
}

#[test]
fn narrow_weights_and_rounded_products_are_refused_where_nothing_computes_so() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let path = out.to_str().unwrap();
    let refused = |set: &[&str], expected: &str| {
        let sets = set.iter().flat_map(|set| ["--set", set]);
        let args: Vec<&str> = ["--smoke", "--quiet", "--out", path]
            .into_iter()
            .chain(sets)
            .collect();
        let said = error(&args);
        assert!(said.contains(expected), "{said}");
        assert!(!out.exists());
    };
    for key in ["sampling_weights=\"bf16\"", "products=\"bf16\""] {
        refused(
            &[key, "device=\"kernels:slices\""],
            "device: found \"kernels:slices\" with",
        );
        refused(&[key, "dtype=\"bf16\""], "dtype: found \"bf16\" with");
    }
    refused(&["sampling_weights=\"int4\""], "sampling_weights");
    let model = super::fixture("plain");
    let said = error(&[
        "generate",
        "--model",
        &model,
        "--prompt",
        "a",
        "--dtype",
        "bf16",
        "--sampling-weights",
        "int8",
    ]);
    assert!(
        said.contains("--sampling-weights: found int8 with"),
        "{said}"
    );
}

/// Where the processor has such products a run trains with them, and reports how far the text that the exact products wrote is off; elsewhere one line
/// refuses it.
#[test]
fn products_in_bf16_train_or_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let path = out.to_str().unwrap();
    let args = [
        "--smoke",
        "--quiet",
        "--methods",
        "rto",
        "--out",
        path,
        "--set",
        "products=\"bf16\"",
    ];
    if !rto_bridge::model::Products::Bf16.available() {
        let said = error(&args);
        assert!(
            said.contains("products: found \"bf16\", expected \"f32\""),
            "{said}"
        );
        assert!(!out.exists());
        return;
    }
    ok(&args);
    let metrics = fs::read_to_string(out.join("metrics/rto.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
    let kl = first["sampler/kl"].as_f64().unwrap();
    assert!(kl != 0.0 && kl.abs() < 0.01, "{kl}");
}

#[test]
fn stages_end_early_and_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let path = out.to_str().unwrap();
    ok(&[
        "run",
        "--smoke",
        "--quiet",
        "--stage",
        "sft",
        "--methods",
        "rto",
        "--out",
        path,
    ]);
    assert!(out.join("policies/sft").is_dir() && !out.join("policies/dpo").exists());
    ok(&["--smoke", "--quiet", "--methods", "rto", "--out", path]);
    let evaluation = fs::read_to_string(out.join("evaluation.csv")).unwrap();
    assert!(evaluation.starts_with("method,prompt_id,reward,kl,length,finished\n"));
    assert_eq!(evaluation.lines().count(), 1 + 3 * 10);
    assert!(!out.join("policies/ppo").exists());
    let line = fs::read_to_string(out.join("metrics/rto.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    for name in [
        "step",
        "objective/kl",
        "objective/entropy",
        "objective/rlhf_reward",
        "policy/clipfrac_avg",
        "policy/approxkl_avg",
        "reward/dpo",
        "reward/kl",
        "val/truncated",
    ] {
        assert!(line[name].is_number(), "{name}: {line}");
    }
    let line = fs::read_to_string(out.join("metrics/dpo.jsonl")).unwrap();
    assert!(line.contains("rewards/margins") && line.contains("rewards/accuracies"));
    // What was written loads again.
    let policy = out.join("policies/rto");
    let args = ["generate", "--model", policy.to_str().unwrap(), "--quiet"];
    let args = [&args[..], &["--prompt", "<user> what do cats eat ? <bot>"]].concat();
    ok(&args);
}

#[test]
fn a_dry_run_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let path = out.to_str().unwrap();
    let text = ok(&["--dry-run", "--set", "method.rto.beta2=0.03", "--out", path]);
    assert!(
        text.contains("[method.rto]\nbeta2 = 0.03") && text.contains("moments"),
        "{text}"
    );
    assert!(!out.exists());
}

#[test]
fn bad_settings_end_in_one_line_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (out, file) = (dir.path().join("run"), dir.path().join("mine.toml"));
    let (path, mine) = (out.to_str().unwrap(), file.to_str().unwrap());
    fs::write(&file, "seed = 3\ndpo.bta = 0.2\n").unwrap();
    for (args, want) in [
        (
            vec!["--config", mine],
            "mine.toml:2: unknown key `dpo.bta`, expected `dpo.beta`",
        ),
        (
            vec!["--preset", "huge"],
            "--preset huge: no such preset, expected one of tiny",
        ),
        (vec!["--set", "seed"], "--set seed: expected key=value"),
        (vec!["--set", "ppo.clip=-1"], "ppo: clip: found -1, must be"),
        (
            vec!["--set", "rl_prompts=8"],
            "key `rl_prompts` is of a former version, expected `ppo.prompts_per_iteration`",
        ),
        (
            vec!["--set", "ppo.dual_clip=0.5"],
            "dual_clip: found 0.5, must be finite and > 1",
        ),
        (
            vec!["--set", "dpo.loss={ cdpo = { epsilon = 0.6 } }"],
            "dpo: cdpo.epsilon: found 0.6, must be in [0, 0.5)",
        ),
        (vec!["--set", "dpo.loss=idpo"], "key `dpo.loss` is \"idpo\""),
        (
            vec!["--set", "method.rto.clip=1"],
            "method.rto.clip: no such setting, expected one of beta1, beta2",
        ),
        (
            vec!["--methods", "dppo_offset"],
            "methods: found dppo_offset, expected methods whose critic",
        ),
        (vec!["--set", "critic=none"], "key `critic` is \"none\""),
        (
            vec!["--set", "eval_prompts=99999"],
            "eval_prompts: found 99999, expected at most",
        ),
        (
            vec!["--set", "max_positions=20"],
            "max_positions: found 20, expected at least",
        ),
        (
            vec!["--set", "n_heads=3"],
            "n_heads: found 3, expected a divisor",
        ),
    ] {
        let said = error(&[&args[..], &["--quiet", "--out", path]].concat());
        assert!(said.contains(want), "{said}");
        assert!(!out.exists());
    }
}

/// Losses of pairs, estimators without a critic and clips are settings: each trains through to its checkpoint.
#[test]
fn losses_and_estimators_of_the_library_are_settings() {
    for (methods, last, sets) in [
        ("ppo", "dpo", &["dpo.loss=ipo"][..]),
        ("ppo", "dpo", &["dpo.loss=tdpo1"]),
        ("ppo", "dpo", &["dpo.loss={ kto = {} }"]),
        (
            "rloo",
            "rl",
            &["method.rloo.group=2", "ppo.minibatch_size=8"],
        ),
        (
            "rto",
            "rl",
            &[
                "ppo.dual_clip=3.0",
                "ppo.clip_high=0.3",
                "ppo.value_clip=off",
            ],
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("run");
        let path = out.to_str().unwrap();
        let mut args = vec!["--smoke", "--quiet", "--out", path];
        args.extend(["--methods", methods, "--stage", last]);
        args.extend(sets.iter().flat_map(|set| ["--set", *set]));
        ok(&args);
        for stage in methods.split(',').filter(|_| last == "rl").chain(["dpo"]) {
            assert!(
                out.join("policies").join(stage).is_dir(),
                "{stage} {sets:?}"
            );
        }
        // A run goes on with its own settings.
        ok(&["--quiet", "--out", path, "--stage", last]);
    }
}
