//! Golden values of exact preference optimisation, made by `preference_golden.py` (NumPy and SciPy): fourteen instances, in
//! population and from thirty pairs, under seventeen methods.

use rto::mdp::Beta;
use rto::preference::{
    DEFAULT_METHODS, Evaluation, Method, MinimiserSet, Outcome, PairRow, PairTable, Penalty,
    PreferenceGame, PreferenceLoss, PreferenceProblem, Responses, Trap, additive_coverage,
    best_of_n, bounded_scores, bradley_terry_scores, chi_plan, evaluate, exploration_branch,
    ipo_scores, kl, kto_fixed_point, optimism_bonus, optimism_gain, penalised_fit, soft_best_of_n,
    soft_optimum, tilt, xpo_two_responses,
};
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/preference.json")).expect("the golden file is JSON")
}

fn numbers(value: &Value) -> Vec<f64> {
    let all = value.as_array().expect("a list").iter();
    all.map(|v| v.as_f64().expect("a number")).collect()
}

fn flat(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .expect("rows")
        .iter()
        .flat_map(numbers)
        .collect()
}

fn instance(value: &Value) -> (Responses, Beta) {
    let size = |key: &str| value[key].as_u64().expect("a size") as usize;
    let responses = Responses::try_new(
        size("A"),
        size("H"),
        value["eos"].as_u64().map(|e| e as u32),
        &flat(&value["ref"]),
        &flat(&value["reward"]),
    )
    .unwrap();
    (
        responses,
        Beta::try_new(value["beta"].as_f64().unwrap()).unwrap(),
    )
}

#[track_caller]
fn close(what: &str, got: &[f64], want: &[f64], tolerance: f64) -> f64 {
    assert_eq!(got.len(), want.len(), "{what}");
    let gaps = got.iter().zip(want).map(|(g, w)| (g - w).abs());
    let worst = gaps.fold(
        0.0,
        |m: f64, g| if g.is_nan() { f64::NAN } else { m.max(g) },
    );
    assert!(
        worst <= tolerance,
        "{what}: off by {worst:e}\n got {got:?}\nwant {want:?}"
    );
    worst
}

#[track_caller]
fn check_evaluation(what: &str, got: &Evaluation, want: &Value, tolerance: f64) -> f64 {
    let worst = close(what, &got.policy, &numbers(&want["policy"]), tolerance);
    for (key, value) in [
        ("reward", got.reward),
        ("kl", got.kl),
        ("value", got.value),
        ("subopt", got.subopt),
        ("chi2", got.chi2),
        ("max_ratio", got.max_ratio),
    ] {
        let wanted = want[key].as_f64().unwrap();
        // A ratio with a small reference probability multiplies the policy's error.
        let scale = 10.0 * wanted.abs().max(1.0);
        close(
            &format!("{what} {key}"),
            &[value],
            &[wanted],
            tolerance * scale,
        );
    }
    worst
}

/// Where the golden file itself is an iterative solution: see `preference_bench.md`, section 8.
fn tolerance(method: &Method) -> f64 {
    match method {
        Method::Kto
        | Method::KtoAt { .. }
        | Method::CalDpo
        | Method::Tdpo2 { .. }
        | Method::HyPo { .. } => 1e-8,
        _ => 1e-9,
    }
}

fn check_methods(name: &str, responses: &Responses, pairs: &PairTable, beta: Beta, want: &Value) {
    let problem = PreferenceProblem::try_new(responses, pairs, beta).unwrap();
    let fit = problem.fit().unwrap();
    close(name, &fit.scores, &numbers(&want["fit"]["R_mle"]), 1e-9);
    assert!(
        fit.certificate.error_bound < 1e-11,
        "{name}: {:?}",
        fit.certificate
    );
    for (key, method) in DEFAULT_METHODS {
        if matches!(method, Method::Dpop { .. }) {
            continue; // no golden values: see tests/preference_more.rs
        }
        let what = format!("{name} {key}");
        let want = &want[key];
        match problem.solve(&method).unwrap() {
            Outcome::NoMinimiser(why) => {
                assert!(want.get("no_minimiser").is_some(), "{what}: {why}")
            }
            Outcome::Solved(solved) => {
                // The golden file says that no stationary point was reached here. One is, and the path to it from α = 0 is
                // continuous with a Hessian that stays positive definite (`the_branch_that_the_golden_file_lost`).
                if what == "T6/uniform xpo_local" {
                    assert!(want.get("no_minimiser").is_some());
                    continue;
                }
                assert!(
                    want.get("no_minimiser").is_none(),
                    "{what}: {:?} {want}",
                    solved.evaluation
                );
                check_evaluation(&what, &solved.evaluation, want, tolerance(&method));
                for (certificate, value) in &solved.certificates {
                    let bound = match *certificate {
                        "token_grad_inf" | "field_inf" | "kkt_inf" => 1e-10,
                        "fit_error_bound" => 1e-9,
                        "slope_spread" => 1e-11,
                        _ => continue,
                    };
                    assert!(*value <= bound, "{what}: {certificate} = {value:e}");
                }
            }
        }
    }
}

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

