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
            given("rto", "beta2", f64::NAN),
            "method.rto.beta2: found NaN",
        ),
    ] {
        let error = check(&wrong).unwrap_err().to_string();
        assert!(error.starts_with(said), "{error}");
    }
}

#[test]
fn the_groups_of_rloo_leave_the_number_of_responses() {
    let (base, rloo) = (PpoConfig::paper(), method("rloo"));
    let config = rloo.ppo(base, &rloo.keys(&Given::new()).unwrap());
    assert_eq!(config.responses(), base.responses());
    assert_eq!(config.responses_per_prompt, 4);
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
