//! (4.1) from pairs that are there as numbers: rows of an NPY file, of any size, or sparse rows.

use crate::arrays::{self, Allowed};
use crate::json::{Fields, Json};
use crate::npy::NpyRows;
use anyhow::{Context, Result, anyhow, bail};
use rto::estimate::{BtFit, FitOptions, SparseDesign, fit_sparse, fit_stream};
use rto::features::SparseRows;
use serde::Serialize;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What `solve --data` is asked for.
#[derive(Debug, Clone)]
pub struct Data {
    /// X: NPY `[n, d]`, SciPy's NPZ of a CSR matrix, or JSON with `dim`, `indptr`, `indices` and `values`.
    pub rows: PathBuf,
    /// y, `[n]`, NPY: 1 where the row is ψ of the winner less ψ of the loser, 0 or −1 where it is the other way round.
    pub labels: Option<PathBuf>,
    /// The column of an NPY file that is y and no feature.
    pub label_column: Option<usize>,
    /// How to fit.
    pub options: FitOptions,
    /// Bytes of rows that are read together.
    pub stretch: usize,
    /// Whether to draw no progress bar.
    pub quiet: bool,
}

/// The estimate (4.1) and its certificate.
#[derive(Debug, Serialize)]
pub struct DataReport {
    /// n.
    pub n: usize,
    /// d.
    pub d: usize,
    /// θ_MLE, `[d]`.
    pub theta: Vec<f64>,
    /// ‖θ_MLE‖₂.
    pub norm: f64,
    /// L(θ_MLE), without the penalty.
    pub log_likelihood: f64,
    /// Whether ‖θ‖ ≤ B is active.
    pub at_bound: bool,
    /// μ with ∇L − penalty·θ = μθ.
    pub multiplier: f64,
    /// Whether the estimate explains every pair.
    pub separable: bool,
    /// What says that it is the maximiser.
    pub certificate: Certificate,
}

/// What says that an estimate is the maximiser of (4.1).
#[derive(Debug, Serialize)]
pub struct Certificate {
    /// ‖∇L − (penalty + μ)θ‖₂.
    pub residual: f64,
    /// The same for each pair.
    pub residual_per_pair: f64,
    /// What the Newton decrement was asked to be at most, 2·tolerance·√(nd). Small data are solved to the accuracy of floating point, whatever
    /// was asked.
    pub decrement_asked: f64,
    /// Readings of the rows.
    pub readings: usize,
}

/// Fits the rows of a file.
///
/// # Errors
/// One line that names the file, what was found and what was expected.
pub fn fit_data(data: &Data) -> Result<DataReport> {
    let name = || data.rows.display().to_string();
    let extension = data.rows.extension().and_then(|e| e.to_str());
    let (fit, n) = match extension {
        Some("npy") => streamed(data)?,
        Some("npz") => sparse(data, from_npz(&data.rows).with_context(name)?)?,
        Some("json") => sparse(data, from_json(&data.rows).with_context(name)?)?,
        _ => bail!(
            "{}: expected a .npy file of rows, a .npz file of scipy.sparse.save_npz or a .json file of sparse rows",
            name()
        ),
    };
    let d = fit.theta.len();
    Ok(DataReport {
        certificate: Certificate {
            residual: fit.residual,
            residual_per_pair: fit.residual / n.max(1) as f64,
            decrement_asked: 2.0 * data.options.tolerance * ((n * d) as f64).sqrt(),
            readings: fit.passes,
        },
        n,
        d,
        norm: fit.norm,
        log_likelihood: fit.log_likelihood,
        at_bound: fit.at_bound,
        multiplier: fit.multiplier,
        separable: fit.separable,
        theta: fit.theta,
    })
}

fn streamed(data: &Data) -> Result<(BtFit, usize)> {
    let name = || data.rows.display().to_string();
    let mut rows = NpyRows::open(&data.rows, data.label_column, data.quiet).with_context(name)?;
    if let Some(path) = &data.labels {
        let labels = labels(path)?;
        rows.set_labels(&labels)
            .with_context(|| path.display().to_string())?;
    }
    let fit = fit_stream(&mut rows, &data.options, data.stretch).with_context(name)?;
    Ok((fit, rto::estimate::RowSource::n(&rows)))
}

fn labels(path: &Path) -> Result<Vec<f64>> {
    let name = || path.display().to_string();
    let text = path
        .to_str()
        .ok_or_else(|| anyhow!("{}: not UTF-8", name()))?;
    let found = arrays::load(Path::new(""), text).with_context(name)?;
    if found.shape.len() != 1 {
        bail!("{}: found shape {:?}, expected [n]", name(), found.shape);
    }
    Ok(found.values)
}

