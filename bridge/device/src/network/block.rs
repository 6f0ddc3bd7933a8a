//! One block, forward.

use super::description::{Block, Linear, Norm};
use super::layers::{Columns, Normed, Pass};
use crate::Result;
use crate::attention::{Attention, AttentionTape};
use crate::buffer::Buffer;
use crate::kernels::{Angles, Cache, Kernels, Rows, Texts};

/// Which rows attend to which.
pub(crate) enum Reads<'a> {
    /// Whole texts, each from its first token on.
    Texts(Texts<'a>),
    /// Whole texts, whose keys and values are put into the cache.
    Prompts(Texts<'a>, Slots<'a>),
    /// One token a row, which sees what its text has in the cache.
    Tokens(Slots<'a>),
}

/// Where rows stand in the cache of keys and values.
#[derive(Clone, Copy)]
pub(crate) struct Slots<'a> {
    /// Keys and values of every block.
    pub blocks: &'a [[Buffer; 2]],
    pub slots: usize,
    pub capacity: usize,
    /// The slot of each row, and its position there.
    pub slot: &'a Buffer,
    pub position: &'a Buffer,
}

/// What is kept of a block.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Nothing: its input may be written over.
    Nothing,
    /// Its input.
    Input,
    /// Everything that its backward pass needs.
    All,
}

/// What a block keeps for its backward pass.
#[derive(Debug)]
pub(crate) struct BlockTape {
    pub(super) input: Buffer,
    /// Statistics of n₁, where there is one.
    pub(super) stats: Option<Buffer>,
    /// Queries and keys before their norms.
    pub(super) unnormed: Vec<Normed>,
    pub(super) attention: AttentionTape,
    pub(super) attended: Buffer,
    /// The attention's output before n₂.
    pub(super) attention_out: Option<Normed>,
    /// The stream that an MLP after the attention reads, and statistics of n₃.
    pub(super) middle: Option<(Buffer, Option<Buffer>)>,
    /// What stands before the activation.
    pub(super) inner: Vec<Buffer>,
    /// The MLP's output before n₄.
    pub(super) mlp_out: Option<Normed>,
}

/// A block of a network: its number and its description.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub index: usize,
    pub block: &'a Block,
}

