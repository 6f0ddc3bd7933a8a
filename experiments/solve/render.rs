//! The report for people.

use crate::report::Report;
use rto_harness::table::Table;
use serde_json::Value;

/// Numbers shown of a list.
const MOST: usize = 6;

/// One row for each quantity that has a value, then what has none, with the reason. `initial` is ρ over the prompts.
pub fn render(report: &Report, initial: &[f64]) -> String {
    let value = serde_json::to_value(report).expect("a report is plain data");
    // Values, and differences of values, are known to this much; a prompt that never comes has no say.
    let values = [&report.soft_value, &report.reference_value];
    let met = |v: &Vec<f64>| {
        let shares = v
            .iter()
            .zip(initial)
            .filter(|(v, p)| **p > 0.0 && v.is_finite());
        shares.fold(0.0f64, |m, (v, _)| m.max(v.abs()))
    };
    let largest = values.into_iter().flatten().map(met).fold(0.0, f64::max);
    let rounding = ROUNDING * largest;
    let mut table = Table::new("solve", &["quantity", "value"]);
    for (name, meaning) in ORDER {
        let found = name.split('.').try_fold(&value, |v, key| v.get(key));
        if let Some(found) = found.filter(|v| !v.is_null()) {
            let label = format!("{name} ({meaning})");
            table.push([
                label.into(),
                shown(found, noise(name, found, rounding)).into(),
            ]);
        }
    }
    if report.notes.is_empty() {
        return table.render();
    }
    format!("{}\n{}", table.render(), reasons(report).render())
}

/// One row for each reason, with the quantities that are null for it.
fn reasons(report: &Report) -> Table {
    let mut by_reason: Vec<(&str, Vec<&str>)> = Vec::new();
    for (key, why) in &report.notes {
        match by_reason.iter_mut().find(|(known, _)| known == why) {
            Some((_, keys)) => keys.push(key),
            None => by_reason.push((why, vec![key])),
        }
    }
    let mut table = Table::new("notes", &["not shown", "why"]);
    for (why, keys) in by_reason {
        table.push([keys.join(", ").into(), why.to_string().into()]);
    }
    table
}

/// A few units in the last place, relative to what a number is a sum or a difference of.
const ROUNDING: f64 = 4e-15;

/// What is rounding and not a value. Probabilities, radii and certificates are shown however small they are.
fn noise(name: &str, value: &Value, rounding: f64) -> f64 {
    let key = name.rsplit('.').next().unwrap_or(name);
    match key {
        "root_policy" | "duality_gap" | "multiplier" => 0.0,
        _ if name.contains("suboptimality") || key.contains("value") => rounding,
        _ => ROUNDING * largest_entry(value),
    }
}

fn largest_entry(value: &Value) -> f64 {
    match value {
        Value::Number(x) => x.as_f64().map_or(0.0, f64::abs),
        Value::Array(items) => items.iter().map(largest_entry).fold(0.0, f64::max),
        _ => 0.0,
    }
}

