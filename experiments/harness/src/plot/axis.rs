//! Axes: from data to a range, from a range to ticks with readable labels.

use std::ops::RangeInclusive;

/// How an axis maps values to positions.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Scale {
    /// Equal steps.
    #[default]
    Linear,
    /// Equal factors; values at or below zero cannot be drawn, and the figure says how many.
    Log10,
    /// Named places: value `i` is the `i`-th label.
    Category(Vec<String>),
}

/// One axis. The label says the unit: `"queries (count)"`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Axis {
    /// What the axis shows, with its unit.
    pub label: String,
    /// How values map to positions.
    pub scale: Scale,
    /// The ends, or `None` to fit the data.
    pub range: Option<(f64, f64)>,
    /// Where its ticks stand, or `None` for round numbers; those beyond its ends are left out.
    pub ticks: Option<Vec<f64>>,
}

impl Axis {
    /// A linear axis that fits its data.
    pub fn linear(label: &str) -> Self {
        Self {
            label: label.to_string(),
            ..Self::default()
        }
    }

    /// A logarithmic axis (base 10) that fits its data.
    pub fn log10(label: &str) -> Self {
        Self {
            scale: Scale::Log10,
            ..Self::linear(label)
        }
    }

    /// An axis of named places.
    pub fn category(label: &str, names: &[&str]) -> Self {
        let names = names.iter().map(|name| name.to_string()).collect();
        Self {
            scale: Scale::Category(names),
            ..Self::linear(label)
        }
    }

    /// The same axis with fixed ends.
    pub fn range(self, low: f64, high: f64) -> Self {
        Self {
            range: Some((low, high)),
            ..self
        }
    }

    /// The same axis with ticks at these values alone.
    pub fn ticks(self, values: Vec<f64>) -> Self {
        Self {
            ticks: Some(values),
            ..self
        }
    }

    /// Whether the axis has a place for `value`.
    pub(crate) fn shows(&self, value: f64) -> bool {
        value.is_finite() && (self.scale != Scale::Log10 || value > 0.0)
    }
}

/// An axis with known ends: maps values to the unit interval.
#[derive(Debug, Clone)]
pub(crate) struct Mapped {
    log: bool,
    low: f64,
    high: f64,
    /// False when there was neither data nor a range, so that ticks would be invented.
    pub(crate) known: bool,
}

/// A tick: where (0 to 1), what it says if anything, and whether its grid line is a strong one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tick {
    pub(crate) at: f64,
    pub(crate) label: Option<String>,
    pub(crate) major: bool,
}

impl Mapped {
    /// Ends for `axis` from its fixed range or from `values` with a margin.
    pub(crate) fn new(axis: &Axis, values: impl Iterator<Item = f64>) -> Self {
        if let Scale::Category(names) = &axis.scale {
            let high = names.len().max(1) as f64 - 0.5;
            return Self {
                log: false,
                low: -0.5,
                high,
                known: true,
            };
        }
        let log = axis.scale == Scale::Log10;
        let map = |v: f64| if log { v.log10() } else { v };
        let fixed = axis
            .range
            .filter(|(a, b)| axis.shows(*a) && axis.shows(*b) && a != b);
        if let Some((a, b)) = fixed {
            let (low, high) = (map(a.min(b)), map(a.max(b)));
            return Self {
                log,
                low,
                high,
                known: true,
            };
        }
        let ends = values
            .filter(|v| axis.shows(*v))
            .map(map)
            .fold(None, |ends, v| match ends {
                None => Some((v, v)),
                Some((low, high)) => Some((f64::min(low, v), f64::max(high, v))),
            });
        let Some((low, high)) = ends else {
            return Self {
                log,
                low: 0.0,
                high: 1.0,
                known: false,
            };
        };
        // Halves first: the difference of two huge values would overflow.
        let half = high / 2.0 - low / 2.0;
        let size = low.abs().max(high.abs());
        let margin = if half > size * 1e-12 {
            0.08 * half
        } else if log {
            0.6
        } else {
            // All values are equal: any margin shows the one level.
            if size == 0.0 { 1.0 } else { size * 0.1 }
        };
        let limit = f64::MAX / 4.0;
        let (low, high) = ((low - margin).max(-limit), (high + margin).min(limit));
        Self {
            log,
            low,
            high,
            known: true,
        }
    }

