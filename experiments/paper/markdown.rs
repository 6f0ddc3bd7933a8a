//! The notes, from Markdown to HTML.

use pulldown_cmark::{CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd, html};

/// HTML of a note, its headings two levels lower and with the anchors of [`anchor`].
pub fn to_html(markdown: &str) -> String {
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
