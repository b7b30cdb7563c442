//! The number types a matrix is stored in or asked for.

use std::convert::identity;

use bytemuck::Pod;
use num_traits::{AsPrimitive, Num as Arithmetic};
use serde::{Deserialize, Serialize};

use super::cast::is_always_exact;
use super::word::Word;
use crate::error::{DaoError, Result};

/// The layout of a matrix's values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// scipy's CSR: columns ascend within a row.
    #[default]
    Csr,
    /// A row-major matrix.
    Dense,
}

impl Layout {
    /// The layout's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Csr => "csr",
            Self::Dense => "dense",
        }
    }

    /// The layout that `name` names, or `Value`.
    pub fn from_name(name: &str) -> Result<Self> {
        [Self::Csr, Self::Dense]
            .into_iter()
            .find(|layout| layout.name() == name)
            .ok_or_else(|| DaoError::value(format!("layout '{name}'")).expected("csr or dense"))
    }
}

/// Defines [`Dtype`], [`Values`] and [`Num`] for a list of number types: their Rust types, their names, their bits.
macro_rules! numbers {
    ($($name:ident $type:ty, $text:literal, $word:ty = $from_word:path;)*) => {
        /// A number type by name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Dtype { $(#[serde(rename = $text)] $name,)* }

        /// A vector whose number type is known at run time.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Values { $($name(Vec<$type>),)* }

        /// A number that can be stored and handed out.
        pub trait Num:
            Pod + Arithmetic + PartialOrd + Send + Sync + std::fmt::Display + AsPrimitive<i128> $(+ AsPrimitive<$type>)*
        {
            /// The type's name.
            const DTYPE: Dtype;
            /// The unsigned integer of the number's width.
            type Word: Word;
            /// The number that these bits are.
            fn from_word(word: Self::Word) -> Self;
            /// Values whose type is known at run time, from a vector.
            fn wrap(values: Vec<Self>) -> Values;
            /// The vector in `values`, if it is of this type.
            fn unwrap(values: Values) -> Option<Vec<Self>>;
            /// The number nearest to `value`, as the keyword `as` casts.
            fn cast<S: Num>(value: S) -> Self;
            /// The low bits of `value`, as the keyword `as` casts.
            fn of_i128(value: i128) -> Self;
        }

        $(impl Num for $type {
            const DTYPE: Dtype = Dtype::$name;
            type Word = $word;
            #[inline(always)]
            fn from_word(word: $word) -> Self { $from_word(word) }
            fn wrap(values: Vec<Self>) -> Values { Values::$name(values) }
            fn unwrap(values: Values) -> Option<Vec<Self>> {
                if let Values::$name(values) = values { Some(values) } else { None }
            }
            #[inline(always)]
            fn cast<S: Num>(value: S) -> Self { value.as_() }
            // Wraps where it does not fit: callers compare what comes back.
            fn of_i128(value: i128) -> Self { value.as_() }
        })*

        impl Dtype {
            /// All types: unsigned before signed before floats, each from narrow to wide.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            /// The type's name, as numpy and zarr spell it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
            /// The type that `name` names (bools are stored as bytes), or `Value`.
            pub fn from_name(name: &str) -> Result<Self> {
                match name {
                    $($text => Ok(Self::$name),)*
                    "bool" => Ok(Self::U8),
                    _ => Err(DaoError::value(format!("'{name}' is not a number type"))
                        .expected([$($text),*].join(", "))),
                }
            }
            /// The bytes of one value.
            pub fn size(self) -> usize {
                match self { $(Self::$name => size_of::<$type>(),)* }
            }
        }
    };
}

numbers! {
    U8 u8, "uint8", u8 = identity; U16 u16, "uint16", u16 = identity;
    U32 u32, "uint32", u32 = identity; U64 u64, "uint64", u64 = identity;
    I8 i8, "int8", u8 = u8::cast_signed; I16 i16, "int16", u16 = u16::cast_signed;
    I32 i32, "int32", u32 = u32::cast_signed; I64 i64, "int64", u64 = u64::cast_signed;
    F32 f32, "float32", u32 = f32::from_bits; F64 f64, "float64", u64 = f64::from_bits;
}

impl Dtype {
    /// The type that zarr v2 and numpy's array interface spell so (`<f4`, `|u1`), in either byte order;
    /// `None` for one that is no number of 8 to 64 bits.
    pub fn from_typestr(text: &str) -> Option<Self> {
        let code = text.trim_start_matches(['<', '>', '|', '=']);
        let code = if code == "b1" { "u1" } else { code };
        Self::ALL.iter().copied().find(|dtype| code == format!("{}{}", &dtype.name()[..1], dtype.size()))
    }

    /// The type that holds the values of all of `types`, as numpy's `result_type` has it; `None` for none.
    pub fn common(types: &[Self]) -> Option<Self> {
        let holds_all = |dtype: &Self| types.iter().all(|&stored| is_always_exact(stored, *dtype));
        // Integers that no type holds together are float64 to numpy.
        (!types.is_empty()).then(|| Self::ALL.iter().copied().find(holds_all).unwrap_or(Self::F64))
    }

