//! All responses to some prompts, written out.

use crate::{Error, Result};

/// No state follows: the response is complete.
const END: u32 = u32::MAX;

/// More responses than this are refused: sample instead.
pub const MOST_RESPONSES: usize = 1 << 24;

/// Section 3.1: the token MDP of every prompt as a tree without unreachable prefixes.
///
/// A response ends with the end-of-sentence token, which is an action like others, or at length H. States are unfinished prefixes,
/// ordered by prompt, then depth, then prefix; responses are ordered by prompt, then token by token. A pair (s, a) has the index
/// s·A + a, and a response is the list of its pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseTree {
    actions: usize,
    horizon: usize,
    eos: Option<usize>,
    weights: Vec<f64>,
    /// The state after each pair.
    next: Vec<u32>,
    /// The pair that leads to each state; none for a root.
    from: Vec<u32>,
    depth: Vec<u32>,
    prompt_of_state: Vec<u32>,
    roots: Vec<u32>,
    /// Response y holds `pairs[offsets[y]..offsets[y + 1]]`.
    offsets: Vec<usize>,
    pairs: Vec<u32>,
    /// Responses of prompt p are `prompt_starts[p]..prompt_starts[p + 1]`.
    prompt_starts: Vec<usize>,
}

impl ResponseTree {
    /// A actions, longest length H, the action that ends a response early, and the probability of each prompt.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field: sizes of 0, an end-of-sentence token that is no action, weights that are no distribution, more
    /// than [`MOST_RESPONSES`] responses.
    pub fn try_new(
        actions: usize,
        horizon: usize,
        eos: Option<usize>,
        weights: &[f64],
    ) -> Result<Self> {
        for (field, value) in [("A", actions), ("H", horizon)] {
            if value == 0 {
                return Err(Error::config(field, 0, "at least 1"));
            }
        }
        if let Some(e) = eos.filter(|e| *e >= actions) {
            return Err(Error::config("eos", e, format!("below A = {actions}")));
        }
        let sum: f64 = weights.iter().sum();
        let positive = weights.iter().all(|w| w.is_finite() && *w > 0.0);
        if !positive || (sum - 1.0).abs() > 1e-9 {
            let must = "positive numbers that sum to 1";
            return Err(Error::config(
                "prompt_weights",
                format!("{weights:?}"),
                must,
            ));
        }
        let open = actions - usize::from(eos.is_some());
        let per_prompt = (0..horizon).fold(0.0, |n, h| {
            let width = (open as f64).powi(h as i32);
            let ended = if h + 1 == horizon {
                actions
            } else {
                actions - open
            };
            n + width * ended as f64
        });
        if per_prompt * weights.len() as f64 > MOST_RESPONSES as f64 {
            let must = format!("small enough for at most {MOST_RESPONSES} responses");
            return Err(Error::config("H", horizon, must));
        }
        let mut tree = Self {
            actions,
            horizon,
            eos,
            weights: weights.to_vec(),
            next: Vec::new(),
            from: Vec::new(),
            depth: Vec::new(),
            prompt_of_state: Vec::new(),
            roots: Vec::new(),
            offsets: vec![0],
            pairs: Vec::new(),
            prompt_starts: vec![0],
        };
        for p in 0..weights.len() {
            tree.grow(p);
            tree.list(tree.roots[p], &mut Vec::with_capacity(horizon));
            tree.prompt_starts.push(tree.offsets.len() - 1);
        }
        Ok(tree)
    }

    /// The states of a prompt, level by level.
    fn grow(&mut self, prompt: usize) {
        self.roots.push(self.depth.len() as u32);
        let mut level = vec![END];
        for h in 0..self.horizon {
            let mut below = Vec::new();
            for &from in &level {
                let s = self.depth.len() as u32;
                if from != END {
                    self.next[from as usize] = s;
                }
                self.from.push(from);
                self.depth.push(h as u32);
                self.prompt_of_state.push(prompt as u32);
                for a in 0..self.actions {
                    self.next.push(END);
                    if Some(a) != self.eos && h + 1 < self.horizon {
                        below.push(s * self.actions as u32 + a as u32);
                    }
                }
            }
            level = below;
        }
    }

    /// The responses from a state on, in order.
    fn list(&mut self, state: u32, path: &mut Vec<u32>) {
        for a in 0..self.actions as u32 {
            let pair = state * self.actions as u32 + a;
            path.push(pair);
            match self.next[pair as usize] {
                END => {
                    self.pairs.extend_from_slice(path);
                    self.offsets.push(self.pairs.len());
                }
                below => self.list(below, path),
            }
            path.pop();
        }
    }

