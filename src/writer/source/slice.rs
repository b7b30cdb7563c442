//! Arrays of a source as their owner holds them: borrowed, of types that are known at run time.

use std::ops::Range;

use crate::error::Result;
use crate::number::{Num, Values, cast_values};

macro_rules! slices {
    ($($name:ident $type:ty),*) => {
        /// Numbers whose type is known at run time.
        #[derive(Debug, Clone, Copy)]
        pub enum Slice<'a> { $(
            #[expect(missing_docs, reason = "one for each type")]
            $name(&'a [$type]),
        )* }

        impl<'a> From<&'a Values> for Slice<'a> {
            fn from(values: &'a Values) -> Self {
                match values { $(Values::$name(values) => Self::$name(values),)* }
            }
        }

        $(impl<'a> From<&'a [$type]> for Slice<'a> {
            fn from(values: &'a [$type]) -> Self { Self::$name(values) }
        })*
    };
}
slices! { U8 u8, U16 u16, U32 u32, U64 u64, I8 i8, I16 i16, I32 i32, I64 i64, F32 f32, F64 f64 }

/// Runs `$body` with `$v` naming the typed slice in `$slice`.
macro_rules! for_slice {
    ($slice:expr, $v:ident => $body:expr) => {
        $crate::writer::source::for_slice!($slice, $v => $body; U8, U16, U32, U64, I8, I16, I32, I64, F32, F64)
    };
    ($slice:expr, $v:ident => $body:expr; $($name:ident),*) => {
        match $slice { $($crate::writer::source::Slice::$name($v) => $body,)* }
    };
}
pub(in crate::writer) use for_slice;

impl Slice<'_> {
    /// The number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        for_slice!(self, values => values.len())
    }

    /// Whether there are no values.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the values `range`, which are there, into `to`, which has as many; `Value` for one that `T` cannot hold.
    pub(in crate::writer) fn cast<T: Num>(&self, range: Range<usize>, to: &mut [T]) -> Result<()> {
        for_slice!(self, values => cast_values(&values[range], to))
    }
}

/// The columns of a sparse matrix's values, or the rows of one by columns.
#[derive(Debug, Clone, Copy)]
pub enum Indices<'a> {
    /// As scipy mostly has them.
    I32(&'a [i32]),
    /// As scipy has them for more than 2^31 values.
    I64(&'a [i64]),
}

impl Indices<'_> {
    /// The number of indices.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::I32(indices) => indices.len(),
            Self::I64(indices) => indices.len(),
        }
    }

    /// The index at `at`, which is there; what is below zero is past any end.
    pub(in crate::writer) fn get(&self, at: usize) -> u64 {
        match self {
            Self::I32(indices) => i64::from(indices[at]).cast_unsigned(),
            Self::I64(indices) => indices[at].cast_unsigned(),
        }
    }

    /// Whether there are no indices.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> From<&'a [i32]> for Indices<'a> {
    fn from(indices: &'a [i32]) -> Self {
        Self::I32(indices)
    }
}

impl<'a, const N: usize> From<&'a [i32; N]> for Indices<'a> {
    fn from(indices: &'a [i32; N]) -> Self {
        Self::I32(indices)
    }
}

impl<'a> From<&'a Vec<i32>> for Indices<'a> {
    fn from(indices: &'a Vec<i32>) -> Self {
        Self::I32(indices)
    }
}

impl<'a> From<&'a [i64]> for Indices<'a> {
    fn from(indices: &'a [i64]) -> Self {
        Self::I64(indices)
    }
}
