//! The pages of one column of a parquet file, decompressed into no more memory than the file explains.
//!
//! A page says itself how long it becomes and how many values a dictionary has, and the parquet crate takes memory for
//! what it says; of gzip it decodes all there is. So pages are read here, and the crate decodes their values.

use std::io::Read;
use std::vec::IntoIter;

use bytes::Bytes;
use parquet::basic::{Compression, Encoding};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;

use super::thrift::{Kind, Thrift, broken};

/// The bytes that a column may take whatever the size of its file.
const FREE: u64 = 64 << 20;
/// The bytes that a column may take for each byte of its file: more than any table of names compresses to.
const RATIO: u64 = 100;
/// The least bytes that a value in a dictionary takes.
const LEAST_VALUE: usize = 4;

/// The bytes that one column may yet take.
pub struct Budget(u64);

impl Budget {
    /// That of a column in a file of so many bytes.
    pub fn of(file_len: usize) -> Self {
        Self(FREE.saturating_add(RATIO.saturating_mul(file_len as u64)))
    }

    /// Takes `n` bytes; fails where they are not left.
    pub fn take(&mut self, n: usize) -> Result<()> {
        let left = self.0.checked_sub(n as u64);
        self.0 = left.ok_or_else(|| broken("a column becomes far larger than its file"))?;
        Ok(())
    }
}

/// The pages of a column in one row group, decompressed.
pub struct Pages(IntoIter<Page>);

/// The head of a page.
#[derive(Default)]
struct Head {
    /// By their ids: 1 the type, 2 the bytes of the page, 3 those that are stored.
    numbers: [Option<i32>; 4],
    /// 1 the values, 2 the encoding, 3 that of the levels.
    data: Option<[Option<i32>; 5]>,
    /// 1 the values, 2 the encoding.
    dictionary: Option<[Option<i32>; 4]>,
    /// 1 the values, 2 nulls, 3 rows, 4 the encoding, 5 and 6 the bytes of the levels, 7 whether it is compressed.
    data_v2: Option<[Option<i32>; 8]>,
}

impl Pages {
    /// The pages of `chunk`, which lies in `file`.
    pub fn read(file: &Bytes, chunk: &ColumnChunkMetaData, budget: &mut Budget) -> Result<Self> {
        let start = chunk.dictionary_page_offset().unwrap_or_else(|| chunk.data_page_offset());
        let start = usize::try_from(start).ok();
        let range = start.zip(usize::try_from(chunk.compressed_size()).ok()).and_then(|(start, len)| {
            let end = start.checked_add(len).filter(|&end| end <= file.len())?;
            Some(start..end)
        });
        let mut rest = file.slice(range.ok_or_else(|| broken("a column lies outside of the file"))?);
        let (mut pages, mut has_dictionary) = (Vec::new(), false);
        while !rest.is_empty() {
            let mut values = Thrift::new(&rest);
            let head = Head::read(&mut values)?;
            let at = rest.len() - values.rest().len();
            let stored = head.numbers.get(3).copied().flatten().and_then(|len| usize::try_from(len).ok());
            let end = stored.and_then(|len| at.checked_add(len)).filter(|&end| end <= rest.len());
            let end = end.ok_or_else(|| broken("a page goes on past its column"))?;
            let page = head.page(rest.slice(at..end), chunk.compression(), has_dictionary, budget)?;
            has_dictionary |= page.as_ref().is_some_and(Page::is_dictionary_page);
            pages.extend(page);
            rest = rest.slice(end..);
        }
        Ok(Self(pages.into_iter()))
    }
}

impl Head {
    fn read(values: &mut Thrift<'_>) -> Result<Self> {
        let mut head = Self::default();
        values.fields(|values, id, kind| {
            match id {
                1..=3 => head.numbers[usize::from(id.unsigned_abs())] = Some(int(values, kind)?),
                5 => head.data = Some(values.numbers(kind)?),
                7 => head.dictionary = Some(values.numbers(kind)?),
                8 => head.data_v2 = Some(values.numbers(kind)?),
                _ => values.skip(kind)?,
            }
            Ok(())
        })?;
        Ok(head)
    }

