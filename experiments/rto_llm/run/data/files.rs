//! Preference files as episodes: read, cleaned, dealt out, tokenised.

use std::cell::Cell;
use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rto::Token;
use rto::algorithm2::{Labelled, Pair};
use rto::seed::SeedTree;
use rto::seq::{Episode, Finish};
use rto_bridge::checkpoint::{self, hub};
use rto_bridge::data::{
    self, ChatTemplate, CleanOptions, Columns, HasPrompt, Place, ReadOptions, Roles, Rule, Split,
    SplitKey,
};
use rto_bridge::family::{EndTokens, ModelConfig};
use rto_bridge::gguf;
use rto_bridge::tokenizer::Tokenizer;
use rto_bridge::tokenizer_training::{self, TrainingOptions};
use serde_json::json;

use super::base::{Base, base, fingerprint};
use super::codec::{Codec, TokenizerFiles};
use super::set::{Cut, Data, Feedback, Prompt, distinct, spread};
use crate::run::config::{Config, Vocabulary};

/// The ids of the special tokens of a tokenizer trained here.
const EOS: Token = 0;
const PAD: Token = 1;

/// Everything that `data` gives.
pub fn read(config: &Config, seeds: &SeedTree, cut: Cut) -> Result<Data> {
    let paths = paths(&config.data)?;
    let base = match config.model.as_str() {
        "" => None,
        name => Some(base(name)?),
    };
    let template = base.as_ref().map(|b| ChatTemplate::of_model(&b.folder));
    let template = template.unwrap_or_default();
    let options = ReadOptions {
        template: template.clone(),
        columns: Columns {
            prompt: config.prompt_column.clone(),
            chosen: config.chosen_column.clone(),
            rejected: config.rejected_column.clone(),
            system: config.system_column.clone(),
            ..Columns::default()
        },
        max_bad_lines: config.max_bad_lines,
        ..ReadOptions::default()
    };
    let (feedback, read_report) = data::read_feedback(&paths, &options)?;
    let (records, text_report) = clean(config, feedback)?;
    learnt_from(config, &records)?;
    let digest = digest(&records);
    let mut said = format!("{read_report}{text_report}\n");
    if records.iter().any(|record| record.templated) {
        said += &format!("{}\n", template.said());
    } else if template.is_own() {
        said += "the data are texts, not conversations: the model's chat template is not used\n";
    } else {
        said += &format!("{}\n", template.said());
    }
    let split = match cut {
        Cut::BySeed => seeds.clone(),
        Cut::ByText { .. } => SeedTree::new(0).child("split for tuning"),
    };
    let roles = deal(config, records, &split)?;
    let (tokenizer, files, network) = match &base {
        None => fresh(config, &roles.train)?,
        Some(Base {
            folder, network, ..
        }) => {
            let tokenizer = Tokenizer::load(folder, network)?;
            let files = match gguf::is_gguf(folder) {
                true => TokenizerFiles::Own(gguf::tokenizer_files(folder)?.into()),
                false => TokenizerFiles::Of(folder.clone()),
            };
            (tokenizer, files, network.clone())
        }
    };
    let notes = base.iter().flat_map(|b| &b.notes).chain(tokenizer.notes());
    for note in notes {
        said += &format!("{}: {note}\n", config.model);
    }
    said += &reward_reading(config, &network)?;
    let Some(eos) = network.eos_token() else {
        bail!(
            "--model {}: config.json names no eos_token_id, so no response could end",
            config.model
        );
    };
    let positions = network.max_positions();
    let room = positions.saturating_sub(config.max_new_tokens);
    if room == 0 {
        bail!(
            "max_new_tokens: found {}, expected at most {}: the model has {positions} positions, and a prompt needs one",
            config.max_new_tokens,
            positions.saturating_sub(1)
        );
    }
    if room < config.max_prompt_tokens {
        said += &format!(
            "max_prompt_tokens is {room} here: the model has {positions} positions, and max_new_tokens takes {}\n",
            config.max_new_tokens
        );
    }
    let maker = Maker {
        config,
        tokenizer: &tokenizer,
        ends: network.end_tokens(),
        eos,
        positions,
        longest_prompt: room.min(config.max_prompt_tokens),
        prompts_cut: Cell::new(0),
    };
    let (mut overlong, mut same) = (0, 0);
    let mut part = |name: &str, records: Vec<Record>| {
        let part = maker.part(records)?;
        overlong += part.overlong;
        same += part.same;
        if part.overlong > 0 {
            said += &format!(
                "{name}: {} of {} {} are too long\n",
                part.overlong,
                part.overlong + part.texts.len(),
                part.feedback.noun()
            );
        }
        Ok::<_, anyhow::Error>((part.texts, part.feedback))
    };
    let (train_texts, train) = part("train", roles.train)?;
    let (_, held_out_pairs) = part("held out", roles.held_out)?;
    let (oracle_texts, oracle_pairs) = part("oracle", roles.oracle)?;
    let dialogues = maker.dialogues(&train_texts)?;
    let oracle_dialogues = maker.dialogues(&oracle_texts)?;
    let some = |feedback: Feedback, stream: &str| match feedback {
        Feedback::Pairs(all) => Feedback::Pairs(some_of(all, config.pairs, &seeds.child(stream))),
        Feedback::Labels(all) => Feedback::Labels(some_of(all, config.pairs, &seeds.child(stream))),
    };
    let oracle_pairs = some(oracle_pairs, "oracle pairs");
    if same > 0 {
        said += &format!("{same} pairs are left out, whose replies are equal once cut\n");
    }
    let prompts_of = |all: &Feedback| distinct(all.prompts().cloned());
    // A cut can make prompts of two conversations equal.
    let known: HashSet<&Prompt> = train.prompts().collect();
    let mut unseen = prompts_of(&held_out_pairs);
    unseen.retain(|p| !known.contains(p));
    if let Cut::ByText { tuned } = cut {
        let halves = Split::try_new(&[0.5, 0.5])?;
        let mut own = Vec::new();
        for prompt in unseen {
            let text = tokenizer.decode(&prompt, false)?;
            if (halves.part(&text, &split, SplitKey::Prompt) == 0) == tuned {
                own.push(prompt);
            }
        }
        unseen = own;
    }
    let held_out = spread(unseen, config.eval_prompts, "of the data")?;
    let (prompts, cut) = (prompts_of(&train), cut_share(&train));
    let prompts_cut = maker.prompts_cut.get();
    let noun = train.noun();
    said += &format!(
        "{} {noun} to train on ({} prompts), {} held out, {} for the oracle; {:.0}% of the training replies are cut at {} tokens, {prompts_cut} prompts lost their start",
        train.len(),
        prompts.len(),
        held_out_pairs.len(),
        oracle_pairs.len(),
        100.0 * cut,
        config.max_new_tokens,
    );
    let rules: Vec<_> = text_report
        .rules
        .iter()
        .map(|r| {
            json!({
                "rule": r.rule.name(), "on": r.on, "found": r.found, "removed": r.removed,
            })
        })
        .collect();
    let account = json!({
        "files": paths, "digest": digest, "records": text_report.read, "bad_lines": read_report.bad.len(), "kept": text_report.kept - overlong - same, "rules": rules, "overlong": overlong,
        "equal_once_cut": same, "prompts_cut": prompts_cut, "model": fingerprint(base.as_ref().map(|b| b.folder.as_path()))?,
        "oracle": match config.oracle.as_str() {
            "" => None,
            name => Some(fingerprint(Some(&hub::resolve(name, &mut |_| ())?))?),
        },
        "train_pairs": train.len(), "train_prompts": prompts.len(), "held_out_pairs": held_out_pairs.len(),
        "oracle_pairs": oracle_pairs.len(), "share_of_replies_cut": cut, "vocabulary": network.vocab_size(),
    });
    let liked: Vec<Episode> = train.liked().cloned().collect();
    if liked.is_empty() {
        bail!("none of the labelled replies to train on is wanted, expected some to imitate");
    }
    let demonstrations = some_of(liked, config.demonstrations, &seeds.child("demonstrations"));
    Ok(Data {
        world: None,
        demonstrations,
        token_rewards: Default::default(),
        pairs: some(train, "pairs"),
        codec: Codec::Pieces(Box::new(tokenizer)),
        tokenizer: files,
        network,
        base: base.map(|b| b.folder),
        dialogues,
        prompts,
        held_out,
        held_out_pairs,
        oracle_dialogues,
        oracle_pairs,
        account,
        said,
    })
}

