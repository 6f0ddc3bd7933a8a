//! Named defects: counted always, removed where their rule is on.

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use super::{ASSISTANT, HUMAN, LabelledText, Place, Prompt, TextPair, at};
use crate::Result;

/// A defect. A record with several is counted under each and removed under the first that is on, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The prompt is blank.
    EmptyPrompt,
    /// The two texts answer different prompts.
    DivergingHistories,
    /// A reply is blank, or the assistant never speaks.
    EmptyReply,
    /// The two replies are equal but for outer white space.
    IdenticalPair,
    /// The record was there before.
    Duplicate,
    /// The record was there before with winner and loser exchanged. Bradley–Terry labels do that honestly, so this
    /// rule is off by default.
    Reversed,
    /// A reply has, or starts with, a turn of the user.
    ///
    /// In the published test set of harmless-base all 28 such pairs of 2312 (1.2%) have a reply that *starts* with
    /// `Human:` and goes on as an assistant would: the label is wrong, the reply is not. It stands in 17 preferred and in 17
    /// rejected replies (both in 6), so it carries no preference. Published runs train on these pairs, and whoever repeats
    /// them should too, so the rule is off by default. A model trained from scratch on a few thousand pairs sees it in
    /// one target of 140 and may learn to open with it: switch the rule on there.
    HumanInReply,
    /// A prompt or reply has more tokens than [`Lengths`] allows.
    Overlong,
}

impl Rule {
    /// Every rule, in order.
    pub const ALL: [Self; 8] = [
        Self::EmptyPrompt,
        Self::DivergingHistories,
        Self::EmptyReply,
        Self::IdenticalPair,
        Self::Duplicate,
        Self::Reversed,
        Self::HumanInReply,
        Self::Overlong,
    ];

    /// The name in configs and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::EmptyPrompt => "empty-prompt",
            Self::DivergingHistories => "diverging-histories",
            Self::EmptyReply => "empty-reply",
            Self::IdenticalPair => "identical-pair",
            Self::Duplicate => "duplicate",
            Self::Reversed => "reversed",
            Self::HumanInReply => "human-in-reply",
            Self::Overlong => "overlong",
        }
    }

    /// The rule of a name.
    ///
    /// # Errors
    /// [`rto::Error::Config`] listing the names there are.
    pub fn from_name(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|rule| rule.name() == name);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            rto::Error::config("rule", name, format!("one of {names}")).into()
        })
    }
}

/// The longest texts allowed, in tokens.
#[derive(Clone, Copy)]
pub struct Lengths<'a> {
    /// Tokens of a text.
    pub tokens: &'a dyn Fn(&str) -> Result<usize>,
    /// The longest prompt.
    pub prompt: usize,
    /// The longest reply, without an end-of-sentence token.
    pub reply: usize,
    /// The longest prompt and reply together.
    pub total: usize,
}

/// What cleaning does.
#[derive(Clone)]
pub struct CleanOptions<'a> {
    /// The rules that remove.
    pub on: BTreeSet<Rule>,
    /// The longest texts that are kept; without them nothing is [`Rule::Overlong`].
    pub lengths: Option<Lengths<'a>>,
}

impl Default for CleanOptions<'_> {
    /// All rules but [`Rule::Reversed`] and [`Rule::HumanInReply`]; no length limit.
    fn default() -> Self {
        let off = [Rule::Reversed, Rule::HumanInReply];
        let on = Rule::ALL.into_iter().filter(|r| !off.contains(r));
        Self {
            on: on.collect(),
            lengths: None,
        }
    }
}

impl CleanOptions<'_> {
    /// Switches a rule on.
    pub fn with(mut self, rule: Rule) -> Self {
        self.on.insert(rule);
        self
    }

    /// Switches a rule off.
    pub fn without(mut self, rule: Rule) -> Self {
        self.on.remove(&rule);
        self
    }
}

/// What one rule did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleCount {
    /// The rule.
    pub rule: Rule,
    /// Whether it removes.
    pub on: bool,
    /// Records with the defect.
    pub found: usize,
    /// Records removed under this rule; these sum to what is missing.
    pub removed: usize,
    /// The first such record.
    pub first: Option<Place>,
}

/// What cleaning did. Prints as a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Records in.
    pub read: usize,
    /// Records out.
    pub kept: usize,
    /// One row per rule of [`Rule::ALL`].
    pub rules: Vec<RuleCount>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<20} {:>4} {:>8} {:>8}  first",
            "rule", "", "found", "removed"
        )?;
        for row in &self.rules {
            let (name, on) = (row.rule.name(), if row.on { "on" } else { "off" });
            write!(f, "{name:<20} {on:>4} {:>8} {:>8}", row.found, row.removed)?;
            match &row.first {
                Some(place) => writeln!(f, "  {place}")?,
                None => writeln!(f)?,
            }
        }
        write!(f, "{} records read, {} kept", self.read, self.kept)
    }
}

/// Counts the defects of pairs and removes those whose rule is on. The order is kept.
///
/// # Errors
/// Those of the token counter; [`crate::Error::Data`] when nothing is left.
pub fn clean_pairs(
    pairs: Vec<TextPair>,
    options: &CleanOptions,
) -> Result<(Vec<TextPair>, Report)> {
    let mut seen: HashSet<[String; 3]> = HashSet::new();
    let place = |pair: &TextPair| pair.place.clone();
    clean(pairs, options, place, |pair, lengths| {
        let mut found = defects_of_text(pair);
        let key = [&pair.prompt, &pair.chosen, &pair.rejected].map(String::clone);
        let reversed = [&pair.prompt, &pair.rejected, &pair.chosen].map(String::clone);
        if pair.chosen != pair.rejected && seen.contains(&reversed) {
            found.push(Rule::Reversed);
        }
        if !seen.insert(key) {
            found.push(Rule::Duplicate);
        }
        if let Some(limit) = lengths {
            let n = |text: &str| (limit.tokens)(text);
            let (x, reply) = (n(&pair.prompt)?, n(&pair.chosen)?.max(n(&pair.rejected)?));
            if x > limit.prompt || reply > limit.reply || x + reply > limit.total {
                found.push(Rule::Overlong);
            }
        }
        Ok(found)
    })
}

