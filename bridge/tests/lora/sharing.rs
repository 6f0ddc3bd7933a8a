//! Several policies on one base in memory.

use super::*;
use candle_core::{CpuStorage, Storage};

/// Where a weight lies in memory.
pub(crate) fn address(model: &Model, name: &str) -> usize {
    let (storage, layout) = model.params().get(name).unwrap().storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => values[layout.start_offset()..].as_ptr() as usize,
        _ => panic!("{name} is not f32 on the CPU"),
    }
}

#[test]
fn policies_share_one_base() {
    let base = small_model(&small_config(true), TEXT, 1);
    let names: Vec<String> = base.params().names().map(String::from).collect();
    let before: Vec<usize> = names.iter().map(|name| address(&base, name)).collect();
    let policy = base
        .with_adapter(lora(4, &EVERY), &SeedTree::new(2))
        .unwrap();
    let reference = policy.without_adapter().unwrap();
    let other = adapted(&reference, &lora(2, &["query_key_value"]), 3);
    let frozen = policy.snapshot().unwrap();
    for (name, before) in names.iter().zip(before) {
        for model in [&policy, &reference, &other, &frozen] {
            assert_eq!(address(model, name), before, "{name}");
        }
    }
    // What is trained is copied.
    let factor = "gpt_neox.layers.0.mlp.dense_4h_to_h.lora_A.weight";
    assert_ne!(address(&policy, factor), address(&frozen, factor));
    assert!(!reference.params().contains(factor) && frozen.params().contains(factor));
    assert_eq!(frozen.params().trained_count(), 0);
    assert_eq!(frozen.adapter(), policy.adapter());
    let again = frozen.with_adapter(lora(2, &EVERY), &SeedTree::new(2));
    assert!(again.unwrap_err().to_string().contains("with an adapter"));
}

/// Bytes of the process now.
#[cfg(target_os = "linux")]
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<f64>()
        .unwrap()
        * 1024.0
}

/// The process whose memory `three_policies_cost_little_more_than_one_base` reads.
#[cfg(target_os = "linux")]
#[test]
fn three_policies_print_their_memory() {
    if std::env::var("RTO_TEST_SHARING").is_err() {
        return;
    }
    let config = rto_bridge::family::GptNeoXConfig {
        hidden_size: 512,
        n_layers: 5,
        n_heads: 8,
        intermediate_size: 2048,
        rotary_dims: 16,
        ..small_config(true)
    };
    let start = resident();
    let base = small_model(&config, TEXT, 1);
    let bytes = 4.0 * base.params().count() as f64;
    // With what the allocator keeps of drawing it.
    let alone = resident() - start;
    let policy = base
        .with_adapter(lora(8, &EVERY), &SeedTree::new(2))
        .unwrap();
    let reference = policy.without_adapter().unwrap();
    let dpo = reference.snapshot().unwrap();
    let dpo = dpo
        .with_adapter(lora(8, &EVERY), &SeedTree::new(3))
        .unwrap();
    println!("memory: {bytes} {alone} {}", resident() - start);
    assert_eq!(policy.params().count(), dpo.params().count());
    assert!(reference.params().count() < dpo.params().count());
}

#[cfg(target_os = "linux")]
#[test]
fn three_policies_cost_little_more_than_one_base() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "sharing::three_policies_print_their_memory",
            "--nocapture",
        ])
        .env("RTO_TEST_SHARING", "1")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, rest) = text.split_once("memory: ").unwrap();
    let mut numbers = rest
        .lines()
        .next()
        .unwrap()
        .split(' ')
        .map(|n| n.parse::<f64>().unwrap());
    let [bytes, alone, three] = std::array::from_fn(|_| numbers.next().unwrap());
    println!(
        "base {:.0} MB, resident {:.0} MB, three policies {:.0} MB",
        bytes / 1e6,
        alone / 1e6,
        three / 1e6
    );
    assert!(bytes > 50e6);
    // The base must be there for the bound to mean anything.
    assert!(alone > 0.9 * bytes && three > alone, "{alone} {three}");
    assert!(three < 1.15 * alone, "{alone} {three}");
    assert!(three - alone < 0.15 * bytes, "{alone} {three} {bytes}");
}
