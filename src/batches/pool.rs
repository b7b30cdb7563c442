//! Buffers of finished batches, used again: fresh memory costs a page fault every 4 KiB.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::number::{Num, Values};

/// The most values that a buffer has beyond the requested ones.
const MAX_SLACK: usize = 1 << 20;
/// The bytes of a large memory page, on processors that have them.
#[cfg(target_os = "linux")]
const LARGE_PAGE: usize = 2 << 20;

/// The returned buffers of all matrices of a reader, up to a number of bytes.
pub struct BufferPool(Mutex<Shelves>);

struct Shelves {
    limit: usize,
    bytes: usize,
    /// The kept buffers of each matrix: those of one matrix are of similar size.
    shelves: Vec<Shelf>,
}

#[derive(Default)]
struct Shelf {
    indices: Vec<Vec<i32>>,
    data: Vec<Values>,
}

/// The buffers of one matrix in a pool.
#[derive(Clone)]
pub struct MatrixBuffers {
    pool: Arc<BufferPool>,
    matrix: usize,
}

impl BufferPool {
    /// An empty pool for the buffers of so many matrices.
    #[must_use]
    pub fn new(n_matrices: usize) -> Arc<Self> {
        let shelves = (0..n_matrices).map(|_| Shelf::default()).collect();
        Arc::new(Self(Mutex::new(Shelves { limit: 0, bytes: 0, shelves })))
    }

    /// Keeps at most `limit` bytes from now on.
    pub fn limit(&self, limit: usize) {
        self.lock().limit = limit;
    }

    /// The buffers of the `matrix`-th matrix; always fresh ones past `n_matrices`.
    #[must_use]
    pub fn of_matrix(self: &Arc<Self>, matrix: usize) -> MatrixBuffers {
        MatrixBuffers { pool: self.clone(), matrix }
    }

    fn lock(&self) -> MutexGuard<'_, Shelves> {
        // A panic elsewhere cannot leave the shelves half changed, so a poisoned lock is safe to use.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelves {
    /// Whether a buffer of `bytes` is kept; if so, its bytes are counted.
    fn keeps(&mut self, bytes: usize) -> bool {
        let keeps = self.bytes + bytes <= self.limit;
        self.bytes += if keeps { bytes } else { 0 };
        keeps
    }
}

impl MatrixBuffers {
    /// A buffer for `len` column numbers, whose contents are arbitrary.
    #[must_use]
    pub fn indices(&self, len: usize) -> Vec<i32> {
        let mut pool = self.pool.lock();
        let buffer = pool.shelves.get_mut(self.matrix).and_then(|shelf| shelf.indices.pop());
        pool.bytes -= buffer.as_ref().map_or(0, |buffer| 4 * buffer.capacity());
        drop(pool);
        sized(buffer, len)
    }

    /// A buffer for `len` values, whose contents are arbitrary.
    #[must_use]
    pub fn data<T: Num>(&self, len: usize) -> Vec<T> {
        let mut pool = self.pool.lock();
        let buffer = pool.shelves.get_mut(self.matrix).and_then(|shelf| shelf.data.pop());
        pool.bytes -= buffer.as_ref().map_or(0, Values::capacity_bytes);
        drop(pool);
        sized(buffer.and_then(T::unwrap), len)
    }

    /// Takes column numbers back.
    pub fn give_indices(&self, buffer: Vec<i32>) {
        let mut pool = self.pool.lock();
        if pool.keeps(4 * buffer.capacity())
            && let Some(shelf) = pool.shelves.get_mut(self.matrix)
        {
            shelf.indices.push(buffer);
        }
    }

    /// Takes numbers back.
    pub fn give_data(&self, buffer: Values) {
        let mut pool = self.pool.lock();
        if pool.keeps(buffer.capacity_bytes())
            && let Some(shelf) = pool.shelves.get_mut(self.matrix)
        {
            shelf.data.push(buffer);
        }
    }
}

/// Asks the system for pages of 2 MiB: they cost fewer page faults and fewer address lookups.
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
            // A kernel without large pages goes on with small ones.
            let _ = advised;
        }
    }
}

fn sized<T: Num>(buffer: Option<Vec<T>>, len: usize) -> Vec<T> {
    let Some(mut buffer) = buffer.filter(|buffer| buffer.capacity() >= len) else {
        // Batches differ a little in length: with some room the next one fits too. Zeroed by
        // the system, as it comes from it.
        let mut fresh = vec![T::zero(); len + (len / 8).min(MAX_SLACK)];
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
        let pool = BufferPool::new(1);
        pool.limit(1000);
        let buffers = pool.of_matrix(0);
        let buffer: Vec<f32> = buffers.data(100);
        let place = buffer.as_ptr();
        buffers.give_data(f32::wrap(buffer));
        let again: Vec<f32> = buffers.data(90);
        assert_eq!(again.as_ptr(), place);
        buffers.give_indices(vec![0; 300]);
        assert_eq!(pool.lock().bytes, 0);
        buffers.give_indices(vec![1; 200]);
        assert_eq!(buffers.indices(250).len(), 250);
        assert_eq!(pool.lock().bytes, 0);
    }

    #[test]
    fn matrices_share_the_limit_and_not_the_buffers() {
        let pool = BufferPool::new(2);
        pool.limit(1000);
        let [first, second] = [0, 1].map(|matrix| pool.of_matrix(matrix));
        let large = vec![0.0_f32; 200];
        let place = large.as_ptr();
        first.give_data(f32::wrap(large));
        second.give_data(f64::wrap(Vec::with_capacity(20)));
        second.give_data(f64::wrap(Vec::with_capacity(20)));
        assert_eq!(pool.lock().bytes, 960);
        let small: Vec<f64> = second.data(10);
        let large: Vec<f32> = first.data(10);
        assert_eq!((large.as_ptr(), small.len()), (place, 10));
        assert_eq!(pool.lock().bytes, 0);
    }

    #[test]
    fn a_buffer_of_another_type_is_dropped() {
        let pool = BufferPool::new(1);
        pool.limit(1000);
        let buffers = pool.of_matrix(0);
        buffers.give_data(f32::wrap(vec![1.0; 10]));
        assert_eq!(buffers.data::<i64>(3), [0; 3]);
        assert_eq!(pool.lock().bytes, 0);
    }
}
