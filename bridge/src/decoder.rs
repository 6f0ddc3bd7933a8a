//! Top-p, top-k and minimum length ([`rto::seq::Decoder`], evaluation only) without sorting the vocabulary.
//!
//! Tokens are put into narrow buckets of their distance from the highest logit. The threshold of top-k and of top-p
//! falls into one bucket, and only that one is sorted. The kept set is that of a full sort by (logit descending, token
//! ascending): top-k keeps every token that ties with the k-th, top-p the shortest prefix whose mass reaches p.

use crate::Result;
use crate::ops::simd::exp;
use crate::sampler::{check, highest, walk};
use pulp::Arch;
use rto::Token;
use rto::seq::Decoder;

/// Buckets are 1/64 nat wide; the last one takes everything from 32 nats down.
const PER_NAT: f32 = 64.0;
const BUCKETS: usize = 2048;

/// A truncated distribution over next tokens, and buffers that are reused from token to token.
#[derive(Debug, Default)]
pub struct Truncated {
    weights: Vec<f32>,
    bucket_of: Vec<u16>,
    mass: Vec<f64>,
    count: Vec<u32>,
    /// Buckets kept whole.
    whole: usize,
    /// Kept tokens of the bucket after those, most likely first.
    boundary: Vec<Token>,
    total: f64,
}

impl Truncated {
    /// Sets the kept set and its weights for `logits` at a policy's `temperature` (the decoder's is on top), with
    /// `forbidden` tokens left out.
    ///
    /// # Errors
    /// [`crate::Error::Request`] where a logit is NaN or infinite.
    pub fn set(
        &mut self,
        logits: &[f32],
        temperature: f64,
        decoder: &Decoder,
        forbidden: &[Token],
    ) -> Result<()> {
        let highest = self.highest_allowed(logits, forbidden);
        let scale = (1.0 / (temperature * decoder.temperature)) as f32;
        self.weigh(logits, highest, scale);
        for token in forbidden.iter().filter(|&&t| (t as usize) < logits.len()) {
            self.weights[*token as usize] = 0.0;
            self.bucket_of[*token as usize] = u16::MAX;
        }
        self.fill_buckets();
        self.boundary.clear();
        self.whole = BUCKETS;
        self.total = self.mass.iter().sum();
        check(highest, self.total)?;
        if decoder.top_k > 0 && decoder.top_k < logits.len() {
            self.keep_top_k(logits, decoder.top_k);
        }
        if decoder.top_p < 1.0 {
            self.keep_top_p(logits, decoder.top_p);
        }
        Ok(())
    }

    /// A token of the kept set for `uniform` in [0, 1), and its log-probability in the truncated distribution.
    pub fn draw(&self, uniform: f64) -> (Token, f64) {
        let mut rest = uniform * self.total;
        let mut last = None;
        for bucket in (0..self.whole).filter(|&b| self.mass[b] > 0.0) {
            if rest < self.mass[bucket] {
                return self.pick(&self.members(bucket), rest);
            }
            rest -= self.mass[bucket];
            last = Some(bucket);
        }
        match (self.boundary.is_empty(), last) {
            (true, Some(bucket)) => self.pick(&self.members(bucket), f64::INFINITY),
            _ => self.pick(&self.boundary, rest),
        }
    }

    /// The most likely kept token (the first of several) and its log-probability.
    pub fn most_likely(&self, logits: &[f32]) -> (Token, f64) {
        let first = (0..self.whole).find(|&b| self.count[b] > 0);
        let mut members =
            first.map_or_else(|| self.boundary.clone(), |bucket| self.members(bucket));
        sort(&mut members, logits);
        self.pick(&members, 0.0)
    }

    /// The kept tokens in ascending order, with their probabilities.
    pub fn support(&self) -> Vec<(Token, f64)> {
        let mut kept: Vec<Token> = (0..self.whole)
            .flat_map(|bucket| self.members(bucket))
            .chain(self.boundary.iter().copied())
            .collect();
        kept.sort_unstable();
        kept.into_iter()
            .map(|t| (t, self.weight(t) / self.total))
            .collect()
    }

    fn pick(&self, tokens: &[Token], rest: f64) -> (Token, f64) {
        let token = tokens[walk(tokens.iter().map(|&t| self.weight(t)), rest)];
        (token, (self.weight(token) / self.total).ln())
    }

