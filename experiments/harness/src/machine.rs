//! What of a machine can show in the last digits of a result.
//!
//! A program's own sums run in one order for any number of threads and shards. Two things are not its own: which vector instructions
//! its kernels find, and what the system's `libm` makes of `exp` and its kin, which may choose by the CPU as well. A run records both beside
//! its timings, a shard in a file of its own, and `merge` says when they differ.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::atomic;
use crate::run_dir::TIMINGS;
use crate::timings::Timings;

/// The folder that has a file for each kind of machine that worked on a shard of the run.
pub(crate) const MACHINES: &str = "machines";

/// A kind of machine: what of it can show in a result.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Machine {
    /// The instruction set, as `x86_64`.
    pub architecture: String,
    /// The extensions that kernels choose by, of those that the CPU has.
    pub cpu_features: Vec<String>,
    /// SHA-256, cut to 16 digits, of what `exp`, `ln` and their kin give at fixed points.
    pub libm: String,
}

impl Machine {
    /// The machine that this program runs on.
    pub fn this() -> Self {
        Self {
            architecture: std::env::consts::ARCH.to_string(),
            cpu_features: cpu_features(),
            libm: libm(),
        }
    }

    /// The kinds of machine that worked on these runs.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub(crate) fn of_runs(runs: &[PathBuf]) -> Result<BTreeSet<Self>> {
        let mut all = BTreeSet::new();
        for run in runs {
            let timings = run.join(TIMINGS);
            if timings.is_file() {
                all.extend(Timings::read(&timings)?.machines().iter().cloned());
            }
            for entry in fs::read_dir(run.join(MACHINES))
                .into_iter()
                .flatten()
                .flatten()
            {
                let path = entry.path();
                if path.extension().is_some_and(|e| e == "json") {
                    let text = atomic::read_text(&path)?;
                    let machine = serde_json::from_str(&text)
                        .map_err(|e| anyhow!("{}: not valid: {e}", path.display()))?;
                    all.insert(machine);
                }
            }
        }
        Ok(all)
    }

    /// Leaves the record of this kind in a run folder. Many may write it at once: the name says what is in it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn record(&self, run: &Path) -> Result<()> {
        let folder = run.join(MACHINES);
        fs::create_dir_all(&folder)
            .map_err(|e| anyhow!("{}: cannot make the directory: {e}", folder.display()))?;
        let text = serde_json::to_string_pretty(self)? + "\n";
        let name = format!("{}.json", &hex(&Sha256::digest(&text))[..12]);
        atomic::write_same(&folder.join(name), text.as_bytes())
    }

    /// Removes the records of shards, once the timings of the whole run have them.
    pub(crate) fn forget_shards(run: &Path) {
        // What cannot be removed says nothing wrong.
        fs::remove_dir_all(run.join(MACHINES)).ok();
    }

    /// `x86_64 with fma, avx2 (libm 0123456789abcdef)`.
    fn describe(&self) -> String {
        let Self {
            architecture,
            cpu_features,
            libm,
        } = self;
        let features = match cpu_features.is_empty() {
            true => String::new(),
            false => format!(" with {}", cpu_features.join(", ")),
        };
        format!("{architecture}{features} (libm {libm})")
    }
}

/// The warning that belongs to results of several kinds of machine.
pub(crate) fn warning(kinds: &BTreeSet<Machine>) -> Option<String> {
    if kinds.len() < 2 {
        return None;
    }
    let kinds: Vec<String> = kinds.iter().map(Machine::describe).collect();
    Some(format!(
        "warning: computed on {} kinds of machine, so the last digits may differ from those of a run on one of them: {}",
        kinds.len(),
        kinds.join("; ")
    ))
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<String> {
    let found = [
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ];
    let found = found.into_iter().filter(|(_, has)| *has);
    found.map(|(name, _)| name.to_string()).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<String> {
    Vec::new()
}

/// A fingerprint of the transcendental functions: 2,000 points, of both signs and over 30 octaves.
fn libm() -> String {
    let mut hash = Sha256::new();
    for k in 0..2000u32 {
        // Points whose mantissas share no pattern; hidden from the compiler, which has a libm of its own.
        let spread = f64::from(k.wrapping_mul(2_654_435_761) >> 4) / f64::from(1u32 << 28);
        let octave = 2f64.powi((k % 30) as i32 - 24);
        let x = std::hint::black_box((0.5 + spread) * octave);
        for value in [
            x.exp(),
            (-x).exp(),
            x.exp_m1(),
            (-x).exp_m1(),
            x.ln(),
            x.ln_1p(),
            x.tanh(),
            x.sin(),
            x.cos(),
            x.powf(1.0 / 3.0),
        ] {
            hash.update(value.to_bits().to_le_bytes());
        }
    }
    hex(&hash.finalize())[..16].to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back_and_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let this = Machine::this();
        assert_eq!(this, Machine::this());
        let mut other = this.clone();
        other.cpu_features = vec!["other".into()];
        for machine in [&this, &this, &other] {
            machine.record(dir.path()).unwrap();
        }
        let kinds = Machine::of_runs(&[dir.path().to_path_buf()]).unwrap();
        assert_eq!(kinds, BTreeSet::from([this.clone(), other]));
        let said = warning(&kinds).unwrap();
        assert!(
            said.contains("2 kinds of machine") && said.contains("with other"),
            "{said}"
        );
        assert!(warning(&BTreeSet::from([this])).is_none());
        assert!(Machine::of_runs(&["/no/such".into()]).unwrap().is_empty());
    }
}
