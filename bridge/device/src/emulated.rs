//! The kernels on the processor: compiled by the machine's C++ compiler, run launch by launch.
//!
//! What CUDA leaves to the device is made visible here. Fresh memory and shared memory hold NaN. The threads of a block run in the
//! [`Order`] that was asked for, each until it waits; a result that depends on it differs between orders. Around every allocation lie
//! [`GUARD`] bytes that are looked at after each launch. A barrier that not all threads reach is an error. Two things stay hidden: races
//! within one run of a thread between two waits, where no order of whole runs shows them, and what depends on a device's own
//! arithmetic (its `expf`, `tanhf`, `erfcf`, `logf` are not the processor's).

mod ffi;

use crate::buffer::{Buffer, Element, Owner, Real, fresh_id};
use crate::counting::{check_upload, foreign, unknown_kernel};
use crate::device::{Device, Gemm, Launch, Matrix};
use crate::source::{self, Arg, KERNELS, Signature};
use crate::{Error, Result};
use ffi::{Compiled, Shape, Value};
use half::bf16;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

const HEADER: &str = include_str!("emulated/emulator.h");

/// Bytes on either side of an allocation.
const GUARD: usize = 1 << 12;
/// What guards and fresh memory hold: NaN as a float and as two bfloat16, and signalling, so that arithmetic changes its bits.
const POISON: [u8; 4] = 0x7fa1_7fa1_u32.to_ne_bytes();

/// The order in which threads and blocks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The first that can run.
    Forward,
    /// The last that can run.
    Reversed,
    /// Any that can run, chosen again at every wait.
    Random(u64),
}

/// The device that runs the kernels on the processor.
pub struct Emulated {
    kernels: Arc<Kernels>,
    memory: Arc<Memory>,
    order: Order,
}

/// One text, and what was compiled of it so far.
struct Kernels {
    text: String,
    signatures: BTreeMap<String, Signature>,
    /// Flags of the compiler besides the usual ones.
    flags: &'static [&'static str],
    /// For f32 and bf16, at the first launch of such a kernel.
    compiled: [OnceLock<Arc<Compiled>>; 2],
}

impl Kernels {
    fn compiled(&self, real: Real) -> Result<&Compiled> {
        let place = &self.compiled[usize::from(real == Real::Bf16)];
        if let Some(compiled) = place.get() {
            return Ok(compiled);
        }
        // Two threads may both come here; they get the same.
        let compiled = compile(&self.text, &self.signatures, self.flags, real)?;
        Ok(place.get_or_init(|| compiled))
    }
}

#[derive(Default)]
struct Memory(Mutex<Blocks>);

#[derive(Default)]
struct Blocks {
    blocks: HashMap<u64, Guarded>,
    live: u64,
    peak: u64,
}

/// An allocation between two guards.
struct Guarded {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Guarded {
    fn new(len: usize) -> Self {
        let mut bytes = vec![0; len + 2 * GUARD + 64];
        let start = bytes.as_ptr().align_offset(64) + GUARD;
        let first = start - GUARD;
        let (words, _) = bytes[first..].as_chunks_mut::<4>();
        words.fill(POISON);
        Self { bytes, start, len }
    }

    fn values(&self) -> &[u8] {
        &self.bytes[self.start..][..self.len]
    }

    fn values_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.len]
    }

    /// Where a guard was written to, in bytes from the allocation's start.
    fn broken(&self) -> Option<isize> {
        let (first, end) = (self.start - GUARD, self.start + self.len);
        let word = |at: usize| first + (at - first).next_multiple_of(4);
        let whole = |from: usize, to: usize| {
            let (words, _) = self.bytes[from..to].as_chunks::<4>();
            words.iter().all(|w| *w == POISON)
        };
        let byte = |i: &usize| self.bytes[*i] != POISON[(i - first) % 4];
        let edge = word(end);
        if whole(first, self.start) && whole(edge, edge + GUARD) && !(end..edge).any(|i| byte(&i)) {
            return None;
        }
        let at = (first..self.start).chain(end..edge + GUARD).find(byte)?;
        Some(at as isize - self.start as isize)
    }
}

