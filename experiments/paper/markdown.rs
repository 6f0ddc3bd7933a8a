//! The notes, from Markdown to HTML.

use pulldown_cmark::{CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd, html};

/// HTML of a note, its headings two levels lower and with the anchors of [`anchor`].
pub fn to_html(markdown: &str) -> String {
    write(events(markdown))
}

/// The same with everything below a heading of the third level folded under it: the proofs of the errata.
pub fn with_folded_proofs(markdown: &str) -> String {
    // Headings are two levels lower by now.
    let folds = |level: HeadingLevel| level == HeadingLevel::H4;
    let raw = |html: &'static str| Event::Html(CowStr::from(html));
    let (mut out, mut open) = (Vec::new(), false);
    for event in events(markdown) {
        let begins = match &event {
            Event::Start(Tag::Heading { level, .. }) => Some(*level),
            _ => None,
        };
        let ends = matches!(&event, Event::End(TagEnd::Heading(level)) if folds(*level));
        if let Some(level) = begins.filter(|level| *level <= HeadingLevel::H4) {
            if std::mem::take(&mut open) {
                out.push(raw("</details>\n"));
            }
            if folds(level) {
                out.push(raw("<details class=\"proof\"><summary>"));
                open = true;
            }
        }
        out.push(event);
        if ends {
            out.push(raw("</summary>\n"));
        }
    }
    if open {
        out.push(raw("</details>\n"));
    }
    write(out)
}

/// The parts of a note, its headings lowered and named.
fn events(markdown: &str) -> Vec<Event<'_>> {
    let options = Options::ENABLE_TABLES | Options::ENABLE_MATH;
    let mut events: Vec<Event<'_>> = Parser::new_ext(markdown, options).collect();
    for i in 0..events.len() {
        let text = match &events[i] {
            Event::Start(Tag::Heading { .. }) => heading_text(&events[i + 1..]),
            _ => String::new(),
        };
        match &mut events[i] {
            Event::Start(Tag::Heading { level, id, .. }) => {
                *level = lower(*level);
                *id = Some(CowStr::from(anchor(&text)));
            }
            Event::End(TagEnd::Heading(level)) => *level = lower(*level),
            _ => {}
        }
    }
    events
}

fn write(events: Vec<Event<'_>>) -> String {
    let mut page = String::new();
    html::push_html(&mut page, events.into_iter());
    page.replace("<table>", "<div class=\"scroll\"><table class=\"notes\">")
        .replace("</table>", "</table></div>")
}

/// The anchor of a heading: `note-` and its label, so that "A3. The exact minimax" is `note-A3`, or all its words.
pub fn anchor(heading: &str) -> String {
    let plain = |word: &str| word.chars().filter(|c| c.is_alphanumeric()).collect();
    let words: Vec<String> = heading.split_whitespace().map(plain).collect();
    let is_label = |word: &String| word.len() == 2 && word.ends_with(|c: char| c.is_ascii_digit());
    match words.first().filter(|word| is_label(word)) {
        Some(label) => format!("note-{label}"),
        None => format!("note-{}", words.join("-")),
    }
}

fn heading_text(events: &[Event<'_>]) -> String {
    let inside = events
        .iter()
        .take_while(|e| !matches!(e, Event::End(TagEnd::Heading(_))));
    inside
        .map(|event| match event {
            Event::Text(text) | Event::Code(text) => text.to_string(),
            _ => String::new(),
        })
        .collect()
}

fn lower(level: HeadingLevel) -> HeadingLevel {
    match level {
        HeadingLevel::H1 | HeadingLevel::H2 => HeadingLevel::H3,
        HeadingLevel::H3 => HeadingLevel::H4,
        _ => HeadingLevel::H5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_are_folded_under_their_headings_and_everything_else_is_not() {
        let note = "# T\n\nintro\n\n## Claim\n\nfalse\n\n### A1. Proof\n\none\n\n### A2. Proof\n\ntwo\n\n## Next\n\nthree\n\n### B1. Last\n\nfour\n";
        let html = with_folded_proofs(note);
        assert_eq!(html.matches("<details").count(), 3);
        assert_eq!(html.matches("</details>").count(), 3);
        let inside = |text: &str| {
            let before = &html[..html.find(text).unwrap()];
            before.matches("<details").count() > before.matches("</details>").count()
        };
        for (text, folded) in [
            ("intro", false),
            ("false", false),
            ("one", true),
            ("two", true),
            ("three", false),
            ("four", true),
        ] {
            assert_eq!(inside(text), folded, "{text}");
        }
        assert!(html.contains("<summary>\n<h4 id=\"note-A1\">"), "{html}");
        assert_eq!(to_html(note).matches("<details").count(), 0);
    }
}
