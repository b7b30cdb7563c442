//! A parquet file as the manifest knows it: its rows, and its checksums by column.
//!
//! What polars shall read of a table is checked first, and nothing else of it is read. Of a table that is far away that is
//! kept, and polars gets it as a file in memory ([`excerpt`]). Values are polars' to decode.

use std::collections::HashMap;
use std::ops::Range;

use parquet::errors::Result as ParquetResult;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataWriter};
use serde::{Deserialize, Serialize};

use super::super::files::{changed, named};
use super::sound;
use crate::checksum::{crc32c, crc32c_append};
use crate::error::{DaoError, Result};
use crate::number::zeros;
use crate::storage::File;

/// The end of a parquet file: the length of the footer, little-endian, and the format's mark.
const ENDING: u64 = 8;
const MARK: &[u8] = b"PAR1";

const RESTORE: &str = "restore the file from a copy, or write the dataset again";

/// The rows and the checksums of a parquet file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFile {
    /// The bytes of the file.
    pub size: u64,
    /// Its rows.
    pub rows: u64,
    /// The bytes of its tail, which is all behind the last column chunk: page indexes and the footer.
    pub tail: u64,
    /// CRC-32C of the tail.
    pub tail_crc32c: u32,
    /// CRC-32C of each column (each leaf of the schema): of its chunks in the file's order. A chunk goes up to the next
    /// one, the file's first from its first byte: writers put small things between them.
    pub columns: Vec<u32>,
}

/// The parts of a parquet file, as its footer has them.
struct Layout {
    n_rows: u64,
    /// The first byte of the tail.
    tail: u64,
    /// The name of each leaf's column.
    names: Vec<String>,
    /// The chunks in the file's order.
    chunks: Vec<Chunk>,
}

/// The values of a leaf in a row group.
struct Chunk {
    /// The bytes up to the next chunk.
    range: Range<u64>,
    leaf: usize,
    group: usize,
}

impl TableFile {
    /// The checksums of the table `file`; `path` is for errors.
    ///
    /// # Errors
    /// `Corrupt` for what is no parquet file, or one whose columns overlap.
    pub fn of(file: &dyn File, path: &str) -> Result<Self> {
        let size = file.len();
        let layout = Layout::new(&footer(file, path)?, size, path)?;
        let every = vec![true; layout.names.len()];
        let mut tail_crc32c = 0;
        read_pieces(file, [(layout.tail..size, 0)].into_iter(), |_, bytes| {
            tail_crc32c = crc32c_append(tail_crc32c, bytes);
            Ok(())
        })?;
        let columns = layout.checksums(file, &every)?;
        Ok(Self { size, rows: layout.n_rows, tail: size - layout.tail, tail_crc32c, columns })
    }

    /// Checks that `file` is this one as far as reading `columns` goes; gives its number of rows. Names that it does not
    /// have are for the reader to miss.
    ///
    /// # Errors
    /// `Corrupt` for another size or checksum, and as [`File::read_at`].
    pub fn check(&self, file: &dyn File, path: &str, columns: &[String]) -> Result<u64> {
        let (_, layout) = self.opened(file, path)?;
        let wanted = layout.wanted(columns);
        self.compare(&layout, &wanted, &layout.checksums(file, &wanted)?, path)?;
        Ok(layout.n_rows)
    }

    /// The footer of `file`, which is checked to be this one's.
    fn opened(&self, file: &dyn File, path: &str) -> Result<(ParquetMetaData, Layout)> {
        let other = |what: &str, expected: String, found: String| Err(changed(path, what, expected, found));
        if file.len() != self.size || self.tail > self.size {
            let what = "not the parquet file that was written";
            return other(what, format!("{} bytes", self.size), format!("{} bytes", file.len()));
        }
        let tail = read(file, self.size - self.tail..self.size)?;
        let found = crc32c(&tail);
        if found != self.tail_crc32c {
            let what = "checksum mismatch in the footer: the file is not as it was written";
            return other(what, named(self.tail_crc32c), named(found));
        }
        let metadata = parsed(footer_within(&tail, path)?, path)?;
        let layout = Layout::new(&metadata, self.size, path)?;
        let summary = |rows, columns, tail| format!("{rows} rows, {columns} columns before byte {tail}");
        let expected = summary(self.rows, self.columns.len(), self.size - self.tail);
        let found = summary(layout.n_rows, layout.names.len(), layout.tail);
        if expected != found {
            return other("the footer contradicts the manifest", expected, found);
        }
        Ok((metadata, layout))
    }

