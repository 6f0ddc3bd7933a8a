//! Units of features and rewards, and names.

use crate::compare::{agree, changed, compare};
use crate::runs;
use crate::world::{Steps, Table, World};
use rand::Rng;
use rand::seq::SliceRandom;
use rto::seed::SeedTree;
use serde_json::{Value, json};

#[test]
fn features_may_be_measured_in_anything() {
    let (seed, n) = runs(150);
    let mut count = 0;
    for i in 0..n {
        let mut rng = SeedTree::new(seed).child("features").index(i).rng();
        let mut world = World::random(&mut rng, true);
        if world.beta == 0.0 {
            world.beta = 0.2;
        }
        let c = 10f64.powf(rng.random_range(-5.0..5.0));
        let mut other = world.clone();
        let features = other.features.as_mut().unwrap();
        features
            .iter_mut()
            .flatten()
            .flatten()
            .for_each(|x| *x *= c);
        other.theta.iter_mut().flatten().for_each(|x| *x /= c);
        let dim = features[0][0].len() as f64;
        for (key, power) in [("param_bound", -1), ("ridge", 2)] {
            let x = world.estimation[key].as_f64().unwrap();
            other
                .estimation
                .insert(key.into(), json!(x * c.powi(power)));
        }
        let rule = |path: &str, x: f64| match path {
            "feature_expectation" => x * c,
            "mle.theta" | "mle.norm" => x / c,
            "mle.multiplier" | "sigma_d" => x * c * c,
            "log_det_sigma" => x + 2.0 * dim * c.ln(),
            _ => x,
        };
        agree(
            &format!("instance {i}, c = {c}"),
            &world,
            &other,
            |a| changed(a, "", &rule),
            &mut count,
        );
    }
    assert!(count > 40 * n, "{count}");
}

#[test]
fn rewards_and_beta_may_be_measured_in_anything() {
    let (seed, n) = runs(150);
    let mut count = 0;
    for i in 0..n {
        let mut rng = SeedTree::new(seed).child("rewards").index(i).rng();
        let mut world = World::random(&mut rng, false);
        // Labels of the pairs change with the size of rewards, and with them what a minimisation of (4.4) finds.
        let certain = |row: &Vec<(usize, f64)>| row.len() < 2;
        if !world.moves.iter().flatten().all(certain) {
            world.dpo_beta = None;
        }
        let c = 10f64.powf(rng.random_range(-5.0..5.0));
        let mut other = world.clone();
        other.beta *= c;
        other.theta.iter_mut().flatten().for_each(|x| *x *= c);
        other
            .reward
            .iter_mut()
            .flatten()
            .flatten()
            .for_each(|x| *x *= c);
        other.dpo_beta = world.dpo_beta.map(|b| b * c);
        let rule = |path: &str, x: f64| match path {
            "soft_value"
            | "soft_value_mean"
            | "reference_value"
            | "policy_value"
            | "predetermined_value"
            | "suboptimality.reference"
            | "suboptimality.policy"
            | "dpo.beta"
            | "dpo.token_reward_root"
            | "dpo.suboptimality"
            | "rto.suboptimality"
            | "rto.beta_effective" => x * c,
            _ => x,
        };
        // The population's labels are those of the reward itself: what depends on them is left out.
        let without = |report: &Value| {
            let mut out = report.clone();
            if let Some(dpo) = out["dpo"].as_object_mut() {
                if dpo["minimisation"].is_null() {
                    dpo.remove("population_loss");
                } else {
                    dpo.clear();
                    out["rto"] = Value::Null;
                }
            }
            out
        };
        let what = format!("instance {i}, c = {c}");
        match (world.solved(), other.solved()) {
            (Ok(a), Ok(b)) => {
                // In units of the first, so that one size holds for both.
                let back = |path: &str, x: f64| {
                    let scaled = rule(path, 1.0);
                    x / scaled
                };
                let b = changed(&without(&b), "", &back);
                compare(&what, "", &without(&a), &b, world.size(), &mut count);
            }
            (Err(_), Err(_)) => {}
            (a, b) => panic!("{what}: {a:?} but {b:?}"),
        }
    }
    assert!(count > 10 * n, "{count}");
}

