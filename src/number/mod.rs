//! The number types that matrices are stored in and asked for, and the way from one to another.
//!
//! Owns names, widths, typed vectors and casts that never give a wrong number. The ground floor: must know
//! nothing but [`crate::error`].

mod ascend;
mod cast;
mod dtype;
mod word;

pub use ascend::ascend;
pub use cast::{always_exact, cast_values, cast_vec, is_always_exact};
pub use dtype::{Dtype, Layout, Num, Values, resize, zeros};
pub(crate) use dtype::{for_dtype, for_dtype_values};
pub use word::Word;
