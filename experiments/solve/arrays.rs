//! Arrays of numbers, inline or in NPY, NPZ and safetensors files.

use crate::json::Json;
use anyhow::{Context, Result, anyhow, bail};
use ndarray::{ArrayD, IxDyn};
use ndarray_npy::ReadNpyExt;
use safetensors::{Dtype, SafeTensors};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// Values in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

/// One axis: what it counts and, where known, its length.
pub type Axis = (&'static str, Option<usize>);

/// Which values besides finite numbers are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    Finite,
    /// −∞, which JSON spells `null`: a logit of probability 0.
    MinusInfinity,
}

/// `reward[0][2][1]` for a flat index.
pub fn entry(name: &str, shape: &[usize], flat: usize) -> String {
    let mut rest = flat;
    let mut indices = vec![0; shape.len()];
    for (i, len) in indices.iter_mut().zip(shape).rev() {
        *i = rest % (*len).max(1);
        rest /= (*len).max(1);
    }
    let brackets: String = indices.iter().map(|i| format!("[{i}]")).collect();
    format!("{name}{brackets}")
}

/// Reads an array of the given axes; a text is the path of a file, relative to `dir`.
pub fn read(json: &Json, name: &str, axes: &[Axis], allowed: Allowed, dir: &Path) -> Result<Array> {
    let array = match json {
        Json::Text(path) => {
            let array = load(dir, path).with_context(|| format!("{name} ({path})"))?;
            check_shape(&array, axes).with_context(|| format!("{name} ({path})"))?;
            array
        }
        inline => {
            let mut array = Array {
                shape: axes.iter().map(|a| a.1.unwrap_or(0)).collect(),
                values: Vec::new(),
            };
            let mut lengths: Vec<Option<usize>> = axes.iter().map(|a| a.1).collect();
            flatten(inline, name, axes, &mut lengths, allowed, &mut array.values)?;
            for (len, found) in array.shape.iter_mut().zip(&lengths) {
                *len = found.unwrap_or(0);
            }
            array
        }
    };
    let fine =
        |x: f64| x.is_finite() || (allowed == Allowed::MinusInfinity && x == f64::NEG_INFINITY);
    match array.values.iter().position(|x| !fine(*x)) {
        None => Ok(array),
        Some(i) => bail!(
            "{}: found {}, expected a finite number",
            entry(name, &array.shape, i),
            array.values[i]
        ),
    }
}

/// Appends the values of nested lists; a length that is not known yet is the first one met.
fn flatten(
    json: &Json,
    place: &str,
    axes: &[Axis],
    lengths: &mut [Option<usize>],
    allowed: Allowed,
    out: &mut Vec<f64>,
) -> Result<()> {
    let Some((axis, rest)) = axes.split_first() else {
        let x = match json {
            Json::Null if allowed == Allowed::MinusInfinity => f64::NEG_INFINITY,
            other => other.number(place)?,
        };
        out.push(x);
        return Ok(());
    };
    let items = json.list(place)?;
    let (length, lengths) = lengths.split_first_mut().expect("one length for each axis");
    let expected = *length.get_or_insert(items.len());
    if items.len() != expected {
        bail!(
            "{place}: found {} values, expected {expected} ({})",
            items.len(),
            axis.0
        );
    }
    for (i, item) in items.iter().enumerate() {
        flatten(item, &format!("{place}[{i}]"), rest, lengths, allowed, out)?;
    }
    Ok(())
}

fn check_shape(array: &Array, axes: &[Axis]) -> Result<()> {
    let fits = array.shape.len() == axes.len()
        && array
            .shape
            .iter()
            .zip(axes)
            .all(|(len, axis)| axis.1.is_none_or(|want| want == *len));
    if fits {
        return Ok(());
    }
    let want: Vec<String> = axes
        .iter()
        .map(|(name, len)| match len {
            Some(len) => format!("{len} {name}"),
            None => format!("any {name}"),
        })
        .collect();
    bail!(
        "found shape {:?}, expected [{}]",
        array.shape,
        want.join(", ")
    )
}

