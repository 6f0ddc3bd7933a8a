//! Generation: the cache, attention over it, and draws.

use super::attention::Angles;
use super::{DRAW_SCRATCH, Draw, Heads, Kernels, Scoring, flag, int};
use crate::buffer::{Buffer, Element};
use crate::source::Arg;
use crate::{Error, Result};

/// Keys and values of the texts that are being written, `[slots, kv_heads, capacity, head_dim]` each.
#[derive(Debug, Clone, Copy)]
pub struct Cache<'a> {
    /// Turned keys.
    pub keys: &'a Buffer,
    /// Values that belong to the keys.
    pub values: &'a Buffer,
    /// Texts side by side.
    pub slots: usize,
    /// Tokens of a text, at most.
    pub capacity: usize,
}

/// Rows of a packed projection, each one token: its text's slot and its position there, below the cache's sizes.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// `[rows, row]`.
    pub qkv: &'a Buffer,
    /// `[rows]`.
    pub slots: &'a Buffer,
    /// `[rows]`.
    pub positions: &'a Buffer,
}

impl Kernels<'_> {
    fn check_rows(
        &self,
        kernel: &str,
        rows: &Rows<'_>,
        cache: &Cache<'_>,
        heads: &Heads,
        angles: &Angles<'_>,
    ) -> Result<()> {
        heads.check(kernel)?;
        heads.angles(kernel, angles, cache.capacity)?;
        let (n, real) = (rows.slots.len(), self.real.element());
        let size = cache.slots * heads.kv_heads * cache.capacity * heads.head_dim;
        let needs = [
            (rows.qkv, real, n * heads.row, "qkv"),
            (rows.slots, Element::U32, n, "slots"),
            (rows.positions, Element::U32, n, "positions"),
            (cache.keys, real, size, "keys"),
            (cache.values, real, size, "values"),
        ];
        self.need(kernel, &needs)
    }

    /// Writes the turned keys and the values of rows to their places in the cache: one token a text, or all of a prompt.
    ///
    /// # Errors
    /// As [`Kernels::heads_split`].
    pub fn cache_append(
        &self,
        rows: &Rows<'_>,
        cache: &Cache<'_>,
        heads: &Heads,
        angles: &Angles<'_>,
    ) -> Result<()> {
        self.check_rows("cache_append", rows, cache, heads, angles)?;
        let args = [
            Arg::In(rows.qkv),
            Arg::In(angles.cosines),
            Arg::In(angles.sines),
            Arg::In(rows.slots),
            Arg::In(rows.positions),
            Arg::Out(cache.keys),
            Arg::Out(cache.values),
            int(heads.row),
            int(heads.head_dim),
            int(heads.kv_heads),
            int(heads.step),
            int(heads.offsets[1]),
            int(heads.offsets[2]),
            int(heads.dims),
            flag(heads.neighbours),
            int(cache.capacity),
        ];
        self.run("cache_append", [rows.slots.len(), 1], 0, &args)
    }

    /// `out [rows, heads · head_dim]`: what each row's queries attend to in the cache, up to and with its own position, which
    /// [`Kernels::cache_append`] must have written.
    ///
    /// # Errors
    /// As [`Kernels::heads_split`].
    pub fn decode_attention(
        &self,
        rows: &Rows<'_>,
        cache: &Cache<'_>,
        heads: &Heads,
        angles: &Angles<'_>,
        scoring: &Scoring,
        out: &Buffer,
    ) -> Result<()> {
        self.check_rows("decode_attention", rows, cache, heads, angles)?;
        let n = rows.slots.len();
        let width = heads.heads * heads.head_dim;
        let needs = [(out, self.real.element(), n * width, "out")];
        self.need("decode_attention", &needs)?;
        let mut args = vec![
            Arg::In(rows.qkv),
            Arg::In(angles.cosines),
            Arg::In(angles.sines),
            Arg::In(rows.slots),
            Arg::In(rows.positions),
            Arg::In(cache.keys),
            Arg::In(cache.values),
            Arg::Out(out),
            int(heads.row),
            int(heads.head_dim),
            int(heads.heads),
            int(heads.kv_heads),
            int(heads.step),
            int(heads.offsets[0]),
            int(heads.dims),
            flag(heads.neighbours),
            int(cache.capacity),
        ];
        args.extend(scoring.args());
        let warps = self.threads as usize / 32;
        let shared = 4 * (heads.head_dim + warps * (heads.head_dim + 2));
        let grid = [heads.heads, n];
        self.run("decode_attention", grid, shared as u32, &args)
    }

    /// One token a row of `logits [rows, vocabulary]`, and its log-probability, by inverse distribution function at a uniform number
    /// in [0, 1) a row; the first most likely token where there are no uniforms (its log-probability is that of all tokens at T, and
    /// truncation does not count). A row that is not finite gives token 4294967295.
    ///
    /// # Errors
    /// As [`Kernels::add`]; [`Error::Launch`] for a temperature or share out of range.
    pub fn draw(
        &self,
        logits: &Buffer,
        uniforms: Option<&Buffer>,
        how: &Draw,
        tokens: &Buffer,
        log_probs: &Buffer,
    ) -> Result<()> {
        let rows = tokens.len();
        let vocabulary = logits.len() / rows.max(1);
        let mut needs = vec![
            (logits, Element::F32, rows * vocabulary, "logits"),
            (tokens, Element::U32, rows, "tokens"),
            (log_probs, Element::F32, rows, "log_probs"),
        ];
        needs.extend(uniforms.map(|u| (u, Element::F64, rows, "uniforms")));
        self.need("draw", &needs)?;
        if !(how.temperature > 0.0 && how.top_p > 0.0) {
            return Err(Error::Launch {
                kernel: "draw".into(),
                why: format!("found {how:?}, expected a temperature and a share above 0"),
            });
        }
        let args = [
            Arg::In(logits),
            super::input(uniforms),
            Arg::Out(tokens),
            Arg::Out(log_probs),
            int(vocabulary),
            Arg::F32((1.0 / how.temperature) as f32),
            int(how.top_k.min(vocabulary)),
            Arg::F64(how.top_p.min(1.0)),
        ];
        self.run("draw", [rows, 1], DRAW_SCRATCH, &args)
    }
}
