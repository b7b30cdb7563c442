//! `dao_polars.pfor` as zarrs knows codecs, and number types as zarrs names them.
//! <https://docs.rs/zarrs/latest/zarrs/array/codec/trait.ArrayToBytesCodecTraits.html>

use std::borrow::Cow;
use std::num::NonZeroU64;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zarrs::array::codec::api::{
    ArrayCodecTraits, CodecError, CodecMetadataOptions, CodecPluginV3, CodecTraits, CodecTraitsV3,
    PartialDecoderCapability, PartialEncoderCapability, RecommendedConcurrency,
};
use zarrs::array::{
    ArrayBytes, ArrayBytesRaw, ArrayToBytesCodecTraits, BytesRepresentation, Codec, CodecOptions, DataType, FillValue,
};
use zarrs::metadata::Configuration;
use zarrs::metadata::v3::MetadataV3;
use zarrs::plugin::{ExtensionName, PluginCreateError, ZarrVersion};

use super::block::Kind;
use super::chunk;
use crate::number::{Dtype, Num, for_dtype};

/// The codec's name in zarr metadata.
pub const NAME: &str = "dao_polars.pfor";

/// The codec `dao_polars.pfor` with its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pfor {
    /// Whether differences of neighbours are stored: for numbers that mostly ascend.
    pub delta: bool,
}

impl Pfor {
    /// The way in which values of `dtype` become small numbers.
    pub fn kind(self, dtype: Dtype) -> Kind {
        match (dtype.is_float(), self.delta) {
            (true, _) => Kind::Dictionary,
            (false, true) => Kind::Delta,
            (false, false) => Kind::Plain,
        }
    }
}

zarrs::plugin::impl_extension_aliases!(Pfor, v3: "dao_polars.pfor");

inventory::submit! { CodecPluginV3::new::<Pfor>() }

impl CodecTraitsV3 for Pfor {
    fn create(metadata: &MetadataV3) -> Result<Codec, PluginCreateError> {
        let configuration: Self = metadata.to_typed_configuration()?;
        Ok(Codec::ArrayToBytes(Arc::new(configuration)))
    }
}

impl CodecTraits for Pfor {
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn configuration(&self, _version: ZarrVersion, _options: &CodecMetadataOptions) -> Option<Configuration> {
        serde_json::to_value(self).ok()?.as_object().cloned().map(Configuration::from)
    }

    fn partial_decoder_capability(&self) -> PartialDecoderCapability {
        PartialDecoderCapability { partial_read: false, partial_decode: false }
    }

    fn partial_encoder_capability(&self) -> PartialEncoderCapability {
        PartialEncoderCapability { partial_encode: false }
    }
}

impl ArrayCodecTraits for Pfor {
    fn recommended_concurrency(
        &self,
        _shape: &[NonZeroU64],
        _data_type: &DataType,
    ) -> Result<RecommendedConcurrency, CodecError> {
        Ok(RecommendedConcurrency::new_maximum(1))
    }
}

impl ArrayToBytesCodecTraits for Pfor {
    fn into_dyn(self: Arc<Self>) -> Arc<dyn ArrayToBytesCodecTraits> {
        self
    }

    fn encode<'a>(
        &self,
        bytes: ArrayBytes<'a>,
        _shape: &[NonZeroU64],
        data_type: &DataType,
        _fill_value: &FillValue,
        _options: &CodecOptions,
    ) -> Result<ArrayBytesRaw<'a>, CodecError> {
        let dtype = number_type(data_type)?;
        let bytes = bytes.into_fixed()?;
        for_dtype!(dtype, T => {
            let words = bytemuck::pod_collect_to_vec::<u8, <T as Num>::Word>(&bytes);
            chunk::encode(&words, self.kind(dtype)).map(Cow::Owned).map_err(|e| CodecError::Other(e.to_string()))
        })
    }

    fn decode<'a>(
        &self,
        bytes: ArrayBytesRaw<'a>,
        shape: &[NonZeroU64],
        data_type: &DataType,
        _fill_value: &FillValue,
        _options: &CodecOptions,
    ) -> Result<ArrayBytes<'a>, CodecError> {
        let dtype = number_type(data_type)?;
        let n = elements(shape)?;
        for_dtype!(dtype, T => {
            let values = chunk::decode::<T>(&bytes, n, self.kind(dtype)).map_err(|e| CodecError::Other(e.to_string()))?;
            Ok(ArrayBytes::from(bytemuck::cast_slice::<T, u8>(&values).to_vec()))
        })
    }

    fn encoded_representation(
        &self,
        shape: &[NonZeroU64],
        data_type: &DataType,
        _fill_value: &FillValue,
    ) -> Result<BytesRepresentation, CodecError> {
        number_type(data_type)?;
        Ok(BytesRepresentation::BoundedSize(chunk::max_len(elements(shape)?)))
    }
}

