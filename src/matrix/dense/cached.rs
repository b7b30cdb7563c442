//! Rows by way of the cache: rows that are decoded along with wanted ones are kept until they are requested.

use std::ops::Range;

use super::compact_row::RowBuilder;
use super::{CompactRow, Dense, WantedColumns};
use crate::error::{DaoError, Result};
use crate::matrix::array::ChunkEncoding;
use crate::matrix::cache::RowCache;
use crate::matrix::plan::to_usize;
use crate::number::Num;

impl Dense {
    /// The rows, from the cache or decoded; rows that are decoded along with them go into the cache.
    pub(super) fn rows_through_cache<S: Num>(
        &self,
        rows: &[u32],
        wanted: &WantedColumns,
        cache: &RowCache,
        number: u32,
        builders: &mut Vec<RowBuilder>,
    ) -> Result<Vec<CompactRow>> {
        let height = self.array.inner_shape()[0];
        let mut all: Vec<Option<CompactRow>> = vec![None; rows.len()];
        let mut start = 0;
        let mut bands: Vec<Range<usize>> = rows
            .chunk_by(|a, b| u64::from(*a) / height == u64::from(*b) / height)
            .map(|band| {
                start += band.len();
                start - band.len()..start
            })
            .collect();
        let scattered = rows.len() < 2 || ((rows[rows.len() - 1] - rows[0]) as usize) / 2 > rows.len();
        if scattered && !bands.is_empty() {
            // Threads that read at the same time want the same chunks, so each begins at another one.
            let n = bands.len();
            bands.rotate_left(cache.turn().wrapping_mul(n * 5 / 8 + 1) % n);
        }
        for wait in [false, true] {
            let mut later = Vec::new();
            for band in bands {
                let (rows, got) = (&rows[band.clone()], &mut all[band.clone()]);
                cache.get(rows.iter().map(|&row| key(number, row)), got);
                if got.iter().all(Option::is_some) {
                    continue;
                }
                let Some(_claim) = cache.claim((number, u64::from(rows[0]) / height), wait) else {
                    later.push(band);
                    continue;
                };
                if wait {
                    cache.get(rows.iter().map(|&row| key(number, row)), got);
                }
                let missing: Vec<u32> =
                    rows.iter().zip(&*got).filter(|(_, got)| got.is_none()).map(|(&row, _)| row).collect();
                if missing.is_empty() {
                    continue;
                }
                let more = self.neighbours(&missing, wanted, cache, number)?;
                let decoded = self.band::<S>(&more, wanted, builders)?;
                for (to, row) in got.iter_mut().zip(rows) {
                    if to.is_none()
                        && let Ok(at) = more.binary_search(row)
                    {
                        *to = Some(decoded[at].clone());
                    }
                }
                cache.put(
                    more.iter()
                        .zip(decoded)
                        .map(|(&row, decoded)| (key(number, row), decoded, missing.binary_search(&row).is_ok())),
                );
            }
            bands = later;
        }
        all.into_iter().collect::<Option<_>>().ok_or_else(|| DaoError::internal("a row was not decoded"))
    }

    /// `rows` of one band, and those that cost little more to decode, as many as the cache has room for.
    fn neighbours(&self, rows: &[u32], wanted: &WantedColumns, cache: &RowCache, number: u32) -> Result<Vec<u32>> {
        let [height, width] = self.array.inner_shape()[..] else { return Ok(rows.to_vec()) };
        let row_len = to_usize(width) * self.array.dtype().size();
        let Some(&first) = rows.first() else { return Ok(Vec::new()) };
        let (band, chunk) = (u64::from(first) / height, wanted.chunks.first().copied());
        let block = match (self.encoding, chunk) {
            (_, None) | (ChunkEncoding::Raw, _) => return Ok(rows.to_vec()),
            (ChunkEncoding::Blosc, Some(chunk)) => self.block_len(band, chunk)?.max(1),
            (ChunkEncoding::Whole, _) => usize::MAX,
        };
        let start = band * height;
        let n = to_usize(height.min(self.shape()[0] - start));
        // The candidates: rows that lie wholly in blocks which are decoded anyway, and are not wanted themselves.
        let mut is_candidate = vec![false; n];
        for &row in rows {
            let at = to_usize(u64::from(row) - start);
            let blocks = at * row_len / block..=((at + 1) * row_len - 1) / block;
            let first = (blocks.start() * block).div_ceil(row_len);
            let end = (blocks.end() + 1).saturating_mul(block) / row_len;
            is_candidate[first.min(at)..end.clamp(at + 1, n)].fill(true);
        }
        rows.iter().for_each(|&row| is_candidate[to_usize(u64::from(row) - start)] = false);
        let number_of = |at: usize| u32::try_from(start + at as u64).unwrap_or(u32::MAX);
        let candidates: Vec<u32> = (0..n).filter(|&at| is_candidate[at]).map(number_of).collect();
        // The bytes that a row takes in the cache: see `super::compact_row`.
        let weight = to_usize(self.shape()[1] / 8 + self.row_bytes() / 6) + 128;
        let chosen = cache.choose(candidates.iter().map(|&row| key(number, row)), weight);
        let chosen = candidates.into_iter().zip(chosen).filter_map(|(row, is_chosen)| is_chosen.then_some(row));
        let mut all: Vec<u32> = rows.iter().copied().chain(chosen).collect();
        all.sort_unstable();
        Ok(all)
    }
}

/// The key in the cache of a row of the part `number`.
fn key(number: u32, row: u32) -> u64 {
    u64::from(number) << 32 | u64::from(row)
}
