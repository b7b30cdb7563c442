//! `dao_polars.pfor` as zarrs knows codecs.

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
use zarrs::plugin::{PluginCreateError, ZarrVersion};

use super::block::{Kind, Stored};
use super::chunk;
use crate::matrix::dtype_of;
use crate::number::{Dtype, for_dtype};

/// The codec's name in zarr metadata.
pub const NAME: &str = "dao_polars.pfor";

/// The codec with its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pfor {
    /// Whether differences of neighbours are stored: for numbers that mostly ascend.
    pub delta: bool,
}

impl Pfor {
    /// How values of `dtype` become small numbers.
    #[must_use]
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
            let words = bytemuck::pod_collect_to_vec::<u8, <T as Stored>::Word>(&bytes);
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
        _shape: &[NonZeroU64],
        data_type: &DataType,
        _fill_value: &FillValue,
    ) -> Result<BytesRepresentation, CodecError> {
        number_type(data_type).map(|_| BytesRepresentation::UnboundedSize)
    }
}

fn number_type(data_type: &DataType) -> Result<Dtype, CodecError> {
    dtype_of(data_type).ok_or_else(|| CodecError::Other(format!("{NAME} holds no {data_type:?}")))
}

fn elements(shape: &[NonZeroU64]) -> Result<usize, CodecError> {
    shape
        .iter()
        .try_fold(1_usize, |n, axis| n.checked_mul(usize::try_from(axis.get()).ok()?))
        .ok_or_else(|| CodecError::Other("a chunk is too large for this machine".into()))
}