impl Memory {
    fn with<R>(&self, f: impl FnOnce(&mut Blocks) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Owner for Memory {
    fn release(&self, id: u64) {
        self.with(|all| {
            if let Some(block) = all.blocks.remove(&id) {
                all.live -= block.len as u64;
            }
        });
    }
}

impl Emulated {
    /// The kernels of this crate, compiled at the first launch on a machine, for each type of weights: by `$CXX`, else `g++` or `c++`.
    ///
    /// The compiled library is kept in `$RTO_CACHE`, `$XDG_CACHE_HOME/rto` or `~/.cache/rto`, under a name made of everything that went
    /// into it; without any of these folders it is made anew.
    ///
    /// # Errors
    /// [`Error::NoCompiler`]; [`Error::Compile`] for a text that is no list of kernels. Launches report what the compiler refuses.
    pub fn new(order: Order) -> Result<Self> {
        Self::with_text(KERNELS, order)
    }

    /// Kernels from another text, in the form of [`KERNELS`].
    ///
    /// # Errors
    /// As [`Emulated::new`].
    pub fn with_text(text: &str, order: Order) -> Result<Self> {
        Self::with_flags(text, &[], order)
    }

    fn with_flags(text: &str, flags: &'static [&'static str], order: Order) -> Result<Self> {
        compiler()?;
        let kernels = Kernels {
            text: text.into(),
            signatures: source::signatures(text)?,
            flags,
            compiled: Default::default(),
        };
        Ok(Self {
            kernels: Arc::new(kernels),
            memory: Arc::default(),
            order,
        })
    }

    /// Kernels from a text, those alone that `wanted` names.
    ///
    /// # Errors
    /// As [`Emulated::new`].
    pub fn with_part(text: &str, wanted: &[&str], order: Order) -> Result<Self> {
        Self::with_text(&source::only(text, wanted), order)
    }

    /// The same kernels with memory of their own, in another order.
    pub fn in_order(&self, order: Order) -> Self {
        Self {
            kernels: self.kernels.clone(),
            memory: Arc::default(),
            order,
        }
    }

    /// Which guard was written to, if any.
    fn check_guards(&self, all: &Blocks, kernel: &str, args: &[Arg<'_>]) -> Result<()> {
        for arg in args {
            let (Arg::In(buffer) | Arg::Out(buffer)) = arg else {
                continue;
            };
            let Some(at) = all.blocks.get(&buffer.id()).and_then(Guarded::broken) else {
                continue;
            };
            let why = format!("wrote at byte {at} of an allocation around {buffer:?}");
            return Err(Error::Fault {
                kernel: kernel.into(),
                why,
            });
        }
        Ok(())
    }
}

impl Device for Emulated {
    fn alloc(&self, element: Element, count: usize) -> Result<Buffer> {
        let id = fresh_id();
        let block = Guarded::new(count * element.size());
        self.memory.with(|all| {
            all.live += block.len as u64;
            all.peak = all.peak.max(all.live);
            all.blocks.insert(id, block);
        });
        let owner: Arc<dyn Owner> = self.memory.clone();
        Ok(Buffer::new(id, owner, element, count))
    }

    fn upload(&self, to: &Buffer, bytes: &[u8]) -> Result<()> {
        check_upload(to, bytes)?;
        self.memory.with(|all| {
            let block = all.blocks.get_mut(&to.id()).ok_or_else(|| foreign(to))?;
            block.values_mut()[to.offset()..][..bytes.len()].copy_from_slice(bytes);
            Ok(())
        })
    }

    fn download(&self, from: &Buffer) -> Result<Vec<u8>> {
        self.memory.with(|all| {
            let block = all.blocks.get(&from.id()).ok_or_else(|| foreign(from))?;
            Ok(block.values()[from.offset()..][..from.bytes()].to_vec())
        })
    }

    fn launch(&self, launch: &Launch<'_>, args: &[Arg<'_>]) -> Result<()> {
        launch.check()?;
        let name = launch.kernel;
        let signature = self.kernels.signatures.get(name);
        let signature = signature.ok_or_else(|| unknown_kernel(name))?;
        signature.check(name, launch.real, args)?;
        let (order, seed) = match self.order {
            Order::Forward => (0, 0),
            Order::Reversed => (1, 0),
            Order::Random(seed) => (2, seed),
        };
        let shape = Shape {
            grid: launch.grid,
            block: launch.block,
            shared: launch.shared,
            order,
            seed,
        };
        let compiled = self.kernels.compiled(launch.real)?;
        self.memory.with(|all| {
            let value = |arg: &Arg<'_>| match arg {
                Arg::In(buffer) | Arg::Out(buffer) => {
                    let block = all.blocks.get_mut(&buffer.id());
                    let block = block.ok_or_else(|| foreign(buffer))?;
                    let at = block.start + buffer.offset();
                    Ok(Value::Pointer(block.bytes.as_mut_ptr().wrapping_add(at)))
                }
                Arg::Absent => Ok(Value::Pointer(std::ptr::null_mut())),
                Arg::I32(x) => Ok(Value::I32(*x)),
                Arg::U32(x) => Ok(Value::U32(*x)),
                Arg::I64(x) => Ok(Value::I64(*x)),
                Arg::F32(x) => Ok(Value::F32(*x)),
                Arg::F64(x) => Ok(Value::F64(*x)),
            };
            let values: Vec<Value> = args.iter().map(value).collect::<Result<_>>()?;
            if let Some(why) = compiled.run(name, &values, &shape) {
                return Err(Error::Fault {
                    kernel: name.into(),
                    why,
                });
            }
            self.check_guards(all, name, args)
        })
    }

