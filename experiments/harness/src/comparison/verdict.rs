//! What the protocol calls a win, and what a user reads of it on the terminal.

use crate::methods::label;
use crate::stats::shown;
use crate::table::{Cell, Table};
use anyhow::{Context, Result};

/// An estimate with its interval and corrected p-value.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    pub estimate: f64,
    pub low: f64,
    pub high: f64,
    pub p_holm: f64,
}

impl Test {
    pub fn read(rows: &Table, quantity: &str) -> Result<Self> {
        let row = rows.filter("quantity", quantity)?;
        let value = |column: &str| -> Result<f64> {
            let found = row.floats(column)?.into_iter().next();
            found.with_context(|| format!("conclusions: no row of {quantity}"))
        };
        Ok(Self {
            estimate: value("estimate")?,
            low: value("low")?,
            high: value("high")?,
            p_holm: value("p_holm")?,
        })
    }

    pub fn is_significant(self) -> bool {
        self.p_holm <= 0.05
    }
}

/// What the protocol calls the first and the third quantity together.
pub fn objective_verdict(end: Test, matched: Test) -> &'static str {
    let counts = |t: Test, sign: f64| t.is_significant() && sign * t.estimate >= 0.05;
    let (wins, loses) = (
        counts(end, 1.0) || counts(matched, 1.0),
        counts(end, -1.0) || counts(matched, -1.0),
    );
    match (wins, loses) {
        (true, false) => "RTO wins",
        (false, true) => "RTO loses",
        (true, true) => "one way at the end, the other at matched KL",
        _ if end.low >= -0.05 && end.high <= 0.05 => "equal",
        _ => "not decided",
    }
}

/// What the protocol calls the second.
pub fn samples_verdict(ratio: Test) -> &'static str {
    match ratio.is_significant() {
        true if ratio.estimate >= 1.25 => "RTO saves samples",
        true if ratio.estimate <= 1.0 / 1.25 => "DPPO saves samples",
        _ => "not decided",
    }
}

/// What a user reads on the terminal, of grounds whose optimum is known or not.
pub fn text(conclusions: &Table, verdicts: &Table, exact: bool) -> Result<String> {
    let mut out = String::new();
    let shown_or = |v: f64| shown(v).text();
    for row in verdicts.rows() {
        let [instance, objective, samples] = [&row[0], &row[1], &row[2]].map(Cell::text);
        out += &format!(
            "{instance}: RTO against DPPO: objective value: {objective}; samples: {samples}\n"
        );
        let rows = conclusions.filter("instance", &instance)?;
        let columns = [
            "quantity",
            "variant",
            "against",
            "estimate",
            "95% interval",
            "p",
            "p, Holm",
        ];
        let mut table = Table::new("conclusions", &columns);
        let rows = rows.filter("method", "rto")?;
        let floats = ["estimate", "low", "high", "p", "p_holm"].map(|c| rows.floats(c));
        let [estimate, low, high, p, holm] = floats;
        let (estimate, low, high, p, holm) = (estimate?, low?, high?, p?, holm?);
        let texts = ["quantity", "variant", "against"].map(|c| rows.texts(c));
        let [quantity, variant, against] = texts;
        let (quantity, variant, against) = (quantity?, variant?, against?);
        for i in 0..rows.len() {
            table.push([
                quantity[i].as_str().into(),
                variant[i].as_str().into(),
                label(&against[i]).into(),
                shown(estimate[i]),
                format!("[{}, {}]", shown_or(low[i]), shown_or(high[i])).into(),
                shown(p[i]),
                shown(holm[i]),
            ]);
        }
        out += &table.render();
    }
    let lead = match exact {
        true => "the optimum's lead over SFT",
        false => {
            "the largest lead over SFT that any method or baseline had in the mean (of 1 where none had any)"
        }
    };
    out += &format!(
        "objective_end and reward_at_matched_kl: RTO less the other, as a share of {lead}; objective_end_change: that of a variant less that of the chosen \
         points; reward_where_both_measured: at KLs where both have points; matched_kl_below_measured: the share of the KLs from 0 up that lies below them; samples_L: samples of \
         DPPO to those of RTO until L% of the lead; critic_error: error of DPPO's critic to that of RTO's; above_baselines: against the best of SFT at any temperature and best-of-n.\n"
    );
    Ok(out)
}