/// Files, and the data files of folders in order of name.
fn paths(names: &[String]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for name in names {
        let path = Path::new(name);
        if !path.is_dir() {
            all.push(path.to_path_buf());
            continue;
        }
        let entries = std::fs::read_dir(path).with_context(|| format!("--data {name}"))?;
        let entries: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        let mut found: Vec<PathBuf> = entries.iter().filter(|p| is_data(p)).cloned().collect();
        found.sort();
        if found.is_empty() {
            let holds_some = |p: &&PathBuf| {
                let inside = std::fs::read_dir(p).into_iter().flatten().flatten();
                inside.map(|e| e.path()).any(|file| is_data(&file))
            };
            let inside = entries.iter().filter(holds_some);
            let mut inside: Vec<String> = inside.map(|p| p.display().to_string()).collect();
            inside.sort();
            let instead = match inside.is_empty() {
                false => format!("; folders in it do: --data {}", inside.join(" --data ")),
                true => "; name files of other endings, .json among them, one by one".into(),
            };
            bail!(
                "--data {name}: the folder holds no .jsonl (or .jsonl.gz, .jsonl.zst, .jsonl.bz2), .ndjson or .parquet file{instead}"
            );
        }
        all.extend(found);
    }
    Ok(all)
}

/// Whether the name of a file is one of data.
fn is_data(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let packed = [".gz", ".zst", ".bz2"];
    let plain = packed.iter().find_map(|end| name.strip_suffix(end));
    let plain = plain.unwrap_or(&name);
    let data = [".jsonl", ".ndjson", ".parquet"];
    data.iter().any(|end| plain.ends_with(end)) && path.is_file()
}

