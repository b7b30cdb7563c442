//! Telling Python how far work got, and being stopped by it, from where the interpreter is not held.

use pyo3::prelude::*;

use crate::error::{DaoError, Result};

/// A callback, and what it raised.
pub struct Progress {
    advance: Option<Py<PyAny>>,
    raised: Option<PyErr>,
}

impl Progress {
    /// Calls `advance`, if there is one, with each amount of work done.
    pub fn new(advance: Option<Py<PyAny>>) -> Self {
        Self { advance, raised: None }
    }

    /// Tells of some work, and looks for Ctrl-C.
    ///
    /// # Errors
    /// When the callback raised, or there was one.
    pub fn advance(&mut self, amount: usize) -> Result<()> {
        let told = Python::attach(|py| {
            py.check_signals()?;
            self.advance.as_ref().map_or(Ok(()), |advance| advance.bind(py).call1((amount,)).map(drop))
        });
        told.map_err(|error| {
            self.raised = Some(error);
            DaoError::value("stopped")
        })
    }

    /// What came of the work, or what stopped it.
    ///
    /// # Errors
    /// What the callback raised, or the work failed with.
    pub fn or_raised<T>(self, result: Result<T>) -> PyResult<T> {
        match self.raised {
            Some(raised) => Err(raised),
            None => Ok(result?),
        }
    }
}
