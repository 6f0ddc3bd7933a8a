use super::*;

const AT: Compared = Compared {
    log_ratios: [0.7, -0.4],
    log_probs: [-1.3, -2.1],
    lengths: [2.0, 3.0],
};

/// Every function and operator: derivatives against central differences.
#[test]
fn derivatives_are_those_of_differences() {
    let all = "exp(0.3*lw)*log(2+ll) - sqrt(3+uw)/(2-ul) + sigmoid(beta*(lw-ll))*square(uw) \
               + logsigmoid(lw)*softplus(ll) - relu(lw)*abs(ll)^3 + (3+lw)^-1.5 + nw*uw/nl*-ul + 1.5e-1*lw";
    let formula = Formula::parse(all).unwrap();
    let moved = |a: f64, b: f64| {
        let c = Compared {
            log_ratios: [AT.log_ratios[0] + a, AT.log_ratios[1] + b],
            log_probs: [AT.log_probs[0] + a, AT.log_probs[1] + b],
            ..AT
        };
        formula.at(&c, 0.3)
    };
    let h = 1e-5;
    let at = moved(0.0, 0.0);
    let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-8, "{got} {want}");
    close(
        at.slope[0],
        (moved(h, 0.0).value - moved(-h, 0.0).value) / (2.0 * h),
    );
    close(
        at.slope[1],
        (moved(0.0, h).value - moved(0.0, -h).value) / (2.0 * h),
    );
    close(
        at.bend[0],
        (moved(h, 0.0).slope[0] - moved(-h, 0.0).slope[0]) / (2.0 * h),
    );
    close(
        at.bend[1],
        (moved(0.0, h).slope[0] - moved(0.0, -h).slope[0]) / (2.0 * h),
    );
    close(
        at.bend[2],
        (moved(0.0, h).slope[1] - moved(0.0, -h).slope[1]) / (2.0 * h),
    );
}

#[test]
fn a_bad_formula_says_where() {
    for (text, part) in [
        ("", "expected a value"),
        ("lw -", "expected a value"),
        ("lw ll", "character 4"),
        ("(lw", "expected )"),
        ("exp lw", "expected ( after exp"),
        ("rw", "expected a number, one of lw"),
        ("2^lw", "expected a number after ^"),
        ("1e999", "expected a number"),
        ("lw $ 2", "found '$'"),
    ] {
        let error = Formula::parse(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    assert!(Formula::parse(&"(".repeat(100_000)).is_err());
}
