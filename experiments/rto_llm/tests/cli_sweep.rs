//! `rto_llm sweep` as a user meets it: whole, stopped, in shards, and with plans that it refuses.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Two methods, two points, two seeds to tune on and two to report: seconds.
const PLAN: &str = r#"
methods = ["dppo", "rto"]
tuning_seeds = [101, 102]
report_seeds = [1, 2]
samples = 16
evaluations = 2
temperatures = [0.5]
best_of = [2]
[settings]
hidden_size = 16
intermediate_size = 32
n_layers = 1
demonstrations = 32
pairs = 32
eval_prompts = 4
sft.batch_size = 16
reward.batch_size = 16
dpo.fit.batch_size = 16
ppo.prompts_per_iteration = 8
ppo.minibatch_size = 8
[grid.dppo]
ppo.learning_rate = [1e-3, 3e-3]
[grid.rto]
ppo.learning_rate = [1e-3, 3e-3]
"#;

/// What a finished sweep has, the same however it was computed.
const FILES: [&str; 15] = [
    "runs.csv",
    "worlds.csv",
    "setting.csv",
    "points.csv",
    "same_point.csv",
    "curves.csv",
    "ends.csv",
    "frontier.csv",
    "conclusions.csv",
    "variants.csv",
    "verdicts.csv",
    "held_out.csv",
    "results.json",
    "objective.svg",
    "config.toml",
];

fn sweep(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rto_llm"))
        .arg("sweep")
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap()
}

