//! Tests of run folders.

use super::*;
use std::time::Duration;

#[test]
fn numbers_go_up_and_are_never_shared() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("runs");
    assert_eq!(number(&base, "a").unwrap(), base.join("a-0001"));
    fs::create_dir(base.join("a-0041")).unwrap();
    fs::create_dir(base.join("a-b-0090")).unwrap();
    let mut made: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| number(&base, "a").unwrap()))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    made.sort();
    let expected: Vec<_> = (42..50).map(|n| base.join(format!("a-{n:04}"))).collect();
    assert_eq!(made, expected);
}

#[test]
fn out_must_be_new_or_empty() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x/y");
    drop(RunDir::create("a", Some(&out)).unwrap());
    let run = RunDir::create("a", Some(&out)).unwrap();
    let error = RunDir::create("a", Some(&out)).unwrap_err().to_string();
    assert!(error.contains("another program is at work"), "{error}");
    run.write_text("a.txt", "hello").unwrap();
    let error = RunDir::create("a", Some(&out)).unwrap_err().to_string();
    assert!(
        error.contains("not empty") && error.contains("nothing was overwritten"),
        "{error}"
    );
    let error = RunDir::create("a", Some(&out.join("a.txt")))
        .unwrap_err()
        .to_string();
    assert!(error.contains("is a file"), "{error}");
    assert!(run.write_text("a.txt", "again").is_err());
}

#[test]
fn a_setting_that_differs_is_named_with_its_table() {
    let found = "seed = 1\n[ppo]\nclip = 0.2\n[ppo.schedule.cosine]\nwarmup = 0.1\n";
    let said = |now: &str| difference(found, now).unwrap();
    let now = found.replace("0.1", "0.3");
    assert_eq!(
        said(&now),
        "`ppo.schedule.cosine.warmup` is 0.1 there and 0.3 now"
    );
    let now = "seed = 1\n[ppo]\nclip = 0.2\nschedule = \"constant\"\n";
    assert!(
        said(now).starts_with("`ppo.schedule` is {"),
        "{}",
        said(now)
    );
}

#[test]
fn a_run_continues_with_the_same_config_only() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let config = |seed: i32| BTreeMap::from([("seed", seed), ("size", 5)]);
    let open = |seed| RunDir::create_or_resume("a", Some(&out), &config(seed));
    let run = open(3).unwrap();
    run.write_text("a.csv", "x\n1\n").unwrap();
    let error = open(3).unwrap_err().to_string();
    assert!(error.contains("another program is at work"), "{error}");
    drop(run);
    let again = open(3).unwrap();
    again.write_text("a.csv", "x\n1\n").unwrap();
    let error = again.write_text("a.csv", "x\n2\n").unwrap_err().to_string();
    assert!(error.contains("other contents"), "{error}");
    drop(again);
    let error = open(4).unwrap_err().to_string();
    assert!(error.contains("`seed` is 3 there and 4 now"), "{error}");
    // Another program, or another version of this one.
    let path = out.join("versions.json");
    let versions = fs::read_to_string(&path).unwrap();
    let old = versions.replace("\"git_revision\": \"", "\"git_revision\": \"0");
    fs::write(&path, old).unwrap();
    let error = open(3).unwrap_err().to_string();
    assert!(
        error.contains("not mixed") && !error.contains('\n'),
        "{error}"
    );
    let error = check_program("b", &out).unwrap_err().to_string();
    assert!(
        error.contains("holds a run of a, expected one of b"),
        "{error}"
    );
}

#[test]
fn a_phase_keeps_the_time_of_the_process_that_did_it() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let record = |phases: &[(&str, u64)]| {
        let run =
            RunDir::create_or_resume("a", Some(&out), &BTreeMap::from([("seed", 3)])).unwrap();
        let mut timings = Timings::new();
        for (name, seconds) in phases {
            timings.add(name, Duration::from_secs(*seconds));
        }
        run.write_timings(&timings).unwrap();
        let saved = Timings::read(&run.path(TIMINGS)).unwrap();
        ["solve", "draw"].map(|name| saved.seconds(name))
    };
    assert_eq!(record(&[("solve", 7)]), [7.0, 0.0]);
    // It goes on, and finds `solve` done.
    assert_eq!(record(&[("solve", 0), ("draw", 2)]), [7.0, 2.0]);
    // It is finished.
    let before = fs::read(out.join(TIMINGS)).unwrap();
    assert_eq!(record(&[("solve", 0), ("draw", 5)]), [7.0, 2.0]);
    assert_eq!(fs::read(out.join(TIMINGS)).unwrap(), before);
}

#[test]
fn only_a_run_is_continued() {
    let dir = tempfile::tempdir().unwrap();
    let config = BTreeMap::from([("seed", 3)]);
    let open = |name: &str| RunDir::create_or_resume("a", Some(&dir.path().join(name)), &config);
    fs::create_dir(dir.path().join("full")).unwrap();
    fs::write(dir.path().join("full/keep.txt"), "precious").unwrap();
    assert!(open("full").unwrap_err().to_string().contains("not empty"));
    // Killed before its config was there.
    fs::create_dir(dir.path().join("young")).unwrap();
    fs::write(dir.path().join("young/.config.toml.7-0.tmp"), "se").unwrap();
    open("young").unwrap();
    // Submitted as a job, whose scripts lie there.
    fs::create_dir_all(dir.path().join("job/slurm/0001")).unwrap();
    fs::write(dir.path().join("job/slurm/0001/array.sh"), "#!/bin/bash").unwrap();
    open("job").unwrap();
    // Many shards begin in one folder.
    let out = dir.path().join("shared");
    let shard = || RunDir::open("a", Some(&out), &config, Sharing::WithShards);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(shard)).collect();
        threads
            .into_iter()
            .for_each(|t| drop(t.join().unwrap().unwrap()));
    });
}

#[test]
fn files_are_written_and_the_config_knows_no_output_path() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let run = RunDir::create("prop32", Some(&out)).unwrap();
    run.write_config(&BTreeMap::from([("seed", 3)])).unwrap();
    run.write_versions(&BTreeMap::from([("checkpoint".into(), "none".into())]))
        .unwrap();
    let mut timings = Timings::new();
    assert_eq!(timings.phase("solve", || 5), 5);
    timings.add("solve", Duration::from_secs(2));
    run.write_timings(&timings).unwrap();
    assert!(timings.seconds("solve") >= 2.0 && timings.seconds("draw") == 0.0);
    assert_eq!(
        fs::read_to_string(run.path("config.toml")).unwrap(),
        "seed = 3\n"
    );
    let versions = fs::read_to_string(run.path("versions.json")).unwrap();
    let versions: serde_json::Value = serde_json::from_str(&versions).unwrap();
    assert_eq!(versions["program"], "prop32");
    assert_ne!(versions["git_revision"], "");
    assert_eq!(versions["extra"]["checkpoint"], "none");
}
