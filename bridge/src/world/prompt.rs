//! The grammar of prompts.

use std::sync::Arc;

use rto::Token;

use super::words::{ANIMALS, Topic, encode, own};

/// What a prompt asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// `hello`, `hi`, `please` or nothing.
    pub opening: Option<&'static str>,
    /// Index of the animal.
    pub(super) animal: usize,
    /// One topic or two.
    pub topics: Vec<Topic>,
    /// The user thanks, so a reply may close with "you are welcome !".
    pub thanks: bool,
    /// The user wants the bare facts.
    pub brief: bool,
}

impl Ask {
    /// The plural asked about.
    pub fn animal(&self) -> &'static str {
        ANIMALS[self.animal].0
    }

    /// The right word for a topic.
    pub fn fact(&self, topic: Topic) -> &'static str {
        ANIMALS[self.animal].1[topic as usize]
    }

    /// The prompt in words.
    pub fn text(&self) -> String {
        let mut text = String::from("<user>");
        match self.opening {
            Some("please") => text.push_str(" please ,"),
            Some(word) => text.push_str(&format!(" {word} !")),
            None => {}
        }
        for (i, topic) in self.topics.iter().enumerate() {
            let who = if i == 0 { self.animal() } else { "they" };
            let and = if i == 0 { "" } else { " and" };
            let question = match topic {
                Topic::Eat => format!("what do {who} eat"),
                Topic::Live => format!("where do {who} live"),
                Topic::Say => format!("what do {who} say"),
                Topic::Colour => format!("what colour are {who}"),
                Topic::Sleep => format!("when do {who} sleep"),
            };
            text.push_str(&format!("{and} {question}"));
        }
        text.push_str(" ?");
        if self.thanks {
            text.push_str(" thank you !");
        }
        if self.brief {
            text.push_str(" be brief .");
        }
        text.push_str(" <bot>");
        text
    }

    /// The prompt in tokens.
    pub fn tokens(&self) -> Arc<[Token]> {
        encode(&self.text()).into()
    }

    /// A reply that earns all there is to earn, with its end-of-sentence token.
    pub fn good_reply(&self) -> Vec<Token> {
        let mut text = String::new();
        match self.opening {
            _ if self.brief => {}
            Some("please") => text.push_str("sure ! "),
            Some(_) => text.push_str("hello ! "),
            None => {}
        }
        if !self.brief {
            text.push_str(self.animal());
        }
        for (i, topic) in self.topics.iter().enumerate() {
            text.push_str(if i == 0 { " " } else { " and " });
            if !self.brief {
                text.push_str(&topic.link().join(" "));
                text.push(' ');
            }
            text.push_str(self.fact(*topic));
        }
        text.push_str(" .");
        if self.thanks {
            text.push_str(" you are welcome !");
        }
        let mut tokens = encode(&text);
        tokens.push(own("<eos>"));
        tokens
    }
}

/// Every prompt of the grammar, in a fixed order: 12 animals × 25 questions × 4 openings × 3 endings = 3600.
pub(super) fn all() -> Vec<Ask> {
    let mut asks = Vec::new();
    for animal in 0..ANIMALS.len() {
        for first in Topic::ALL {
            for second in Topic::ALL {
                for opening in [None, Some("hello"), Some("hi"), Some("please")] {
                    for (thanks, brief) in [(false, false), (true, false), (false, true)] {
                        let topics = match first == second {
                            true => vec![first],
                            false => vec![first, second],
                        };
                        asks.push(Ask {
                            opening,
                            animal,
                            topics,
                            thanks,
                            brief,
                        });
                    }
                }
            }
        }
    }
    asks
}
