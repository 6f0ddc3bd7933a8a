//! Section 3.3: the most probable response of an evaluator written in Python.

use crate::arrays::{found, html, out1, table, truth, value_error};
use crate::callback::Callback;
use crate::long::{self, Watch};
use ndarray::Array2;
use numpy::PyArray1;
use pyo3::prelude::*;
use rto::numerics::log_sum_exp;
use rto::{Error, Token};
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// The most probable response that was found.
#[pyclass(frozen, get_all, module = "rto")]
pub struct Found {
    /// Its tokens.
    response: Vec<u32>,
    /// log π*(y | x), in nats.
    log_prob: f64,
    /// log π*(y_h | x, y_1 … y_{h-1}), the token rewards of (3.6), shape (horizon,).
    token_log_probs: Py<PyArray1<f64>>,
    /// Whether no response can be more probable.
    certified: bool,
    /// How often the evaluator was asked for a path.
    queries: u64,
    /// The response that takes the most probable token at every step, with which the search began.
    greedy: Vec<u32>,
}

#[pymethods]
impl Found {
    fn _repr_html_(&self) -> String {
        html(&[
            ("response", format!("{:?}", self.response)),
            ("log_prob", self.log_prob.to_string()),
            ("certified", truth(self.certified)),
            ("queries", self.queries.to_string()),
        ])
    }

    fn __repr__(&self) -> String {
        let certified = if self.certified { "True" } else { "False" };
        format!(
            "Found(response={:?}, log_prob={}, certified={certified}, queries={})",
            self.response, self.log_prob, self.queries
        )
    }
}

/// A prefix that no path has gone through, with the log-probabilities of its tokens.
struct Open {
    mass: f64,
    tokens: Vec<Token>,
    steps: Vec<f64>,
}

impl Ord for Open {
    /// The heaviest, then the lexicographically smallest.
    fn cmp(&self, other: &Self) -> Ordering {
        let mass = self.mass.total_cmp(&other.mass);
        mass.then_with(|| other.tokens.cmp(&self.tokens))
    }
}

impl PartialOrd for Open {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Open {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Open {}

/// Asks the function, and checks what it says.
struct Evaluator {
    callback: Callback,
    n_actions: usize,
    horizon: usize,
    tolerance: f64,
    queries: u64,
}

impl Evaluator {
    /// log π*(· | path[:h]) for every h.
    fn ask(&mut self, path: &[Token]) -> rto::Result<Array2<f64>> {
        self.queries += 1;
        let (h, a) = (self.horizon, self.n_actions);
        self.callback.call(
            |py| (path.to_vec(),).into_pyobject(py),
            |answer| {
                let values = table("evaluator", &format!("({h}, {a})"), answer)?;
                let values = values.as_array().to_owned();
                if values.dim() != (h, a) {
                    let expected = format!("numbers of shape ({h}, {a})");
                    return Err(self.callback.wrong(found(answer), expected));
                }
                Ok(values)
            },
        )
    }

    /// A row of an answer, as far as the search reads it.
    fn checked(&self, rows: &Array2<f64>, h: usize) -> rto::Result<Vec<f64>> {
        let row = rows.row(h).to_vec();
        if let Some(v) = row.iter().find(|v| v.is_nan() || **v == f64::INFINITY) {
            let field = format!("evaluator, row {h}");
            return Err(Error::config(field, v, "a log-probability"));
        }
        let sum = log_sum_exp(&row).exp();
        if (sum - 1.0).abs() > self.tolerance {
            let field = format!("evaluator, row {h}");
            let must = format!(
                "log-probabilities: their exponentials sum to 1 within {:e}",
                self.tolerance
            );
            return Err(Error::config(field, format!("a sum of {sum}"), must));
        }
        Ok(row)
    }
}

/// What a search knows.
struct Search {
    evaluator: Evaluator,
    open: BinaryHeap<Open>,
    best: Open,
    greedy: Vec<Token>,
}

impl Search {
    /// Takes the most probable token at every step, one call each: the rest of a path is not known before.
    fn begin(mut evaluator: Evaluator, watch: &Watch<'_, ()>) -> rto::Result<Self> {
        let mut path = vec![0; evaluator.horizon];
        let mut rows = Array2::zeros((evaluator.horizon, evaluator.n_actions));
        for h in 0..evaluator.horizon {
            watch.check()?;
            rows = evaluator.ask(&path)?;
            let row = evaluator.checked(&rows, h)?;
            let heavier = |best: usize, a: usize| if row[a] > row[best] { a } else { best };
            path[h] = (0..row.len()).fold(0, heavier) as Token;
        }
        let nothing = Open {
            mass: f64::NEG_INFINITY,
            tokens: Vec::new(),
            steps: Vec::new(),
        };
        let mut search = Self {
            evaluator,
            open: BinaryHeap::new(),
            best: nothing,
            greedy: path.clone(),
        };
        let root = Open {
            mass: 0.0,
            tokens: Vec::new(),
            steps: Vec::new(),
        };
        search.pass(root, &path, &rows)?;
        Ok(search)
    }

