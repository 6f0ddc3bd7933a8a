//! What is said and written of a run as a whole.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rto_harness::cli::Reporter;
use rto_harness::run_dir::{RunDir, Timings};
use rto_harness::say;
use rto_harness::table::Table;
use serde_json::json;

use super::config::Config;
use super::data::Data;
use super::stage::Stage;

/// The ledger of a run: its stages with their times, and at the end the page.
pub struct Ledger<'r> {
    dir: &'r RunDir,
    reporter: &'r Reporter,
    timings: Timings,
}

impl<'r> Ledger<'r> {
    /// The ledger of the run in `dir`.
    pub fn new(dir: &'r RunDir, reporter: &'r Reporter) -> Self {
        let timings = Timings::new();
        Self {
            dir,
            reporter,
            timings,
        }
    }

    /// Says where the run is, what was read, and which settings climb something else than the objective, each once for all methods.
    pub fn open(&self, config: &Config, data: &Data) -> Result<()> {
        say!(self.reporter, "run folder {}", self.dir.root().display())?;
        if !data.said.is_empty() {
            say!(self.reporter, "{}", data.said)?;
        }
        let mut said = Vec::new();
        for method in &config.methods {
            for biased in config.ppo(method)?.biased() {
                let text = biased.to_string();
                if !said.contains(&text) {
                    say!(self.reporter, "warning: {text}")?;
                    said.push(text);
                }
            }
        }
        Ok(())
    }

    /// A stage has ended.
    pub fn stage(&mut self, stage: Stage, time: Duration) -> Result<()> {
        self.timings.add(stage.name(), time);
        // Now: a run that is stopped later goes on without this stage.
        self.write_timings()?;
        let seconds = time.as_secs_f64();
        say!(self.reporter, "{}: {seconds:.1} s", stage.name())
    }

    /// Runs the last stage and writes the page.
    pub fn evaluate(
        &mut self,
        json: bool,
        work: impl FnOnce() -> Result<Vec<Table>>,
    ) -> Result<()> {
        let name = Stage::Evaluate.name();
        let tables = self.timings.phase(name, work)?;
        let (dir, reporter) = (self.dir, self.reporter);
        // Files first: whoever stops reading loses no result.
        dir.write_text("done", "")?;
        let page = dir.path("report.html");
        if dir.writes() {
            crate::report::write(dir.root(), &page)?;
            crate::report::frontier::save(dir.root())?;
        }
        self.close()?;
        say!(reporter, "{name}: {:.1} s", self.timings.seconds(name))?;
        for table in &tables {
            say!(reporter, "{}", table.render())?;
        }
        if let Some(text) = crate::report::pays(dir.root()).filter(|_| dir.writes()) {
            say!(reporter, "{text}")?;
        }
        // A sweep prints one document, of its own.
        if json {
            let mut answer = json!({ "run": dir.root(), "summary": tables.first() });
            if let Some(table) = tables.iter().find(|table| table.name() == "sampler") {
                answer["sampler"] = json!(table);
            }
            reporter.json(&answer)?;
        }
        say!(reporter, "everything on one page: {}", page.display())
    }

    /// The run stops here: its times are written, and nothing half written is left.
    pub fn close(&self) -> Result<()> {
        self.write_timings()?;
        if self.dir.writes() {
            remove_temporaries(self.dir.root());
        }
        Ok(())
    }

    fn write_timings(&self) -> Result<()> {
        self.dir.write_timings(&self.timings)
    }
}

/// What killed processes were writing; only this process writes here.
fn remove_temporaries(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let temporary = name.starts_with('.') && name.ends_with(".tmp");
        // Nothing is lost where one cannot be removed.
        match path.is_dir() {
            true if temporary => drop(std::fs::remove_dir_all(&path)),
            true => remove_temporaries(&path),
            false if temporary => drop(std::fs::remove_file(&path)),
            false => {}
        }
    }
}
