//! Folders: reading, writing, what is refused, and a save that is killed.

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use rto_bridge::checkpoint::{self, Checkpoint, Contents, hub};
use rto_bridge::family::{Head, ModelConfig};
use rto_bridge::tokenizer::Tokenizer;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/generation")
        .join(name)
}

fn load(folder: &Path) -> Result<Checkpoint, String> {
    let loaded = checkpoint::load(folder, None, &Device::Cpu);
    loaded.map_err(|e| {
        let text = e.to_string();
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    })
}

/// A fixture copied to where it may be changed.
fn copy(name: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    fs::create_dir(&folder).unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap().flatten() {
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    (dir, folder)
}

fn contents(loaded: &Checkpoint) -> Contents<'_> {
    Contents {
        config: &loaded.config,
        head: loaded.head,
        weights: &loaded.weights,
        dtype: DType::F32,
        shard_bytes: 5_000_000_000,
        carry: Some(&loaded.folder),
    }
}

fn bits(weights: &BTreeMap<String, Tensor>) -> BTreeMap<String, Vec<u32>> {
    let of = |t: &Tensor| {
        t.to_dtype(DType::F32)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
    };
    weights
        .iter()
        .map(|(n, t)| (n.clone(), of(t).into_iter().map(f32::to_bits).collect()))
        .collect()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|e| e.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn folders_of_hugging_face_are_read() {
    let sharded = load(&fixture("sharded")).unwrap();
    assert_eq!(
        sharded.notes,
        [
            "skipped attention.bias, attention.masked_bias, attention.rotary_emb.inv_freq (which the network computes itself)"
        ]
    );
    let half = load(&fixture("half")).unwrap();
    assert_eq!(
        (
            half.stored_dtype,
            half.config.tied_embeddings(),
            half.weights.contains_key("embed_out.weight")
        ),
        (DType::F16, true, false)
    );
    assert!(half.weights.values().all(|t| t.dtype() == DType::F16));
    let wide = checkpoint::load(&fixture("half"), Some(DType::F32), &Device::Cpu).unwrap();
    assert!(
        wide.weights.values().all(|t| t.dtype() == DType::F32)
            && bits(&wide.weights) == bits(&half.weights)
    );
    let reward = load(&fixture("reward")).unwrap();
    assert_eq!(reward.head, Head::Classification { labels: 1 });
    for loaded in [sharded, half, reward] {
        let expected = loaded.config.tensors(loaded.head);
        assert!(loaded.weights.keys().eq(expected.keys()));
    }
}

#[test]
fn what_is_written_is_read_back() {
    for name in ["plain", "half", "reward", "llama", "mistral", "judge"] {
        let loaded = load(&fixture(name)).unwrap();
        for (dtype, shard_bytes) in [(DType::F32, u64::MAX), (DType::F16, 9000), (DType::BF16, 1)] {
            let dir = tempfile::tempdir().unwrap();
            let folder = dir.path().join("new/deep/model");
            checkpoint::save(
                &folder,
                &Contents {
                    dtype,
                    shard_bytes,
                    ..contents(&loaded)
                },
            )
            .unwrap();
            let back = load(&folder).unwrap();
            assert_eq!(
                (&back.config, back.head, back.stored_dtype, &back.notes[..]),
                (&loaded.config, loaded.head, dtype, &[][..])
            );
            let stored: BTreeMap<String, Tensor> = loaded
                .weights
                .iter()
                .map(|(n, t)| (n.clone(), t.to_dtype(dtype).unwrap()))
                .collect();
            assert_eq!(bits(&back.weights), bits(&stored));
            assert_eq!(
                folder.join("tokenizer.json").exists(),
                matches!(name, "plain" | "llama")
            );
            assert_eq!(
                folder.join("generation_config.json").exists(),
                !matches!(name, "reward" | "judge")
            );
            assert_eq!(
                folder.join(checkpoint::INDEX).exists(),
                shard_bytes < u64::MAX
            );
        }
    }
}

#[test]
fn a_save_replaces_weights_and_keeps_what_else_is_there() {
    let (dir, folder) = copy("sharded");
    let plain = load(&fixture("plain")).unwrap();
    fs::write(folder.join("README.md"), "mine").unwrap();
    fs::create_dir(folder.join("notes")).unwrap();
    fs::write(folder.join("notes/a.txt"), "deep").unwrap();
    checkpoint::save_with(&folder, &contents(&plain), |new| {
        fs::write(new.join("optimizer.bin"), "state").unwrap();
        Ok(())
    })
    .unwrap();
    // The shards and the index would be taken for the weights.
    let expected = [
        "README.md",
        "config.json",
        "expected.safetensors",
        "generation_config.json",
        "model.safetensors",
        "notes",
        "optimizer.bin",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names(&folder), expected);
    assert_eq!(
        fs::read_to_string(folder.join("notes/a.txt")).unwrap(),
        "deep"
    );
    assert_eq!(bits(&load(&folder).unwrap().weights), bits(&plain.weights));
    assert_eq!(names(dir.path()), ["model"], "nothing temporary is left");
    // Into the folder it was read from, tokenizer and all.
    let again = load(&folder).unwrap();
    checkpoint::save(&folder, &contents(&again)).unwrap();
    assert!(folder.join("tokenizer.json").exists());
}

#[test]
fn failed_saves_leave_the_old_folder() {
    let (dir, folder) = copy("plain");
    let loaded = load(&folder).unwrap();
    let before = names(&folder);
    let refuse = |weights: &BTreeMap<String, Tensor>, dtype| {
        let error = checkpoint::save(
            &folder,
            &Contents {
                weights,
                dtype,
                ..contents(&loaded)
            },
        )
        .unwrap_err()
        .to_string();
        assert_eq!(
            (names(dir.path()), names(&folder)),
            (vec!["model".to_string()], before.clone())
        );
        error
    };
    let name = "gpt_neox.layers.1.mlp.dense_4h_to_h.weight";
    let changed = |tensor: Tensor| {
        let mut weights = loaded.weights.clone();
        weights.insert(name.into(), tensor);
        weights
    };
    let large = Tensor::full(1e6_f32, (32, 48), &Device::Cpu).unwrap();
    assert!(
        refuse(&changed(large), DType::F16)
            .ends_with(&format!("tensor {name}: value 0 is NaN or infinite"))
    );
    let nan = Tensor::full(f32::NAN, (32, 48), &Device::Cpu).unwrap();
    assert!(refuse(&changed(nan), DType::F32).contains("is NaN or infinite"));
    let short = Tensor::zeros((32, 47), DType::F32, &Device::Cpu).unwrap();
    assert!(
        refuse(&changed(short), DType::F32).ends_with("given shape [32, 47], expected [32, 48]")
    );
    let mut fewer = loaded.weights.clone();
    fewer.remove(name);
    assert!(refuse(&fewer, DType::F32).ends_with(&format!(
        "tensor {name}: not given, expected shape [32, 48]"
    )));
    let mut more = loaded.weights.clone();
    more.insert("extra".into(), loaded.weights[name].clone());
    assert!(refuse(&more, DType::F32).ends_with("tensor extra: does not belong to this network"));
    assert!(refuse(&loaded.weights, DType::I64).contains("expected F32, F16 or BF16"));
    let failed = checkpoint::save_with(&folder, &contents(&loaded), |_| {
        Err(rto_bridge::Error::request("extra", "fails"))
    });
    assert_eq!(failed.unwrap_err().to_string(), "extra: fails");
    assert_eq!(
        (names(dir.path()).len(), names(&folder)),
        (1, before.clone())
    );
    // A folder of other things is not ours to replace.
    let other = dir.path().join("home");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("thesis.tex"), "x").unwrap();
    let error = checkpoint::save(&other, &contents(&loaded))
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("home: is not empty and holds no config.json; nothing was replaced"),
        "{error}"
    );
}

