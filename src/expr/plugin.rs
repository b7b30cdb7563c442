//! The C interface through which polars calls the expression of this library.
//!
//! Owns the four functions that polars looks for in a plugin, and the column as it crosses between the two: arrays of
//! polars' own arrow crate. Its Series would bring all of polars' core, which is most of an extension's build and size.
//! Turns errors and panics into the text that polars asks for afterwards. The interface is polars' version 0.1:
//! <https://docs.rs/polars-ffi> (`version_0`) and `plugin.rs` of polars-plan, which is the caller.

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use polars_arrow::array::Array;
use polars_arrow::datatypes::Field;
use polars_arrow::ffi::{
    ArrowArray, ArrowSchema, export_array_to_c, export_field_to_c, import_array_from_c, import_field_from_c,
};

use super::{look_up, output};
use crate::error::{DaoError, Result, panic_message};
use crate::interrupt;

thread_local! {
    /// The message of the last failure on this thread.
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Runs a call from polars, and keeps its error or panic message for [`_polars_plugin_get_last_error_message`].
fn guarded(call: impl FnOnce() -> Result<()>) {
    let result = catch_unwind(AssertUnwindSafe(call));
    if interrupt::take_broken_off() {
        interrupt::raise_later(); // polars takes a text alone
    }
    let message = match result {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(panic) => format!("dao-polars failed, which is a bug in it: {}", panic_message(panic.as_ref())),
    };
    // The message crosses as a C string, which ends at the first zero.
    let message = CString::new(message.replace('\0', "\u{fffd}")).unwrap_or_default();
    LAST_ERROR.with(|last| *last.borrow_mut() = message);
}

/// A column that crosses between polars and a plugin. Whoever takes it moves the arrays out of `arrays`, and then drops
/// it.
#[repr(C)]
pub struct SeriesExport {
    field: *mut ArrowSchema,
    arrays: *mut *mut ArrowArray,
    len: usize,
    release: Option<unsafe extern "C" fn(*mut SeriesExport)>,
    private_data: *mut c_void,
}

impl Drop for SeriesExport {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: set by whoever made this export, for exactly this; not called twice, for we are dropped once.
            unsafe { release(self) }
        }
    }
}

/// What an export of ours points to: its field, its one array, which the taker has moved out, and the pointer to that.
struct Exported {
    field: ArrowSchema,
    array: std::mem::ManuallyDrop<ArrowArray>,
    arrays: *mut ArrowArray,
}

unsafe extern "C" fn release(export: *mut SeriesExport) {
    // SAFETY: an export made by `SeriesExport::new`, whose `private_data` is its box; `drop` calls this once.
    drop(unsafe { Box::from_raw((*export).private_data.cast::<Exported>()) });
}

impl SeriesExport {
    fn new(field: &Field, array: Box<dyn Array>) -> Self {
        let array = std::mem::ManuallyDrop::new(export_array_to_c(array));
        let exported = Exported { field: export_field_to_c(field), array, arrays: std::ptr::null_mut() };
        let exported = Box::into_raw(Box::new(exported));
        // SAFETY: a box of our own that nobody else knows; its fields stay where they are until `release` frees it.
        unsafe {
            (*exported).arrays = (&raw mut (*exported).array).cast();
            SeriesExport {
                field: &raw mut (*exported).field,
                arrays: &raw mut (*exported).arrays,
                len: 1,
                release: Some(release),
                private_data: exported.cast(),
            }
        }
    }

    /// The column as polars' arrow crate has it: its field and its chunks.
    ///
    /// # Safety
    /// The export is valid, and its arrays were not moved out before.
    unsafe fn import(self) -> Result<(Field, Vec<Box<dyn Array>>)> {
        // SAFETY: `len` pointers to arrays, each moved out once: the export's own release frees their boxes alone.
        let chunks: Vec<_> = (0..self.len).map(|i| unsafe { std::ptr::read(*self.arrays.add(i)) }).collect();
        // SAFETY: a valid field, which the export keeps until it is dropped.
        let field = unsafe { import_field(&*self.field) }?;
        let import = |chunk| {
            // SAFETY: a valid array of the field's type, as the export promises.
            unsafe { import_array_from_c(chunk, field.dtype.clone()) }.map_err(foreign)
        };
        let chunks = chunks.into_iter().map(import).collect::<Result<_>>()?;
        Ok((field, chunks))
    }
}

