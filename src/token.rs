/// A token of the vocabulary 𝒜 = {0, …, A−1}, an action of the token MDP (Section 3.1).
pub type Token = u32;
