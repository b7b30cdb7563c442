//! numpy arrays to and from the core's vectors. Vectors that leave become arrays without a copy, and
//! come back to their pool when the last array on them is gone.

use std::cell::UnsafeCell;

use numpy::{Element, PyArray1, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyAny;

use crate::batches::PoolSection;
use crate::error::{DaoError, Result};
use crate::number::{Num, Values, cast_vec, for_dtype_values};

/// A C-contiguous array of any number type, of any shape, copied.
pub fn values(array: &Bound<'_, PyAny>) -> PyResult<Values> {
    fn copied<T: Element + Clone>(array: &Bound<'_, PyArrayDyn<T>>) -> Result<Vec<T>> {
        if !array.is_c_contiguous() {
            return Err(DaoError::value("an array is not C-contiguous"));
        }
        let read = array.try_readonly().map_err(|e| DaoError::value(e.to_string()))?;
        Ok(read.as_slice().map_err(|e| DaoError::value(e.to_string()))?.to_vec())
    }
    macro_rules! any {
        ($($name:ident $type:ty,)*) => {
            $(if let Ok(array) = array.cast::<PyArrayDyn<$type>>() { return Ok(Values::$name(copied(array)?)); })*
        };
    }
    any! { F32 f32, F64 f64, U8 u8, U16 u16, U32 u32, U64 u64, I8 i8, I16 i16, I32 i32, I64 i64, }
    if let Ok(array) = array.cast::<PyArrayDyn<bool>>() {
        return Ok(Values::U8(copied(array)?.into_iter().map(u8::from).collect()));
    }
    Err(DaoError::value(format!("cannot read a {} as numbers", array.get_type()))
        .expected("a numpy array of integers, floats or bools")
        .into())
}

/// An array of numbers that are all of type `T`, copied.
pub fn numbers<T: Num>(array: &Bound<'_, PyAny>) -> PyResult<Vec<T>> {
    Ok(for_dtype_values!(values(array)?, values => cast_vec(&values))?)
}

/// The owner of a numpy array's memory: a buffer that returns to its pool when the last array on it is gone.
#[pyclass(module = "dao_polars._core", frozen)]
struct PooledArray {
    /// The vector; `None` once it has returned. The array that is handed out writes to its memory, so nothing
    /// looks at the vector while this is shared.
    values: UnsafeCell<Option<Values>>,
    section: PoolSection,
    pid: u32,
}

// SAFETY: `values`, all that is not `Sync` by itself, is reached in two places: by `pooled_array` before any other
// thread knows of the object, and by `drop`, which has it alone. No other method or trait goes there.
unsafe impl Sync for PooledArray {}

impl Drop for PooledArray {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            return; // a forked child: some thread of its parent may have held the pool's lock
        }
        if let Some(values) = self.values.get_mut().take() {
            self.section.give(values);
        }
    }
}

/// A one-dimensional, writable array on `values`, without a copy; they go to `section` afterwards.
pub fn pooled_array(py: Python<'_>, values: Values, section: PoolSection) -> PyResult<Bound<'_, PyAny>> {
    let values = UnsafeCell::new(Some(values));
    let owner = Bound::new(py, PooledArray { values, section, pid: std::process::id() })?;
    // SAFETY: the object was made above and nobody else has it, so this is the only reference to its values; it
    // ends where the pointer has been taken from it, and no other is made until the object is dropped.
    let values = unsafe { &mut *owner.get().values.get() };
    let Some(values) = values else { return Err(DaoError::internal("a buffer without values").into()) };
    for_dtype_values!(values, values => {
        let (start, len) = (values.as_mut_ptr(), values.len());
        // SAFETY: `start` is from a mutable borrow of the vector where it stays, and reaches all its `len` values.
        // The vector is neither moved, read nor dropped before `owner` is, which the array made below keeps alive.
        let view = unsafe { numpy::ndarray::ArrayViewMut1::from_shape_ptr(len, start) };
        // SAFETY: as above; nothing else ever refers to these values, so the array may be written to.
        Ok(unsafe { PyArray1::borrow_from_array(&view, owner.clone().into_any()) }.into_any())
    })
}
