//! The methods by name: fit once, plan many.

use super::cal_dpo::cal_dpo_fit;
use super::dpop::dpop_fit;
use super::evaluation::{Evaluation, evaluate};
use super::fit::{
    Fit, Penalty, bradley_terry_scores, exploration_branch, fading, ipo_scores, penalised_fit,
    ridge_scores,
};
use super::kto::{kto_fixed_point, kto_plan};
use super::losses::PreferenceLoss;
use super::pairs::PairTable;
use super::planner::{chi_plan, length_map, tdpo_plan, tilt};
use super::responses::Responses;
use super::stop_gradient::tdpo2_root;
use crate::check;
use crate::mdp::Beta;
use crate::{Error, Result};

/// Which law the supervised term of RPO is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SupervisedBase {
    /// π_ref.
    Reference,
    /// The chosen responses of the pairs.
    Chosen,
}

/// A method of preference optimisation with its constants; β is that of the problem unless it has one of its own.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Method {
    /// DPO (4.4); the same as reward model + soft planning.
    Dpo,
    /// R-DPO.
    RDpo {
        /// The weight of the length.
        alpha: f64,
    },
    /// IPO on sums of log-ratios.
    Ipo,
    /// IPO on means per token.
    IpoMean,
    /// SimPO.
    SimPo {
        /// SimPO's own β.
        beta: f64,
        /// The target margin.
        gamma: f64,
    },
    /// χPO.
    ChiPo,
    /// TDPO with all gradients; α = 1 is TDPO-1.
    Tdpo {
        /// The weight of the forward KL.
        alpha: f64,
    },
    /// TDPO-2.
    Tdpo2 {
        /// The weight of the forward KL.
        alpha: f64,
    },
    /// RPO, or VPO offline.
    Rpo {
        /// η.
        eta: f64,
        /// The law of the supervised term.
        base: SupervisedBase,
    },
    /// XPO, SELM or VPO online with calibration π_ref: the local minimiser on the branch from the likelihood's maximum.
    Xpo {
        /// α.
        alpha: f64,
    },
    /// HyPO.
    HyPo {
        /// λ.
        lambda: f64,
    },
    /// KTO with its own reference point.
    Kto,
    /// KTO with a fixed reference point.
    KtoAt {
        /// z₀.
        z0: f64,
    },
    /// Cal-DPO.
    CalDpo,
    /// DPOP.
    Dpop {
        /// λ.
        lambda: f64,
    },
}

/// Constants of the methods where nothing else is said: those of the golden values, which DPOP is not in.
pub const DEFAULT_METHODS: [(&str, Method); 18] = [
    ("dpo", Method::Dpo),
    ("rdpo", Method::RDpo { alpha: 0.2 }),
    ("ipo", Method::Ipo),
    ("ipo_mean", Method::IpoMean),
    (
        "simpo_gamma0.0",
        Method::SimPo {
            beta: 2.0,
            gamma: 0.0,
        },
    ),
    (
        "simpo_gamma0.5",
        Method::SimPo {
            beta: 2.0,
            gamma: 0.5,
        },
    ),
    ("chipo", Method::ChiPo),
    ("tdpo_full_alpha1.0", Method::Tdpo { alpha: 1.0 }),
    ("tdpo_full_alpha0.5", Method::Tdpo { alpha: 0.5 }),
    ("tdpo2", Method::Tdpo2 { alpha: 0.5 }),
    (
        "rpo_base_ref",
        Method::Rpo {
            eta: 0.1,
            base: SupervisedBase::Reference,
        },
    ),
    (
        "rpo_base_chosen",
        Method::Rpo {
            eta: 0.1,
            base: SupervisedBase::Chosen,
        },
    ),
    ("xpo_local", Method::Xpo { alpha: 0.01 }),
    ("hypo", Method::HyPo { lambda: 0.05 }),
    ("kto_fixed_point", Method::Kto),
    ("kto_z0_0", Method::KtoAt { z0: 0.0 }),
    ("caldpo", Method::CalDpo),
    ("dpop", Method::Dpop { lambda: 5.0 }),
];

/// A method's policy, judged, with what vouches for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Solved {
    /// log π(y).
    pub log_policy: Vec<f64>,
    /// The policy under V = E R − β KL.
    pub evaluation: Evaluation,
    /// Certificates by name: gradients at the policy, multipliers, roots.
    pub certificates: Vec<(&'static str, f64)>,
}

