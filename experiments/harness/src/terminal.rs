//! How wide the text may be that people read.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};

use terminal_size::{Width, terminal_size_of};
use unicode_width::UnicodeWidthStr;

/// Whether text for people goes to standard error, as with `--json`.
static ON_STDERR: AtomicBool = AtomicBool::new(false);

/// Narrower than this nothing can be laid out.
const LEAST: usize = 20;

pub(crate) fn text_goes_to_stderr(yes: bool) {
    ON_STDERR.store(yes, Ordering::Relaxed);
}

/// Columns of the terminal that shows the text; `None` where it goes to a file or a pipe.
pub(crate) fn width() -> Option<usize> {
    let size = match ON_STDERR.load(Ordering::Relaxed) {
        true if io::stderr().is_terminal() => terminal_size_of(io::stderr()),
        false if io::stdout().is_terminal() => terminal_size_of(io::stdout()),
        _ => None,
    };
    // Some terminals do not say, and give 0.
    let columns = size.map(|(Width(w), _)| usize::from(w));
    columns.filter(|w| *w > 0).map(|w| w.max(LEAST))
}

/// Breaks lines that are wider than `width` between words; what follows begins as far in as its line.
pub(crate) fn wrap(text: &str, width: usize) -> String {
    let lines = text.split('\n').map(|line| match line.width() <= width {
        true => line.to_string(),
        false => fold(line, width).join("\n"),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// One line as several of at most `width` columns; a word that is wider by itself stands alone.
pub(crate) fn fold(line: &str, width: usize) -> Vec<String> {
    let margin: String = line.chars().take_while(|c| *c == ' ').collect();
    let margin = if margin.len() * 2 > width {
        String::new()
    } else {
        margin
    };
    let mut lines = Vec::new();
    let mut current = String::new();
    for word in line.split(' ').filter(|w| !w.is_empty()) {
        let free = width.saturating_sub(current.width());
        if !current.is_empty() && word.width() + 1 > free {
            lines.push(std::mem::take(&mut current));
        }
        current.push_str(if current.is_empty() { &margin } else { " " });
        current.push_str(word);
    }
    lines.push(current);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words() {
        assert_eq!(wrap("one two three\nfour", 8), "one two\nthree\nfour");
        assert_eq!(wrap("  one two three", 9), "  one two\n  three");
        assert_eq!(wrap("incomprehensible", 8), "incomprehensible");
        assert_eq!(wrap("β₂ is β₂", 8), "β₂ is β₂");
        assert_eq!(wrap("", 8), "");
    }
}
