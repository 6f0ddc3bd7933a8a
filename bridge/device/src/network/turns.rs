//! Angles of rotations.

use crate::Result;
use crate::buffer::{Buffer, Real};
use crate::device::upload_f32;
use crate::kernels::{Angles, Kernels};
use crate::network::description::Network;

/// The angles of a network's rotations on a device, for any number of its programs; copies share the memory.
#[derive(Debug, Clone)]
pub struct Rotations {
    turns: Vec<Turns>,
    /// Of blocks that do not turn.
    still: Turns,
}

impl Rotations {
    /// Those of `network`, in `f32` at every position.
    ///
    /// # Errors
    /// What the device reports.
    pub fn new(kernels: &Kernels<'_>, network: &Network) -> Result<Self> {
        let turns = network.rotations.iter();
        let turns = turns.map(|f| Turns::new(kernels, network.positions, f));
        Ok(Self {
            turns: turns.collect::<Result<_>>()?,
            still: Turns::new(kernels, 0, &[])?,
        })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.turns.len()
    }

    /// Those of a block that turns by the given rotation.
    pub(crate) fn angles(&self, rotation: Option<usize>) -> Angles<'_> {
        rotation.map_or(&self.still, |r| &self.turns[r]).angles()
    }
}

/// Cosines and sines of a rotation, `[positions, dims/2]` each.
#[derive(Debug, Clone)]
struct Turns([Buffer; 2]);

impl Turns {
    fn new(kernels: &Kernels<'_>, positions: usize, frequencies: &[f32]) -> Result<Self> {
        let angles =
            (0..positions).flat_map(|p| frequencies.iter().map(move |f| f64::from(p as f32 * f)));
        let cosines: Vec<f32> = angles.clone().map(|a| a.cos() as f32).collect();
        let sines: Vec<f32> = angles.map(|a| a.sin() as f32).collect();
        let upload = |values: &[f32]| upload_f32(kernels.device(), Real::F32, values);
        Ok(Self([upload(&cosines)?, upload(&sines)?]))
    }

    fn angles(&self) -> Angles<'_> {
        let [cosines, sines] = &self.0;
        Angles { cosines, sines }
    }
}
