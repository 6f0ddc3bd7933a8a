use super::*;

/// Values over ten decades, both signs.
fn values(n: usize) -> Vec<f32> {
    (0..n)
        .map(|i| (i as f32 * 0.37).sin() * 10f32.powf((i as f32 * 0.11).cos() * 5.0 - 5.0))
        .collect()
}

#[test]
fn every_code_is_its_own_image() {
    for step in [0, 1, 77] {
        let codes: Vec<u8> = (0..=255).collect();
        let (mut x, mut again) = (vec![0.0; 256], vec![0; 256]);
        decode_v(&codes, 1.0, &mut x);
        assert_eq!((x[0], x[1], x[255]), (0.0, 2f32.powi(-33), 1.875));
        assert_eq!((encode_v(&x, 0, step, &mut again), &again), (1.0, &codes));
        decode_m(&codes, 1.0, &mut x);
        assert_eq!((x[1], x[127], x[255]), (2f32.powi(-17), 1.875, -1.875));
        assert_eq!((encode_m(&x, 0, step, &mut again), &again), (1.0, &codes));
    }
}

#[test]
fn errors_are_below_an_eighth_and_average_out() {
    let x = values(256);
    let squares: Vec<f32> = x.iter().map(|x| x * x).collect();
    let (mut codes, mut back) = (vec![0u8; 256], vec![0.0; 256]);
    let mut means = vec![[0.0f64; 2]; 256];
    const STEPS: u32 = 1000;
    for step in 0..STEPS {
        let s = encode_m(&x, 512, step, &mut codes);
        decode_m(&codes, s, &mut back);
        for i in 0..256 {
            let bound = (x[i].abs() / 8.0).max(s * 2f32.powi(-17)) * 1.00001;
            assert!((back[i] - x[i]).abs() <= bound, "{} {}", back[i], x[i]);
            means[i][0] += f64::from(back[i]) / f64::from(STEPS);
        }
        let s = encode_v(&squares, 512, step, &mut codes);
        decode_v(&codes, s, &mut back);
        for i in 0..256 {
            let v = squares[i];
            assert!((back[i] - v).abs() <= (v / 8.0).max(s * 2f32.powi(-33)) * 1.00001);
            assert!(back[i] > 0.0 || v == 0.0);
            means[i][1] += f64::from(back[i]) / f64::from(STEPS);
        }
    }
    let top = x.iter().fold(0.0f32, |t, x| t.max(x.abs()));
    for (x, [m, _]) in x.iter().zip(&means) {
        let step = f64::from((x.abs() / 8.0).max(top * 2f32.powi(-17)));
        // Discrepancy of the golden rotation over 1000 steps, and rounding of sums.
        assert!((m - f64::from(*x)).abs() < 0.01 * step, "{m} {x}");
    }
    for (v, [_, mean]) in squares
        .iter()
        .zip(&means)
        .filter(|(v, _)| **v > top * top * 2f32.powi(-28))
    {
        assert!((mean / f64::from(*v) - 1.0).abs() < 0.00125, "{mean} {v}");
    }
}

#[test]
fn extremes_stay_finite_and_nonzero_v_stays_nonzero() {
    for v in [
        [1e-45f32, 1e-40],
        [1e-45, f32::MAX],
        [f32::INFINITY, 1.0],
        [0.0, 0.0],
    ] {
        let (mut codes, mut back) = (vec![0u8; 2], vec![0.0; 2]);
        let s = encode_v(&v, 0, 3, &mut codes);
        decode_v(&codes, s, &mut back);
        for (v, b) in v.iter().zip(&back) {
            assert!(b.is_finite() && (*b > 0.0) == (*v > 0.0), "{v} {b}");
        }
    }
}
