//! The judge against a real HTTP server on this machine.
#![cfg(feature = "judge")]

#[path = "judge/of_run.rs"]
mod of_run;
#[path = "judge/server.rs"]
mod server;

use std::path::Path;
use std::time::{Duration, Instant};

use rto::seed::SeedTree;
use rto::seq::StreamKey;
use rto_bridge::judge::{Contest, Judge, JudgeConfig, Template, Verdict};
use serde_json::{Value, json};

use server::{Act, Seen, Server, honest, reply};

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
