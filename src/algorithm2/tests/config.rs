use super::*;
use crate::advantage::Spread;
use crate::objective::pair_loss::CDpo;
use crate::objective::{Aggregation, DpoLoss, Ratio};
use crate::token_reward::KlEstimator;

#[test]
fn the_presets_are_the_tables() {
    let p = RtoConfig::paper().check().unwrap();
    assert_eq!((p.beta1, p.ppo.beta2, p.dpo.beta), (0.1, 0.03, 0.1));
    assert_eq!(
        (
            p.ppo.prompts_per_iteration,
            p.ppo.minibatch_size,
            p.ppo.epochs
        ),
        (256, 16, 2)
    );
    assert_eq!(
        (
            p.ppo.learning_rate,
            p.dpo.fit.learning_rate,
            p.dpo.fit.batch_size
        ),
        (5e-6, 5e-6, 32)
    );
    assert_eq!(
        PpoConfig::paper_sentence_level().check().unwrap().beta2,
        0.05
    );
    let (sft, rm) = (FitConfig::paper_sft(), FitConfig::paper_reward_model());
    assert_eq!(
        (
            sft.learning_rate,
            sft.batch_size,
            rm.learning_rate,
            rm.batch_size
        ),
        (1e-5, 32, 1e-5, 128)
    );
    let r = RtoConfig::released().check().unwrap();
    assert_eq!(
        (r.beta1, r.ppo.beta2, r.dpo_reward_clip, r.reward_model),
        (0.05, 0.01, Some(0.05), true)
    );
}

#[test]
fn contradictions_and_ranges_are_refused_by_name() {
    let bad = |c: PpoConfig, field: &str| {
        let said = c.check().unwrap_err().to_string();
        assert!(said.starts_with(&format!("{field}: found")), "{said}");
    };
    let p = PpoConfig::paper;
    bad(PpoConfig { beta2: -0.1, ..p() }, "beta2");
    bad(PpoConfig { lambda: 1.5, ..p() }, "lambda");
    bad(
        PpoConfig {
            gamma: f64::NAN,
            ..p()
        },
        "gamma",
    );
    bad(PpoConfig { clip: 0.0, ..p() }, "clip");
    bad(PpoConfig { epochs: 0, ..p() }, "epochs");
    bad(
        PpoConfig {
            rollout: Decoder::paper(),
            ..p()
        },
        "temperature",
    );
    bad(
        PpoConfig {
            rollout: Decoder {
                top_p: 0.99,
                ..Decoder::default()
            },
            ..p()
        },
        "top_p",
    );
    bad(
        PpoConfig {
            advantage: Advantage::LeaveOneOut,
            ..p()
        },
        "responses_per_prompt",
    );
    bad(
        PpoConfig {
            kl_placement: KlPlacement::Loss,
            ..p()
        },
        "kl_estimator",
    );
    bad(
        PpoConfig {
            policy_loss: PolicyLoss::PolicyGradient,
            ..p()
        },
        "optimiser steps per iteration",
    );
    bad(
        PpoConfig {
            schedule: Schedule::Linear { warmup: 1.0 },
            ..p()
        },
        "schedule.warmup",
    );
    assert!(
        RtoConfig {
            beta1: 0.0,
            ..RtoConfig::paper()
        }
        .check()
        .is_err()
    );
    let dpo = DpoConfig {
        loss: DpoLoss::CDpo(CDpo { epsilon: 0.5 }),
        ..DpoConfig::default()
    };
    assert!(
        dpo.check()
            .unwrap_err()
            .to_string()
            .starts_with("cdpo.epsilon")
    );
}

#[test]
fn schedules_rise_and_fall_as_named() {
    assert_eq!(Schedule::Constant.factor(5, 10), 1.0);
    let linear = Schedule::Linear { warmup: 0.2 };
    let got: Vec<_> = [0, 1, 2, 6].map(|t| linear.factor(t, 10)).to_vec();
    assert_eq!(got, [0.5, 1.0, 1.0, 0.5]);
    let cosine = Schedule::Cosine {
        warmup: 0.0,
        floor: 0.1,
    };
    assert_eq!(cosine.factor(0, 10), 1.0);
    assert!((cosine.factor(5, 10) - 0.55).abs() < 1e-12);
}

fn refused(learner: &mut Table, critic: &mut CriticSlot<'_>, config: PpoConfig) -> String {
    let (reference, prompts, seeds, reward) = (policy(), prompts(), SeedTree::new(0), dpo_reward());
    let config = config.check().unwrap();
    let run = PpoRun {
        reference: &reference,
        reward: &reward,
        prompts: &prompts,
        config: &config,
        seeds: &seeds,
    };
    let mut state = PpoState::new(&config);
    run.iterate(learner, critic, &mut state)
        .unwrap_err()
        .to_string()
}

