//! Named weights in sorted order, their initialisation, and which of them are trained.

use crate::ops::simd::{among_threads, for_each_piece, norm_squared};
use crate::{Error, Result, family};
use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Storage, Tensor, Var};
use rand::Rng;
use rand_distr::StandardNormal;
use rto::seed::SeedTree;
use std::collections::BTreeMap;
use std::ops::{Deref, Range};

/// Weights under their Hugging Face names. Trainable ones own their memory and are changed in place by the optimiser.
#[derive(Debug)]
pub struct Params {
    weights: BTreeMap<String, Weight>,
}

#[derive(Debug)]
enum Weight {
    Trained(Var),
    Frozen(Tensor),
}

impl Weight {
    fn tensor(&self) -> &Tensor {
        match self {
            Self::Trained(var) => var.as_tensor(),
            Self::Frozen(tensor) => tensor,
        }
    }
}

/// How the weights of a new model are drawn. Biases are 0 and gains 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Every matrix from `N(0, std²)`; GPT-NeoX checkpoints were configured with 0.02.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Matrices from `N(0, 2/(5 width))`, those that write to the residual stream from `N(0, (2/(layers √width))²)`: the
    /// "small init" and "Wang" schemes with which GPT-NeoX-20B and Pythia were trained.
    Small,
}

impl Params {
    /// Takes over loaded weights, all trainable.
    ///
    /// # Errors
    /// [`Error::Weight`] for a type that is not a float, and for NaN or infinite values.
    pub fn new(weights: BTreeMap<String, Tensor>) -> Result<Self> {
        let own = |(name, tensor): (String, Tensor)| {
            check_finite(&name, &tensor)?;
            // A copy of its own: the optimiser must not write into memory that a reference model shares.
            Ok((
                name,
                Weight::Trained(Var::from_tensor(&tensor.copy()?.contiguous()?)?),
            ))
        };
        Ok(Self {
            weights: weights.into_iter().map(own).collect::<Result<_>>()?,
        })
    }

    /// Takes over loaded weights, all frozen, without a copy: a reference or reward model, or a base that adapters share. Nobody may
    /// write into their memory from then on, so they must not be a trained network's [`Params::tensors`].
    ///
    /// # Errors
    /// As [`Params::new`].
    pub fn frozen(weights: BTreeMap<String, Tensor>) -> Result<Self> {
        let own = |(name, tensor): (String, Tensor)| {
            check_finite(&name, &tensor)?;
            Ok((name, Weight::Frozen(tensor.contiguous()?.detach())))
        };
        Ok(Self {
            weights: weights.into_iter().map(own).collect::<Result<_>>()?,
        })
    }

    /// Draws weights of the given shapes (norms' gains are `gain`), each from its own stream of `seeds`, so that adding a head changes no other weight.
    ///
    /// # Errors
    /// What candle reports.
    pub fn random(
        shapes: &BTreeMap<String, Vec<usize>>,
        init: Init,
        n_layers: usize,
        gain: f32,
        seeds: &SeedTree,
        device: &Device,
    ) -> Result<Self> {
        let mut weights = BTreeMap::new();
        for (name, shape) in shapes {
            let values = draw(name, shape, init, n_layers, gain, seeds);
            let tensor = Tensor::from_vec(values, shape.as_slice(), device)?;
            weights.insert(name.clone(), Weight::Trained(Var::from_tensor(&tensor)?));
        }
        Ok(Self { weights })
    }

    /// Adds or replaces a trainable weight, for example a new head.
    ///
    /// # Errors
    /// As [`Params::new`].
    pub fn insert(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        check_finite(name, tensor)?;
        let var = Var::from_tensor(&tensor.copy()?)?;
        self.weights.insert(name.into(), Weight::Trained(var));
        Ok(())
    }

    /// Freezes every weight whose name matches one of the patterns (`*` stands for any characters); returns how many.
    pub fn freeze(&mut self, patterns: &[&str]) -> usize {
        self.freeze_where(|name| patterns.iter().any(|p| matches_pattern(p, name)))
    }

    /// Freezes the weights whose names `matches` accepts, as [`Params::freeze`] does.
    pub(crate) fn freeze_where(&mut self, matches: impl Fn(&str) -> bool) -> usize {
        let mut frozen = 0;
        for (name, weight) in &mut self.weights {
            if matches!(weight, Weight::Trained(_)) && matches(name) {
                *weight = Weight::Frozen(weight.tensor().detach());
                frozen += 1;
            }
        }
        frozen
    }

