//! Bad input: exit code 1 and one line in the words of the user.

use crate::common::*;
use ndarray::ArrayD;
use ndarray_npy::{NpzWriter, write_npy};
use serde_json::{Value, json};
use std::fs;
use tempfile::TempDir;

#[test]
fn bad_trees() {
    for (pointer, value, parts) in [
        ("/beta", json!(-0.5), vec!["beta: found -0.5"]),
        (
            "/beta",
            json!("x"),
            vec!["beta: found \"x\", expected a number"],
        ),
        ("/beta", Value::Null, vec!["beta: missing"]),
        (
            "/initial",
            json!([0.5]),
            vec!["initial: probabilities must sum to 1", "0.5"],
        ),
        (
            "/initial",
            json!([]),
            vec!["initial: found no probabilities"],
        ),
        ("/initial", json!([1.5, -0.5]), vec!["initial[1]"]),
        ("/n_actions", json!(0), vec!["n_actions"]),
        ("/n_actions", json!(2.5), vec!["n_actions: found 2.5"]),
        (
            "/n_actions",
            json!(3),
            vec!["reference[0]: found 3 values, expected 4 (states)"],
        ),
        ("/horizon", json!(0), vec!["horizon"]),
        ("/horizon", json!(1_000_000), vec!["horizon"]),
        ("/eos", json!(2), vec!["eos"]),
        (
            "/reference/0/2",
            json!([0.25, 0.7]),
            vec!["reference[0][2]: probabilities must sum to 1"],
        ),
        (
            "/reference/0/2",
            json!([0.25]),
            vec!["reference[0][2]: found 1 values, expected 2 (actions)"],
        ),
        (
            "/reference/0/2/1",
            json!(-0.75),
            vec!["reference[0][2][1]: found -0.75"],
        ),
        (
            "/reference/0/2/1",
            json!([1]),
            vec!["reference[0][2][1]: found a list"],
        ),
        (
            "/reference",
            json!(7),
            vec!["reference: found 7, expected a list"],
        ),
        ("/reference_logits", json!([]), vec!["not both"]),
        (
            "/reward/0",
            json!([[1, 2], [3, 4]]),
            vec!["reward[0]: found 2 values, expected 3 (states)"],
        ),
        (
            "/reward/0/1/0",
            Value::Null,
            vec!["reward[0][1][0]: found null"],
        ),
        (
            "/reward",
            Value::Null,
            vec!["reward: missing, give reward or features"],
        ),
        ("/theta", json!([1]), vec!["theta: needs features"]),
        (
            "/policy_logits/0/1",
            json!([null, null]),
            vec!["policy_logits[0][1]: no action"],
        ),
        (
            "/rewards",
            json!([1]),
            vec!["rewards: unknown key, expected one of"],
        ),
        (
            "/transition_counts",
            json!([1]),
            vec!["transition_counts: unknown key"],
        ),
        (
            "/estimation",
            json!({"ridg": 1}),
            vec!["estimation.ridg: unknown key"],
        ),
        (
            "/estimation",
            json!({"ridge": 0}),
            vec!["estimation.ridge: found 0, must be > 0"],
        ),
        (
            "/estimation",
            json!({"fail_prob": 1}),
            vec!["estimation.fail_prob"],
        ),
        (
            "/estimation",
            json!({"bonus_scale": "big"}),
            vec!["estimation.bonus_scale", "wald"],
        ),
        (
            "/estimation",
            json!({"bonus_scale": -1}),
            vec!["estimation.bonus_scale: found -1"],
        ),
        (
            "/estimation",
            json!({"metric": "l2"}),
            vec!["estimation.metric: found \"l2\""],
        ),
        ("/rto", json!({"beta1": 0.1}), vec!["rto.beta2: missing"]),
        (
            "/rto",
            json!({"beta1": 0, "beta2": 1}),
            vec!["rto.beta1: found 0"],
        ),
        (
            "/rto",
            json!({"beta1": 1, "beta2": 1, "source": "x"}),
            vec!["rto.source: found \"x\""],
        ),
        ("/dpo", json!({"beta": 0}), vec!["dpo.beta: found 0"]),
        ("/preferences", json!("p.txt"), vec!["preferences"]),
        (
            "/preferences",
            json!("no.jsonl"),
            vec!["preferences (no.jsonl): cannot read"],
        ),
        (
            "/reward",
            json!("no.npy"),
            vec!["reward (no.npy): cannot read"],
        ),
        (
            "/reward",
            json!("reward.txt"),
            vec!["reward (reward.txt): expected a list, or the path"],
        ),
    ] {
        refused(&edited("g0.json", pointer, value), &parts);
    }
    refused(&json!([1, 2]), &["the file: found a list"]);
    refused(
        &with(
            example("g0.json"),
            json!({"reference": [[[1, 0], [0.5, 0.5], [0.25, 0.75]]]}),
        ),
        &["policy_logits[0][0][1]", "reference is 0"],
    );
}

