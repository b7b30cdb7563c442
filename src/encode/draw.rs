//! A draw of some of a cell's genes that seed, epoch and cell fix, whoever reads the cell and when.

/// The step of `SplitMix64`, <https://prng.di.unimi.it/splitmix64.c>.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The number of `SplitMix64` that follows a state.
fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(STEP);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The draw of one cell in one epoch: each token has a number, and those with the lowest numbers are drawn.
///
/// That is a random sample without replacement, which depends on no place in a batch, no thread and no order of genes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CellDraw(u64);

impl CellDraw {
    /// The draw of the cell with this key.
    pub fn new(seed: u64, epoch: u64, key: u64) -> Self {
        Self(mix(mix(mix(seed) ^ epoch) ^ key))
    }

    /// The number of a token: those with the lowest ones are drawn.
    pub fn number(self, token: i64) -> u64 {
        mix(self.0 ^ token.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_splitmix64() {
        // The first output of the reference implementation for the seeds 0 and 1234567.
        assert_eq!([mix(0), mix(1_234_567)], [0xe220_a839_7b1d_cdaf, 6_457_827_717_110_365_317]);
    }

    #[test]
    fn seed_epoch_key_and_token_each_matter() {
        let number = |seed, epoch, key, token| CellDraw::new(seed, epoch, key).number(token);
        let one = number(1, 2, 3, 4);
        for other in
            [number(0, 2, 3, 4), number(1, 0, 3, 4), number(1, 2, 0, 4), number(1, 2, 3, 0), number(2, 1, 3, 4)]
        {
            assert_ne!(one, other);
        }
    }
}
