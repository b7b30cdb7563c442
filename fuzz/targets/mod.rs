//! What is fuzzed.

mod manifest;
mod pfor;
mod pfor_reader;
mod var;

use crate::Target;

pub const ALL: [Target; 3] = [
    Target { name: "manifest", seeds: manifest::seeds, check: manifest::check },
    Target { name: "pfor", seeds: pfor::seeds, check: pfor::check },
    Target { name: "var", seeds: var::seeds, check: var::check },
];
