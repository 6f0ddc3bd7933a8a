//! The world of an instance: a token tree or a general table, compiled for the planners.

use crate::arrays::{Axis, entry};
use crate::json::{Fields, Json};
use crate::policies::RawReference;
use crate::preferences::{Comparison, Response};
use crate::transitions::{self, Rows};
use anyhow::{Context, Result, anyhow, bail};
use ndarray::Array2;
use rto::mdp::{
    ActionIx, GeneralMdp, PreferencePair, SparseRows, StateIx, TabularMdp, TokenTree, Trajectory,
    Transition, Unrolled,
};
use std::path::Path;

/// The most state-action pairs that a table may have.
const MOST_PAIRS: usize = 500_000_000;
/// The same for a general table, counted once for each step.
const MOST_UNROLLED: usize = 20_000_000;

/// The table and how the user's indices map to it.
pub struct World {
    pub kind: Kind,
    pub mdp: TabularMdp,
    /// The user's state (row of the user's tables) of each state of `mdp`.
    pub origin: Vec<usize>,
    /// s₁ of each entry of `initial`; `None` for a terminal state of a general table.
    pub roots: Vec<Option<StateIx>>,
    /// Names and lengths of the axes before the action axis.
    pub lead: Vec<(&'static str, usize)>,
    pub horizon: usize,
    /// The user's states that no episode acts in: their rows may hold anything.
    pub idle: Vec<bool>,
}

pub enum Kind {
    Tree(TokenTree),
    General(Box<General>),
}

/// A general table as the user gave it.
pub struct General {
    unrolled: Unrolled,
    pub rows: Rows,
    terminal: Vec<bool>,
    initial: Vec<f64>,
}

impl World {
    /// Takes the fields that define the table, and π_ref: an array of the right shape must be there before
    /// anything of that size is built.
    pub fn take(fields: &mut Fields, dir: &Path) -> Result<(Self, RawReference)> {
        let general = Self::is_general(fields);
        let initial = initial(fields)?;
        let horizon = fields.require("horizon")?.index("horizon", 1_000_000)?;
        if horizon == 0 {
            bail!("horizon: found 0, must be at least 1");
        }
        if general {
            Self::general(fields, initial, horizon, dir)
        } else {
            Self::tree(fields, &initial, horizon, dir)
        }
    }

    /// Whether the file describes a general table and not a token tree.
    pub fn is_general(fields: &Fields) -> bool {
        fields.has("transition") || fields.has("states")
    }

    fn tree(
        fields: &mut Fields,
        initial: &[f64],
        horizon: usize,
        dir: &Path,
    ) -> Result<(Self, RawReference)> {
        let actions = fields.require("n_actions")?.index("n_actions", 1 << 31)?;
        let eos = match fields.take("eos") {
            None => None,
            Some(json) => Some(ActionIx(json.index("eos", 1 << 31)? as u32)),
        };
        let prompts = initial.len();
        let mut states = 0usize;
        for _ in 0..horizon {
            states = states.saturating_mul(actions).saturating_add(1);
        }
        let pairs = states.saturating_mul(actions).saturating_mul(prompts);
        if pairs > MOST_PAIRS {
            bail!(
                "horizon: {prompts} trees of {actions} actions and {horizon} steps have more than {MOST_PAIRS} state-action pairs"
            );
        }
        let tree = TokenTree::try_new(prompts, actions, horizon, eos)?;
        let lead = vec![("prompts", prompts), ("states", states)];
        let raw = RawReference::take(fields, &axes(&lead, actions), dir)?;
        let mdp = tree.compile(initial)?;
        let after_eos = |s: usize| {
            let eos = eos.map(|e| e.0);
            eos.is_some_and(|eos| tree.prefix(StateIx(s as u32)).1.contains(&eos))
        };
        let world = Self {
            origin: (0..tree.n_states()).collect(),
            roots: (0..prompts).map(|x| Some(tree.root(x))).collect(),
            lead,
            idle: (0..tree.n_states()).map(after_eos).collect(),
            horizon,
            kind: Kind::Tree(tree),
            mdp,
        };
        Ok((world, raw))
    }