    /// Names and weights in sorted order, detached from any graph and sharing memory: copy before the next step to keep them.
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        self.weights
            .iter()
            .map(|(name, w)| (name.clone(), w.tensor().detach()))
            .collect()
    }

    /// The weights as they are now, all frozen. Trained ones are copied; frozen ones never change, so their memory is shared.
    ///
    /// # Errors
    /// What candle reports.
    pub fn snapshot(&self) -> Result<Self> {
        self.snapshot_where(|_| true)
    }

    /// A copy, as of [`Params::snapshot`], of the weights whose names `keep` accepts.
    pub(crate) fn snapshot_where(&self, keep: impl Fn(&str) -> bool) -> Result<Self> {
        let share = |(name, w): (&String, &Weight)| {
            let tensor = match w {
                Weight::Trained(var) => var.as_tensor().copy()?.detach(),
                Weight::Frozen(tensor) => tensor.clone(),
            };
            Ok((name.clone(), Weight::Frozen(tensor)))
        };
        let kept = self.weights.iter().filter(|(name, _)| keep(name));
        Ok(Self {
            weights: kept.map(share).collect::<Result<_>>()?,
        })
    }

    /// Adds or replaces a frozen weight, without a copy.
    pub(crate) fn insert_frozen(&mut self, name: &str, tensor: Tensor) {
        self.weights
            .insert(name.into(), Weight::Frozen(tensor.detach()));
    }

    /// The weight called `name`; part of the graph if it is trainable.
    ///
    /// # Errors
    /// [`Error::Weight`] where there is none.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        let missing = || Error::Weight {
            name: name.into(),
            what: "missing".into(),
        };
        self.weights
            .get(name)
            .map(Weight::tensor)
            .ok_or_else(missing)
    }

    /// Whether there is a weight of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.weights.contains_key(name)
    }

    /// Whether the weight is trained; `false` where there is none.
    pub fn is_trained(&self, name: &str) -> bool {
        matches!(self.weights.get(name), Some(Weight::Trained(_)))
    }

    /// Sorted names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.weights.keys().map(String::as_str)
    }

    /// Trained weights in sorted order.
    pub fn trained(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.weights
            .iter()
            .filter_map(|(name, weight)| match weight {
                Weight::Trained(var) => Some((name.as_str(), var)),
                Weight::Frozen(_) => None,
            })
    }

    /// Number of scalars.
    pub fn count(&self) -> usize {
        self.weights.values().map(|w| w.tensor().elem_count()).sum()
    }

    /// Number of scalars that are trained.
    pub fn trained_count(&self) -> usize {
        self.trained().map(|(_, var)| var.elem_count()).sum()
    }

    /// Checks names and shapes against an architecture.
    ///
    /// # Errors
    /// [`Error::Weight`] names the first missing, misshapen or unknown weight.
    pub fn check(&self, shapes: &BTreeMap<String, Vec<usize>>) -> Result<()> {
        for (name, shape) in shapes {
            let found = self.get(name)?.dims();
            if found != shape {
                let what = format!("shape {found:?}, expected {shape:?}");
                return Err(Error::Weight {
                    name: name.clone(),
                    what,
                });
            }
        }
        match self.names().find(|name| !shapes.contains_key(*name)) {
            Some(name) => Err(Error::Weight {
                name: name.into(),
                what: "not a weight of this architecture".into(),
            }),
            None => Ok(()),
        }
    }

    /// Whether every weight is `f32` in the memory of the CPU, so that the slice kernels apply.
    pub(crate) fn on_slices(&self) -> bool {
        let fits = |t: &Tensor| t.dtype() == DType::F32 && t.device().is_cpu() && t.is_contiguous();
        !crate::device::tensors_asked() && self.weights.values().all(|w| fits(w.tensor()))
    }

    /// Every weight as a slice, for the length of a pass.
    pub(crate) fn slices(&self) -> Slices<'_> {
        Slices(
            self.weights
                .iter()
                .map(|(name, w)| (name.as_str(), Guard::new(w.tensor())))
                .collect(),
        )
    }
}

/// Read guards of all weights.
pub(crate) struct Slices<'a>(BTreeMap<&'a str, Guard<'a>>);

struct Guard<'a> {
    storage: Box<dyn Deref<Target = Storage> + 'a>,
    start: usize,
    len: usize,
}

impl<'a> Guard<'a> {
    fn new(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self {
            storage: Box::new(storage),
            start: layout.start_offset(),
            len: tensor.elem_count(),
        }
    }
}

