//! Progress on standard error: one line for the whole run, silent when nobody watches, never part of the output.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// Every line of the process. What else goes to the terminal must be printed by way of [`beside`], or it would be drawn over.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// The line fits any width: the message gets what the rest leaves, and is cut there. Then the cursor goes back by three columns: a
/// terminal writes `^C` where it stands, and at the end of a full line that would begin a new one, with the full one left behind.
const BAR: &str = "{wide_msg} [{bar:20}] {percent:>3}% {left:>8}\u{1b}[3D";
const SPINNER: &str = "{spinner} {wide_msg} {elapsed:>8}\u{1b}[3D";

/// Steps of the bar itself.
const STEPS: f64 = 1000.0;

/// The line is written again at most so often.
const OFTEN: Duration = Duration::from_millis(100);

/// Prints something that bars must not draw over.
pub fn beside<T>(print: impl FnOnce() -> T) -> T {
    BARS.suspend(print)
}

/// Takes every line from the terminal and prints the last words of a process that is being ended. No bar is drawn after them: the lock
/// on the terminal is never given back, or a thread at work would draw its line again before the process is gone.
pub(crate) fn last_words(print: impl FnOnce()) -> ! {
    BARS.suspend(|| {
        print();
        loop {
            std::thread::park();
        }
    })
}

/// The progress of a run: one line, which knows the whole of the work and says what is being done.
#[derive(Debug, Clone)]
pub struct Progress(Arc<Line>);

#[derive(Debug)]
struct Line {
    quiet: bool,
    bar: Mutex<Option<ProgressBar>>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    start: Instant,
    shown: Option<Instant>,
    /// Work of the run, where it was said beforehand.
    planned: Option<f64>,
    /// Work of the parts that have ended.
    done: f64,
    /// Work that an earlier process did.
    restored: f64,
    parts: Vec<Part>,
    next: usize,
}

#[derive(Debug)]
struct Part {
    id: usize,
    label: Cow<'static, str>,
    detail: String,
    len: u64,
    position: u64,
    work: f64,
}

impl Part {
    fn work_of(&self, steps: u64) -> f64 {
        self.work * steps as f64 / self.len.max(1) as f64
    }
}

impl State {
    fn share(&self, work: f64) -> f64 {
        let known = self.done + self.parts.iter().map(|p| p.work).sum::<f64>();
        let whole = self.planned.unwrap_or(known).max(known);
        if whole > 0.0 { work / whole } else { 0.0 }
    }

    /// The share that is done, from 0 to 1.
    fn fraction(&self) -> f64 {
        let begun: f64 = self.parts.iter().map(|p| p.work_of(p.position)).sum();
        self.share(self.done + begun).clamp(0.0, 1.0)
    }

    /// Seconds to the end, from the speed of this process alone; `None` before there is one.
    fn left(&self) -> Option<f64> {
        let (now, restored) = (self.fraction(), self.share(self.restored));
        let measured = now - restored;
        (measured > 1e-6).then(|| self.start.elapsed().as_secs_f64() * (1.0 - now) / measured)
    }

