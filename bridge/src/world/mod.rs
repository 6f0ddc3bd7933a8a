//! A small world of dialogues whose token reward is known.
//!
//! A user asks one or two things about one of twelve animals ("hello ! what do cats eat and where do they live ?");
//! a reply of at most [`MAX_RESPONSE`] tokens answers well ("hello ! cats eat fish and live in houses ."), wrongly,
//! evasively or rudely. [`World`] holds the true reward r(s_h, a_h), a demonstrator policy, and Bradley–Terry labels drawn
//! from (3.1).
//!
//! Credit is not trivial: naming the animal and saying the verb cost a little and pay off only at the fact; facts, courtesy
//! and brevity depend on the prompt; a stop and an end of sentence pay only once everything asked is answered.
//!
//! In points: a right fact in a clause about the right animal +1 (bare: +0.3, or +1 where the user wants brevity), a wrong one
//! −0.6, what was not asked −0.2 or −0.5; a fitting greeting +0.4; the closing stop +0.3 and end +0.5; "you are welcome" to
//! thanks +0.5; an insult −1.5, fillers −0.15, evasion −0.5, repetition −0.2 to −0.5, a fact right after a fact −0.2, another animal −0.5; ending early −0.3 and
//! −0.5 for each missing answer; each word −0.03 (−0.1 where brevity is wanted). r = scale × points, with scale
//! [`World::DEFAULT_SCALE`] unless told otherwise, so that (3.1) holds as printed. [`WorldConfig`] says what else can be set:
//! how far demonstrations and preferences part, and how much of the reward is paid where it is earned.
//!
//! ```
//! use rto::seed::SeedTree;
//! use rto_bridge::world::{World, decode};
//!
//! let world = World::default();
//! let prompt = world.prompts()[0].clone();
//! let good = world.good_reply(&prompt)?;
//! // The reward of a response is the sum of what its words earn, and it is known.
//! let words = world.token_rewards(&good.prompt, &good.response)?;
//! assert_eq!(words.len(), good.len());
//! assert!((words.iter().sum::<f64>() - world.reward(&good)?).abs() < 1e-12);
//! println!("{} {}", decode(&good.prompt), decode(&good.response));
//! let pairs = world.pairs(&[prompt], 4, &SeedTree::new(1))?; // labels from (3.1)
//! assert_eq!(pairs.len(), 4);
//! # Ok::<(), rto::Error>(())
//! ```

mod demonstrator;
mod prompt;
mod reading;
mod small;
mod words;

use std::collections::HashMap;
use std::sync::Arc;

use rand::Rng;
use rto::algorithm2::Pair;
use rto::numerics::sigmoid;
use rto::seed::SeedTree;
use rto::seq::{Episode, Finish, Ragged, StreamKey, TokenReward};
use rto::{Error, Result, Token};

use crate::data::{Split, SplitKey};

pub use prompt::Ask;
pub use small::SmallWorld;
pub use words::{
    BOT, EOS, PAD, Topic, UNK, USER, WORDS, decode, encode, token, tokenizer_config_json,
    tokenizer_json,
};

use reading::Reading;

/// H, the end of sentence included.
pub const MAX_RESPONSE: usize = 16;

/// Prompts in tokens.
pub type Prompts = Vec<Arc<[Token]>>;

/// What can be set of the world.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WorldConfig {
    /// Reward per point, in (0, 1000]; a larger scale makes labels less noisy.
    pub scale: f64,
    /// How far demonstrations and preferences part, in [0, 1]. At 0 the demonstrator's most likely fact is the right one, so that
    /// a sharper policy is a better one; from ½ on it is a wrong one, and only the preferences tell.
    pub disagreement: f64,
    /// Share of the points that is paid where it is earned, in [0, 1]; the rest is paid with the last token, so that the total of a
    /// response, its labels and the best policies are the same at any density.
    pub density: f64,
    /// H: a response that has not ended by itself is paid its rest here.
    pub horizon: usize,
}

impl Default for WorldConfig {
    fn default() -> Self {
        Self {
            scale: World::DEFAULT_SCALE,
            disagreement: 0.0,
            density: 1.0,
            horizon: MAX_RESPONSE,
        }
    }
}

