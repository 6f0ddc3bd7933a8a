//! What a program asks of a device.

use crate::buffer::{Buffer, Element, Real};
use crate::source::Arg;
use crate::{Error, Result};
use half::bf16;

/// A kernel and how many threads run it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch<'a> {
    /// Its name in [`KERNELS`](crate::KERNELS).
    pub kernel: &'a str,
    /// The type of weights and activations.
    pub real: Real,
    /// Blocks in x and y.
    pub grid: [u32; 2],
    /// Threads of a block, a multiple of 32, at most 1,024.
    pub block: u32,
    /// Bytes of shared memory, at most 48 KiB.
    pub shared: u32,
}

impl Launch<'_> {
    /// # Errors
    /// [`Error::Launch`] for a shape that no device runs.
    pub(crate) fn check(&self) -> Result<()> {
        let why = match self {
            l if l.block == 0 || l.block > 1024 || !l.block.is_multiple_of(32) => {
                format!(
                    "found {} threads, expected a multiple of 32 up to 1024",
                    l.block
                )
            }
            l if l.shared > 48 << 10 => {
                format!(
                    "found {} bytes of shared memory, expected at most 49152",
                    l.shared
                )
            }
            l if l.grid[0] == 0
                || l.grid[1] == 0
                || l.grid[0] > i32::MAX as u32
                || l.grid[1] > 65535 =>
            {
                format!(
                    "found {:?} blocks, expected 1 to 2147483647 and 1 to 65535",
                    l.grid
                )
            }
            _ => return Ok(()),
        };
        Err(Error::Launch {
            kernel: self.kernel.into(),
            why,
        })
    }
}

/// A matrix within a buffer, or its transpose; of a batch, `stride` elements lie between one and the next.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// The elements, row-major, the first matrix at the buffer's start.
    pub buffer: &'a Buffer,
    /// Elements from one stored row to the next.
    pub row: usize,
    /// Elements from one matrix of the batch to the next; 0 for the same.
    pub stride: usize,
    /// Whether the product takes the transpose of what is stored.
    pub transposed: bool,
}

impl<'a> Matrix<'a> {
    /// Rows of `row` elements, one matrix.
    pub fn rows(buffer: &'a Buffer, row: usize) -> Self {
        Self {
            buffer,
            row,
            stride: 0,
            transposed: false,
        }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self {
            transposed: !self.transposed,
            ..self
        }
    }

    /// A batch, `stride` elements apart.
    pub fn every(self, stride: usize) -> Self {
        Self { stride, ..self }
    }
}

/// `C = alpha A B + beta C` with A `[m, k]`, B `[k, n]`, C `[m, n]`, for each of a batch; products of bf16 or f32, sums in f32, C of
/// either type.
#[derive(Debug, Clone, Copy)]
pub struct Gemm<'a> {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Columns of A, rows of B.
    pub k: usize,
    /// How many products.
    pub batch: usize,
    /// Factor on the products.
    pub alpha: f32,
    /// Factor on what C holds; what it holds is not read where this is 0.
    pub beta: f32,
    /// A, the left factor.
    pub a: Matrix<'a>,
    /// B, the right factor.
    pub b: Matrix<'a>,
    /// C, not transposed.
    pub c: Matrix<'a>,
}

impl Gemm<'_> {
    /// Multiplications and additions, `2 m n k` a product.
    pub fn flops(&self) -> u64 {
        2 * [self.m, self.n, self.k, self.batch]
            .map(|x| x as u64)
            .iter()
            .product::<u64>()
    }

    /// # Errors
    /// [`Error::Buffer`] for a matrix that leaves its buffer or has another type.
    pub(crate) fn check(&self) -> Result<()> {
        let shapes = [
            ("a", self.a, self.m, self.k),
            ("b", self.b, self.k, self.n),
            ("c", self.c, self.m, self.n),
        ];
        for (name, matrix, rows, columns) in shapes {
            let (rows, columns) = if matrix.transposed {
                (columns, rows)
            } else {
                (rows, columns)
            };
            let used = match (self.batch, rows, columns) {
                (0, ..) | (_, 0, _) | (.., 0) => 0,
                _ => (self.batch - 1) * matrix.stride + (rows - 1) * matrix.row + columns,
            };
            let element = matrix.buffer.element();
            let fits = matrix.buffer.len() >= used
                && (columns <= matrix.row || rows <= 1)
                && matches!(element, Element::F32 | Element::Bf16)
                && !(name == "c" && matrix.transposed);
            if !fits {
                return Err(Error::Buffer {
                    what: format!("gemm: {name}"),
                    found: format!("{matrix:?}"),
                    expected: format!("{used} floats in rows of at least {columns}"),
                });
            }
        }
        if self.a.buffer.element() != self.b.buffer.element() {
            return Err(Error::Buffer {
                what: "gemm: b".into(),
                found: format!("{:?}", self.b.buffer.element()),
                expected: format!("{:?} as a", self.a.buffer.element()),
            });
        }
        Ok(())
    }
}

