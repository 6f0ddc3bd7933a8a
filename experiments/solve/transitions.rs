//! Transitions of general tables, and counted ones.

use crate::arrays::{self, Array, entry};
use crate::json::{Fields, Json, as_index};
use crate::world::check_probabilities;
use anyhow::{Context, Result, bail};
use ndarray::Array2;
use rto::mdp::StateIx;
use std::path::Path;

/// Successors with probabilities, one row for each pair in the order s·A + a.
pub type Rows = Vec<Vec<(StateIx, f64)>>;

/// Reads `transition` and the number of actions.
pub fn read(
    json: &Json,
    states: usize,
    actions: Option<usize>,
    dir: &Path,
) -> Result<(Rows, usize)> {
    let (rows, actions) = match json {
        Json::Text(path) => from_file(path, "transition", states, actions, dir)?,
        inline => {
            let items = inline.list("transition")?;
            if items.len() != states {
                bail!(
                    "transition: found {} values, expected {states} (states)",
                    items.len()
                );
            }
            let first = items[0].list("transition[0]")?.len();
            let actions = actions.unwrap_or(first);
            (cells(inline, "transition", states, actions)?, actions)
        }
    };
    if actions == 0 {
        bail!("transition[0]: found no actions, expected at least 1");
    }
    let mut out = Vec::with_capacity(rows.len());
    for (i, cell) in rows.into_iter().enumerate() {
        let place = entry("transition", &[states, actions], i);
        let row = match cell {
            Cell::End => vec![(StateIx::END, 1.0)],
            Cell::Number(x) => vec![(StateIx(as_index(x, &place, states - 1)? as u32), 1.0)],
            Cell::Row(row) => row,
        };
        let probabilities: Vec<f64> = row.iter().map(|e| e.1).collect();
        check_probabilities(&place, &probabilities, |k| format!("{place}[{k}][1]"))?;
        out.push(row);
    }
    Ok((out, actions))
}

/// Counted transitions of Remark B.2.
pub struct Counts {
    /// N_{sa}.
    pub visits: Array2<f64>,
    /// P̂; successors that `transition` lists but no count confirms have probability 0.
    pub rows: Rows,
    pub zeta: f64,
}

impl Counts {
    /// Takes `transition_counts` and `zeta`.
    pub fn take(
        fields: &mut Fields,
        known: &Rows,
        states: usize,
        dir: &Path,
    ) -> Result<Option<Self>> {
        let zeta = fields.number("zeta", "a finite number >= 0", |z| z >= 0.0)?;
        let Some(json) = fields.take("transition_counts") else {
            if zeta.is_some() {
                bail!("zeta: needs transition_counts");
            }
            return Ok(None);
        };
        let Some(zeta) = zeta else {
            bail!("zeta: missing, transition_counts need it");
        };
        let name = "transition_counts";
        let actions = known.len() / states;
        let cells = match &json {
            Json::Text(path) => from_file(path, name, states, Some(actions), dir)?.0,
            inline => cells(inline, name, states, actions)?,
        };
        let mut visits = Array2::zeros((states, actions));
        let mut rows = Vec::with_capacity(cells.len());
        for (i, cell) in cells.into_iter().enumerate() {
            let place = entry(name, &[states, actions], i);
            let (total, row) = match cell {
                Cell::End => bail!("{place}: found null, expected a count"),
                Cell::Number(n) => (n, known[i].clone()),
                Cell::Row(row) => merge(&place, row, &known[i])?,
            };
            if !(total >= 0.0 && total.is_finite()) {
                bail!("{place}: found {total}, expected a count >= 0");
            }
            visits[[i / actions, i % actions]] = total;
            rows.push(row);
        }
        Ok(Some(Self { visits, rows, zeta }))
    }
}

