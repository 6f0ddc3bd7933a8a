//! The adaptive adversary of the lower bound: it makes every deterministic learner ask at least
//! M(A, H, K) queries with token feedback (errata, A3), also one that knows ξ.
//!
//! It keeps K chains. A prefix with capacity c ≥ 1 holds c of them and splits c evenly over its
//! children; the children opened first get the smallest capacity. Capacity 0 is a light subtree with
//! one unit of mass per leaf; capacity c gets the share c of the rest. At depth H−1 each chain opens
//! light leaves until two leaves are left; then its heavy leaf is shown a little lighter than
//! the mass that every other unfinished chain still has, less so for each chain that finishes. So
//! no residual of a prefix with capacity is settled before all its children are opened (all but one at
//! depth H−1), and the optimum is known only at the end. All masses are positive integers.

use super::bounds::{XI_SLACK, chains_for_xi, power_at_most};
use super::check_size;
use super::oracle::{Scored, TokenOracle};
use crate::{Error, Result, Token};
use num_bigint::BigUint;
use std::collections::BTreeMap;

/// Proposition 3.2 (errata, A3): The adversary, answering as an oracle.
#[derive(Debug, Clone)]
pub struct Adversary {
    n_actions: usize,
    horizon: usize,
    n_chains: u64,
    finished: u64,
    /// D: the step by which the heavy leaves of successive chains differ.
    step: BigUint,
    /// A^h for h = 0..=H.
    powers: Vec<BigUint>,
    nodes: Vec<Region>,
}

#[derive(Debug, Clone)]
struct Region {
    depth: usize,
    capacity: u64,
    mass: BigUint,
    /// Mass and capacity of the children that are not opened.
    mass_left: BigUint,
    capacity_left: u64,
    children: BTreeMap<Token, usize>,
}

impl Adversary {
    /// `n_chains` = K with 1 ≤ K ≤ A^{H−1}; the optimum will have K·p\* < 1 ≤ (K+1)·p\*.
    ///
    /// # Errors
    /// [`Error::Config`] for a size or a number of chains out of range.
    pub fn new(n_actions: usize, horizon: usize, n_chains: u64) -> Result<Self> {
        check_size(n_actions, horizon)?;
        let most = power_at_most(n_actions, horizon - 1, u64::MAX.into()) as u64;
        if n_chains == 0 || n_chains > most {
            return Err(Error::config(
                "n_chains",
                n_chains,
                format!("from 1 to {most}"),
            ));
        }
        Self::with_margin(n_actions, horizon, n_chains, 1)
    }

    /// The adversary for a given ξ > 0 of Assumption 3.1, with as many chains as ξ and the tree allow: its
    /// optimum has p\* ≥ A^{−ξ}.
    ///
    /// # Errors
    /// [`Error::Config`] for a size out of range, or a ξ for which A^ξ exceeds K by less than rounding.
    pub fn for_xi(n_actions: usize, horizon: usize, xi: f64) -> Result<Self> {
        check_size(n_actions, horizon)?;
        let most = power_at_most(n_actions, horizon - 1, u64::MAX.into());
        let n_chains = chains_for_xi(n_actions, xi, false).min(most) as u64;
        // p* ≥ 1/K − 5D/(4W), which is at least A^{−ξ} when W = w·4K(K+1)D with this w.
        let spare = 1.0 - n_chains as f64 * (n_actions as f64).powf(-xi);
        if spare.is_nan() || spare < XI_SLACK {
            return Err(Error::config(
                "xi",
                xi,
                "above 0, with A^xi above the number of chains",
            ));
        }
        let margin = (5.0 / (16.0 * (n_chains as f64 + 1.0) * spare)).ceil() as u64 + 1;
        Self::with_margin(n_actions, horizon, n_chains, margin)
    }

    fn with_margin(n_actions: usize, horizon: usize, n_chains: u64, margin: u64) -> Result<Self> {
        let powers: Vec<BigUint> = (0..=horizon as u32)
            .map(|h| BigUint::from(n_actions).pow(h))
            .collect();
        // D exceeds everything that light leaves and rounding can take from a chain.
        let step = (&powers[horizon] + BigUint::from(n_chains) * horizon) * 4u32;
        // W/K is so much larger than K·D that (K+1)·p* ≥ W.
        let total = &step * n_chains * (n_chains + 1) * 4u32 * margin;
        let mut adversary = Self {
            n_actions,
            horizon,
            n_chains,
            finished: 0,
            step,
            powers,
            nodes: Vec::new(),
        };
        adversary.add(0, n_chains, total);
        Ok(adversary)
    }