    /// The page that is stored as `stored`; `None` for one that holds no values.
    fn page(
        &self,
        stored: Bytes,
        codec: Compression,
        has_dictionary: bool,
        budget: &mut Budget,
    ) -> Result<Option<Page>> {
        let len = count(self.numbers[2])?;
        let mut decompressed = |stored: Bytes, len: usize| {
            if codec == Compression::UNCOMPRESSED {
                return Ok(stored);
            }
            budget.take(len)?;
            decompress(&stored, codec, len).map(Bytes::from)
        };
        Ok(Some(match (self.numbers[1], self.data, self.dictionary, self.data_v2) {
            (Some(0), Some(data), ..) => Page::DataPage {
                buf: decompressed(stored, len)?,
                num_values: value_count(data[1])?,
                encoding: encoding(data[2], has_dictionary)?,
                def_level_encoding: levels(data[3])?,
                rep_level_encoding: Encoding::RLE,
                statistics: None,
            },
            (Some(2), _, Some(dictionary), _) => {
                let buf = decompressed(stored, len)?;
                let num_values = value_count(dictionary[1])?;
                if count(dictionary[1])? > buf.len() / LEAST_VALUE {
                    return Err(broken("a dictionary claims more values than it has bytes for"));
                }
                if !matches!(dictionary[2], Some(0 | 2)) || has_dictionary {
                    return Err(broken("a dictionary that is not as parquet has them"));
                }
                Page::DictionaryPage { buf, num_values, encoding: Encoding::PLAIN, is_sorted: false }
            }
            (Some(3), .., Some(data)) => {
                let [def_levels, rep_levels] = [value_count(data[5])?, value_count(data[6])?];
                let before = count(data[5])?.saturating_add(count(data[6])?);
                let rest_len = len.checked_sub(before).filter(|_| before <= stored.len());
                let rest_len = rest_len.ok_or_else(|| broken("a page is shorter than its levels"))?;
                let is_compressed = data[7] != Some(0);
                let buf = if is_compressed && codec != Compression::UNCOMPRESSED && rest_len > 0 {
                    let rest = decompressed(stored.slice(before..), rest_len)?;
                    [&stored[..before], &rest].concat().into()
                } else {
                    stored
                };
                Page::DataPageV2 {
                    buf,
                    num_values: value_count(data[1])?,
                    encoding: encoding(data[4], has_dictionary)?,
                    num_nulls: value_count(data[2])?,
                    num_rows: value_count(data[3])?,
                    def_levels_byte_len: def_levels,
                    rep_levels_byte_len: rep_levels,
                    is_compressed,
                    statistics: None,
                }
            }
            (Some(1), ..) => return Ok(None),
            _ => return Err(broken("a page of a kind that parquet does not have")),
        }))
    }
}

/// A number of 32 bits, whose type is `kind`.
fn int(values: &mut Thrift<'_>, kind: Kind) -> Result<i32> {
    i32::try_from(values.int(kind)?).map_err(|_| broken("a number of more than 32 bits"))
}

/// A number that must be there, and none below zero.
fn value_count(number: Option<i32>) -> Result<u32> {
    number.and_then(|number| u32::try_from(number).ok()).ok_or_else(|| broken("the head of a page lacks a number"))
}

/// As [`value_count`], in memory.
fn count(number: Option<i32>) -> Result<usize> {
    Ok(value_count(number)? as usize)
}

/// The encoding of values, where the decoder of it takes no memory for what values claim.
fn encoding(number: Option<i32>, has_dictionary: bool) -> Result<Encoding> {
    match number {
        Some(0) => Ok(Encoding::PLAIN),
        Some(2 | 8) if has_dictionary => Ok(Encoding::RLE_DICTIONARY),
        Some(2 | 8) => Err(broken("values of a dictionary that is not there")),
        Some(3) => Ok(Encoding::RLE),
        Some(5) => Ok(Encoding::DELTA_BINARY_PACKED),
        Some(9) => Ok(Encoding::BYTE_STREAM_SPLIT),
        // Strings that share their beginnings would become as many copies of it.
        _ => Err(ParquetError::NYI("names are read in plain and dictionary encoding alone".to_owned())),
    }
}

/// The encoding of the levels that say what is null.
fn levels(number: Option<i32>) -> Result<Encoding> {
    match number {
        Some(3) => Ok(Encoding::RLE),
        #[expect(deprecated, reason = "old files have it")]
        Some(4) => Ok(Encoding::BIT_PACKED),
        _ => Err(broken("levels of an encoding that parquet does not have")),
    }
}