/// What came of a method.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A policy.
    Solved(Box<Solved>),
    /// No minimiser, and why.
    NoMinimiser(String),
}

/// One set of pairs, fitted once for every method that shares the Bradley–Terry likelihood.
#[derive(Debug, Clone)]
pub struct PreferenceProblem<'a> {
    responses: &'a Responses,
    pairs: &'a PairTable,
    beta: Beta,
    /// The Bradley–Terry scores, or why there are none.
    fit: std::result::Result<Fit, String>,
    /// The ridge of the fits, if any.
    ridge: Option<f64>,
}

impl<'a> PreferenceProblem<'a> {
    /// The problem with its fit.
    ///
    /// # Errors
    /// [`Error::Shape`] unless responses and pairs fit; [`Error::Config`] for β = 0; [`Error::NotConverged`].
    pub fn try_new(responses: &'a Responses, pairs: &'a PairTable, beta: Beta) -> Result<Self> {
        let fit = match bradley_terry_scores(pairs, 0.0) {
            Ok(fit) => Ok(fit),
            Err(Error::Assumption { why, .. }) => Err(why),
            Err(other) => return Err(other),
        };
        Self {
            responses,
            pairs,
            beta,
            fit,
            ridge: None,
        }
        .at(beta)
    }

    /// The same with a ridge on the scores (see [`ridge_scores`]), so that every method that plans from them has a policy on
    /// every table of pairs.
    ///
    /// # Errors
    /// Those of [`PreferenceProblem::try_new`] and [`ridge_scores`].
    pub fn with_ridge(
        responses: &'a Responses,
        pairs: &'a PairTable,
        beta: Beta,
        ridge: f64,
    ) -> Result<Self> {
        Self {
            responses,
            pairs,
            beta,
            fit: Ok(ridge_scores(pairs, 0.0, ridge)?),
            ridge: Some(ridge),
        }
        .at(beta)
    }

    /// The same fit planned at another β: the fit does not depend on it.
    ///
    /// # Errors
    /// [`Error::Shape`] unless responses and pairs fit; [`Error::Config`] for β = 0.
    pub fn at(&self, beta: Beta) -> Result<Self> {
        check::len("pairs", self.responses.len(), self.pairs.n_responses())?;
        if beta.get() <= 0.0 {
            return Err(Error::config("beta", beta.get(), "a positive number"));
        }
        Ok(Self {
            beta,
            ..self.clone()
        })
    }

    /// The Bradley–Terry fit, or why it does not exist.
    pub fn fit(&self) -> std::result::Result<&Fit, &str> {
        self.fit.as_ref().map_err(String::as_str)
    }

