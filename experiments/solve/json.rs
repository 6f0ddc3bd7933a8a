//! JSON with places: every error names the field it is about, as in `reference[0][2]`.

use anyhow::{Result, anyhow, bail};
use rto_harness::config::is_close;
use rto_harness::json_error::explain;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// A JSON value. Keys keep their order, and a key given twice is refused.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Parses a whole text.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|e| explain(text, &e))
    }

    /// Parses one line of a file whose number the caller tells.
    pub fn parse_line(line: &str) -> Result<Self> {
        Self::parse(line)
            .map_err(|e| anyhow!("{}", e.to_string().replace("line 1 column", "column")))
    }

    /// What an error message calls the value.
    pub fn shown(&self) -> String {
        match self {
            Self::Null => "null".into(),
            Self::Bool(b) => b.to_string(),
            Self::Number(x) => plain(*x),
            Self::Text(t) if t.chars().count() <= 40 => format!("{t:?}"),
            Self::Text(_) => "a long text".into(),
            Self::List(items) => format!("a list of {} values", items.len()),
            Self::Object(_) => "an object".into(),
        }
    }

    pub fn number(&self, place: &str) -> Result<f64> {
        match self {
            Self::Number(x) => Ok(*x),
            other => bail!("{place}: found {}, expected a number", other.shown()),
        }
    }

    /// A whole number from 0 to `most`.
    pub fn index(&self, place: &str, most: usize) -> Result<usize> {
        match self {
            Self::Number(x) => as_index(*x, place, most),
            other => bail!("{place}: found {}, expected a whole number", other.shown()),
        }
    }

    pub fn text(&self, place: &str) -> Result<&str> {
        match self {
            Self::Text(t) => Ok(t),
            other => bail!("{place}: found {}, expected a text", other.shown()),
        }
    }

    pub fn list(&self, place: &str) -> Result<&[Json]> {
        match self {
            Self::List(items) => Ok(items),
            other => bail!("{place}: found {}, expected a list", other.shown()),
        }
    }
}

/// A number as a person would write it: with an exponent where it has many digits.
pub fn plain(x: f64) -> String {
    if x == 0.0 || !x.is_finite() || (1e-5..1e16).contains(&x.abs()) {
        x.to_string()
    } else {
        format!("{x:e}")
    }
}

/// A whole number from 0 to `most` that came as a float.
pub fn as_index(x: f64, place: &str, most: usize) -> Result<usize> {
    if x.fract() == 0.0 && x >= 0.0 && x <= most as f64 {
        return Ok(x as usize);
    }
    // Only a number beyond it needs to know the largest index that there is.
    let range = match x <= most as f64 && most >= 1 << 31 {
        true => "of at least 0".into(),
        false => format!("from 0 to {most}"),
    };
    bail!(
        "{place}: found {}, expected a whole number {range}",
        plain(x)
    )
}

/// The fields of an object, taken one by one; what is left at the end is unknown.
pub struct Fields {
    place: String,
    left: Vec<(String, Json)>,
    known: Vec<&'static str>,
}

impl Fields {
    pub fn of(json: Json, place: &str) -> Result<Self> {
        match json {
            Json::Object(left) => Ok(Self {
                place: place.to_string(),
                left,
                known: Vec::new(),
            }),
            other => bail!(
                "{}: found {}, expected an object",
                if place.is_empty() { "the file" } else { place },
                other.shown()
            ),
        }
    }

    /// `estimation.ridge` for `ridge`.
    pub fn place(&self, key: &str) -> String {
        if self.place.is_empty() {
            key.to_string()
        } else {
            format!("{}.{key}", self.place)
        }
    }

    pub fn has(&self, key: &str) -> bool {
        self.left.iter().any(|(k, v)| k == key && *v != Json::Null)
    }