/// The number type of a zarr data type; `None` for one that is no number. Bools are stored as bytes.
pub fn dtype_of(found: &DataType) -> Option<Dtype> {
    Dtype::from_name(&found.name_v3()?).ok()
}

/// The number type as [`dtype_of`] gives it, or the error that this codec holds no such values.
fn number_type(data_type: &DataType) -> Result<Dtype, CodecError> {
    dtype_of(data_type).ok_or_else(|| CodecError::Other(format!("{NAME} holds no {data_type:?}")))
}

/// The number of elements in a chunk.
fn elements(shape: &[NonZeroU64]) -> Result<usize, CodecError> {
    shape
        .iter()
        .try_fold(1_usize, |n, axis| n.checked_mul(usize::try_from(axis.get()).ok()?))
        .ok_or_else(|| CodecError::Other("a chunk is too large for this machine".into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zarrs::array::codec::CodecChain;
    use zarrs::array::data_type;

    use super::*;

    fn chain(configuration: &str) -> Result<CodecChain, String> {
        let metadata: MetadataV3 =
            serde_json::from_str(&format!(r#"{{"name": "{NAME}", "configuration": {configuration}}}"#)).unwrap();
        CodecChain::from_metadata(&[metadata]).map_err(|e| e.to_string())
    }

    fn decode(bytes: &[u8], n: u64, dtype: &DataType, zero: &FillValue) -> Result<Vec<u8>, String> {
        let shape = [NonZeroU64::new(n).unwrap()];
        let chain = chain(r#"{"delta": true}"#).unwrap();
        let decoded = chain.decode(bytes.into(), &shape, dtype, zero, &CodecOptions::default());
        decoded.map_err(|e| e.to_string()).map(|bytes| bytes.into_fixed().unwrap().into_owned())
    }

    proptest! {
        #[test]
        fn chunks_come_back_or_are_an_error(
            values in prop::collection::vec(any::<i32>(), 1..1500), at: prop::sample::Index, bit in 0_u8..8, cut: bool,
        ) {
            let (dtype, zero) = (data_type::int32(), FillValue::from(0_i32));
            let raw: &[u8] = bytemuck::cast_slice(&values);
            let shape = [NonZeroU64::new(values.len() as u64).unwrap()];
            let bytes = ArrayBytes::new_flen(raw);
            let encoded = chain(r#"{"delta": true}"#).unwrap()
                .encode(bytes, &shape, &dtype, &zero, &CodecOptions::default()).unwrap();
            let n = values.len() as u64;
            prop_assert_eq!(decode(&encoded, n, &dtype, &zero).unwrap(), raw);
            let mut damaged = encoded.to_vec();
            let at = at.index(damaged.len());
            damaged[at] ^= 1 << bit;
            damaged.truncate(if cut { at } else { damaged.len() });
            prop_assert!(decode(&damaged, n, &dtype, &zero).is_err());
            prop_assert!(decode(&encoded, n + 512, &dtype, &zero).is_err());
        }
    }

    #[test]
    fn configurations_that_are_not_the_codec_s_are_refused() {
        assert!(chain(r#"{"delta": false}"#).is_ok());
        for configuration in ["{}", r#"{"delta": 1}"#, r#"{"delta": true, "other": 1}"#] {
            assert!(chain(configuration).is_err(), "{configuration}");
        }
    }

    #[test]
    fn other_types_than_numbers_are_refused() {
        let error = decode(&[0; 100], 4, &data_type::complex64(), &FillValue::new(vec![0; 8])).unwrap_err();
        assert!(error.contains("dao_polars.pfor holds no"), "{error}");
        assert_eq!(dtype_of(&data_type::bool()), Some(Dtype::U8));
        assert_eq!(dtype_of(&data_type::string()), None);
    }

    #[test]
    fn floats_are_looked_up_and_integers_are_near_each_other() {
        let kinds = [(Dtype::F32, true), (Dtype::F64, false), (Dtype::I32, true), (Dtype::U8, false)];
        let kinds = kinds.map(|(dtype, delta)| Pfor { delta }.kind(dtype));
        assert_eq!(kinds, [Kind::Dictionary, Kind::Dictionary, Kind::Delta, Kind::Plain]);
    }
}
