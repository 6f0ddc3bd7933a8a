//! AdamW with decoupled weight decay (Loshchilov and Hutter 2019), resumable bit for bit.
//!
//! With `g` the (clipped) gradient and `t` the 1-based step: `m ← β₁m + (1−β₁)g`, `v ← β₂v + (1−β₂)g²`,
//! `w ← w − η λ w − η (m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + ε)`. Weights narrower than `f32` have an `f32` master copy that the steps
//! are taken on. Moments are `f32`, or bytes with a scale a block ([`Moments::EightBit`]): see below. Each weight is stepped by itself,
//! so one of several ranks can hold and step a share of them (ZeRO, stage 1; Rajbhandari et al. 2020): the same bits, with less memory.

mod eight_bit;

use crate::files::atomic::replace_file;
use crate::files::map;
use crate::ops::simd::{among_threads, for_each_piece, vectorized};
use crate::params::{Gradient, Gradients, Params, matches_pattern, part_of, replace};
use crate::{Error, Result};
use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Tensor, Var};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

use eight_bit::Codes;

/// Settings for the weights whose names match; the first group that matches a name counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// `*` stands for any characters.
    pub pattern: String,
    /// Factor on the learning rate.
    pub rate_factor: f64,
    /// The weight decay of these weights, in place of the optimiser's.
    pub weight_decay: f64,
}

/// How the two moments of a weight are held between steps.
///
/// [`Moments::EightBit`] cuts a tensor of `n` values into `⌈n/256⌉` blocks, each with one `f32` scale per moment; a value is a byte,
/// a float of 4 exponent bits with sign (`m`) or 5 without (`v`) and 3 fraction bits, relative to the largest of its block. A value
/// is rounded up in as many steps as it is near the upper neighbour, so small changes add up; a nonzero `v` never becomes 0. Values
/// decoded are off by at most an eighth, down to `2⁻¹⁴` (`m`) or `2⁻³⁰` (`v`) of the scale. Tensors of fewer than 4096 values keep
/// `f32`. Weights that are not `f32` on the processor have their moments there all the same and are copied there and back each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Moments {
    /// 8 bytes a weight.
    #[default]
    F32,
    /// 2 bytes a weight and 8 a block.
    EightBit,
}

impl Moments {
    fn eight_bit(self, count: usize) -> bool {
        self.eight_bit_from().is_some_and(|from| count >= from)
    }

    /// The fewest values of a tensor whose moments are bytes; `None` where none are.
    pub(crate) fn eight_bit_from(self) -> Option<usize> {
        (self == Self::EightBit).then_some(eight_bit::SMALLEST)
    }

    /// Bytes of both moments of a tensor of `count` weights.
    pub fn bytes(self, count: usize) -> usize {
        match self.eight_bit(count) {
            true => 2 * count + 8 * count.div_ceil(eight_bit::BLOCK),
            false => 8 * count,
        }
    }
}

/// Settings of [`AdamW`].
#[derive(Debug, Clone, PartialEq)]
pub struct AdamWConfig {
    /// `β₁`, of the first moment.
    pub decay1: f64,
    /// `β₂`, of the second moment.
    pub decay2: f64,
    /// `ε`, outside the root.
    pub epsilon: f64,
    /// `λ`, on every weight that no group speaks of.
    pub weight_decay: f64,
    /// Longest gradient; a longer one is scaled to this length.
    pub max_grad_norm: Option<f64>,
    /// Exceptions, first match first.
    pub groups: Vec<Group>,
    /// How moments are held.
    pub moments: Moments,
}

impl Default for AdamWConfig {
    /// `β = (0.9, 0.95)`, `ε = 1e-8`, no decay, gradients clipped to length 1: common in fine-tuning Pythia.
    fn default() -> Self {
        Self {
            decay1: 0.9,
            decay2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: Some(1.0),
            groups: Vec::new(),
            moments: Moments::F32,
        }
    }
}

