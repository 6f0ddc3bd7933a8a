//! What the terminal tests of all programs share: a terminal of a given width, a pipe that is closed, an interrupt.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Tall enough that nothing leaves the screen.
const ROWS: u16 = 3000;

/// What a terminal showed.
pub struct Shown {
    pub status: ExitStatus,
    /// The screen at the end, row by row.
    pub rows: Vec<String>,
    /// Rows that went on in the next one, because a line was too wide.
    pub wrapped: Vec<String>,
    /// Every byte that was written.
    pub all: String,
}

/// Runs a program in a terminal of so many columns.
pub fn in_terminal(command: &mut Command, columns: u16) -> Shown {
    watched(command, columns, |_, _, _| false)
}

/// Runs a program in a terminal and presses Ctrl-C once a bar is drawn.
pub fn interrupted_at_keyboard(command: &mut Command, columns: u16) -> Shown {
    watched(command, columns, |screen, keyboard, child| {
        let drawn = screen.contains("[=") || screen.contains("[>");
        if drawn {
            // The terminal writes ^C where the cursor stands. It is not the one that the program was started from, and sends no signal.
            keyboard.write_all(b"\x03").unwrap();
            std::thread::sleep(Duration::from_millis(50));
            kill_process(child, Signal::INT).unwrap();
        }
        drawn
    })
}

/// Runs a program in a terminal; `act` gets the screen after every piece of it, until it returns true.
fn watched(
    command: &mut Command,
    columns: u16,
    mut act: impl FnMut(&str, &mut File, Pid) -> bool,
) -> Shown {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = OpenOptions::new()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    let size = Winsize {
        ws_row: ROWS,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&theirs, size).unwrap();
    let end = || Stdio::from(OwnedFd::from(theirs.try_clone().unwrap()));
    let mut child = command
        .env("TERM", "xterm-256color")
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    // The command keeps its ends open, and the terminal with them.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    drop(theirs);
    let mut parser = vt100::Parser::new(ROWS, columns, 0);
    let (mut bytes, mut buffer, mut acted) = (Vec::new(), [0; 4096], false);
    let mut ours = File::from(ours);
    // Linux says EIO when the last end on the other side is closed.
    while let Ok(n) = ours.read(&mut buffer) {
        if n == 0 {
            break;
        }
        parser.process(&buffer[..n]);
        bytes.extend_from_slice(&buffer[..n]);
        acted = acted
            || act(
                &parser.screen().contents(),
                &mut ours,
                Pid::from_child(&child),
            );
    }
    let screen = parser.screen();
    let rows: Vec<String> = screen.rows(0, columns).collect();
    let wrapped = (0..ROWS).filter(|row| screen.row_wrapped(*row));
    Shown {
        status: child.wait().unwrap(),
        wrapped: wrapped.map(|row| rows[row as usize].clone()).collect(),
        rows,
        all: String::from_utf8_lossy(&bytes).into_owned(),
    }
}

/// What must hold of a finished program in a terminal: nothing too wide, nothing of the progress left.
pub fn check_terminal(shown: &Shown, what: &str) {
    let screen = shown.rows.join("\n");
    let screen = screen.trim_end();
    assert!(shown.status.success(), "{what}:\n{screen}");
    assert_eq!(
        shown.wrapped,
        Vec::<String>::new(),
        "{what}: lines too wide"
    );
    for ghost in [" left", "[==", "[=>", "[> "] {
        assert!(
            !screen.contains(ghost),
            "{what}: {ghost:?} stays:\n{screen}"
        );
    }
}

/// Runs a program and closes its standard output after `lines` lines; exit status and standard error.
pub fn into_closed_pipe(command: &mut Command, lines: usize) -> (ExitStatus, String) {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    for _ in 0..lines {
        out.read_line(&mut line).unwrap();
    }
    drop(out);
    let mut error = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut error)
        .unwrap();
    (child.wait().unwrap(), error)
}

/// Runs a program and interrupts it after a while; whether it was still running, and standard error.
pub fn interrupted(command: &mut Command, after: Duration) -> (bool, String) {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(after);
    let running = child.try_wait().unwrap().is_none();
    if running {
        let pid = Pid::from_child(&child);
        kill_process(pid, Signal::INT).unwrap();
    }
    let asked = Instant::now();
    let mut error = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut error)
        .unwrap();
    let status = child.wait().unwrap();
    if running && !status.success() {
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(status.signal(), Some(2), "{error}");
        assert!(asked.elapsed() < Duration::from_secs(10), "slow to end");
    }
    (running && !status.success(), error)
}

/// The command that an interrupted program names, without the program.
pub fn goes_on_with(error: &str) -> Vec<String> {
    let line = error.lines().find_map(|l| l.strip_prefix("to go on: "));
    let line = line.unwrap_or_else(|| panic!("no way to go on: {error}"));
    line.split(' ').skip(1).map(String::from).collect()
}

/// Every file under a folder by its path, without what carries the wall clock.
pub fn contents(root: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, all: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            if path.is_dir() {
                walk(root, &path, all);
            } else if !name.ends_with("timings.json") && !name.contains("tfevents") {
                all.insert(name.to_string(), fs::read(&path).unwrap());
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(root, root, &mut all);
    all
}

#[track_caller]
pub fn same(a: &Path, b: &Path) {
    let (a, b) = (contents(a), contents(b));
    let names = |m: &BTreeMap<String, Vec<u8>>| m.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&a), names(&b));
    for (name, bytes) in &a {
        assert!(bytes == &b[name], "{name} differs");
    }
}

/// Moments of a run of this length, the same ones every time.
pub fn moments(length: Duration) -> impl Iterator<Item = Duration> {
    // Multiples of the golden ratio: spread out, whatever their number.
    (1..).map(move |i| length.mul_f64((f64::from(i) * 0.618_034).fract()))
}
