//! `ppo_dense`: PPO on a reward that was fitted to the token rewards of a file.

use super::training::{contents, same};
use super::{Input, error};
use std::fs;
use std::path::Path;
use std::process::Command;

/// What the page and the policy's card say of the fit.
fn check_said(run: &Path, share: f64) {
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    let section = page.split("id=\"token-reward\"").nth(1).unwrap();
    let section = section.split("</table>").next().unwrap();
    assert!(section.contains(&format!("{share:.3}")), "{section}");
    let card = fs::read_to_string(run.join("policies/ppo_dense/README.md")).unwrap();
    assert!(card.contains("reward.learning_rate"), "{card}");
    assert!(!card.contains("dpo."), "{card}");
}

/// Rows of the world's words; the reward of a token is ((7 · id) mod 11 − 5)/5, which is linear in its one-hot vector.
fn fixture() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/token_rewards.jsonl");
    path.to_str().unwrap().into()
}

fn command(file: &str, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rto_llm"));
    command
        .args(["--smoke", "--quiet", "--methods", "ppo_dense"])
        .args(["--token-rewards", file])
        .args(["--out", out.to_str().unwrap()])
        .args(more);
    command
}

/// The share of the held-out rows' variance that is explained, with how many rows those are.
fn held_out(run: &Path) -> (f64, u64) {
    let text = fs::read_to_string(run.join("token_reward.csv")).unwrap();
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(lines.next(), Some("rows,tokens,r2,rmse"));
    let cells: Vec<&str> = lines.next().unwrap().split(',').collect();
    (cells[2].parse().unwrap(), cells[0].parse().unwrap())
}

#[test]
fn a_linear_token_reward_is_found_again_on_rows_that_were_held_out() {
    let dir = tempfile::tempdir().unwrap();
    let learn = |name: &str, epochs: usize, rate: f64| {
        let out = dir.path().join(name);
        let fit = format!("reward={{ epochs={epochs}, batch_size=16, learning_rate={rate} }}");
        let output = command(&fixture(), &out, &["--set", &fit])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        held_out(&out)
    };
    let (share, rows) = learn("long", 60, 0.01);
    check_said(&dir.path().join("long"), share);
    assert!(rows == 16 && share > 0.95, "R² {share} on {rows} rows");
    // The share is measured, not made: a fit of nine short steps knows little.
    let (little, _) = learn("short", 1, 0.001);
    assert!(little < 0.3, "R² {little}");
}

#[test]
fn a_run_with_a_file_of_token_rewards_goes_on_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, struck) = (dir.path().join("whole"), dir.path().join("struck"));
    let run = |out: &Path| command(&fixture(), out, &["--jobs", "1"]);
    assert!(run(&whole).output().unwrap().status.success());
    let expected = contents(&whole);
    assert!(
        expected
            .keys()
            .any(|name| name.ends_with("token_reward.jsonl"))
    );
    for at in ["token_reward:4", "ppo_dense:2"] {
        let output = run(&struck).env("RTO_LLM_NAN", at).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{at}");
    }
    assert!(run(&struck).output().unwrap().status.success());
    same(&expected, &contents(&struck));
}

#[test]
fn bad_rows_are_refused_by_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let said = |bad: &str| {
        let good = r#"{"prompt_ids":[3,4],"token_ids":[7,1],"token_rewards":[0.5,0]}"#;
        let input = Input::new(format!("{good}\n\n{bad}\n"));
        let args = [
            "--smoke",
            "--quiet",
            "--methods",
            "ppo_dense",
            "--token-rewards",
            input.str(),
        ];
        let said = error(&[&args[..], &["--out", out.to_str().unwrap()]].concat());
        assert!(!out.exists());
        let place = format!("{}:3: ", input.str());
        said.strip_prefix(&place).unwrap_or(&said).to_string()
    };
    for (bad, expected) in [
        ("[1]", "found [1], expected a JSON object"),
        (
            r#"{"prompt_ids":[3],"token_ids":[7],"token_rewards":[NaN]}"#,
            "not valid JSON (column 52); NaN and infinity are none",
        ),
        (
            r#"{"token_ids":[7],"token_rewards":[1]}"#,
            "found neither prompt_ids nor prompt, expected one: a reward depends on what is answered",
        ),
        (
            r#"{"prompt_ids":[],"token_ids":[7],"token_rewards":[1]}"#,
            "prompt: is empty, expected at least one token",
        ),
        (
            r#"{"prompt":"hi","token_ids":[7],"token_rewards":[1]}"#,
            "prompt: found a text, expected prompt_ids: the world reads token ids",
        ),
        (
            r#"{"prompt_ids":[3],"token_ids":[7,8],"token_rewards":[1]}"#,
            "found 1 token_rewards, expected 2, one for each of token_ids",
        ),
        (
            r#"{"prompt_ids":[3],"token_ids":[100],"token_rewards":[1]}"#,
            "token_ids[0]: found 100, expected a token id below the vocabulary's 100",
        ),
        (
            r#"{"prompt_ids":[3],"token_ids":[7],"token_rewards":null}"#,
            "token_rewards: found null, expected a list of numbers",
        ),
        (
            r#"{"prompt_ids":[3],"token_ids":[7],"token_rewards":["x"]}"#,
            "token_rewards[0]: found \"x\", expected a finite number",
        ),
        (
            r#"{"prompt_ids":[3],"token_ids":[7]}"#,
            "found no token_rewards, expected prompt_ids, token_ids and token_rewards",
        ),
    ] {
        assert_eq!(said(bad), expected);
    }
    assert!(
        said("").ends_with(
            "found 1 row, expected at least 2: one in ten, and one at least, is held out"
        )
    );
    // A file without its method, and the method without a file.
    let with = |more: &[&str]| error(&[&["--smoke", "--quiet", "--dry-run"][..], more].concat());
    let alone = with(&["--methods", "rto", "--set", "token_rewards=\"x.jsonl\""]);
    assert!(
        alone.starts_with("token_rewards: found \"x.jsonl\", expected none"),
        "{alone}"
    );
    let none = with(&["--methods", "ppo_dense"]);
    assert!(
        none.starts_with("token_rewards: found no file, expected one for ppo_dense"),
        "{none}"
    );
    let missing = with(&[
        "--methods",
        "ppo_dense",
        "--set",
        "token_rewards=\"none.jsonl\"",
    ]);
    assert!(
        missing.starts_with("token_rewards: none.jsonl"),
        "{missing}"
    );
}
