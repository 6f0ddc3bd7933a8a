//! Texts packed one after the other; padding exists only on the way in and, for other devices, on the way out.

use crate::{Error, Result};
use rto::Token;

/// One prompt and response within a [`Batch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The index of the first prompt token among the packed tokens.
    pub start: usize,
    /// Prompt tokens, at least one.
    pub prompt: usize,
    /// Response tokens `H_i`.
    pub response: usize,
}

impl Row {
    /// Prompt and response tokens.
    pub fn len(&self) -> usize {
        self.prompt + self.response
    }

    /// Whether there is no token at all; never of a row of a [`Batch`].
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the state `s_h` (0-based; `h = H` is the final state) is read: the last token before `y_h`.
    pub fn state(&self, h: usize) -> usize {
        self.start + self.prompt - 1 + h
    }
}

/// Packed texts, each a non-empty prompt and a response, with the position of every token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    tokens: Vec<Token>,
    positions: Vec<u32>,
    rows: Vec<Row>,
}

/// How the columns of a padded batch become positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// The first real token is at 0, whatever stands before it.
    FromMask,
    /// A token's position is its column, padding counted.
    FromColumn,
}

impl Batch {
    /// Prompts and responses, positions from 0.
    ///
    /// # Errors
    /// [`Error::Batch`] for an empty prompt: the first response token would have no state to be predicted from.
    pub fn new(texts: &[(&[Token], &[Token])]) -> Result<Self> {
        let mut batch = Self {
            tokens: Vec::new(),
            positions: Vec::new(),
            rows: Vec::new(),
        };
        for (i, (prompt, response)) in texts.iter().enumerate() {
            batch.push(i, prompt, response, 0)?;
        }
        Ok(batch)
    }

    fn push(&mut self, i: usize, prompt: &[Token], response: &[Token], first: u32) -> Result<()> {
        if prompt.is_empty() {
            return Err(Error::Batch {
                row: i,
                what: "an empty prompt, expected at least one token".into(),
            });
        }
        let row = Row {
            start: self.tokens.len(),
            prompt: prompt.len(),
            response: response.len(),
        };
        self.tokens.extend_from_slice(prompt);
        self.tokens.extend_from_slice(response);
        self.positions.extend((first..).take(row.len()));
        self.rows.push(row);
        Ok(())
    }

    /// Rows of equal length with padding on either side: `mask` is true at real tokens, `response` at response tokens.
    ///
    /// # Errors
    /// [`Error::Batch`] where lengths differ, the real tokens are not contiguous, no prompt token remains, or the response
    /// is not the end of the real tokens.
    pub fn from_padded(
        tokens: &[Vec<Token>],
        mask: &[Vec<bool>],
        response: &[Vec<bool>],
        positions: Positions,
    ) -> Result<Self> {
        if mask.len() != tokens.len() || response.len() != tokens.len() {
            let what = format!(
                "{} rows of tokens, {} of mask, {} of response",
                tokens.len(),
                mask.len(),
                response.len()
            );
            return Err(Error::Batch {
                row: tokens.len().min(mask.len()).min(response.len()),
                what,
            });
        }
        let mut batch = Self {
            tokens: Vec::new(),
            positions: Vec::new(),
            rows: Vec::new(),
        };
        for (i, ((tokens, mask), response)) in tokens.iter().zip(mask).zip(response).enumerate() {
            let refused = |what: &str| Error::Batch {
                row: i,
                what: what.into(),
            };
            if mask.len() != tokens.len() || response.len() != tokens.len() {
                return Err(refused(
                    "mask or response of another length than the tokens",
                ));
            }
            let real = contiguous(mask)
                .ok_or_else(|| refused("padding between tokens, expected it at the ends"))?;
            let answer = contiguous(response)
                .ok_or_else(|| refused("a response in pieces, expected one run of tokens"))?;
            if !answer.is_empty() && (answer.end != real.end || answer.start < real.start) {
                return Err(refused("a response that does not end with the text"));
            }
            let split = if answer.is_empty() {
                real.end
            } else {
                answer.start
            };
            let first = if positions == Positions::FromMask {
                0
            } else {
                real.start as u32
            };
            batch.push(
                i,
                &tokens[real.start..split],
                &tokens[split..real.end],
                first,
            )?;
        }
        Ok(batch)
    }

