//! The vocabulary and the facts.

use rto::Token;

/// Padding, never part of an episode.
pub const PAD: Token = 0;
/// End of sentence.
pub const EOS: Token = 1;
/// What a tokenizer makes of a word it does not know.
pub const UNK: Token = 2;
/// Opens the user's turn.
pub const USER: Token = 3;
/// Opens the reply.
pub const BOT: Token = 4;

/// Word of each token, `[n_words]`.
pub const WORDS: [&str; 100] = [
    "<pad>", "<eos>", "<unk>", "<user>", "<bot>", ".", ",", "!", "?", "what", "where", "when",
    "do", "they", "colour", "are", "eat", "live", "say", "sleep", "in", "by", "and", "hello", "hi",
    "please", "thank", "you", "sure", "welcome", "be", "brief", "stupid", "dumb", "go", "away",
    "well", "um", "really", "very", "i", "think", "not", "know", "no", "yes", "cats", "dogs",
    "cows", "hens", "ducks", "bees", "frogs", "bears", "sheep", "mice", "owls", "horses", "fish",
    "meat", "grass", "seeds", "bread", "honey", "flies", "berries", "leaves", "cheese", "hay",
    "houses", "barns", "ponds", "hives", "caves", "fields", "holes", "trees", "meow", "woof",
    "moo", "cluck", "quack", "buzz", "croak", "growl", "baa", "squeak", "hoot", "neigh", "black",
    "brown", "white", "yellow", "green", "grey", "day", "night", "maybe", "sorry", "it",
];

/// What can be asked of an animal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// "what do cats eat"
    Eat,
    /// "where do cats live"
    Live,
    /// "what do cats say"
    Say,
    /// "what colour are cats"
    Colour,
    /// "when do cats sleep"
    Sleep,
}

impl Topic {
    /// All topics.
    pub const ALL: [Self; 5] = [Self::Eat, Self::Live, Self::Say, Self::Colour, Self::Sleep];

    /// The words that lead from the subject to the fact.
    pub fn link(self) -> &'static [&'static str] {
        match self {
            Self::Eat => &["eat"],
            Self::Live => &["live", "in"],
            Self::Say => &["say"],
            Self::Colour => &["are"],
            Self::Sleep => &["sleep", "by"],
        }
    }

    /// Every fact word of the topic, right or wrong.
    pub fn facts(self) -> &'static [&'static str] {
        match self {
            Self::Eat => &WORDS[58..69],
            Self::Live => &WORDS[69..77],
            Self::Say => &WORDS[77..89],
            Self::Colour => &WORDS[89..95],
            Self::Sleep => &WORDS[95..97],
        }
    }
}

/// The animals, and their facts in the order of [`Topic::ALL`].
pub(super) const ANIMALS: [(&str, [&str; 5]); 12] = [
    ("cats", ["fish", "houses", "meow", "grey", "day"]),
    ("dogs", ["meat", "houses", "woof", "brown", "night"]),
    ("cows", ["grass", "barns", "moo", "white", "night"]),
    ("hens", ["seeds", "barns", "cluck", "brown", "night"]),
    ("ducks", ["bread", "ponds", "quack", "white", "night"]),
    ("bees", ["honey", "hives", "buzz", "yellow", "night"]),
    ("frogs", ["flies", "ponds", "croak", "green", "day"]),
    ("bears", ["berries", "caves", "growl", "brown", "night"]),
    ("sheep", ["leaves", "fields", "baa", "white", "night"]),
    ("mice", ["cheese", "holes", "squeak", "grey", "day"]),
    ("owls", ["meat", "trees", "hoot", "grey", "day"]),
    ("horses", ["hay", "fields", "neigh", "black", "night"]),
];

/// The error that is made most often where demonstrations are wrong: what is true of the animal's neighbour in the list (cats and
/// dogs, cows and hens, …), or, where that is the same, of the next animal of which it is not.
pub(super) fn popular_error(animal: usize, topic: Topic) -> &'static str {
    let fact = |i: usize| ANIMALS[i % ANIMALS.len()].1[topic as usize];
    let others = (animal + 1..animal + ANIMALS.len()).map(fact);
    let mut candidates = std::iter::once(fact(animal ^ 1)).chain(others);
    let wrong = candidates.find(|other| *other != fact(animal));
    wrong.expect("of no topic all animals say the same")
}

/// The token of a word.
pub fn token(word: &str) -> Option<Token> {
    WORDS.iter().position(|w| *w == word).map(|i| i as Token)
}

/// The token of a word written in this module's own tables.
pub(super) fn own(word: &str) -> Token {
    token(word).expect("a word of the vocabulary")
}

/// The topic a fact word belongs to.
pub(super) fn topic_of(word: &str) -> Option<Topic> {
    Topic::ALL.into_iter().find(|t| t.facts().contains(&word))
}

/// The topic a verb opens.
pub(super) fn verb_of(word: &str) -> Option<Topic> {
    Topic::ALL.into_iter().find(|t| t.link()[0] == word)
}

/// Words joined by blanks; a token outside the vocabulary reads `<unk>`.
pub fn decode(tokens: &[Token]) -> String {
    let word = |t: &Token| *WORDS.get(*t as usize).unwrap_or(&WORDS[UNK as usize]);
    tokens.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// Tokens of words separated by white space.
pub fn encode(text: &str) -> Vec<Token> {
    let words = text.split_whitespace();
    words.map(|w| token(w).unwrap_or(UNK)).collect()
}

/// `tokenizer.json` of a Hugging Face WordLevel tokenizer with these ids.
pub fn tokenizer_json() -> String {
    let special = |id: usize| {
        serde_json::json!({"id": id, "content": WORDS[id], "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
    };
    let added: Vec<_> = (0..5).map(special).collect();
    let vocab: serde_json::Map<_, _> = (0..WORDS.len())
        .map(|id| (WORDS[id].to_string(), id.into()))
        .collect();
    let model = serde_json::json!({"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"});
    let whole = serde_json::json!({"version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added, "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null, "decoder": null, "model": model});
    whole.to_string()
}

/// `tokenizer_config.json` beside it.
pub fn tokenizer_config_json() -> String {
    let whole = serde_json::json!({"tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>",
        "additional_special_tokens": ["<user>", "<bot>"], "clean_up_tokenization_spaces": false});
    whole.to_string()
}
