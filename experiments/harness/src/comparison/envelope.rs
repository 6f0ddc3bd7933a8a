//! The most reward at a KL: concave envelopes of points (KL, reward), and levels reached along a curve.

/// The least concave curve above points (KL, reward), from KL 0 to where the reward is largest, and flat from there on.
///
/// Both are attained: one of two policies, drawn for each reply, has the mean of their rewards and at most the mean of their KLs; and a policy
/// that needs less KL than is allowed is allowed.
pub struct Envelope(Vec<(f64, f64)>);

impl Envelope {
    /// Of these points and of π_ref, which has KL 0.
    pub fn new(reference: f64, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let mut all = vec![(0.0, reference)];
        // Rounding may leave the KL of π_ref from itself a hair below 0.
        all.extend(points.into_iter().map(|(kl, r)| (kl.max(0.0), r)));
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
        let mut hull: Vec<(f64, f64)> = Vec::new();
        for p in all {
            // Nothing that costs more KL and earns no more.
            if hull.last().is_some_and(|last| p.1 <= last.1) {
                continue;
            }
            while let [.., a, b] = hull[..] {
                // b lies on or below the line from a to p.
                if (b.1 - a.1) * (p.0 - a.0) > (p.1 - a.1) * (b.0 - a.0) {
                    break;
                }
                hull.pop();
            }
            hull.push(p);
        }
        Self(hull)
    }

    /// The most reward at this KL or less.
    pub fn at(&self, kl: f64) -> f64 {
        let after = self.0.partition_point(|p| p.0 <= kl);
        let a = self.0[after.saturating_sub(1)];
        match self.0.get(after) {
            Some(b) if after > 0 => a.1 + (kl - a.0) / (b.0 - a.0) * (b.1 - a.1),
            _ => a.1,
        }
    }
}

/// Where a curve first reaches a level, linear between its points; none if it never does.
pub fn first_reaches(curve: &[(f64, f64)], level: f64) -> Option<f64> {
    let after = curve.iter().position(|p| p.1 >= level)?;
    let Some(before) = after.checked_sub(1) else {
        return Some(curve[0].0);
    };
    let (a, b) = (curve[before], curve[after]);
    Some(a.0 + (level - a.1) / (b.1 - a.1) * (b.0 - a.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_is_the_least_concave_curve_above() {
        let e = Envelope::new(
            1.0,
            [(1.0, 2.0), (2.0, 2.2), (4.0, 5.0), (5.0, 4.0), (6.0, 5.0)],
        );
        // (2, 2.2) lies below the line from (0, 1) to (4, 5), on which (1, 2) lies.
        for (kl, reward) in [(0.0, 1.0), (0.5, 1.5), (2.0, 3.0), (4.0, 5.0), (9.0, 5.0)] {
            assert!((e.at(kl) - reward).abs() < 1e-12, "{kl}: {}", e.at(kl));
        }
        // A policy that lost reward is no better than π_ref.
        assert_eq!(Envelope::new(1.0, [(0.5, 0.0)]).at(3.0), 1.0);
        let steep = Envelope::new(0.0, [(1.0, 3.0), (3.0, 4.0)]);
        assert_eq!((steep.at(0.5), steep.at(2.0)), (1.5, 3.5));
    }

    #[test]
    fn a_level_is_reached_between_two_points() {
        let curve = [(0.0, 0.0), (10.0, 0.4), (20.0, 0.2), (30.0, 0.8)];
        assert_eq!(first_reaches(&curve, 0.2), Some(5.0));
        assert!((first_reaches(&curve, 0.5).unwrap() - 25.0).abs() < 1e-12);
        assert_eq!(first_reaches(&curve, 0.9), None);
        assert_eq!(first_reaches(&curve, -1.0), Some(0.0));
    }
}
