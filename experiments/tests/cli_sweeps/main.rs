//! What holds of every binary made of sweeps, run as a user runs it: whole, resumed, in shards, killed, and with mistakes.
//!
//! What one of them alone promises (its tables, its own flags) is in the file of that name, `cli_thm42.rs` and so on.

mod alone;
mod binaries;
#[path = "../common/mod.rs"]
mod common;
mod shared;

use alone::{
    a_killed_run_goes_on_to_the_same_bytes, a_reader_that_goes_away_is_not_an_error,
    a_run_goes_on_with_its_own_settings_only,
    a_run_is_the_same_on_any_number_of_threads_and_can_be_redrawn,
    bad_settings_are_refused_before_anything_is_written,
    help_fits_and_every_key_of_the_config_is_a_flag, nothing_is_overwritten,
};
use shared::{
    a_merge_wants_all_cells_of_one_experiment,
    an_array_of_slurm_jobs_gives_the_bytes_of_one_process,
    three_shards_and_a_merge_give_the_bytes_of_one_process,
};

/// Each promise is a test of its own for each binary.
macro_rules! every_sweep {
    ($($module:ident = $sweep:expr),*; $($promise:ident),* $(,)?) => {
        every_sweep!(@ [$($module = $sweep),*] [$($promise),*]);
    };
    (@ [$($module:ident = $sweep:expr),*] $promises:tt) => {
        $(mod $module {
            every_sweep!(# $sweep, $promises);
        })*
    };
    (# $sweep:expr, [$($promise:ident),*]) => {
        $(#[test]
        fn $promise() {
            super::$promise(&$sweep);
        })*
    };
}

every_sweep! {
    thm42 = crate::binaries::THM42, algorithm2 = crate::binaries::ALGORITHM2,
    audit = crate::binaries::AUDIT, bench = crate::binaries::BENCH,
    study = crate::binaries::STUDY;
    a_run_is_the_same_on_any_number_of_threads_and_can_be_redrawn,
    a_run_goes_on_with_its_own_settings_only,
    three_shards_and_a_merge_give_the_bytes_of_one_process,
    an_array_of_slurm_jobs_gives_the_bytes_of_one_process,
    a_merge_wants_all_cells_of_one_experiment,
    a_killed_run_goes_on_to_the_same_bytes,
    bad_settings_are_refused_before_anything_is_written,
    nothing_is_overwritten,
    help_fits_and_every_key_of_the_config_is_a_flag,
    a_reader_that_goes_away_is_not_an_error,
}
