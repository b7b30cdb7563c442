//! The block that was decoded last: rows of few values lie many in one, and it is decoded once for all of them.

use crate::codec::BLOCK;
use crate::error::Result;
use crate::number::{Dtype, Num};

/// The block that was decoded last.
#[derive(Default)]
pub struct LastBlock {
    /// The block's chunk, its number there, and the type that it was asked for in.
    block: Option<(u64, usize, Dtype)>,
    /// Whether `values` are the block's.
    is_whole: bool,
    /// Room for the values of a block, whatever their type is; none before a block comes twice.
    values: Vec<u64>,
}

impl LastBlock {
    /// The values of a block of which few are wanted, if it was asked for just before; `decode` decodes all of it.
    pub fn get<T: Num>(
        &mut self,
        chunk: u64,
        block: usize,
        decode: impl FnOnce(&mut [T]) -> Result<()>,
    ) -> Result<Option<&[T]>> {
        let asked = Some((chunk, block, T::DTYPE));
        if self.block != asked {
            (self.block, self.is_whole) = (asked, false);
            return Ok(None);
        }
        self.values.resize(BLOCK, 0);
        let values = &mut bytemuck::cast_slice_mut::<u64, T>(&mut self.values)[..BLOCK];
        if !self.is_whole {
            decode(values)?;
            self.is_whole = true;
        }
        Ok(Some(values))
    }
}