fn ok(dir: &Path, args: &[&str]) -> String {
    let output = sweep(dir, args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// The one line of a plan that is refused; nothing is made.
fn refused(dir: &Path, plan: &str) -> String {
    fs::write(dir.join("bad.toml"), plan).unwrap();
    let output = sweep(dir, &["bad.toml", "--out", "bad"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{plan}");
    assert!(
        said.starts_with("error: ") && said.lines().count() == 1,
        "{said}"
    );
    assert!(said.contains("bad.toml"), "{said}");
    assert!(!dir.join("bad").exists(), "{said}");
    said
}

fn same(one: &Path, other: &Path) {
    for file in FILES {
        let read = |dir: &Path| fs::read(dir.join(file)).unwrap();
        assert!(
            read(one) == read(other),
            "{file} of {} differs",
            other.display()
        );
    }
}

fn rows(dir: &Path, file: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(dir.join(file)).unwrap();
    let row = |line: &str| line.split(',').map(str::to_string).collect();
    text.lines().map(row).collect()
}

/// The values of a column where others have these.
fn column(table: &[Vec<String>], name: &str, with: &[(&str, &str)]) -> Vec<String> {
    let at = |name: &str| table[0].iter().position(|c| c == name).unwrap();
    let is_one = |row: &&Vec<String>| with.iter().all(|(c, v)| row[at(c)] == *v);
    let found = table[1..].iter().filter(is_one);
    found.map(|row| row[at(name)].clone()).collect()
}

#[test]
fn shards_and_kills_give_the_bytes_of_one_process() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    fs::write(dir.join("plan.toml"), PLAN).unwrap();
    let text = ok(dir, &["plan.toml", "--out", "whole"]);
    assert!(text.contains("RTO against DPPO"), "{text}");
    let whole = dir.join("whole");

    // One shard, then the other, which finds all that is tuned and reports; then the first again.
    let shard = |index: &str| ok(dir, &["plan.toml", "--out", "shared", "--shard", index]);
    assert!(shard("1/2").contains("the same commands again"));
    assert!(shard("2/2").contains("rto_llm sweep merge"));
    let early = sweep(dir, &["merge", "shared", "--out", "early"]);
    let said = String::from_utf8_lossy(&early.stderr);
    assert!(
        !early.status.success() && said.contains("cells are in none of these runs"),
        "{said}"
    );
    assert!(shard("1/2").contains("rto_llm sweep merge"));
    ok(dir, &["merge", "shared", "--out", "merged"]);
    same(&whole, &dir.join("merged"));

    // Killed after its first cell, and again: it goes on with the settings of the folder.
    let mut command = Command::new(env!("CARGO_BIN_EXE_rto_llm"));
    command
        .args(["sweep", "plan.toml", "--out", "killed"])
        .current_dir(dir);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let (start, cells) = (Instant::now(), dir.join("killed/cells"));
    let begun = || fs::read_dir(&cells).is_ok_and(|all| all.count() > 0);
    while !begun() && child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(120), "no cell");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    ok(dir, &["--out", "killed"]);
    same(&whole, &dir.join("killed"));

    // What is reported is the point that was chosen, on the seeds that no tuning saw, with as many replies.
    let (runs, points) = (rows(&whole, "runs.csv"), rows(&whole, "points.csv"));
    for method in ["dppo", "rto"] {
        let of = |c, stage| column(&runs, c, &[("method", method), ("stage", stage)]);
        let chosen = column(&points, "point", &[("method", method), ("chosen", "1")]);
        assert_eq!(chosen.len(), 1);
        assert!(of("point", "report").iter().all(|p| *p == chosen[0]));
        assert_eq!(of("seed", "tune"), ["101", "101", "102", "102"]);
        assert_eq!(of("seed", "report"), ["1", "1", "1", "2", "2", "2"]);
        assert_eq!(of("samples", "report"), ["0", "8", "16", "0", "8", "16"]);
        assert_eq!(of("samples", "tune"), ["16"; 4]);
    }
    // Every method begins at SFT, whose measures are those of the table of worlds.
    let worlds = rows(&whole, "worlds.csv");
    let sft = column(&worlds, "reward", &[("policy", "sft"), ("seed", "2")]);
    let with = [("seed", "2"), ("iteration", "0")];
    assert_eq!(column(&runs, "reward", &with), [&sft[0][..], &sft[0]]);
    assert_eq!(fs::read_dir(whole.join("unfinished")).unwrap().count(), 0);

    // Another plan in the same folder is another sweep.
    let other = PLAN.replace("samples = 16", "samples = 32");
    fs::write(dir.join("plan.toml"), other).unwrap();
    let output = sweep(dir, &["plan.toml", "--out", "whole"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("`samples` is 16 there and 32 now"),
        "{said}"
    );
}

#[test]
fn a_dry_run_counts_and_writes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("plan.toml"), PLAN).unwrap();
    let args = ["plan.toml", "--dry-run", "--json", "--out", "none"];
    let said: serde_json::Value = serde_json::from_str(&ok(temp.path(), &args)).unwrap();
    // 2 methods on 2 tuning seeds, 2 worlds, 2 methods on 2 seeds; 2 · 2 points · 2 seeds + 2 · 2 runs of 16.
    assert_eq!(said["cells"], 10);
    assert_eq!(said["runs"], 12);
    assert_eq!(said["samples"], 192);
    assert_eq!(said["bases"], 4);
    assert!(!temp.path().join("none").exists());
}

#[test]
fn unequal_and_wrong_plans_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let with = |from: &str, to: &str| {
        assert!(PLAN.contains(from), "{from}");
        refused(temp.path(), &PLAN.replace(from, to))
    };
    let one = "[grid.rto]\nppo.learning_rate = [1e-3, 3e-3]";
    for (from, to, said) in [
        (
            "samples = 16",
            "samples = 20",
            &["samples", "20", "dppo", "draws 8", "multiple"][..],
        ),
        (
            "evaluations = 2",
            "evaluations = 3",
            &["evaluations", "3", "divisor of 2"],
        ),
        (
            one,
            "[grid.rto]\nppo.learning_rate = [1e-3]",
            &["grid.rto", "1 points", "expected 2", "tuned equally"],
        ),
        (
            one,
            "[grid.rto]\nppo.learning_rate = [1e-3, 1e-3]",
            &["grid.rto.ppo.learning_rate", "0.001 twice"],
        ),
        (
            one,
            "[grid.rto]\nppo.learning_rate = 1e-3",
            &["grid.rto.ppo.learning_rate", "expected a list"],
        ),
        (
            one,
            "[grid.rto]\nppo.iterations = [1, 2]",
            &["grid.rto.ppo.iterations", "`samples`"],
        ),
        (
            one,
            "[grid.rto]\nppo.lernrate = [1, 2]",
            &["rto at ppo.lernrate=1", "unknown key `ppo.lernrate`"],
        ),
        (
            one,
            "[grid.rto]\nppo.learning_rate = [1e-3, -1.0]",
            &["learning_rate", "-1"],
        ),
        (
            one,
            "[grid.rtoo]\nppo.learning_rate = [1e-3, 3e-3]",
            &["grid.rtoo", "dppo, rto"],
        ),
        (
            "[\"dppo\", \"rto\"]",
            "[\"ppo\", \"rto\"]",
            &["methods", "no dppo"],
        ),
        (
            "[1, 2]",
            "[1, 101]",
            &["report_seeds", "101", "tuning seed"],
        ),
        (
            "[101, 102]",
            "[101]",
            &["tuning_seeds", "1 seed", "two or more"],
        ),
        (
            "[settings]",
            "[settings]\ndisagrement = 1.0",
            &["[settings]", "`disagrement`", "`disagreement`"],
        ),
        (
            "[settings]",
            "[settings]\nseed = 3",
            &["settings.seed", "3", "the plan says it"],
        ),
        (
            "[settings]",
            "[settings]\nmax_prompt_tokens = 8\ndata = [\"pairs.jsonl\"]",
            &["world.default", "pairs.jsonl", "no such file"],
        ),
        (
            "[settings]",
            "[world.default]\n[world.b]\ndata = [\"pairs.jsonl\"]\n[settings]\nmax_prompt_tokens = 8",
            &[
                "world.b.data",
                "pairs.jsonl",
                "world.default",
                "files in all",
            ],
        ),
        (
            "[settings]",
            "[settings]\ntoken_rewards = \"paid.jsonl\"",
            &["settings.token_rewards", "paid.jsonl", "expected none"],
        ),
        (
            "[settings]",
            "[world.a]\ndisagreement = 1.0\n[settings]",
            &["tuned_on", "default", "there is a"],
        ),
        (
            "[settings]",
            "[world.default]\ndisagreement = 2.0\n[settings]",
            &["disagreement", "2", "[0, 1]"],
        ),
        (
            "[settings]",
            "[variant.x]\nmethods = []\nsettings = {}\n[settings]",
            &["variant.x.methods", "found none"],
        ),
        (
            "[settings]",
            "[variant.x]\nmethods = [\"ppo\"]\nworlds = [\"y\"]\nsettings = {}\n[settings]",
            &["variant.x.worlds", "\"y\"", "default"],
        ),
        (
            "[settings]",
            "[variant.x]\nmethods = [\"ppo_dense\"]\nsettings = {}\n[settings]",
            &["variant.x", "ppo_dense", "token_rewards"],
        ),
        (
            "[settings]",
            "[settings]\nmethod.rto.beta2 = 0.1",
            &["method.rto.beta2", "0.1", "0.25", "variant"],
        ),
        (
            "samples = 16",
            "sampels = 16",
            &["bad.toml:5", "`sampels`", "`samples`"],
        ),
    ] {
        let found = with(from, to);
        for word in said {
            assert!(found.contains(word), "{to}: {found}expected {word}");
        }
    }
}

