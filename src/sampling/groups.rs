//! Batches of one group each.

use rand_chacha::rand_core::RngCore;

use super::random::shuffle;
use super::{EpochPlan, batches};

/// The number of cells of each group.
pub fn sizes(groups: &[u32]) -> Vec<usize> {
    let mut sizes = vec![0; groups.iter().max().map_or(0, |&group| group as usize + 1)];
    for &group in groups {
        sizes[group as usize] += 1;
    }
    sizes
}

/// An epoch whose batches are of one group each.
///
/// Groups come as `order` first meets them, and the cells of each in that order, cut into batches; the batches are
/// shuffled where there is `rng`.
pub fn plan(order: &[u32], groups: &[u32], batch_size: usize, drop_last: bool, rng: Option<impl RngCore>) -> EpochPlan {
    let mut first = vec![u32::MAX; groups.len()];
    let mut members: Vec<Vec<u32>> = Vec::new();
    for &position in order {
        let group = &mut first[groups[position as usize] as usize];
        if *group == u32::MAX {
            // There are not more groups than positions.
            *group = u32::try_from(members.len()).unwrap_or(u32::MAX);
            members.push(Vec::new());
        }
        members[*group as usize].push(position);
    }
    let mut cut: Vec<&[u32]> = Vec::new();
    for group in &members {
        cut.extend(batches(group.len(), batch_size, drop_last).into_iter().map(|batch| &group[batch]));
    }
    if let Some(mut rng) = rng {
        shuffle(&mut cut, &mut rng);
    }
    EpochPlan::of_batches(cut.into_iter())
}