    /// Compares the checksums of the leaves that are `wanted` with those that were `found`.
    fn compare(&self, layout: &Layout, wanted: &[bool], found: &[u32], path: &str) -> Result<()> {
        let different = |leaf: &usize| wanted[*leaf] && found[*leaf] != self.columns[*leaf];
        let Some(leaf) = (0..wanted.len()).find(different) else { return Ok(()) };
        let what = format!("checksum mismatch in column '{}': the file is not as it was written", layout.names[leaf]);
        Err(changed(path, &what, named(self.columns[leaf]), named(found[leaf])))
    }
}

/// Reads `columns` of the parquet file `file`, which is checked to be the one that was `written`, if that is known; gives its
/// number of rows, and a parquet file of these columns: the others are named in it, and have no values.
///
/// # Errors
/// As [`TableFile::check`], `Corrupt` for what is no parquet file, and `Value` for what memory does not hold.
pub fn excerpt(written: Option<&TableFile>, file: &dyn File, path: &str, columns: &[String]) -> Result<(u64, Vec<u8>)> {
    let (metadata, layout) = match written {
        Some(written) => written.opened(file, path)?,
        None => {
            let metadata = footer(file, path)?;
            let layout = Layout::new(&metadata, file.len(), path)?;
            (metadata, layout)
        }
    };
    let wanted = layout.wanted(columns);
    let mut end = MARK.len() as u64;
    // Where the bytes of each chunk that is wanted stand in the excerpt, and where they stood.
    let mut moved = HashMap::new();
    for Chunk { range, leaf, group } in layout.chunks.iter().filter(|chunk| wanted[chunk.leaf]) {
        moved.insert((*group, *leaf), (end, range.start));
        end += range.end - range.start;
    }
    let mut bytes = Vec::new();
    let whole = index(end)?;
    bytes.try_reserve_exact(whole).map_err(|_| too_large(end))?;
    bytes.extend_from_slice(MARK);
    let mut found = vec![0; wanted.len()];
    layout.read(file, &wanted, |leaf, part| {
        found[leaf] = crc32c_append(found[leaf], part);
        bytes.extend_from_slice(part);
        Ok(())
    })?;
    if let Some(written) = written {
        written.compare(&layout, &wanted, &found, path)?;
    }
    let n_rows = layout.n_rows;
    sound(path, || {
        let metadata = relocated(metadata, &moved)?;
        ParquetMetaDataWriter::new(&mut bytes, &metadata).with_preserve_page_index_locations(false).finish()
    })?;
    Ok((n_rows, bytes))
}

/// A footer for the chunks that were `moved`; the others are empty.
fn relocated(metadata: ParquetMetaData, moved: &HashMap<(usize, usize), (u64, u64)>) -> ParquetResult<ParquetMetaData> {
    let mut metadata = metadata.into_builder();
    let mut groups = Vec::new();
    for (group, row_group) in metadata.take_row_groups().into_iter().enumerate() {
        let mut row_group = row_group.into_builder();
        let mut chunks = Vec::new();
        for (leaf, chunk) in row_group.take_columns().into_iter().enumerate() {
            // Both lie within a file, whose length is an i64.
            let place = |at: u64| i64::try_from(at).unwrap_or(i64::MAX);
            let moved = moved.get(&(group, leaf)).map(|&(to, from)| place(to) - place(from));
            let by = |offset: i64| moved.map(|by| offset.saturating_add(by));
            let (data, dictionary) = (chunk.data_page_offset(), chunk.dictionary_page_offset());
            let size = if moved.is_some() { chunk.compressed_size() } else { 0 };
            let chunk = chunk.into_builder();
            let chunk = chunk.set_data_page_offset(by(data).unwrap_or_else(|| place(MARK.len() as u64)));
            let chunk = chunk.set_dictionary_page_offset(dictionary.and_then(by)).set_index_page_offset(None);
            let chunk = chunk.set_bloom_filter_offset(None).set_bloom_filter_length(None);
            chunks.push(chunk.set_total_compressed_size(size).build()?);
        }
        groups.push(row_group.set_column_metadata(chunks).build()?);
    }
    Ok(metadata.set_row_groups(groups).build())
}