/// A sweep on files, of networks from scratch and of adapters on a model: judged by an oracle, in shares of the largest lead that was seen.
#[test]
fn a_sweep_on_files_is_judged_by_the_oracle() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let pair = |i: usize| {
        let (town, colour) = (["Rome", "Oslo", "Lima"][i % 3], ["red", "blue"][i % 2]);
        let prompt =
            format!("\n\nHuman: I saw {colour} doors in {town}, what now, {i}?\n\nAssistant:");
        serde_json::json!({
            "chosen": format!("{prompt} You could count the {colour} ones again."),
            "rejected": format!("{prompt} I do not care about {town}."),
        })
        .to_string()
    };
    let pairs: Vec<String> = (0..120).map(pair).collect();
    fs::write(dir.join("pairs.jsonl"), pairs.join("\n")).unwrap();
    let (before, after) = PLAN.split_once("[settings]").unwrap();
    let plan = format!(
        "preset = \"hh-scratch\"\n{before}[settings]\ndata = [\"pairs.jsonl\"]\nmax_new_tokens = 8\nmax_prompt_tokens = 32\nmax_positions = 40\nvocab_size = 280\nn_heads = 2\npretrain.epochs = 1\nsft.epochs = 1\nreward.epochs = 1\ndpo.fit.epochs = 1\n{after}[variant.free]\nmethods = [\"rloo\"]\nmeasure_first = 1\nsettings.method.rloo.group = 2\n"
    );
    fs::write(
        dir.join("plan.toml"),
        plan.replace("samples = 16", "samples = 32"),
    )
    .unwrap();
    let said = ok(dir, &["plan.toml", "--out", "run"]);
    assert!(said.contains("the largest lead over SFT"), "{said}");
    let run = dir.join("run");
    let (runs, worlds) = (rows(&run, "runs.csv"), rows(&run, "worlds.csv"));
    // SFT is where every method begins, on the prompts of the reported seeds, and nothing here has an optimum.
    for seed in ["1", "2"] {
        let sft = column(&worlds, "reward", &[("policy", "sft"), ("seed", seed)]);
        let with = [("seed", seed), ("iteration", "0"), ("stage", "report")];
        assert_eq!(column(&runs, "reward", &with), [&sft[0][..], &sft[0]]);
        let kl = column(&runs, "kl", &with);
        assert!(kl.iter().all(|kl| kl.parse::<f64>().unwrap().abs() < 1e-6));
    }
    assert!(column(&worlds, "kl", &[("policy", "optimum")]).is_empty());
    let of = |policy| column(&worlds, "kl", &[("policy", policy), ("seed", "1")]);
    let best: f64 = of("best_of_dpo")[0].parse().unwrap();
    assert!((best - (2f64.ln() - 0.5)).abs() < 1e-6, "{best}");
    assert!(of("greedy")[0].parse::<f64>().unwrap() > 0.0);
    // A method that is not tuned, measured after its first iteration and at the two times.
    let free = |c| column(&runs, c, &[("method", "rloo"), ("seed", "1")]);
    assert_eq!(free("iteration"), ["0", "1", "2", "4"]);
    assert_eq!(free("samples"), ["0", "8", "16", "32"]);
    // The largest mean lead has a share of 1.
    let ends = rows(&run, "ends.csv");
    let shares = column(&ends, "share", &[]);
    let largest = shares.iter().map(|s| s.parse::<f64>().unwrap());
    assert!(largest.fold(f64::NEG_INFINITY, f64::max) <= 1.0 + 1e-9);
    let frontier = rows(&run, "frontier.csv");
    assert!(column(&frontier, "gain", &[("curve", "frontier")]).is_empty());
    ok(dir, &["--redraw", "run"]);

    // Every seed has an oracle of its own.
    let folder = |seed: &str| run.join(format!("bases/default.{seed}/policies/oracle"));
    assert!(["1", "2", "101", "102"].iter().all(|s| folder(s).is_dir()));

    // From a model, with adapters.
    let model = "[settings]\nmodel = \"run/bases/default.1/policies/sft\"\nlora_rank = 2\n";
    let plan = fs::read_to_string(dir.join("plan.toml")).unwrap();
    let plan = plan.split("[grid.dppo]").next().unwrap();
    fs::write(dir.join("model.toml"), plan.replace("[settings]\n", model)).unwrap();
    ok(dir, &["model.toml", "--out", "adapted"]);
    let runs = rows(&dir.join("adapted"), "runs.csv");
    assert_eq!(
        column(&runs, "iteration", &[("method", "rto")]),
        ["0", "2", "4", "0", "2", "4"]
    );
}

