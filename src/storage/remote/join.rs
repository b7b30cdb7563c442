//! Which ranges of an object are asked for together.
//!
//! Pure: ranges in, ranges out. What lies between two ranges is read for nothing, and saves a request: worth it as long as the
//! line brings those bytes in less time than the request costs, and as long as little is read for nothing in all.

use std::ops::Range;

/// The most bytes of one request, but for a range that is longer itself: several requests share a line better than one.
const MOST: u64 = 2 << 20;

/// Joins `ranges` (by ascending starts), each of which lies in one of the results: across gaps of up to `max_gap` bytes, the
/// smallest first, while those that are joined have no more than `waste` times the bytes of the ranges together.
pub fn join(ranges: &[Range<u64>], max_gap: u64, waste: f64) -> Vec<Range<u64>> {
    let max_gap = affordable(ranges, max_gap, waste);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges.iter().filter(|range| !range.is_empty()) {
        match joined.last_mut() {
            Some(last) if range.end <= last.end => {}
            Some(last) if range.start <= last.end.saturating_add(max_gap) && range.end - last.start <= MOST => {
                last.end = range.end;
            }
            _ => joined.push(range.clone()),
        }
    }
    joined
}

/// The longest gap, of at most `max_gap` bytes, up to which all gaps can be read within what may be wasted.
fn affordable(ranges: &[Range<u64>], max_gap: u64, waste: f64) -> u64 {
    let (mut gaps, mut end, mut wanted) = (Vec::new(), None, 0_u64);
    for range in ranges.iter().filter(|range| !range.is_empty()) {
        let before = end.unwrap_or(range.start);
        if range.start > before && range.start - before <= max_gap {
            gaps.push(range.start - before);
        }
        wanted = wanted.saturating_add(range.end.saturating_sub(range.start.max(before)));
        end = Some(range.end.max(before));
    }
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a bound")]
    let mut left = (wanted as f64 * waste) as u64;
    gaps.sort_unstable();
    let mut longest = 0;
    for gap in gaps {
        let Some(rest) = left.checked_sub(gap) else { break };
        (left, longest) = (rest, gap);
    }
    longest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_gaps_are_joined_first() {
        let ranges = [0..10, 12..20, 30..40, 41..50];
        assert_eq!(join(&ranges, 100, 0.0), ranges);
        assert_eq!(join(&ranges, 100, 0.1), [0..20, 30..50]);
        assert_eq!(join(&ranges, 100, 0.5), std::slice::from_ref(&(0..50)));
        assert_eq!(join(&ranges, 1, 0.5), [0..10, 12..20, 30..50]);
        assert!(join(&[], 9, 1.0).is_empty() && join(std::slice::from_ref(&(3..3)), 9, 1.0).is_empty());
    }

    proptest! {
        #[test]
        fn every_range_lies_in_one_and_little_is_wasted(
            gaps in prop::collection::vec((0u64..3000, 0u64..2000, 0u64..500), 0..60), max_gap in 0u64..4000, percent in 0u32..200
        ) {
            let mut at = 0;
            let ranges: Vec<_> = gaps
                .iter()
                .map(|&(gap, len, back)| {
                    let start = (at + gap).saturating_sub(back);
                    at = at.max(start + len);
                    start..start + len
                })
                .collect();
            prop_assume!(ranges.windows(2).all(|pair| pair[0].start <= pair[1].start));
            let joined = join(&ranges, max_gap, f64::from(percent) / 100.0);
            for range in ranges.iter().filter(|range| !range.is_empty()) {
                let within = joined.iter().filter(|whole| whole.start <= range.start && range.end <= whole.end).count();
                prop_assert!(within >= 1);
            }
            let covered = |ranges: &[Range<u64>]| {
                let mut bytes = std::collections::BTreeSet::new();
                ranges.iter().cloned().for_each(|range| bytes.extend(range));
                bytes.len() as f64
            };
            prop_assert!(joined.windows(2).all(|pair| pair[0].start < pair[1].start));
            // Gaps as long as the last one that could be afforded are all joined.
            let repeated = f64::from(u32::try_from(max_gap).unwrap()) * ranges.len() as f64;
            prop_assert!(covered(&joined) <= covered(&ranges) * (1.0 + f64::from(percent) / 100.0) + repeated);
        }
    }
}
