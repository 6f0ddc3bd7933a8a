//! What is refused at the seam.

use crate::{draw, map, ppo, softmax};
use rto::Result;
use rto::algorithm2::{
    CriticSlot, DpoConfig, FitConfig, NoCritic, Pair, PpoConfig, PpoRun, PpoState, RtoConfig, Step,
    dpo, sft,
};
use rto::mdp::Beta;
use rto::objective::{BradleyTerry, Readout};
use rto::policy::{OptimizerConfig, StateMap, TabularLearner};
use rto::seed::SeedTree;
use rto::seq::PolicyLearner;
use rto::seq::{Channel, Decoder, Episode, Finish, PerToken, Ragged, TokenReward, TokenScorer};
use rto::token_reward::{
    AdaptiveKl, DenseReward, PaidAtEnd, Redistributed, SentenceReward, Uniform,
};

/// A model whose scores, or reward, are what a closure says.
struct Says<F>(Channel, F);

impl<F: Fn(&[Episode]) -> Ragged> TokenScorer for Says<F> {
    fn channels(&self) -> &[Channel] {
        std::slice::from_ref(&self.0)
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        PerToken::new(batch).with(self.0, (self.1)(batch))
    }
}

struct Pays<F>(F);

impl<F: Fn(&[Episode]) -> Ragged> TokenReward for Pays<F> {
    fn rewards(&self, batch: &[Episode]) -> Result<Ragged> {
        Ok((self.0)(batch))
    }
}

fn nan_at(row: usize) -> impl Fn(&[Episode]) -> Ragged {
    move |batch| {
        let mut out = Ragged::zeros(batch);
        out.row_mut(row)[0] = f64::NAN;
        out
    }
}

/// Every row one number short.
fn short(batch: &[Episode]) -> Ragged {
    Ragged::zeros_like_lengths(batch.iter().map(|e| e.len() - 1))
}

/// The one line that an iteration ends with; the learner must not have moved.
fn refused(reference: &dyn TokenScorer, reward: &dyn TokenReward, batch: &[Episode]) -> String {
    let map = map(2, 4);
    let (config, prompts, seeds) = (ppo(), [StateMap::prompt(0)], SeedTree::new(0));
    let checked = config.check().unwrap();
    let run = PpoRun {
        reference,
        reward,
        prompts: &prompts,
        config: &checked,
        seeds: &seeds,
    };
    let start = softmax(&map, "policy");
    let mut learner = TabularLearner::try_new(start.clone(), OptimizerConfig::sgd(1.0)).unwrap();
    let (mut none, mut state) = (NoCritic, PpoState::new(&config));
    let mut slot = CriticSlot::Separate(&mut none);
    let said = run.update(&mut learner, &mut slot, &mut state, batch.to_vec());
    let said = said.unwrap_err().to_string();
    assert_eq!(learner.policy().params(), start.params());
    assert_eq!(state, PpoState::new(&config));
    assert_eq!(said.lines().count(), 1);
    said
}

#[test]
fn numbers_that_are_not_finite_stop_at_the_seam() {
    let reference = softmax(&map(2, 4), "reference");
    let batch = draw(&reference, 6, "batch");
    let zero = Pays(Ragged::zeros);
    let broken = Says(Channel::LogProb, nan_at(2));
    assert_eq!(
        refused(&broken, &zero, &batch),
        "log_prob of row 2, token 0 is not finite (found NaN)"
    );
    let want = "reward of row 3, token 0 is not finite (found NaN)";
    for reward in [
        &Pays(nan_at(3)) as &dyn TokenReward,
        &DenseReward(Says(Channel::Reward, nan_at(3))),
        &SentenceReward::new(Says(Channel::Reward, nan_at(3))),
    ] {
        assert_eq!(refused(&reference, reward, &batch), want);
    }
    let infinite = Says(Channel::LogProb, |batch: &[Episode]| {
        Ragged::zeros(batch).map(|_| f64::NEG_INFINITY)
    });
    assert_eq!(
        refused(&infinite, &zero, &batch),
        "log_prob of row 0, token 0 is not finite (found -inf)"
    );
}

#[test]
fn a_reward_or_score_that_does_not_fit_its_response_is_named() {
    let reference = softmax(&map(2, 4), "reference");
    let batch = draw(&reference, 6, "batch");
    let h = batch[0].len();
    let want = |what: &str| {
        let less = h - 1;
        format!("{what}: tokens of row 0: expected {h} values, got {less}")
    };
    for reward in [
        &Pays(short) as &dyn TokenReward,
        &PaidAtEnd(Pays(short)),
        &Redistributed::try_new(Pays(short), Uniform, 1.0).unwrap(),
        &DenseReward(Says(Channel::Reward, short)),
    ] {
        assert_eq!(refused(&reference, reward, &batch), want("reward"));
    }
    let zero = Pays(Ragged::zeros);
    let said = refused(&Says(Channel::LogProb, short), &zero, &batch);
    assert_eq!(said, want("log_prob"));
}

