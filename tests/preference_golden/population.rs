//! Optima of the population in closed form and by iteration.

use crate::{
    check_evaluation, check_methods, close, flat, golden, instance, numbers, scaled, single,
};
use rto::mdp::Beta;
use rto::preference::{
    PairRow, PairTable, PreferenceGame, PreferenceLoss, additive_coverage, best_of_n,
    bradley_terry_scores, chi_plan, evaluate, ipo_scores, kl, kto_fixed_point, soft_best_of_n,
    soft_optimum, tilt,
};
use serde_json::Value;

#[test]
fn population_optima_agree() {
    let all = golden();
    for (name, value) in all["instances"].as_object().unwrap() {
        let (responses, beta) = instance(value);
        close(name, responses.rewards(), &numbers(&value["R"]), 1e-12);
        let laws = [
            (
                "ref",
                responses.log_reference().iter().map(|u| u.exp()).collect(),
            ),
            (
                "uniform",
                vec![1.0 / responses.len() as f64; responses.len()],
            ),
        ];
        for (law, mu) in laws {
            let pairs = PairTable::population(&responses, &mu).unwrap();
            let what = format!("{name}/{law}");
            check_methods(&what, &responses, &pairs, beta, &all["population"][&what]);
        }
        let (star, value_star) = soft_optimum(&responses, beta);
        let optimum = &all["population"][format!("{name}/optimum")];
        check_evaluation(
            name,
            &evaluate(&responses, beta, &star).unwrap(),
            optimum,
            1e-12,
        );
        close(
            name,
            &[value_star],
            &[value["Vstar"].as_f64().unwrap()],
            1e-12,
        );
        let reference = &all["population"][format!("{name}/reference")];
        let judged = evaluate(&responses, beta, responses.log_reference()).unwrap();
        check_evaluation(name, &judged, reference, 1e-12);
    }
}

#[test]
fn best_of_n_agrees() {
    let all = golden();
    let want = &all["overoptimisation"];
    let (t8, beta) = instance(&all["instances"]["T8"]);
    let proxy = numbers(&want["proxy"]);
    let reference = t8.log_reference();
    let law = |u: &[f64]| u.iter().map(|u| u.exp()).collect::<Vec<f64>>();
    let check_row = |what: &str, u: &[f64], row: &Value| {
        let dot = |r: &[f64]| u.iter().zip(r).map(|(u, r)| u.exp() * r).sum::<f64>();
        let got = [kl(u, reference), dot(&proxy), dot(t8.rewards())];
        let wanted = ["kl", "proxy", "true"].map(|key| single(&row[key]));
        close(what, &got, &wanted, 1e-10);
    };
    for (n, row) in want["bon"].as_object().unwrap() {
        let best = best_of_n(reference, &proxy, n.parse().unwrap()).unwrap();
        close(n, &law(&best.log_policy), &numbers(&row["policy"]), 1e-12);
        close(
            n,
            &[best.win_rate, best.kl_bound],
            &[single(&row["win_rate"]), single(&row["kl_bound"])],
            1e-12,
        );
        check_row(n, &best.log_policy, row);
    }
    for (n, row) in want["soft_bon_lambda_0.25"].as_object().unwrap() {
        let (soft, error) = soft_best_of_n(reference, &proxy, 0.25, n.parse().unwrap()).unwrap();
        assert!(error < 1e-12, "N = {n}: {error:e}");
        close(n, &law(&soft), &numbers(&row["policy"]), 1e-10);
        check_row(n, &soft, row);
    }
    let rows = |key: &str| want[key].as_object().unwrap().clone();
    for (b, row) in rows("tilt") {
        check_row(
            &b,
            &tilt(&t8, &scaled(&proxy, 1.0 / b.parse::<f64>().unwrap())).unwrap(),
            &row,
        );
    }
    for (b, row) in rows("frontier_true_tilt") {
        check_row(
            &b,
            &tilt(&t8, &scaled(t8.rewards(), 1.0 / b.parse::<f64>().unwrap())).unwrap(),
            &row,
        );
    }
    for (b, row) in rows("chi") {
        let b = Beta::try_new(b.parse().unwrap()).unwrap();
        check_row("chi", &chi_plan(&t8, &proxy, b).unwrap().0, &row);
    }
    let (t5, _) = instance(&all["instances"]["T5"]);
    for (n, row) in rows("ties_T5_score_0112") {
        let best = best_of_n(
            t5.log_reference(),
            &[0.0, 1.0, 1.0, 2.0],
            n.parse().unwrap(),
        )
        .unwrap();
        close(&n, &law(&best.log_policy), &numbers(&row["policy"]), 1e-12);
        close(&n, &[best.win_rate], &[single(&row["win_rate"])], 1e-12);
    }
    let tilted = tilt(&t8, &scaled(&proxy, 1.0 / beta.get())).unwrap();
    let subopt = evaluate(&t8, beta, &tilted).unwrap().subopt;
    close(
        "variance identity",
        &[subopt],
        &[single(&want["variance_identity"]["subopt"])],
        1e-12,
    );
}

