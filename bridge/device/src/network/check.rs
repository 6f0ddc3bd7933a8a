//! Whether the parts of a description fit each other, before anything is allocated.

use super::description::{Block, Linear, Network, Norm, NormKind};
use crate::{Error, Result};
use std::collections::BTreeSet;

fn refuse(what: String) -> Result<()> {
    Err(Error::Network(what))
}

/// Dimensions that a head may have: what a warp's lanes hold of it while text is written.
const HEAD_DIM: usize = 256;

impl Network {
    /// # Errors
    /// [`Error::Network`] for parts that do not fit each other, in one line that says where, what was found and what was expected.
    pub(crate) fn check(&self) -> Result<()> {
        self.sizes()?;
        self.numbers()?;
        self.heads_tile()?;
        norm_of("the last norm", &self.last_norm, self.width)?;
        for (i, block) in self.blocks.iter().enumerate() {
            let what = |part: &str| format!("block {i}, {part}");
            self.linears(block, &what)?;
            self.norms(block, &what)?;
            self.turns(block, &what)?;
            self.scoring(block, &what)?;
        }
        self.names()
    }

    fn sizes(&self) -> Result<()> {
        let heads = &self.heads;
        let sizes = [
            ("vocabulary", self.vocabulary),
            ("width", self.width),
            ("inner width", self.inner),
            ("positions", self.positions),
            ("dimensions of a head", heads.head_dim),
            ("heads", heads.heads),
            ("heads of keys", heads.kv_heads),
        ];
        let most = i32::MAX as usize;
        if let Some((what, found)) = sizes.into_iter().find(|(_, n)| *n == 0 || *n > most) {
            return refuse(format!("{what}: found {found}, expected 1 to {most}"));
        }
        if heads.head_dim > HEAD_DIM {
            let found = heads.head_dim;
            return refuse(format!(
                "dimensions of a head: found {found}, expected at most {HEAD_DIM}"
            ));
        }
        if !heads.heads.is_multiple_of(heads.kv_heads) {
            let (found, keys) = (heads.heads, heads.kv_heads);
            return refuse(format!(
                "heads: found {found}, expected a multiple of the {keys} heads of keys"
            ));
        }
        Ok(())
    }

    fn numbers(&self) -> Result<()> {
        let offset = match self.norm {
            NormKind::Layer => 0.0,
            NormKind::Rms { offset } => offset,
        };
        let finite = [
            ("factor on the embedding", self.embedding_scale),
            ("factor on logits", self.logit_scale),
            ("offset of gains", offset),
        ];
        if let Some((what, found)) = finite.into_iter().find(|(_, x)| !x.is_finite()) {
            return refuse(format!("{what}: found {found}, expected a finite number"));
        }
        if !(self.epsilon >= 0.0 && self.epsilon.is_finite()) {
            let found = self.epsilon;
            return refuse(format!(
                "ε of norms: found {found}, expected a finite number, at least 0"
            ));
        }
        above_zero("cap of logits", self.logit_cap)?;
        for (i, angles) in self.rotations.iter().enumerate() {
            if let Some(found) = angles.iter().find(|x| !x.is_finite()) {
                return refuse(format!(
                    "rotation {i}: found an angle of {found}, expected finite ones"
                ));
            }
        }
        Ok(())
    }

    /// Every element of a row belongs to one head's query, key or value.
    fn heads_tile(&self) -> Result<()> {
        let h = &self.heads;
        let row = (h.heads + 2 * h.kv_heads) * h.head_dim;
        if h.row != row {
            return refuse(format!(
                "rows of {} for queries, keys and values, expected {row}",
                h.row
            ));
        }
        let mut begins: Vec<usize> = Vec::new();
        for (at, count) in h.offsets.iter().zip([h.heads, h.kv_heads, h.kv_heads]) {
            begins.extend((0..count).map(|i| at.saturating_add(i.saturating_mul(h.step))));
        }
        begins.sort_unstable();
        let wanted = (0..begins.len()).map(|i| i * h.head_dim);
        if !begins.iter().copied().eq(wanted) {
            return refuse(format!(
                "offsets {:?} and steps of {} of heads of {}: found heads that overlap or leave gaps in rows of {row}",
                h.offsets, h.step, h.head_dim
            ));
        }
        Ok(())
    }

    fn linears(&self, block: &Block, what: &dyn Fn(&str) -> String) -> Result<()> {
        let h = &self.heads;
        let (queries, keys) = (h.heads * h.head_dim, h.kv_heads * h.head_dim);
        let inner = self.inner;
        let gated = [vec![2 * inner], vec![inner; 2]];
        let plain = [vec![inner]];
        let parts = [
            (
                "queries, keys and values",
                &block.qkv[..],
                self.width,
                &[vec![h.row], vec![queries, keys, keys]][..],
            ),
            (
                "attention's output",
                std::slice::from_ref(&block.out),
                queries,
                &[vec![self.width]],
            ),
            (
                "inner width",
                &block.up[..],
                self.width,
                if self.gated { &gated[..] } else { &plain },
            ),
            (
                "MLP's output",
                std::slice::from_ref(&block.down),
                inner,
                &[vec![self.width]],
            ),
        ];
        for (part, layers, inputs, outputs) in parts {
            let found: Vec<usize> = layers.iter().map(|l| l.outputs).collect();
            if !outputs.contains(&found) {
                let expected: Vec<String> = outputs.iter().map(|o| format!("{o:?}")).collect();
                let (what, expected) = (what(part), expected.join(" or "));
                return refuse(format!(
                    "{what}: found outputs {found:?}, expected {expected}"
                ));
            }
            for layer in layers {
                linear(&what(part), layer, inputs)?;
            }
        }
        Ok(())
    }