impl Slices<'_> {
    /// The weight, `None` where the model has none of that name.
    pub fn find(&self, name: &str) -> Option<&[f32]> {
        let guard = self.0.get(name)?;
        match &**guard.storage {
            Storage::Cpu(CpuStorage::F32(values)) => Some(&values[guard.start..][..guard.len]),
            _ => None,
        }
    }

    /// The weight; names and shapes were checked when the model was made.
    pub fn get(&self, name: &str) -> &[f32] {
        self.find(name)
            .unwrap_or_else(|| panic!("weight {name} was checked to be f32 on the CPU"))
    }
}

fn check_finite(name: &str, tensor: &Tensor) -> Result<()> {
    let refused = |what: String| Error::Weight {
        name: name.into(),
        what,
    };
    if !matches!(
        tensor.dtype(),
        DType::F64 | DType::F32 | DType::BF16 | DType::F16
    ) {
        return Err(refused(format!(
            "type {:?}, expected a float",
            tensor.dtype()
        )));
    }
    if tensor.elem_count() > 0 {
        let sum = tensor
            .to_dtype(DType::F32)?
            .abs()?
            .max_all()?
            .to_scalar::<f32>()?;
        let nan = tensor
            .ne(tensor)?
            .to_dtype(DType::F32)?
            .sum_all()?
            .to_scalar::<f32>()?;
        if !sum.is_finite() || nan > 0.0 {
            return Err(refused("holds NaN or an infinity".into()));
        }
    }
    Ok(())
}

fn draw(
    name: &str,
    shape: &[usize],
    init: Init,
    n_layers: usize,
    gain: f32,
    seeds: &SeedTree,
) -> Vec<f32> {
    let count = shape.iter().product();
    if shape.len() < 2 {
        let value = if name.ends_with("bias") { 0.0 } else { gain };
        return vec![value; count];
    }
    let width = *shape.last().unwrap_or(&1) as f64;
    let writes_residual = family::writes_residual(name);
    let std = match init {
        Init::Normal { std } => std,
        // The second matrix of the MLP reads four times the width, but both schemes speak of the residual stream.
        Init::Small if writes_residual => 2.0 / (n_layers as f64 * (shape[0] as f64).sqrt()),
        Init::Small => (2.0 / (5.0 * width)).sqrt(),
    };
    let mut rng = seeds.child(name).rng();
    (0..count)
        .map(|_| (std * rng.sample::<f64, _>(StandardNormal)) as f32)
        .collect()
}

/// Whether `name` matches `pattern`, in which `*` stands for any characters.
pub fn matches_pattern(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|name| {
            let ends = (0..=name.len()).filter(|&i| name.is_char_boundary(i));
            ends.into_iter().any(|i| matches_pattern(rest, &name[i..]))
        }),
    }
}

/// Gradients of the trained weights, summed over micro-batches.
#[derive(Debug, Default)]
pub struct Gradients {
    parts: BTreeMap<String, Gradient>,
}

/// The gradient of one weight.
#[derive(Debug)]
pub(crate) enum Gradient {
    /// Numbers on the CPU, row-major.
    Slice(Vec<f32>),
    /// Elsewhere, or of other float types; `None` is zero.
    Tensor(Option<Tensor>),
}

impl Gradients {
    /// Zeros for every trained weight.
    pub fn zeros(params: &Params) -> Self {
        let slices = params.on_slices();
        let zero = |(name, var): (&str, &Var)| {
            let part = if slices {
                Gradient::Slice(vec![0.0; var.elem_count()])
            } else {
                Gradient::Tensor(None)
            };
            (name.to_string(), part)
        };
        Self {
            parts: params.trained().map(zero).collect(),
        }
    }

    /// Back to zeros, keeping the memory.
    pub fn reset(&mut self) {
        among_threads(|| {
            for part in self.parts.values_mut() {
                match part {
                    Gradient::Slice(values) => for_each_piece(values, 1 << 16, |_, v| v.fill(0.0)),
                    Gradient::Tensor(tensor) => *tensor = None,
                }
            }
        });
    }

    /// Zeros again, without the memory of tensors: between steps a device has other uses for it. Slices are left as they are.
    pub(crate) fn release(&mut self) {
        for part in self.parts.values_mut() {
            if let Gradient::Tensor(tensor) = part {
                *tensor = None;
            }
        }
    }

