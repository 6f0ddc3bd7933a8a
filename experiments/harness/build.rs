//! Records at build time what `versions.json` reports: git revision, compiler, target.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // `HEAD` changes when a branch is checked out, `logs/HEAD` when a commit is made.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = output("git", &["rev-parse", "--git-path", file])
            && Path::new(&path).exists()
        {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    let unknown = || "unknown".to_string();
    let revision = output("git", &["rev-parse", "HEAD"]).unwrap_or_else(unknown);
    let dirty = match output("git", &["status", "--porcelain", "--untracked-files=no"]) {
        Some(text) if text.is_empty() => "false".to_string(),
        Some(_) => "true".to_string(),
        None => unknown(),
    };
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_string());
    let compiler = output(&rustc, &["--version"]).unwrap_or_else(unknown);
    let target = std::env::var("TARGET").unwrap_or_else(|_| unknown());
    println!("cargo:rustc-env=RTO_GIT_REVISION={revision}");
    println!("cargo:rustc-env=RTO_GIT_DIRTY={dirty}");
    println!("cargo:rustc-env=RTO_RUSTC={compiler}");
    println!("cargo:rustc-env=RTO_TARGET={target}");
}

/// Trimmed standard output of a command, or `None` if it is missing or fails.
fn output(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).output().ok()?;
    out.status
        .success()
        .then(|| String::from_utf8_lossy(&out.stdout).trim().to_string())
}
