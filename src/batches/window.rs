//! Which batches of an epoch are read together, and in which pieces.
//!
//! Pure: batches in, windows out.

use std::ops::Range;

/// Small batches are read together until a window has this many cells.
const TOGETHER: usize = 1024;

/// Consecutive batches that are read together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The numbers of the batches.
    pub batches: Range<usize>,
    /// The rows of the epoch that the batches consist of.
    pub rows: Range<usize>,
}

impl Window {
    /// The cells of each piece but the last, of at most `most`: pieces are about equal, wherever batches end.
    pub fn piece(&self, most: usize) -> usize {
        let cells = self.rows.len();
        cells.div_ceil(cells.div_ceil(most).max(1)).max(1)
    }

    /// The number of pieces of at most `most` cells; one where there are no cells.
    pub fn n_pieces(&self, most: usize) -> usize {
        self.rows.len().div_ceil(self.piece(most)).max(1)
    }
}

/// The windows of an epoch: several batches as long as they have few cells together, so that small batches
/// share reads; else one.
pub fn windows(batches: &[Range<usize>]) -> Vec<Window> {
    let mut windows = Vec::new();
    let mut start = 0;
    while start < batches.len() {
        let (mut stop, mut cells) = (start, 0);
        while stop < batches.len() && (stop == start || cells + batches[stop].len() <= TOGETHER) {
            cells += batches[stop].len();
            stop += 1;
        }
        windows.push(Window { batches: start..stop, rows: batches[start].start..batches[start].start + cells });
        start = stop;
    }
    windows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn windows_cover_the_batches(n in 0usize..9000, size in 1usize..4000, most in 1usize..500) {
            let batches = crate::sampling::batches(n, size, false);
            let windows = windows(&batches);
            let all = |rows: fn(&Window) -> Range<usize>| windows.iter().flat_map(rows).collect::<Vec<_>>();
            prop_assert_eq!(all(|w| w.batches.clone()), (0..batches.len()).collect::<Vec<_>>());
            prop_assert_eq!(all(|w| w.rows.clone()), (0..n).collect::<Vec<_>>());
            for window in windows {
                let piece = window.piece(most);
                prop_assert!((1..=most).contains(&piece));
                prop_assert!((window.n_pieces(most) - 1) * piece < window.rows.len());
                prop_assert!(window.batches.len() == 1 || window.rows.len() <= TOGETHER);
            }
        }
    }

    #[test]
    fn batches_of_no_cells_are_windows_too() {
        let windows = windows(&[0..0, 0..0]);
        assert_eq!(windows, [Window { batches: 0..2, rows: 0..0 }]);
        assert_eq!(windows[0].piece(5), 1);
    }
}
