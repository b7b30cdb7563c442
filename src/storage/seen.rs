//! What a server says of an object.

use serde::{Deserialize, Serialize};

/// What tells a state of an object from another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub size: u64,
    /// What its server calls this state.
    pub tag: Option<String>,
    /// When it was written last, in s since 1970, where it has no tag.
    pub modified: Option<i64>,
}