    fn norms(&self, block: &Block, what: &dyn Fn(&str) -> String) -> Result<()> {
        let stream = [
            ("the attention's norm", &block.attention_norm),
            (
                "the norm of the attention's output",
                &block.attention_out_norm,
            ),
            ("the MLP's norm", &block.mlp_norm),
            ("the norm of the MLP's output", &block.mlp_out_norm),
        ];
        for (part, norm) in stream {
            if let Some(norm) = norm {
                norm_of(&what(part), norm, self.width)?;
            }
        }
        let h = &self.heads;
        let parts = [("queries", h.heads), ("keys", h.kv_heads)];
        for ((part, heads), norm) in parts.into_iter().zip(block.qk_norms.iter().flatten()) {
            let (one, all) = (h.head_dim, heads * h.head_dim);
            if norm.width != one && norm.width != all {
                let (what, found) = (what(&format!("the norm of {part}")), norm.width);
                return refuse(format!(
                    "{what}: found a width of {found}, expected {one} (a head) or {all} (all of them)"
                ));
            }
        }
        Ok(())
    }

    fn turns(&self, block: &Block, what: &dyn Fn(&str) -> String) -> Result<()> {
        let Some(rotation) = block.rotation else {
            return Ok(());
        };
        let Some(angles) = self.rotations.get(rotation) else {
            let count = self.rotations.len();
            return refuse(format!(
                "{}: found number {rotation}, expected one of {count}",
                what("rotation")
            ));
        };
        let (dims, head_dim) = (2 * angles.len(), self.heads.head_dim);
        if dims > head_dim {
            return refuse(format!(
                "{}: found {dims} dimensions that turn, expected at most the {head_dim} of a head",
                what("rotation")
            ));
        }
        Ok(())
    }

    fn scoring(&self, block: &Block, what: &dyn Fn(&str) -> String) -> Result<()> {
        let scoring = &block.scoring;
        if !scoring.scale.is_finite() {
            return refuse(format!(
                "{}: found {}, expected a finite number",
                what("factor on scores"),
                scoring.scale
            ));
        }
        above_zero(&what("cap of scores"), scoring.cap)?;
        if scoring.window == Some(0) {
            let what = what("window");
            return refuse(format!("{what}: found 0 keys, expected at least 1"));
        }
        Ok(())
    }

    /// Two weights of one name would be one weight; only the output head may be the embedding.
    fn names(&self) -> Result<()> {
        let mut names: Vec<String> = vec![self.embedding.clone()];
        names.extend(self.places.clone());
        names.extend(self.head.clone().filter(|head| *head != self.embedding));
        names.extend(self.value.iter().flatten().cloned());
        names.extend(self.reward.clone());
        let norms = self.blocks.iter().flat_map(Block::norms);
        for norm in norms.chain([&self.last_norm]) {
            names.push(format!("{}.weight", norm.name));
        }
        for layer in self.blocks.iter().flat_map(Block::linears) {
            names.push(layer.weight());
        }
        let mut seen = BTreeSet::new();
        match names.into_iter().find(|name| !seen.insert(name.clone())) {
            Some(name) => refuse(format!("weight {name}: found twice, expected once")),
            None => Ok(()),
        }
    }
}

fn norm_of(what: &str, norm: &Norm, width: usize) -> Result<()> {
    match norm.width == width {
        true => Ok(()),
        false => refuse(format!(
            "{what}: found a width of {}, expected {width}",
            norm.width
        )),
    }
}

fn linear(what: &str, layer: &Linear, inputs: usize) -> Result<()> {
    if layer.inputs != inputs {
        let (name, found) = (&layer.name, layer.inputs);
        return refuse(format!(
            "{what}: found {found} inputs of {name}, expected {inputs}"
        ));
    }
    match layer.adapter {
        Some(adapter) if adapter.rank == 0 || !adapter.scale.is_finite() => refuse(format!(
            "{what}: found {adapter:?} on {}, expected a rank of at least 1 and a finite factor",
            layer.name
        )),
        _ => Ok(()),
    }
}

fn above_zero(what: &str, cap: Option<f32>) -> Result<()> {
    match cap {
        Some(cap) if !(cap > 0.0 && cap.is_finite()) => refuse(format!(
            "{what}: found {cap}, expected a finite number above 0"
        )),
        _ => Ok(()),
    }
}
