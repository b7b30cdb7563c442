//! Inner chunks decoded, step by step, each step into no more memory than it can need.
//!
//! A compressed stream says itself how long it becomes, and zarrs believes it: some bytes that claim 64 GiB would end
//! the process, and a bomb of a megabyte fill memory with a gigabyte of zeros. What a chunk becomes is known from its
//! shape, so a chain of codecs is run here and not by zarrs: streams are decoded into a buffer of the length
//! expected, steps that keep the length are zarrs', and codecs that would allocate by other rules are refused.

use std::borrow::Cow;
use std::io::{self, Read};
use std::sync::Arc;

use zarrs::array::codec::{
    Adler32Codec, BitroundCodec, BloscCodec, BytesCodec, Bz2Codec, CodecChain, Crc32cCodec, FixedScaleOffsetCodec,
    Fletcher32Codec, GzipCodec, PackBitsCodec, PcodecCodec, ShuffleCodec, SqueezeCodec, TransposeCodec, ZlibCodec,
    ZstdCodec, blosc_validate,
};
use zarrs::array::{
    ArrayBytes, BytesRepresentation, BytesToBytesCodecTraits, ChunkShape, CodecMetadataOptions, CodecOptions, DataType,
    FillValue,
};

use crate::codec::{Pfor, dtype_of};
use crate::number::{for_dtype, zeros};

/// The most bytes of a chunk that is encoded: no more go into one frame of blosc, or through numcodecs.
pub const MAX_ENCODED: u64 = (1 << 31) - 1;
/// The most bytes of a chunk that is stored as it is: what can be addressed.
const MAX_PLAIN: u64 = 1 << 47;
/// The bytes of a step from which on memory for it is tried before zarrs asks for it, which cannot fail politely.
const LARGE: usize = 32 << 20;

/// Why a chunk cannot be decoded.
type Why = Box<dyn std::fmt::Display>;

/// A chain of codecs that decodes chunks of one shape.
pub struct Decoder {
    codecs: Arc<CodecChain>,
    /// The array before each array → array codec, and the one that becomes bytes.
    arrays: Vec<(ChunkShape, DataType, FillValue)>,
    /// The most bytes before each bytes → bytes codec.
    limits: Vec<usize>,
    /// The bytes of a chunk's values.
    len: usize,
    options: CodecOptions,
}

impl Decoder {
    /// The decoder of chunks of `shape`; or why there is none: the chunks are too large, or a codec is not known.
    pub fn new(
        codecs: Arc<CodecChain>,
        shape: &ChunkShape,
        data_type: &DataType,
        fill_value: &FillValue,
        options: CodecOptions,
    ) -> Result<Self, String> {
        known(&codecs)?;
        let is_plain = codecs.array_to_bytes_codec().as_any().is::<BytesCodec>()
            && codecs.array_to_array_codecs().is_empty()
            && codecs.bytes_to_bytes_codecs().is_empty();
        let most = if is_plain { MAX_PLAIN } else { MAX_ENCODED };
        let len = bounded_len(shape, data_type, most)?;
        let failed = |e: &dyn std::fmt::Display| e.to_string();
        let mut arrays = vec![(shape.clone(), data_type.clone(), fill_value.clone())];
        for codec in codecs.array_to_array_codecs() {
            let (shape, data_type, fill_value) = &arrays[arrays.len() - 1];
            let encoded = codec.encoded_representation(shape, data_type, fill_value).map_err(|e| failed(&e))?;
            bounded_len(&encoded.0, &encoded.1, most)?;
            arrays.push(encoded);
        }
        let (shape, data_type, fill_value) = &arrays[arrays.len() - 1];
        let mut bytes = codecs
            .array_to_bytes_codec()
            .encoded_representation(shape, data_type, fill_value)
            .map_err(|e| failed(&e))?;
        let mut limits = Vec::new();
        for codec in codecs.bytes_to_bytes_codecs() {
            limits.push(limit(&bytes));
            bytes = codec.encoded_representation(&bytes);
        }
        Ok(Self { codecs, arrays, limits, len, options })
    }

