//! Folders that are a little other than `save_pretrained` writes them. What `transformers` makes of each is in
//! `paper-notes/compatibility.md`, by `scripts/check_folders.py`.

use candle_core::{DType, Device, Tensor};
use rto_bridge::checkpoint::{self, CONFIG, Checkpoint, WEIGHTS};
use rto_bridge::family::{Head, ModelConfig, RopeScaling};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A folder of a committed fixture, changed.
struct Folder {
    dir: tempfile::TempDir,
    config: Value,
    weights: BTreeMap<String, Tensor>,
}

impl Folder {
    fn of(name: &str) -> Self {
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/generation")
            .join(name);
        let text = fs::read(from.join(CONFIG)).unwrap();
        let weights = checkpoint::load_tensors(&from.join(WEIGHTS), None, &Device::Cpu).unwrap();
        Self {
            dir: tempfile::tempdir().unwrap(),
            config: serde_json::from_slice(&text).unwrap(),
            weights,
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().to_path_buf()
    }

    fn add(&mut self, name: &str, shape: &[usize], value: f32) {
        let tensor = Tensor::full(value, shape, &Device::Cpu).unwrap();
        self.weights.insert(name.into(), tensor);
    }

    fn load(&self) -> Result<Checkpoint, String> {
        fs::write(self.path().join(CONFIG), self.config.to_string()).unwrap();
        let _ = fs::remove_file(self.path().join(WEIGHTS));
        checkpoint::write_tensors(&self.path().join(WEIGHTS), &self.weights, DType::F32).unwrap();
        let loaded = checkpoint::load(&self.path(), None, &Device::Cpu);
        loaded.map_err(|e| {
            let said = e.to_string();
            assert!(!said.contains('\n'), "{said}");
            said
        })
    }

    fn note(&self) -> String {
        self.load().unwrap().notes.join("; ")
    }

    fn key(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    fn without(mut self, key: &str) -> Self {
        self.config.as_object_mut().unwrap().remove(key).unwrap();
        self
    }
}

#[test]
fn tensors_that_change_nothing_are_skipped_and_named() {
    let mut folder = Folder::of("llama");
    let hidden = folder.config["hidden_size"].as_u64().unwrap() as usize;
    folder.add("model.layers.0.self_attn.rotary_emb.inv_freq", &[2], 1.0);
    folder.add("model.rotary_emb.inv_freq", &[2], 1.0);
    folder.add("v_head.summary.weight", &[1, hidden], 1.0);
    folder.add("score.weight", &[1, hidden], 1.0);
    let note = folder.note();
    for part in [
        "skipped model.rotary_emb.inv_freq, self_attn.rotary_emb.inv_freq (which the network computes itself)",
        "skipped v_head (a value head, which only its trainer reads)",
        "skipped score.weight (a head that gives scores, beside one that writes text)",
    ] {
        assert!(note.contains(part), "{note}");
    }
    let mut neox = Folder::of("plain");
    neox.add("gpt_neox.rotary_emb.inv_freq", &[2], 1.0);
    assert!(neox.note().contains("skipped gpt_neox.rotary_emb.inv_freq"));
    let mut reward = Folder::of("reward");
    reward.add("embed_out.weight", &[60, 16], 1.0);
    assert!(
        reward
            .note()
            .contains("skipped embed_out.weight (a head that writes text")
    );
    let mut other = Folder::of("llama");
    other.add("model.layers.0.self_attn.q_norm.weight", &[4], 1.0);
    assert!(
        other
            .load()
            .unwrap_err()
            .contains("q_norm.weight: does not belong to the network")
    );
}

#[test]
fn pad_tokens_that_are_none() {
    let rows = Folder::of("llama").config["vocab_size"].as_u64().unwrap();
    let none = Folder::of("llama").key("pad_token_id", json!(-1));
    assert_eq!(none.load().unwrap().config.pad_token(), None);
    assert_eq!(none.note(), "");
    let beyond = Folder::of("llama").key("pad_token_id", json!(rows));
    assert_eq!(beyond.load().unwrap().config.pad_token(), None);
    assert!(
        beyond.note().contains("beyond the vocabulary"),
        "{}",
        beyond.note()
    );
    // Text is not cut at a token that does not exist.
    let end = Folder::of("llama").key("eos_token_id", json!(rows));
    assert!(end.load().unwrap_err().contains("eos_token_id"));
}

#[test]
fn absent_keys_and_head_counts() {
    let early = Folder::of("llama").without("max_position_embeddings");
    assert_eq!(early.load().unwrap().config.max_positions(), 2048);
    assert!(
        early
            .note()
            .contains("has no max_position_embeddings: took 2048, as transformers does")
    );
    // The weights of the keys are half as wide as those of the queries.
    for (family, folder) in [
        ("llama", Folder::of("llama").without("num_key_value_heads")),
        (
            "llama",
            Folder::of("llama").key("num_key_value_heads", Value::Null),
        ),
        // Its class says 8, which four heads do not allow.
        (
            "mistral",
            Folder::of("mistral").without("num_key_value_heads"),
        ),
        (
            "mistral",
            Folder::of("mistral").key("num_key_value_heads", Value::Null),
        ),
    ] {
        let whole = Folder::of(family).load().unwrap().config;
        assert!(whole.n_kv_heads() < whole.n_heads());
        assert_eq!(folder.load().unwrap().config, whole);
        assert!(
            folder.note().contains("no num_key_value_heads: took"),
            "{}",
            folder.note()
        );
        assert_eq!(checkpoint::read_config(&folder.path()).unwrap().0, whole);
    }
}

#[test]
fn biases() {
    let mut half = Folder::of("llama").key("attention_bias", json!(true));
    let layers = half.config["num_hidden_layers"].as_u64().unwrap();
    for layer in 0..layers {
        for part in ["q_proj", "k_proj", "v_proj"] {
            let name = format!("model.layers.{layer}.self_attn.{part}");
            let rows = half.weights[&format!("{name}.weight")].dims()[0];
            half.add(&format!("{name}.bias"), &[rows], 0.5);
        }
    }
    let loaded = half.load().unwrap();
    let bias = &loaded.weights["model.layers.0.self_attn.o_proj.bias"];
    assert_eq!(
        bias.abs()
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap(),
        0.0
    );
    assert_eq!(
        half.note(),
        "took zeros for self_attn.o_proj.bias, which no layer of the files has"
    );
    // A layer that alone lacks one is a damaged file.
    half.weights.remove("model.layers.1.self_attn.q_proj.bias");
    let said = half.load().unwrap_err();
    assert!(
        said.contains("tensor model.layers.1.self_attn.q_proj.bias: not there"),
        "{said}"
    );

    let mut zeros = Folder::of("llama");
    let rows = zeros.weights["model.layers.0.mlp.up_proj.weight"].dims()[0];
    zeros.add("model.layers.0.mlp.up_proj.bias", &[rows], 0.0);
    assert!(
        zeros
            .note()
            .contains("skipped mlp.up_proj.bias (zeros that config.json has no place for)")
    );
    zeros.add("model.layers.0.mlp.up_proj.bias", &[rows], 0.1);
    let said = zeros.load().unwrap_err();
    assert!(
        said.contains("config.json says that there is no such bias (mlp_bias)"),
        "{said}"
    );
}

#[test]
fn config_files_as_python_and_editors_write_them() {
    let folder = Folder::of("llama");
    folder.load().unwrap();
    let path = folder.path().join(CONFIG);
    let text = folder.config.to_string();
    let read = |text: &[u8]| {
        fs::write(&path, text).unwrap();
        ModelConfig::read(&path).map_err(|e| e.to_string())
    };
    let plain = read(text.as_bytes()).unwrap();
    assert_eq!(read(format!("\u{feff}{text}").as_bytes()).unwrap(), plain);
    let with = |pair: &str| text.replacen('{', &format!("{{{pair}, "), 1);
    assert_eq!(
        read(with("\"initializer_range\": NaN, \"x\": [-Infinity]").as_bytes()).unwrap(),
        plain
    );
    let said = read(
        with("\"unread\": 1")
            .replace("\"rms_norm_eps\":", "\"rms_norm_eps\": NaN, \"y\":")
            .as_bytes(),
    )
    .unwrap_err();
    assert!(
        said.contains("rms_norm_eps: found \"NaN\", expected a number"),
        "{said}"
    );
}

/// What a clone without Git LFS, or a download that failed, leaves in place of a file is named in whatever place it stands.
#[test]
fn pointers_and_pages_in_place_of_files_are_named() {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/generation/plain");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n";
    let page = "<!DOCTYPE html>\n<html><body>Not Found</body></html>\n";
    for (text, said) in [(pointer, "git lfs pull"), (page, "an HTML page")] {
        for name in [CONFIG, WEIGHTS, "tokenizer.json", "generation_config.json"] {
            let dir = tempfile::tempdir().unwrap();
            for entry in fs::read_dir(&from).unwrap().flatten() {
                fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
            }
            fs::write(dir.path().join(name), text).unwrap();
            let read = checkpoint::load(dir.path(), None, &Device::Cpu)
                .and_then(|c| rto_bridge::tokenizer::Tokenizer::load(dir.path(), &c.config));
            let error = read.unwrap_err().to_string();
            assert!(
                error.contains(name) && error.contains(said) && !error.contains('\n'),
                "{error}"
            );
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("m.gguf");
        fs::write(&file, text).unwrap();
        let error = rto_bridge::gguf::config(&file).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

/// Python writes numbers that are not finite into any of the files; what nobody reads does no harm.
#[test]
fn numbers_that_are_not_finite_beside_what_is_read() {
    let folder = Folder::of("plain");
    let file = folder.path().join("generation_config.json");
    fs::write(&file, r#"{"eos_token_id": 5, "temperature": NaN}"#).unwrap();
    assert!(folder.load().unwrap().config.end_tokens().contains(5));
    fs::write(&file, r#"{"eos_token_id": Infinity}"#).unwrap();
    let said = folder.load().map(drop).unwrap_err();
    assert!(said.contains("eos_token_id: found \"Infinity\""), "{said}");
}

/// A tokenizer of another kind is named with what makes a `tokenizer.json` of it.
#[test]
fn other_tokenizers_are_named_with_what_to_do() {
    let folder = Folder::of("plain");
    for name in ["tokenizer.model", "vocab.json", "vocab.txt"] {
        assert_eq!(
            rto_bridge::tokenizer::Tokenizer::instead_in(&folder.path()),
            ""
        );
        let file = folder.path().join(name);
        fs::write(&file, "").unwrap();
        let loaded = folder.load().unwrap();
        let read = rto_bridge::tokenizer::Tokenizer::load(&folder.path(), &loaded.config);
        let said = read.unwrap_err().to_string();
        assert!(
            said.contains(&format!(
                "no such file; it holds {name}: in Python, AutoTokenizer"
            )),
            "{said}"
        );
        fs::remove_file(file).unwrap();
    }
}

#[test]
fn classes_under_their_wrappers() {
    for (class, head) in [
        ("FSDPLlamaForCausalLM", Some(Head::CausalLm)),
        ("LLaMAForCausalLM", Some(Head::CausalLm)),
        ("AutoModelForCausalLMWithValueHead", Some(Head::CausalLm)),
        (
            "FSDPLlamaForSequenceClassification",
            Some(Head::Classification { labels: 1 }),
        ),
        ("LlamaForTokenClassification", None),
        ("MyLlamaForCausalLM", None),
    ] {
        let folder = Folder::of("llama")
            .key("architectures", json!([class]))
            .key("num_labels", json!(1));
        let text = folder.config.to_string();
        let found = ModelConfig::parse(Path::new(CONFIG), text.as_bytes());
        assert_eq!(found.map(|(_, head)| head).ok(), head, "{class}");
    }
}

#[test]
fn the_context_that_was_trained_first() {
    let rope = json!({"rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
    let folder = || {
        Folder::of("llama")
            .key("rope_scaling", Value::Null)
            .key("rope_parameters", rope.clone())
    };
    let original = |folder: Folder| {
        let (config, _) =
            ModelConfig::parse(Path::new(CONFIG), folder.config.to_string().as_bytes()).unwrap();
        let Some(RopeScaling::Llama3 {
            original_max_positions,
            ..
        }) = config.plan().rotary.unwrap().scaling
        else {
            panic!()
        };
        (original_max_positions, config.max_positions())
    };
    let (nowhere, whole) = original(folder());
    assert_eq!(nowhere, whole);
    assert_eq!(
        original(folder().key("original_max_position_embeddings", json!(16))).0,
        16
    );
    let mut both = folder().key("original_max_position_embeddings", json!(16));
    both.config["rope_parameters"]["original_max_position_embeddings"] = json!(64);
    assert_eq!(original(both).0, 16);
}

#[test]
fn weights_of_few_bits_are_named() {
    for (settings, name) in [
        (json!({"quant_method": "gptq", "bits": 4}), "GPTQ, 4 bits"),
        (json!({"quant_method": "awq", "bits": 4}), "AWQ, 4 bits"),
        (
            json!({"quant_method": "bitsandbytes", "load_in_8bit": true}),
            "bitsandbytes, 8 bits",
        ),
        (json!({"quant_method": "fp8"}), "FP8"),
        (
            json!({"quant_method": "compressed-tensors"}),
            "compressed-tensors",
        ),
    ] {
        let said = Folder::of("llama")
            .key("quantization_config", settings)
            .load()
            .unwrap_err();
        assert!(said.contains(name) && said.contains("dequantize"), "{said}");
    }
    let off = json!({"quant_method": "bitsandbytes", "load_in_8bit": false, "load_in_4bit": false});
    assert!(
        Folder::of("llama")
            .key("quantization_config", off)
            .load()
            .is_ok()
    );
    for (tensor, name) in [
        ("qweight", "GPTQ or AWQ"),
        ("weight.absmax", "bitsandbytes"),
        ("weight_scale_inv", "FP8"),
    ] {
        let mut folder = Folder::of("llama");
        folder.add(
            &format!("model.layers.0.self_attn.q_proj.{tensor}"),
            &[4],
            1.0,
        );
        let said = folder.load().unwrap_err();
        assert!(said.contains(name), "{said}");
    }
}

#[test]
fn other_files_of_weights_are_named_with_what_to_do() {
    for (name, advice) in [
        (
            "pytorch_model.bin",
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder) writes safetensors",
        ),
        ("pytorch_model.bin.index.json", "save_pretrained"),
        ("consolidated.00.pth", "the Hugging Face version"),
        ("adapter_config.json", "rto_llm convert"),
        ("tiny.Q4_0.gguf", "name that file"),
    ] {
        let folder = Folder::of("llama");
        folder.load().unwrap();
        fs::rename(folder.path().join(WEIGHTS), folder.path().join(name)).unwrap();
        let said = checkpoint::load(&folder.path(), None, &Device::Cpu)
            .unwrap_err()
            .to_string();
        assert!(
            said.contains(&format!("it holds {name}: ")) && said.contains(advice),
            "{said}"
        );
    }
    let mut wrapped = Folder::of("llama");
    let tensor = wrapped.weights.remove("model.norm.weight").unwrap();
    wrapped
        .weights
        .insert("_orig_mod.model.norm.weight".into(), tensor);
    let said = wrapped.load().unwrap_err();
    assert!(said.contains("left \"_orig_mod.\" in the names"), "{said}");
}
