use super::*;

const ALL: [Smoothing; 3] = [
    Smoothing::Additive(0.1),
    Smoothing::WittenBell,
    Smoothing::AbsoluteDiscount(0.75),
];

fn documents() -> Vec<Vec<Token>> {
    vec![vec![0, 1, 2, 0, 1, 1, 2, 0], vec![2, 2, 0, 1], vec![]]
}

#[test]
fn conditionals_are_distributions_with_full_support() {
    for smoothing in ALL {
        for order in 1..=5 {
            let model = NgramModel::fit(&documents(), 4, order, smoothing).unwrap();
            for prompt in [
                vec![],
                vec![0],
                vec![0, 1],
                vec![3, 3, 3, 3, 3],
                vec![2, 0, 1, 1, 2, 0],
            ] {
                let history = model.after(&prompt);
                let row: Vec<f64> = (0..4).map(|s| model.probability(&history, s)).collect();
                assert!(
                    (row.iter().sum::<f64>() - 1.0).abs() < 1e-14,
                    "{smoothing:?} {order} {prompt:?}"
                );
                assert!(row.iter().all(|p| *p > 0.0));
            }
        }
    }
}

#[test]
fn bigram_probabilities_by_hand() {
    // After 0 the text has 1 three times and nothing else; one 0 ends a document. Unigrams: 0 ×4, 1 ×4, 2 ×4.
    let model = NgramModel::fit(&documents(), 4, 2, Smoothing::Additive(1.0)).unwrap();
    assert_eq!(
        model.probability(&model.after(&[0]), 1),
        (3.0 + 1.0) / (3.0 + 4.0)
    );
    // Documents start with 0 and with 2.
    assert_eq!(
        model.probability(&model.after(&[]), 2),
        (1.0 + 1.0) / (2.0 + 4.0)
    );
    let model = NgramModel::fit(&documents(), 4, 2, Smoothing::WittenBell).unwrap();
    let unigram = (4.0 + 3.0 * 0.25) / (12.0 + 3.0);
    assert!((model.probability(&model.after(&[0]), 1) - (3.0 + unigram) / 4.0).abs() < 1e-15);
}

#[test]
fn unusable_texts_and_settings_are_refused() {
    assert!(
        NgramModel::fit(&[vec![0, 1]], 2, 3, Smoothing::WittenBell)
            .unwrap_err()
            .to_string()
            .contains("2 symbols")
    );
    assert!(NgramModel::fit(&[vec![0, 9]], 2, 1, Smoothing::WittenBell).is_err());
    assert!(NgramModel::fit(&documents(), 4, 0, Smoothing::WittenBell).is_err());
    assert!(NgramModel::fit(&documents(), 4, 9, Smoothing::WittenBell).is_err());
    assert!(NgramModel::fit(&documents(), 4, 2, Smoothing::AbsoluteDiscount(1.0)).is_err());
}
