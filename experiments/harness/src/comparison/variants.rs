//! What was run beside the chosen points: where each variant of a method ends.

use anyhow::Result;

use super::held_out::MEASURED;
use super::{REPORT, Row, Study, differences};
use crate::stats::{Sample, Support, sign_flip};
use crate::table::{Cell, Table};

impl Study {
    /// Every variant of every method at its end: the share that its policy has of the objective (at the β₂ of the study, whatever it trained
    /// with), that less what the method's chosen point has, and RTO's chosen point less it, with the exact tests of the pairs. Secondary, not
    /// corrected.
    pub(super) fn variants_table(&self) -> Result<Table> {
        let columns = [
            &["instance", "variant", "method", "beta2"][..],
            &["share", "low", "high"],
            &["less_chosen", "less_low", "less_high", "less_p"],
            &["rto_less_it", "rto_low", "rto_high", "p"],
            &["reward", "kl", "seeds"],
            &MEASURED,
        ]
        .concat();
        let mut table = Table::new("variants", &columns);
        for ((instance, method, stage), runs) in &self.runs {
            if stage == REPORT || !self.instances.contains(instance) {
                continue;
            }
            let mut betas: Vec<&String> = runs.keys().map(|(_, beta2)| beta2).collect();
            betas.sort();
            betas.dedup();
            for beta2 in betas {
                let ends = self.seeds.iter().map(|seed| {
                    let run = runs.get(&(*seed, beta2.clone()));
                    Some((*seed, *run?.last()?))
                });
                // A stage that is kept on some seeds alone is not a variant.
                let Some(ends) = ends.collect::<Option<Vec<(u64, Row)>>>() else {
                    continue;
                };
                let own = *beta2 == Cell::from(self.beta2).text();
                let share = |(seed, row): &(u64, Row)| {
                    let objective = match own {
                        true => row.objective,
                        false => row.reward - self.beta2 * row.kl,
                    };
                    self.world(instance, *seed)?.share(objective, self.beta2)
                };
                let shares = Sample(ends.iter().map(share).collect::<Result<_>>()?);
                let (mean, low, high) = shares.interval(Support::Real);
                let mut row: Vec<Cell> = vec![
                    instance.as_str().into(),
                    stage.as_str().into(),
                    method.as_str().into(),
                    beta2.as_str().into(),
                ];
                row.extend([mean.into(), low.into(), high.into()]);
                row.extend(match self.methods.contains(method) {
                    true => tested(&shares, &self.end((instance, method, REPORT))?),
                    false => [const { Cell::Empty }; 4],
                });
                row.extend(tested(&self.end((instance, "rto", REPORT))?, &shares));
                let mean = |of: &dyn Fn(&Row) -> f64| {
                    let mean = Sample(ends.iter().map(|end| of(&end.1)).collect()).mean();
                    Cell::from(Some(mean).filter(|m| m.is_finite()))
                };
                row.extend([mean(&|r| r.reward), mean(&|r| r.kl), ends.len().into()]);
                row.extend((0..MEASURED.len()).map(|k| mean(&|r| r.held_out[k])));
                table.push(row);
            }
        }
        Ok(table)
    }
}

/// The mean of the paired differences with its interval and p.
fn tested(a: &Sample, b: &Sample) -> [Cell; 4] {
    let gap = differences(a, b);
    let (mean, low, high) = gap.interval(Support::Real);
    [
        mean.into(),
        low.into(),
        high.into(),
        sign_flip(&gap.0).into(),
    ]
}