fn pairs_of(value: &Value) -> Vec<(usize, usize)> {
    let pair = |p: &Value| {
        (
            p[0].as_u64().unwrap() as usize,
            p[1].as_u64().unwrap() as usize,
        )
    };
    value.as_array().unwrap().iter().map(pair).collect()
}

#[test]
fn thirty_pairs_agree() {
    let all = golden();
    for (name, value) in all["data"].as_object().unwrap() {
        let (responses, beta) = instance(&all["instances"][value["instance"].as_str().unwrap()]);
        let pairs =
            PairTable::from_counts(responses.len(), &pairs_of(&value["pairs_winner_loser"]))
                .unwrap();
        check_methods(name, &responses, &pairs, beta, &all["finite"][name]);
    }
}

fn single(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn scaled(values: &[f64], factor: f64) -> Vec<f64> {
    values.iter().map(|v| v * factor).collect()
}

/// Separable pairs: no Bradley–Terry maximum, bounded classes and the methods that have a minimiser all the same.
#[test]
fn separable_pairs_agree() {
    let all = golden();
    let (responses, beta) = instance(&all["instances"]["T2"]);
    let want = &all["finite"]["separable_T2"];
    let pairs = PairTable::from_counts(8, &pairs_of(&want["pairs_winner_loser"])).unwrap();
    assert!(!pairs.has_maximum());
    let top = want["never_loses"].as_u64().unwrap() as usize;
    assert_eq!(
        pairs.vanishing(),
        (0..8).filter(|&y| y != top).collect::<Vec<_>>()
    );
    let problem = PreferenceProblem::try_new(&responses, &pairs, beta).unwrap();
    for method in [Method::Dpo, Method::ChiPo, Method::Tdpo { alpha: 1.0 }] {
        let outcome = problem.solve(&method).unwrap();
        assert!(
            matches!(&outcome, Outcome::NoMinimiser(why) if why.contains("separable")),
            "{outcome:?}"
        );
    }
    for (key, bound) in [("bounded_4", 4.0), ("bounded_8", 8.0), ("bounded_16", 16.0)] {
        let fit = bounded_scores(&pairs, bound).unwrap();
        let want = &want[key];
        assert!(fit.kkt_inf < 1e-13, "{key}: {fit:?}");
        // The loss of the other side is no smaller: it stopped at a gradient of 1e-11.
        assert!(
            (fit.loss - single(&want["loss"])).abs() < 1e-12,
            "{key}: {fit:?} {want}"
        );
        let spread = fit
            .scores
            .iter()
            .fold((f64::MAX, f64::MIN), |(l, h), &s| (l.min(s), h.max(s)));
        assert!((spread.1 - spread.0 - bound).abs() < 1e-12);
        let dpo = tilt(&responses, &scaled(&fit.scores, 1.0 / beta.get())).unwrap();
        check_evaluation(
            key,
            &evaluate(&responses, beta, &dpo).unwrap(),
            &want["dpo"],
            1e-6,
        );
        let (chi, _) = chi_plan(&responses, &fit.scores, beta).unwrap();
        check_evaluation(
            key,
            &evaluate(&responses, beta, &chi).unwrap(),
            &want["chipo"],
            1e-6,
        );
    }
    let ipo = tilt(&responses, &ipo_scores(&pairs, beta).unwrap()).unwrap();
    check_evaluation(
        "ipo",
        &evaluate(&responses, beta, &ipo).unwrap(),
        &want["ipo"],
        1e-9,
    );
    let rpo = problem.solve(&DEFAULT_METHODS[10].1).unwrap();
    let Outcome::Solved(rpo) = rpo else {
        panic!("RPO with base π_ref has a minimiser on every table")
    };
    check_evaluation("rpo", &rpo.evaluation, &want["rpo_base_ref"], 1e-9);
}

/// Pairs that leave two components: the set of minimisers, its ends, and what HyPO picks as λ falls.
#[test]
fn disconnected_pairs_agree() {
    let all = golden();
    let (responses, beta) = instance(&all["instances"]["T5"]);
    let want = &all["sets"]["T5_two_components"];
    let r = responses.rewards();
    let row = |i: usize, j: usize| PairRow {
        first: i,
        second: j,
        weight: 0.5,
        preference: rto::numerics::sigmoid(r[i] - r[j]),
    };
    let pairs = PairTable::try_new(4, vec![row(0, 1), row(2, 3)]).unwrap();
    assert!(!pairs.connected() && pairs.has_maximum());
    let fit = bradley_terry_scores(&pairs, 0.0).unwrap();
    let zero_mean = tilt(&responses, &scaled(&fit.scores, 1.0 / beta.get())).unwrap();
    let judge = |u: &[f64]| evaluate(&responses, beta, u).unwrap();
    check_evaluation(
        "zero mean",
        &judge(&zero_mean),
        &want["zero_mean_dpo"],
        1e-9,
    );
    let set = MinimiserSet::new(&responses, &pairs, &fit.scores, beta).unwrap();
    let minimal = set.policy(&set.log_kl_minimal).unwrap();
    check_evaluation("KL-minimal", &judge(&minimal), &want["kl_minimal"], 1e-9);
    let ends = want["extreme_policies"].as_array().unwrap();
    for (k, end) in ends.iter().enumerate() {
        let masses: Vec<f64> = (0..2)
            .map(|c| if c == k { 0.0 } else { f64::NEG_INFINITY })
            .collect();
        check_evaluation("extreme", &judge(&set.policy(&masses).unwrap()), end, 1e-9);
    }
    let largest = ends
        .iter()
        .map(|e| single(&e["subopt"]))
        .fold(0.0, f64::max);
    close(
        "interval",
        &[set.subopt.0, set.subopt.1],
        &[0.0, largest],
        1e-9,
    );
    for (lambda, law) in want["hypo"].as_object().unwrap() {
        let lambda: f64 = lambda.parse().unwrap();
        let penalty = Penalty::ReverseKl { lambda };
        let found = penalised_fit(&responses, &pairs, beta, &penalty, &[0.0; 4]).unwrap();
        // The other side stopped at a gradient of 1e-10, which λ multiplies in the direction that the pairs do not see.
        close(
            "hypo",
            &judge(&found.log_policy).policy,
            &numbers(law),
            1e-6,
        );
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

#[test]
fn the_trap_and_optimism_agree() {
    let all = golden();
    for beta in [0.5, 0.25, 0.125, 0.1, 0.0625] {
        let want = &all["online"][format!("beta={beta}")];
        let trap = Trap::try_new(Beta::try_new(beta).unwrap(), 0.5).unwrap();
        let got = [
            trap.mass,
            trap.subopt_reference,
            trap.rounds_to_half,
            trap.passive_regret_limit(),
        ];
        let wanted = [
            "eps",
            "subopt_ref",
            "rounds_to_half_discovery",
            "passive_regret_limit",
        ]
        .map(|k| single(&want[k]));
        close("trap", &got, &wanted, 1e-9);
        for (rounds, bound) in want["passive_regret_lower_bound"].as_object().unwrap() {
            close(
                "regret",
                &[trap.passive_regret(rounds.parse().unwrap())],
                &[single(bound)],
                1e-9,
            );
        }
    }
    for v in [1.0, 4.0, 10.0] {
        let want = &all["online"][format!("xpo_bonus_v={v}")];
        let (mass, gain) = optimism_bonus(v);
        let wanted = ["best_mass", "value", "value_at_1e_minus_3"].map(|k| single(&want[k]));
        close(
            "bonus",
            &[mass, gain, optimism_gain(v, 1e-3)],
            &wanted,
            1e-12,
        );
    }
    let want = &all["online"]["xpo_two_responses"];
    let reference: Vec<f64> = numbers(&want["ref"]).iter().map(|p| p.ln()).collect();
    let beta = Beta::try_new(single(&want["beta"])).unwrap();
    for row in want["rows"].as_array().unwrap() {
        let counts = (single(&row["wins"]), single(&row["losses"]));
        let d = xpo_two_responses(
            &reference,
            beta,
            counts,
            single(&row["alpha"]),
            single(&want["bound"]),
        )
        .unwrap();
        close(&row.to_string(), &[d], &[single(&row["d"])], 2e-7); // flat minima are found to the root of rounding
    }
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

/// T6 under uniform pairs: the local minimiser of XPO moves continuously from DPO's policy at α = 0 to α = 0.01, although the
/// golden file's undamped search from π_ref did not meet it. The steps are so small that no other branch can be taken.
#[test]
fn the_branch_that_the_golden_file_lost() {
    let all = golden();
    let (responses, beta) = instance(&all["instances"]["T6"]);
    let pairs = PairTable::population(&responses, &[1.0 / 3.0; 3]).unwrap();
    let scores = bradley_terry_scores(&pairs, 0.0).unwrap().scores;
    let base: Vec<f64> = responses.log_reference().iter().map(|u| u.exp()).collect();
    let mut exponent = scaled(&scores, 1.0 / beta.get());
    let mut least = f64::INFINITY;
    const STEPS: usize = 4000;
    for k in 1..=STEPS {
        let eta = -0.01 * k as f64 / STEPS as f64 / beta.get();
        let penalty = Penalty::Supervised {
            eta,
            base: base.clone(),
        };
        let next = penalised_fit(&responses, &pairs, beta, &penalty, &exponent).unwrap();
        let moved = next
            .exponent
            .iter()
            .zip(&exponent)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        assert!(next.converged && moved < 0.2, "step {k}: moved by {moved}");
        least = least.min(next.certificate.hessian_min);
        exponent = next.exponent;
    }
    assert!(least > 1e-5, "{least:e}");
    let branch = exploration_branch(&responses, &pairs, beta, &scores, 0.01)
        .unwrap()
        .unwrap();
    close("branch", &branch.exponent, &exponent, 1e-8);
}
