//! Requests with repetitions.

use std::time::Duration;

use crate::{Error, Result};
use rand::Rng;
use rto::seed::SeedTree;
use serde_json::{Value, json};

use super::JudgeConfig;

/// The longest body that is read: more than any chat reply, so a server that sends more is broken.
const LONGEST_BODY: u64 = 16 << 20;

/// A connection pool to one endpoint.
pub(super) struct Client {
    agent: ureq::Agent,
    url: String,
    /// The value of the header, which is never printed.
    authorization: Option<String>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// What a server said.
#[derive(Debug)]
pub(super) struct Answer {
    pub text: String,
    pub model: String,
    pub tokens: Option<u64>,
}

/// Why an attempt failed, and whether another may succeed.
enum Failure {
    Fatal(String),
    /// A failure that may pass, with the time that the server asks to wait.
    Passing(String, Option<Duration>),
}

impl Client {
    pub fn try_new(config: &JudgeConfig) -> Result<Self> {
        let authorization = match &config.api_key_env {
            None => None,
            Some(name) => Some(bearer(name)?),
        };
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(config.timeout))
            .http_status_as_error(false)
            .build()
            .into();
        Ok(Self {
            agent,
            url: format!("{}/chat/completions", config.base_url.trim_end_matches('/')),
            authorization,
        })
    }

    /// Asks until there is an answer, a refusal, or no repetition left.
    pub fn ask(&self, config: &JudgeConfig, prompt: &str) -> Result<Answer> {
        let body = body(config, prompt);
        // Workers that were turned away together must not come back together.
        let mut spread = SeedTree::new(0).child("judge pause").child(prompt).rng();
        let mut attempt = 0;
        loop {
            let (why, wait) = match self.attempt(config, &body) {
                Ok(answer) => return Ok(answer),
                Err(Failure::Fatal(why)) => return Err(self.error(&why)),
                Err(Failure::Passing(why, wait)) => (why, wait),
            };
            if attempt == config.retries {
                let n = attempt + 1;
                return Err(self.error(&format!("{why} ({n} attempts)")));
            }
            let pause = config.first_pause.saturating_mul(1 << attempt.min(20));
            let pause = pause.mul_f64(0.5 + 0.5 * spread.random::<f64>());
            let pause = pause
                .max(wait.unwrap_or_default())
                .min(config.longest_pause);
            std::thread::sleep(pause);
            attempt += 1;
        }
    }

    fn error(&self, why: &str) -> Error {
        Error::request(format!("judge at {}", self.url), why)
    }

    fn attempt(&self, config: &JudgeConfig, body: &str) -> std::result::Result<Answer, Failure> {
        let mut request = self
            .agent
            .post(&self.url)
            .header("Content-Type", "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let mut response = request.send(body).map_err(transport)?;
        let status = response.status().as_u16();
        let wait = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let bytes = response
            .body_mut()
            .with_config()
            .limit(LONGEST_BODY)
            .read_to_vec()
            .map_err(transport)?;
        match status {
            200..=299 => answer(config, &bytes),
            _ => Err(refusal(status, wait, &bytes)),
        }
    }
}

fn body(config: &JudgeConfig, prompt: &str) -> String {
    let mut body = json!({
        "model": config.model,
        "messages": [{"role": "user", "content": prompt}],
    });
    if let Some(temperature) = config.temperature {
        body["temperature"] = temperature.into();
    }
    if let Some(max_tokens) = config.max_tokens {
        body["max_tokens"] = max_tokens.into();
    }
    body.to_string()
}

fn bearer(variable: &str) -> Result<String> {
    let refuse = |found: &str| {
        Error::Setting {
        field: "api_key_env",
        found: format!("{variable}, {found}"),
        expected: "an environment variable that holds the key of the judge (or none, for a server without keys)".into(),
    }
    };
    match std::env::var(variable) {
        Err(_) => Err(refuse("which is not set")),
        Ok(key) if key.trim().is_empty() => Err(refuse("which is empty")),
        Ok(key) if !key.trim().bytes().all(|b| b.is_ascii_graphic()) => {
            Err(refuse("which holds blanks or letters that no key has"))
        }
        Ok(key) => Ok(format!("Bearer {}", key.trim())),
    }
}

fn transport(e: ureq::Error) -> Failure {
    match e {
        ureq::Error::HostNotFound => Failure::Fatal("unreachable: no host of this name".into()),
        ureq::Error::BadUri(why) => Failure::Fatal(format!("not an address: {why}")),
        ureq::Error::Timeout(_) => Failure::Passing("no reply in time".into(), None),
        ureq::Error::BodyExceedsLimit(_) => Failure::Fatal("malformed reply: too long".into()),
        ureq::Error::Tls(why) => Failure::Fatal(format!("unreachable: {why}")),
        other => Failure::Passing(format!("unreachable: {other}"), None),
    }
}

/// An error status: what the server says in the protocol's form or as text, and whether it may pass.
fn refusal(status: u16, wait: Option<Duration>, bytes: &[u8]) -> Failure {
    let text = String::from_utf8_lossy(bytes);
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let error = &value["error"];
    let said = error["message"].as_str().or(error.as_str());
    let said = said.map_or_else(|| shortened(&text), shortened);
    let why = format!("status {status}: {said}");
    // An empty account is reported like a rate limit, and does not fill by waiting.
    let broke = error["code"] == "insufficient_quota" || error["type"] == "insufficient_quota";
    match status {
        408 | 425 | 429 | 500..=599 if !broke => Failure::Passing(why, wait),
        _ => Failure::Fatal(why),
    }
}

fn answer(config: &JudgeConfig, bytes: &[u8]) -> std::result::Result<Answer, Failure> {
    // Proxies answer 200 with a page of their own when what is behind them restarts.
    let malformed = |what: &str| {
        let found = shortened(&String::from_utf8_lossy(bytes));
        Failure::Passing(format!("malformed reply: {what}, found {found}"), None)
    };
    let value: Value = serde_json::from_slice(bytes).map_err(|_| malformed("expected JSON"))?;
    let content = &value["choices"][0]["message"]["content"];
    let Some(text) = content.as_str() else {
        return Err(malformed("expected a text at choices[0].message.content"));
    };
    let served = value["model"].as_str().unwrap_or(&config.model);
    let named = |name: &str| served.starts_with(name);
    if !named(&config.model) && !config.served_as.as_deref().is_some_and(named) {
        return Err(Failure::Fatal(format!(
            "asked for model {:?}, was answered by {served:?}; set served_as to that name if it is the judge you want",
            config.model
        )));
    }
    Ok(Answer {
        text: text.into(),
        model: served.into(),
        tokens: value["usage"]["total_tokens"].as_u64(),
    })
}

fn shortened(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.chars().count() {
        0 => "nothing".into(),
        1..=200 => line,
        _ => line.chars().take(200).chain(['…']).collect(),
    }
}
