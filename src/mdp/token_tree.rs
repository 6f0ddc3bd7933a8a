//! All responses of at most H tokens: the token MDP of Section 3.1 written out as a tree.

use std::ops::Range;

use super::{ActionIx, StateIx, TabularMdp, Trajectory, Transition};
use crate::check;
use crate::{Error, Result, Token};

/// Section 3.1: P prompts, each with the full A-ary tree of prefixes y_{1:h-1}, h = 1..H.
///
/// State index of prefix y_{1:h-1} of prompt x (h−1 tokens, first token most significant):
/// x·S + (A^{h−1} − 1)/(A − 1) + base-A code of the prefix, with S = (A^H − 1)/(A − 1). A prefix that
/// contains the end-of-sentence token keeps its index but is never reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenTree {
    n_prompts: usize,
    n_actions: usize,
    eos: Option<ActionIx>,
    /// `level_starts[h]` is the first state of depth h inside one prompt; the last entry is S.
    level_starts: Vec<usize>,
}

impl TokenTree {
    /// A tree; `eos` is the action that ends a response before length H.
    ///
    /// # Errors
    /// [`Error::Config`] when a size is 0, the end-of-sentence action is no action, or P·S ≥ 2³² − 1.
    pub fn try_new(
        n_prompts: usize,
        n_actions: usize,
        horizon: usize,
        eos: Option<ActionIx>,
    ) -> Result<Self> {
        for (field, value) in [
            ("n_prompts", n_prompts),
            ("n_actions", n_actions),
            ("horizon", horizon),
        ] {
            if value == 0 {
                return Err(Error::config(field, 0, "at least 1"));
            }
        }
        if let Some(eos) = eos.filter(|e| e.ix() >= n_actions) {
            return Err(Error::config(
                "eos",
                eos.0,
                format!("an action below {n_actions}"),
            ));
        }
        let mut level_starts = vec![0usize];
        let mut width = 1usize;
        for _ in 0..horizon {
            let last = *level_starts.last().expect("starts with one entry");
            let end = last.saturating_add(width);
            if end.saturating_mul(n_prompts) >= u32::MAX as usize {
                return Err(Error::config(
                    "horizon",
                    horizon,
                    format!(
                        "small enough for {n_prompts} trees of {n_actions} actions to have fewer than 2^32 - 1 states"
                    ),
                ));
            }
            level_starts.push(end);
            width = width.saturating_mul(n_actions);
        }
        Ok(Self {
            n_prompts,
            n_actions,
            eos,
            level_starts,
        })
    }

    /// P.
    pub fn n_prompts(&self) -> usize {
        self.n_prompts
    }

    /// A.
    pub fn n_actions(&self) -> usize {
        self.n_actions
    }

    /// H.
    pub fn horizon(&self) -> usize {
        self.level_starts.len() - 1
    }

    /// The end-of-sentence action.
    pub fn eos(&self) -> Option<ActionIx> {
        self.eos
    }

    /// S = (A^H − 1)/(A − 1).
    pub fn states_per_prompt(&self) -> usize {
        *self.level_starts.last().expect("never empty")
    }

    /// P·S.
    pub fn n_states(&self) -> usize {
        self.n_prompts * self.states_per_prompt()
    }

    /// The states of prompt `prompt` at depth `depth` (0-based: `depth` tokens written).
    pub fn level(&self, prompt: usize, depth: usize) -> Range<usize> {
        let base = prompt * self.states_per_prompt();
        base + self.level_starts[depth]..base + self.level_starts[depth + 1]
    }

    /// s₁ of a prompt.
    pub fn root(&self, prompt: usize) -> StateIx {
        StateIx((prompt * self.states_per_prompt()) as u32)
    }

