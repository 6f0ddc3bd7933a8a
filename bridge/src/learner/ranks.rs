//! Several ranks, one network: who scores what, and in which order gradients are added.
//!
//! A batch is cut into K groups of consecutive rows, of about as many tokens each, whatever the number of ranks. Rank r of P has the
//! groups ⌊rK/P⌋ to ⌊(r+1)K/P⌋ − 1. Scores are gathered before the loss is taken, so a loss that looks across rows is that of the whole
//! batch. The gradient of each group starts from zero; groups are added in the binary tree ((0+1)+(2+3))+…, whose lower part a rank has
//! for itself, and whose upper part is taken number by number: each rank is given every rank's sum of a share of the numbers, adds them,
//! and all shares are gathered. So the sum has the same bits on 1, 2, 4, … K ranks, which no reduction of MPI's or NCCL's promises.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Var;
use rto::seq::{Episode, Finish};
use rto::{Error, Token};

use crate::collective::{Collective, Solo, floats};
use crate::generate::Sampled;
use crate::model::Scores;
use crate::optimizer::{AdamW, Arrays, Share};
use crate::params::{Gradients, Params, add_to, put, values_of};
use crate::{Error as BridgeError, Result};

/// The ranks that train a network together, and the number K of groups into which they cut a batch.
#[derive(Debug, Clone)]
pub struct Ranks {
    engine: Arc<dyn Collective>,
    groups: usize,
    shares: bool,
    window: Option<usize>,
}

impl Default for Ranks {
    /// One rank, one group: nothing is cut.
    fn default() -> Self {
        Self {
            engine: Arc::new(Solo),
            groups: 1,
            shares: false,
            window: None,
        }
    }
}

/// Numbers of a gradient that are exchanged at once from a processor's memory: 1 MiB. Copies of a window then stay in a core's cache and
/// in memory that the process already has; with 64 MiB the system's pages for them cost more than the exchange.
const WINDOW: usize = 1 << 18;

/// The same from a device's memory, where messages are long so that few wait for each other: 64 MiB, which any engine carries at once.
const DEVICE_WINDOW: usize = 1 << 24;

impl Ranks {
    /// The ranks of an engine and K = `groups`. K changes the rounding of a run, the number of ranks does not.
    ///
    /// # Errors
    /// [`BridgeError::Setting`] unless K is a power of two, and the number of ranks one that divides it.
    pub fn try_new(engine: Arc<dyn Collective>, groups: usize) -> Result<Self> {
        if !groups.is_power_of_two() {
            return Err(BridgeError::Setting {
                field: "gradient_groups",
                found: groups.to_string(),
                expected: "a power of two: 1, 2, 4, 8, …".into(),
            });
        }
        let size = engine.size();
        if !size.is_power_of_two() || size > groups {
            return Err(BridgeError::Setting {
                field: "gradient_groups",
                found: format!("{groups} with {size} ranks"),
                expected: format!(
                    "at least as many groups as ranks, and a power of two of ranks: 1 to {groups}"
                ),
            });
        }
        Ok(Self {
            engine,
            groups,
            shares: false,
            window: None,
        })
    }

    /// Whether each rank holds AdamW's moments, and f32 copies of narrower weights, of its share of every weight alone (ZeRO, stage 1;
    /// Rajbhandari et al. 2020). A rank steps its share and is sent the others', 4 n (P − 1)/P bytes a step of n trained weights on P
    /// ranks more; no number depends on it. Every rank must then call the `save` of a learner.
    pub fn with_sharded_moments(mut self, shares: bool) -> Self {
        self.shares = shares;
        self
    }

    /// Exchanges so many numbers at once, at least 1: less memory in more messages. Unless said, 2¹⁸ of weights that are slices on the
    /// processor and 2²⁴ of others. No number depends on it.
    pub fn with_window(mut self, numbers: usize) -> Self {
        self.window = Some(numbers.max(1));
        self
    }

    fn window(&self, params: &Params) -> usize {
        let usual = if params.on_slices() {
            WINDOW
        } else {
            DEVICE_WINDOW
        };
        self.window.unwrap_or(usual)
    }

    /// The part of every weight that this rank steps.
    pub(super) fn share(&self) -> Share {
        match self.shares {
            true => self.share_of(self.engine.rank()),
            false => Share::WHOLE,
        }
    }

    fn share_of(&self, rank: usize) -> Share {
        Share {
            index: rank,
            of: self.size(),
        }
    }

    /// What the ranks speak through.
    pub fn engine(&self) -> &Arc<dyn Collective> {
        &self.engine
    }

    /// K.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Whether batches are cut at all.
    pub(super) fn cuts(&self) -> bool {
        self.groups > 1
    }

    fn size(&self) -> usize {
        self.engine.size()
    }

