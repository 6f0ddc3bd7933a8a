use super::*;

fn ulps(a: f64, b: f64) -> u64 {
    a.to_bits().abs_diff(b.to_bits())
}

#[test]
fn exp_and_ln_are_within_two_units_in_the_last_place() {
    let mut x = -707.9f64;
    while x < 708.9 {
        assert!(ulps(exp(x), x.exp()) <= 2, "exp({x})");
        x += 0.013_7;
    }
    let mut y = 1e-300f64;
    while y < 1e300 {
        assert!(ulps(ln(y), y.ln()) <= 2, "ln({y})");
        y *= 1.37;
    }
    for i in 1..4000 {
        let y = 0.5 + f64::from(i) * 0.000_7;
        assert!(ulps(ln(y), y.ln()) <= 2, "ln({y})");
    }
}

#[test]
fn exp_of_minus_infinity_is_zero_and_one_is_exact() {
    assert_eq!(exp(f64::NEG_INFINITY), 0.0);
    assert_eq!(exp(-1e5), 0.0);
    assert_eq!(exp(0.0), 1.0);
    assert!(exp(f64::NAN).is_nan() && ln(f64::NAN).is_nan() && ln(f64::INFINITY).is_nan());
    assert_eq!(ln(1.0), 0.0);
}

struct ExpOf(Vec<f64>);

impl Kernel for ExpOf {
    type Output = Vec<f64>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<f64> {
        let mut out = vec![0.0; self.0.len()];
        exp_shifted(simd, &self.0, 0.0, &mut out);
        out
    }
}

#[test]
fn vector_exp_is_close_and_keeps_nan() {
    let xs: Vec<f64> = (0..80_000).map(|i| f64::from(i) * -0.008_83).collect();
    for (x, e) in xs.iter().zip(dispatch(ExpOf(xs.clone()))) {
        // Where the product x·log₂e is rounded before its whole part is taken off (AVX2), that costs 2⁻⁵³|x|, and the
        // constant is off by 1.4e-17 of itself.
        let allowed = 7e-16 + (f64::EPSILON / 2.0 + 1.5e-17) * x.abs();
        assert!((e / x.exp() - 1.0).abs() < allowed, "exp({x}) = {e}");
    }
    let odd = [
        f64::NEG_INFINITY,
        -1e9,
        f64::NAN,
        0.0,
        f64::NAN,
        -1.0,
        f64::NAN,
        0.0,
    ];
    let got = dispatch(ExpOf(odd.to_vec()));
    assert!(got[0] < 1e-307 && got[1] < 1e-307 && got[3] == 1.0);
    assert!(got[2].is_nan() && got[4].is_nan() && got[6].is_nan());
}

struct TailOf(Vec<f64>);

impl Kernel for TailOf {
    type Output = (Vec<f64>, Vec<f64>);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (Vec<f64>, Vec<f64>) {
        let (mut tails, mut logs) = (self.0.clone(), self.0.clone());
        let outputs = S::as_mut_simd_f64s(&mut tails)
            .0
            .iter_mut()
            .zip(S::as_mut_simd_f64s(&mut logs).0);
        for ((tail, log), z) in outputs.zip(S::as_simd_f64s(&self.0).0) {
            (*tail, *log) = logistic_tail(simd, *z);
        }
        (tails, logs)
    }
}

#[test]
fn tails_of_the_logistic_function_are_close_at_every_margin() {
    let zs: Vec<f64> = (0..80_000)
        .map(|i| f64::from(i) * 0.008_83 - 353.0)
        .collect();
    let (tails, logs) = dispatch(TailOf(zs.clone()));
    for ((z, tail), log) in zs.iter().zip(tails).zip(logs) {
        let e = (-z.abs()).exp();
        let allowed = 1.6e-15 + 2.5e-16 * z.abs();
        assert!(
            (tail / (e / (1.0 + e)) - 1.0).abs() < allowed,
            "{z}: {tail}"
        );
        assert!((log / e.ln_1p() - 1.0).abs() < allowed, "{z}: {log}");
    }
    let odd = [
        f64::INFINITY,
        f64::NEG_INFINITY,
        0.0,
        f64::NAN,
        800.0,
        -800.0,
        700.0,
        -700.0,
    ];
    let (tails, logs) = dispatch(TailOf(odd.to_vec()));
    for i in [0, 1, 4, 5] {
        assert_eq!((tails[i], logs[i]), (0.0, 0.0));
    }
    assert!(tails[2] == 0.5 && ulps(logs[2], std::f64::consts::LN_2) <= 1);
    assert!(tails[3].is_nan() && logs[3].is_nan());
    assert!(tails[6] > 0.0 && logs[7] > 0.0);
}
