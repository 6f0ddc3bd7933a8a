//! Rotary frequencies: their base, their scaling, and how `config.json` says both.

use super::keys::Keys;
use crate::Result;
use crate::ops::rotary;
use serde_json::{Map, Value, json};

/// Rotation of queries and keys: of each head's dimensions the first `dims`, half-split.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotary {
    /// Rotated dimensions of a head, even.
    pub dims: usize,
    /// Base of the frequencies.
    pub base: f64,
    /// Change of the frequencies, if any.
    pub scaling: Option<RopeScaling>,
}

/// How the rotary frequencies of a longer context come from those of the one that was trained first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Every frequency divided by `factor`.
    Linear {
        /// How many times longer the context is.
        factor: f64,
    },
    /// Llama 3: low frequencies are divided by `factor`, high ones stay, those between are interpolated.
    Llama3 {
        /// How many times longer the context is.
        factor: f64,
        /// Wavelengths above `original_max_positions / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_positions / high_freq_factor` are high frequencies.
        high_freq_factor: f64,
        /// The context that was trained first.
        original_max_positions: usize,
    },
}

impl Rotary {
    /// Angle per position of each pair of dimensions; the scaling is computed in `f32`, as the reference implementation does.
    pub fn frequencies(&self) -> Vec<f32> {
        let plain = rotary::frequencies(self.dims, self.base);
        match self.scaling {
            None => plain,
            Some(RopeScaling::Linear { factor }) => {
                plain.into_iter().map(|f| f / factor as f32).collect()
            }
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_positions,
            }) => {
                let context = original_max_positions as f64;
                let (longest, shortest) = (
                    (context / low_freq_factor) as f32,
                    (context / high_freq_factor) as f32,
                );
                let (factor, low) = (factor as f32, low_freq_factor as f32);
                let span = (high_freq_factor - low_freq_factor) as f32;
                let scale = |f: f32| {
                    let wavelength = std::f32::consts::TAU / f;
                    if wavelength > longest {
                        f / factor
                    } else if wavelength < shortest {
                        f
                    } else {
                        let smooth = (context as f32 / wavelength - low) / span;
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                };
                plain.into_iter().map(scale).collect()
            }
        }
    }

    /// The rotated fraction f of a head, with ⌊head_dim · f⌋ = dims as readers of the file compute it.
    pub fn fraction(&self, head_dim: usize) -> f64 {
        let fraction = self.dims as f64 / head_dim as f64;
        if (fraction * head_dim as f64) as usize == self.dims {
            fraction
        } else {
            fraction.next_up()
        }
    }

    /// As the `rope_scaling` of older files: null, or kind and numbers.
    pub fn scaling_json(&self) -> Value {
        match self.scaling {
            None => Value::Null,
            Some(RopeScaling::Linear { factor }) => {
                json!({"rope_type": "linear", "factor": factor})
            }
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_positions,
            }) => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_positions,
            }),
        }
    }

    /// As the `rope_parameters` of newer files.
    pub fn parameters_json(&self) -> Value {
        let mut rope = match self.scaling_json() {
            Value::Null => json!({"rope_type": "default"}),
            scaling => scaling,
        };
        rope["rope_theta"] = json!(self.base);
        rope
    }
}

