//! `solve --data`: (4.1) alone, from rows in files.

use crate::common::{solve, stderr};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rto::estimate::{Design, FitOptions, fit_bradley_terry};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::Path;
use tempfile::tempdir;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// An NPY file by its header.
fn npy(path: &Path, descr: &str, fortran: &str, shape: &str, bytes: &[u8]) {
    let header = format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}");
    let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((length as u16).to_le_bytes());
    out.extend(format!("{header:<width$}\n", width = length - 1).bytes());
    out.extend(bytes);
    fs::write(path, out).unwrap();
}

fn doubles(x: &[f64]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn floats(x: &[f64]) -> Vec<u8> {
    x.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect()
}

/// Full rows as `scipy.sparse.save_npz` writes them.
fn npz(path: &Path, format: &[u8; 3], (n, d): (usize, usize), values: &[f64]) {
    let mut archive = ZipWriter::new(fs::File::create(path).unwrap());
    let dir = tempdir().unwrap();
    let mut put = |name: &str, descr: &str, shape: String, bytes: &[u8]| {
        let file = dir.path().join("member.npy");
        npy(&file, descr, "False", &shape, bytes);
        archive
            .start_file(format!("{name}.npy"), SimpleFileOptions::default())
            .unwrap();
        archive.write_all(&fs::read(&file).unwrap()).unwrap();
    };
    let whole =
        |x: &[usize]| -> Vec<u8> { x.iter().flat_map(|x| (*x as i32).to_le_bytes()).collect() };
    let indptr: Vec<usize> = (0..=n).map(|i| d * i).collect();
    let indices: Vec<usize> = (0..n * d).map(|e| e % d).collect();
    put(
        "indices",
        "'<i4'",
        format!("({},)", n * d),
        &whole(&indices),
    );
    put("indptr", "'<i4'", format!("({},)", n + 1), &whole(&indptr));
    put("format", "'|S3'", "()".into(), format);
    let shape = [n as u64, d as u64].map(u64::to_le_bytes).concat();
    put("shape", "'<i8'", "(2,)".into(), &shape);
    put("data", "'<f8'", format!("({},)", n * d), &doubles(values));
    archive.finish().unwrap();
}

/// Rows that f32 holds exactly, with winners by (3.1).
fn rows(n: usize, d: usize) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let theta: Vec<f64> = (0..d).map(|_| rng.random_range(-1.0..1.0)).collect();
    let mut out = Vec::with_capacity(n * d);
    for _ in 0..n {
        let x: Vec<f64> = (0..d)
            .map(|_| f64::from(rng.random_range(-1.0f32..1.0)))
            .collect();
        let z: f64 = x.iter().zip(&theta).map(|(x, t)| x * t).sum();
        let sign = if rng.random::<f64>() < 1.0 / (1.0 + (-z).exp()) {
            1.0
        } else {
            -1.0
        };
        out.extend(x.iter().map(|x| sign * x));
    }
    out
}

#[track_caller]
fn fitted(args: &[&str], dir: &Path) -> Value {
    let output = solve(&[args, &["--json"]].concat(), dir);
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).expect("one JSON value on standard output")
}

#[track_caller]
fn refused(args: &[&str], dir: &Path, says: &str) {
    let output = solve(args, dir);
    assert!(!output.status.success() && output.stdout.is_empty());
    assert_eq!(stderr(&output).trim_end(), format!("error: {says}"));
}

