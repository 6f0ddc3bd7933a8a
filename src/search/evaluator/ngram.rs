use super::{Evaluator, float_slack};
use crate::search::check_size;
use crate::search::mass::LogMass;
use crate::search::oracle::Scored;
use crate::{Error, Result, Token};
use std::collections::HashMap;

/// The longest n-gram: seven tokens of context.
const MAX_ORDER: usize = 8;

/// How probability reaches tokens that were never seen after a context.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Smoothing {
    /// (c(a) + α) / (C + αA) at the full context; α > 0.
    Additive(f64),
    /// Interpolation with the shorter context in proportion to the number of distinct tokens seen
    /// (Witten and Bell, 1991): (c(a) + T·p_shorter(a)) / (C + T).
    WittenBell,
    /// Interpolated absolute discounting (Ney, Essen and Kneser, 1994): (max(c(a) − d, 0) + d·T·p_shorter(a)) / C, 0 < d < 1.
    AbsoluteDiscount(f64),
}

/// Counts after one context.
#[derive(Debug, Clone, Default)]
struct Context {
    total: f64,
    counts: HashMap<Token, f64>,
}

/// The last order − 1 tokens, the most recent last; `len` counts those that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    tokens: [Token; MAX_ORDER - 1],
    len: u8,
}

impl History {
    fn push(&mut self, token: Token, order: usize) {
        let keep = order - 1;
        if keep == 0 {
            return;
        }
        if self.len as usize == keep {
            self.tokens.copy_within(1..keep, 0);
            self.len -= 1;
        }
        self.tokens[self.len as usize] = token;
        self.len += 1;
    }

    fn as_slice(&self) -> &[Token] {
        &self.tokens[..self.len as usize]
    }
}

/// An n-gram language model, with full support over its A symbols.
#[derive(Debug, Clone)]
pub struct NgramModel {
    n_symbols: usize,
    order: usize,
    smoothing: Smoothing,
    contexts: HashMap<Box<[Token]>, Context>,
}

impl NgramModel {
    /// Counts the n-grams of `documents`, sequences over 0..`n_symbols`. A document starts in a
    /// context of its own (a boundary symbol that is never generated).
    ///
    /// # Errors
    /// [`Error::Config`] for an order outside 1..=8, a smoothing parameter out of range, a symbol
    /// outside the vocabulary, or fewer symbols in all than the order.
    pub fn fit(
        documents: &[Vec<Token>],
        n_symbols: usize,
        order: usize,
        smoothing: Smoothing,
    ) -> Result<Self> {
        if !(1..=MAX_ORDER).contains(&order) {
            return Err(Error::config(
                "order",
                order,
                format!("from 1 to {MAX_ORDER}"),
            ));
        }
        match smoothing {
            Smoothing::Additive(alpha) if !(alpha > 0.0 && alpha.is_finite()) => {
                return Err(Error::config(
                    "additive smoothing",
                    alpha,
                    "a positive number",
                ));
            }
            Smoothing::AbsoluteDiscount(d) if !(d > 0.0 && d < 1.0) => {
                return Err(Error::config(
                    "absolute discount",
                    d,
                    "a number strictly between 0 and 1",
                ));
            }
            _ => {}
        }
        let length: usize = documents.iter().map(Vec::len).sum();
        if length < order {
            return Err(Error::config(
                "text",
                format!("{length} symbols"),
                format!("at least as many as the order, {order}"),
            ));
        }
        if let Some(symbol) = documents
            .iter()
            .flatten()
            .find(|s| **s as usize >= n_symbols)
        {
            return Err(Error::config(
                "symbol",
                symbol,
                format!("below {n_symbols}"),
            ));
        }
        let mut model = Self {
            n_symbols,
            order,
            smoothing,
            contexts: HashMap::new(),
        };
        for document in documents {
            let mut history = model.start();
            for &symbol in document {
                for used in 0..=history.len as usize {
                    let suffix = &history.as_slice()[history.len as usize - used..];
                    let context = match model.contexts.get_mut(suffix) {
                        Some(context) => context,
                        None => model.contexts.entry(suffix.into()).or_default(),
                    };
                    context.total += 1.0;
                    *context.counts.entry(symbol).or_default() += 1.0;
                }
                history.push(symbol, order);
            }
        }
        Ok(model)
    }

    /// The history at the start of a document: one boundary symbol (when the order has room for it).
    fn start(&self) -> History {
        let mut history = History {
            tokens: [0; MAX_ORDER - 1],
            len: 0,
        };
        history.push(self.n_symbols as Token, self.order);
        history
    }

    /// The history after a prompt.
    fn after(&self, prompt: &[Token]) -> History {
        let mut history = self.start();
        prompt.iter().for_each(|t| history.push(*t, self.order));
        history
    }

    /// A, the number of symbols.
    pub fn n_symbols(&self) -> usize {
        self.n_symbols
    }

    /// p(symbol | history), summing to one over the symbols.
    fn probability(&self, history: &History, symbol: Token) -> f64 {
        let tokens = history.as_slice();
        let uniform = 1.0 / self.n_symbols as f64;
        if let Smoothing::Additive(alpha) = self.smoothing {
            return self.contexts.get(tokens).map_or(uniform, |context| {
                let count = context.counts.get(&symbol).copied().unwrap_or(0.0);
                (count + alpha) / (context.total + alpha * self.n_symbols as f64)
            });
        }
        let mut p = uniform;
        for used in 0..=tokens.len() {
            // A longer context of an unseen context is unseen too.
            let Some(context) = self.contexts.get(&tokens[tokens.len() - used..]) else {
                break;
            };
            let count = context.counts.get(&symbol).copied().unwrap_or(0.0);
            let distinct = context.counts.len() as f64;
            p = match self.smoothing {
                Smoothing::WittenBell => (count + distinct * p) / (context.total + distinct),
                Smoothing::AbsoluteDiscount(d) => {
                    ((count - d).max(0.0) + d * distinct * p) / context.total
                }
                Smoothing::Additive(_) => unreachable!("returned above"),
            };
        }
        p
    }
}

/// The model as an evaluator: the distribution of the `horizon` symbols that follow a prompt.
#[derive(Debug, Clone)]
pub struct NgramPolicy<'a> {
    model: &'a NgramModel,
    start: History,
    horizon: usize,
}

impl<'a> NgramPolicy<'a> {
    /// Responses of `horizon` symbols after `prompt` (empty: at the start of a document).
    ///
    /// # Errors
    /// [`Error::Config`] for a size out of range.
    pub fn new(model: &'a NgramModel, prompt: &[Token], horizon: usize) -> Result<Self> {
        check_size(model.n_symbols, horizon)?;
        Ok(Self {
            model,
            start: model.after(prompt),
            horizon,
        })
    }
}

impl Evaluator for NgramPolicy<'_> {
    type Mass = LogMass;
    type State = History;

    fn n_actions(&self) -> usize {
        self.model.n_symbols
    }

    fn horizon(&self) -> usize {
        self.horizon
    }

    fn root(&self) -> Result<Scored<LogMass, History>> {
        Ok(Scored {
            mass: LogMass(0.0),
            prefix: self.start,
        })
    }

    fn child(
        &self,
        at: &Scored<LogMass, History>,
        token: Token,
    ) -> Result<Scored<LogMass, History>> {
        let mass = LogMass(at.mass.0 + self.model.probability(&at.prefix, token).ln());
        let mut prefix = at.prefix;
        prefix.push(token, self.model.order);
        Ok(Scored { mass, prefix })
    }

    fn slack(&self) -> f64 {
        float_slack(self.model.n_symbols)
    }
}

#[cfg(test)]
mod tests;