#[test]
fn empty_responses_and_empty_batches_are_refused() {
    let map = map(2, 4);
    let reference = softmax(&map, "reference");
    let mut batch = draw(&reference, 6, "batch");
    let none = "batch: found no response, must be at least one";
    let zero = Pays(Ragged::zeros);
    assert_eq!(refused(&reference, &zero, &[]), none);
    let said = Episode::try_new([0].into(), vec![], Finish::Eos).unwrap_err();
    let must = "must be at least one token (the end-of-sentence token counts)";
    assert_eq!(
        said.to_string(),
        format!("response: found an empty response, {must}")
    );
    // Written out by hand.
    batch[4].response.clear();
    let want = format!("response of row 4: found an empty response, {must}");
    assert_eq!(refused(&reference, &zero, &batch), want);
    let said = PaidAtEnd(Pays(Ragged::zeros)).rewards(&batch).unwrap_err();
    assert_eq!(said.to_string(), want);

    let (seeds, fit) = (SeedTree::new(0), FitConfig::paper_sft().check().unwrap());
    let quiet = &mut |_: &Step| Ok(());
    let sgd = OptimizerConfig::sgd(1.0);
    let mut learner = TabularLearner::try_new(reference.clone(), sgd).unwrap();
    let nothing = "data set: found nothing, must be at least one item";
    let said = sft(&mut learner, &[], &fit, &seeds, 0..1, quiet).unwrap_err();
    assert_eq!(said.to_string(), nothing);
    let said = sft(&mut learner, &batch, &fit, &seeds, 0..1, quiet).unwrap_err();
    assert!(
        said.to_string().contains("found an empty response"),
        "{said}"
    );
    let config = DpoConfig::default().check().unwrap();
    let said = dpo(&mut learner, &reference, &[], &config, &seeds, 0..1, quiet).unwrap_err();
    assert_eq!(said.to_string(), nothing);
    let pair = [Pair {
        winner: batch[3].clone(),
        loser: Episode {
            prompt: batch[3].prompt.clone(),
            ..batch[4].clone()
        },
    }];
    let said = dpo(
        &mut learner,
        &reference,
        &pair,
        &config,
        &seeds,
        0..1,
        quiet,
    )
    .unwrap_err();
    assert!(
        said.to_string()
            .starts_with("response of row 1: found an empty"),
        "{said}"
    );
    let said = BradleyTerry::reward(&[], Readout::Last).unwrap_err();
    assert!(
        said.to_string()
            .starts_with("rows of a batch of pairs: found 0"),
        "{said}"
    );
    assert_eq!(learner.policy().params(), reference.params());
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let said = |config: PpoConfig| {
        // Through Algorithm 2's settings too.
        let rto = RtoConfig {
            ppo: config,
            ..RtoConfig::paper()
        };
        let (alone, inside) = (config.check().unwrap_err(), rto.check().unwrap_err());
        assert_eq!(alone, inside);
        alone.to_string()
    };
    for (beta2, found) in [(-0.1, "-0.1"), (f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
        let want = format!("beta2: found {found}, must be finite and >= 0");
        assert_eq!(said(PpoConfig { beta2, ..ppo() }), want);
    }
    for lambda in [1.1, -0.1] {
        let want = format!("lambda: found {lambda}, must be in [0, 1]");
        assert_eq!(said(PpoConfig { lambda, ..ppo() }), want);
    }
    let adaptive_kl = Some(AdaptiveKl {
        target: 0.0,
        horizon: 10.0,
    });
    assert!(
        said(PpoConfig {
            adaptive_kl,
            ..ppo()
        })
        .starts_with("adaptive_kl.target: found 0")
    );
    let own = Decoder::default();
    for (field, rollout) in [
        (
            "temperature: found 0.9",
            Decoder {
                temperature: 0.9,
                ..own
            },
        ),
        ("top_p: found 0.99", Decoder { top_p: 0.99, ..own }),
        ("top_k: found 50", Decoder { top_k: 50, ..own }),
        (
            "min_new_tokens: found 8",
            Decoder {
                min_new_tokens: 8,
                ..own
            },
        ),
    ] {
        let said = said(PpoConfig { rollout, ..ppo() });
        assert!(said.starts_with(field), "{said}");
        assert!(
            said.contains("in training: samples must follow the distribution"),
            "{said}"
        );
    }
}

/// A state that was read from a file is not trusted.
#[test]
fn a_state_with_a_negative_beta2_is_refused() {
    let map = map(2, 4);
    let reference = softmax(&map, "reference");
    let (config, seeds, zero) = (ppo(), SeedTree::new(0), Pays(Ragged::zeros));
    let (checked, prompts) = (config.check().unwrap(), [StateMap::prompt(0)]);
    let run = PpoRun {
        reference: &reference,
        reward: &zero,
        prompts: &prompts,
        config: &checked,
        seeds: &seeds,
    };
    let sgd = OptimizerConfig::sgd(1.0);
    let mut learner = TabularLearner::try_new(reference.clone(), sgd).unwrap();
    for beta2 in [-0.1, f64::NAN] {
        let mut state = PpoState {
            beta2,
            ..PpoState::new(&config)
        };
        let mut slot = CriticSlot::Separate(&mut NoCritic);
        let said = run
            .iterate(&mut learner, &mut slot, &mut state)
            .unwrap_err();
        assert!(
            said.to_string().starts_with("beta2 of the state: found"),
            "{said}"
        );
    }
    let beta = Beta::try_new(-0.1).unwrap_err();
    assert!(beta.to_string().contains("-0.1"), "{beta}");
}
