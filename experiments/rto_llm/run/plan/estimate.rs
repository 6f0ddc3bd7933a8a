//! How long a run would take here: FLOPs of every stage over the speed of a short training step.

use std::time::Instant;

use anyhow::Result;
use candle_core::Device;
use rto::algorithm2::{Advantage, fit_steps, sft};
use rto::seed::SeedTree;
use rto::seq::{Episode, Finish};
use rto_bridge::family::ModelConfig;
use rto_bridge::learner::{LearnerOptions, NeuralLearner, NeuralPolicy, NeuralScorer};
use rto_bridge::model::{Heads, Model};
use rto_bridge::params::{Init, Params};
use rto_harness::methods::Method;

use crate::run::choices::CriticKind;
use crate::run::config::Config;
use crate::run::data::{Data, Feedback};
use crate::run::stage::Stage;

/// A forward pass is a third of a training step.
const FORWARD: f64 = 1.0 / 3.0;
/// Writing token by token takes so many times a forward pass over the same tokens.
const WRITING: f64 = 2.0 * FORWARD;
/// FLOPs of the step that is timed, at most.
const PROBE: f64 = 2e10;

/// Training FLOPs of a token in a text of `length` tokens: 6 per weight but the input embedding, and attention.
fn flops_per_token(shape: &ModelConfig, length: f64) -> f64 {
    let (h, layers) = (shape.hidden_size() as f64, shape.n_layers() as f64);
    let queries = (shape.n_heads() * shape.head_dim()) as f64;
    let block = shape.block_weights() as f64;
    6.0 * (layers * block + h * shape.vocab_size() as f64) + 12.0 * layers * length * queries
}

/// Mean tokens of prompt and response, and of the response alone.
fn lengths(batch: impl Iterator<Item = (usize, usize)>) -> [f64; 2] {
    let (mut n, mut sums) = (0.0, [0.0, 0.0]);
    for (prompt, response) in batch {
        n += 1.0;
        sums[0] += (prompt + response) as f64;
        sums[1] += response as f64;
    }
    sums.map(|sum| sum / f64::max(n, 1.0))
}

/// Stages with their training-step equivalents in tokens.
pub fn work(config: &Config, data: &Data) -> Result<Vec<(Stage, f64)>> {
    let of = |episodes: &[Episode]| lengths(episodes.iter().map(|e| (e.prompt.len(), e.len())))[0];
    let texts = |feedback: &Feedback| of(&feedback.episodes());
    // A batch that does not fit at once is scored first and recomputed then.
    let pass = |rows: usize| {
        if rows > config.micro_batch {
            1.0 + FORWARD
        } else {
            1.0
        }
    };
    let imitation = |stage, episodes: &[Episode], fit: &rto::algorithm2::FitConfig| {
        let rows = fit_steps(episodes.len(), fit) as f64 * fit.batch_size as f64;
        (stage, rows * of(episodes) * pass(fit.batch_size))
    };
    let ranking = |stage, feedback: &Feedback, fit: &rto::algorithm2::FitConfig| {
        let batch = feedback.rows_each() * fit.batch_size;
        let rows = (fit_steps(feedback.len(), fit) * batch as u64) as f64;
        (stage, rows * texts(feedback) * pass(batch))
    };
    let mut all = Vec::new();
    if config.pretrains() {
        all.push(imitation(
            Stage::Pretrain,
            &data.dialogues,
            &*config.pretrain()?,
        ));
    }
    all.push(imitation(Stage::Sft, &data.demonstrations, &*config.sft()?));
    all.push(ranking(Stage::Reward, &data.pairs, &*config.reward()?));
    let paid = &data.token_rewards.train;
    if !paid.is_empty() {
        let episodes: Vec<Episode> = paid.iter().map(|paid| paid.episode.clone()).collect();
        all.push(imitation(Stage::TokenReward, &episodes, &*config.reward()?));
    }
    let (stage, tokens) = ranking(Stage::Dpo, &data.pairs, &config.dpo()?.fit);
    let rows = data.pairs.rows_each() * data.pairs.len();
    let reference = rows as f64 * texts(&data.pairs) * FORWARD;
    all.push((stage, tokens + reference));
    if !data.oracle_pairs.is_empty() {
        let reading = match config.pretrains() {
            true => imitation(Stage::Oracle, &data.oracle_dialogues, &*config.pretrain()?).1,
            false => 0.0,
        };
        let (stage, tokens) = ranking(Stage::Oracle, &data.oracle_pairs, &*config.reward()?);
        all.push((stage, reading + tokens));
    }
    let [whole, _] = lengths(
        data.demonstrations
            .iter()
            .map(|e| (e.prompt.len(), e.len())),
    );
    for &method in &config.methods {
        all.push((Stage::Rl(method), rl(config, method)? * whole));
    }
    let policies = (2 + config.methods.len()) as f64;
    // Sampled and greedy, each written, scored by policy and reference and judged.
    let judged = 2.0 * (WRITING + 3.0 * FORWARD);
    all.push((
        Stage::Evaluate,
        policies * config.eval_prompts as f64 * judged * whole,
    ));
    Ok(all)
}

