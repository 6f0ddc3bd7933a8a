//! An MDP of your own, planned exactly, and its optimal policy as the evaluator of a search.
//!
//! `cargo run --example mdp_with_evaluator`
//!
//! The MDP is a dialogue with three states: the assistant may ask, answer or look something up, and only an answer ends the dialogue.
//! Different sequences of actions lead to the same state, so this is no token tree: any finite table will do.

use ndarray::Array2;
use rto::mdp::{ActionIx, Beta, GeneralMdp, Problem, StateIx, TabularPolicy, Transition};
use rto::plan::{soft_value_iteration, suboptimality};
use rto::reward::TabularReward;
use rto::search::best_first::{BestFirst, best_first};
use rto::search::evaluator::{Evaluator, EvaluatorOracle};
use rto::search::mass::LogMass;
use rto::search::oracle::{CountingOracle, Scored};
use rto::{Result, Token};

/// States: nothing is known, the question is clear, the facts are there; and answered, after which nothing matters.
const ANSWERED: StateIx = StateIx(3);
/// Actions: ask, look up, answer.
const ACTIONS: usize = 3;
const HORIZON: usize = 5;

/// 𝒫: where each action leads, in the order s·A + a.
fn dialogue() -> Result<GeneralMdp> {
    let next = [
        [1, 0, 3], // nothing known: asking makes the question clear, looking up finds nothing
        [1, 2, 3], // clear: looking up finds the facts
        [2, 2, 3], // facts: nothing is left but to answer
        [3, 3, 3],
    ];
    let next = next.iter().flatten().map(|&s| StateIx(s)).collect();
    let initial = vec![1.0, 0.0, 0.0, 0.0];
    GeneralMdp::try_new(
        ACTIONS,
        HORIZON,
        initial,
        Transition::Deterministic(next),
        &[ANSWERED],
    )
}

/// r(s, a): an answer is worth more the more is known, and every other action costs a little.
fn reward(s: StateIx, a: usize) -> f64 {
    match a {
        2 => [0.0, 1.0, 3.0, 0.0][s.ix()],
        _ => -0.1,
    }
}

/// π*_β as an evaluator over sequences of actions: what a prefix needs to be gone on from is the state it leads to. An episode that
/// has ended goes on with action 0, so that every sequence has H actions.
struct Optimal {
    policy: TabularPolicy,
    mdp: rto::mdp::TabularMdp,
    start: StateIx,
}

impl Evaluator for Optimal {
    type Mass = LogMass;
    /// The state of the unrolled table, or none where the episode is over.
    type State = Option<StateIx>;

    fn n_actions(&self) -> usize {
        ACTIONS
    }

    fn horizon(&self) -> usize {
        HORIZON
    }

    fn root(&self) -> Result<Scored<LogMass, Self::State>> {
        Ok(Scored {
            mass: LogMass(0.0),
            prefix: Some(self.start),
        })
    }

    fn child(
        &self,
        at: &Scored<LogMass, Self::State>,
        token: Token,
    ) -> Result<Scored<LogMass, Self::State>> {
        let action = ActionIx(token);
        let (log_prob, next) = match at.prefix {
            Some(s) => (
                self.policy.log_prob(s, action),
                self.mdp
                    .next_state(s, action)
                    .filter(|s| *s != StateIx::END),
            ),
            None if token == 0 => (0.0, None),
            None => (f64::NEG_INFINITY, None),
        };
        Ok(Scored {
            mass: LogMass(at.mass.0 + log_prob),
            prefix: next,
        })
    }

    /// The rounding of a softmax over three actions.
    fn slack(&self) -> f64 {
        1e-14
    }
}

fn main() -> Result<()> {
    // With a horizon the best action depends on the steps that are left: planners see the table of (step, state).
    let unrolled = dialogue()?.unroll()?;
    let mdp = &unrolled.mdp;
    let table = Array2::from_shape_fn((mdp.n_states(), ACTIONS), |(s, a)| {
        reward(unrolled.origin[s].1, a)
    });
    let reward = TabularReward::try_new(table)?;
    let (reference, beta) = (
        TabularPolicy::uniform(mdp.n_states(), ACTIONS),
        Beta::try_new(0.3)?,
    );
    let optimum = soft_value_iteration(Problem::new(mdp, &reference, beta), &reward)?; // (3.2) to (3.4)
    let gap = suboptimality(Problem::new(mdp, &reference, beta), &reward, &reference)?; // (3.5)
    println!(
        "V*(rho) = {:.4}, SubOpt of the reference = {gap:.4}",
        optimum.mean_value(mdp)
    );
    assert!(gap > 0.0);

    // The most probable sequence of actions under the optimal policy, and how many had to be scored to be sure of it.
    let (start, _) = mdp.roots().next().expect("an episode begins somewhere");
    let evaluator = Optimal {
        policy: optimum.policy,
        mdp: mdp.clone(),
        start,
    };
    let mut oracle = CountingOracle::new(EvaluatorOracle::new(&evaluator));
    let found = best_first(&mut oracle, &BestFirst::default())?;
    let names: Vec<&str> = found
        .response
        .iter()
        .map(|&a| ["ask", "look up", "answer"][a as usize])
        .collect();
    let all = ACTIONS.pow(HORIZON as u32);
    println!(
        "most probable: {}, then nothing; probability {:.3}, certified: {}, {} of {all} sequences scored",
        names[..3].join(", "),
        found.mass.0.exp(),
        found.certified,
        oracle.queries()
    );
    assert_eq!(found.response, [0, 1, 2, 0, 0]);
    assert!(found.certified && oracle.queries() < all as u64 / 10);
    Ok(())
}

#[test]
fn the_plan_is_found_and_certified() {
    main().unwrap();
}
