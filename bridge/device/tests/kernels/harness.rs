//! Random shapes, several orders of threads, and comparison with f64.

use half::bf16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rto_device::{
    Buffer, Counting, Device, Element, Emulated, Error, Kernels, Order, Real, Slices, upload_f32,
};

/// What a check found: nothing, or what differs.
pub type Verdict = Result<(), String>;
/// A check of some kernels on the shape that a number stands for.
pub type Check = fn(&Bench, u64) -> Verdict;

/// What runs the kernels.
pub enum Executor {
    /// The emulator, in several orders.
    Emulated(Emulated),
    /// Loops over slices.
    Slices,
    /// A card.
    #[cfg(feature = "cuda")]
    Card(std::sync::Arc<rto_device::Cuda>),
}

impl Executor {
    /// Devices for one case, each with its name; all must give the same bits.
    fn devices(&self, case: u64) -> Vec<(String, Box<dyn Device + '_>)> {
        match self {
            Self::Emulated(first) => {
                let orders = [
                    Order::Forward,
                    Order::Reversed,
                    Order::Random(case),
                    Order::Forward,
                ];
                let device = |order: Order| -> (String, Box<dyn Device>) {
                    (format!("{order:?}"), Box::new(first.in_order(order)))
                };
                orders.map(device).into()
            }
            Self::Slices => ["first", "again"]
                .map(|run| -> (String, Box<dyn Device>) { (run.into(), Box::new(Slices::new())) })
                .into(),
            #[cfg(feature = "cuda")]
            Self::Card(card) => ["first", "again"]
                .map(|run| -> (String, Box<dyn Device + '_>) {
                    (run.into(), Box::new(card::Poisoned(card)))
                })
                .into(),
        }
    }
}

#[cfg(feature = "cuda")]
mod card {
    use rto_device::{Arg, Buffer, Cuda, Device, Element, Error, Gemm, Launch};

    /// A card whose fresh memory holds NaN, as the emulator's does.
    pub struct Poisoned<'a>(pub &'a Cuda);

    impl Device for Poisoned<'_> {
        fn alloc(&self, element: Element, count: usize) -> Result<Buffer, Error> {
            let buffer = self.0.alloc(element, count)?;
            let poison = 0x7fa1_7fa1_u32.to_ne_bytes();
            let bytes: Vec<u8> = poison.into_iter().cycle().take(buffer.bytes()).collect();
            self.0.upload(&buffer, &bytes)?;
            Ok(buffer)
        }

        fn upload(&self, to: &Buffer, bytes: &[u8]) -> Result<(), Error> {
            self.0.upload(to, bytes)
        }

        fn download(&self, from: &Buffer) -> Result<Vec<u8>, Error> {
            self.0.download(from)
        }

        fn launch(&self, launch: &Launch<'_>, args: &[Arg<'_>]) -> Result<(), Error> {
            self.0.launch(launch, args)
        }

        fn gemm(&self, gemm: &Gemm<'_>) -> Result<(), Error> {
            self.0.gemm(gemm)
        }

        fn sync(&self) -> Result<(), Error> {
            self.0.sync()
        }

        fn peak(&self) -> u64 {
            self.0.peak()
        }
    }
}

/// The kernels of one text on one executor.
pub struct Bench {
    executor: Executor,
    pub real: Real,
}

/// What a kernel wrote.
#[derive(Debug, PartialEq, Clone)]
pub struct Output {
    element: Element,
    pub bytes: Vec<u8>,
}

impl Output {
    fn read(device: &dyn Device, buffer: &Buffer) -> Self {
        let bytes = device.download(buffer);
        Self {
            element: buffer.element(),
            bytes: bytes.expect("a buffer of this device is read"),
        }
    }

    pub fn floats(&self) -> Vec<f32> {
        match self.element {
            Element::Bf16 => {
                let (words, _) = self.bytes.as_chunks::<2>();
                words
                    .iter()
                    .map(|w| bf16::from_ne_bytes(*w).to_f32())
                    .collect()
            }
            _ => {
                let (words, _) = self.bytes.as_chunks::<4>();
                words.iter().map(|w| f32::from_ne_bytes(*w)).collect()
            }
        }
    }