/// Writes a safetensors file of raw parts.
fn raw(path: &Path, header: &str, data: &[u8]) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    fs::write(path, bytes).unwrap();
}

#[test]
fn damaged_folders_are_refused_by_name() {
    let (_dir, folder) = copy("plain");
    let weights = folder.join(checkpoint::WEIGHTS);
    let good = fs::read(&weights).unwrap();
    let tensors = load(&folder).unwrap().weights;
    let say = |bytes: &[u8]| {
        fs::write(&weights, bytes).unwrap();
        load(&folder).unwrap_err()
    };
    assert!(say(b"").ends_with("model.safetensors: is empty, expected a file of weights"));
    for cut in [4, 100, good.len() / 2, good.len() - 1] {
        assert!(
            say(&good[..cut]).contains("model.safetensors: not a complete safetensors file"),
            "{cut}"
        );
    }
    let written = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let mut tensors = tensors.clone();
        change(&mut tensors);
        fs::remove_file(&weights).unwrap();
        candle_core::safetensors::save(&tensors.into_iter().collect(), &weights).unwrap();
        load(&folder).unwrap_err()
    };
    let name = "gpt_neox.layers.0.attention.dense.bias";
    let put = |t: Tensor| written(&|w| drop(w.insert(name.into(), t.clone())));
    assert!(
        written(&|w| drop(w.remove(name)))
            .ends_with(&format!("tensor {name}: not there, expected shape [32]"))
    );
    assert!(
        put(Tensor::zeros(31, DType::F32, &Device::Cpu).unwrap()).ends_with(&format!(
            "tensor {name}: found shape [31], config.json says [32]"
        ))
    );
    assert!(
        put(Tensor::zeros(32, DType::I64, &Device::Cpu).unwrap()).ends_with(&format!(
            "tensor {name}: found I64, expected F32, F16 or BF16"
        ))
    );
    assert!(put(Tensor::zeros(32, DType::F64, &Device::Cpu).unwrap()).contains("found F64"));
    for (bad, dtype) in [
        (f32::NAN, DType::F32),
        (f32::INFINITY, DType::F16),
        (f32::NEG_INFINITY, DType::BF16),
    ] {
        let mut values = [0.5_f32; 32];
        values[7] = bad;
        let tensor = Tensor::new(&values, &Device::Cpu)
            .unwrap()
            .to_dtype(dtype)
            .unwrap();
        assert!(put(tensor).ends_with(&format!("tensor {name}: value 7 is NaN or infinite")));
    }
    let extra = "gpt_neox.layers.2.attention.dense.bias";
    assert!(
        written(&|w| drop(w.insert(extra.into(), w[name].clone()))).ends_with(&format!(
            "tensor {extra}: does not belong to the network that config.json describes"
        ))
    );
    raw(
        &weights,
        r#"{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}"#,
        &[0; 4],
    );
    assert!(
        load(&folder)
            .unwrap_err()
            .contains("not a complete safetensors file")
    );
    fs::remove_file(&weights).unwrap();
    assert!(
        load(&folder)
            .unwrap_err()
            .contains("model: holds neither model.safetensors nor model.safetensors.index.json")
    );
    assert_eq!(
        load(Path::new("/nowhere/model")).unwrap_err(),
        "/nowhere/model: no such folder"
    );
    assert!(
        load(&folder.join("config.json"))
            .unwrap_err()
            .ends_with("is a file, expected a model folder")
    );
}

