//! `bench --instance`: the golden file's instances by the golden file's names, several prompts, losses of one's own, bad files.

mod common;

use common::{assert_refused, assert_success};
use rand::Rng;
use rto::seed::SeedTree;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Output;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_bench");
const GOLDEN: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/golden/preference.json"
);

fn golden() -> Value {
    serde_json::from_str(&fs::read_to_string(GOLDEN).unwrap()).unwrap()
}

fn run(dir: &Path, instance: &Value) -> Output {
    fs::write(dir.join("instance.json"), instance.to_string()).unwrap();
    common::run(BINARY, &["--instance", "instance.json", "--json"], dir)
}

fn answer(dir: &Path, instance: &Value) -> Value {
    let output = run(dir, instance);
    assert_success(&output);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every number that the golden file has of a method, by its key.
fn agree(what: &str, got: &Value, want: &Value, tolerance: f64) {
    if want.get("no_minimiser").is_some() {
        // One row of the golden file is wrong: paper-notes/preference_bench.md, "A row of the golden file".
        if what == "T6/uniform xpo_local" {
            assert!(got["subopt"].is_f64(), "{what}: {got}");
            return;
        }
        assert!(got["no_minimiser"].is_string(), "{what}: {got}");
        return;
    }
    let mut pairs: Vec<(String, f64, f64)> = Vec::new();
    for key in ["reward", "kl", "value", "subopt", "chi2", "max_ratio"] {
        let number = |v: &Value| v[key].as_f64().unwrap_or(f64::NAN);
        let scale = 10.0 * number(want).abs().max(1.0);
        pairs.push((key.into(), number(got) / scale, number(want) / scale));
    }
    let law = |v: &Value| v["policy"].as_array().cloned().unwrap_or_default();
    let (got, want) = (law(got), law(want));
    assert_eq!(got.len(), want.len(), "{what}");
    for (y, (g, w)) in got.iter().zip(&want).enumerate() {
        pairs.push((
            format!("policy[{y}]"),
            g.as_f64().unwrap(),
            w.as_f64().unwrap(),
        ));
    }
    for (key, got, want) in pairs {
        let gap = (got - want).abs();
        assert!(gap <= tolerance, "{what} {key}: {got}, expected {want}");
    }
}

fn tolerance(name: &str) -> f64 {
    match name {
        "kto_fixed_point" | "kto_z0_0" | "caldpo" | "tdpo2" | "hypo" => 1e-8,
        _ => 1e-9,
    }
}

fn check(dir: &Path, what: &str, instance: &Value, want: &Value) {
    let got = answer(dir, instance);
    let mut met = 0;
    for (name, want) in want.as_object().unwrap() {
        if name == "fit" {
            for (g, w) in got["fit"]["R_mle"]
                .as_array()
                .unwrap()
                .iter()
                .zip(want["R_mle"].as_array().unwrap())
            {
                assert!((g.as_f64().unwrap() - w.as_f64().unwrap()).abs() < 1e-9);
            }
            continue;
        }
        agree(
            &format!("{what} {name}"),
            &got["methods"][name],
            want,
            tolerance(name),
        );
        met += 1;
    }
    assert_eq!(met, 17, "{what}");
    // Beyond the golden file: DPOP.
    assert_eq!(got["methods"].as_object().unwrap().len(), 18);
}

#[test]
fn every_instance_of_the_golden_file_by_its_names() {
    let (dir, all) = (TempDir::new().unwrap(), golden());
    for (name, instance) in all["instances"].as_object().unwrap() {
        for law in ["ref", "uniform"] {
            let mut file = instance.clone();
            file["pairs"] = json!(law);
            let what = format!("{name}/{law}");
            check(dir.path(), &what, &file, &all["population"][&what]);
        }
    }
    for (name, data) in all["data"].as_object().unwrap() {
        let mut file = all["instances"][data["instance"].as_str().unwrap()].clone();
        file["pairs"] = data["pairs_winner_loser"].clone();
        check(dir.path(), name, &file, &all["finite"][name]);
    }
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing is written"
    );
}

fn t1() -> Value {
    let mut file = golden()["instances"]["T1"].clone();
    file["pairs"] = json!("uniform");
    file
}

