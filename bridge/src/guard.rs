//! Panics of libraries as errors.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a library's reader on what a stranger wrote; a panic inside becomes its message, and nothing is printed.
///
/// What `work` was changing when it panicked is not to be used afterwards.
///
/// # Errors
/// The message of the panic.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !WATCHED.get() {
                before(info);
            }
        }));
    });
    let outer = WATCHED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    WATCHED.set(outer);
    done.map_err(|payload| {
        let said = payload.downcast_ref::<String>().map(String::as_str);
        let said = said.or(payload.downcast_ref::<&str>().copied());
        let said = said.and_then(|s| s.lines().next()).unwrap_or("unknown");
        format!("the library that reads it gave up: {said}")
    })
}

#[cfg(test)]
mod tests {
    use super::catch;

    #[test]
    fn a_panic_is_a_message_and_the_next_call_works() {
        let library = |text: &str| -> u32 { text.parse().expect("a number\nhere") };
        let said = catch(|| library("no number")).unwrap_err();
        assert_eq!(said, "the library that reads it gave up: a number");
        assert_eq!(catch(|| 3), Ok(3));
    }
}