    fn message(&self) -> String {
        let mut text = String::new();
        for part in &self.parts {
            let gap = if text.is_empty() { "" } else { "; " };
            let (label, at, len) = (&part.label, part.position, part.len);
            write!(text, "{gap}{label} {at}/{len}").ok();
        }
        // Of several parts at once only where they are fits into a line.
        if let [part] = &self.parts[..]
            && !part.detail.is_empty()
        {
            write!(text, ", {}", part.detail).ok();
        }
        text
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Progress {
    /// `quiet` is the `--quiet` flag. The line is also silent when standard error is not a terminal. The whole is
    /// what bars have been made so far.
    pub fn new(quiet: bool) -> Self {
        Self::of(quiet, None)
    }

    /// The progress of a run whose whole work is known, in any unit; its parts are made by [`Progress::part`].
    pub fn whole(quiet: bool, work: f64) -> Self {
        Self::of(quiet, Some(work))
    }

    fn of(quiet: bool, planned: Option<f64>) -> Self {
        let state = State {
            start: Instant::now(),
            shown: None,
            planned,
            done: 0.0,
            restored: 0.0,
            parts: Vec::new(),
            next: 0,
        };
        Self(Arc::new(Line {
            quiet,
            bar: Mutex::new(None),
            state: Arc::new(Mutex::new(state)),
        }))
    }

    /// A part of `len` steps, each worth a unit of work; call `inc(1)` on it. It has ended when dropped.
    pub fn bar(&self, len: u64, label: impl Into<Cow<'static, str>>) -> Bar {
        self.part(len, label, len as f64)
    }

    /// A part of `len` steps that are `work` together.
    pub fn part(&self, len: u64, label: impl Into<Cow<'static, str>>, work: f64) -> Bar {
        self.0.show();
        let mut state = locked(&self.0.state);
        let id = state.next;
        state.next += 1;
        state.parts.push(Part {
            id,
            label: label.into(),
            detail: String::new(),
            len,
            position: 0,
            work,
        });
        drop(state);
        let bar = Bar {
            line: self.0.clone(),
            id,
        };
        bar.line.refresh(true);
        bar
    }

    /// Work that is done already, by an earlier process: it counts for the whole and not for the time left.
    pub fn restored(&self, work: f64) {
        let mut state = locked(&self.0.state);
        state.done += work;
        state.restored += work;
        drop(state);
        self.0.refresh(true);
    }

    /// A spinner for work of unknown length, with the time spent so far.
    pub fn spinner(&self, label: impl Into<Cow<'static, str>>) -> Spinner {
        let spinner = made(self.0.quiet, SPINNER, None);
        spinner.set_message(label);
        Spinner(spinner)
    }
}

/// A line on the terminal, or a silent one. indicatif hides lines by itself when standard error is not a terminal.
fn made(quiet: bool, template: &str, state: Option<Arc<Mutex<State>>>) -> ProgressBar {
    let steps = state.is_some().then_some(STEPS as u64);
    let bar = ProgressBar::with_draw_target(steps, ProgressDrawTarget::hidden());
    let bar = match quiet {
        true => bar,
        false => BARS.add(bar),
    };
    if bar.is_hidden() {
        return bar;
    }
    if let Ok(mut style) = ProgressStyle::with_template(template) {
        if let Some(state) = state {
            style = style.with_key("left", move |_: &ProgressState, out: &mut dyn Write| {
                let left = locked(&state).left();
                out.write_str(&left.map_or("…".into(), shown)).ok();
            });
        }
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// Seconds as people say them, in eight columns at most.
fn shown(seconds: f64) -> String {
    match seconds {
        s if s < 99.5 => format!("{s:.0}s left"),
        s if s < 99.5 * 60.0 => format!("{:.0}m left", s / 60.0),
        s if s < 99.5 * 3600.0 => format!("{:.0}h left", s / 3600.0),
        s => format!("{:.0}d left", s / 86_400.0),
    }
}

impl Line {
    /// Puts the line on the terminal, the first time.
    fn show(&self) {
        let mut bar = locked(&self.bar);
        bar.get_or_insert_with(|| made(self.quiet, BAR, Some(self.state.clone())));
    }

    fn refresh(&self, always: bool) {
        let bar = locked(&self.bar);
        let Some(bar) = bar.as_ref().filter(|bar| !bar.is_hidden()) else {
            return;
        };
        let mut state = locked(&self.state);
        if !always && state.shown.is_some_and(|then| then.elapsed() < OFTEN) {
            return;
        }
        state.shown = Some(Instant::now());
        let (message, at) = (state.message(), (STEPS * state.fraction()) as u64);
        // Drawing asks for the time left, and so for the state.
        drop(state);
        bar.set_message(message);
        bar.set_position(at);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(bar) = locked(&self.bar).as_ref() {
            bar.finish_and_clear();
        }
    }
}

/// A part of a run. Shared between threads by reference.
#[derive(Debug)]
pub struct Bar {
    line: Arc<Line>,
    id: usize,
}

impl Bar {
    fn change(&self, change: impl FnOnce(&mut State, usize)) {
        let mut state = locked(&self.line.state);
        if let Some(at) = state.parts.iter().position(|p| p.id == self.id) {
            change(&mut state, at);
        }
        drop(state);
        self.line.refresh(false);
    }

    /// Moves on by `steps`.
    pub fn inc(&self, steps: u64) {
        self.change(|state, at| state.parts[at].position += steps);
    }

    /// Moves on by `steps` that an earlier process did: the time left is measured from there.
    pub fn restored(&self, steps: u64) {
        self.change(|state, at| {
            state.restored += state.parts[at].work_of(steps);
            state.parts[at].position += steps;
        });
    }

    /// Says how it goes, where there is room for it.
    pub fn detail(&self, detail: String) {
        self.change(|state, at| state.parts[at].detail = detail);
    }

    /// How many steps are done.
    pub fn position(&self) -> u64 {
        let state = locked(&self.line.state);
        let mine = state.parts.iter().find(|p| p.id == self.id);
        mine.map_or(0, |part| part.position)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        let mut state = locked(&self.line.state);
        if let Some(at) = state.parts.iter().position(|p| p.id == self.id) {
            let part = state.parts.remove(at);
            state.done += part.work;
        }
        drop(state);
        self.line.refresh(true);
    }
}

/// A spinner; cleared from the terminal when dropped.
#[derive(Debug)]
pub struct Spinner(ProgressBar);

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(progress: &Progress) -> MutexGuard<'_, State> {
        locked(&progress.0.state)
    }

    #[test]
    fn a_quiet_bar_counts_but_is_hidden() {
        let progress = Progress::new(true);
        let bar = progress.bar(10, "solving");
        bar.inc(3);
        assert_eq!(bar.position(), 3);
        assert!(locked(&progress.0.bar).as_ref().unwrap().is_hidden());
        assert!(progress.spinner("reading").0.is_hidden());
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        let progress = Progress::whole(true, 10.0);
        let first = progress.part(4, "first", 2.0);
        let second = progress.part(2, "second", 6.0);
        first.inc(1);
        second.inc(1);
        assert_eq!(state(&progress).fraction(), 0.35);
        assert_eq!(state(&progress).message(), "first 1/4; second 1/2");
        drop(first);
        assert_eq!(state(&progress).fraction(), 0.5);
        second.detail("loss 0.6".into());
        assert_eq!(state(&progress).message(), "second 1/2, loss 0.6");
        drop(second);
        progress.restored(2.0);
        assert_eq!(state(&progress).fraction(), 1.0);
    }

    #[test]
    fn the_time_left_counts_from_where_a_run_went_on() {
        let progress = Progress::new(true);
        let bar = progress.bar(100, "cells");
        bar.restored(90);
        assert_eq!(state(&progress).left(), None);
        bar.inc(5);
        let mut state = state(&progress);
        state.start = Instant::now() - Duration::from_secs(50);
        // Five cells took 50 seconds, and five are left.
        let left = state.left().unwrap();
        assert!((left - 50.0).abs() < 1.0, "{left}");
    }

    #[test]
    fn the_templates_are_valid_and_times_are_short() {
        for style in [BAR, SPINNER] {
            assert!(ProgressStyle::with_template(style).is_ok());
        }
        for seconds in [0.0, 99.4, 100.0, 5999.0, 1e5, 3.5e5, 8e6] {
            assert!(shown(seconds).len() <= 8, "{}", shown(seconds));
        }
        assert_eq!(shown(130.0), "2m left");
    }
}
