//! The judge against a real HTTP server on this machine.
#![cfg(feature = "judge")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rto::seed::SeedTree;
use rto::seq::StreamKey;
use rto_bridge::judge::{Contest, Judge, JudgeConfig, Template, Verdict};
use serde_json::{Value, json};

/// A request as the server saw it.
#[derive(Clone, Debug)]
struct Seen {
    path: String,
    authorization: Option<String>,
    body: Value,
}

/// What the server does with the n-th request.
enum Act {
    /// Status, more headers, body.
    Say(u16, &'static str, String),
    /// Says nothing until the client gives up.
    Hang,
    /// Closes the connection at once.
    Drop,
}

struct Server {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    fn start(act: impl Fn(usize, &Seen) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, act) = (seen.clone(), Arc::new(act));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, act) = (log.clone(), act.clone());
                std::thread::spawn(move || serve(stream, &log, act.as_ref()));
            }
        });
        Self { url, seen }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(
    mut stream: TcpStream,
    log: &Mutex<Vec<Seen>>,
    act: &dyn Fn(usize, &Seen) -> Act,
) -> Option<()> {
    let seen = receive(&mut stream)?;
    let n = {
        let mut log = log.lock().unwrap();
        log.push(seen.clone());
        log.len() - 1
    };
    match act(n, &seen) {
        Act::Drop => {}
        Act::Hang => std::thread::sleep(Duration::from_secs(5)),
        Act::Say(status, headers, body) => {
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
            );
            stream.write_all((head + &body).as_bytes()).ok()?;
        }
    }
    Some(())
}

fn receive(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let n = stream.read(&mut buffer).ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|l| l.split_once(": "));
            let found = lines.find(|(key, _)| key.eq_ignore_ascii_case(name))?;
            Some(found.1.to_string())
        };
        if body.len() >= header("content-length")?.parse().ok()? {
            return Some(Seen {
                path: head.split(' ').nth(1)?.into(),
                authorization: header("authorization"),
                body: serde_json::from_str(body).ok()?,
            });
        }
    }
}

fn reply(text: &str) -> Act {
    let body = json!({
        "model": "judge-1-0613",
        "choices": [{"message": {"role": "assistant", "content": text}}],
        "usage": {"total_tokens": 42},
    });
    Act::Say(200, "", body.to_string())
}

/// Prefers the reply that says "good"; ties where both or neither do.
fn honest(seen: &Seen) -> Act {
    let text = seen.body["messages"][0]["content"].as_str().unwrap();
    let part = |name: &str| {
        let start = text.find(&format!("<{name}>")).unwrap();
        let end = text.find(&format!("</{name}>")).unwrap();
        text[start..end].contains("good")
    };
    let verdict = match (part("reply_a"), part("reply_b")) {
        (true, false) => "A",
        (false, true) => "B",
        _ => "tie",
    };
    reply(&format!("One sentence.\nVerdict: {verdict}"))
}

fn config(url: &str) -> JudgeConfig {
    JudgeConfig {
        api_key_env: None,
        timeout: Duration::from_millis(500),
        first_pause: Duration::from_millis(5),
        longest_pause: Duration::from_millis(40),
        retries: 3,
        ..JudgeConfig::new(url, "judge-1")
    }
}

fn contests(n: usize) -> Vec<Contest> {
    let texts = ["a good answer", "a poor answer", "another good answer"];
    let contest = |i: usize| Contest {
        query: format!("question {i}"),
        first: texts[i % 2].into(),
        second: texts[i % 3].into(),
        key: StreamKey::new(SeedTree::new(7).index(i as u64)),
    };
    (0..n).map(contest).collect()
}

fn expected(contest: &Contest) -> Verdict {
    match (
        contest.first.contains("good"),
        contest.second.contains("good"),
    ) {
        (true, false) => Verdict::First,
        (false, true) => Verdict::Second,
        _ => Verdict::Tie,
    }
}

