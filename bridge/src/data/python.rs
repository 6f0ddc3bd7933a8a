//! What templates use of Python and of Jinja that the engine lacks or does otherwise: methods of texts and lists, `%`, tests and filters.

use minijinja::value::{Rest, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::{cost, jinja};

/// The filter that stands for `%`, by a name that no template can write.
pub(super) const REMAINDER: &str = "remainder!";

fn refused(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, why.into())
}

/// Puts in place the tests and filters of Jinja that the engine does otherwise.
pub(super) fn install(environment: &mut Environment<'_>) {
    environment.add_filter(REMAINDER, remainder);
    // Whatever has a length and items is a sequence, texts and maps among them.
    environment.add_test("sequence", |value: Value| {
        let kind = value.kind();
        use ValueKind::{Map, Seq, String, Undefined};
        matches!(kind, Undefined | String | Seq | Map)
    });
    // Python's booleans are numbers.
    environment.add_test("number", |value: Value| {
        matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
    });
    for name in ["length", "count"] {
        environment.add_filter(name, length);
    }
    for name in ["escape", "e"] {
        environment.add_filter(name, escape);
    }
    // The engine's own draws another picture than Python's.
    environment.remove_filter("pprint");
}

fn length(value: Value) -> Result<usize, Error> {
    let length = match value.is_undefined() {
        true => Some(0),
        false => value.len(),
    };
    length.ok_or_else(|| {
        refused(format!(
            "cannot calculate length of value of type {}",
            value.kind()
        ))
    })
}

fn escape(value: Value) -> Result<Value, Error> {
    if value.is_safe() {
        return Ok(value);
    }
    cost::check(&value)?;
    let text = jinja::text_of(&value)?;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    Ok(Value::from_safe_string(out))
}

/// `a % b`: values put into a text, or the remainder with the sign of b.
fn remainder(state: &State<'_, '_>, a: Value, b: Value) -> Result<Value, Error> {
    if a.as_str().is_some() {
        let shown = |value: Value| match value.kind() {
            ValueKind::Number | ValueKind::String => Ok(value),
            _ => jinja::text_of(&value).map(Value::from),
        };
        cost::check(&b)?;
        let mut all = vec![a];
        match b.kind() {
            ValueKind::Seq => {
                for value in b.try_iter()? {
                    all.push(shown(value)?);
                }
            }
            _ => all.push(shown(b)?),
        }
        return state.apply_filter("format", &all);
    }
    if a.is_integer() && b.is_integer() {
        let (Ok(x), Ok(y)) = (i64::try_from(a.clone()), i64::try_from(b.clone())) else {
            return Err(refused(format!("cannot divide {a} by {b}")));
        };
        let rest = x.checked_rem(y);
        let rest = rest.ok_or_else(|| refused(format!("cannot divide {x} by {y}")))?;
        let other_sign = rest != 0 && (rest < 0) != (y < 0);
        return Ok(Value::from(if other_sign { rest + y } else { rest }));
    }
    match (f64::try_from(a.clone()), f64::try_from(b.clone())) {
        (Ok(x), Ok(y)) if y != 0.0 => {
            let rest = x % y;
            let other_sign = rest != 0.0 && (rest < 0.0) != (y < 0.0);
            Ok(Value::from(if other_sign { rest + y } else { rest }))
        }
        _ => Err(refused(format!(
            "tried to use % operator on {} and {}",
            a.kind(),
            b.kind()
        ))),
    }
}

/// `text | replace(from, to, count)`: the first `count` alone.
pub(super) fn replace_some(arguments: &Rest<Value>) -> Result<Value, Error> {
    let (text, from, to, count): (&str, &str, &str, i64) = from_args(arguments)?;
    Ok(Value::from(match usize::try_from(count) {
        Ok(count) => text.replacen(from, to, count),
        Err(_) => text.replace(from, to),
    }))
}

