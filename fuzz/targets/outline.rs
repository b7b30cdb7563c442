//! Outlines whose head has a checksum that was mended: pieces as they stand there, inside the file, or an error.
//!
//! An input is how many bytes the head has, two of them, and the outline.

use std::collections::BTreeMap;

use bytes::Bytes;
use dao_polars::store::{Contents, Outline, OutlineFile};

use super::pfor_reader::crc;
use crate::store::Memory;

/// Outlines without and with sections that are read later, and pieces of one length.
pub fn seeds() -> Vec<Vec<u8>> {
    let piece = |file: &str, first: u64, len: u64| (file.to_owned(), first, len);
    let small = Contents { sections: vec![vec![piece("part.json", 0, 5), piece("zarr.json", 0, 3)]], many: Vec::new() };
    let large = Contents {
        sections: vec![vec![piece("a", 0, 4), piece("a", 9, 2)], vec![piece("b", 7, 6)]],
        many: vec![piece("c", 3, 4), piece("d", 2, 1)],
    };
    let starts = |starts: &[u64]| starts.iter().flat_map(|start| start.to_le_bytes()).collect::<Vec<u8>>();
    [seed(&small, &[], 8, b""), seed(&large, &starts(&[1, 8, 20, 5]), 6, b"later!pieces too")].into_iter().collect()
}

fn seed(contents: &Contents, starts: &[u8], in_head: usize, rest: &[u8]) -> Vec<u8> {
    let json = serde_json::to_vec(contents).unwrap();
    let head = [&(json.len() as u64).to_le_bytes()[..], &json, starts, &b"12345678"[..in_head]].concat();
    [&(head.len() as u16).to_le_bytes()[..], &head, rest].concat()
}

pub fn check(input: &[u8]) -> Result<(), String> {
    let Some((head, bytes)) = input.split_first_chunk::<2>() else { return Ok(()) };
    let head = usize::from(u16::from_le_bytes(*head)).min(bytes.len());
    let (size, path) = (bytes.len() as u64, "outline".to_owned());
    let file = OutlineFile { path, size, checksum: String::new(), head: head as u64, head_crc32c: crc(&bytes[..head]) };
    let storage = Memory { files: [("p/outline".to_owned(), Bytes::copy_from_slice(bytes))].into(), is_local: false };
    let Ok(outline) = Outline::open(&storage, "p", &file) else { return Ok(()) };
    let wrong = |what: &str, file: &str, at: u64| Err(format!("{what} of '{file}' at {at}"));
    // It was opened, so that all of this stands there.
    let json = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let contents: Contents = serde_json::from_slice(&bytes[8..8 + json]).unwrap();
    let mut at = 8 + json + 8 * contents.many.iter().map(|(_, _, n)| *n as usize).sum::<usize>();
    let mut named = BTreeMap::new();
    contents.sections.iter().flatten().for_each(|(file, ..)| *named.entry(file).or_insert(0) += 1);
    for (file, first, len) in contents.sections.iter().flatten() {
        let found = outline.get(&storage, file, &(*first..first + len)).map_err(|e| e.to_string())?;
        // Of pieces that lie over each other any may be found.
        if named[file] == 1 && found.as_deref() != Some(&bytes[at..at + *len as usize]) {
            return wrong("another piece", file, *first);
        }
        at += *len as usize;
    }
    let mut starts = &bytes[8 + json..];
    for (file, len, n) in &contents.many {
        for _ in 0..*n {
            let (start, later) = starts.split_first_chunk::<8>().unwrap();
            starts = later;
            let start = u64::from_le_bytes(*start);
            let Some(end) = start.checked_add(*len) else { continue };
            let Some(place) = outline.place(file, &(start..end)) else { continue };
            if place.start < at as u64 || place.end > size {
                return wrong("a piece outside", file, start);
            }
            let found = outline.at(&storage, std::slice::from_ref(&place)).map_err(|e| e.to_string())?;
            if found[0] != bytes[place.start as usize..place.end as usize] {
                return wrong("other bytes", file, start);
            }
        }
    }
    Ok(())
}
