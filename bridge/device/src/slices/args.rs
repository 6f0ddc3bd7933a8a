//! The arguments of a launch, as slices and numbers.

use super::memory::{Block, Plain};
use crate::Result;
use crate::counting::foreign;
use crate::source::Arg;
use half::bf16;
use std::cell::Cell;
use std::collections::HashMap;

/// A number that is stored and computed with in `f32`; bfloat16 is its bits.
pub(super) trait Number: Plain {
    fn value(self) -> f32;
    fn of(x: f32) -> Self;
}

impl Number for f32 {
    fn value(self) -> f32 {
        self
    }

    fn of(x: f32) -> Self {
        x
    }
}

impl Number for u16 {
    fn value(self) -> f32 {
        f32::from_bits(u32::from(self) << 16)
    }

    fn of(x: f32) -> Self {
        bf16::from_f32(x).to_bits()
    }
}

enum Value<'m> {
    Memory(&'m Block, usize, usize),
    Absent,
    Whole(i64),
    Single(f32),
    Double(f64),
}

/// Arguments by their place, which the signature has checked: a place of another kind is a fault of the kernel here and panics.
pub(super) struct Args<'m> {
    values: Vec<Value<'m>>,
    grid: [usize; 2],
}

impl<'m> Args<'m> {
    pub fn new(blocks: &'m HashMap<u64, Block>, args: &[Arg<'_>], grid: [u32; 2]) -> Result<Self> {
        let value = |arg: &Arg<'_>| {
            Ok(match *arg {
                Arg::In(buffer) | Arg::Out(buffer) => {
                    let block = blocks.get(&buffer.id()).ok_or_else(|| foreign(buffer))?;
                    Value::Memory(block, buffer.offset(), buffer.len())
                }
                Arg::Absent => Value::Absent,
                Arg::I32(x) => Value::Whole(x.into()),
                Arg::U32(x) => Value::Whole(x.into()),
                Arg::I64(x) => Value::Whole(x),
                Arg::F32(x) => Value::Single(x),
                Arg::F64(x) => Value::Double(x),
            })
        };
        Ok(Self {
            values: args.iter().map(value).collect::<Result<_>>()?,
            grid: grid.map(|n| n as usize),
        })
    }

    /// Blocks in x and y.
    pub fn grid(&self) -> [usize; 2] {
        self.grid
    }

    /// A buffer that may be absent.
    pub fn maybe<T: Plain>(&self, at: usize) -> Option<&'m [Cell<T>]> {
        match self.values[at] {
            Value::Memory(block, offset, len) => Some(block.cells(offset, len)),
            Value::Absent => None,
            _ => panic!("argument {at} is a number"),
        }
    }

    pub fn cells<T: Plain>(&self, at: usize) -> &'m [Cell<T>] {
        self.maybe(at).expect("a buffer that must be there")
    }

    /// A size, or a switch.
    pub fn size(&self, at: usize) -> usize {
        match self.values[at] {
            Value::Whole(x) => usize::try_from(x).expect("sizes are not negative"),
            _ => panic!("argument {at} is no whole number"),
        }
    }

    pub fn flag(&self, at: usize) -> bool {
        self.size(at) != 0
    }

    pub fn single(&self, at: usize) -> f32 {
        match self.values[at] {
            Value::Single(x) => x,
            _ => panic!("argument {at} is no float"),
        }
    }

    pub fn double(&self, at: usize) -> f64 {
        match self.values[at] {
            Value::Double(x) => x,
            _ => panic!("argument {at} is no double"),
        }
    }
}

/// The value of an element.
pub(super) fn at<R: Number>(x: &[Cell<R>], i: usize) -> f32 {
    x[i].get().value()
}

/// Stores a value, rounded where the type is narrow.
pub(super) fn put<R: Number>(x: &[Cell<R>], i: usize, value: f32) {
    x[i].set(R::of(value));
}
