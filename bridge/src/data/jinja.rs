//! Chat templates as `transformers` renders them: its functions and filters, and Python's way of printing values.
//!
//! A template is a program from a stranger: what it may run and write is bounded.

use std::path::PathBuf;

use minijinja::machinery::{Vm, get_compiled_template, make_string_output};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, Value};

use super::{cost, python};
use crate::guard;

/// Steps of one rendering; a long conversation takes some thousands.
const STEPS: u64 = 10_000_000;

const NAME: &str = "chat_template";

/// A compiled template with the special tokens it may print.
#[derive(Debug)]
pub struct Jinja {
    environment: Environment<'static>,
    /// The file that holds it, which errors name.
    file: PathBuf,
    special: Vec<(String, String)>,
    /// Whether it asks for today's date.
    pub(super) dated: bool,
}

impl Jinja {
    /// Compiles a template; `special` are the special tokens by name.
    ///
    /// # Errors
    /// One line with the template's line.
    pub(super) fn new(
        source: &str,
        file: PathBuf,
        special: Vec<(String, String)>,
    ) -> Result<Self, String> {
        // Jinja knows one kind of line end.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let source = as_the_engine_reads(&source)?;
        let dated = source.contains("strftime_now");
        let compile = || guard::catch(|| compiled(source));
        let thread = std::thread::Builder::new().stack_size(cost::STACK);
        let environment = std::thread::scope(|scope| {
            let running = thread.spawn_scoped(scope, compile);
            let running = running.map_err(|e| format!("cannot start a thread: {e}"))?;
            running
                .join()
                .unwrap_or_else(|_| Err("ended early".into()))?
        })?;
        Ok(Self {
            environment,
            file,
            special,
            dated,
        })
    }

    /// The file that holds it.
    pub(super) fn file(&self) -> &std::path::Path {
        &self.file
    }

    /// The text of a conversation.
    pub(super) fn render(
        &self,
        messages: Vec<Value>,
        add_generation_prompt: bool,
    ) -> Result<String, String> {
        let special = self.special.iter();
        let special = special.map(|(name, text)| (name.as_str(), Value::from(text.as_str())));
        let given = [
            ("messages", messages.into()),
            ("add_generation_prompt", add_generation_prompt.into()),
            ("tools", ().into()),
            ("documents", ().into()),
        ];
        let context: Value = special.chain(given).collect();
        let done = guard::catch(|| self.run(context));
        done.map_err(|why| self.failed(&why))?
            .map_err(|e| self.wrong(&e))
    }

    fn run(&self, context: Value) -> Result<String, Error> {
        let template = self.environment.get_template(NAME)?;
        let plain = get_compiled_template(&template);
        let program = cost::counted(&plain.instructions);
        let blocks = plain.blocks.iter();
        let blocks = blocks.map(|(name, block)| (*name, cost::counted(block)));
        let blocks = blocks.collect();
        cost::begin();
        let mut text = String::new();
        let mut out = make_string_output(&mut text);
        let vm = Vm::new(&self.environment);
        vm.eval(&program, context, &blocks, &mut out, AutoEscape::None)?;
        drop(out);
        Ok(text)
    }

    fn failed(&self, why: &str) -> String {
        format!("chat template of {}: {why}", self.file.display())
    }

    fn wrong(&self, e: &Error) -> String {
        self.failed(&match e.kind() {
            ErrorKind::OutOfFuel => {
                format!("stopped after {STEPS} steps; a conversation takes some thousands")
            }
            _ => brief(e),
        })
    }
}

/// An environment with the template in it.
fn compiled(source: String) -> Result<Environment<'static>, String> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_fuel(Some(STEPS));
    environment.set_formatter(print);
    environment.add_function("raise_exception", |why: String| {
        Err::<String, _>(Error::new(ErrorKind::InvalidOperation, why))
    });
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", |value: Value| {
        cost::check(&value)?;
        text_of(&value)
    });
    cost::install(&mut environment);
    python::install(&mut environment);
    environment
        .add_template_owned(NAME, source)
        .map_err(|e| brief(&e))?;
    Ok(environment)
}