#[test]
fn what_a_model_lacks_is_named_before_it_is_trained() {
    let said = refused(&mut policy(), &mut CriticSlot::Absent, ppo());
    assert!(said.starts_with("critic: found absent"), "{said}");
    let said = refused(&mut policy(), &mut CriticSlot::SharedTrunk, ppo());
    assert!(said.starts_with("channels of the policy"), "{said}");
    let mut critic = Table::new(&[Channel::Value]);
    let config = PpoConfig {
        bootstrap_truncated: true,
        ..ppo()
    };
    let said = refused(
        &mut policy(),
        &mut CriticSlot::Separate(&mut critic),
        config,
    );
    assert!(said.contains("final_value"), "{said}");
}

#[test]
fn scores_that_depend_on_the_batch_are_caught_at_the_first_minibatch() {
    let mut leaky = Table {
        leak: 1e-3,
        ..policy()
    };
    let mut critic = Table::new(&[Channel::Value]);
    let said = refused(&mut leaky, &mut CriticSlot::Separate(&mut critic), ppo());
    assert!(said.starts_with("ratio of the first minibatch"), "{said}");
    assert!(leaky.logits.is_empty(), "nothing was stepped");
}

#[cfg(feature = "serde")]
#[test]
fn settings_survive_a_file_and_unknown_keys_do_not() {
    let config = RtoConfig::released();
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<RtoConfig>(&text).unwrap(), config);
    // A choice that is switched off stays off, whatever its default.
    let free = PpoConfig {
        value_clip: None,
        ..PpoConfig::paper()
    };
    let text = serde_json::to_string(&free).unwrap();
    assert!(text.contains(r#""value_clip":"off""#), "{text}");
    assert_eq!(serde_json::from_str::<PpoConfig>(&text).unwrap(), free);
    let part = r#"{"ppo": {"beta2": 0.2, "advantage": {"group": {"divide_by_std": true}}}}"#;
    let got: RtoConfig = serde_json::from_str(part).unwrap();
    assert_eq!((got.ppo.beta2, got.ppo.epochs), (0.2, 2));
    let said = serde_json::from_str::<RtoConfig>(r#"{"ppo": {"kl_coef": 0.2}}"#).unwrap_err();
    assert!(
        said.to_string().contains("unknown field `kl_coef`"),
        "{said}"
    );
}

/// What the audit proves biased is allowed and named; what has no effect is refused.
#[test]
fn biased_settings_are_named_and_idle_ones_refused() {
    let p = PpoConfig::paper;
    let said = |c: PpoConfig| -> Vec<String> {
        c.check().unwrap();
        c.biased().iter().map(|b| b.setting.clone()).collect()
    };
    assert_eq!(said(p()), Vec::<String>::new());
    for (estimator, n) in [
        (KlEstimator::Exact, 1),
        (KlEstimator::K2, 1),
        (KlEstimator::K3, 1),
    ] {
        let c = PpoConfig {
            kl_estimator: estimator,
            ..p()
        };
        assert_eq!(said(c).len(), n, "{estimator:?} in the reward");
        let both = PpoConfig {
            kl_placement: KlPlacement::Both,
            ..c
        };
        let biased = usize::from(estimator == KlEstimator::K2);
        assert_eq!(said(both).len(), biased, "{estimator:?} in both");
        assert_eq!(said(PpoConfig { beta2: 0.0, ..c }).len(), 0);
    }
    let grpo = PpoConfig {
        kl_estimator: KlEstimator::K3,
        kl_placement: KlPlacement::Loss,
        advantage: Advantage::Group {
            divide_by_std: true,
        },
        advantage_whitening: Whitening::Off,
        responses_per_prompt: 4,
        aggregation: Aggregation::SequenceMean,
        ..p()
    };
    assert_eq!(said(grpo).len(), 4);
    let text = grpo.biased()[1].to_string();
    assert!(text.contains("G/(G-1)") && text.contains("17b"), "{text}");
    let refused = |c: PpoConfig, field: &str| {
        let said = c.check().unwrap_err().to_string();
        assert!(said.starts_with(field), "{said}");
    };
    let plus = PpoConfig {
        kl_estimator: KlEstimator::K3Plus,
        ..p()
    };
    refused(plus, "kl_placement");
    let ratio = PpoConfig {
        ratio: Ratio::Sequence,
        ..p()
    };
    refused(ratio, "ratio");
    let capped = PpoConfig {
        ratio: Ratio::Capped {
            low: 0.0,
            high: 5.0,
        },
        ..p()
    };
    assert_eq!(said(capped), Vec::<String>::new());
    refused(
        PpoConfig {
            clip_high: Some(0.3),
            ..capped
        },
        "clip_high",
    );
    refused(
        PpoConfig {
            clip_high: Some(-0.1),
            ..p()
        },
        "clip_high",
    );
    let spread = Spread::Group { eps: 0.0 };
    let grouped = PpoConfig {
        advantage: Advantage::GroupBy { spread },
        responses_per_prompt: 2,
        ..p()
    };
    refused(grouped, "spread.eps");
}
