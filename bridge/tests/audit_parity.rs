//! E[g] of recipes by enumeration of a small network's responses through the loss that trains it, beside the audit's field pulled back
//! through its logits.

#[path = "../../tests/support/audit_units.rs"]
mod audit_units;
mod common;

use audit_units::World;
use candle_core::DType;
use common::*;
use rto::audit::{Problem, Recipe, ResponseTree, expected_gradient, named};
use rto::seq::{Channel, PerToken, Ragged, loss_and_score_grad};
use rto_bridge::batch::Batch;
use rto_bridge::family::GptNeoXConfig;
use rto_bridge::model::{Heads, Keep, Model, Request, Scores};
use rto_bridge::params::{Gradients, Params};

/// Two tokens, of which 1 ends a response of at most three.
fn tree() -> ResponseTree {
    ResponseTree::try_new(2, 3, Some(1), &[0.7, 0.3]).unwrap()
}

const PROMPTS: [&[u32]; 2] = [&[0, 1], &[1, 1, 0]];

fn config() -> GptNeoXConfig {
    GptNeoXConfig {
        vocab_size: 2,
        hidden_size: 8,
        n_layers: 1,
        intermediate_size: 12,
        rotary_dims: 2,
        eos_tokens: 1.into(),
        ..small_config(true)
    }
}

const TEXT: Heads = Heads {
    language_model: true,
    value: false,
    reward: false,
};

fn model(seed: u64) -> Model {
    in_f64(&small_model(&config(), TEXT, seed), &config())
}

/// Weights on the way from one model to another.
fn between(from: &Model, to: &Model, share: f64) -> Model {
    let far = to.params().tensors();
    let weights = from.params().tensors().into_iter().map(|(name, near)| {
        let step = (far[&name].sub(&near).unwrap() * share).unwrap();
        (name, near.add(&step).unwrap().to_dtype(DType::F64).unwrap())
    });
    Model::try_new(config(), Params::new(weights.collect()).unwrap()).unwrap()
}

/// The responses as rows of a batch behind their prompts.
fn rows(tree: &ResponseTree, responses: &[usize]) -> Batch {
    let texts: Vec<(usize, Vec<u32>)> = responses
        .iter()
        .map(|y| {
            let text = tree.text_of(*y).iter().map(|t| *t as u32).collect();
            (tree.prompt_of(*y), text)
        })
        .collect();
    let views: Vec<(&[u32], &[u32])> = texts.iter().map(|(p, t)| (PROMPTS[*p], &t[..])).collect();
    Batch::new(&views).unwrap()
}

/// log π of every pair (s, a), from the rows of all responses.
fn table(model: &Model, tree: &ResponseTree) -> Vec<f64> {
    let all: Vec<usize> = (0..tree.n_responses()).collect();
    let mut out = vec![f64::NAN; tree.n_pairs()];
    let scores = log_probs(model, &rows(tree, &all));
    for (pair, v) in tree.pairs().iter().zip(scores) {
        out[*pair as usize] = v;
    }
    assert!(out.iter().all(|v| v.is_finite()));
    out
}

fn ragged(tree: &ResponseTree, unit: &[usize], flat: &[f64]) -> Ragged {
    let mut rest = flat;
    let mut cut = Vec::new();
    for y in unit {
        let (row, after) = rest.split_at(tree.response(*y).len());
        cut.push(row.to_vec());
        rest = after;
    }
    assert!(rest.is_empty());
    Ragged::from_rows(cut)
}

