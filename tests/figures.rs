//! Committed figures are exactly what the committed CSV files draw, and the manifest lists them all.

use rto_harness::manifest::Manifest;
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn the_manifest_lists_every_figure() {
    Manifest::check(Path::new(ROOT)).unwrap();
}

#[test]
fn prop32_figures_are_drawn_from_their_csv_files() {
    let committed = Path::new(ROOT).join("figures/prop32");
    let dir = TempDir::new().unwrap();
    let names: Vec<String> = fs::read_dir(&committed)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    for name in names.iter().filter(|name| name.ends_with(".csv")) {
        fs::copy(committed.join(name), dir.path().join(name)).unwrap();
    }
    let output = Command::new(env!("CARGO_BIN_EXE_prop32"))
        .arg("--redraw")
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for name in &names {
        assert!(
            fs::read(committed.join(name)).unwrap() == fs::read(dir.path().join(name)).unwrap(),
            "{name} is not what the CSV files draw"
        );
    }
}

/// The deterministic sweeps are run again and compared byte for byte with the committed numbers.
#[test]
fn the_committed_counts_are_reproduced() {
    let dir = TempDir::new().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_prop32"))
        .args([
            "--replicates",
            "1",
            "--preference-horizons",
            "1",
            "--orders",
            "2",
            "--text-horizons",
            "2",
            "--out",
            "run",
        ])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for name in ["figure2.csv", "claim.csv", "counts.csv"] {
        let committed =
            fs::read_to_string(Path::new(ROOT).join("figures/prop32").join(name)).unwrap();
        assert!(
            committed == fs::read_to_string(dir.path().join("run").join(name)).unwrap(),
            "{name}"
        );
    }
}