#[test]
fn rows_of_every_kind_give_one_estimate() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    let (n, d) = (4000, 3);
    let x = rows(n, d);
    let want = fit_bradley_terry(
        &Design::try_new(d, x.clone()).unwrap(),
        &FitOptions::default(),
    )
    .unwrap();
    npy(
        &dir.join("x.npy"),
        "'<f8'",
        "False",
        "(4000, 3)",
        &doubles(&x),
    );
    npy(
        &dir.join("x32.npy"),
        "'<f4'",
        "False",
        "(4000, 3)",
        &floats(&x),
    );
    // Every third pair the other way round.
    let label = |i: usize| if i.is_multiple_of(3) { 0.0 } else { 1.0 };
    let sign = |i: usize| 2.0 * label(i) - 1.0;
    let turned: Vec<f64> = x.iter().enumerate().map(|(e, x)| sign(e / d) * x).collect();
    npy(
        &dir.join("t.npy"),
        "'<f8'",
        "False",
        "(4000, 3)",
        &doubles(&turned),
    );
    let y: Vec<f64> = (0..n).map(label).collect();
    npy(
        &dir.join("y.npy"),
        "'<f8'",
        "False",
        "(4000,)",
        &doubles(&y),
    );
    let mut wide = Vec::new();
    for (i, x) in turned.chunks_exact(d).enumerate() {
        wide.extend([x[0], sign(i), x[1], x[2]]);
    }
    npy(
        &dir.join("w.npy"),
        "'<f4'",
        "False",
        "(4000, 4)",
        &floats(&wide),
    );
    let csr = serde_json::json!({
        "dim": d,
        "indptr": (0..=n).map(|i| d * i).collect::<Vec<_>>(),
        "indices": (0..n * d).map(|e| e % d).collect::<Vec<_>>(),
        "values": turned,
    });
    fs::write(dir.join("s.json"), csr.to_string()).unwrap();
    npz(&dir.join("s.npz"), b"csr", (n, d), &turned);
    npz(&dir.join("csc.npz"), b"csc", (n, d), &turned);
    refused(
        &["--data", "csc.npz"],
        dir,
        "csc.npz: found the format \"csc\", expected csr (x.tocsr())",
    );
    for args in [
        &["--data", "x.npy"][..],
        &["--data", "x32.npy"],
        &["--data", "t.npy", "--labels", "y.npy"],
        &["--data", "w.npy", "--label-column", "1"],
        &["--data", "s.json", "--labels", "y.npy"],
        &["--data", "s.npz", "--labels", "y.npy"],
    ] {
        let got = fitted(args, dir);
        let theta: Vec<f64> = serde_json::from_value(got["theta"].clone()).unwrap();
        assert_eq!(
            (theta, &got["n"], &got["d"]),
            (want.theta.clone(), &Value::from(n), &Value::from(d))
        );
        assert!(got["certificate"]["residual"].as_f64().unwrap() < 1e-9);
    }
    let ball = fitted(&["--data", "x.npy", "--param-bound", "0.5"], dir);
    assert_eq!(
        (&ball["at_bound"], &ball["norm"]),
        (&Value::from(true), &Value::from(0.5))
    );
}

#[test]
fn rows_beyond_the_memory_are_streamed_to_the_same_bits_by_any_stretch() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    let (n, d) = (160_000, 64);
    let mut x = rows(n, d);
    npy(
        &dir.join("x.npy"),
        "'<f4'",
        "False",
        "(160000, 64)",
        &floats(&x),
    );
    let first = fitted(&["--data", "x.npy", "--stretch", "1"], dir);
    for stretch in ["7", "64"] {
        assert_eq!(
            fitted(&["--data", "x.npy", "--stretch", stretch], dir),
            first
        );
    }
    let want = fit_bradley_terry(
        &Design::try_new(d, x.clone()).unwrap(),
        &FitOptions::default(),
    )
    .unwrap();
    let theta: Vec<f64> = serde_json::from_value(first["theta"].clone()).unwrap();
    for (a, b) in theta.iter().zip(&want.theta) {
        assert!((a - b).abs() < 1e-10, "{a} {b}");
    }
    assert!(first["certificate"]["readings"].as_u64().unwrap() <= 10);
    // A column twice.
    x.chunks_exact_mut(d).for_each(|x| x[9] = x[3]);
    npy(
        &dir.join("x.npy"),
        "'<f4'",
        "False",
        "(160000, 64)",
        &floats(&x),
    );
    let output = solve(&["--data", "x.npy"], dir);
    assert!(
        stderr(&output).contains("the columns are linearly dependent, or nearly so"),
        "{}",
        stderr(&output)
    );
    x[64 * 100_000 + 7] = f64::NAN;
    npy(
        &dir.join("x.npy"),
        "'<f4'",
        "False",
        "(160000, 64)",
        &floats(&x),
    );
    refused(
        &["--data", "x.npy"],
        dir,
        "x.npy: row 100000 column 7 is not finite (found NaN)",
    );
}