impl AdamWConfig {
    /// # Errors
    /// [`Error::Setting`] for a value outside its range.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |field, found: f64, expected: &str| {
            Err(Error::Setting {
                field,
                found: found.to_string(),
                expected: expected.into(),
            })
        };
        for (field, beta) in [("decay1", self.decay1), ("decay2", self.decay2)] {
            if !(0.0..1.0).contains(&beta) {
                return refuse(field, beta, "a number in [0, 1)");
            }
        }
        let mut at_least_zero = vec![
            ("epsilon", self.epsilon),
            ("weight_decay", self.weight_decay),
        ];
        at_least_zero.extend(self.groups.iter().flat_map(|g| {
            [
                ("rate_factor", g.rate_factor),
                ("weight_decay", g.weight_decay),
            ]
        }));
        if let Some((field, value)) = at_least_zero
            .into_iter()
            .find(|(_, v)| !(v.is_finite() && *v >= 0.0))
        {
            return refuse(field, value, "a finite number, at least 0");
        }
        match self.max_grad_norm {
            Some(norm) if !(norm > 0.0) => refuse("max_grad_norm", norm, "a number above 0"),
            _ => Ok(()),
        }
    }

    /// Factor on the learning rate and weight decay of a weight.
    pub(crate) fn group(&self, name: &str) -> (f64, f64) {
        let group = self
            .groups
            .iter()
            .find(|g| matches_pattern(&g.pattern, name));
        group.map_or((1.0, self.weight_decay), |g| {
            (g.rate_factor, g.weight_decay)
        })
    }
}

/// Which part of every trained weight a rank steps: whole blocks of [`eight_bit::BLOCK`] values, so that moments in 8 bits have the
/// blocks that they have without shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    /// Below `of`.
    pub index: usize,
    /// How many shares there are.
    pub of: usize,
}

impl Share {
    /// Every weight.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// The part of a weight of `count` values.
    pub fn range(self, count: usize) -> Range<usize> {
        let blocks = count.div_ceil(eight_bit::BLOCK);
        let at = |index: usize| (index * blocks / self.of * eight_bit::BLOCK).min(count);
        at(self.index)..at(self.index + 1)
    }
}

/// Moments (and master weights) of every trained weight, or of a share of each, and the number of steps taken.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    step: u64,
    share: Share,
    states: BTreeMap<String, State>,
}

/// Named arrays as a file holds them: type and bytes.
pub(crate) type Arrays = BTreeMap<String, (Dtype, Vec<u8>)>;

#[derive(Debug)]
enum State {
    Slices {
        m: Vec<f32>,
        v: Vec<f32>,
    },
    Tensors {
        m: Tensor,
        v: Tensor,
        master: Option<Tensor>,
    },
    Blocks {
        m: Codes,
        v: Codes,
        master: Option<Tensor>,
    },
}

/// Numbers of one step that all weights of a group share.
#[derive(Debug, Clone, Copy)]
struct Factors {
    decay1: f32,
    decay2: f32,
    /// The factor of the gradient that clipping gives.
    clip: f32,
    /// `1 − η λ`.
    keep: f32,
    /// `η / (1 − β₁ᵗ)`.
    rate: f32,
    /// `1/√(1 − β₂ᵗ)`.
    root: f32,
    epsilon: f32,
    /// `t`.
    step: u64,
}

impl AdamW {
    /// Zero moments for every trained weight.
    ///
    /// # Errors
    /// [`Error::Setting`] for a value outside its range; what candle reports.
    pub fn new(config: AdamWConfig, params: &Params) -> Result<Self> {
        Self::of_share(config, params, Share::WHOLE)
    }

    /// [`AdamW::new`] for a share of each weight. A step then moves that share alone; what other ranks have moved must be brought here.
    pub(crate) fn of_share(config: AdamWConfig, params: &Params, share: Share) -> Result<Self> {
        config.check()?;
        let (slices, moments) = (params.on_slices(), config.moments);
        let state = |(name, var): (&str, &Var)| {
            let state = State::new(var, slices, moments, share.range(var.elem_count()))?;
            Ok((name.to_string(), state))
        };
        Ok(Self {
            config,
            step: 0,
            share,
            states: params.trained().map(state).collect::<Result<_>>()?,
        })
    }