    fn add(&mut self, depth: usize, capacity: u64, mass: BigUint) -> usize {
        let children = BTreeMap::new();
        self.nodes.push(Region {
            depth,
            capacity,
            mass_left: mass.clone(),
            mass,
            capacity_left: capacity,
            children,
        });
        self.nodes.len() - 1
    }

    /// The child of `node` by `token`, fixing its mass now if it was not opened before.
    fn open(&mut self, node: usize, token: Token) -> usize {
        if let Some(child) = self.nodes[node].children.get(&token) {
            return *child;
        }
        let (capacity, mass) = self.answer(node);
        let region = &mut self.nodes[node];
        region.mass_left -= &mass;
        region.capacity_left -= capacity;
        let depth = region.depth + 1;
        let child = self.add(depth, capacity, mass);
        self.nodes[node].children.insert(token, child);
        child
    }

    /// Capacity and mass of the next child of `node` to be opened.
    fn answer(&mut self, node: usize) -> (u64, BigUint) {
        let region = &self.nodes[node];
        let unopened = (self.n_actions - region.children.len()) as u64;
        if unopened == 1 {
            return (region.capacity_left, region.mass_left.clone());
        }
        if region.capacity == 0 {
            return (0, &region.mass_left / unopened);
        }
        if region.depth == self.horizon - 1 {
            return (0, self.answer_leaf(unopened));
        }
        let capacity = region.capacity_left / unopened;
        if capacity == 0 {
            return (0, self.powers[self.horizon - region.depth - 1].clone());
        }
        let mass = &region.mass_left * capacity / region.capacity_left;
        (capacity, mass)
    }

    /// A leaf of a chain: light, until two are left; of these the opened one gets what the heavy one drops.
    fn answer_leaf(&mut self, unopened: u64) -> BigUint {
        if unopened > 2 {
            return BigUint::from(1u8);
        }
        self.finished += 1;
        &self.step * (self.n_chains + 1 - self.finished)
    }

    /// The children of a prefix that have been asked about, by token.
    pub fn opened(&self, at: &Scored<BigUint, usize>) -> Vec<(Token, Scored<BigUint, usize>)> {
        let scored = |child: usize| Scored {
            mass: self.nodes[child].mass.clone(),
            prefix: child,
        };
        self.nodes[at.prefix]
            .children
            .iter()
            .map(|(token, child)| (*token, scored(*child)))
            .collect()
    }

    /// What a learner can know, in a form equal for histories that differ only by renaming tokens:
    /// the tree of opened prefixes with their masses, children sorted.
    pub fn canonical_form(&self) -> String {
        self.canonical(0)
    }

    fn canonical(&self, node: usize) -> String {
        let region = &self.nodes[node];
        let mut children: Vec<String> = region
            .children
            .values()
            .map(|c| self.canonical(*c))
            .collect();
        children.sort_unstable();
        format!("({}{})", region.mass, children.concat())
    }
}

impl TokenOracle for Adversary {
    type Mass = BigUint;
    /// Index of the region.
    type Prefix = usize;

    fn n_actions(&self) -> usize {
        self.n_actions
    }

    fn horizon(&self) -> usize {
        self.horizon
    }

    fn root(&mut self) -> Result<Scored<BigUint, usize>> {
        Ok(Scored {
            mass: self.nodes[0].mass.clone(),
            prefix: 0,
        })
    }

    fn token_rewards(
        &mut self,
        at: &Scored<BigUint, usize>,
        suffix: &[Token],
        scored: &mut Vec<Scored<BigUint, usize>>,
    ) -> Result<()> {
        let mut node = at.prefix;
        for &token in suffix {
            node = self.open(node, token);
            scored.push(Scored {
                mass: self.nodes[node].mass.clone(),
                prefix: node,
            });
        }
        Ok(())
    }
}
