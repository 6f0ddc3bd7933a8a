//! One iteration of reinforcement learning: text, scores of it, and steps.

use super::batch::Batch;
use super::optimizer::{AdamW, Rate};
use super::parameters::Gradients;
use super::program::Program;
use super::scores::{Request, Scores};
use super::write::{Writing, Written};
use crate::Result;

/// A network that is trained.
pub struct Learner<'p, 'a> {
    /// The network.
    pub program: &'p Program<'a>,
    /// What of it a loss reads.
    pub request: Request<'p>,
    /// Its optimiser.
    pub optimizer: &'p mut AdamW,
    /// Rate and decay of its weights.
    pub rate: Rate,
}

/// How the texts of an iteration become steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Texts of one pass.
    pub micro_batch: usize,
    /// Texts of one step.
    pub minibatch: usize,
    /// How often all texts are gone through.
    pub epochs: usize,
}

/// What a loss makes of texts; it lives on the host, whose arithmetic is in doubles.
pub trait Judge {
    /// The texts with their scores: those of every learner, then those of every network that is only read, a micro-batch each. Rewards and
    /// advantages are made here.
    fn judge(&mut self, texts: &[Written], scores: &[Vec<Scores>]);

    /// The texts of an epoch in the order in which steps take them.
    fn order(&mut self, epoch: usize, texts: usize) -> Vec<usize> {
        let _ = epoch;
        (0..texts).collect()
    }

    /// The gradient of a step's loss with respect to a learner's scores of some of its texts.
    fn pull(&mut self, learner: usize, texts: &[usize], scores: &Scores) -> Scores;
}

/// Writes a response to every prompt with the first learner, scores all of them with every network, and takes the steps. Gradients are on
/// the device while steps are taken, the cache while text is written: never both.
///
/// # Errors
/// As [`Program::write`], [`Program::backward`], [`AdamW::step`].
pub fn iteration(
    learners: &mut [Learner<'_, '_>],
    reads: &[&Program<'_>],
    prompts: &[&[u32]],
    writing: &Writing,
    schedule: &Schedule,
    uniform: &mut dyn FnMut(usize, usize) -> f64,
    judge: &mut dyn Judge,
) -> Result<Vec<Written>> {
    let Some(first) = learners.first() else {
        return Ok(Vec::new());
    };
    let written = first.program.write(prompts, writing, uniform)?;
    let batch = |texts: &[usize]| -> Result<Batch> {
        let text = |&i: &usize| (prompts[i], &written[i].tokens[..]);
        Batch::new(&texts.iter().map(text).collect::<Vec<_>>())
    };
    let all: Vec<usize> = (0..prompts.len()).collect();
    let scored = |program: &Program<'_>, request: &Request<'_>| -> Result<Vec<Scores>> {
        let pieces = all.chunks(schedule.micro_batch.max(1));
        let scores = pieces.map(|texts| {
            let forward = program.forward(&batch(texts)?, request, false)?;
            Ok(forward.scores)
        });
        scores.collect()
    };
    let mut scores = Vec::new();
    for learner in learners.iter() {
        scores.push(scored(learner.program, &learner.request)?);
    }
    for program in reads {
        scores.push(scored(program, &Request::log_probs())?);
    }
    judge.judge(&written, &scores);
    let mut gradients = Vec::new();
    for learner in learners.iter() {
        let program = learner.program;
        gradients.push(Gradients::zeros(program.kernels(), program.parameters())?);
    }
    for epoch in 0..schedule.epochs {
        let order = judge.order(epoch, prompts.len());
        for minibatch in order.chunks(schedule.minibatch.max(1)) {
            for (i, learner) in learners.iter_mut().enumerate() {
                let (program, request) = (learner.program, &learner.request);
                for texts in minibatch.chunks(schedule.micro_batch.max(1)) {
                    let batch = batch(texts)?;
                    let forward = program.forward(&batch, request, true)?;
                    let grad = judge.pull(i, texts, &forward.scores);
                    program.backward(&batch, request, forward, &grad, &gradients[i])?;
                }
                let (kernels, parameters) = (program.kernels(), program.parameters());
                let rate = learner.rate;
                let steps = &mut learner.optimizer;
                steps.step(kernels, parameters, &gradients[i], |_| rate)?;
                gradients[i].clear(kernels)?;
            }
        }
    }
    Ok(written)
}