    /// Whether the type is a floating-point one.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64)
    }

    /// Whether every value of the type is a float32.
    pub fn is_narrow(self) -> bool {
        is_always_exact(self, Self::F32)
    }

    /// Whether the type has a sign.
    pub fn is_signed(self) -> bool {
        !matches!(self, Self::U8 | Self::U16 | Self::U32 | Self::U64)
    }
}

/// `n` zeros, in pages that the system has zeroed; `Value` where memory does not hold them, which would otherwise
/// end the process.
pub fn zeros<T: Num>(n: usize) -> Result<Vec<T>> {
    bytemuck::allocation::try_zeroed_vec(n).map_err(|()| too_many::<T>(n))
}

/// Makes `values` `n` long, with zeros where they are new; `Value` as of [`zeros`].
pub fn resize<T: Num>(values: &mut Vec<T>, n: usize) -> Result<()> {
    values.try_reserve(n.saturating_sub(values.len())).map_err(|_| too_many::<T>(n))?;
    values.resize(n, T::zero());
    Ok(())
}

/// The error for more numbers than memory holds.
#[cold]
fn too_many<T: Num>(n: usize) -> DaoError {
    DaoError::value(format!("{n} numbers of {} do not fit into memory", T::DTYPE.name()))
        .hint("take fewer cells or genes at a time; if they are few, the store is damaged: .verify() says where")
}

/// Runs `$body` with `$T` naming the Rust type of `$dtype`.
macro_rules! for_dtype {
    ($dtype:expr, $T:ident => $body:expr) => {
        $crate::number::for_dtype!(
            $dtype, $T => $body; U8 u8, U16 u16, U32 u32, U64 u64, I8 i8, I16 i16, I32 i32, I64 i64, F32 f32, F64 f64
        )
    };
    ($dtype:expr, $T:ident => $body:expr; $($name:ident $type:ty),*) => {
        match $dtype {
            $($crate::number::Dtype::$name => {
                type $T = $type;
                $body
            })*
        }
    };
}
pub(crate) use for_dtype;

/// Runs `$body` with `$v` naming the typed vector in `$values`.
macro_rules! for_dtype_values {
    ($values:expr, $v:ident => $body:expr) => {
        $crate::number::for_dtype_values!($values, $v => $body; U8, U16, U32, U64, I8, I16, I32, I64, F32, F64)
    };
    ($values:expr, $v:ident => $body:expr; $($name:ident),*) => {
        match $values { $($crate::number::Values::$name($v) => $body,)* }
    };
}
pub(crate) use for_dtype_values;

impl Values {
    /// The number of values.
    pub fn len(&self) -> usize {
        for_dtype_values!(self, values => values.len())
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes that the values take in memory.
    pub fn capacity_bytes(&self) -> usize {
        fn bytes<T>(values: &Vec<T>) -> usize {
            values.capacity() * size_of::<T>()
        }
        for_dtype_values!(self, values => bytes(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for dtype in [Dtype::U8, Dtype::U16, Dtype::U32, Dtype::U64, Dtype::I8, Dtype::I16, Dtype::I32, Dtype::I64] {
            assert_eq!(Dtype::from_name(dtype.name()).unwrap(), dtype);
            assert_eq!(dtype.is_signed(), dtype.name().starts_with('i'));
        }
        assert!(Dtype::from_name("float16").is_err() && Layout::from_name("coo").is_err());
        assert_eq!(Layout::from_name(Layout::Dense.name()).unwrap(), Layout::Dense);
    }

    #[test]
    fn typestrs_are_read_as_numpy_writes_them() {
        let read = |text: &str| Dtype::from_typestr(text).map(Dtype::name);
        let known = [("<f4", "float32"), (">f8", "float64"), ("|u1", "uint8"), ("|b1", "uint8"), ("<i8", "int64")];
        assert_eq!(known.map(|(text, _)| read(text)), known.map(|(_, name)| Some(name)));
        assert_eq!(["<f2", "<c8", "|O", "|S5", "", "<", "<é4"].map(read), [None; 7]);
    }

    #[test]
    fn types_meet_as_numpys_do() {
        use Dtype::{F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
        // numpy.result_type of each, by hand.
        let cases: [(&[Dtype], Dtype); 10] = [
            (&[U8], U8),
            (&[U8, U32], U32),
            (&[I8, U8], I16),
            (&[I32, U16], I32),
            (&[I16, U32], I64),
            (&[I8, U64], F64),
            (&[F32, U16], F32),
            (&[F32, I32], F64),
            (&[I64, F32, U8], F64),
            (&[F32, F64], F64),
        ];
        for (types, expected) in cases {
            assert_eq!(Dtype::common(types), Some(expected), "{types:?}");
        }
        assert_eq!(Dtype::common(&[]), None);
    }

    #[test]
    fn memory_that_is_not_there_is_no_zeros() {
        assert_eq!(zeros::<u16>(3).unwrap(), [0; 3]);
        assert!(zeros::<f64>(usize::MAX / 16).is_err() && zeros::<f64>(1 << 46).is_err());
    }
}
