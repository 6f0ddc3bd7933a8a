//! E|g_u|² over units, exactly.

use super::field::{Unit, Watch};
use super::prepared::Prepared;

/// Collects Σ_u P(u) |g_u|², where g_u is in logits or pulled back to the parameters of a log-linear policy.
pub(super) struct Variance<'a> {
    p: &'a Prepared<'a, f64>,
    /// Φ, `[P][d]` row by row, or none for logits.
    features: Option<(&'a [f64], usize)>,
    second: f64,
    mass: f64,
    /// Inner products of what a response adds to g_u per unit of w·max(Â, 0), w·max(−Â, 0) and w: `[3N][3N]`.
    gram: Option<Vec<f64>>,
    c: Vec<f64>,
    weight: Vec<f64>,
    touched: Vec<usize>,
    is_touched: Vec<bool>,
    pulled: Vec<f64>,
}

/// Up to this many responses the inner products of all pairs are held.
const MOST_IN_GRAM: usize = 600;

impl<'a> Variance<'a> {
    pub fn new(p: &'a Prepared<'a, f64>, features: Option<(&'a [f64], usize)>) -> Self {
        let mut out = Self {
            p,
            features,
            second: 0.0,
            mass: 1.0,
            gram: None,
            c: vec![0.0; p.tree.n_pairs()],
            weight: vec![0.0; p.tree.n_states()],
            touched: Vec::new(),
            is_touched: vec![false; p.tree.n_states()],
            pulled: vec![0.0; features.map_or(0, |f| f.1)],
        };
        let n = p.tree.n_responses();
        if p.recipe.one_advantage_per_row() && n <= MOST_IN_GRAM {
            out.gram = Some(out.inner_products());
        }
        out
    }

    /// tr Cov = E|g|² − |E g|².
    pub fn trace(&self, mean: &[f64]) -> f64 {
        let norm: f64 = match self.features {
            None => mean.iter().map(|v| v * v).sum(),
            Some((phi, d)) => pull_back(phi, d, mean).iter().map(|v| v * v).sum(),
        };
        self.second / self.mass - norm
    }

    fn directly(&mut self, unit: &[usize], now: &Unit<f64>) -> f64 {
        let rows = self.p.recipe.one_advantage_per_row();
        let mut at = 0;
        for (i, y) in unit.iter().enumerate() {
            let (w, p) = (now.weight[i], self.p);
            for pair in p.tree.response(*y) {
                let a = if rows { now.row[i] } else { now.token[at] };
                at += 1;
                self.touch(*y, *pair as usize, a, w);
            }
        }
        self.norm()
    }

    /// Adds w·(|Â| slope± + KL) of a token to the coefficients of its pair.
    #[inline(always)]
    fn touch(&mut self, response: usize, pair: usize, advantage: f64, w: f64) {
        let p = self.p;
        let (s, at) = (pair / p.tree.n_actions(), p.slope_index(response, pair));
        let sided = match advantage < 0.0 {
            true => -advantage * p.slope[1][at],
            false => advantage * p.slope[0][at],
        };
        let kl = p.kl_slope.as_ref().map_or(0.0, |k| k[pair]);
        self.c[pair] += w * (sided + kl);
        self.weight[s] += w;
        if !self.is_touched[s] {
            self.is_touched[s] = true;
            self.touched.push(s);
        }
    }

    /// |g_u|² of the coefficients collected, which are cleared.
    fn norm(&mut self) -> f64 {
        let (p, a) = (self.p, self.p.tree.n_actions());
        let mut square = 0.0;
        for &s in &self.touched {
            let row = s * a..(s + 1) * a;
            let sum: f64 = self.c[row.clone()].iter().sum();
            for k in row {
                let mut g = self.c[k] - p.pi[k] * sum;
                if let Some(kl) = &p.exact_kl {
                    g -= self.weight[s] * kl[k];
                }
                match self.features {
                    None => square += g * g,
                    Some((phi, d)) => {
                        let of = phi[k * d..(k + 1) * d].iter();
                        self.pulled
                            .iter_mut()
                            .zip(of)
                            .for_each(|(x, f)| *x += g * f);
                    }
                }
                self.c[k] = 0.0;
            }
            self.weight[s] = 0.0;
            self.is_touched[s] = false;
        }
        self.touched.clear();
        if self.features.is_some() {
            square = self.pulled.iter().map(|v| v * v).sum();
            self.pulled.fill(0.0);
        }
        square
    }

    /// Of the vectors that a response adds per unit of each of its three coefficients.
    fn inner_products(&self) -> Vec<f64> {
        let (p, a) = (self.p, self.p.tree.n_actions());
        let (n, width) = (
            p.tree.n_responses(),
            self.features.map_or(p.tree.n_pairs(), |f| f.1),
        );
        let mut vectors = vec![0.0; 3 * n * width];
        let mut g = vec![0.0; p.tree.n_pairs()];
        for y in 0..n {
            for kind in 0..3 {
                g.fill(0.0);
                for pair in p.tree.response(y) {
                    let pair = *pair as usize;
                    let (s, at) = (pair / a, p.slope_index(y, pair));
                    let c = match kind {
                        0 => p.slope[0][at],
                        1 => p.slope[1][at],
                        _ => p.kl_slope.as_ref().map_or(0.0, |k| k[pair]),
                    };
                    g[pair] += c;
                    for k in s * a..(s + 1) * a {
                        g[k] -= p.pi[k] * c;
                        if let (2, Some(kl)) = (kind, &p.exact_kl) {
                            g[k] -= kl[k];
                        }
                    }
                }
                let out = &mut vectors[(3 * y + kind) * width..(3 * y + kind + 1) * width];
                match self.features {
                    None => out.copy_from_slice(&g),
                    Some((phi, d)) => out.copy_from_slice(&pull_back(phi, d, &g)),
                }
            }
        }
        let mut gram = vec![0.0; 9 * n * n];
        for i in 0..3 * n {
            for j in 0..=i {
                let (x, y) = (
                    &vectors[i * width..(i + 1) * width],
                    &vectors[j * width..(j + 1) * width],
                );
                let dot = x.iter().zip(y).map(|(a, b)| a * b).sum();
                gram[i * 3 * n + j] = dot;
                gram[j * 3 * n + i] = dot;
            }
        }
        gram
    }
}

impl Watch<f64> for Variance<'_> {
    #[inline(always)]
    fn add(&mut self, unit: &[usize], now: &Unit<f64>, prob: f64) {
        self.second += prob
            * match &self.gram {
                Some(gram) => by_gram(gram, self.p.tree.n_responses(), unit, now),
                None => self.directly(unit, now),
            };
    }

