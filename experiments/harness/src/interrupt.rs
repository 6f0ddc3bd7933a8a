//! Ctrl-C and its kin: files in the making become whole, children end, and one line says how to go on.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Set for programs that another one of ours has started: that one speaks for them.
const PARENT: &str = "RTO_PARENT";

/// The run folder that the same command goes on with.
static FOLDER: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Set once this process is being ended: what its children's end means is then known.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Set where whoever ends this process says why.
static SILENT: AtomicBool = AtomicBool::new(false);

/// Programs started by this one that are still running.
static CHILDREN: Mutex<Vec<Arc<Mutex<Child>>>> = Mutex::new(Vec::new());

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names the folder that the work of this process goes to. The first one counts: a program that makes several runs below
/// one folder names that one first.
pub fn works_in(folder: &Path) {
    locked(&FOLDER).get_or_insert_with(|| folder.to_path_buf());
}

/// From here on an interrupt ends this process without a word: it is one of several, and who started them says why.
pub fn says_nothing() {
    SILENT.store(true, Ordering::SeqCst);
}

/// Runs a program to its end; an interrupt of this one ends it too.
///
/// # Errors
/// When it cannot be started.
pub fn run_child(command: &mut Command) -> io::Result<ExitStatus> {
    let child = Arc::new(Mutex::new(command.env(PARENT, "1").spawn()?));
    locked(&CHILDREN).push(child.clone());
    let status = loop {
        // Waiting would hold the lock that an interrupt needs.
        if let Some(status) = locked(&child).try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    while ENDING.load(Ordering::SeqCst) {
        // The process has moments left, and must not spend them on complaining.
        std::thread::sleep(Duration::from_secs(1));
    }
    locked(&CHILDREN).retain(|other| !Arc::ptr_eq(other, &child));
    Ok(status)
}

/// Watches for the interrupt (Ctrl-C) and the request to terminate, for the rest of the process.
#[cfg(unix)]
pub(crate) fn watch(name: &str) {
    use signal_hook::consts::signal::{SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;
    // Without a watcher the signals do what they always do, and a run can be continued all the same.
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) else {
        return;
    };
    let name = name.to_string();
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            end(&name, signal);
        }
    });
}

#[cfg(not(unix))]
pub(crate) fn watch(_: &str) {}

#[cfg(unix)]
fn end(name: &str, signal: i32) {
    ENDING.store(true, Ordering::SeqCst);
    // Held to the end: no file is begun from here on.
    let _writing = crate::atomic::stop_writing(Duration::from_secs(2));
    for child in locked(&CHILDREN).iter() {
        let mut child = locked(child);
        // What it leaves can be continued, as after any kill.
        child.kill().ok();
        child.wait().ok();
    }
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let said = message(name, &arguments, locked(&FOLDER).as_deref());
    let (told, tells) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        crate::progress::last_words(|| {
            if std::env::var_os(PARENT).is_none() && !SILENT.load(Ordering::SeqCst) {
                crate::cli::write_note(&said);
            }
            told.send(()).ok();
        })
    });
    // A terminal or a pipe that takes nothing must not keep the process.
    tells.recv_timeout(Duration::from_secs(1)).ok();
    // A shell that runs a list of commands stops there, as it does for other programs.
    signal_hook::low_level::emulate_default_handler(signal).ok();
    std::process::exit(128 + signal);
}

#[cfg(unix)]
fn message(name: &str, arguments: &[OsString], folder: Option<&Path>) -> String {
    let Some(folder) = folder else {
        return format!("{name}: interrupted");
    };
    let mut command = vec![name.to_string()];
    command.extend(arguments.iter().map(|a| quoted(&a.to_string_lossy())));
    let names_folder = |a: &OsString| {
        let a = a.to_string_lossy();
        ["--out", "--resume"].iter().any(|flag| {
            a.strip_prefix(flag)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        })
    };
    if !arguments.iter().any(names_folder) {
        command.push("--out".into());
        command.push(quoted(&folder.to_string_lossy()));
    }
    format!(
        "{name}: interrupted; what is finished is kept in {}\nto go on: {}",
        folder.display(),
        command.join(" ")
    )
}

/// A word in quotation marks where a shell would read it otherwise.
#[cfg(unix)]
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_a_command_that_goes_on() {
        let arguments = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
        let folder = Some(Path::new("runs/demo-0001"));
        let said = message("demo", &arguments(&["--smoke", "--prompt", "it's"]), folder);
        let command = said.lines().last().unwrap();
        assert_eq!(
            command,
            r"to go on: demo --smoke --prompt 'it'\''s' --out runs/demo-0001"
        );
        for named in [&["--out", "x"][..], &["--out=x"], &["--resume", "x"]] {
            let said = message("demo", &arguments(named), folder);
            assert!(said.ends_with(&named.join(" ")), "{said}");
        }
        assert_eq!(message("demo", &[], None), "demo: interrupted");
    }

    #[test]
    fn children_are_waited_for() {
        let status = run_child(Command::new("sh").args(["-c", "exit 3"])).unwrap();
        assert_eq!(status.code(), Some(3));
        assert!(run_child(&mut Command::new("/no/such/program")).is_err());
    }
}
