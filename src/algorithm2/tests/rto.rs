//! Algorithm 2 whole: [`rto`] and [`Rto`].

use super::*;

/// Every pair of responses, the likelier under [`tilted`] first.
fn pairs() -> Vec<Pair> {
    let mut pairs = Vec::new();
    for x in prompts() {
        let all = responses(&x);
        let value = log_probs(&tilted(), &all).unwrap().row_sums();
        for (i, w) in all.iter().enumerate() {
            let worse = (0..all.len()).filter(|&j| value[j] < value[i]);
            pairs.extend(worse.map(|j| Pair {
                winner: w.clone(),
                loser: all[j].clone(),
            }));
        }
    }
    pairs
}

fn config(iterations: u64) -> RtoConfig {
    let mut config = RtoConfig {
        beta1: 0.5,
        ppo: PpoConfig {
            iterations,
            ..ppo()
        },
        ..RtoConfig::paper()
    };
    config.dpo.fit = FitConfig {
        learning_rate: 5.0,
        epochs: 5,
        ..config.dpo.fit
    };
    config
}

/// Algorithm 2 from preferences: lines 2 to 8 in one call.
#[test]
fn algorithm_2_runs_from_pairs() {
    let (pairs, config) = (pairs(), config(60));
    let (checked, seeds) = (config.check().unwrap(), SeedTree::new(2));
    let input = RtoInput {
        pairs: &pairs,
        config: &checked,
        seeds: &seeds,
        reward_model: None,
    };
    let (mut d, mut p, mut c) = (policy(), policy(), Table::new(&[Channel::Value]));
    let (mut dpo_steps, mut objectives) = (0, Vec::new());
    let out = rto(
        &mut d,
        &mut p,
        &mut CriticSlot::Separate(&mut c),
        input,
        &mut |_, step| {
            match step {
                RtoStep::Dpo(step) => {
                    assert_eq!(
                        (step.n, step.batch.len()),
                        (dpo_steps, step.scores.n_rows())
                    );
                    let loss = step.report.loss;
                    assert!(dpo_steps > 0 || (loss - 2f64.ln()).abs() < 1e-12, "{loss}");
                    dpo_steps += 1;
                }
                RtoStep::Ppo(step) => objectives.push(step.report.objective),
            }
            Ok(())
        },
    )
    .unwrap();
    assert_eq!(dpo_steps, fit_steps(pairs.len(), &config.dpo.fit));
    assert_eq!((out.state.ppo.iteration, objectives.len()), (60, 60));
    assert_eq!(furthest(&out.reference, &policy()), 0.0);
    let best = optimum(0.5, 0.3, &out.dpo);
    let (start, end) = (
        objective(&policy(), 0.5, 0.3, &out.dpo),
        objective(&p, 0.5, 0.3, &out.dpo),
    );
    assert!(
        best - end < 0.1 * (best - start),
        "{start} to {end} of {best}"
    );
    let said = rto(
        &mut d,
        &mut policy(),
        &mut CriticSlot::Absent,
        input,
        &mut |_, _| Ok(()),
    )
    .map(drop)
    .unwrap_err();
    assert!(
        said.to_string().starts_with("start of the DPO learner"),
        "{said}"
    );
    // As released there is a reward model, and it is not dropped in silence.
    let released = RtoConfig {
        reward_model: true,
        ..config
    };
    let released = released.check().unwrap();
    let input = RtoInput {
        config: &released,
        ..input
    };
    let said = rto(
        &mut policy(),
        &mut policy(),
        &mut CriticSlot::Separate(&mut c),
        input,
        &mut |_, _| Ok(()),
    );
    let said = said.map(drop).unwrap_err().to_string();
    assert!(said.starts_with("reward model: found missing"), "{said}");
}

/// Saved after every step, and gone on with from each of them, a run ends with the same bits.
#[test]
fn a_run_goes_on_from_any_step() {
    let (pairs, seeds) = (pairs(), SeedTree::new(3));
    let mut settings = config(3);
    settings.dpo.fit.epochs = 1;
    settings.dpo.fit.batch_size = pairs.len().div_ceil(3);
    let checked = settings.check().unwrap();
    let (reference, input) = (
        policy(),
        RtoInput {
            pairs: &pairs,
            config: &checked,
            seeds: &seeds,
            reward_model: None,
        },
    );
    let go = |state, (mut d, mut p, mut c): (Table, Table, Table)| {
        let (mut run, mut trail) = (Rto::resume(&reference, input, state).unwrap(), Vec::new());
        loop {
            trail.push((run.state(), (d.clone(), p.clone(), c.clone())));
            let mut slot = CriticSlot::Separate(&mut c);
            match run.next(&mut d, &mut p, &mut slot).unwrap() {
                None => return trail,
                Some(RtoStep::Dpo(step)) => assert_eq!(step.n + 1, run.state().dpo_steps),
                Some(RtoStep::Ppo(step)) => {
                    assert_eq!(step.report.iteration, run.state().ppo.iteration);
                    assert_eq!(step.batch.len(), checked.ppo.responses());
                }
            }
        }
    };
    let fresh = (policy(), policy(), Table::new(&[Channel::Value]));
    let whole = go(RtoState::new(&checked), fresh);
    assert_eq!(whole.len(), 1 + 3 + 3);
    for (at, (state, models)) in whole.iter().enumerate() {
        let rest = go(*state, models.clone());
        assert_eq!(rest.len(), whole.len() - at);
        for ((a, x), (b, y)) in rest.iter().zip(&whole[at..]) {
            assert_eq!(a, b);
            for (x, y) in [(&x.0, &y.0), (&x.1, &y.1), (&x.2, &y.2)] {
                assert!(x.logits == y.logits && x.values == y.values);
            }
        }
    }
}