/// The number of rows that the parquet file `file` says it has; nothing of it is checked.
///
/// # Errors
/// `Corrupt` for what is no parquet file.
pub fn row_count(file: &dyn File, path: &str) -> Result<u64> {
    Ok(n_rows(&footer(file, path)?))
}

fn n_rows(metadata: &ParquetMetaData) -> u64 {
    u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0)
}

impl Layout {
    fn new(metadata: &ParquetMetaData, size: u64, path: &str) -> Result<Self> {
        let leaves = metadata.file_metadata().schema_descr().columns();
        let names = leaves.iter().map(|leaf| leaf.path().parts().first().cloned().unwrap_or_default()).collect();
        let mut chunks = Vec::new();
        for (group, row_group) in metadata.row_groups().iter().enumerate() {
            for (leaf, chunk) in row_group.columns().iter().enumerate() {
                // A chunk's offset or length may be negative, which is a panic there.
                let (start, len) = sound(path, || Ok(chunk.byte_range()))?;
                chunks.push(Chunk { range: start..start.saturating_add(len), leaf, group });
            }
        }
        chunks.sort_by_key(|chunk| chunk.range.start);
        let tail = chunks.last().map_or(MARK.len() as u64, |chunk| chunk.range.end);
        for at in 0..chunks.len() {
            let next = chunks.get(at + 1).map_or(tail, |chunk| chunk.range.start);
            let Chunk { range, leaf, .. } = &mut chunks[at];
            if range.end > next || next > size || *leaf >= leaves.len() {
                return Err(DaoError::corrupt(path, "a parquet file whose columns overlap").hint(RESTORE));
            }
            range.end = next;
        }
        if let Some(first) = chunks.first_mut() {
            first.range.start = 0;
        }
        Ok(Self { n_rows: n_rows(metadata), tail, names, chunks })
    }

    /// Which leaves are of these columns.
    fn wanted(&self, columns: &[String]) -> Vec<bool> {
        self.names.iter().map(|name| columns.contains(name)).collect()
    }

    /// The checksums of the leaves that are `wanted`; 0 for the others.
    fn checksums(&self, file: &dyn File, wanted: &[bool]) -> Result<Vec<u32>> {
        let mut found = vec![0; wanted.len()];
        self.read(file, wanted, |leaf, bytes| {
            found[leaf] = crc32c_append(found[leaf], bytes);
            Ok(())
        })?;
        Ok(found)
    }

    /// Reads the chunks of the leaves that are `wanted`, in the file's order; see [`read_pieces`].
    fn read(&self, file: &dyn File, wanted: &[bool], each: impl FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
        let chunks = self.chunks.iter().filter(|chunk| wanted[chunk.leaf]);
        read_pieces(file, chunks.map(|chunk| (chunk.range.clone(), chunk.leaf)), each)
    }
}

/// Reads ranges, which ascend, and gives `each` of their bytes with what it stands beside, in order: in pieces, and
/// those that lie near each other at once.
pub(in crate::store) fn read_pieces(
    file: &dyn File,
    ranges: impl Iterator<Item = (Range<u64>, usize)>,
    mut each: impl FnMut(usize, &[u8]) -> Result<()>,
) -> Result<()> {
    // A request over the network costs as much as many bytes; a local piece is best still in the processor's cache.
    let (most, gap) = if file.random_access() { (1 << 20, 0) } else { (8 << 20, 256 << 10) };
    let mut pieces = ranges
        .flat_map(|(range, of)| {
            let end = range.end;
            range.step_by(most).map(move |start| (start..end.min(start + most as u64), of))
        })
        .peekable();
    while let Some(first) = pieces.next() {
        let (start, mut end) = (first.0.start, first.0.end);
        let mut together = vec![first];
        while let Some(next) = pieces.next_if(|(next, _)| next.start <= end + gap && next.end <= start + most as u64) {
            end = next.0.end;
            together.push(next);
        }
        let bytes = read(file, start..end)?;
        for (range, of) in together {
            each(of, &bytes[index(range.start - start)?..index(range.end - start)?])?;
        }
    }
    Ok(())
}

/// The bytes of a range within the file.
fn read(file: &dyn File, range: Range<u64>) -> Result<Vec<u8>> {
    let mut bytes = zeros(index(range.end - range.start)?)?;
    file.read_at(range.start, &mut bytes)?;
    Ok(bytes)
}

fn index(bytes: u64) -> Result<usize> {
    usize::try_from(bytes).map_err(|_| too_large(bytes))
}

