//! What is refused, and how.

use super::*;

#[test]
fn impossible_settings_are_refused() {
    let refused = |config: LoraConfig, part: &str| {
        let base = small_model(&small_config(true), TEXT, 1);
        let text = base
            .with_adapter(config, &SeedTree::new(1))
            .unwrap_err()
            .to_string();
        assert!(text.contains(part) && text.lines().count() == 1, "{text}");
    };
    let good = lora(2, &["query_key_value"]);
    refused(
        LoraConfig {
            rank: 0,
            ..good.clone()
        },
        "lora rank: found 0",
    );
    for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        refused(
            LoraConfig {
                alpha,
                ..good.clone()
            },
            "lora alpha: found",
        );
    }
    refused(lora(2, &[]), "lora target_modules: found none");
    // Neither the head nor a norm, nor the end of a word.
    for target in ["embed_out", "input_layernorm", "key_value", ""] {
        refused(
            lora(2, &["query_key_value", target]),
            "dense, dense_4h_to_h, dense_h_to_4h, query_key_value",
        );
    }
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    let base = small_model(&small_config(true), TEXT, 1);
    let config = lora(2, &["query_key_value"]);
    let good = random_factors(&base, &config, 1);
    let refused = |change: &dyn Fn(&mut BTreeMap<String, Tensor>), part: &str| {
        let mut weights = good.clone();
        change(&mut weights);
        let base = base.snapshot().unwrap();
        let text = base
            .with_adapter_weights(config.clone(), &weights)
            .unwrap_err()
            .to_string();
        assert!(text.contains(part), "{text}");
    };
    let name = "gpt_neox.layers.1.attention.query_key_value.lora_B.weight";
    let zeros =
        |rows: usize, cols: usize| Tensor::zeros((rows, cols), DType::F32, &Device::Cpu).unwrap();
    refused(
        &|w| drop(w.remove(name)),
        "query_key_value.lora_B.weight: missing",
    );
    refused(
        &|w| drop(w.insert(name.into(), zeros(72, 3))),
        "shape [72, 3], expected [72, 2]",
    );
    let other = "gpt_neox.layers.1.attention.dense.lora_B.weight";
    refused(
        &|w| drop(w.insert(other.into(), zeros(24, 2))),
        "not a weight of this architecture",
    );
    refused(
        &|w| drop(w.insert("embed_out.weight".into(), zeros(37, 24))),
        "belongs to the base",
    );
    let nan = (zeros(72, 2) * f64::NAN).unwrap();
    refused(&|w| drop(w.insert(name.into(), nan.clone())), "NaN");
}