#[test]
fn damaged_indices_are_refused_by_name() {
    let (_dir, folder) = copy("sharded");
    let index = folder.join(checkpoint::INDEX);
    let good = fs::read_to_string(&index).unwrap();
    let say = |text: &str| {
        fs::write(&index, text).unwrap();
        load(&folder).unwrap_err()
    };
    assert!(say("{").contains("index.json: not valid JSON"));
    assert!(say("{}").ends_with("weight_map: expected an object from tensor names to file names"));
    let outside = good.replacen("model-00001-of-00002", "../model-00001-of-00002", 1);
    assert!(say(&outside).contains("expected the name of a .safetensors file"));
    let moved = good.replacen("model-00001-of-00002", "model-00002-of-00002", 1);
    assert!(say(&moved).ends_with("is not in model.safetensors.index.json"));
    fs::write(&index, &good).unwrap();
    fs::remove_file(folder.join("model-00002-of-00002.safetensors")).unwrap();
    assert!(
        load(&folder)
            .unwrap_err()
            .ends_with("model-00002-of-00002.safetensors: no such file")
    );
}

#[test]
fn tokenizers_are_checked_against_the_vocabulary() {
    let (_dir, folder) = copy("plain");
    let config = load(&folder).unwrap().config;
    let tokenizer = Tokenizer::load(&folder, &config).unwrap();
    let ids = tokenizer.encode("hi, you<|endoftext|>").unwrap();
    assert_eq!(
        ids.last(),
        Some(&0),
        "the text of a special token is that token"
    );
    assert_eq!(
        tokenizer.decode(&ids, true).unwrap(),
        "hi, you<|endoftext|>"
    );
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "hi, you");
    assert_eq!(
        tokenizer.pieces(&[9, 56, 0]).unwrap(),
        ["h", " ", "<|endoftext|>"]
    );
    assert_eq!(tokenizer.pieces(&[4000]).unwrap(), ["<4000>"]);
    let small = config.resized(config.n_layers(), 60);
    let error = Tokenizer::load(&folder, &small).unwrap_err().to_string();
    assert!(
        error.ends_with(
            "tokenizer.json: has the token id 60 (\"0\"), but the network's vocabulary has 60 rows"
        ),
        "{error}"
    );
    fs::write(folder.join("tokenizer.json"), "{\"version\": \"1.0\"}").unwrap();
    let error = Tokenizer::load(&folder, &config).unwrap_err().to_string();
    assert!(
        error.contains("tokenizer.json: not a tokenizer") && error.lines().count() == 1,
        "{error}"
    );
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    assert!(
        Tokenizer::load(&folder, &config)
            .unwrap_err()
            .to_string()
            .ends_with("tokenizer.json: no such file")
    );
}