    /// The state (x, y_{1:h-1}).
    ///
    /// # Errors
    /// [`Error::Config`] on an unknown prompt or token, or a prefix of H tokens or more.
    pub fn state(&self, prompt: usize, prefix: &[Token]) -> Result<StateIx> {
        if prompt >= self.n_prompts {
            return Err(Error::config(
                "prompt",
                prompt,
                format!("below {}", self.n_prompts),
            ));
        }
        if prefix.len() >= self.horizon() {
            return Err(Error::config(
                "prefix length",
                prefix.len(),
                format!("below the horizon {}", self.horizon()),
            ));
        }
        let mut code = 0;
        for (h, &token) in prefix.iter().enumerate() {
            if token as usize >= self.n_actions {
                return Err(Error::config(
                    format!("token {h} of the response"),
                    token,
                    format!("below {}", self.n_actions),
                ));
            }
            code = code * self.n_actions + token as usize;
        }
        let s = self.level(prompt, prefix.len()).start + code;
        Ok(StateIx(s as u32))
    }

    /// The prompt and the prefix of a state.
    pub fn prefix(&self, s: StateIx) -> (usize, Vec<Token>) {
        let per_prompt = self.states_per_prompt();
        let (prompt, within) = (s.ix() / per_prompt, s.ix() % per_prompt);
        let depth = self.level_starts.partition_point(|&start| start <= within) - 1;
        let mut code = within - self.level_starts[depth];
        let mut tokens = vec![0; depth];
        for token in tokens.iter_mut().rev() {
            *token = (code % self.n_actions) as Token;
            code /= self.n_actions;
        }
        (prompt, tokens)
    }

    /// The trajectory of a response: all of its tokens, a final end-of-sentence token included.
    ///
    /// # Errors
    /// [`Error::Config`] on unknown prompts or tokens, on tokens after the end-of-sentence token or
    /// beyond H, and on a response that stops early without an end-of-sentence token.
    pub fn trajectory(&self, prompt: usize, response: &[Token]) -> Result<Trajectory> {
        if response.is_empty() || response.len() > self.horizon() {
            return Err(Error::config(
                "response length",
                response.len(),
                format!("between 1 and {}", self.horizon()),
            ));
        }
        let is_eos = |t: &Token| self.eos == Some(ActionIx(*t));
        let stop = response.iter().position(is_eos).map(|i| i + 1);
        let must = stop.unwrap_or(self.horizon());
        if response.len() != must {
            let why = match stop {
                Some(stop) => format!("{stop}, where its end-of-sentence token stands"),
                None => format!("{must}, the horizon, as it has no end-of-sentence token"),
            };
            return Err(Error::config("response length", response.len(), why));
        }
        let mut steps = Vec::with_capacity(response.len());
        for (h, &token) in response.iter().enumerate() {
            let s = self.state(prompt, &response[..h])?;
            if token as usize >= self.n_actions {
                return Err(Error::config(
                    format!("token {h} of the response"),
                    token,
                    format!("below {}", self.n_actions),
                ));
            }
            steps.push((s, ActionIx(token)));
        }
        Ok(Trajectory::trusted(steps))
    }

    /// The table of the tree with ρ = `initial` over prompts, `[n_prompts]`.
    ///
    /// # Errors
    /// As [`TabularMdp::try_new`].
    pub fn compile(&self, initial: &[f64]) -> Result<TabularMdp> {
        check::len("initial distribution", self.n_prompts, initial.len())?;
        let (states, actions) = (self.n_states(), self.n_actions);
        let mut next = vec![StateIx::END; states * actions];
        for prompt in 0..self.n_prompts {
            for depth in 0..self.horizon() - 1 {
                let level = self.level(prompt, depth);
                let below = self.level(prompt, depth + 1).start;
                let rows = level.start * actions..level.end * actions;
                for (i, slot) in next[rows].iter_mut().enumerate() {
                    if self.eos.map(ActionIx::ix) != Some(i % actions) {
                        *slot = StateIx((below + i) as u32);
                    }
                }
            }
        }
        let mut rho = vec![0.0; states];
        for (prompt, p) in initial.iter().enumerate() {
            rho[self.root(prompt).ix()] = *p;
        }
        TabularMdp::try_new(actions, rho, Transition::Deterministic(next))
    }
}
