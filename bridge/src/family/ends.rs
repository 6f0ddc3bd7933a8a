//! The tokens that end a response.

use serde_json::{Value, json};

/// A set of tokens, any of which ends a response, and the one that training puts at the end of a reply.
///
/// Chat models name several: what ends a text, a message, a turn.
///
/// ```
/// use rto_bridge::family::EndTokens;
/// let ends = EndTokens::from(vec![128_001, 128_009]);
/// assert!(ends.contains(128_001) && ends.contains(128_009));
/// assert_eq!(ends.reply(), Some(128_009)); // of several, the last ends a turn
/// assert_eq!(EndTokens::default().reply(), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndTokens {
    /// The last is the one that training uses.
    tokens: Vec<u32>,
}

impl EndTokens {
    /// Whether a token ends a response.
    pub fn contains(&self, token: u32) -> bool {
        self.tokens.contains(&token)
    }

    /// What training puts at the end of a reply.
    pub fn reply(&self) -> Option<u32> {
        self.tokens.last().copied()
    }

    /// All of them, the one of [`EndTokens::reply`] last.
    pub fn all(&self) -> &[u32] {
        &self.tokens
    }

    /// These ends with more tokens that end a response; what training puts at the end of a reply stays.
    #[must_use]
    pub fn with(mut self, more: &[u32]) -> Self {
        let new = more.iter().filter(|t| !self.tokens.contains(t));
        let mut tokens: Vec<u32> = Vec::new();
        for &token in new {
            if !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        tokens.append(&mut self.tokens);
        Self { tokens }
    }

    /// These ends with `token` at the end of replies, which it may have been before.
    #[must_use]
    pub fn replying(mut self, token: u32) -> Self {
        self.tokens.retain(|t| *t != token);
        self.tokens.push(token);
        self
    }

    /// As `config.json` writes it: null, a token, or a list.
    pub(crate) fn to_json(&self) -> Value {
        match self.tokens[..] {
            [] => Value::Null,
            [one] => json!(one),
            _ => json!(self.tokens),
        }
    }
}

impl From<u32> for EndTokens {
    fn from(token: u32) -> Self {
        Self {
            tokens: vec![token],
        }
    }
}

impl From<Option<u32>> for EndTokens {
    fn from(token: Option<u32>) -> Self {
        Self {
            tokens: token.into_iter().collect(),
        }
    }
}

/// The last token of a list ends a turn: Llama 3's chat models list what ends a text, a message and a turn.
impl From<Vec<u32>> for EndTokens {
    fn from(list: Vec<u32>) -> Self {
        let last = list.last().copied();
        let ends = Self::default().with(&list);
        match last {
            Some(last) => ends.replying(last),
            None => ends,
        }
    }
}
