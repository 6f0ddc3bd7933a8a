//! A candle model as the evaluator π\* of Section 3.3.

use candle_core::{DType, Tensor};
use rto::search::evaluator::LogProbModel;
use rto::{Error, Result, Token};

/// Next-token logits from candle: `Fn(prefix) -> logits [A]`, in any float type and on any device.
///
/// The logits are brought to the CPU and the log-softmax is taken in `f64`, so that the conditionals
/// sum to one to rounding whatever the type of the model; pass a tolerance of about 1e-12 to
/// [`rto::search::evaluator::CallbackEvaluator::new`].
#[derive(Debug, Clone)]
pub struct CandleModel<F> {
    logits: F,
    n_actions: usize,
}

impl<F: Fn(&[Token]) -> candle_core::Result<Tensor>> CandleModel<F> {
    /// A model over `n_actions` tokens.
    pub fn new(logits: F, n_actions: usize) -> Self {
        Self { logits, n_actions }
    }
}

impl<F: Fn(&[Token]) -> candle_core::Result<Tensor>> LogProbModel for CandleModel<F> {
    fn log_probs(&self, prefix: &[Token]) -> Result<Vec<f64>> {
        let failed = |error: candle_core::Error| {
            Error::evaluator_because(format!("after prefix {prefix:?}"), error)
        };
        let logits = (self.logits)(prefix).map_err(failed)?;
        if logits.rank() != 1 {
            // Counting elements would say "expected 5, got 5" of a [1, 5].
            let found = logits.dims();
            return Err(Error::evaluator(format!(
                "logits after prefix {prefix:?}: expected shape [{}], got {found:?}",
                self.n_actions
            )));
        }
        if logits.dims() != [self.n_actions] {
            let what = format!("logits after prefix {prefix:?}");
            return Err(Error::Shape {
                what,
                expected: self.n_actions,
                got: logits.elem_count(),
            });
        }
        let values: Vec<f64> = logits
            .to_dtype(DType::F64)
            .and_then(|l| l.to_vec1())
            .map_err(failed)?;
        if let Some(&value) = values.iter().find(|v| v.is_nan() || **v == f64::INFINITY) {
            return Err(Error::NonFinite {
                what: format!("a logit after prefix {prefix:?}"),
                value,
            });
        }
        let normaliser = rto::numerics::log_sum_exp(&values);
        if normaliser == f64::NEG_INFINITY {
            return Err(Error::NonFinite {
                what: format!("every logit after prefix {prefix:?}"),
                value: normaliser,
            });
        }
        Ok(values.into_iter().map(|v| v - normaliser).collect())
    }
}
