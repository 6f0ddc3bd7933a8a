//! Two prompts whose seven responses can be enumerated, answered by a transformer with random weights, which is π_ref.

use anyhow::{Result, bail};
use candle_core::Device;
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};
use rto::Token;
use rto::algorithm2::Pair;
use rto::mdp::{ActionIx, Beta, TabularPolicy, TokenTree};
use rto::numerics::sigmoid;
use rto::policy::StateMap;
use rto::preference::{Outcome, PairTable, PreferenceProblem, Responses, evaluate, kl};
use rto::seed::SeedTree;
use rto::seq::{Episode, Finish};
use rto_bridge::family::GptNeoXConfig;
use rto_bridge::learner::{NeuralScorer, Restricted};
use rto_bridge::model::{Heads, Model};
use rto_bridge::params::{Init, Params};
use rto_harness::stats::Support;
use std::sync::Arc;

use crate::learners::Loss;

/// Three tokens, of which the last ends a response of at most two: seven responses of lengths 1 and 2.
const ACTIONS: usize = 3;
const EOS: Token = 2;
pub const HORIZON: usize = 2;
pub const PROMPTS: usize = 2;
/// How often pairs are drawn before a world is given up.
const DRAWS: u64 = 1000;

/// One prompt with what can be answered, and the pairs of it.
struct Prompt {
    responses: Responses,
    table: PairTable,
}

/// A network that is π_ref, rewards, and pairs for which every loss has a minimiser.
pub struct World {
    pub beta: Beta,
    pub tree: TokenTree,
    pub map: Arc<StateMap>,
    pub network: NeuralScorer,
    pub reference: TabularPolicy,
    /// The pairs, with prompt p as `[p]`.
    pub pairs: Vec<Pair>,
    prompts: Vec<Prompt>,
}

/// log π(y) at each prompt.
pub type Policy = Vec<Vec<f64>>;

impl World {
    /// Draws a world.
    ///
    /// # Errors
    /// No draw of so few pairs gives every loss a minimiser.
    pub fn draw(beta: f64, pairs: usize, seeds: &SeedTree) -> Result<Self> {
        let beta = Beta::try_new(beta)?;
        let tree = TokenTree::try_new(PROMPTS, ACTIONS, HORIZON, Some(ActionIx(EOS)))?;
        let network = network(&seeds.child("weights"))?;
        let reference = tabulate(&network, &tree)?;
        let mut prompts = Vec::new();
        let mut all = Vec::new();
        for p in 0..PROMPTS {
            let shape = Responses::try_new(
                ACTIONS,
                HORIZON,
                Some(EOS),
                &rows(&reference, &tree, p)?
                    .iter()
                    .map(|l| l.exp())
                    .collect::<Vec<_>>(),
                &rewards(&mut seeds.child("rewards").index(p as u64).rng()),
            )?;
            let (drawn, table) =
                compare(&shape, beta, pairs, &seeds.child("pairs").index(p as u64))?;
            let episode = |y: usize| -> Result<Episode> {
                let text = shape.responses()[y].clone();
                let finish = match text.last() {
                    Some(&EOS) => Finish::Eos,
                    _ => Finish::Length,
                };
                Ok(Episode::try_new(StateMap::prompt(p), text, finish)?)
            };
            for (w, l) in drawn {
                all.push(Pair {
                    winner: episode(w)?,
                    loser: episode(l)?,
                });
            }
            prompts.push(Prompt {
                responses: shape,
                table,
            });
        }
        Ok(Self {
            map: StateMap::tree(&tree, &[1.0 / PROMPTS as f64; PROMPTS])?,
            beta,
            tree,
            network,
            reference,
            pairs: all,
            prompts,
        })
    }

    /// The pairs in the network's tokens.
    pub fn spoken_pairs(&self) -> Result<Vec<Pair>> {
        let text =
            |e: &Episode| Episode::try_new(spoken(e.prompt[0]), e.response.clone(), e.finish);
        let one = |pair: &Pair| {
            Ok(Pair {
                winner: text(&pair.winner)?,
                loser: text(&pair.loser)?,
            })
        };
        self.pairs.iter().map(one).collect()
    }

    /// The exact minimiser of a loss: prompts have as many pairs each, so that every one of these losses decouples.
    pub fn minimiser(&self, loss: &Loss) -> Result<Policy> {
        let one = |prompt: &Prompt| {
            solve(&prompt.responses, &prompt.table, self.beta, loss)?
                .ok_or_else(|| anyhow::anyhow!("{}: no minimiser", loss.name))
        };
        self.prompts.iter().map(one).collect()
    }

    /// A policy on all states of the tree as one on responses.
    pub fn policy(&self, table: &TabularPolicy) -> Result<Policy> {
        let one = |(p, prompt): (usize, &Prompt)| {
            let rows = rows(table, &self.tree, p)?;
            Ok(prompt.responses.response_log_probs(&rows))
        };
        self.prompts.iter().enumerate().map(one).collect()
    }

