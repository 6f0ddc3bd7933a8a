//! Work that takes long, without the interpreter's lock and with an eye on Ctrl-C.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How often Ctrl-C is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// What the work asks and tells the one who waits for it.
pub struct Watch<'a, M> {
    check: Box<dyn Fn() -> rto::Result<()> + Send + Sync + 'a>,
    tell: Box<dyn Fn(M) + Send + Sync + 'a>,
}

impl<M> Watch<'_, M> {
    /// Ends the work where nobody waits for it any more.
    pub fn check(&self) -> rto::Result<()> {
        (self.check)()
    }

    /// Hands a message on.
    pub fn tell(&self, message: M) {
        (self.tell)(message);
    }
}

fn interrupted() -> rto::Error {
    rto::Error::backend("interrupted")
}

/// Runs work that calls no Python on a thread of its own. A signal ends the call at once; the work ends at its next [`Watch::check`].
pub fn apart<T: Send + 'static, E: Send + 'static, M: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce(&Watch<'_, M>) -> Result<T, E> + Send + 'static,
    mut on_message: impl FnMut(M) -> PyResult<()>,
) -> PyResult<Result<T, E>> {
    let (messages, mut inbox) = channel();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let watch = Watch {
        check: Box::new(move || match stopped.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(interrupted()),
        }),
        // Nobody listens once the work is to end.
        tell: Box::new(move |m| drop(messages.send(m))),
    };
    let worker = thread::Builder::new()
        .name("rto".into())
        .stack_size(16 << 20)
        .spawn(move || work(&watch))
        .map_err(|e| PyRuntimeError::new_err(format!("no thread for the work: {e}")))?;
    let mut step = || -> PyResult<bool> {
        let got;
        (got, inbox) = py.detach(|| wait(std::mem::replace(&mut inbox, channel().1)));
        py.check_signals()?;
        match got {
            Ok(message) => on_message(message).map(|()| true),
            Err(RecvTimeoutError::Timeout) => Ok(true),
            Err(RecvTimeoutError::Disconnected) => Ok(false),
        }
    };
    loop {
        match step() {
            Ok(true) => {}
            Ok(false) => break,
            Err(e) => {
                stop.store(true, Ordering::Relaxed);
                return Err(e);
            }
        }
    }
    let joined = py.detach(|| worker.join());
    joined.map_err(|_| PyRuntimeError::new_err("internal error: the work ended without an answer"))
}

type Waited<M> = (Result<M, RecvTimeoutError>, Receiver<M>);

fn wait<M>(inbox: Receiver<M>) -> Waited<M> {
    (inbox.recv_timeout(LOOK), inbox)
}

/// Runs work that calls functions written in Python, on this thread: Ctrl-C then ends a function that takes long, too, and none is left
/// running when the program ends.
pub fn here<T: Send, E: Send, M: Send>(
    py: Python<'_>,
    work: impl FnOnce(&Watch<'_, M>) -> Result<T, E> + Send,
    on_message: impl FnMut(Python<'_>, M) -> PyResult<()> + Send,
) -> PyResult<Result<T, E>> {
    let failed = Mutex::new(None::<PyErr>);
    let (looked, on_message) = (Mutex::new(Instant::now()), Mutex::new(on_message));
    let fail = |e: PyErr| {
        locked(&failed).get_or_insert(e);
    };
    let watch = Watch {
        check: Box::new(|| {
            let mut looked = locked(&looked);
            if looked.elapsed() > LOOK {
                *looked = Instant::now();
                Python::attach(|py| py.check_signals()).unwrap_or_else(fail);
            }
            match locked(&failed).is_some() {
                false => Ok(()),
                true => Err(interrupted()),
            }
        }),
        tell: Box::new(|m| {
            Python::attach(|py| locked(&on_message)(py, m)).unwrap_or_else(fail);
        }),
    };
    let done = py.detach(move || work(&watch));
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        None => Ok(done),
        Some(e) => Err(e),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
