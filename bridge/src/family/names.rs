//! What a family calls its tensors in a Hugging Face folder.

/// Names of tensors (embedding and head, with `.weight`) and of modules (all others, whose tensors are `….weight` and `….bias`). Names of
/// a block's modules stand after `{blocks}.{number}.`. A norm or table without a name is not there.
#[derive(Debug)]
pub struct Names {
    /// Embedding `[vocab, hidden]`, with `.weight`.
    pub embedding: &'static str,
    /// Learned positions `[max_positions, hidden]`, with `.weight`, added to the embedding.
    pub positions: Option<&'static str>,
    /// What stands before a block's number.
    pub blocks: &'static str,
    /// n₁, before the attention.
    pub attention_norm: Option<&'static str>,
    /// n₂, after the attention.
    pub attention_out_norm: Option<&'static str>,
    /// n₃, before the MLP.
    pub mlp_norm: Option<&'static str>,
    /// n₄, after the MLP.
    pub mlp_out_norm: Option<&'static str>,
    /// Norms of queries and keys, for [`super::BlockPlan::qk_norm`].
    pub qk_norms: Option<[&'static str; 2]>,
    /// One projection, or those of queries, keys and values.
    pub qkv: &'static [&'static str],
    /// The attention's output.
    pub out: &'static str,
    /// What the MLP projects to its inner width: one module (in a gated MLP holding the gate's rows, then the others), or gate and up.
    pub up: &'static [&'static str],
    /// The MLP's output.
    pub down: &'static str,
    /// The last norm.
    pub final_norm: &'static str,
    /// Language-model head `[vocab, hidden]`, with `.weight`.
    pub head: &'static str,
    /// Whether files store the blocks' linear weights `[in, out]`. In memory they are `[out, in]` always.
    pub conv1d: bool,
}

/// Names of the Llama family, which many families share or differ from by a few.
pub const LLAMA_NAMES: Names = Names {
    embedding: "model.embed_tokens.weight",
    positions: None,
    blocks: "model.layers",
    attention_norm: Some("input_layernorm"),
    attention_out_norm: None,
    mlp_norm: Some("post_attention_layernorm"),
    mlp_out_norm: None,
    qk_norms: None,
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    out: "self_attn.o_proj",
    up: &["mlp.gate_proj", "mlp.up_proj"],
    down: "mlp.down_proj",
    final_norm: "model.norm",
    head: "lm_head.weight",
    conv1d: false,
};

/// The value head `V(s) = w·h + b` on the last hidden state: `[1, hidden]`.
pub const VALUE_WEIGHT: &str = "v_head.weight";
/// Bias of the value head, `[1]`.
pub const VALUE_BIAS: &str = "v_head.bias";
/// The reward head of Hugging Face's sequence classification with one label, `[1, hidden]`, no bias.
pub const REWARD_WEIGHT: &str = "score.weight";