fn fails(config: JudgeConfig, path: &Path) -> String {
    let judge = Judge::open(config, path).unwrap();
    let error = judge.decide(&contests(1), &|_| ()).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

#[test]
fn verdicts_follow_the_answers_whatever_their_order() {
    let server = Server::start(|_, seen| honest(seen));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    let judge = Judge::open(config(&server.url), &path).unwrap();
    let all = contests(60);
    assert_eq!(judge.n_open(&all), 60);
    let verdicts = judge.decide(&all, &|_| ()).unwrap();
    for (contest, verdict) in all.iter().zip(&verdicts) {
        assert_eq!(*verdict, expected(contest));
    }
    let seen = server.seen();
    assert_eq!(seen.len(), 60);
    assert!(
        seen.iter()
            .all(|s| s.path == "/v1/chat/completions" && s.authorization.is_none())
    );
    assert_eq!(seen[0].body["model"], "judge-1");
    assert_eq!(seen[0].body["temperature"], 0.0);
    // Which answer stands first is random: of 60 fair draws, 15 to 45 with probability 0.9999.
    let swapped = |contest: &&Contest| {
        let find = |s: &Seen| {
            s.body["messages"][0]["content"]
                .as_str()
                .unwrap()
                .to_string()
        };
        let text = seen
            .iter()
            .map(find)
            .find(|t| t.contains(&format!("{}\n", contest.query)))
            .unwrap();
        text.find(&contest.second).unwrap() < text.find(&contest.first).unwrap()
    };
    let n = all
        .iter()
        .filter(|c| c.first != c.second)
        .filter(swapped)
        .count();
    assert!((10..=45).contains(&n), "{n}");
}

#[test]
fn nothing_is_paid_twice() {
    let server = Server::start(|_, seen| honest(seen));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    let mut all = contests(20);
    all.extend(contests(20));
    let first = {
        let judge = Judge::open(config(&server.url), &path).unwrap();
        assert!(
            Judge::open(config(&server.url), &path)
                .unwrap_err()
                .to_string()
                .contains("in use")
        );
        judge.decide(&all, &|_| ()).unwrap()
    };
    assert_eq!(server.seen().len(), 20, "equal contests are asked once");
    // Killed while writing its last line.
    let text = std::fs::read(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 9]).unwrap();
    let judge = Judge::open(config(&server.url), &path).unwrap();
    assert_eq!(judge.n_open(&all), 1);
    assert_eq!(judge.decide(&all, &|_| ()).unwrap(), first);
    assert_eq!(server.seen().len(), 21);
    drop(judge);
    // Transcripts alone are enough.
    let judge = Judge::open(config("http://127.0.0.1:9"), &path).unwrap();
    assert_eq!(judge.decide(&all, &|_| ()).unwrap(), first);
    drop(judge);
    // Another model, temperature or question is another judge.
    let other = JudgeConfig {
        model: "judge".into(),
        ..config(&server.url)
    };
    assert_eq!(Judge::open(other, &path).unwrap().n_open(&all), 20);
    let line = std::fs::read_to_string(&path)
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .to_string();
    let value: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&value["model"], &value["tokens"]),
        (&json!("judge-1-0613"), &json!(42))
    );
}

