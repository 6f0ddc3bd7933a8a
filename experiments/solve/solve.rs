//! Every part of a report, in the order in which parts are told.

use anyhow::Result;
use nalgebra::DMatrix;
use rto::algorithm1::Baseline;

use crate::estimate::estimate;
use crate::instance::Instance;
use crate::notes::Notes;
use crate::report::{Report, Suboptimality};
use crate::solver::Solver;

/// Everything the instance determines. A part that fails is null, with its reason in `notes`; the others stand.
pub fn solve(instance: &Instance) -> Result<Report> {
    let mut notes = Notes::default();
    let solver = Solver::new(instance)?;
    let features = solver.features.as_ref();
    let estimate = estimate(instance, features, &solver.met, &mut notes)?;
    let e = estimate.as_ref();
    let mut warnings = instance.warnings();
    warnings.extend(e.map_or(Vec::new(), |e| e.warnings(instance)));
    let dpo = solver.dpo(e, &mut warnings, &mut notes);
    let dpo = notes.part("dpo", dpo);
    let algorithm1 = e.map(|e| solver.algorithm1(e, &mut notes)).transpose();
    let algorithm1 = notes.part("algorithm1", algorithm1);
    let mut maxmin = |name, baseline| {
        let part = solver.maxmin(name, e, baseline, &mut warnings, &mut notes);
        notes.part(name, part)
    };
    let (theorem_b1, baselined) = (
        maxmin("theorem_b1", Baseline::None),
        maxmin("baselined", Baseline::Reference),
    );
    let coverage = solver.coverage(e, &mut notes);
    let coverage = notes.part("coverage", coverage);
    let robust = solver.robust(e, &mut notes);
    let robust = notes.part("robust", robust);
    let rto = solver.rto(dpo.as_ref().map(|d| &d.1), &mut notes);
    let rto = notes.part("rto", rto);
    let predetermined = solver.predetermined(&mut notes);
    let known = solver.known()?;
    let mut report = Report {
        soft_value: known.soft_value,
        soft_value_mean: known.soft_value_mean,
        reference_value: notes.part("reference_value", solver.root_values(&instance.reference)),
        policy_value: notes.part("policy_value", solver.given_policy(Solver::root_values)),
        suboptimality: Suboptimality {
            reference: notes.part("suboptimality.reference", solver.gap(&instance.reference)),
            policy: notes.part("suboptimality.policy", solver.given_policy(Solver::gap)),
        },
        root_policy: known.root_policy,
        feature_expectation: known.feature_expectation,
        predetermined_value: notes.part("predetermined_value", predetermined),
        mle: e.map(|e| e.mle(&mut notes)),
        sigma_d: e.and_then(|e| Some(matrix_rows(e.sigma.as_ref()?.matrix()))),
        log_det_sigma: e.and_then(|e| Some(e.sigma.as_ref()?.log_det())),
        algorithm1,
        theorem_b1,
        baselined,
        coverage,
        robust,
        rto,
        dpo: dpo.map(|d| d.0),
        warnings,
        radii: estimate.and_then(|e| e.radii),
        notes: Default::default(),
    };
    let value = serde_json::to_value(&report)?;
    report.notes = notes.complete(&value, instance);
    Ok(report)
}

fn matrix_rows(matrix: &DMatrix<f64>) -> Vec<Vec<f64>> {
    let rows = matrix.row_iter();
    rows.map(|row| row.iter().copied().collect()).collect()
}
