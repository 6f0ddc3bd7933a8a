//! Devices by name.

use crate::{Error, Result};
use candle_core::Device;

/// The device called `cpu`, `cuda` (the first GPU) or `cuda:N`.
///
/// # Errors
/// [`Error::Device`] for another name, a build without the feature `cuda`, or a GPU or driver that is not there.
pub fn device(name: &str) -> Result<Device> {
    let refused = |why: String| Error::Device {
        name: name.into(),
        why,
        source: None,
    };
    let ordinal = match name.split_once(':') {
        None if name == "cpu" => return Ok(Device::Cpu),
        None if name == "cuda" => 0,
        Some(("cuda", ordinal)) => ordinal
            .parse()
            .map_err(|_| refused(format!("found {ordinal:?}, expected the number of a GPU")))?,
        _ => return Err(refused("expected cpu, cuda or cuda:N".into())),
    };
    if !candle_core::utils::cuda_is_available() {
        return Err(refused(
            "this build has no CUDA; build with --features cuda".into(),
        ));
    }
    // candle panics in places where the driver is missing; that must reach a user as an error.
    match std::panic::catch_unwind(|| Device::new_cuda(ordinal)) {
        Ok(Ok(device)) => Ok(device),
        Ok(Err(error)) => Err(Error::Device {
            name: name.into(),
            why: rto_device::refusal("opening the GPU", &error.to_string()),
            source: Some(error.into()),
        }),
        Err(_) => Err(refused("no usable CUDA driver".into())),
    }
}

/// What the program of kernels runs on, in place of candle's tensors: see [`crate::device_learner`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executor {
    /// Loops over slices on one thread of the processor.
    Slices,
    /// The kernels' own text on the processor: needs a C++ compiler, and is an order of magnitude slower than slices.
    Emulated,
    /// The GPU of this number; needs a build with the feature `cuda`.
    Cuda(usize),
}

/// What the names of executors begin with.
const KERNELS: &str = "kernels:";

impl Executor {
    /// The executor called `kernels:slices`, `kernels:emulated`, `kernels:cuda` (the first GPU) or `kernels:cuda:N`; `None` for a name that
    /// does not begin so, which [`device()`] knows.
    ///
    /// # Errors
    /// [`Error::Device`] for another name that begins so.
    pub fn named(name: &str) -> Result<Option<Self>> {
        let Some(kind) = name.strip_prefix(KERNELS) else {
            return Ok(None);
        };
        let number = match kind.split_once(':') {
            None if kind == "slices" => return Ok(Some(Self::Slices)),
            None if kind == "emulated" => return Ok(Some(Self::Emulated)),
            None if kind == "cuda" => Some(0),
            Some(("cuda", number)) => number.parse().ok(),
            _ => None,
        };
        let refused = || Error::Device {
            name: name.into(),
            why: "expected kernels:slices, kernels:emulated, kernels:cuda or kernels:cuda:N".into(),
            source: None,
        };
        number.map(|n| Some(Self::Cuda(n))).ok_or_else(refused)
    }

    /// The device itself, with nothing on it.
    ///
    /// # Errors
    /// [`Error::Device`] without a C++ compiler (emulated), in a build without `cuda`, or where the GPU or its libraries are not there.
    pub fn open(self) -> Result<Box<dyn rto_device::Device>> {
        match self {
            Self::Slices => Ok(Box::new(rto_device::Slices::new())),
            Self::Emulated => {
                let order = rto_device::Order::Forward;
                let device = rto_device::Emulated::new(order);
                Ok(Box::new(device.map_err(failed)?))
            }
            Self::Cuda(number) => open_cuda(number),
        }
    }

    /// Bytes that a GPU has free; `None` on a processor, whose memory is not asked: the system may have pages that it gives back.
    ///
    /// # Errors
    /// As [`Executor::open`]; [`Error::Device`] where the driver does not say.
    pub fn free_memory(self) -> Result<Option<u64>> {
        match self {
            Self::Slices | Self::Emulated => Ok(None),
            Self::Cuda(number) => free_on_cuda(number).map(Some),
        }
    }

    /// Threads of a block: as few as there can be where each is a fibre, as many as a GPU takes well where it is one.
    pub fn threads(self) -> u32 {
        match self {
            Self::Slices | Self::Emulated => 32,
            Self::Cuda(_) => 256,
        }
    }
}

fn no_cuda(number: usize, why: String) -> Error {
    Error::Device {
        name: format!("{KERNELS}cuda:{number}"),
        why,
        source: None,
    }
}

