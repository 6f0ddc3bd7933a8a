//! E\[g\]: what a recipe's loss does to the logits on average, and its covariance.

use super::prepared::Prepared;
use super::problem::{Problem, check};
use super::recipe::{Critic, Estimator, Recipe};
use super::tables::scores_to_logits;
use super::tree::ResponseTree;
use super::units::{multisets, n_multisets};
use crate::advantage::Spread;
use crate::advantage::kernels::{
    group_row, inverse_std, leave_one_out_group, no_spread, whiten_tokens, whitening_scale,
};
use crate::dual::Real;
use crate::{Error, Result};

/// More responses than this in all units together are refused: sample instead.
pub const MOST_DRAWN: f64 = 2e8;

/// The coefficients of ∇ℓ in a unit's −∂ℒ/∂θ.
pub(super) struct Unit<T> {
    /// Of each response of the unit, the weight of its tokens in the loss.
    pub weight: Vec<f64>,
    /// The advantage of each response, where its tokens share one.
    pub row: Vec<T>,
    /// The advantage of each token otherwise, response after response.
    pub token: Vec<T>,
    scratch: Vec<T>,
}

impl<T: Real> Unit<T> {
    pub fn new() -> Self {
        Self {
            weight: Vec::new(),
            row: Vec::new(),
            token: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Weights and advantages of a unit.
    #[inline(always)]
    pub fn fill(&mut self, p: &Prepared<'_, T>, unit: &[usize]) {
        let (recipe, n) = (p.recipe, unit.len());
        let length = |y: usize| p.tree.tokens(y).len() as f64;
        let total: f64 = unit.iter().map(|y| length(*y)).sum();
        self.weight.clear();
        let weight = |y: &usize| recipe.aggregation.weight(n as f64, total, length(*y));
        self.weight.extend(unit.iter().map(weight));
        self.row.clear();
        self.row.resize(n, T::constant(0.0));
        self.scratch.clear();
        match &recipe.advantage {
            Estimator::LeaveOneOut => {
                self.scratch.extend(unit.iter().map(|y| p.returns[*y]));
                leave_one_out_group(&self.scratch, &mut self.row);
            }
            Estimator::Group { spread } => {
                self.scratch.extend(unit.iter().map(|y| p.returns[*y]));
                let scale = match spread {
                    Spread::One => None,
                    // A unit is one group, which is then the whole batch.
                    Spread::Group { eps } | Spread::Batch { eps } => {
                        Some(inverse_std(&self.scratch, *eps))
                    }
                };
                group_row(&self.scratch, scale, &mut self.row);
            }
            Estimator::LeaveOneOutOfScore => {
                let scores = unit.iter().map(|y| T::constant(p.scores[*y]));
                self.scratch.extend(scores);
                leave_one_out_group(&self.scratch, &mut self.row);
                for (b, s) in self.row.iter_mut().zip(&self.scratch) {
                    *b -= *s;
                }
            }
            _ => {}
        }
        if recipe.one_advantage_per_row() {
            return;
        }
        self.token.clear();
        for (y, b) in unit.iter().zip(&self.row) {
            let of = p.advantage[p.tree.tokens(*y)].iter();
            self.token.extend(of.map(|a| *a + *b));
        }
        if let Some(std) = recipe.whitening {
            whiten_tokens(&mut self.token, None, total, true, std);
        }
    }
}

/// Whether a unit is drawn at all.
#[inline(always)]
pub(super) fn kept<T: Real>(p: &Prepared<'_, T>, unit: &[usize], scratch: &mut Vec<f64>) -> bool {
    if !p.recipe.drop_equal_groups {
        return true;
    }
    scratch.clear();
    scratch.extend(unit.iter().map(|y| p.scores[*y]));
    !no_spread(&scratch[..])
}

/// Calls `each(unit, probability)` for all units that are drawn; probabilities sum to `Σ`, which is returned, 1 unless groups are dropped.
pub(super) fn for_each_unit<T: Real>(p: &Prepared<'_, T>, mut each: impl FnMut(&[usize], T)) -> T {
    let (mut mass, mut scratch) = (T::constant(0.0), Vec::new());
    each_unit(p.tree, p.recipe, |unit, multiplicity| {
        if !kept(p, unit, &mut scratch) {
            return;
        }
        let mut prob = p.prob[unit[0]] * multiplicity;
        for y in &unit[1..] {
            prob = prob * p.prob[*y];
        }
        mass += prob;
        each(unit, prob);
    });
    mass
}

/// Calls `each(unit, multiplicity)` for all units, the multiplicity times the weight of a group's prompt.
#[inline(always)]
fn each_unit(tree: &ResponseTree, recipe: &Recipe, mut each: impl FnMut(&[usize], f64)) {
    if recipe.responses == 1 {
        multisets(0..tree.n_responses(), recipe.unit(), each);
        return;
    }
    for (prompt, w) in tree.prompt_weights().iter().enumerate() {
        multisets(tree.responses_of(prompt), recipe.unit(), |unit, m| {
            each(unit, m * w)
        });
    }
}

/// All units of a recipe written out, for fields at many θ: what does not depend on θ is computed once.
pub(super) struct UnitTable {
    n: usize,
    /// The responses of every unit, n at a time.
    members: Vec<usize>,
    /// Ordered tuples that are the same unit, times the weight of a group's prompt.
    multiplicity: Vec<f64>,
    /// Tokens of every unit.
    tokens: Vec<f64>,
    /// The weight of its tokens in the loss, member by member.
    weight: Vec<f64>,
    /// The advantage of each member, where it does not depend on θ.
    advantage: Option<Vec<f64>>,
}

/// Larger tables are not written out: units are then enumerated anew at every θ.
const MOST_WRITTEN: f64 = 4e6;

impl UnitTable {
    /// None where it would be too large, or has no group.
    pub fn new(problem: &Problem, recipe: &Recipe) -> Result<Option<Self>> {
        let n = recipe.unit();
        if n == 1 || drawn(problem, recipe) > MOST_WRITTEN {
            return Ok(None);
        }
        let p = Prepared::<f64>::new(problem, recipe, problem.reference(), None)?;
        // Returns hold log-probabilities where a KL term is in the reward.
        let is_fixed = recipe.one_advantage_per_row() && recipe.kl_in_reward().is_none();
        let mut out = Self {
            n,
            members: Vec::new(),
            multiplicity: Vec::new(),
            tokens: Vec::new(),
            weight: Vec::new(),
            advantage: is_fixed.then(Vec::new),
        };
        let (mut scratch, mut now) = (Vec::new(), Unit::new());
        each_unit(p.tree, recipe, |unit, multiplicity| {
            if !kept(&p, unit, &mut scratch) {
                return;
            }
            out.members.extend_from_slice(unit);
            out.multiplicity.push(multiplicity);
            now.fill(&p, unit);
            let tokens: usize = unit.iter().map(|y| p.tree.tokens(*y).len()).sum();
            out.tokens.push(tokens as f64);
            out.weight.extend_from_slice(&now.weight);
            if let Some(advantage) = &mut out.advantage {
                advantage.extend_from_slice(&now.row);
            }
        });
        Ok(Some(out))
    }

    /// E\[g\], `[S·A]`, as [`field`] has it.
    pub fn field<T: Real>(&self, p: &Prepared<'_, T>) -> Vec<T> {
        let (mut sums, mass) = if self.advantage.is_none() && has_moments(p) {
            self.by_moments(p)
        } else {
            self.one_by_one(p)
        };
        sums.scale_by_mass(p.recipe, mass);
        sums.assemble(p)
    }

    fn prob<T: Real>(&self, p: &Prepared<'_, T>, k: usize, unit: &[usize]) -> T {
        let first = p.prob[unit[0]] * self.multiplicity[k];
        unit[1..].iter().fold(first, |prob, y| prob * p.prob[*y])
    }

    fn one_by_one<T: Real>(&self, p: &Prepared<'_, T>) -> (Sums<T>, T) {
        let (mut sums, mut now) = (Sums::new(p), Unit::new());
        let mut mass = T::constant(0.0);
        for (k, unit) in self.members.chunks_exact(self.n).enumerate() {
            let prob = self.prob(p, k, unit);
            mass += prob;
            let at = k * self.n..(k + 1) * self.n;
            match &self.advantage {
                Some(advantage) => {
                    let fixed = self.weight[at.clone()].iter().zip(&advantage[at]);
                    for (y, (weight, advantage)) in unit.iter().zip(fixed) {
                        sums.add_fixed(*y, prob * *weight, *advantage);
                    }
                }
                None => {
                    now.fill(p, unit);
                    sums.add(p, unit, &now, prob);
                }
            }
        }
        (sums, mass)
    }

    /// Where slopes are linear in Â, whitened advantages are needed only through the mean and the variance over a unit's tokens, which are sums over its
    /// responses.
    fn by_moments<T: Real>(&self, p: &Prepared<'_, T>) -> (Sums<T>, T) {
        let (zero, n) = (T::constant(0.0), p.tree.n_responses());
        let all = p.advantage.iter().map(|a| a.value()).sum::<f64>();
        // Moments are taken about a number near all advantages: little cancels where they hardly differ.
        let centre = all / p.advantage.len() as f64;
        let moments = |y: usize| {
            let centred = p.advantage[p.tree.tokens(y)].iter().map(|a| *a - centre);
            centred.fold([zero; 2], |[first, second], a| [first + a, second + a * a])
        };
        let moments: Vec<[T; 2]> = (0..n).map(moments).collect();
        // Σ_u P(u) w/std and Σ_u P(u) w mean/std of each response.
        let (mut scaled, mut shifts) = (vec![zero; n], vec![zero; n]);
        let (mut sums, mut mass) = (Sums::new(p), zero);
        for (k, unit) in self.members.chunks_exact(self.n).enumerate() {
            let prob = self.prob(p, k, unit);
            mass += prob;
            let (mut scale, mut mean) = (prob, T::constant(-centre));
            if let Some(std) = p.recipe.whitening {
                let [mut first, mut second] = [zero; 2];
                for y in unit {
                    first += moments[*y][0];
                    second += moments[*y][1];
                }
                let per_token = 1.0 / self.tokens[k];
                mean = first * per_token;
                let var = second * per_token - mean * mean;
                let var = if var.value() > 0.0 { var } else { zero };
                scale = prob * whitening_scale(var, self.tokens[k], std);
            }
            let shift = scale * mean;
            let weight = &self.weight[k * self.n..(k + 1) * self.n];
            for (y, w) in unit.iter().zip(weight) {
                scaled[*y] += scale * *w;
                shifts[*y] += shift * *w;
                sums.weight[*y] += prob * *w;
            }
        }
        for y in 0..n {
            let tokens = p.advantage[p.tree.tokens(y)].iter();
            for (a, pair) in tokens.zip(p.tree.response(y)) {
                sums.sided[0][*pair as usize] += (*a - centre) * scaled[y] - shifts[y];
            }
        }
        (sums, mass)
    }
}

/// Whether advantages of tokens enter linearly and depend on their unit by whitening at most.
fn has_moments<T: Real>(p: &Prepared<'_, T>) -> bool {
    let own = matches!(
        p.recipe.advantage,
        Estimator::RewardToGo | Estimator::Gae { .. } | Estimator::Greedy
    );
    let [up, down] = &p.slope;
    let mut both = up.iter().zip(down);
    own && both.all(|(u, d)| u.value() == -d.value())
}

/// The sums over units from which a field is assembled.
pub(super) struct Sums<T> {
    /// Of w·max(Â, 0) and w·max(−Â, 0), per response where its tokens share an advantage, per pair (s, a) otherwise.
    sided: [Vec<T>; 2],
    /// Of w, per response.
    weight: Vec<T>,
}

/// Is shown every unit while a field is summed.
pub(super) trait Watch<T> {
    /// A unit with its coefficients and its probability.
    fn add(&mut self, unit: &[usize], now: &Unit<T>, prob: T);

    /// The probability of the units that are drawn, where some are not.
    fn set_mass(&mut self, mass: T);
}

/// Watches nothing.
impl<T> Watch<T> for () {
    #[inline(always)]
    fn add(&mut self, _: &[usize], _: &Unit<T>, _: T) {}

    fn set_mass(&mut self, _: T) {}
}

/// E\[g\], `[S·A]`.
pub(super) fn field<T: Real>(p: &Prepared<'_, T>, watch: &mut impl Watch<T>) -> Vec<T> {
    let mut sums = Sums::new(p);
    let mut now = Unit::new();
    let mass = for_each_unit(p, |unit, prob| {
        now.fill(p, unit);
        sums.add(p, unit, &now, prob);
        watch.add(unit, &now, prob);
    });
    if p.recipe.drop_equal_groups {
        watch.set_mass(mass);
    }
    sums.scale_by_mass(p.recipe, mass);
    sums.assemble(p)
}

impl<T: Real> Sums<T> {
    pub fn new(p: &Prepared<'_, T>) -> Self {
        let slots = match p.recipe.one_advantage_per_row() {
            true => p.tree.n_responses(),
            false => p.tree.n_pairs(),
        };
        let zeros = |n: usize| vec![T::constant(0.0); n];
        Self {
            sided: [zeros(slots), zeros(slots)],
            weight: zeros(p.tree.n_responses()),
        }
    }

    /// Adds a unit, `prob` times.
    #[inline(always)]
    pub fn add(&mut self, p: &Prepared<'_, T>, unit: &[usize], now: &Unit<T>, prob: T) {
        let rows = p.recipe.one_advantage_per_row();
        let mut at = 0;
        for (i, y) in unit.iter().enumerate() {
            let w = prob * now.weight[i];
            self.weight[*y] += w;
            if rows {
                self.sided_add(*y, now.row[i], w);
            } else {
                for pair in p.tree.response(*y) {
                    self.sided_add(*pair as usize, now.token[at], w);
                    at += 1;
                }
            }
        }
    }

    /// Makes probabilities of what is drawn of probabilities of all, where some groups are dropped.
    fn scale_by_mass(&mut self, recipe: &Recipe, mass: T) {
        if recipe.drop_equal_groups {
            let scale = mass.recip();
            let [up, down] = &mut self.sided;
            let all = up.iter_mut().chain(down).chain(&mut self.weight);
            all.for_each(|v| *v = *v * scale);
        }
    }

    /// Adds a response whose advantage does not depend on θ.
    #[inline(always)]
    fn add_fixed(&mut self, response: usize, weight: T, advantage: f64) {
        self.weight[response] += weight;
        let side = usize::from(advantage < 0.0);
        self.sided[side][response] += weight * advantage.abs();
    }

    #[inline(always)]
    fn sided_add(&mut self, k: usize, advantage: T, weight: T) {
        if advantage.value() < 0.0 {
            self.sided[1][k] -= advantage * weight;
        } else {
            self.sided[0][k] += advantage * weight;
        }
    }

    /// −∂ℒ/∂θ of what was added, `[S·A]`.
    pub fn assemble(&self, p: &Prepared<'_, T>) -> Vec<T> {
        let (tree, rows) = (p.tree, p.recipe.one_advantage_per_row());
        let a = tree.n_actions();
        let times_slope = |k: usize, slope: usize| {
            self.sided[0][k] * p.slope[0][slope] + self.sided[1][k] * p.slope[1][slope]
        };
        // The check of a recipe sees to it that advantages of tokens come with ratios of tokens.
        let mut c: Vec<T> = match (rows, p.slope_per_row) {
            (false, _) => (0..tree.n_pairs()).map(|k| times_slope(k, k)).collect(),
            (true, true) => {
                let of_rows: Vec<T> = (0..tree.n_responses()).map(|y| times_slope(y, y)).collect();
                over_pairs(tree, &of_rows)
            }
            (true, false) => {
                let [up, down] = [0, 1].map(|side| over_pairs(tree, &self.sided[side]));
                let both = up.iter().zip(&down).zip(p.slope[0].iter().zip(&p.slope[1]));
                both.map(|((u, d), (su, sd))| *u * *su + *d * *sd).collect()
            }
        };
        let through = match p.kl_slope.is_some() || p.exact_kl.is_some() {
            true => over_pairs(tree, &self.weight),
            false => Vec::new(),
        };
        if let Some(kl) = &p.kl_slope {
            for ((c, w), k) in c.iter_mut().zip(&through).zip(kl) {
                *c += *w * *k;
            }
        }
        scores_to_logits(&mut c, &p.pi, a);
        if let Some(kl) = &p.exact_kl {
            let states = c.chunks_exact_mut(a).zip(through.chunks_exact(a));
            for ((c, w), kl) in states.zip(kl.chunks_exact(a)) {
                let mut here = T::constant(0.0);
                w.iter().for_each(|w| here += *w);
                c.iter_mut().zip(kl).for_each(|(c, k)| *c -= here * *k);
            }
        }
        c
    }
}

/// Of a number for each response, the sum over the responses through each pair (s, a).
fn over_pairs<T: Real>(tree: &ResponseTree, of_rows: &[T]) -> Vec<T> {
    let mut out = vec![T::constant(0.0); tree.n_pairs()];
    for (y, v) in of_rows.iter().enumerate() {
        for pair in tree.response(y) {
            out[*pair as usize] += *v;
        }
    }
    out
}

/// Refuses what cannot be enumerated, and logits that are none.
pub(super) fn check_all(
    problem: &Problem,
    recipe: &Recipe,
    theta: &[f64],
    old: Option<&[f64]>,
) -> Result<()> {
    check_at(problem, recipe, theta, old)?;
    check_enumerable(problem, recipe)
}

/// Refuses a recipe that is none, and tables of another shape.
pub(super) fn check_at(
    problem: &Problem,
    recipe: &Recipe,
    theta: &[f64],
    old: Option<&[f64]>,
) -> Result<()> {
    recipe.check()?;
    let tree = problem.tree();
    check(tree, "theta", theta)?;
    if let Some(o) = old {
        check(tree, "theta_old", o)?;
    }
    if let Estimator::Gae {
        critic: Critic::Given(v),
        ..
    } = &recipe.advantage
        && v.len() != tree.n_states()
    {
        return Err(Error::Shape {
            what: "advantage.gae.critic.given".into(),
            expected: tree.n_states(),
            got: v.len(),
        });
    }
    Ok(())
}

/// Responses of all units together.
fn drawn(problem: &Problem, recipe: &Recipe) -> f64 {
    let tree = problem.tree();
    let units = match recipe.responses {
        1 => n_multisets(tree.n_responses(), recipe.unit()),
        _ => (0..tree.prompt_weights().len())
            .map(|p| n_multisets(tree.responses_of(p).len(), recipe.unit()))
            .sum(),
    };
    units * recipe.unit() as f64
}

fn check_enumerable(problem: &Problem, recipe: &Recipe) -> Result<()> {
    let drawn = drawn(problem, recipe);
    if drawn <= MOST_DRAWN {
        return Ok(());
    }
    let must = format!(
        "smaller: all units have {drawn:.3e} responses, at most {MOST_DRAWN:e} are enumerated; sample instead"
    );
    Err(Error::config("prompts * responses", recipe.unit(), must))
}
