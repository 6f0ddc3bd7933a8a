//! Rewards from log-ratios: DPO's implicit reward, fixed or updated online.

use crate::Result;
use crate::check;
use crate::objective::{BradleyTerry, Unpaired};
use crate::seq::{Channel, Episode, PolicyLearner, Ragged, StepReport, TokenReward, TokenScorer};

/// (4.5): Log-probabilities of a batch under a scorer, `[B][H_i]`.
///
/// # Errors
/// Those of the scorer; no [`Channel::LogProb`].
pub fn log_probs(scorer: &(impl TokenScorer + ?Sized), batch: &[Episode]) -> Result<Ragged> {
    let mut scores = scorer.scores(batch)?;
    scores
        .get(Channel::LogProb)?
        .check_fits("log_prob", batch)?;
    Ok(scores.take(Channel::LogProb).expect("present above"))
}

/// β₁ log(π_dpo(y_h|s_h)/π_ref(y_h|s_h)), the token reward of (4.5) and the first half of (4.6).
///
/// For π_dpo = π*_β and β₁ = β it is r + V*(s′) − V*(s), a potential shaping of r: its row sums identify r up to a constant per prompt,
/// its tokens do not.
#[derive(Debug, Clone)]
pub struct DpoReward<P, R> {
    dpo: P,
    reference: R,
    beta1: f64,
    clip: Option<f64>,
}

impl<P: TokenScorer, R: TokenScorer> DpoReward<P, R> {
    /// The reward of a DPO policy against the reference it was trained from.
    ///
    /// # Errors
    /// [`crate::Error::Config`] unless β₁ is finite and positive.
    pub fn try_new(dpo: P, reference: R, beta1: f64) -> Result<Self> {
        check::positive("beta1", beta1)?;
        Ok(Self {
            dpo,
            reference,
            beta1,
            clip: None,
        })
    }

    /// Cuts every token's reward to ±c, after scaling by β₁, as the authors' code does. The sum of a row is then
    /// no longer the sequence's log-ratio, and (4.3) does not hold for it.
    ///
    /// # Errors
    /// [`crate::Error::Config`] unless c is finite and positive.
    pub fn clipped(mut self, c: f64) -> Result<Self> {
        check::positive("dpo_reward_clip", c)?;
        self.clip = Some(c);
        Ok(self)
    }
}

impl<P: TokenScorer, R: TokenScorer> TokenReward for DpoReward<P, R> {
    fn rewards(&self, batch: &[Episode]) -> Result<Ragged> {
        let reward = log_ratio(&self.dpo, &self.reference, self.beta1, batch)?;
        Ok(match self.clip {
            Some(c) => reward.map(|r| r.clamp(-c, c)),
            None => reward,
        })
    }

    fn components(&self, batch: &[Episode]) -> Result<Vec<(&'static str, Ragged)>> {
        Ok(vec![("dpo", self.rewards(batch)?)])
    }
}

fn log_ratio(
    policy: &(impl TokenScorer + ?Sized),
    reference: &(impl TokenScorer + ?Sized),
    beta: f64,
    batch: &[Episode],
) -> Result<Ragged> {
    let (p, q) = (log_probs(policy, batch)?, log_probs(reference, batch)?);
    let reward = p.zip("log_prob of the reference", &q, |p, q| beta * (p - q))?;
    reward.check_finite("DPO reward")?;
    Ok(reward)
}

/// β log(π_φ/π_ref) with a π_φ that goes on learning from the outcomes of current rollouts (PRIME; Cui et al., 2025):
/// (4.5) with a reward that follows the policy instead of standing still.
#[derive(Debug)]
pub struct OnlineImplicitReward<L, R> {
    learner: L,
    reference: R,
    beta: f64,
}

impl<L: PolicyLearner, R: TokenScorer> OnlineImplicitReward<L, R> {
    /// The learner, its reference, and β of both the reward and its fit.
    ///
    /// # Errors
    /// [`crate::Error::Config`] unless β is finite and positive.
    pub fn try_new(learner: L, reference: R, beta: f64) -> Result<Self> {
        check::positive("beta", beta)?;
        Ok(Self {
            learner,
            reference,
            beta,
        })
    }

    /// One step of cross-entropy on outcomes in [0, 1], `[B]`, under σ(β log π_φ(y|x)/π_ref(y|x)).
    ///
    /// # Errors
    /// Those of scoring and stepping.
    pub fn update_outcomes(&mut self, batch: &[Episode], outcomes: &[f64]) -> Result<StepReport> {
        let reference = log_probs(&self.reference, batch)?.row_sums();
        let loss = Unpaired::outcome(batch, &reference, outcomes, self.beta)?;
        self.learner.step(batch, &loss)
    }

    /// One step of DPO on pairs of consecutive rows (winner, loser).
    ///
    /// # Errors
    /// Those of scoring and stepping.
    pub fn update_pairs(&mut self, batch: &[Episode]) -> Result<StepReport> {
        let reference = log_probs(&self.reference, batch)?.row_sums();
        let loss = BradleyTerry::dpo(batch, &reference, self.beta)?;
        self.learner.step(batch, &loss)
    }

    /// The learner, to save it or set its learning rate.
    pub fn learner_mut(&mut self) -> &mut L {
        &mut self.learner
    }
}

impl<L: PolicyLearner, R: TokenScorer> TokenReward for OnlineImplicitReward<L, R> {
    fn rewards(&self, batch: &[Episode]) -> Result<Ragged> {
        log_ratio(self.learner.policy(), &self.reference, self.beta, batch)
    }

    fn components(&self, batch: &[Episode]) -> Result<Vec<(&'static str, Ragged)>> {
        Ok(vec![("implicit", self.rewards(batch)?)])
    }
}
