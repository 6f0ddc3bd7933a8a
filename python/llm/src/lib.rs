//! The compiled half of `rto.llm`: a folder as transformers writes it, scored and sampled on a processor in float32.

#[path = "../../src/long.rs"]
#[allow(
    dead_code,
    reason = "the other package calls functions written in Python, too"
)]
mod long;

use long::Watch;
use numpy::PyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rto::Token;
use rto::seed::SeedTree;
use rto::seq::{Decoder, Finish, StreamKey};
use rto_bridge::checkpoint::{self, hub};
use rto_bridge::family::Head;
use rto_bridge::generate::{Engine, Sampled, Sampling};
use rto_bridge::memory_plan::{MemoryPlan, Workload};
use rto_bridge::tokenizer::Tokenizer;
use std::fmt::Display;
use std::sync::Arc;

fn value_error(text: impl Display) -> PyErr {
    let text = text.to_string();
    PyValueError::new_err(text.lines().next().unwrap_or_default().to_string())
}

/// The first line of an error, behind the name of the argument or row that it is about.
fn at(place: impl Display) -> impl Fn(rto_bridge::Error) -> PyErr {
    move |e| value_error(format!("{place}: {e}"))
}

/// A text, or the ids of its tokens.
enum Given {
    Text(String),
    Ids(Vec<Token>),
}

impl Given {
    fn new(place: &str, value: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(text) = value.extract::<String>() {
            return Ok(Self::Text(text));
        }
        let ids = value.extract::<Vec<Token>>().map_err(|_| {
            let kind = value
                .get_type()
                .name()
                .map_or_else(|_| "?".into(), |n| n.to_string());
            value_error(format!(
                "{place}: found a value of type {kind}, expected a text or a list of token ids"
            ))
        })?;
        Ok(Self::Ids(ids))
    }
}

/// What a call needs of a model, on whatever thread.
struct Loaded {
    engine: Engine,
    tokenizer: Option<Tokenizer>,
}

/// A causal language model in a folder as transformers writes it (safetensors, or GGUF), read once and computed in float32 on a processor.
///
/// Parameters
/// ----------
/// folder : str
/// threads : int
///     No number depends on it.
#[pyclass(frozen, module = "rto_rlhf_llm")]
pub struct Model {
    loaded: Arc<Loaded>,
    #[pyo3(get)]
    folder: String,
    /// What a reader of its numbers should know about the folder.
    #[pyo3(get)]
    notes: Vec<String>,
}

impl Model {
    fn open(folder: &str, threads: usize) -> rto_bridge::Result<(Loaded, Vec<String>)> {
        let path = hub::resolve(folder, &mut |_| {})?;
        let (config, head) = checkpoint::read_config(&path)?;
        if head != Head::CausalLm {
            return Err(rto_bridge::Error::request(
                "model",
                format!(
                    "found a classification model, expected one that writes text ({})",
                    config.description().classes[0]
                ),
            ));
        }
        let device = rto_bridge::device::device("cpu")?;
        let workload = Workload {
            batch: 1,
            sequence: config.max_positions(),
            ..Workload::default()
        };
        MemoryPlan::new(&config, head, &workload).check_fits(&device)?;
        let checkpoint = checkpoint::load(&path, None, &device)?;
        let tokenizer = match Tokenizer::is_in(&checkpoint.folder) {
            true => Some(Tokenizer::load(&checkpoint.folder, &checkpoint.config)?),
            false => None,
        };
        let mut notes = checkpoint.notes.clone();
        notes.extend(tokenizer.iter().flat_map(Tokenizer::notes).cloned());
        let engine = Engine::new(&checkpoint.config, checkpoint.head, &checkpoint.weights)?
            .with_threads(threads)?;
        Ok((Loaded { engine, tokenizer }, notes))
    }

    fn tokenizer(&self, place: &str) -> PyResult<&Tokenizer> {
        self.loaded.tokenizer.as_ref().ok_or_else(|| {
            value_error(format!(
                "{place}: {} has no tokenizer.json, expected token ids",
                self.folder
            ))
        })
    }

    fn known(&self, place: &str, ids: &[Token]) -> PyResult<()> {
        let vocabulary = self.loaded.engine.config().vocab_size();
        match ids.iter().find(|t| **t as usize >= vocabulary) {
            None => Ok(()),
            Some(t) => Err(value_error(format!(
                "{place}: found token {t}, expected one below the vocabulary's {vocabulary}"
            ))),
        }
    }

    /// A prompt has at least one token, and with `more` of a response it has room in the context.
    fn room(&self, place: &str, prompt: usize, more: usize) -> PyResult<()> {
        let context = self.loaded.engine.config().max_positions();
        if prompt == 0 {
            return Err(value_error(format!(
                "{place}: found an empty prompt, expected at least one token"
            )));
        }
        if prompt + more > context + 1 {
            return Err(value_error(format!(
                "{place}: found {prompt} prompt and {more} response tokens, expected what the context of {context} has room for"
            )));
        }
        Ok(())
    }

