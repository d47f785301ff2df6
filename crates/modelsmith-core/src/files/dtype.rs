//! Which element types do files hold, and how do they become `f32` and back?

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

/// Elements converted by one task: 64 Ki, large enough that scheduling costs nothing beside it.
const CHUNK: usize = 1 << 16;

/// Element type of a stored tensor, little-endian, under its safetensors name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// IEEE 16-bit float.
    F16,
    /// The upper half of a 32-bit float.
    BF16,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Signed 16-bit integer.
    I16,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 64-bit integer.
    U64,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 8-bit integer.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

impl DType {
    /// Every supported type.
    pub const ALL: [Self; 13] = [
        Self::F64,
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::I64,
        Self::I32,
        Self::I16,
        Self::I8,
        Self::U64,
        Self::U32,
        Self::U16,
        Self::U8,
        Self::Bool,
    ];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// The name in a safetensors header.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
            Self::U64 => "U64",
            Self::U32 => "U32",
            Self::U16 => "U16",
            Self::U8 => "U8",
            Self::Bool => "BOOL",
        }
    }

    /// Finds the type by its header name; the error tells an unsupported name from an unknown one.
    pub fn parse(name: &str) -> Result<Self, String> {
        if let Some(found) = Self::ALL.into_iter().find(|dtype| dtype.name() == name) {
            return Ok(found);
        }
        let known = Self::ALL.map(Self::name).join(", ");
        let narrow = ["F8_", "F6_", "F4", "C64"];
        if narrow.iter().any(|prefix| name.starts_with(prefix)) {
            return Err(format!(
                "dtype {name} is not supported (supported: {known}); convert the file to BF16 or F32 first"
            ));
        }
        let shown = super::kind::shown(name);
        Err(format!("unknown dtype {shown}; expected one of {known}"))
    }

    /// Whether [`Reader::f32`](super::Reader::f32) turns it into `f32`.
    pub const fn is_readable_as_f32(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Turns `f32` values into this type's bytes, rounding to nearest even.
    ///
    /// Supports F32, F16 and BF16. A finite value that would become infinite is an error
    /// (its index and value are named), for a weight lost that way spoils the model silently.
    pub fn encode(self, values: &[f32]) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0_u8; values.len() * self.size()];
        self.encode_into(values, &mut bytes)?;
        Ok(bytes)
    }

    /// As [`encode`](Self::encode), into bytes of exactly the size that the values take.
    #[inline(always)]
    pub fn encode_into(self, values: &[f32], bytes: &mut [u8]) -> Result<(), String> {
        let expected = values.len() * self.size();
        if bytes.len() != expected {
            return Err(format!(
                "{} values of {} take {expected} bytes, not {}",
                values.len(),
                self.name(),
                bytes.len()
            ));
        }
        let lost = match self {
            Self::F32 => {
                encode_f32(values, bytes);
                false
            }
            Self::F16 => encode_f16(values, bytes),
            Self::BF16 => encode_bf16(values, bytes),
            other => {
                let name = other.name();
                return Err(format!(
                    "f32 values are saved as F32, F16 or BF16, not as {name}"
                ));
            }
        };
        match lost {
            true => Err(self.too_large(values)),
            false => Ok(()),
        }
    }

    /// Names the first finite value that this type cannot hold.
    fn too_large(self, values: &[f32]) -> String {
        let becomes_infinite = |value: f32| match self {
            Self::F16 => f16::from_f32(value).is_infinite(),
            _ => bf16::from_f32(value).is_infinite(),
        };
        let lost = |value: &f32| value.is_finite() && becomes_infinite(*value);
        let index = values.iter().position(lost).unwrap_or(0);
        format!(
            "element {index} is {:e}, too large for {}; save as F32 or BF16",
            values.get(index).copied().unwrap_or(f32::NAN),
            self.name()
        )
    }

    /// Turns stored bytes of F32, F16 or BF16 into `f32` values, exactly; signalling NaNs become
    /// quiet. The bytes need no alignment.
    ///
    /// # Errors
    /// Another type, or bytes that do not fit the values.
    #[inline(always)]
    pub fn decode_into(self, bytes: &[u8], values: &mut [f32]) -> Result<(), String> {
        if bytes.len() != values.len() * self.size() {
            return Err(format!(
                "{} bytes of {} are not {} values",
                bytes.len(),
                self.name(),
                values.len()
            ));
        }
        match self {
            Self::F32 => decode_f32(bytes, values),
            Self::F16 => decode_f16(bytes, values),
            Self::BF16 => decode_bf16(bytes, values),
            other => return Err(format!("{} is no type of weights", other.name())),
        }
        Ok(())
    }
}

#[inline(always)]
fn encode_f32(values: &[f32], bytes: &mut [u8]) {
    if cfg!(target_endian = "little") {
        bytes.copy_from_slice(bytemuck::cast_slice(values));
    } else {
        for (out, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
            *out = value.to_le_bytes();
        }
    }
}

/// Whether a finite value became infinite.
fn encode_f16(values: &[f32], bytes: &mut [u8]) -> bool {
    let mut aligned = [f16::ZERO; 512];
    let mut lost = false;
    for (values, bytes) in values.chunks(512).zip(bytes.chunks_mut(1024)) {
        let part = &mut aligned[..values.len()];
        part.convert_from_f32_slice(values);
        let pairs = part.iter().zip(values);
        for (out, (half, value)) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
            *out = half.to_le_bytes();
            lost |= half.is_infinite() & value.is_finite();
        }
    }
    lost
}