/// Deviation 12 of the protocol: labels, data, networks and totals do not depend on where the reward is paid.
#[test]
fn the_density_of_the_true_reward_changes_nothing_that_is_measured() {
    let temp = tempfile::tempdir().unwrap();
    let plan = PLAN.split("[grid.dppo]").next().unwrap().to_string()
        + "[world.default]\n[world.late]\ndensity = 0.0\n";
    fs::write(temp.path().join("plan.toml"), plan).unwrap();
    ok(temp.path(), &["plan.toml", "--out", "run"]);
    let run = temp.path().join("run");
    for (file, columns) in [
        ("runs.csv", &["objective", "reward", "kl", "greedy"][..]),
        ("worlds.csv", &["reward", "kl"]),
    ] {
        let table = rows(&run, file);
        for name in columns {
            let [dense, late] =
                ["default", "late"].map(|w| column(&table, name, &[("instance", w)]));
            assert!(!dense.is_empty() && dense.len() == late.len());
            for (a, b) in dense.iter().zip(&late) {
                let [a, b] = [a, b].map(|v| v.parse::<f64>().unwrap());
                assert!(
                    (a - b).abs() <= 1e-6 * (1.0 + a.abs()),
                    "{file} {name}: {a} {b}"
                );
            }
        }
    }
}

/// The committed figures are what the committed numbers draw.
#[test]
fn the_committed_figures_are_drawn_from_their_tables() {
    for folder in ["sweep", "hh"] {
        redrawn(&committed().join(folder));
    }
}

fn committed() -> &'static Path {
    Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../figures/rto_llm"
    ))
}

fn redrawn(committed: &Path) {
    let temp = tempfile::tempdir().unwrap();
    let names = |dir: &Path| {
        let all = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = all.map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let all = names(committed);
    let is_table = |name: &&std::ffi::OsString| name.to_str().unwrap().ends_with(".csv");
    for name in all.iter().filter(is_table) {
        fs::copy(committed.join(name), temp.path().join(name)).unwrap();
    }
    ok(temp.path(), &["--redraw", "."]);
    assert_eq!(names(temp.path()), all);
    for name in &all {
        let read = |dir: &Path| fs::read(dir.join(name)).unwrap();
        assert!(read(committed) == read(temp.path()), "{name:?}");
    }
}