    fn gemm(&self, gemm: &Gemm<'_>) -> Result<()> {
        gemm.check()?;
        self.memory.with(|all| {
            let read = |matrix: Matrix<'_>| {
                let buffer = matrix.buffer;
                let block = all
                    .blocks
                    .get(&buffer.id())
                    .ok_or_else(|| foreign(buffer))?;
                let bytes = &block.values()[buffer.offset()..][..buffer.bytes()];
                Ok(floats(bytes, buffer.element()))
            };
            let (a, b, mut c) = (read(gemm.a)?, read(gemm.b)?, read(gemm.c)?);
            multiply(gemm, &a, &b, &mut c);
            let buffer = gemm.c.buffer;
            let block = all.blocks.get_mut(&buffer.id());
            let block = block.ok_or_else(|| foreign(buffer))?;
            let bytes = &mut block.values_mut()[buffer.offset()..][..buffer.bytes()];
            put_floats(&c, buffer.element(), bytes);
            Ok(())
        })
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn peak(&self) -> u64 {
        self.memory.with(|all| all.peak)
    }
}

fn floats(bytes: &[u8], element: Element) -> Vec<f32> {
    match element {
        Element::Bf16 => {
            let (words, _) = bytes.as_chunks::<2>();
            let value = |w: &[u8; 2]| bf16::from_ne_bytes(*w).to_f32();
            words.iter().map(value).collect()
        }
        _ => {
            let (words, _) = bytes.as_chunks::<4>();
            words.iter().map(|w| f32::from_ne_bytes(*w)).collect()
        }
    }
}

fn put_floats(values: &[f32], element: Element, bytes: &mut [u8]) {
    match element {
        Element::Bf16 => {
            let (words, _) = bytes.as_chunks_mut::<2>();
            for (w, x) in words.iter_mut().zip(values) {
                *w = bf16::from_f32(*x).to_ne_bytes();
            }
        }
        _ => {
            let (words, _) = bytes.as_chunks_mut::<4>();
            for (w, x) in words.iter_mut().zip(values) {
                *w = x.to_ne_bytes();
            }
        }
    }
}

/// Sums in f32, in the order of k.
fn multiply(g: &Gemm<'_>, a: &[f32], b: &[f32], c: &mut [f32]) {
    let at = |matrix: &Matrix<'_>, batch: usize, i: usize, j: usize| {
        let (i, j) = if matrix.transposed { (j, i) } else { (i, j) };
        batch * matrix.stride + i * matrix.row + j
    };
    let mut sums = vec![0.0f32; g.n];
    for batch in 0..g.batch {
        for i in 0..g.m {
            sums.fill(0.0);
            for k in 0..g.k {
                let x = a[at(&g.a, batch, i, k)];
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum += x * b[at(&g.b, batch, k, j)];
                }
            }
            for (j, sum) in sums.iter().enumerate() {
                let c = &mut c[at(&g.c, batch, i, j)];
                let old = if g.beta == 0.0 { 0.0 } else { g.beta * *c };
                *c = g.alpha * sum + old;
            }
        }
    }
}

