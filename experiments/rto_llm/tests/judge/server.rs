//! A server on this machine that answers as a judge would, or does not.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub authorization: Option<String>,
    pub body: Value,
}

/// What the server does with the n-th request.
pub enum Act {
    /// Status, more headers, body.
    Say(u16, &'static str, String),
    /// Says nothing until the client gives up.
    Hang,
    /// Closes the connection at once.
    Drop,
}

pub struct Server {
    pub url: String,
    pub seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub fn start(act: impl Fn(usize, &Seen) -> Act + Send + Sync + 'static) -> Self {
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

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

pub fn serve(
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

pub fn receive(stream: &mut TcpStream) -> Option<Seen> {
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

pub fn reply(text: &str) -> Act {
    let body = json!({
        "model": "judge-1-0613",
        "choices": [{"message": {"role": "assistant", "content": text}}],
        "usage": {"total_tokens": 42},
    });
    Act::Say(200, "", body.to_string())
}

/// Prefers the reply that says "good"; ties where both or neither do.
pub fn honest(seen: &Seen) -> Act {
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
