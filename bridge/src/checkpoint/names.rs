//! What published files carry beside the weights.

/// Whether a tensor is one of the constants that published Pythia and Llama files carry beside the weights: the causal mask,
/// the value that stands for −∞ in it, and the rotary frequencies.
pub fn is_published_buffer(name: &str) -> bool {
    let published: &[&str] = match name.split_once("layers.").map(|(family, _)| family) {
        Some("gpt_neox.") => &[
            "attention.bias",
            "attention.masked_bias",
            "attention.rotary_emb.inv_freq",
        ],
        Some("model.") => &["self_attn.rotary_emb.inv_freq"],
        _ => return false,
    };
    let rest = name.split_once("layers.").map_or("", |(_, rest)| rest);
    rest.split_once('.')
        .is_some_and(|(layer, rest)| layer.parse::<usize>().is_ok() && published.contains(&rest))
}
