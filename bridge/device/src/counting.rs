//! The device that computes nothing: the plan of a program.

use crate::buffer::{Buffer, Element, Owner, fresh_id};
use crate::device::{Device, Gemm, Launch};
use crate::source::{self, Arg};
use crate::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// What a program used so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes allocated now.
    pub live: u64,
    /// The most bytes that were allocated at once.
    pub peak: u64,
    /// Multiplications and additions of matrix products.
    pub flops: u64,
    /// Bytes that kernels and products read and write: every buffer of a kernel once, of a product once and C twice where it is added to.
    pub traffic: u64,
    /// Bytes copied to and from the device.
    pub transfer: u64,
    /// Kernels and products launched.
    pub launches: u64,
    /// Launches by kernel, products under `gemm`.
    pub by_kernel: BTreeMap<String, u64>,
}

#[derive(Default)]
struct Ledger {
    usage: Mutex<(Usage, HashMap<u64, u64>)>,
}

impl Ledger {
    fn with<R>(&self, f: impl FnOnce(&mut Usage, &mut HashMap<u64, u64>) -> R) -> R {
        let mut guard = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        let (usage, sizes) = &mut *guard;
        f(usage, sizes)
    }
}

impl Owner for Ledger {
    fn release(&self, id: u64) {
        self.with(|usage, sizes| usage.live -= sizes.remove(&id).unwrap_or(0));
    }
}

/// A device without memory that keeps an account of what is asked of it; downloads give zeros, so a program whose course depends on
/// values takes the course of zeros. With a [capacity](Counting::with_capacity) it refuses what does not fit.
#[derive(Default)]
pub struct Counting {
    ledger: Arc<Ledger>,
    capacity: Option<u64>,
}

impl Counting {
    /// Without a limit.
    pub fn new() -> Self {
        Self::default()
    }

    /// With this many bytes of memory.
    pub fn with_capacity(bytes: u64) -> Self {
        Self {
            capacity: Some(bytes),
            ..Self::default()
        }
    }

    /// The account so far.
    pub fn usage(&self) -> Usage {
        self.ledger.with(|usage, _| usage.clone())
    }

    /// Begins a new account with what is allocated now: the next stage of a program.
    pub fn restart(&self) {
        self.ledger.with(|usage, _| {
            *usage = Usage {
                live: usage.live,
                peak: usage.live,
                ..Usage::default()
            };
        });
    }

    fn own(&self, buffer: &Buffer) -> Result<()> {
        let known = self
            .ledger
            .with(|_, sizes| sizes.contains_key(&buffer.id()));
        known.then_some(()).ok_or_else(|| foreign(buffer))
    }

    fn count(&self, kernel: &str, traffic: u64, flops: u64) {
        self.ledger.with(|usage, _| {
            usage.launches += 1;
            usage.traffic += traffic;
            usage.flops += flops;
            match usage.by_kernel.get_mut(kernel) {
                Some(count) => *count += 1,
                None => {
                    usage.by_kernel.insert(kernel.into(), 1);
                }
            }
        });
    }
}

pub(crate) fn foreign(buffer: &Buffer) -> Error {
    Error::Buffer {
        what: "buffer".into(),
        found: format!("{buffer:?} of another device"),
        expected: "one of this device".into(),
    }
}

pub(crate) fn check_upload(to: &Buffer, bytes: &[u8]) -> Result<()> {
    if to.bytes() == bytes.len() {
        return Ok(());
    }
    Err(Error::Buffer {
        what: "upload".into(),
        found: format!("{} bytes", bytes.len()),
        expected: format!("{}", to.bytes()),
    })
}

pub(crate) fn unknown_kernel(name: &str) -> Error {
    Error::Launch {
        kernel: name.into(),
        why: "no such kernel".into(),
    }
}

impl Device for Counting {
    fn alloc(&self, element: Element, count: usize) -> Result<Buffer> {
        let bytes = count as u64 * element.size() as u64;
        let id = fresh_id();
        self.ledger.with(|usage, sizes| {
            if let Some(capacity) = self.capacity
                && usage.live + bytes > capacity
            {
                let free = capacity - usage.live;
                return Err(Error::Driver(format!(
                    "out of memory: {bytes} bytes asked for, {free} of {capacity} free"
                )));
            }
            usage.live += bytes;
            usage.peak = usage.peak.max(usage.live);
            sizes.insert(id, bytes);
            Ok(())
        })?;
        let owner: Arc<dyn Owner> = self.ledger.clone();
        Ok(Buffer::new(id, owner, element, count))
    }

    fn upload(&self, to: &Buffer, bytes: &[u8]) -> Result<()> {
        self.own(to)?;
        check_upload(to, bytes)?;
        self.ledger
            .with(|usage, _| usage.transfer += bytes.len() as u64);
        Ok(())
    }

