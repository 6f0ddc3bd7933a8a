//! GGUF files against the `gguf` package, `tokenizers` and `sentencepiece` (`bridge/scripts/make_gguf_fixtures.py`), and damaged ones.

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use rto_bridge::checkpoint::{self, Contents};
use rto_bridge::data::ChatTemplate;
use rto_bridge::family::{Head, ModelConfig, RopeScaling};
use rto_bridge::generate::Engine;
use rto_bridge::gguf;
use rto_bridge::tokenizer::Tokenizer;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/gguf")
        .join(name)
}

fn expected(name: &str) -> Value {
    let text = std::fs::read_to_string(fixture(&format!("{name}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn hash(tensor: &Tensor) -> String {
    let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let digest = Sha256::digest(bytes);
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

/// Every type that is read occurs in one of the two files.
fn scaling(config: &ModelConfig) -> Option<RopeScaling> {
    config.plan().rotary.unwrap().scaling
}

#[test]
fn weights_are_those_of_the_gguf_package_to_the_last_bit() {
    for name in ["bytes", "pieces"] {
        let (config, weights) =
            gguf::load(&fixture(&format!("{name}.gguf")), DType::F32, &Device::Cpu).unwrap();
        let shapes = ModelConfig::from(&config).tensors(Head::CausalLm);
        let hashes = expected(name)["sha256"].as_object().unwrap().clone();
        assert_eq!(hashes.len(), shapes.len());
        for (tensor, wanted) in hashes {
            assert_eq!(weights[&tensor].dims(), shapes[&tensor], "{tensor}");
            assert_eq!(
                hash(&weights[&tensor]),
                wanted.as_str().unwrap(),
                "{tensor}"
            );
        }
    }
}

#[test]
fn the_shape_is_that_of_the_metadata() {
    let bytes = gguf::config(&fixture("bytes.gguf")).unwrap();
    assert_eq!(
        (
            bytes.n_heads(),
            bytes.n_kv_heads(),
            bytes.head_dim(),
            bytes.n_layers()
        ),
        (4, 2, 16, 2)
    );
    assert!(bytes.tied_embeddings() && scaling(&bytes).is_none());
    assert_eq!((bytes.eos_token(), bytes.pad_token()), (Some(0), Some(1)));
    let pieces = gguf::config(&fixture("pieces.gguf")).unwrap();
    assert!(!pieces.tied_embeddings());
    let Some(RopeScaling::Llama3 { factor, .. }) = scaling(&pieces) else {
        panic!("{pieces:?}");
    };
    assert_eq!(factor, 8.0);
}

#[test]
fn tokens_are_those_of_the_reference_tokenizers() {
    for name in ["bytes", "pieces"] {
        let path = fixture(&format!("{name}.gguf"));
        let config = gguf::config(&path).unwrap();
        let tokenizer = Tokenizer::load(&path, &config).unwrap();
        for pair in expected(name)["texts"].as_array().unwrap() {
            let text = pair[0].as_str().unwrap();
            let wanted: Vec<u32> = pair[1]
                .as_array()
                .unwrap()
                .iter()
                .map(|t| t.as_u64().unwrap() as u32)
                .collect();
            let ours = tokenizer.encode(text).unwrap();
            // SentencePiece's kind begins a prompt with its token, once; the other does not.
            let begin: &[u32] = if name == "pieces" { &[1] } else { &[] };
            assert_eq!(tokenizer.beginning(), begin);
            let prompt = tokenizer.encode_prompt(text).unwrap();
            assert_eq!(prompt, [begin, &ours].concat());
            assert_eq!(ours, wanted, "{name}: {text:?}");
            if name == "pieces" && text.is_ascii() && !text.is_empty() {
                let shown = tokenizer.pieces(&ours).unwrap().concat();
                assert!(
                    shown.starts_with(' ') || text.starts_with('\t'),
                    "{shown:?}"
                );
                assert_eq!(
                    shown.matches(' ').count(),
                    text.matches(' ').count() + 1,
                    "{text:?}"
                );
            }
            if name == "bytes" {
                assert_eq!(tokenizer.decode(&ours, true).unwrap(), text);
            }
        }
    }
}

#[test]
fn a_file_is_a_model_and_is_saved_as_a_folder() {
    let path = fixture("bytes.gguf");
    let loaded = checkpoint::load(&path, None, &Device::Cpu).unwrap();
    assert_eq!(checkpoint::read_config(&path).unwrap().0, loaded.config);
    let logits = |c: &checkpoint::Checkpoint| {
        let engine = Engine::new(&c.config, c.head, &c.weights).unwrap();
        engine.logits(&[5, 6, 7, 8]).unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let carry = dir.path().join("tokenizer");
    std::fs::create_dir(&carry).unwrap();
    for (name, text) in gguf::tokenizer_files(&path).unwrap() {
        std::fs::write(carry.join(name), text).unwrap();
    }
    let folder = dir.path().join("model");
    let contents = Contents {
        config: &loaded.config,
        head: loaded.head,
        weights: &loaded.weights,
        dtype: DType::F32,
        shard_bytes: u64::MAX,
        carry: Some(&carry),
    };
    checkpoint::save(&folder, &contents).unwrap();
    let back = checkpoint::load(&folder, None, &Device::Cpu).unwrap();
    assert_eq!(back.config, loaded.config);
    assert_eq!(logits(&back), logits(&loaded));
    let tokens = |path: &Path| {
        let tokenizer = Tokenizer::load(path, &loaded.config).unwrap();
        tokenizer.encode("the cat 12 <|end|>").unwrap()
    };
    assert_eq!(tokens(&folder), tokens(&path));
    for place in [&path, &folder] {
        assert!(matches!(
            ChatTemplate::from_tokenizer(place).unwrap(),
            ChatTemplate::Jinja(_)
        ));
    }
}

fn read(bytes: &[u8]) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    let weights = gguf::load(&path, DType::F32, &Device::Cpu).map(drop);
    let both = weights.and_then(|()| gguf::tokenizer_files(&path).map(drop));
    both.map_err(|e| {
        let text = e.to_string();
        assert!(
            text.contains("m.gguf") && text.lines().count() == 1,
            "{text}"
        );
        text.split_once("m.gguf: ").unwrap().1.to_string()
    })
}

/// The file with one occurrence of some bytes changed into others of the same length.
fn with(from: &str, to: &str) -> Vec<u8> {
    let mut bytes = std::fs::read(fixture("bytes.gguf")).unwrap();
    let at = bytes
        .windows(from.len())
        .position(|w| w == from.as_bytes())
        .unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    bytes
}

#[test]
fn damage_is_named_in_one_line() {
    let whole = std::fs::read(fixture("bytes.gguf")).unwrap();
    assert_eq!(read(&whole), Ok(()));
    for (bytes, said) in [
        (Vec::new(), "is empty, expected a file of weights"),
        (
            b"PK\x03\x04".to_vec(),
            "begins with [80, 75, 3, 4], expected a GGUF file",
        ),
        (
            [&b"GGUF\x01\0\0\0"[..], &[0; 16]].concat(),
            "GGUF version: found 1, expected 2 or 3 in little-endian order",
        ),
        (
            [&b"GGUF\x03\0\0\0"[..], &[255; 16]].concat(),
            "not a complete GGUF file: says it has 18446744073709551615 tensors, more than its bytes hold",
        ),
        (
            with("llama", "mamba"),
            "general.architecture: found \"mamba\", expected \"llama\", \"qwen2\", \"qwen3\", \"gpt2\", \"gemma2\", \"gemma3\", \"olmo2\" or \"phi3\"",
        ),
        (
            with("llama.block_count", "llama.block_coun_"),
            "llama.block_count: not there, expected a whole number",
        ),
        (
            with("blk.1.attn_q", "blk.1.attn_x"),
            "tensor blk.1.attn_x.weight: does not belong to the network that the file describes",
        ),
        (
            with("blk.1.attn_q", "blk.0.attn_q"),
            "tensor blk.0.attn_q.weight: is there twice",
        ),
        (
            with("smollm", "smoll0"),
            "tokenizer.ggml.pre: found \"smoll0\", expected a known way to split words: gpt-2, smollm, starcoder, llama-bpe, smaug-bpe, dbrx, qwen2 or default",
        ),
    ] {
        assert_eq!(read(&bytes), Err(said.to_string()));
    }
    // A count of layers that would fill the memory with their names.
    let mut bytes = whole.clone();
    let key = b"llama.block_count";
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 4;
    bytes[at..at + 4].copy_from_slice(&(1_u32 << 30).to_le_bytes());
    let said = read(&bytes).unwrap_err();
    assert!(
        said.starts_with("llama.block_count: found 1073741824, expected no more than"),
        "{said}"
    );
    // Cut anywhere, it is never a model.
    for cut in (0..whole.len()).step_by(whole.len() / 150) {
        assert!(read(&whole[..cut]).is_err(), "cut at {cut}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A byte of the header changed: a model, or an error of one line; never a panic, never more memory than the file is worth.
    #[test]
    fn a_changed_byte_never_panics(at in 0_usize..12_000, byte in any::<u8>()) {
        let mut bytes = std::fs::read(fixture("bytes.gguf")).unwrap();
        bytes[at] = byte;
        drop(read(&bytes));
    }
}