    /// Which part of every weight is stepped here.
    pub(crate) fn share(&self) -> Share {
        self.share
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Changes the trained weights in place and returns the length of the gradient before clipping.
    ///
    /// # Errors
    /// [`Error::Request`] for a gradient that is not finite (nothing is changed then); [`Error::Weight`] where gradients or states
    /// belong to other weights.
    pub fn step(&mut self, params: &mut Params, gradients: &Gradients, rate: f64) -> Result<f64> {
        let norm = among_threads(|| gradients.global_norm())?;
        self.step_of_length(params, gradients, norm, rate)?;
        Ok(norm)
    }

    /// [`AdamW::step`] where the length of the gradient is known already: to find it is a pass over all of it.
    ///
    /// # Errors
    /// As [`AdamW::step`].
    pub fn step_of_length(
        &mut self,
        params: &mut Params,
        gradients: &Gradients,
        norm: f64,
        rate: f64,
    ) -> Result<()> {
        if !norm.is_finite() || !rate.is_finite() {
            let found = format!("length {norm}, learning rate {rate}");
            return Err(Error::unexpected("gradient", found, "finite numbers"));
        }
        let foreign = |name: &str| Error::Weight {
            name: name.into(),
            what: "trained, but without gradient or moments".into(),
        };
        for (name, _) in params.trained() {
            let known = self.states.contains_key(name) && gradients.part(name).is_some();
            known.then_some(()).ok_or_else(|| foreign(name))?;
        }
        self.step += 1;
        let clip = match self.config.max_grad_norm {
            // The small number is PyTorch's; it keeps a gradient of length zero finite.
            Some(longest) => (longest / (norm + 1e-6)).min(1.0),
            None => 1.0,
        };
        among_threads(|| {
            for (name, var) in params.trained() {
                let factors = self.factors(name, rate, clip);
                let (Some(state), Some(part)) = (self.states.get_mut(name), gradients.part(name))
                else {
                    continue;
                };
                let range = self.share.range(var.elem_count());
                state.step(name, var, part, &factors, range)?;
            }
            Ok(())
        })
    }

    fn factors(&self, name: &str, rate: f64, clip: f64) -> Factors {
        let c = &self.config;
        let (rate_factor, decay) = c.group(name);
        let rate = rate * rate_factor;
        let t = self.step as f64;
        Factors {
            decay1: c.decay1 as f32,
            decay2: c.decay2 as f32,
            clip: clip as f32,
            keep: (1.0 - rate * decay) as f32,
            rate: (rate / (1.0 - c.decay1.powf(t))) as f32,
            root: (1.0 / (1.0 - c.decay2.powf(t)).sqrt()) as f32,
            epsilon: c.epsilon as f32,
            step: self.step,
        }
    }

    /// Bytes that the moments take, master weights not counted.
    pub fn moment_bytes(&self) -> usize {
        let bytes = |state: &State| match state {
            State::Slices { m, v } => 4 * (m.len() + v.len()),
            State::Tensors { m, v, .. } => 4 * (m.elem_count() + v.elem_count()),
            State::Blocks { m, v, .. } => m.bytes() + v.bytes(),
        };
        self.states.values().map(bytes).sum()
    }

    /// The state as named arrays, of this share: `m.NAME`, `v.NAME` and, for narrow weights, `master.NAME`, all `f32`; of moments in 8 bits bytes
    /// `m8.NAME`, `v8.NAME` and `f32` scales `m8.scale.NAME`, `v8.scale.NAME`.
    pub(crate) fn arrays(&self) -> Result<Arrays> {
        let mut all = BTreeMap::new();
        let bytes = |v: &[f32]| (Dtype::F32, v.iter().flat_map(|x| x.to_le_bytes()).collect());
        let flat = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>().map(|v| bytes(&v));
        for (name, state) in &self.states {
            match state {
                State::Slices { m, v } => {
                    all.insert(format!("m.{name}"), bytes(m));
                    all.insert(format!("v.{name}"), bytes(v));
                }
                State::Tensors { m, v, master } => {
                    all.insert(format!("m.{name}"), flat(m)?);
                    all.insert(format!("v.{name}"), flat(v)?);
                    if let Some(master) = master {
                        all.insert(format!("master.{name}"), flat(master)?);
                    }
                }
                State::Blocks { m, v, master } => {
                    for (kind, moment) in [("m8", m), ("v8", v)] {
                        all.insert(format!("{kind}.{name}"), (Dtype::U8, moment.codes.clone()));
                        all.insert(format!("{kind}.scale.{name}"), bytes(&moment.scales));
                    }
                    if let Some(master) = master {
                        all.insert(format!("master.{name}"), flat(master)?);
                    }
                }
            }
        }
        Ok(all)
    }

    /// Writes moments, master weights and step count to a safetensors file, whole or not at all.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.save_arrays(&self.arrays()?, path)
    }

