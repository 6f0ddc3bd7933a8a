//! Certificates in floating point.

use crate::{LOWEST, search};
use rto::Token;
use rto::search::evaluator::{CallbackEvaluator, EvaluatorOracle};
use rto::search::exhaustive::{Order, exhaustive};
use rto::search::oracle::{CountingOracle, SentenceOracle};

/// A small residual that the evaluator's own error could explain must not be certified away.
#[test]
fn a_residual_lost_in_rounding_is_not_certified() {
    // Token 0 first: 512 responses of mass 0.995/512. Token 1 first: one response with nearly 0.005.
    let model = |prefix: &[Token]| {
        Ok(match prefix.first() {
            None => vec![0.995f64.ln(), 0.005f64.ln()],
            Some(0) => vec![0.5f64.ln(); 2],
            Some(_) => vec![1e-9f64.ln(), (1.0 - 1e-9f64).ln()],
        })
    };
    let run = |tolerance| {
        search(
            CallbackEvaluator::new(model, 2, 10, tolerance).unwrap(),
            &LOWEST,
        )
        .1
    };
    let exact = run(1e-12);
    assert_eq!((exact.response, exact.certified), (vec![1; 10], true));
    let vague = run(0.01);
    assert!(vague.response[0] == 0 && !vague.certified);
}

/// A last leaf is inferred only where the evaluator's own error leaves it no room.
#[test]
fn a_vague_last_leaf_is_not_inferred() {
    // The conditional sums to 1 + 5e-6: inferring 1 − 0.500001 for token 1 would certify the wrong response.
    let model = |_: &[Token]| Ok(vec![0.500001f64.ln(), 0.500004f64.ln()]);
    let policy = CallbackEvaluator::new(model, 2, 1, 1e-5).unwrap();
    let found = search(&policy, &LOWEST).1;
    assert!(found.response == [1] || !found.certified, "{found:?}");
    let mut oracle = CountingOracle::new(EvaluatorOracle::new(&policy));
    let found = exhaustive(&mut oracle, Order::Lexicographic, true).unwrap();
    assert_eq!(
        (found.response, found.certified, oracle.queries()),
        (vec![1], true, 2)
    );
}

/// Errors of conditionals compound over a response.
#[test]
fn sentence_certificates_allow_for_the_error_of_a_whole_response() {
    let excess = 1.0f64 + 0.9e-5;
    let model = move |prefix: &[Token]| {
        let p = if prefix.is_empty() {
            0.5 - 1e-5
        } else {
            1.0 - 1e-12
        };
        Ok(vec![(p * excess).ln(), ((1.0 - p) * excess).ln()])
    };
    let policy = CallbackEvaluator::new(model, 2, 12, 1e-5).unwrap();
    let run = |normalised| {
        let found = exhaustive(
            &mut EvaluatorOracle::new(&policy),
            Order::Lexicographic,
            normalised,
        )
        .unwrap();
        (found.response[0], found.certified)
    };
    assert_eq!(run(true), run(false));
    let oracle = EvaluatorOracle::new(&policy);
    assert!(SentenceOracle::slack(&oracle) > 12.0 * 1e-5);
}
