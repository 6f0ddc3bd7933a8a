//! The table of methods: one name, one label, one colour and one marker each, in every figure, page and binary.
//!
//! Names are those of folders and CSV columns; labels are what people read. A variant of a method has the outline of its
//! marker, so that families stay together in print too.

use crate::plot::{Kind, Marker, SeriesStyle};

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// In folders, columns and flags.
    pub name: &'static str,
    /// For people.
    pub label: &'static str,
    /// What it is, in a few words; equations are those of the paper.
    pub what: &'static str,
    /// Index into the palette.
    pub color: usize,
    /// Where points are marked.
    pub marker: Marker,
    /// The line of a curve with too many points for markers.
    pub line: Kind,
}

const fn row(
    name: &'static str,
    label: &'static str,
    (color, marker, line): (usize, Marker, Kind),
    what: &'static str,
) -> Method {
    Method {
        name,
        label,
        what,
        color,
        marker,
        line,
    }
}

/// Every method of every binary. RTO comes before what coincides with it, so that it is drawn below.
pub const METHODS: [Method; 10] = [
    row(
        "sft",
        "SFT",
        (7, Marker::Plus, Kind::Dotted),
        "supervised fine-tuning: the reference policy π_ref",
    ),
    row(
        "dpo",
        "DPO",
        (5, Marker::Triangle, Kind::DashDot),
        "direct preference optimisation, π_dpo",
    ),
    row(
        "ppo",
        "PPO",
        (0, Marker::Diamond, Kind::DashDot),
        "PPO (2.3): the score of a reward model (2.2), paid at the last token",
    ),
    row(
        "ppo_dense",
        "PPO, token reward",
        (4, Marker::OpenDiamond, Kind::Line),
        "PPO on a reward model that pays every token",
    ),
    row(
        "rto",
        "RTO",
        (2, Marker::Circle, Kind::Line),
        "the DPO reward of every token (4.6)",
    ),
    row(
        "dppo_offset",
        "DPPO, critic from C(s)",
        (9, Marker::OpenSquare, Kind::Dashed),
        "DPPO with a critic that starts at the DPO rewards of the prefix, C(s)",
    ),
    row(
        "dppo",
        "DPPO",
        (3, Marker::Square, Kind::Dashed),
        "the DPO reward of the whole response, paid at its last token (5.1); not the later divergence PPO",
    ),
    row(
        "rto_printed",
        "RTO, printed β₂",
        (8, Marker::OpenCircle, Kind::Dashed),
        "RTO at the smaller β₂ that the paper's Figure 3 gives it and not its rival",
    ),
    row(
        "rto_released",
        "RTO as released",
        (6, Marker::Cross, Kind::DashDot),
        "the authors' later code: the token reward clipped, and a reward model at the last token",
    ),
    row(
        "rloo",
        "RLOO",
        (1, Marker::OpenTriangle, Kind::Dotted),
        "REINFORCE with a leave-one-out baseline on the reward of (5.1), no critic",
    ),
];

/// What is no method of the table gets one of these, in turn.
const OTHERS: [(usize, Marker, Kind); 4] = [
    (4, Marker::OpenDiamond, Kind::Line),
    (1, Marker::OpenTriangle, Kind::Dashed),
    (9, Marker::OpenSquare, Kind::DashDot),
    (0, Marker::Diamond, Kind::Dotted),
];

/// The row of a name; `-` and `_` are the same.
pub fn find(name: &str) -> Option<&'static Method> {
    let name = name.replace('-', "_");
    METHODS.iter().find(|m| m.name == name)
}

/// The label of a name; a name that is no method's is its own label.
pub fn label(name: &str) -> &str {
    find(name).map_or(name, |m| m.label)
}

impl Method {
    /// The look of a curve with markers, or of markers alone.
    pub fn style(&self, kind: Kind) -> SeriesStyle {
        SeriesStyle::new(kind, self.color, self.marker)
    }

    /// The look of a curve with too many points for markers.
    pub fn curve(&self) -> SeriesStyle {
        self.style(self.line)
    }
}

/// The row of a name that must be there.
///
/// # Panics
/// If the table has no such method.
pub fn method(name: &str) -> &'static Method {
    find(name).unwrap_or_else(|| panic!("{name}: no row in the table of methods"))
}

/// Looks of all the names that one page shows: those of the table, and for others (stages that are no method, runs that a
/// user named) what is left, in order. The line's kind is that of a curve.
pub fn curves<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<(&'a str, SeriesStyle)> {
    let mut looks: Vec<(&str, SeriesStyle)> = Vec::new();
    let mut others = 0;
    for name in names {
        if looks.iter().any(|(n, _)| *n == name) {
            continue;
        }
        let look = match find(name) {
            Some(method) => method.curve(),
            None => {
                let (color, marker, kind) = OTHERS[others % OTHERS.len()];
                others += 1;
                SeriesStyle::new(kind, color, marker)
            }
        };
        looks.push((name, look));
    }
    looks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_a_name_a_label_a_colour_and_a_marker_of_its_own() {
        for (i, a) in METHODS.iter().enumerate() {
            for b in &METHODS[..i] {
                assert!(a.name != b.name && a.label != b.label, "{a:?} {b:?}");
                assert!(a.color != b.color && a.marker != b.marker, "{a:?} {b:?}");
            }
            assert_eq!(find(a.name), Some(a));
        }
    }

    #[test]
    fn what_is_no_method_gets_what_is_left() {
        let names = ["pretrain", "sft", "reward", "rto-released", "pretrain"];
        let looks = curves(names);
        let at = |i: usize| looks[i].1;
        assert_eq!(looks.len(), 4);
        assert_eq!(at(3), method("rto_released").curve());
        for (i, k) in [(0, 1), (0, 2), (1, 2), (2, 3)] {
            assert!(at(i).color != at(k).color, "{i} {k}");
        }
        assert_eq!(
            (label("rto-released"), label("mine")),
            ("RTO as released", "mine")
        );
    }
}