    /// All tokens, packed.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// The position of every packed token within its text, `[tokens]`.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// The texts.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Lengths of the texts.
    pub fn lengths(&self) -> Vec<usize> {
        self.rows.iter().map(Row::len).collect()
    }

    /// Response tokens `Σ H_i`, packed: the targets of the log-probabilities.
    pub fn targets(&self) -> Vec<Token> {
        let response = |r: &Row| self.tokens[r.start + r.prompt..r.start + r.len()].to_vec();
        self.rows.iter().flat_map(response).collect()
    }

    /// Starts of the rows in the ragged `[B][H_i]` arrays of scores, and their total length at the end.
    pub fn offsets(&self) -> Vec<usize> {
        let mut offsets = vec![0];
        offsets.extend(self.rows.iter().scan(0, |total, row| {
            *total += row.response;
            Some(*total)
        }));
        offsets
    }

    /// The rows `range` as a batch of their own: a micro-batch.
    #[must_use]
    pub fn slice(&self, range: std::ops::Range<usize>) -> Self {
        let rows = &self.rows[range];
        let from = rows.first().map_or(0, |r| r.start);
        let to = rows.last().map_or(from, |r| r.start + r.len());
        Self {
            tokens: self.tokens[from..to].to_vec(),
            positions: self.positions[from..to].to_vec(),
            rows: rows
                .iter()
                .map(|r| Row {
                    start: r.start - from,
                    ..*r
                })
                .collect(),
        }
    }

    /// Lengths in the order of their first texts, with the first tokens of the texts that have each.
    pub(crate) fn by_length(&self) -> Vec<(usize, Vec<usize>)> {
        let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
        for row in &self.rows {
            match groups.iter_mut().find(|(length, _)| *length == row.len()) {
                Some((_, starts)) => starts.push(row.start),
                None => groups.push((row.len(), vec![row.start])),
            }
        }
        groups
    }
}

/// The run of `true`s, `None` where there are several.
fn contiguous(mask: &[bool]) -> Option<std::ops::Range<usize>> {
    let start = mask.iter().position(|&m| m).unwrap_or(0);
    let end = mask.iter().rposition(|&m| m).map_or(start, |last| last + 1);
    mask[start..end].iter().all(|&m| m).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_on_either_side_packs_to_the_same_batch() {
        let plain = Batch::new(&[(&[5, 6], &[7]), (&[8], &[9, 9, 9])]).unwrap();
        let tokens = [vec![1, 5, 6, 7], vec![8, 9, 9, 9]];
        let mask = [vec![false, true, true, true], vec![true; 4]];
        let response = [
            vec![false, false, false, true],
            vec![false, true, true, true],
        ];
        let left = Batch::from_padded(&tokens, &mask, &response, Positions::FromMask).unwrap();
        assert_eq!(left, plain);
        let columns = Batch::from_padded(&tokens, &mask, &response, Positions::FromColumn).unwrap();
        assert_eq!(columns.positions(), [1, 2, 3, 0, 1, 2, 3]);
        assert_eq!(plain.offsets(), [0, 1, 4]);
        assert_eq!(plain.targets(), [7, 9, 9, 9]);
        assert_eq!(
            plain.slice(1..2),
            Batch::new(&[(&[8], &[9, 9, 9])]).unwrap()
        );
    }

    #[test]
    fn what_cannot_be_scored_is_refused() {
        let refused = |mask: [bool; 3], response: [bool; 3]| {
            let made = Batch::from_padded(
                &[vec![1, 2, 3]],
                &[mask.to_vec()],
                &[response.to_vec()],
                Positions::FromMask,
            );
            made.unwrap_err().to_string()
        };
        assert!(refused([true, false, true], [false; 3]).contains("padding between tokens"));
        assert!(refused([true; 3], [true; 3]).contains("empty prompt"));
        assert!(refused([true; 3], [false, true, false]).contains("does not end with the text"));
        assert!(refused([false; 3], [false; 3]).contains("empty prompt"));
        assert!(Batch::new(&[(&[], &[1])]).is_err());
    }
}
