//! What the paper prints and what is true instead (`paper-notes/errata.md`), on instances where they differ.

mod bonuses;
mod planning;
mod radii;

use rto::seed::SeedTree;
use rto::zoo::{Instance, Kind, RandomSpec, random_instance};

fn instance(i: u64) -> Instance {
    let spec = RandomSpec {
        kind: match i % 3 {
            0 => Kind::Tree { eos: false },
            1 => Kind::Layered { width: 3 },
            _ => Kind::Stochastic { width: 3 },
        },
        prompts: 2,
        actions: 3,
        horizon: 3,
        dim: 3,
        beta: 0.4,
        theta_norm: 1.0,
        zeros: 0.0,
    };
    random_instance(&spec, &SeedTree::new(11).index(i)).unwrap()
}