/// Every constant is a key, and moves its method and no other.
#[test]
fn constants_are_keys() {
    let dir = TempDir::new().unwrap();
    let base = answer(dir.path(), &t1())["methods"].clone();
    for (key, value, moved) in [
        ("simpo_beta", 1.0, vec!["simpo_gamma0.0", "simpo_gamma0.5"]),
        ("rdpo_alpha", 0.3, vec![]), // all responses of T1 have one length
        ("rpo_eta", 0.2, vec!["rpo_base_ref", "rpo_base_chosen"]),
        ("xpo_alpha", 0.02, vec!["xpo_local"]),
        ("hypo_lambda", 0.1, vec!["hypo"]),
        ("dpop_lambda", 1.0, vec!["dpop"]),
        ("ipo_beta", 1.0, vec!["ipo", "ipo_mean"]),
    ] {
        let mut file = t1();
        file[key] = json!(value);
        let got = answer(dir.path(), &file)["methods"].clone();
        for (name, entry) in got.as_object().unwrap() {
            let differs =
                (entry["subopt"].as_f64().unwrap() - base[name]["subopt"].as_f64().unwrap()).abs()
                    > 1e-6;
            assert_eq!(differs, moved.contains(&name.as_str()), "{key} {name}");
        }
    }
    // Constants that a name says change the name.
    for (key, value, name) in [
        ("simpo_gamma", 0.25, "simpo_gamma0.25"),
        ("tdpo2_alpha", 0.25, "tdpo_full_alpha0.25"),
        ("kto_z0", 0.25, "kto_z0_0.25"),
    ] {
        let mut file = t1();
        file[key] = json!(value);
        assert!(
            answer(dir.path(), &file)["methods"][name]["subopt"].is_f64(),
            "{name}"
        );
    }
}

/// Two prompts: the means of the two instances alone where nothing couples them, and policies for each.
#[test]
fn prompts_are_averaged() {
    let (dir, all) = (TempDir::new().unwrap(), golden());
    let part = |name: &str, weight: f64| {
        let mut part = all["instances"][name].clone();
        part.as_object_mut().unwrap().remove("beta");
        part["pairs"] = json!("uniform");
        part["weight"] = json!(weight);
        part
    };
    // T1 and T2 have β = 0.5.
    let file = json!({ "beta": 0.5, "prompts": [part("T1", 0.25), part("T2", 0.75)] });
    let got = answer(dir.path(), &file);
    for name in [
        "dpo",
        "ipo",
        "chipo",
        "tdpo2",
        "rpo_base_ref",
        "hypo",
        "caldpo",
        "xpo_local",
    ] {
        let want: f64 = [("T1", 0.25), ("T2", 0.75)]
            .iter()
            .map(|(t, w)| {
                w * all["population"][format!("{t}/uniform")][name]["subopt"]
                    .as_f64()
                    .unwrap()
            })
            .sum();
        let entry = &got["methods"][name];
        assert!(
            (entry["subopt"].as_f64().unwrap() - want).abs() < 1e-8,
            "{name}: {entry}"
        );
        assert_eq!(entry["prompts"].as_array().unwrap().len(), 2);
    }
    // KTO's reference point is the mean KL of both.
    let kto = &got["methods"]["kto_fixed_point"];
    let z0 = |x: usize| kto["prompts"][x]["z0"].as_f64().unwrap();
    assert_eq!(z0(0), z0(1));
    assert!((z0(0) - kto["kl"].as_f64().unwrap()).abs() < 1e-10);
    assert_eq!(got["prompts"].as_array().unwrap().len(), 2);

    // A prompt without a minimiser is named.
    let mut file = file.clone();
    file["prompts"][0]["pairs"] = json!([[0, 1], [1, 2], [2, 3], [3, 0]]);
    file["prompts"][1]["pairs"] = json!([[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 6], [6, 7]]);
    let got = answer(dir.path(), &file);
    let why = got["methods"]["dpo"]["no_minimiser"].as_str().unwrap();
    assert!(
        why.starts_with("prompts[1]: ") && why.contains("separable"),
        "{why}"
    );
    assert!(got["methods"]["ipo"]["subopt"].is_f64());
}