/// Whether a finite value became infinite. Rounds in integers, which every processor does many
/// at a time; NaNs keep their sign and leading digits, made quiet, as the half crate has it.
#[inline(always)]
fn encode_bf16(values: &[f32], bytes: &mut [u8]) -> bool {
    const INFINITE: u32 = 0x7f80_0000;
    let mut lost = false;
    for (out, value) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(values) {
        let bits = value.to_bits();
        let size = bits & 0x7fff_ffff;
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
        let kept = if size > INFINITE {
            bits | 0x40_0000
        } else {
            rounded
        };
        lost |= (size < INFINITE) & (rounded & 0x7fff_0000 == INFINITE);
        *out = ((kept >> 16) as u16).to_le_bytes();
    }
    lost
}

/// Turns stored bytes of F32, F16 or BF16 into values, in parallel; `None` for any other type.
///
/// The bytes need no alignment. The conversion to `f32` is exact; signalling NaNs become quiet.
pub(super) fn decode(dtype: DType, bytes: &[u8]) -> Option<Vec<f32>> {
    let mut values = vec![0.0_f32; bytes.len() / dtype.size()];
    let tasks = values
        .par_chunks_mut(CHUNK)
        .zip(bytes.par_chunks(CHUNK * dtype.size()));
    match dtype {
        DType::F32 => tasks.for_each(|(out, bytes)| decode_f32(bytes, out)),
        DType::F16 => tasks.for_each(|(out, bytes)| decode_f16(bytes, out)),
        DType::BF16 => tasks.for_each(|(out, bytes)| decode_bf16(bytes, out)),
        _ => return None,
    }
    Some(values)
}

#[inline(always)]
fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    if cfg!(target_endian = "little") {
        bytemuck::cast_slice_mut::<f32, u8>(out).copy_from_slice(bytes);
    } else {
        for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *out = f32::from_le_bytes(*bytes);
        }
    }
}

/// Goes through a small aligned buffer, so that the processor's own conversion can be used on
/// unaligned bytes too.
fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    let mut aligned = [f16::ZERO; 512];
    for (out, bytes) in out.chunks_mut(512).zip(bytes.chunks(1024)) {
        let part = &mut aligned[..out.len()];
        for (half, bytes) in part.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *half = f16::from_le_bytes(*bytes);
        }
        part.convert_to_f32_slice(out);
    }
}

#[inline(always)]
fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *out = bf16::from_le_bytes(*bytes).to_f32();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All 65,536 patterns: subnormals, infinities and NaNs included.
    fn every_half() -> Vec<u8> {
        (0..=u16::MAX).flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn every_half_pattern_converts_as_the_half_crate_does() {
        let bytes = every_half();
        let from_f16 = decode(DType::F16, &bytes).unwrap();
        let from_bf16 = decode(DType::BF16, &bytes).unwrap();
        for bits in 0..=u16::MAX {
            let index = usize::from(bits);
            assert_eq!(
                from_f16[index].to_bits(),
                f16::from_bits(bits).to_f32().to_bits()
            );
            assert_eq!(
                from_bf16[index].to_bits(),
                bf16::from_bits(bits).to_f32().to_bits()
            );
        }
    }

    #[test]
    fn every_half_pattern_but_signalling_nans_survives_the_way_there_and_back() {
        let bytes = every_half();
        for dtype in [DType::F16, DType::BF16] {
            let values = decode(dtype, &bytes).unwrap();
            let back = dtype.encode(&values).unwrap();
            for (index, value) in values.iter().enumerate() {
                if !value.is_nan() {
                    assert_eq!(
                        back[2 * index..2 * index + 2],
                        bytes[2 * index..2 * index + 2]
                    );
                }
            }
        }
    }

    #[test]
    fn rounding_is_that_of_the_half_crate() {
        let mut values: Vec<f32> = (0..200_000_u32)
            .map(|i| f32::from_bits(i.wrapping_mul(21_467)))
            .filter(|value| value.abs() < 60_000.0 || value.is_nan())
            .collect();
        values.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40]);
        let halves = DType::BF16.encode(&values).unwrap();
        let small = DType::F16.encode(&values).unwrap();
        for (index, value) in values.iter().enumerate() {
            let at = 2 * index..2 * index + 2;
            assert_eq!(
                halves[at.clone()],
                bf16::from_f32(*value).to_le_bytes(),
                "{value:e}"
            );
            let expected = f16::from_f32(*value);
            let found = f16::from_le_bytes([small[at.start], small[at.start + 1]]);
            assert!(
                found == expected || (found.is_nan() && expected.is_nan()),
                "{value:e}"
            );
        }
    }

    #[test]
    fn f32_keeps_its_bits_from_any_alignment() {
        let values = [1.5_f32, f32::NAN, -0.0, f32::INFINITY, 1e-45];
        let mut padded = vec![7_u8];
        padded.extend(DType::F32.encode(&values).unwrap());
        let read = decode(DType::F32, &padded[1..]).unwrap();
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&read), bits(&values));
    }

    #[test]
    fn overflow_to_infinity_is_refused_and_infinity_itself_kept() {
        let problem = DType::F16.encode(&[1.0, 1e6]).unwrap_err();
        assert!(problem.contains("element 1 is 1e6"), "{problem}");
        assert!(DType::F16.encode(&[f32::INFINITY]).is_ok());
        assert!(DType::I8.encode(&[1.0]).is_err());
    }

    #[test]
    fn names_are_found_and_others_explained() {
        for dtype in DType::ALL {
            assert_eq!(DType::parse(dtype.name()), Ok(dtype));
        }
        assert!(
            DType::parse("F8_E4M3")
                .unwrap_err()
                .contains("not supported")
        );
        assert!(DType::parse("f32").unwrap_err().contains("unknown dtype"));
    }
}
