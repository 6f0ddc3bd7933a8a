//! Progress on standard error: silent when nobody watches, never part of the output.

use std::borrow::Cow;
use std::sync::LazyLock;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Every bar of the process, so that several at once stand below one another.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Makes progress bars; `quiet` makes all of them silent.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    quiet: bool,
}

impl Progress {
    /// `quiet` is the `--quiet` flag. Bars are also silent when standard error is not a terminal.
    pub fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    /// A bar of `len` steps with the time left; call `inc(1)` on it. It vanishes when dropped.
    pub fn bar(&self, len: u64, label: impl Into<Cow<'static, str>>) -> Bar {
        let style = "{msg} [{bar:30}] {pos}/{len}, {eta} left";
        self.make(Some(len), style, label.into())
    }

    /// A spinner for work of unknown length, with the time spent so far.
    pub fn spinner(&self, label: impl Into<Cow<'static, str>>) -> Bar {
        let bar = self.make(None, "{spinner} {msg} ({elapsed})", label.into());
        if !bar.0.is_hidden() {
            bar.0.enable_steady_tick(Duration::from_millis(120));
        }
        bar
    }

    fn make(&self, len: Option<u64>, style: &str, label: Cow<'static, str>) -> Bar {
        let bar = ProgressBar::with_draw_target(len, ProgressDrawTarget::hidden());
        // indicatif hides bars by itself when standard error is not a terminal.
        let bar = match self.quiet {
            true => bar,
            false => BARS.add(bar),
        };
        let bar = bar.with_message(label);
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style.progress_chars("=> "));
        }
        Bar(bar)
    }
}

/// One bar or spinner; cleared from the terminal when dropped. Shared between threads by reference.
#[derive(Debug)]
pub struct Bar(ProgressBar);

impl Bar {
    /// Moves on by `steps`.
    pub fn inc(&self, steps: u64) {
        self.0.inc(steps);
    }

    /// Replaces the label.
    pub fn label(&self, label: impl Into<Cow<'static, str>>) {
        self.0.set_message(label);
    }

    /// How many steps are done.
    pub fn position(&self) -> u64 {
        self.0.position()
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_bar_counts_but_is_hidden() {
        let bar = Progress::new(true).bar(10, "solving");
        bar.inc(3);
        assert_eq!(bar.position(), 3);
        assert!(bar.0.is_hidden());
        assert!(Progress::new(true).spinner("reading").0.is_hidden());
    }

    #[test]
    fn the_templates_are_valid() {
        for style in [
            "{msg} [{bar:30}] {pos}/{len}, {eta} left",
            "{spinner} {msg} ({elapsed})",
        ] {
            assert!(ProgressStyle::with_template(style).is_ok());
        }
    }
}