/// DPO, IPO and R-DPO written as formulas have the policies of the methods; a loss without a minimiser says so.
#[test]
fn losses_of_ones_own_stand_beside_the_methods() {
    let (dir, all) = (TempDir::new().unwrap(), golden());
    let mut file = all["instances"]["T3"].clone();
    file["pairs"] = json!("uniform");
    file["losses"] = json!({
        "my dpo": "-logsigmoid(beta*(lw - ll))",
        "my ipo": "(lw - ll - 0.5/beta)^2",
        "my rdpo": "softplus(-beta*(lw - ll) - 0.2*(nw - nl))",
        "downhill": "ll - lw",
    });
    file["policies"] = json!({ "best": [0, 0, 0, 0, 0, 0, 1] });
    let got = answer(dir.path(), &file);
    for (own, method) in [("my dpo", "dpo"), ("my ipo", "ipo"), ("my rdpo", "rdpo")] {
        agree(own, &got["methods"][own], &got["methods"][method], 1e-9);
        assert!(got["methods"][own]["kkt_inf"].as_f64().unwrap() < 1e-12);
    }
    let why = got["methods"]["downhill"]["no_minimiser"].as_str().unwrap();
    assert!(why.contains("no start reached a stationary point"), "{why}");
    assert_eq!(got["policies"]["best"]["policy"][6], 1.0);
}

/// Instances without a minimiser: the answer says why, method by method, and is no failure.
#[test]
fn what_has_no_minimiser_says_why() {
    let (dir, all) = (TempDir::new().unwrap(), golden());
    let mut file = all["instances"]["T2"].clone();
    file["pairs"] = all["finite"]["separable_T2"]["pairs_winner_loser"].clone();
    let got = answer(dir.path(), &file);
    for name in [
        "dpo",
        "rdpo",
        "chipo",
        "tdpo_full_alpha1.0",
        "tdpo2",
        "xpo_local",
        "simpo_gamma0.0",
        "hypo",
    ] {
        let why = got["methods"][name]["no_minimiser"].as_str();
        assert!(
            why.is_some_and(|w| w.contains("separable")),
            "{name}: {}",
            got["methods"][name]
        );
    }
    let want = &all["finite"]["separable_T2"];
    agree("ipo", &got["methods"]["ipo"], &want["ipo"], 1e-9);
    agree(
        "rpo",
        &got["methods"]["rpo_base_ref"],
        &want["rpo_base_ref"],
        1e-9,
    );
    for (key, bound) in [("4", "bounded_4"), ("8", "bounded_8")] {
        agree(
            key,
            &got["fit"]["bounded"][key]["dpo"],
            &want[bound]["dpo"],
            1e-6,
        );
    }
    // Beyond beta = 1 KTO's loss is not convex in the policy, and HyPO has a minimiser on separable pairs too.
    file["beta"] = json!(2.0);
    let got = answer(dir.path(), &file);
    for name in ["kto_fixed_point", "kto_z0_0"] {
        let why = got["methods"][name]["error"].as_str();
        assert!(why.is_some_and(|w| w.contains("not convex")), "{name}");
    }
    assert!(got["methods"]["hypo"]["token_grad_inf"].as_f64().unwrap() < 1e-10);
    // A response in no pair: two components, the set of minimisers with its interval, and what needs all of them says so.
    let mut file = all["instances"]["T5"].clone();
    file["pairs"] = json!([[0, 1], [1, 0], [1, 2], [2, 1]]);
    let got = answer(dir.path(), &file);
    assert_eq!(got["connected"], false);
    assert_eq!(got["set"]["components"], json!([[0, 1, 2], [3]]));
    assert!(got["set"]["subopt_high"].as_f64() > got["set"]["subopt_low"].as_f64());
    // The response in no pair can rise for ever under XPO; in bounded classes there is a minimiser, within what branch and bound proves.
    assert_eq!(got["xpo"]["unbounded_along"], json!([3]));
    for bound in ["4", "8"] {
        let entry = &got["xpo"][bound];
        let (loss, least) = (entry["loss"].as_f64(), entry["loss_at_least"].as_f64());
        assert!(loss.unwrap() - least.unwrap() < 1e-5, "{bound}: {entry}");
        assert!(entry["subopt"].as_f64().unwrap() > 0.0);
    }
    for (name, part) in [
        ("caldpo", "response 3 is in no pair"),
        ("rpo_base_chosen", "response 3 was never chosen"),
        ("dpop", "response 3 never wins"),
    ] {
        let why = got["methods"][name]["no_minimiser"]
            .as_str()
            .unwrap_or_default();
        assert!(why.contains(part), "{name}: {}", got["methods"][name]);
    }
}

