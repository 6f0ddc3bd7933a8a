//! What a reward is maximised in.

use super::{Beta, TabularMdp, TabularPolicy};

/// (3.2): max_π E_π\[Σ_h r(s_h, a_h)\] − β KL(π ‖ π_ref), for whatever reward r is given with it.
#[derive(Debug, Clone, Copy)]
pub struct Problem<'a> {
    /// 𝒮, 𝒜, 𝒫, ρ, H.
    pub mdp: &'a TabularMdp,
    /// π_ref.
    pub reference: &'a TabularPolicy,
    /// β.
    pub beta: Beta,
}

impl<'a> Problem<'a> {
    /// The three together. That π_ref has a row for each state is checked where it is read.
    pub fn new(mdp: &'a TabularMdp, reference: &'a TabularPolicy, beta: Beta) -> Self {
        Self {
            mdp,
            reference,
            beta,
        }
    }
}