    pub fn words(&self) -> Vec<u32> {
        let (words, _) = self.bytes.as_chunks::<4>();
        words.iter().map(|w| u32::from_ne_bytes(*w)).collect()
    }

    /// The bits of each value, widened.
    fn bits(&self) -> Vec<u64> {
        let size = self.element.size();
        let bits = |w: &[u8]| w.iter().rev().fold(0, |all, b| all << 8 | u64::from(*b));
        self.bytes.chunks(size).map(bits).collect()
    }
}

impl Bench {
    pub fn new(executor: Executor, real: Real) -> Self {
        Self { executor, real }
    }

    /// The executor's name.
    pub fn name(&self) -> &'static str {
        match self.executor {
            Executor::Emulated(_) => "emulated",
            Executor::Slices => "slices",
            #[cfg(feature = "cuda")]
            Executor::Card(_) => "card",
        }
    }

    pub fn rng(&self, case: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(case)
    }

    /// What `run` leaves in the buffers that it returns: the same bits in three orders of threads and blocks, the first one twice (on a
    /// card, twice). The device that counts must say how much memory that takes.
    pub fn run(
        &self,
        case: u64,
        threads: u32,
        run: impl Fn(&dyn Device, &Kernels<'_>) -> Result<Vec<Buffer>, Error>,
    ) -> Result<Vec<Output>, String> {
        let counting = Counting::new();
        run(
            &counting,
            &Kernels::new(&counting, self.real).with_threads(threads),
        )
        .map_err(|e| format!("case {case}, counting: {e}"))?;
        let mut found: Option<Vec<Output>> = None;
        for (name, device) in self.executor.devices(case) {
            let device = &*device;
            let kernels = Kernels::new(device, self.real).with_threads(threads);
            let buffers = run(device, &kernels).map_err(|e| format!("case {case}: {e}"))?;
            device.sync().map_err(|e| format!("case {case}: {e}"))?;
            let (plan, peak) = (counting.peak(), device.peak());
            // A card keeps its account over all cases.
            if plan != peak && matches!(self.executor, Executor::Emulated(_) | Executor::Slices) {
                return Err(format!(
                    "case {case}: {peak} bytes at once, counted as {plan}"
                ));
            }
            let outputs: Vec<Output> = buffers.iter().map(|b| Output::read(device, b)).collect();
            match &found {
                None => found = Some(outputs),
                Some(first) => {
                    for (i, (a, b)) in first.iter().zip(&outputs).enumerate() {
                        same(&format!("case {case}, {name}, output {i}"), a, b)?;
                    }
                }
            }
        }
        let found = found.unwrap_or_default();
        if !matches!(self.executor, Executor::Slices) {
            let slices = Slices::new();
            let kernels = Kernels::new(&slices, self.real).with_threads(threads);
            let buffers =
                run(&slices, &kernels).map_err(|e| format!("case {case}, slices: {e}"))?;
            for (i, (found, buffer)) in found.iter().zip(&buffers).enumerate() {
                let wanted = Output::read(&slices, buffer);
                self.near(
                    &format!("case {case}, beside slices, output {i}"),
                    found,
                    &wanted,
                )?;
            }
        }
        Ok(found)
    }

    /// Whether outputs are those of the loops over slices: integers to the bit, floats within rounding.
    fn near(&self, what: &str, found: &Output, wanted: &Output) -> Verdict {
        let floats = match found.element {
            Element::F32 | Element::Bf16 => (found.floats(), wanted.floats()),
            _ => return same(what, found, wanted),
        };
        // Both may say that a row is not finite, and infinities are equal.
        let pairs = floats.0.into_iter().zip(floats.1);
        let finite = pairs.filter(|(a, b)| !(a.is_nan() && b.is_nan()) && a != b);
        let (got, want): (Vec<f32>, Vec<f64>) = finite.map(|(a, b)| (a, f64::from(b))).unzip();
        // Inputs are of unit size, and a value may be their difference.
        let sizes: Vec<f64> = want.iter().map(|w| 1.0 + w.abs()).collect();
        let tolerance = match self.real {
            Real::F32 => 1e-5,
            Real::Bf16 => 2e-2,
        };
        within(what, &got, &want, &sizes, tolerance)
    }

    /// Values as the type of weights holds them.
    pub fn rounded(&self, values: Vec<f32>) -> Vec<f32> {
        match self.real {
            Real::F32 => values,
            Real::Bf16 => {
                let round = |x: f32| bf16::from_f32(x).to_f32();
                values.into_iter().map(round).collect()
            }
        }
    }

    /// Normal-like values of about unit size.
    pub fn values(&self, rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
        self.rounded((0..n).map(|_| bell(rng)).collect())
    }

    pub fn upload(&self, device: &dyn Device, values: &[f32]) -> Result<Buffer, Error> {
        upload_f32(device, self.real, values)
    }

    /// Fresh memory of the type of weights, full of NaN.
    pub fn fresh(&self, device: &dyn Device, n: usize) -> Result<Buffer, Error> {
        device.alloc(self.real.element(), n)
    }

    /// The relative rounding of a stored value.
    pub fn unit(&self) -> f64 {
        match self.real {
            Real::F32 => 2f64.powi(-23),
            Real::Bf16 => 2f64.powi(-8),
        }
    }
}

