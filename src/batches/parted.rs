//! A vector that several threads fill, each a part of its own.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{DaoError, Result};

/// A vector cut into parts, each of which is given out once.
pub struct Parted<T> {
    /// The whole vector. Until `finish` its values are reached through `start` alone.
    values: Vec<T>,
    start: *mut T,
    /// The ascending ends of the parts, the last where the vector ends, and whether each was given out.
    ends: Vec<(usize, AtomicBool)>,
}

// SAFETY: `start` points into the vector that this type owns, and nothing else does.
unsafe impl<T: Send> Send for Parted<T> {}
// SAFETY: sharing this type gives each thread parts that no other thread has, which is like sending them.
unsafe impl<T: Send> Sync for Parted<T> {}

impl<T> Parted<T> {
    /// Cuts `values` at `ends`, or fails with `Internal` if these do not ascend to the vector's length.
    pub fn new(mut values: Vec<T>, ends: Vec<usize>) -> Result<Self> {
        if !ends.is_sorted() || ends.last().copied().unwrap_or(0) != values.len() {
            return Err(DaoError::internal("the parts of a buffer do not cover it"));
        }
        let ends = ends.into_iter().map(|end| (end, AtomicBool::new(false))).collect();
        Ok(Self { start: values.as_mut_ptr(), values, ends })
    }

    /// The part `i`; `None` if there is none, or it was given out before.
    #[allow(clippy::mut_from_ref, reason = "each part is given once")]
    pub fn part(&self, i: usize) -> Option<&mut [T]> {
        let (end, taken) = self.ends.get(i)?;
        if taken.swap(true, Ordering::Relaxed) {
            return None;
        }
        let start = if i == 0 { 0 } else { self.ends[i - 1].0 };
        // SAFETY: `start..end` lies within the vector (checked when it was cut), which is neither read, changed nor
        // moved on the heap before `finish` or drop, which no part outlives. Parts do not overlap, since the ends
        // ascend, and each is given once: nothing else refers to these values.
        Some(unsafe { std::slice::from_raw_parts_mut(self.start.add(start), end - start) })
    }

    /// The whole vector.
    pub fn finish(self) -> Vec<T> {
        self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_fill_their_parts() {
        let parted = Parted::new(vec![0; 10], vec![3, 3, 10]).unwrap();
        std::thread::scope(|scope| {
            for i in 0..3 {
                let parted = &parted;
                scope.spawn(move || parted.part(i).unwrap().fill(i + 1));
            }
        });
        assert!(parted.part(0).is_none() && parted.part(3).is_none());
        assert_eq!(parted.finish(), [1, 1, 1, 3, 3, 3, 3, 3, 3, 3]);
    }

    #[test]
    fn parts_that_do_not_cover_are_refused() {
        assert!(Parted::new(vec![0; 3], vec![2]).is_err());
        assert!(Parted::new(vec![0; 3], vec![2, 1, 3]).is_err());
        assert!(Parted::new(vec![0; 3], vec![4]).is_err());
        assert!(Parted::new(vec![0; 3], vec![]).is_err() && Parted::<u8>::new(vec![], vec![]).is_ok());
        drop(Parted::new(vec![String::from("dropped")], vec![1]).unwrap());
    }
}