    /// Position of `value`, 0 at the low end and 1 at the high end; `None` if it has no place.
    pub(crate) fn unit(&self, value: f64) -> Option<f64> {
        let v = if self.log { value.log10() } else { value };
        let t = (v - self.low) / (self.high - self.low);
        (value.is_finite() && t.is_finite()).then_some(t)
    }

    /// Ticks, about `target` of them with labels. `whole` keeps the steps whole numbers.
    pub(crate) fn ticks(&self, target: usize, whole: bool) -> Vec<Tick> {
        if !self.known {
            return Vec::new();
        }
        if self.log {
            self.log_ticks(target)
        } else {
            self.linear_ticks(target, whole)
        }
    }

    fn tick(&self, value: f64, label: Option<String>) -> Option<Tick> {
        let at = self
            .unit(value)
            .filter(|t| (-1e-9..=1.0 + 1e-9).contains(t))?;
        let major = label.is_some();
        Some(Tick {
            at: at.clamp(0.0, 1.0),
            label,
            major,
        })
    }

    fn linear_ticks(&self, target: usize, whole: bool) -> Vec<Tick> {
        self.ticks_at(&linear_values(self.low, self.high, target, whole))
    }

    /// A labelled tick at each of the values that lie between the ends.
    pub(crate) fn ticks_at(&self, values: &[f64]) -> Vec<Tick> {
        let labels = number_labels(values);
        values
            .iter()
            .zip(labels)
            .filter_map(|(v, label)| self.tick(*v, Some(label)))
            .collect()
    }

    fn log_ticks(&self, target: usize) -> Vec<Tick> {
        let (first, last) = (self.low.floor() as i32, self.high.ceil() as i32);
        let inside = (first..=last).filter(|e| self.has(10f64.powi(*e))).count();
        if inside < 2 {
            return self.short_log_ticks(first..=last, target);
        }
        let stride = inside.div_ceil(target.max(2)).max(1) as i32;
        let labelled = |e: &i32| e.rem_euclid(stride) == 0;
        // One form for the whole axis.
        let mut shown = (first..=last).filter(|e| labelled(e) && self.has(10f64.powi(*e)));
        let label: fn(i32) -> String = match shown.all(|e| (-2..=3).contains(&e)) {
            true => plain_power,
            false => power_label,
        };
        let decades = (first..=last).filter_map(|e| {
            let label = labelled(&e).then(|| label(e));
            Some(Tick {
                major: true,
                ..self.tick(10f64.powi(e), label)?
            })
        });
        if inside > 8 {
            return decades.collect();
        }
        self.with_minor(decades.collect(), first..=last)
    }

    /// An axis of about one decade or less: 1, 2, 5 and their tens, else finer steps.
    fn short_log_ticks(&self, decades: RangeInclusive<i32>, target: usize) -> Vec<Tick> {
        let steps = |mantissas: &'static [f64]| -> Vec<f64> {
            let decade = |e: i32| mantissas.iter().map(move |m| m * 10f64.powi(e));
            decades
                .clone()
                .flat_map(decade)
                .filter(|v| self.has(*v))
                .collect()
        };
        let mut values = steps(&[1.0, 2.0, 5.0]);
        if values.len() < 3 {
            values = steps(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        }
        if values.len() < 2 {
            let (low, high) = (10f64.powf(self.low), 10f64.powf(self.high));
            values = linear_values(low, high, target, false);
        }
        let labels = number_labels(&values);
        let ticks = values
            .iter()
            .zip(labels)
            .filter_map(|(v, label)| self.tick(*v, Some(label)));
        self.with_minor(ticks.collect(), decades)
    }

    /// Adds unlabelled ticks at 2, 3, … 9 in every decade, where there is none yet.
    fn with_minor(&self, mut ticks: Vec<Tick>, decades: RangeInclusive<i32>) -> Vec<Tick> {
        for (e, m) in decades.flat_map(|e| (2..10).map(move |m| (e, m))) {
            let minor = self.tick(f64::from(m) * 10f64.powi(e), None);
            let free = |t: &Tick| ticks.iter().all(|old| (old.at - t.at).abs() > 1e-6);
            if let Some(minor) = minor.filter(free) {
                ticks.push(minor);
            }
        }
        ticks.sort_by(|a, b| a.at.total_cmp(&b.at));
        ticks
    }

