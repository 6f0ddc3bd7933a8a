//! AdamW on a device.

use super::parameters::{Gradients, Parameters};
use crate::buffer::{Buffer, Element};
use crate::device::{download_f32, write_f32};
use crate::kernels::{Adam, Codes, Eight, Kernels};
use crate::{Error, Result};
use std::collections::BTreeMap;

/// Weights of a block of 8-bit moments.
const BLOCK: usize = 256;

/// Settings of [`AdamW`]; those of one weight come with each step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWSettings {
    /// β₁.
    pub decay1: f64,
    /// β₂.
    pub decay2: f64,
    /// ε, outside the root.
    pub epsilon: f64,
    /// Longest gradient; a longer one is scaled to this length.
    pub longest: Option<f64>,
    /// Weights of at least this many numbers have moments in 8 bits; none where `None`.
    pub eight_bit_from: Option<usize>,
}

/// Rate and decay of one weight in one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// η, the learning rate.
    pub rate: f64,
    /// λ, the weight decay; the weight is first multiplied by 1 − ηλ.
    pub decay: f64,
}

/// Moments of every trained weight, and the number of steps taken:
/// `m ← β₁m + (1−β₁)g`, `v ← β₂v + (1−β₂)g²`, `w ← w(1−ηλ) − η (m/(1−β₁ᵗ))/(√(v/(1−β₂ᵗ)) + ε)` with g clipped.
#[derive(Debug)]
pub struct AdamW {
    settings: AdamWSettings,
    step: u32,
    moments: Vec<(String, Moments)>,
    partial: Buffer,
    norm: Buffer,
}

#[derive(Debug)]
enum Moments {
    F32([Buffer; 2]),
    Eight {
        codes: [Buffer; 2],
        scales: [Buffer; 2],
    },
}

/// Both moments of a weight, on the host.
#[derive(Debug, Clone, PartialEq)]
pub enum MomentValues {
    /// A number a weight each.
    F32([Vec<f32>; 2]),
    /// A byte a weight and a scale for each 256 each.
    Eight {
        /// The bytes.
        codes: [Vec<u8>; 2],
        /// The scales.
        scales: [Vec<f32>; 2],
    },
}

