//! `config.json` of the Llama family: what is read, what is written, what is refused.

use proptest::prelude::*;
use rto_bridge::family::{Head, LlamaConfig, LlamaFamily, ModelConfig, RopeScaling, Rotary};
use serde_json::{Value, json};
use std::path::Path;

fn parse(value: &Value) -> Result<(ModelConfig, Head), String> {
    ModelConfig::parse(Path::new("dir/config.json"), value.to_string().as_bytes())
        .map_err(|e| e.to_string())
}

fn llama(value: &Value) -> ModelConfig {
    parse(value).unwrap().0
}

fn rotary(config: &ModelConfig) -> Rotary {
    config.plan().rotary.unwrap()
}

/// Key names of published Llama 3 files.
fn old() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "hidden_act": "silu",
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": true,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "attention_bias": false, "mlp_bias": false, "vocab_size": 128256, "bos_token_id": 128000, "eos_token_id": 128001
    })
}

fn expected() -> LlamaConfig {
    LlamaConfig {
        family: LlamaFamily::Llama,
        vocab_size: 128_256,
        hidden_size: 2048,
        n_layers: 16,
        n_heads: 32,
        n_kv_heads: 8,
        head_dim: 64,
        intermediate_size: 8192,
        rope_base: 500_000.0,
        rope_scaling: Some(RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 8192,
        }),
        max_positions: 131_072,
        rms_norm_eps: 1e-5,
        window: None,
        attention_bias: false,
        mlp_bias: false,
        tied_embeddings: true,
        bos_token: Some(128_000),
        eos_tokens: 128_001.into(),
        pad_token: None,
    }
}

#[test]
fn both_styles_say_the_same() {
    let mut new = old();
    let object = new.as_object_mut().unwrap();
    let mut rope = object.remove("rope_scaling").unwrap();
    rope["rope_theta"] = object.remove("rope_theta").unwrap();
    object.insert("rope_parameters".into(), rope);
    for value in [old(), new] {
        assert_eq!(llama(&value), expected().into());
    }
    // Older files call the kind `type`.
    let mut value = old();
    value["rope_scaling"] = json!({"type": "linear", "factor": 2.0});
    let factor = rotary(&llama(&value)).scaling;
    assert_eq!(factor, Some(RopeScaling::Linear { factor: 2.0 }));
    value["rope_scaling"] = Value::Null;
    assert_eq!(rotary(&llama(&value)).scaling, None);
    // Chat models end a text, a message or a turn.
    value["eos_token_id"] = json!([128_001, 128_008, 128_009]);
    assert_eq!(llama(&value).eos_token(), Some(128_009));
}

#[test]
fn absent_keys_have_the_defaults_of_transformers() {
    let mut value = old();
    for key in [
        "num_key_value_heads",
        "head_dim",
        "rms_norm_eps",
        "rope_theta",
        "rope_scaling",
        "tie_word_embeddings",
        "bos_token_id",
        "eos_token_id",
        "hidden_act",
    ] {
        value.as_object_mut().unwrap().remove(key);
    }
    let config = llama(&value);
    assert_eq!((config.n_kv_heads(), config.head_dim()), (32, 64));
    assert_eq!(
        (config.plan().norm.epsilon, rotary(&config).base),
        (1e-6, 1e4)
    );
    assert_eq!((config.bos_token(), config.eos_token()), (Some(1), Some(2)));
    assert!(!config.tied_embeddings() && config.window(0).is_none());
    value["model_type"] = json!("mistral");
    value["architectures"] = json!(["MistralForCausalLM"]);
    let config = llama(&value);
    assert_eq!((config.n_kv_heads(), config.window(0)), (8, Some(4096)));
    value["sliding_window"] = Value::Null;
    assert_eq!(llama(&value).window(0), None);
    value["sliding_window"] = json!(7);
    assert_eq!(llama(&value).window(0), Some(7));
}

#[test]
fn a_written_file_reads_back_in_either_style() {
    let scalings = [
        None,
        Some(RopeScaling::Linear { factor: 1.5 }),
        expected().rope_scaling,
    ];
    for (family, window) in [
        (LlamaFamily::Llama, None),
        (LlamaFamily::Mistral, None),
        (LlamaFamily::Mistral, Some(9)),
    ] {
        for rope_scaling in scalings {
            let config = LlamaConfig {
                family,
                window,
                rope_scaling,
                attention_bias: true,
                head_dim: 10,
                pad_token: Some(3),
                ..expected()
            };
            for head in [Head::CausalLm, Head::Classification { labels: 1 }] {
                let config = ModelConfig::from(&config);
                let whole = config.to_json(head, "float32");
                assert_eq!(parse(&whole).unwrap(), (config.clone(), head));
                for dropped in [&["rope_parameters"][..], &["rope_scaling", "rope_theta"]] {
                    let mut value = whole.clone();
                    let object = value.as_object_mut().unwrap();
                    dropped.iter().for_each(|key| drop(object.remove(*key)));
                    assert_eq!(parse(&value).unwrap(), (config.clone(), head));
                }
            }
        }
    }
}