/// # Safety
/// The field is valid.
unsafe fn import_field(field: &ArrowSchema) -> Result<Field> {
    // SAFETY: the caller's promise.
    unsafe { import_field_from_c(field) }.map_err(foreign)
}

fn foreign(error: impl std::fmt::Display) -> DaoError {
    DaoError::value(format!("the input column cannot be read: {error}"))
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
        // SAFETY: fields that polars exported.
        let inputs = inputs.iter().map(|field| unsafe { import_field(field) }).collect::<Result<Vec<_>>>()?;
        // SAFETY: `kwargs_len` bytes that outlive the call, which the caller promises; of a slice, so never null.
        let request = unsafe { std::slice::from_raw_parts(kwargs, kwargs_len) };
        let found = output(&inputs, request)?;
        // SAFETY: `out` is the caller's to be written; what it held, an empty field, owns nothing.
        unsafe { out.write(export_field_to_c(&found)) };
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
    _context: *mut c_void,
) {
    guarded(|| {
        // SAFETY: `n` valid exports, which the caller forgets: each is read and imported, and so freed, once, also
        // those after one that cannot be imported.
        let inputs: Vec<_> = (0..n).map(|i| unsafe { std::ptr::read(inputs.add(i)).import() }).collect();
        let (inputs, chunks): (Vec<_>, Vec<_>) = inputs.into_iter().collect::<Result<Vec<_>>>()?.into_iter().unzip();
        // SAFETY: `kwargs_len` bytes that outlive the call, which the caller promises; of a slice, so never null.
        let request = unsafe { std::slice::from_raw_parts(kwargs, kwargs_len) };
        let (field, found) = look_up(&inputs, chunks.first().map_or(&[], |chunks| chunks), request)?;
        // SAFETY: `out` is the caller's to be written; what it held, an empty export, owns nothing.
        unsafe { out.write(SeriesExport::new(&field, found)) };
        Ok(())
    });
}

/// The message of the last failure on this thread; valid until the next failure.
#[unsafe(no_mangle)]
pub extern "C" fn _polars_plugin_get_last_error_message() -> *const c_char {
    LAST_ERROR.with(|last| last.borrow().as_ptr())
}

/// The version of the interface, 0.1: major in the upper half, minor in the lower.
#[unsafe(no_mangle)]
pub extern "C" fn _polars_plugin_get_version() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use polars_arrow::array::PrimitiveArray;
    use polars_arrow::datatypes::ArrowDataType;

    use super::*;

    fn message(call: impl FnOnce() -> Result<()>) -> String {
        guarded(call);
        // SAFETY: the message of this thread's last call, which is valid until the next one fails.
        unsafe { CStr::from_ptr(_polars_plugin_get_last_error_message()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn errors_and_panics_become_messages() {
        assert_eq!(message(|| Err(DaoError::value("no\0thing"))), "no\u{fffd}thing");
        let panicked = message(|| panic!("at {}", 7));
        assert_eq!(panicked, "dao-polars failed, which is a bug in it: at 7");
    }
    #[test]
    fn a_column_crosses_as_it_is() {
        let keys = PrimitiveArray::<u64>::from([Some(7), None, Some(9)]);
        let field = Field::new("cell".into(), ArrowDataType::UInt64, true);
        let export = SeriesExport::new(&field, keys.clone().boxed());
        // SAFETY: an export just made.
        let (name, chunks) = unsafe { export.import() }.unwrap();
        assert_eq!((name, chunks.len()), (field, 1));
        assert_eq!(chunks[0].as_any().downcast_ref::<PrimitiveArray<u64>>().unwrap(), &keys);
    }
}