    /// [`AdamW::save`] with the arrays of all shares.
    pub(crate) fn save_arrays(&self, arrays: &Arrays, path: &Path) -> Result<()> {
        let failed = |e| Error::file_because(path, "", e);
        let views = arrays.iter().map(|(name, (dtype, bytes))| {
            let size = if *dtype == Dtype::U8 { 1 } else { 4 };
            Ok((
                name,
                TensorView::new(*dtype, vec![bytes.len() / size], bytes)?,
            ))
        });
        let views = views
            .collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(failed)?;
        // One entry only: two have no fixed order in this map, and files of equal states would differ.
        let metadata = HashMap::from([("step".to_string(), self.step.to_string())]);
        let file = safetensors::serialize(views, Some(metadata)).map_err(failed)?;
        replace_file(path, &file)
    }

    /// Takes up the state that [`AdamW::save`] wrote; the weights themselves come from their checkpoint.
    ///
    /// # Errors
    /// [`Error::File`] for a file that is damaged or belongs to other weights.
    pub fn load(config: AdamWConfig, params: &Params, path: &Path) -> Result<Self> {
        Self::load_share(config, params, path, Share::WHOLE)
    }

    /// [`AdamW::load`] of a share; the file holds all.
    pub(crate) fn load_share(
        config: AdamWConfig,
        params: &Params,
        path: &Path,
        share: Share,
    ) -> Result<Self> {
        let failed = |why: String| Error::file(path, why);
        let damaged = |e| Error::file_because(path, "", e);
        let mut optimizer = Self::of_share(config, params, share)?;
        let bytes = map(path)?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
        let step = header.metadata().as_ref().and_then(|m| m.get("step"));
        optimizer.step = step
            .and_then(|s| s.parse().ok())
            .ok_or_else(|| failed("no step count, expected one in the header".into()))?;
        let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
        let has = |kind: &str, name: &str| file.tensor(&format!("{kind}.{name}")).is_ok();
        for (name, state) in &optimizer.states {
            let (found, expected) = match state {
                State::Blocks { .. } if has("m", name) => ("f32", "8-bit"),
                State::Slices { .. } | State::Tensors { .. } if has("m8", name) => ("8-bit", "f32"),
                _ => continue,
            };
            return Err(failed(format!(
                "{name}: found {found} moments, expected {expected} as in the settings"
            )));
        }
        let read =
            |name: String, dtype: Dtype, count: usize, part: Range<usize>| -> Result<Vec<u8>> {
                let view = file
                    .tensor(&name)
                    .map_err(|_| failed(format!("no tensor {name}")))?;
                let size = if dtype == Dtype::U8 { 1 } else { 4 };
                if view.dtype() != dtype || view.data().len() != size * count {
                    return Err(failed(format!(
                        "{name}: {:?} of {} bytes, expected {count} {dtype:?}",
                        view.dtype(),
                        view.data().len()
                    )));
                }
                Ok(view.data()[size * part.start..size * part.end].to_vec())
            };
        let mut expected = 0;
        for (name, var) in params.trained() {
            if let Some(state) = optimizer.states.get_mut(name) {
                expected += state.restore(name, (var.elem_count(), share), &read)?;
            }
        }
        if file.len() != expected {
            return Err(failed(format!(
                "{} tensors, expected {expected} for the trained weights",
                file.len()
            )));
        }
        Ok(optimizer)
    }
}

impl AdamW {
    /// Takes up arrays, as [`AdamW::arrays`] gives them, after so many steps; masters are those of `params`, all in `f32`.
    pub(crate) fn take_up(&mut self, params: &Params, arrays: &Arrays, step: u64) -> Result<()> {
        let share = self.share;
        let read =
            |name: String, dtype: Dtype, count: usize, part: Range<usize>| -> Result<Vec<u8>> {
                let size = if dtype == Dtype::U8 { 1 } else { 4 };
                let found = arrays.get(&name);
                let found =
                    found.filter(|(found, bytes)| *found == dtype && bytes.len() == size * count);
                let (_, bytes) = found.ok_or_else(|| Error::Weight {
                    name,
                    what: format!("moments: expected {count} {dtype:?}"),
                })?;
                Ok(bytes[size * part.start..size * part.end].to_vec())
            };
        for (name, var) in params.trained() {
            if let Some(state) = self.states.get_mut(name) {
                state.restore(name, (var.elem_count(), share), &read)?;
            }
        }
        self.step = step;
        Ok(())
    }

