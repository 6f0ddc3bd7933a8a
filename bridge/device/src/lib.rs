//! One program, several executors: the kernels of training and generation, and what runs them.
//!
//! A program that trains or generates allocates [`Buffer`]s, launches kernels by name and multiplies matrices through the trait
//! [`Device`]. The kernels are one text, [`KERNELS`], in CUDA C++; what they compute, with equations and layouts, is said there and at
//! the methods of [`Kernels`], which check shapes and choose the launch. [`Attention`] and [`OutputHead`] put kernels and products together.
//! Executors:
//!
//! | executor | what it does |
//! |---|---|
//! | [`Slices`] | computes what the kernels compute, in loops over slices on one thread of the processor |
//! | [`Emulated`] | compiles the same text with the C++ compiler of the machine and runs the exact launches on the processor, the threads of a block in one of several [`Order`]s, with guards around every allocation |
//! | `Cuda`, with the feature `cuda` | runs them on a card: NVRTC, cuBLAS, one stream. Type-checked; it has run on no card |
//! | [`Counting`] | computes nothing: live and peak bytes, floating-point operations, traffic and launches of a program, before it is run |
//!
//! ```
//! use rto_device::{Counting, Device, Element, Gemm, Kernels, Real};
//!
//! let device = Counting::new();
//! let kernels = Kernels::new(&device, Real::Bf16);
//! let x = device.alloc(Element::Bf16, 512 * 64)?;
//! let (gain, bias) = (device.alloc(Element::Bf16, 64)?, device.alloc(Element::Bf16, 64)?);
//! let (y, stats) = (device.alloc(Element::Bf16, 512 * 64)?, device.alloc(Element::F32, 2 * 512)?);
//! kernels.layer_norm(&x, &gain, &bias, &y, &stats, 1e-5)?;
//! assert_eq!(device.usage().launches, 1);
//! assert_eq!(device.peak(), 2 * (2 * 512 * 64 + 2 * 64) + 4 * 2 * 512);
//! # Ok::<(), rto_device::Error>(())
//! ```

mod attention;
mod buffer;
mod counting;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
mod emulated;
mod error;
mod kernels;
pub mod network;
mod output_head;
mod refusal;
mod slices;
mod source;

pub use attention::{Attention, AttentionTape};
pub use buffer::{Buffer, Element, Real};
pub use counting::{Counting, Usage};
#[cfg(feature = "cuda")]
pub use cuda::Cuda;
pub use device::{
    Device, Gemm, Launch, Matrix, download_f32, upload_f32, upload_f64, upload_u32, write_f32,
};
pub use emulated::{Emulated, Order};
pub use error::{Error, Result};
pub use kernels::{
    Activation, Adam, Angles, Bend, Cache, Codes, Draw, Eight, Head, HeadGrad, Heads, Kernels,
    NO_ROW, Rows, Scoring, Texts, Tile, Weights,
};
pub use output_head::{Distribution, OutputHead};
pub use refusal::refusal;
pub use slices::Slices;
pub use source::{Arg, KERNELS, NVRTC_OPTIONS, names};
