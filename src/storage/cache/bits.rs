//! A bit for each page of an object, set and looked at by many threads.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The bits of a word.
const WORD: usize = 64;

/// So many bits, none of which is set at first.
#[derive(Debug)]
pub struct Bits {
    words: Vec<AtomicU64>,
    len: usize,
    /// How many are set.
    set: AtomicUsize,
}

impl Bits {
    pub fn new(len: usize) -> Self {
        let words = (0..len.div_ceil(WORD)).map(|_| AtomicU64::new(0)).collect();
        Self { words, len, set: AtomicUsize::new(0) }
    }

    /// Whether all bits are set.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.set.load(Ordering::Acquire) == self.len
    }

    /// How many bits are not set.
    pub fn n_missing(&self) -> usize {
        self.len.saturating_sub(self.set.load(Ordering::Acquire))
    }

    /// Whether all of these bits are set: what was written before they were is seen then.
    #[inline]
    pub fn has(&self, bits: &Range<usize>) -> bool {
        parts(bits)
            .all(|(word, mask)| self.words.get(word).is_some_and(|word| word.load(Ordering::Acquire) & mask == mask))
    }

    pub fn set(&self, bits: &Range<usize>) {
        for (word, mask) in parts(bits) {
            let Some(word) = self.words.get(word) else { continue };
            let before = word.fetch_or(mask, Ordering::AcqRel);
            self.set.fetch_add((mask & !before).count_ones() as usize, Ordering::AcqRel);
        }
    }

    pub fn clear(&self, bits: &Range<usize>) {
        for (word, mask) in parts(bits) {
            let Some(word) = self.words.get(word) else { continue };
            let before = word.fetch_and(!mask, Ordering::AcqRel);
            self.set.fetch_sub((mask & before).count_ones() as usize, Ordering::AcqRel);
        }
    }
}

/// The words that some bits lie in, and which of each word's bits they are.
fn parts(bits: &Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    let (start, end) = (bits.start, bits.end);
    let words = if start < end { start / WORD..end.div_ceil(WORD) } else { 0..0 };
    words.map(move |word| {
        let (first, last) = (start.saturating_sub(word * WORD), (end - word * WORD).min(WORD));
        (word, (u64::MAX >> (WORD - (last - first))) << first)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bits_are_those_that_were_set(
            len in 1_usize..300, changes in prop::collection::vec((0_usize..300, 0_usize..300, any::<bool>()), 0..20),
        ) {
            let (bits, mut all) = (Bits::new(len), vec![false; len]);
            for (a, b, on) in changes {
                let range = a.min(b).min(len)..a.max(b).min(len);
                if on { bits.set(&range) } else { bits.clear(&range) }
                all[range].fill(on);
                for (i, &expected) in all.iter().enumerate() {
                    prop_assert_eq!(bits.has(&(i..i + 1)), expected);
                }
                prop_assert_eq!(bits.is_full(), all.iter().all(|&bit| bit));
            }
            let first = all.iter().position(|&bit| !bit).unwrap_or(len);
            prop_assert!(bits.has(&(0..first)) && (first == len || !bits.has(&(0..first + 1))));
            prop_assert!(!bits.has(&(0..len + 64)));
        }
    }
}
