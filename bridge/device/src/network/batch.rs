//! Texts of one pass, on the host and on the device.

use crate::buffer::Buffer;
use crate::device::{Device, upload_u32};
use crate::kernels::{NO_ROW, Texts};
use crate::{Error, Result};

/// Texts one after the other, each a prompt and a response; the first token of a text has position 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    tokens: Vec<u32>,
    texts: Vec<Text>,
}

/// Where a text lies among the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text {
    /// Its first token.
    pub start: usize,
    /// Tokens of the prompt, at least one.
    pub prompt: usize,
    /// Tokens of the response.
    pub response: usize,
}

impl Text {
    fn len(&self) -> usize {
        self.prompt + self.response
    }
}

impl Batch {
    /// Texts as prompts and responses.
    ///
    /// # Errors
    /// [`Error::Network`] for an empty prompt, or none at all.
    pub fn new(texts: &[(&[u32], &[u32])]) -> Result<Self> {
        let mut batch = Self::default();
        for (i, (prompt, response)) in texts.iter().enumerate() {
            if prompt.is_empty() {
                return Err(Error::Network(format!("text {i}: an empty prompt")));
            }
            batch.texts.push(Text {
                start: batch.tokens.len(),
                prompt: prompt.len(),
                response: response.len(),
            });
            batch.tokens.extend_from_slice(prompt);
            batch.tokens.extend_from_slice(response);
        }
        match batch.texts.is_empty() {
            true => Err(Error::Network("a batch without a text".into())),
            false => Ok(batch),
        }
    }

    /// All tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The texts.
    pub fn texts(&self) -> &[Text] {
        &self.texts
    }

    /// Tokens of all responses.
    pub fn responses(&self) -> usize {
        self.texts.iter().map(|t| t.response).sum()
    }

    pub(crate) fn longest(&self) -> usize {
        self.texts.iter().map(Text::len).max().unwrap_or(0)
    }

    /// The tokens of all responses, one after the other.
    fn targets(&self) -> Vec<u32> {
        let response = |t: &Text| self.tokens[t.start + t.prompt..t.start + t.len()].to_vec();
        self.texts.iter().flat_map(response).collect()
    }

    pub(crate) fn positions(&self) -> Vec<u32> {
        self.texts.iter().flat_map(|t| 0..t.len() as u32).collect()
    }

    /// The states before every response token, then (where it is asked for) those after the last tokens.
    pub(crate) fn states(&self, with_final: bool) -> Vec<u32> {
        let state = |t: &Text, h: usize| (t.start + t.prompt - 1 + h) as u32;
        let during = self
            .texts
            .iter()
            .flat_map(|t| (0..t.response).map(move |h| state(t, h)));
        let last = self.texts.iter().map(|t| state(t, t.response));
        let last = last.filter(|_| with_final);
        during.chain(last).collect()
    }
}

/// A batch on the device.
#[derive(Debug)]
pub(crate) struct Laid {
    pub tokens: Buffer,
    starts: Buffer,
    count: usize,
    time: usize,
    /// Positions, where a table of them is read.
    pub positions: Option<Buffer>,
    /// Packed indices of the states that are read.
    pub states: Buffer,
    pub targets: Buffer,
}

impl Laid {
    pub fn new(device: &dyn Device, batch: &Batch, places: bool, with_final: bool) -> Result<Self> {
        let mut starts: Vec<u32> = batch.texts.iter().map(|t| t.start as u32).collect();
        starts.push(batch.tokens.len() as u32);
        let positions = places.then(|| upload_u32(device, &batch.positions()));
        Ok(Self {
            tokens: upload_u32(device, &batch.tokens)?,
            starts: upload_u32(device, &starts)?,
            count: batch.tokens.len(),
            time: batch.longest(),
            positions: positions.transpose()?,
            states: upload_u32(device, &batch.states(with_final))?,
            targets: upload_u32(device, &batch.targets())?,
        })
    }

    pub fn texts(&self) -> Texts<'_> {
        Texts {
            starts: &self.starts,
            tokens: self.count,
            time: self.time,
        }
    }
}

/// For every token the number of its state among those that are read.
pub(crate) fn rows_of_states(tokens: usize, states: &[u32]) -> Vec<u32> {
    let mut rows = vec![NO_ROW; tokens];
    for (row, &state) in states.iter().enumerate() {
        rows[state as usize] = row as u32;
    }
    rows
}

/// Rows by what they hold: the distinct ids, where each one's rows begin, and the rows in their order.
pub(crate) fn sorted(ids: &[u32]) -> [Vec<u32>; 3] {
    let mut order: Vec<u32> = (0..ids.len() as u32).collect();
    order.sort_by_key(|&row| ids[row as usize]);
    let (mut distinct, mut firsts) = (Vec::new(), Vec::new());
    for (at, &row) in order.iter().enumerate() {
        let id = ids[row as usize];
        if distinct.last() != Some(&id) {
            distinct.push(id);
            firsts.push(at as u32);
        }
    }
    firsts.push(ids.len() as u32);
    [distinct, firsts, order]
}