#[test]
fn names_that_are_no_folder() {
    let mut say = |_: &str| {};
    let local = hub::resolve(fixture("plain").to_str().unwrap(), &mut say).unwrap();
    assert_eq!(local, fixture("plain"));
    let error = hub::resolve("./no/such/model", &mut say)
        .unwrap_err()
        .to_string();
    assert_eq!(error, "./no/such/model: no such folder");
    if cfg!(not(feature = "hub")) {
        let error = hub::resolve("EleutherAI/pythia-14m", &mut say)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "EleutherAI/pythia-14m: no such folder; to download a model of that id from the Hugging Face hub, build with --features rto-llm/hub"
        );
    }
}

/// Every weight set to one number, so that a mixture of two saves would show.
fn constant(config: &ModelConfig, value: f32) -> BTreeMap<String, Tensor> {
    let one = |(name, shape): (String, Vec<usize>)| {
        (name, Tensor::full(value, shape, &Device::Cpu).unwrap())
    };
    config
        .tensors(Head::CausalLm)
        .into_iter()
        .map(one)
        .collect()
}

/// The process that `kill_nine_during_a_save` kills.
#[test]
fn saves_until_it_is_killed() {
    let Ok(folder) = std::env::var("RTO_TEST_SAVE_FOREVER") else {
        return;
    };
    let loaded = load(&fixture("plain")).unwrap();
    for i in 0_u32.. {
        let weights = constant(&loaded.config, (i % 1000) as f32);
        let shard_bytes = if i % 2 == 0 { u64::MAX } else { 20_000 };
        checkpoint::save(
            Path::new(&folder),
            &Contents {
                weights: &weights,
                shard_bytes,
                ..contents(&loaded)
            },
        )
        .unwrap();
    }
}