/// −∂/∂w of the expected loss: unit by unit through the network and back.
fn through_the_network(policy: &Model, reference: &Model, world: &World<'_>) -> Vec<f64> {
    let (tree, exact) = (world.tree(), world.recipe.kl_in_loss().is_some());
    let request = Request {
        reference: exact.then_some(reference),
        ..Request::log_probs()
    };
    let mut total = Gradients::zeros(policy.params());
    for (unit, prob) in world.tuples(&world.old) {
        let (episodes, loss) = world.objective(&unit, &world.old);
        let batch = rows(tree, &unit);
        let forward = policy.forward(&batch, &request, Keep::Activations).unwrap();
        let known = |x: &Option<Vec<f64>>| x.as_ref().map(|x| ragged(tree, &unit, x));
        let lp = known(&forward.scores.log_probs).unwrap();
        let mut scores = PerToken::new(&episodes).with(Channel::LogProb, lp).unwrap();
        if let Some(kl) = known(&forward.scores.kl) {
            scores = scores.with(Channel::KlToReference, kl).unwrap();
        }
        let (_, mut grad) = loss_and_score_grad(&*loss, &scores).unwrap();
        let mut weight = |channel| {
            let of = grad.take(channel)?;
            let tokens = (0..of.n_rows()).flat_map(|i| of.row(i).to_vec());
            Some(tokens.map(|g| -prob * g).collect::<Vec<f64>>())
        };
        let weights = Scores {
            log_probs: weight(Channel::LogProb),
            kl: exact.then(|| weight(Channel::KlToReference)).flatten(),
            ..Scores::default()
        };
        let asked = Request {
            reference: weights.kl.as_ref().and(request.reference),
            ..request
        };
        let forward = match asked.reference.is_some() == request.reference.is_some() {
            true => forward,
            false => policy.forward(&batch, &asked, Keep::Activations).unwrap(),
        };
        policy
            .backward(&batch, &asked, forward, &weights, &mut total)
            .unwrap();
    }
    flat(&total)
}

fn flat(gradients: &Gradients) -> Vec<f64> {
    let mut names: Vec<&str> = gradients.names().collect();
    names.sort_unstable();
    let of = |name: &&str| wide(&gradients.get(name).unwrap().unwrap());
    names.iter().flat_map(of).collect()
}

/// Σ_{s,a} g(s, a) ∂ log π(a|s)/∂w, which is that of the logits too: g sums to 0 at every state.
fn pulled_back(policy: &Model, tree: &ResponseTree, field: &[f64]) -> Vec<f64> {
    let all: Vec<usize> = (0..tree.n_responses()).collect();
    let mut left = field.to_vec();
    // A pair that lies on several responses is counted at the first.
    let once = |pair: &u32| std::mem::take(&mut left[*pair as usize]);
    let g = tree.pairs().iter().map(once).collect();
    flat(&pull(policy, &rows(tree, &all), g, Keep::Activations))
}

#[test]
fn the_field_pulled_back_is_the_expected_gradient_of_the_network() {
    let tree = tree();
    let (policy, reference) = (model(1), model(3));
    let behaviour = between(&policy, &model(2), 0.15);
    let numbers = |f: f64| -> Vec<f64> {
        (0..tree.n_pairs())
            .map(|k| 0.8 * (f * k as f64 + f).sin())
            .collect()
    };
    let problem = Problem::try_new(tree.clone(), &numbers(1.7), &table(&reference, &tree))
        .unwrap()
        .with_dpo(&numbers(0.7), 0.45, 0.15)
        .unwrap();
    let (theta, old) = (table(&policy, &tree), table(&behaviour, &tree));
    let moved = theta.iter().zip(&old).map(|(a, b)| (a - b).abs());
    assert!(moved.fold(0.0, f64::max) > 0.1, "a behaviour of its own");
    let ids = [
        "trl.grpo",
        "trl.grpo.corrected",
        "trl.rloo",
        "dr_grpo",
        "gspo",
        "cispo",
        "rto",
        "openrlhf.reinforce++",
        "centred.exact",
    ];
    let recipes: Vec<Recipe> = named(0.3, 2, 2, 3)
        .into_iter()
        .filter(|n| ids.contains(&n.id))
        .map(|n| n.recipe)
        .collect();
    assert_eq!(recipes.len(), ids.len());
    for (recipe, id) in recipes.iter().zip(ids) {
        for (how, old) in [("on-policy", &theta), ("stale", &old)] {
            let field = expected_gradient(&problem, recipe, &theta, Some(old)).unwrap();
            let want = pulled_back(&policy, &tree, &field);
            let world = World {
                problem: &problem,
                recipe,
                theta: theta.clone(),
                old: old.clone(),
            };
            let largest = want.iter().fold(0.0f64, |m, w| m.max(w.abs()));
            assert!(largest > 1e-3, "{id}, {how}: a field of {largest:e}");
            let got = through_the_network(&policy, &reference, &world);
            let apart = distance(&got, &want);
            println!("{id}, {how}: {apart:.1e}");
            assert!(apart < 1e-6, "{id}, {how}: {apart:e}");
        }
    }
}