    fn set_mass(&mut self, mass: f64) {
        self.mass = mass;
    }
}

/// |Σ_i w_i (|Â_i| v_{y_i,±} + v_{y_i,KL})|² by inner products.
#[inline(always)]
fn by_gram(gram: &[f64], n: usize, unit: &[usize], now: &Unit<f64>) -> f64 {
    let width = 3 * n;
    let terms = |i: usize| {
        let (y, a, w) = (unit[i], now.row[i], now.weight[i]);
        let sided = 3 * y + usize::from(a < 0.0);
        (sided, w * a.abs(), 3 * y + 2, w)
    };
    let mut square = 0.0;
    for i in 0..unit.len() {
        let (si, ai, ki, wi) = terms(i);
        let (row_s, row_k) = (
            &gram[si * width..(si + 1) * width],
            &gram[ki * width..(ki + 1) * width],
        );
        for j in 0..=i {
            let (sj, aj, kj, wj) = terms(j);
            let dot =
                ai * (aj * row_s[sj] + wj * row_s[kj]) + wi * (aj * row_k[sj] + wj * row_k[kj]);
            square += if i == j { dot } else { 2.0 * dot };
        }
    }
    square
}

/// Φᵀ g.
pub(super) fn pull_back(phi: &[f64], d: usize, g: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; d];
    for (row, g) in phi.chunks_exact(d).zip(g) {
        out.iter_mut().zip(row).for_each(|(o, f)| *o += g * f);
    }
    out
}
