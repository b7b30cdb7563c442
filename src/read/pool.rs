//! Buffers of finished batches, used again: fresh memory costs a page fault every 4 KiB.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::number::{Num, Values};

/// The most values that a buffer has beyond those asked for.
const MAX_ROOM: usize = 1 << 20;
/// Bytes of a large page on the processors that have one of the kind.
#[cfg(target_os = "linux")]
const LARGE_PAGE: usize = 2 << 20;

/// Buffers that came back, up to a number of bytes.
#[derive(Default)]
pub struct Pool(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    limit: usize,
    indices: Vec<Vec<i32>>,
    data: Vec<Values>,
    bytes: usize,
}

impl Pool {
    /// Keeps at most `limit` bytes from now on.
    pub fn limit(&self, limit: usize) {
        self.lock().limit = limit;
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Whole at every point where a panic could be.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `len` column numbers, of any values.
    #[must_use]
    pub fn indices(&self, len: usize) -> Vec<i32> {
        let mut kept = self.lock();
        let buffer = kept.indices.pop();
        kept.bytes -= buffer.as_ref().map_or(0, |buffer| 4 * buffer.capacity());
        drop(kept);
        sized(buffer, len)
    }

    /// `len` numbers, of any values.
    #[must_use]
    pub fn data<T: Num>(&self, len: usize) -> Vec<T> {
        let mut kept = self.lock();
        let buffer = kept.data.pop().and_then(T::unwrap);
        kept.bytes -= buffer.as_ref().map_or(0, |buffer| size_of::<T>() * buffer.capacity());
        drop(kept);
        sized(buffer, len)
    }

    /// Takes column numbers back.
    pub fn give_indices(&self, buffer: Vec<i32>) {
        let mut kept = self.lock();
        let bytes = 4 * buffer.capacity();
        if kept.bytes + bytes <= kept.limit {
            kept.bytes += bytes;
            kept.indices.push(buffer);
        }
    }

    /// Takes numbers back. All that come are of one type.
    pub fn give_data(&self, buffer: Values) {
        let mut kept = self.lock();
        let bytes = buffer.capacity_bytes();
        if kept.bytes + bytes <= kept.limit {
            kept.bytes += bytes;
            kept.data.push(buffer);
        }
    }
}

/// Asks for pages of 2 MiB, of which first touching them and finding them again cost less.
fn in_large_pages<T>(fresh: &mut [T]) {
    #[cfg(target_os = "linux")]
    {
        let start = fresh.as_mut_ptr().cast::<u8>();
        let (skip, len) = (start.align_offset(LARGE_PAGE), size_of_val(fresh));
        if skip.saturating_add(LARGE_PAGE) <= len {
            // SAFETY: the range lies within the slice and begins at a page; the advice changes neither
            // what is in it nor who may use it.
            let advised =
                unsafe { rustix::mm::madvise(start.add(skip).cast(), len - skip, rustix::mm::Advice::LinuxHugepage) };
            // A kernel without them goes on with small ones.
            let _ = advised;
        }
    }
}

fn sized<T: Num>(buffer: Option<Vec<T>>, len: usize) -> Vec<T> {
    let Some(mut buffer) = buffer.filter(|buffer| buffer.capacity() >= len) else {
        // Batches differ a little in length: with some room the next one fits too. Zeroed by
        // the system, as it comes from it.
        let mut fresh = vec![T::zero(); len + (len / 8).min(MAX_ROOM)];
        in_large_pages(&mut fresh);
        fresh.truncate(len);
        return fresh;
    };
    buffer.resize(len, T::zero());
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_up_to_the_limit() {
        let pool = Pool::default();
        pool.limit(1000);
        let buffer: Vec<f32> = pool.data(100);
        let place = buffer.as_ptr();
        pool.give_data(f32::wrap(buffer));
        let again: Vec<f32> = pool.data(90);
        assert_eq!(again.as_ptr(), place);
        pool.give_indices(vec![0; 300]);
        assert_eq!(pool.lock().bytes, 0);
        pool.give_indices(vec![1; 200]);
        assert_eq!(pool.indices(250).len(), 250);
        assert_eq!(pool.lock().bytes, 0);
    }
}
