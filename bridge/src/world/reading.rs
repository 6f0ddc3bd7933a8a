//! What a prefix of a reply says so far, and what its next token is worth.

use rto::Token;

use super::prompt::Ask;
use super::words::{ANIMALS, EOS, Topic, WORDS, topic_of, verb_of};

/// s_h as the reward sees it.
#[derive(Debug, Clone, Default)]
pub(super) struct Reading {
    /// Words so far, end-of-sentence excluded.
    pub words: Vec<&'static str>,
    /// The animal last named.
    pub subject: Option<&'static str>,
    /// The topic whose verb was said and whose fact is still to come.
    pub open: Option<Topic>,
    /// Topics answered rightly.
    pub answered: Vec<Topic>,
    /// The full stop after the whole answer has been written.
    pub stopped: bool,
}

impl Reading {
    pub fn last(&self) -> &'static str {
        self.words.last().copied().unwrap_or("")
    }

    /// Topics that were asked about and not yet answered.
    pub fn pending(&self, ask: &Ask) -> Vec<Topic> {
        let left = ask.topics.iter().filter(|t| !self.answered.contains(t));
        left.copied().collect()
    }

    pub fn ends_with(&self, words: &[&str]) -> bool {
        self.words.ends_with(words)
    }

    /// Points of the next token, in [−2, 2].
    pub fn points(&self, ask: &Ask, token: Token) -> f64 {
        let Some(word) = WORDS.get(token as usize) else {
            return -1.0;
        };
        let done = self.pending(ask).is_empty();
        if token == EOS {
            let ended = [".", "!"].contains(&self.last());
            let missing = self.pending(ask).len() as f64;
            return if done && ended {
                0.5
            } else {
                -0.3 - 0.5 * missing
            };
        }
        let length = if ask.brief { -0.1 } else { -0.03 };
        length + self.content(ask, word, done) + self.repetition(word)
    }

    fn content(&self, ask: &Ask, word: &str, done: bool) -> f64 {
        if let Some(topic) = topic_of(word) {
            // "grass barns": two facts without a word between them.
            let run_on = topic_of(self.last()).map_or(0.0, |_| -0.2);
            return run_on + self.fact(ask, topic, word);
        }
        match word {
            "stupid" | "dumb" | "away" => -1.5,
            "<pad>" | "<unk>" | "<user>" | "<bot>" | "?" => -1.0,
            "well" | "um" | "really" | "very" | "maybe" => -0.15,
            "know" if self.ends_with(&["do", "not"]) => -0.5,
            "hello" | "hi" | "sure" => self.opener(ask, word),
            "." if done && !self.stopped => 0.3,
            "welcome" if self.stopped && ask.thanks && self.ends_with(&["you", "are"]) => 0.5,
            _ if ANIMALS.iter().any(|(name, _)| *name == word) && word != ask.animal() => -0.5,
            _ => 0.0,
        }
    }

    /// A right fact pays in full at the end of a clause about the animal asked about, or when brevity is wanted.
    fn fact(&self, ask: &Ask, topic: Topic, word: &str) -> f64 {
        let linked = self.open == Some(topic) && self.ends_with(topic.link());
        let about = self.subject == Some(ask.animal());
        match (ask.topics.contains(&topic), ask.fact(topic) == word) {
            _ if self.answered.contains(&topic) => -0.3,
            (true, true) if ask.brief && self.subject.is_none_or(|s| s == ask.animal()) => 1.0,
            (true, true) if linked && about => 1.0,
            (true, true) => 0.3,
            (true, false) => -0.6,
            (false, true) => -0.2,
            (false, false) => -0.5,
        }
    }

    fn opener(&self, ask: &Ask, word: &str) -> f64 {
        let fits = match ask.opening {
            Some("please") => word == "sure",
            Some(_) => word != "sure",
            None => false,
        };
        match fits && self.words.is_empty() && !ask.brief {
            true => 0.4,
            false => -0.2,
        }
    }

    fn repetition(&self, word: &str) -> f64 {
        let free = [".", ",", "!", "and", "are", "in", "by", "they"];
        if self.last() == word {
            -0.5
        } else if self.words.contains(&word) && !free.contains(&word) {
            -0.2
        } else {
            0.0
        }
    }

    /// Moves to the next state.
    pub fn push(&mut self, ask: &Ask, token: Token) {
        let Some(&word) = WORDS.get(token as usize) else {
            return;
        };
        if let Some(topic) = topic_of(word) {
            let right = ask.topics.contains(&topic) && ask.fact(topic) == word;
            if right && !self.answered.contains(&topic) {
                self.answered.push(topic);
            }
            self.open = None;
        } else if let Some(topic) = verb_of(word) {
            // "you are" opens a courtesy, not a colour.
            self.open = (self.last() != "you").then_some(topic);
        } else if let Some((name, _)) = ANIMALS.iter().find(|(name, _)| *name == word) {
            self.subject = Some(name);
        } else if word == "." {
            self.stopped |= self.pending(ask).is_empty();
            self.open = None;
        }
        self.words.push(word);
    }
}
