//! The files of a stage that can be killed at any moment: log, event file and checkpoint belong together.
//!
//! Lines are written before the checkpoint that covers them, and lines after the last checkpoint are cut off when a
//! stage goes on, so every file ends as if nothing had happened (event files carry the wall clock).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rto_bridge::checkpoint::atomic::{previous, replace_file, replace_folder};
use rto_harness::event_file::EventWriter;
use rto_harness::jsonl::JsonlLog;
use serde_json::{Map, Value, json};

use crate::run::ranks::Engine;
use crate::run::stage::Stage;

/// Named numbers of a step, in the order they are logged.
pub type Metrics = Vec<(String, f64)>;

const STATE: &str = "state.json";

/// Where a stage keeps what it needs.
pub struct Journal {
    pub stage: Stage,
    checkpoint: PathBuf,
    done: PathBuf,
    /// None on ranks that leave the writing to the first.
    files: Option<(JsonlLog, EventWriter)>,
    engine: Engine,
    /// Steps covered by the checkpoint that was found.
    pub step: u64,
    /// What else that checkpoint's state held.
    pub extra: Value,
}

/// Whether a stage of the run in `root` has finished.
pub fn is_done(root: &Path, stage: Stage) -> bool {
    root.join("stages")
        .join(stage.name())
        .join("done.json")
        .is_file()
}

/// The checkpoint that a stage of the run in `root` has left, where it has one.
pub fn left(root: &Path, stage: Stage) -> Option<PathBuf> {
    let checkpoint = root.join("stages").join(stage.name()).join("checkpoint");
    checkpoint.join(STATE).is_file().then_some(checkpoint)
}

impl Journal {
    /// The files of a stage of the run in `root`, at its last checkpoint if it has one. Of several ranks the first makes and writes
    /// them; the others read the checkpoint once it stands.
    pub fn open(root: &Path, stage: Stage, engine: &Engine) -> Result<Self> {
        let name = stage.name();
        let folder = root.join("stages").join(name);
        let checkpoint = folder.join("checkpoint");
        let first = engine.rank() == 0;
        if first {
            make(root, name, &checkpoint)?;
        }
        engine.barrier()?;
        let (step, extra) = match checkpoint.join(STATE).is_file() {
            true => read_state(&checkpoint.join(STATE))?,
            false => (0, Value::Null),
        };
        let files = match first {
            true => Some(logs(root, name, step)?),
            false => None,
        };
        Ok(Self {
            stage,
            done: folder.join("done.json"),
            files,
            engine: engine.clone(),
            checkpoint,
            step,
            extra,
        })
    }

    /// The folder of the checkpoint that was found.
    pub fn checkpoint(&self) -> Option<&Path> {
        (self.step > 0).then_some(&*self.checkpoint)
    }

    /// Logs what a step measured. NaN and infinities end the run: the last checkpoint is still good.
    pub fn write(&mut self, step: u64, metrics: &Metrics) -> Result<()> {
        if let Some((name, value)) = metrics.iter().find(|(_, v)| !v.is_finite()) {
            anyhow::bail!(
                "stage {}, step {step}: {name} is {value}; the checkpoint of the last good step is kept",
                self.stage.name()
            );
        }
        let object: Map<String, Value> = metrics
            .iter()
            .map(|(name, v)| (name.clone(), json!(v)))
            .collect();
        match &mut self.files {
            None => Ok(()),
            Some((log, events)) => {
                log.write(step, &object)?;
                events.scalars(step, metrics.iter().map(|(name, v)| (name.as_str(), *v)))
            }
        }
    }

    /// Replaces the checkpoint by what `fill` writes, at `step`; returns on every rank once it stands.
    pub fn save(
        &mut self,
        step: u64,
        extra: Value,
        fill: impl FnOnce(&Path) -> rto_bridge::Result<()>,
    ) -> Result<()> {
        self.step = step;
        let Some((log, _)) = &mut self.files else {
            return Ok(self.engine.barrier()?);
        };
        log.sync()?;
        let state = json!({ "step": step, "extra": extra });
        replace_folder(
            &self.checkpoint,
            |_| true,
            |new| {
                fill(new)?;
                replace_file(&new.join(STATE), format!("{state}\n").as_bytes())
            },
        )
        .with_context(|| {
            format!(
                "stage {}, step {step}: the checkpoint before it is kept",
                self.stage.name()
            )
        })?;
        Ok(self.engine.barrier()?)
    }

    /// Marks the stage as finished.
    pub fn finish(self) -> Result<()> {
        let Some((log, _)) = &self.files else {
            return Ok(self.engine.barrier()?);
        };
        log.sync()?;
        let text = format!(
            "{}\n",
            json!({ "stage": self.stage.name(), "steps": self.step })
        );
        replace_file(&self.done, text.as_bytes())?;
        Ok(self.engine.barrier()?)
    }
}

/// The folders of a stage.
fn make(root: &Path, name: &str, checkpoint: &Path) -> Result<()> {
    let folder = root.join("stages").join(name);
    let board = root.join("tensorboard").join(name);
    for dir in [&folder, &board, &root.join("metrics")] {
        fs::create_dir_all(dir).with_context(|| format!("{}: cannot make", dir.display()))?;
    }
    // A process killed between two renames, on a file system that cannot exchange folders.
    if !checkpoint.is_dir()
        && let Some(old) = previous(checkpoint).filter(|old| old.is_dir())
    {
        fs::rename(&old, checkpoint)?;
    }
    Ok(())
}

/// The log and the event file, cut off after `step`.
fn logs(root: &Path, name: &str, step: u64) -> Result<(JsonlLog, EventWriter)> {
    let log = root.join("metrics").join(format!("{name}.jsonl"));
    let events = root.join("tensorboard").join(name);
    let events = events.join("events.out.tfevents.rto");
    Ok((
        JsonlLog::resume(&log, step)?,
        EventWriter::resume(&events, step)?,
    ))
}

fn read_state(path: &Path) -> Result<(u64, Value)> {
    let named = || path.display().to_string();
    let text = fs::read_to_string(path).with_context(named)?;
    let mut value: Value = serde_json::from_str(&text).with_context(named)?;
    let step = value["step"]
        .as_u64()
        .with_context(|| format!("{}: no whole number \"step\"", path.display()))?;
    Ok((step, value["extra"].take()))
}
