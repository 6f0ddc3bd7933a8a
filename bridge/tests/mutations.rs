//! Damaged files, by thousands: every parser of the bridge ends in a value or in one line, never in a panic or a hang.
//!
//! `RTO_MUTATIONS=1000000 cargo test -p rto-bridge --release --test mutations -- --nocapture` is the long run; without it each parser
//! gets a few hundred inputs.

#[path = "common/mutate.rs"]
mod mutate;

use candle_core::Device;
use mutate::survive;
use rto_bridge::checkpoint;
use rto_bridge::data::{self, ChatTemplate, Columns, ReadOptions};
use rto_bridge::family::ModelConfig;
use rto_bridge::gguf;
use rto_bridge::lora::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use rto_bridge::model::Model;
use rto_bridge::params::Params;
use rto_bridge::tokenizer::Tokenizer;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(fixtures().join(name)).unwrap()
}

/// A folder in memory where there is one, so that a disk does not set the pace.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

fn said<T>(result: rto_bridge::Result<T>) -> Result<(), String> {
    result.map(drop).map_err(|e| e.to_string())
}

#[test]
fn configs() {
    let corpus = ["llama", "mistral", "plain", "reward", "half"]
        .map(|f| bytes(&format!("generation/{f}/config.json")));
    survive("configs", &corpus, |text| {
        said(ModelConfig::parse(Path::new("config.json"), text))
    });
}

/// A network of some hundred weights: what is damaged is the header, and headers are small.
fn small() -> tempfile::TempDir {
    let text = br#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 6, "hidden_size": 4, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 4, "max_position_embeddings": 8, "attention_bias": true}"#;
    let (config, head) = ModelConfig::parse(Path::new("config.json"), text).unwrap();
    let device = Device::Cpu;
    let shapes = config.tensors(head);
    let weights = shapes.iter().map(|(name, shape)| {
        let tensor = candle_core::Tensor::ones(shape.as_slice(), candle_core::DType::F32, &device);
        (name.clone(), tensor.unwrap())
    });
    let weights: BTreeMap<_, _> = weights.collect();
    let dir = folder();
    let contents = checkpoint::Contents {
        config: &config,
        head,
        weights: &weights,
        dtype: candle_core::DType::F32,
        shard_bytes: 600,
        carry: None,
    };
    checkpoint::save(&dir.path().join("sharded"), &contents).unwrap();
    let whole = checkpoint::Contents {
        shard_bytes: u64::MAX,
        ..contents
    };
    checkpoint::save(&dir.path().join("whole"), &whole).unwrap();
    dir
}

#[test]
fn safetensors() {
    let dir = small();
    let folder = dir.path().join("whole");
    let file = folder.join(checkpoint::WEIGHTS);
    let corpus = [
        fs::read(&file).unwrap(),
        bytes("lora/causal/adapter_model.safetensors"),
    ];
    survive("safetensors", &corpus, |damaged| {
        fs::write(&file, damaged).unwrap();
        said(checkpoint::load(&folder, None, &Device::Cpu))
    });
}

#[test]
fn indices() {
    let dir = small();
    let folder = dir.path().join("sharded");
    let file = folder.join(checkpoint::INDEX);
    let corpus = [fs::read(&file).unwrap()];
    survive("indices", &corpus, |damaged| {
        fs::write(&file, damaged).unwrap();
        said(checkpoint::load(&folder, None, &Device::Cpu))
    });
}

