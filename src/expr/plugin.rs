//! The C interface through which polars calls the expression of this library.
//!
//! Owns the four functions that polars looks for in a plugin, as the `derive` feature of pyo3-polars would
//! write them: that feature builds polars' planner, its parquet reader and, for its macro, much of polars a
//! second time. Turns errors and panics into the text that polars asks for afterwards. The interface is polars'
//! version 0.1: <https://docs.rs/polars-ffi> and `plugin.rs` of polars-plan, which is the caller.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use polars_arrow::ffi::{ArrowSchema, export_field_to_c, import_field_from_c};
use polars_core::prelude::*;
use polars_ffi::version_0::{CallerContext, SeriesExport, export_series, import_series_buffer};

use super::{look_up, output};
use crate::error::panic_message;

thread_local! {
    /// The message of the last failure on this thread.
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Runs a call from polars, and keeps its error or panic message for [`_polars_plugin_get_last_error_message`].
fn guarded(call: impl FnOnce() -> PolarsResult<()>) {
    let message = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => return,
        Ok(Err(PolarsError::ComputeError(message))) => message.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => format!("dao-polars failed, which is a bug in it: {}", panic_message(panic.as_ref())),
    };
    // The message crosses as a C string, which ends at the first zero.
    let message = CString::new(message.replace('\0', "\u{fffd}")).unwrap_or_default();
    LAST_ERROR.with(|last| *last.borrow_mut() = message);
}

/// The name and type of the column that `dao_lookup` gives for inputs of these.
///
/// # Safety
/// `inputs` are `n` fields and `kwargs` as many bytes as `kwargs_len`, both the caller's for the call; `out` is
/// a field that can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _polars_plugin_field_dao_lookup(
    inputs: *const ArrowSchema,
    n: usize,
    out: *mut ArrowSchema,
    kwargs: *const u8,
    kwargs_len: usize,
) {
    guarded(|| {
        // SAFETY: `n` fields that outlive the call, which the caller promises; a slice's own pointer, so never null.
        let inputs = unsafe { std::slice::from_raw_parts(inputs, n) };
        let import = |field| {
            // SAFETY: a field that polars exported.
            let field = unsafe { import_field_from_c(field) }?;
            Ok(Field::from(&field))
        };
        let inputs = inputs.iter().map(import).collect::<PolarsResult<Vec<_>>>()?;
        // SAFETY: `kwargs_len` bytes that outlive the call, which the caller promises; of a slice, so never null.
        let request = unsafe { std::slice::from_raw_parts(kwargs, kwargs_len) };
        let found = output(&inputs, request)?;
        // SAFETY: `out` is the caller's to be written; what it held, an empty field, owns nothing.
        unsafe { out.write(export_field_to_c(&found.to_arrow(CompatLevel::newest()))) };
        Ok(())
    });
}

/// The column that `dao_lookup` gives for these inputs.
///
/// # Safety
/// `inputs` are `n` exported columns, which become this call's; `kwargs` as many bytes as `kwargs_len`, the
/// caller's for the call; `out` is an empty export that can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _polars_plugin_dao_lookup(
    inputs: *mut SeriesExport,
    n: usize,
    kwargs: *const u8,
    kwargs_len: usize,
    out: *mut SeriesExport,
    _context: *mut CallerContext,
) {
    guarded(|| {
        // SAFETY: `n` valid exports, which the caller forgets: each is imported, and so freed, once.
        let inputs = unsafe { import_series_buffer(inputs, n) }?;
        // SAFETY: `kwargs_len` bytes that outlive the call, which the caller promises; of a slice, so never null.
        let request = unsafe { std::slice::from_raw_parts(kwargs, kwargs_len) };
        let found = look_up(&inputs, request)?;
        // SAFETY: `out` is the caller's to be written; what it held, an empty export, owns nothing.
        unsafe { out.write(export_series(&found)) };
        Ok(())
    });
}

/// The message of the last failure on this thread; valid until the next failure.
#[unsafe(no_mangle)]
pub extern "C" fn _polars_plugin_get_last_error_message() -> *const c_char {
    LAST_ERROR.with(|last| last.borrow().as_ptr())
}

/// The version of the interface: major in the upper half, minor in the lower.
#[unsafe(no_mangle)]
pub extern "C" fn _polars_plugin_get_version() -> u32 {
    let (major, minor) = polars_ffi::get_version();
    u32::from(major) << 16 | u32::from(minor)
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn message(call: impl FnOnce() -> PolarsResult<()>) -> String {
        guarded(call);
        // SAFETY: the message of this thread's last call, which is valid until the next one fails.
        unsafe { CStr::from_ptr(_polars_plugin_get_last_error_message()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn errors_and_panics_become_messages() {
        assert_eq!(message(|| polars_bail!(ComputeError: "no\0thing")), "no\u{fffd}thing");
        assert!(message(|| polars_bail!(ColumnNotFound: "x")).contains('x'));
        let panicked = message(|| panic!("at {}", 7));
        assert_eq!(panicked, "dao-polars failed, which is a bug in it: at 7");
    }
}