#[cfg(feature = "cuda")]
fn cuda(number: usize) -> Result<rto_device::Cuda> {
    // The loader of the driver panics where there is none.
    match std::panic::catch_unwind(|| rto_device::Cuda::open(number)) {
        Ok(device) => device.map_err(|e| no_cuda(number, e.to_string())),
        Err(_) => Err(no_cuda(number, "no usable CUDA driver".into())),
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(number: usize) -> Result<Box<dyn rto_device::Device>> {
    Ok(Box::new(cuda(number)?))
}

#[cfg(feature = "cuda")]
fn free_on_cuda(number: usize) -> Result<u64> {
    let free = cuda(number)?.free_memory();
    free.map_err(|e| no_cuda(number, e.to_string()))
}

#[cfg(not(feature = "cuda"))]
const NOT_BUILT: &str = "this build has no CUDA; build with --features cuda";

#[cfg(not(feature = "cuda"))]
fn open_cuda(number: usize) -> Result<Box<dyn rto_device::Device>> {
    Err(no_cuda(number, NOT_BUILT.into()))
}

#[cfg(not(feature = "cuda"))]
fn free_on_cuda(number: usize) -> Result<u64> {
    Err(no_cuda(number, NOT_BUILT.into()))
}

/// The device of one of several processes on a host: [`device()`], but for `cuda` the GPU of the process's number there, counted round the
/// GPUs that it sees. So each has a GPU of its own, whether it sees all of a host's or, as under Slurm's `--gpus-per-task=1`, one.
///
/// # Errors
/// As [`device()`].
pub fn device_of_process(name: &str, process: usize) -> Result<Device> {
    match visible_gpus() {
        gpus @ 2.. if name == "cuda" => device(&format!("cuda:{}", process % gpus)),
        _ => device(name),
    }
}

/// How many GPUs there are for this process; none where no driver says.
#[cfg(feature = "cuda")]
fn visible_gpus() -> usize {
    use candle_core::cuda_backend::cudarc::driver::CudaContext;
    // The loader of the driver panics where there is none.
    let count = std::panic::catch_unwind(CudaContext::device_count);
    count
        .ok()
        .and_then(|n| n.ok())
        .map_or(0, |n| n.max(0) as usize)
}

#[cfg(not(feature = "cuda"))]
fn visible_gpus() -> usize {
    0
}

/// Whether the processor goes a GPU's way, through candle tensors, where its own kernels would do: with `RTO_TENSORS=1` in the environment, for
/// tests of that way and comparisons of the two.
pub(crate) fn tensors_asked() -> bool {
    static ASKED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *ASKED.get_or_init(|| std::env::var_os("RTO_TENSORS").is_some_and(|value| value == "1"))
}

/// Bytes that a GPU has free; `None` for a processor.
///
/// # Errors
/// [`Error::Device`] where the driver does not say.
pub fn free_memory(device: &Device) -> Result<Option<u64>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(gpu) => {
            let free = gpu.cuda_stream().context().mem_get_info();
            let (free, _) = free.map_err(|e| Error::Device {
                name: "memory".into(),
                why: e.to_string(),
                source: None,
            })?;
            Ok(Some(free as u64))
        }
        _ => Ok(None),
    }
}

/// An error of the program of kernels.
pub(crate) fn failed(error: rto_device::Error) -> Error {
    Error::Device {
        name: "device".into(),
        why: error.to_string(),
        source: Some(Box::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executors_by_name() {
        let named = |name: &str| Executor::named(name).unwrap();
        assert_eq!(named("kernels:slices"), Some(Executor::Slices));
        assert_eq!(named("kernels:emulated"), Some(Executor::Emulated));
        assert_eq!(named("kernels:cuda"), Some(Executor::Cuda(0)));
        assert_eq!(named("kernels:cuda:3"), Some(Executor::Cuda(3)));
        for other in ["cpu", "cuda", "kernels"] {
            assert_eq!(named(other), None, "{other}");
        }
        for bad in [
            "kernels:",
            "kernels:cpu",
            "kernels:cuda:x",
            "kernels:slices:1",
        ] {
            let error = Executor::named(bad).unwrap_err().to_string();
            assert!(
                error.contains(bad) && error.contains("kernels:cuda:N"),
                "{error}"
            );
        }
        assert!(Executor::Slices.open().is_ok());
    }

    #[test]
    fn devices_by_name() {
        assert!(device("cpu").unwrap().is_cpu());
        assert!(device_of_process("cpu", 3).unwrap().is_cpu());
        for bad in ["gpu", "", "cuda:x", "cuda:-1", "cpu:0"] {
            assert!(matches!(device(bad), Err(Error::Device { .. })), "{bad}");
            let of_process = device_of_process(bad, 1);
            assert!(matches!(of_process, Err(Error::Device { .. })), "{bad}");
        }
    }

    /// No machine has so many GPUs, and one without a driver has none: either way one line that names the device.
    #[cfg(feature = "cuda")]
    #[test]
    fn a_gpu_that_is_not_there_is_refused_in_one_line() {
        let error = device("cuda:4096").unwrap_err().to_string();
        assert!(error.starts_with("device cuda:4096: "), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn cuda_is_refused_clearly_where_it_was_not_built() {
        assert!(
            device("cuda:0")
                .unwrap_err()
                .to_string()
                .contains("--features cuda")
        );
    }
}