#[test]
fn every_slip_is_one_line() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    let x = rows(50, 2);
    let put = |descr: &str, fortran: &str, shape: &str, bytes: &[u8]| {
        npy(&dir.join("x.npy"), descr, fortran, shape, bytes)
    };
    let x_npy = &["--data", "x.npy"][..];
    refused(
        x_npy,
        dir,
        "x.npy: cannot read: No such file or directory (os error 2)",
    );
    put("'<f8'", "False", "(50, 2)", &doubles(&x[..99]));
    refused(
        x_npy,
        dir,
        "x.npy: cut off: found 792 bytes of values, expected 50 rows of 2 times 8 bytes",
    );
    put("'<f8'", "False", "(100,)", &doubles(&x));
    refused(
        x_npy,
        dir,
        "x.npy: found shape [100], expected [n, d]: a row for every pair",
    );
    put("'<f8'", "True", "(50, 2)", &doubles(&x));
    refused(
        x_npy,
        dir,
        "x.npy: found Fortran order (columns one after the other), expected C order (numpy.ascontiguousarray)",
    );
    put("'|O'", "False", "(50, 2)", &doubles(&x));
    refused(
        x_npy,
        dir,
        "x.npy: found Python objects, expected float64 or float32 (x.astype(float))",
    );
    put("'<i8'", "False", "(50, 2)", &doubles(&x));
    refused(
        x_npy,
        dir,
        "x.npy: found values of type \"<i8\", expected float64 or float32 (little-endian)",
    );
    fs::write(dir.join("x.npy"), b"1,2\n3,4\n").unwrap();
    refused(
        x_npy,
        dir,
        "x.npy: not an NPY file (expected what numpy.save writes)",
    );
    let mut bad = x.clone();
    bad[7] = f64::INFINITY;
    put("'<f8'", "False", "(50, 2)", &doubles(&bad));
    refused(
        x_npy,
        dir,
        "x.npy: row 3 column 1 is not finite (found inf)",
    );
    put("'<f8'", "False", "(50, 2)", &doubles(&x));
    npy(
        &dir.join("y.npy"),
        "'<f8'",
        "False",
        "(49,)",
        &doubles(&x[..49]),
    );
    let labelled = &["--data", "x.npy", "--labels", "y.npy"][..];
    refused(
        labelled,
        dir,
        "y.npy: found 49 labels, expected 50, one for each row",
    );
    npy(
        &dir.join("y.npy"),
        "'<f8'",
        "False",
        "(50,)",
        &doubles(&[1.0, 2.0].repeat(25)),
    );
    refused(
        labelled,
        dir,
        "y.npy: label of row 1: found 2, expected 1 (the first response won), 0 or -1",
    );
    refused(
        &["--data", "x.npy", "--label-column", "2"],
        dir,
        "x.npy: label column 2: expected one of the 2 columns, from 0",
    );
    refused(
        &["--data", "x.csv"],
        dir,
        "x.csv: expected a .npy file of rows, a .npz file of scipy.sparse.save_npz or a .json file of sparse rows",
    );
    fs::write(
        dir.join("s.json"),
        r#"{"dim": 2, "indptr": [0, 2], "indices": [1, 0], "values": [1, 1]}"#,
    )
    .unwrap();
    refused(
        &["--data", "s.json"],
        dir,
        "s.json: indices[1] (row 0): found 0, must be above 1, the index before it in the row",
    );
    refused(
        &["--data", "x.npy", "--param-bound", "0"],
        dir,
        "x.npy: param_bound: found 0, must be > 0",
    );
    // A column is named as the file has it, behind the label too.
    let labelled: Vec<f64> = (0..6).flat_map(|_| [1.0, 0.5, 0.5]).collect();
    let mut bad = labelled.clone();
    bad[14] = f64::NAN;
    put("'<f8'", "False", "(6, 3)", &doubles(&bad));
    refused(
        &["--data", "x.npy", "--label-column", "0"],
        dir,
        "x.npy: row 4 column 2 is not finite (found NaN)",
    );
    put("'<f8'", "False", "(1, 5000)", &doubles(&[0.5; 5000]));
    refused(
        x_npy,
        dir,
        "x.npy: feature dimension: found 5000, must be at most 4096; sparse rows may have more",
    );
    fs::write(
        dir.join("s.json"),
        r#"{"dim": 4000000000, "indptr": [0, 2], "indices": [0, 1], "values": [1, 1]}"#,
    )
    .unwrap();
    refused(
        &["--data", "s.json"],
        dir,
        "s.json: dim: found 4000000000, expected at most 100000000 columns",
    );
    refused(
        &["--data", "s.json", "--stretch", "4"],
        dir,
        "--stretch: s.json is read whole, expected a .npy file",
    );
    // Before the rows are read.
    fs::create_dir(dir.join("full")).unwrap();
    fs::write(dir.join("full/mine"), "").unwrap();
    let output = solve(&["--data", "gone.npy", "--out", "full"], dir);
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(
        stderr(&output).contains("full") && !stderr(&output).contains("gone"),
        "{}",
        stderr(&output)
    );
}
