//! `converge`: what is left between trained and exact SubOpt shrinks with steps, for every loss and class; threads, shards, redraw.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

const BINARY: &str = env!("CARGO_BIN_EXE_converge");

fn run(dir: &Path, threads: &str, args: &[&str]) {
    let output = Command::new(BINARY)
        .args(args)
        .arg("--quiet")
        .env("RAYON_NUM_THREADS", threads)
        .current_dir(dir)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entry = |e: std::io::Result<fs::DirEntry>| {
        let path = e.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        // Seconds are nobody's promise.
        (path.is_file() && name != "timings.json").then(|| (name, fs::read(&path).unwrap()))
    };
    fs::read_dir(dir).unwrap().filter_map(entry).collect()
}

/// Steps, gap and KL.
type Point = (u64, f64, f64);

#[test]
fn trained_policies_end_at_the_exact_minimisers() {
    let dir = tempfile::TempDir::new().unwrap();
    run(dir.path(), "2", &["--smoke", "--out", "whole"]);
    let text = fs::read_to_string(dir.path().join("whole/converge.csv")).unwrap();
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().unwrap().split(',').collect();
    let at = |name: &str| head.iter().position(|h| *h == name).unwrap();
    let (class, loss, steps) = (at("class"), at("loss"), at("steps"));
    let (gap, kl) = (at("gap"), at("kl"));
    let mut curves: BTreeMap<_, Vec<Point>> = BTreeMap::new();
    for line in lines {
        let row: Vec<&str> = line.split(',').collect();
        let key = (row[class].to_string(), row[loss].to_string());
        let number = |k: usize| row[k].parse::<f64>().unwrap();
        curves
            .entry(key)
            .or_default()
            .push((row[steps].parse().unwrap(), number(gap), number(kl)));
    }
    assert_eq!(curves.len(), 3 * 7);
    for ((class, loss), curve) in &curves {
        let (first, last) = (curve[0], curve[curve.len() - 1]);
        assert!(first.0 < last.0);
        // A frozen trunk gives features that are nearly collinear, and its head is slower by orders of magnitude.
        let (gap, share) = match class.as_str() {
            "head" => (5e-2, 1.0 / 30.0),
            _ => (1e-5, 1e-3),
        };
        assert!(last.1 < gap, "{class} {loss}: {curve:?}");
        assert!(last.2.abs() < share * first.2, "{class} {loss}: {curve:?}");
    }

    // One thread, shards, and the CSV file alone give the same bytes.
    let whole = files(&dir.path().join("whole"));
    run(
        dir.path(),
        "1",
        &["--smoke", "--shard", "1/2", "--out", "one"],
    );
    run(
        dir.path(),
        "2",
        &["--smoke", "--shard", "2/2", "--out", "two"],
    );
    run(dir.path(), "1", &["merge", "one", "two", "--out", "both"]);
    assert!(files(&dir.path().join("both")) == whole);
    fs::create_dir(dir.path().join("drawn")).unwrap();
    fs::write(dir.path().join("drawn/converge.csv"), &text).unwrap();
    run(dir.path(), "2", &["--redraw", "drawn"]);
    for (name, bytes) in files(&dir.path().join("drawn")) {
        assert!(whole[&name] == bytes, "{name}");
    }
}

/// The committed figure is what the committed numbers draw.
#[test]
fn the_committed_figure_is_drawn_from_its_csv_file() {
    let committed = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../figures/converge"
    ));
    let dir = tempfile::TempDir::new().unwrap();
    fs::copy(
        committed.join("converge.csv"),
        dir.path().join("converge.csv"),
    )
    .unwrap();
    run(dir.path(), "2", &["--redraw", "."]);
    assert!(files(dir.path()) == files(committed));
}
