//! The `solve` binary, run as a user runs it: every golden value that has an output key, premises and reasons of
//! nulls, coverage, arrays in files, bad input, and files broken at random.

mod bad_input;
mod bad_preferences;
mod broken;
mod common;
mod coverage;
mod data;
mod files;
mod golden;
mod known;
mod notes;
mod premises;
mod printed;
mod reachable;
mod tables;
