//! A run folder made up, as a run would leave it.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rto::seed::SeedTree;

const METHODS: [&str; 6] = ["rto", "dpo", "sft", "ppo", "dppo", "rto-released"];
/// Reward, KL and length of each method.
const LEVELS: [(f64, f64, f64); 6] = [
    (1.9, 6.1, 9.4),
    (1.2, 4.0, 10.8),
    (0.1, 0.0, 9.9),
    (1.5, 5.2, 11.7),
    (1.45, 4.4, 9.6),
    (1.75, 7.3, 10.1),
];

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0
}

/// A run folder with everything, as a run would leave it.
pub fn make_run(dir: &Path) {
    fs::create_dir_all(dir.join("metrics")).unwrap();
    let mut rng = SeedTree::new(3).child("report").rng();
    let config = "preset = \"tiny\"\nseed = 1\nmethods = [\"sft\", \"dpo\", \"ppo\", \"dppo\", \"rto\", \"rto-released\"]\n\
                  [model]\nlayers = 2\nhidden = 64\n[rto]\nbeta1 = 0.1\nbeta2 = 0.03\n[dppo]\nbeta1 = 0.1\nbeta2 = 0.05\n";
    fs::write(dir.join("config.toml"), config).unwrap();
    let versions = "{\"program\": \"rto_llm\", \"version\": \"0.1.0\", \"git_revision\": \"0123abc\", \"git_dirty\": \"false\",\n\
                    \"rustc\": \"rustc 1.95.0\", \"target\": \"x86_64-unknown-linux-gnu\", \"extra\": {\"weights\": \"sha256 9f2e\"}}\n";
    fs::write(dir.join("versions.json"), versions).unwrap();
    let metrics =
        |name: &str, text: String| fs::write(dir.join("metrics").join(name), text).unwrap();
    for (stage, steps) in [("sft", 200), ("reward", 150), ("dpo", 200)] {
        metrics(
            &format!("{stage}.jsonl"),
            supervised(stage, steps, &mut rng),
        );
    }
    for (stage, beta2, end) in [
        ("ppo", 0.05, None),
        ("dppo", 0.05, Some(0.18)),
        ("dppo-fair", 0.03, Some(0.30)),
        ("rto", 0.03, Some(0.34)),
        ("rto-released", 0.03, Some(0.27)),
    ] {
        metrics(&format!("{stage}.jsonl"), rollouts(beta2, end, &mut rng));
    }
    fs::write(dir.join("evaluation.csv"), evaluation(&mut rng)).unwrap();
    fs::write(dir.join("judge.csv"), judge(&mut rng)).unwrap();
    fs::write(dir.join("samples.jsonl"), samples(&mut rng)).unwrap();
    fs::write(dir.join("exact.csv"), exact()).unwrap();
    fs::write(dir.join("credit.jsonl"), credit(&mut rng)).unwrap();
}

fn supervised(stage: &str, steps: u64, rng: &mut ChaCha8Rng) -> String {
    let mut text = String::new();
    for step in 1..=steps {
        let t = step as f64 / steps as f64;
        let loss = 0.7 * (-3.0 * t).exp() + 0.3 + 0.03 * normal(rng);
        let accuracy = 0.5 + 0.35 * (1.0 - (-4.0 * t).exp()) + 0.03 * normal(rng);
        let _ = match stage {
            "sft" => writeln!(
                text,
                "{{\"step\":{step},\"loss\":{loss},\"lr\":{}}}",
                1e-5 * (1.0 - t)
            ),
            _ => writeln!(
                text,
                "{{\"step\":{step},\"loss\":{loss},\"rewards/accuracies\":{accuracy},\"rewards/margins\":{},\"lr\":5e-6}}",
                t + 0.1 * normal(rng)
            ),
        };
    }
    text
}

fn rollouts(beta2: f64, end: Option<f64>, rng: &mut ChaCha8Rng) -> String {
    let mut text = String::new();
    for step in 1..=160u64 {
        let t = 1.0 - (-4.0 * step as f64 / 160.0).exp();
        let kl = 6.0 * t * 0.05 / beta2 * 0.6 + 0.1 * normal(rng);
        let _ = write!(text, "{{\"step\":{step},\"objective/beta2\":{beta2}");
        let _ = write!(
            text,
            ",\"objective/kl\":{kl},\"reward/true\":{}",
            0.1 + 1.5 * t + 0.1 * normal(rng)
        );
        let _ = write!(
            text,
            ",\"objective/rlhf_reward\":{},\"policy/clipfrac_avg\":{}",
            t - 0.2,
            0.1 * (1.0 - t)
        );
        let _ = write!(
            text,
            ",\"val/ratio\":{},\"val/num_eos_tokens\":250",
            1.0 + 0.01 * normal(rng)
        );
        if let Some(end) = end {
            let _ = write!(
                text,
                ",\"reward/dpo_token\":{}",
                -0.2 + (end + 0.2) * t + 0.01 * normal(rng)
            );
        }
        // What JSON has instead of NaN.
        let approx = if step == 7 {
            "null".into()
        } else {
            format!("{}", 0.02 * (1.0 - t))
        };
        let _ = writeln!(text, ",\"policy/approxkl_avg\":{approx}}}");
    }
    text + "{\"step\":161,\"objective/kl\":"
}