#[test]
fn layered_graphs_are_declared() {
    let acyclic = json!({
        "beta": 0.5, "states": 4, "initial": [1, 0, 0, 0], "horizon": 3,
        "transition": [[1, [[1, 0.5], [2, 0.5]]], [3, 2], [3, null], [0, 0]], "terminal": [3],
        "reference": [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]],
        "reward": [[1, 0], [0, 2], [1, 1], [0, 0]]
    });
    let declared = with(acyclic.clone(), json!({"layered": true}));
    assert_eq!(solved(&declared), solved(&acyclic));
    let mut cyclic = declared;
    cyclic["transition"][2][1] = json!([[0, 0.25], [3, 0.75]]);
    refused(
        &cyclic,
        &[
            "transition[2][1]: leads from state 2 back to state 0, a cycle",
            "layered",
        ],
    );
    // Without the declaration the horizon unrolls the cycle.
    solved(&with(cyclic.clone(), json!({"layered": false})));
    refused(
        &with(cyclic, json!({"layered": 1})),
        &["layered: found 1, expected true or false"],
    );
    let tree = with(example("g0.json"), json!({"layered": true}));
    refused(&tree, &["layered: unknown key"]);
}

#[test]
fn bad_tables() {
    for (name, pointer, value, parts) in [
        (
            "propc2.json",
            "/transition/1/0",
            json!(3),
            vec!["transition[1][0]: found 3"],
        ),
        (
            "propc2.json",
            "/transition/1/0/1/0",
            json!(3),
            vec!["transition[1][0][1][0]: found 3"],
        ),
        (
            "propc2.json",
            "/transition/1/0/1/1",
            json!(0.4),
            vec!["transition[1][0]: probabilities must sum to 1"],
        ),
        (
            "propc2.json",
            "/transition/1/0/1/1",
            json!(-0.5),
            vec!["transition[1][0][1][1]: found -0.5"],
        ),
        (
            "propc2.json",
            "/transition/1/0/1/0",
            json!(1),
            vec!["transition[1][0][1]: state 1 is listed twice"],
        ),
        (
            "propc2.json",
            "/transition/1",
            json!([0]),
            vec!["transition[1]: found 1 values, expected 2 (actions)"],
        ),
        (
            "propc2.json",
            "/transition",
            json!([]),
            vec!["transition: found 0 values, expected 3 (states)"],
        ),
        (
            "propc2.json",
            "/states",
            json!(4),
            vec!["initial: found 3 values, expected 4 (states)"],
        ),
        (
            "propc2.json",
            "/terminal",
            json!([3]),
            vec!["terminal[0]: found 3"],
        ),
        (
            "propc2.json",
            "/terminal",
            json!([0]),
            vec!["initial[0]: found 1, must be 0"],
        ),
        (
            "propc2.json",
            "/zeta",
            json!(1),
            vec!["zeta: needs transition_counts"],
        ),
        (
            "propc2.json",
            "/horizon",
            json!(1_000_000_000),
            vec!["horizon"],
        ),
        ("robust.json", "/zeta", Value::Null, vec!["zeta: missing"]),
        ("robust.json", "/zeta", json!(-1), vec!["zeta: found -1"]),
        (
            "robust.json",
            "/transition_counts/0/0",
            json!(-1),
            vec!["transition_counts[0][0]: found -1"],
        ),
        (
            "robust.json",
            "/transition_counts/0/1/0/1",
            json!(-1),
            vec!["transition_counts[0][1]: found -1"],
        ),
        (
            "robust.json",
            "/transition_counts/0/1/0/0",
            json!(9),
            vec!["transition_counts[0][1][0][0]: found 9"],
        ),
        (
            "robust.json",
            "/reference/2",
            json!([1, 1]),
            vec!["reference[2]: probabilities"],
        ),
        (
            "robust.json",
            "/reward",
            json!([[1]]),
            vec!["reward: found 1 values, expected 4 (states)"],
        ),
    ] {
        refused(&edited(name, pointer, value), &parts);
    }
    let trajectory = |steps: Value, part: &str| {
        let pairs = json!([{"winner": steps, "loser": [[0, 1], [2, 1]]}]);
        let estimation = json!({"param_bound": 1});
        let instance = with(
            example("robust.json"),
            json!({"preferences": pairs, "estimation": estimation}),
        );
        refused(&instance, &["preferences[0]", part]);
    };
    trajectory(
        json!([[0, 0], [2, 0]]),
        "step 1: state 2 does not follow state 0 under action 0",
    );
    trajectory(json!([[0, 0], [1, 1]]), "stops after step 1");
    trajectory(json!([[0, 0], [4, 1]]), "step 1: state 4 does not follow");
    trajectory(json!([[4, 0]]), "step 0: found state 4");
    trajectory(json!([[3, 0]]), "step 0: state 3 cannot be met");
    trajectory(json!([[1, 0], [2, 0]]), "different states");
    trajectory(
        json!([[0, 1], [0, 1], [0, 1], [0, 1], [0, 1]]),
        "the horizon is 4",
    );
    trajectory(json!([0, 1]), "[state, action] pairs");
    trajectory(json!([[0]]), "expected [state, action]");
}

