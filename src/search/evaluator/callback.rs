use super::{Evaluator, float_slack};
use crate::numerics::log_sum_exp;
use crate::search::check_size;
use crate::search::mass::LogMass;
use crate::search::oracle::Scored;
use crate::{Error, Result, Token};
use std::cell::OnceCell;
use std::rc::Rc;

/// Any autoregressive model: log π(· | x, prefix) for a prefix of the response.
///
/// The prompt x belongs to the model. Closures `Fn(&[Token]) -> Result<Vec<f64>>` are models.
pub trait LogProbModel {
    /// The natural log-probabilities of all A next tokens after `prefix`.
    ///
    /// # Errors
    /// Whatever evaluating the model reports; [`Error::evaluator`] makes an error of a message, [`Error::evaluator_because`] keeps the cause.
    fn log_probs(&self, prefix: &[Token]) -> Result<Vec<f64>>;
}

impl<F: Fn(&[Token]) -> Result<Vec<f64>>> LogProbModel for F {
    fn log_probs(&self, prefix: &[Token]) -> Result<Vec<f64>> {
        self(prefix)
    }
}

/// Plugs a [`LogProbModel`] into the searches; the model is asked once for each prefix that is gone on from.
///
/// ```
/// use rto::search::evaluator::{CallbackEvaluator, EvaluatorOracle};
/// use rto::search::{best_first::{BestFirst, best_first}, oracle::CountingOracle};
/// // A model that repeats its last token with probability 0.9 and starts with token 1 as often.
/// let model = |prefix: &[u32]| {
///     let favourite = prefix.last().copied().unwrap_or(1);
///     Ok((0..2).map(|a| if a == favourite { 0.9f64.ln() } else { 0.1f64.ln() }).collect())
/// };
/// let policy = CallbackEvaluator::new(model, 2, 5, 1e-12).unwrap();
/// let mut oracle = CountingOracle::new(EvaluatorOracle::new(policy));
/// let found = best_first(&mut oracle, &BestFirst::default()).unwrap();
/// assert_eq!(found.response, [1, 1, 1, 1, 1]);
/// assert!(found.certified);
/// ```
#[derive(Debug, Clone)]
pub struct CallbackEvaluator<F> {
    model: F,
    n_actions: usize,
    horizon: usize,
    tolerance: f64,
}

/// State of a [`CallbackEvaluator`] prefix; its conditional is evaluated when first needed.
#[derive(Debug, Clone)]
pub struct CallbackPrefix(Rc<(Vec<Token>, OnceCell<Vec<f64>>)>);

impl CallbackPrefix {
    fn new(tokens: Vec<Token>) -> Self {
        Self(Rc::new((tokens, OnceCell::new())))
    }
}

impl<F: LogProbModel> CallbackEvaluator<F> {
    /// `tolerance` bounds |Σ_a π(a | prefix) − 1|: about 1e-12 for a model in `f64`, 1e-5 in `f32`.
    ///
    /// # Errors
    /// [`Error::Config`] for a size out of range or a tolerance outside \[0, 0.01\].
    pub fn new(model: F, n_actions: usize, horizon: usize, tolerance: f64) -> Result<Self> {
        check_size(n_actions, horizon)?;
        if !(0.0..=0.01).contains(&tolerance) {
            return Err(Error::config(
                "tolerance",
                tolerance,
                "a number from 0 to 0.01",
            ));
        }
        Ok(Self {
            model,
            n_actions,
            horizon,
            tolerance,
        })
    }

    fn evaluate(&self, prefix: &[Token]) -> Result<Vec<f64>> {
        let log_probs = self.model.log_probs(prefix)?;
        if log_probs.len() != self.n_actions {
            let what = format!("log-probabilities after prefix {prefix:?}");
            return Err(Error::Shape {
                what,
                expected: self.n_actions,
                got: log_probs.len(),
            });
        }
        if let Some(&value) = log_probs
            .iter()
            .find(|l| l.is_nan() || **l == f64::INFINITY)
        {
            return Err(Error::NonFinite {
                what: format!("a log-probability after prefix {prefix:?}"),
                value,
            });
        }
        let sum = log_sum_exp(&log_probs).exp();
        if (sum - 1.0).abs() > self.tolerance + float_slack(self.n_actions) {
            return Err(Error::NotADistribution {
                what: format!("policy after prefix {prefix:?}"),
                sum,
            });
        }
        Ok(log_probs)
    }
}

impl<F: LogProbModel> Evaluator for CallbackEvaluator<F> {
    type Mass = LogMass;
    type State = CallbackPrefix;

    fn n_actions(&self) -> usize {
        self.n_actions
    }

    fn horizon(&self) -> usize {
        self.horizon
    }

    fn root(&self) -> Result<Scored<LogMass, CallbackPrefix>> {
        Ok(Scored {
            mass: LogMass(0.0),
            prefix: CallbackPrefix::new(Vec::new()),
        })
    }

    fn child(
        &self,
        at: &Scored<LogMass, CallbackPrefix>,
        token: Token,
    ) -> Result<Scored<LogMass, CallbackPrefix>> {
        let (prefix, conditional) = &*at.prefix.0;
        if conditional.get().is_none() {
            conditional
                .set(self.evaluate(prefix)?)
                .expect("set once, just checked");
        }
        let log_prob = conditional.get().expect("just set")[token as usize];
        let tokens = prefix.iter().copied().chain([token]).collect();
        Ok(Scored {
            mass: LogMass(at.mass.0 + log_prob),
            prefix: CallbackPrefix::new(tokens),
        })
    }

    fn slack(&self) -> f64 {
        self.tolerance + float_slack(self.n_actions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_models_are_named() {
        let ask = |row: Vec<f64>| {
            let policy =
                CallbackEvaluator::new(move |_: &[Token]| Ok(row.clone()), 2, 2, 1e-9).unwrap();
            policy
                .root()
                .and_then(|root| policy.child(&root, 0))
                .unwrap_err()
                .to_string()
        };
        assert!(ask(vec![0.5f64.ln(); 3]).contains("expected 2"));
        assert!(ask(vec![f64::NAN, 0.0]).contains("not finite"));
        assert!(ask(vec![0.6f64.ln(); 2]).contains("sum"));
    }
}
