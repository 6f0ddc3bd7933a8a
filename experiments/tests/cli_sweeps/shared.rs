//! Several processes: shards, a Slurm array and the merge.

use crate::binaries::{Sweep, cells};
use crate::common::{self, assert_refused, assert_same, assert_success, files, stderr};
use serde_json::Value;
use std::fs;
use std::process::Stdio;
use tempfile::TempDir;

pub fn three_shards_and_a_merge_give_the_bytes_of_one_process(sweep: &Sweep) {
    let dir = TempDir::new().unwrap();
    let whole = sweep.smoke(dir.path(), "whole");

    // Folders of their own, counted from 1.
    for shard in ["1/3", "2/3", "3/3"] {
        let out = format!("own-{}", &shard[..1]);
        let args = ["--smoke", "--shard", shard, "--out", &out];
        assert_success(&sweep.run(&args, dir.path()));
        assert!(!dir.path().join(&out).join("results.json").exists());
    }
    let merge = ["merge", "own-1", "own-2", "own-3", "--out", "merged"];
    assert_success(&sweep.run(&merge, dir.path()));
    assert_same(&files(&dir.path().join("merged")), &whole);

    // One shared folder, all at once, counted from 0; merged in place and elsewhere.
    let children = ["0/3", "1/3", "2/3"].map(|shard| {
        let args = ["--smoke", "--shard", shard, "--out", "shared", "--json"];
        sweep
            .command(&args, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    });
    let mut computed = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert_success(&output);
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        computed += value["computed"].as_u64().unwrap();
    }
    assert_eq!(computed, cells(&whole).len() as u64);
    for out in ["elsewhere", "shared"] {
        assert_success(&sweep.run(&["merge", "shared", "--out", out], dir.path()));
        assert_same(&files(&dir.path().join(out)), &whole);
    }
}

/// What sbatch gets is run here as Slurm would run it; a real cluster is started by `.ci/slurm`.
pub fn an_array_of_slurm_jobs_gives_the_bytes_of_one_process(sweep: &Sweep) {
    let dir = TempDir::new().unwrap();
    let whole = sweep.smoke(dir.path(), "whole");
    let slurm = |out: &str, more: &[&str]| {
        let args = [&["--out", out, "--slurm", "3"], more].concat();
        sweep.command(&args, dir.path())
    };
    // Without a cluster: one line, and nothing is made. A dry run needs none and makes nothing either.
    let mut without = slurm("run", &["--smoke"]);
    let refused = without.env("PATH", "/nowhere").output().unwrap();
    assert_refused(&refused, &["--slurm", "no sbatch", "--dry-run"]);
    let scripts = slurm("run", &["--smoke", "--dry-run"]).output().unwrap();
    assert_success(&scripts);
    let scripts = String::from_utf8(scripts.stdout).unwrap();
    assert!(scripts.contains("#SBATCH --array=0-2\n"), "{scripts}");
    assert!(!dir.path().join("run").exists());
    let alone = sweep.run(&["--smoke", "--dry-run"], dir.path());
    assert!(stderr(&alone).contains("--slurm <N>"), "{}", stderr(&alone));
    let bad = [sweep.bad[0].0, &["--smoke"]].concat();
    assert_refused(&slurm("run", &bad).output().unwrap(), sweep.bad[0].1);
    assert_refused(
        &slurm("run", &["--smoke", "--sbatch", "--array=1-5"])
            .output()
            .unwrap(),
        &["--sbatch", "--array=1-5"],
    );
    assert!(!dir.path().join("run").exists());

    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let fake =
        "#!/bin/sh\n[ \"$1\" = --version ] || { echo \"$@\" >>\"$SAID\"; wc -l <\"$SAID\"; }\n";
    fs::write(bin.join("sbatch"), fake).unwrap();
    assert_success(&common::run("chmod", &["+x", "bin/sbatch"], dir.path()));
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let said = dir.path().join("said");
    let submit = |args: &[&str]| {
        let mut command = slurm("run", args);
        let output = command
            .env("PATH", &path)
            .env("SAID", &said)
            .output()
            .unwrap();
        assert_success(&output);
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let time = "--sbatch=--time=5:00 --comment='two words'";
    let first = submit(&["--smoke", "--json", time]);
    assert_eq!(first["tasks"], serde_json::json!([0, 1, 2]));
    assert_eq!(first["jobs"]["array"], "1");
    let lines = fs::read_to_string(&said).unwrap();
    let lines: Vec<&str> = lines.lines().collect();
    assert!(
        lines[0].starts_with("--parsable --time=5:00 --comment=two words /"),
        "{lines:?}"
    );
    assert!(lines[1].contains(" --dependency=afterany:1 /"), "{lines:?}");

    let start = |number: u32, script: &str, index: &str| {
        let script = dir
            .path()
            .join(format!("run/slurm/{number:04}/{script}.sh"));
        let mut shell = common::command("bash", &[script.to_str().unwrap()], dir.path());
        shell.env("SLURM_ARRAY_TASK_ID", index).output().unwrap()
    };
    for index in ["2", "0"] {
        assert_success(&start(1, "array", index));
    }
    // The merge names what is missing, and a second submission is for that alone.
    assert_refused(&start(1, "merge", ""), &["in none of these runs"]);
    let second = submit(&["--json"]);
    assert_eq!(second["tasks"], serde_json::json!([1]));
    assert_success(&start(2, "array", "1"));
    assert_success(&start(2, "merge", ""));
    let mut run = files(&dir.path().join("run"));
    run.retain(|name, _| !name.starts_with("slurm/"));
    let timings = fs::read_to_string(dir.path().join("run/timings.json")).unwrap();
    let timings: Value = serde_json::from_str(&timings).unwrap();
    assert_eq!(timings["machines"].as_array().unwrap().len(), 1);
    assert_same(&run, &whole);
    assert_eq!(submit(&["--json"])["jobs"]["array"], Value::Null);
}

pub fn a_merge_wants_all_cells_of_one_experiment(sweep: &Sweep) {
    let dir = TempDir::new().unwrap();
    for (seed, out) in [("1", "one"), ("2", "two")] {
        let args = ["--smoke", "--seed", seed, "--shard", "1/2", "--out", out];
        assert_success(&sweep.run(&args, dir.path()));
    }
    let merge =
        |args: &[&str]| sweep.run(&[&["merge"], args, &["--out", "out"]].concat(), dir.path());
    let first = format!("the first is {}/", sweep.name);
    assert_refused(
        &merge(&["one"]),
        &["cells are in none of these runs", &first],
    );
    assert_refused(
        &merge(&["one", "two"]),
        &["two", "`seed` is 2 there and 1 now"],
    );
    assert_refused(&merge(&["one", "absent"]), &["absent"]);
    assert!(!dir.path().join("out").exists());
}
