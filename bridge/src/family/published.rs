//! Shapes of published networks, so that a plan needs neither their weights nor their `config.json`.

use super::{Activation, GptNeoXConfig, LlamaConfig, LlamaFamily, ModelConfig};

/// Layers, width and heads of the Pythia networks (Biderman et al. 2023, Table 1), by the end of their names.
const PYTHIA: [(&str, [usize; 3]); 7] = [
    ("14m", [6, 128, 4]),
    ("70m", [6, 512, 8]),
    ("160m", [12, 768, 12]),
    ("410m", [24, 1024, 16]),
    ("1b", [16, 2048, 8]),
    ("1.4b", [24, 2048, 16]),
    ("2.8b", [32, 2560, 32]),
];

impl ModelConfig {
    /// The shape of a network by its name on the Hugging Face hub: the Pythia networks up to 2.8B, and Llama-3-8B with what was fine-tuned
    /// from it under its name. `None` for any other.
    pub fn published(name: &str) -> Option<Self> {
        let (_, model) = name.rsplit_once('/').unwrap_or(("", name));
        let model = model.to_ascii_lowercase();
        if model.starts_with("llama-3-8b") || model.starts_with("meta-llama-3-8b") {
            return Some(llama_3_8b());
        }
        let size = model.strip_prefix("pythia-")?;
        let (_, sizes) = PYTHIA.iter().find(|(s, _)| *s == size)?;
        Some(pythia(*sizes))
    }
}

fn pythia([n_layers, hidden_size, n_heads]: [usize; 3]) -> ModelConfig {
    GptNeoXConfig {
        vocab_size: 50_304,
        hidden_size,
        n_layers,
        n_heads,
        intermediate_size: 4 * hidden_size,
        // A quarter of each head.
        rotary_dims: hidden_size / n_heads / 4,
        rotary_base: 1e4,
        max_positions: 2_048,
        layer_norm_eps: 1e-5,
        parallel_residual: true,
        activation: Activation::Gelu,
        attention_bias: true,
        tied_embeddings: false,
        bos_token: Some(0),
        eos_tokens: 0.into(),
        pad_token: None,
    }
    .into()
}

fn llama_3_8b() -> ModelConfig {
    LlamaConfig {
        family: LlamaFamily::Llama,
        vocab_size: 128_256,
        hidden_size: 4_096,
        n_layers: 32,
        n_heads: 32,
        n_kv_heads: 8,
        head_dim: 128,
        intermediate_size: 14_336,
        rope_base: 500_000.0,
        rope_scaling: None,
        max_positions: 8_192,
        rms_norm_eps: 1e-5,
        window: None,
        attention_bias: false,
        mlp_bias: false,
        tied_embeddings: false,
        bos_token: Some(128_000),
        eos_tokens: 128_001.into(),
        pad_token: None,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::Head;

    #[test]
    fn counts_are_those_that_were_published() {
        for (name, count) in [
            ("EleutherAI/pythia-14m", 14_067_712),
            ("EleutherAI/pythia-70m", 70_426_624),
            ("EleutherAI/pythia-160m", 162_322_944),
            ("EleutherAI/pythia-410m", 405_334_016),
            ("EleutherAI/pythia-1b", 1_011_781_632),
            ("EleutherAI/pythia-1.4b", 1_414_647_808),
            ("pythia-2.8b", 2_775_208_960),
            ("OpenRLHF/Llama-3-8b-sft-mixture", 8_030_261_248),
        ] {
            let config = ModelConfig::published(name).unwrap();
            config.check().unwrap();
            let tensors = config.tensors(Head::CausalLm);
            let all: usize = tensors.values().map(|s| s.iter().product::<usize>()).sum();
            assert_eq!(all, count, "{name}");
        }
        assert_eq!(ModelConfig::published("EleutherAI/pythia-6.9b"), None);
    }
}