    /// The bytes of a chunk's values.
    pub fn chunk_bytes(&self) -> usize {
        self.len
    }

    /// The bytes of a chunk's values, from those that are stored.
    pub fn decode<'a>(&self, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>, Why> {
        let mut bytes = Cow::Borrowed(bytes);
        for (codec, &limit) in self.codecs.bytes_to_bytes_codecs().iter().zip(&self.limits).rev() {
            bytes = self.decompress(codec, bytes, limit)?;
        }
        let [.., (shape, data_type, fill_value)] = &self.arrays[..] else { return Err(Box::new("no chunk")) };
        let codec = self.codecs.array_to_bytes_codec();
        let mut values = if codec.as_any().is::<PcodecCodec>() {
            ArrayBytes::from(unpack(&bytes, shape, data_type)?)
        } else {
            // Twice: once for the codec itself.
            room(self.len.saturating_mul(2))?;
            codec.decode(bytes, shape, data_type, fill_value, &self.options).map_err(why)?
        };
        let before = self.codecs.array_to_array_codecs().iter().zip(&self.arrays);
        for (codec, (shape, data_type, fill_value)) in before.rev() {
            room(self.len)?;
            values = codec.decode(values, shape, data_type, fill_value, &self.options).map_err(why)?;
        }
        let ArrayBytes::Fixed(raw) = values else { return Err(Box::new("not of fixed-size numbers")) };
        if raw.len() != self.len {
            return Err(Box::new(format!("expected {} bytes, found {}", self.len, raw.len())));
        }
        Ok(raw)
    }

    /// The bytes before a codec encoded them, at most `limit`.
    fn decompress<'a>(
        &self,
        codec: &Arc<dyn BytesToBytesCodecTraits>,
        bytes: Cow<'a, [u8]>,
        limit: usize,
    ) -> Result<Cow<'a, [u8]>, Why> {
        let any = codec.as_any();
        let decoded = if any.is::<ZstdCodec>() {
            reserved(limit).and_then(|mut out| {
                zstd::bulk::Decompressor::new()?.decompress_to_buffer(&bytes, &mut out)?;
                Ok(out)
            })
        } else if any.is::<GzipCodec>() {
            read(flate2::read::GzDecoder::new(&*bytes), limit)
        } else if any.is::<ZlibCodec>() {
            read(flate2::read::ZlibDecoder::new(&*bytes), limit)
        } else if any.is::<Bz2Codec>() {
            read(bzip2::read::BzDecoder::new(&*bytes), limit)
        } else {
            if any.is::<BloscCodec>() {
                let claimed = blosc_validate(&bytes).ok_or_else(|| why("not a frame of blosc"))?;
                if claimed > limit {
                    return Err(why(format!("a frame of blosc claims {claimed} bytes, where {limit} are the most")));
                }
                // c-blosc takes three blocks beside its output; a block may be all there is.
                room(claimed.saturating_mul(4))?;
            }
            // The others keep the length, or take a checksum off.
            room(bytes.len())?;
            let decoded_as = BytesRepresentation::BoundedSize(limit as u64);
            return codec.decode(bytes, &decoded_as, &self.options).map_err(why);
        };
        decoded.map(Cow::Owned).map_err(|e| why(format!("{e}, where at most {limit} bytes belong")))
    }
}

