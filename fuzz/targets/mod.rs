//! What is fuzzed.

mod codecs;
mod manifest;
mod outline;
mod part;
mod pfor;
mod pfor_reader;
mod shard_index;
mod var;
mod zarr_metadata;

use crate::Target;

pub const ALL: [Target; 8] = [
    Target { name: "manifest", seeds: manifest::seeds, check: manifest::check },
    Target { name: "outline", seeds: outline::seeds, check: outline::check },
    Target { name: "part", seeds: part::seeds, check: part::check },
    Target { name: "var", seeds: var::seeds, check: var::check },
    Target { name: "pfor", seeds: pfor::seeds, check: pfor::check },
    Target { name: "codecs", seeds: codecs::seeds, check: codecs::check },
    Target { name: "shard_index", seeds: shard_index::seeds, check: shard_index::check },
    Target { name: "zarr_metadata", seeds: zarr_metadata::seeds, check: zarr_metadata::check },
];
