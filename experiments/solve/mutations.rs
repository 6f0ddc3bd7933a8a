//! Damaged instances: reading one, and solving what is left of it, ends in a value or in one line.

#[path = "../../bridge/tests/common/mutate.rs"]
mod mutate;

use super::{instance::Instance, solve};
use mutate::survive;
use std::fs;
use std::path::Path;

fn data(name: &str) -> Vec<u8> {
    fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../data")
            .join(name),
    )
    .unwrap()
}

fn line(error: &anyhow::Error) -> String {
    format!("{error:#}")
}

fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

fn read(path: &Path) -> Result<(), String> {
    let instance = Instance::read(path).map_err(|e| line(&e))?;
    // A change may make an instance that is sound and large: work is not what is tested.
    if instance.world.n_states() > 64 {
        return Ok(());
    }
    solve::solve(&instance).map(drop).map_err(|e| line(&e))
}

#[test]
fn instances() {
    let corpus = ["g0.json", "g1.json", "propc2.json", "robust.json"].map(data);
    let dir = folder();
    let file = dir.path().join("instance.json");
    survive("instances", &corpus, |damaged| {
        fs::write(&file, damaged).unwrap();
        read(&file)
    });
}

#[test]
fn arrays() {
    let dir = folder();
    let file = dir.path().join("instance.json");
    let values = ndarray::Array3::from_shape_fn((1, 1, 2), |(_, _, a)| a as f64);
    let mut corpora: Vec<(&str, Vec<u8>)> = Vec::new();
    let npy = dir.path().join("a.npy");
    ndarray_npy::write_npy(&npy, &values).unwrap();
    corpora.push(("a.npy", fs::read(&npy).unwrap()));
    let npz = dir.path().join("a.npz");
    for packed in [true, false] {
        let file = fs::File::create(&npz).unwrap();
        let mut writer = match packed {
            true => ndarray_npy::NpzWriter::new_compressed(file),
            false => ndarray_npy::NpzWriter::new(file),
        };
        writer.add_array("r", &values).unwrap();
        writer.finish().unwrap();
        corpora.push(("a.npz:r", fs::read(&npz).unwrap()));
    }
    let header = br#"{"r":{"dtype":"F64","shape":[1,1,2],"data_offsets":[0,16]}}  "#;
    let mut tensors = (header.len() as u64).to_le_bytes().to_vec();
    tensors.extend_from_slice(header);
    tensors.extend([0; 16]);
    corpora.push(("a.safetensors:r", tensors));
    for (i, (path, whole)) in corpora.into_iter().enumerate() {
        let text = format!(
            r#"{{"beta": 0.5, "initial": [1], "n_actions": 2, "horizon": 1, "eos": null, "reference": [[[0.5, 0.5]]], "reward": "{path}"}}"#
        );
        fs::write(&file, text).unwrap();
        let array = dir.path().join(path.split(':').next().unwrap());
        fs::write(&array, &whole).unwrap();
        assert_eq!(read(&file), Ok(()), "{path}");
        survive(&format!("array {i} {}", &path[..5]), &[whole], |damaged| {
            fs::write(&array, damaged).unwrap();
            read(&file)
        });
    }
}
