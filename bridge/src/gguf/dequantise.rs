//! Blocks of few bits as `f32`: every product and sum is rounded on its own, in the order of the reference implementation, so that the
//! results are the same to the last bit.

use half::{bf16, f16};

/// How a tensor is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// What can be read, for errors.
pub(super) const KNOWN: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or Q6_K";

/// The name of a type by its number, for errors.
pub(super) fn name_of(number: u32) -> &'static str {
    const NAMES: [&str; 40] = [
        "F32",
        "F16",
        "Q4_0",
        "Q4_1",
        "Q4_2",
        "Q4_3",
        "Q5_0",
        "Q5_1",
        "Q8_0",
        "Q8_1",
        "Q2_K",
        "Q3_K",
        "Q4_K",
        "Q5_K",
        "Q6_K",
        "Q8_K",
        "IQ2_XXS",
        "IQ2_XS",
        "IQ3_XXS",
        "IQ1_S",
        "IQ4_NL",
        "IQ3_S",
        "IQ2_S",
        "IQ4_XS",
        "I8",
        "I16",
        "I32",
        "I64",
        "F64",
        "IQ1_M",
        "BF16",
        "Q4_0_4_4",
        "Q4_0_4_8",
        "Q4_0_8_8",
        "TQ1_0",
        "TQ2_0",
        "IQ4_NL_4_4",
        "IQ4_NL_4_8",
        "IQ4_NL_8_8",
        "MXFP4",
    ];
    NAMES.get(number as usize).unwrap_or(&"an unknown type")
}

impl Kind {
    /// The type with this number in the file.
    pub fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            30 => Self::Bf16,
            _ => return None,
        })
    }

    /// Values of a block, and its bytes.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
        }
    }

    /// The values of whole blocks.
    pub fn values(self, bytes: &[u8]) -> Vec<f32> {
        let (size, width) = self.block();
        let mut out = vec![0.0; bytes.len() / width * size];
        let blocks = bytes.chunks_exact(width).zip(out.chunks_exact_mut(size));
        for (block, out) in blocks {
            match self {
                Self::F32 => out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
                Self::F16 => out[0] = half(block),
                Self::Bf16 => out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32(),
                Self::Q4_0 => four_bits(half(block), &block[2..], out, |d, q| d * (q - 8) as f32),
                Self::Q4_1 => {
                    let m = half(&block[2..]);
                    four_bits(half(block), &block[4..], out, |d, q| d * q as f32 + m);
                }
                Self::Q5_0 => five_bits(half(block), &block[2..], out, |d, q| d * (q - 16) as f32),
                Self::Q5_1 => {
                    let m = half(&block[2..]);
                    five_bits(half(block), &block[4..], out, |d, q| d * q as f32 + m);
                }
                Self::Q8_0 => {
                    let d = half(block);
                    for (out, q) in out.iter_mut().zip(&block[2..]) {
                        *out = d * f32::from(q.cast_signed());
                    }
                }
                Self::Q4K => q4_k(block, out),
                Self::Q5K => q5_k(block, out),
                Self::Q6K => q6_k(block, out),
            }
        }
        out
    }
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// The low halves of sixteen bytes, then the high ones.
fn four_bits(d: f32, bytes: &[u8], out: &mut [f32], value: impl Fn(f32, i32) -> f32) {
    let (low, high) = out.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        *low = value(d, i32::from(byte & 15));
        *high = value(d, i32::from(byte >> 4));
    }
}

/// As [`four_bits`] with a fifth bit from four bytes in front.
fn five_bits(d: f32, bytes: &[u8], out: &mut [f32], value: impl Fn(f32, i32) -> f32) {
    let fifth = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let bit = |i: usize| ((fifth >> i & 1) << 4) as i32;
    for i in 0..16 {
        let byte = bytes[4 + i];
        out[i] = value(d, i32::from(byte & 15) | bit(i));
        out[16 + i] = value(d, i32::from(byte >> 4) | bit(16 + i));
    }
}

/// Scale and minimum of one of eight groups of 32, six bits each in twelve bytes.
fn scale_and_min(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, min) = if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let low = packed[group + 4];
        (
            low & 15 | (packed[group - 4] >> 2 & 48),
            low >> 4 | (packed[group] >> 2 & 48),
        )
    };
    (f32::from(scale), f32::from(min))
}

fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half(block), half(&block[2..]));
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], group);
        let (d, m) = (d * scale, dmin * min);
        let bytes = &block[16 + group / 2 * 32..][..32];
        for (out, byte) in out.iter_mut().zip(bytes) {
            let q = byte >> (group % 2 * 4) & 15;
            *out = d * f32::from(q) - m;
        }
    }
}

fn q5_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half(block), half(&block[2..]));
    let fifth = &block[16..48];
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], group);
        let (d, m) = (d * scale, dmin * min);
        let bytes = &block[48 + group / 2 * 32..][..32];
        for ((out, byte), fifth) in out.iter_mut().zip(bytes).zip(fifth) {
            let q = byte >> (group % 2 * 4) & 15 | (fifth >> group & 1) << 4;
            *out = d * f32::from(q) - m;
        }
    }
}

fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high) = (&block[..128], &block[128..192]);
    let (scales, d) = (&block[192..208], half(&block[208..]));
    for (i, out) in out.iter_mut().enumerate() {
        // Each half of the block has four runs of 32; runs share bytes of `low` in twos and bytes of `high` in fours.
        let (part, run, at) = (i / 128, i / 32 % 4, i % 32);
        let low = low[part * 64 + run % 2 * 32 + at] >> (run / 2 * 4) & 15;
        let high = high[part * 32 + at] >> (run * 2) & 3;
        let q = i32::from(low | high << 4) - 32;
        let scale = f32::from(scales[i / 16].cast_signed());
        *out = d * scale * q as f32;
    }
}