    fn general(
        fields: &mut Fields,
        initial: Vec<f64>,
        horizon: usize,
        dir: &Path,
    ) -> Result<(Self, RawReference)> {
        let states = initial.len();
        if let Some(json) = fields.take("states") {
            let given = match &json {
                Json::List(names) => names.len(),
                other => other.index("states", 1 << 31)?,
            };
            if given != states {
                bail!("initial: found {states} values, expected {given} (states)");
            }
        }
        let given = match fields.take("n_actions") {
            None => None,
            Some(json) => Some(json.index("n_actions", 1 << 31)?),
        };
        let json = fields.require("transition")?;
        let (rows, actions) = transitions::read(&json, states, given, dir)?;
        if states.saturating_mul(actions).saturating_mul(horizon) > MOST_UNROLLED {
            bail!(
                "horizon: {states} states, {actions} actions and {horizon} steps are more than {MOST_UNROLLED} state-action pairs"
            );
        }
        let mut terminal = vec![false; states];
        if let Some(json) = fields.take("terminal") {
            for (i, s) in json.list("terminal")?.iter().enumerate() {
                let place = format!("terminal[{i}]");
                let s = s.index(&place, states - 1)?;
                if initial[s] > 0.0 {
                    bail!(
                        "initial[{s}]: found {}, must be 0, as state {s} is terminal",
                        initial[s]
                    );
                }
                terminal[s] = true;
            }
        }
        if layered(fields)? {
            refuse_cycle(&rows, actions, &terminal)?;
        }
        let lead = vec![("states", states)];
        let raw = RawReference::take(fields, &axes(&lead, actions), dir)?;
        let (unrolled, mdp) = unroll(&rows, actions, &initial, &terminal, horizon)?;
        let world = Self {
            origin: unrolled.origin.iter().map(|o| o.1.ix()).collect(),
            roots: (0..states)
                .map(|s| unrolled.state(0, StateIx(s as u32)))
                .collect(),
            lead,
            idle: terminal.clone(),
            horizon,
            kind: Kind::General(Box::new(General {
                unrolled,
                rows,
                terminal,
                initial,
            })),
            mdp,
        };
        Ok((world, raw))
    }

    /// The number of the user's states.
    pub fn n_states(&self) -> usize {
        self.lead.iter().map(|a| a.1).product()
    }

    pub fn n_actions(&self) -> usize {
        self.mdp.n_actions()
    }

    /// The axes of a table over states and actions.
    pub fn axes(&self) -> Vec<Axis> {
        axes(&self.lead, self.n_actions())
    }

    /// `reference[0][2]` for the row of one of the user's states.
    pub fn row_place(&self, name: &str, state: usize) -> String {
        let shape: Vec<usize> = self.lead.iter().map(|a| a.1).collect();
        entry(name, &shape, state)
    }

    /// A table over the user's states, copied to the states they became.
    pub fn lift(&self, table: &Array2<f64>) -> Array2<f64> {
        Array2::from_shape_fn((self.origin.len(), table.ncols()), |(s, a)| {
            table[[self.origin[s], a]]
        })
    }

