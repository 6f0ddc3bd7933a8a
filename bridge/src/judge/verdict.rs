//! What the judge decided.

/// Which of two answers is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The first.
    First,
    /// The second.
    Second,
    /// Neither.
    Tie,
    /// The reply has no verdict; such contests belong in the count of failures, not in the win rate.
    Unreadable,
}

const LABELS: [&str; 6] = [
    "verdict",
    "final verdict",
    "more helpful",
    "answer",
    "winner",
    "better",
];

impl Verdict {
    /// Reads the last line that is a verdict: `A`, `B` or `tie`, alone or after a label such as `Verdict:` or Table 6's
    /// `More helpful:`. Quotes, stars, brackets and a full stop are passed over.
    pub fn read(reply: &str) -> Self {
        let lines = reply.lines().rev();
        lines.filter_map(line).next().unwrap_or(Self::Unreadable)
    }

    /// The verdict with the answers exchanged.
    pub fn swapped(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
            other => other,
        }
    }

    /// 1, ½ or 0 for the first answer.
    pub fn preference(self) -> Option<f64> {
        match self {
            Self::First => Some(1.0),
            Self::Tie => Some(0.5),
            Self::Second => Some(0.0),
            Self::Unreadable => None,
        }
    }
}

fn line(text: &str) -> Option<Verdict> {
    let plain: String = text
        .chars()
        .filter(|c| !matches!(c, '*' | '"' | '\'' | '`' | '[' | ']' | '“' | '”' | '#'))
        .collect();
    let plain = plain.trim().trim_end_matches('.').to_lowercase();
    let value = match plain.split_once(':') {
        Some((label, value)) if LABELS.contains(&label.trim()) => value.trim(),
        Some(_) => return None,
        None => plain.as_str(),
    };
    let value = ["response ", "reply "]
        .iter()
        .find_map(|word| value.strip_prefix(word))
        .unwrap_or(value);
    match value.trim() {
        "a" => Some(Verdict::First),
        "b" => Some(Verdict::Second),
        "tie" | "equal" | "both" | "neither" | "a tie" => Some(Verdict::Tie),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict::*;
    use super::*;

    #[test]
    fn verdicts_are_read_from_what_judges_write() {
        for (reply, expected) in [
            ("One is kinder.\nVerdict: A", First),
            (
                "Comparison: A is longer: B is right.\nMore helpful: \"B\"",
                Second,
            ),
            ("**Verdict:** **B**.", Second),
            ("They say the same.\n\nVerdict: tie\n\n", Tie),
            ("Verdict: Response A", First),
            ("b", Second),
            ("Verdict: A\nOn reflection:\nVerdict: B", Second),
            ("Verdict: neither", Tie),
            ("A is better because it answers.", Unreadable),
            ("Verdict: C", Unreadable),
            ("", Unreadable),
        ] {
            assert_eq!(Verdict::read(reply), expected, "{reply}");
            assert_eq!(expected.swapped().swapped(), expected);
        }
        assert_eq!(First.swapped().preference(), Some(0.0));
        assert_eq!(Unreadable.preference(), None);
    }
}