    /// The groups of this rank.
    fn own(&self) -> Range<usize> {
        let (rank, each) = (self.engine.rank(), self.groups / self.size());
        rank * each..(rank + 1) * each
    }

    /// The rows of each group: a group ends with the row whose middle token is the first at or behind its share of all tokens.
    fn cut(&self, lengths: &[usize]) -> Vec<Range<usize>> {
        let all: usize = lengths.iter().sum();
        let (mut rows, mut start, mut before) = (Vec::with_capacity(self.groups), 0, 0);
        for group in 1..=self.groups {
            let mut end = start;
            // 2 K (before + length / 2) < 2 · group · all, without a fraction.
            while end < lengths.len()
                && (group == self.groups
                    || (2 * before + lengths[end]) * self.groups < 2 * group * all)
            {
                before += lengths[end];
                end += 1;
            }
            rows.push(start..end);
            start = end;
        }
        rows
    }

    /// The rows of each group of this rank.
    pub(super) fn own_rows(&self, batch: &[Episode]) -> Vec<Range<usize>> {
        let lengths: Vec<usize> = batch.iter().map(|e| e.prompt.len() + e.len()).collect();
        self.cut(&lengths)[self.own()].to_vec()
    }

    /// The prompts of this rank, by number alone: no response depends on the batch it is written in.
    pub(super) fn own_prompts(&self, prompts: usize) -> Range<usize> {
        let at = |rank: usize| rank * prompts / self.size();
        at(self.engine.rank())..at(self.engine.rank() + 1)
    }

    /// Scores of all rows, from those of each rank's groups.
    pub(super) fn gather_scores(&self, mine: Scores) -> Result<Scores> {
        if self.size() == 1 {
            return Ok(mine);
        }
        let mut all = Scores::default();
        for bytes in self.engine.all_gather(&write_scores(&mine))? {
            super::channels::append(&mut all, read_scores(&bytes)?);
        }
        Ok(all)
    }

    /// Responses to all prompts, from those of each rank.
    pub(super) fn gather_responses(
        &self,
        prompts: &[Arc<[Token]>],
        mine: Vec<Sampled>,
    ) -> Result<Vec<Sampled>> {
        if self.size() == 1 {
            return Ok(mine);
        }
        let mut all = Vec::with_capacity(prompts.len());
        for bytes in self.engine.all_gather(&write_responses(&mine))? {
            let mut reader = Reader(&bytes);
            while !reader.0.is_empty() {
                let prompt = prompts.get(all.len()).ok_or_else(damaged)?;
                all.push(reader.response(prompt.clone())?);
            }
        }
        match all.len() == prompts.len() {
            true => Ok(all),
            false => Err(damaged()),
        }
    }

    /// The upper part of the tree: sums of each rank's groups become the sum of all, on every rank.
    pub(super) fn sum(&self, gradients: &mut Gradients, params: &Params) -> Result<()> {
        let size = self.size();
        if size == 1 {
            return Ok(());
        }
        let at_once = self.window(params);
        gradients.with_floats(params, |mut parts| {
            let all = parts.iter().map(|p| p.len()).sum::<usize>();
            let mut window = vec![0.0; all.min(at_once)];
            for start in (0..all).step_by(at_once) {
                let window = &mut window[..at_once.min(all - start)];
                each_overlap(&mut parts, start, window, |part, window| {
                    window.copy_from_slice(part);
                });
                self.sum_window(window)?;
                each_overlap(&mut parts, start, window, |part, window| {
                    part.copy_from_slice(window);
                });
            }
            Ok(())
        })
    }

    fn sum_window(&self, window: &mut [f32]) -> Result<()> {
        let size = self.size();
        let share = window.len().div_ceil(size).max(1);
        let mut parts: Vec<&[u8]> = window.chunks(share).map(bytemuck::cast_slice).collect();
        parts.resize(size, &[]);
        let given = self.engine.exchange(&parts)?;
        let mut sums: Vec<Vec<f32>> = given.iter().map(|g| floats(g).into_owned()).collect();
        // The tree over ranks: neighbours first.
        let mut step = 1;
        while step < size {
            for left in (0..size).step_by(2 * step) {
                let (low, high) = sums.split_at_mut(left + step);
                if low[left].len() != high[0].len() {
                    return Err(damaged());
                }
                add_to(&mut low[left], &high[0]);
            }
            step *= 2;
        }
        let shares = self.engine.all_gather(bytemuck::cast_slice(&sums[0]))?;
        for (window, share) in window.chunks_mut(share).zip(&shares) {
            let share = floats(share);
            if share.len() != window.len() {
                return Err(damaged());
            }
            window.copy_from_slice(&share);
        }
        Ok(())
    }