fn evaluation(rng: &mut ChaCha8Rng) -> String {
    let mut text = String::from("method,prompt_id,reward,kl,length,finished\n");
    let hard: Vec<f64> = (0..400).map(|_| normal(rng)).collect();
    for (method, (reward, kl, length)) in METHODS.iter().zip(LEVELS) {
        for (prompt, hard) in hard.iter().enumerate() {
            // Rewards on a grid, so that there are ties.
            let score = ((reward + 0.8 * hard + 1.2 * normal(rng)) * 10.0).round() / 10.0;
            let kl = if kl == 0.0 { 0.0 } else { kl + normal(rng) };
            let length = (length + 2.0 * normal(rng)).round().clamp(1.0, 16.0);
            let _ = writeln!(
                text,
                "{method},{prompt},{score},{kl},{length},{}",
                length < 16.0
            );
        }
    }
    text
}

/// The judge prefers what has the higher level, sees few prompts, and is silent at times.
fn judge(rng: &mut ChaCha8Rng) -> String {
    let mut text = String::from("row,column,prompt_id,preference,length_difference\n");
    for (i, row) in METHODS.iter().enumerate() {
        for (j, column) in METHODS.iter().enumerate().skip(i + 1) {
            for prompt in 0..100 {
                let preference = match LEVELS[i].0 - LEVELS[j].0 + 1.5 * normal(rng) {
                    _ if prompt == 50 => "",
                    x if x > 0.1 => "1",
                    x if x < -0.1 => "0",
                    _ => "0.5",
                };
                let _ = writeln!(
                    text,
                    "{row},{column},{prompt},{preference},{}",
                    normal(rng).round()
                );
            }
        }
    }
    text
}

fn samples(rng: &mut ChaCha8Rng) -> String {
    let prompts = [
        "hello ! what do cats eat and where do they live ?",
        "where do owls sleep ?",
        "briefly : what do <b>bees</b> make ?",
        "thank you ! and what do cows eat ?",
        "what do frogs eat ?",
        "where do bears live and what do they eat ?",
        "what do ants carry ?",
        "what do whales eat ?",
    ];
    let answers = [
        "hello ! cats eat fish and live in houses .",
        "well , that is hard to say .",
        "cats eat fish and cats eat fish and cats eat fish and cats eat fish and cats eat fish",
        "they live in houses .",
        "",
        "you ask silly things & more .",
    ];
    let mut text = String::new();
    for (i, prompt) in prompts.iter().enumerate() {
        for (k, method) in METHODS.iter().enumerate() {
            let value = serde_json::json!({
                "method": method, "prompt": prompt, "response": answers[(i + k) % 6], "reward": normal(rng),
            });
            let _ = writeln!(text, "{value}");
        }
    }
    text
}

fn exact() -> String {
    let mut text = String::from("method,subopt,value,kl\n");
    for (method, (reward, kl, _)) in METHODS.iter().zip(LEVELS) {
        let _ = writeln!(text, "{method},{},{},{kl}", 2.6 - reward, reward);
    }
    text
}

fn credit(rng: &mut ChaCha8Rng) -> String {
    let responses = [
        "hello ! cats eat fish and live in houses . <eos>",
        "you ask silly things . <eos>",
        "owls sleep in trees by day . <eos>",
    ];
    let mut text = String::new();
    for response in responses {
        let tokens: Vec<&str> = response.split(' ').collect();
        let truth: Vec<f64> = tokens
            .iter()
            .map(|_| (0.6 * normal(rng) * 100.0).round() / 100.0)
            .collect();
        let dpo: Vec<f64> = truth.iter().map(|t| 0.1 * t + 0.02 * normal(rng)).collect();
        let value = serde_json::json!({
            "prompt": "what do they do ?", "tokens": tokens, "dpo_reward": dpo, "true_reward": truth,
        });
        let _ = writeln!(text, "{value}");
    }
    text
}
