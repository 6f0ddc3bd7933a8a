//! A language model as the judge of pairs, over an OpenAI-compatible HTTP endpoint (section 5.1 and Table 6 of the paper).
//!
//! For a prompt x and two answers, a model is asked which is more helpful. Which answer stands first is drawn from a stream
//! key, because judges favour a position; the verdict is turned back. Every reply is kept in a file of transcripts, so
//! that a run which is killed and continued pays for nothing twice.
//!
//! ```no_run
//! use rto::seed::SeedTree;
//! use rto::seq::StreamKey;
//! use rto_bridge::judge::{Contest, Judge, JudgeConfig};
//! use std::path::Path;
//!
//! # fn main() -> rto_bridge::Result<()> {
//! let config = JudgeConfig::new("https://api.openai.com/v1", "gpt-4-0613");
//! let judge = Judge::open(config, Path::new("transcripts.jsonl"))?;
//! let contests = vec![Contest {
//!     query: "What do cats eat?".into(),
//!     first: "Fish, mostly.".into(),
//!     second: "I do not know.".into(),
//!     key: StreamKey::new(SeedTree::new(1).child("judge").index(0)),
//! }];
//! let verdicts = judge.decide(&contests, &|_done| ())?;
//! # Ok(()) }
//! ```

mod client;
mod template;
mod transcripts;
mod verdict;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::{Error, Result};
use rand::Rng;
use rto::seq::StreamKey;

use client::Client;
use transcripts::{Transcript, Transcripts};

pub use template::Template;
pub use verdict::Verdict;

/// How to reach a judge, and what to ask.
#[derive(Debug, Clone)]
pub struct JudgeConfig {
    /// What stands before `/chat/completions`.
    pub base_url: String,
    /// The model's name there.
    pub model: String,
    /// The environment variable that holds the key; `None` sends none.
    pub api_key_env: Option<String>,
    /// Temperature of the judge; 0 by default, `None` for models that do not let it be set.
    pub temperature: Option<f64>,
    /// The longest reply, in tokens; 256 by default, `None` for models that think before they answer or refuse the field.
    pub max_tokens: Option<u32>,
    /// Time for one request, from connecting to the last byte; a minute by default.
    pub timeout: Duration,
    /// How often a failed request is sent again; 6 by default.
    pub retries: u32,
    /// The pause before the first repetition; each further one is twice as long, up to [`JudgeConfig::longest_pause`].
    pub first_pause: Duration,
    /// The longest pause; also the most that a server's `Retry-After` can ask for.
    pub longest_pause: Duration,
    /// Requests at a time; 4 by default.
    pub workers: usize,
    /// What is asked.
    pub template: Template,
    /// Another name under which the server may answer, where it does not echo the one it was asked for.
    pub served_as: Option<String>,
}

impl JudgeConfig {
    /// The defaults, with the key in `OPENAI_API_KEY`.
    pub fn new(base_url: &str, model: &str) -> Self {
        Self {
            base_url: base_url.trim_end_matches('/').into(),
            model: model.into(),
            api_key_env: Some("OPENAI_API_KEY".into()),
            temperature: Some(0.0),
            max_tokens: Some(256),
            timeout: Duration::from_secs(60),
            retries: 6,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
            workers: 4,
            template: Template::default(),
            served_as: None,
        }
    }

    fn check(&self) -> Result<()> {
        let refuse = |field, found: String, expected: &str| {
            let expected = expected.into();
            Err(Error::Setting {
                field,
                found,
                expected,
            })
        };
        if !self.base_url.starts_with("http://") && !self.base_url.starts_with("https://") {
            return refuse("base_url", self.base_url.clone(), "http://… or https://…");
        }
        if self.model.is_empty() {
            return refuse("model", "nothing".into(), "the name of a model");
        }
        if let Some(t) = self.temperature.filter(|t| !(0.0..=2.0).contains(t)) {
            return refuse("temperature", t.to_string(), "0 to 2");
        }
        if self.max_tokens == Some(0) || self.workers == 0 || self.timeout.is_zero() {
            let found = format!(
                "{:?}, {}, {:?}",
                self.max_tokens, self.workers, self.timeout
            );
            return refuse("max_tokens, workers, timeout", found, "all above zero");
        }
        Ok(())
    }
}

/// Two answers to one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Contest {
    /// x, as a person reads it.
    pub query: String,
    /// An answer.
    pub first: String,
    /// Another answer.
    pub second: String,
    /// Draws which answer the judge reads first.
    pub key: StreamKey,
}