/// The closed forms of the population: Borda tilt, SimPO's pair transform, KTO's infimum, DPO's negative curvature.
#[test]
fn population_closed_forms_agree() {
    let all = golden();
    for (name, value) in all["instances"].as_object().unwrap() {
        let (responses, beta) = instance(value);
        let mu: Vec<f64> = responses.log_reference().iter().map(|u| u.exp()).collect();
        let pairs = PairTable::population(&responses, &mu).unwrap();
        let r = responses.rewards();
        let borda: Vec<f64> = (0..mu.len())
            .map(|i| {
                (0..mu.len())
                    .map(|j| mu[j] * rto::numerics::sigmoid(r[i] - r[j]))
                    .sum()
            })
            .collect();
        let want = tilt(&responses, &scaled(&borda, 1.0 / beta.get())).unwrap();
        let got = tilt(&responses, &ipo_scores(&pairs, beta).unwrap()).unwrap();
        close(name, &got, &want, 1e-11);
        // KTO writes exactly the responses that win more than half against μ.
        let (a, b) = pairs.wins_and_losses();
        let net: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
        let (plan, roots) = kto_fixed_point(&responses, &net, beta).unwrap();
        assert_eq!(roots.len(), 1, "{name}: {roots:?}");
        for (u, share) in plan.log_policy.iter().zip(&borda) {
            assert_eq!(u.is_finite(), *share > 0.5, "{name}");
        }
    }
    let want = &all["population"]["simpo_pair_transform"];
    let (delta, gamma) = (single(&want["Delta"]), single(&want["gamma"]));
    let pair = PairRow {
        first: 0,
        second: 1,
        weight: 1.0,
        preference: rto::numerics::sigmoid(delta),
    };
    let fit = bradley_terry_scores(&PairTable::try_new(2, vec![pair]).unwrap(), gamma).unwrap();
    close(
        "SimPO's transform",
        &[fit.scores[0] - fit.scores[1]],
        &[single(&want["d_closed"])],
        1e-12,
    );

    // No logits attain KTO's infimum: the policy of the water-filling does.
    let (t1, beta) = instance(&all["instances"]["T1"]);
    let mu: Vec<f64> = t1.log_reference().iter().map(|u| u.exp()).collect();
    let pairs = PairTable::population(&t1, &mu).unwrap();
    let (a, b) = pairs.wins_and_losses();
    let net: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
    let (plan, _) = kto_fixed_point(&t1, &net, beta).unwrap();
    let loss = PreferenceLoss::Kto {
        reference_point: plan.reference_point,
    };
    let at = loss
        .at(&t1, &pairs, beta, &plan.log_policy, &[0.0; 4])
        .unwrap();
    close(
        "KTO",
        &[at.value],
        &[single(&all["population"]["kto_infimum"]["infimum"])],
        1e-12,
    );

    // The curvature of DPO's loss in token logits along some direction is negative at the witness.
    let want = &all["population"]["dpo_nonconvex_witness"];
    let z = flat(&want["token_logits"]);
    let pairs = PairTable::population(&t1, &[0.25; 4]).unwrap();
    let gradient = |z: &[f64]| {
        let rows: Vec<f64> = z
            .chunks(2)
            .flat_map(|row| {
                let total = rto::numerics::log_sum_exp(row);
                row.iter().map(|z| z - total).collect::<Vec<_>>()
            })
            .collect();
        PreferenceLoss::Dpo { alpha: 0.0 }
            .token_gradient(&t1, &pairs, beta, &rows)
            .unwrap()
            .1
    };
    let mut hessian = nalgebra::DMatrix::zeros(6, 6);
    for k in 0..6 {
        let moved = |h: f64| {
            let mut z = z.clone();
            z[k] += h;
            gradient(&z)
        };
        for (i, (p, m)) in moved(1e-5).iter().zip(moved(-1e-5)).enumerate() {
            hessian[(i, k)] = (p - m) / 2e-5;
        }
    }
    let least = ((&hessian + hessian.transpose()) / 2.0)
        .symmetric_eigenvalues()
        .min();
    close("curvature", &[least], &[single(&want["hessian_min"])], 1e-8);
}

