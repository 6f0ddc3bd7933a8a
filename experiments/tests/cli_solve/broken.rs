//! Files broken at random: never a panic.

use crate::common::*;
use ndarray::ArrayD;
use ndarray_npy::{NpzWriter, write_npy};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::fs;
use tempfile::TempDir;

/// Small instances that reach every part of the program.
fn seeds() -> Vec<Value> {
    let pairs = json!([
        {"prompt": 0, "winner": [0, 0], "loser": [1, 1]},
        {"prompt": 0, "winner": [1, 1], "loser": [0, 0]},
        {"prompt": 0, "winner": [1, 0], "loser": [0, 1]},
    ]);
    vec![
        with(
            example("g0.json"),
            json!({"preferences": pairs, "estimation": {"param_bound": 2, "bonus_scale": "wald"}, "dpo": {"beta": 0.3}}),
        ),
        json!({
            "beta": 0.5, "initial": [0.5, 0.5], "n_actions": 2, "horizon": 1,
            "reference_logits": [[[0, 1]], [[null, 0]]],
            "features": [[[[1, 0], [0, 1]]], [[[0, 0], [1, 1]]]], "theta": [0.5, -0.5],
            "preferences": [{"prompt": 0, "winner": [0], "loser": [1]}],
            "estimation": {"param_bound": 1, "bonus_scale": 0.7, "metric": "fisher"},
        }),
        example("propc2.json"),
        example("robust.json"),
    ]
}

fn nodes(value: &Value, path: String, out: &mut Vec<String>) {
    match value {
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                nodes(item, format!("{path}/{i}"), out);
            }
        }
        Value::Object(fields) => {
            for (key, item) in fields {
                nodes(item, format!("{path}/{key}"), out);
            }
        }
        _ => {}
    }
    out.push(path);
}

fn junk() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        Value::Null,
        json!(true),
        json!(0),
        json!(1),
        json!(2),
        json!(-1),
        json!(0.5),
        json!(1e-300),
        json!(1e300),
        json!(-1e300),
        json!(40),
        json!(4_294_967_295u64),
        json!(1u64 << 60),
        json!(""),
        json!("x.npy"),
        json!("x.npz:"),
        json!("wald_ridge"),
        json!("likelihood_ratio"),
        json!([]),
        json!([[]]),
        json!([1]),
        json!([[0, 1]]),
        json!({}),
    ])
}

/// The binary never panics or dies of a signal: exit code 0, or 1 with one `error:` line.
fn survives(bytes: &[u8]) -> Result<(), TestCaseError> {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("t.json"), bytes).unwrap();
    let output = solve(&["t.json", "--json"], dir.path());
    let text = stderr(&output);
    match output.status.code() {
        Some(0) => {
            let parsed = serde_json::from_slice::<Value>(&output.stdout);
            prop_assert!(parsed.is_ok());
        }
        Some(1) => {
            prop_assert_eq!(text.trim_end().lines().count(), 1, "{}", text);
            prop_assert!(text.starts_with("error: t.json"), "{}", text);
        }
        other => prop_assert!(false, "exit {:?}: {}", other, text),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn cut_off_and_garbled_files(seed in 0usize..4, cut in 0.0..1.0f64, at in 0.0..1.0f64, byte: u8, whole: bool) {
        let mut bytes = seeds()[seed].to_string().into_bytes();
        if !whole {
            bytes.truncate((cut * bytes.len() as f64) as usize);
        }
        let i = (at * bytes.len() as f64) as usize;
        if let Some(slot) = bytes.get_mut(i) {
            *slot = byte;
        }
        survives(&bytes)?;
    }

    #[test]
    fn wrong_values(seed in 0usize..4, picks in prop::collection::vec((any::<prop::sample::Index>(), junk()), 1..3)) {
        let mut instance = seeds().swap_remove(seed);
        for (pick, value) in picks {
            let mut all = Vec::new();
            nodes(&instance, String::new(), &mut all);
            let path = pick.get(&all).clone();
            *instance.pointer_mut(&path).unwrap() = value;
        }
        survives(instance.to_string().as_bytes())?;
    }

    #[test]
    fn garbled_arrays(at in prop::collection::vec(0usize..2000, 0..4), byte: u8, cut in 0usize..2000, kind in 0usize..3) {
        let dir = TempDir::new().unwrap();
        let values = ArrayD::from_shape_fn(vec![1, 3, 2], |i| i[1] as f64);
        let name = ["r.npy", "r.npz", "r.safetensors"][kind];
        let path = dir.path().join(name);
        match kind {
            0 => write_npy(&path, &values).unwrap(),
            1 => {
                let mut npz = NpzWriter::new_compressed(fs::File::create(&path).unwrap());
                npz.add_array("r", &values).unwrap();
                npz.finish().unwrap();
            }
            _ => {
                let raw: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                let view = TensorView::new(Dtype::F64, vec![1, 3, 2], &raw).unwrap();
                safetensors::serialize_to_file([("r", view)], None, &path).unwrap();
            }
        }
        let mut bytes = fs::read(&path).unwrap();
        for i in at {
            let n = bytes.len();
            bytes[i % n] = byte;
        }
        bytes.truncate(cut);
        fs::write(&path, &bytes).unwrap();
        fs::write(dir.path().join("t.json"), edited("g0.json", "/reward", json!(name)).to_string()).unwrap();
        let output = solve(&["t.json", "--json"], dir.path());
        prop_assert!(matches!(output.status.code(), Some(0 | 1)), "{}", stderr(&output));
    }
}
