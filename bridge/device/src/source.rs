//! The text of the kernels, and the parameters that it declares.

use crate::buffer::{Buffer, Element, Real};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// The text of the kernels, CUDA C++.
pub const KERNELS: &str = include_str!("kernels.cu");

/// What NVRTC is told besides the architecture: products and additions are fused where the text says so and nowhere else, so that a
/// device computes what the emulator does.
pub const NVRTC_OPTIONS: [&str; 2] = ["--std=c++17", "--fmad=false"];

/// A parameter of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parameter {
    Pointer { element: Pointee, constant: bool },
    I32,
    U32,
    I64,
    F32,
    F64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pointee {
    /// What the type of weights and activations is.
    Real,
    Fixed(Element),
}

impl Pointee {
    fn element(self, real: Real) -> Element {
        match self {
            Self::Real => real.element(),
            Self::Fixed(element) => element,
        }
    }
}

impl Parameter {
    /// Its type in the kernels' text.
    pub(crate) fn c_type(self) -> String {
        let Self::Pointer { element, constant } = self else {
            let name = match self {
                Self::I32 => "int",
                Self::U32 => "u32",
                Self::I64 => "wide",
                Self::F32 => "float",
                _ => "double",
            };
            return name.into();
        };
        let name = match element {
            Pointee::Real => "real",
            Pointee::Fixed(Element::F32) => "float",
            Pointee::Fixed(Element::F64) => "double",
            Pointee::Fixed(Element::U8) => "u8",
            Pointee::Fixed(Element::Bf16 | Element::U16) => "u16",
            Pointee::Fixed(Element::U32) => "u32",
        };
        format!("{}{name} *", if constant { "const " } else { "" })
    }
}

/// Parameters in order, with their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signature(pub Vec<(Parameter, String)>);