    /// The policy of a method.
    ///
    /// # Errors
    /// [`Error::Config`] for constants outside their domain; [`Error::NotConverged`].
    pub fn solve(&self, method: &Method) -> Result<Outcome> {
        let (responses, pairs, beta) = (self.responses, self.pairs, self.beta);
        let b = beta.get();
        let mut certificates = Vec::new();
        let fit = match (&self.fit, method.needs_fit()) {
            (Err(why), true) => return Ok(Outcome::NoMinimiser(why.clone())),
            (Ok(fit), _) => fit.scores.as_slice(),
            (Err(_), false) => &[],
        };
        let log_policy = match *method {
            Method::Dpo => tilt(responses, &scaled(fit, 1.0 / b))?,
            Method::RDpo { alpha } => {
                let shift = |(r, l): (&f64, &f64)| (r - alpha * l) / b;
                tilt(
                    responses,
                    &fit.iter()
                        .zip(responses.lengths())
                        .map(shift)
                        .collect::<Vec<_>>(),
                )?
            }
            Method::Ipo => tilt(responses, &ipo_scores(pairs, beta)?)?,
            Method::IpoMean => {
                let v = ipo_scores(pairs, beta)?;
                let (policy, c) = length_map(responses, &v, responses.log_reference())?;
                certificates.push(("c", c));
                policy
            }
            Method::SimPo { beta: own, gamma } => {
                if !(own > 0.0 && own.is_finite()) {
                    return Err(Error::config("simpo_beta", own, "a positive number"));
                }
                let scores = match self.ridge {
                    None => bradley_terry_scores(pairs, gamma)?,
                    Some(ridge) => ridge_scores(pairs, gamma, ridge)?,
                };
                certificates.push(("fit_error_bound", scores.certificate.error_bound));
                let zeros = vec![0.0; responses.len()];
                let (policy, c) =
                    length_map(responses, &scaled(&scores.scores, 1.0 / own), &zeros)?;
                certificates.push(("c", c));
                policy
            }
            Method::ChiPo => {
                let (policy, c) = chi_plan(responses, fit, beta)?;
                certificates.push(("c", c));
                policy
            }
            Method::Tdpo { alpha } => tdpo_plan(responses, fit, alpha, beta)?,
            Method::Tdpo2 { alpha } => {
                let root = tdpo2_root(responses, pairs, fit, alpha, beta)?;
                certificates.push(("field_inf", root.field_inf));
                root.log_policy
            }
            Method::Rpo { eta, base } => {
                let base = match base {
                    SupervisedBase::Reference => reference_law(responses),
                    SupervisedBase::Chosen => pairs.chosen(),
                };
                if let Some(y) = base.iter().position(|&m| m == 0.0) {
                    return Ok(Outcome::NoMinimiser(format!(
                        "response {y} was never chosen, and nothing keeps its probability from 0"
                    )));
                }
                let penalty = Penalty::Supervised { eta, base };
                let found = penalised_fit(
                    responses,
                    pairs,
                    beta,
                    &penalty,
                    &vec![0.0; responses.len()],
                )?;
                if !found.converged {
                    return Err(not_converged("RPO's fit", found.certificate.grad_inf));
                }
                certificates.push(("fit_error_bound", found.certificate.error_bound));
                certificates.push(("hessian_min", found.certificate.hessian_min));
                found.log_policy
            }
            Method::Xpo { alpha } => {
                match exploration_branch(responses, pairs, beta, fit, alpha)? {
                    Ok(found) => {
                        certificates.push(("hessian_min", found.certificate.hessian_min));
                        found.log_policy
                    }
                    Err(last) => {
                        return Ok(Outcome::NoMinimiser(format!(
                            "the branch of local minimisers from the likelihood's maximum ends at alpha = {last:.4e}, before {alpha}"
                        )));
                    }
                }
            }
            Method::HyPo { lambda } => match self.hypo(lambda, fit)? {
                Ok((policy, spread)) => {
                    certificates.push(("spread_of_losses", spread));
                    policy
                }
                Err(why) => return Ok(Outcome::NoMinimiser(why)),
            },
            Method::Kto => {
                let (plan, roots) = kto_fixed_point(responses, &pairs.net(), beta)?;
                certificates.push(("z0", plan.reference_point));
                certificates.push(("roots", roots.len() as f64));
                certificates.push(("slope_spread", plan.slope_spread));
                plan.log_policy
            }
            Method::KtoAt { z0 } => {
                let plan = kto_plan(responses, &pairs.net(), beta, z0)?;
                certificates.push(("slope_spread", plan.slope_spread));
                plan.log_policy
            }
            Method::CalDpo => {
                let found = match cal_dpo_fit(responses, pairs, beta) {
                    Err(Error::Assumption { why, .. }) => return Ok(Outcome::NoMinimiser(why)),
                    found => found?,
                };
                certificates.push(("multiplier", found.multiplier));
                certificates.push(("kkt_inf", found.kkt_inf));
                found.log_policy
            }
            Method::Dpop { lambda } => {
                let found = match dpop_fit(responses, pairs, beta, lambda) {
                    Err(Error::Assumption { why, .. }) => return Ok(Outcome::NoMinimiser(why)),
                    found => found?,
                };
                certificates.push(("multiplier", found.multiplier));
                certificates.push(("kkt_inf", found.kkt_inf));
                certificates.push(("on_kink", found.on_kink.len() as f64));
                found.log_policy
            }
        };
        if let Some((loss, own_beta)) = self.loss(method) {
            let rows = responses.token_rows(&log_policy);
            let (_, gradient) = loss.token_gradient(responses, pairs, own_beta, &rows)?;
            let largest = gradient.iter().fold(0.0, |m: f64, g| m.max(g.abs()));
            certificates.push(("token_grad_inf", largest));
        }
        Ok(Outcome::Solved(Box::new(Solved {
            evaluation: evaluate(responses, beta, &log_policy)?,
            log_policy,
            certificates,
        })))
    }

