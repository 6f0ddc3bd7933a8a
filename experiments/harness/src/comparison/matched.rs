//! The protocol's third quantity: true reward at matched KL, from the envelopes of RTO and DPPO.

use anyhow::Result;

use super::envelope::Envelope;
use super::{ENVELOPE, KLS, REPORT, Study, line};
use crate::stats::{Sample, Support};
use crate::table::Cell;

/// What the envelopes of reward at KL are taken over, beside training time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over<'a> {
    /// Every β₂ that was run.
    Betas,
    /// That of the objective, by the reported runs.
    OneBeta,
    /// Every β₂ that was run with the settings of a variant.
    Variant(&'a str),
}

/// KLs that both methods reach: from the larger of the smallest that was measured of each to the smaller of the largest.
#[derive(Debug, Clone, Copy)]
struct Range {
    least: f64,
    most: f64,
}

impl Study {
    /// All (KL, reward) of a method over β₂ and training time, its start apart.
    pub(super) fn reached(
        &self,
        instance: &str,
        method: &str,
        seed: u64,
        over: Over<'_>,
    ) -> Vec<(f64, f64)> {
        let changed = match over {
            Over::Variant(variant) => format!("{ENVELOPE}_{variant}"),
            _ => String::new(),
        };
        let is_changed = self.of_stage(instance, method, &changed).is_some();
        let stages: &[&str] = match (over, self.report_in_envelope) {
            (Over::OneBeta, _) => &[REPORT],
            (Over::Variant(_), _) if is_changed => &[&changed],
            (_, true) => &[ENVELOPE, REPORT],
            (_, false) => &[ENVELOPE],
        };
        let runs = stages
            .iter()
            .filter_map(|stage| self.of_stage(instance, method, stage));
        let runs = runs.flatten().filter(|((s, _), _)| *s == seed);
        let rows = runs.flat_map(|(_, rows)| rows.iter().filter(|r| r.iteration > 0));
        rows.map(|r| (r.kl, r.reward)).collect()
    }

    /// The third quantity on one seed: RTO's envelope less DPPO's, as a share of the frontier's rise.
    pub(super) fn matched(&self, instance: &str, seed: u64, over: Over<'_>) -> Result<f64> {
        let Range { most, .. } = self.range(instance, seed, over);
        let at = |j: u32| most * f64::from(j) / f64::from(KLS);
        self.between_envelopes(instance, seed, over, (1..=KLS).map(at).collect())
    }

    /// The same at the KLs where each has points alone; none where there are none.
    fn matched_where_measured(
        &self,
        instance: &str,
        seed: u64,
        over: Over<'_>,
    ) -> Result<Option<f64>> {
        let Range { least, most } = self.range(instance, seed, over);
        if least >= most {
            return Ok(None);
        }
        let at = |j: u32| least + (most - least) * f64::from(j) / f64::from(KLS - 1);
        let kls = (0..KLS).map(at).collect();
        self.between_envelopes(instance, seed, over, kls).map(Some)
    }

    /// The KLs that both reach.
    fn range(&self, instance: &str, seed: u64, over: Over<'_>) -> Range {
        let [rto, dppo] = ["rto", "dppo"].map(|method| {
            let points = self.reached(instance, method, seed, over);
            let kls = points.iter().map(|p| p.0);
            (
                kls.clone().fold(f64::INFINITY, f64::min),
                kls.fold(0.0, f64::max),
            )
        });
        Range {
            least: rto.0.max(dppo.0).max(0.0),
            most: rto.1.min(dppo.1),
        }
    }

    /// The mean of RTO's envelope less DPPO's at these KLs, in rising order, as a share of the exact frontier's rise up to the last.
    fn between_envelopes(
        &self,
        instance: &str,
        seed: u64,
        over: Over<'_>,
        kls: Vec<f64>,
    ) -> Result<f64> {
        let world = self.world(instance, seed)?;
        let sft = world.reward("sft")?;
        let [rto, dppo] = ["rto", "dppo"]
            .map(|method| Envelope::new(sft, self.reached(instance, method, seed, over)));
        let sum: f64 = kls.iter().map(|kl| rto.at(*kl) - dppo.at(*kl)).sum();
        let most = kls.last().copied().unwrap_or(0.0);
        Ok(sum / kls.len() as f64 / world.rise(most)?)
    }

    /// What else is said of reward at matched KL where the reported runs are in the envelope too: at one β₂ alone, and where both have
    /// points. Secondary, not corrected.
    pub(super) fn matched_beside(&self, instance: &str) -> Result<Vec<Vec<Cell>>> {
        let of = |quantity: &str| [instance, quantity, REPORT, "rto", "dppo"].map(Cell::from);
        let none = || [Cell::Empty, Cell::Empty];
        let mut rows = Vec::new();
        let betas = ["rto", "dppo"]
            .iter()
            .all(|m| self.of_stage(instance, m, ENVELOPE).is_some());
        if betas {
            let one = self.each(|seed| self.matched(instance, seed, Over::OneBeta))?;
            let of = of("reward_at_matched_kl_one_beta2");
            rows.push(line(of, &one, |x| x, none()));
        }
        for (over, name) in [(Over::OneBeta, "_one_beta2"), (Over::Betas, "")] {
            if over == Over::OneBeta && !betas {
                continue;
            }
            let found = self.seeds.iter();
            let found = found.map(|seed| self.matched_where_measured(instance, *seed, over));
            let found: Vec<f64> = (found.collect::<Result<Vec<_>>>()?)
                .into_iter()
                .flatten()
                .collect();
            if found.len() >= 2 {
                let of = of(&format!("reward_where_both_measured{name}"));
                rows.push(line(of, &Sample(found), |x| x, none()));
            }
            let below = self.each(|seed| {
                let Range { least, most } = self.range(instance, seed, over);
                Ok((least / most).min(1.0))
            })?;
            let of = of(&format!("matched_kl_below_measured{name}"));
            let mut row = line(of, &below, |x| x, none());
            let (_, low, high) = below.interval(Support::Share);
            // Every one is at least 0, so that the test of signs says nothing.
            (row[6], row[7], row[8]) = (low.into(), high.into(), Cell::Empty);
            rows.push(row);
        }
        Ok(rows)
    }
}
