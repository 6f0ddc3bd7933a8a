//! Wall-clock times of a run, and the kinds of machine that took them.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::atomic;
use crate::machine::Machine;

/// Wall-clock seconds of named phases, in the order they first ran.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Timings {
    phases: Vec<Phase>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    machines: BTreeSet<Machine>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Phase {
    name: String,
    seconds: f64,
}

impl Timings {
    /// Timings without a phase yet.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        serde_json::from_str(&atomic::read_text(path)?).map_err(|e| {
            anyhow!(
                "{}: not the timings of a run: {e}; delete it, and it is written again",
                path.display()
            )
        })
    }

    /// The kinds of machine that finished something of the run.
    pub(crate) fn machines(&self) -> &BTreeSet<Machine> {
        &self.machines
    }

    /// Adds kinds of machine.
    pub(crate) fn made_on(&mut self, machines: impl IntoIterator<Item = Machine>) {
        self.machines.extend(machines);
    }

    /// Takes over the phases that are not here yet, and the machines with them; whether there were any.
    pub(crate) fn add_missing(&mut self, other: &Self) -> bool {
        let missing = |phase: &&Phase| !self.phases.iter().any(|p| p.name == phase.name);
        let new: Vec<Phase> = other.phases.iter().filter(missing).cloned().collect();
        let any = !new.is_empty();
        self.phases.extend(new);
        if any {
            self.made_on(other.machines.iter().cloned());
        }
        any
    }

    /// Runs `f` and adds its time to the phase `name`.
    pub fn phase<T>(&mut self, name: &str, f: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let value = f();
        self.add(name, start.elapsed());
        value
    }

    /// Adds a measured time to the phase `name`.
    pub fn add(&mut self, name: &str, time: Duration) {
        let seconds = time.as_secs_f64();
        match self.phases.iter_mut().find(|phase| phase.name == name) {
            Some(phase) => phase.seconds += seconds,
            None => self.phases.push(Phase {
                name: name.to_string(),
                seconds,
            }),
        }
    }

    /// Seconds spent in the phase `name`, or 0.
    pub fn seconds(&self, name: &str) -> f64 {
        self.phases
            .iter()
            .find(|phase| phase.name == name)
            .map_or(0.0, |phase| phase.seconds)
    }
}