    fn download(&self, from: &Buffer) -> Result<Vec<u8>> {
        self.own(from)?;
        self.ledger
            .with(|usage, _| usage.transfer += from.bytes() as u64);
        Ok(vec![0; from.bytes()])
    }

    fn launch(&self, launch: &Launch<'_>, args: &[Arg<'_>]) -> Result<()> {
        launch.check()?;
        let signature = source::own()
            .get(launch.kernel)
            .ok_or_else(|| unknown_kernel(launch.kernel))?;
        signature.check(launch.kernel, launch.real, args)?;
        let mut traffic = 0;
        for arg in args {
            if let Arg::In(buffer) | Arg::Out(buffer) = arg {
                self.own(buffer)?;
                traffic += buffer.bytes() as u64;
            }
        }
        self.count(launch.kernel, traffic, 0);
        Ok(())
    }

    fn gemm(&self, gemm: &Gemm<'_>) -> Result<()> {
        gemm.check()?;
        for matrix in [gemm.a, gemm.b, gemm.c] {
            self.own(matrix.buffer)?;
        }
        let bytes = |m: usize, n: usize, buffer: &Buffer| {
            (m * n * gemm.batch * buffer.element().size()) as u64
        };
        let c = bytes(gemm.m, gemm.n, gemm.c.buffer);
        let traffic = bytes(gemm.m, gemm.k, gemm.a.buffer)
            + bytes(gemm.k, gemm.n, gemm.b.buffer)
            + if gemm.beta == 0.0 { c } else { 2 * c };
        self.count("gemm", traffic, gemm.flops());
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn peak(&self) -> u64 {
        self.usage().peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Matrix, Real};

    #[test]
    fn live_and_peak_follow_the_buffers() {
        let device = Counting::with_capacity(4000);
        let a = device.alloc(Element::F32, 600).unwrap();
        let part = a.part(100, 50).unwrap();
        drop(a);
        assert_eq!(device.usage().live, 2400, "a part keeps its memory");
        let b = device.alloc(Element::Bf16, 800).unwrap();
        let error = device.alloc(Element::U8, 1).unwrap_err().to_string();
        assert!(error.contains("0 of 4000 free"), "{error}");
        drop(part);
        assert_eq!((device.usage().live, device.peak()), (1600, 4000));
        device.restart();
        assert_eq!(device.peak(), 1600);
        drop(b);
        assert_eq!(device.usage().live, 0);
    }

    #[test]
    fn products_and_kernels_are_counted_and_checked() {
        let (device, other) = (Counting::new(), Counting::new());
        let x = device.alloc(Element::Bf16, 15).unwrap();
        let w = device.alloc(Element::Bf16, 10).unwrap();
        let y = device.alloc(Element::F32, 6).unwrap();
        let mut gemm = Gemm {
            m: 3,
            n: 2,
            k: 5,
            batch: 1,
            alpha: 1.0,
            beta: 1.0,
            a: Matrix::rows(&x, 5),
            b: Matrix::rows(&w, 5).t(),
            c: Matrix::rows(&y, 2),
        };
        device.gemm(&gemm).unwrap();
        let usage = device.usage();
        assert_eq!(
            (usage.flops, usage.traffic, usage.launches),
            (60, 30 + 20 + 48, 1)
        );
        gemm.b.transposed = false;
        assert!(device.gemm(&gemm).is_err(), "rows of 5 hold no 5 by 2");
        gemm.b.row = 2;
        device.gemm(&gemm).unwrap();
        let launch = Launch {
            kernel: "narrow",
            real: Real::Bf16,
            grid: [1, 1],
            block: 32,
            shared: 0,
        };
        let args = [Arg::In(&y), Arg::Out(&x), Arg::I64(6)];
        device.launch(&launch, &args).unwrap();
        let usage = device.usage();
        assert_eq!((usage.by_kernel["gemm"], usage.by_kernel["narrow"]), (2, 1));
        let wrong = [
            [Arg::In(&x), Arg::Out(&x), Arg::I64(6)],
            [Arg::In(&y), Arg::In(&x), Arg::I64(6)],
            [Arg::In(&y), Arg::Out(&x), Arg::I32(6)],
        ];
        for args in wrong {
            assert!(device.launch(&launch, &args).is_err(), "{args:?}");
        }
        assert!(device.launch(&launch, &args[..2]).is_err());
        assert!(
            other.launch(&launch, &args).is_err(),
            "buffers of another device"
        );
        for (block, shared, grid) in [(31, 0, [1, 1]), (32, 50_000, [1, 1]), (32, 0, [1, 0])] {
            let launch = Launch {
                block,
                shared,
                grid,
                ..launch
            };
            assert!(device.launch(&launch, &args).is_err());
        }
    }
}
