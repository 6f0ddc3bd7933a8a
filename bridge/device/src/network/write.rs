//! Text: slots that are refilled as soon as a text in them ends, one cache that is made once, draws on the device from the host's uniform
//! numbers.

use super::batch::{Batch, Laid};
use super::block::{Keep, Reads, Slots};
use super::heads::States;
use super::program::Program;
use crate::buffer::{Buffer, Element};
use crate::device::{download_f32, upload_f64, upload_u32};
use crate::kernels::Draw;
use crate::{Error, Result};

/// How text is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Writing {
    /// Texts side by side.
    pub slots: usize,
    /// Tokens of a response, at most.
    pub longest: usize,
    /// Tokens any of which ends a response, itself included.
    pub ends: Vec<u32>,
    /// The distribution that is drawn from; `None` takes the most likely token.
    pub draw: Option<Draw>,
    /// Tokens of prompts that are read in one pass, padding counted; a longer prompt is read alone.
    pub read_at_once: usize,
}

/// A response.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Written {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// What each was drawn with: its log-probability under the kept distribution.
    pub log_probs: Vec<f32>,
    /// Whether it ends with one of the tokens that end.
    pub ended: bool,
}

/// A text that is being written.
struct Slot {
    prompt: usize,
    /// Tokens that are in the cache.
    cached: usize,
}

struct Writer<'p, 'a> {
    program: &'p Program<'a>,
    writing: &'p Writing,
    blocks: Vec<[Buffer; 2]>,
    capacity: usize,
    slots: Vec<Option<Slot>>,
    written: Vec<Written>,
}

impl Program<'_> {
    /// A response to every prompt. `uniform(prompt, step)` is the number in [0, 1) that a prompt's token is drawn with; with it, what is
    /// drawn depends on the prompt alone, as far as the device's products do not change with the number of their rows.
    ///
    /// # Errors
    /// [`Error::Network`] for no slot, an empty prompt, a text longer than the network's, or a distribution that is not finite; what the
    /// device reports.
    pub fn write(
        &self,
        prompts: &[&[u32]],
        writing: &Writing,
        uniform: &mut dyn FnMut(usize, usize) -> f64,
    ) -> Result<Vec<Written>> {
        let (network, slots) = (self.network, writing.slots.min(prompts.len()));
        if network.head.is_none() {
            return Err(Error::Network(
                "found no language-model head, expected one in a network that writes".into(),
            ));
        }
        let longest = prompts.iter().map(|p| p.len()).max().unwrap_or(0);
        // The last token is never read.
        let capacity = longest.saturating_add(writing.longest.max(1) - 1);
        if capacity > network.positions || (slots == 0 && !prompts.is_empty()) {
            return Err(Error::Network(format!(
                "found {slots} slots and texts of up to {capacity} tokens, expected slots and at most {} tokens",
                network.positions
            )));
        }
        let (heads, device) = (&network.heads, self.kernels.device());
        let size = slots * heads.kv_heads * capacity * heads.head_dim;
        let part = || device.alloc(self.kernels.real().element(), size);
        let blocks = network.blocks.iter().map(|_| Ok([part()?, part()?]));
        let mut writer = Writer {
            program: self,
            writing,
            blocks: blocks.collect::<Result<_>>()?,
            capacity,
            slots: (0..slots).map(|_| None).collect(),
            written: vec![Written::default(); prompts.len()],
        };
        if writing.longest == 0 {
            return Ok(writer.written);
        }
        let mut waiting = prompts.iter().enumerate().peekable();
        loop {
            // A response may end with its first token and leave its slot to the next prompt at once.
            loop {
                let mut fresh: Vec<(usize, usize, &[u32])> = Vec::new();
                let mut time = 0;
                for slot in 0..slots {
                    if writer.slots[slot].is_some() {
                        continue;
                    }
                    let Some((_, next)) = waiting.peek() else {
                        break;
                    };
                    let padded = time.max(next.len()) * (fresh.len() + 1);
                    if !fresh.is_empty() && padded > writing.read_at_once {
                        break;
                    }
                    time = time.max(next.len());
                    if let Some((prompt, tokens)) = waiting.next() {
                        fresh.push((slot, prompt, tokens));
                    }
                }
                if fresh.is_empty() {
                    break;
                }
                writer.read(&fresh, uniform)?;
            }
            if writer.slots.iter().all(Option::is_none) {
                return Ok(writer.written);
            }
            writer.step(uniform)?;
        }
    }
}

