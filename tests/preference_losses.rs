//! The losses that train, at the exact minimisers of the golden file: their gradients in token logits are 0 there, computed by
//! the code that trains a table.

use std::sync::Arc;

use ndarray::Array2;
use rto::mdp::{ActionIx, TabularPolicy, TokenTree};
use rto::objective::DpoLoss;
use rto::objective::pair_loss::{RDpo, Rpo, SimPo, Tdpo2};
use rto::policy::{RowGradient, StateMap, TabularSoftmax};
use rto::preference::Responses;
use rto::seq::{Episode, Finish, TokenScorer, loss_and_score_grad};
use serde_json::Value;

fn flat(value: &Value) -> Vec<f64> {
    let rows = value.as_array().expect("rows").iter();
    rows.flat_map(|r| {
        r.as_array()
            .expect("a row")
            .iter()
            .filter_map(Value::as_f64)
    })
    .collect()
}

/// A golden instance behind the seam: states of a tree in place of prefixes.
struct Golden {
    responses: Responses,
    map: Arc<StateMap>,
    /// The state of each prefix.
    states: Vec<usize>,
    episodes: Vec<Episode>,
}

impl Golden {
    fn new(value: &Value) -> Self {
        let size = |key: &str| value[key].as_u64().expect("a size") as usize;
        let (a, h) = (size("A"), size("H"));
        let eos = value["eos"].as_u64().map(|e| e as u32);
        let responses =
            Responses::try_new(a, h, eos, &flat(&value["ref"]), &flat(&value["reward"])).unwrap();
        let tree = TokenTree::try_new(1, a, h, eos.map(ActionIx)).unwrap();
        let map = StateMap::tree(&tree, &[1.0]).unwrap();
        let episode = |y: &Vec<u32>| {
            let finish = if y.last().copied() == eos && eos.is_some() {
                Finish::Eos
            } else {
                Finish::Length
            };
            Episode::try_new(StateMap::prompt(0), y.clone(), finish).unwrap()
        };
        let episodes: Vec<Episode> = responses.responses().iter().map(episode).collect();
        let mut states = vec![usize::MAX; responses.prefixes().len()];
        for (y, episode) in episodes.iter().enumerate() {
            let walk = map.walk_all(std::slice::from_ref(episode)).unwrap();
            for (&(prefix, _), (state, _)) in responses.path(y).iter().zip(&walk.steps) {
                states[prefix] = state.0 as usize;
            }
        }
        Self {
            responses,
            map,
            states,
            episodes,
        }
    }

    /// Rows log π(a|s) on the table; states that nothing reaches are uniform.
    fn table(&self, rows: &[f64]) -> TabularPolicy {
        let a = self.responses.n_actions();
        let mut probs = Array2::from_elem((self.map.mdp().n_states(), a), 1.0 / a as f64);
        for (prefix, &state) in self.states.iter().enumerate() {
            for k in 0..a {
                probs[(state, k)] = rows[prefix * a + k].exp();
            }
        }
        TabularPolicy::from_probs(&probs).unwrap()
    }

    /// The largest entry of the loss's gradient in logits at a policy over responses, on listed pairs.
    fn gradient(&self, loss: &DpoLoss, beta: f64, pairs: &[(usize, usize)], policy: &[f64]) -> f64 {
        let log: Vec<f64> = policy.iter().map(|p| p.ln()).collect();
        let reference = self.table(self.responses.reference_rows());
        let learner = TabularSoftmax::from_policy(
            self.map.clone(),
            &self.table(&self.responses.token_rows(&log)),
        )
        .and_then(|p| p.with_reference(Arc::new(reference)))
        .unwrap();
        let rows = || pairs.iter().flat_map(|&(w, l)| [w, l]);
        let batch: Vec<Episode> = rows().map(|y| self.episodes[y].clone()).collect();
        let offsets: Vec<f64> = rows().map(|y| self.responses.log_reference()[y]).collect();
        let objective = loss.loss().objective(&batch, &offsets, beta).unwrap();
        let scores = learner.scores(&batch).unwrap();
        let (_, weights) = loss_and_score_grad(&*objective, &scores).unwrap();
        let mut gradient = RowGradient::zeros(learner.params().len(), self.responses.n_actions());
        learner.pull_back(&batch, &weights, &mut gradient).unwrap();
        gradient.values().iter().fold(0.0, |m, g| m.max(g.abs()))
    }
}

#[test]
fn gradients_of_the_losses_that_train_vanish_at_the_golden_policies() {
    let all: Value = serde_json::from_str(include_str!("golden/preference.json")).unwrap();
    let mut met = 0;
    for (name, data) in all["data"].as_object().unwrap() {
        let value = &all["instances"][data["instance"].as_str().unwrap()];
        let golden = Golden::new(value);
        let beta = value["beta"].as_f64().unwrap();
        let pairs: Vec<(usize, usize)> = data["pairs_winner_loser"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| [0, 1].map(|k| p[k].as_u64().unwrap() as usize))
            .map(|[w, l]| (w, l))
            .collect();
        for (method, loss, beta) in [
            ("dpo", DpoLoss::Dpo, beta),
            ("rdpo", DpoLoss::RDpo(RDpo { alpha: 0.2 }), beta),
            ("ipo", DpoLoss::Ipo, beta),
            ("simpo_gamma0.5", DpoLoss::SimPo(SimPo { gamma: 0.5 }), 2.0),
            ("simpo_gamma0.0", DpoLoss::SimPo(SimPo { gamma: 0.0 }), 2.0),
            ("chipo", DpoLoss::ChiPo, beta),
            ("caldpo", DpoLoss::CalDpo, beta),
            ("rpo_base_chosen", DpoLoss::Rpo(Rpo { eta: 0.1 }), beta),
            ("tdpo_full_alpha1.0", DpoLoss::Tdpo1, beta),
            ("tdpo2", DpoLoss::Tdpo2(Tdpo2 { alpha: 0.5 }), beta),
        ] {
            let policy: Vec<f64> = all["finite"][name][method]["policy"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(Value::as_f64)
                .collect();
            let gradient = golden.gradient(&loss, beta, &pairs, &policy);
            assert!(gradient <= 1e-10, "{name} {method}: {gradient:e}");
            // The test can fail: at π_ref nothing is optimal.
            let reference: Vec<f64> = golden
                .responses
                .log_reference()
                .iter()
                .map(|u| u.exp())
                .collect();
            assert!(
                golden.gradient(&loss, beta, &pairs, &reference) > 1e-4,
                "{name} {method}"
            );
            met += 1;
        }
    }
    assert_eq!(met, 40);
}