/// The note that a padding token is an end token: reward models then read the text as sequence classification in `transformers` does,
/// which users of the saved model get too.
fn reward_reading(config: &Config, network: &ModelConfig) -> Result<String> {
    let one = |c: &ModelConfig| {
        c.pad_token()
            .is_some_and(|pad| c.end_tokens().contains(pad))
    };
    let mut said = String::new();
    let mut say = |what: &str| {
        said += &format!(
            "{what}: pad_token_id is an end token, so a score is read at the last token before the end, as in transformers\n"
        );
    };
    if one(network) {
        say("reward models trained here");
    }
    if !config.oracle.is_empty() {
        let mut notes = Vec::new();
        let folder = hub::resolve(&config.oracle, &mut |_| ())?;
        let (oracle, _) = checkpoint::read_shape(&folder, &mut notes)?;
        if one(&oracle) {
            say(&format!("--oracle {}", config.oracle));
        }
        for note in notes {
            said += &format!("--oracle {}: {note}\n", config.oracle);
        }
    }
    Ok(said)
}

/// A prompt with the replies of a record, the better or only one first.
struct Record {
    prompt: String,
    replies: Vec<String>,
    /// Whether a single reply is wanted.
    label: Option<bool>,
    templated: bool,
    place: Place,
}

impl HasPrompt for Record {
    fn prompt(&self) -> &str {
        &self.prompt
    }
}

impl Record {
    /// The text that is imitated, where there is one.
    fn liked(&self) -> Option<String> {
        let liked = self.label.unwrap_or(true);
        liked.then(|| format!("{}{}", self.prompt, self.replies[0]))
    }
}

impl From<data::TextPair> for Record {
    fn from(pair: data::TextPair) -> Self {
        Self {
            prompt: pair.prompt,
            replies: vec![pair.chosen, pair.rejected],
            label: None,
            templated: pair.templated,
            place: pair.place,
        }
    }
}

impl From<data::LabelledText> for Record {
    fn from(item: data::LabelledText) -> Self {
        Self {
            prompt: item.prompt,
            replies: vec![item.completion],
            label: Some(item.desirable),
            templated: item.templated,
            place: item.place,
        }
    }
}

/// Refuses a loss of pairs where there are none.
fn learnt_from(config: &Config, records: &[Record]) -> Result<()> {
    let loss = config.dpo.loss;
    if records.iter().all(|r| r.label.is_none()) || loss.loss().unpaired().is_some() {
        return Ok(());
    }
    bail!(
        "dpo.loss: found \"{}\", which compares two replies; the data are single replies with a label, from which --set 'dpo.loss=\"kto\"' learns",
        loss.name()
    )
}

/// The rules on texts; those on lengths are [`Maker::part`]'s.
fn clean(config: &Config, feedback: data::Feedback) -> Result<(Vec<Record>, data::Report)> {
    let rules = config.rules.iter().map(|name| Rule::from_name(name));
    let on: BTreeSet<Rule> = rules.collect::<rto_bridge::Result<_>>()?;
    let options = CleanOptions { on, lengths: None };
    Ok(match feedback {
        data::Feedback::Pairs(all) => {
            let (all, report) = data::clean_pairs(all, &options)?;
            (all.into_iter().map(Record::from).collect(), report)
        }
        data::Feedback::Labels(all) => {
            let (all, report) = data::clean_labelled(all, &options)?;
            (all.into_iter().map(Record::from).collect(), report)
        }
    })
}

