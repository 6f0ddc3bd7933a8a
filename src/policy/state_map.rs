//! How episodes walk through a table.

use std::sync::Arc;

use crate::mdp::{ActionIx, StateIx, TabularMdp, TokenTree};
use crate::seq::{Episode, Finish, check_batch};
use crate::{Error, Result, Token};

/// Prompts and tokens as states and actions of a deterministic table.
///
/// Prompt number p is the one-token prompt `[p]`; token a is action a. A response ends where the table does: after
/// the end-of-sentence action ([`Finish::Eos`]), or after H tokens ([`Finish::Length`]). A response may also stop
/// earlier without end-of-sentence token ([`Finish::Length`]); its final state then has a value to bootstrap.
#[derive(Debug, Clone)]
pub struct StateMap {
    mdp: Arc<TabularMdp>,
    /// `roots[p]` is the first state of prompt p.
    roots: Vec<StateIx>,
    eos: Option<ActionIx>,
}

impl StateMap {
    /// The prompts and responses of a tree, with ρ = `initial` over prompts, `[n_prompts]`.
    ///
    /// # Errors
    /// As [`TokenTree::compile`].
    pub fn tree(tree: &TokenTree, initial: &[f64]) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            mdp: Arc::new(tree.compile(initial)?),
            roots: (0..tree.n_prompts()).map(|p| tree.root(p)).collect(),
            eos: tree.eos(),
        }))
    }

    /// Any deterministic table. Its prompts are the states of positive initial probability, in order.
    ///
    /// # Errors
    /// [`Error::Assumption`] when the table is stochastic: tokens then do not determine the state;
    /// [`Error::Config`] when the end-of-sentence action does not end an episode somewhere.
    pub fn table(mdp: Arc<TabularMdp>, eos: Option<ActionIx>) -> Result<Arc<Self>> {
        if !mdp.is_deterministic() {
            return Err(Error::Assumption {
                assumption: "deterministic transitions (Section 3.1)".into(),
                why: "the table is stochastic, so tokens do not determine the state".into(),
            });
        }
        if let Some(eos) = eos {
            let ends = |s: usize| mdp.next_state(StateIx(s as u32), eos) == Some(StateIx::END);
            let open = (0..mdp.n_states()).find(|&s| !ends(s));
            if eos.ix() >= mdp.n_actions() || open.is_some() {
                let must = "an action that ends the episode in every state";
                return Err(Error::config("eos", eos.0, must));
            }
        }
        let roots = mdp.roots().map(|(s, _)| s).collect();
        Ok(Arc::new(Self { mdp, roots, eos }))
    }

    /// The table.
    pub fn mdp(&self) -> &TabularMdp {
        &self.mdp
    }

    /// P.
    pub fn n_prompts(&self) -> usize {
        self.roots.len()
    }

    /// The end-of-sentence action.
    pub fn eos(&self) -> Option<ActionIx> {
        self.eos
    }

    /// Prompt number p as a sequence of tokens.
    pub fn prompt(p: usize) -> Arc<[Token]> {
        [p as Token].into()
    }

    /// s₁ of a prompt.
    ///
    /// # Errors
    /// [`Error::Config`] unless the prompt is one token below P.
    pub fn root(&self, prompt: &[Token]) -> Result<StateIx> {
        let root = match prompt {
            [p] => self.roots.get(*p as usize).copied(),
            _ => None,
        };
        root.ok_or_else(|| {
            let must = format!(
                "one token below {}, the number of prompts",
                self.roots.len()
            );
            Error::config("prompt", format!("{prompt:?}"), must)
        })
    }

    /// Appends the pairs (s_h, y_h) of a response to `steps`; returns the state after it, [`StateIx::END`] where the table ends.
    ///
    /// # Errors
    /// [`Error::Config`] naming an unknown prompt or token, a token after the end, or a wrong [`Finish`].
    pub fn walk(&self, episode: &Episode, steps: &mut Vec<(StateIx, ActionIx)>) -> Result<StateIx> {
        let mut s = self.root(&episode.prompt)?;
        for (h, &token) in episode.response.iter().enumerate() {
            let name = || format!("token {h} of the response to prompt {:?}", episode.prompt);
            if token as usize >= self.mdp.n_actions() {
                let must = format!("below {}", self.mdp.n_actions());
                return Err(Error::config(name(), token, must));
            }
            if s == StateIx::END {
                let must = format!("absent: the response ended after {h} tokens");
                return Err(Error::config(name(), token, must));
            }
            let a = ActionIx(token);
            steps.push((s, a));
            s = self.next(s, a);
        }
        let last = episode.response.last().copied();
        let expected = self.finish(last.unwrap_or_default());
        if episode.finish != expected {
            let must = format!("{expected:?} after token {}", last.unwrap_or_default());
            return Err(Error::config(
                "finish",
                format!("{:?}", episode.finish),
                must,
            ));
        }
        Ok(s)
    }

    /// The pairs of every response of a batch, and where each response starts and ends.
    ///
    /// # Errors
    /// As [`StateMap::walk`].
    pub fn walk_all(&self, batch: &[Episode]) -> Result<Walk> {
        let mut walk = Walk {
            steps: Vec::with_capacity(batch.iter().map(Episode::len).sum()),
            last: Vec::with_capacity(batch.len()),
        };
        if !batch.is_empty() {
            check_batch(batch)?;
        }
        for episode in batch {
            let end = self.walk(episode, &mut walk.steps)?;
            walk.last.push(end);
        }
        Ok(walk)
    }

    /// The state after a pair.
    #[inline]
    pub fn next(&self, s: StateIx, a: ActionIx) -> StateIx {
        let next = self.mdp.next_state(s, a);
        next.expect("a state map holds a deterministic table")
    }

    /// How a response with this last token ended.
    #[inline]
    pub fn finish(&self, last: Token) -> Finish {
        if self.eos == Some(ActionIx(last)) {
            Finish::Eos
        } else {
            Finish::Length
        }
    }

    /// One response, choosing each token with `choose`.
    pub(crate) fn roll_out(
        &self,
        prompt: &Arc<[Token]>,
        mut choose: impl FnMut(StateIx) -> usize,
    ) -> Result<Episode> {
        let mut s = self.root(prompt)?;
        let mut response = Vec::with_capacity(self.mdp.horizon());
        while s != StateIx::END {
            let a = choose(s) as Token;
            response.push(a);
            s = self.next(s, ActionIx(a));
        }
        let finish = self.finish(response.last().copied().unwrap_or_default());
        Episode::try_new(prompt.clone(), response, finish)
    }
}