/// The text that the compiler gets: header, kernels, and for each kernel a function that takes its arguments as an array.
fn whole_text(text: &str, signatures: &BTreeMap<String, Signature>) -> String {
    let mut all = format!("{HEADER}\n#line 1 \"kernels.cu\"\n{text}\n");
    for (name, parameters) in signatures {
        let arguments: Vec<String> = parameters
            .0
            .iter()
            .enumerate()
            .map(|(i, (parameter, _))| format!("*({} *)a[{i}]", parameter.c_type()))
            .collect();
        let arguments = arguments.join(", ");
        writeln!(
            all,
            "extern \"C\" void rto_call_{name}(void **a) {{ {name}({arguments}); }}"
        )
        .expect("a text takes all");
    }
    all
}

fn compiler() -> Result<(String, String)> {
    let own = std::env::var("CXX").ok().filter(|c| !c.trim().is_empty());
    let candidates = own.map_or_else(|| vec!["g++".into(), "c++".into()], |c| vec![c]);
    for name in &candidates {
        if let Ok(out) = Command::new(name).arg("--version").output()
            && out.status.success()
        {
            let version = String::from_utf8_lossy(&out.stdout).into_owned();
            return Ok((name.clone(), version));
        }
    }
    Err(Error::NoCompiler(format!(
        "{} cannot be run; install one, or name it in CXX",
        candidates.join(" and ")
    )))
}

fn cache() -> Option<PathBuf> {
    let folder = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    folder("RTO_CACHE")
        .or_else(|| folder("XDG_CACHE_HOME").map(|f| f.join("rto")))
        .or_else(|| folder("HOME").map(|f| f.join(".cache").join("rto")))
}