/// The world with its reward.
#[derive(Debug, Clone)]
pub struct World {
    config: WorldConfig,
    asks: HashMap<Arc<[Token]>, Ask>,
    /// All prompts, in the order of the grammar.
    prompts: Vec<Arc<[Token]>>,
}

impl Default for World {
    fn default() -> Self {
        Self::try_new(WorldConfig::default()).expect("a valid configuration")
    }
}

impl World {
    /// Reward per point.
    pub const DEFAULT_SCALE: f64 = 2.0;

    /// A world.
    ///
    /// # Errors
    /// [`Error::Config`] on a value outside its range.
    pub fn try_new(config: WorldConfig) -> Result<Self> {
        let scale = config.scale;
        if !(scale > 0.0 && scale <= 1000.0) {
            return Err(Error::config("reward scale", scale, "in (0, 1000]"));
        }
        for (name, share) in [
            ("disagreement", config.disagreement),
            ("density", config.density),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::config(name, share, "in [0, 1]"));
            }
        }
        if config.horizon == 0 {
            return Err(Error::config("horizon", 0, "at least 1"));
        }
        let with_tokens = |ask: Ask| (ask.tokens(), ask);
        let asks: Vec<_> = prompt::all().into_iter().map(with_tokens).collect();
        Ok(Self {
            config,
            prompts: asks.iter().map(|(tokens, _)| tokens.clone()).collect(),
            asks: asks.into_iter().collect(),
        })
    }

    /// What was set.
    pub fn config(&self) -> WorldConfig {
        self.config
    }

    /// All prompts, in a fixed order.
    pub fn prompts(&self) -> &[Arc<[Token]>] {
        &self.prompts
    }

    /// (training prompts, held-out prompts): about 15% are held out, by the hash of their text.
    pub fn split(&self, seeds: &SeedTree) -> (Prompts, Prompts) {
        let split = Split::try_new(&[0.85, 0.15]).expect("valid weights");
        let part = |p: &Arc<[Token]>| split.part(&decode(p), seeds, SplitKey::Prompt);
        self.prompts.iter().cloned().partition(|p| part(p) == 0)
    }

    /// (training prompts, prompts to tune on, prompts that no tuning sees): about 70%, 15% and 15%, by the hash of their text alone, so
    /// that they are the same for every seed.
    pub fn split_for_tuning(&self) -> [Prompts; 3] {
        let split = Split::try_new(&[0.7, 0.15, 0.15]).expect("valid weights");
        let seeds = SeedTree::new(0).child("split for tuning");
        let mut parts = [Vec::new(), Vec::new(), Vec::new()];
        for prompt in &self.prompts {
            let part = split.part(&decode(prompt), &seeds, SplitKey::Prompt);
            parts[part].push(prompt.clone());
        }
        parts
    }

    /// What a prompt asks.
    ///
    /// # Errors
    /// [`Error::Config`] on a prompt outside the grammar.
    pub fn ask(&self, prompt: &[Token]) -> Result<&Ask> {
        let must = "a prompt of the small world";
        let found = self.asks.get(prompt);
        found.ok_or_else(|| Error::config("prompt", decode(prompt), must))
    }

    /// The largest |r(s, a)|: no token gains or loses more than 3 points, and the last one at most what is left of H such.
    pub fn reward_bound(&self) -> f64 {
        let WorldConfig {
            scale,
            density,
            horizon,
            ..
        } = self.config;
        3.0 * scale * (density + (1.0 - density) * horizon as f64)
    }

    /// r(s_h, y_h) for h = 1..H_i, `[H_i]`. Tokens after the end of sentence, and beyond the horizon of a density below 1, get 0.
    ///
    /// # Errors
    /// Those of [`World::ask`].
    pub fn token_rewards(&self, prompt: &[Token], response: &[Token]) -> Result<Vec<f64>> {
        let ask = self.ask(prompt)?;
        let density = self.config.density;
        let (mut reading, mut ended) = (Reading::default(), false);
        let mut withheld = 0.0;
        let step = |(h, &token): (usize, &Token)| {
            if ended {
                return 0.0;
            }
            let points = reading.points(ask, token);
            reading.push(ask, token);
            ended = token == EOS;
            if density == 1.0 {
                return self.config.scale * points;
            }
            withheld += (1.0 - density) * points;
            ended |= h + 1 == self.config.horizon;
            let rest = if ended { withheld } else { 0.0 };
            self.config.scale * (density * points + rest)
        };
        Ok(response.iter().enumerate().map(step).collect())
    }

    /// Σ_h r(s_h, y_h).
    ///
    /// # Errors
    /// Those of [`World::ask`].
    pub fn reward(&self, episode: &Episode) -> Result<f64> {
        let rewards = self.token_rewards(&episode.prompt, &episode.response)?;
        Ok(rewards.iter().sum())
    }

    /// A reply that earns all there is to earn.
    ///
    /// # Errors
    /// Those of [`World::ask`].
    pub fn good_reply(&self, prompt: &Arc<[Token]>) -> Result<Episode> {
        let response = self.ask(prompt)?.good_reply();
        Episode::try_new(prompt.clone(), response, Finish::Eos)
    }

    /// π_demo(·|x, y_{1:h−1}), `[n_words]`; 0 on the special tokens other than the end of sentence.
    ///
    /// # Errors
    /// Those of [`World::ask`].
    pub fn demonstrator(&self, prompt: &[Token], prefix: &[Token]) -> Result<Vec<f64>> {
        let ask = self.ask(prompt)?;
        let mut reading = Reading::default();
        prefix.iter().for_each(|&t| reading.push(ask, t));
        Ok(demonstrator::distribution(
            ask,
            &reading,
            self.config.disagreement,
        ))
    }

    /// A reply of the demonstrator, at most [`MAX_RESPONSE`] tokens.
    ///
    /// # Errors
    /// Those of [`World::ask`].
    pub fn demonstrate(&self, prompt: &Arc<[Token]>, key: &StreamKey) -> Result<Episode> {
        let ask = self.ask(prompt)?;
        let (mut rng, mut reading) = (key.rng(), Reading::default());
        let (mut response, mut finish) = (Vec::new(), Finish::Length);
        while response.len() < MAX_RESPONSE {
            let law = demonstrator::distribution(ask, &reading, self.config.disagreement);
            let token = draw(&law, rng.random());
            response.push(token);
            reading.push(ask, token);
            if token == EOS {
                finish = Finish::Eos;
                break;
            }
        }
        Episode::try_new(prompt.clone(), response, finish)
    }

    /// Pair i: its prompt drawn uniformly, two replies of the demonstrator, the winner from (3.1),
    /// P(y¹ ≻ y²) = σ(r(x, y¹) − r(x, y²)). It depends on seed and i alone. Equal replies are drawn again.
    ///
    /// # Errors
    /// Those of [`World::ask`]; [`Error::Config`] without a prompt.
    pub fn pairs(&self, prompts: &[Arc<[Token]>], n: usize, seeds: &SeedTree) -> Result<Vec<Pair>> {
        if prompts.is_empty() {
            return Err(Error::config("prompts", "none", "at least one"));
        }
        let pair = |i: usize| {
            let node = seeds.child("pairs").index(i as u64);
            let mut rng = node.rng();
            let prompt = &prompts[rng.random_range(0..prompts.len())];
            let reply = |j| self.demonstrate(prompt, &StreamKey::new(node.index(j)));
            let first = reply(0)?;
            let mut second = reply(1)?;
            for j in 2.. {
                if second != first {
                    break;
                }
                second = reply(j)?;
            }
            let p = sigmoid(self.reward(&first)? - self.reward(&second)?);
            let (winner, loser) = match rng.random::<f64>() < p {
                true => (first, second),
                false => (second, first),
            };
            Ok(Pair { winner, loser })
        };
        (0..n).map(pair).collect()
    }
}

impl TokenReward for World {
    fn rewards(&self, batch: &[Episode]) -> Result<Ragged> {
        let row = |e: &Episode| self.token_rewards(&e.prompt, &e.response);
        let rows: Vec<_> = batch.iter().map(row).collect::<Result<_>>()?;
        Ok(Ragged::from_rows(rows))
    }
}

/// Inversion; rounding never selects a token of probability 0.
fn draw(probs: &[f64], mut u: f64) -> Token {
    let mut last = 0;
    for (i, p) in probs.iter().enumerate().filter(|(_, p)| **p > 0.0) {
        last = i;
        u -= p;
        if u < 0.0 {
            break;
        }
    }
    last as Token
}
