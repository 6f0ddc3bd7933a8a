//! The policy that wrote the demonstrations: it mostly knows, and sometimes errs, rambles or is rude.

use rto::Token;

use super::prompt::Ask;
use super::reading::Reading;
use super::words::{
    ANIMALS, BOT, EOS, PAD, Topic, UNK, USER, WORDS, own, popular_error, topic_of, verb_of,
};

/// Share of a uniform draw over all words, which gives the policy full support.
const SLIP: f64 = 0.02;

/// π_demo(·|s), `[n_words]`: positive on every word and the end of sentence, 0 on the other special tokens. The `disagreement`
/// with the preferences moves weight from the right fact
/// (0.65 at 0) to one wrong one (0.65 at 1): in the middle each is as likely as the other, beyond it the mode is wrong.
pub(super) fn distribution(ask: &Ask, reading: &Reading, disagreement: f64) -> Vec<f64> {
    let mut probs = vec![0.0; WORDS.len()];
    let plan = plan(ask, reading, disagreement);
    let total: f64 = plan.iter().map(|(_, w)| w).sum();
    for (token, weight) in plan {
        probs[token as usize] += (1.0 - SLIP) * weight / total;
    }
    let silent = [PAD, UNK, USER, BOT];
    let share = SLIP / (WORDS.len() - silent.len()) as f64;
    for (i, p) in probs.iter_mut().enumerate() {
        if !silent.contains(&(i as Token)) {
            *p += share;
        }
    }
    probs
}

/// Weights of the continuations that make sense.
fn plan(ask: &Ask, reading: &Reading, disagreement: f64) -> Vec<(Token, f64)> {
    let last = reading.last();
    let word = |w: &str, weight: f64| (own(w), weight);
    if reading.ends_with(&["you", "are"]) {
        return vec![
            word("welcome", 0.9),
            word("stupid", 0.06),
            word("dumb", 0.04),
        ];
    }
    let is_animal = ANIMALS.iter().any(|(name, _)| *name == last);
    let done = reading.pending(ask).is_empty();
    if is_animal || last == "they" {
        let mut plan = verbs(ask, reading, 1.0);
        plan.push(word("really", 0.04));
        return plan;
    }
    if let Some(topic) = reading.open {
        let link = topic.link();
        return match link.len() == 2 && last == link[0] {
            true => vec![word(link[1], 1.0)],
            false => facts(ask, topic, disagreement),
        };
    }
    if topic_of(last).is_some() {
        return match done {
            true => vec![word(".", 0.8), word("and", 0.12), (EOS, 0.08)],
            false => vec![word("and", 0.65), word(".", 0.25), (EOS, 0.1)],
        };
    }
    match last {
        "hello" | "hi" | "sure" => vec![word("!", 0.8), word(",", 0.2)],
        "and" => next_clause(ask, reading, disagreement),
        "you" => vec![word("are", 1.0)],
        "welcome" => vec![word("!", 0.9), word(".", 0.1)],
        "i" => vec![word("do", 0.7), word("think", 0.3)],
        "do" => vec![word("not", 1.0)],
        "not" => vec![word("know", 1.0)],
        "know" => vec![word(".", 1.0)],
        "go" => vec![word("away", 1.0)],
        "stupid" | "dumb" | "away" => vec![word(".", 0.5), word("!", 0.4), (EOS, 0.1)],
        "." | "!" if reading.words.len() > 2 => after_stop(ask, reading),
        _ => start(ask, reading, disagreement),
    }
}

fn start(ask: &Ask, reading: &Reading, disagreement: f64) -> Vec<(Token, f64)> {
    let mut plan = vec![
        (own(ask.animal()), 0.7),
        (own("i"), 0.06),
        (own("they"), 0.04),
    ];
    let others = ANIMALS.iter().filter(|(name, _)| *name != ask.animal());
    plan.extend(others.map(|(name, _)| (own(name), 0.01)));
    plan.extend([(own("well"), 0.03), (own("um"), 0.03), (own("go"), 0.02)]);
    let bare = if ask.brief { 0.6 } else { 0.08 };
    for topic in reading.pending(ask) {
        let facts = facts(ask, topic, disagreement).into_iter();
        plan.extend(facts.map(|(t, w)| (t, w * bare)));
    }
    if reading.words.is_empty() {
        let greet = if ask.opening.is_some() { 0.6 } else { 0.06 };
        let fit = if ask.opening == Some("please") {
            "sure"
        } else {
            "hello"
        };
        plan.extend([(own(fit), greet), (own("hi"), 0.05), (own("sure"), 0.05)]);
    }
    plan
}

/// Weights of the words that may answer; they sum to 1 but for what a colour may be mistaken for.
fn facts(ask: &Ask, topic: Topic, disagreement: f64) -> Vec<(Token, f64)> {
    let (right, popular) = (ask.fact(topic), popular_error(ask.animal, topic));
    let n = topic.facts().len();
    // Where the two part wholly: the popular error as often as the right fact was, and the rest of the weight spread evenly.
    let parted = |word: &str| match word == popular {
        true => 0.65,
        false => 0.35 / (n - 1) as f64,
    };
    let mixed =
        |word: &str, agreed: f64| (1.0 - disagreement) * agreed + disagreement * parted(word);
    let wrong = topic.facts().iter().filter(|w| **w != right);
    let share = 0.35 / (n - 1) as f64;
    let mut plan: Vec<_> = wrong.map(|w| (own(w), mixed(w, share))).collect();
    plan.push((own(right), mixed(right, 0.65)));
    if topic == Topic::Colour {
        plan.extend([
            (own("stupid"), 0.04),
            (own("dumb"), 0.03),
            (own("very"), 0.03),
        ]);
    }
    plan
}

fn verbs(ask: &Ask, reading: &Reading, weight: f64) -> Vec<(Token, f64)> {
    let pending = reading.pending(ask);
    let share = |t: Topic| if pending.contains(&t) { 0.9 } else { 0.03 };
    let verb = |t: Topic| (own(t.link()[0]), weight * share(t));
    let plan: Vec<_> = Topic::ALL.into_iter().map(verb).collect();
    debug_assert!(
        plan.iter()
            .all(|(t, _)| verb_of(WORDS[*t as usize]).is_some())
    );
    plan
}

fn next_clause(ask: &Ask, reading: &Reading, disagreement: f64) -> Vec<(Token, f64)> {
    let mut plan = verbs(ask, reading, if ask.brief { 0.4 } else { 1.0 });
    plan.push((own("they"), 0.1));
    let bare = if ask.brief { 1.0 } else { 0.05 };
    for topic in reading.pending(ask) {
        let facts = facts(ask, topic, disagreement).into_iter();
        plan.extend(facts.map(|(t, w)| (t, w * bare)));
    }
    plan
}

fn after_stop(ask: &Ask, reading: &Reading) -> Vec<(Token, f64)> {
    let closed = reading.words.contains(&"welcome");
    let thanks = if ask.thanks && !closed { 0.5 } else { 0.03 };
    let mut plan = vec![(EOS, 0.8), (own("you"), thanks), (own("they"), 0.12)];
    plan.extend([
        (own(ask.animal()), 0.06),
        (own("go"), 0.02),
        (own("um"), 0.02),
    ]);
    plan
}