    fn ids(&self, place: &str, given: Given, prompt: bool) -> PyResult<Vec<Token>> {
        let ids = match given {
            Given::Ids(ids) => ids,
            Given::Text(text) => {
                let tokenizer = self.tokenizer(place)?;
                let ids = if prompt {
                    tokenizer.encode_prompt(&text)
                } else {
                    tokenizer.encode(&text)
                };
                ids.map_err(at(place))?
            }
        };
        self.known(place, &ids)?;
        Ok(ids)
    }
}

#[pymethods]
impl Model {
    #[new]
    #[pyo3(signature = (folder, *, threads = 1))]
    fn new(py: Python<'_>, folder: &str, threads: usize) -> PyResult<Self> {
        if threads == 0 {
            return Err(value_error("threads: found 0, expected at least 1"));
        }
        let named = folder.to_string();
        let work = move |_: &Watch<'_, ()>| Self::open(&named, threads);
        let opened = long::apart(py, work, |()| Ok(()))?;
        let (loaded, notes) = opened.map_err(value_error)?;
        Ok(Self {
            loaded: Arc::new(loaded),
            folder: folder.into(),
            notes,
        })
    }

    /// Ids of the vocabulary.
    #[getter]
    fn vocabulary(&self) -> usize {
        self.loaded.engine.config().vocab_size()
    }

    /// Most tokens of prompt and response.
    #[getter]
    fn context(&self) -> usize {
        self.loaded.engine.config().max_positions()
    }

    /// Whether the folder reads texts.
    #[getter]
    fn has_tokenizer(&self) -> bool {
        self.loaded.tokenizer.is_some()
    }

    /// The ids of a text, without what begins a prompt.
    fn encode(&self, text: &str) -> PyResult<Vec<Token>> {
        self.tokenizer("text")?.encode(text).map_err(at("text"))
    }

    /// The text of ids, special tokens shown.
    fn decode(&self, ids: Vec<Token>) -> PyResult<String> {
        self.known("ids", &ids)?;
        self.tokenizer("ids")?.decode(&ids, true).map_err(at("ids"))
    }

    /// The text of each id.
    fn pieces(&self, ids: Vec<Token>) -> PyResult<Vec<String>> {
        self.known("ids", &ids)?;
        self.tokenizer("ids")?.pieces(&ids).map_err(at("ids"))
    }

    /// The ids of a prompt and of its response; two texts are one, cut into tokens as a whole.
    #[pyo3(signature = (prompt, response, place = "pair"))]
    fn pair(
        &self,
        prompt: &Bound<'_, PyAny>,
        response: &Bound<'_, PyAny>,
        place: &str,
    ) -> PyResult<(Vec<Token>, Vec<Token>)> {
        let (p, r) = (format!("{place}, prompt"), format!("{place}, response"));
        let given = (Given::new(&p, prompt)?, Given::new(&r, response)?);
        let found = match given {
            (Given::Text(prompt), Given::Text(response)) => {
                let pair = self.tokenizer(&p)?.pair(&prompt, &response, false);
                let (prompt, response) = pair.map_err(at(place))?;
                self.known(&p, &prompt)?;
                self.known(&r, &response)?;
                (prompt, response)
            }
            (prompt, response) => (self.ids(&p, prompt, true)?, self.ids(&r, response, false)?),
        };
        self.room(place, found.0.len(), found.1.len())?;
        Ok(found)
    }

