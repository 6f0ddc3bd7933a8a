use super::super::{Critic, Estimator, ResponseTree, Summary, named};
use super::*;

/// 95% intervals hold the enumerated values about as often as they say.
#[test]
fn intervals_cover_what_enumeration_gives() {
    let tree = ResponseTree::try_new(2, 3, Some(1), &[0.7, 0.3]).unwrap();
    let table = |f: f64| -> Vec<f64> { (0..12).map(|k| (f * f64::from(k) + f).sin()).collect() };
    let problem = Problem::try_new(tree, &table(1.7), &table(0.4)).unwrap();
    let theta = table(1.3);
    let draws = Draws {
        batches: 20,
        units: 50,
    };
    let (mut held, mut of) = (0, 0);
    for n in named(0.3, 4, 4, 3) {
        if problem.paid(n.recipe.reward).is_err() {
            continue;
        }
        let exact = Summary::at(&problem, &n.recipe, &theta, None, None).unwrap();
        let seeds = SeedTree::new(7).child(n.id);
        let got = Sampled::at(&problem, &n.recipe, &theta, None, draws, &seeds).unwrap();
        let again = Sampled::at(&problem, &n.recipe, &theta, None, draws, &seeds).unwrap();
        assert_eq!(got, again);
        let covers = |e: Estimate, v: f64| usize::from((e.value - v).abs() <= e.half);
        for (e, v) in got.field.iter().zip(&exact.field) {
            held += covers(*e, *v);
            of += 1;
        }
        held += covers(got.norm_ratio, exact.norm_ratio);
        held += covers(got.bias2, exact.scaled().bias2);
        of += 2;
        let ratio = got.trace_unit / exact.trace_unit;
        assert!((0.4..2.0).contains(&ratio), "{}: {ratio}", n.name);
    }
    let share = held as f64 / of as f64;
    assert!(of > 150 && (0.88..0.99).contains(&share), "{held} of {of}");
}

/// A group that cannot be enumerated.
#[test]
fn large_groups_are_sampled() {
    let tree = ResponseTree::try_new(3, 3, None, &[1.0]).unwrap();
    let table = |f: f64| -> Vec<f64> { (0..39).map(|k| (f * f64::from(k) + f).sin()).collect() };
    let problem = Problem::try_new(tree, &table(1.7), &table(0.4)).unwrap();
    let grpo = named(0.3, 16, 4, 3)
        .into_iter()
        .find(|n| n.id == "grpo")
        .unwrap();
    let theta = table(1.3);
    let said = Summary::at(&problem, &grpo.recipe, &theta, None, None).unwrap_err();
    assert!(said.to_string().contains("sample instead"), "{said}");
    let draws = Draws {
        batches: 10,
        units: 100,
    };
    let seeds = SeedTree::new(1);
    let got = Sampled::at(&problem, &grpo.recipe, &theta, None, draws, &seeds).unwrap();
    assert!(
        got.cosine.value > 0.8 && got.cosine.half < 0.2,
        "{:?}",
        got.cosine
    );
    let critic = Critic::Given(vec![0.0]);
    let bad = Recipe {
        advantage: Estimator::Gae {
            gamma: 1.0,
            lambda: 1.0,
            critic,
        },
        ..Recipe::default()
    };
    assert!(Sampled::at(&problem, &bad, &theta, None, draws, &seeds).is_err());
}
