//! The bits of stored numbers, as unsigned integers of their width: what frames and tables are made of.

use bytemuck::Pod;

/// An unsigned integer of a stored type's width.
pub trait Word: Pod + Ord + std::hash::Hash {
    /// The word's width in bits.
    const BITS: u32;
    /// The word as 64 bits.
    fn wide(self) -> u64;
    /// The word that has the low bits of 64.
    fn low(wide: u64) -> Self;
    /// The word that has the low bits of 32, where it is no wider.
    fn low32(word: u32) -> Self;
}

macro_rules! words {
    ($($type:ty)*) => {$(
        #[allow(clippy::cast_possible_truncation, reason = "the low bits are meant; some types have no others")]
        #[allow(clippy::cast_lossless, reason = "one text for every width")]
        impl Word for $type {
            const BITS: u32 = <$type>::BITS;
            #[inline(always)]
            fn wide(self) -> u64 { self as u64 }
            #[inline(always)]
            fn low(wide: u64) -> Self { wide as Self }
            #[inline(always)]
            fn low32(word: u32) -> Self { word as Self }
        }
    )*};
}
words! { u8 u16 u32 u64 }
