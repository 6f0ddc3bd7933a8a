//! The weights of a network on a device, and their gradients.

use crate::buffer::{Buffer, Element, Real};
use crate::device::{download_f32, upload_f32, write_f32};
use crate::kernels::{Kernels, Weights};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::ops::Range;

/// Elements that a weight's place in an arena is a multiple of: a block of 8-bit moments, and more than any alignment of products.
const ALIGNED: usize = 256;

/// Named weights. Trained ones lie in one arena, in bf16 as halves of an exact `f32` master; frozen ones in another, which other
/// networks may share.
#[derive(Debug, Clone)]
pub struct Parameters {
    weights: BTreeMap<String, Weight>,
    /// Elements of the arena of trained weights.
    trained: usize,
}

#[derive(Debug, Clone)]
struct Weight {
    /// As the network multiplies it.
    used: Buffer,
    trained: Option<Trained>,
}

#[derive(Debug, Clone)]
struct Trained {
    /// Where it lies in the arena.
    at: Range<usize>,
    /// The master's low halves, in bf16.
    low: Option<Buffer>,
}

/// Places of weights one after the other, and their end.
fn places<'a>(
    tensors: impl Iterator<Item = (&'a String, &'a usize)>,
) -> (BTreeMap<String, Range<usize>>, usize) {
    let mut end = 0;
    let mut all = BTreeMap::new();
    for (name, &len) in tensors {
        all.insert(name.clone(), end..end + len);
        end += len.next_multiple_of(ALIGNED);
    }
    (all, end)
}

impl Parameters {
    /// Memory for weights of these lengths; which of them are trained, `trained` says. What they hold is not defined.
    ///
    /// # Errors
    /// As [`crate::Device::alloc`].
    pub fn alloc(
        kernels: &Kernels<'_>,
        tensors: &BTreeMap<String, usize>,
        trained: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let (device, real) = (kernels.device(), kernels.real());
        let (learning, end) = places(tensors.iter().filter(|(name, _)| trained(name)));
        let (frozen, frozen_end) = places(tensors.iter().filter(|(name, _)| !trained(name)));
        let element = match real {
            Real::F32 => Element::F32,
            Real::Bf16 => Element::U16,
        };
        let high = device.alloc(element, end)?;
        let low = match real {
            Real::F32 => None,
            Real::Bf16 => Some(device.alloc(Element::U16, end)?),
        };
        let shared = device.alloc(real.element(), frozen_end)?;
        let mut weights = BTreeMap::new();
        for (name, at) in learning {
            let used = high.part(at.start, at.len())?.of(real.element())?;
            let low = low.as_ref().map(|low| low.part(at.start, at.len()));
            let trained = Some(Trained {
                low: low.transpose()?,
                at,
            });
            weights.insert(name, Weight { used, trained });
        }
        for (name, at) in frozen {
            let used = shared.part(at.start, at.len())?;
            let trained = None;
            weights.insert(name, Weight { used, trained });
        }
        Ok(Self {
            weights,
            trained: end,
        })
    }

    /// Memory for those of these weights that `base` has not; its own are shared, frozen as they are here. Several adapters stand so on
    /// one base.
    ///
    /// # Errors
    /// As [`Parameters::alloc`].
    pub fn beside(
        base: &Self,
        kernels: &Kernels<'_>,
        tensors: &BTreeMap<String, usize>,
        trained: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let own = tensors.iter().filter(|(name, _)| !base.contains(name));
        let own = own.map(|(name, len)| (name.clone(), *len)).collect();
        let mut all = Self::alloc(kernels, &own, trained)?;
        let shared = base.shared().weights.into_iter();
        all.weights
            .extend(shared.filter(|(name, _)| tensors.contains_key(name)));
        Ok(all)
    }

    /// Those of the weights that `wanted` names, frozen, in the same memory.
    #[must_use]
    pub fn only(&self, wanted: impl Fn(&str) -> bool) -> Self {
        let mut all = self.shared();
        all.weights.retain(|name, _| wanted(name));
        all
    }

    fn weight(&self, name: &str) -> Result<&Weight> {
        let missing = || Error::Network(format!("weight {name}: missing"));
        self.weights.get(name).ok_or_else(missing)
    }

    /// A weight as the network multiplies it.
    ///
    /// # Errors
    /// [`Error::Network`] where there is none of that name.
    pub fn get(&self, name: &str) -> Result<&Buffer> {
        Ok(&self.weight(name)?.used)
    }