/// `{% generation %}` and its end mark what an assistant wrote, and print nothing: they become a scope of their own, as they are there.
/// Texts in tags are written without the escapes that the engine has not, or reads otherwise than Python.
///
/// # Errors
/// A tag longer than [`cost::LONGEST_TAG`], `{% autoescape %}`, names of characters; with the line.
fn as_the_engine_reads(source: &str) -> Result<String, String> {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    loop {
        let opens = |at: &usize| matches!(rest.as_bytes().get(at + 1), Some(b'%' | b'#' | b'{'));
        let mut braces = rest.match_indices('{').map(|(at, _)| at);
        let Some(start) = braces.find(opens) else {
            return Ok(out + rest);
        };
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let close = match &rest[..2] {
            "{%" => "%}",
            "{#" => "#}",
            _ => "}}",
        };
        let (end, length) = end_of_tag(rest, close);
        if length > cost::LONGEST_TAG && close != "#}" {
            let line = 1 + out.matches('\n').count();
            let most = cost::LONGEST_TAG;
            return Err(format!(
                "line {line}: found a tag of {length} characters, expected at most {most} outside its texts"
            ));
        }
        let (tag, after) = rest.split_at(end);
        let inner = tag.strip_prefix("{%").and_then(|t| t.strip_suffix("%}"));
        let word = inner.map(|t| t.trim_matches(['-', '+']).trim());
        match word {
            Some(word @ ("generation" | "endgeneration")) => {
                let new = if word == "generation" {
                    "with"
                } else {
                    "endwith"
                };
                out.push_str(&tag.replacen(word, new, 1));
            }
            Some(word) if word.split(char::is_whitespace).next() == Some("autoescape") => {
                let line = 1 + out.matches('\n').count();
                return Err(format!("line {line}: found autoescape, which is not read"));
            }
            _ if close == "#}" || !tag.contains('\\') => out.push_str(tag),
            _ => {
                let line = 1 + out.matches('\n').count();
                let tag = unescaped(tag).map_err(|why| format!("line {line}: {why}"))?;
                out.push_str(&tag);
            }
        }
        rest = after;
    }
}

/// A tag whose texts mean to the engine what they mean to Python.
fn unescaped(tag: &str) -> Result<String, String> {
    let mut out = String::with_capacity(tag.len());
    let mut quote = None;
    let mut rest = tag.chars();
    while let Some(c) = rest.next() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), c) if c == q => quote = None,
            (Some(q), '\\') => {
                match rest.next() {
                    // No escape in Python, and one in JSON.
                    Some('/') => out.push_str(r"\\/"),
                    Some('a') => out.push_str(r"\x07"),
                    Some('v') => out.push_str(r"\x0b"),
                    Some('\n') => {}
                    Some('U') => {
                        let digits: String = rest.by_ref().take(8).collect();
                        let code = u32::from_str_radix(&digits, 16).ok();
                        match code.and_then(char::from_u32) {
                            Some(c) if c == q || c == '\\' => out.extend(['\\', c]),
                            Some(c) => out.push(c),
                            None => {
                                return Err(format!(r"found \U{digits}, which is no character"));
                            }
                        }
                    }
                    Some('N') => return Err(r"found \N{…}, expected the character itself".into()),
                    next => {
                        out.push('\\');
                        out.extend(next);
                    }
                }
                continue;
            }
            _ => {}
        }
        out.push(c);
    }
    Ok(out)
}

/// Bytes of the tag that `text` begins with, and its characters outside quotes and blanks; its close does not count within quotes.
fn end_of_tag(text: &str, close: &str) -> (usize, usize) {
    let mut quote = None;
    let mut escaped = false;
    let mut length = 0;
    for (i, c) in text.char_indices().skip(2) {
        length += usize::from(quote.is_none() && !c.is_whitespace());
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') if close != "#}" => quote = Some(c),
            (None, _) if text[i..].starts_with(close) => return (i + close.len(), length),
            _ => {}
        }
    }
    (text.len(), length)
}

/// The time as Python's `strftime` writes it; `SOURCE_DATE_EPOCH` (seconds, UTC) takes the clock's place where it is set.
fn strftime_now(format: String) -> Result<String, Error> {
    use chrono::format::{Item, StrftimeItems};
    let items: Vec<Item<'_>> = StrftimeItems::new(&format).collect();
    if items.contains(&Item::Error) {
        let why = format!("strftime_now: {format:?} is no format of a date");
        return Err(Error::new(ErrorKind::InvalidOperation, why));
    }
    let items = items.iter();
    let fixed = std::env::var("SOURCE_DATE_EPOCH").ok();
    Ok(
        match fixed.and_then(|s| chrono::DateTime::from_timestamp(s.parse().ok()?, 0)) {
            Some(fixed) => fixed.format_with_items(items).to_string(),
            None => chrono::Local::now().format_with_items(items).to_string(),
        },
    )
}

/// `{{ value }}` as Python's `str` prints it.
fn print(out: &mut Output<'_>, _: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    cost::check(value)?;
    let text = text_of(value)?;
    cost::spend(text.len())?;
    out.write_str(&text).map_err(Error::from)
}

