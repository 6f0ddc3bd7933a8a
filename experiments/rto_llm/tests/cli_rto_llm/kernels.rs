//! Runs that train with the program of kernels: beside those of the processor's own path, across a stop, and what is refused.

use super::error;
use super::files::dialogues;
use super::training::{contents, same};
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn command(device: &str, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rto_llm"));
    let out = out.to_str().unwrap();
    command.args(["--smoke", "--quiet", "--methods", "rto"]);
    command.args(["--device", device, "--out", out]);
    command.args(more);
    command
}

#[track_caller]
fn finished(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// The rows of a run's summary: name, and numbers.
fn summary(out: &Path) -> Vec<(String, Vec<f64>)> {
    let text = fs::read_to_string(out.join("summary.csv")).unwrap();
    let row = |line: &str| {
        let mut cells = line.split(',').map(String::from);
        let name = cells.next().unwrap();
        (name, cells.map(|cell| cell.parse().unwrap()).collect())
    };
    text.lines().skip(1).map(row).collect()
}

/// The whole run, evaluation included, on slices and under the emulator has the table of the processor's own path: the same texts, so the same
/// rewards and lengths to the last digit, and KL within rounding. With all weights; with adapters, a critic on the policy's trunk and exact KL; on
/// preference files, with an oracle that was trained, whose rewards are rounded too. Of the evaluation's decoder only the most likely token is left: the two walk through the
/// tokens that are kept in another order, and draw others.
#[test]
fn a_run_has_the_table_of_the_processor() {
    let dir = tempfile::tempdir().unwrap();
    let adapters = [
        "--lora",
        "2",
        "--set",
        "critic=shared",
        "--set",
        "ppo.kl_estimator=exact",
        "--set",
        "ppo.value_coef=0.1",
    ];
    let no_compiler = matches!(
        rto_device::Emulated::new(rto_device::Order::Forward),
        Err(rto_device::Error::NoCompiler(_))
    );
    let data = dir.path().join("pairs.jsonl");
    fs::write(&data, dialogues(80)).unwrap();
    let files = ["--preset", "hh-scratch", "--data", data.to_str().unwrap()];
    let cases = [
        ("whole", &[][..]),
        ("adapters", &adapters[..]),
        ("files", &files[..]),
    ];
    for (name, more) in cases {
        let run = |device: &str| {
            let out = dir
                .path()
                .join(format!("{name}-{}", device.replace(':', "-")));
            let more = [more, &["--set", "eval_top_p=1e-9"]].concat();
            finished(&command(device, &out, &more).output().unwrap());
            let agreement = fs::read_to_string(out.join("agreement.csv"));
            assert_eq!(agreement.is_ok(), name == "files");
            (summary(&out), agreement.ok())
        };
        let expected = run("cpu");
        let devices: &[&str] = match (no_compiler, name) {
            (false, "whole") => &["kernels:slices", "kernels:emulated"],
            _ => &["kernels:slices"],
        };
        for device in devices {
            let (found, agreement) = run(device);
            // How many pairs each model ranks as people did.
            assert_eq!(agreement, expected.1, "{name}, {device}");
            let expected = &expected.0;
            assert_eq!(found.len(), expected.len());
            for ((method, found), (other, expected)) in found.iter().zip(expected) {
                assert_eq!(method, other);
                for (column, (a, b)) in found.iter().zip(expected).enumerate() {
                    // Reward, its error, greedy, KL, length, share that ended.
                    // An oracle is a network, whose words are rounded as KL is.
                    let rounded = column == 3 || name == "files" && column < 3;
                    let bound = if rounded { 1e-5 } else { 1e-12 };
                    let apart = (a - b).abs();
                    assert!(
                        apart <= bound * (1.0 + b.abs()),
                        "{name}, {device}, {method}, column {column}: {a} and {b}"
                    );
                }
            }
        }
    }
}

/// Stopped in every stage, and killed once, a run ends with the bytes of one that was not: in bf16 on exact masters, with moments in 8 bits
/// wherever a weight has 4,096 numbers.
#[test]
fn a_stopped_run_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, struck) = (dir.path().join("whole"), dir.path().join("struck"));
    let more = [
        "--set",
        "dtype=bf16",
        "--set",
        "moments=8bit",
        "--set",
        "hidden_size=32",
        "--set",
        "intermediate_size=128",
    ];
    let device = "kernels:slices";
    finished(&command(device, &whole, &more).output().unwrap());
    let expected = contents(&whole);
    let optimizer = &expected["stages/rto/checkpoint/policy/optimizer.safetensors"];
    let header = String::from_utf8_lossy(&optimizer[..4096]);
    assert!(
        header.contains("m8.") && header.contains("\"m."),
        "{header}"
    );
    for at in ["sft:3", "reward:1", "dpo:2", "rto:2"] {
        let output = command(device, &struck, &more)
            .env("RTO_LLM_NAN", at)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{at}: {said}");
        assert!(said.contains("NaN"), "{said}");
    }
    finished(&command(device, &struck, &more).output().unwrap());
    same(&expected, &contents(&struck));

    let killed = dir.path().join("killed");
    let mut child = command(device, &killed, &more)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let log = killed.join("metrics/rto.jsonl");
    while fs::read_to_string(&log).map_or(0, |t| t.lines().count()) < 1 {
        assert!(child.try_wait().unwrap().is_none(), "done before its turn");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    // SIGKILL on Unix.
    child.kill().unwrap();
    child.wait().unwrap();
    finished(&command(device, &killed, &more).output().unwrap());
    same(&expected, &contents(&killed));
}

#[test]
fn what_the_program_of_kernels_cannot_do_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let refused = |more: &[&str]| {
        let base = ["--smoke", "--quiet", "--out", out.to_str().unwrap()];
        let said = error(&[&base[..], more].concat());
        assert!(!out.exists(), "{said}");
        said
    };
    let said = refused(&["--device", "kernels:tpu"]);
    assert!(
        said.contains("kernels:tpu") && said.contains("expected kernels:slices"),
        "{said}"
    );
    let said = refused(&["--device", "kernels:slices", "--set", "gradient_groups=2"]);
    assert!(
        said.contains("gradient_groups: found 2, expected 1"),
        "{said}"
    );
    let wide = [
        "--device",
        "kernels:slices",
        "--set",
        "hidden_size=1032",
        "--set",
        "n_heads=4",
    ];
    let said = refused(&wide);
    assert!(
        said.contains("head_dim") && said.contains("at most 256"),
        "{said}"
    );
    #[cfg(not(feature = "cuda"))]
    {
        let said = refused(&["--device", "kernels:cuda"]);
        assert!(said.contains("--features cuda"), "{said}");
    }
}
