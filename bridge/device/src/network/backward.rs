//! The backward pass of a block.

use super::block::{At, BlockTape, gate_and_up};
use super::description::Norm;
use super::layers::{Columns, Normed, Pass};
use super::parameters::Gradients;
use crate::Result;
use crate::attention::AttentionTape;
use crate::buffer::Buffer;
use crate::kernels::{Angles, Texts};

impl At<'_> {
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