    /// Its settings.
    pub(crate) fn config(&self) -> &AdamWConfig {
        &self.config
    }
}

/// Reads an array of so many values from a file: the values of a range.
type ReadArray<'a> = dyn Fn(String, Dtype, usize, Range<usize>) -> Result<Vec<u8>> + 'a;

impl State {
    /// Zero moments for a part of a weight.
    fn new(var: &Var, slices: bool, moments: Moments, part: Range<usize>) -> Result<Self> {
        let (count, len) = (var.elem_count(), part.len());
        if slices && !moments.eight_bit(count) {
            return Ok(Self::Slices {
                m: vec![0.0; len],
                v: vec![0.0; len],
            });
        }
        // Two f64 weights are no narrower than the moments, but are stepped through a copy too: one path less.
        let master = match var.dtype() {
            DType::F32 => None,
            _ => Some(part_of(var, &part)?.to_dtype(DType::F32)?.detach()),
        };
        if moments.eight_bit(count) {
            return Ok(Self::Blocks {
                m: Codes::zeros(len),
                v: Codes::zeros(len),
                master,
            });
        }
        let zeros = || Ok::<_, Error>(part_of(var, &part)?.zeros_like()?.to_dtype(DType::F32)?);
        Ok(Self::Tensors {
            m: zeros()?,
            v: zeros()?,
            master,
        })
    }

    /// Reads its arrays; returns how many.
    fn restore(
        &mut self,
        name: &str,
        (count, share): (usize, Share),
        bytes: &ReadArray<'_>,
    ) -> Result<usize> {
        let part = share.range(count);
        let floats = |name: String, count: usize, part: &Range<usize>| -> Result<Vec<f32>> {
            let bytes = bytes(name, Dtype::F32, count, part.clone())?;
            let (numbers, _) = bytes.as_chunks::<4>();
            Ok(numbers.iter().map(|b| f32::from_le_bytes(*b)).collect())
        };
        let again = |kind: &str, t: &Tensor| -> Result<Tensor> {
            let values = floats(format!("{kind}.{name}"), count, &part)?;
            Ok(Tensor::from_vec(values, t.shape(), t.device())?)
        };
        match self {
            Self::Slices { m, v } => {
                *m = floats(format!("m.{name}"), count, &part)?;
                *v = floats(format!("v.{name}"), count, &part)?;
                Ok(2)
            }
            Self::Tensors { m, v, master } => {
                (*m, *v) = (again("m", m)?, again("v", v)?);
                let Some(old) = master else { return Ok(2) };
                *master = Some(again("master", old)?);
                Ok(3)
            }
            Self::Blocks { m, v, master } => {
                let block = |value: usize| value.div_ceil(eight_bit::BLOCK);
                let blocks = block(part.start)..block(part.end);
                for (kind, moment) in [("m8", m), ("v8", v)] {
                    let (codes, scales) =
                        (format!("{kind}.{name}"), format!("{kind}.scale.{name}"));
                    moment.codes = bytes(codes, Dtype::U8, count, part.clone())?;
                    moment.scales = floats(scales, block(count), &blocks)?;
                }
                let Some(old) = master else { return Ok(4) };
                *master = Some(again("master", old)?);
                Ok(5)
            }
        }
    }

