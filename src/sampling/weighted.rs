//! Random samples of positions, each as likely as its weight says.

use rand_chacha::rand_core::RngCore;

use super::random::{below, unit};

/// `n_samples` positions of `0..n`, independent and uniform.
pub fn uniform(n: u32, n_samples: usize, rng: &mut impl RngCore) -> Vec<u32> {
    // The number is below `n`, so it fits into 32 bits.
    (0..n_samples).map(|_| u32::try_from(below(n.into(), rng)).unwrap_or(0)).collect()
}

/// `n_samples` positions, independent, each drawn in proportion to its weight.
pub fn with_replacement(weights: &[f64], n_samples: usize, rng: &mut impl RngCore) -> Vec<u32> {
    let mut ends = Vec::with_capacity(weights.len());
    let mut total = 0.0;
    for weight in weights {
        total += weight;
        ends.push(total);
    }
    // Rounding may lead past the end; the last position that has a weight is then meant.
    let last = weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0);
    let draw = |_| {
        let at = unit(rng) * total;
        // Positions without a weight add nothing to the sums, so the search passes over them.
        position(ends.partition_point(|&end| end <= at).min(last))
    };
    (0..n_samples).map(draw).collect()
}

/// `n_samples` positions, one after another, each drawn in proportion to its weight among those that
/// are left.
///
/// By exponential races: P. S. Efraimidis and P. G. Spirakis, "Weighted random sampling with a
/// reservoir", Information Processing Letters 97 (2006).
pub fn without_replacement(weights: &[f64], n_samples: usize, rng: &mut impl RngCore) -> Vec<u32> {
    let mut arrivals: Vec<(f64, u32)> = weights
        .iter()
        .enumerate()
        .filter(|&(_, &weight)| weight > 0.0)
        // The library's logarithm, not the system's: the same everywhere.
        .map(|(at, &weight)| (-libm::log1p(-unit(rng)) / weight, position(at)))
        .collect();
    let order = |a: &(f64, u32), b: &(f64, u32)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
    if n_samples < arrivals.len() {
        arrivals.select_nth_unstable_by(n_samples, order);
        arrivals.truncate(n_samples);
    }
    arrivals.sort_unstable_by(order);
    arrivals.into_iter().map(|(_, at)| at).collect()
}

/// A position as 32 bits: selections have fewer than 2^32 cells.
fn position(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::random::{Stream, generator};
    use super::*;

    /// Chi-square of counts beside probabilities.
    fn chi_square(counts: &[u32], expected: &[f64]) -> f64 {
        let n: f64 = counts.iter().map(|&count| f64::from(count)).sum();
        counts.iter().zip(expected).map(|(&count, p)| (f64::from(count) - n * p).powi(2) / (n * p)).sum()
    }

    fn counts(drawn: &[u32], n: usize) -> Vec<u32> {
        let mut counts = vec![0; n];
        for &at in drawn {
            counts[at as usize] += 1;
        }
        counts
    }

    #[test]
    fn draws_are_as_likely_as_their_weights() {
        let weights = [1.0, 0.0, 2.0, 3.5, 0.25, 0.0];
        let drawn = with_replacement(&weights, 400_000, &mut generator(3, 0, Stream::Order));
        let counts = counts(&drawn, 6);
        assert_eq!((counts[1], counts[5]), (0, 0));
        let kept: Vec<u32> = [0, 2, 3, 4].map(|i: usize| counts[i]).to_vec();
        let expected = [0, 2, 3, 4].map(|i: usize| weights[i] / 6.75);
        // 3 degrees of freedom: 16.3 has probability 0.001.
        assert!(chi_square(&kept, &expected) < 16.3, "{counts:?}");
    }

    #[test]
    fn uniform_draws_are_equally_likely() {
        let drawn = uniform(10, 200_000, &mut generator(5, 0, Stream::Order));
        // 9 degrees of freedom.
        assert!(chi_square(&counts(&drawn, 10), &[0.1; 10]) < 27.9);
    }

    #[test]
    fn what_is_left_is_drawn_in_proportion() {
        // First and second of weights 1, 2, 3: P(i, j) = w_i / 6 * w_j / (6 - w_i).
        let weights = [1.0, 2.0, 3.0];
        let mut seen = [0_u32; 9];
        for epoch in 0..60_000 {
            let drawn = without_replacement(&weights, 2, &mut generator(1, epoch, Stream::Order));
            assert_eq!(drawn.len(), 2);
            seen[drawn[0] as usize * 3 + drawn[1] as usize] += 1;
        }
        let pairs: Vec<(usize, usize)> =
            (0..3).flat_map(|i| (0..3).map(move |j| (i, j))).filter(|(i, j)| i != j).collect();
        let counts: Vec<u32> = pairs.iter().map(|&(i, j)| seen[i * 3 + j]).collect();
        let expected: Vec<f64> =
            pairs.iter().map(|&(i, j)| weights[i] / 6.0 * weights[j] / (6.0 - weights[i])).collect();
        assert_eq!(counts.iter().sum::<u32>(), 60_000);
        // 5 degrees of freedom.
        assert!(chi_square(&counts, &expected) < 20.5, "{counts:?}");
    }
}