/// A value for people; numbers up to `noise` are 0.
fn shown(value: &Value, noise: f64) -> String {
    match value {
        Value::Number(x) => x.as_f64().map_or_else(
            || x.to_string(),
            |x| number(if x.abs() <= noise { 0.0 } else { x }),
        ),
        Value::Array(items) => {
            let rows = items.iter().any(Value::is_array);
            let (sep, most) = if rows { (" | ", 4) } else { (" ", MOST) };
            let mut parts: Vec<String> = items.iter().take(most).map(|v| shown(v, noise)).collect();
            if items.len() > most {
                parts.push(format!("... ({} in all)", items.len()));
            }
            parts.join(sep)
        }
        Value::Bool(b) => if *b { "yes" } else { "no" }.into(),
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Object(fields) => fields
            .iter()
            .map(|(k, v)| format!("{k} {}", shown(v, noise)))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// Seven significant digits; `--json` has all of them.
fn number(x: f64) -> String {
    if x == 0.0 || (1e-4..1e7).contains(&x.abs()) {
        let digits = if x == 0.0 {
            0
        } else {
            (6 - x.abs().log10().floor() as i32).max(0)
        };
        let text = format!("{x:.*}", digits as usize);
        if text.contains('.') {
            return text.trim_end_matches('0').trim_end_matches('.').to_string();
        }
        return text;
    }
    format!("{x:.6e}")
}

const ORDER: &[(&str, &str)] = &[
    ("soft_value", "V* by prompt"),
    ("soft_value_mean", "V*(rho)"),
    ("reference_value", "V of pi_ref by prompt"),
    ("policy_value", "V of the given policy by prompt"),
    ("suboptimality.reference", "V* - V of pi_ref"),
    ("suboptimality.policy", "V* - V of the given policy"),
    ("root_policy", "pi* at the first token"),
    ("feature_expectation", "E phi under pi*"),
    ("predetermined_value", "best fixed response, at beta = 0"),
    ("mle.theta", "estimate (4.1)"),
    ("mle.norm", "its norm"),
    ("mle.log_likelihood", "its log-likelihood"),
    ("mle.at_bound", "on the ball"),
    ("mle.multiplier", "multiplier of the ball"),
    ("mle.separation", "separation of the data"),
    ("log_det_sigma", "log det Sigma_D"),
    (
        "radii.rho_printed_Upsilon",
        "radius, (A.2) as printed, not proved",
    ),
    (
        "radii.rho_theory_Upsilon",
        "radius, repaired proof with Upsilon",
    ),
    (
        "radii.rho_theory_kappa",
        "radius, repaired proof with kappa",
    ),
    ("radii.rho_LR_via_kappa", "radius, likelihood ratio"),
    ("radii.rho_wald_Hmetric", "radius, Wald, Fisher metric"),
    (
        "radii.rho_selfconcordant_Hmetric",
        "radius, self-concordant, Fisher metric",
    ),
    ("algorithm1.bonus_scale", "radius in use"),
    ("algorithm1.metric", "its metric"),
    (
        "algorithm1.pessimistic_value",
        "V under the pessimistic reward",
    ),
    ("algorithm1.suboptimality", "SubOpt"),
    ("algorithm1.bound", "Theorem 4.2"),
    ("algorithm1.theta_star_in_set", "premise of the bound holds"),
    ("algorithm1.root_policy", "first token"),
    ("theorem_b1.theta", "worst parameter"),
    ("theorem_b1.value", "min over the set"),
    ("theorem_b1.suboptimality", "SubOpt"),
    ("theorem_b1.bound", "Theorem B.1"),
    ("theorem_b1.theta_star_in_set", "premise of the bound holds"),
    ("theorem_b1.active", "active constraints"),
    ("theorem_b1.duality_gap", "certificate"),
    ("theorem_b1.root_policy", "first token"),
    ("baselined.value", "min over the set, against pi_ref"),
    ("baselined.suboptimality", "SubOpt"),
    ("baselined.bound", "Theorem B.1 with baseline"),
    ("baselined.theta_star_in_set", "premise of the bound holds"),
    ("baselined.duality_gap", "certificate"),
    ("baselined.root_policy", "first token"),
    ("coverage.law", "law of the data"),
    ("coverage.C_sa", "max d*/d^mu"),
    ("coverage.C_sa_at", "attained at"),
    ("coverage.C_tau", "max pi*(y)/mu(y)"),
    ("coverage.C_tau_at", "attained at"),
    ("coverage.chi2", "chi-square of pi* against mu"),
    ("coverage.C_lin", "coverage of E phi"),
    ("coverage.C_lin_baselined", "coverage of E phi - E_ref phi"),
    (
        "coverage.C_lin_baselined_direction",
        "attained in the direction",
    ),
    ("coverage.C_lin_steps", "sum of E root C_lin(phi)"),
    ("coverage.C_lin_steps_at", "largest at"),
    ("coverage.theorem_4_2", "Theorem 4.2 through coverage"),
    ("coverage.theorem_b1", "Theorem B.1 through coverage"),
    ("coverage.baselined", "with baseline, through coverage"),
    ("robust.value", "V against the worst transitions"),
    ("robust.root_policy", "first action"),
    ("dpo.root_policy", "DPO at the first token"),
    ("dpo.unique", "determined by (4.4)"),
    ("dpo.token_reward_root", "token reward (4.5)"),
    ("dpo.loss", "mean DPO loss"),
    ("dpo.population_loss", "expected DPO loss, all pairs"),
    ("dpo.suboptimality", "SubOpt"),
    ("dpo.minimisation", "minimised over policies"),
    ("rto.root_policy", "RTO at the first token"),
    ("rto.value", "RTO objective by prompt"),
    ("rto.beta_effective", "beta it is optimal at"),
    ("rto.suboptimality", "SubOpt"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (0.430_842_074, "0.4308421"),
            (334_188.968_877, "334189"),
            (1.0, "1"),
            (-2.5e-12, "-2.500000e-12"),
            (1_234_567.4, "1234567"),
            (100.0, "100"),
        ];
        for (x, text) in cases {
            assert_eq!(number(x), text);
        }
    }

    #[test]
    fn rounding_is_shown_as_zero_and_small_probabilities_are_not() {
        let theta = serde_json::json!([1.0, -2.06e-17, 1e-9]);
        let text = |name, value: &Value| shown(value, noise(name, value, 4e-15));
        assert_eq!(text("mle.theta", &theta), "1 0 1.000000e-9");
        let policy = serde_json::json!([[1.0, 2.06e-17]]);
        assert_eq!(text("root_policy", &policy), "1 2.060000e-17");
        assert_eq!(text("dpo.suboptimality", &serde_json::json!(-1.1e-16)), "0");
        let gap = serde_json::json!(-1.1e-16);
        assert_eq!(text("theorem_b1.duality_gap", &gap), "-1.100000e-16");
        let small = serde_json::json!(1e-30);
        assert_eq!(text("mle.norm", &small), "1.000000e-30");
    }
}