    /// A field; `null` is the same as leaving it out.
    pub fn take(&mut self, key: &'static str) -> Option<Json> {
        self.known.push(key);
        let at = self.left.iter().position(|(k, _)| k == key)?;
        Some(self.left.remove(at).1).filter(|v| *v != Json::Null)
    }

    pub fn require(&mut self, key: &'static str) -> Result<Json> {
        self.take(key)
            .ok_or_else(|| anyhow!("{}: missing", self.place(key)))
    }

    /// An optional number that satisfies a condition.
    pub fn number(
        &mut self,
        key: &'static str,
        must: &str,
        holds: impl Fn(f64) -> bool,
    ) -> Result<Option<f64>> {
        let Some(json) = self.take(key) else {
            return Ok(None);
        };
        let place = self.place(key);
        let x = json.number(&place)?;
        if !holds(x) {
            bail!("{place}: found {}, must be {must}", plain(x));
        }
        Ok(Some(x))
    }

    /// Refuses what nobody asked for.
    pub fn finish(self) -> Result<()> {
        self.only(&self.known)
    }

    /// Refuses a key that is none of `known`: a mistyped one is told before what it leaves missing.
    pub fn only(&self, known: &[&str]) -> Result<()> {
        let unknown = |(key, _): &&(String, Json)| !known.contains(&key.as_str());
        let Some((key, _)) = self.left.iter().find(unknown) else {
            return Ok(());
        };
        let close: Vec<&str> = known.iter().copied().filter(|k| is_close(key, k)).collect();
        let meant = if close.is_empty() {
            String::new()
        } else {
            format!("; did you mean {}?", close.join(" or "))
        };
        let place = self.place(&key.escape_debug().to_string());
        bail!(
            "{place}: unknown key, expected one of {}{meant}",
            known.join(", ")
        )
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyJson)
    }
}

struct AnyJson;

impl<'de> Visitor<'de> for AnyJson {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, b: bool) -> Result<Json, E> {
        Ok(Json::Bool(b))
    }

    fn visit_i64<E>(self, x: i64) -> Result<Json, E> {
        Ok(Json::Number(x as f64))
    }

    fn visit_u64<E>(self, x: u64) -> Result<Json, E> {
        Ok(Json::Number(x as f64))
    }

    fn visit_f64<E>(self, x: f64) -> Result<Json, E> {
        Ok(Json::Number(x))
    }

    fn visit_str<E>(self, t: &str) -> Result<Json, E> {
        Ok(Json::Text(t.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Json::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut fields: Vec<(String, Json)> = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, Json>()? {
            if fields.iter().any(|(k, _)| *k == key) {
                return Err(A::Error::custom(format!("key {key:?} is given twice")));
            }
            fields.push((key, value));
        }
        Ok(Json::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_unknown_keys() {
        let json = Json::parse(r#"{"a": {"b": 1, "c": null}, "d": [1, 2.5]}"#).unwrap();
        let mut fields = Fields::of(json, "").unwrap();
        let mut a = Fields::of(fields.take("a").unwrap(), "a").unwrap();
        assert!(a.take("c").is_none());
        let error = a.finish().unwrap_err().to_string();
        assert_eq!(error, "a.b: unknown key, expected one of c");
        let d = fields.take("d").unwrap();
        let items = d.list("d").unwrap();
        assert!(items[1].index("d[1]", 9).is_err());
        assert_eq!(items[0].index("d[0]", 9).unwrap(), 1);
    }

    #[test]
    fn syntax_errors_say_what_was_found() {
        for (text, part) in [
            (r#"{"a": NaN}"#, "found NaN"),
            (r#"{"a": -Infinity}"#, "found Infinity"),
            (r#"{"a": 1, "a": 2}"#, "given twice"),
            (r#"{"a": 1"#, "the text ends inside an object"),
            (r#"{"a": 1e999}"#, "out of range"),
        ] {
            let error = Json::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(Json::parse(&"[".repeat(100_000)).is_err());
    }
}
