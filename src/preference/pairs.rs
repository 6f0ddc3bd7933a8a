//! Weighted, soft-labelled comparisons: a population or data, through one code path.

use super::responses::Responses;
use crate::check;
use crate::numerics::sigmoid;
use crate::{Error, Result};

/// Responses `first` and `second`, compared with weight `weight`; `preference` is the probability or the frequency with
/// which the first one wins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairRow {
    /// The first response.
    pub first: usize,
    /// The second response, another one.
    pub second: usize,
    /// The weight of the pair: what a mean over pairs gives it.
    pub weight: f64,
    /// How often the first one wins, in \[0, 1\].
    pub preference: f64,
}

/// (3.1): Comparisons of n responses, a row for each unordered pair that is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct PairTable {
    n: usize,
    rows: Vec<PairRow>,
}

impl PairTable {
    /// A table of rows.
    ///
    /// # Errors
    /// [`Error::Config`] naming the row: an unknown response, one compared with itself, a weight that is no positive number,
    /// a preference outside \[0, 1\]; no row at all.
    pub fn try_new(n: usize, rows: Vec<PairRow>) -> Result<Self> {
        if rows.is_empty() {
            return Err(Error::config(
                "pairs",
                "none",
                "at least one comparison of two responses",
            ));
        }
        for (i, row) in rows.iter().enumerate() {
            let field = |what: &str| format!("pairs[{i}].{what}");
            for (what, y) in [("first", row.first), ("second", row.second)] {
                if y >= n {
                    return Err(Error::config(
                        field(what),
                        y,
                        format!("a response below {n}"),
                    ));
                }
            }
            if row.first == row.second {
                return Err(Error::config(
                    field("second"),
                    row.second,
                    "another response than the first",
                ));
            }
            if !(row.weight > 0.0 && row.weight.is_finite()) {
                return Err(Error::config(
                    field("weight"),
                    row.weight,
                    "a positive number",
                ));
            }
            if !(0.0..=1.0).contains(&row.preference) {
                return Err(Error::config(
                    field("preference"),
                    row.preference,
                    "in [0, 1]",
                ));
            }
        }
        Ok(Self { n, rows })
    }

