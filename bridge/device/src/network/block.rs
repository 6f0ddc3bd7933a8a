//! One block, forward and backward.

use super::description::{Block, Linear, Norm};
use super::layers::{Columns, Normed, Pass};
use super::parameters::Gradients;
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
    input: Buffer,
    /// Statistics of n₁, where there is one.
    stats: Option<Buffer>,
    /// Queries and keys before their norms.
    unnormed: Vec<Normed>,
    attention: AttentionTape,
    attended: Buffer,
    /// The attention's output before n₂.
    attention_out: Option<Normed>,
    /// The stream that an MLP after the attention reads, and statistics of n₃.
    middle: Option<(Buffer, Option<Buffer>)>,
    /// What stands before the activation.
    inner: Vec<Buffer>,
    /// The MLP's output before n₄.
    mlp_out: Option<Normed>,
}

/// A block of a network: its number and its description.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub index: usize,
    pub block: &'a Block,
}

impl At<'_> {
    fn attention<'p>(
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
    fn normed(
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
    fn take_heads(pass: &Pass<'_>, qkv: &Buffer, which: usize) -> Result<Buffer> {
        let (heads, (from, count)) = (&pass.network.heads, Self::part_of_heads(pass, qkv, which)?);
        let d = heads.head_dim;
        let out = pass.alloc(pass.rows * count * d)?;
        let steps = ([heads.row, heads.step], [count * d, d]);
        pass.kernels
            .regroup(pass.rows, [count, d], (&from, steps.0), (&out, steps.1))?;
        Ok(out)
    }

    fn put_heads(pass: &Pass<'_>, x: &Buffer, qkv: &Buffer, which: usize) -> Result<()> {
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

    /// The gradient of a layer's output from that of the stream it was added to.
    fn write_backward(
        pass: &Pass<'_>,
        norm: Option<&Norm>,
        kept: Option<&Normed>,
        dx: &Buffer,
        grads: &Gradients,
    ) -> Result<Buffer> {
        let (Some(norm), Some(Normed { input, stats })) = (norm, kept) else {
            return Ok(dx.clone());
        };
        let d = pass.alloc(dx.len())?;
        pass.norm_backward(norm, (input, stats), dx, (&d, false), grads)?;
        Ok(d)
    }

    /// The gradient of the MLP's input.
    fn mlp_backward(
        &self,
        pass: &Pass<'_>,
        inner: Vec<Buffer>,
        read: &Buffer,
        dy: &Buffer,
        grads: &Gradients,
    ) -> Result<Buffer> {
        let (network, down) = (pass.network, &self.block.down);
        let dy = Columns::whole(dy, down.outputs);
        let kind = network.activation;
        let dafter = pass.alloc(pass.rows * network.inner)?;
        pass.linear_input_backward(down, dy, &dafter, false)?;
        let after = pass.alloc(pass.rows * network.inner)?;
        let dinner = if network.gated {
            let sizes = inner.iter().map(|x| pass.alloc(x.len()));
            let dinner: Vec<Buffer> = sizes.collect::<Result<_>>()?;
            let (parts, stride) = gate_and_up(pass, &inner)?;
            let (dparts, _) = gate_and_up(pass, &dinner)?;
            pass.kernels.gated_backward(
                kind,
                [&parts[0], &parts[1]],
                &dafter,
                [&dparts[0], &dparts[1]],
                &after,
                network.inner,
                stride,
            )?;
            drop(dafter);
            dinner
        } else {
            let kernels = &pass.kernels;
            kernels.activation_backward(kind, &inner[0], &dafter, &dafter, &after)?;
            vec![dafter]
        };
        drop(inner);
        pass.linear_weights_backward(down, &after, dy, grads)?;
        drop(after);
        let dread = pass.alloc(read.len())?;
        for (i, (l, d)) in self.block.up.iter().zip(&dinner).enumerate() {
            let d = Columns::whole(d, l.outputs);
            pass.linear_weights_backward(l, read, d, grads)?;
            pass.linear_input_backward(l, d, &dread, i > 0)?;
        }
        Ok(dread)
    }

    /// The gradient of the attention's input from that of the attended values.
    fn attention_backward(
        &self,
        pass: &Pass<'_>,
        (texts, angles): (Texts<'_>, Angles<'_>),
        (tape, unnormed): (AttentionTape, Vec<Normed>),
        normed: &Buffer,
        dattended: Buffer,
        grads: &Gradients,
    ) -> Result<Buffer> {
        let row = pass.network.heads.row;
        let dqkv = pass.alloc(pass.rows * row)?;
        let attention = self.attention(pass, texts, angles);
        attention.backward(&tape, &dattended, &dqkv)?;
        drop((tape, dattended));
        let norms = self.block.qk_norms.iter().flatten();
        for (which, (norm, Normed { input, stats })) in norms.zip(&unnormed).enumerate() {
            let dy = Self::take_heads(pass, &dqkv, which)?;
            let dx = pass.alloc(dy.len())?;
            pass.norm_backward(norm, (input, stats), &dy, (&dx, false), grads)?;
            Self::put_heads(pass, &dx, &dqkv, which)?;
        }
        let dnormed = pass.alloc(normed.len())?;
        let mut at = 0;
        for (i, l) in self.block.qkv.iter().enumerate() {
            let buffer = &dqkv;
            let dy = Columns { buffer, at, row };
            pass.linear_weights_backward(l, normed, dy, grads)?;
            pass.linear_input_backward(l, dy, &dnormed, i > 0)?;
            at += l.outputs;
        }
        Ok(dnormed)
    }

    /// `dx` comes in as the gradient of the output and leaves as that of the input.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        (texts, angles): (Texts<'_>, Angles<'_>),
        tape: BlockTape,
        dx: &Buffer,
        grads: &Gradients,
    ) -> Result<()> {
        let (block, parallel) = (self.block, pass.network.parallel);
        let (first, second) = (block.attention_norm.as_ref(), block.mlp_norm.as_ref());
        // Attention and MLP that share a norm share its output too.
        let shared = parallel && second.is_none();
        let of_mlp = if shared { first } else { second };
        let (x, stats) = match &tape.middle {
            Some((middle, stats)) => (middle, stats.clone()),
            None => (&tape.input, None),
        };
        let (read, again) = Self::normed(pass, of_mlp, x)?;
        let stats = stats.or(again);
        let norm = block.mlp_out_norm.as_ref();
        let dmlp = Self::write_backward(pass, norm, tape.mlp_out.as_ref(), dx, grads)?;
        let dread = self.mlp_backward(pass, tape.inner, &read, &dmlp, grads)?;
        drop((dmlp, read));

        let dattended = pass.alloc(tape.attended.len())?;
        let out_backward = || -> Result<()> {
            let (norm, kept) = (block.attention_out_norm.as_ref(), &tape.attention_out);
            let dy = Self::write_backward(pass, norm, kept.as_ref(), dx, grads)?;
            let dy = Columns::whole(&dy, block.out.outputs);
            pass.linear_weights_backward(&block.out, &tape.attended, dy, grads)?;
            pass.linear_input_backward(&block.out, dy, &dattended, false)
        };
        // The parallel form's attention sees the gradient of the output alone, the sequential one's also the MLP's.
        if parallel {
            out_backward()?;
        }
        if !shared {
            Self::stream_backward(pass, second, (x, stats.as_ref()), &dread, dx, grads)?;
        }
        if !parallel {
            out_backward()?;
        }
        let dshared = shared.then_some(dread);
        let (normed, again) = Self::normed(pass, first, &tape.input)?;
        let stats = tape.stats.or(again);
        let kept = (tape.attention, tape.unnormed);
        let of = (texts, angles);
        let dnormed = self.attention_backward(pass, of, kept, &normed, dattended, grads)?;
        if let Some(dshared) = dshared {
            pass.kernels.add(&dnormed, &dshared)?;
        }
        let kept = (&tape.input, stats.as_ref());
        Self::stream_backward(pass, first, kept, &dnormed, dx, grads)
    }

    /// Adds the gradient of a norm's input to that of the stream, or that of its output where there is no norm.
    fn stream_backward(
        pass: &Pass<'_>,
        norm: Option<&Norm>,
        (x, stats): (&Buffer, Option<&Buffer>),
        dy: &Buffer,
        dx: &Buffer,
        grads: &Gradients,
    ) -> Result<()> {
        match (norm, stats) {
            (Some(norm), Some(stats)) => {
                pass.norm_backward(norm, (x, stats), dy, (dx, true), grads)
            }
            _ => pass.kernels.add(dx, dy),
        }
    }
}

/// Gate and up, each from its first element to its last, and the distance of their rows.
fn gate_and_up(pass: &Pass<'_>, inner: &[Buffer]) -> Result<([Buffer; 2], usize)> {
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