/// On a layered graph C_sa, C_τ and C_add part: 16, 4^H and 12H − 8.
#[test]
fn additive_coverage_agrees() {
    let all = golden();
    for (key, stay) in [("layered_q0.25", 0.0), ("layered_q0.25_eps0.1", 0.1)] {
        for row in all["coverage"][key].as_array().unwrap() {
            let h = row["H"].as_u64().unwrap() as usize;
            let words: Vec<Vec<usize>> = (0..1usize << h)
                .map(|w| (0..h).map(|k| w >> (h - 1 - k) & 1).collect())
                .collect();
            let law = |one: f64| -> Vec<f64> {
                let p = |word: &Vec<usize>| {
                    word.iter()
                        .map(|&a| if a == 1 { one } else { 1.0 - one })
                        .product()
                };
                words.iter().map(p).collect()
            };
            let (mu, pi) = (law(0.25), law(1.0 - stay));
            let mut features = vec![0.0; words.len() * 4 * h];
            for (w, word) in words.iter().enumerate() {
                let mut state = 0;
                for (k, &a) in word.iter().enumerate() {
                    features[w * 4 * h + 4 * k + 2 * state + a] = 1.0;
                    state = a;
                }
            }
            let got = additive_coverage(&features, 4 * h, &pi, &mu).unwrap();
            let want = single(&row["C_add"]);
            close(key, &[got / want], &[1.0], 1e-8);
            if stay == 0.0 && h >= 2 {
                close("12H - 8", &[got], &[12.0 * h as f64 - 8.0], 1e-7);
            }
        }
    }
}

#[test]
fn the_nash_policy_of_a_cycle_agrees() {
    let want = &golden()["chapters"]["nash_cycle"];
    let beta = Beta::try_new(single(&want["beta"])).unwrap();
    let game = PreferenceGame::try_new(&flat(&want["P"]), &numbers(&want["ref"]), beta).unwrap();
    let nash = game.nash().unwrap();
    let policy: Vec<f64> = nash.iter().map(|u| u.exp()).collect();
    close("nash", &policy, &numbers(&want["policy"]), 1e-9);
    assert!(game.exploitability(&nash).unwrap().abs() < 1e-12);
    let reference: Vec<f64> = numbers(&want["ref"]).iter().map(|p| p.ln()).collect();
    close(
        "ref",
        &[game.exploitability(&reference).unwrap()],
        &[single(&want["exploitability_of_ref"])],
        1e-12,
    );
}
