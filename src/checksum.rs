//! CRC-32C (Castagnoli), of bytes at once or as they come.

use crc_fast::{CrcAlgorithm, Digest};

/// The checksum of `bytes`.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// The checksum of bytes whose first ones have the checksum `crc` (0 if there are none), followed by `bytes`.
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    // The state is the checksum before its bits are inverted at the end.
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!crc));
    digest.update(bytes);
    #[expect(clippy::cast_possible_truncation, reason = "a checksum of 32 bits")]
    let crc = digest.finalize() as u32;
    crc
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c_append(crc32c(b"1234"), b"56789"), 0xE306_9283);
        assert_eq!((crc32c(b""), crc32c_append(0, b"")), (0, 0));
    }

    proptest! {
        #[test]
        fn pieces_add_up(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..5)) {
            let appended = pieces.iter().fold(0, |crc, piece| crc32c_append(crc, piece));
            prop_assert_eq!(appended, crc32c(&pieces.concat()));
        }
    }
}