impl At<'_> {
    pub(super) fn attention<'p>(
        &self,
        pass: &Pass<'p>,
        texts: Texts<'p>,
        angles: Angles<'p>,
    ) -> Attention<'p> {
        Attention {
            kernels: pass.kernels,
            texts,
            heads: pass.network.heads_of(self.block),
            angles,
            scoring: self.block.scoring,
        }
    }

    /// The norm of x, x itself where there is none.
    pub(super) fn normed(
        pass: &Pass<'_>,
        norm: Option<&Norm>,
        x: &Buffer,
    ) -> Result<(Buffer, Option<Buffer>)> {
        match norm {
            None => Ok((x.clone(), None)),
            Some(norm) => pass.norm(norm, x).map(|(y, stats)| (y, Some(stats))),
        }
    }

    /// Elements from the first of a row's queries (0) or keys (1) to their last, how many heads they are, and where they begin.
    fn part_of_heads(pass: &Pass<'_>, qkv: &Buffer, which: usize) -> Result<(Buffer, usize)> {
        let heads = &pass.network.heads;
        let count = [heads.heads, heads.kv_heads][which];
        let width = (count - 1) * heads.step + heads.head_dim;
        let columns = Columns {
            buffer: qkv,
            at: heads.offsets[which],
            row: heads.row,
        };
        Ok((columns.part(pass.rows, width)?, count))
    }

    /// Queries (0) or keys (1) beside each other, `[rows, heads, head_dim]`.
    pub(super) fn take_heads(pass: &Pass<'_>, qkv: &Buffer, which: usize) -> Result<Buffer> {
        let (heads, (from, count)) = (&pass.network.heads, Self::part_of_heads(pass, qkv, which)?);
        let d = heads.head_dim;
        let out = pass.alloc(pass.rows * count * d)?;
        let steps = ([heads.row, heads.step], [count * d, d]);
        pass.kernels
            .regroup(pass.rows, [count, d], (&from, steps.0), (&out, steps.1))?;
        Ok(out)
    }

    pub(super) fn put_heads(pass: &Pass<'_>, x: &Buffer, qkv: &Buffer, which: usize) -> Result<()> {
        let (heads, (to, count)) = (&pass.network.heads, Self::part_of_heads(pass, qkv, which)?);
        let d = heads.head_dim;
        let steps = ([count * d, d], [heads.row, heads.step]);
        pass.kernels
            .regroup(pass.rows, [count, d], (x, steps.0), (&to, steps.1))
    }

    /// Queries, keys and values of the attention's input, the first two through their norms.
    fn project(&self, pass: &Pass<'_>, x: &Buffer) -> Result<(Buffer, Vec<Normed>)> {
        let row = pass.network.heads.row;
        let qkv = pass.alloc(pass.rows * row)?;
        let mut at = 0;
        for l in &self.block.qkv {
            let buffer = &qkv;
            pass.linear(l, x, Columns { buffer, at, row }, false)?;
            at += l.outputs;
        }
        let mut kept = Vec::new();
        for (which, norm) in self.block.qk_norms.iter().flatten().enumerate() {
            let input = Self::take_heads(pass, &qkv, which)?;
            let (y, stats) = pass.norm(norm, &input)?;
            Self::put_heads(pass, &y, &qkv, which)?;
            kept.push(Normed { input, stats });
        }
        Ok((qkv, kept))
    }

    /// Attended values; what stays of texts.
    fn attend(
        &self,
        pass: &Pass<'_>,
        reads: &Reads<'_>,
        angles: Angles<'_>,
        qkv: &Buffer,
    ) -> Result<(Buffer, Option<AttentionTape>)> {
        let heads = pass.network.heads_of(self.block);
        let attended = pass.alloc(pass.rows * heads.heads * heads.head_dim)?;
        if let Reads::Prompts(_, slots) | Reads::Tokens(slots) = reads {
            let rows = slots.rows(qkv);
            let cache = slots.cache(self.index);
            let kernels: &Kernels<'_> = &pass.kernels;
            kernels.cache_append(&rows, &cache, &heads, &angles)?;
            if let Reads::Tokens(_) = reads {
                let scoring = &self.block.scoring;
                kernels.decode_attention(&rows, &cache, &heads, &angles, scoring, &attended)?;
            }
        }
        let tape = match reads {
            Reads::Texts(texts) | Reads::Prompts(texts, _) => Some(
                self.attention(pass, *texts, angles)
                    .forward(qkv, &attended)?,
            ),
            Reads::Tokens(_) => None,
        };
        Ok((attended, tape))
    }

    /// What stands before the activation (gate first), and what the MLP's last layer reads.
    fn inner(&self, pass: &Pass<'_>, x: &Buffer) -> Result<(Vec<Buffer>, Buffer)> {
        let network = pass.network;
        let mut inner = Vec::new();
        for l in &self.block.up {
            let y = pass.alloc(pass.rows * l.outputs)?;
            pass.linear(l, x, Columns::whole(&y, l.outputs), false)?;
            inner.push(y);
        }
        let (after, kind) = (pass.alloc(pass.rows * network.inner)?, network.activation);
        if network.gated {
            let (parts, stride) = gate_and_up(pass, &inner)?;
            let parts = [&parts[0], &parts[1]];
            pass.kernels
                .gated(kind, parts, &after, network.inner, stride)?;
        } else {
            pass.kernels.activation(kind, &inner[0], &after)?;
        }
        Ok((inner, after))
    }

    /// Adds a layer's output to the stream, through its norm where it has one.
    fn write(
        pass: &Pass<'_>,
        layer: &Linear,
        norm: Option<&Norm>,
        input: &Buffer,
        stream: &Buffer,
    ) -> Result<Option<Normed>> {
        let Some(norm) = norm else {
            pass.linear(layer, input, Columns::whole(stream, layer.outputs), true)?;
            return Ok(None);
        };
        let out = pass.alloc(stream.len())?;
        pass.linear(layer, input, Columns::whole(&out, layer.outputs), false)?;
        let (y, stats) = pass.norm(norm, &out)?;
        pass.kernels.add(stream, &y)?;
        Ok(Some(Normed { input: out, stats }))
    }

    /// The block's output; what its backward pass needs where everything is kept.
    pub fn forward(
        &self,
        pass: &Pass<'_>,
        reads: &Reads<'_>,
        angles: Angles<'_>,
        x: Buffer,
        keep: Keep,
    ) -> Result<(Buffer, Option<BlockTape>)> {
        let (block, parallel) = (self.block, pass.network.parallel);
        let all = keep == Keep::All;
        let (normed, stats) = Self::normed(pass, block.attention_norm.as_ref(), &x)?;
        let (qkv, unnormed) = self.project(pass, &normed)?;
        let (attended, attention) = self.attend(pass, reads, angles, &qkv)?;
        drop(qkv);
        let beside = match (parallel, &block.mlp_norm) {
            (false, _) => None,
            (true, None) => Some(normed.clone()),
            (true, Some(norm)) => Some(pass.norm(norm, &x)?.0),
        };
        drop(normed);
        // What the MLP reads beside the attention may be the stream itself.
        let bare = parallel && block.attention_norm.is_none() && block.mlp_norm.is_none();
        let mut y = match keep == Keep::Nothing && !bare {
            true => x.clone(),
            false => pass.copy(&x)?,
        };
        let input = all.then_some(x);
        let norm = block.attention_out_norm.as_ref();
        let attention_out = Self::write(pass, &block.out, norm, &attended, &y)?;
        let attended = all.then_some(attended);
        let mut middle = None;
        let read = match beside {
            Some(read) => read,
            None => {
                let (read, stats) = Self::normed(pass, block.mlp_norm.as_ref(), &y)?;
                if all {
                    let copy = pass.copy(&y)?;
                    middle = Some((std::mem::replace(&mut y, copy), stats));
                }
                read
            }
        };
        let (inner, after) = self.inner(pass, &read)?;
        drop(read);
        let inner = if all { inner } else { Vec::new() };
        let norm = block.mlp_out_norm.as_ref();
        let mlp_out = Self::write(pass, &block.down, norm, &after, &y)?;
        let tape = match (input, attention, attended) {
            (Some(input), Some(attention), Some(attended)) => Some(BlockTape {
                input,
                stats,
                unnormed,
                attention,
                attended,
                attention_out,
                middle,
                inner,
                mlp_out,
            }),
            _ => None,
        };
        Ok((y, tape))
    }
}

/// Gate and up, each from its first element to its last, and the distance of their rows.
pub(super) fn gate_and_up(pass: &Pass<'_>, inner: &[Buffer]) -> Result<([Buffer; 2], usize)> {
    let width = pass.network.inner;
    match inner {
        [packed] => {
            let row = 2 * width;
            let part = |at| {
                let buffer = packed;
                Columns { buffer, at, row }.part(pass.rows, width)
            };
            Ok(([part(0)?, part(width)?], row))
        }
        parts => Ok(([parts[0].clone(), parts[1].clone()], width)),
    }
}

impl<'a> Slots<'a> {
    fn rows<'b>(&self, qkv: &'b Buffer) -> Rows<'b>
    where
        'a: 'b,
    {
        Rows {
            qkv,
            slots: self.slot,
            positions: self.position,
        }
    }

    fn cache(&self, block: usize) -> Cache<'a> {
        let [keys, values] = &self.blocks[block];
        Cache {
            keys,
            values,
            slots: self.slots,
            capacity: self.capacity,
        }
    }
}