#[test]
fn bad_files() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    assert_refused(&solve(&["no.json"], dir.path()), &["no.json: cannot read"]);
    for (text, part) in [
        ("", "empty, expected JSON"),
        (
            "{\"beta\": 1",
            "line 1 column 10: the text ends inside an object",
        ),
        ("{\"beta\": NaN}", "found NaN"),
        ("{\"beta\": 1e999}", "out of range"),
        ("{\"beta\": 1, \"beta\": 2}", "\"beta\" is given twice"),
        ("{\"beta\": 1}", "initial: missing"),
    ] {
        fs::write(at("t.json"), text).unwrap();
        assert_refused(&solve(&["t.json"], dir.path()), &["t.json: ", part]);
    }
    fs::write(at("t.json"), b"\xff\xfe").unwrap();
    assert_refused(&solve(&["t.json"], dir.path()), &["t.json: not UTF-8"]);

    let good = ArrayD::from_shape_fn(vec![1, 3, 2], |i| i[1] as f64);
    write_npy(at("good.npy"), &good).unwrap();
    let bytes = fs::read(at("good.npy")).unwrap();
    fs::write(at("cut.npy"), &bytes[..bytes.len() - 8]).unwrap();
    fs::write(at("text.npy"), "hello, I am text").unwrap();
    fs::write(at("text.npz"), "hello, I am text").unwrap();
    fs::write(at("text.safetensors"), "hello, I am text").unwrap();
    write_npy(at("shape.npy"), &ArrayD::<f64>::zeros(vec![3, 2])).unwrap();
    let mut nan = good.clone();
    nan[[0, 2, 1]] = f64::NAN;
    write_npy(at("nan.npy"), &nan).unwrap();
    nan[[0, 2, 1]] = f64::INFINITY;
    write_npy(at("inf.npy"), &nan).unwrap();
    let mut npz = NpzWriter::new(fs::File::create(at("two.npz")).unwrap());
    npz.add_array("a", &good).unwrap();
    npz.add_array("b", &good).unwrap();
    npz.finish().unwrap();
    for (path, part) in [
        ("cut.npy", "NPY"),
        ("text.npy", "not an NPY file"),
        ("text.npz:a", "not an NPZ file"),
        ("text.safetensors:a", "not a readable safetensors"),
        (
            "shape.npy",
            "found shape [3, 2], expected [1 prompts, 3 states, 2 actions]",
        ),
        ("nan.npy", "reward[0][2][1]: found NaN"),
        ("inf.npy", "reward[0][2][1]: found inf"),
        ("two.npz:c", "no array `c`, the file has a, b"),
        ("two.npz", "name one of its arrays after a colon: a, b"),
    ] {
        fs::write(
            at("t.json"),
            edited("g0.json", "/reward", json!(path)).to_string(),
        )
        .unwrap();
        assert_refused(&solve(&["t.json"], dir.path()), &["t.json: reward", part]);
    }
    for (name, text, parts) in [
        (
            "p.csv",
            "prompt,winner,loser\n0,0 0,9 0\n",
            ["p.csv line 2", "unknown token 9"],
        ),
        (
            "p.csv",
            "prompt,winner\n0,0 0\n",
            ["p.csv", "columns prompt, winner, loser"],
        ),
        (
            "p.csv",
            "prompt,winner,loser\n0,0 0\n",
            ["p.csv", "3 fields"],
        ),
        (
            "p.csv",
            "prompt,winner,winner,loser\n0,0 0,0 1,1 0\n",
            ["p.csv", "column `winner` is given twice"],
        ),
        (
            "p.jsonl",
            "{\"winner\": [0, 0], \"loser\": [0, 1]}\n{\"winner\": [0",
            ["p.jsonl line 2", "the text ends inside a list"],
        ),
    ] {
        fs::write(at(name), text).unwrap();
        fs::write(
            at("t.json"),
            edited("g0.json", "/preferences", json!(name)).to_string(),
        )
        .unwrap();
        assert_refused(&solve(&["t.json"], dir.path()), &parts);
    }
}