/// A method of a text or a list; none where it is not one of those here.
pub(super) fn method(
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Option<Value>, Error> {
    match value.as_str() {
        Some(text) => of_text(text, name, arguments),
        None if value.kind() == ValueKind::Seq && name == "index" => {
            let (wanted,): (Value,) = from_args(arguments)?;
            let place = value.try_iter()?.position(|item| item == wanted);
            let place = place.ok_or_else(|| refused("index: found no such item in the list"))?;
            Ok(Some(Value::from(place)))
        }
        None => Ok(None),
    }
}

fn of_text(text: &str, name: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "removeprefix" => {
            let (start,): (&str,) = from_args(arguments)?;
            text.strip_prefix(start).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (end,): (&str,) = from_args(arguments)?;
            text.strip_suffix(end).unwrap_or(text).into()
        }
        "index" => {
            let (part,): (&str,) = from_args(arguments)?;
            let place = text.find(part);
            let place =
                place.ok_or_else(|| refused(format!("index: found no {part:?} in the text")))?;
            text[..place].chars().count().into()
        }
        "partition" | "rpartition" => {
            let (cut,): (&str,) = from_args(arguments)?;
            if cut.is_empty() {
                return Err(refused(format!("{name}: found an empty separator")));
            }
            let first = name == "partition";
            let parts = if first {
                text.split_once(cut)
            } else {
                text.rsplit_once(cut)
            };
            list(match (parts, first) {
                (Some((before, after)), _) => vec![before, cut, after],
                (None, true) => vec![text, "", ""],
                (None, false) => vec!["", "", text],
            })
        }
        "rsplit" => {
            let (cut, most): (Option<&str>, Option<i64>) = from_args(arguments)?;
            let most = most.and_then(|most| usize::try_from(most).ok());
            list(rsplit(text, cut, most.unwrap_or(usize::MAX))?)
        }
        "ljust" | "rjust" | "center" | "zfill" => padded(text, name, arguments)?.into(),
        _ => return Ok(None),
    }))
}

fn list(parts: Vec<&str>) -> Value {
    parts.into_iter().map(Value::from).collect()
}

/// Parts of a text, cut from its end at most so often; at runs of blanks where nothing else is named.
fn rsplit<'a>(text: &'a str, cut: Option<&str>, most: usize) -> Result<Vec<&'a str>, Error> {
    let mut parts: Vec<&str> = match cut {
        Some("") => return Err(refused("rsplit: found an empty separator")),
        Some(cut) => text.rsplitn(most.saturating_add(1), cut).collect(),
        None => {
            let (mut parts, mut rest) = (Vec::new(), text.trim_end());
            while parts.len() < most
                && let Some((before, last)) = rest.rsplit_once(char::is_whitespace)
            {
                parts.push(last);
                rest = before.trim_end();
            }
            if !rest.is_empty() {
                parts.push(rest);
            }
            parts
        }
    };
    parts.reverse();
    Ok(parts)
}

fn padded(text: &str, name: &str, arguments: &[Value]) -> Result<String, Error> {
    let (width, fill): (i64, Option<char>) = match name {
        "zfill" => (from_args::<(i64,)>(arguments)?.0, Some('0')),
        _ => from_args(arguments)?,
    };
    let width = usize::try_from(width).unwrap_or(0);
    let free = width.saturating_sub(text.chars().count());
    cost::allow(free.checked_mul(4))?;
    let fill = |n: usize| fill.unwrap_or(' ').to_string().repeat(n);
    Ok(match name {
        "ljust" => format!("{text}{}", fill(free)),
        "rjust" => format!("{}{text}", fill(free)),
        "center" => {
            let left = free / 2 + (free & width & 1);
            format!("{}{text}{}", fill(left), fill(free - left))
        }
        _ => match text.strip_prefix(['+', '-']) {
            Some(digits) => format!("{}{}{digits}", &text[..1], fill(free)),
            None => format!("{}{text}", fill(free)),
        },
    })
}
