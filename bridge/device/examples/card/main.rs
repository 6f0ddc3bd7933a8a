//! Checks and timings of a network's program on a card, or at small shapes under the emulator: what `scripts/gpu_check.sh` calls.
//!
//! ```text
//! card CHECK [--small]      CHECK is open, ceilings, sft, dpo, write or rto
//! ```
//!
//! Built with the feature `cuda`, `RTO_CARD=N` runs it on card N. Prints one line of JSON, and fails where memory is not what the device
//! that counts says, or a number is not finite.

mod runs;
mod shape;

use rto_device::{Counting, Device, Emulated, Order};
use runs::{Findings, Sizes};
use std::time::Instant;

type Failure = Box<dyn std::error::Error>;

/// What runs the kernels, and its name.
fn executor() -> Result<(&'static str, Box<dyn Device>), Failure> {
    match std::env::var("RTO_CARD") {
        #[cfg(feature = "cuda")]
        Ok(card) => Ok(("card", Box::new(rto_device::Cuda::open(card.parse()?)?))),
        #[cfg(not(feature = "cuda"))]
        Ok(_) => Err("RTO_CARD is set, but this was built without the feature cuda".into()),
        Err(_) => Ok(("emulated", Box::new(Emulated::new(Order::Forward)?))),
    }
}

fn number(x: f64) -> String {
    match x.is_finite() {
        true => format!("{x}"),
        false => "null".into(),
    }
}

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (small, check) = match &args[..] {
        [check] => (false, check.as_str()),
        [check, small] if small == "--small" => (true, check.as_str()),
        _ => return Err("expected: card open|ceilings|sft|dpo|write|rto [--small]".into()),
    };
    let sizes = if small {
        Sizes::small()
    } else {
        Sizes::whole()
    };
    let run: fn(&dyn Device, &Sizes) -> rto_device::Result<Findings> = match check {
        "open" => runs::open,
        "ceilings" => runs::ceilings,
        "sft" => runs::sft,
        "dpo" => runs::dpo,
        "write" => runs::write,
        "rto" => runs::rto,
        other => {
            return Err(format!(
                "found the check {other:?}, expected open, ceilings, sft, dpo, write or rto"
            )
            .into());
        }
    };
    let counting = Counting::new();
    run(&counting, &sizes)?;
    let planned = counting.peak();
    let (name, device) = executor()?;
    let begun = Instant::now();
    let mut found = run(&*device, &sizes)?;
    device.sync()?;
    found.push(("seconds", begun.elapsed().as_secs_f64()));
    found.push(("peak_bytes", device.peak() as f64));
    found.push(("planned_bytes", planned as f64));
    let fields: Vec<String> = found
        .iter()
        .map(|(key, value)| format!("\"{key}\":{}", number(*value)))
        .collect();
    println!(
        "{{\"check\":\"{check}\",\"executor\":\"{name}\",\"small\":{small},{}}}",
        fields.join(",")
    );
    let apart = (device.peak() as f64 - planned as f64).abs();
    if apart > 0.03 * planned as f64 {
        return Err(format!("{} bytes at once, planned were {planned}", device.peak()).into());
    }
    match found.iter().find(|(_, x)| !x.is_finite()) {
        Some((key, _)) => Err(format!("{key} is not finite").into()),
        None => Ok(()),
    }
}
