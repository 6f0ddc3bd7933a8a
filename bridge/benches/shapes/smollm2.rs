//! SmolLM2-135M, whose shape both benches time.

use rto_bridge::family::{LlamaConfig, LlamaFamily};

/// The published shape with its context cut to 2048 positions.
pub fn smollm2() -> LlamaConfig {
    LlamaConfig {
        family: LlamaFamily::Llama,
        vocab_size: 49152,
        hidden_size: 576,
        n_layers: 30,
        n_heads: 9,
        n_kv_heads: 3,
        head_dim: 64,
        intermediate_size: 1536,
        rope_base: 1e5,
        rope_scaling: None,
        max_positions: 2048,
        rms_norm_eps: 1e-5,
        window: None,
        attention_bias: false,
        mlp_bias: false,
        tied_embeddings: true,
        bos_token: None,
        eos_tokens: 0.into(),
        pad_token: None,
    }
}
