//! The checksum of small files: CRC-32C, written `crc32c:` and eight hex digits.

/// The checksum of `bytes` as it stands in a dataset's `dao.json`.
pub fn checksum(bytes: &[u8]) -> String {
    format!("crc32c:{:08x}", crc32c::crc32c(bytes))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_value_of_crc32c() {
        assert_eq!(super::checksum(b"123456789"), "crc32c:e3069283");
    }
}