    /// Mean SubOpt over prompts.
    pub fn subopt(&self, policy: &Policy) -> Result<f64> {
        let mut total = 0.0;
        for (prompt, u) in self.prompts.iter().zip(policy) {
            total += evaluate(&prompt.responses, self.beta, u)?.subopt;
        }
        Ok(total / PROMPTS as f64)
    }

    /// Mean KL(a‖b) over prompts.
    pub fn kl(&self, a: &Policy, b: &Policy) -> f64 {
        let mean = a.iter().zip(b).map(|(a, b)| kl(a, b)).sum::<f64>() / PROMPTS as f64;
        // Of equal policies it is rounding, of either sign.
        Support::NonNegative.cut(mean)
    }
}

/// One layer of width 16. Its last hidden states at the six prefixes are linearly independent (for almost all weights), so that the
/// head alone can hold every policy.
fn network(seeds: &SeedTree) -> Result<NeuralScorer> {
    let config = GptNeoXConfig {
        hidden_size: 16,
        intermediate_size: 32,
        rotary_dims: 4,
        max_positions: 8,
        ..GptNeoXConfig::tiny(ACTIONS, EOS)
    };
    let heads = Heads {
        language_model: true,
        ..Heads::default()
    };
    let init = Init::Normal { std: 0.3 };
    let model = Model::random(&config, heads, init, seeds, &Device::Cpu)?;
    let params = Params::frozen(model.params().tensors())?;
    Ok(NeuralScorer::try_new(config, params)?)
}

/// Prompt p in the network's tokens. With rotary positions attention to copies of one token is that token whatever their number: behind
/// `[p]` alone the network could not tell p from p p, and would not hold every policy.
pub fn spoken(p: Token) -> Arc<[Token]> {
    [EOS, p].into()
}

/// π(a|s) of a network at every state of the tree.
pub fn tabulate(scorer: &NeuralScorer, tree: &TokenTree) -> Result<TabularPolicy> {
    let tokens: Vec<Token> = (0..ACTIONS as Token).collect();
    let prompts: Vec<Arc<[Token]>> = (0..PROMPTS as Token).map(spoken).collect();
    let words = Restricted {
        scorer,
        tokens: &tokens,
        prompts: &prompts,
        eos: Some(EOS),
        horizon: HORIZON,
    };
    Ok(words.tabulate(tree)?)
}

/// log π(a|s) at the prefixes of one prompt, shortest first: the empty one and those of one token that goes on.
fn rows(table: &TabularPolicy, tree: &TokenTree, prompt: usize) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for prefix in [&[][..], &[0], &[1]] {
        let s = tree.state(prompt, prefix)?;
        all.extend(table.log_probs().row(s.ix()));
    }
    Ok(all)
}

/// Gaussian token rewards over √H, `[3 prefixes, A]`.
fn rewards(rng: &mut impl Rng) -> Vec<f64> {
    let scale = 1.0 / (HORIZON as f64).sqrt();
    (0..3 * ACTIONS)
        .map(|_| scale * Distribution::<f64>::sample(&StandardNormal, rng))
        .collect()
}

/// Pairs of different uniform responses, labelled by (2.1), drawn again until every loss has a minimiser on them.
fn compare(
    responses: &Responses,
    beta: Beta,
    pairs: usize,
    seeds: &SeedTree,
) -> Result<(Vec<(usize, usize)>, PairTable)> {
    let (n, r) = (responses.len(), responses.rewards());
    for draw in 0..DRAWS {
        let mut rng = seeds.index(draw).rng();
        let one = |_| {
            let y = rng.random_range(0..n);
            let z = (y + rng.random_range(1..n)) % n;
            match rng.random::<f64>() < sigmoid(r[y] - r[z]) {
                true => (y, z),
                false => (z, y),
            }
        };
        let drawn: Vec<(usize, usize)> = (0..pairs).map(one).collect();
        let table = PairTable::from_counts(n, &drawn)?;
        let mut all = true;
        for loss in &Loss::all(beta.get()) {
            all &= table.connected() && solve(responses, &table, beta, loss)?.is_some();
        }
        if all {
            return Ok((drawn, table));
        }
    }
    bail!(
        "pairs: {pairs} pairs of {n} responses were drawn {DRAWS} times, and never had every loss a minimiser"
    )
}

fn solve(
    responses: &Responses,
    table: &PairTable,
    beta: Beta,
    loss: &Loss,
) -> Result<Option<Vec<f64>>> {
    let problem = PreferenceProblem::try_new(responses, table, beta)?;
    Ok(match problem.solve(&loss.exact)? {
        Outcome::Solved(solved) => Some(solved.log_policy),
        Outcome::NoMinimiser(_) => None,
    })
}
