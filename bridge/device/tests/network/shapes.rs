//! Small networks with every choice that a description has.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rto_device::network::{Adapter, Block, Linear, Network, Norm, NormKind, Parameters};
use rto_device::{Activation, Error, Heads, Kernels, Scoring};

const WIDTH: usize = 12;

fn norm(name: String, width: usize) -> Norm {
    Norm { name, width }
}

fn linear(name: String, inputs: usize, outputs: usize, bias: bool, rank: usize) -> Linear {
    let adapter = (rank > 0).then_some(Adapter { rank, scale: 0.7 });
    Linear {
        name,
        outputs,
        inputs,
        bias,
        adapter,
    }
}

/// Layer norms, one projection with the heads' queries, keys and values beside each other, biases, adapters on every layer; attention and
/// MLP beside each other with a norm each.
pub fn parallel() -> Network {
    let (heads, d, inner) = (3, 4, 20);
    let block = |i: usize| {
        let name = |part: &str| format!("blocks.{i}.{part}");
        Block {
            attention_norm: Some(norm(name("n1"), WIDTH)),
            attention_out_norm: None,
            mlp_norm: Some(norm(name("n3"), WIDTH)),
            mlp_out_norm: None,
            qk_norms: None,
            qkv: vec![linear(name("qkv"), WIDTH, 3 * heads * d, true, 2)],
            out: linear(name("out"), heads * d, WIDTH, true, 2),
            up: vec![linear(name("up"), WIDTH, inner, true, 3)],
            down: linear(name("down"), inner, WIDTH, true, 1),
            rotation: Some(0),
            scoring: Scoring {
                scale: 0.5,
                cap: None,
                window: None,
            },
        }
    };
    Network {
        vocabulary: 11,
        width: WIDTH,
        inner,
        positions: 20,
        embedding: "embedding.weight".into(),
        embedding_scale: 1.0,
        places: None,
        heads: Heads {
            row: 3 * heads * d,
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
        rotations: vec![vec![1.0]],
        parallel: true,
        activation: Activation::Gelu,
        gated: false,
        blocks: (0..2).map(block).collect(),
        last_norm: norm("last".into(), WIDTH),
        head: Some("head.weight".into()),
        logit_scale: 1.0,
        logit_cap: None,
        value: Some(["value.weight".into(), "value.bias".into()]),
        reward: Some("reward.weight".into()),
    }
}

/// Attention and MLP beside each other on one norm, as Pythia; on no norm at all where `bare`.
fn shared(bare: bool) -> Network {
    let mut network = parallel().without_adapters();
    for block in &mut network.blocks {
        block.mlp_norm = None;
        if bare {
            block.attention_norm = None;
        }
    }
    network
}

/// RMS norms with an offset before and after everything, norms of queries and keys, three projections, shared keys, a gate, caps, factors,
/// a window, tied embeddings.
fn sandwich(row: bool) -> Network {
    let (heads, kv_heads, d, inner) = (4, 2, 6, 16);
    let block = |i: usize| {
        let name = |part: &str| format!("blocks.{i}.{part}");
        let stream = |part: &str| Some(norm(name(part), WIDTH));
        let of_heads = |part: &str, count: usize| norm(name(part), if row { count * d } else { d });
        Block {
            attention_norm: if row { None } else { stream("n1") },
            attention_out_norm: stream("n2"),
            mlp_norm: if row { None } else { stream("n3") },
            mlp_out_norm: stream("n4"),
            qk_norms: Some([of_heads("q_norm", heads), of_heads("k_norm", kv_heads)]),
            qkv: vec![
                linear(name("q"), WIDTH, heads * d, true, 2),
                linear(name("k"), WIDTH, kv_heads * d, true, 0),
                linear(name("v"), WIDTH, kv_heads * d, true, 2),
            ],
            out: linear(name("out"), heads * d, WIDTH, false, 0),
            up: vec![
                linear(name("gate"), WIDTH, inner, false, 0),
                linear(name("up"), WIDTH, inner, false, 2),
            ],
            down: linear(name("down"), inner, WIDTH, false, 0),
            rotation: Some(i % 2),
            scoring: Scoring {
                scale: 0.4,
                cap: Some(1.1),
                window: (i == 0).then_some(3),
            },
        }
    };
    Network {
        inner,
        embedding_scale: 1.7,
        heads: Heads {
            row: (heads + 2 * kv_heads) * d,
            head_dim: d,
            heads,
            kv_heads,
            step: d,
            offsets: [0, heads * d, (heads + kv_heads) * d],
            dims: 0,
            neighbours: false,
        },
        norm: NormKind::Rms {
            offset: if row { 0.0 } else { 1.0 },
        },
        rotations: vec![vec![1.0, 0.1, 0.01], vec![1.0, 0.3]],
        parallel: false,
        activation: Activation::GeluTanh,
        gated: true,
        blocks: (0..2).map(block).collect(),
        head: Some("embedding.weight".into()),
        logit_scale: 0.6,
        logit_cap: Some(2.0),
        ..parallel()
    }
}

/// Learned positions, no rotation, gate and up in one projection, attention before the MLP.
fn packed() -> Network {
    let mut network = parallel();
    network.places = Some("places.weight".into());
    network.parallel = false;
    network.gated = true;
    network.activation = Activation::Silu;
    for block in &mut network.blocks {
        block.rotation = None;
        block.up[0].outputs *= 2;
    }
    network
}

/// All of them with their names.
pub fn all() -> Vec<(&'static str, Network)> {
    vec![
        ("parallel", parallel()),
        ("one norm", shared(false)),
        ("no norm", shared(true)),
        ("sandwich", sandwich(false)),
        ("norms after", sandwich(true)),
        ("packed", packed()),
    ]
}

/// Weights of these shapes, all trained.
pub fn filled(kernels: &Kernels<'_>, network: &Network, seed: u64) -> Result<Parameters, Error> {
    let tensors = network.tensors();
    let parameters = Parameters::alloc(kernels, &tensors, |_| true)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for (name, len) in tensors {
        let gain = ["n1.w", "n2.w", "n3.w", "n4.w", "norm.w", "last.w"]
            .iter()
            .any(|end| name.contains(end));
        let middle = match (gain, network.norm) {
            (true, NormKind::Layer) => 1.0,
            (true, NormKind::Rms { offset }) => 1.0 - offset,
            _ => 0.0,
        };
        let values: Vec<f32> = (0..len)
            .map(|_| middle + rng.random_range(-0.5f32..0.5))
            .collect();
        parameters.set(kernels, &name, &values)?;
    }
    Ok(parameters)
}
