//! `config.json`: both styles, what is written, and what is refused.

use proptest::prelude::*;
use rto_bridge::family::{Activation, GptNeoXConfig, Head, ModelConfig};
use serde_json::{Value, json};
use std::path::Path;

fn parse(value: &Value) -> Result<(ModelConfig, Head), String> {
    ModelConfig::parse(Path::new("dir/config.json"), value.to_string().as_bytes())
        .map_err(|e| e.to_string())
}

fn rotated(config: &ModelConfig) -> usize {
    config.plan().rotary.unwrap().dims
}

/// Key names of published Pythia files.
fn old() -> Value {
    json!({
        "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "rotary_pct": 0.25, "rotary_emb_base": 10000,
        "torch_dtype": "float16", "vocab_size": 50304, "hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4,
        "intermediate_size": 512, "hidden_act": "gelu", "max_position_embeddings": 2048, "layer_norm_eps": 1e-5,
        "use_parallel_residual": true, "tie_word_embeddings": false, "bos_token_id": 0, "eos_token_id": 0
    })
}

fn new() -> Value {
    let mut value = old();
    let object = value.as_object_mut().unwrap();
    object.remove("rotary_pct");
    object.remove("rotary_emb_base");
    object.insert(
        "rope_parameters".into(),
        json!({"partial_rotary_factor": 0.25, "rope_theta": 10000, "rope_type": "default"}),
    );
    object.insert("rope_scaling".into(), Value::Null);
    value
}

fn pythia_14m() -> GptNeoXConfig {
    GptNeoXConfig {
        vocab_size: 50304,
        hidden_size: 128,
        n_layers: 6,
        n_heads: 4,
        intermediate_size: 512,
        rotary_dims: 8,
        rotary_base: 1e4,
        max_positions: 2048,
        layer_norm_eps: 1e-5,
        parallel_residual: true,
        activation: Activation::Gelu,
        attention_bias: true,
        tied_embeddings: false,
        bos_token: Some(0),
        eos_tokens: 0.into(),
        pad_token: None,
    }
}

#[test]
fn both_styles_say_the_same() {
    for value in [old(), new()] {
        assert_eq!(
            parse(&value).unwrap(),
            (pythia_14m().into(), Head::CausalLm)
        );
    }
    // A file's own numbers win over defaults, and the new style over the old.
    let mut value = new();
    value["rotary_pct"] = json!(1.0);
    value["rope_parameters"]["rope_theta"] = json!(500.5);
    let (config, _) = parse(&value).unwrap();
    let rotary = config.plan().rotary.unwrap();
    assert_eq!((rotary.dims, rotary.base), (8, 500.5));
    for (name, activation) in [
        ("gelu_new", Activation::GeluTanh),
        ("gelu_fast", Activation::GeluTanh),
        ("gelu_pytorch_tanh", Activation::GeluTanh),
        ("gelu", Activation::Gelu),
    ] {
        value["hidden_act"] = json!(name);
        assert_eq!(parse(&value).unwrap().0.plan().activation, activation);
    }
}

#[test]
fn absent_keys_have_the_defaults_of_transformers() {
    let mut value = old();
    for key in [
        "rotary_pct",
        "rotary_emb_base",
        "hidden_act",
        "layer_norm_eps",
        "use_parallel_residual",
        "tie_word_embeddings",
        "bos_token_id",
        "architectures",
    ] {
        value.as_object_mut().unwrap().remove(key);
    }
    assert_eq!(
        parse(&value).unwrap(),
        (pythia_14m().into(), Head::CausalLm)
    );
    value.as_object_mut().unwrap().remove("eos_token_id");
    assert_eq!(parse(&value).unwrap().0.end_tokens(), &2.into());
    value["eos_token_id"] = Value::Null;
    assert_eq!(parse(&value).unwrap().0.end_tokens(), &None.into());
    value["eos_token_id"] = json!([5]);
    assert_eq!(parse(&value).unwrap().0.end_tokens(), &5.into());
}

#[test]
fn a_written_file_reads_back_in_either_style() {
    for (rotary_dims, hidden_size, n_heads) in [
        (0, 64, 4),
        (8, 128, 4),
        (10, 64, 3 - 1),
        (20, 2560, 32),
        (6, 49, 7),
        (98, 100, 1),
    ] {
        let config = GptNeoXConfig {
            rotary_dims: rotary_dims.min(hidden_size / n_heads) / 2 * 2,
            hidden_size,
            n_heads,
            tied_embeddings: true,
            pad_token: Some(1),
            activation: Activation::GeluTanh,
            ..pythia_14m()
        };
        for head in [
            Head::CausalLm,
            Head::Classification { labels: 1 },
            Head::Classification { labels: 3 },
        ] {
            let config = ModelConfig::from(&config);
            let whole = config.to_json(head, "float32");
            assert_eq!(parse(&whole).unwrap(), (config.clone(), head));
            for dropped in [&["rope_parameters"][..], &["rotary_pct", "rotary_emb_base"]] {
                let mut value = whole.clone();
                dropped
                    .iter()
                    .for_each(|key| drop(value.as_object_mut().unwrap().remove(*key)));
                assert_eq!(
                    parse(&value).unwrap(),
                    (config.clone(), head),
                    "without {dropped:?}"
                );
            }
        }
    }
}

