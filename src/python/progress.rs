//! Progress reports to Python, and being stopped by it, from code that runs detached from the interpreter.

use pyo3::prelude::*;

use crate::error::{DaoError, Result};

/// A progress callback, and the exception that it raised.
pub struct Progress {
    advance: Option<Py<PyAny>>,
    raised: Option<PyErr>,
}

impl Progress {
    /// Calls `advance`, if there is one, with each amount of work done.
    pub fn new(advance: Option<Py<PyAny>>) -> Self {
        Self { advance, raised: None }
    }

    /// Reports some work to the callback, and checks for Ctrl-C.
    ///
    /// # Errors
    /// An error when the callback raised, or Ctrl-C was pressed.
    pub fn advance(&mut self, amount: usize) -> Result<()> {
        let result = Python::attach(|py| {
            py.check_signals()?;
            self.advance.as_ref().map_or(Ok(()), |advance| advance.bind(py).call1((amount,)).map(drop))
        });
        result.map_err(|error| {
            self.raised = Some(error);
            DaoError::value("stopped")
        })
    }

    /// The result of the work, or the exception that stopped it.
    ///
    /// # Errors
    /// The exception that the callback raised, or the error of the work.
    pub fn or_raised<T>(self, result: Result<T>) -> PyResult<T> {
        match self.raised {
            Some(raised) => Err(raised),
            None => Ok(result?),
        }
    }
}
