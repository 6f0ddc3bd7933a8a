//! What every binary's command line shares: common flags, one-line errors, text and JSON output.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use serde::Serialize;

/// The flags every binary has; put it in the binary's own struct with `#[command(flatten)]`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Common {
    /// Read settings from this TOML file (keys as in the binary's default config)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Seed of every random draw; the same seed gives the same files
    // TOML integers stop at 2^63 - 1, and the saved config must hold the seed.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    pub seed: Option<u64>,
    /// Write results here: a new or empty directory [default: the next free runs/NAME-0001]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Run a small setting that ends within seconds
    #[arg(long)]
    pub smoke: bool,
    /// Print the results as JSON on standard output; text for people goes to standard error
    #[arg(long)]
    pub json: bool,
    /// Draw no progress bars
    #[arg(long)]
    pub quiet: bool,
    /// Draw the figures of a finished run again, from the CSV files in this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "seed", "out", "smoke"])]
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
/// standard output has gone away (`prop32 | head`), the program ends quietly instead.
pub fn run_main(name: &str, f: impl FnOnce() -> Result<()>) -> ExitCode {
    match f() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to tell anyone if standard error is closed too.
            writeln!(io::stderr(), "{}", error_line(name, &error)).ok();
            ExitCode::FAILURE
        }
    }
}

fn error_line(name: &str, error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let part = cause
            .to_string()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        // Some errors repeat their source in their own text; say it once.
        if !parts.last().is_some_and(|last| last.ends_with(&part)) {
            parts.push(part);
        }
    }
    if parts.iter().all(String::is_empty) {
        parts = vec![format!("{name} failed")];
    }
    format!("error: {}", parts.join(": "))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<StdoutClosed>().is_some())
}

#[derive(Debug)]
struct StdoutClosed;

impl Display for StdoutClosed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("standard output was closed")
    }
}

impl std::error::Error for StdoutClosed {}

/// Where a binary's words go: text for people, or one JSON value for programs.
///
/// Without `--json`, text goes to standard output. With it, standard output holds JSON only and
/// the text moves to standard error.
#[derive(Debug, Clone, Copy)]
pub struct Reporter {
    json: bool,
}

impl Reporter {
    /// A reporter; `json` is the `--json` flag.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints one line (or several) of text for people; usually called through [`crate::say!`].
    ///
    /// # Errors
    /// When the stream cannot be written; pass the error on, [`run_main`] knows what it means.
    pub fn say(&self, text: impl Display) -> Result<()> {
        if self.json {
            // Progress text is not the result: a closed standard error must not lose the run.
            writeln!(io::stderr(), "{text}").ok();
            Ok(())
        } else {
            print(&format!("{text}\n"))
        }
    }

    /// Prints a value as pretty JSON on standard output when `--json` is on, else does nothing.
    pub fn json(&self, value: &impl Serialize) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        let text =
            serde_json::to_string_pretty(value).context("cannot write the result as JSON")?;
        print(&format!("{text}\n"))
    }
}

fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| match e.kind() {
            ErrorKind::BrokenPipe => anyhow::Error::new(StdoutClosed),
            _ => anyhow!("standard output: cannot write: {e}"),
        })
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
    fn a_closed_pipe_is_recognised_through_context() {
        let error = anyhow::Error::new(StdoutClosed).context("printing the table");
        assert!(is_broken_pipe(&error));
        // A pipe that broke elsewhere is a failure like any other.
        assert!(!is_broken_pipe(
            &io::Error::from(ErrorKind::BrokenPipe).into()
        ));
    }

    #[test]
    fn flags_parse_and_redraw_excludes_a_run() {
        let args = Args::try_parse_from(["x", "--seed", "7", "--smoke", "--out", "d"]).unwrap();
        assert_eq!(args.common.seed, Some(7));
        assert!(args.common.smoke && !args.common.json);
        assert!(Args::try_parse_from(["x", "--redraw", "d", "--seed", "1"]).is_err());
        assert!(Args::try_parse_from(["x", "--seed", "9223372036854775808"]).is_err());
    }
}