fn sparse(data: &Data, mut rows: SparseRows) -> Result<(BtFit, usize)> {
    if data.label_column.is_some() {
        bail!("--label-column: sparse rows have none; give --labels");
    }
    if let Some(path) = &data.labels {
        let labels = labels(path)?;
        if labels.len() != rows.n() {
            bail!(
                "{}: found {} labels, expected {}, one for each row",
                path.display(),
                labels.len(),
                rows.n()
            );
        }
        let signs: Result<Vec<f64>> = labels
            .iter()
            .enumerate()
            .map(|(i, y)| sign(i, *y))
            .collect();
        rows = rows.scaled(&signs.with_context(|| path.display().to_string())?)?;
    }
    let n = rows.n();
    let design = SparseDesign::new(rows);
    let fit =
        fit_sparse(&design, &data.options).with_context(|| data.rows.display().to_string())?;
    Ok((fit, n))
}

fn sign(row: usize, label: f64) -> Result<f64> {
    Ok(if crate::npy::swapped(row, label)? {
        -1.0
    } else {
        1.0
    })
}

/// Whole numbers of an array.
fn whole<T: TryFrom<u64>>(name: &str, values: &[f64]) -> Result<Vec<T>> {
    let each = values.iter().enumerate().map(|(i, x)| {
        let fits = x.fract() == 0.0 && (0.0..9e15).contains(x);
        let index = fits.then(|| T::try_from(*x as u64).ok()).flatten();
        index
            .ok_or_else(|| anyhow!("{name}[{i}]: found {x}, expected a whole number of at least 0"))
    });
    each.collect()
}

/// θ has a number for each column, seen or not.
const WIDEST: usize = 100_000_000;

fn check_dim(name: &str, dim: usize) -> Result<()> {
    match dim <= WIDEST {
        true => Ok(()),
        false => bail!("{name}: found {dim}, expected at most {WIDEST} columns"),
    }
}

/// What `scipy.sparse.save_npz` writes of a CSR matrix.
fn from_npz(path: &Path) -> Result<SparseRows> {
    let text = path.to_str().ok_or_else(|| anyhow!("not a UTF-8 path"))?;
    let array = |name: &str| {
        arrays::load(Path::new(""), &format!("{text}:{name}")).with_context(|| {
            format!("expected what scipy.sparse.save_npz writes of a csr_matrix: {name}")
        })
    };
    check_format(path)?;
    let (shape, indptr) = (array("shape")?, array("indptr")?);
    let (indices, values) = (array("indices")?, array("data")?);
    let shape: Vec<usize> = whole("shape", &shape.values)?;
    let [n, d] = shape[..] else {
        bail!("found shape {shape:?}, expected [n, d]");
    };
    check_dim("shape[1]", d)?;
    if indptr.values.len() != n + 1 {
        bail!(
            "found {} values of indptr, expected {} for {n} rows",
            indptr.values.len(),
            n + 1
        );
    }
    let (indptr, indices) = (
        whole("indptr", &indptr.values)?,
        whole("indices", &indices.values)?,
    );
    Ok(SparseRows::try_new(d, indptr, indices, values.values)?)
}

/// Refuses other formats of sparse matrices: the columns of a square one would pass for rows.
fn check_format(path: &Path) -> Result<()> {
    let file = fs::File::open(path).map_err(|e| anyhow!("cannot read: {e}"))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| anyhow!("not an NPZ file: {e}"))?;
    let wanted = "expected what scipy.sparse.save_npz writes of a csr_matrix";
    let member = archive
        .by_name("format.npy")
        .map_err(|_| anyhow!("no array `format`, {wanted}"))?;
    let mut bytes = Vec::new();
    let read = member.take(1 << 10).read_to_end(&mut bytes);
    read.map_err(|e| anyhow!("cannot unpack `format`: {e}"))?;
    // A text of as many bytes as it has letters, at the end.
    if !bytes.ends_with(b"csr") {
        let letters: Vec<u8> = bytes
            .iter()
            .rev()
            .take_while(|b| b.is_ascii_lowercase())
            .copied()
            .collect();
        let found: String = letters.iter().rev().map(|b| char::from(*b)).collect();
        bail!("found the format {found:?}, expected csr (x.tocsr())");
    }
    Ok(())
}

/// `{"dim": d, "indptr": [n + 1], "indices": [m], "values": [m]}`; an array may be a path.
fn from_json(path: &Path) -> Result<SparseRows> {
    let text = fs::read_to_string(path).map_err(|e| anyhow!("cannot read: {e}"))?;
    let mut fields = Fields::of(Json::parse(&text)?, "")?;
    let dim = fields.require("dim")?.index("dim", u32::MAX as usize)?;
    check_dim("dim", dim)?;
    let dir = path.parent().unwrap_or(Path::new(""));
    let mut array = |name: &'static str| -> Result<Vec<f64>> {
        let json = fields.require(name)?;
        Ok(arrays::read(&json, name, &[(name, None)], Allowed::Finite, dir)?.values)
    };
    let (indptr, indices, values) = (array("indptr")?, array("indices")?, array("values")?);
    fields.finish()?;
    let (indptr, indices) = (whole("indptr", &indptr)?, whole("indices", &indices)?);
    Ok(SparseRows::try_new(dim, indptr, indices, values)?)
}