pub(super) fn text_of(value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.into()),
        None if value.is_undefined() => Ok(String::new()),
        None => python(value),
    }
}

/// Python's `repr`.
fn python(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(quoted(text));
    }
    Ok(match value.kind() {
        ValueKind::Undefined => "Undefined".into(),
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::Number => number(value),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?.map(|item| python(&item));
            format!("[{}]", items.collect::<Result<Vec<_>, _>>()?.join(", "))
        }
        ValueKind::Map => {
            let pair = |key: Value| {
                let held = value.get_item(&key)?;
                Ok(format!("{}: {}", python(&key)?, python(&held)?))
            };
            let pairs = value.try_iter()?.map(pair);
            format!(
                "{{{}}}",
                pairs.collect::<Result<Vec<_>, Error>>()?.join(", ")
            )
        }
        _ => value.to_string(),
    })
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_unprintable(c) => out.push_str(&match c as u32 {
                code @ ..0x100 => format!("\\x{code:02x}"),
                code @ ..0x1_0000 => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// Whether `repr` writes a character by its number: controls, blanks other than the space, and characters without a picture.
fn is_unprintable(c: char) -> bool {
    let without_picture = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{e000}'..='\u{f8ff}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0001}'..='\u{e007f}');
    c.is_control() || without_picture || (c != ' ' && c.is_whitespace())
}

/// An integer as it is, a float as Python writes the shortest decimal that reads back.
fn number(value: &Value) -> String {
    let text = value.to_string();
    if value.is_integer() {
        return text;
    }
    let Ok(x) = f64::try_from(value.clone()) else {
        return text;
    };
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf" } else { "-inf" }.into();
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        return format!("{x:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// `json.dumps` of Python: nothing is escaped for HTML, and keys stay in the order they are written in.
fn tojson(value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<Value> = options.get("indent")?;
    let indent = indent.filter(|v| !v.is_none()).map(|v| match v.as_str() {
        Some(text) => text.to_string(),
        None => " ".repeat(usize::try_from(v).unwrap_or(0).min(64)),
    });
    let separators: Option<Vec<String>> = options.get("separators")?;
    let separators = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => {
            let why = "tojson: separators must be two texts";
            return Err(Error::new(ErrorKind::InvalidOperation, why));
        }
        None if indent.is_some() => (",".into(), ": ".into()),
        None => (", ".into(), ": ".into()),
    };
    let flag = |name: &str| {
        options
            .get::<Option<bool>>(name)
            .map(|f| f.unwrap_or(false))
    };
    let json = Json {
        indent,
        separators,
        ascii: flag("ensure_ascii")?,
        sorted: flag("sort_keys")?,
    };
    options.assert_all_used()?;
    cost::check(&value)?;
    let mut out = String::new();
    json.write(&value, 0, &mut out)?;
    Ok(Value::from_safe_string(out))
}

struct Json {
    indent: Option<String>,
    separators: (String, String),
    ascii: bool,
    sorted: bool,
}

impl Json {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if let Some(text) = value.as_str() {
            self.text(text, out);
            return Ok(());
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&match number(value).as_str() {
                "nan" => "NaN".to_string(),
                "inf" => "Infinity".into(),
                "-inf" => "-Infinity".into(),
                plain => plain.into(),
            }),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.all(items.len(), ['[', ']'], depth, out, |i, out| {
                    self.write(&items[i], depth + 1, out)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                self.all(keys.len(), ['{', '}'], depth, out, |i, out| {
                    self.text(&text_of(&keys[i])?, out);
                    out.push_str(&self.separators.1);
                    self.write(&value.get_item(&keys[i])?, depth + 1, out)
                })?;
            }
            other => {
                let why = format!("tojson: {other} cannot be written as JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, why));
            }
        }
        Ok(())
    }

    fn all(
        &self,
        n: usize,
        [open, close]: [char; 2],
        depth: usize,
        out: &mut String,
        mut each: impl FnMut(usize, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        if out.len() > cost::MOST {
            return cost::spend(usize::MAX);
        }
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                out.push_str(&indent.repeat(depth));
            }
        };
        for i in 0..n {
            if i > 0 {
                out.push_str(&self.separators.0);
            }
            line(depth + 1, out);
            each(i, out)?;
        }
        if n > 0 {
            line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn text(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 || self.ascii && (c as u32) > 0x7e => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// The template's line and what is wrong there.
pub(super) fn brief(e: &Error) -> String {
    let line = e.line().map(|l| format!("line {l}: ")).unwrap_or_default();
    let what = e.detail().map_or(e.kind().to_string(), String::from);
    let what = what.lines().next().unwrap_or_default();
    format!("{line}{what}")
}
