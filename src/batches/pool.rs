//! Buffers of finished batches, used again: fresh memory costs a page fault every 4 KiB.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::number::{Num, Values, zeros};

/// The most values that a buffer has beyond the requested ones.
const MAX_SLACK: usize = 1 << 20;
/// The bytes of a large memory page, on processors that have them.
#[cfg(target_os = "linux")]
const LARGE_PAGE: usize = 2 << 20;

/// The returned buffers of all matrices of a reader, up to a number of bytes.
pub struct BufferPool(Mutex<PoolState>);

struct PoolState {
    limit: usize,
    bytes: usize,
    /// The kept buffers, two sections for each matrix: those of one section are of similar size.
    sections: Vec<Vec<Values>>,
}

/// The buffers in a pool for the column numbers of one matrix, or for its values.
#[derive(Clone)]
pub struct PoolSection {
    pool: Arc<BufferPool>,
    number: usize,
}

impl BufferPool {
    /// An empty pool for the buffers of so many matrices.
    pub fn new(n_matrices: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(PoolState { limit: 0, bytes: 0, sections: vec![Vec::new(); 2 * n_matrices] })))
    }

    /// Keeps at most `limit` bytes from now on.
    pub fn limit(&self, limit: usize) {
        self.lock().limit = limit;
    }

    /// The sections of the `matrix`-th matrix: of its column numbers, and of its values.
    pub fn sections(self: &Arc<Self>, matrix: usize) -> [PoolSection; 2] {
        [0, 1].map(|i| PoolSection { pool: self.clone(), number: 2 * matrix + i })
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        // A panic elsewhere cannot leave the sections half changed, so a poisoned lock is safe to use.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolSection {
    /// A buffer of `len` values, which are arbitrary; `Value` where memory does not hold it.
    pub fn take<T: Num>(&self, len: usize) -> Result<Vec<T>> {
        let mut pool = self.pool.lock();
        let buffer = pool.sections.get_mut(self.number).and_then(Vec::pop);
        pool.bytes -= buffer.as_ref().map_or(0, Values::capacity_bytes);
        drop(pool);
        sized(buffer.and_then(T::unwrap), len)
    }

    /// Takes a buffer back.
    pub fn give(&self, buffer: Values) {
        let pool = &mut *self.pool.lock();
        let bytes = pool.bytes + buffer.capacity_bytes();
        if bytes <= pool.limit
            && let Some(section) = pool.sections.get_mut(self.number)
        {
            section.push(buffer);
            pool.bytes = bytes;
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
    #[cfg(not(target_os = "linux"))]
    let _ = fresh;
}

fn sized<T: Num>(buffer: Option<Vec<T>>, len: usize) -> Result<Vec<T>> {
    let Some(mut buffer) = buffer.filter(|buffer| buffer.capacity() >= len) else {
        // Batches differ a little in length: with some room the next one fits too. Zeroed by
        // the system, as it comes from it.
        let mut fresh = zeros(len.saturating_add((len / 8).min(MAX_SLACK)))?;
        in_large_pages(&mut fresh);
        fresh.truncate(len);
        return Ok(fresh);
    };
    buffer.resize(len, T::zero());
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_up_to_the_limit() {
        let pool = BufferPool::new(1);
        pool.limit(1000);
        let [indices, data] = pool.sections(0);
        let buffer: Vec<f32> = data.take(100).unwrap();
        let place = buffer.as_ptr();
        data.give(f32::wrap(buffer));
        let again: Vec<f32> = data.take(90).unwrap();
        assert_eq!(again.as_ptr(), place);
        indices.give(Values::I32(vec![0; 300]));
        assert_eq!(pool.lock().bytes, 0);
        indices.give(Values::I32(vec![1; 200]));
        assert_eq!(indices.take::<i32>(250).unwrap().len(), 250);
        assert_eq!(pool.lock().bytes, 0);
    }

    #[test]
    fn matrices_share_the_limit_and_not_the_buffers() {
        let pool = BufferPool::new(2);
        pool.limit(1000);
        let [first, second] = [0, 1].map(|matrix| pool.sections(matrix)[1].clone());
        let large = vec![0.0_f32; 200];
        let place = large.as_ptr();
        first.give(f32::wrap(large));
        second.give(f64::wrap(Vec::with_capacity(20)));
        second.give(f64::wrap(Vec::with_capacity(20)));
        assert_eq!(pool.lock().bytes, 960);
        let small: Vec<f64> = second.take(10).unwrap();
        let large: Vec<f32> = first.take(10).unwrap();
        assert_eq!((large.as_ptr(), small.len()), (place, 10));
        assert_eq!(pool.lock().bytes, 0);
    }

    #[test]
    fn a_buffer_of_another_type_is_dropped() {
        let pool = BufferPool::new(1);
        pool.limit(1000);
        let [_, data] = pool.sections(0);
        data.give(f32::wrap(vec![1.0; 10]));
        assert_eq!(data.take::<i64>(3).unwrap(), [0; 3]);
        assert_eq!(pool.lock().bytes, 0);
    }
}
