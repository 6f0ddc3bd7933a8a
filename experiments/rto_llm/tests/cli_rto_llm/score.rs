//! `rto_llm score`: token rewards of given responses.

use super::{Input, PAIRS, error, fixture, objects, ok};
use serde_json::Value;
use std::fs;

#[test]
fn score_keeps_its_contract() {
    let input = Input::new(PAIRS);
    let (model, reference) = (fixture("plain"), fixture("sharded"));
    let out = ok(&[
        "score",
        "--model",
        &model,
        "--reference",
        &reference,
        "--beta",
        "0.2",
        "--input",
        input.str(),
        "--json",
    ]);
    assert!(
        out.starts_with("{\"token_ids\":["),
        "one object a line and nothing else"
    );
    let lines = objects(&out);
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[1]["token_ids"], serde_json::json!([8, 9]));
    assert_eq!(
        lines[0]["tokens"],
        serde_json::json!([" ", "y", "o", "u", "<|endoftext|>"])
    );
    let plain = objects(&ok(&[
        "score",
        "--model",
        &model,
        "--input",
        input.str(),
        "--json",
        "--quiet",
        "--threads",
        "2",
    ]));
    let other = objects(&ok(&[
        "score",
        "--model",
        &reference,
        "--input",
        Input::new(PAIRS.replace(
            "\"prompt\": \"hello\", \"response\": \" you<|endoftext|>\"",
            &format!(
                "\"prompt_ids\": [9,6,13,13,16], \"response_ids\": {}",
                lines[0]["token_ids"]
            ),
        ))
        .str(),
        "--json",
    ]));
    for ((line, plain), other) in lines.iter().zip(&plain).zip(&other) {
        let numbers = |v: &Value| -> Vec<f64> {
            v.as_array()
                .unwrap()
                .iter()
                .map(|n| n.as_f64().unwrap())
                .collect()
        };
        assert_eq!(line["log_probs"], plain["log_probs"]);
        assert!(plain["token_rewards"].is_null() && other["tokens"].is_null());
        let (ours, theirs, rewards) = (
            numbers(&line["log_probs"]),
            numbers(&other["log_probs"]),
            numbers(&line["token_rewards"]),
        );
        assert_eq!(ours.len(), line["token_ids"].as_array().unwrap().len());
        for ((a, b), r) in ours.iter().zip(&theirs).zip(&rewards) {
            assert!((r - 0.2 * (a - b)).abs() < 1e-12 && *a < 0.0);
        }
    }
    let table = ok(&["score", "--model", &model, "--input", input.str()]);
    assert!(
        table.contains("token id    log-prob      reward  text")
            && table.contains("\"<|endoftext|>\"")
    );
}

/// The path of GPUs, on a processor: the same numbers, in bf16 to its precision.
#[test]
fn other_types_run_on_tensors() {
    let input = Input::new(
        "{\"prompt_ids\": [5, 17, 9], \"response_ids\": [33, 2, 60, 41, 0]}\n{\"prompt_ids\": [4], \"response_ids\": [8]}\n",
    );
    let model = fixture("plain");
    let base = [
        "--model",
        &model,
        "--input",
        input.str(),
        "--json",
        "--quiet",
    ];
    let scores = |dtype: &str| -> Vec<f64> {
        let args = [&["score"], &base[..], &["--dtype", dtype]].concat();
        let lines = objects(&ok(&args));
        let numbers = lines
            .iter()
            .flat_map(|l| l["log_probs"].as_array().unwrap().clone());
        numbers.map(|x| x.as_f64().unwrap()).collect()
    };
    let exact = scores("f32");
    assert_eq!(exact.len(), 6);
    // 8 and 11 bits of mantissa.
    for (dtype, bound) in [("bf16", 0.1), ("f16", 0.01)] {
        let near = scores(dtype);
        assert_ne!(near, exact);
        for (near, exact) in near.iter().zip(&exact) {
            assert!((near - exact).abs() < bound, "{dtype}: {near} {exact}");
        }
    }
    let args = [
        &["generate"],
        &base[..],
        &["--dtype", "bf16", "--max-new-tokens", "5"],
    ]
    .concat();
    let written = objects(&ok(&args));
    assert_eq!(written.len(), 2);
    assert_eq!(ok(&args), ok(&args));
}

#[test]
fn the_heat_map_is_one_page_that_needs_nothing_else() {
    let input = Input::new("{\"prompt\": \"a\", \"response\": \"b.\\nc\"}\n");
    // Its folder is made, as that of --out.
    let page = input.path.with_extension("pages").join("page.html");
    let out = ok(&[
        "score",
        "--model",
        &fixture("plain"),
        "--reference",
        &fixture("half"),
        "--input",
        input.str(),
        "--html",
        page.to_str().unwrap(),
    ]);
    assert_eq!(out, "");
    let text = fs::read_to_string(&page).unwrap();
    assert_eq!(
        text.matches("<span class=\"u\"").count() + text.matches("<span class=\"d\"").count(),
        4
    );
    assert!(
        text.contains("prefers-color-scheme: dark")
            && text.contains("equation (4.5)")
            && text.contains("⏎")
            && text.contains("<title>Token rewards</title>")
            && text.contains("sum of the rewards: ")
    );
    assert!(!text.contains("http:") && !text.contains("https:") && !text.contains("<script"));
    let error = error(&[
        "score",
        "--model",
        &fixture("plain"),
        "--input",
        input.str(),
        "--html",
        page.join("x.html").to_str().unwrap(),
    ]);
    let expected = format!(
        "--html {}: cannot make its folder",
        page.join("x.html").display()
    );
    assert!(error.starts_with(&expected), "{error}");
}
