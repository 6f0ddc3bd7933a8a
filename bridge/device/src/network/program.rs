//! A network's passes: scores of texts, and the pull-back of their gradients.

use super::batch::{Batch, Laid, rows_of_states, sorted};
use super::block::{At, BlockTape, Keep, Reads};
use super::description::Network;
use super::heads::{HeadTape, States};
use super::layers::Pass;
use super::parameters::{Gradients, Parameters};
use super::scores::{Request, Scores};
use super::turns::Rotations;
use crate::buffer::{Buffer, Element};
use crate::device::upload_u32;
use crate::kernels::{Angles, Kernels};
use crate::{Error, Result};

/// A network with its weights on a device.
pub struct Program<'a> {
    pub(crate) kernels: Kernels<'a>,
    pub(crate) network: &'a Network,
    pub(crate) parameters: &'a Parameters,
    rotations: Rotations,
    options: Options,
}

/// Choices of a [`Program`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Keep the blocks' inputs only and run each block again in the backward pass.
    pub checkpointing: bool,
    /// T of π = softmax(logits/T).
    pub temperature: f32,
    /// Vocabulary entries of which logits are there at once.
    pub columns: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            checkpointing: false,
            temperature: 1.0,
            columns: 4096,
        }
    }
}

/// Scores, and what the backward pass needs of the pass that made them.
pub struct Forward {
    /// What was asked for.
    pub scores: Scores,
    tape: Option<Tape>,
}

struct Tape {
    laid: Laid,
    blocks: Vec<Kept>,
    states: States,
    head: Option<HeadTape>,
}

enum Kept {
    Nothing,
    Input(Buffer),
    Tape(Box<BlockTape>),
}

impl<'a> Program<'a> {
    /// A program of a network whose weights are on the device of `kernels`.
    ///
    /// # Errors
    /// [`Error::Network`] for a network whose parts do not fit, or a missing weight; what the device reports.
    pub fn new(
        kernels: Kernels<'a>,
        network: &'a Network,
        parameters: &'a Parameters,
        options: Options,
    ) -> Result<Self> {
        network.check()?;
        let rotations = Rotations::new(&kernels, network)?;
        Self::with_rotations(kernels, network, parameters, options, rotations)
    }

    /// The same with angles that are there already: nothing is allocated or copied.
    ///
    /// # Errors
    /// As [`Program::new`]; [`Error::Network`] for the angles of another network.
    pub fn with_rotations(
        kernels: Kernels<'a>,
        network: &'a Network,
        parameters: &'a Parameters,
        options: Options,
        rotations: Rotations,
    ) -> Result<Self> {
        network.check()?;
        if rotations.len() != network.rotations.len() {
            let (found, expected) = (rotations.len(), network.rotations.len());
            return Err(Error::Network(format!(
                "found {found} rotations, expected {expected}"
            )));
        }
        for (name, len) in network.tensors() {
            let found = parameters.get(&name)?.len();
            if found != len {
                return Err(Error::Network(format!(
                    "weight {name}: found {found} values, expected {len}"
                )));
            }
        }
        if !(options.temperature > 0.0 && options.temperature.is_finite()) || options.columns == 0 {
            return Err(Error::Network(format!(
                "found {options:?}, expected a temperature and columns above 0"
            )));
        }
        Ok(Self {
            kernels,
            network,
            parameters,
            rotations,
            options,
        })
    }

