//! The experiments, each run by its own program in a folder of its own.

use anyhow::{Context, Result, bail};
use rto_harness::interrupt;
use rto_harness::run_dir::RunDir;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The experiments in the order of the paper; the audit of recipes and the bench of preference methods go beyond it.
pub const EXPERIMENTS: [&str; 5] = ["prop32", "thm42", "algorithm2", "audit", "bench"];

/// How long each takes at the small sizes, in seconds, measured on two cores: its share of the progress.
pub const SECONDS: [f64; EXPERIMENTS.len()] = [2.0, 4.0, 5.0, 2.0, 6.0];

/// The command a reader types to redraw an experiment's figures.
pub fn command(experiment: &str, full: bool) -> String {
    let smoke = if full { "" } else { " -- --smoke" };
    format!("cargo run --bin {experiment}{smoke}")
}

/// Whether a run of the experiment has finished: what it writes last is there.
pub fn is_finished(experiment: &str, dir: &RunDir) -> bool {
    dir.path(experiment).join("timings.json").is_file()
}

/// Runs an experiment, or goes on with it.
pub fn run(experiment: &str, dir: &RunDir, full: bool) -> Result<()> {
    let out = dir.path(experiment);
    let mut command = Command::new(program(experiment)?);
    command
        .arg("--out")
        .arg(&out)
        .stdout(Stdio::null())
        .stdin(Stdio::null());
    // The bar of this program is the only one.
    command.arg("--quiet");
    if !full {
        command.arg("--smoke");
    }
    let status = interrupt::run_child(&mut command)
        .with_context(|| format!("{experiment} could not be started"))?;
    if !status.success() {
        bail!(
            "{experiment} ended with {status}; run `{}` to see it alone",
            self::command(experiment, full)
        );
    }
    Ok(())
}

/// The program beside this one, built if it is not there: `cargo run --bin paper` builds `paper` alone.
fn program(name: &str) -> Result<PathBuf> {
    let this = env::current_exe().context("the path of this program")?;
    let folder = this.parent().unwrap_or(Path::new("."));
    let path = folder.join(format!("{name}{}", env::consts::EXE_SUFFIX));
    // Under `cargo run` an older build may lie there, so that Cargo is asked in any case.
    if let Some(cargo) = env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--bin", name]);
        if folder.ends_with("release") {
            build.arg("--release");
        }
        let manifest = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
        build.arg("--manifest-path").arg(manifest);
        let status = interrupt::run_child(&mut build).context("cargo could not be started")?;
        if !status.success() {
            bail!("cargo build --bin {name} ended with {status}");
        }
    }
    if !path.is_file() {
        bail!(
            "{}: no such program; build it with `cargo build --bin {name}`, or start this one with `cargo run --bin paper`",
            path.display()
        );
    }
    Ok(path)
}
