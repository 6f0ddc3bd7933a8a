//! What every binary's command line shares: common flags, one-line errors, text and JSON output.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;

pub use crate::arguments::parse;
use crate::{interrupt, progress, terminal};

/// The flags every binary has; put it in the binary's own struct with `#[command(flatten)]`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Common {
    /// Read settings from this TOML file (keys as in the binary's default config)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Seed of every random draw; the same seed gives the same files
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Change one setting by its key in the config, `dpo.loss=ipo` say; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Write results here: a new or empty directory, or an unfinished run to go on with, in its
    /// settings [default: the next free runs/NAME-0001]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Run a small setting that ends within seconds
    #[arg(long)]
    pub smoke: bool,
    /// Print the results as JSON on standard output; text for people goes to standard error
    #[arg(long)]
    pub json: bool,
    /// Draw no progress bar
    #[arg(long)]
    pub quiet: bool,
    /// Draw the figures of a finished run again, from the CSV files in this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "seed", "set", "out", "smoke"])]
    pub redraw: Option<PathBuf>,
}

impl Common {
    /// The reporter that these flags ask for.
    pub fn reporter(&self) -> Reporter {
        Reporter::new(self.json)
    }
}

/// Runs a binary's body and turns its result into an exit code.
///
/// An error is printed as one line, `error: outer: inner`, on standard error. When the reader of
/// standard output goes away (`prop32 | head`), printing stops and nothing else: the exit code is 0
/// when the run is whole. An interrupt says how to go on.
pub fn run_main(name: &str, f: impl FnOnce() -> Result<()>) -> ExitCode {
    interrupt::watch(name);
    match f() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(&error_line(name, &error));
            ExitCode::FAILURE
        }
    }
}

/// Prints a line on standard error, beside progress bars; on a terminal it breaks between words.
pub fn note(text: &str) {
    progress::beside(|| write_note(text));
}

/// Writes a note where no bar is drawn meanwhile.
pub(crate) fn write_note(text: &str) {
    let text = terminal::fit(text, terminal::width_of_stderr());
    // Nothing is left to tell anyone if standard error is closed too.
    writeln!(io::stderr(), "{text}").ok();
}

/// An error and its causes in one line, as binaries end with it.
pub fn error_line(name: &str, error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        // Some errors repeat the first line of their source in their own text; say it once.
        let first = words(text.lines().next().unwrap_or_default());
        if !parts.last().is_some_and(|last| last.ends_with(&first)) {
            parts.push(words(&text));
        }
    }
    if parts.iter().all(String::is_empty) {
        parts = vec![format!("{name} failed")];
    }
    format!("error: {}", parts.join(": "))
}

/// Where a binary's words go: text for people, or one JSON value for programs.
///
/// Without `--json`, text goes to standard output. With it, standard output holds JSON only and
/// the text moves to standard error.
#[derive(Debug, Clone, Copy)]
pub struct Reporter {
    json: bool,
    silent: bool,
}

impl Reporter {
    /// A reporter; `json` is the `--json` flag.
    pub fn new(json: bool) -> Self {
        terminal::text_goes_to_stderr(json);
        Self {
            json,
            silent: false,
        }
    }

    /// The same, but nothing is said: another process of the same job says it.
    #[must_use]
    pub fn silent(self) -> Self {
        Self {
            silent: true,
            ..self
        }
    }

    /// Prints one line (or several) of text for people; usually called through [`crate::say!`]. On a
    /// terminal, lines that are too wide break between words.
    ///
    /// # Errors
    /// When standard output cannot be written. That its reader has gone away is none: see [`print()`].
    pub fn say(&self, text: impl Display) -> Result<()> {
        if self.silent {
            return Ok(());
        }
        if self.json {
            // Progress text is not the result: a closed standard error must not lose the run.
            note(&text.to_string());
            Ok(())
        } else {
            let text = terminal::fit(&text.to_string(), terminal::width());
            print(&format!("{text}\n"))
        }
    }

    /// Prints a value as pretty JSON on standard output when `--json` is on, else does nothing.
    pub fn json(&self, value: &impl Serialize) -> Result<()> {
        if !self.json || self.silent {
            return Ok(());
        }
        let text =
            serde_json::to_string_pretty(value).context("cannot write the result as JSON")?;
        print(&format!("{text}\n"))
    }
}

/// Whether the reader of standard output has gone away.
static GONE: AtomicBool = AtomicBool::new(false);

/// Prints on standard output, beside progress bars. Once its reader has gone away, does nothing: whoever read enough
/// does not want the run to be lost.
///
/// # Errors
/// When it cannot be written for another reason, such as a full disk.
pub fn print(text: &str) -> Result<()> {
    if reader_is_gone() {
        return Ok(());
    }
    let write = || {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush())
    };
    // A pipe may wait for its reader; bars go on meanwhile.
    let written = match io::stdout().is_terminal() {
        true => progress::beside(write),
        false => write(),
    };
    match written {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => GONE.store(true, Ordering::Relaxed),
        other => other.map_err(|e| anyhow!("standard output: cannot write: {e}"))?,
    }
    Ok(())
}

/// Whether nobody reads standard output any more, so that work for it alone may stop.
pub fn reader_is_gone() -> bool {
    GONE.load(Ordering::Relaxed)
}

/// `say!(reporter, "{n} queries")?`: formats a line of text and gives it to [`Reporter::say`].
#[macro_export]
macro_rules! say {
    ($reporter:expr) => {
        $reporter.say("")
    };
    ($reporter:expr, $($arg:tt)+) => {
        $reporter.say(format_args!($($arg)+))
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        common: Common,
    }

    #[test]
    fn errors_fold_to_one_line() {
        let error = anyhow!("line one\n  line two")
            .context("my.toml")
            .context("config");
        assert_eq!(
            error_line("x", &error),
            "error: config: my.toml: line one line two"
        );
        let repeated = anyhow!("inner").context("outer: inner");
        assert_eq!(error_line("x", &repeated), "error: outer: inner");
    }

    #[test]
    fn flags_parse_and_redraw_excludes_a_run() {
        let args = Args::try_parse_from(["x", "--seed", "7", "--smoke", "--out", "d"]).unwrap();
        assert_eq!(args.common.seed, Some(7));
        assert!(args.common.smoke && !args.common.json);
        assert!(Args::try_parse_from(["x", "--redraw", "d", "--seed", "1"]).is_err());
        assert!(Args::try_parse_from(["x", "--redraw", "d", "--set", "n=1"]).is_err());
    }
}
