//! One value of a table, and its spelling in CSV and on a terminal.

/// One value of a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// No value; an empty field in CSV.
    Empty,
    /// Words.
    Text(String),
    /// A whole number of any size, in decimal digits.
    Integer(String),
    /// A real number, printed with the fewest digits that read back to the same `f64`.
    Float(f64),
}

impl Cell {
    /// A whole number of a type without a `From`, such as a big integer; other text stays text.
    pub fn integer(value: impl std::fmt::Display) -> Self {
        let text = value.to_string();
        if is_integer(&text) {
            Cell::Integer(text)
        } else {
            text.as_str().into()
        }
    }

    /// The cell as CSV has it.
    pub fn text(&self) -> String {
        match self {
            Cell::Empty => String::new(),
            Cell::Text(text) | Cell::Integer(text) => text.clone(),
            Cell::Float(value) => float_text(*value),
        }
    }

    pub(crate) fn from_csv(text: &str) -> Self {
        if text.is_empty() {
            return Cell::Empty;
        }
        if is_integer(text) {
            return Cell::Integer(text.to_string());
        }
        match text.parse::<f64>() {
            // Only our own spelling is a number for printing; others keep their digits.
            Ok(value) if float_text(value) == text => Cell::Float(value),
            _ => Cell::Text(text.to_string()),
        }
    }
}

/// JSON: null, text, or a number; a whole number beyond 64 bits is text, since most readers would round it.
impl serde::Serialize for Cell {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Cell::Empty => serializer.serialize_none(),
            Cell::Text(text) => serializer.serialize_str(text),
            Cell::Float(value) => serializer.serialize_f64(*value),
            Cell::Integer(digits) => match (digits.parse::<i64>(), digits.parse::<u64>()) {
                (Ok(value), _) => serializer.serialize_i64(value),
                (_, Ok(value)) => serializer.serialize_u64(value),
                _ => serializer.serialize_str(digits),
            },
        }
    }
}

macro_rules! integers {
    ($($t:ty),*) => {$(
        impl From<$t> for Cell {
            fn from(value: $t) -> Self {
                Cell::Integer(value.to_string())
            }
        }
    )*};
}
integers!(
    u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize
);

impl From<f64> for Cell {
    fn from(value: f64) -> Self {
        Cell::Float(value)
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        if value.is_empty() {
            Cell::Empty
        } else {
            Cell::Text(value.to_string())
        }
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Self {
        value.as_str().into()
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Cell::Empty, Into::into)
    }
}

impl Cell {
    /// The cell for reading: reals at six significant digits, one line.
    pub(crate) fn shown(&self) -> String {
        match self {
            Cell::Float(value) => short(*value),
            other => other.text().replace(['\n', '\r', '\t'], " "),
        }
    }
}

/// A real number at six significant digits, without needless zeros.
pub(crate) fn short(value: f64) -> String {
    if !value.is_finite() || value == 0.0 {
        return float_text(value).trim_end_matches(".0").to_string();
    }
    let scientific = format!("{value:.5e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        let places = (5 - exponent).max(0) as usize;
        trim_zeros(&format!("{value:.places$}")).to_string()
    } else {
        format!("{}e{exponent}", trim_zeros(mantissa))
    }
}

fn trim_zeros(text: &str) -> &str {
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        text
    }
}

/// `{:?}` is the shortest text that reads back, and keeps `3.0` a real and `1e300` short.
fn float_text(value: f64) -> String {
    format!("{value:?}")
}

fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && (digits == "0" && digits == text || !digits.starts_with('0'))
}