/// Refuses codecs whose decoders are not bounded here.
pub fn known(codecs: &CodecChain) -> Result<(), String> {
    let refuse = |name: Option<Cow<'_, str>>| {
        Err(format!("the codec '{}' is not read, or not in this place", name.as_deref().unwrap_or("without a name")))
    };
    for codec in codecs.array_to_array_codecs() {
        let any = codec.as_any();
        if !(any.is::<TransposeCodec>()
            || any.is::<BitroundCodec>()
            || any.is::<FixedScaleOffsetCodec>()
            || any.is::<SqueezeCodec>())
        {
            return refuse(codec.name_v3());
        }
    }
    let codec = codecs.array_to_bytes_codec();
    let any = codec.as_any();
    if !(any.is::<BytesCodec>() || any.is::<Pfor>() || any.is::<PcodecCodec>() || any.is::<PackBitsCodec>()) {
        return refuse(codec.name_v3());
    }
    for codec in codecs.bytes_to_bytes_codecs() {
        let any = codec.as_any();
        // zarrs divides by the size of an element.
        let configuration = codec.configuration_v3(&CodecMetadataOptions::default());
        let element = configuration.as_ref().and_then(|codec| codec.get("elementsize")?.as_u64());
        let is_known = any.is::<ZstdCodec>()
            || any.is::<GzipCodec>()
            || any.is::<ZlibCodec>()
            || any.is::<Bz2Codec>()
            || any.is::<BloscCodec>()
            || any.is::<Crc32cCodec>()
            || any.is::<Adler32Codec>()
            || any.is::<Fletcher32Codec>()
            || any.is::<ShuffleCodec>() && element != Some(0);
        if !is_known {
            return refuse(codec.name_v3());
        }
    }
    Ok(())
}

/// The bytes of a chunk of `shape`, at most `most`.
fn bounded_len(shape: &ChunkShape, data_type: &DataType, most: u64) -> Result<usize, String> {
    let size = data_type.fixed_size().unwrap_or(1) as u64;
    let len = shape.iter().try_fold(size, |len, axis| len.checked_mul(axis.get())).filter(|&len| len <= most);
    len.and_then(|len| usize::try_from(len).ok()).ok_or_else(|| {
        let shape: Vec<u64> = shape.iter().map(|axis| axis.get()).collect();
        format!("its metadata claim chunks of shape {shape:?}, and {most} bytes are the most of a chunk")
    })
}

/// The most bytes of a representation. Where zarrs tells only how large its own encoders make it, others may need some
/// more.
fn limit(bytes: &BytesRepresentation) -> usize {
    let limit = match *bytes {
        BytesRepresentation::FixedSize(size) => size,
        BytesRepresentation::BoundedSize(size) => size.saturating_add(size / 8).saturating_add(64 << 10),
        BytesRepresentation::UnboundedSize => MAX_ENCODED,
    };
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// All of a stream, which has at most `limit` bytes.
fn read(stream: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut out = reserved(limit)?;
    stream.take((limit as u64).saturating_add(1)).read_to_end(&mut out)?;
    if out.len() > limit { Err(io::Error::other("a stream goes on")) } else { Ok(out) }
}

/// An empty vector with room for `len` bytes.
fn reserved(len: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    out.try_reserve_exact(len)?;
    Ok(out)
}

/// Fails where there is no memory for `len` bytes, which the process would otherwise end of.
pub fn room(len: usize) -> Result<(), Why> {
    if len < LARGE {
        return Ok(());
    }
    reserved(len).map(drop).map_err(why)
}

/// The bytes of the values that pcodec packed.
fn unpack(bytes: &[u8], shape: &ChunkShape, data_type: &DataType) -> Result<Vec<u8>, Why> {
    let dtype = dtype_of(data_type).ok_or_else(|| why("pcodec holds numbers alone"))?;
    let n = bounded_len(shape, data_type, MAX_ENCODED).map_err(why)? / dtype.size();
    let mut raw = zeros::<u8>(n * dtype.size()).map_err(why)?;
    for_dtype!(dtype, T => {
        let mut values = zeros::<T>(n).map_err(why)?;
        let done = pco::standalone::simple_decompress_into(bytes, &mut values).map_err(why)?;
        if !done.finished || done.n_processed != n {
            return Err(why(format!("expected {n} values, found {} or more", done.n_processed)));
        }
        raw.copy_from_slice(bytemuck::cast_slice(&values));
    });
    Ok(raw)
}

fn why(e: impl std::fmt::Display + 'static) -> Why {
    Box::new(e)
}

#[cfg(test)]
mod tests;