    /// The loss that a method minimises, with the β it is taken at; `None` where its policy has zeros or it is checked otherwise.
    pub fn loss(&self, method: &Method) -> Option<(PreferenceLoss, Beta)> {
        let reference = || reference_law(self.responses);
        let loss = match *method {
            Method::Dpo => PreferenceLoss::Dpo { alpha: 0.0 },
            Method::RDpo { alpha } => PreferenceLoss::Dpo { alpha },
            Method::Ipo => PreferenceLoss::Ipo { mean: false },
            Method::IpoMean => PreferenceLoss::Ipo { mean: true },
            Method::SimPo { beta, gamma } => {
                return Some((PreferenceLoss::SimPo { gamma }, Beta::try_new(beta).ok()?));
            }
            Method::ChiPo => PreferenceLoss::Chi,
            Method::Tdpo { alpha } => PreferenceLoss::Tdpo { alpha },
            Method::Tdpo2 { alpha } => PreferenceLoss::Tdpo2 { alpha },
            Method::Rpo { eta, base } => PreferenceLoss::Rpo {
                eta,
                base: match base {
                    SupervisedBase::Reference => reference(),
                    SupervisedBase::Chosen => self.pairs.chosen(),
                },
            },
            Method::Xpo { alpha } => PreferenceLoss::Rpo {
                eta: -alpha / self.beta.get(),
                base: reference(),
            },
            Method::HyPo { lambda } => PreferenceLoss::HyPo { lambda },
            Method::CalDpo => PreferenceLoss::CalDpo,
            // At a kink a loss has no gradient, and at zeros of the policy no logits.
            Method::Dpop { .. } | Method::Kto | Method::KtoAt { .. } => return None,
        };
        Some((loss, self.beta))
    }

    /// The best of several starts, and the spread of the losses they end at; `None` where no start ends at a stationary point,
    /// which separable pairs allow.
    fn hypo(
        &self,
        lambda: f64,
        fit: &[f64],
    ) -> Result<std::result::Result<(Vec<f64>, f64), String>> {
        let (n, b) = (self.responses.len(), self.beta.get());
        let penalty = Penalty::ReverseKl { lambda };
        let mut starts = vec![vec![0.0; n]];
        if !fit.is_empty() {
            starts.push(scaled(fit, 1.0 / b));
        }
        starts.push(scaled(&ipo_scores(self.pairs, self.beta)?, 2.0));
        let mut ends = Vec::new();
        for start in &starts {
            let found = penalised_fit(self.responses, self.pairs, self.beta, &penalty, start)?;
            if found.converged {
                ends.push(found);
            }
        }
        ends.sort_by(|a, b| a.certificate.loss.total_cmp(&b.certificate.loss));
        match (ends.first(), ends.last()) {
            (Some(best), Some(worst)) => {
                let lost = fading(self.responses, self.pairs, self.beta, &penalty, best)?;
                if !lost.is_empty() {
                    return Ok(Err(format!(
                        "the pairs are separable and beta is below 1: the objective falls for ever as responses {lost:?} go to 0"
                    )));
                }
                let spread = worst.certificate.loss - best.certificate.loss;
                Ok(Ok((best.log_policy.clone(), spread)))
            }
            _ if !self.pairs.has_maximum() => {
                let why = "the pairs are separable, and no start reached a stationary point";
                Ok(Err(why.into()))
            }
            _ => Err(not_converged("HyPO's fit", f64::NAN)),
        }
    }
}

impl Method {
    /// Whether the method plans from the Bradley–Terry maximum, or minimises a likelihood that has no other penalty.
    fn needs_fit(&self) -> bool {
        matches!(
            self,
            Self::Dpo
                | Self::RDpo { .. }
                | Self::SimPo { .. }
                | Self::ChiPo
                | Self::Tdpo { .. }
                | Self::Tdpo2 { .. }
                | Self::Xpo { .. }
        )
    }
}

fn reference_law(responses: &Responses) -> Vec<f64> {
    responses.log_reference().iter().map(|u| u.exp()).collect()
}

fn scaled(values: &[f64], factor: f64) -> Vec<f64> {
    values.iter().map(|v| v * factor).collect()
}

fn not_converged(what: &str, residual: f64) -> Error {
    Error::NotConverged {
        what: what.into(),
        iterations: 300,
        residual,
    }
}