/// One line in the words of the file, never a type of the program.
#[test]
fn slips_are_told_in_the_words_of_the_file() {
    let dir = TempDir::new().unwrap();
    let digits = "1".repeat(400);
    let own = example("own.json");
    let renamed = |from: &str, to: &str| {
        let mut instance = own.clone();
        let value = instance.as_object_mut().unwrap().remove(from).unwrap();
        instance[to] = value;
        instance.to_string()
    };
    let set = |key: &str, value: Value| with(own.clone(), json!({ key: value })).to_string();
    for (text, part) in [
        (" \n".to_string(), "t.json: empty, expected JSON"),
        (
            format!("{{\"beta\": {digits}}}"),
            "a number is out of range",
        ),
        (own.to_string()[..40].to_string(), "the text ends inside"),
        (
            renamed("features", "feature"),
            "feature: unknown key, expected one of beta",
        ),
        (renamed("features", "feature"), "did you mean features?"),
        (renamed("n_actions", "actions"), "actions: unknown key"),
        (
            set("horizon", json!(2.5)),
            "horizon: found 2.5, expected a whole number",
        ),
        (
            set("estimation", json!([1])),
            "estimation: found a list of 1 values, expected an object",
        ),
        (
            set("estimation", json!({"param_bond": 1})),
            "estimation.param_bond: unknown key",
        ),
        (
            set("estimation", json!({"param_bond": 1})),
            "did you mean param_bound?",
        ),
        (
            set("preferences", json!({"winner": [0]})),
            "preferences: found an object, expected a list",
        ),
        (
            set("dpo", json!({"pairs": "all"})),
            "dpo.pairs: found \"all\", expected reference or uniform",
        ),
    ] {
        fs::write(dir.path().join("t.json"), text).unwrap();
        let output = solve(&["t.json"], dir.path());
        assert_refused(&output, &[part]);
        for word in ["usize", "f64", "struct", "sequence", "EOF"] {
            assert!(!stderr(&output).contains(word), "{}", stderr(&output));
        }
    }
}
