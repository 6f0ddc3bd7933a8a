//! The table of methods.

use super::*;

#[test]
fn every_method_has_a_name_a_label_and_a_look_of_its_own() {
    for (i, a) in METHODS.iter().enumerate() {
        for b in &METHODS[..i] {
            assert!(a.name != b.name && a.label != b.label, "{a:?} {b:?}");
            assert!((a.color, a.marker) != (b.color, b.marker), "{a:?} {b:?}");
        }
        assert_eq!(find(a.name), Some(a));
    }
}

#[test]
fn settings_of_a_method_are_those_of_its_row() {
    let given = |name: &str, key: &str, value: f64| -> Given {
        [(name.into(), [(key.into(), value)].into())].into()
    };
    let clip = given("rto_released", "clip", 0.2);
    check(&clip).unwrap();
    let keys = method("rto_released").keys(&clip).unwrap();
    assert_eq!((keys.own("clip"), keys.get("beta2")), (0.2, None));
    assert_eq!(method("rto").keys(&clip).unwrap(), Keys::default());
    let small = given("rto_printed", "beta2", 0.1);
    let printed = method("rto_printed");
    let config = printed.ppo(PpoConfig::paper(), &printed.keys(&small).unwrap());
    assert_eq!(config.beta2, 0.1);
    for (wrong, said) in [
        (
            given("rto", "clip", 1.0),
            "method.rto.clip: no such setting, expected one of beta1, beta2",
        ),
        (
            given("dpo", "beta1", 1.0),
            "method.dpo: no such method, expected one of ppo, ",
        ),
        (
            given("distill", "beta1", 0.2),
            "method.distill.beta1: no such setting, expected one of beta2",
        ),
        (
            given("rto", "beta2", f64::NAN),
            "method.rto.beta2: found NaN",
        ),
    ] {
        let error = check(&wrong).unwrap_err().to_string();
        assert!(error.starts_with(said), "{error}");
    }
}

#[test]
fn groups_leave_the_number_of_responses() {
    let base = PpoConfig::paper();
    for name in ["rloo", "grpo"] {
        let row = method(name);
        let config = row.ppo(base, &row.keys(&Given::new()).unwrap());
        assert_eq!(config.responses(), base.responses(), "{name}");
        assert_eq!(config.responses_per_prompt, 4, "{name}");
        config.check().unwrap();
    }
}

/// At β₁ = β₂ the optimum of (4.6) is π_dpo, at whatever β₂.
#[test]
fn the_optimum_of_distillation_is_the_dpo_policy() {
    use crate::on_tree::tabulate;
    use ndarray::Array2;
    use rto::mdp::{Beta, Problem, TabularPolicy, TokenTree};
    use rto::plan::soft_value_iteration;
    use rto::policy::{StateMap, TabularSoftmax};

    let tree = TokenTree::try_new(1, 3, 2, None).unwrap();
    let map = StateMap::tree(&tree, &[1.0]).unwrap();
    let shape = (map.mdp().n_states(), map.mdp().n_actions());
    let logits = |k: f64| Array2::from_shape_fn(shape, |(s, a)| ((3 * s + a) as f64 * k).sin());
    let policy = |k| TabularPolicy::from_logits(logits(k)).unwrap();
    let softmax = |k| TabularSoftmax::from_policy(map.clone(), &policy(k)).unwrap();
    let (dpo, reference) = (softmax(0.7), softmax(1.9));
    let parts = |keys| Parts {
        dpo: &dpo,
        reference: &reference,
        reward_model: &reference,
        reward_mean: 0.0,
        beta1: 0.1,
        beta2: 0.3,
        keys,
    };
    let row = method("distill");
    let none = row.keys(&Given::new()).unwrap();
    let made = (row.training().reward)(&parts(&none)).unwrap();
    let reward = tabulate(&map, &*made).unwrap();
    let (mdp, reference) = (map.mdp(), policy(1.9));
    let problem = Problem::new(mdp, &reference, Beta::try_new(0.3).unwrap());
    let optimum = soft_value_iteration(problem, &reward).unwrap();
    let gaps = optimum.policy.log_probs() - policy(0.7).log_probs();
    assert!(gaps.iter().all(|g| g.abs() < 1e-13), "{gaps}");
}

#[test]
fn what_is_no_method_gets_what_is_left() {
    let names = ["pretrain", "sft", "reward", "rto-released", "pretrain"];
    let looks = curves(names);
    let at = |i: usize| looks[i].1;
    assert_eq!(looks.len(), 4);
    assert_eq!(at(3), method("rto_released").curve());
    for (i, k) in [(0, 1), (0, 2), (1, 2), (2, 3)] {
        assert!(at(i).color != at(k).color, "{i} {k}");
    }
    assert_eq!(
        (label("rto-released"), label("mine")),
        ("RTO as released", "mine")
    );
}
