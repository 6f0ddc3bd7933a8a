//! A card: kernels compiled at run time by NVRTC, products by cuBLAS, everything on one stream.
//!
//! This executor has been type-checked and linted; it has run on no card.
#![allow(unsafe_code)]

use crate::buffer::{Buffer, Element, Owner, Real, fresh_id};
use crate::counting::{check_upload, foreign, unknown_kernel};
use crate::device::{Device, Gemm, Launch};
use crate::refusal::refusal;
use crate::source::{self, Arg, KERNELS, NVRTC_OPTIONS};
use crate::{Error, Result};
use cudarc::cublas::{CudaBlas, result, sys};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::{CompileError, CompileOptions, compile_ptx_with_opts};
use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The device that runs the kernels on a card.
pub struct Cuda {
    stream: Arc<CudaStream>,
    blas: CudaBlas,
    memory: Arc<Memory>,
    /// For f32 and bf16, compiled at the first launch of such a kernel.
    functions: [OnceLock<HashMap<String, CudaFunction>>; 2],
}

#[derive(Default)]
struct Memory(Mutex<Blocks>);

#[derive(Default)]
struct Blocks {
    /// Slices with the bytes that were asked for: a slice has one at least.
    blocks: HashMap<u64, (CudaSlice<u8>, u64)>,
    live: u64,
    peak: u64,
}

