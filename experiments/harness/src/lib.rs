//! What every rto experiment shares: command line, config, run folder, progress, tables, figures.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod atomic;
pub mod cli;
pub mod config;
pub mod manifest;
pub mod plot;
pub mod progress;
pub mod run_dir;
pub mod table;
pub mod text;
