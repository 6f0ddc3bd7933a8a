//! KTO: each reply on its own, wanted or not. Of a pair the winner is wanted and the loser is not.

use std::ops::Range;

use super::PairLoss;
use crate::check;
use crate::numerics::sigmoid;
use crate::objective::{UnpairedLoss, kto_reference_point, pairs};
use crate::seq::{Channel, Episode, PerToken, TokenObjective, check_batch};
use crate::{Error, Result};

/// Ethayarajh et al. (2024): The point z₀ that a reply's log-ratio is compared with. It gets no gradient.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum ReferencePoint {
    /// z₀ = max(0, (1/m) Σ_i l(x_i, y_j(i))), an estimate of KL(π ‖ π_ref) from replies to other prompts: j(i) is the next row of the
    /// batch, in a cycle, whose prompt is not x_i, and z₀ = 0 where there is none. Of pairs it is the next pair's winner, whatever its
    /// prompt, and z₀ = 0 for a single pair.
    ///
    /// TRL makes such rows once, before it trains, from neighbours in the order of the file, whether or not they share their prompt.
    #[default]
    Mismatched,
    /// A number ≥ 0. At 0 the loss is that of APO-zero in its unpaired form (D'Oosterlinck et al., 2024).
    Fixed(f64),
}

/// KTO (Ethayarajh et al., 2024): with l = log π(y|x) − log π_ref(y|x), the mean over replies of λ_D(1 − σ(β(l − z₀))) where the reply is
/// wanted and λ_U(1 − σ(β(z₀ − l))) where it is not.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Kto {
    /// λ_D ≥ 0.
    pub desirable: f64,
    /// λ_U ≥ 0.
    pub undesirable: f64,
    /// z₀.
    pub reference_point: ReferencePoint,
}

impl Default for Kto {
    fn default() -> Self {
        Self {
            desirable: 1.0,
            undesirable: 1.0,
            reference_point: ReferencePoint::Mismatched,
        }
    }
}

impl Kto {
    fn check_parameters(&self) -> Result<()> {
        check::not_negative("kto.desirable", self.desirable)?;
        check::not_negative("kto.undesirable", self.undesirable)?;
        match self.reference_point {
            ReferencePoint::Mismatched => Ok(()),
            ReferencePoint::Fixed(z0) => check::not_negative("kto.reference_point", z0),
        }
    }

    fn rows(
        &self,
        batch: &[Episode],
        desirable: Vec<bool>,
        reference: &[f64],
        beta: f64,
    ) -> Result<Box<dyn TokenObjective>> {
        self.check_parameters()?;
        check::positive("beta", beta)?;
        check_batch(batch)?;
        check::rows("log_prob of the reference", batch.len(), reference)?;
        if desirable.is_empty() || desirable.len() > batch.len() {
            return Err(Error::Shape {
                what: "labels".into(),
                expected: batch.len(),
                got: desirable.len(),
            });
        }
        let all = 0..batch.len();
        Ok(Box::new(KtoRows {
            group: [all],
            reference: reference.to_vec(),
            desirable,
            beta,
            kto: *self,
        }))
    }
}

impl UnpairedLoss for Kto {
    fn objective(
        &self,
        batch: &[Episode],
        desirable: &[bool],
        reference: &[f64],
        beta: f64,
    ) -> Result<Box<dyn TokenObjective>> {
        self.rows(batch, desirable.to_vec(), reference, beta)
    }

    fn more_rows(&self, labelled: &[Episode]) -> Vec<Episode> {
        match self.reference_point {
            ReferencePoint::Mismatched => mismatched(labelled),
            ReferencePoint::Fixed(_) => Vec::new(),
        }
    }

    fn check(&self) -> Result<()> {
        self.check_parameters()
    }
}

impl PairLoss for Kto {
    fn objective(
        &self,
        batch: &[Episode],
        reference: &[f64],
        beta: f64,
    ) -> Result<Box<dyn TokenObjective>> {
        let labelled = self.pair_rows(batch.len());
        pairs(&batch[..labelled])?;
        let desirable = (0..labelled).map(|i| i % 2 == 0).collect();
        self.rows(batch, desirable, reference, beta)
    }

    fn more_rows(&self, batch: &[Episode]) -> Vec<Episode> {
        let n = batch.len() / 2;
        let mismatched = |k: usize| Episode {
            prompt: batch[2 * k].prompt.clone(),
            ..batch[2 * ((k + 1) % n)].clone()
        };
        match (self.reference_point, n) {
            (ReferencePoint::Fixed(_), _) | (_, 0 | 1) => Vec::new(),
            _ => (0..n).map(mismatched).collect(),
        }
    }

    fn pair_rows(&self, rows: usize) -> usize {
        match self.reference_point {
            ReferencePoint::Mismatched if rows > 2 => rows / 3 * 2,
            _ => rows,
        }
    }

    fn unpaired(&self) -> Option<&dyn UnpairedLoss> {
        Some(self)
    }

    fn check(&self) -> Result<()> {
        self.check_parameters()
    }
}

/// Each prompt with the reply of the next row of another prompt; nothing where all have one prompt.
fn mismatched(rows: &[Episode]) -> Vec<Episode> {
    let n = rows.len();
    let other = |i: usize| {
        let mut next = (1..n).map(|k| &rows[(i + k) % n]);
        let other = next.find(|other| other.prompt != rows[i].prompt)?;
        Some(Episode {
            prompt: rows[i].prompt.clone(),
            ..other.clone()
        })
    };
    (0..n).filter_map(other).collect()
}

/// The loss of a batch. All its rows are one group, since all share z₀.
struct KtoRows {
    group: [Range<usize>; 1],
    reference: Vec<f64>,
    /// One for each row but those of z₀.
    desirable: Vec<bool>,
    beta: f64,
    kto: Kto,
}

impl TokenObjective for KtoRows {
    fn groups(&self) -> &[Range<usize>] {
        &self.group
    }

    fn channels(&self) -> &[Channel] {
        &[Channel::LogProb]
    }

    fn loss_grad(&self, _group: usize, scores: &PerToken, grad: &mut PerToken) -> f64 {
        let log_ratio =
            |i: usize| scores.row(Channel::LogProb, i).iter().sum::<f64>() - self.reference[i];
        let labelled = self.desirable.len();
        let z0 = match self.kto.reference_point {
            ReferencePoint::Fixed(z0) => z0,
            ReferencePoint::Mismatched => {
                let others: Vec<f64> = (labelled..self.reference.len()).map(log_ratio).collect();
                kto_reference_point(&others)
            }
        };
        let (n, mut loss) = (labelled as f64, 0.0);
        for (i, desirable) in self.desirable.iter().enumerate() {
            let (sign, weight) = match desirable {
                true => (1.0, self.kto.desirable),
                false => (-1.0, self.kto.undesirable),
            };
            let t = sign * self.beta * (log_ratio(i) - z0);
            loss += weight * sigmoid(-t) / n;
            let g = -weight * sign * self.beta * sigmoid(t) * sigmoid(-t) / n;
            let row = grad.row_mut(Channel::LogProb, i);
            row.iter_mut().for_each(|v| *v += g);
        }
        loss
    }
}
