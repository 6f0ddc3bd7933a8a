//! How wide the text may be that people read.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};

use terminal_size::{Height, Width, terminal_size_of};
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
    match ON_STDERR.load(Ordering::Relaxed) {
        true => width_of_stderr(),
        false if io::stdout().is_terminal() => columns(terminal_size_of(io::stdout())),
        false => None,
    }
}

/// Columns of the terminal that shows notes and errors.
pub(crate) fn width_of_stderr() -> Option<usize> {
    match io::stderr().is_terminal() {
        true => columns(terminal_size_of(io::stderr())),
        false => None,
    }
}

/// Some terminals do not say, and give 0.
fn columns(size: Option<(Width, Height)>) -> Option<usize> {
    let columns = size.map(|(Width(w), _)| usize::from(w));
    columns.filter(|w| *w > 0).map(|w| w.max(LEAST))
}

/// The text with lines that fit, where there is a terminal.
pub(crate) fn fit(text: &str, width: Option<usize>) -> String {
    width.map_or_else(|| text.to_string(), |width| wrap(text, width))
}

/// Breaks lines that are wider than `width` between words; what follows begins as far in as its line. The rest of a line
/// in the middle of a sentence is joined to the next one, unless that is the head of a table.
pub(crate) fn wrap(text: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut rest = String::new();
    let mut all = text.split('\n').peekable();
    while let Some(line) = all.next() {
        let is_head = all.peek().is_some_and(|rule| rule.starts_with("---"));
        let goes_on = !is_head && line.starts_with(|c: char| c.is_alphanumeric() || c == '`');
        let mut line = line.to_string();
        if !rest.is_empty() {
            match goes_on {
                true => line = format!("{rest} {line}"),
                false => lines.push(rest),
            }
            rest = String::new();
        }
        if line.width() <= width {
            lines.push(line);
            continue;
        }
        lines.extend(fold(&line, width));
        // A heading, or the end of a sentence, stays as it is.
        if lines.last().is_some_and(|l| !l.ends_with([':', '.'])) {
            rest = lines.pop().unwrap_or_default();
        }
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines.join("\n")
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
        // A sentence flows on; a heading and its table do not.
        assert_eq!(
            wrap("one two three\nfour five", 13),
            "one two three\nfour five"
        );
        assert_eq!(
            wrap("one two three four\nfive", 13),
            "one two three\nfour five"
        );
        assert_eq!(
            wrap("one two three four:\nfive", 13),
            "one two three\nfour:\nfive"
        );
        assert_eq!(
            wrap("one two three four\n=> five", 13),
            "one two three\nfour\n=> five"
        );
        assert_eq!(
            wrap("one two three four\nfive  six\n----  ---", 13),
            "one two three\nfour\nfive  six\n----  ---"
        );
        assert_eq!(wrap("  one two three", 9), "  one two\n  three");
        assert_eq!(wrap("incomprehensible", 8), "incomprehensible");
        assert_eq!(wrap("β₂ is β₂", 8), "β₂ is β₂");
        assert_eq!(wrap("", 8), "");
    }
}