    /// Brings to every rank the weights that each has moved of its share.
    pub(super) fn spread(&self, params: &Params) -> Result<()> {
        if !self.shares || self.size() == 1 {
            return Ok(());
        }
        let vars: Vec<&Var> = params.trained().map(|(_, var)| var).collect();
        let pieces = |rank: usize| {
            let share = self.share_of(rank);
            let piece = move |var: &Var| share.range(var.elem_count());
            vars.iter().map(|var| piece(var)).collect::<Vec<_>>()
        };
        let all: Vec<Vec<Range<usize>>> = (0..self.size()).map(pieces).collect();
        let length = |pieces: &Vec<Range<usize>>| pieces.iter().map(Range::len).sum::<usize>();
        let longest = all.iter().map(length).max().unwrap_or(0);
        let own = self.engine.rank();
        let at_once = self.window(params);
        for start in (0..longest).step_by(at_once) {
            let window = start..start + at_once;
            let mut mine = Vec::new();
            each_piece(&vars, &all[own], &window, |var, part| {
                mine.extend(values_of(var, part)?);
                Ok(())
            })?;
            let given = self.engine.all_gather(bytemuck::cast_slice(&mine))?;
            for (rank, bytes) in given.iter().enumerate().filter(|(rank, _)| *rank != own) {
                let theirs = floats(bytes);
                let mut rest = &theirs[..];
                each_piece(&vars, &all[rank], &window, |var, part| {
                    let (piece, more) = rest.split_at_checked(part.len()).ok_or_else(damaged)?;
                    rest = more;
                    put(var, part, piece)
                })?;
            }
        }
        Ok(())
    }

    /// An optimiser's arrays from the shares of all ranks, on the first; none where this rank has or needs no others.
    pub(super) fn gather_state(&self, optimizer: &AdamW) -> Result<Option<Arrays>> {
        if optimizer.share().of == 1 {
            return Ok(None);
        }
        let mut whole = Arrays::new();
        let at_once = 4 * self.window.unwrap_or(DEVICE_WINDOW);
        for (name, (dtype, mine)) in optimizer.arrays()? {
            let lengths = self.engine.all_gather(&(mine.len() as u64).to_ne_bytes())?;
            let lengths: Result<Vec<u64>> = lengths
                .into_iter()
                .map(|n| n.try_into().map(u64::from_ne_bytes).map_err(|_| damaged()))
                .collect();
            let longest = lengths?.into_iter().max().unwrap_or(0) as usize;
            let mut parts = vec![Vec::new(); self.size()];
            for start in (0..longest).step_by(at_once) {
                let some = mine.get(start..).unwrap_or_default();
                let some = &some[..some.len().min(at_once)];
                let given = self.engine.gather(some)?;
                parts.iter_mut().zip(given).for_each(|(p, g)| p.extend(g));
            }
            whole.insert(name, (dtype, parts.concat()));
        }
        Ok(Some(whole))
    }

    /// Refuses ranks whose weights have parted: machines whose arithmetic differs would train different networks.
    ///
    /// It looks after every step that is a power of two or a multiple of 64.
    pub(super) fn check_equal(&self, params: &Params, step: u64) -> rto::Result<()> {
        if self.size() == 1 || !(step.is_power_of_two() || step.is_multiple_of(64)) {
            return Ok(());
        }
        let mine = super::state::fingerprint(params, true);
        let all = mine.and_then(|mine| self.engine.all_gather(mine.as_bytes()));
        let all = all.map_err(super::backend)?;
        match all.iter().position(|other| *other != all[0]) {
            None => Ok(()),
            Some(rank) => Err(Error::backend(format!(
                "the weights of rank {rank} are not those of rank 0 after step {step}; expected ranks of one program on processors with the same instructions"
            ))),
        }
    }
}

/// Calls `work` with every piece of the weights' parts, laid end to end, that lies in the window.
fn each_piece(
    vars: &[&Var],
    parts: &[Range<usize>],
    window: &Range<usize>,
    mut work: impl FnMut(&Var, Range<usize>) -> Result<()>,
) -> Result<()> {
    let mut at = 0;
    for (var, part) in vars.iter().zip(parts) {
        let from = window.start.clamp(at, at + part.len()) - at;
        let to = window.end.clamp(at, at + part.len()) - at;
        if from < to {
            work(var, part.start + from..part.start + to)?;
        }
        at += part.len();
    }
    Ok(())
}

/// Calls `work` with every piece of the parts, laid end to end, that lies in the window from `start` on.
fn each_overlap(
    parts: &mut [&mut [f32]],
    start: usize,
    window: &mut [f32],
    mut work: impl FnMut(&mut [f32], &mut [f32]),
) {
    let (mut at, end) = (0, start + window.len());
    for part in parts {
        let (from, to) = (at.max(start), (at + part.len()).min(end));
        if from < to {
            work(
                &mut part[from - at..to - at],
                &mut window[from - start..to - start],
            );
        }
        at += part.len();
    }
}