/// Whatever β, rewards and π_ref are, an answer is a policy, a reason why there is none, or one error; and no method's says nothing.
#[test]
fn every_scale_is_answered() {
    let (mut policies, mut errors) = (0, 0);
    for case in 0..80u64 {
        let mut rng = SeedTree::new(41).child("scales").index(case).rng();
        let (a, h, eos) =
            [(2, 2, None), (3, 1, None), (2, 1, None), (3, 2, Some(0))][rng.random_range(0..4)];
        let states: usize = if h == 1 {
            1
        } else {
            1 + a - usize::from(eos.is_some())
        };
        let sharp = 10f64.powf(rng.random_range(-2.0..1.3));
        let size = 10f64.powf(rng.random_range(-3.0..3.0));
        let mut rows = |of: &dyn Fn(f64) -> f64, sum: bool| -> Value {
            let row = |_| {
                let raw: Vec<f64> = (0..a).map(|_| of(rng.random_range(-1.0..1.0))).collect();
                let total: f64 = if sum { raw.iter().sum() } else { 1.0 };
                raw.iter().map(|x| x / total).collect::<Vec<_>>()
            };
            json!((0..states).map(row).collect::<Vec<_>>())
        };
        let reference = rows(&|x| (sharp * x).exp(), true);
        let reward = rows(&|x| size * x, false);
        let beta = 10f64.powf(rng.random_range(-4.0..2.0));
        let pairs = match case % 3 {
            0 => json!("ref"),
            1 => json!("uniform"),
            _ => {
                let n = [(2, 1, 2), (3, 1, 3), (2, 2, 4), (3, 2, 7)];
                let n = n.iter().find(|k| (k.0, k.1) == (a, h)).unwrap().2;
                let one = |_| {
                    let y = rng.random_range(0..n);
                    [y, (y + rng.random_range(1..n)) % n]
                };
                json!((0..20).map(one).collect::<Vec<_>>())
            }
        };
        let instance = json!({
            "A": a, "H": h, "eos": eos, "beta": beta, "ref": reference, "reward": reward, "pairs": pairs,
        });
        let problem = rto_bench::Instance::parse_text(&instance.to_string());
        let got = problem.and_then(|p| p.solve());
        let got = got.unwrap_or_else(|e| panic!("{case}: {e:#}: {instance}"));
        for (name, method) in got["methods"].as_object().unwrap() {
            if let Some(policy) = method["policy"].as_array() {
                let total: f64 = policy.iter().map(|p| p.as_f64().unwrap()).sum();
                assert!((total - 1.0).abs() < 1e-9, "{case} {name}: {instance}");
                assert!(method["subopt"].as_f64().is_some(), "{case} {name}");
                policies += 1;
            } else if !name.starts_with("kto") {
                let why = (&method["no_minimiser"], &method["error"]);
                errors += u32::from(why.1.is_string());
                assert!(why.0.is_string() || why.1.is_string(), "{case} {name}");
            }
        }
    }
    // Fits that do not converge: TDPO-2's roots and DPOP's kinks at scales that differ by ten powers of ten.
    assert!(
        policies > 500 && errors < 40,
        "{policies} policies, {errors} errors"
    );
}