fn compile(
    text: &str,
    signatures: &BTreeMap<String, Signature>,
    more: &[&str],
    real: Real,
) -> Result<Arc<Compiled>> {
    let (compiler, version) = compiler()?;
    let mut flags = vec!["-O1", "-std=c++17", "-fPIC", "-shared", "-w"];
    flags.extend([
        "-ffp-contract=off",
        "-fno-strict-aliasing",
        "-Wl,-Bsymbolic",
    ]);
    if real == Real::Bf16 {
        flags.push("-DRTO_BF16");
    }
    flags.extend(more);
    let text = whole_text(text, signatures);
    let digest = Sha256::new()
        .chain_update(&compiler)
        .chain_update(&version)
        .chain_update(flags.join(" "))
        .chain_update(std::env::consts::ARCH)
        .chain_update(&text)
        .finalize();
    let digest: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    let failed = |path: &Path, e: std::io::Error| Error::Library {
        path: path.display().to_string(),
        why: e.to_string(),
    };
    let kept = cache().map(|folder| folder.join(format!("kernels-{digest}.so")));
    // One process loads a file once: a second copy would be the same variables under another lock.
    static LOADED: Mutex<BTreeMap<PathBuf, Arc<Compiled>>> = Mutex::new(BTreeMap::new());
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut load = |path: &Path| -> Result<Arc<Compiled>> {
        if let Some(known) = loaded.get(path) {
            return Ok(known.clone());
        }
        let compiled = Arc::new(Compiled::load(path, signatures.keys())?);
        loaded.insert(path.into(), compiled.clone());
        Ok(compiled)
    };
    if let Some(path) = kept.as_ref().filter(|p| p.is_file()) {
        return load(path);
    }
    let temporary = tempfile::Builder::new()
        .prefix("rto-kernels-")
        .tempdir()
        .map_err(|e| failed(&std::env::temp_dir(), e))?;
    let (source, library) = (
        temporary.path().join("kernels.cpp"),
        temporary.path().join("kernels.so"),
    );
    std::fs::write(&source, &text).map_err(|e| failed(&source, e))?;
    let out = Command::new(&compiler)
        .args(&flags)
        .arg("-o")
        .args([&library, &source])
        .output()
        .map_err(|e| Error::NoCompiler(format!("{compiler}: {e}")))?;
    if !out.status.success() {
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        let line = text.lines().find(|l| l.contains("error")).unwrap_or(&text);
        return Err(Error::Compile(line.trim().into()));
    }
    let Some(path) = kept else {
        return Compiled::load(&library, signatures.keys()).map(Arc::new);
    };
    // Under its name at once, whole: another process may make the same.
    let keep = |path: &Path| -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        std::io::copy(&mut std::fs::File::open(&library)?, &mut file)?;
        file.persist(path)?;
        Ok(())
    };
    match keep(&path) {
        Ok(()) => load(&path),
        // A folder that cannot be written to keeps nothing.
        Err(_) => Compiled::load(&library, signatures.keys()).map(Arc::new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kernels as Launches, download_f32, upload_f32};

    /// Fibres by the C library, where there is no switch of our own, do what our switch does.
    #[test]
    fn both_kinds_of_fibres_agree() {
        let part = source::only(KERNELS, &["layer_norm"]);
        let norm = |flags: &'static [&'static str], order| -> Result<Vec<u32>> {
            let device = Emulated::with_flags(&part, flags, order)?;
            let x: Vec<f32> = (0..300).map(|i| (i as f32).sin()).collect();
            let x = upload_f32(&device, Real::F32, &x)?;
            let one = upload_f32(&device, Real::F32, &[1.0; 100])?;
            let y = device.alloc(Element::F32, 300)?;
            let stats = device.alloc(Element::F32, 6)?;
            let kernels = Launches::new(&device, Real::F32);
            kernels.layer_norm(&x, &one, &one, &y, &stats, 1e-5)?;
            let y = download_f32(&device, &y)?;
            Ok(y.iter().map(|y| y.to_bits()).collect())
        };
        let first = match norm(&[], Order::Forward) {
            Err(Error::NoCompiler(why)) => {
                println!("skipped: both kinds of fibres ({why})");
                return;
            }
            other => other.unwrap(),
        };
        for order in [Order::Forward, Order::Reversed, Order::Random(3)] {
            assert_eq!(norm(&["-DRTO_UCONTEXT"], order).unwrap(), first);
        }
    }

    #[test]
    fn products_of_a_batch_with_transposes() {
        let Ok(device) = Emulated::new(Order::Forward) else {
            println!("skipped: products (no C++ compiler)");
            return;
        };
        let (m, n, k, batch) = (3, 4, 5, 2);
        let numbers = |len: usize, step: usize| {
            let value = |i: usize| ((i * step) % 11) as f32 - 5.0;
            (0..len).map(value).collect::<Vec<f32>>()
        };
        let (a, b) = (numbers(batch * m * k, 7), numbers(batch * k * n, 3));
        let exact = |i: usize, j: usize, z: usize| {
            (0..k)
                .map(|l| a[(z * m + i) * k + l] * b[(z * n + j) * k + l])
                .sum::<f32>()
        };
        for real in [Real::F32, Real::Bf16] {
            let a = upload_f32(&device, real, &a).unwrap();
            let b = upload_f32(&device, real, &b).unwrap();
            let c = upload_f32(&device, Real::F32, &vec![1.0; batch * m * n]).unwrap();
            let gemm = Gemm {
                m,
                n,
                k,
                batch,
                alpha: 0.5,
                beta: 2.0,
                a: Matrix::rows(&a, k).every(m * k),
                b: Matrix::rows(&b, k).t().every(n * k),
                c: Matrix::rows(&c, n).every(m * n),
            };
            device.gemm(&gemm).unwrap();
            let found = download_f32(&device, &c).unwrap();
            for (at, c) in found.iter().enumerate() {
                let (z, i, j) = (at / m / n, at / n % m, at % n);
                assert_eq!(*c, 2.0 + 0.5 * exact(i, j, z), "{real:?} {at}");
            }
        }
    }
}