    /// Moves a part of a weight.
    fn step(
        &mut self,
        name: &str,
        var: &Var,
        gradient: &Gradient,
        f: &Factors,
        part: Range<usize>,
    ) -> Result<()> {
        if part.is_empty() {
            return Ok(());
        }
        match (self, gradient) {
            (Self::Slices { m, v }, Gradient::Slice(g)) => {
                let step = SliceStep {
                    gradient: g,
                    moments: RefCell::new(BorrowedMoments::Wide(m, v)),
                    factors: *f,
                    part,
                };
                Ok(var.as_tensor().inplace_op1(&step)?)
            }
            (Self::Blocks { m, v, .. }, Gradient::Slice(g)) => {
                let step = SliceStep {
                    gradient: g,
                    moments: RefCell::new(BorrowedMoments::EightBit(m, v)),
                    factors: *f,
                    part,
                };
                Ok(var.as_tensor().inplace_op1(&step)?)
            }
            (Self::Blocks { m, v, master }, Gradient::Tensor(g)) => {
                let flat = |t: &Tensor| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
                let own;
                let old = match master {
                    Some(master) => master,
                    None => {
                        own = part_of(var, &part)?;
                        &own
                    }
                };
                let mut w = flat(old)?;
                let g = match g {
                    Some(g) => flat(&part_of(g, &part)?)?,
                    None => vec![0.0; w.len()],
                };
                eight_bit::step(&mut w, m, v, (&g, part.start), f);
                let new = Tensor::from_vec(w, old.shape(), var.device())?;
                replace(var, &part, &new)?;
                if master.is_some() {
                    *master = Some(new);
                }
                Ok(())
            }
            (Self::Tensors { m, v, master }, Gradient::Tensor(g)) => {
                let g = match g {
                    Some(g) => (part_of(g, &part)?.to_dtype(DType::F32)? * f64::from(f.clip))?,
                    None => m.zeros_like()?,
                };
                let (b1, b2) = (f64::from(f.decay1), f64::from(f.decay2));
                *m = ((&*m * b1)? + (&g * (1.0 - b1))?)?.detach();
                *v = ((&*v * b2)? + (g.sqr()? * (1.0 - b2))?)?.detach();
                let denominator = ((v.sqrt()? * f64::from(f.root))? + f64::from(f.epsilon))?;
                let old = match &master {
                    Some(master) => master.clone(),
                    None => part_of(var, &part)?.detach(),
                };
                let new = ((old * f64::from(f.keep))?
                    - ((&*m / denominator)? * f64::from(f.rate))?)?
                .detach();
                replace(var, &part, &new)?;
                if master.is_some() {
                    *master = Some(new);
                }
                Ok(())
            }
            _ => Err(Error::Weight {
                name: name.into(),
                what: "moved to another device since the optimiser was made".into(),
            }),
        }
    }
}

/// The moments of one weight, as its step borrows them.
enum BorrowedMoments<'a> {
    Wide(&'a mut Vec<f32>, &'a mut Vec<f32>),
    EightBit(&'a mut Codes, &'a mut Codes),
}

/// One weight's step, in place: candle lends the memory.
struct SliceStep<'a> {
    gradient: &'a [f32],
    moments: RefCell<BorrowedMoments<'a>>,
    factors: Factors,
    part: Range<usize>,
}

impl InplaceOp1 for SliceStep<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let CpuStorage::F32(weights) = storage else {
            candle_core::bail!("expected f32 weights")
        };
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("expected contiguous weights")
        };
        const PIECE: usize = 1 << 16;
        let factors = self.factors;
        let weights = &mut weights[start..end][self.part.clone()];
        let gradient = &self.gradient[self.part.clone()];
        let mut moments = self.moments.borrow_mut();
        let (m, v) = match &mut *moments {
            BorrowedMoments::Wide(m, v) => (m, v),
            BorrowedMoments::EightBit(m, v) => {
                eight_bit::step(weights, m, v, (gradient, self.part.start), &factors);
                return Ok(());
            }
        };
        let parts = weights
            .chunks_mut(PIECE)
            .zip(m.chunks_mut(PIECE).zip(v.chunks_mut(PIECE)));
        let mut parts: Vec<_> = parts.zip(gradient.chunks(PIECE)).collect();
        for_each_piece(&mut parts, 1, |_, part| {
            let ((w, (m, v)), g) = &mut part[0];
            vectorized(
                #[inline(always)]
                || adamw(w, m, v, g, &factors),
            );
        });
        Ok(())
    }
}

#[inline(always)]
fn adamw(w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], f: &Factors) {
    let n = g.len();
    let (w, m, v) = (&mut w[..n], &mut m[..n], &mut v[..n]);
    for i in 0..n {
        let g = g[i] * f.clip;
        m[i] = f.decay1.mul_add(m[i], (1.0 - f.decay1) * g);
        v[i] = f.decay2.mul_add(v[i], (1.0 - f.decay2) * (g * g));
        w[i] = w[i] * f.keep - f.rate * m[i] / v[i].sqrt().mul_add(f.root, f.epsilon);
    }
}