    /// Whether there is a weight of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.weights.contains_key(name)
    }

    /// Whether it is trained.
    pub fn is_trained(&self, name: &str) -> bool {
        self.weights.get(name).is_some_and(|w| w.trained.is_some())
    }

    /// Names of the trained weights and their places among all of them, in sorted order.
    pub fn trained(&self) -> impl Iterator<Item = (&str, Range<usize>)> {
        self.weights
            .iter()
            .filter_map(|(name, w)| Some((name.as_str(), w.trained.as_ref()?.at.clone())))
    }

    /// Elements of an arena that has room for one number a trained weight.
    pub fn arena(&self) -> usize {
        self.trained
    }

    /// Gives a weight its values.
    ///
    /// # Errors
    /// [`Error::Network`] for a name or a number of values that is not there; what the device reports.
    pub fn set(&self, kernels: &Kernels<'_>, name: &str, values: &[f32]) -> Result<()> {
        let weight = self.weight(name)?;
        if weight.used.len() != values.len() {
            let (found, expected) = (values.len(), weight.used.len());
            return Err(Error::Network(format!(
                "weight {name}: found {found} values, expected {expected}"
            )));
        }
        let device = kernels.device();
        match &weight.trained {
            Some(Trained { low: Some(low), .. }) => {
                let values = upload_f32(device, Real::F32, values)?;
                kernels.split(&values, &weight.used.of(Element::U16)?, low)
            }
            _ => write_f32(device, &weight.used, values),
        }
    }

    /// The values of a weight: of a trained one in bf16 those of its master.
    ///
    /// # Errors
    /// As [`Parameters::get`]; what the device reports.
    pub fn values(&self, kernels: &Kernels<'_>, name: &str) -> Result<Vec<f32>> {
        let (weight, device) = (self.weight(name)?, kernels.device());
        match &weight.trained {
            Some(Trained { low: Some(low), .. }) => {
                let x = device.alloc(Element::F32, low.len())?;
                kernels.join(&weight.used.of(Element::U16)?, low, &x)?;
                download_f32(device, &x)
            }
            _ => download_f32(device, &weight.used),
        }
    }

    /// The weight as a step changes it, `None` for a frozen one.
    pub(crate) fn stepped(&self, name: &str) -> Result<Option<Halves>> {
        let weight = self.weight(name)?;
        let Some(trained) = &weight.trained else {
            return Ok(None);
        };
        Ok(Some(match &trained.low {
            None => Halves::Whole(weight.used.clone()),
            Some(low) => Halves::Split {
                high: weight.used.of(Element::U16)?,
                low: low.clone(),
            },
        }))
    }

    /// The weights as they are now, all of them frozen: trained ones are copied, by way of the host, frozen ones are shared. Of a master in
    /// two halves the copy has the upper one, which the network multiplies.
    ///
    /// # Errors
    /// What the device reports.
    pub fn snapshot(&self, kernels: &Kernels<'_>) -> Result<Self> {
        let device = kernels.device();
        let mut all = self.shared();
        for (name, _) in self.trained() {
            let used = self.get(name)?;
            let copy = device.alloc(used.element(), used.len())?;
            device.upload(&copy, &device.download(used)?)?;
            if let Some(weight) = all.weights.get_mut(name) {
                weight.used = copy;
            }
        }
        Ok(all)
    }

    /// The same weights, all of them frozen, in the same memory: steps of the trained ones are seen here.
    #[must_use]
    pub fn shared(&self) -> Self {
        let mut all = self.clone();
        all.trained = 0;
        all.weights.values_mut().for_each(|w| w.trained = None);
        all
    }
}

/// A trained weight.
pub(crate) enum Halves {
    Whole(Buffer),
    Split { high: Buffer, low: Buffer },
}

impl Halves {
    pub(crate) fn weights(&self) -> Weights<'_> {
        match self {
            Self::Whole(w) => Weights::Whole(w),
            Self::Split { high, low } => Weights::Split { high, low },
        }
    }
}

/// Sums of gradients, `f32`, one number a trained weight.
#[derive(Debug)]
pub struct Gradients {
    pub(crate) arena: Buffer,
    places: BTreeMap<String, Range<usize>>,
}

impl Gradients {
    /// Gradients that are all 0.
    ///
    /// # Errors
    /// What the device reports.
    pub fn zeros(kernels: &Kernels<'_>, parameters: &Parameters) -> Result<Self> {
        let arena = kernels.device().alloc(Element::F32, parameters.arena())?;
        kernels.clear(&arena)?;
        let places = parameters.trained().map(|(n, at)| (n.into(), at)).collect();
        Ok(Self { arena, places })
    }

    /// Zeros again.
    ///
    /// # Errors
    /// What the device reports.
    pub fn clear(&self, kernels: &Kernels<'_>) -> Result<()> {
        kernels.clear(&self.arena)
    }

    /// The gradient of one weight, `None` where it is frozen.
    ///
    /// # Errors
    /// None in truth: a place lies within its arena.
    pub fn get(&self, name: &str) -> Result<Option<Buffer>> {
        let place = self.places.get(name);
        place
            .map(|at| self.arena.part(at.start, at.len()))
            .transpose()
    }
}