fn too_large(bytes: u64) -> DaoError {
    DaoError::value(format!("{bytes} bytes do not fit into memory"))
}

/// The footer of the whole file.
fn footer(file: &dyn File, path: &str) -> Result<ParquetMetaData> {
    let size = file.len();
    let ending = read(file, size.saturating_sub(ENDING)..size)?;
    let len = footer_len(&ending, size, path)?;
    parsed(&read(file, size - ENDING - len..size - ENDING)?, path)
}

/// The bytes of the footer within a file's tail.
pub(super) fn footer_within<'a>(tail: &'a [u8], path: &str) -> Result<&'a [u8]> {
    let len = footer_len(tail, tail.len() as u64, path)?;
    let end = tail.len() - MARK.len() - size_of::<u32>();
    Ok(&tail[end - index(len)?..end])
}

/// The length of the footer, as the last bytes of a file of `size` bytes say it.
fn footer_len(ending: &[u8], size: u64, path: &str) -> Result<u64> {
    let len = match ending.last_chunk::<8>() {
        Some([a, b, c, d, mark @ ..]) if mark == MARK => Some(u64::from(u32::from_le_bytes([*a, *b, *c, *d]))),
        _ => None,
    };
    len.filter(|len| len + ENDING <= size).ok_or_else(|| {
        let what = "not a parquet file that can be read: it does not end as one";
        DaoError::corrupt(path, what).hint(RESTORE)
    })
}

