//! The zarr codec `dao_polars.pfor`: a chunk whose runs of values decode without their neighbours.
//!
//! `lanes` packs 256 numbers into some bits each; `frame` into as many as most of them need, and patches the others;
//! `block` is 512 values with their checksum, the least that is read; `chunk` is a directory of
//! blocks. `plugin` makes it a codec of zarrs. docs/pfor.md is the format's description for writers
//! of other readers. Knows bytes and numbers alone: no arrays, no files.

#[cfg(target_endian = "big")]
compile_error!("words are written as they lie in memory, which the format has little-endian");

mod block;
mod chunk;
mod frame;
mod lanes;
mod plugin;

pub use block::{BLOCK, Kind, SCRATCH, Scratch, decode as decode_block};
pub use chunk::{decode, directory, directory_len, encode};
pub use plugin::{NAME, Pfor, dtype_of};

/// The reason why bytes cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken(pub &'static str);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}