    /// The kernels, and with them the device and the type of weights.
    pub fn kernels(&self) -> &Kernels<'a> {
        &self.kernels
    }

    /// The network.
    pub fn network(&self) -> &'a Network {
        self.network
    }

    /// Its weights.
    pub fn parameters(&self) -> &'a Parameters {
        self.parameters
    }

    /// Its choices.
    pub fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn pass(&self, rows: usize) -> Pass<'_> {
        Pass {
            kernels: self.kernels,
            network: self.network,
            parameters: self.parameters,
            rows,
        }
    }

    pub(crate) fn angles(&self, block: usize) -> Angles<'_> {
        self.rotations.angles(self.network.blocks[block].rotation)
    }

    pub(crate) fn at(&self, index: usize) -> At<'_> {
        At {
            index,
            block: &self.network.blocks[index],
        }
    }

    /// The stream before the first block.
    pub(crate) fn embed(&self, tokens: &Buffer, positions: Option<&Buffer>) -> Result<Buffer> {
        let network = self.network;
        let x = self
            .pass(tokens.len())
            .alloc(tokens.len() * network.width)?;
        let places = match (&network.places, positions) {
            (Some(name), Some(positions)) => Some((positions, self.parameters.get(name)?)),
            _ => None,
        };
        let table = self.parameters.get(&network.embedding)?;
        self.kernels
            .embed(tokens, table, places, &x, network.embedding_scale)?;
        Ok(x)
    }

    /// # Errors
    /// [`Error::Network`] for a token outside of the vocabulary or a text longer than the network's.
    pub(crate) fn check_tokens(&self, batch: &Batch) -> Result<()> {
        let network = self.network;
        let outside = |t: &&u32| **t as usize >= network.vocabulary;
        if let Some(token) = batch.tokens().iter().find(outside) {
            let vocabulary = network.vocabulary;
            return Err(Error::Network(format!(
                "token {token}, expected one below the vocabulary size {vocabulary}"
            )));
        }
        if batch.longest() > network.positions {
            let (longest, positions) = (batch.longest(), network.positions);
            return Err(Error::Network(format!(
                "a text of {longest} tokens, expected at most {positions}"
            )));
        }
        Ok(())
    }

    fn check(&self, batch: &Batch, request: &Request<'_>) -> Result<()> {
        self.check_tokens(batch)?;
        let network = self.network;
        let lacks = [
            (
                request.reads_vocabulary() && network.head.is_none(),
                "language-model",
            ),
            (request.values && network.value.is_none(), "value"),
            (request.rewards && network.reward.is_none(), "reward"),
        ];
        if let Some((_, head)) = lacks.iter().find(|(lacks, _)| *lacks) {
            return Err(Error::Network(format!("a network without a {head} head")));
        }
        match request.reference {
            Some(other) if other.network.vocabulary != network.vocabulary => {
                Err(Error::Network(format!(
                    "a reference with a vocabulary of {}, expected {}",
                    other.network.vocabulary, network.vocabulary
                )))
            }
            Some(other) => other.check(batch, &Request::log_probs()),
            None => Ok(()),
        }
    }

    /// The lowest block that a gradient must reach: `None` for the embedding, the number of blocks where only heads and the last norm
    /// are trained.
    fn lowest(&self) -> Option<usize> {
        let tables = [Some(&self.network.embedding), self.network.places.as_ref()];
        let trained = |name: &String| self.parameters.is_trained(name);
        if tables.into_iter().flatten().any(trained) {
            return None;
        }
        let blocks = &self.network.blocks;
        let block = blocks
            .iter()
            .position(|b| b.tensors_of(self.network.norm).any(|name| trained(&name)));
        Some(block.unwrap_or(blocks.len()))
    }

    fn trunk(
        &self,
        batch: &Batch,
        with_final: bool,
        keep: bool,
    ) -> Result<(Laid, Vec<Kept>, States)> {
        let device = self.kernels.device();
        let laid = Laid::new(device, batch, self.network.places.is_some(), with_final)?;
        let pass = self.pass(batch.tokens().len());
        let reads = Reads::Texts(laid.texts());
        let mut x = self.embed(&laid.tokens, laid.positions.as_ref())?;
        let lowest = self.lowest().unwrap_or(0);
        let mut blocks = Vec::new();
        for index in 0..self.network.blocks.len() {
            let kept = match keep && index >= lowest {
                false => Keep::Nothing,
                true if self.options.checkpointing => Keep::Input,
                true => Keep::All,
            };
            let input = (kept == Keep::Input).then(|| x.clone());
            let (y, tape) = self
                .at(index)
                .forward(&pass, &reads, self.angles(index), x, kept)?;
            x = y;
            blocks.push(match (input, tape) {
                (_, Some(tape)) => Kept::Tape(Box::new(tape)),
                (Some(input), None) => Kept::Input(input),
                (None, None) => Kept::Nothing,
            });
        }
        let states = States::new(&pass, &x, &laid.states)?;
        Ok((laid, blocks, states))
    }

    /// Scores of a batch; with a view to a backward pass if `keep`.
    ///
    /// # Errors
    /// [`Error::Network`] for a token outside of the vocabulary, a text longer than the network's, a head that is not there; what
    /// the device reports.
    pub fn forward(&self, batch: &Batch, request: &Request<'_>, keep: bool) -> Result<Forward> {
        self.check(batch, request)?;
        let (laid, blocks, states) = self.trunk(batch, request.reads_final(), keep)?;
        let n = batch.responses();
        let head = match request.reads_vocabulary() {
            false => None,
            true => {
                let other = request.reference.map(|reference| -> Result<Buffer> {
                    Ok(reference.trunk(batch, false, false)?.2.hidden)
                });
                let other = other.transpose()?;
                Some(self.scan(&states, n, &laid.targets, request.reference, other)?)
            }
        };
        let scores = self.read(request, &states, n, head.as_ref())?;
        let tape = keep.then_some(Tape {
            laid,
            blocks,
            states,
            head,
        });
        Ok(Forward { scores, tape })
    }

    /// Adds to `grads` the gradient of a scalar whose gradient with respect to the scores is `grad`. Batch and request must be those of
    /// the forward pass, and the weights the same.
    ///
    /// # Errors
    /// [`Error::Network`] for a pass of which nothing was kept, or a gradient of another length than the scores; what the device
    /// reports.
    pub fn backward(
        &self,
        batch: &Batch,
        request: &Request<'_>,
        forward: Forward,
        grad: &Scores,
        grads: &Gradients,
    ) -> Result<()> {
        grad.check(&forward.scores)?;
        let Some(tape) = forward.tape else {
            return Err(Error::Network("a pass of which nothing was kept".into()));
        };
        let Tape {
            laid,
            blocks,
            states,
            head,
        } = tape;
        let (device, width) = (self.kernels.device(), self.network.width);
        let (n, all) = (batch.responses(), states.hidden.len() / width);
        let dhidden = device.alloc(Element::F32, all * width)?;
        self.kernels.clear(&dhidden)?;
        if let Some(head) = head {
            self.pull(
                &states,
                n,
                &laid.targets,
                request.reference,
                head,
                grad,
                &dhidden,
                grads,
            )?;
        }
        self.pull_scalars(&states, n, grad, &dhidden, grads)?;
        let lowest = self.lowest();
        let last = &self.network.last_norm;
        let names = ["weight", "bias"].map(|end| format!("{}.{end}", last.name));
        let trained = names.iter().any(|name| self.parameters.is_trained(name));
        if lowest == Some(self.network.blocks.len()) && !trained {
            return Ok(());
        }
        let pass = self.pass(batch.tokens().len());
        let dnormed = pass.alloc(all * width)?;
        self.kernels.narrow(&dhidden, &dnormed)?;
        drop(dhidden);
        let dbefore = pass.alloc(all * width)?;
        let kept = (&states.before, &states.stats);
        pass.norm_backward(last, kept, &dnormed, (&dbefore, false), grads)?;
        drop((states, dnormed));
        let rows = rows_of_states(batch.tokens().len(), &batch.states(request.reads_final()));
        let dx = pass.alloc(batch.tokens().len() * width)?;
        self.kernels
            .gather_rows(&dbefore, &upload_u32(device, &rows)?, &dx)?;
        drop(dbefore);
        for (index, kept) in blocks.into_iter().enumerate().rev() {
            let (block, angles) = (self.at(index), self.angles(index));
            let tape = match kept {
                Kept::Nothing => return Ok(()),
                Kept::Tape(tape) => *tape,
                Kept::Input(x) => {
                    let reads = Reads::Texts(laid.texts());
                    match block.forward(&pass, &reads, angles, x, Keep::All)?.1 {
                        Some(tape) => tape,
                        None => return Ok(()),
                    }
                }
            };
            block.backward(&pass, (laid.texts(), angles), tape, &dx, grads)?;
        }
        self.embed_backward(batch, &dx, grads)
    }

    /// Adds the gradients of the tables that the stream begins with, those that are trained.
    fn embed_backward(&self, batch: &Batch, dx: &Buffer, grads: &Gradients) -> Result<()> {
        let device = self.kernels.device();
        let add = |name: &str, ids: &[u32], factor: f32| -> Result<()> {
            let Some(table) = grads.get(name)? else {
                return Ok(());
            };
            let [ids, firsts, order] = sorted(ids);
            let [ids, firsts, order] = [&ids, &firsts, &order].map(|x| upload_u32(device, x));
            let (ids, firsts, order) = (ids?, firsts?, order?);
            self.kernels
                .embed_backward(dx, [&ids, &firsts, &order], &table, factor)
        };
        if let Some(places) = &self.network.places {
            add(places, &batch.positions(), 1.0)?;
        }
        let scale = self.network.embedding_scale;
        add(&self.network.embedding, batch.tokens(), scale)
    }
}