/// Counts the defects of labelled replies and removes those whose rule is on. The order is kept. A reply that is there again with the other
/// label is a duplicate of neither.
///
/// # Errors
/// Those of [`clean_pairs`].
pub fn clean_labelled(
    items: Vec<LabelledText>,
    options: &CleanOptions,
) -> Result<(Vec<LabelledText>, Report)> {
    let mut seen = HashSet::new();
    let place = |item: &LabelledText| item.place.clone();
    clean(items, options, place, |item, lengths| {
        let mut found = Vec::new();
        let reply = item.completion.trim();
        let tests = [
            (Rule::EmptyPrompt, item.prompt.trim().is_empty()),
            (Rule::EmptyReply, reply.is_empty()),
            (
                Rule::HumanInReply,
                item.prompt.ends_with(ASSISTANT) && speaks_as_human(reply),
            ),
        ];
        found.extend(
            tests
                .iter()
                .filter(|(_, holds)| *holds)
                .map(|(rule, _)| *rule),
        );
        if !seen.insert((item.prompt.clone(), item.completion.clone(), item.desirable)) {
            found.push(Rule::Duplicate);
        }
        if let Some(limit) = lengths {
            let (x, y) = (
                (limit.tokens)(&item.prompt)?,
                (limit.tokens)(&item.completion)?,
            );
            if x > limit.prompt || y > limit.reply || x + y > limit.total {
                found.push(Rule::Overlong);
            }
        }
        Ok(found)
    })
}

/// Counts the defects of prompts and removes those whose rule is on: blank, duplicate, overlong. The order is kept.
///
/// # Errors
/// Those of [`clean_pairs`].
pub fn clean_prompts(
    prompts: Vec<Prompt>,
    options: &CleanOptions,
) -> Result<(Vec<Prompt>, Report)> {
    let mut seen = HashSet::new();
    let place = |prompt: &Prompt| prompt.place.clone();
    clean(prompts, options, place, |prompt, lengths| {
        let mut found = Vec::new();
        if prompt.text.trim().is_empty() {
            found.push(Rule::EmptyPrompt);
        }
        if !seen.insert(prompt.text.clone()) {
            found.push(Rule::Duplicate);
        }
        if let Some(limit) = lengths {
            let n = (limit.tokens)(&prompt.text)?;
            if n > limit.prompt || n >= limit.total {
                found.push(Rule::Overlong);
            }
        }
        Ok(found)
    })
}

fn defects_of_text(pair: &TextPair) -> Vec<Rule> {
    let (chosen, rejected) = (pair.chosen.trim(), pair.rejected.trim());
    let tests = [
        (Rule::EmptyPrompt, pair.prompt.trim().is_empty()),
        (Rule::DivergingHistories, pair.rejected_prompt.is_some()),
        (Rule::EmptyReply, chosen.is_empty() || rejected.is_empty()),
        (Rule::IdenticalPair, chosen == rejected),
        (
            Rule::HumanInReply,
            pair.prompt.ends_with(ASSISTANT)
                && (speaks_as_human(chosen) || speaks_as_human(rejected)),
        ),
    ];
    let holds = tests.into_iter().filter(|(_, holds)| *holds);
    holds.map(|(rule, _)| rule).collect()
}

/// Whether a reply has, or starts with, a turn of the user.
fn speaks_as_human(reply: &str) -> bool {
    reply.contains(HUMAN) || reply.starts_with(HUMAN.trim_start_matches('\n'))
}

fn clean<T>(
    items: Vec<T>,
    options: &CleanOptions,
    place: impl Fn(&T) -> Place,
    mut defects: impl FnMut(&T, Option<&Lengths>) -> Result<Vec<Rule>>,
) -> Result<(Vec<T>, Report)> {
    let read = items.len();
    let row = |rule| RuleCount {
        rule,
        on: options.on.contains(&rule),
        found: 0,
        removed: 0,
        first: None,
    };
    let mut rules: Vec<RuleCount> = Rule::ALL.into_iter().map(row).collect();
    let (mut kept, mut last) = (Vec::new(), None);
    for item in items {
        let found = defects(&item, options.lengths.as_ref())?;
        let mut removed = false;
        for row in rules.iter_mut().filter(|row| found.contains(&row.rule)) {
            row.found += 1;
            row.first.get_or_insert_with(|| place(&item));
            if row.on && !removed {
                removed = true;
                row.removed += 1;
            }
        }
        last = Some(place(&item));
        if !removed {
            kept.push(item);
        }
    }
    let report = Report {
        read,
        kept: kept.len(),
        rules,
    };
    match last {
        Some(place) if kept.is_empty() => {
            let worst = report.rules.iter().max_by_key(|r| r.removed);
            let name = worst.map_or("", |r| r.rule.name());
            let why =
                format!("no record of {read} is left after cleaning; most fell to rule {name}");
            Err(at(&place, why))
        }
        _ => Ok((kept, report)),
    }
}