impl Memory {
    fn with<R>(&self, f: impl FnOnce(&mut Blocks) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Owner for Memory {
    fn release(&self, id: u64) {
        self.with(|all| {
            if let Some((_, bytes)) = all.blocks.remove(&id) {
                all.live -= bytes;
            }
        });
    }
}

fn driver(e: impl Display) -> Error {
    Error::Driver(e.to_string())
}

/// What a step of opening the card was refused with.
fn refused(step: &str, e: impl Display) -> Error {
    Error::Driver(refusal(step, &e.to_string()))
}

impl Cuda {
    /// The card of this number.
    ///
    /// # Errors
    /// [`Error::Driver`] where there is none, or what it needs is missing.
    pub fn open(ordinal: usize) -> Result<Self> {
        let context = CudaContext::new(ordinal).map_err(|e| refused("opening the GPU", e))?;
        Self::on(context.default_stream())
    }

    /// The card of a stream, which this device then shares: candle's, for example.
    ///
    /// # Errors
    /// As [`Cuda::open`].
    pub fn on(stream: Arc<CudaStream>) -> Result<Self> {
        Ok(Self {
            blas: CudaBlas::new(stream.clone()).map_err(|e| refused("starting cuBLAS", e))?,
            stream,
            memory: Arc::default(),
            functions: Default::default(),
        })
    }

    /// Bytes that the card has free.
    ///
    /// # Errors
    /// [`Error::Driver`] where the driver does not say.
    pub fn free_memory(&self) -> Result<u64> {
        let found = self.stream.context().mem_get_info();
        let (free, _) = found.map_err(|e| refused("asking for its free memory", e))?;
        Ok(free as u64)
    }

    /// What the driver calls the card.
    ///
    /// # Errors
    /// [`Error::Driver`] where it does not say.
    pub fn name(&self) -> Result<String> {
        self.stream.context().name().map_err(driver)
    }

    fn function(&self, launch: &Launch<'_>) -> Result<&CudaFunction> {
        let place = &self.functions[usize::from(launch.real == Real::Bf16)];
        let functions = match place.get() {
            Some(functions) => functions,
            None => {
                let functions = self.compile(launch.real)?;
                place.get_or_init(|| functions)
            }
        };
        let function = functions.get(launch.kernel);
        function.ok_or_else(|| unknown_kernel(launch.kernel))
    }

    fn compile(&self, real: Real) -> Result<HashMap<String, CudaFunction>> {
        let context = self.stream.context();
        let (major, minor) = context.compute_capability().map_err(driver)?;
        let mut options = vec![format!("--gpu-architecture=compute_{major}{minor}")];
        options.extend(NVRTC_OPTIONS.map(String::from));
        if real == Real::Bf16 {
            options.push("-DRTO_BF16".into());
        }
        let options = CompileOptions {
            options,
            name: Some("kernels.cu".into()),
            ..CompileOptions::default()
        };
        let compiled = compile_ptx_with_opts(KERNELS, options).map_err(|e| match e {
            CompileError::CompileError { log, .. } => {
                let log = log.to_string_lossy().into_owned();
                let line = log.lines().find(|l| l.contains("error")).unwrap_or(&log);
                Error::Compile(line.trim().into())
            }
            other => Error::Compile(other.to_string()),
        })?;
        let module = context.load_module(compiled).map_err(driver)?;
        let load = |name: &String| {
            let function = module.load_function(name).map_err(driver)?;
            Ok((name.clone(), function))
        };
        source::own().keys().map(load).collect()
    }
}

/// An argument in the form in which a kernel gets it.
enum Value {
    Pointer(u64),
    I32(i32),
    U32(u32),
    I64(i64),
    F32(f32),
    F64(f64),
}

impl Device for Cuda {
    fn alloc(&self, element: Element, count: usize) -> Result<Buffer> {
        let bytes = count * element.size();
        // SAFETY: bytes of any content are bytes; a program reads none that it has not written, which the emulator checks.
        let block = unsafe { self.stream.alloc::<u8>(bytes.max(1)) }.map_err(driver)?;
        let id = fresh_id();
        self.memory.with(|all| {
            all.live += bytes as u64;
            all.peak = all.peak.max(all.live);
            all.blocks.insert(id, (block, bytes as u64));
        });
        let owner: Arc<dyn Owner> = self.memory.clone();
        Ok(Buffer::new(id, owner, element, count))
    }

    fn upload(&self, to: &Buffer, bytes: &[u8]) -> Result<()> {
        check_upload(to, bytes)?;
        self.memory.with(|all| {
            let block = all.blocks.get_mut(&to.id());
            let (block, _) = block.ok_or_else(|| foreign(to))?;
            if bytes.is_empty() {
                return Ok(());
            }
            let mut part = block.slice_mut(to.offset()..to.offset() + bytes.len());
            self.stream.memcpy_htod(bytes, &mut part).map_err(driver)
        })
    }

    fn download(&self, from: &Buffer) -> Result<Vec<u8>> {
        self.memory.with(|all| {
            let block = all.blocks.get(&from.id());
            let (block, _) = block.ok_or_else(|| foreign(from))?;
            if from.is_empty() {
                return Ok(Vec::new());
            }
            let part = block.slice(from.offset()..from.offset() + from.bytes());
            self.stream.clone_dtoh(&part).map_err(driver)
        })
    }

    fn launch(&self, launch: &Launch<'_>, args: &[Arg<'_>]) -> Result<()> {
        launch.check()?;
        let name = launch.kernel;
        let signature = source::own().get(name);
        let signature = signature.ok_or_else(|| unknown_kernel(name))?;
        signature.check(name, launch.real, args)?;
        let function = self.function(launch)?;
        self.memory.with(|all| {
            let value = |arg: &Arg<'_>| match arg {
                Arg::In(buffer) | Arg::Out(buffer) => {
                    let block = all.blocks.get(&buffer.id());
                    let (block, _) = block.ok_or_else(|| foreign(buffer))?;
                    // One stream: what was asked for before is done before.
                    let (pointer, _) = block.device_ptr(&self.stream);
                    Ok(Value::Pointer(pointer + buffer.offset() as u64))
                }
                Arg::Absent => Ok(Value::Pointer(0)),
                Arg::I32(x) => Ok(Value::I32(*x)),
                Arg::U32(x) => Ok(Value::U32(*x)),
                Arg::I64(x) => Ok(Value::I64(*x)),
                Arg::F32(x) => Ok(Value::F32(*x)),
                Arg::F64(x) => Ok(Value::F64(*x)),
            };
            let values: Vec<Value> = args.iter().map(value).collect::<Result<_>>()?;
            let mut builder = self.stream.launch_builder(function);
            for value in &values {
                match value {
                    Value::Pointer(x) => builder.arg(x),
                    Value::I32(x) => builder.arg(x),
                    Value::U32(x) => builder.arg(x),
                    Value::I64(x) => builder.arg(x),
                    Value::F32(x) => builder.arg(x),
                    Value::F64(x) => builder.arg(x),
                };
            }
            let config = LaunchConfig {
                grid_dim: (launch.grid[0], launch.grid[1], 1),
                block_dim: (launch.block, 1, 1),
                shared_mem_bytes: launch.shared,
            };
            // SAFETY: the arguments have the number and types of the kernel's parameters (checked above, against the text that was
            // compiled), pointers are into allocations that are held, and are freed on this stream, so after the kernel. That a kernel
            // stays within its buffers, given the lengths that `Kernels` checks, is what the emulator's tests are for.
            unsafe { builder.launch(config) }.map_err(driver)?;
            Ok(())
        })
    }

