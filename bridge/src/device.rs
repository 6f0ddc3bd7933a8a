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
        Ok(Err(error)) => Err(refused(
            error.to_string().lines().next().unwrap_or("unknown").into(),
        )),
        Err(_) => Err(refused("no usable CUDA driver".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_by_name() {
        assert!(device("cpu").unwrap().is_cpu());
        for bad in ["gpu", "", "cuda:x", "cuda:-1", "cpu:0"] {
            assert!(matches!(device(bad), Err(Error::Device { .. })), "{bad}");
        }
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
