//! The output head by tiles of the vocabulary.

use super::{Bend, Head, HeadGrad, Kernels, SCRATCH, flag, input, int, output};
use crate::Result;
use crate::buffer::{Buffer, Element};
use crate::source::Arg;

/// One tile of raw logits, `f32 [rows, columns]`, of vocabulary entries from `first` on, and the same tile of another distribution.
#[derive(Debug, Clone, Copy)]
pub struct Tile<'a> {
    /// Raw logits of the distribution itself, `f32 [rows, columns]`.
    pub logits: &'a Buffer,
    /// Those of the other distribution.
    pub other: Option<&'a Buffer>,
    /// The first column's vocabulary entry.
    pub first: usize,
    /// What becomes of a logit.
    pub bend: Bend,
    /// What becomes of the other's.
    pub other_bend: Bend,
}

impl Tile<'_> {
    fn args(&self, columns: usize) -> [Arg<'static>; 6] {
        let cap = |bend: &Bend| Arg::F32(bend.cap.unwrap_or(0.0));
        [
            int(columns),
            int(self.first),
            cap(&self.bend),
            Arg::F32(self.bend.temperature),
            cap(&self.other_bend),
            Arg::F32(self.other_bend.temperature),
        ]
    }
}

impl Kernels<'_> {
    /// Takes a tile into the running sums `running [rows, 8]` of each row; the first tile begins them. Tiles come in any cut of the
    /// vocabulary, every entry once.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn head_scan(
        &self,
        tile: &Tile<'_>,
        targets: &Buffer,
        running: &Buffer,
        begin: bool,
    ) -> Result<()> {
        let rows = targets.len();
        let columns = tile.logits.len() / rows.max(1);
        let mut needs = vec![
            (tile.logits, Element::F32, rows * columns, "logits"),
            (targets, Element::U32, rows, "targets"),
            (running, Element::F32, rows * 8, "running"),
        ];
        needs.extend(
            tile.other
                .map(|o| (o, Element::F32, rows * columns, "other")),
        );
        self.need("head_scan", &needs)?;
        let mut args = vec![
            Arg::In(tile.logits),
            input(tile.other),
            Arg::In(targets),
            Arg::Out(running),
        ];
        args.extend(tile.args(columns));
        args.push(flag(begin));
        self.run("head_scan", [rows, 1], SCRATCH, &args)
    }

    /// What the running sums of the whole vocabulary say.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn head_finish(&self, running: &Buffer, out: &Head<'_>) -> Result<()> {
        let rows = out.log_prob.len();
        let mut needs = vec![(running, Element::F32, rows * 8, "running")];
        let mut one = |buffer, name| needs.push((buffer, Element::F32, rows, name));
        one(out.log_prob, "log_prob");
        one(out.entropy, "entropy");
        one(out.log_sum, "log_sum");
        for other in out.other.into_iter().flatten() {
            one(other, "other");
        }
        self.need("head_finish", &needs)?;
        let [kl, kl_from, other] = out.other.map_or([None; 3], |o| o.map(Some));
        let args = [
            Arg::In(running),
            Arg::Out(out.log_prob),
            Arg::Out(out.entropy),
            output(kl),
            output(kl_from),
            Arg::Out(out.log_sum),
            output(other),
            int(rows),
        ];
        self.run("head_finish", self.over(rows), 0, &args)
    }

    /// The gradient of a tile's raw logits, `[rows, columns]` in the type of weights, from those of the head's outputs:
    /// `g (1[a = target] − p) − g_H p (log p + H) + g_K p (log(p/q) − K) + g_F (p − q)`, times the slope of what bends them.
    ///
    /// # Errors
    /// As [`Kernels::add`].
    pub fn head_pull(
        &self,
        tile: &Tile<'_>,
        targets: &Buffer,
        out: &Head<'_>,
        grad: &HeadGrad<'_>,
        dlogits: &Buffer,
    ) -> Result<()> {
        let rows = targets.len();
        let columns = tile.logits.len() / rows.max(1);
        let mut needs = vec![
            (tile.logits, Element::F32, rows * columns, "logits"),
            (targets, Element::U32, rows, "targets"),
            (dlogits, self.real.element(), rows * columns, "dlogits"),
        ];
        needs.extend(
            tile.other
                .map(|o| (o, Element::F32, rows * columns, "other")),
        );
        let [kl, _, other_sum] = out.other.map_or([None; 3], |o| o.map(Some));
        let vectors = [
            Some(out.log_sum),
            Some(out.entropy),
            kl,
            other_sum,
            Some(grad.log_prob),
            grad.entropy,
            grad.kl,
            grad.kl_from,
        ];
        needs.extend(
            vectors
                .into_iter()
                .flatten()
                .map(|b| (b, Element::F32, rows, "a row's number")),
        );
        self.need("head_pull", &needs)?;
        let mut args = vec![
            Arg::In(tile.logits),
            input(tile.other.filter(|_| other_sum.is_some())),
            Arg::In(targets),
            Arg::In(out.log_sum),
            input(other_sum),
            Arg::In(out.entropy),
            input(kl),
            Arg::In(grad.log_prob),
            input(grad.entropy),
            input(grad.kl),
            input(grad.kl_from),
            Arg::Out(dlogits),
        ];
        args.extend(tile.args(columns));
        let [blocks, _] = self.over(columns);
        self.run("head_pull", [blocks, rows], 0, &args)
    }
}