impl AdamW {
    /// Moments of zero.
    ///
    /// # Errors
    /// What the device reports.
    pub fn new(
        kernels: &Kernels<'_>,
        parameters: &Parameters,
        settings: AdamWSettings,
    ) -> Result<Self> {
        let device = kernels.device();
        let eight = |len: usize| settings.eight_bit_from.is_some_and(|from| len >= from);
        // One arena for each kind, cut as the weights are.
        let whole = |wanted: bool| -> usize {
            let sizes = parameters.trained().map(|(_, at)| at.len());
            let sizes = sizes.filter(|&len| eight(len) == wanted);
            sizes.map(|len| len.next_multiple_of(BLOCK)).sum()
        };
        let zeros = |element, len| -> Result<Buffer> {
            let arena = device.alloc(element, len)?;
            kernels.clear(&arena.of(Element::F32)?)?;
            Ok(arena)
        };
        let pair = |element, len| -> Result<[Buffer; 2]> {
            Ok([zeros(element, len)?, zeros(element, len)?])
        };
        let floats = pair(Element::F32, whole(false))?;
        let bytes = pair(Element::U8, whole(true))?;
        let scales = pair(Element::F32, whole(true) / BLOCK)?;
        let (mut float_at, mut byte_at) = (0, 0);
        let mut moments = Vec::new();
        for (name, at) in parameters.trained() {
            let (len, padded) = (at.len(), at.len().next_multiple_of(BLOCK));
            let cut = |of: &[Buffer; 2], from: usize, len: usize| -> Result<[Buffer; 2]> {
                Ok([of[0].part(from, len)?, of[1].part(from, len)?])
            };
            let kept = if eight(len) {
                let blocks = len.div_ceil(BLOCK);
                let kept = Moments::Eight {
                    codes: cut(&bytes, byte_at, len)?,
                    scales: cut(&scales, byte_at / BLOCK, blocks)?,
                };
                byte_at += padded;
                kept
            } else {
                let kept = Moments::F32(cut(&floats, float_at, len)?);
                float_at += padded;
                kept
            };
            moments.push((name.to_string(), kept));
        }
        Ok(Self {
            settings,
            step: 0,
            moments,
            partial: device.alloc(Element::F64, Kernels::squares_len(parameters.arena()))?,
            norm: device.alloc(Element::F32, 2)?,
        })
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u32 {
        self.step
    }

    /// The moments of every trained weight by name; first and second are in this order.
    ///
    /// # Errors
    /// What the device reports.
    pub fn moments(&self, kernels: &Kernels<'_>) -> Result<BTreeMap<String, MomentValues>> {
        let device = kernels.device();
        let floats = |x: &Buffer| download_f32(device, x);
        let values = |(name, moments): &(String, Moments)| {
            let values = match moments {
                Moments::F32([m, v]) => MomentValues::F32([floats(m)?, floats(v)?]),
                Moments::Eight {
                    codes: [m, v],
                    scales: [m_scales, v_scales],
                } => MomentValues::Eight {
                    codes: [device.download(m)?, device.download(v)?],
                    scales: [floats(m_scales)?, floats(v_scales)?],
                },
            };
            Ok((name.clone(), values))
        };
        self.moments.iter().map(values).collect()
    }

    /// Goes on after `step` steps with these moments, of every trained weight.
    ///
    /// # Errors
    /// [`Error::Network`] for moments of another kind or length, or of a weight that is not trained, and where some are missing; what the
    /// device reports.
    pub fn restore(
        &mut self,
        kernels: &Kernels<'_>,
        step: u32,
        moments: &BTreeMap<String, MomentValues>,
    ) -> Result<()> {
        let device = kernels.device();
        let refuse = |name: &str, what: &str| Error::Network(format!("moments of {name}: {what}"));
        if let Some(name) = moments
            .keys()
            .find(|name| !self.moments.iter().any(|(own, _)| own == *name))
        {
            return Err(refuse(
                name,
                "found some, expected none of a weight that is not trained",
            ));
        }
        // All of them fit, or none is taken.
        let fits = |own: &Moments, given: &MomentValues| match (own, given) {
            (Moments::F32(own), MomentValues::F32(given)) => own
                .iter()
                .zip(given)
                .all(|(own, given)| own.len() == given.len()),
            (
                Moments::Eight { codes, scales },
                MomentValues::Eight {
                    codes: bytes,
                    scales: floats,
                },
            ) => {
                codes
                    .iter()
                    .zip(bytes)
                    .all(|(own, given)| own.len() == given.len())
                    && scales
                        .iter()
                        .zip(floats)
                        .all(|(own, given)| own.len() == given.len())
            }
            _ => false,
        };
        for (name, own) in &self.moments {
            let given = moments
                .get(name)
                .ok_or_else(|| refuse(name, "found none"))?;
            if !fits(own, given) {
                return Err(refuse(
                    name,
                    "found another kind or length than the weight's",
                ));
            }
        }
        for (name, own) in &self.moments {
            match (own, moments.get(name)) {
                (Moments::F32(own), Some(MomentValues::F32(given))) => {
                    for (own, given) in own.iter().zip(given) {
                        write_f32(device, own, given)?;
                    }
                }
                (
                    Moments::Eight { codes, scales },
                    Some(MomentValues::Eight {
                        codes: bytes,
                        scales: floats,
                    }),
                ) => {
                    for i in 0..2 {
                        device.upload(&codes[i], &bytes[i])?;
                        write_f32(device, &scales[i], &floats[i])?;
                    }
                }
                _ => return Err(refuse(name, "found another kind than the weight's")),
            }
        }
        self.step = step;
        Ok(())
    }

    /// Changes the trained weights and returns the length of the gradient before clipping; `rate` says rate and decay of a weight.
    ///
    /// # Errors
    /// [`Error::Network`] for a gradient that is not finite (nothing is changed then); what the device reports.
    pub fn step(
        &mut self,
        kernels: &Kernels<'_>,
        parameters: &Parameters,
        gradients: &Gradients,
        rate: impl Fn(&str) -> Rate,
    ) -> Result<f64> {
        kernels.squares(&gradients.arena, &self.partial)?;
        let longest = self.settings.longest.map(|l| l as f32);
        kernels.gradient_norm(&self.partial, longest, &self.norm)?;
        let step = self.step + 1;
        for (name, moments) in &self.moments {
            let adam = self.adam(step, rate(name));
            let (Some(halves), Some(g)) = (parameters.stepped(name)?, gradients.get(name)?) else {
                return Err(Error::Network(format!(
                    "weight {name}: has moments, but is not trained"
                )));
            };
            match moments {
                Moments::F32([m, v]) => {
                    kernels.adamw(halves.weights(), [m, v], &g, &self.norm, &adam)?;
                }
                Moments::Eight { codes, scales } => {
                    let code = |i: usize| Codes {
                        codes: &codes[i],
                        scales: &scales[i],
                    };
                    let eight = Eight {
                        m: code(0),
                        v: code(1),
                        step,
                    };
                    kernels.adamw_eight_bit(halves.weights(), &eight, &g, &self.norm, &adam)?;
                }
            }
        }
        // The one number of a step that comes to the host.
        let norm = download_f32(kernels.device(), &self.norm)?;
        if norm[1] < 0.0 {
            return Err(Error::Network(
                "gradient: its length is not finite, no weight was changed".into(),
            ));
        }
        self.step = step;
        Ok(f64::from(norm[0]))
    }

    fn adam(&self, step: u32, Rate { rate, decay }: Rate) -> Adam {
        let (s, t) = (&self.settings, f64::from(step));
        Adam {
            decay1: s.decay1 as f32,
            decay2: s.decay2 as f32,
            keep: (1.0 - rate * decay) as f32,
            rate: (rate / (1.0 - s.decay1.powf(t))) as f32,
            root: (1.0 / (1.0 - s.decay2.powf(t)).sqrt()) as f32,
            epsilon: s.epsilon as f32,
        }
    }
}
