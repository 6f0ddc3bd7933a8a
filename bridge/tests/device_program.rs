//! The program of a network over a device, under the emulator: Hugging Face's numbers for every family, and the processor's own kernels for
//! everything that a request, a step and an iteration can hold.
//!
//! `--nocapture` prints the deviations.

mod common;

mod device_program {
    pub mod fixtures;
    pub mod iteration;
    pub mod learner;
    pub mod steps;
    pub mod there;
}
