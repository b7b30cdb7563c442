//! Changes of bytes that know nothing of what the bytes mean.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore;

/// Integers at the edges of their types.
const EDGES: [u64; 10] = [0, 1, 127, 128, 255, 256, 0x7fff_ffff, 0xffff_ffff, 1 << 40, u64::MAX];

/// One of `seeds` after one to eight changes.
pub fn mutate(seeds: &[Vec<u8>], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut below = |n: usize| random.next_u64() as usize % n.max(1);
    let mut bytes = seeds[below(seeds.len())].clone();
    for _ in 0..=below(8) {
        let (at, span) = (below(bytes.len()), 1 + below(8));
        let end = (at + span).min(bytes.len());
        match below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << below(8),
            1 if !bytes.is_empty() => bytes[at] = below(256) as u8,
            2 => drop(bytes.drain(at..end)),
            3 => drop(bytes.splice(at..at, (0..span).map(|_| below(256) as u8))),
            4 => {
                let edge = EDGES[below(EDGES.len())].to_le_bytes();
                let n = end - at;
                bytes[at..end].copy_from_slice(&edge[..n]);
            }
            _ => {
                let other = &seeds[below(seeds.len())];
                let from = below(other.len());
                let to = (from + below(64)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
        }
    }
    bytes
}
