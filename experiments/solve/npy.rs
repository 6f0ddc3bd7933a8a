//! NPY files of rows that stay on disk.

use anyhow::{Context, Result, anyhow, bail};
use rto::estimate::RowSource;
use rto_harness::progress::{Bar, Progress};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// What the header of an NPY file says.
struct Header {
    /// Where the values begin.
    start: u64,
    /// Bytes of a value.
    bytes: u64,
    shape: Vec<usize>,
}

impl Header {
    fn read(file: &mut File) -> Result<Self> {
        let mut top = [0; 10];
        let magic = file.read_exact(&mut top);
        if magic.is_err() || &top[..6] != b"\x93NUMPY" {
            bail!("not an NPY file (expected what numpy.save writes)");
        }
        let cut = |_| anyhow!("not an NPY file: its header is cut off");
        let (start, length) = if top[6] == 1 {
            (10, u64::from(u16::from_le_bytes([top[8], top[9]])))
        } else {
            let mut more = [0; 2];
            file.read_exact(&mut more).map_err(cut)?;
            (
                12,
                u64::from(u32::from_le_bytes([top[8], top[9], more[0], more[1]])),
            )
        };
        let mut text = Vec::new();
        let read = file.take(length).read_to_end(&mut text);
        if read.ok() != Some(length as usize) {
            bail!("not an NPY file: its header is cut off");
        }
        let text = String::from_utf8_lossy(&text);
        let value = |key: &str| {
            let rest = text.split_once(&format!("'{key}'"))?.1;
            Some(rest.trim_start().strip_prefix(':')?.trim_start())
        };
        let broken = || anyhow!("not an NPY file: its header has no descr, fortran_order or shape");
        let descr = value("descr").ok_or_else(broken)?;
        let descr = descr.strip_prefix('\'').and_then(|d| d.split_once('\''));
        let kind = descr.map_or("a record", |d| d.0);
        let bytes = match kind {
            "<f8" => 8,
            "<f4" => 4,
            "|O" => bail!("found Python objects, expected float64 or float32 (x.astype(float))"),
            other => bail!(
                "found values of type {:?}, expected float64 or float32 (little-endian)",
                other.chars().take(20).collect::<String>()
            ),
        };
        if value("fortran_order")
            .ok_or_else(broken)?
            .starts_with("True")
        {
            bail!(
                "found Fortran order (columns one after the other), expected C order (numpy.ascontiguousarray)"
            );
        }
        let shape = value("shape").and_then(|s| s.strip_prefix('(')?.split_once(')'));
        let numbers = shape.ok_or_else(broken)?.0.split(',').map(str::trim);
        let shape: Option<Vec<usize>> = numbers
            .filter(|n| !n.is_empty())
            .map(|n| n.parse().ok())
            .collect();
        Ok(Self {
            start: start + length,
            bytes,
            shape: shape.ok_or_else(broken)?,
        })
    }
}

/// The rows of a two-dimensional NPY file, read when they are wanted.
pub struct NpyRows {
    file: File,
    start: u64,
    bytes: u64,
    n: usize,
    columns: usize,
    /// The column that says which response won, and is no feature.
    label: Option<usize>,
    /// Whether row i is ψ(loser) − ψ(winner), `[n]`; empty where none is.
    swapped: Vec<bool>,
    progress: Option<(Progress, Bar)>,
    readings: usize,
    buffer: Vec<f32>,
    wide: Vec<f64>,
}

