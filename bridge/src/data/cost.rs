//! What one rendering of a template may cost beyond its steps.
//!
//! The engine counts steps, but one step may double a text, repeat it a billion times or sort a list of millions. So each instruction that
//! makes a value is followed by one that counts it, the few filters that multiply are asked before they run, and time is limited.

use std::cell::Cell;
use std::time::{Duration, Instant};

use minijinja::machinery::{Instruction, Instructions};
use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};
use minijinja_contrib::pycompat;

use super::python;

/// Bytes that a rendering may make and print; a conversation of a million characters takes some millions.
pub(super) const MOST: usize = 64 << 20;
/// How long a rendering may take; a conversation takes less than a millisecond.
const LONGEST: Duration = Duration::from_secs(10);
/// Lists in one another: whatever walks through them calls itself as often.
const DEEPEST: usize = 100;
/// Stack on which a template is compiled: the compiler calls itself once for each operator of an expression.
pub(super) const STACK: usize = 64 << 20;
/// Characters of one tag outside quotes and blanks, so that [`STACK`] suffices.
pub(super) const LONGEST_TAG: usize = 16 << 10;

const MADE: &str = "made!";
const CONCAT: &str = "concat!";

thread_local! {
    static LEFT: Cell<usize> = const { Cell::new(MOST) };
    static END: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Begins a rendering on this thread.
pub(super) fn begin() {
    LEFT.set(MOST);
    END.set(Instant::now().checked_add(LONGEST));
}

fn refused(why: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}

/// Counts bytes that are made or printed.
pub(super) fn spend(bytes: usize) -> Result<(), Error> {
    let Some(left) = LEFT.get().checked_sub(bytes) else {
        return Err(refused(format!(
            "stopped after {MOST} bytes of text and lists for one conversation"
        )));
    };
    LEFT.set(left);
    match END.get() {
        Some(end) if Instant::now() > end => Err(refused(format!(
            "stopped after {} s for one conversation",
            LONGEST.as_secs()
        ))),
        _ => Ok(()),
    }
}

/// Asks whether so much may be made, before it is.
pub(super) fn allow(bytes: Option<usize>) -> Result<(), Error> {
    match bytes {
        Some(bytes) if bytes <= LEFT.get() => Ok(()),
        _ => spend(usize::MAX),
    }
}

/// Bytes of a value when it is printed, about; none where it is more than may be made, or too deep.
fn size(value: &Value) -> Result<usize, Error> {
    let most = LEFT.get();
    let mut total = 0;
    walk(value, 0, most, &mut total)?;
    Ok(total)
}

fn walk(value: &Value, depth: usize, most: usize, total: &mut usize) -> Result<(), Error> {
    *total += 8 + value.as_str().map_or(0, str::len);
    if *total > most {
        return spend(usize::MAX);
    }
    if depth > DEEPEST {
        return Err(refused(format!(
            "found lists or maps more than {DEEPEST} deep in one another"
        )));
    }
    match value.kind() {
        // Lazy ones say how long they are before they are walked through.
        ValueKind::Seq | ValueKind::Iterable => {
            allow(value.len().unwrap_or(0).checked_mul(8))?;
            for item in value.try_iter()? {
                walk(&item, depth + 1, most, total)?;
            }
        }
        ValueKind::Map => {
            for key in value.try_iter()? {
                let held = value.get_item(&key)?;
                walk(&key, depth + 1, most, total)?;
                walk(&held, depth + 1, most, total)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// What is to be printed, or to become part of a text.
pub(super) fn check(value: &Value) -> Result<(), Error> {
    size(value).map(drop)
}

fn made(value: Value) -> Result<Value, Error> {
    let bytes = size(&value)?;
    spend(8 + bytes)?;
    Ok(value)
}

/// `~`, with its values as Python prints them.
fn concat(a: &Value, b: &Value) -> Result<Value, Error> {
    allow(size(a)?.checked_add(size(b)?))?;
    let mut text = super::jinja::text_of(a)?;
    text.push_str(&super::jinja::text_of(b)?);
    Ok(Value::from(text))
}

/// Whether an instruction leaves a new value on the stack.
fn makes(instruction: &Instruction<'_>) -> bool {
    matches!(
        instruction,
        Instruction::Add
            | Instruction::Mul
            | Instruction::Rem
            | Instruction::StringConcat
            | Instruction::Slice
            | Instruction::BuildMap(_)
            | Instruction::BuildList(_)
            | Instruction::ApplyFilter(..)
            | Instruction::CallFunction(..)
            | Instruction::CallMethod(..)
            | Instruction::CallObject(_)
            | Instruction::EndCapture
    ) || matches!(instruction, Instruction::LoadConst(value) if is_large(value))
}

/// Whether a constant is to be counted where it is loaded: the compiler has computed products of constants, lazy ones too.
fn is_large(value: &Value) -> bool {
    match value.as_str() {
        Some(text) => text.len() > 4096,
        None => value.len().is_some(),
    }
}

/// The same program with what it makes counted; plain text goes through the formatter too, which counts what is printed.
pub(super) fn counted<'source>(plain: &Instructions<'source>) -> Instructions<'source> {
    let all: Vec<&Instruction<'source>> = (0..).map_while(|i| plain.get(i)).collect();
    let length =
        |i: &Instruction<'_>| 1 + u32::from(makes(i) || matches!(i, Instruction::EmitRaw(_)));
    // Where each instruction goes, so that jumps follow.
    let mut places = vec![0];
    for instruction in &all {
        places.push(places[places.len() - 1] + length(instruction));
    }
    let place = |target: u32| places.get(target as usize).copied().unwrap_or(target);
    let mut out = Instructions::new(plain.name(), plain.source());
    for (i, instruction) in all.into_iter().enumerate() {
        let line = plain.get_line(i as u32).unwrap_or(0);
        let line = u16::try_from(line).unwrap_or(u16::MAX);
        let mut add = |instruction| out.add_with_line(instruction, line);
        add(match instruction {
            Instruction::EmitRaw(text) => Instruction::LoadConst(Value::from(*text)),
            Instruction::StringConcat => Instruction::ApplyFilter(CONCAT, Some(2), !0),
            Instruction::Rem => Instruction::ApplyFilter(python::REMAINDER, Some(2), !0),
            Instruction::Iterate(to) => Instruction::Iterate(place(*to)),
            Instruction::Jump(to) => Instruction::Jump(place(*to)),
            Instruction::JumpIfFalse(to) => Instruction::JumpIfFalse(place(*to)),
            Instruction::JumpIfFalseOrPop(to) => Instruction::JumpIfFalseOrPop(place(*to)),
            Instruction::JumpIfTrueOrPop(to) => Instruction::JumpIfTrueOrPop(place(*to)),
            Instruction::BuildMacro(name, to, flags) => {
                Instruction::BuildMacro(name, place(*to), *flags)
            }
            other => other.clone(),
        });
        if makes(instruction) {
            add(Instruction::ApplyFilter(MADE, Some(1), !0));
        } else if matches!(instruction, Instruction::EmitRaw(_)) {
            add(Instruction::Emit);
        }
    }
    out
}

/// Puts in place what counts, and what asks before it multiplies.
pub(super) fn install(environment: &mut Environment<'_>) {
    environment.add_filter(MADE, made);
    environment.add_filter(CONCAT, concat);
    // The filters as they are go by names that no template can write.
    environment.add_filter("replace!", filters::replace);
    environment.add_filter("join!", filters::join);
    environment.add_filter("indent!", filters::indent);
    environment.add_filter("format!", filters::format);
    environment.add_filter("batch!", filters::batch);
    environment.add_filter("slice!", filters::slice);
    type Ask = fn(&[Value]) -> Result<(), Error>;
    let asked: [(&str, &str, Ask); 5] = [
        ("join", "join!", joins),
        ("indent", "indent!", widens),
        ("format", "format!", formats),
        ("batch", "batch!", widens),
        ("slice", "slice!", widens),
    ];
    for (name, plain, ask) in asked {
        let filter = move |state: &State<'_, '_>, arguments: Rest<Value>| {
            ask(&arguments)?;
            state.apply_filter(plain, &arguments)
        };
        environment.add_filter(name, filter);
    }
    environment.add_filter(
        "replace",
        |state: &State<'_, '_>, arguments: Rest<Value>| {
            replaces(&arguments)?;
            match arguments.len() {
                4 => python::replace_some(&arguments),
                _ => state.apply_filter("replace!", &arguments),
            }
        },
    );
    environment.set_unknown_method_callback(|state, value, method, arguments| {
        let all = || [std::slice::from_ref(value), arguments].concat();
        match (method, arguments) {
            ("replace", _) => replaces(&all())?,
            // The text stands first here, the list in the filter.
            ("join", [items, ..]) => joins(&[items.clone(), value.clone()])?,
            ("format", _) => formats(&all())?,
            _ => {}
        }
        match python::method(value, method, arguments)? {
            Some(answer) => Ok(answer),
            None => pycompat::unknown_method_callback(state, value, method, arguments),
        }
    });
}

/// text, from, to.
fn replaces(arguments: &[Value]) -> Result<(), Error> {
    let text = |i: usize| arguments.get(i).and_then(Value::as_str);
    let (Some(whole), Some(from), Some(to)) = (text(0), text(1), text(2)) else {
        return arguments.iter().try_for_each(check);
    };
    let found = match from {
        "" => whole.chars().count() + 1,
        _ => whole.matches(from).count(),
    };
    let more = found.checked_mul(to.len());
    allow(more.and_then(|more| more.checked_add(whole.len())))
}

/// items, what goes between them.
fn joins(arguments: &[Value]) -> Result<(), Error> {
    arguments.iter().try_for_each(check)?;
    let between = arguments.get(1).and_then(Value::as_str).map_or(0, str::len);
    let items = arguments.first().and_then(Value::len).unwrap_or(0);
    allow(items.checked_mul(between))
}

/// A text or a list, then widths: by how much each line or row may grow.
fn widens(arguments: &[Value]) -> Result<(), Error> {
    arguments.iter().try_for_each(check)?;
    let lines = arguments.first().and_then(Value::as_str);
    let lines = 1 + lines.map_or(0, |text| text.matches('\n').count());
    let widths = arguments.iter().skip(1);
    let widths = widths.filter_map(|v| usize::try_from(v.clone()).ok());
    allow(lines.checked_mul(widths.max().unwrap_or(0)))
}

/// A format, then its values: the widths that it names, or that a `*` takes from the values.
fn formats(arguments: &[Value]) -> Result<(), Error> {
    arguments.iter().try_for_each(check)?;
    let Some(format) = arguments.first().and_then(Value::as_str) else {
        return Ok(());
    };
    let mut bytes = Some(0_usize);
    for digits in format.split(|c: char| !c.is_ascii_digit()) {
        let width = match digits {
            "" => Ok(0),
            digits => digits.parse::<usize>(),
        };
        bytes = bytes.zip(width.ok()).and_then(|(a, b)| a.checked_add(b));
    }
    if format.contains('*') {
        for value in &arguments[1..] {
            let width = usize::try_from(value.clone()).unwrap_or(0);
            bytes = bytes.and_then(|a| a.checked_add(width));
        }
    }
    allow(bytes)
}