    fn weight(&self, token: Token) -> f64 {
        f64::from(self.weights[token as usize])
    }

    fn members(&self, bucket: usize) -> Vec<Token> {
        let of = |(i, &b): (usize, &u16)| (b as usize == bucket).then_some(i as Token);
        self.bucket_of.iter().enumerate().filter_map(of).collect()
    }

    fn highest_allowed(&self, logits: &[f32], forbidden: &[Token]) -> f32 {
        let mut cuts: Vec<usize> = forbidden.iter().map(|t| *t as usize).collect();
        cuts.retain(|t| *t < logits.len());
        cuts.sort_unstable();
        let (mut best, mut start) = (f32::NEG_INFINITY, 0);
        for cut in cuts {
            if start < cut {
                best = best.max(highest(&logits[start..cut]));
            }
            start = cut + 1;
        }
        match logits.get(start..) {
            Some(rest) if !rest.is_empty() => best.max(highest(rest)),
            _ => best,
        }
    }

    fn weigh(&mut self, logits: &[f32], highest: f32, scale: f32) {
        self.weights.resize(logits.len(), 0.0);
        self.bucket_of.resize(logits.len(), 0);
        let (weights, buckets) = (&mut self.weights, &mut self.bucket_of);
        // Handed over, so that this loop is what is dispatched and compiled for this processor.
        let all = logits.iter().zip(weights).zip(buckets);
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for ((l, w), b) in all {
                    let below = (highest - l) * scale;
                    *w = exp(-below);
                    let b_f = below * PER_NAT;
                    *b = (if b_f < (BUCKETS - 1) as f32 {
                        b_f
                    } else {
                        (BUCKETS - 1) as f32
                    }) as i32 as u16;
                }
            },
        );
    }

    fn fill_buckets(&mut self) {
        self.mass.clear();
        self.mass.resize(BUCKETS, 0.0);
        self.count.clear();
        self.count.resize(BUCKETS, 0);
        for (&bucket, &weight) in self.bucket_of.iter().zip(&self.weights) {
            if let (Some(mass), Some(count)) = (
                self.mass.get_mut(bucket as usize),
                self.count.get_mut(bucket as usize),
            ) {
                *mass += f64::from(weight);
                *count += 1;
            }
        }
    }

    fn keep_top_k(&mut self, logits: &[f32], k: usize) {
        let mut before = 0;
        for bucket in 0..BUCKETS {
            let here = self.count[bucket] as usize;
            if before + here < k {
                before += here;
                continue;
            }
            let mut members = self.members(bucket);
            sort(&mut members, logits);
            let threshold = logits[members[k - before - 1] as usize];
            members.retain(|&t| logits[t as usize] >= threshold);
            self.cut(bucket, members);
            return;
        }
    }

    fn keep_top_p(&mut self, logits: &[f32], p: f64) {
        let target = p * self.total;
        let mut before = 0.0;
        for bucket in 0..self.whole {
            if before + self.mass[bucket] < target {
                before += self.mass[bucket];
                continue;
            }
            let mut members = self.members(bucket);
            sort(&mut members, logits);
            let kept = self.prefix(&members, before, target);
            members.truncate(kept);
            return self.cut(bucket, members);
        }
        let kept = self.prefix(&self.boundary, before, target);
        let mut members = std::mem::take(&mut self.boundary);
        members.truncate(kept);
        self.cut(self.whole, members);
    }

    /// How many of `members` it takes for the mass, `before` without them, to reach `target`.
    fn prefix(&self, members: &[Token], mut before: f64, target: f64) -> usize {
        for (i, &token) in members.iter().enumerate() {
            before += self.weight(token);
            if before >= target {
                return i + 1;
            }
        }
        members.len()
    }

    fn cut(&mut self, whole: usize, boundary: Vec<Token>) {
        let edge: f64 = boundary.iter().map(|&t| self.weight(t)).sum();
        self.total = self.mass[..whole].iter().sum::<f64>() + edge;
        self.whole = whole;
        self.boundary = boundary;
    }
}

/// Sorts tokens, the most likely first and ties by token.
fn sort(members: &mut [Token], logits: &[f32]) {
    members.sort_unstable_by(|&a, &b| {
        logits[b as usize]
            .total_cmp(&logits[a as usize])
            .then(a.cmp(&b))
    });
}