    /// The gradient of one weight, `None` if it is not trained.
    ///
    /// # Errors
    /// What candle reports on the way from another device.
    pub fn get(&self, name: &str) -> Result<Option<Vec<f32>>> {
        match self.parts.get(name) {
            None => Ok(None),
            Some(Gradient::Slice(values)) => Ok(Some(values.clone())),
            Some(Gradient::Tensor(None)) => Ok(Some(Vec::new())),
            Some(Gradient::Tensor(Some(tensor))) => {
                Ok(Some(tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?))
            }
        }
    }

    /// Number of scalars held.
    pub fn count(&self) -> usize {
        let count = |part: &Gradient| match part {
            Gradient::Slice(values) => values.len(),
            Gradient::Tensor(tensor) => tensor.as_ref().map_or(0, Tensor::elem_count),
        };
        self.parts.values().map(count).sum()
    }

    /// Sorted names of the trained weights.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.keys().map(String::as_str)
    }

    /// Euclidean norm of one gradient.
    ///
    /// # Errors
    /// What candle reports.
    pub fn norm(&self, name: &str) -> Result<f64> {
        self.parts
            .get(name)
            .map_or(Ok(0.0), |part| Ok(part.norm_squared()?.sqrt()))
    }

    /// Euclidean norm of all gradients together.
    ///
    /// # Errors
    /// What candle reports.
    pub fn global_norm(&self) -> Result<f64> {
        // A device is asked once for all of its weights: every answer waits for what it has still to do.
        let asked = self.parts.values().filter_map(Gradient::tensor);
        let asked: Vec<Tensor> = asked.map(square).collect::<Result<_>>()?;
        let answers: Vec<f64> = match asked.is_empty() {
            true => Vec::new(),
            false => Tensor::stack(&asked, 0)?.to_vec1()?,
        };
        let mut answers = answers.into_iter();
        let squares = self.parts.values().map(|part| match part {
            Gradient::Slice(values) => norm_squared(values),
            Gradient::Tensor(None) => 0.0,
            Gradient::Tensor(Some(_)) => answers.next().unwrap_or(f64::NAN),
        });
        Ok(squares.sum::<f64>().sqrt())
    }

    /// Adds other gradients of the same weights, number by number; what is not there is zero.
    pub(crate) fn add(&mut self, other: &Self) -> Result<()> {
        for (name, part) in &mut self.parts {
            match (part, other.parts.get(name)) {
                (Gradient::Slice(sum), Some(Gradient::Slice(more))) => add_to(sum, more),
                (Gradient::Tensor(sum), Some(Gradient::Tensor(more))) => {
                    let both = match (sum.take(), more) {
                        (Some(a), Some(b)) => Some((a + b)?),
                        // Zeros are added, as where they are there: −0 becomes 0.
                        (Some(a), None) => Some(a.affine(1.0, 0.0)?),
                        (None, Some(b)) => Some(b.affine(1.0, 0.0)?),
                        (None, None) => None,
                    };
                    *sum = both.map(|t| t.detach());
                }
                _ => {
                    return Err(Error::Weight {
                        name: name.clone(),
                        what: "gradients of another kind of memory or of other weights".into(),
                    });
                }
            }
        }
        Ok(())
    }

    /// All numbers in order of names as `f32` on the CPU, lent to `work`, which may change them.
    ///
    /// # Errors
    /// Those of `work`; [`Error::Weight`] for gradients wider than `f32`; what candle reports.
    pub(crate) fn with_floats(
        &mut self,
        params: &Params,
        work: impl FnOnce(Vec<&mut [f32]>) -> Result<()>,
    ) -> Result<()> {
        let mut copies = BTreeMap::new();
        for (name, part) in &self.parts {
            let Gradient::Tensor(found) = part else {
                continue;
            };
            let values = match found {
                None => vec![0.0; params.get(name)?.elem_count()],
                Some(t) if t.dtype() == DType::F32 => t.flatten_all()?.to_vec1()?,
                Some(t) => {
                    return Err(Error::Weight {
                        name: name.clone(),
                        what: format!("gradient in {:?}, expected f32 on several ranks", t.dtype()),
                    });
                }
            };
            copies.insert(name.clone(), values);
        }
        let mut copied = copies.values_mut();
        let lent = self.parts.values_mut().map(|part| match part {
            Gradient::Slice(values) => values.as_mut_slice(),
            Gradient::Tensor(_) => copied.next().expect("one for each tensor"),
        });
        work(lent.collect())?;
        for (name, values) in copies {
            let like = params.get(&name)?;
            let tensor = Tensor::from_vec(values, like.dims(), like.device())?;
            self.parts.insert(name, Gradient::Tensor(Some(tensor)));
        }
        Ok(())
    }

    pub(crate) fn slice_mut(&mut self, name: &str) -> Option<&mut [f32]> {
        match self.parts.get_mut(name) {
            Some(Gradient::Slice(values)) => Some(values),
            _ => None,
        }
    }

    pub(crate) fn part(&self, name: &str) -> Option<&Gradient> {
        self.parts.get(name)
    }

    /// Adds the gradients that candle found for the trained weights, in `f32` or better.
    pub(crate) fn add_store(
        &mut self,
        params: &Params,
        store: &candle_core::backprop::GradStore,
    ) -> Result<()> {
        for (name, part) in &mut self.parts {
            let (Gradient::Tensor(sum), Some(found)) = (part, store.get(params.get(name)?)) else {
                continue;
            };
            let found = if found.dtype() == DType::F64 {
                found.clone()
            } else {
                found.to_dtype(DType::F32)?
            };
            // Detached: candle keeps the whole graph alive through a gradient otherwise.
            let found = found.detach();
            *sum = Some(match sum.take() {
                Some(old) => (old + found)?.detach(),
                None => found,
            });
        }
        Ok(())
    }
}