/// The array that a path names: `a.npy`, `a.npz:name`, `a.safetensors:name`.
pub fn load(dir: &Path, path: &str) -> Result<Array> {
    let (file, name) = split(path);
    let full = dir.join(file);
    let extension = Path::new(file).extension().and_then(|e| e.to_str());
    match extension {
        Some("npy") if name.is_none() => parse_npy(&read_bytes(&full)?),
        Some("npz") => load_npz(&full, name),
        Some("safetensors") => load_safetensors(&read_bytes(&full)?, name),
        _ => bail!(
            "expected a list, or the path of an array: FILE.npy, FILE.npz:NAME or FILE.safetensors:NAME"
        ),
    }
}

/// Splits `file.npz:name`; a colon elsewhere belongs to the path.
fn split(path: &str) -> (&str, Option<&str>) {
    for extension in [".npz:", ".safetensors:"] {
        if let Some(at) = path.rfind(extension) {
            let colon = at + extension.len() - 1;
            return (&path[..colon], Some(&path[colon + 1..]));
        }
    }
    (path, None)
}

fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| anyhow!("cannot read: {e}"))
}

/// The only array of a file without a given name, or an error that lists what there is.
fn pick(names: &[String], wanted: Option<&str>) -> Result<String> {
    match wanted {
        Some(name) if names.iter().any(|n| n == name) => Ok(name.to_string()),
        None if names.len() == 1 => Ok(names[0].clone()),
        Some(name) => bail!("no array `{name}`, the file has {}", shown(names)),
        None => bail!("name one of its arrays after a colon: {}", shown(names)),
    }
}

/// Names as a file has them, on one line.
fn shown(names: &[String]) -> String {
    let escaped: Vec<String> = names.iter().map(|n| n.escape_debug().to_string()).collect();
    escaped.join(", ")
}

/// No compressed array is larger than this once unpacked: a small file of zeros must not fill the memory. An array that is stored as it
/// is has no limit but the file's own size.
const MOST_UNPACKED: u64 = 1 << 28;

fn load_npz(path: &Path, wanted: Option<&str>) -> Result<Array> {
    let file = File::open(path).map_err(|e| anyhow!("cannot read: {e}"))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| anyhow!("not an NPZ file: {e}"))?;
    let names: Vec<String> = archive
        .file_names()
        .map(|n| n.strip_suffix(".npy").unwrap_or(n).to_string())
        .collect();
    let name = pick(&names, wanted)?;
    let full = format!("{name}.npy");
    let full = if archive.file_names().any(|n| n == full) {
        full
    } else {
        name
    };
    let member = archive
        .by_name(&full)
        .map_err(|e| anyhow!("cannot unpack `{}`: {e}", full.escape_debug()))?;
    let limit = match member.compression() {
        zip::CompressionMethod::Stored => u64::MAX,
        _ => MOST_UNPACKED,
    };
    let mut bytes = Vec::new();
    member
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|e| anyhow!("cannot unpack `{}`: {e}", full.escape_debug()))?;
    if bytes.len() as u64 > limit {
        bail!(
            "`{}` unpacks to more than 256 MiB; save arrays so large uncompressed (numpy.savez, numpy.save, or scipy.sparse.save_npz with compressed=False)",
            full.escape_debug()
        );
    }
    parse_npy(&bytes)
}

/// Any of the number types that NumPy and PyTorch write.
fn parse_npy(bytes: &[u8]) -> Result<Array> {
    check_npy_size(bytes)?;
    macro_rules! first_of {
        ($($t:ty),*) => {$(
            if let Ok(a) = ArrayD::<$t>::read_npy(bytes) {
                return Ok(from_array(&a, |x| *x as f64));
            }
        )*};
    }
    first_of!(f32, i64, i32, u8, i8, i16, u16, u32, u64);
    if let Ok(a) = ArrayD::<bool>::read_npy(bytes) {
        return Ok(from_array(&a, |b| f64::from(u8::from(*b))));
    }
    let array = ArrayD::<f64>::read_npy(bytes).map_err(|e| {
        // The header's parser draws a picture of the place, over several lines.
        let said = e.to_string();
        let words: Vec<&str> = said.split_whitespace().collect();
        anyhow!("not a readable NPY array of numbers: {}", words.join(" "))
    })?;
    Ok(from_array(&array, |x| *x))
}