    fn gemm(&self, gemm: &Gemm<'_>) -> Result<()> {
        gemm.check()?;
        if [gemm.m, gemm.n, gemm.batch].contains(&0) {
            return Ok(());
        }
        let int = |x: usize| {
            i32::try_from(x).map_err(|_| Error::Driver(format!("gemm: {x} is above {}", i32::MAX)))
        };
        let stride = |x: usize| x as i64;
        let turned = |t: bool| match t {
            true => sys::cublasOperation_t::CUBLAS_OP_T,
            false => sys::cublasOperation_t::CUBLAS_OP_N,
        };
        let kind = |buffer: &Buffer| match buffer.element() {
            Element::Bf16 => sys::cudaDataType::CUDA_R_16BF,
            _ => sys::cudaDataType::CUDA_R_32F,
        };
        let pointer = |all: &Blocks, buffer: &Buffer| {
            let block = all.blocks.get(&buffer.id());
            let (block, _) = block.ok_or_else(|| foreign(buffer))?;
            let (pointer, _) = block.device_ptr(&self.stream);
            Ok::<u64, Error>(pointer + buffer.offset() as u64)
        };
        self.memory.with(|all| {
            let [a, b, c] = [gemm.a, gemm.b, gemm.c].map(|matrix| pointer(all, matrix.buffer));
            let (a, b, c) = (a?, b?, c?);
            // cuBLAS counts by columns: it sees the transposes of our rows, and Cᵀ = Bᵀ Aᵀ.
            // SAFETY: `Gemm::check` has found every matrix within its buffer, and the buffers are held; alpha and beta are read before
            // the call returns (the handle's pointer mode is the host's).
            unsafe {
                result::gemm_strided_batched_ex(
                    *self.blas.handle(),
                    turned(gemm.b.transposed),
                    turned(gemm.a.transposed),
                    int(gemm.n)?,
                    int(gemm.m)?,
                    int(gemm.k)?,
                    std::ptr::from_ref(&gemm.alpha).cast(),
                    b as *const _,
                    kind(gemm.b.buffer),
                    int(gemm.b.row)?,
                    stride(gemm.b.stride),
                    a as *const _,
                    kind(gemm.a.buffer),
                    int(gemm.a.row)?,
                    stride(gemm.a.stride),
                    std::ptr::from_ref(&gemm.beta).cast(),
                    c as *mut _,
                    kind(gemm.c.buffer),
                    int(gemm.c.row)?,
                    stride(gemm.c.stride),
                    int(gemm.batch)?,
                    sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                    sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
                )
            }
            .map_err(driver)
        })
    }

    fn sync(&self) -> Result<()> {
        self.stream.synchronize().map_err(driver)
    }

    fn peak(&self) -> u64 {
        self.memory.with(|all| all.peak)
    }
}
