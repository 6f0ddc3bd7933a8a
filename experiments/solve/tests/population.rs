//! The minimisation of (4.4) over policies, where short steps do not arrive.

use rto_solve::{Instance, solve};
use std::path::Path;

/// The minimiser gives some actions probabilities below 1e-40, and no start reaches it in 300 steps of length up to 1 in logits.
/// The loss is that of SciPy's BFGS from eight starts, 0.159567110639230.
#[test]
fn long_steps_arrive_where_short_ones_do_not() {
    let text = r#"{
        "beta": 0.0872, "states": 4, "initial": [0, 0, 0.75, 0.25], "horizon": 2,
        "transition": [
            [[[0, 0.2], [3, 0.8]], null, [[2, 0.4], [1, 0.6]]],
            [[[1, 0.4], [3, 0.6]], [[1, 0.6], [0, 0.4]], [[1, 0.5], [0, 0.5]]],
            [[[1, 0.9], [3, 0.1]], [[0, 0.2], [2, 0.8]], [[2, 0.4], [1, 0.6]]],
            [[[3, 0.7], [1, 0.3]], 0, 3]],
        "reference": [
            [0.4666666666666667, 0.06666666666666667, 0.4666666666666667],
            [0.47368421052631576, 0.42105263157894735, 0.10526315789473684],
            [0.058823529411764705, 0.47058823529411764, 0.47058823529411764],
            [0.125, 0.4375, 0.4375]],
        "reward": [[-5.87, 2.49, -0.17], [-5.97, -7.49, 1.78], [6.21, 14.1, -16.4], [5.33, -2.42, 2.09]]}"#;
    let instance = Instance::parse(text, Path::new(".")).unwrap();
    let dpo = solve(&instance).unwrap().dpo.unwrap();
    let found = dpo.minimisation.unwrap();
    assert!(
        (found.loss - 0.159_567_110_639_23).abs() < 1e-12,
        "{}",
        found.loss
    );
    assert!(found.gradient < 1e-11, "{}", found.gradient);
}