/// Memory, kernels and matrix products, in the order in which they are asked for.
pub trait Device {
    /// Memory for `count` elements; what it holds is not defined.
    ///
    /// # Errors
    /// [`Error::Driver`] where there is none left.
    fn alloc(&self, element: Element, count: usize) -> Result<Buffer>;

    /// Copies bytes in the machine's order to all of a buffer.
    ///
    /// # Errors
    /// [`Error::Buffer`] for another number of bytes or a foreign buffer.
    fn upload(&self, to: &Buffer, bytes: &[u8]) -> Result<()>;

    /// The bytes of a buffer.
    ///
    /// # Errors
    /// [`Error::Buffer`] for a foreign buffer.
    fn download(&self, from: &Buffer) -> Result<Vec<u8>>;

    /// Runs a kernel.
    ///
    /// # Errors
    /// [`Error::Launch`] for arguments that do not fit; [`Error::Fault`] where an executor sees the kernel go wrong.
    fn launch(&self, launch: &Launch<'_>, args: &[Arg<'_>]) -> Result<()>;

    /// Multiplies matrices.
    ///
    /// # Errors
    /// [`Error::Buffer`] for a matrix that leaves its buffer.
    fn gemm(&self, gemm: &Gemm<'_>) -> Result<()>;

    /// Waits until everything that was asked for is done.
    ///
    /// # Errors
    /// [`Error::Driver`] for what failed meanwhile.
    fn sync(&self) -> Result<()>;

    /// The most bytes that were allocated at once.
    fn peak(&self) -> u64;
}

/// Copies values to all of a buffer of floats, rounded where they are bf16.
///
/// # Errors
/// As [`Device::upload`]; [`Error::Buffer`] for one of integers.
pub fn write_f32(device: &dyn Device, to: &Buffer, values: &[f32]) -> Result<()> {
    let bytes: Vec<u8> = match to.element() {
        Element::F32 => values.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        Element::Bf16 => values
            .iter()
            .flat_map(|&x| bf16::from_f32(x).to_ne_bytes())
            .collect(),
        other => return Err(not_floats(other)),
    };
    device.upload(to, &bytes)
}

fn not_floats(found: Element) -> Error {
    Error::Buffer {
        what: "floats".into(),
        found: format!("{found:?}"),
        expected: "F32 or Bf16".into(),
    }
}

/// A new buffer of weights or activations with these values, rounded where they are bf16.
///
/// # Errors
/// As [`Device::alloc`] and [`Device::upload`].
pub fn upload_f32(device: &dyn Device, real: Real, values: &[f32]) -> Result<Buffer> {
    let buffer = device.alloc(real.element(), values.len())?;
    write_f32(device, &buffer, values)?;
    Ok(buffer)
}

/// A new buffer of tokens, positions or orders.
///
/// # Errors
/// As [`upload_f32`].
pub fn upload_u32(device: &dyn Device, values: &[u32]) -> Result<Buffer> {
    let buffer = device.alloc(Element::U32, values.len())?;
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_ne_bytes()).collect();
    device.upload(&buffer, &bytes)?;
    Ok(buffer)
}

/// A new buffer of doubles.
///
/// # Errors
/// As [`upload_f32`].
pub fn upload_f64(device: &dyn Device, values: &[f64]) -> Result<Buffer> {
    let buffer = device.alloc(Element::F64, values.len())?;
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_ne_bytes()).collect();
    device.upload(&buffer, &bytes)?;
    Ok(buffer)
}

/// The values of a buffer of floats.
///
/// # Errors
/// As [`Device::download`]; [`Error::Buffer`] for one of integers.
pub fn download_f32(device: &dyn Device, buffer: &Buffer) -> Result<Vec<f32>> {
    let bytes = device.download(buffer)?;
    match buffer.element() {
        Element::F32 => {
            let (words, _) = bytes.as_chunks::<4>();
            Ok(words.iter().map(|w| f32::from_ne_bytes(*w)).collect())
        }
        Element::Bf16 => {
            let (words, _) = bytes.as_chunks::<2>();
            let value = |w: &[u8; 2]| bf16::from_ne_bytes(*w).to_f32();
            Ok(words.iter().map(value).collect())
        }
        other => Err(not_floats(other)),
    }
}
