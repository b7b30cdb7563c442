//! [`DaoError`]: what failed, where, what was expected, what was found, what to do.
//!
//! Owns the one error type of the core. Knows no Python: `python/error.rs` maps
//! [`ErrorKind`] to exception classes.

use std::fmt;
use std::path::Path;

/// The result of everything in the core that can fail.
pub type Result<T> = std::result::Result<T, DaoError>;

/// The kind of an error, by the builtin exception that it resembles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A store, dataset or file is missing.
    NotFound,
    /// A dataset of that name is already there.
    AlreadyExists,
    /// The layer below failed: permissions, a full disk, a network.
    Io,
    /// Bytes on disk contradict what describes them.
    Corrupt,
    /// An argument that cannot be used.
    Value,
    /// A name that does not exist.
    Key,
    /// Ctrl-C, or another signal whose handler raised; or nobody wants the result any more.
    Interrupted,
    /// A bug of this crate.
    Internal,
}

/// The message of a panic, where it is text.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "a panic without a message",
    }
}

/// The result of `work`; a panic becomes an `Internal` error that has its message.
pub fn catch_panic<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    // Unwind safe: whatever was half done is dropped with the error, so nobody sees it.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(DaoError::internal(panic_message(&*panic))))
}

/// An error with its place and its remedy.
#[derive(Debug, Clone)]
pub struct DaoError(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    kind: ErrorKind,
    what: String,
    places: Vec<String>,
    /// What was expected, what was found.
    facts: Vec<String>,
    hint: Option<String>,
}

impl DaoError {
    /// An error of `kind`; `what` says what failed, in a few words.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self(Box::new(Parts { kind, what: what.into(), places: Vec::new(), facts: Vec::new(), hint: None }))
    }

    /// Shorthand for bytes that contradict their description, in `path`.
    pub fn corrupt(path: &str, what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, what).at(format!("path '{path}'"))
    }

    /// Shorthand for an argument that cannot be used.
    pub fn value(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Value, what)
    }

    /// Shorthand for a bug of this crate, which `what` shows.
    pub fn internal(what: &str) -> Self {
        Self::new(ErrorKind::Internal, format!("a bug in dao-polars: {what}"))
            .hint("please report it with this message")
    }

    /// Shorthand for a failure of the operating system on `path`.
    pub fn io(path: &(impl AsRef<Path> + ?Sized), doing: &str, source: &std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::UnexpectedEof => ErrorKind::Corrupt,
            _ => ErrorKind::Io,
        };
        let error =
            Self::new(kind, format!("{doing} failed: {source}")).at(format!("path '{}'", path.as_ref().display()));
        match source.kind() {
            std::io::ErrorKind::StorageFull => error.hint("free space on the disk and write again"),
            std::io::ErrorKind::PermissionDenied => error.hint("check the permissions"),
            _ => error,
        }
    }

    /// Adds a place; the outermost (say, the dataset) is added last and printed first.
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.0.places.insert(0, place.into());
        self
    }

    pub fn expected(mut self, expected: impl fmt::Display) -> Self {
        self.0.facts.push(format!("expected {expected}"));
        self
    }

    /// Adds what was found instead; after what was expected.
    pub fn found(mut self, found: impl fmt::Display) -> Self {
        self.0.facts.push(format!("found {found}"));
        self
    }

    /// Adds what to do about it, as a sentence without a full stop.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
}

impl fmt::Display for DaoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { what, places, facts, hint, .. } = &*self.0;
        if !places.is_empty() {
            write!(f, "{}: ", places.join(", "))?;
        }
        f.write_str(what)?;
        if !facts.is_empty() {
            write!(f, "; {}", facts.join(", "))?;
        }
        if let Some(hint) = hint {
            let mut letters = hint.chars();
            let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
            write!(f, ". {first}{}", letters.as_str())?;
        }
        Ok(())
    }
}

impl std::error::Error for DaoError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_where_what_and_what_to_do() {
        let error = DaoError::corrupt("s/a/x", "the file is cut short")
            .at("dataset 'a'")
            .expected("9 bytes")
            .found("7 bytes")
            .hint("restore it from a copy");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let text =
            "dataset 'a', path 's/a/x': the file is cut short; expected 9 bytes, found 7 bytes. Restore it from a copy";
        assert_eq!(error.to_string(), text);
        assert_eq!(DaoError::value("no").found(3).to_string(), "no; found 3");
    }

    #[test]
    fn failures_of_the_system_are_told_apart() {
        let kind = |kind: std::io::ErrorKind| DaoError::io("x", "reading", &kind.into()).kind();
        assert_eq!(kind(std::io::ErrorKind::NotFound), ErrorKind::NotFound);
        assert_eq!(kind(std::io::ErrorKind::UnexpectedEof), ErrorKind::Corrupt);
        assert_eq!(kind(std::io::ErrorKind::PermissionDenied), ErrorKind::Io);
    }

    #[test]
    fn a_panic_keeps_its_message() {
        for (work, message) in [
            ((|| panic!("row {} is missing", 7)) as fn() -> Result<()>, "row 7 is missing"),
            (|| panic!("gone"), "gone"),
            (|| std::panic::panic_any(3), "a panic without a message"),
        ] {
            let error = catch_panic(work).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Internal);
            assert!(error.to_string().contains(message), "{error}");
        }
        assert_eq!(catch_panic(|| Ok(5)).unwrap(), 5);
    }
}
