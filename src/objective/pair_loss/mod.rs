//! Losses of preference pairs, one file each: what line 2 of Algorithm 2 may minimise in place of (4.4).
//!
//! A loss of one's own is an implementation of [`PairLoss`], mostly a call of [`SequencePairs::boxed`], and goes to
//! [`fit_pairs`](crate::algorithm2::fit_pairs). Those of this crate are rows of one table, [`DpoLoss`], so that files and command lines can
//! name them.
//!
//! Throughout, l = log π(y|x) − log π_ref(y|x), w is the winner and l̄ the loser of a pair.

mod cal_dpo;
mod chi_po;
mod dpo;
mod dpop;
mod hinge;
mod ipo;
mod kto;
mod robust;
mod rpo;
mod sequence;
mod simpo;
mod tdpo;

pub use cal_dpo::CalDpo;
pub use chi_po::ChiPo;
pub use dpo::{CDpo, Dpo, RDpo};
pub use dpop::Dpop;
pub use hinge::Hinge;
pub use ipo::Ipo;
pub use kto::{Kto, ReferencePoint};
pub use robust::Robust;
pub use rpo::Rpo;
pub use sequence::{PairSlopes, PairSums, SequencePairs};
pub use simpo::SimPo;
pub use tdpo::{Tdpo1, Tdpo2};

use super::UnpairedLoss;
use crate::Result;
use crate::seq::{Channel, Episode, TokenObjective};

/// A loss of preference pairs.
pub trait PairLoss {
    /// The loss of a batch of rows winner, loser, winner, loser, …, then those of [`PairLoss::more_rows`]. `reference` holds
    /// log π_ref(y|x) of every row (zeros unless [`PairLoss::reads_reference`]), β > 0 is that of the fit.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) of β, the batch or a parameter of the loss.
    fn objective(
        &self,
        batch: &[Episode],
        reference: &[f64],
        beta: f64,
    ) -> Result<Box<dyn TokenObjective>>;

    /// The channels that the learner's scores must have.
    fn channels(&self) -> &[Channel] {
        &[Channel::LogProb]
    }

    /// Whether log π_ref is read; where it is not, the reference scores nothing.
    fn reads_reference(&self) -> bool {
        true
    }

    /// Rows behind those of the pairs, which the loss reads and never trains on: KTO's prompts with replies to other prompts.
    fn more_rows(&self, _pairs: &[Episode]) -> Vec<Episode> {
        Vec::new()
    }

    /// How many of the rows of a batch are those of pairs.
    fn pair_rows(&self, rows: usize) -> usize {
        rows
    }

    /// The same loss of single responses with a label, where it has that form.
    fn unpaired(&self) -> Option<&dyn UnpairedLoss> {
        None
    }

    /// Refuses parameters out of their range.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the parameter.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for DpoLoss {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        Self::serialize(self, to)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for DpoLoss {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        use serde::de::value::MapAccessDeserializer;
        use serde::de::{Error, MapAccess, Visitor};

        struct ByName;

        impl<'de> Visitor<'de> for ByName {
            type Value = DpoLoss;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the name of a loss, or a table of its name with its parameters")
            }

            fn visit_str<E: Error>(self, name: &str) -> std::result::Result<DpoLoss, E> {
                let found = DpoLoss::all().into_iter().find(|l| l.name() == name);
                found.ok_or_else(|| E::unknown_variant(name, DpoLoss::NAMES))
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                map: A,
            ) -> std::result::Result<DpoLoss, A::Error> {
                DpoLoss::deserialize(MapAccessDeserializer::new(map))
            }
        }

        from.deserialize_any(ByName)
    }
}

/// The table of losses. A row is a name, as files have it, and a loss; one with parameters is its type.
macro_rules! losses {
    ($($(#[$doc:meta])+ $name:literal $variant:ident $(($own:ident))?,)+) => {
        /// Line 2 of Algorithm 2: Which loss of pairs is minimised, by name.
        ///
        /// In a file `loss = "ipo"`, or `loss = { simpo = { gamma = 0.5 } }` for one with parameters; its name alone takes those of its
        /// authors.
        #[derive(Debug, Clone, Copy, PartialEq, Default)]
        #[cfg_attr(
            feature = "serde",
            derive(serde::Serialize, serde::Deserialize),
            serde(remote = "Self")
        )]
        pub enum DpoLoss {
            $(
                $(#[$doc])+
                #[cfg_attr(feature = "serde", serde(rename = $name))]
                $variant $(($own))?,
            )+
        }

        impl DpoLoss {
            /// The names of all losses, in the order of the table.
            pub const NAMES: &[&str] = &[$($name),+];

            /// Every loss with parameters that its authors, or this crate's benches, take.
            pub fn all() -> Vec<Self> {
                vec![$(losses!(@default $variant $($own)?)),+]
            }

            /// Its name in files.
            pub fn name(&self) -> &'static str {
                match self {
                    $(losses!(@pattern $variant $($own)?) => $name,)+
                }
            }

            /// The loss itself.
            pub fn loss(&self) -> &dyn PairLoss {
                match self {
                    $(losses!(@bound it $variant $($own)?) => losses!(@value it $variant $($own)?),)+
                }
            }
        }
    };
    (@default $variant:ident) => { Self::$variant };
    (@default $variant:ident $own:ident) => { Self::$variant($own::default()) };
    (@pattern $variant:ident) => { Self::$variant };
    (@pattern $variant:ident $own:ident) => { Self::$variant(_) };
    (@bound $it:ident $variant:ident) => { Self::$variant };
    (@bound $it:ident $variant:ident $own:ident) => { Self::$variant($it) };
    (@value $it:ident $variant:ident) => { &$variant };
    (@value $it:ident $variant:ident $own:ident) => { $it };
}

losses! {
    /// (4.4), (C.4): −log σ(β(l_w − l_l̄)).
    #[default]
    "dpo" Dpo,
    /// Labels that are wrong with a known probability, as a mixture of both losses.
    "cdpo" CDpo(CDpo),
    /// The same labels, unbiased.
    "robust" Robust(Robust),
    /// (l_w − l_l̄ − 1/(2β))².
    "ipo" Ipo,
    /// max(0, 1 − β(l_w − l_l̄)): SLiC's hinge on log-ratios.
    "hinge" Hinge,
    /// The mean log-probability of a token, without a reference.
    "simpo" SimPo(SimPo),
    /// A margin that pays for length.
    "rdpo" RDpo(RDpo),
    /// The link z + log z of χ²-regularisation.
    "chi_po" ChiPo,
    /// DPO whose log-ratios are held at ±1/(2β).
    "cal_dpo" CalDpo,
    /// DPO that a winner may not become less likely for.
    "dpop" Dpop(Dpop),
    /// DPO with the winner's log-likelihood beside it.
    "rpo" Rpo(Rpo),
    /// The forward KL of every state in the margin, with all gradients.
    "tdpo1" Tdpo1,
    /// The same with the winner's KL held fixed.
    "tdpo2" Tdpo2(Tdpo2),
    /// Each reply on its own, desirable or not, against a reference point.
    "kto" Kto(Kto),
}