    /// The population of pairs drawn from μ × μ and labelled by (2.1) under the responses' rewards: w = 2 μ_i μ_j,
    /// p = σ(R_i − R_j). Equal draws are dropped, so the weights sum to 1 − Σ μ².
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::NotADistribution`].
    pub fn population(responses: &Responses, mu: &[f64]) -> Result<Self> {
        let n = responses.len();
        check::len("mu", n, mu.len())?;
        let sum: f64 = mu.iter().sum();
        if (sum - 1.0).abs() > 1e-9 || mu.iter().any(|&m| m.is_nan() || m < 0.0) {
            return Err(Error::NotADistribution {
                what: "mu".into(),
                sum,
            });
        }
        let r = responses.rewards();
        let pair = |(i, j): (usize, usize)| PairRow {
            first: i,
            second: j,
            weight: 2.0 * mu[i] * mu[j],
            preference: sigmoid(r[i] - r[j]),
        };
        let all = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j)));
        Self::try_new(n, all.map(pair).filter(|row| row.weight > 0.0).collect())
    }

    /// The table of listed comparisons (winner, loser), each with the weight 1/N.
    ///
    /// # Errors
    /// [`Error::Config`] naming the comparison: an unknown response, a winner equal to its loser, none at all.
    pub fn from_counts(n: usize, pairs: &[(usize, usize)]) -> Result<Self> {
        let mut wins = vec![0u32; n * n];
        for (i, &(w, l)) in pairs.iter().enumerate() {
            for (what, y) in [("winner", w), ("loser", l)] {
                if y >= n {
                    let field = format!("pairs[{i}].{what}");
                    return Err(Error::config(field, y, format!("a response below {n}")));
                }
            }
            if w == l {
                return Err(Error::config(
                    format!("pairs[{i}]"),
                    w,
                    "two different responses",
                ));
            }
            wins[w * n + l] += 1;
        }
        let mut rows = Vec::new();
        for i in 0..n {
            for j in i + 1..n {
                let (a, b) = (f64::from(wins[i * n + j]), f64::from(wins[j * n + i]));
                if a + b > 0.0 {
                    rows.push(PairRow {
                        first: i,
                        second: j,
                        weight: (a + b) / pairs.len() as f64,
                        preference: a / (a + b),
                    });
                }
            }
        }
        Self::try_new(n, rows)
    }

    /// n.
    pub fn n_responses(&self) -> usize {
        self.n
    }

    /// The rows.
    pub fn rows(&self) -> &[PairRow] {
        &self.rows
    }

    /// For each response, half the weight with which it wins and half that with which it loses: a and b of the unpaired
    /// methods, for which each pair is two rows of weight ½.
    pub fn wins_and_losses(&self) -> (Vec<f64>, Vec<f64>) {
        let (mut wins, mut losses) = (vec![0.0; self.n], vec![0.0; self.n]);
        for row in &self.rows {
            let (first, second) = (
                row.weight * row.preference,
                row.weight * (1.0 - row.preference),
            );
            wins[row.first] += first / 2.0;
            losses[row.second] += first / 2.0;
            wins[row.second] += second / 2.0;
            losses[row.first] += second / 2.0;
        }
        (wins, losses)
    }

    /// c = a − b, the net weight with which each response wins.
    pub fn net(&self) -> Vec<f64> {
        let (wins, losses) = self.wins_and_losses();
        wins.iter().zip(&losses).map(|(a, b)| a - b).collect()
    }

    /// The law of the chosen responses, Σ = 1: what the supervised term of RPO is taken over.
    pub fn chosen(&self) -> Vec<f64> {
        let (wins, _) = self.wins_and_losses();
        let total: f64 = wins.iter().sum();
        wins.iter().map(|w| w / total).collect()
    }

    /// Fails on a response that is in no pair.
    ///
    /// # Errors
    /// [`Error::Assumption`] naming it.
    pub fn check_all_compared(&self) -> Result<()> {
        let mut compared = vec![false; self.n];
        for row in &self.rows {
            compared[row.first] = true;
            compared[row.second] = true;
        }
        match compared.iter().position(|c| !c) {
            Some(y) => Err(Error::Assumption {
                assumption: "every response is compared".into(),
                why: format!("response {y} is in no pair"),
            }),
            None => Ok(()),
        }
    }

    /// For each response the smallest response of its connected component of the comparison graph.
    pub fn components(&self) -> Vec<usize> {
        let mut label: Vec<usize> = (0..self.n).collect();
        fn find(label: &[usize], mut k: usize) -> usize {
            while label[k] != k {
                k = label[k];
            }
            k
        }
        for row in &self.rows {
            let (a, b) = (find(&label, row.first), find(&label, row.second));
            label[a.max(b)] = a.min(b);
        }
        (0..self.n).map(|k| find(&label, k)).collect()
    }

    /// Whether all responses are compared, directly or through others: then a likelihood of margins has at most one maximum.
    pub fn connected(&self) -> bool {
        self.components().iter().all(|&c| c == 0)
    }

    /// The strongly connected classes of the graph "i beat j at least once", as the smallest response of each class.
    ///
    /// Ford (1957): the Bradley–Terry likelihood has a maximum exactly if each connected component of the comparison graph is
    /// one class.
    pub fn win_classes(&self) -> Vec<usize> {
        let n = self.n;
        let mut beats = vec![Vec::new(); n];
        for row in &self.rows {
            if row.preference > 0.0 {
                beats[row.first].push(row.second);
            }
            if row.preference < 1.0 {
                beats[row.second].push(row.first);
            }
        }
        let reach = |from: usize| {
            let mut seen = vec![false; n];
            let mut open = vec![from];
            while let Some(k) = open.pop() {
                if !std::mem::replace(&mut seen[k], true) {
                    open.extend(&beats[k]);
                }
            }
            seen
        };
        let reached: Vec<Vec<bool>> = (0..n).map(reach).collect();
        let class = |i: usize| {
            (0..n)
                .find(|&j| reached[i][j] && reached[j][i])
                .expect("itself")
        };
        (0..n).map(class).collect()
    }

    /// Whether the Bradley–Terry likelihood has a maximum, by Ford's condition.
    pub fn has_maximum(&self) -> bool {
        self.win_classes() == self.components()
    }

    /// The responses whose Bradley–Terry score goes to −∞ relative to the best of its component where there is no maximum:
    /// those that some never-losing class of the component does not contain.
    pub fn vanishing(&self) -> Vec<usize> {
        let (class, component) = (self.win_classes(), self.components());
        let loses = |c: usize| {
            self.rows.iter().any(|row| {
                let (i, j, p) = (row.first, row.second, row.preference);
                (class[i] == c && class[j] != c && p < 1.0)
                    || (class[j] == c && class[i] != c && p > 0.0)
            })
        };
        let split =
            |y: usize| (0..self.n).any(|z| component[z] == component[y] && class[z] != class[y]);
        (0..self.n)
            .filter(|&y| split(y) && loses(class[y]))
            .collect()
    }
}
