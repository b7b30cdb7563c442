//! How an object's file in a cache is laid out; pure.
//!
//! The object's pages at their places, of which any may be absent (a hole); then a table, an entry of eight bytes for each page;
//! then one page that says whose file it is. The pages come first, so that the file is read, and mapped, as the object would be.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::checksum::crc32c;
use crate::storage::seen::Seen;

/// What is present or absent as a whole, in bytes: what a disk gives and memory has.
pub const PAGE: u64 = 4096;
/// The bytes of an entry of the table.
pub const ENTRY: u64 = 8;
/// The form of all this.
const FORM: u32 = 1;
/// What the last page begins with; the length and the checksum of its text follow, four bytes each.
const MAGIC: &[u8; 16] = b"dao-polars cache";
const HEAD: usize = MAGIC.len() + 8;

/// What a page's entry has beside its checksum.
const PRESENT: u64 = 1 << 32;

/// Whose file it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    form: u32,
    /// The store: its address without secrets, and the server where that does not say it.
    pub store: String,
    /// The object's path in the store.
    pub path: String,
    pub seen: Seen,
}

impl Label {
    pub fn new(store: &str, path: &str, seen: &Seen) -> Self {
        Self { form: FORM, store: store.to_owned(), path: path.to_owned(), seen: seen.clone() }
    }

    /// The label as a page; `None` where it is longer than one.
    pub fn page(&self) -> Option<Vec<u8>> {
        let text = serde_json::to_vec(self).ok()?;
        let len = u32::try_from(text.len()).ok()?;
        let mut page = [&MAGIC[..], &len.to_le_bytes(), &crc32c(&text).to_le_bytes(), &text].concat();
        (page.len() as u64 <= PAGE).then(|| {
            page.resize(usize::try_from(PAGE).unwrap_or_default(), 0);
            page
        })
    }

    /// The label in a page; `None` for a page that has none, or is damaged.
    pub fn of(page: &[u8]) -> Option<Self> {
        let (head, rest) = page.split_at_checked(HEAD)?;
        let (magic, numbers) = head.split_at(MAGIC.len());
        let number = |at: usize| Some(u32::from_le_bytes(numbers.get(at..at + 4)?.try_into().ok()?));
        let text = rest.get(..usize::try_from(number(0)?).ok()?)?;
        let label: Self = serde_json::from_slice(text).ok()?;
        (magic == MAGIC && number(4)? == crc32c(text) && label.form == FORM).then_some(label)
    }
}

/// The number of pages of an object.
pub fn n_pages(size: u64) -> u64 {
    size.div_ceil(PAGE)
}

/// The pages that a range lies in.
pub fn pages(range: &Range<u64>) -> Range<u64> {
    if range.is_empty() { 0..0 } else { range.start / PAGE..range.end.div_ceil(PAGE) }
}

/// The bytes of pages of an object, whose last page may be short.
pub fn bytes(pages: &Range<u64>, size: u64) -> Range<u64> {
    pages.start * PAGE..(pages.end * PAGE).min(size)
}

/// The pages that lie whole in a range of an object.
pub fn whole_pages(range: &Range<u64>, size: u64) -> Range<u64> {
    let first = range.start.div_ceil(PAGE);
    let end = if range.end >= size { n_pages(size) } else { range.end / PAGE };
    first..end.max(first)
}

/// Where a page's entry is.
pub fn entry_at(page: u64, size: u64) -> u64 {
    n_pages(size) * PAGE + page * ENTRY
}

/// Where the label is.
pub fn label_at(size: u64) -> u64 {
    entry_at(n_pages(size), size).next_multiple_of(PAGE)
}

/// The length of the file.
pub fn len(size: u64) -> u64 {
    label_at(size) + PAGE
}

/// The entry of a page that is present.
pub fn entry(page: &[u8]) -> u64 {
    PRESENT | u64::from(crc32c(page))
}

/// Whether an entry is one of a page that is present.
pub fn is_present(entry: u64) -> bool {
    entry & !u64::from(u32::MAX) == PRESENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_lies_in_the_place_of_another() {
        for size in [1, PAGE - 1, PAGE, PAGE + 1, 511 * PAGE, 512 * PAGE, 513 * PAGE + 7] {
            let n = n_pages(size);
            assert!(n * PAGE >= size && entry_at(0, size) == n * PAGE);
            assert!(entry_at(n, size) <= label_at(size) && label_at(size) - entry_at(n, size) < PAGE);
            assert_eq!((label_at(size) % PAGE, len(size)), (0, label_at(size) + PAGE));
            assert_eq!(bytes(&(0..n), size), 0..size);
            assert_eq!((whole_pages(&(0..size), size), pages(&(0..size))), (0..n, 0..n));
        }
        assert_eq!((whole_pages(&(1..PAGE), 9 * PAGE), pages(&(1..PAGE))), (1..1, 0..1));
        assert_eq!((whole_pages(&(1..3 * PAGE), 9 * PAGE), pages(&(1..3 * PAGE))), (1..3, 0..3));
        assert_eq!((whole_pages(&(5..9), 9), pages(&(9..9))), (1..1, 0..0));
    }

    #[test]
    fn a_label_comes_back_or_is_none() {
        let seen = Seen { size: 9, tag: Some("\"x\"".to_owned()), modified: None };
        let label = Label::new("s3://bucket/a", "parts/d/shard", &seen);
        let page = label.page().unwrap();
        assert_eq!((page.len() as u64, Label::of(&page)), (PAGE, Some(label)));
        for at in [0, 17, 21, 30, 100] {
            let mut broken = page.clone();
            broken[at] ^= 1;
            assert_eq!(Label::of(&broken), None, "byte {at}");
        }
        assert_eq!((Label::of(&[]), Label::of(&page[..40]), Label::of(&[0; 4096])), (None, None, None));
        assert_eq!(Label::new("s3://bucket/a", &"long/".repeat(1000), &seen).page(), None);
    }

    #[test]
    fn zeros_are_no_entry() {
        assert!(!is_present(0) && is_present(entry(&[])) && is_present(entry(&[7; 4096])) && !is_present(u64::MAX));
    }
}
