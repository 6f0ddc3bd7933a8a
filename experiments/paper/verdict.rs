//! What became of each numbered statement, read off the table of equations as it stands.

use rto_harness::html::escape;

const EQUATIONS: &str = include_str!("../../paper-notes/equations.md");

/// A row of the table of statements.
pub struct Statement<'a> {
    pub item: &'a str,
    pub verdict: &'a str,
    pub functions: &'a str,
    pub tests: &'a str,
    pub figures: Vec<&'a str>,
}

/// Every row, in the order of the paper.
pub fn statements() -> Vec<Statement<'static>> {
    let lines = EQUATIONS.lines().filter(|l| l.starts_with('|')).skip(2);
    let statement = |line: &'static str| {
        let mut cells = line.trim_matches('|').split(" |").map(str::trim);
        let mut cell = || cells.next().unwrap_or_default();
        let (item, verdict, functions, tests) = (cell(), cell(), cell(), cell());
        let quoted = cell().split('`').skip(1).step_by(2);
        Statement {
            item,
            verdict,
            functions,
            tests,
            figures: quoted.filter_map(|f| f.strip_prefix("figures/")).collect(),
        }
    };
    lines.map(statement).collect()
}

/// The table without its title, as Markdown.
pub fn table() -> &'static str {
    EQUATIONS
        .split_once('\n')
        .map_or(EQUATIONS, |(_, rest)| rest)
}

/// Kinds of verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It holds as printed, perhaps with a remark.
    Holds,
    /// It does not hold as printed.
    False,
    /// A slip, a gap or a comparison that the errata mend or make precise.
    Repaired,
    /// A definition, a choice or a piece of text: nothing that could be false.
    TakenOver,
}

impl Verdict {
    /// Every kind, in the order of a tally.
    pub const ALL: [Self; 4] = [Self::Holds, Self::False, Self::Repaired, Self::TakenOver];

    /// The kind, by how the verdict begins, and whether it refers to a correction.
    pub fn of(verdict: &str) -> Self {
        let first = verdict.split(|c: char| !c.is_alphanumeric()).next();
        match first.unwrap_or_default() {
            "holds" | "hold" => Self::Holds,
            "false" => Self::False,
            _ if verdict.contains("(errata ") => Self::Repaired,
            _ => Self::TakenOver,
        }
    }

    /// The word on a badge, which is the class of its look too.
    pub fn word(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::False => "false",
            Self::Repaired => "repaired",
            Self::TakenOver => "taken over",
        }
    }

    /// The class of its badge, and its name for filters.
    pub fn class(self) -> &'static str {
        match self {
            Self::TakenOver => "taken",
            other => other.word(),
        }
    }

    /// What a verdict says beyond its badge.
    pub fn rest(self, verdict: &str) -> &str {
        let rest = verdict.strip_prefix(self.word()).unwrap_or(verdict);
        rest.trim_start_matches([';', ',', ' '])
    }

    /// What it means, after a number.
    fn meaning(self, n: usize) -> &'static str {
        match (self, n == 1) {
            (Self::Holds, true) => "holds",
            (Self::Holds, false) => "hold",
            (Self::False, true) => "is false as printed",
            (Self::False, false) => "are false as printed",
            (Self::Repaired, true) => "is repaired or made precise",
            (Self::Repaired, false) => "are repaired or made precise",
            (Self::TakenOver, true) => "is a definition, a choice or a description",
            (Self::TakenOver, false) => "are definitions, choices or descriptions",
        }
    }
}

/// How many there are of each kind.
pub struct Tally {
    counts: [usize; 4],
    /// The false ones that have a correction.
    replaced: usize,
}

impl Tally {
    pub fn of<'a>(verdicts: impl Iterator<Item = &'a str>) -> Self {
        let (mut counts, mut replaced) = ([0; 4], 0);
        for text in verdicts {
            let verdict = Verdict::of(text);
            counts[verdict as usize] += 1;
            replaced += usize::from(verdict == Verdict::False && text.contains("(errata "));
        }
        Self { counts, replaced }
    }

    pub fn count(&self, verdict: Verdict) -> usize {
        self.counts[verdict as usize]
    }

    /// One sentence, in plain text.
    pub fn sentence(&self) -> String {
        let part = |v: &Verdict| {
            let n = self.count(*v);
            let more = match (*v, n, self.replaced) {
                (Verdict::False, 1.., replaced) if replaced == n => {
                    ", with a true statement and its proof in place of each"
                }
                _ => "",
            };
            (n > 0).then(|| format!("{n} {}{more}", v.meaning(n)))
        };
        let parts: Vec<String> = Verdict::ALL.iter().filter_map(part).collect();
        let all: usize = self.counts.iter().sum();
        format!("Of {all} numbered items of the paper {}.", parts.join("; "))
    }

    /// A button for each kind, which shows its rows alone.
    pub fn filters(&self, table: &str) -> String {
        let all: usize = self.counts.iter().sum();
        let mut html = format!(
            "<div class=\"filters\" data-for=\"{}\" hidden><button data-kind=\"\" aria-pressed=\"true\">all {all}</button>",
            escape(table)
        );
        for verdict in Verdict::ALL {
            html += &format!(
                "<button data-kind=\"{}\" aria-pressed=\"false\">{} {}</button>",
                verdict.class(),
                verdict.word(),
                self.count(verdict)
            );
        }
        html + "</div>\n"
    }
}

/// A verdict's kind as a small label.
pub fn badge(verdict: Verdict) -> String {
    format!(
        "<span class=\"badge {}\">{}</span>",
        verdict.class(),
        verdict.word()
    )
}

#[cfg(test)]
mod tests;