/// Every head width up to 256 and every even number of rotated dimensions survives the fraction in the file.
#[test]
fn rotated_dimensions_survive_the_fraction() {
    for head_dim in 1..=256 {
        for rotary_dims in (0..=head_dim).step_by(2) {
            let config = GptNeoXConfig {
                hidden_size: head_dim,
                n_heads: 1,
                rotary_dims,
                ..pythia_14m()
            };
            assert_eq!(
                parse(&ModelConfig::from(config).to_json(Head::CausalLm, "float32"))
                    .unwrap()
                    .0
                    .plan()
                    .rotary
                    .map(|r| r.dims),
                Some(rotary_dims)
            );
        }
    }
}

#[test]
fn errors_name_file_key_found_and_expected() {
    let whole = "a whole number from 1 to 1073741824";
    let families = "expected \"gpt_neox\", \"llama\", \"mistral\", \"qwen2\", \"qwen3\", \"gpt2\", \"gemma2\", \"gemma3_text\", \"olmo2\" or \"phi3\"";
    let cases: Vec<(&str, Value, String)> = vec![
        ("model_type", json!("t5"), format!("model_type: found \"t5\", {families}")),
        ("model_type", Value::Null, format!("model_type: not there, {families}")),
        ("architectures", json!(["LlamaForCausalLM"]), "architectures: found [\"LlamaForCausalLM\"], expected [\"GPTNeoXForCausalLM\"] or [\"GPTNeoXForSequenceClassification\"]".into()),
        ("vocab_size", json!(0), format!("vocab_size: found 0, expected {whole}")),
        ("vocab_size", Value::Null, format!("vocab_size: not there, expected {whole}")),
        ("hidden_size", json!(-3), format!("hidden_size: found -3, expected {whole}")),
        ("num_hidden_layers", json!("six"), format!("num_hidden_layers: found \"six\", expected {whole}")),
        ("num_attention_heads", json!(5), "hidden_size: found 128, expected a multiple of num_attention_heads (5)".into()),
        ("intermediate_size", json!(1.5), format!("intermediate_size: found 1.5, expected {whole}")),
        ("max_position_embeddings", json!(1_u64 << 40), format!("max_position_embeddings: found 1099511627776, expected {whole}")),
        ("rotary_pct", json!(1.5), "rotary_pct: found 1.5, must be between 0 and 1".into()),
        ("rotary_pct", json!(0.1), "rotary_pct: rotates 3 of the 32 dimensions of a head, must be an even number".into()),
        ("rotary_emb_base", json!(-1), "rotary_emb_base: found -1, must be positive".into()),
        ("rope_scaling", json!({"type": "linear"}), "rope_scaling.factor: not there, expected a number".into()),
        ("rope_parameters", json!({"rope_type": "yarn"}), "rope_parameters.rope_type: found \"yarn\", expected \"default\", \"linear\" or \"llama3\"".into()),
        ("hidden_act", json!("relu"), "hidden_act: found \"relu\", expected \"gelu\", \"gelu_new\", \"gelu_fast\" or \"gelu_pytorch_tanh\"".into()),
        ("layer_norm_eps", json!(0), "layer_norm_eps: found 0, must be positive and below 1".into()),
        ("use_parallel_residual", json!(1), "use_parallel_residual: found 1, expected true or false".into()),
        ("eos_token_id", json!(50304), "eos_token_id: found 50304, must be below vocab_size (50304)".into()),
    ];
    for (key, found, expected) in cases {
        let mut value = old();
        value[key] = found;
        assert_eq!(
            parse(&value).unwrap_err(),
            format!("dir/config.json: {expected}")
        );
    }
    let bytes = |b: &[u8]| {
        ModelConfig::parse(Path::new("c.json"), b)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(bytes(b""), "c.json: is empty, expected a JSON object");
    assert_eq!(bytes(b"[1]"), "c.json: found [1], expected a JSON object");
    assert!(bytes(b"{\"model_type\": ").starts_with("c.json: not valid JSON: EOF"));
    assert!(bytes(b"\xff\xfe{").starts_with("c.json: not valid JSON"));
    let missing = ModelConfig::read(Path::new("/nowhere/config.json"))
        .unwrap_err()
        .to_string();
    assert_eq!(missing, "/nowhere/config.json: no such file");
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|f| json!(f)),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{1,20}", inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever a key holds: an error of one line that names the file, or a shape that adds up.
    #[test]
    fn one_key_of_anything_never_panics(key in prop::sample::select(old().as_object().unwrap().keys().cloned().chain(["rope_parameters".into(), "rope_scaling".into(), "id2label".into(), "num_labels".into()]).collect::<Vec<_>>()), value in any_value(), classify in any::<bool>()) {
        let mut file = old();
        if classify { file["architectures"] = json!(["GPTNeoXForSequenceClassification"]); }
        file[key] = value;
        match parse(&file) {
            Ok((c, _)) => prop_assert!(c.head_dim() * c.n_heads() == c.hidden_size() && rotated(&c) <= c.head_dim() && rotated(&c).is_multiple_of(2)),
            Err(e) => prop_assert!(e.starts_with("dir/config.json: ") && e.lines().count() == 1, "{}", e),
        }
    }

    /// Bytes cut, changed or put in anywhere.
    #[test]
    fn damaged_bytes_never_panic(at in 0_usize..600, byte in any::<u8>(), what in 0..3) {
        let mut bytes = old().to_string().into_bytes();
        let at = at % bytes.len();
        match what {
            0 => bytes.truncate(at),
            1 => bytes[at] = byte,
            _ => bytes.insert(at, byte),
        }
        if let Err(e) = ModelConfig::parse(Path::new("c.json"), &bytes) {
            let e = e.to_string();
            prop_assert!(e.starts_with("c.json: ") && e.lines().count() == 1, "{}", e);
        }
    }
}