/// The work of one method, in responses.
fn rl(config: &Config, method: &Method) -> Result<f64> {
    let ppo = config.ppo(method)?;
    let responses = ppo.iterations as f64 * ppo.responses() as f64;
    let networks = match config.critic {
        CriticKind::Separate if ppo.advantage == Advantage::Gae => 2.0,
        _ => 1.0,
    };
    // Policy before and after, reference, critic, oracle; and what the reward is made of.
    let scored = 4.0 + networks - 1.0 + method.training().reads.len() as f64;
    Ok(responses * (WRITING + scored * FORWARD + ppo.epochs as f64 * networks))
}

/// Seconds of a stage's tokens, from one step of a network of this width that is timed for about a second.
pub fn seconds_per_token(config: &Config, data: &Data) -> Result<f64> {
    let shape = &data.network;
    let whole = (data.longest_prompt() + config.max_new_tokens).min(shape.max_positions());
    // Wide networks are timed on one layer, narrow ones on two.
    let layers = if shape.hidden_size() < 1024 { 2 } else { 1 };
    let probe = shape.resized(layers.min(shape.n_layers()), shape.vocab_size().min(4096));
    // A step of a wide network is long enough with a part of a text.
    let fits = PROBE / flops_per_token(&probe, whole as f64);
    let length = whole.min((fits as usize).max(8));
    let heads = Heads {
        language_model: true,
        ..Heads::default()
    };
    let seeds = SeedTree::new(0);
    let model = Model::random(&probe, heads, Init::Small, &seeds, &Device::Cpu)?;
    let params = Params::new(model.params().tensors())?;
    drop(model);
    let policy = NeuralPolicy::try_new(NeuralScorer::try_new(&probe, params)?, length)?;
    let mut learner = NeuralLearner::try_new(
        policy,
        LearnerOptions {
            micro_batch: config.micro_batch,
            ..config.learner()
        },
    )?;
    let per_row = flops_per_token(&probe, length as f64) * length as f64;
    let rows = ((PROBE / per_row) as usize).clamp(1, config.micro_batch);
    let token = |i: usize| (1 + i % probe.vocab_size().saturating_sub(2).max(1)) as u32;
    let episode = Episode::try_new(
        [token(0)].into(),
        (1..length).map(token).collect(),
        Finish::Length,
    )?;
    let batch = vec![episode; rows];
    let fit = rto::algorithm2::FitConfig {
        batch_size: rows,
        epochs: 3,
        ..*config.sft()?
    }
    .check()?;
    let mut best = f64::INFINITY;
    for step in 0..3 {
        let start = Instant::now();
        sft(
            &mut learner,
            &batch,
            &fit,
            &seeds,
            step..step + 1,
            &mut |_| Ok(()),
        )?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    let rate = rows as f64 * per_row / best;
    Ok(flops_per_token(shape, whole as f64) / rate)
}