/// Frequencies are those of `transformers` for Llama-3.2-1B: unchanged, interpolated, divided by 32.
#[test]
fn scaled_frequencies() {
    let rotary = rotary(&expected().into());
    let scaled = rotary.frequencies();
    let plain = Rotary {
        scaling: None,
        ..rotary
    }
    .frequencies();
    assert_eq!(scaled.len(), 32);
    let mut kinds = [0; 3];
    for (i, (s, p)) in scaled.iter().zip(&plain).enumerate() {
        let wavelength = std::f64::consts::TAU / f64::from(*p);
        let kind = match wavelength {
            w if w < 2048.0 => 0,
            w if w > 8192.0 => 2,
            _ => 1,
        };
        kinds[kind] += 1;
        match kind {
            0 => assert_eq!(s, p, "{i}"),
            2 => assert_eq!(*s, p / 32.0, "{i}"),
            _ => assert!(*s < *p && *s > p / 32.0, "{i}"),
        }
    }
    assert!(kinds.iter().all(|n| *n > 0), "{kinds:?}");
}

#[test]
fn errors_name_file_key_found_and_expected() {
    let whole = "a whole number from 1 to 1073741824";
    let cases: Vec<(&str, Value, String)> = vec![
        ("architectures", json!(["MistralForCausalLM"]), "architectures: found [\"MistralForCausalLM\"], expected [\"LlamaForCausalLM\"] or [\"LlamaForSequenceClassification\"]".into()),
        ("num_key_value_heads", json!(5), "num_key_value_heads: found 5, expected a divisor of num_attention_heads (32)".into()),
        ("num_key_value_heads", json!(0), format!("num_key_value_heads: found 0, expected {whole}")),
        ("head_dim", json!(7), "head_dim: found 7, expected an even number".into()),
        ("hidden_act", json!("gelu"), "hidden_act: found \"gelu\", expected \"silu\"".into()),
        ("rope_theta", json!(0), "rope_theta: found 0, must be positive".into()),
        ("rope_scaling", json!({"rope_type": "yarn"}), "rope_scaling.rope_type: found \"yarn\", expected \"default\", \"linear\" or \"llama3\"".into()),
        ("rope_scaling", json!({"rope_type": "linear"}), "rope_scaling.factor: not there, expected a number".into()),
        ("rope_scaling", json!({"rope_type": "linear", "factor": -1}), "rope_scaling.factor: found -1, expected a number above 0".into()),
        ("rope_scaling", json!([1]), "rope_scaling: found [1], expected an object or null".into()),
        ("eos_token_id", json!([1, "end"]), "eos_token_id: found [1,\"end\"], expected token ids or null".into()),
        ("rms_norm_eps", json!(2), "rms_norm_eps: found 2, must be positive and below 1".into()),
        ("eos_token_id", json!(128_256), "eos_token_id: found 128256, must be below vocab_size (128256)".into()),
    ];
    for (key, found, expected) in cases {
        let mut value = old();
        match found {
            Value::Null => drop(value.as_object_mut().unwrap().remove(key)),
            found => value[key] = found,
        }
        assert_eq!(
            parse(&value).unwrap_err(),
            format!("dir/config.json: {expected}")
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Whatever a key holds: an error of one line that names the file, or a shape that adds up.
    #[test]
    fn one_key_of_anything_never_panics(
        key in prop::sample::select(old().as_object().unwrap().keys().cloned().chain(["rope_parameters".into(), "sliding_window".into()]).collect::<Vec<_>>()),
        value in prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), any::<i64>().prop_map(Value::from), any::<f64>().prop_map(|f| json!(f)), "\\PC{0,12}".prop_map(Value::from)],
        mistral in any::<bool>(),
    ) {
        let mut file = old();
        if mistral {
            file["model_type"] = json!("mistral");
            file["architectures"] = json!(["MistralForCausalLM"]);
        }
        file[key] = value;
        match parse(&file) {
            Ok((c, _)) => prop_assert!(c.n_heads().is_multiple_of(c.n_kv_heads()) && c.head_dim().is_multiple_of(2) && c.window(0) != Some(0)),
            Err(e) => prop_assert!(e.starts_with("dir/config.json: ") && e.lines().count() == 1, "{}", e),
        }
    }
}
