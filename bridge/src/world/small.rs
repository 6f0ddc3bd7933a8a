//! A corner of the world small enough to enumerate.

use std::sync::Arc;

use ndarray::Array2;
use rto::mdp::{ActionIx, StateIx, TokenTree};
use rto::reward::TabularReward;
use rto::{Result, Token};

use super::{EOS, World, WorldConfig, words::encode};

/// H of the corner.
const HORIZON: usize = 5;

/// Six words, replies of at most five tokens, four prompts, with the reward of the whole world.
#[derive(Debug, Clone)]
pub struct SmallWorld {
    /// P = 4, A = 6, H = 5.
    pub tree: TokenTree,
    /// r, `[n_states, A]`; 0 behind an end of sentence.
    pub reward: TabularReward,
    /// The demonstrator restricted to the six words and renormalised, `[n_states, A]`.
    pub demonstrator: Array2<f64>,
    /// Token of each action, `[A]`.
    pub tokens: Vec<Token>,
    /// The prompts, `[P]`.
    pub prompts: Vec<Arc<[Token]>>,
}

impl SmallWorld {
    /// The corner about what cats and dogs eat, with and without a wish for brevity.
    ///
    /// # Errors
    /// None in practice; those of the table's constructors.
    pub fn try_new(world: &World) -> Result<Self> {
        let tokens = encode("<eos> . cats eat fish meat");
        let prompts: Vec<Arc<[Token]>> = [
            "<user> what do cats eat ? <bot>",
            "<user> what do cats eat ? be brief . <bot>",
            "<user> what do dogs eat ? <bot>",
            "<user> what do dogs eat ? be brief . <bot>",
        ]
        .map(|text| encode(text).into())
        .into();
        let tree = TokenTree::try_new(prompts.len(), tokens.len(), HORIZON, Some(ActionIx(0)))?;
        let world = &World::try_new(WorldConfig {
            horizon: HORIZON,
            ..world.config()
        })?;
        let shape = (tree.n_states(), tokens.len());
        let (mut reward, mut demonstrator) = (Array2::zeros(shape), Array2::zeros(shape));
        for s in 0..tree.n_states() {
            let (x, codes) = tree.prefix(StateIx(s as u32));
            let prefix: Vec<Token> = codes.iter().map(|&a| tokens[a as usize]).collect();
            let pi = world.demonstrator(&prompts[x], &prefix)?;
            let total: f64 = tokens.iter().map(|&t| pi[t as usize]).sum();
            let ended = prefix.contains(&EOS);
            for (a, &token) in tokens.iter().enumerate() {
                demonstrator[[s, a]] = pi[token as usize] / total;
                if !ended {
                    let response = [&prefix[..], &[token]].concat();
                    reward[[s, a]] = world.token_rewards(&prompts[x], &response)?[prefix.len()];
                }
            }
        }
        Ok(Self {
            tree,
            reward: TabularReward::try_new(reward)?,
            demonstrator,
            tokens,
            prompts,
        })
    }
}