/// An argument of a launch.
#[derive(Debug, Clone, Copy)]
pub enum Arg<'a> {
    /// A buffer that is read.
    In(&'a Buffer),
    /// A buffer that is written, and perhaps read.
    Out(&'a Buffer),
    /// No buffer, where a kernel can do without.
    Absent,
    /// `int`
    I32(i32),
    /// `u32`
    U32(u32),
    /// `wide`
    I64(i64),
    /// `float`
    F32(f32),
    /// `double`
    F64(f64),
}

const MARK: &str = "\nKERNEL ";

/// Every kernel of a text. What is not understood is a fault of the text and reported with its line.
pub(crate) fn signatures(text: &str) -> Result<BTreeMap<String, Signature>> {
    let mut all = BTreeMap::new();
    for (at, _) in text.match_indices(MARK) {
        let rest = &text[at + MARK.len()..];
        let wrong = |what: &str| {
            let line = rest.lines().next().unwrap_or("");
            Error::Compile(format!("{what} in {line:?}"))
        };
        let (name, rest) = rest.split_once('(').ok_or_else(|| wrong("no parameters"))?;
        let (list, _) = rest.split_once(')').ok_or_else(|| wrong("no end"))?;
        let parameters = list.split(',').map(|p| {
            let words: Vec<&str> = p.split_whitespace().collect();
            parameter(&words).ok_or_else(|| wrong(&format!("unknown parameter {:?}", p.trim())))
        });
        all.insert(name.into(), Signature(parameters.collect::<Result<_>>()?));
    }
    Ok(all)
}

fn parameter(words: &[&str]) -> Option<(Parameter, String)> {
    let (constant, words) = match words {
        ["const", rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let [kind, name] = words else { return None };
    let parameter = match name.strip_prefix('*') {
        Some(_) => Parameter::Pointer {
            element: match *kind {
                "real" => Pointee::Real,
                "float" => Pointee::Fixed(Element::F32),
                "double" => Pointee::Fixed(Element::F64),
                "u8" => Pointee::Fixed(Element::U8),
                "u16" => Pointee::Fixed(Element::U16),
                "u32" => Pointee::Fixed(Element::U32),
                _ => return None,
            },
            constant,
        },
        None => match *kind {
            "int" => Parameter::I32,
            "u32" => Parameter::U32,
            "wide" => Parameter::I64,
            "float" => Parameter::F32,
            "double" => Parameter::F64,
            _ => return None,
        },
    };
    Some((parameter, name.trim_start_matches('*').into()))
}

/// The kernels of [`KERNELS`].
pub(crate) fn own() -> &'static BTreeMap<String, Signature> {
    static OWN: OnceLock<BTreeMap<String, Signature>> = OnceLock::new();
    OWN.get_or_init(|| signatures(KERNELS).expect("a test reads every kernel's parameters"))
}

/// The names of all kernels.
pub fn names() -> Vec<&'static str> {
    own().keys().map(String::as_str).collect()
}

impl Signature {
    /// Whether `args` are what the kernel `name` takes.
    pub(crate) fn check(&self, name: &str, real: Real, args: &[Arg<'_>]) -> Result<()> {
        let refuse = |why: String| {
            Err(Error::Launch {
                kernel: name.into(),
                why,
            })
        };
        if args.len() != self.0.len() {
            let (found, expected) = (args.len(), self.0.len());
            return refuse(format!("found {found} arguments, expected {expected}"));
        }
        for ((parameter, called), arg) in self.0.iter().zip(args) {
            let fits = match (parameter, arg) {
                (Parameter::Pointer { element, constant }, Arg::In(b) | Arg::Out(b)) => {
                    b.element() == element.element(real) && *constant == matches!(arg, Arg::In(_))
                }
                (Parameter::Pointer { .. }, Arg::Absent) => true,
                (Parameter::I32, Arg::I32(_))
                | (Parameter::U32, Arg::U32(_))
                | (Parameter::I64, Arg::I64(_))
                | (Parameter::F32, Arg::F32(_))
                | (Parameter::F64, Arg::F64(_)) => true,
                _ => false,
            };
            if !fits {
                return refuse(format!("{called}: found {arg:?}, expected {parameter:?}"));
            }
        }
        Ok(())
    }
}

/// The text with those kernels alone that `wanted` names: what stands before the first and between others stays.
pub(crate) fn only(text: &str, wanted: &[&str]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        let kernel = &rest[at..];
        let end = kernel.find("\n}\n").map_or(kernel.len(), |e| e + 2);
        let name = kernel[MARK.len()..].split('(').next().unwrap_or("");
        if wanted.contains(&name) {
            out.push_str(&kernel[..end]);
        } else {
            // Lines keep their numbers.
            out.extend(kernel[..end].chars().filter(|&c| c == '\n'));
        }
        rest = &kernel[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_read() {
        let all = signatures(KERNELS).unwrap();
        assert_eq!(all.len(), KERNELS.matches(MARK).count());
        let float = Parameter::Pointer {
            element: Pointee::Fixed(Element::F32),
            constant: true,
        };
        assert_eq!(all["join"].0.len(), 4);
        assert_eq!(all["narrow"].0[0], (float, "x".into()));
        assert_eq!(all["narrow"].0[2], (Parameter::I64, "count".into()));
    }

    #[test]
    fn a_part_of_the_text_keeps_its_lines() {
        let part = only(KERNELS, &["join", "draw"]);
        assert_eq!(signatures(&part).unwrap().len(), 2);
        assert_eq!(part.lines().count(), KERNELS.lines().count());
    }

    #[test]
    fn continuous_integration_compiles_with_these_options() {
        let script = include_str!("../../../.ci/check-kernels");
        for option in NVRTC_OPTIONS {
            assert!(script.contains(&format!("\"{option}\"")), "{option}");
        }
    }

    #[test]
    fn parameters_that_are_not_understood_are_named() {
        let error = signatures("\nKERNEL f(half *x) {\n}\n").unwrap_err();
        assert!(error.to_string().contains("half *x"), "{error}");
    }
}