/// The `len` bytes that are stored as `stored`.
fn decompress(stored: &[u8], codec: Compression, len: usize) -> Result<Vec<u8>> {
    let wrong = |e: &dyn std::fmt::Display| broken(&format!("a page cannot be decompressed: {e}"));
    let mut out = Vec::new();
    if len == 0 {
        // Nothing but nulls, of which some writers store no stream.
        return Ok(out);
    }
    out.try_reserve_exact(len).map_err(|e| wrong(&e))?;
    match codec {
        Compression::SNAPPY => {
            if snap::raw::decompress_len(stored).map_err(|e| wrong(&e))? == len {
                out.resize(len, 0);
                snap::raw::Decoder::new().decompress(stored, &mut out).map_err(|e| wrong(&e))?;
            }
        }
        Compression::ZSTD(_) => {
            let mut decoder = zstd::bulk::Decompressor::new().map_err(|e| wrong(&e))?;
            decoder.decompress_to_buffer(stored, &mut out).map_err(|e| wrong(&e))?;
        }
        Compression::GZIP(_) => {
            let stream = flate2::read::MultiGzDecoder::new(stored);
            stream.take(len as u64 + 1).read_to_end(&mut out).map_err(|e| wrong(&e))?;
        }
        other => {
            // The level stands in brackets.
            let name = other.to_string().to_lowercase();
            let name = name.split('(').next().unwrap_or_default();
            return Err(ParquetError::NYI(format!("names are not read in the compression {name}")));
        }
    }
    if out.len() == len { Ok(out) } else { Err(broken("a page has another length than it claims")) }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(Ok)
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        Ok(self.0.next())
    }

    // For columns of lists, and for skipping, neither of which happens here.
    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        Err(ParquetError::NYI("pages are read in order".to_owned()))
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.0.next();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use parquet::basic::{GzipLevel, ZstdLevel};
    use parquet::schema::parser::parse_message_type;
    use parquet::schema::types::SchemaDescriptor;

    use super::*;

    const ZSTD: fn() -> Compression = || Compression::ZSTD(ZstdLevel::default());
    const GZIP: fn() -> Compression = || Compression::GZIP(GzipLevel::default());

    /// A struct of 32-bit numbers by their ids, ascending; and of structs.
    fn fields(numbers: &[(u8, i64)], structs: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let (mut bytes, mut last) = (Vec::new(), 0);
        for &(id, number) in numbers {
            bytes.push((id - last) << 4 | 5);
            let mut zigzag = ((number << 1) ^ (number >> 63)).cast_unsigned();
            while zigzag > 127 {
                bytes.push(u8::try_from(zigzag & 127).unwrap() | 128);
                zigzag >>= 7;
            }
            bytes.push(u8::try_from(zigzag).unwrap());
            last = id;
        }
        for (id, inner) in structs {
            bytes.push((id - last) << 4 | 12);
            bytes.extend(inner);
            last = *id;
        }
        bytes.push(0);
        bytes
    }

    /// A page of plain values, stored as `stored`, that claims `len` bytes.
    fn data(stored: &[u8], len: i64, encoding: i64) -> Vec<u8> {
        let values = fields(&[(1, 3), (2, encoding), (3, 3), (4, 3)], &[]);
        [fields(&[(1, 0), (2, len), (3, stored.len() as i64)], &[(5, values)]), stored.to_vec()].concat()
    }

    fn dictionary(stored: &[u8], n: i64) -> Vec<u8> {
        let len = stored.len() as i64;
        let values = fields(&[(1, n), (2, 0)], &[]);
        [fields(&[(1, 2), (2, len), (3, len)], &[(7, values)]), stored.to_vec()].concat()
    }

    fn read(file: &[u8], codec: Compression) -> Result<Vec<Page>> {
        let schema = parse_message_type("message schema { required binary a (UTF8); }").unwrap();
        let leaf = SchemaDescriptor::new(Arc::new(schema)).column(0);
        let chunk = ColumnChunkMetaData::builder(leaf)
            .set_compression(codec)
            .set_data_page_offset(0)
            .set_total_compressed_size(i64::try_from(file.len()).unwrap())
            .build()
            .unwrap();
        Pages::read(&file.to_vec().into(), &chunk, &mut Budget::of(file.len()))?.collect()
    }

    fn error(file: &[u8], codec: Compression, what: &str) {
        let text = read(file, codec).err().unwrap().to_string();
        assert!(text.contains(what), "{text} ({what})");
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        to.write_all(bytes).unwrap();
        to.finish().unwrap()
    }

    #[test]
    fn pages_come_as_they_are_in_every_codec() {
        let raw = b"twelve bytes";
        let snappy = snap::raw::Encoder::new().compress_vec(raw).unwrap();
        let zstd = zstd::bulk::compress(raw, 1).unwrap();
        for (codec, stored) in [
            (Compression::UNCOMPRESSED, raw.to_vec()),
            (Compression::SNAPPY, snappy),
            (ZSTD(), zstd),
            (GZIP(), gzip(raw)),
        ] {
            let one = data(&stored, 12, 0);
            let pages = read(&[one.clone(), one.clone()].concat(), codec).unwrap();
            assert_eq!(pages.iter().map(|page| &page.buffer()[..]).collect::<Vec<_>>(), [raw; 2]);
            assert_eq!((pages[0].num_values(), pages[0].encoding()), (3, Encoding::PLAIN));
            for cut in 1..one.len() {
                assert!(read(&one[..cut], codec).is_err(), "{codec} {cut}");
            }
            // A byte more or less than is said.
            if codec != Compression::UNCOMPRESSED {
                for len in [11, 13, 0, -1] {
                    assert!(len == 0 || read(&data(&stored, len, 0), codec).is_err(), "{codec} {len}");
                }
            }
            // The second version has its levels before what is compressed.
            let head = fields(&[(1, 3), (2, 0), (3, 3), (4, 0), (5, 2), (6, 0)], &[]);
            let v2 = fields(&[(1, 3), (2, 14), (3, stored.len() as i64 + 2)], &[(8, head)]);
            let pages = read(&[v2, b"LL".to_vec(), stored].concat(), codec).unwrap();
            assert_eq!(&pages[0].buffer()[..], b"LLtwelve bytes");
        }
    }

    #[test]
    fn what_a_page_claims_is_not_believed() {
        let stored = zstd::bulk::compress(&[7; 64], 1).unwrap();
        error(&data(&stored, i64::from(i32::MAX), 0), ZSTD(), "far larger than its file");
        error(&data(&stored, 1 << 40, 0), ZSTD(), "32 bits");
        let bomb = gzip(&vec![0; 32 << 20]);
        error(&data(&bomb, 100, 0), GZIP(), "another length");
        error(&data(&snap::raw::Encoder::new().compress_vec(&[0; 99]).unwrap(), 98, 0), Compression::SNAPPY, "length");
        // Each may be, and all of them together may not.
        let many = data(&zstd::bulk::compress(&vec![0; 8 << 20], 1).unwrap(), 8 << 20, 0).repeat(20);
        assert!(many.len() < 30_000);
        error(&many, ZSTD(), "far larger than its file");
    }

    #[test]
    fn dictionaries_hold_what_they_have_bytes_for() {
        let plain = Compression::UNCOMPRESSED;
        let one = dictionary(b"\x01\0\0\0a\x01\0\0\0b", 2);
        let pages = read(&[one.clone(), data(b"\x01\x02\x00", 3, 8)].concat(), plain).unwrap();
        assert_eq!((pages[0].num_values(), pages[1].encoding()), (2, Encoding::RLE_DICTIONARY));
        for n in [3, 1 << 20, i64::from(i32::MAX)] {
            error(&dictionary(b"\x01\0\0\0a\x01\0\0\0b", n), plain, "more values than it has bytes for");
        }
        error(&data(b"\x01\x02\x00", 3, 8), plain, "a dictionary that is not there");
        error(&[one.clone(), one].concat(), plain, "not as parquet has them");
    }

    #[test]
    fn encodings_whose_decoders_are_not_bounded_are_refused() {
        for encoding in [4, 6, 7, 10, 99] {
            error(&data(b"abc", 3, encoding), Compression::UNCOMPRESSED, "plain and dictionary encoding alone");
        }
        error(&data(b"abc", 3, 0), Compression::LZ4_RAW, "not read in the compression lz4_raw");
    }
}
