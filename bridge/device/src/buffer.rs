//! Memory of a device, by handle.

use crate::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Types of elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
    /// The upper half of an `f32`.
    Bf16,
    /// Unsigned bytes: codes of a moment in 8 bits.
    U8,
    /// Halves of a master weight.
    U16,
    /// Tokens, positions, orders.
    U32,
}

impl Element {
    /// Bytes of one.
    pub fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::Bf16 | Self::U16 => 2,
            Self::F32 | Self::U32 => 4,
            Self::F64 => 8,
        }
    }
}

/// The type of weights and activations: what `real` is in the kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Real {
    /// Single precision.
    F32,
    /// bfloat16, rounded to the nearest where a value is stored; arithmetic is in `f32`.
    Bf16,
}

impl Real {
    /// The element of this type.
    pub fn element(self) -> Element {
        match self {
            Self::F32 => Element::F32,
            Self::Bf16 => Element::Bf16,
        }
    }
}

/// Who takes an allocation back.
pub(crate) trait Owner: Send + Sync {
    fn release(&self, id: u64);
}

struct Allocation {
    id: u64,
    owner: Arc<dyn Owner>,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.owner.release(self.id);
    }
}

/// A piece of a device's memory; clones and parts share it, and the last one to go gives it back.
#[derive(Clone)]
pub struct Buffer {
    allocation: Arc<Allocation>,
    element: Element,
    /// In elements.
    start: usize,
    len: usize,
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (id, start) = (self.allocation.id, self.start);
        write!(f, "{:?}[{}] at {id}+{start}", self.element, self.len)
    }
}

/// A number that no other allocation of the process has.
pub(crate) fn fresh_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Buffer {
    pub(crate) fn new(id: u64, owner: Arc<dyn Owner>, element: Element, len: usize) -> Self {
        let allocation = Arc::new(Allocation { id, owner });
        Self {
            allocation,
            element,
            start: 0,
            len,
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.allocation.id
    }

    /// Where it begins within its allocation, in bytes.
    pub(crate) fn offset(&self) -> usize {
        self.start * self.element.size()
    }

    /// How many elements it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes its elements take.
    pub fn bytes(&self) -> usize {
        self.len * self.element.size()
    }

    /// The type of its elements.
    pub fn element(&self) -> Element {
        self.element
    }

    /// The same memory as elements of another type.
    ///
    /// # Errors
    /// [`Error::Buffer`] where its bytes are no whole number of them.
    pub fn of(&self, element: Element) -> Result<Self> {
        let (at, bytes, size) = (self.offset(), self.bytes(), element.size());
        if !at.is_multiple_of(size) || !bytes.is_multiple_of(size) {
            return Err(Error::Buffer {
                what: format!("elements {element:?}"),
                found: format!("{bytes} bytes from byte {at} on"),
                expected: format!("multiples of {size}"),
            });
        }
        Ok(Self {
            element,
            start: at / size,
            len: bytes / size,
            ..self.clone()
        })
    }

    /// `len` elements from `start` on, in the same memory.
    ///
    /// # Errors
    /// [`Error::Buffer`] past the end.
    pub fn part(&self, start: usize, len: usize) -> Result<Self> {
        if start.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Error::Buffer {
                what: "part".into(),
                found: format!("elements {start} to {start} + {len}"),
                expected: format!("at most {}", self.len),
            });
        }
        Ok(Self {
            start: self.start + start,
            len,
            ..self.clone()
        })
    }
}
