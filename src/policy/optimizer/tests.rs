use super::*;

/// PyTorch 2 `torch.optim.AdamW([1.0, -2.0], lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)` on
/// gradients (0.5, −1), (0, 2), (−0.25, 0.125), float64.
#[test]
fn adamw_agrees_with_its_definition_step_by_step() {
    let rule = Rule::Adam {
        decay1: 0.9,
        decay2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
    };
    let config = OptimizerConfig {
        rule,
        ..OptimizerConfig::sgd(0.1)
    };
    let mut optimizer = Optimizer::try_new(config, 2).unwrap();
    let mut p = [1.0, -2.0];
    for g in [[0.5, -1.0], [0.0, 2.0], [-0.25, 0.125]] {
        optimizer.step(&mut p, &g).unwrap();
    }
    for (got, want) in p.iter().zip(ADAMW) {
        assert!((got - want).abs() < 1e-12, "{p:?}");
    }
}

const ADAMW: [f64; 2] = [0.788_226_517_418_484_9, -1.910_655_634_341_319_5];

#[test]
fn rows_and_dense_gradients_take_the_same_steps() {
    for rule in [Rule::Sgd, Rule::ADAM] {
        let config = OptimizerConfig {
            rule,
            learning_rate: 0.3,
            max_grad_norm: Some(0.7),
        };
        let mut dense = Optimizer::try_new(config, 6).unwrap();
        let mut rows = dense.clone();
        let (mut p, mut q) = ([0.1; 6], [0.1; 6]);
        let mut grad = RowGradient::zeros(6, 2);
        for step in 0..5 {
            grad.clear();
            grad.row_mut(step % 3)[0] += 0.4;
            grad.row_mut(2)[1] -= 1.0;
            let a = dense.step(&mut p, grad.values()).unwrap();
            let b = rows.step_rows(&mut q, &grad).unwrap();
            assert!((a - b).abs() < 1e-15);
        }
        assert!(p.iter().zip(&q).all(|(a, b)| (a - b).abs() < 1e-14));
    }
}

#[test]
fn a_bad_gradient_changes_nothing() {
    let mut optimizer = Optimizer::try_new(OptimizerConfig::adam(0.1), 2).unwrap();
    let before = optimizer.clone();
    let mut p = [1.0, 2.0];
    assert!(optimizer.step(&mut p, &[f64::NAN, 0.0]).is_err());
    assert!(optimizer.step(&mut p, &[0.0]).is_err());
    assert_eq!((p, optimizer), ([1.0, 2.0], before));
    let bad = OptimizerConfig::sgd(-1.0).check().unwrap_err();
    assert!(bad.to_string().starts_with("learning_rate: found -1"));
}