    /// The pair that a comparison describes.
    pub fn pair(&self, comparison: &Comparison) -> Result<PreferencePair> {
        let read = |response: &Response, which: &str| -> Result<Trajectory> {
            let place = || format!("{}: {which}", comparison.place);
            match (&self.kind, response) {
                (Kind::Tree(tree), Response::Tokens(tokens)) => {
                    let prompt = match comparison.prompt {
                        Some(prompt) => prompt,
                        None if tree.n_prompts() == 1 => 0,
                        None => bail!("{}: prompt: missing", comparison.place),
                    };
                    if prompt >= tree.n_prompts() {
                        bail!(
                            "{}: prompt: found {prompt}, must be below {}",
                            comparison.place,
                            tree.n_prompts()
                        );
                    }
                    let tokens: Vec<u32> = tokens.iter().map(|t| *t as u32).collect();
                    let unknown = tokens.iter().position(|t| *t as usize >= tree.n_actions());
                    if let Some(h) = unknown {
                        bail!(
                            "{}: unknown token {} at position {h}, must be below {}",
                            place(),
                            tokens[h],
                            tree.n_actions()
                        );
                    }
                    Ok(tree.trajectory(prompt, &tokens).with_context(place)?)
                }
                (Kind::General(general), Response::Pairs(steps)) => {
                    if let Some(prompt) = comparison.prompt.filter(|p| *p != steps[0].0) {
                        bail!(
                            "{}: starts in state {}, but its prompt is {prompt}",
                            place(),
                            steps[0].0
                        );
                    }
                    let steps = self.steps(general, steps).with_context(place)?;
                    Ok(Trajectory::try_new(&self.mdp, steps).with_context(place)?)
                }
                (Kind::Tree(_), Response::Pairs(_)) => {
                    bail!(
                        "{}: found [state, action] pairs, expected a list of tokens",
                        place()
                    )
                }
                (Kind::General(_), Response::Tokens(_)) => {
                    bail!("{}: expected a list of [state, action] pairs", place())
                }
            }
        };
        let winner = read(&comparison.winner, "winner")?;
        let loser = read(&comparison.loser, "loser")?;
        PreferencePair::try_new(winner, loser).map_err(|_| {
            anyhow!(
                "{}: winner and loser start in different states",
                comparison.place
            )
        })
    }

    /// A trajectory over the user's states, checked step by step, in states of the table.
    fn steps(
        &self,
        general: &General,
        pairs: &[(usize, usize)],
    ) -> Result<Vec<(StateIx, ActionIx)>> {
        let (states, actions) = (self.n_states(), self.n_actions());
        let mut out = Vec::with_capacity(pairs.len());
        for (h, &(s, a)) in pairs.iter().enumerate() {
            if s >= states || a >= actions {
                bail!(
                    "step {h}: found state {s}, action {a}, must be below {states} and {actions}"
                );
            }
            if h >= self.horizon {
                bail!(
                    "found {} steps, the horizon is {}",
                    pairs.len(),
                    self.horizon
                );
            }
            let Some(state) = general.unrolled.state(h, StateIx(s as u32)) else {
                bail!("step {h}: state {s} cannot be met at this step");
            };
            out.push((state, ActionIx(a as u32)));
            let row = &general.rows[s * actions + a];
            let mut possible = row.iter().filter(|(_, p)| *p > 0.0).map(|e| e.0);
            match pairs.get(h + 1) {
                Some(&(next, _)) => {
                    if !possible.any(|t| t != StateIx::END && t.ix() == next) {
                        bail!(
                            "step {}: state {next} does not follow state {s} under action {a}",
                            h + 1
                        );
                    }
                }
                None => {
                    let ends = h + 1 == self.horizon
                        || possible.any(|t| t == StateIx::END || general.terminal[t.ix()]);
                    if !ends {
                        bail!(
                            "stops after step {h}, before the horizon {} or a terminal state",
                            self.horizon
                        );
                    }
                }
            }
        }
        Ok(out)
    }
}

impl General {
    /// The (0-based) step of a state of the table.
    pub fn step(&self, s: StateIx) -> usize {
        self.unrolled.origin[s.ix()].0
    }