#[test]
fn names_do_not_matter() {
    let (seed, n) = runs(200);
    let mut count = 0;
    for i in 0..n {
        let mut rng = SeedTree::new(seed).child("names").index(i).rng();
        let world = World::random(&mut rng, i % 4 != 0);
        let roots = world.initial.len();
        let mut shuffled = |n: usize| {
            let mut order: Vec<usize> = (0..n).collect();
            order.shuffle(&mut rng);
            order
        };
        let action = shuffled(world.actions);
        let root = shuffled(roots);
        let state: Vec<usize> = match world.prompts {
            None => root.clone(),
            Some(p) => {
                let prefixes = World::prefixes(world.actions, world.horizon);
                let size = world.states() / p;
                let to = |s: usize| {
                    let renamed: Vec<usize> =
                        prefixes[s % size].iter().map(|a| action[*a]).collect();
                    let code = prefixes.iter().position(|p| *p == renamed).unwrap();
                    root[s / size] * size + code
                };
                (0..world.states()).map(to).collect()
            }
        };
        fn moved<T: Clone>(table: &Table<T>, state: &[usize], action: &[usize]) -> Table<T> {
            let mut out = table.clone();
            for (s, row) in table.iter().enumerate() {
                for (a, x) in row.iter().enumerate() {
                    out[state[s]][action[a]] = x.clone();
                }
            }
            out
        }
        let real = |table: &Table<f64>| moved(table, &state, &action);
        let mut other = world.clone();
        other.initial = vec![0.0; roots];
        (0..roots).for_each(|r| other.initial[root[r]] = world.initial[r]);
        other.eos = world.eos.map(|a| action[a]);
        other.terminal = world.terminal.map(|s| state[s]);
        let renamed = |row: &Vec<(usize, f64)>| row.iter().map(|(s, p)| (state[*s], *p)).collect();
        let rows = world
            .moves
            .iter()
            .map(|row| row.iter().map(renamed).collect())
            .collect();
        other.moves = moved(&rows, &state, &action);
        other.reference = real(&world.reference);
        other.policy = world.policy.as_ref().map(real);
        other.behaviour = world.behaviour.as_ref().map(real);
        other.reward = world.reward.as_ref().map(real);
        other.features = world.features.as_ref().map(|f| moved(f, &state, &action));
        let steps =
            |y: &Vec<(usize, usize)>| y.iter().map(|(s, a)| (state[*s], action[*a])).collect();
        let pairs = world.pairs.as_ref().map(|all| {
            let mut pairs: Vec<[Steps; 2]> =
                all.iter().map(|[w, l]| [steps(w), steps(l)]).collect();
            pairs.shuffle(&mut rng);
            pairs
        });
        other.pairs = pairs;
        let by_action = |row: &Value| match row.as_array() {
            None => row.clone(),
            Some(row) => {
                let mut out = row.clone();
                row.iter()
                    .enumerate()
                    .for_each(|(a, x)| out[action[a]] = x.clone());
                Value::Array(out)
            }
        };
        let map = |report: &Value| {
            let mut out = report.clone();
            let keys = [
                "/soft_value",
                "/reference_value",
                "/policy_value",
                "/root_policy",
                "/algorithm1/root_policy",
                "/theorem_b1/root_policy",
                "/baselined/root_policy",
                "/dpo/root_policy",
                "/dpo/token_reward_root",
                "/rto/root_policy",
                "/rto/value",
            ];
            for key in keys {
                let Some(Value::Array(rows)) = out.pointer_mut(key) else {
                    continue;
                };
                let old = rows.clone();
                old.iter()
                    .enumerate()
                    .for_each(|(r, row)| rows[root[r]] = by_action(row));
            }
            out
        };
        agree(&format!("instance {i}"), &world, &other, map, &mut count);
    }
    assert!(count > 30 * n, "{count}");
}

/// Features each in its own unit: what does not depend on a ball or a ridge stays.
#[test]
fn every_feature_may_have_its_own_unit() {
    let (seed, n) = runs(150);
    let mut count = 0;
    for i in 0..n {
        let mut rng = SeedTree::new(seed).child("coordinates").index(i).rng();
        let mut world = World::random(&mut rng, true);
        if world.beta == 0.0 {
            world.beta = 0.2;
        }
        world.estimation.remove("param_bound");
        world.estimation.insert("bonus_scale".into(), json!("wald"));
        let mut other = world.clone();
        let features = other.features.as_mut().unwrap();
        let dim = features[0][0].len();
        let unit: Vec<f64> = (0..dim)
            .map(|_| 10f64.powf(rng.random_range(-6.0..6.0)))
            .collect();
        let scale = |x: &mut Vec<f64>| x.iter_mut().zip(&unit).for_each(|(x, u)| *x *= u);
        features.iter_mut().flatten().for_each(scale);
        other
            .theta
            .iter_mut()
            .for_each(|t| t.iter_mut().zip(&unit).for_each(|(x, u)| *x /= u));
        let map = |report: &Value| {
            let mut out = report.clone();
            for key in [
                "algorithm1",
                "theorem_b1",
                "baselined",
                "sigma_d",
                "log_det_sigma",
            ] {
                out[key] = Value::Null;
            }
            if let Some(radii) = out["radii"].as_object_mut() {
                radii.retain(|key, _| key == "rho_wald_Hmetric");
            }
            if let Some(mle) = out["mle"].as_object_mut() {
                mle.retain(|key, _| !["theta", "norm", "multiplier"].contains(&key.as_str()));
            }
            if let Some(coverage) = out["coverage"].as_object_mut() {
                let bounds = ["theorem_4_2", "theorem_b1", "baselined"];
                coverage.retain(|key, _| !bounds.contains(&key.as_str()));
            }
            // With fewer independent pairs than features the least norm depends on the units.
            if report["mle"]["rank"] != json!(dim) {
                out["dpo"] = json!({"unique": report["dpo"]["unique"]});
                out["rto"] = Value::Null;
            }
            out
        };
        let units = |report: &Value| {
            let mut out = map(report);
            if let Some(Value::Array(x)) = out.pointer_mut("/feature_expectation") {
                x.iter_mut()
                    .zip(&unit)
                    .for_each(|(x, u)| *x = json!(x.as_f64().unwrap() / u));
            }
            out
        };
        let what = format!("instance {i}");
        match (world.solved(), other.solved()) {
            (Ok(a), Ok(b)) => compare(&what, "", &map(&a), &units(&b), world.size(), &mut count),
            (Err(_), Err(_)) => {}
            (a, b) => panic!(
                "{what}: {a:?} but {b:?}\n{}\n{}",
                world.json(),
                other.json()
            ),
        }
    }
    assert!(count > 10 * n, "{count}");
}