/// The lower part of the tree: groups of one rank, in order, added as a binary counter counts.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Sums of 2^level groups, the largest first.
    sums: Vec<(u32, Gradients)>,
    /// Memory to use again.
    free: Vec<Gradients>,
}

impl Tree {
    /// Before the first group of a step: takes the memory of the last step's gradient, and of what an error left.
    pub(super) fn begin(&mut self, last: &mut Gradients) {
        let last = std::mem::take(last);
        if last.names().next().is_some() {
            self.free.push(last);
        }
        let left = self.sums.drain(..).map(|(_, gradients)| gradients);
        self.free.extend(left);
    }

    /// Zeros for the next group.
    pub(super) fn zeros(&mut self, params: &Params) -> Gradients {
        match self.free.pop() {
            Some(mut gradients) => {
                gradients.reset();
                gradients
            }
            None => Gradients::zeros(params),
        }
    }

    /// Adds the gradient of the next group.
    pub(super) fn push(&mut self, gradients: Gradients) -> Result<()> {
        self.sums.push((0, gradients));
        while let [.., (a, _), (b, _)] = &self.sums[..]
            && a == b
        {
            let Some((_, mut right)) = self.sums.pop() else {
                break;
            };
            if let Some((level, left)) = self.sums.last_mut() {
                left.add(&right)?;
                *level += 1;
            }
            right.release();
            self.free.push(right);
        }
        Ok(())
    }

    /// The sum of all groups, whose number is a power of two.
    pub(super) fn take(&mut self) -> Option<Gradients> {
        self.sums.pop().map(|(_, sum)| sum)
    }
}

fn damaged() -> BridgeError {
    let why = "damaged; are all ranks the same program?";
    BridgeError::request("a message of another rank", why)
}

fn channels_of(scores: &Scores) -> [&Option<Vec<f64>>; 7] {
    [
        &scores.log_probs,
        &scores.entropy,
        &scores.kl,
        &scores.kl_from,
        &scores.values,
        &scores.final_values,
        &scores.rewards,
    ]
}

fn write_scores(scores: &Scores) -> Vec<u8> {
    let mut out = Vec::new();
    for channel in channels_of(scores) {
        let values = channel.as_deref().unwrap_or_default();
        out.push(u8::from(channel.is_some()));
        out.extend((values.len() as u64).to_ne_bytes());
        out.extend(values.iter().flat_map(|v| v.to_ne_bytes()));
    }
    out
}

fn read_scores(bytes: &[u8]) -> Result<Scores> {
    let mut reader = Reader(bytes);
    let mut channel = || -> Result<Option<Vec<f64>>> {
        let there = reader.bytes(1)?[0] == 1;
        let count = reader.count()?;
        let values: Result<Vec<f64>> = (0..count).map(|_| reader.number()).collect();
        Ok(there.then_some(values?))
    };
    Ok(Scores {
        log_probs: channel()?,
        entropy: channel()?,
        kl: channel()?,
        kl_from: channel()?,
        values: channel()?,
        final_values: channel()?,
        rewards: channel()?,
    })
}

fn write_responses(all: &[Sampled]) -> Vec<u8> {
    let mut out = Vec::new();
    for Sampled { episode, log_probs } in all {
        out.push(u8::from(episode.finish == Finish::Eos));
        out.extend((episode.response.len() as u64).to_ne_bytes());
        out.extend(episode.response.iter().flat_map(|t| t.to_ne_bytes()));
        out.extend((log_probs.len() as u64).to_ne_bytes());
        out.extend(log_probs.iter().flat_map(|v| v.to_ne_bytes()));
    }
    out
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes(&mut self, count: usize) -> Result<&[u8]> {
        let (head, rest) = self.0.split_at_checked(count).ok_or_else(damaged)?;
        self.0 = rest;
        Ok(head)
    }

    fn word<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.bytes(N)?.try_into().map_err(|_| damaged())
    }

    fn count(&mut self) -> Result<usize> {
        self.word().map(|w| u64::from_ne_bytes(w) as usize)
    }

    fn number(&mut self) -> Result<f64> {
        self.word().map(f64::from_ne_bytes)
    }

    fn response(&mut self, prompt: Arc<[Token]>) -> Result<Sampled> {
        let finish = match self.bytes(1)?[0] {
            1 => Finish::Eos,
            _ => Finish::Length,
        };
        let tokens = self.count()?;
        let response: Result<Vec<Token>> = (0..tokens)
            .map(|_| self.word().map(Token::from_ne_bytes))
            .collect();
        let numbers = self.count()?;
        let log_probs: Result<Vec<f64>> = (0..numbers).map(|_| self.number()).collect();
        Ok(Sampled {
            episode: Episode::try_new(prompt, response?, finish)?,
            log_probs: log_probs?,
        })
    }
}