    /// A.
    pub fn n_actions(&self) -> usize {
        self.actions
    }

    /// H.
    pub fn horizon(&self) -> usize {
        self.horizon
    }

    /// The end-of-sentence token.
    pub fn eos(&self) -> Option<usize> {
        self.eos
    }

    /// The probability of each prompt.
    pub fn prompt_weights(&self) -> &[f64] {
        &self.weights
    }

    /// Unfinished prefixes of all prompts.
    pub fn n_states(&self) -> usize {
        self.depth.len()
    }

    /// P = states × A, the number of logits.
    pub fn n_pairs(&self) -> usize {
        self.next.len()
    }

    /// N, responses of all prompts.
    pub fn n_responses(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The responses of a prompt.
    pub fn responses_of(&self, prompt: usize) -> std::ops::Range<usize> {
        self.prompt_starts[prompt]..self.prompt_starts[prompt + 1]
    }

    /// The pairs of response y, in order.
    #[inline(always)]
    pub fn response(&self, y: usize) -> &[u32] {
        &self.pairs[self.offsets[y]..self.offsets[y + 1]]
    }

    /// Where the tokens of response y stand in an array of all tokens of all responses.
    #[inline(always)]
    pub fn tokens(&self, y: usize) -> std::ops::Range<usize> {
        self.offsets[y]..self.offsets[y + 1]
    }

    /// The pair of every token of every response, end to end.
    pub fn pairs(&self) -> &[u32] {
        &self.pairs
    }

    /// The prompt of a response.
    pub fn prompt_of(&self, y: usize) -> usize {
        self.prompt_starts.partition_point(|start| *start <= y) - 1
    }

    /// The tokens of a response.
    pub fn text_of(&self, y: usize) -> Vec<usize> {
        let token = |pair: &u32| *pair as usize % self.actions;
        self.response(y).iter().map(token).collect()
    }

    /// The state after a pair, none where the response is complete.
    #[inline(always)]
    pub fn next(&self, pair: usize) -> Option<usize> {
        match self.next[pair] {
            END => None,
            s => Some(s as usize),
        }
    }

    /// Tokens before a state.
    pub fn depth(&self, state: usize) -> usize {
        self.depth[state] as usize
    }

    /// The first state of a prompt.
    pub fn root(&self, prompt: usize) -> usize {
        self.roots[prompt] as usize
    }

    /// Prompt and prefix of a state.
    pub fn state(&self, state: usize) -> (usize, Vec<usize>) {
        let (mut prefix, mut s) = (Vec::new(), state);
        while self.from[s] != END {
            let pair = self.from[s] as usize;
            prefix.push(pair % self.actions);
            s = pair / self.actions;
        }
        prefix.reverse();
        (self.prompt_of_state[state] as usize, prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_responses_stand_in_order() {
        let t = ResponseTree::try_new(2, 3, Some(1), &[0.7, 0.3]).unwrap();
        let states: Vec<_> = (0..t.n_states()).map(|s| t.state(s)).collect();
        let prefixes = [vec![], vec![0], vec![0, 0]];
        for (p, k) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
            assert_eq!(states[3 * p + k], (p, prefixes[k].clone()));
        }
        let texts: Vec<_> = (0..4).map(|y| t.text_of(y)).collect();
        assert_eq!(texts, [vec![0, 0, 0], vec![0, 0, 1], vec![0, 1], vec![1]]);
        assert_eq!((t.prompt_of(3), t.prompt_of(4), t.n_responses()), (0, 1, 8));
        assert_eq!(
            ResponseTree::try_new(3, 2, None, &[1.0])
                .unwrap()
                .n_responses(),
            9
        );
    }

    #[test]
    fn what_is_no_tree_is_named() {
        let said = |e: Result<ResponseTree>| e.unwrap_err().to_string();
        assert!(said(ResponseTree::try_new(2, 0, None, &[1.0])).starts_with("H: found 0"));
        assert!(said(ResponseTree::try_new(2, 2, Some(2), &[1.0])).starts_with("eos: found 2"));
        assert!(said(ResponseTree::try_new(2, 2, None, &[0.5])).starts_with("prompt_weights"));
        assert!(said(ResponseTree::try_new(9, 20, None, &[1.0])).starts_with("H: found 20"));
    }
}
