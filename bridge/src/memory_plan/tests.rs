use super::*;
use crate::family::{Activation, GptNeoXConfig};

/// Pythia-14m: 14,067,712 parameters as published.
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
fn counts_are_those_of_published_models() {
    let plan = MemoryPlan::new(pythia_14m(), Head::CausalLm, &Workload::default());
    assert_eq!(plan.parameters, 14_067_712);
    // Pythia-2.8B: 2,775,208,960 parameters.
    let big = GptNeoXConfig {
        hidden_size: 2560,
        n_layers: 32,
        n_heads: 32,
        intermediate_size: 10240,
        rotary_dims: 20,
        ..pythia_14m()
    };
    let work = Workload {
        dtype: DType::BF16,
        batch: 4,
        training: true,
        ..Workload::default()
    };
    let plan = MemoryPlan::new(&big, Head::CausalLm, &work);
    assert_eq!(plan.parameters, 2_775_208_960);
    assert_eq!(
        (plan.weights, plan.master, plan.gradients, plan.moments),
        (
            5_550_417_920,
            11_100_835_840,
            11_100_835_840,
            22_201_671_680
        )
    );
    let all = MemoryPlan::new(
        &big,
        Head::CausalLm,
        &Workload {
            checkpointing: false,
            ..work
        },
    );
    // Per token, in widths: 32 blocks of 9 and one at work (19), against 32 inputs, one block's 9 and the same work.
    assert!(all.activations > 5 * plan.activations);
    // Keys and values of 4 × 512 positions in 32 layers of 2560 bf16.
    let run = MemoryPlan::new(
        &big,
        Head::CausalLm,
        &Workload {
            training: false,
            ..work
        },
    );
    assert_eq!(run.cache, 2 * 32 * 4 * 512 * 2560 * 2);
    assert!(
        plan.to_string()
            .contains("AdamW moments (f32)         20.7 GiB"),
        "{plan}"
    );
    assert_eq!(run.gradients + run.moments + run.master, 0);
}

#[test]
fn an_adapter_is_what_a_step_changes() {
    let lora = LoraConfig {
        rank: 8,
        alpha: 16.0,
        target_modules: vec!["query_key_value".into()],
        use_rslora: false,
    };
    let work = Workload {
        dtype: DType::BF16,
        training: true,
        lora: Some(&lora),
        ..Workload::default()
    };
    let plan = MemoryPlan::new(pythia_14m(), Head::CausalLm, &work);
    // Six blocks of A [8, 128] and B [384, 8].
    let adapter = 6 * 8 * (128 + 384);
    assert_eq!(
        (plan.parameters, plan.trained),
        (14_067_712 + adapter, adapter)
    );
    assert_eq!(
        (plan.weights, plan.master, plan.gradients, plan.moments),
        (2 * 14_067_712 + 4 * adapter, 0, 4 * adapter, 8 * adapter)
    );
    // A reward head is trained with it, in the type of the base.
    let reward = MemoryPlan::new(pythia_14m(), Head::Classification { labels: 1 }, &work);
    assert_eq!((reward.trained, reward.master), (adapter + 128, 4 * 128));
    assert_eq!(reward.gradients, 4 * (adapter + 128));
}

#[test]
fn a_plan_that_does_not_fit_is_refused_with_both_sizes() {
    let plan = MemoryPlan {
        parameters: 1 << 30,
        trained: 1 << 30,
        weights: 3 << 30,
        master: 0,
        gradients: 0,
        moments: 0,
        activations: 0,
        cache: 0,
        head_tile: 0,
    };
    fits_in(plan.total(), 3 << 30).unwrap();
    let error = fits_in(plan.total(), 2 << 30).unwrap_err().to_string();
    let start = "device memory: the plan needs 3.00 GiB, 2.00 GiB are free";
    assert!(error.starts_with(start), "{error}");
    plan.check_fits(&Device::Cpu).unwrap();
}

/// A plan of a part of an iteration, counted as often as the iteration has it, is the plan of all of it.
#[test]
fn an_iteration_is_a_whole_number_of_its_parts() {
    let config = ModelConfig::from(GptNeoXConfig {
        n_layers: 2,
        ..GptNeoXConfig::tiny(11, 0)
    });
    let run = |separate_critic, lora| DeviceRun {
        dtype: DType::BF16,
        lora,
        moments: Moments::F32,
        checkpointing: true,
        separate_critic,
        micro_batch: 2,
        prompt: 3,
        response: 5,
        batches: [4, 4, 4],
        iteration: [24, 6],
        epochs: 2,
        slots: 4,
    };
    let lora = LoraConfig::every_layer(&config, 2, 4.0);
    for run in [run(false, None), run(true, None), run(true, Some(lora))] {
        let short = device_plan(&config, &run).unwrap();
        // No slots are shared by 24 texts and steps of 6 but those of all of them.
        let slots = DeviceRun {
            slots: 24,
            ..run.clone()
        };
        let whole = device_plan(&config, &slots).unwrap();
        assert_eq!(short[..3], whole[..3]);
        let [short, whole] = [&short[3], &whole[3]];
        // Six rounds of four slots read the tokens that one round of 24 reads.
        assert_eq!(short.flops, whole.flops);
        assert!(short.launches > whole.launches);
        let all = super::on_device::stages(&config, &run, 24).unwrap();
        assert_eq!(*short, all[3]);
    }
}