    /// Passes the prefixes of a path below one that was open.
    fn pass(&mut self, from: Open, path: &[Token], rows: &Array2<f64>) -> rto::Result<()> {
        let Open {
            mut mass,
            mut tokens,
            mut steps,
        } = from;
        // The children that lie beside the path, once it is known whether its end beats them.
        let mut beside = Vec::new();
        for h in tokens.len()..path.len() {
            let row = self.evaluator.checked(rows, h)?;
            let child = |a: usize| {
                let push = |mut list: Vec<_>, last| {
                    list.push(last);
                    list
                };
                Open {
                    mass: mass + row[a],
                    tokens: push(tokens.clone(), a as Token),
                    steps: steps.iter().copied().chain([row[a]]).collect(),
                }
            };
            let last = h + 1 == path.len();
            for a in (0..row.len()).filter(|a| last || *a != path[h] as usize) {
                if mass + row[a] > self.best.mass {
                    match last {
                        true => self.best = child(a),
                        false => beside.push(child(a)),
                    }
                }
            }
            let next = path[h] as usize;
            mass += row[next];
            tokens.push(path[h]);
            steps.push(row[next]);
            if mass <= self.best.mass {
                break;
            }
        }
        let best = self.best.mass;
        self.open
            .extend(beside.into_iter().filter(|o| o.mass > best));
        Ok(())
    }

    /// Goes through the heaviest open prefix until none is heavier than the best response, or the calls are used up. Whether it is certified.
    fn finish(&mut self, budget: u64, watch: &Watch<'_, ()>) -> rto::Result<bool> {
        while let Some(top) = self.open.pop() {
            if top.mass <= self.best.mass {
                break;
            }
            if self.evaluator.queries >= budget {
                return Ok(false);
            }
            watch.check()?;
            let mut path = top.tokens.clone();
            path.extend_from_slice(&self.greedy[path.len()..]);
            let rows = self.evaluator.ask(&path)?;
            self.pass(top, &path, &rows)?;
        }
        Ok(true)
    }
}

/// The most probable response of an evaluator, by best-first search, Section 3.3.
///
/// The evaluator says log π*(· | prefix) of every prefix of a path at once, all tokens of the vocabulary included. A prefix that no path
/// has gone through weighs at least as much as every response below it, so that a response heavier than all of them is the most probable.
/// That is more than the learner of Proposition 3.2 is told, who sees the tokens of the responses that it names alone, and it takes fewer
/// queries.
///
/// Parameters
/// ----------
/// evaluator : callable
///     ``evaluator(path)`` gets a list of `horizon` tokens and returns log π*(· | x, path[:h]) for h = 0, …, horizon − 1, shape
///     (horizon, n_actions): one forward pass of a causal model.
/// n_actions, horizon : int
///     A and H. Every response has H tokens; one that may end earlier goes on with its end token with probability 1.
/// budget : int, optional
///     The largest number of calls, at least `horizon`: the first `horizon` calls find the greedy response, and everything later only
///     improves on it.
/// tolerance : float, default 1e-9
///     How far probabilities may be from summing to 1; about 1e-5 for a model in float32.
///
/// Returns
/// -------
/// Found
///     With ``certified=True`` no response is more probable.
#[pyfunction]
#[pyo3(signature = (evaluator, n_actions, horizon, *, budget = None, tolerance = 1e-9))]
pub fn best_first(
    py: Python<'_>,
    evaluator: &Bound<'_, PyAny>,
    n_actions: usize,
    horizon: usize,
    budget: Option<u64>,
    tolerance: f64,
) -> PyResult<Found> {
    rto::search::check_size(n_actions, horizon).map_err(value_error)?;
    let callback = Callback::new("evaluator", evaluator)?;
    if !(0.0..=0.01).contains(&tolerance) {
        return Err(value_error(format!(
            "tolerance: found {tolerance}, expected a number from 0 to 0.01"
        )));
    }
    if let Some(b) = budget.filter(|b| *b < horizon as u64) {
        return Err(value_error(format!(
            "budget: found {b}, expected at least {horizon}, what the greedy response takes"
        )));
    }
    let evaluator = Evaluator {
        callback: callback.clone(),
        n_actions,
        horizon,
        tolerance,
        queries: 0,
    };
    let work = move |watch: &Watch<'_, ()>| -> rto::Result<(Search, bool)> {
        let mut search = Search::begin(evaluator, watch)?;
        let certified = search.finish(budget.unwrap_or(u64::MAX), watch)?;
        Ok((search, certified))
    };
    let (search, certified) =
        long::here(py, work, |_, ()| Ok(()))?.map_err(|e| callback.or(value_error(e)))?;
    Ok(Found {
        log_prob: search.best.mass,
        response: search.best.tokens,
        token_log_probs: out1(py, search.best.steps),
        certified,
        queries: search.evaluator.queries,
        greedy: search.greedy,
    })
}
