//! The one use of unsafe code: loading the compiled kernels and calling them.
#![allow(unsafe_code)]

use crate::{Error, Result};
use libloading::{Library, Symbol};
use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

type Thunk = unsafe extern "C" fn(*mut *mut c_void);
type Run = unsafe extern "C" fn(
    Thunk,
    *mut *mut c_void,
    *const c_uint,
    c_uint,
    c_uint,
    c_int,
    c_ulonglong,
    *mut c_char,
) -> c_int;

/// Compiled kernels.
pub(super) struct Compiled {
    run: Run,
    thunks: HashMap<String, Thunk>,
    /// The emulator keeps its fibres and shared memory in variables of the library: one launch at a time.
    one: Mutex<()>,
    /// Last, so that the functions above never outlive it.
    _library: Library,
}

/// A value that a kernel is called with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value {
    Pointer(*mut u8),
    I32(i32),
    U32(u32),
    I64(i64),
    F32(f32),
    F64(f64),
}

/// How a launch is run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub grid: [u32; 2],
    pub block: u32,
    pub shared: u32,
    pub order: i32,
    pub seed: u64,
}

impl Compiled {
    /// Loads a library that this crate compiled, with the kernels `names`.
    pub fn load<'a>(path: &Path, names: impl Iterator<Item = &'a String>) -> Result<Self> {
        let failed = |e: libloading::Error| Error::Library {
            path: path.display().to_string(),
            why: e.to_string(),
        };
        // SAFETY: the library was compiled from this crate's header and kernels, under a name made of their digest, in a folder of
        // the user's own; it runs nothing when it is loaded.
        let library = unsafe { Library::new(path) }.map_err(failed)?;
        let mut thunks = HashMap::new();
        for name in names {
            // SAFETY: the text that was compiled defines this function with this type (`thunks` in the parent module).
            let thunk: Symbol<'_, Thunk> =
                unsafe { library.get(format!("rto_call_{name}")) }.map_err(failed)?;
            thunks.insert(name.clone(), *thunk);
        }
        // SAFETY: emulator.h defines `rto_launch` with this type.
        let run = *unsafe { library.get::<Run>("rto_launch") }.map_err(failed)?;
        Ok(Self {
            run,
            thunks,
            one: Mutex::new(()),
            _library: library,
        })
    }

    /// Runs a kernel; the report of what it did wrong, if anything.
    ///
    /// `values` have been checked against the kernel's parameters, pointers are into memory that the caller holds for the call.
    pub fn run(&self, name: &str, values: &[Value], shape: &Shape) -> Option<String> {
        let thunk = self.thunks[name];
        let mut values = values.to_vec();
        let mut arguments: Vec<*mut c_void> = values
            .iter_mut()
            .map(|value| match value {
                Value::Pointer(p) => std::ptr::from_mut(p).cast(),
                Value::I32(x) => std::ptr::from_mut(x).cast(),
                Value::U32(x) => std::ptr::from_mut(x).cast(),
                Value::I64(x) => std::ptr::from_mut(x).cast(),
                Value::F32(x) => std::ptr::from_mut(x).cast(),
                Value::F64(x) => std::ptr::from_mut(x).cast(),
            })
            .collect();
        let mut report = [0u8; 256];
        let _one = self.one.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the thunk reads as many arguments as the kernel has parameters, each of the parameter's type, which the caller
        // checked; `arguments` points at them. The kernel writes through its pointers alone, into memory that the caller holds and
        // with guards around it; that it stays within is what the emulator is there to test, so this is sound for kernels that are
        // right, and for wrong ones as far as the guards reach. `report` has the 256 bytes that rto_launch may write.
        let failed = unsafe {
            (self.run)(
                thunk,
                arguments.as_mut_ptr(),
                shape.grid.as_ptr(),
                shape.block,
                shape.shared,
                shape.order,
                shape.seed,
                report.as_mut_ptr().cast(),
            )
        };
        let end = report.iter().position(|&b| b == 0).unwrap_or(0);
        (failed != 0).then(|| String::from_utf8_lossy(&report[..end]).into_owned())
    }
}
