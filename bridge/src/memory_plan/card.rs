//! Cards by their published rates.

use super::DeviceStage;
use candle_core::DType;

/// A card's published rates of dense products in bf16 and in f32 (without tensor cores), operations a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Card {
    /// Its name.
    pub name: &'static str,
    bf16: f64,
    f32: f64,
}

/// Cards of 80 GB with the rates of their makers' data sheets.
pub const CARDS: [Card; 2] = [
    Card {
        name: "A100 80GB SXM",
        bf16: 312e12,
        f32: 19.5e12,
    },
    Card {
        name: "H100 SXM",
        bf16: 989e12,
        f32: 67e12,
    },
];

impl Card {
    /// Seconds that the products of a stage take at least, at the card's published rate.
    pub fn least_seconds(&self, stage: &DeviceStage, dtype: DType) -> f64 {
        let rate = match dtype {
            DType::BF16 => self.bf16,
            _ => self.f32,
        };
        stage.flops as f64 / rate
    }
}
