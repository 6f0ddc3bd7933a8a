//! Figures as SVG and PNG, from data read back from CSV alone.
//!
//! A [`Figure`] holds axes and series and saves itself twice from one layout. [`Panels`] puts
//! figures side by side. [`canvas()`] gives a bare drawing for everything else. Every text is laid out
//! with an embedded font, so no system font is needed, and the same data give the same bytes.

mod axis;
mod canvas;
mod clip;
mod data;
mod figure;
mod font;
mod layout;
mod legend;
mod panels;
mod render;
mod series;
mod style;
mod tags;

pub use axis::{Axis, Scale, superscript};
pub use canvas::{Anchor, Font, Painter, Point, Stroke};
pub use figure::{Figure, LegendPlace, Series};
pub use panels::Panels;
pub use render::{canvas, drawn};
pub use style::{Color, Kind, Marker, PALETTE_LEN, SeriesStyle};

#[cfg(test)]
mod tests;