#[cfg(unix)]
#[test]
fn kill_nine_during_a_save_leaves_a_checkpoint() {
    use std::process::{Command, Stdio};
    use std::time::Duration;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    let mut generations = std::collections::BTreeSet::new();
    let mut interrupted = 0;
    for round in 0..25 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "saves_until_it_is_killed"])
            .env("RTO_TEST_SAVE_FOREVER", &folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while !folder.join("config.json").exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
        // Spread over the steps of a save.
        std::thread::sleep(Duration::from_micros(30_000 + round * 3_700));
        child.kill().unwrap();
        child.wait().unwrap();
        interrupted += usize::from(names(dir.path()).len() > 1);
        let loaded = load(&folder).unwrap();
        assert_eq!(loaded.notes, [] as [&str; 0]);
        let values = bits(&loaded.weights);
        let first = values.values().next().unwrap()[0];
        assert!(
            values.values().flatten().all(|v| *v == first),
            "one save, whole"
        );
        generations.insert(first);
        assert!(folder.join("tokenizer.json").exists());
    }
    assert!(
        generations.len() > 1 && interrupted > 0,
        "{} saves seen, {interrupted} interrupted",
        generations.len()
    );
    // The next save clears what the killed ones left, once it is too old to belong to a process that is only starting.
    let past = std::time::SystemTime::now() - std::time::Duration::from_secs(120);
    for name in names(dir.path())
        .iter()
        .filter(|name| name.ends_with(".tmp"))
    {
        let folder = dir.path().join(name);
        let files = std::fs::read_dir(&folder)
            .unwrap()
            .map(|e| e.unwrap().path());
        for path in files.chain([folder.clone()]) {
            std::fs::File::open(path)
                .unwrap()
                .set_modified(past)
                .unwrap();
        }
    }
    let plain = load(&fixture("plain")).unwrap();
    checkpoint::save(&folder, &contents(&plain)).unwrap();
    assert_eq!(names(dir.path()), ["model"]);
}

#[test]
fn a_save_cut_between_two_renames_is_taken_up() {
    let (dir, folder) = copy("plain");
    let aside = checkpoint::atomic::previous(&folder).unwrap();
    fs::rename(&folder, &aside).unwrap();
    let loaded = load(&folder).unwrap();
    assert!(loaded.notes[0].starts_with("a save was interrupted: took "));
    checkpoint::save(&folder, &contents(&loaded)).unwrap();
    assert_eq!(names(dir.path()), ["model"]);
    assert!(folder.join("tokenizer.json").exists());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Any header before any data is an error of one line (it is never this network's).
    #[test]
    fn any_header_is_an_error(header in prop_oneof![
        "\\PC{0,80}",
        "\\{\"[a-z.]{1,8}\":\\{\"dtype\":\"(F32|F16|I64|X)\",\"shape\":\\[(-?[0-9]{1,20}(,[0-9]{1,20})?)?\\],\"data_offsets\":\\[[0-9]{1,20},[0-9]{1,20}\\]\\}\\}",
    ], length in prop_oneof![Just(None), any::<u64>().prop_map(Some), (0_u64..200).prop_map(Some)], data in prop::collection::vec(any::<u8>(), 0..64)) {
        let (_dir, folder) = copy("plain");
        let mut bytes = length.unwrap_or(header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&data);
        fs::write(folder.join(checkpoint::WEIGHTS), bytes).unwrap();
        let error = load(&folder).unwrap_err();
        prop_assert!(error.contains("model.safetensors: "), "{}", error);
    }

    /// A good file with one byte of its header changed: the same weights, or an error of one line.
    #[test]
    fn a_changed_header_byte_never_panics(at in 0_usize..2400, byte in any::<u8>()) {
        let (_dir, folder) = copy("plain");
        let path = folder.join(checkpoint::WEIGHTS);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] = byte;
        fs::write(&path, bytes).unwrap();
        load(&folder).map(|_| ()).unwrap_or(());
    }
}
