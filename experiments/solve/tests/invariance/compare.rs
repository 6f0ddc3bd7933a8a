//! Reports of two instances that say the same thing, path by path.

use crate::world::World;
use serde_json::{Value, json};

/// How numbers under a path change.
pub type Rule<'a> = dyn Fn(&str, f64) -> f64 + 'a;

/// A report with every number changed by the rule for its path. Indices are no part of paths.
pub fn changed(value: &Value, path: &str, rule: &Rule<'_>) -> Value {
    match value {
        Value::Number(x) => json!(rule(path, x.as_f64().unwrap())),
        Value::Array(items) => items.iter().map(|v| changed(v, path, rule)).collect(),
        Value::Object(map) => {
            let inner = |(k, v): (&String, &Value)| {
                let path = if path.is_empty() {
                    k.clone()
                } else {
                    format!("{path}.{k}")
                };
                (k.clone(), changed(v, &path, rule))
            };
            Value::Object(map.iter().map(inner).collect())
        }
        other => other.clone(),
    }
}

/// What is not compared: texts that name places or numbers, what attains a maximum (there may be ties), the worst parameter where
/// several are (its value and its policy are compared), how far an optimum may be off, and how many random starts found it.
pub fn skipped(path: &str) -> bool {
    let last = path.rsplit('.').next().unwrap_or(path);
    ["notes", "warnings"].contains(&path)
        || last.ends_with("_at")
        || last.ends_with("_direction")
        || last == "duality_gap"
        || last == "gradient"
        || last.starts_with("starts")
        || ["theorem_b1.theta", "baselined.theta"].contains(&path)
}

/// Relative tolerance of a path, and the absolute one in units of `size`, the terms that values add up from.
pub fn tolerance(path: &str, size: f64) -> (f64, f64) {
    let optimum = path.starts_with("theorem_b1") || path.starts_with("baselined");
    if path.ends_with("root_policy") || path.ends_with("token_reward_root") {
        return (0.0, if optimum { 1e-5 } else { 1e-7 });
    }
    if path.ends_with("multiplier") || path.ends_with("kl") {
        return (1e-6, 1e-9);
    }
    (1e-7, if optimum { 1e-6 * size } else { 1e-9 * size })
}

pub fn compare(what: &str, path: &str, want: &Value, got: &Value, size: f64, count: &mut u64) {
    if skipped(path) {
        return;
    }
    // Rounding may hide in one unit whether a constraint is active; told in both, it is told alike.
    if path.contains(".active.") && (want.is_null() || got.is_null()) {
        return;
    }
    match (want, got) {
        (Value::Object(a), Value::Object(b)) => {
            assert_eq!(
                a.keys().collect::<Vec<_>>(),
                b.keys().collect::<Vec<_>>(),
                "{what}: {path}"
            );
            for (k, v) in a {
                let path = if path.is_empty() {
                    k.clone()
                } else {
                    format!("{path}.{k}")
                };
                compare(what, &path, v, &b[k], size, count);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{what}: {path}");
            // Entries of one array count beside its largest.
            let numbers = a.iter().filter_map(Value::as_f64);
            let top = numbers.fold(size, |m, x| m.max(x.abs()));
            for (a, b) in a.iter().zip(b) {
                compare(what, path, a, b, top, count);
            }
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            let (rel, abs) = tolerance(path, size);
            *count += 1;
            assert!(
                (a - b).abs() <= rel * a.abs().max(b.abs()) + abs,
                "{what}: {path}: {b} where {a} is right"
            );
        }
        _ => assert_eq!(want, got, "{what}: {path}"),
    }
}

/// Both reports, or the same refusal.
pub fn agree(
    what: &str,
    world: &World,
    other: &World,
    map: impl Fn(&Value) -> Value,
    count: &mut u64,
) {
    match (world.solved(), other.solved()) {
        (Ok(a), Ok(b)) => compare(
            what,
            "",
            &map(&a),
            &b,
            world.size().max(other.size()),
            count,
        ),
        (Err(_), Err(_)) => {}
        (a, b) => panic!(
            "{what}: {a:?} but {b:?}\n{}\n{}",
            world.json(),
            other.json()
        ),
    }
}