    /// log π of every response token of (prompt, response) ids, at temperature 1.
    fn log_probs<'py>(
        &self,
        py: Python<'py>,
        pairs: Vec<(Vec<Token>, Vec<Token>)>,
    ) -> PyResult<Vec<Bound<'py, PyArray1<f64>>>> {
        for (k, (prompt, response)) in pairs.iter().enumerate() {
            let place = format!("row {k}");
            self.known(&place, prompt)?;
            self.known(&place, response)?;
            self.room(&place, prompt.len(), response.len())?;
        }
        let loaded = self.loaded.clone();
        let work = move |watch: &Watch<'_, ()>| -> rto_bridge::Result<Vec<Vec<f64>>> {
            let mut rows = Vec::with_capacity(pairs.len());
            for (prompt, response) in &pairs {
                watch.check()?;
                rows.extend(
                    loaded
                        .engine
                        .log_probs(&[(&prompt[..], &response[..])], 1.0)?,
                );
            }
            Ok(rows)
        };
        let rows = long::apart(py, work, |()| Ok(()))?.map_err(value_error)?;
        let array = |row| PyArray1::from_vec(py, row);
        Ok(rows.into_iter().map(array).collect())
    }

    /// Responses to each prompt; see `rto.llm.generate`.
    #[pyo3(signature = (prompts, *, max_new_tokens, temperature, top_p, top_k, min_new_tokens, greedy, samples, batch, seed))]
    #[allow(clippy::too_many_arguments)] // keywords of one Python call
    fn draw<'py>(
        &self,
        py: Python<'py>,
        prompts: Vec<Bound<'py, PyAny>>,
        max_new_tokens: usize,
        temperature: f64,
        top_p: f64,
        top_k: usize,
        min_new_tokens: usize,
        greedy: bool,
        samples: usize,
        batch: usize,
        seed: u64,
    ) -> PyResult<Vec<Bound<'py, PyDict>>> {
        for (name, n) in [
            ("max_new_tokens", max_new_tokens),
            ("samples", samples),
            ("batch", batch),
        ] {
            if n == 0 {
                return Err(value_error(format!("{name}: found 0, expected at least 1")));
            }
        }
        if !(temperature.is_finite() && temperature > 0.0) {
            return Err(value_error(format!(
                "temperature: found {temperature}, expected a finite number above 0 (greedy=True takes the most likely token)"
            )));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(value_error(format!(
                "top_p: found {top_p}, expected in (0, 1]"
            )));
        }
        if min_new_tokens > max_new_tokens {
            return Err(value_error(format!(
                "min_new_tokens: found {min_new_tokens}, expected at most max_new_tokens, {max_new_tokens}"
            )));
        }
        if greedy && samples != 1 {
            return Err(value_error(format!(
                "samples: found {samples} with greedy=True, expected 1: they would be equal"
            )));
        }
        let mut rows: Vec<(Arc<[Token]>, StreamKey)> = Vec::new();
        // The streams of `rto_llm generate`.
        let seeds = SeedTree::new(seed).child("generate");
        for (i, prompt) in prompts.iter().enumerate() {
            let place = format!("prompts[{i}]");
            let prompt = self.ids(&place, Given::new(&place, prompt)?, true)?;
            self.room(&place, prompt.len(), 1)?;
            let prompt: Arc<[Token]> = prompt.into();
            for sample in 0..samples {
                let node = seeds.index(i as u64).index(sample as u64);
                rows.push((prompt.clone(), StreamKey::new(node)));
            }
        }
        let loaded = self.loaded.clone();
        let sampling = sampling(
            &loaded,
            (max_new_tokens, min_new_tokens),
            temperature,
            (top_p, top_k),
            batch,
        );
        let work = move |watch: &Watch<'_, ()>| -> rto_bridge::Result<Vec<Sampled>> {
            let mut all = Vec::with_capacity(rows.len());
            for rows in rows.chunks(batch) {
                watch.check()?;
                let (prompts, keys): (Vec<_>, Vec<_>) = rows.iter().cloned().unzip();
                all.extend(match greedy {
                    true => loaded.engine.greedy(&prompts, &sampling)?,
                    false => loaded.engine.sample(&prompts, &keys, &sampling)?,
                });
            }
            Ok(all)
        };
        let drawn = long::apart(py, work, |()| Ok(()))?.map_err(value_error)?;
        let row = |(k, sampled): (usize, Sampled)| {
            let Sampled {
                episode, log_probs, ..
            } = sampled;
            let text = match &self.loaded.tokenizer {
                None => None,
                Some(tokenizer) => Some(
                    tokenizer
                        .reply_text(&episode.prompt, &episode.response)
                        .map_err(at("prompts"))?,
                ),
            };
            let out = PyDict::new(py);
            out.set_item("prompt", k / samples)?;
            out.set_item("prompt_ids", episode.prompt.to_vec())?;
            out.set_item("token_ids", episode.response)?;
            out.set_item("text", text)?;
            out.set_item(
                "finish",
                match episode.finish {
                    Finish::Eos => "eos",
                    Finish::Length => "length",
                },
            )?;
            out.set_item("log_probs", PyArray1::from_vec(py, log_probs))?;
            Ok(out)
        };
        drawn.into_iter().enumerate().map(row).collect()
    }

    fn _repr_html_(&self) -> String {
        let folder = self.folder.replace('&', "&amp;").replace('<', "&lt;");
        format!(
            "<table><tr><th>folder</th><td>{folder}</td></tr><tr><th>vocabulary</th><td>{}</td></tr><tr><th>context</th><td>{}</td></tr></table>",
            self.vocabulary(),
            self.context()
        )
    }

    fn __repr__(&self) -> String {
        format!(
            "Model({:?}; vocabulary={}, context={})",
            self.folder,
            self.vocabulary(),
            self.context()
        )
    }
}

fn sampling(
    loaded: &Loaded,
    (max_new_tokens, min_new_tokens): (usize, usize),
    temperature: f64,
    (top_p, top_k): (f64, usize),
    batch: usize,
) -> Sampling {
    let decoder = Decoder {
        temperature: 1.0,
        top_p,
        top_k,
        min_new_tokens,
    };
    Sampling {
        max_new_tokens,
        temperature,
        decoder: (decoder != Decoder::default()).then_some(decoder),
        ends: loaded.engine.config().end_tokens().clone(),
        batch,
    }
}

/// Language models, compiled.
#[pyo3::pymodule]
mod _llm {
    #[pymodule_export]
    use super::Model;

    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
