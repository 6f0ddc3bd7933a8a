//! A preference loss of your own, in line 2 of Algorithm 2, and the minimiser that it must find.
//!
//! `cargo run --example preference_loss`
//!
//! A loss of pairs is one implementation of [`PairLoss`]. [`fit_pairs`] runs it on a table (here) and on a transformer, with the same
//! pairs, schedule and seeds as DPO.

use ndarray::Array2;
use rto::Result;
use rto::algorithm2::{FitConfig, Pair, fit_pairs, fit_steps};
use rto::mdp::{ActionIx, StateIx, TokenTree};
use rto::objective::{DpoLoss, PairLoss, PairSlopes, SequencePairs};
use rto::policy::optimizer::OptimizerConfig;
use rto::policy::{StateMap, TabularLearner, TabularSoftmax};
use rto::seed::SeedTree;
use rto::seq::{Episode, Finish, PolicyLearner, TokenObjective};

/// exp(−β(l_w − l_l)) with l = log π(y|x) − log π_ref(y|x): boosting's loss in place of the logistic one.
struct Exponential;

impl PairLoss for Exponential {
    fn objective(
        &self,
        batch: &[Episode],
        reference: &[f64],
        beta: f64,
    ) -> Result<Box<dyn TokenObjective>> {
        SequencePairs::boxed(batch, reference, beta, move |pair| {
            let [winner, loser] = pair.log_ratio();
            let loss = (-beta * (winner - loser)).exp();
            PairSlopes {
                loss,
                slope: [-beta * loss, beta * loss],
            }
        })
    }
}

/// β(l_0 − l_1) after a fit to three pairs in which response 0 wins and one in which it loses.
fn margin(loss: &dyn PairLoss) -> Result<f64> {
    let beta = 0.5;
    let tree = TokenTree::try_new(1, 2, 1, None)?;
    let map = StateMap::tree(&tree, &[1.0])?;
    let reference = TabularSoftmax::try_new(map, &Array2::zeros((1, 2)))?;
    let mut learner = TabularLearner::try_new(reference.clone(), OptimizerConfig::sgd(1.0))?;
    let reply = |token| Episode::try_new(StateMap::prompt(0), vec![token], Finish::Length);
    let mut pairs = Vec::new();
    for winner in [0, 0, 0, 1] {
        pairs.push(Pair {
            winner: reply(winner)?,
            loser: reply(1 - winner)?,
        });
    }
    let config = FitConfig {
        learning_rate: 1.0,
        batch_size: 4,
        epochs: 400,
        ..FitConfig::default()
    };
    fit_pairs(
        &mut learner,
        &reference,
        &pairs,
        (loss, beta),
        &config.check()?,
        &SeedTree::new(1),
        0..fit_steps(pairs.len(), &config),
        &mut |_| Ok(()),
    )?;
    let table = learner.policy().table()?;
    let log_prob = |a| table.log_prob(StateIx(0), ActionIx(a));
    Ok(beta * (log_prob(0) - log_prob(1)))
}

fn main() -> Result<()> {
    let (dpo, mine) = (margin(DpoLoss::Dpo.loss())?, margin(&Exponential)?);
    println!("DPO:         beta (l_0 - l_1) = {dpo:.6}, the log-odds, log 3");
    println!("exponential: beta (l_0 - l_1) = {mine:.6}, half of them");
    // Three wins against one: the logistic loss is least at log 3, the exponential one at (log 3)/2.
    assert!((dpo - 3f64.ln()).abs() < 1e-6);
    assert!((mine - 3f64.ln() / 2.0).abs() < 1e-6);
    Ok(())
}

#[test]
fn each_loss_finds_its_minimiser() {
    main().unwrap();
}