    /// The same world with other transition rows: its table, and the user's state of each of its states.
    pub fn with_rows(&self, rows: &Rows, horizon: usize) -> Result<(TabularMdp, Vec<usize>)> {
        let actions = rows.len() / self.initial.len();
        let (unrolled, mdp) = unroll(rows, actions, &self.initial, &self.terminal, horizon)?;
        Ok((mdp, unrolled.origin.iter().map(|o| o.1.ix()).collect()))
    }
}

/// Unrolls from every state that is not terminal, so that a value exists for each of them, and puts
/// `initial` on the first step.
fn unroll(
    rows: &Rows,
    actions: usize,
    initial: &[f64],
    terminal: &[bool],
    horizon: usize,
) -> Result<(Unrolled, TabularMdp)> {
    let starts = terminal.iter().filter(|t| !**t).count();
    let uniform: Vec<f64> = terminal
        .iter()
        .map(|t| if *t { 0.0 } else { 1.0 / starts as f64 })
        .collect();
    let ends: Vec<StateIx> = (0..terminal.len())
        .filter(|&s| terminal[s])
        .map(|s| StateIx(s as u32))
        .collect();
    let single = rows.iter().all(|row| row.len() == 1);
    let transition = if single {
        Transition::Deterministic(rows.iter().map(|row| row[0].0).collect())
    } else {
        Transition::Stochastic(SparseRows::try_new(actions, rows)?)
    };
    let general = GeneralMdp::try_new(actions, horizon, uniform, transition, &ends)?;
    let unrolled = general.unroll()?;
    let rho = unrolled
        .origin
        .iter()
        .map(|(step, s)| if *step == 0 { initial[s.ix()] } else { 0.0 })
        .collect();
    let mdp = TabularMdp::try_new(actions, rho, unrolled.mdp.transition().clone())?;
    Ok((unrolled, mdp))
}

/// Whether `layered` is declared.
fn layered(fields: &mut Fields) -> Result<bool> {
    match fields.take("layered") {
        None => Ok(false),
        Some(Json::Bool(declared)) => Ok(declared),
        Some(other) => bail!("layered: found {}, expected true or false", other.shown()),
    }
}

/// Refuses transitions that lead back to an earlier state, listed successors of probability 0 included: a
/// depth-first search over the states that are not terminal.
fn refuse_cycle(rows: &Rows, actions: usize, terminal: &[bool]) -> Result<()> {
    let edges = |s: usize| {
        let pairs = s * actions..(s + 1) * actions;
        pairs.flat_map(move |pair| {
            rows[pair]
                .iter()
                .map(move |(next, _)| (pair - s * actions, *next))
        })
    };
    let mut done = terminal.to_vec();
    let mut on_path = vec![false; terminal.len()];
    for start in 0..terminal.len() {
        if done[start] {
            continue;
        }
        let mut path = vec![(start, edges(start))];
        on_path[start] = true;
        while let Some((s, left)) = path.last_mut() {
            let s = *s;
            match left.next() {
                None => {
                    done[s] = true;
                    on_path[s] = false;
                    path.pop();
                }
                Some((_, StateIx::END)) => {}
                Some((a, next)) if on_path[next.ix()] => bail!(
                    "transition[{s}][{a}]: leads from state {s} back to state {}, a cycle, but \"layered\" is declared",
                    next.ix()
                ),
                Some((_, next)) if done[next.ix()] => {}
                Some((_, next)) => {
                    on_path[next.ix()] = true;
                    path.push((next.ix(), edges(next.ix())));
                }
            }
        }
    }
    Ok(())
}

fn axes(lead: &[(&'static str, usize)], actions: usize) -> Vec<Axis> {
    let lead = lead.iter().map(|(name, len)| (*name, Some(*len)));
    lead.chain([("actions", Some(actions))]).collect()
}

fn initial(fields: &mut Fields) -> Result<Vec<f64>> {
    let json = fields.require("initial")?;
    let items = json.list("initial")?;
    let values: Vec<f64> = items
        .iter()
        .enumerate()
        .map(|(i, x)| x.number(&format!("initial[{i}]")))
        .collect::<Result<_>>()?;
    check_probabilities("initial", &values, |i| format!("initial[{i}]"))?;
    Ok(values)
}

/// Refuses anything but a probability vector.
pub fn check_probabilities(
    place: &str,
    values: &[f64],
    entry: impl Fn(usize) -> String,
) -> Result<()> {
    if values.is_empty() {
        bail!("{place}: found no probabilities, expected at least 1");
    }
    if let Some(i) = values.iter().position(|x| !(*x >= 0.0 && x.is_finite())) {
        bail!("{}: found {}, expected a probability", entry(i), values[i]);
    }
    let sum: f64 = values.iter().sum();
    if (sum - 1.0).abs() > rto::mdp::SUM_TOLERANCE {
        bail!("{place}: probabilities must sum to 1, their sum is {sum}");
    }
    Ok(())
}