/// Some values of a tensor, row-major: the tensor itself where they are all.
pub(crate) fn part_of(tensor: &Tensor, part: &Range<usize>) -> Result<Tensor> {
    match part.len() == tensor.elem_count() {
        true => Ok(tensor.clone()),
        // A share of nothing is on the processor: a GPU has no kernel for it.
        false if part.is_empty() => Ok(Tensor::zeros(0, tensor.dtype(), &Device::Cpu)?),
        false => Ok(tensor.flatten_all()?.narrow(0, part.start, part.len())?),
    }
}

/// Some values of a weight, row-major, as `f32` on the processor.
pub(crate) fn values_of(var: &Var, part: Range<usize>) -> Result<Vec<f32>> {
    let part = part_of(var, &part)?.flatten_all()?;
    Ok(part.to_dtype(DType::F32)?.to_vec1()?)
}

/// Writes some values of a weight, row-major, in its type.
pub(crate) fn put(var: &Var, part: Range<usize>, values: &[f32]) -> Result<()> {
    if var.dtype() == DType::F32 && var.device().is_cpu() && var.is_contiguous() {
        return Ok(var.as_tensor().inplace_op1(&Put(part, values))?);
    }
    let new = Tensor::from_slice(values, values.len(), var.device())?;
    replace(var, &part, &new)
}

/// [`put`] of a tensor on the weight's device.
pub(crate) fn replace(var: &Var, part: &Range<usize>, new: &Tensor) -> Result<()> {
    let new = new.to_dtype(var.dtype())?;
    let count = var.elem_count();
    if part.len() == count {
        return Ok(var.set(&new.reshape(var.shape())?)?);
    }
    let flat = var.flatten_all()?;
    let mut all = Vec::with_capacity(3);
    if part.start > 0 {
        all.push(flat.narrow(0, 0, part.start)?);
    }
    all.push(new);
    if part.end < count {
        all.push(flat.narrow(0, part.end, count - part.end)?);
    }
    Ok(var.set(&Tensor::cat(&all, 0)?.reshape(var.shape())?)?)
}

/// Values written in place.
struct Put<'a>(Range<usize>, &'a [f32]);

impl InplaceOp1 for Put<'_> {
    fn name(&self) -> &'static str {
        "put"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let CpuStorage::F32(weights) = storage else {
            candle_core::bail!("expected f32 weights")
        };
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("expected contiguous weights")
        };
        weights[start..end][self.0.clone()].copy_from_slice(self.1);
        Ok(())
    }
}

/// `sum ← sum + more`.
pub(crate) fn add_to(sum: &mut [f32], more: &[f32]) {
    sum.iter_mut().zip(more).for_each(|(a, b)| *a += b);
}

impl Gradient {
    fn tensor(&self) -> Option<&Tensor> {
        match self {
            Self::Slice(_) => None,
            Self::Tensor(tensor) => tensor.as_ref(),
        }
    }

    fn norm_squared(&self) -> Result<f64> {
        match self {
            Self::Slice(values) => Ok(norm_squared(values)),
            Self::Tensor(None) => Ok(0.0),
            Self::Tensor(Some(t)) => Ok(square(t)?.to_scalar::<f64>()?),
        }
    }
}

/// Σ x², where `x` is.
fn square(x: &Tensor) -> Result<Tensor> {
    Ok(x.sqr()?.sum_all()?.to_dtype(DType::F64)?)
}
