//! The one font of all figures, embedded: its widths for layout and its outlines for the PNG.

use std::sync::OnceLock;

use ab_glyph::{Font as _, FontRef, Glyph, PxScale, point};

/// What the SVG asks its viewer for. The first is the font that the layout was made with; the
/// others are about as wide or narrower, so that nothing overlaps where it is missing.
pub(crate) const FAMILY: &str = "DejaVu Sans, Verdana, Arial, sans-serif";

/// Half the height of a capital, in font sizes: from a centre line down to the baseline.
pub(crate) const HALF_CAP: f64 = 0.365;

fn face(bold: bool) -> &'static FontRef<'static> {
    static FACES: OnceLock<[FontRef<'static>; 2]> = OnceLock::new();
    let load = |bytes| FontRef::try_from_slice(bytes).expect("the embedded font is a valid font");
    let faces = FACES.get_or_init(|| [load(dejavu::sans::regular()), load(dejavu::sans::bold())]);
    &faces[usize::from(bold)]
}

/// Calls `f` with each glyph and its left end; returns the whole width. One pixel per em is 1.
fn lay_out(face: &FontRef<'_>, text: &str, mut f: impl FnMut(ab_glyph::GlyphId, f32)) -> f32 {
    let unit = 1.0 / face.units_per_em().unwrap_or(2048.0);
    let (mut x, mut previous) = (0.0, None);
    for c in text.chars() {
        let id = face.glyph_id(c);
        if let Some(previous) = previous {
            x += face.kern_unscaled(previous, id) * unit;
        }
        f(id, x);
        x += face.h_advance_unscaled(id) * unit;
        previous = Some(id);
    }
    x
}

/// Width of a line of text in pixels.
pub(crate) fn width(text: &str, size: f64, bold: bool) -> f64 {
    f64::from(lay_out(face(bold), text, |_, _| {})) * size
}

/// Calls `f(dx, dy, coverage)` for every pixel the text touches, relative to its baseline's start.
pub(crate) fn rasterize(text: &str, size: f64, bold: bool, mut f: impl FnMut(i32, i32, f64)) {
    let face = face(bold);
    let em = size as f32;
    let scale = PxScale::from(em * face.height_unscaled() / face.units_per_em().unwrap_or(2048.0));
    lay_out(face, text, |id, x| {
        let glyph = Glyph {
            id,
            scale,
            position: point(x * em, 0.0),
        };
        if let Some(outline) = face.outline_glyph(glyph) {
            let min = outline.px_bounds().min;
            let (left, top) = (min.x as i32, min.y as i32);
            outline.draw(|x, y, c| f(left + x as i32, top + y as i32, f64::from(c.min(1.0))));
        }
    });
}

/// Greedy line breaking at plain spaces (not at the thin ones inside numbers); a word that is too
/// wide is cut.
pub(crate) fn wrap(text: &str, size: f64, bold: bool, limit: f64) -> Vec<String> {
    let fits = |line: &str| width(line, size, bold) <= limit;
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split([' ', '\t']).filter(|word| !word.is_empty()) {
            let longer = if line.is_empty() {
                word.to_string()
            } else {
                format!("{line} {word}")
            };
            if fits(&longer) {
                line = longer;
                continue;
            }
            if !line.is_empty() {
                lines.push(std::mem::take(&mut line));
            }
            for c in word.chars() {
                line.push(c);
                if !fits(&line) && line.chars().count() > 1 {
                    line.pop();
                    lines.push(std::mem::replace(&mut line, c.to_string()));
                }
            }
        }
        if !line.is_empty() {
            lines.push(line);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapped_lines_fit_and_lose_nothing() {
        let text =
            "Queries until the best response is found, Proposition 3.2 withaverylongwordindeed";
        for limit in [40.0, 90.0, 300.0] {
            let lines = wrap(text, 12.0, false, limit);
            assert!(
                lines.iter().all(|line| width(line, 12.0, false) <= limit),
                "{lines:?}"
            );
            let squeeze = |s: &str| s.replace(' ', "");
            assert_eq!(squeeze(&lines.concat()), squeeze(text));
        }
    }

    #[test]
    fn symbols_of_the_figures_are_in_the_font() {
        for bold in [false, true] {
            for c in "0123456789⁰¹²³⁴⁵⁶⁷⁸⁹⁻−×·…αβγδεηθλξπρστϱΣΥ≤≥∞–\u{202f}|*ᵀ√∑‖".chars()
            {
                assert_ne!(face(bold).glyph_id(c).0, 0, "{c:?} is missing");
            }
        }
    }

    #[test]
    fn pixels_lie_within_the_width() {
        let mut right = 0;
        rasterize("Queries", 40.0, false, |x, _, _| right = right.max(x));
        let width = width("Queries", 40.0, false);
        assert!(f64::from(right) <= width + 1.0 && f64::from(right) > width - 8.0);
    }
}