/// The digest of the texts that are used, in order: a run does not go on with others.
fn digest(records: &[Record]) -> String {
    let step = |key: u64, record: &Record| {
        let mut text = format!("{}\0{}", record.prompt, record.replies.join("\0"));
        if let Some(label) = record.label {
            text += &format!("\0{label}");
        }
        SeedTree::new(key).child(&text).key64()
    };
    format!("{:016x}", records.iter().fold(0, step))
}

/// A choice of at most `n` of the items, drawn so that no file goes first, in their order.
fn some_of<T>(items: Vec<T>, n: usize, seeds: &SeedTree) -> Vec<T> {
    if items.len() <= n {
        return items;
    }
    let chosen = data::shuffled(items.len(), seeds, 0);
    let chosen: HashSet<usize> = chosen.into_iter().take(n).collect();
    let kept = items
        .into_iter()
        .enumerate()
        .filter(|(i, _)| chosen.contains(i));
    kept.map(|(_, item)| item).collect()
}

/// A third for the oracle, unless one is given.
fn deal(config: &Config, records: Vec<Record>, seeds: &SeedTree) -> Result<Roles<Record>> {
    if config.oracle.is_empty() {
        return Ok(data::roles(records, config.held_out_share, seeds)?);
    }
    let share = config.held_out_share;
    let split = Split::try_new(&[1.0 - share, share]).context("held_out_share")?;
    let mut parts = split.parts(records, &seeds.child("roles"), SplitKey::FirstTurn)?;
    let held_out = parts.pop().unwrap_or_default();
    Ok(Roles {
        train: parts.pop().unwrap_or_default(),
        held_out,
        oracle: Vec::new(),
    })
}

/// A tokenizer learned from the training part alone, and a network of the configured shape.
fn fresh(config: &Config, train: &[Record]) -> Result<(Tokenizer, TokenizerFiles, ModelConfig)> {
    let options = TrainingOptions {
        vocab_size: config.vocab_size,
        min_frequency: 2,
        max_positions: config.max_positions,
    };
    let texts: Vec<String> = train.iter().filter_map(Record::liked).collect();
    let trained = tokenizer_training::train(texts.iter(), &options)?;
    let network = config.network(Vocabulary {
        size: trained.vocab_size(),
        eos: EOS,
        pad: PAD,
    });
    let files = TokenizerFiles::Own(trained.files()?.into());
    Ok((trained.into(), files, network))
}

/// Makes episodes of texts.
struct Maker<'a> {
    config: &'a Config,
    tokenizer: &'a Tokenizer,
    /// The tokens of which any ends a reply.
    ends: &'a EndTokens,
    /// The end that is put behind a reply that has none.
    eos: Token,
    positions: usize,
    /// `max_prompt_tokens`, or what the network has room for.
    longest_prompt: usize,
    prompts_cut: Cell<usize>,
}

/// Some of the data, as texts and in tokens.
struct Part {
    /// The texts that are not too long.
    texts: Vec<Record>,
    /// Labelled replies, or the pairs whose replies are not equal once cut.
    feedback: Feedback,
    overlong: usize,
    same: usize,
}

