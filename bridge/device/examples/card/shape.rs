//! A network of Pythia's shape with drawn weights.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rto_device::network::{Block, Linear, Network, Norm, NormKind, Parameters};
use rto_device::{Activation, Heads, Kernels, Result, Scoring};

/// Layers, width, heads, vocabulary.
pub fn pythia([layers, width, heads, vocabulary]: [usize; 4], value: bool) -> Network {
    let d = width / heads;
    let linear = |name: String, inputs, outputs| Linear {
        name,
        outputs,
        inputs,
        bias: true,
        adapter: None,
    };
    let block = |i: usize| {
        let name = |part: &str| format!("layers.{i}.{part}");
        let norm = |part: &str| {
            Some(Norm {
                name: name(part),
                width,
            })
        };
        Block {
            attention_norm: norm("input_layernorm"),
            attention_out_norm: None,
            mlp_norm: norm("post_attention_layernorm"),
            mlp_out_norm: None,
            qk_norms: None,
            qkv: vec![linear(name("attention.query_key_value"), width, 3 * width)],
            out: linear(name("attention.dense"), width, width),
            up: vec![linear(name("mlp.dense_h_to_4h"), width, 4 * width)],
            down: linear(name("mlp.dense_4h_to_h"), 4 * width, width),
            rotation: Some(0),
            scoring: Scoring {
                scale: 1.0 / (d as f32).sqrt(),
                cap: None,
                window: None,
            },
        }
    };
    let dims = (d / 4).next_multiple_of(2);
    let frequency = |i: usize| 1e4f64.powf(-2.0 * i as f64 / dims as f64) as f32;
    Network {
        vocabulary,
        width,
        inner: 4 * width,
        positions: 2048,
        embedding: "embed_in.weight".into(),
        embedding_scale: 1.0,
        places: None,
        heads: Heads {
            row: 3 * width,
            head_dim: d,
            heads,
            kv_heads: heads,
            step: 3 * d,
            offsets: [0, d, 2 * d],
            dims: 0,
            neighbours: false,
        },
        norm: NormKind::Layer,
        epsilon: 1e-5,
        rotations: vec![(0..dims / 2).map(frequency).collect()],
        parallel: true,
        activation: Activation::Gelu,
        gated: false,
        blocks: (0..layers).map(block).collect(),
        last_norm: Norm {
            name: "final_layer_norm".into(),
            width,
        },
        head: Some("embed_out.weight".into()),
        logit_scale: 1.0,
        logit_cap: None,
        value: value.then(|| ["v_head.weight".into(), "v_head.bias".into()]),
        reward: None,
    }
}

/// Weights of a network: gains 1, biases 0, matrices of standard deviation 0.02, cut from one block of a million numbers, since drawing
/// billions would take longer than the check.
pub fn drawn(
    kernels: &Kernels<'_>,
    network: &Network,
    trained: bool,
    seed: u64,
) -> Result<Parameters> {
    let tensors = network.tensors();
    let parameters = Parameters::alloc(kernels, &tensors, |_| trained)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let block: Vec<f32> = (0..1usize << 20)
        .map(|_| (0..4).map(|_| rng.random_range(-0.0173f32..0.0173)).sum())
        .collect();
    let mut at = 0;
    for (name, len) in tensors {
        let values: Vec<f32> = if name.ends_with("bias") {
            vec![0.0; len]
        } else if name.contains("norm.") {
            vec![1.0; len]
        } else {
            // An odd step, so that no two tensors are cut alike.
            at = (at + 7919) % block.len();
            block.iter().cycle().skip(at).take(len).copied().collect()
        };
        parameters.set(kernels, &name, &values)?;
    }
    Ok(parameters)
}