impl NpyRows {
    /// Opens a file; every slip of its header is named.
    pub fn open(path: &Path, label: Option<usize>, quiet: bool) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| anyhow!("cannot read: {e}"))?;
        let Header {
            start,
            bytes,
            shape,
        } = Header::read(&mut file)?;
        let [n, columns] = shape[..] else {
            bail!("found shape {shape:?}, expected [n, d]: a row for every pair");
        };
        let values = (n as u64)
            .checked_mul(columns as u64)
            .and_then(|v| v.checked_mul(bytes));
        let size = file
            .metadata()
            .map_err(|e| anyhow!("cannot read: {e}"))?
            .len();
        let found = size.saturating_sub(start);
        match values {
            Some(expected) if expected <= found => {}
            _ => bail!(
                "cut off: found {found} bytes of values, expected {n} rows of {columns} times {bytes} bytes"
            ),
        }
        if let Some(label) = label.filter(|l| *l >= columns) {
            bail!("label column {label}: expected one of the {columns} columns, from 0");
        }
        if columns == usize::from(label.is_some()) {
            bail!("found shape {shape:?}, expected at least one feature");
        }
        Ok(Self {
            file,
            start,
            bytes,
            n,
            columns,
            label,
            swapped: Vec::new(),
            progress: (!quiet).then(|| {
                let progress = Progress::new(false);
                let bar = progress.bar(n as u64, "reading the rows");
                (progress, bar)
            }),
            readings: 0,
            buffer: Vec::new(),
            wide: Vec::new(),
        })
    }

    /// Says which response won each pair, from 1 (the first, as the rows have it) and 0 or −1.
    pub fn set_labels(&mut self, labels: &[f64]) -> Result<()> {
        if labels.len() != self.n {
            bail!(
                "found {} labels, expected {}, one for each row",
                labels.len(),
                self.n
            );
        }
        let labels = labels.iter().enumerate();
        self.swapped = labels.map(|(i, y)| swapped(i, *y)).collect::<Result<_>>()?;
        Ok(())
    }

    fn values(&mut self, first: usize, out: &mut [f64]) -> Result<()> {
        let rows = out.len() / self.columns;
        let at = self.start + (first * self.columns) as u64 * self.bytes;
        let failed = || format!("cannot read rows {first} to {}", first + rows);
        self.file.seek(SeekFrom::Start(at)).with_context(failed)?;
        if self.bytes == 8 {
            self.file
                .read_exact(bytemuck::cast_slice_mut(out))
                .with_context(failed)?;
            return Ok(());
        }
        self.buffer.resize(out.len(), 0.0);
        let bytes = bytemuck::cast_slice_mut(&mut self.buffer);
        self.file.read_exact(bytes).with_context(failed)?;
        out.iter_mut()
            .zip(&self.buffer)
            .for_each(|(o, x)| *o = f64::from(*x));
        Ok(())
    }

    fn rows(&mut self, first: usize, out: &mut [f64]) -> Result<()> {
        let d = self.dim();
        match self.label {
            None => self.values(first, out)?,
            Some(label) => {
                let mut wide = std::mem::take(&mut self.wide);
                wide.resize(out.len() / d * self.columns, 0.0);
                self.values(first, &mut wide)?;
                let rows = wide.chunks_exact(self.columns).zip(out.chunks_exact_mut(d));
                for (i, (x, out)) in rows.enumerate() {
                    // By its column in the file, which behind the label is not that of the feature.
                    if let Some(j) = x.iter().position(|x| !x.is_finite()) {
                        bail!(
                            "row {} column {j} is not finite (found {})",
                            first + i,
                            x[j]
                        );
                    }
                    out[..label].copy_from_slice(&x[..label]);
                    out[label..].copy_from_slice(&x[label + 1..]);
                    if swapped(first + i, x[label])? {
                        out.iter_mut().for_each(|x| *x = -*x);
                    }
                }
                self.wide = wide;
            }
        }
        if !self.swapped.is_empty() {
            for (x, swapped) in out.chunks_exact_mut(d).zip(&self.swapped[first..]) {
                if *swapped {
                    x.iter_mut().for_each(|x| *x = -*x);
                }
            }
        }
        Ok(())
    }
}

/// Whether a label says that the second response won.
pub fn swapped(row: usize, label: f64) -> Result<bool> {
    match label {
        1.0 => Ok(false),
        0.0 | -1.0 => Ok(true),
        other => {
            bail!("label of row {row}: found {other}, expected 1 (the first response won), 0 or -1")
        }
    }
}

impl RowSource for NpyRows {
    fn n(&self) -> usize {
        self.n
    }

    fn dim(&self) -> usize {
        self.columns - usize::from(self.label.is_some())
    }

    fn read(&mut self, first: usize, out: &mut [f64]) -> rto::Result<()> {
        let rows = (out.len() / self.dim()) as u64;
        self.rows(first, out).map_err(|e| rto::Error::Stopped {
            source: std::io::Error::other(format!("{e:#}")).into(),
        })?;
        if let Some((progress, bar)) = &mut self.progress {
            if first == 0 {
                self.readings += 1;
                *bar = progress.bar(self.n as u64, format!("reading {}", self.readings));
            }
            bar.inc(rows);
        }
        Ok(())
    }
}