fn from_array<T>(array: &ndarray::Array<T, IxDyn>, number: impl Fn(&T) -> f64) -> Array {
    Array {
        shape: array.shape().to_vec(),
        // Logical order, whatever the order in memory.
        values: array.iter().map(number).collect(),
    }
}

/// Refuses a header that promises more than the file has, before anything of that size is allocated.
fn check_npy_size(bytes: &[u8]) -> Result<()> {
    let broken = || anyhow!("not an NPY file, or cut off");
    if bytes.len() < 12 || &bytes[..6] != b"\x93NUMPY" {
        return Err(broken());
    }
    let (start, len) = if bytes[6] == 1 {
        (10, u16::from_le_bytes([bytes[8], bytes[9]]) as usize)
    } else {
        let len = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        (12, len as usize)
    };
    let header = bytes.get(start..start + len).ok_or_else(broken)?;
    let header = String::from_utf8_lossy(header);
    let shape = header
        .split_once("shape")
        .and_then(|(_, rest)| rest.split_once('('))
        .and_then(|(_, rest)| rest.split_once(')'))
        .ok_or_else(broken)?
        .0;
    let mut count = 1usize;
    for number in shape.split(',').map(str::trim).filter(|n| !n.is_empty()) {
        let n: usize = number.trim_end_matches('L').parse().map_err(|_| broken())?;
        count = count.saturating_mul(n);
    }
    if count > bytes.len() - start - len {
        bail!(
            "cut off: the header says {count} values, {} bytes follow",
            bytes.len() - start - len
        );
    }
    Ok(())
}

/// The value of IEEE 754 binary16 bits.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        e => (1.0 + fraction / 1024.0) * 2f64.powi(e - 15),
    }
}

fn load_safetensors(bytes: &[u8], wanted: Option<&str>) -> Result<Array> {
    let file = SafeTensors::deserialize(bytes)
        .map_err(|e| anyhow!("not a readable safetensors file: {e}"))?;
    let mut names: Vec<String> = file.names().iter().map(ToString::to_string).collect();
    names.sort();
    let name = pick(&names, wanted)?;
    let tensor = file
        .tensor(&name)
        .map_err(|e| anyhow!("tensor `{}`: {e}", name.escape_debug()))?;
    let data = tensor.data();
    macro_rules! decode {
        ($t:ty) => {
            data.chunks_exact(size_of::<$t>())
                .map(|c| <$t>::from_le_bytes(c.try_into().expect("exact chunks")) as f64)
                .collect()
        };
    }
    let values: Vec<f64> = match tensor.dtype() {
        Dtype::F64 => decode!(f64),
        Dtype::F32 => decode!(f32),
        Dtype::F16 => data
            .chunks_exact(2)
            .map(|c| half(u16::from_le_bytes([c[0], c[1]])))
            .collect(),
        Dtype::I64 => decode!(i64),
        Dtype::I32 => decode!(i32),
        Dtype::I16 => decode!(i16),
        Dtype::U8 => decode!(u8),
        Dtype::BF16 => data
            .chunks_exact(2)
            .map(|c| {
                f64::from(f32::from_bits(
                    u32::from(u16::from_le_bytes([c[0], c[1]])) << 16,
                ))
            })
            .collect(),
        other => bail!(
            "tensor `{}`: numbers of type {other:?} are not read",
            name.escape_debug()
        ),
    };
    Ok(Array {
        shape: tensor.shape().to_vec(),
        values,
    })
}

#[cfg(test)]
mod tests;
