//! Random numbers that a seed fixes, in every version and on every machine.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// The use of random numbers within an epoch: each use has a stream of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// The order of cells.
    Order = 0,
    /// The order of batches.
    Batches = 1,
}

/// A generator (ChaCha8) keyed with seed, epoch and use: independent streams, the same on every machine.
pub fn generator(seed: u64, epoch: u64, stream: Stream) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&epoch.to_le_bytes());
    key[16] = stream as u8;
    ChaCha8Rng::from_seed(key)
}

/// Fisher and Yates's shuffle. Written out, because libraries change how many random numbers
/// theirs takes, and a seed has to give the same epoch tomorrow.
pub fn shuffle<T>(values: &mut [T], rng: &mut impl RngCore) {
    for i in (1..values.len()).rev() {
        values.swap(i, below(i as u64 + 1, rng));
    }
}

/// A uniform number below `bound` (at most 2^32), without bias: Lemire's multiplication with
/// rejection, <https://arxiv.org/abs/1805.10941>.
pub fn below(bound: u64, rng: &mut impl RngCore) -> usize {
    let bound = u128::from(bound);
    let threshold = ((1_u128 << 64) - bound) % bound;
    loop {
        let product = u128::from(rng.next_u64()) * bound;
        if product % (1 << 64) >= threshold {
            // The upper half is below `bound`, which a slice's length fits.
            return usize::try_from(product >> 64).unwrap_or(0);
        }
    }
}

/// A uniform number from 0 to below 1, of 53 bits.
#[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
pub fn unit(rng: &mut impl RngCore) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}