fn parsed(bytes: &[u8], path: &str) -> Result<ParquetMetaData> {
    super::footer::decode(bytes, path).map_err(|e| e.hint(RESTORE))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::column::reader::get_typed_column_reader;
    use parquet::data_type::Int64Type;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;
    use crate::error::ErrorKind;
    use crate::storage::{Local, Storage};

    /// A table of columns `a` and `b` in two row groups of three rows each.
    fn table(first: i64) -> Vec<u8> {
        let schema = parse_message_type("message schema { required int64 a; required int64 b; }").unwrap();
        let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::default()).unwrap();
        for values in [[first, 2, 3], [4, 5, 6]] {
            let mut group = writer.next_row_group().unwrap();
            while let Some(mut column) = group.next_column().unwrap() {
                column.typed::<Int64Type>().write_batch(&values, None, None).unwrap();
                column.close().unwrap();
            }
            group.close().unwrap();
        }
        writer.into_inner().unwrap()
    }

    fn with_file<T>(bytes: &[u8], act: impl FnOnce(&dyn File) -> T) -> T {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("t"), bytes).unwrap();
        act(Local::new(folder.path()).unwrap().file("t").unwrap().unwrap().as_ref())
    }

    fn check(written: &TableFile, bytes: &[u8], columns: &[&str]) -> Result<u64> {
        let columns: Vec<String> = columns.iter().map(|&name| name.to_owned()).collect();
        with_file(bytes, |file| written.check(file, "t", &columns))
    }

    #[test]
    fn every_changed_byte_is_in_the_tail_or_in_one_column() {
        let good = table(1);
        let written = with_file(&good, |file| TableFile::of(file, "t")).unwrap();
        assert_eq!(check(&written, &good, &["a", "b", "none"]).unwrap(), 6);
        let mut noticed = [0_u64; 2];
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let of = |columns: &[&str]| check(&written, &bad, columns).map_err(|e| e.kind()).err();
            assert_eq!(of(&["a", "b"]), Some(ErrorKind::Corrupt), "byte {at}");
            let one = [of(&["a"]), of(&["b"])];
            let is_tail = good.len() as u64 - at as u64 <= written.tail;
            assert_eq!(of(&[]).is_some(), is_tail, "byte {at}");
            assert_eq!(one.iter().flatten().count(), if is_tail { 2 } else { 1 }, "byte {at}");
            for (column, noticed) in noticed.iter_mut().enumerate() {
                *noticed += u64::from(one[column].is_some());
            }
        }
        assert!(noticed.iter().all(|&bytes| bytes > written.tail));
    }

    #[test]
    fn an_excerpt_is_a_table_of_the_columns_wanted() {
        use parquet::file::reader::{FileReader, SerializedFileReader};
        let good = table(1);
        let written = with_file(&good, |file| TableFile::of(file, "t")).unwrap();
        for columns in [&["a"][..], &["b"], &["b", "a"], &["none"]] {
            let columns: Vec<String> = columns.iter().map(|&name| name.to_owned()).collect();
            for written in [Some(&written), None] {
                let (n_rows, bytes) = with_file(&good, |file| excerpt(written, file, "t", &columns)).unwrap();
                assert_eq!(n_rows, 6);
                let read = SerializedFileReader::new(bytes::Bytes::from(bytes)).unwrap();
                assert_eq!(read.metadata().num_row_groups(), 2);
                for (group, expected) in [[1, 2, 3], [4, 5, 6]].iter().enumerate() {
                    for leaf in 0..2 {
                        let found = read.metadata().row_group(group).column(leaf);
                        let wanted = columns.contains(&["a", "b"][leaf].to_owned());
                        assert_eq!(found.compressed_size() > 0, wanted);
                        if wanted {
                            let mut values = Vec::new();
                            let group = read.get_row_group(group).unwrap();
                            let mut reader =
                                get_typed_column_reader::<Int64Type>(group.get_column_reader(leaf).unwrap());
                            reader.read_records(3, None, None, &mut values).unwrap();
                            assert_eq!(&values, expected);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_changed_byte_is_noticed_by_an_excerpt_of_it() {
        let good = table(1);
        let written = with_file(&good, |file| TableFile::of(file, "t")).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            for columns in [vec!["a".to_owned()], vec!["b".to_owned()], vec!["a".to_owned(), "b".to_owned()]] {
                let kinds = with_file(&bad, |file| {
                    let checked = written.check(file, "t", &columns).map_err(|e| e.kind()).err();
                    (checked, excerpt(Some(&written), file, "t", &columns).map_err(|e| e.kind()).err())
                });
                assert_eq!(kinds.0, kinds.1, "byte {at}, {columns:?}");
            }
        }
    }

    #[test]
    fn another_file_is_noticed() {
        let good = table(1);
        let written = with_file(&good, |file| TableFile::of(file, "t")).unwrap();
        let twin = table(9);
        assert_eq!(twin.len(), good.len());
        for other in [&twin[..], &[], &good[1..], &[&good[..], b"PAR1"].concat()] {
            assert_eq!(check(&written, other, &["a"]).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn what_a_manifest_claims_is_no_panic() {
        let good = table(1);
        let written = with_file(&good, |file| TableFile::of(file, "t")).unwrap();
        for tail in [0, 1, 8, written.tail - 1, written.tail + 1, written.size, written.size + 1, u64::MAX] {
            let start = usize::try_from(written.size.saturating_sub(tail)).unwrap();
            let tail_crc32c = crc32c(&good[start..]);
            let lying = TableFile { tail, tail_crc32c, ..written.clone() };
            assert_eq!(check(&lying, &good, &["a"]).unwrap_err().kind(), ErrorKind::Corrupt, "{tail}");
        }
        for columns in [vec![], vec![0; 3]] {
            assert!(check(&TableFile { columns, ..written.clone() }, &good, &[]).is_err());
        }
        for rows in [0, 5, u64::MAX] {
            assert!(check(&TableFile { rows, ..written.clone() }, &good, &[]).is_err());
        }
    }

    #[test]
    fn what_is_no_parquet_is_an_error() {
        let good = table(1);
        for bytes in [&b""[..], b"PAR1", b"PAR1PAR1", b"\xff\xff\xff\xffPAR1", &good[..good.len() - 1]] {
            let error = with_file(bytes, |file| TableFile::of(file, "t")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
        assert_eq!(with_file(&good, |file| row_count(file, "t")).unwrap(), 6);
    }

    #[test]
    fn pieces_are_whole_and_in_order() {
        let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let ranges = [(0..7, 0), (7..20, 1), (20..2_500_000, 0), (2_600_000..2_600_001, 1), (5_000_000..12_000_000, 1)];
        let mut found = [Vec::new(), Vec::new()];
        with_file(&bytes, |file| {
            let each = |of: usize, bytes: &[u8]| {
                found[of].extend_from_slice(bytes);
                Ok(())
            };
            read_pieces(file, ranges.iter().cloned(), each).unwrap();
        });
        for (of, found) in found.iter().enumerate() {
            let wanted = ranges.iter().filter(|(_, whose)| *whose == of);
            let wanted = wanted.flat_map(|(range, _)| &bytes[index(range.start).unwrap()..index(range.end).unwrap()]);
            assert!(wanted.eq(found));
        }
    }
}
