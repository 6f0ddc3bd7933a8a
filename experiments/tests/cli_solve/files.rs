//! Arrays and preferences in files.

use crate::common::*;
use ndarray::ArrayD;
use ndarray_npy::{NpzWriter, write_npy};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::fs;
use tempfile::TempDir;

fn array(value: &Value) -> ArrayD<f64> {
    let mut shape = Vec::new();
    let mut inner = value;
    while let Value::Array(items) = inner {
        shape.push(items.len());
        inner = &items[0];
    }
    ArrayD::from_shape_vec(shape, numbers(value)).unwrap()
}

const ARRAYS: [&str; 4] = ["reference_logits", "features", "policy_logits", "theta"];

#[test]
fn arrays_from_files_give_the_same_bytes() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let g1 = example("g1.json");
    let inline = solved_in(dir.path(), &g1);
    let mut npz = NpzWriter::new_compressed(fs::File::create(at("all.npz")).unwrap());
    let mut bytes = Vec::new();
    for key in ARRAYS {
        let values = array(&g1[key]);
        write_npy(at(&format!("{key}.npy")), &values).unwrap();
        npz.add_array(key, &values).unwrap();
        let raw: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        bytes.push((key, values.shape().to_vec(), raw));
    }
    npz.finish().unwrap();
    let tensors = bytes.iter().map(|(key, shape, raw)| {
        (
            *key,
            TensorView::new(Dtype::F64, shape.clone(), raw).unwrap(),
        )
    });
    safetensors::serialize_to_file(tensors, None, &at("all.safetensors")).unwrap();
    // Fortran order is a matter of the file alone.
    let features = array(&g1["features"])
        .reversed_axes()
        .as_standard_layout()
        .into_owned();
    write_npy(at("fortran.npy"), &features.reversed_axes()).unwrap();

    let pairs = g1["preferences"].as_array().unwrap();
    let lines: Vec<String> = pairs.iter().map(Value::to_string).collect();
    fs::write(at("pairs.jsonl"), lines.join("\n")).unwrap();
    let words = |tokens: &Value| {
        numbers(tokens)
            .iter()
            .map(f64::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let rows = pairs.iter().map(|p| {
        format!(
            "{},{},{}\n",
            p["prompt"],
            words(&p["winner"]),
            words(&p["loser"])
        )
    });
    let csv = format!("prompt,winner,loser\n{}", rows.collect::<String>());
    fs::write(at("pairs.csv"), csv).unwrap();

    for (name, preferences) in [
        ("{}.npy", "pairs.jsonl"),
        ("all.npz:{}", "pairs.csv"),
        ("all.safetensors:{}", "pairs.csv"),
    ] {
        let mut instance = g1.clone();
        for key in ARRAYS {
            instance[key] = json!(name.replace("{}", key));
        }
        instance["preferences"] = json!(preferences);
        assert_eq!(solved_in(dir.path(), &instance), inline, "{name}");
    }
    let instance = with(g1, json!({"features": "fortran.npy"}));
    assert_eq!(solved_in(dir.path(), &instance), inline);
}

#[test]
fn transitions_from_a_file() {
    let dir = TempDir::new().unwrap();
    let inline = solved_in(dir.path(), &example("propc2.json"));
    let dense = ArrayD::from_shape_fn(vec![3, 2, 3], |i| if i[2] == 0 { 0.0 } else { 0.5 });
    write_npy(dir.path().join("t.npy"), &dense).unwrap();
    let instance = with(example("propc2.json"), json!({"transition": "t.npy"}));
    assert_eq!(solved_in(dir.path(), &instance), inline);
}
