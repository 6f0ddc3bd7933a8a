//! The figures that are tables: (λ, critic rate) and credit per token.

use anyhow::Result;
use rto_harness::plot::canvas;
use rto_harness::table::Table;
use std::path::Path;

use crate::figures::{DPPO, Setting};
use crate::heatmap::{Grid, Shown, caption, heading, legend};

pub fn map(dir: &Path, setting: &Setting) -> Result<()> {
    let table = Table::from_csv(&dir.join("map.csv"))?;
    let columns = table.distinct("critic_rate")?;
    let mut rows = table.distinct("lambda")?;
    rows.reverse();
    let cells = |what: &str| -> Result<Vec<Shown>> {
        let mut out = Vec::new();
        for lambda in &rows {
            let own = table.filter("lambda", lambda)?;
            let column = |end: &str| own.floats(&format!("{what}_ratio{end}"));
            let (ratio, low, high) = (column("")?, column("_low")?, column("_high")?);
            for ((ratio, low), high) in ratio.into_iter().zip(low).zip(high) {
                // No interval, no claim.
                let clear = high < 1.0 || low > 1.0;
                out.push(Shown {
                    value: ratio.log10(),
                    text: format!("{ratio:.2}{}", if clear { "" } else { " ns" }),
                    muted: !clear,
                });
            }
        }
        Ok(out)
    };
    let (run, end) = (cells("mean")?, cells("final")?);
    // Whole decades, at least one.
    let full = run
        .iter()
        .chain(&end)
        .fold(0.1f64, |m, c| m.max(c.value.abs()));
    let full = full.ceil();
    let grid = |title| Grid {
        title,
        axes: (
            "learning rate of the critic (share of its error per step)",
            "λ of GAE",
        ),
        columns: &columns,
        rows: &rows,
        cell: (66.0, 44.0),
        full,
    };
    let size = grid("").size();
    let (width, ten) = (2.0 * size.0 + 80.0, 10f64.powf(full));
    let ahead = |lambda: Option<&String>| -> Result<bool> {
        let own = table.filter("lambda", lambda.map_or("", String::as_str))?;
        let highs = own.floats("mean_ratio_high")?;
        Ok(!highs.is_empty() && highs.iter().all(|high| *high < 0.5))
    };
    let title = match ahead(rows.last())? && !ahead(rows.first())? {
        true => "Dense reward wins where GAE bootstraps through a critic that knows nothing yet",
        false => "RTO against DPPO over λ of GAE and the learning rate of the critic",
    };
    let subtitle = format!(
        "long ({}), β₁ = {}, β₂ = {}; SubOpt of RTO / SubOpt of DPPO",
        setting.instance("long")?,
        setting.text("beta1")?,
        setting.text("beta2")?
    );
    let text = format!(
        "Geometric means of {} paired runs of {} iterations; “ns”: the 95% interval holds 1. {DPPO}",
        setting.text("map_replicates")?,
        setting.text("map_iterations")?
    );
    canvas(
        &dir.join("map"),
        width as u32,
        (size.1 + 168.0) as u32,
        |p| {
            let top = heading(p, title, &subtitle);
            grid("averaged over the run").draw(p, (16.0, top), &run);
            grid("at the end").draw(p, (16.0 + size.0 + 40.0, top), &end);
            let y = top + size.1 + 8.0;
            legend(
                p,
                (width / 2.0 - 200.0, y),
                400.0,
                [
                    &format!("1/{ten}: RTO better"),
                    "1",
                    &format!("{ten}: DPPO better"),
                ],
            );
            caption(p, y + 50.0, &text);
        },
    )
}

/// One decimal with a minus sign proper, and no negative zero.
fn tenth(v: f64) -> String {
    let rounded = (10.0 * v).round() / 10.0;
    format!("{:.1}", rounded + 0.0).replace('-', "−")
}

pub fn credit(dir: &Path, setting: &Setting) -> Result<()> {
    let table = Table::from_csv(&dir.join("credit.csv"))?;
    let (responses, steps) = (table.distinct("response")?, table.distinct("h")?);
    let blocks = [
        ("credit", "paid by (4.5): β₁ log(π_dpo/π_ref)"),
        ("advantage", "true advantage: r + V*(s′) − V*(s)"),
        ("reward", "true reward r"),
    ];
    let mut all = Vec::new();
    for (column, _) in blocks {
        all.push(table.floats(column)?);
    }
    let full = all.iter().flatten().fold(0.0f64, |m, v| m.max(v.abs()));
    let grid = |title| Grid {
        title,
        axes: ("h (place of the token in the response)", "response"),
        columns: &steps,
        rows: &responses,
        cell: (42.0, 30.0),
        full,
    };
    let size = grid("").size();
    let width = 3.0 * size.0 + 60.0;
    // By the sum of squared differences over the tokens that are drawn; of an exact π_dpo the first is 0.
    let off = |k: usize| -> f64 {
        let pairs = all[0].iter().zip(&all[k]);
        pairs.map(|(paid, v)| (paid - v).powi(2)).sum()
    };
    let title = match off(1) < off(2) {
        true => "(4.5) pays each token the advantage, not the reward",
        false => "What (4.5) pays each token, beside the true advantage and the true reward",
    };
    let subtitle = format!(
        "{} responses of π_ref on the long instance ({}), best return first; β = β₁ = {}, |D| = {} pairs",
        responses.len(),
        setting.instance("long")?,
        setting.text("beta1")?,
        setting.text("pairs")?
    );
    let text = "One cell per token, its value in reward units; a row is a response. V* is the optimal soft value at β under the true reward. A row of the middle table sums to the return minus V* at the prompt, which no response can change; the left one does too where π_dpo is optimal, and differs here because π_dpo was fitted to finitely many pairs.";
    canvas(
        &dir.join("credit"),
        width as u32,
        (size.1 + 168.0) as u32,
        |p| {
            let top = heading(p, title, &subtitle);
            for (k, (values, (_, title))) in all.iter().zip(blocks).enumerate() {
                let cells: Vec<Shown> = values
                    .iter()
                    .map(|v| Shown {
                        value: *v,
                        text: tenth(*v),
                        muted: false,
                    })
                    .collect();
                grid(title).draw(p, (12.0 + (size.0 + 16.0) * k as f64, top), &cells);
            }
            let y = top + size.1 + 8.0;
            let (low, high) = (tenth(-full), tenth(full));
            legend(
                p,
                (width / 2.0 - 200.0, y),
                400.0,
                [&low, "0 (reward units)", &high],
            );
            caption(p, y + 50.0, text);
        },
    )
}
