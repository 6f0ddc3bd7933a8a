//! What published files carry beside the weights.

/// Whether a tensor is one of the constants that published Pythia, Llama and GPT-2 files carry beside the weights: the causal mask,
/// the value that stands for −∞ in it, and rotary frequencies, one a layer or one for all.
pub fn is_published_buffer(name: &str) -> bool {
    let gpt2 = name.strip_prefix("transformer.").unwrap_or(name);
    if let Some((number, part)) = gpt2.strip_prefix("h.").and_then(|r| r.split_once('.')) {
        let mask = ["attn.bias", "attn.masked_bias"].contains(&part);
        return mask && number.parse::<usize>().is_ok();
    }
    const FREQUENCIES: [&str; 3] = [
        "rotary_emb.inv_freq",
        "rotary_emb.cos_cached",
        "rotary_emb.sin_cached",
    ];
    let Some((family @ ("gpt_neox." | "model."), rest)) = name
        .strip_prefix("gpt_neox.")
        .map(|rest| ("gpt_neox.", rest))
        .or(name.strip_prefix("model.").map(|rest| ("model.", rest)))
    else {
        return false;
    };
    if FREQUENCIES.contains(&rest) {
        return true;
    }
    let layer = rest.strip_prefix("layers.").and_then(|r| r.split_once('.'));
    let Some((number, part)) = layer else {
        return false;
    };
    let attention = match family {
        "gpt_neox." => part.strip_prefix("attention."),
        _ => part.strip_prefix("self_attn."),
    };
    let masks = ["bias", "masked_bias"];
    number.parse::<usize>().is_ok()
        && attention.is_some_and(|part| {
            FREQUENCIES.contains(&part) || family == "gpt_neox." && masks.contains(&part)
        })
}