impl Keys<'_> {
    /// Rotation of whole heads: base (`rope_theta`) and scaling, in either style.
    pub(super) fn rotary(&self, head_dim: usize, max_positions: usize) -> Result<Rotary> {
        self.rotary_of(head_dim, max_positions, ("rope_theta", 10_000.0), None)
    }

    /// The same with an older file's key of the base and its default and, where only a part of each head is rotated, the older key of
    /// that fraction and its default.
    pub(super) fn rotary_of(
        &self,
        head_dim: usize,
        max_positions: usize,
        (base_key, base): (&str, f64),
        fraction: Option<(&str, f64)>,
    ) -> Result<Rotary> {
        let new = self.rope_parameters()?;
        let old = match self.get("rope_scaling") {
            None => None,
            Some(Value::Object(old)) => Some(old),
            Some(other) => return Err(self.wrong("rope_scaling", other, "an object or null")),
        };
        let pick = |key: &str, old: &str, default: f64| match new.and_then(|r| r.get(key)) {
            Some(value) if !value.is_null() => {
                self.number(&format!("rope_parameters.{key}"), value)
            }
            _ => self.get(old).map_or(Ok(default), |v| self.number(old, v)),
        };
        let dims = match fraction {
            None => head_dim,
            Some((key, default)) => {
                let fraction = pick("partial_rotary_factor", key, default)?;
                if !(0.0..=1.0).contains(&fraction) {
                    return Err(
                        self.refuse(format!("{key}: found {fraction}, must be between 0 and 1"))
                    );
                }
                let dims = (head_dim as f64 * fraction) as usize;
                if !dims.is_multiple_of(2) {
                    return Err(self.refuse(format!(
                        "{key}: rotates {dims} of the {head_dim} dimensions of a head, must be an even number"
                    )));
                }
                dims
            }
        };
        let base = pick("rope_theta", base_key, base)?;
        if base <= 0.0 {
            return Err(self.refuse(format!("{base_key}: found {base}, must be positive")));
        }
        let scaling = match (new, old) {
            (Some(new), _) => scaling(self, "rope_parameters", new, max_positions)?,
            (None, Some(old)) => scaling(self, "rope_scaling", old, max_positions)?,
            (None, None) => None,
        };
        Ok(Rotary {
            dims,
            base,
            scaling,
        })
    }

    /// Rotation of whole heads in the blocks of one kind: `rope_parameters` of newer files has an object for each; in older ones the key of
    /// the base says which it is, and `rope_scaling` is that of `full_attention`.
    pub(super) fn rotary_of_kind(
        &self,
        kind: &str,
        head_dim: usize,
        max_positions: usize,
        base: (&str, f64),
    ) -> Result<Rotary> {
        let mut object = self.object.clone();
        let nested = object.remove("rope_parameters");
        let nested = nested.and_then(|mut rope| rope.get_mut(kind).map(Value::take));
        if let Some(own) = nested.filter(Value::is_object) {
            object.insert("rope_parameters".into(), own);
        }
        if kind != "full_attention" {
            object.remove("rope_scaling");
        }
        Keys::new(self.path, &object).rotary_of(head_dim, max_positions, base, None)
    }

    /// The object of rotary settings that newer files have.
    pub(super) fn rope_parameters(&self) -> Result<Option<&Map<String, Value>>> {
        match self.get("rope_parameters") {
            None => Ok(None),
            Some(Value::Object(rope)) => Ok(Some(rope)),
            Some(other) => Err(self.wrong("rope_parameters", other, "an object")),
        }
    }
}

fn scaling(
    keys: &Keys<'_>,
    name: &str,
    settings: &Map<String, Value>,
    max_positions: usize,
) -> Result<Option<RopeScaling>> {
    let read = |key: &str| {
        let full = format!("{name}.{key}");
        let value = settings.get(key).filter(|v| !v.is_null());
        let value = value.ok_or_else(|| keys.missing(&full, "a number"))?;
        match keys.number(&full, value)? {
            number if number > 0.0 => Ok(number),
            _ => Err(keys.wrong(&full, value, "a number above 0")),
        }
    };
    let kind = settings.get("rope_type").or_else(|| settings.get("type"));
    match kind.map(|k| (k.as_str(), k)) {
        None | Some((Some("default"), _)) => Ok(None),
        Some((Some("linear"), _)) => Ok(Some(RopeScaling::Linear {
            factor: read("factor")?,
        })),
        Some((Some("llama3"), _)) => {
            const ORIGINAL: &str = "original_max_position_embeddings";
            let full = format!("{name}.{ORIGINAL}");
            // As `transformers` has it: the top level goes first, and without either it is the whole context.
            let original = match (keys.get(ORIGINAL), settings.get(ORIGINAL)) {
                (Some(value), _) => keys.size_of(ORIGINAL, value)?,
                (None, Some(value)) => keys.size_of(&full, value)?,
                (None, None) => max_positions,
            };
            let (low, high) = (read("low_freq_factor")?, read("high_freq_factor")?);
            if low >= high {
                return Err(keys.refuse(format!(
                    "{name}.low_freq_factor: found {low}, expected less than high_freq_factor ({high})"
                )));
            }
            Ok(Some(RopeScaling::Llama3 {
                factor: read("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_positions: original,
            }))
        }
        Some((_, kind)) => Err(keys.wrong(
            &format!("{name}.rope_type"),
            kind,
            "\"default\", \"linear\" or \"llama3\"",
        )),
    }
}