/// A GGUF file of a network of some hundred weights, after the format's description.
fn small_gguf() -> Vec<u8> {
    enum Of<'a> {
        U32(u32),
        F32(f32),
        Text(&'a str),
    }
    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.bytes());
    }
    let tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "▁a"];
    let settings = [
        ("general.architecture", Of::Text("llama")),
        ("llama.embedding_length", Of::U32(4)),
        ("llama.attention.head_count", Of::U32(2)),
        ("llama.attention.head_count_kv", Of::U32(1)),
        ("llama.block_count", Of::U32(1)),
        ("llama.feed_forward_length", Of::U32(4)),
        ("llama.context_length", Of::U32(8)),
        ("llama.attention.layer_norm_rms_epsilon", Of::F32(1e-5)),
        ("tokenizer.ggml.model", Of::Text("llama")),
        ("tokenizer.ggml.bos_token_id", Of::U32(1)),
        ("tokenizer.ggml.eos_token_id", Of::U32(2)),
        ("tokenizer.ggml.unknown_token_id", Of::U32(0)),
    ];
    // The first dimension runs fastest.
    let tensors: [(&str, &[u64]); 11] = [
        ("token_embd.weight", &[4, 8]),
        ("output_norm.weight", &[4]),
        ("blk.0.attn_norm.weight", &[4]),
        ("blk.0.attn_q.weight", &[4, 4]),
        ("blk.0.attn_k.weight", &[4, 2]),
        ("blk.0.attn_v.weight", &[4, 2]),
        ("blk.0.attn_output.weight", &[4, 4]),
        ("blk.0.ffn_norm.weight", &[4]),
        ("blk.0.ffn_gate.weight", &[4, 4]),
        ("blk.0.ffn_up.weight", &[4, 4]),
        ("blk.0.ffn_down.weight", &[4, 4]),
    ];
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((settings.len() as u64 + 3).to_le_bytes());
    for (key, value) in settings {
        text(&mut out, key);
        let (kind, bytes): (u32, [u8; 4]) = match value {
            Of::U32(n) => (4, n.to_le_bytes()),
            Of::F32(x) => (6, x.to_le_bytes()),
            Of::Text(word) => {
                out.extend(8_u32.to_le_bytes());
                text(&mut out, word);
                continue;
            }
        };
        out.extend(kind.to_le_bytes());
        out.extend(bytes);
    }
    let list = |out: &mut Vec<u8>, key: &str, kind: u32| {
        text(out, key);
        out.extend(9_u32.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((tokens.len() as u64).to_le_bytes());
    };
    list(&mut out, "tokenizer.ggml.tokens", 8);
    tokens.iter().for_each(|t| text(&mut out, t));
    list(&mut out, "tokenizer.ggml.scores", 6);
    (0..tokens.len()).for_each(|i| out.extend((-(i as f32)).to_le_bytes()));
    list(&mut out, "tokenizer.ggml.token_type", 5);
    [2_i32, 3, 3, 6, 1, 1, 1, 1]
        .iter()
        .for_each(|k| out.extend(k.to_le_bytes()));
    let mut offset = 0_u64;
    for (name, shape) in tensors {
        text(&mut out, name);
        out.extend((shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|n| out.extend(n.to_le_bytes()));
        out.extend(0_u32.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += (4 * shape.iter().product::<u64>()).next_multiple_of(32);
    }
    let start = out.len().next_multiple_of(32) + offset as usize;
    out.resize(start, 0);
    out
}

fn gguf_from(name: &str, corpus: &[Vec<u8>]) {
    let dir = folder();
    let file = dir.path().join("m.gguf");
    survive(name, corpus, |damaged| {
        fs::write(&file, damaged).unwrap();
        said(gguf::tokenizer_files(&file))?;
        said(gguf::load(&file, candle_core::DType::F32, &Device::Cpu))
    });
}

#[test]
fn gguf_headers() {
    let small = small_gguf();
    let dir = folder();
    let file = dir.path().join("m.gguf");
    fs::write(&file, &small).unwrap();
    gguf::load(&file, candle_core::DType::F32, &Device::Cpu).unwrap();
    gguf_from("gguf headers", &[small]);
}

/// Weights of few bits and whole vocabularies; each takes a hundred times as long.
#[test]
fn gguf_files() {
    gguf_from(
        "gguf",
        &[bytes("gguf/bytes.gguf"), bytes("gguf/pieces.gguf")],
    );
}

#[test]
fn adapters() {
    let dir = folder();
    let loaded = checkpoint::load(
        &fixtures().join("neox_parallel_rot25/policy"),
        None,
        &Device::Cpu,
    )
    .unwrap();
    let folder = dir.path();
    let settings =
        ["causal", "sequential", "llama"].map(|f| bytes(&format!("lora/{f}/adapter_config.json")));
    let weights = bytes("lora/causal/adapter_model.safetensors");
    let base = Model::try_new(&loaded.config, Params::new(loaded.weights).unwrap()).unwrap();
    let read = |damaged: &[u8], which: &str| {
        fs::write(folder.join(which), damaged).unwrap();
        said(base.snapshot().unwrap().load_adapter(folder))
    };
    fs::write(folder.join(ADAPTER_WEIGHTS), &weights).unwrap();
    survive("adapter settings", &settings, |damaged| {
        read(damaged, ADAPTER_CONFIG)
    });
    fs::write(folder.join(ADAPTER_CONFIG), &settings[0]).unwrap();
    survive("adapter weights", &[weights], |damaged| {
        read(damaged, ADAPTER_WEIGHTS)
    });
}

#[test]
fn tokenizers() {
    let dir = folder();
    let (config, _) = ModelConfig::read(&fixtures().join("generation/plain/config.json")).unwrap();
    let mut corpus = vec![
        bytes("generation/plain/tokenizer.json"),
        bytes("generation/llama/tokenizer.json"),
    ];
    for name in ["bytes", "pieces"] {
        let [(_, text), ..] =
            gguf::tokenizer_files(&fixtures().join(format!("gguf/{name}.gguf"))).unwrap();
        corpus.push(text.into_bytes());
    }
    survive("tokenizers", &corpus, |damaged| {
        fs::write(dir.path().join("tokenizer.json"), damaged).unwrap();
        let tokenizer = Tokenizer::load(dir.path(), &config).map_err(|e| e.to_string())?;
        let ids = tokenizer
            .encode("Hello ▁world é\n\n")
            .map_err(|e| e.to_string())?;
        said(tokenizer.encode_prompt("Human: hi"))?;
        said(tokenizer.decode(&ids, true))?;
        said(tokenizer.pieces(&[0, 1, 2, 59, 4_000_000]))
    });
}

const CHAT: &str = r#"{"prompt":[{"role":"system","content":"S"},{"role":"user","content":"u"}],"chosen":[{"role":"assistant","content":"c"}],"rejected":[{"role":"assistant","content":"r"}]}"#;

#[test]
fn templates() {
    let dir = folder();
    let templates = [
        "{{ bos_token }}{% for m in messages %}\n<{{ m['role'] }}>{{ m['content'] | trim }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}{% if add_generation_prompt %}\n<assistant>{% endif %}",
        "{% macro turn(m) %}<|{{ m.role }}|>\n{{ m.content.strip() }}{% endmacro %}{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ turn(m) }}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% else %}{% set loop_messages = messages %}{% endif %}{% for i in range(9) %}{{ i * 7 ~ 'x' }}{% endfor %}{{ raise_exception('no') if messages | length > 99 }}",
    ];
    let config = br#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}}"#;
    fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
    let data = dir.path().join("d.jsonl");
    fs::write(&data, CHAT).unwrap();
    survive(
        "templates",
        &templates.map(|t| t.as_bytes().to_vec()),
        |damaged| {
            fs::write(dir.path().join("chat_template.jinja"), damaged).unwrap();
            let template = ChatTemplate::from_tokenizer(dir.path()).map_err(|e| e.to_string())?;
            let options = ReadOptions {
                template,
                ..Default::default()
            };
            said(data::read_pairs(&[&data], &options))
        },
    );
}

fn preferences(name: &str, corpus: &[Vec<u8>]) {
    let dir = folder();
    let file = dir.path().join("data");
    let options = ReadOptions::default();
    let orca = ReadOptions {
        columns: Columns {
            prompt: "question".into(),
            ..Default::default()
        },
        max_bad_lines: 3,
        ..Default::default()
    };
    // Every input is read as pairs, and by one of the other readers in turn: all unpack a file by the same code.
    let mut turn = 0;
    survive(name, corpus, |damaged| {
        fs::write(&file, damaged).unwrap();
        let pairs = said(data::read_pairs(&[&file], &options));
        turn = (turn + 1) % 3;
        let other = match turn {
            0 => said(data::read_pairs(&[&file], &orca)),
            1 => said(data::read_labelled(&[&file], &options)),
            _ => said(data::read_prompts(&[&file], &options)),
        };
        other
            .err()
            .filter(|why| why.contains('\n'))
            .map_or(pairs, Err)
    });
}

#[test]
fn json_lines() {
    let names = [
        "ultrafeedback.jsonl",
        "ultrafeedback_array.json",
        "content_parts.jsonl",
        "conversation_overlap.jsonl",
        "sharegpt.jsonl",
        "orca.jsonl",
        "kto_chat.jsonl",
        "texts_again.jsonl",
    ];
    preferences(
        "json lines",
        &names.map(|name| bytes(&format!("data/{name}"))),
    );
}

#[test]
fn packed_lines() {
    let names = ["gz", "zst", "bz2"];
    let mut corpus = names.map(|name| bytes(&format!("data/ultrafeedback.jsonl.{name}")));
    // The size of a bzip2 block that the header asks for: a reader clears all of it, and 900,000 bytes would be most of an input's time.
    assert_eq!(&corpus[2][..4], b"BZh9");
    corpus[2][3] = b'1';
    preferences("packed lines", &corpus);
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_files() {
    let names = [
        "snappy",
        "zstd",
        "gzip",
        "lz4",
        "brotli",
        "plain_v2",
        "groups",
        "delta",
        "dictionary",
    ];
    preferences(
        "parquet",
        &names.map(|name| bytes(&format!("data/ultrafeedback_{name}.parquet"))),
    );
}
