//! `rto_llm judge` on the folder of a run.

use std::path::Path;

use serde_json::json;

use super::server::{Act, Server, honest};

/// A run folder with two methods, of which `rto` says "good" at even prompts, and the program that judges it.
fn judged_run(dir: &Path, url: &str, more: &[&str]) -> std::process::Output {
    let mut text = String::new();
    for method in ["rto", "sft"] {
        for id in 0..6 {
            let good = if method == "rto" && id % 2 == 0 {
                "good"
            } else {
                "plain"
            };
            let line = json!({
                "method": method, "prompt_id": id, "prompt": format!("Human: {id}?"), "response": good, "reward": 0.0,
                "kl": 0.0, "length": 3, "finished": true,
            });
            text += &format!("{line}\n");
        }
    }
    std::fs::write(dir.join("responses.jsonl"), text).unwrap();
    let run = [
        "judge",
        "--run",
        dir.to_str().unwrap(),
        "--endpoint",
        url,
        "--judge-model",
        "judge-1",
    ];
    std::process::Command::new(env!("CARGO_BIN_EXE_rto_llm"))
        .args(run)
        .args(["--key-env", "none", "--quiet", "--retries", "0"])
        .args(more)
        .output()
        .unwrap()
}

#[test]
fn a_finished_run_is_judged_once_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|_, seen| honest(seen));
    let dry = judged_run(dir.path(), &server.url, &["--dry-run"]);
    assert!(dry.status.success() && server.seen().is_empty());
    let output = judged_run(dir.path(), &server.url, &[]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // Three of six won, three tied.
    assert!(
        said.contains("6 comparisons, 6 requests")
            && said.contains("rto is preferred to sft on 75.0%"),
        "{said}"
    );
    let table = std::fs::read_to_string(dir.path().join("judge.csv")).unwrap();
    assert_eq!(
        table
            .lines()
            .filter(|l| l.starts_with("rto,sft,") && l.contains(",1.0,"))
            .count(),
        3,
        "{table}"
    );
    let page = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.contains("Win rates by the judge"));
    // Nothing is asked twice, and the order of the replies was drawn.
    let again = judged_run(dir.path(), &server.url, &[]);
    assert!(String::from_utf8_lossy(&again.stdout).contains("6 comparisons, 0 requests"));
    assert_eq!(server.seen().len(), 6);
}

#[test]
fn a_judge_that_fails_is_one_line_and_leaves_no_table() {
    let dir = tempfile::tempdir().unwrap();
    let odd = Server::start(|_, _| Act::Say(200, "", "not json".into()));
    let refusing =
        Server::start(|_, _| Act::Say(401, "", "{\"error\": {\"message\": \"no key\"}}".into()));
    for url in ["http://127.0.0.1:9/v1", &odd.url, &refusing.url] {
        let output = judged_run(dir.path(), url, &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.starts_with("error: judge at") && said.lines().count() == 1,
            "{said}"
        );
        assert!(!dir.path().join("judge.csv").exists());
    }
    let output = judged_run(dir.path(), &odd.url, &["--compare", "rto:dpo"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("--compare rto:dpo: expected two different ones of rto, sft"),
        "{said}"
    );
}