#[test]
fn what_was_answered_before_a_failure_is_kept() {
    let server = Server::start(|n, seen| match n {
        0..7 => honest(seen),
        _ => Act::Say(
            401,
            "",
            json!({"error": {"message": "no such key"}}).to_string(),
        ),
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    let judge = Judge::open(
        JudgeConfig {
            workers: 1,
            ..config(&server.url)
        },
        &path,
    )
    .unwrap();
    let error = judge
        .decide(&contests(20), &|_| ())
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("/v1/chat/completions: status 401: no such key"),
        "{error}"
    );
    assert_eq!(judge.n_open(&contests(20)), 13);
    assert_eq!(server.seen().len(), 8, "a refusal is not repeated");
}

#[test]
fn passing_failures_are_waited_out() {
    let server = Server::start(|n, seen| match n {
        0 => Act::Say(429, "Retry-After: 1\r\n", "slow down".into()),
        1 => Act::Say(500, "", "<html>oops</html>".into()),
        2 => Act::Drop,
        3 => Act::Hang,
        4 => Act::Say(200, "", "<html>restarting</html>".into()),
        5 => Act::Say(200, "", "{\"choices\": []}".into()),
        _ => honest(seen),
    });
    let dir = tempfile::tempdir().unwrap();
    let config = JudgeConfig {
        retries: 6,
        ..config(&server.url)
    };
    let judge = Judge::open(config, &dir.path().join("t.jsonl")).unwrap();
    let start = Instant::now();
    let verdicts = judge.decide(&contests(1), &|_| ()).unwrap();
    assert_eq!(verdicts, [expected(&contests(1)[0])]);
    assert_eq!(server.seen().len(), 7);
    // The hanging request takes its 500 ms, and Retry-After is cut to the longest pause of 40 ms.
    let took = start.elapsed();
    assert!(
        took > Duration::from_millis(500) && took < Duration::from_secs(4),
        "{took:?}"
    );
}

#[test]
fn pauses_grow_and_retry_after_is_heeded() {
    let server = Server::start(|_, _| Act::Say(429, "Retry-After: 1\r\n", "{}".into()));
    let dir = tempfile::tempdir().unwrap();
    let patient = JudgeConfig {
        retries: 1,
        longest_pause: Duration::from_secs(2),
        ..config(&server.url)
    };
    let start = Instant::now();
    let error = fails(patient, &dir.path().join("a.jsonl"));
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert!(error.ends_with("status 429: {} (2 attempts)"), "{error}");
    // 10, 20, 40, 80 ms, each at least halved by the spread.
    let server = Server::start(|_, _| Act::Say(503, "", String::new()));
    let growing = JudgeConfig {
        retries: 4,
        first_pause: Duration::from_millis(10),
        longest_pause: Duration::from_secs(1),
        ..config(&server.url)
    };
    let start = Instant::now();
    assert!(
        fails(growing, &dir.path().join("b.jsonl")).ends_with("status 503: nothing (5 attempts)")
    );
    assert!(start.elapsed() >= Duration::from_millis(75));
}

#[test]
fn hopeless_cases_say_why_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    let one = |act: fn() -> Act| {
        let server = Server::start(move |_, _| act());
        let error = fails(config(&server.url), &path);
        (error, server.seen().len())
    };
    let (error, n) = one(|| {
        Act::Say(
            404,
            "",
            json!({"error": {"message": "The model `judge-1` does not exist"}}).to_string(),
        )
    });
    assert!(
        error.contains("status 404: The model `judge-1` does not exist") && n == 1,
        "{error}"
    );
    let (error, n) = one(|| {
        let body =
            json!({"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}});
        Act::Say(429, "", body.to_string())
    });
    assert!(
        error.contains("You exceeded your quota") && n == 1,
        "{error}"
    );
    let (error, n) = one(|| {
        let body =
            json!({"model": "small-llama", "choices": [{"message": {"content": "Verdict: A"}}]});
        Act::Say(200, "", body.to_string())
    });
    assert!(
        error.contains("asked for model \"judge-1\", was answered by \"small-llama\"") && n == 1,
        "{error}"
    );
    let (error, n) = one(|| Act::Say(200, "", "hello".into()));
    assert!(
        error.contains("malformed reply: expected JSON, found hello (4 attempts)") && n == 4,
        "{error}"
    );
    let (error, n) = one(|| Act::Hang);
    assert!(
        error.contains("no reply in time (4 attempts)") && n == 4,
        "{error}"
    );
    let error = fails(config("http://127.0.0.1:9"), &path);
    assert!(
        error.contains("judge at http://127.0.0.1:9/chat/completions: unreachable"),
        "{error}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"", "nothing was written");
}

#[test]
fn another_name_of_the_model_can_be_allowed() {
    let server = Server::start(|_, seen| honest(seen));
    let dir = tempfile::tempdir().unwrap();
    let config = JudgeConfig {
        model: "my-judge".into(),
        served_as: Some("judge-1".into()),
        ..config(&server.url)
    };
    // Models that allow neither setting are not sent them.
    let config = JudgeConfig {
        temperature: None,
        max_tokens: None,
        ..config
    };
    let judge = Judge::open(config, &dir.path().join("t.jsonl")).unwrap();
    assert!(judge.decide(&contests(3), &|_| ()).is_ok());
    let body = &server.seen()[0].body;
    assert!(body.get("temperature").is_none() && body.get("max_tokens").is_none());
}

#[test]
fn the_key_is_sent_and_never_shown() {
    let server = Server::start(|_, _| Act::Say(403, "", "forbidden".into()));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    let with = |name: &str| JudgeConfig {
        api_key_env: Some(name.into()),
        ..config(&server.url)
    };
    let error = Judge::open(with("RTO_TEST_NO_SUCH_KEY"), &path)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("api_key_env: found RTO_TEST_NO_SUCH_KEY, which is not set"),
        "{error}"
    );
    // Cargo sets this one for every test.
    let secret = env!("CARGO_PKG_NAME");
    let judge = Judge::open(with("CARGO_PKG_NAME"), &path).unwrap();
    assert!(!format!("{judge:?}").contains("Bearer"));
    let error = judge.decide(&contests(1), &|_| ()).unwrap_err().to_string();
    assert!(
        error.ends_with("status 403: forbidden") && !error.contains(secret),
        "{error}"
    );
    assert_eq!(
        server.seen()[0].authorization,
        Some(format!("Bearer {secret}"))
    );
}

#[test]
fn a_template_of_the_user_is_asked() {
    let server = Server::start(|_, _| reply("Comparison: …\nMore helpful: \"B\""));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prompt.txt");
    std::fs::write(
        &file,
        "Query: {{query}}\nA: {{response_a}}\nB: {{response_b}}\n",
    )
    .unwrap();
    let config = JudgeConfig {
        template: Template::from_file(&file).unwrap(),
        ..config(&server.url)
    };
    let judge = Judge::open(config, &dir.path().join("t.jsonl")).unwrap();
    // B is better wherever it stands: the two orders give the two verdicts.
    let verdicts = judge.decide(&contests(30), &|_| ()).unwrap();
    assert!(verdicts.contains(&Verdict::First) && verdicts.contains(&Verdict::Second));
    let text = server.seen()[0].body["messages"][0]["content"]
        .as_str()
        .unwrap()
        .to_string();
    assert!(text.starts_with("Query: question"), "{text}");
    std::fs::write(&file, "{{query}}").unwrap();
    let error = Template::from_file(&file).unwrap_err().to_string();
    assert!(
        error.contains("prompt.txt: no place {{response_a}}"),
        "{error}"
    );
}

#[test]
fn damaged_transcripts_and_settings_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    std::fs::write(&path, "{\"hash\": 3}\n").unwrap();
    let error = Judge::open(config("http://127.0.0.1:9"), &path)
        .unwrap_err()
        .to_string();
    assert!(error.contains("t.jsonl:1: hash: found 3"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"{\"hash\": 3}\n");
    let fresh = dir.path().join("u.jsonl");
    for bad in [
        config("ftp://x"),
        JudgeConfig {
            model: String::new(),
            ..config("http://x")
        },
        JudgeConfig {
            temperature: Some(f64::NAN),
            ..config("http://x")
        },
        JudgeConfig {
            workers: 0,
            ..config("http://x")
        },
    ] {
        assert!(Judge::open(bad, &fresh).is_err());
    }
    assert!(!fresh.exists());
}

/// A server of somebody else's making, where `RTO_JUDGE_URL` and `RTO_JUDGE_MODEL` name one.
#[test]
fn a_real_server_answers() {
    let [Ok(url), Ok(model)] = ["RTO_JUDGE_URL", "RTO_JUDGE_MODEL"].map(std::env::var) else {
        println!("skipped: RTO_JUDGE_URL and RTO_JUDGE_MODEL do not name a judge");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    let patient = JudgeConfig {
        api_key_env: None,
        max_tokens: Some(24),
        ..JudgeConfig::new(&url, &model)
    };
    let judge = Judge::open(patient, &path).unwrap();
    let verdicts = judge
        .decide(&contests(3), &|n| println!("{n} answered"))
        .unwrap();
    println!("{verdicts:?}\n{}", std::fs::read_to_string(&path).unwrap());
    assert_eq!((verdicts.len(), judge.n_open(&contests(3))), (3, 0));
    // The server's own refusal of a model it does not have comes through.
    let other = JudgeConfig {
        api_key_env: None,
        ..JudgeConfig::new(&url, "no-such/model")
    };
    println!("{}", fails(other, &dir.path().join("u.jsonl")));
}

/// A run folder with two methods, of which `rto` says "good" at even prompts, and the program that judges it.
fn judged_run(dir: &Path, url: &str, more: &[&str]) -> std::process::Output {
    let mut text = String::new();
    for method in ["rto", "sft"] {
        for id in 0..6 {
            let good = if method == "rto" && id % 2 == 0 {
                "good"
            } else {
                "plain"
            };
            let line = json!({
                "method": method, "prompt_id": id, "prompt": format!("Human: {id}?"), "response": good, "reward": 0.0,
                "kl": 0.0, "length": 3, "finished": true,
            });
            text += &format!("{line}\n");
        }
    }
    std::fs::write(dir.join("responses.jsonl"), text).unwrap();
    let run = [
        "judge",
        "--run",
        dir.to_str().unwrap(),
        "--endpoint",
        url,
        "--judge-model",
        "judge-1",
    ];
    std::process::Command::new(env!("CARGO_BIN_EXE_rto_llm"))
        .args(run)
        .args(["--key-env", "none", "--quiet", "--retries", "0"])
        .args(more)
        .output()
        .unwrap()
}

#[test]
fn a_finished_run_is_judged_once_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|_, seen| honest(seen));
    let dry = judged_run(dir.path(), &server.url, &["--dry-run"]);
    assert!(dry.status.success() && server.seen().is_empty());
    let output = judged_run(dir.path(), &server.url, &[]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // Three of six won, three tied.
    assert!(
        said.contains("6 comparisons, 6 requests")
            && said.contains("rto is preferred to sft on 75.0%"),
        "{said}"
    );
    let table = std::fs::read_to_string(dir.path().join("judge.csv")).unwrap();
    assert_eq!(
        table
            .lines()
            .filter(|l| l.starts_with("rto,sft,") && l.contains(",1.0,"))
            .count(),
        3,
        "{table}"
    );
    let page = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.contains("Win rates by the judge"));
    // Nothing is asked twice, and the order of the replies was drawn.
    let again = judged_run(dir.path(), &server.url, &[]);
    assert!(String::from_utf8_lossy(&again.stdout).contains("6 comparisons, 0 requests"));
    assert_eq!(server.seen().len(), 6);
}

#[test]
fn a_judge_that_fails_is_one_line_and_leaves_no_table() {
    let dir = tempfile::tempdir().unwrap();
    let odd = Server::start(|_, _| Act::Say(200, "", "not json".into()));
    let refusing =
        Server::start(|_, _| Act::Say(401, "", "{\"error\": {\"message\": \"no key\"}}".into()));
    for url in ["http://127.0.0.1:9/v1", &odd.url, &refusing.url] {
        let output = judged_run(dir.path(), url, &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.starts_with("error: judge at") && said.lines().count() == 1,
            "{said}"
        );
        assert!(!dir.path().join("judge.csv").exists());
    }
    let output = judged_run(dir.path(), &odd.url, &["--compare", "rto:dpo"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("--compare rto:dpo: expected two different ones of rto, sft"),
        "{said}"
    );
}