impl Writer<'_, '_> {
    /// Reads prompts into their slots and draws the first token of each response.
    fn read(
        &mut self,
        fresh: &[(usize, usize, &[u32])],
        uniform: &mut dyn FnMut(usize, usize) -> f64,
    ) -> Result<()> {
        let (program, device) = (self.program, self.program.kernels.device());
        let texts: Vec<(&[u32], &[u32])> = fresh.iter().map(|(_, _, p)| (*p, &[][..])).collect();
        let batch = Batch::new(&texts)?;
        program.check_tokens(&batch)?;
        let laid = Laid::new(device, &batch, program.network.places.is_some(), true)?;
        let slot: Vec<u32> = fresh
            .iter()
            .flat_map(|(slot, _, p)| p.iter().map(|_| *slot as u32))
            .collect();
        let slot = upload_u32(device, &slot)?;
        let position = upload_u32(device, &batch.positions())?;
        let reads = Reads::Prompts(laid.texts(), self.places(&slot, &position));
        let hidden = self.hidden(&laid.tokens, laid.positions.as_ref(), &reads, &laid.states)?;
        for &(slot, prompt, tokens) in fresh {
            let cached = tokens.len();
            self.slots[slot] = Some(Slot { prompt, cached });
        }
        let rows: Vec<usize> = fresh.iter().map(|(slot, ..)| *slot).collect();
        self.draw(&hidden, &rows, uniform)
    }

    /// Reads the last token of every text and draws the next.
    fn step(&mut self, uniform: &mut dyn FnMut(usize, usize) -> f64) -> Result<()> {
        let device = self.program.kernels.device();
        let (mut rows, mut tokens, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        for (at, slot) in self.slots.iter_mut().enumerate() {
            let Some(slot) = slot else { continue };
            let last = self.written[slot.prompt].tokens.last();
            rows.push(at);
            tokens.push(last.copied().unwrap_or(0));
            positions.push(slot.cached as u32);
            slot.cached += 1;
        }
        let tokens = upload_u32(device, &tokens)?;
        let position = upload_u32(device, &positions)?;
        let slot: Vec<u32> = rows.iter().map(|&r| r as u32).collect();
        let slot = upload_u32(device, &slot)?;
        let every: Vec<u32> = (0..rows.len() as u32).collect();
        let every = upload_u32(device, &every)?;
        let reads = Reads::Tokens(self.places(&slot, &position));
        let hidden = self.hidden(&tokens, Some(&position), &reads, &every)?;
        self.draw(&hidden, &rows, uniform)
    }

    fn places<'b>(&'b self, slot: &'b Buffer, position: &'b Buffer) -> Slots<'b> {
        Slots {
            blocks: &self.blocks,
            slots: self.slots.len(),
            capacity: self.capacity,
            slot,
            position,
        }
    }

    /// Some rows' hidden states after the last norm.
    fn hidden(
        &self,
        tokens: &Buffer,
        positions: Option<&Buffer>,
        reads: &Reads<'_>,
        states: &Buffer,
    ) -> Result<Buffer> {
        let program = self.program;
        let pass = program.pass(tokens.len());
        let mut x = program.embed(tokens, positions)?;
        for index in 0..program.network.blocks.len() {
            let (block, angles) = (program.at(index), program.angles(index));
            x = block.forward(&pass, reads, angles, x, Keep::Nothing)?.0;
        }
        Ok(States::new(&pass, &x, states)?.hidden)
    }

    /// The next token of the texts in some slots.
    fn draw(
        &mut self,
        hidden: &Buffer,
        rows: &[usize],
        uniform: &mut dyn FnMut(usize, usize) -> f64,
    ) -> Result<()> {
        let (kernels, device) = (self.program.kernels, self.program.kernels.device());
        let logits = self.program.logits(hidden)?;
        let tokens = device.alloc(Element::U32, rows.len())?;
        let log_probs = device.alloc(Element::F32, rows.len())?;
        let prompts = rows
            .iter()
            .map(|&slot| self.slots[slot].as_ref().map_or(0, |s| s.prompt));
        let prompts: Vec<usize> = prompts.collect();
        match self.writing.draw {
            Some(how) => {
                let numbers: Vec<f64> = prompts
                    .iter()
                    .map(|&prompt| uniform(prompt, self.written[prompt].tokens.len()))
                    .collect();
                let numbers = upload_f64(device, &numbers)?;
                kernels.draw(&logits, Some(&numbers), &how, &tokens, &log_probs)?;
            }
            None => {
                let how = Draw {
                    temperature: f64::from(self.program.options().temperature),
                    top_k: 0,
                    top_p: 1.0,
                };
                kernels.draw(&logits, None, &how, &tokens, &log_probs)?;
            }
        }
        let bytes = device.download(&tokens)?;
        let (words, _) = bytes.as_chunks::<4>();
        let log_probs = download_f32(device, &log_probs)?;
        for (i, (&slot, &prompt)) in rows.iter().zip(&prompts).enumerate() {
            let token = u32::from_ne_bytes(words[i]);
            if token as usize >= self.program.network.vocabulary {
                return Err(Error::Network(format!(
                    "prompt {prompt}: the distribution of its next token is not finite"
                )));
            }
            let written = &mut self.written[prompt];
            written.tokens.push(token);
            written.log_probs.push(log_probs[i]);
            written.ended = self.writing.ends.contains(&token);
            if written.ended || written.tokens.len() == self.writing.longest {
                self.slots[slot] = None;
            }
        }
        Ok(())
    }
}