pub fn single(device: &dyn Device, values: &[f32]) -> Result<Buffer, Error> {
    upload_f32(device, Real::F32, values)
}

pub fn bell(rng: &mut ChaCha8Rng) -> f32 {
    (0..4).map(|_| rng.random_range(-1.0f32..1.0)).sum::<f32>() * 0.87
}

/// A size from 1 to `most`: often 1, often beside a multiple of 32, else any.
pub fn size(rng: &mut ChaCha8Rng, most: usize) -> usize {
    let n = match rng.random_range(0..6) {
        0 => 1,
        1 | 2 => 32 * rng.random_range(1..=4) + rng.random_range(0..3) - 1,
        _ => rng.random_range(1..=most),
    };
    n.clamp(1, most)
}

pub fn threads(rng: &mut ChaCha8Rng) -> u32 {
    [32, 64, 128][rng.random_range(0..3)]
}

/// Whether two outputs have the same bits.
pub fn same(what: &str, a: &Output, b: &Output) -> Verdict {
    if a == b {
        return Ok(());
    }
    let (a, b) = (a.bits(), b.bits());
    match a.iter().zip(&b).position(|(x, y)| x != y) {
        Some(i) => Err(format!("{what}[{i}]: bits {:x} and {:x}", a[i], b[i])),
        None => Err(format!("{what}: {} and {} values", a.len(), b.len())),
    }
}

/// Whether `got` is `want` within `tolerance` of the sizes that went into each value.
pub fn within(what: &str, got: &[f32], want: &[f64], sizes: &[f64], tolerance: f64) -> Verdict {
    if got.len() != want.len() {
        return Err(format!("{what}: {} values for {}", got.len(), want.len()));
    }
    for (i, ((g, w), s)) in got.iter().zip(want).zip(sizes).enumerate() {
        let error = (f64::from(*g) - w).abs();
        if !(error <= tolerance * s) {
            return Err(format!(
                "{what}[{i}]: found {g}, expected {w}, within {:e}",
                tolerance * s
            ));
        }
    }
    Ok(())
}

/// As [`within`], sizes being those of the values themselves and of their root mean square.
pub fn close(what: &str, got: &[f32], want: &[f64], tolerance: f64) -> Verdict {
    let square = want.iter().map(|w| w * w).sum::<f64>() / want.len().max(1) as f64;
    let sizes: Vec<f64> = want.iter().map(|w| w.abs() + square.sqrt()).collect();
    within(what, got, want, &sizes, tolerance)
}
