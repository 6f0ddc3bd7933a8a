//! One safetensors file: reading through a map, writing tensor by tensor.

use super::mmap::map;
use super::stray::stray;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Parses a safetensors header; every failure is one line that names the file.
pub(crate) fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>> {
    SafeTensors::deserialize(bytes).map_err(|e| {
        let n = bytes.len();
        let why = match stray(bytes) {
            Some(what) => what.to_string(),
            None => format!("not a complete safetensors file ({n} bytes): {e}"),
        };
        Error::file(path, why)
    })
}

/// Runs `visit` on the open file.
pub(crate) fn with_file<T>(
    path: &Path,
    visit: impl FnOnce(&SafeTensors) -> Result<T>,
) -> Result<T> {
    let mapped = map(path)?;
    visit(&parse(path, &mapped)?)
}

/// One tensor of an open file, of a floating-point type and finite, as `dtype` (as stored where none is given).
pub(crate) fn tensor(
    path: &Path,
    file: &SafeTensors,
    name: &str,
    dtype: Option<DType>,
    device: &Device,
) -> Result<Tensor> {
    let view = file
        .tensor(name)
        .map_err(|_| Error::file(path, format!("tensor {name}: not there")))?;
    let stored = float_type(view.dtype()).ok_or_else(|| {
        let found = view.dtype();
        let what = match found {
            Dtype::F8_E4M3 | Dtype::F8_E5M2 | Dtype::F8_E8M0 => " (FP8, quantised)",
            Dtype::I8 | Dtype::U8 | Dtype::I32 => " (quantised, by GPTQ, AWQ or bitsandbytes)",
            _ => "",
        };
        Error::file(
            path,
            format!("tensor {name}: found {found:?}{what}, expected F32, F16 or BF16"),
        )
    })?;
    if let Some(index) = first_non_finite(stored, view.data()) {
        return Err(non_finite(path, name, index));
    }
    let dtype = dtype.unwrap_or(stored);
    // Converted before it is copied to the device: a GPU then never holds both.
    let tensor = Tensor::from_raw_buffer(view.data(), stored, view.shape(), &Device::Cpu)?
        .to_dtype(dtype)?;
    Ok(tensor.to_device(device)?)
}

/// Whether every value of a tensor is zero, of whatever type.
pub(crate) fn is_zero(path: &Path, file: &SafeTensors, name: &str) -> Result<bool> {
    let view = file.tensor(name).map_err(|e| Error::file(path, e))?;
    Ok(view.data().iter().all(|byte| *byte == 0))
}

fn float_type(stored: Dtype) -> Option<DType> {
    match stored {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}

fn non_finite(path: &Path, name: &str, index: usize) -> Error {
    Error::file(
        path,
        format!("tensor {name}: value {index} is NaN or infinite"),
    )
}

/// The first value whose exponent bits are all set.
fn first_non_finite(dtype: DType, bytes: &[u8]) -> Option<usize> {
    let half = |mask: u16| {
        let (values, _) = bytes.as_chunks::<2>();
        values
            .iter()
            .position(|v| u16::from_le_bytes(*v) & mask == mask)
    };
    match dtype {
        DType::F16 => half(0x7c00),
        DType::BF16 => half(0x7f80),
        _ => {
            let (values, _) = bytes.as_chunks::<4>();
            let mask = 0x7f80_0000;
            values
                .iter()
                .position(|v| u32::from_le_bytes(*v) & mask == mask)
        }
    }
}

/// The little-endian bytes of a tensor as `dtype`.
fn bytes_of(tensor: &Tensor, dtype: DType) -> Result<Vec<u8>> {
    let flat = tensor
        .to_device(&Device::Cpu)?
        .to_dtype(dtype)?
        .flatten_all()?;
    Ok(match dtype {
        DType::F16 => flat
            .to_vec1::<half::f16>()?
            .into_iter()
            .flat_map(half::f16::to_le_bytes)
            .collect(),
        DType::BF16 => flat
            .to_vec1::<half::bf16>()?
            .into_iter()
            .flat_map(half::bf16::to_le_bytes)
            .collect(),
        _ => flat
            .to_vec1::<f32>()?
            .into_iter()
            .flat_map(f32::to_le_bytes)
            .collect(),
    })
}

/// Name of a type in a safetensors header, and bytes of one value.
pub(crate) fn type_name(dtype: DType) -> Result<(&'static str, usize)> {
    match dtype {
        DType::F32 => Ok(("F32", 4)),
        DType::F16 => Ok(("F16", 2)),
        DType::BF16 => Ok(("BF16", 2)),
        other => Err(Error::request(
            "checkpoint",
            format!("cannot be written as {other:?}, expected F32, F16 or BF16"),
        )),
    }
}

/// Refuses a tensor that holds NaN or infinity, as it would be stored in `dtype`; `path` is named in the error.
///
/// # Errors
/// [`Error::File`] naming the tensor and the first bad value.
pub fn check_finite(path: &Path, name: &str, tensor: &Tensor, dtype: DType) -> Result<()> {
    match first_non_finite(dtype, &bytes_of(tensor, dtype)?) {
        Some(index) => Err(non_finite(path, name, index)),
        None => Ok(()),
    }
}

/// Writes tensors as one safetensors file, converted to `dtype` one at a time, and flushes it to the disk.
///
/// The layout is that of the format's own writers (aligned header, `format: pt`, no gaps); it is written here because
/// a tensor that cannot be brought from its device must end in an error, and only one converted copy may be alive.
///
/// # Errors
/// [`Error::File`] where writing fails or a value is not finite in `dtype`.
pub fn write_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>, dtype: DType) -> Result<()> {
    let failed = |e: std::io::Error| Error::file(path, format!("cannot write: {e}"));
    let (type_name, size) = type_name(dtype)?;
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut end = 0;
    for (name, tensor) in tensors {
        let start = end;
        end += tensor.elem_count() * size;
        let entry =
            json!({"dtype": type_name, "shape": tensor.dims(), "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    let mut header = serde_json::Value::from(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut file = BufWriter::new(File::create_new(path).map_err(failed)?);
    file.write_all(&(header.len() as u64).to_le_bytes())
        .map_err(failed)?;
    file.write_all(header.as_bytes()).map_err(failed)?;
    for (name, tensor) in tensors {
        let bytes = bytes_of(tensor, dtype)?;
        if let Some(index) = first_non_finite(dtype, &bytes) {
            return Err(non_finite(path, name, index));
        }
        file.write_all(&bytes).map_err(failed)?;
    }
    let file = file.into_inner().map_err(|e| failed(e.into_error()))?;
    file.sync_all().map_err(failed)
}