#[test]
fn a_bad_file_is_one_line() {
    let dir = TempDir::new().unwrap();
    let with = |key: &str, value: Value| {
        let mut file = t1();
        file[key] = value;
        file
    };
    let deep = "(".repeat(100_000);
    for (file, parts) in [
        (json!([]), vec!["found a list"]),
        (json!({ "beta": 1 }), vec!["A: not there"]),
        (with("beta", json!(0)), vec!["beta", "a positive number"]),
        (with("beta", json!("x")), vec!["beta", "a number"]),
        (with("A", json!(-2)), vec!["A", "a whole number"]),
        (with("A", json!(1_000_000)), vec!["ref[0]", "expected A"]),
        (with("H", json!(40)), vec!["H", "at most 4096 responses"]),
        (with("eos", json!(7)), vec!["eos", "a token below 2"]),
        (
            with("ref", json!([[0.5, 0.6], [0.5, 0.5], [0.5, 0.5]])),
            vec!["ref[0]"],
        ),
        (
            with("ref", json!([[1.0, 0.0], [0.5, 0.5], [0.5, 0.5]])),
            vec!["ref[0]", "positive"],
        ),
        (with("reward", json!([[0, 0], [0, 0]])), vec!["reward"]),
        (
            with("reward", json!([[0, 0], [0, "a"], [0, 0]])),
            vec!["reward[1][1]"],
        ),
        (with("pairs", json!("all")), vec!["pairs", "\"uniform\""]),
        (with("pairs", json!([])), vec!["pairs"]),
        (
            with("pairs", json!([[0, 1], [1]])),
            vec!["pairs[1]", "[winner, loser]"],
        ),
        (
            with("pairs", json!([[0, 9]])),
            vec!["pairs[0].loser", "a response below 4"],
        ),
        (
            with("pairs", json!([[1, 1]])),
            vec!["pairs[0]", "two different responses"],
        ),
        (
            with("policies", json!({ "p": [0.5, 0.5] })),
            vec!["policies.p", "expected 4"],
        ),
        (
            with("policies", json!({ "p": [1, 1, 0, 0] })),
            vec!["policies.p", "sum"],
        ),
        (with("rpo_eta", json!(null)), vec!["rpo_eta", "a number"]),
        (
            with("rpo_eta", json!(0)),
            vec!["rpo_eta", "a positive number"],
        ),
        (
            with("simpo_beta", json!(-2)),
            vec!["simpo_beta", "a positive number"],
        ),
        (
            with("simpo_gamma", json!(-1)),
            vec!["simpo_gamma", "at least 0"],
        ),
        (
            with("tdpo2_alpha", json!(-1)),
            vec!["tdpo2_alpha", "at least 0"],
        ),
        (
            with("xpo_alpha", json!(-1)),
            vec!["xpo_alpha", "at least 0"],
        ),
        (
            with("hypo_lambda", json!(0)),
            vec!["hypo_lambda", "a positive number"],
        ),
        (
            with("dpop_lambda", json!(0)),
            vec!["dpop_lambda", "a positive number"],
        ),
        (with("kto_z0", json!(-1)), vec!["kto_z0", "at least 0"]),
        (
            with("ipo_beta", json!(-1)),
            vec!["ipo_beta", "a positive number"],
        ),
        (with("gamma", json!(1)), vec!["gamma: unknown key"]),
        (with("R", json!([0, 0, 0, 0])), vec!["R: other numbers"]),
        (
            with("losses", json!({ "a": 1 })),
            vec!["losses.a", "a formula in quotes"],
        ),
        (
            with("losses", json!({ "a": "lw +" })),
            vec!["losses.a", "expected a value"],
        ),
        (
            with("losses", json!({ "a": deep })),
            vec!["losses.a", "deep"],
        ),
        (
            with("losses", json!({ "dpo": "lw" })),
            vec!["losses.dpo", "the name of a method"],
        ),
        (
            json!({ "beta": 1, "prompts": [] }),
            vec!["prompts", "at least one prompt"],
        ),
        (
            json!({ "beta": 1, "prompts": [3] }),
            vec!["prompts[0]", "expected an object"],
        ),
        (
            json!({ "beta": 1, "prompts": [{ "A": 2, "B": 1 }] }),
            vec!["prompts[0]", "B: unknown key"],
        ),
        (
            json!({ "beta": 1, "A": 2, "prompts": [{}] }),
            vec!["A: unknown key"],
        ),
    ] {
        let output = run(dir.path(), &file);
        let mut all = vec!["instance.json"];
        all.extend(parts);
        assert_refused(&output, &all);
        assert!(output.stdout.is_empty());
    }
    fs::write(dir.path().join("instance.json"), "{\"A\": 2,\n \"H\": }").unwrap();
    let output = common::run(BINARY, &["--instance", "instance.json"], dir.path());
    assert_refused(&output, &["instance.json", "line 2"]);
    let output = common::run(BINARY, &["--instance", "none.json"], dir.path());
    assert_refused(&output, &["none.json"]);
}
