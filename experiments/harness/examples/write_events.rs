//! Writes a small event file, interrupted and continued, for TensorBoard's own reader:
//! `cargo run -p rto-harness --example write_events -- DIR`, then `python experiments/harness/scripts/read_events.py DIR`.

use std::path::Path;

use anyhow::{Context, Result};
use rto_harness::event_file::EventWriter;

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).context("expected a folder")?;
    let path = Path::new(&dir).join("events.out.tfevents.0");
    let mut writer = EventWriter::create(&path)?;
    let point = |step: u64| {
        [
            ("objective/kl", step as f64 / 4.0),
            ("rewards/margins", -1.5),
        ]
    };
    for step in 0..5 {
        writer.scalars(step, point(step))?;
    }
    drop(writer);
    let mut writer = EventWriter::resume(&path, 2)?;
    for step in 3..300 {
        writer.scalars(step, point(step))?;
    }
    Ok(())
}
