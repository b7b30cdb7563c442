//! What comes from a source: arrays as their owner holds them (`slice`), the narrowest type for their values (`scan`), and
//! the chunks of HDF5 files without their filters (`hdf5_chunks`). Knows nothing of what is written.

mod hdf5_chunks;
mod scan;
mod slice;

use super::parallel;
pub use hdf5_chunks::{Hdf5Filter, StoredChunk, decode_hdf5};
pub use scan::ValueScan;
pub(super) use slice::for_slice;
pub use slice::{Indices, Slice};
