//! Lists of numbers on the command line: `1,2,8`, `1..5`, or both.

use std::fmt::Display;
use std::str::FromStr;

use serde::Serialize;

/// The most numbers of a list; more are a slip of the keyboard.
const MOST: usize = 100_000;

/// A list of numbers as a user types it. In a range `1..5` (or `1..=5`) both ends are included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct List<T>(pub Vec<T>);

/// A number that a list may hold.
pub trait Number: Sized + Copy {
    /// What an error says was expected.
    const EXPECTED: &'static str;
    /// Reads one number.
    fn read(text: &str) -> Option<Self>;
    /// A whole number as one of these; `None` where it has no place.
    fn whole(n: i64) -> Option<Self>;
}

macro_rules! whole {
    ($($type:ty),*) => {$(
        impl Number for $type {
            const EXPECTED: &'static str = "a whole number, 0 or more";
            fn read(text: &str) -> Option<Self> {
                text.parse().ok().and_then(Self::whole)
            }
            fn whole(n: i64) -> Option<Self> {
                n.try_into().ok()
            }
        }
    )*};
}
whole!(usize, u64, u32);

impl Number for f64 {
    const EXPECTED: &'static str = "a number";
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn whole(n: i64) -> Option<Self> {
        Some(n as f64)
    }
}

/// Reads one number; the error says what was found and what was expected.
pub(crate) fn number<T: Number>(text: &str) -> Result<T, String> {
    let found = |what: &dyn Display| format!("found {what}, expected {}", T::EXPECTED);
    match T::read(text.trim()) {
        Some(number) => Ok(number),
        None if text.trim().is_empty() => Err(found(&"nothing")),
        // TOML integers, which keep settings, stop there.
        None if text.trim().bytes().all(|b| b.is_ascii_digit()) => {
            Err(format!("found {}, which is too large", text.trim()))
        }
        None => Err(found(&text.trim())),
    }
}

impl<T: Number> FromStr for List<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Vec::new();
        for part in text.split(',') {
            match part.split_once("..") {
                None => all.push(number(part)?),
                Some((first, last)) => all.extend(range::<T>(part, first, last)?),
            }
            if all.len() > MOST {
                return Err(format!("found more than {MOST} numbers"));
            }
        }
        Ok(Self(all))
    }
}

fn range<T: Number>(part: &str, first: &str, last: &str) -> Result<Vec<T>, String> {
    let whole = |text: &str| text.trim().parse::<i64>().ok();
    let ends = (whole(first), whole(last.trim_start_matches('=')));
    let (Some(first), Some(last)) = ends else {
        return Err(format!(
            "found {part}, expected a range of whole numbers, as 1..5; others are listed one by one"
        ));
    };
    if last < first {
        return Err(format!("found {part}, expected the smaller end first"));
    }
    if last.abs_diff(first) as usize >= MOST {
        return Err(format!("found {part}, more than {MOST} numbers"));
    }
    let one =
        |n| T::whole(n).ok_or_else(|| format!("found {n} in {part}, expected {}", T::EXPECTED));
    (first..=last).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_mix() {
        let list = |text: &str| text.parse::<List<usize>>().map(|l| l.0);
        assert_eq!(list("1,2,8"), Ok(vec![1, 2, 8]));
        assert_eq!(list("1..5"), Ok(vec![1, 2, 3, 4, 5]));
        assert_eq!(list("1..=3, 8,10..11"), Ok(vec![1, 2, 3, 8, 10, 11]));
        assert_eq!(list("4..4"), Ok(vec![4]));
        assert_eq!("0.5,1..3".parse(), Ok(List(vec![0.5, 1.0, 2.0, 3.0])));
        assert_eq!("-1".parse(), Ok(List(vec![-1.0])));
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| text.parse::<List<usize>>().unwrap_err();
        assert_eq!(
            error("1,-2"),
            "found -2, expected a whole number, 0 or more"
        );
        assert_eq!(
            error("1,,2"),
            "found nothing, expected a whole number, 0 or more"
        );
        assert_eq!(error("5..1"), "found 5..1, expected the smaller end first");
        assert!(error("-1..2").contains("found -1 in -1..2"));
        assert!(error("0.1..0.5").contains("whole numbers, as 1..5"));
        assert!(error("1..9999999999").contains("more than"));
        assert!(error("99999999999999999999").contains("too large"));
        assert!(error("18446744073709551615").contains("too large"));
        let error = "0.1..0.5".parse::<List<f64>>().unwrap_err();
        assert!(error.contains("one by one"), "{error}");
    }
}
