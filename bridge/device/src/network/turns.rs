//! Angles of rotations.

use crate::Result;
use crate::buffer::{Buffer, Real};
use crate::device::upload_f32;
use crate::kernels::{Angles, Kernels};

/// Cosines and sines of a rotation, `[positions, dims/2]` each.
#[derive(Debug)]
pub(crate) struct Turns([Buffer; 2]);

impl Turns {
    pub fn new(kernels: &Kernels<'_>, positions: usize, frequencies: &[f32]) -> Result<Self> {
        let angles =
            (0..positions).flat_map(|p| frequencies.iter().map(move |f| f64::from(p as f32 * f)));
        let cosines: Vec<f32> = angles.clone().map(|a| a.cos() as f32).collect();
        let sines: Vec<f32> = angles.map(|a| a.sin() as f32).collect();
        let upload = |values: &[f32]| upload_f32(kernels.device(), Real::F32, values);
        Ok(Self([upload(&cosines)?, upload(&sines)?]))
    }

    pub fn angles(&self) -> Angles<'_> {
        let [cosines, sines] = &self.0;
        Angles { cosines, sines }
    }
}
