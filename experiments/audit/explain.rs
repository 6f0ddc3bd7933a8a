//! Term by term: what a recipe's expected gradient is made of, and what each choice costs.

use anyhow::Result;
use rto::advantage::Spread;
use rto::algorithm2::KlPlacement;
use rto::audit::{Estimator, FixedPoint, Kl, Recipe, Summary};
use rto::objective::{Aggregation, Ratio, Surrogate};
use rto::token_reward::KlEstimator;
use rto_harness::stats::shown;
use rto_harness::table::{Cell, Table};

use crate::GoOn;
use crate::problem::Instance;
use crate::report::status;

/// A recipe with one choice put right.
struct Mended {
    what: &'static str,
    claims: &'static str,
    recipe: Recipe,
}

/// The choices of a recipe that move its expected gradient, each put right alone, in a fixed order.
fn mended(recipe: &Recipe) -> Vec<Mended> {
    let mut out = Vec::new();
    let mut add = |what, claims, change: &dyn Fn(&mut Recipe)| {
        let mut other = recipe.clone();
        change(&mut other);
        out.push(Mended {
            what,
            claims,
            recipe: other,
        });
    };
    let unbiased_kl = Some(Kl {
        placement: KlPlacement::Reward,
        estimator: KlEstimator::K1,
    });
    if recipe.kl.is_some() && recipe.kl != unbiased_kl {
        add("the KL term as k1 in the reward", "01, 03, 05", &|r| {
            r.kl = unbiased_kl
        });
    }
    if let Estimator::Group { spread } = recipe.advantage {
        if spread != Spread::One {
            add("no division by a standard deviation", "08, 27", &|r| {
                r.advantage = Estimator::Group {
                    spread: Spread::One,
                };
            });
        }
        add("a baseline of the other responses", "07, 17b", &|r| {
            r.advantage = Estimator::LeaveOneOut;
        });
    }
    if let Estimator::Gae { lambda, .. } = &recipe.advantage
        && *lambda < 1.0
    {
        add("lambda = 1", "06", &|r| {
            if let Estimator::Gae { lambda, .. } = &mut r.advantage {
                *lambda = 1.0;
            }
        });
    }
    if recipe.whitening.is_some() {
        add("no whitening", "10, section 2", &|r| r.whitening = None);
    }
    if recipe.aggregation != Aggregation::SequenceSum {
        add("a sum over tokens", "09, 20", &|r| {
            r.aggregation = Aggregation::SequenceSum
        });
    }
    if recipe.drop_equal_groups {
        add("all groups kept", "08", &|r| r.drop_equal_groups = false);
    }
    if recipe.surrogate.ratio != Ratio::LogProb {
        let wide = Surrogate {
            clip_low: 1.0,
            clip_high: 1e9,
            dual_clip: None,
            ..recipe.surrogate
        };
        match recipe.surrogate.ratio {
            Ratio::Capped { .. } => {}
            _ if recipe.surrogate == wide => {}
            _ => add("no clip", "11, 12", &|r| r.surrogate = wide),
        }
    }
    out
}

/// The table of `--explain`.
///
/// # Errors
/// Those of the audit, and that of `go_on`.
pub fn explain(instance: &Instance, name: &str, recipe: &Recipe, go_on: GoOn<'_>) -> Result<Table> {
    let mut table = Table::new(
        "explain",
        &[
            "with",
            "claims",
            "bias",
            "bias_stale",
            "n_star",
            "variance",
            "ends",
            "subopt",
        ],
    );
    table.push(row(instance, (name, ""), recipe, go_on)?);
    for m in mended(recipe) {
        if m.recipe.check().is_ok() {
            table.push(row(instance, (m.what, m.claims), &m.recipe, go_on)?);
        }
    }
    Ok(table)
}

fn row(
    instance: &Instance,
    (what, claims): (&str, &str),
    recipe: &Recipe,
    go_on: GoOn<'_>,
) -> Result<Vec<Cell>> {
    go_on()?;
    let (problem, theta) = (&instance.problem, &instance.theta);
    let on = Summary::at(problem, recipe, theta, None, None)?.scaled();
    go_on()?;
    let stale = Summary::at(problem, recipe, theta, Some(&instance.old), None)?.scaled();
    let end = FixedPoint::find_while(problem, recipe, None, go_on)?;
    Ok(vec![
        what.into(),
        claims.into(),
        on.bias2.sqrt().into(),
        stale.bias2.sqrt().into(),
        on.n_star().into(),
        on.variance.into(),
        status(end.status).into(),
        end.suboptimality.into(),
    ])
}

/// [`explain`] for people.
///
/// # Errors
/// A table of other columns.
pub fn text(table: &Table, instance: &Instance) -> Result<String> {
    let mut shown_table = Table::new(
        "explain",
        &[
            "as it is, then with one choice changed",
            "claims",
            "bias",
            "bias, stale",
            "n*",
            "variance",
            "ends",
            "SubOpt there",
        ],
    );
    let texts = |c: &str| table.texts(c);
    let (what, claims, ends) = (texts("with")?, texts("claims")?, texts("ends")?);
    let numbers = |c: &str| table.floats(c);
    let (bias, stale) = (numbers("bias")?, numbers("bias_stale")?);
    let (n, variance, end) = (numbers("n_star")?, numbers("variance")?, numbers("subopt")?);
    let small = |v: f64| if v.abs() < 1e-9 { "0".into() } else { shown(v) };
    for i in 0..what.len() {
        let star = if n[i].is_nan() {
            "none".into()
        } else {
            shown(n[i])
        };
        shown_table.push([
            what[i].as_str().into(),
            claims[i].as_str().into(),
            small(bias[i]),
            small(stale[i]),
            star,
            shown(variance[i]),
            ends[i].as_str().into(),
            small(end[i]),
        ]);
    }
    Ok(format!(
        "{}, beta = {}. Bias: |c E g - grad J|/|grad J| under the best scale c; variance per response over |grad J|^2; n*: responses at which\n\
         squared bias equals variance. Claims: paper-notes/estimators.md.\n{}",
        instance.name,
        instance.beta,
        shown_table.render()
    ))
}