impl Contest {
    /// Whether the judge reads `second` first.
    fn swapped(&self) -> bool {
        self.key.rng().random()
    }
}

/// A judge with its transcripts.
#[derive(Debug)]
pub struct Judge {
    config: JudgeConfig,
    client: Client,
    transcripts: Mutex<Transcripts>,
}

/// A request that has not been answered yet, and the contests that wait for it.
struct Open {
    hash: String,
    prompt: String,
}

impl Judge {
    /// A judge that keeps its replies in a file, which is made or continued. No request is sent.
    ///
    /// # Errors
    /// [`Error::Setting`]: a setting outside its range, a key that is not in the environment. [`Error::File`]: the
    /// transcripts cannot be read or written, are malformed, or are in use by another process.
    pub fn open(config: JudgeConfig, transcripts: &Path) -> Result<Self> {
        config.check()?;
        let client = Client::try_new(&config)?;
        let transcripts = Mutex::new(Transcripts::open(transcripts)?);
        Ok(Self {
            config,
            client,
            transcripts,
        })
    }

    /// How many of the contests would have to be paid for.
    pub fn n_open(&self, contests: &[Contest]) -> usize {
        self.open_requests(contests).len()
    }

    /// A verdict per contest, in order. `done` hears how many requests have been answered.
    ///
    /// # Errors
    /// [`Error::Request`] naming the endpoint: unreachable, a refusal, a reply that is not of the protocol, another model
    /// than the one asked for. What was answered before is kept. [`Error::File`]: the transcripts cannot be written.
    pub fn decide(
        &self,
        contests: &[Contest],
        done: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Verdict>> {
        self.answer_all(&self.open_requests(contests), done)?;
        let transcripts = lock(&self.transcripts);
        let verdict = |contest: &Contest| {
            let prompt = self.prompt(contest);
            let said = transcripts.get(&self.hash(&prompt));
            let said = said.expect("every open request was answered");
            match contest.swapped() {
                true => Verdict::read(&said.reply).swapped(),
                false => Verdict::read(&said.reply),
            }
        };
        Ok(contests.iter().map(verdict).collect())
    }

    /// Several workers; the first failure stops them all, after what they have begun.
    fn answer_all(&self, open: &[Open], done: &(dyn Fn(usize) + Sync)) -> Result<()> {
        let (next, finished, stop) = (
            AtomicUsize::new(0),
            AtomicUsize::new(0),
            AtomicBool::new(false),
        );
        let failure = Mutex::new(None);
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let Some(request) = open.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    return;
                };
                match self.ask(request) {
                    Ok(()) => done(finished.fetch_add(1, Ordering::Relaxed) + 1),
                    Err(e) => {
                        stop.store(true, Ordering::Relaxed);
                        lock(&failure).get_or_insert(e);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.config.workers.min(open.len()) {
                scope.spawn(work);
            }
        });
        match lock(&failure).take() {
            Some(e) => Err(e),
            None => Ok(()),
        }
    }

    fn ask(&self, open: &Open) -> Result<()> {
        let answer = self.client.ask(&self.config, &open.prompt)?;
        lock(&self.transcripts).add(Transcript {
            hash: open.hash.clone(),
            model: answer.model,
            prompt: open.prompt.clone(),
            reply: answer.text,
            tokens: answer.tokens,
        })
    }

    /// What is not in the transcripts, each once, in the order of the contests.
    fn open_requests(&self, contests: &[Contest]) -> Vec<Open> {
        let transcripts = lock(&self.transcripts);
        let mut seen = BTreeMap::new();
        let mut open = Vec::new();
        for contest in contests {
            let prompt = self.prompt(contest);
            let hash = self.hash(&prompt);
            if transcripts.get(&hash).is_none() && seen.insert(hash.clone(), ()).is_none() {
                open.push(Open { hash, prompt });
            }
        }
        open
    }

    fn prompt(&self, contest: &Contest) -> String {
        let (a, b) = match contest.swapped() {
            true => (&contest.second, &contest.first),
            false => (&contest.first, &contest.second),
        };
        self.config.template.fill(&contest.query, a, b)
    }

    /// The address is left out: the same model behind another proxy is the same judge.
    fn hash(&self, prompt: &str) -> String {
        let c = &self.config;
        let temperature = c.temperature.map_or(String::new(), |t| t.to_string());
        let max_tokens = c.max_tokens.map_or(String::new(), |n| n.to_string());
        transcripts::hash(&[&c.model, &temperature, &max_tokens, prompt])
    }
}

/// A thread that panicked has left nothing half done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