impl Maker<'_> {
    fn part(&self, records: Vec<Record>) -> Result<Part> {
        let read = records.len();
        let (mut texts, mut overlong, mut same) = (Vec::new(), 0, 0);
        let (mut pairs, mut labels) = (Vec::new(), Vec::new());
        for record in records {
            let (prompt, replies) = self.tokens(&record)?;
            if !self.fits(&prompt, &replies) {
                overlong += 1;
                continue;
            }
            let prompt = self.cut(prompt);
            let episodes = replies.into_iter().map(|y| self.episode(&prompt, y));
            let mut episodes: Vec<Episode> = episodes.collect::<Result<_>>()?;
            match (record.label, episodes.pop(), episodes.pop()) {
                (Some(desirable), Some(episode), None) => {
                    labels.push(Labelled { episode, desirable })
                }
                (_, Some(loser), Some(winner)) if winner.response != loser.response => {
                    pairs.push(Pair { winner, loser })
                }
                _ => same += 1,
            }
            texts.push(record);
        }
        if read > 0 && texts.is_empty() {
            bail!("no record of {read} is left after cleaning: all fell to rule overlong");
        }
        Ok(Part {
            feedback: match labels.is_empty() {
                true => Feedback::Pairs(pairs),
                false => Feedback::Labels(labels),
            },
            texts,
            overlong,
            same,
        })
    }

    /// Prompt and replies, each reply cut from one text with the prompt, with its end. Where the cuts leave different prompts, what
    /// they share is the prompt.
    fn tokens(&self, record: &Record) -> Result<(Vec<Token>, Vec<Vec<Token>>)> {
        let read = |reply: &String| {
            let cut = self.tokenizer.pair(&record.prompt, reply, record.templated);
            cut.with_context(|| record.place.to_string())
        };
        let cuts: Vec<_> = record.replies.iter().map(read).collect::<Result<_>>()?;
        let shared = |a: &[Token], b: &[Token]| {
            let same = a.iter().zip(b).take_while(|(a, b)| a == b);
            same.count()
        };
        let first = &cuts[0].0;
        let shortest = cuts.iter().map(|(prompt, _)| shared(first, prompt)).min();
        let same = shortest.unwrap_or(0);
        let reply = |(prompt, reply): &(Vec<Token>, Vec<Token>)| {
            self.ended([&prompt[same..], reply].concat())
        };
        let replies = cuts.iter().map(reply).collect::<Result<_>>()?;
        if same == 0 {
            bail!(
                "{}: no token of the prompt is left: its first token holds the start of a reply too",
                record.place
            );
        }
        Ok((first[..same].to_vec(), replies))
    }

    /// A reply up to its own end token and no white space behind it, or with one put behind it.
    fn ended(&self, mut reply: Vec<Token>) -> Result<Vec<Token>> {
        let mut end = None;
        for (i, token) in reply.iter().enumerate().rev() {
            if self.ends.contains(*token) {
                end = Some(i);
            } else if !self.tokenizer.decode(&[*token], true)?.trim().is_empty() {
                break;
            }
        }
        match end {
            Some(end) => reply.truncate(end + 1),
            None => reply.push(self.eos),
        }
        Ok(reply)
    }

    /// Whether rule `overlong`, where it is on, lets a record pass: what is cut is never too long.
    fn fits(&self, prompt: &[Token], replies: &[Vec<Token>]) -> bool {
        let config = self.config;
        let on = config
            .rules
            .iter()
            .any(|rule| rule == Rule::Overlong.name());
        let short = |reply: &Vec<Token>| reply.len() <= config.max_new_tokens;
        let prompt_fits = config.cut_prompts || prompt.len() <= self.longest_prompt;
        !on || prompt_fits && (config.cut_replies || replies.iter().all(short))
    }

    /// The last tokens of a prompt: what was said last is what is answered.
    fn cut(&self, tokens: Vec<Token>) -> Prompt {
        let longest = self.longest_prompt;
        let over = tokens.len().saturating_sub(longest);
        self.prompts_cut
            .set(self.prompts_cut.get() + usize::from(over > 0));
        // What begins every text is not what is cut.
        let begin = self.tokenizer.beginning();
        let kept = match tokens.starts_with(begin) {
            true => begin.len().min(longest),
            false => 0,
        };
        [&tokens[..kept], &tokens[kept + over..]].concat().into()
    }

    /// The episode of a response with its end, or cut without one.
    fn episode(&self, prompt: &Prompt, mut response: Vec<Token>) -> Result<Episode> {
        let most = self.config.max_new_tokens;
        let finish = match response.len() <= most {
            true => Finish::Eos,
            false => Finish::Length,
        };
        response.truncate(most);
        Ok(Episode::try_new(prompt.clone(), response, finish)?)
    }

    /// Whole dialogues in windows as long as the network sees, each after the end of a text.
    fn dialogues(&self, records: &[Record]) -> Result<Vec<Episode>> {
        if !self.config.pretrains() {
            return Ok(Vec::new());
        }
        let start: Prompt = Arc::from([self.eos]);
        let mut all = Vec::new();
        let liked = records.iter().filter_map(Record::liked);
        for text in liked.take(self.config.demonstrations) {
            let mut tokens = self.tokenizer.encode(&text)?;
            tokens.push(self.eos);
            for window in tokens.chunks(self.positions - 1) {
                let finish = match window.last() == Some(&self.eos) {
                    true => Finish::Eos,
                    false => Finish::Length,
                };
                all.push(Episode::try_new(start.clone(), window.to_vec(), finish)?);
            }
        }
        Ok(all)
    }
}

fn cut_share(feedback: &Feedback) -> f64 {
    let all = feedback.episodes();
    let cut = all.iter().filter(|e| e.finish == Finish::Length).count();
    cut as f64 / all.len().max(1) as f64
}
