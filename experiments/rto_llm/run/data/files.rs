//! Preference files as episodes: read, cleaned, dealt out, tokenised.

use std::cell::Cell;
use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rto::Token;
use rto::algorithm2::Pair;
use rto::seed::SeedTree;
use rto::seq::{Episode, Finish};
use rto_bridge::checkpoint::{self, hub};
use rto_bridge::config::{EndTokens, ModelConfig};
use rto_bridge::data::{
    self, ChatTemplate, CleanOptions, Columns, ReadOptions, Roles, Rule, Split, SplitKey,
};
use rto_bridge::gguf;
use rto_bridge::tokenizer::Tokenizer;
use rto_bridge::tokenizer_training::{self, TrainingOptions};
use serde_json::json;

use super::base::{Base, base, fingerprint};
use super::codec::{Codec, TokenizerFiles};
use super::set::{Data, Prompt, distinct, spread};
use crate::run::config::{Config, Vocabulary};

/// The ids of the special tokens of a tokenizer trained here.
const EOS: Token = 0;
const PAD: Token = 1;

/// Everything that `data` gives.
pub fn read(config: &Config, seeds: &SeedTree) -> Result<Data> {
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
    let (pairs, read_report) = data::read_pairs_with_report(&paths, &options)?;
    let (pairs, text_report) = clean(config, pairs)?;
    let digest = digest(&pairs);
    let mut said = format!("{read_report}{text_report}\n");
    if pairs.iter().any(|pair| pair.templated) {
        said += &format!("{}\n", template.said());
    } else if template.is_own() {
        said += "the data are texts, not conversations: the model's chat template is not used\n";
    } else {
        said += &format!("{}\n", template.said());
    }
    let roles = deal(config, pairs, seeds)?;
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
    let mut part = |name: &str, pairs: Vec<data::Pair>| {
        let part = maker.part(pairs)?;
        overlong += part.overlong;
        same += part.same;
        if part.overlong > 0 {
            said += &format!(
                "{name}: {} of {} pairs are too long\n",
                part.overlong,
                part.overlong + part.texts.len()
            );
        }
        Ok::<_, anyhow::Error>((part.texts, part.pairs))
    };
    let (train_texts, train) = part("train", roles.train)?;
    let (_, held_out_pairs) = part("held out", roles.held_out)?;
    let (oracle_texts, oracle_pairs) = part("oracle", roles.oracle)?;
    let dialogues = maker.dialogues(&train_texts)?;
    let oracle_dialogues = maker.dialogues(&oracle_texts)?;
    let oracle_pairs = some(oracle_pairs, config.pairs, &seeds.child("oracle pairs"));
    if same > 0 {
        said += &format!("{same} pairs are left out, whose replies are equal once cut\n");
    }
    let prompts_of = |pairs: &[Pair]| distinct(pairs.iter().map(|p| p.winner.prompt.clone()));
    // A cut can make prompts of two conversations equal.
    let known: HashSet<&Prompt> = train.iter().map(|p| &p.winner.prompt).collect();
    let mut unseen = prompts_of(&held_out_pairs);
    unseen.retain(|p| !known.contains(p));
    let held_out = spread(unseen, config.eval_prompts, "of the data")?;
    let (prompts, cut) = (prompts_of(&train), cut_share(&train));
    let prompts_cut = maker.prompts_cut.get();
    said += &format!(
        "{} pairs to train on ({} prompts), {} held out, {} for the oracle; {:.0}% of the training replies are cut at {} tokens, {prompts_cut} prompts lost their start",
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
    let shown = some(
        train.clone(),
        config.demonstrations,
        &seeds.child("demonstrations"),
    );
    let demonstrations = shown.into_iter().map(|p| p.winner);
    Ok(Data {
        world: None,
        demonstrations: demonstrations.collect(),
        pairs: some(train, config.pairs, &seeds.child("pairs")),
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
        let is_data = |p: &PathBuf| {
            let name = p.file_name().unwrap_or_default().to_string_lossy();
            let plain = [".gz", ".zst", ".bz2"]
                .iter()
                .find_map(|end| name.strip_suffix(end));
            let plain = plain.unwrap_or(&name);
            [".jsonl", ".ndjson", ".parquet"]
                .iter()
                .any(|end| plain.ends_with(end))
        };
        let mut found: Vec<PathBuf> = entries
            .flatten()
            .map(|e| e.path())
            .filter(is_data)
            .collect();
        found.sort();
        if found.is_empty() {
            bail!(
                "--data {name}: the folder holds no .jsonl (or .jsonl.gz, .jsonl.zst, .jsonl.bz2), .ndjson or .parquet file; name files of other endings, .json among them, one by one"
            );
        }
        all.extend(found);
    }
    Ok(all)
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

/// The rules on texts; those on lengths are [`Maker::part`]'s.
fn clean(config: &Config, pairs: Vec<data::Pair>) -> Result<(Vec<data::Pair>, data::Report)> {
    let rules = config.rules.iter().map(|name| Rule::from_name(name));
    let on: BTreeSet<Rule> = rules.collect::<rto_bridge::Result<_>>()?;
    let options = CleanOptions { on, lengths: None };
    Ok(data::clean_pairs(pairs, &options)?)
}

/// The digest of the texts that are used, in order: a run does not go on with others.
fn digest(pairs: &[data::Pair]) -> String {
    let step = |key: u64, p: &data::Pair| {
        let text = format!("{}\0{}\0{}", p.prompt, p.chosen, p.rejected);
        SeedTree::new(key).child(&text).key64()
    };
    format!("{:016x}", pairs.iter().fold(0, step))
}

/// At most `n` of the items, drawn so that no file goes first, in their order.
fn some<T>(items: Vec<T>, n: usize, seeds: &SeedTree) -> Vec<T> {
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
fn deal(config: &Config, pairs: Vec<data::Pair>, seeds: &SeedTree) -> Result<Roles<data::Pair>> {
    if config.oracle.is_empty() {
        return Ok(data::roles(pairs, config.held_out_share, seeds)?);
    }
    let share = config.held_out_share;
    let split = Split::try_new(&[1.0 - share, share]).context("held_out_share")?;
    let mut parts = split.parts(pairs, &seeds.child("roles"), SplitKey::FirstTurn)?;
    let held_out = parts.pop().unwrap_or_default();
    Ok(Roles {
        train: parts.pop().unwrap_or_default(),
        held_out,
        oracle: Vec::new(),
    })
}

/// A tokenizer learned from the training part alone, and a network of the configured shape.
fn fresh(
    config: &Config,
    train: &[data::Pair],
) -> Result<(Tokenizer, TokenizerFiles, ModelConfig)> {
    let options = TrainingOptions {
        vocab_size: config.vocab_size,
        min_frequency: 2,
        max_positions: config.max_positions,
    };
    let texts = train.iter().map(|p| format!("{}{}", p.prompt, p.chosen));
    let texts: Vec<String> = texts.collect();
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
    texts: Vec<data::Pair>,
    /// The pairs whose replies are not equal once cut.
    pairs: Vec<Pair>,
    overlong: usize,
    same: usize,
}

impl Maker<'_> {
    fn part(&self, pairs: Vec<data::Pair>) -> Result<Part> {
        let read = pairs.len();
        let mut part = Part {
            texts: Vec::new(),
            pairs: Vec::new(),
            overlong: 0,
            same: 0,
        };
        for pair in pairs {
            let (prompt, [chosen, rejected]) = self.tokens(&pair)?;
            if !self.fits(&prompt, &[&chosen, &rejected]) {
                part.overlong += 1;
                continue;
            }
            part.texts.push(pair);
            let prompt = self.cut(prompt);
            let (winner, loser) = (
                self.episode(&prompt, chosen)?,
                self.episode(&prompt, rejected)?,
            );
            match winner.response == loser.response {
                true => part.same += 1,
                false => part.pairs.push(Pair { winner, loser }),
            }
        }
        if read > 0 && part.texts.is_empty() {
            bail!("no record of {read} is left after cleaning: all fell to rule overlong");
        }
        Ok(part)
    }

    /// Prompt and replies, each reply cut from one text with the prompt, with its end. Where the two cuts leave different
    /// prompts, what they share is the prompt.
    fn tokens(&self, pair: &data::Pair) -> Result<(Vec<Token>, [Vec<Token>; 2])> {
        let read = |reply: &str| {
            let cut = self.tokenizer.pair(&pair.prompt, reply, pair.templated);
            cut.with_context(|| pair.place.to_string())
        };
        let (chosen, rejected) = (read(&pair.chosen)?, read(&pair.rejected)?);
        let same = chosen.0.iter().zip(&rejected.0).take_while(|(a, b)| a == b);
        let same = same.count();
        let reply = |(prompt, reply): &(Vec<Token>, Vec<Token>)| {
            self.ended([&prompt[same..], reply].concat())
        };
        let replies = [reply(&chosen)?, reply(&rejected)?];
        if same == 0 {
            bail!(
                "{}: no token of the prompt is left: its first token holds the start of a reply too",
                pair.place
            );
        }
        Ok((chosen.0[..same].to_vec(), replies))
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

    /// Whether rule `overlong`, where it is on, lets a pair pass: what is cut is never too long.
    fn fits(&self, prompt: &[Token], replies: &[&[Token]; 2]) -> bool {
        let config = self.config;
        let on = config
            .rules
            .iter()
            .any(|rule| rule == Rule::Overlong.name());
        let short = |reply: &&[Token]| reply.len() <= config.max_new_tokens;
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
    fn dialogues(&self, pairs: &[data::Pair]) -> Result<Vec<Episode>> {
        if !self.config.pretrains() {
            return Ok(Vec::new());
        }
        let start: Prompt = Arc::from([self.eos]);
        let mut all = Vec::new();
        for pair in pairs.iter().take(self.config.demonstrations) {
            let mut tokens = self
                .tokenizer
                .encode(&format!("{}{}", pair.prompt, pair.chosen))?;
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

fn cut_share(pairs: &[Pair]) -> f64 {
    let both = pairs.iter().flat_map(|p| [&p.winner, &p.loser]);
    let cut = both.filter(|e| e.finish == Finish::Length).count();
    cut as f64 / (2 * pairs.len()).max(1) as f64
}
