//! Which elements of a one-dimensional chunked array are needed, and which bytes to fetch for them.
//!
//! Pure: ranges in, ranges out. Knows no files.

use std::ops::Range;

use crate::codec::BLOCK;

/// A run of values of one inner chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The chunk's number.
    pub chunk: u64,
    /// The range of the chunk's values.
    pub values: Range<usize>,
}

impl Run {
    /// The blocks of the codec `dao_polars.pfor` that the run's values lie in.
    pub fn blocks(&self) -> Range<usize> {
        self.values.start / BLOCK..self.values.end.div_ceil(BLOCK)
    }
}

/// Cuts `range` at the borders of chunks of `chunk_len` values.
pub fn runs(range: Range<u64>, chunk_len: u64) -> impl Iterator<Item = Run> + Clone {
    let chunks = if range.is_empty() { 0..0 } else { range.start / chunk_len..range.end.div_ceil(chunk_len) };
    chunks.map(move |chunk| {
        let within = |at: u64| to_usize(at.clamp(chunk * chunk_len, (chunk + 1) * chunk_len) - chunk * chunk_len);
        Run { chunk, values: within(range.start)..within(range.end) }
    })
}

/// One read of a file, and which of the wanted ranges it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// The bytes to read.
    pub bytes: Range<u64>,
    /// The wanted ranges that the read covers, as positions in the list given to [`coalesce`].
    pub serves: Range<usize>,
}

/// Joins ascending byte ranges whose gaps are at most `max_gap`, up to `max_len` bytes a read.
pub fn coalesce(wanted: &[Range<u64>], max_gap: u64, max_len: u64) -> Vec<Fetch> {
    let mut fetches: Vec<Fetch> = Vec::new();
    for (i, range) in wanted.iter().enumerate() {
        match fetches.last_mut() {
            Some(last)
                if range.start >= last.bytes.start
                    && range.start <= last.bytes.end.saturating_add(max_gap)
                    && range.end.saturating_sub(last.bytes.start) <= max_len =>
            {
                last.bytes.end = last.bytes.end.max(range.end);
                last.serves.end = i + 1;
            }
            _ => fetches.push(Fetch { bytes: range.clone(), serves: i..i + 1 }),
        }
    }
    fetches
}

/// A count of things in memory, or within one inner chunk, as `usize`; past its range, a
/// number that finds nothing.
pub fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_are_the_range(start in 0_u64..5000, len in 0_u64..5000, chunk_len in 1_u64..3000) {
            let got: Vec<u64> = runs(start..start + len, chunk_len)
                .flat_map(|run| {
                    assert!(!run.values.is_empty() && run.values.end as u64 <= chunk_len);
                    assert!(run.blocks().start * BLOCK <= run.values.start && run.values.end <= run.blocks().end * BLOCK);
                    run.values.map(move |i| run.chunk * chunk_len + i as u64)
                })
                .collect();
            prop_assert_eq!(got, (start..start + len).collect::<Vec<_>>());
        }

        #[test]
        fn runs_are_the_ranges_in_order(
            gaps in prop::collection::vec((0u64..50, 0u64..80), 0..40), chunk_len in 1u64..64
        ) {
            let mut at = 0;
            let ranges: Vec<_> = gaps.iter().map(|&(gap, len)| { let r = at + gap..at + gap + len; at = r.end; r }).collect();
            let wanted: Vec<u64> = ranges.iter().cloned().flatten().collect();
            let mut got = Vec::new();
            for run in ranges.into_iter().flat_map(|range| runs(range, chunk_len)) {
                prop_assert!(!run.values.is_empty() && run.values.end as u64 <= chunk_len);
                got.extend(run.values.map(|i| run.chunk * chunk_len + i as u64));
            }
            prop_assert_eq!(got, wanted);
        }

        #[test]
        fn every_wanted_range_is_served_once(
            gaps in prop::collection::vec((0u64..50, 1u64..80), 0..40), max_gap in 0u64..30, max_len in 1u64..300
        ) {
            let mut at = 0;
            let wanted: Vec<_> = gaps.iter().map(|&(gap, len)| { let r = at + gap..at + gap + len; at = r.end; r }).collect();
            let fetches = coalesce(&wanted, max_gap, max_len);
            let served: Vec<usize> = fetches.iter().flat_map(|f| f.serves.clone()).collect();
            prop_assert_eq!(served, (0..wanted.len()).collect::<Vec<_>>());
            for fetch in fetches {
                prop_assert!(fetch.serves.len() == 1 || fetch.bytes.end - fetch.bytes.start <= max_len);
                for i in fetch.serves {
                    prop_assert!(fetch.bytes.start <= wanted[i].start && wanted[i].end <= fetch.bytes.end);
                }
            }
        }
    }
}