/// A batch as pairs of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Walk {
    /// (s_h, y_h) of all responses end to end, `[Σ H_i]`.
    pub steps: Vec<(StateIx, ActionIx)>,
    /// s_{H_i+1}, `[B]`; [`StateIx::END`] where the table ends.
    pub last: Vec<StateIx>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo;

    fn episode(prompt: &[Token], response: &[Token], finish: Finish) -> Episode {
        Episode::try_new(prompt.into(), response.to_vec(), finish).unwrap()
    }

    #[test]
    fn responses_become_the_pairs_of_the_tree() {
        let tree = TokenTree::try_new(2, 3, 3, Some(ActionIx(2))).unwrap();
        let map = StateMap::tree(&tree, &[0.5, 0.5]).unwrap();
        for (prompt, response, finish) in [
            (0, vec![2], Finish::Eos),
            (1, vec![0, 1, 1], Finish::Length),
            (1, vec![1, 0, 2], Finish::Eos),
        ] {
            let y = episode(&[prompt], &response, finish);
            let walk = map.walk_all(&[y]).unwrap();
            let want = tree.trajectory(prompt as usize, &response).unwrap();
            assert_eq!(walk.steps, want.steps());
            assert_eq!(walk.last, [StateIx::END]);
        }
        let cut = map
            .walk_all(&[episode(&[1], &[0], Finish::Length)])
            .unwrap();
        assert_eq!(cut.last, [tree.state(1, &[0]).unwrap()]);
    }

    #[test]
    fn what_the_table_does_not_have_is_named() {
        let tree = TokenTree::try_new(2, 3, 2, Some(ActionIx(2))).unwrap();
        let map = StateMap::tree(&tree, &[0.5, 0.5]).unwrap();
        let said = |p: &[Token], y: &[Token], f| {
            let walked = map.walk_all(&[episode(p, y, f)]);
            walked.unwrap_err().to_string()
        };
        assert!(said(&[2], &[0], Finish::Length).starts_with("prompt: found [2]"));
        assert!(said(&[0, 0], &[0], Finish::Length).starts_with("prompt: found [0, 0]"));
        assert!(said(&[0], &[0, 3], Finish::Length).starts_with("token 1 of the response"));
        assert!(said(&[0], &[2, 0], Finish::Length).contains("ended after 1 tokens"));
        assert!(said(&[0], &[0, 0, 0], Finish::Length).contains("ended after 2 tokens"));
        assert!(said(&[0], &[0, 2], Finish::Length).starts_with("finish: found Length"));
        assert!(said(&[0], &[0, 0], Finish::Eos).starts_with("finish: found Eos"));
        let stochastic = zoo::predetermined_gap(2, 2)
            .unwrap()
            .0
            .unroll()
            .unwrap()
            .mdp;
        assert!(StateMap::table(Arc::new(stochastic), None).is_err());
    }
}