/// N and P̂ from the counts of single successors.
fn merge(
    place: &str,
    counts: Vec<(StateIx, f64)>,
    known: &[(StateIx, f64)],
) -> Result<(f64, Vec<(StateIx, f64)>)> {
    if let Some((s, n)) = counts.iter().find(|(_, n)| !(*n >= 0.0 && n.is_finite())) {
        bail!(
            "{place}: found {n} for state {}, expected a count >= 0",
            s.0
        );
    }
    let total: f64 = counts.iter().map(|e| e.1).sum();
    if total == 0.0 {
        return Ok((0.0, known.to_vec()));
    }
    let mut row: Vec<(StateIx, f64)> = counts.iter().map(|(s, n)| (*s, n / total)).collect();
    for (s, _) in known {
        if row.iter().all(|e| e.0 != *s) {
            row.push((*s, 0.0));
        }
    }
    Ok((total, row))
}

/// One entry of a table over pairs, before its meaning is known.
enum Cell {
    End,
    Number(f64),
    Row(Vec<(StateIx, f64)>),
}

fn cells(json: &Json, name: &str, states: usize, actions: usize) -> Result<Vec<Cell>> {
    let items = json.list(name)?;
    if items.len() != states {
        bail!(
            "{name}: found {} values, expected {states} (states)",
            items.len()
        );
    }
    let mut out = Vec::with_capacity(states.saturating_mul(actions).min(1 << 24));
    for (s, item) in items.iter().enumerate() {
        let place = format!("{name}[{s}]");
        let row = item.list(&place)?;
        if row.len() != actions {
            bail!(
                "{place}: found {} values, expected {actions} (actions)",
                row.len()
            );
        }
        for (a, cell) in row.iter().enumerate() {
            out.push(read_cell(cell, &format!("{place}[{a}]"), states)?);
        }
    }
    Ok(out)
}

/// A number, `[[state, number], …]`, or a list of one number for each state.
fn read_cell(json: &Json, place: &str, states: usize) -> Result<Cell> {
    let items = match json {
        Json::Null => return Ok(Cell::End),
        Json::Number(x) => return Ok(Cell::Number(*x)),
        Json::List(items) => items,
        other => bail!(
            "{place}: found {}, expected a state or a list",
            other.shown()
        ),
    };
    let mut row: Vec<(StateIx, f64)> = Vec::with_capacity(items.len());
    let dense = matches!(items.first(), Some(Json::Number(_)));
    if dense && items.len() != states {
        bail!(
            "{place}: found {} values, expected {states} (states)",
            items.len()
        );
    }
    for (k, item) in items.iter().enumerate() {
        let place = format!("{place}[{k}]");
        if dense {
            let x = item.number(&place)?;
            if x != 0.0 {
                row.push((StateIx(k as u32), x));
            }
            continue;
        }
        let [next, x] = item.list(&place)? else {
            bail!("{place}: expected [state, number]");
        };
        let next = StateIx(next.index(&format!("{place}[0]"), states - 1)? as u32);
        if row.iter().any(|e| e.0 == next) {
            bail!("{place}: state {} is listed twice", next.0);
        }
        row.push((next, x.number(&format!("{place}[1]"))?));
    }
    Ok(Cell::Row(row))
}

/// `[S][A]` or `[S][A][S]` from a file.
fn from_file(
    path: &str,
    name: &str,
    states: usize,
    actions: Option<usize>,
    dir: &Path,
) -> Result<(Vec<Cell>, usize)> {
    let context = || format!("{name} ({path})");
    let array = arrays::load(dir, path).with_context(context)?;
    let Array { shape, values } = &array;
    let fits = matches!(shape.len(), 2 | 3)
        && shape[0] == states
        && actions.is_none_or(|a| a == shape[1])
        && shape.get(2).is_none_or(|s| *s == states);
    if !fits {
        bail!(
            "{}: found shape {shape:?}, expected [{states}, actions] or [{states}, actions, {states}]",
            context()
        );
    }
    if let Some(i) = values.iter().position(|x| !x.is_finite()) {
        bail!(
            "{}: found {}, expected a finite number",
            entry(name, shape, i),
            values[i]
        );
    }
    let cells = match shape.len() {
        2 => values.iter().map(|x| Cell::Number(*x)).collect(),
        _ => values
            .chunks_exact(states)
            .map(|row| {
                let listed = row.iter().enumerate().filter(|(_, x)| **x != 0.0);
                Cell::Row(listed.map(|(s, x)| (StateIx(s as u32), *x)).collect())
            })
            .collect(),
    };
    Ok((cells, shape[1]))
}