    /// The larger size of its two ends.
    pub(crate) fn largest(&self) -> f64 {
        let end = self.low.abs().max(self.high.abs());
        if self.log { 10f64.powf(end) } else { end }
    }

    fn has(&self, value: f64) -> bool {
        self.tick(value, None).is_some()
    }
}

fn linear_values(low: f64, high: f64, target: usize, whole: bool) -> Vec<f64> {
    let rough = (high / 2.0 - low / 2.0) / target.max(2) as f64 * 2.0;
    if !(rough > 0.0 && rough.is_finite()) {
        return Vec::new();
    }
    let power = 10f64.powf(rough.log10().floor());
    let steps: &[f64] = if whole {
        &[1.0, 2.0, 5.0, 10.0]
    } else {
        &[1.0, 2.0, 2.5, 5.0, 10.0]
    };
    let step = steps
        .iter()
        .map(|s| s * power)
        .find(|s| *s >= rough * 0.999)
        .unwrap_or(10.0 * power);
    let step = if whole { step.max(1.0) } else { step };
    let (first, last) = ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor());
    let count = (last - first).clamp(0.0, 100.0) as usize;
    // `+ 0.0` turns -0 into 0.
    (0..=count)
        .map(|i| (first + i as f64) * step + 0.0)
        .filter(|v| v.is_finite())
        .collect()
}

/// Labels that share their number of decimals, and a power of ten where the numbers are far from 1.
fn number_labels(values: &[f64]) -> Vec<String> {
    let size = values.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    if size > 0.0 && !(1e-3..1e6).contains(&size) {
        // Powers of a thousand, as in "2.5×10⁶ … 10.0×10⁶": the largest has one to three digits.
        let exponent = (size.log10() + 1e-9).floor().div_euclid(3.0) as i32 * 3;
        let mantissas: Vec<f64> = values.iter().map(|v| scaled(*v, exponent)).collect();
        let places = decimals(&mantissas);
        let power = power_label(exponent);
        let label = |m: &f64| match plain(*m, places).as_str() {
            _ if *m == 0.0 => "0".to_string(),
            "1" => power.clone(),
            "−1" => format!("−{power}"),
            text => format!("{text}×{power}"),
        };
        return mantissas.iter().map(label).collect();
    }
    let places = decimals(values);
    values.iter().map(|v| plain(*v, places)).collect()
}

/// `value / 10^exponent` without overflow of the power, rounded to ten decimals.
fn scaled(value: f64, exponent: i32) -> f64 {
    let half = exponent / 2;
    let m = value / 10f64.powi(half) / 10f64.powi(exponent - half);
    (m * 1e10).round() / 1e10
}

/// The fewest decimals that tell the values apart from their roundings.
fn decimals(values: &[f64]) -> usize {
    let size = values.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    let exact = |places: usize| {
        let unit = 10f64.powi(places as i32);
        values
            .iter()
            .all(|v| ((v * unit).round() / unit - v).abs() <= size * 1e-9)
    };
    (0..=12).find(|places| exact(*places)).unwrap_or(12)
}

/// Decimal digits with a real minus sign, and thin spaces from 10,000 on.
fn plain(value: f64, places: usize) -> String {
    let text = format!("{:.places$}", value.abs());
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let mut out = String::new();
    if value < 0.0 && text.bytes().any(|b| (b'1'..=b'9').contains(&b)) {
        out.push('−');
    }
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && whole.len() > 4 && (whole.len() - i) % 3 == 0 {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    if !fraction.is_empty() {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// A power of ten written out: 0.01, 1, 100.
fn plain_power(exponent: i32) -> String {
    plain(10f64.powi(exponent), (-exponent).max(0) as usize)
}

/// A power of ten: 10⁻³, 10⁰, 10¹, 10².
pub(crate) fn power_label(exponent: i32) -> String {
    format!("10{}", superscript(exponent))
}

/// A whole number in superscript characters.
pub fn superscript(number: i32) -> String {
    let raise = |c: char| match c {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        c => c
            .to_digit(10)
            .and_then(|d| char::from_u32(0x2070 + d))
            .unwrap_or(c),
    };
    number.to_string().chars().map(raise).collect()
}

#[cfg(test)]
mod tests;
