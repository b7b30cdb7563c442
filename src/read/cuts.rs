//! Cuts of a selection into pieces that cost about the same to read.
//!
//! A cell costs its stored values and [`ROW`]. Near where a cut belongs it falls where a part ends, or else a shard, so that
//! what two pieces read does not overlap; rows themselves are never cut. [`cuts`] is pure.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use super::request::are_many;
use super::{CellKeys, OpenStore, check_rows, schedule, split_key};
use crate::error::{DaoError, Result};
use crate::matrix::Matrix;
use crate::store::MatrixName;

/// What a cell costs beside its values, in values: its row is read in whole blocks of its columns and of its values.
const ROW: u64 = 512;
/// How far from its place a cut may be, as one part in so many of a piece.
const NEAR: u64 = 20;

/// What lies before a cell, of what may not be cut for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    Row,
    Shard,
    Part,
}

/// The positions, `n + 1` of them, that cut cells into `n` pieces of about the same cost, in their order. There are empty pieces
/// where there are fewer cells.
///
/// # Errors
/// `Value` for a key that is no cell of the store, and as [`OpenStore::matrix`].
pub fn cut_cells(store: &OpenStore, keys: &CellKeys, n: usize) -> Result<Vec<usize>> {
    let row = |key: u64| split_key(key).1;
    let mut runs: BTreeMap<u32, Vec<Range<usize>>> = BTreeMap::new();
    keys.by_part().for_each(|(number, run)| runs.entry(number).or_default().push(run));
    let runs: Vec<(u32, Vec<Range<usize>>)> = runs.into_iter().collect();
    let open = |at: usize| {
        let (number, runs) = &runs[at];
        let part = store.store().part_numbered(*number)?;
        check_rows(store, part, runs.iter().flat_map(|run| keys.range(run.clone())).map(row))?;
        let matrix = store.matrix(part, &MatrixName::X)?;
        if are_many(runs.iter().map(|run| run.len() as u64).sum(), part) {
            matrix.hold_rows()?;
        }
        Ok((*number, matrix))
    };
    let mut matrices = HashMap::with_capacity(runs.len());
    let keep = |(number, matrix): (u32, Arc<Matrix>)| {
        matrices.insert(number, (matrix.shard_len(), matrix));
        Ok(())
    };
    schedule::in_order(runs.len(), store.parts_at_once(), open, keep, || Ok(()))?;
    let failure = RefCell::new(None);
    let failed = |error| {
        failure.borrow_mut().get_or_insert(error);
        0..0
    };
    let (failed, row) = (&failed, &row);
    let cells = || {
        keys.by_part().filter_map(|(number, run)| Some((run, matrices.get(&number)?))).flat_map(
            |(run, (shard_len, matrix))| {
                let mut shard = None;
                keys.range(run).map(row).enumerate().map(move |(at, row)| {
                    let place = matrix.row_place(row).unwrap_or_else(failed);
                    let before = shard.replace(place.start / shard_len);
                    let edge = match before {
                        _ if at == 0 => Edge::Part,
                        before if before != shard => Edge::Shard,
                        _ => Edge::Row,
                    };
                    (cost(matrix, &place), edge)
                })
            },
        )
    };
    let total = cells().try_fold(0_u64, |sum, (cost, _)| sum.checked_add(cost));
    if let Some(error) = failure.take() {
        return Err(error);
    }
    let total = total.ok_or_else(|| DaoError::value("the cells have more than 2^64 values"))?;
    Ok(cuts(cells(), keys.len(), total, n))
}

/// The cost of a row that lies there.
fn cost(matrix: &Matrix, place: &Range<u64>) -> u64 {
    let values = if matrix.is_csr() { place.end - place.start } else { matrix.shape()[1] };
    values.saturating_add(ROW)
}

/// The cuts of `n_cells`, each with its cost and what lies before it, into `n` pieces; the costs have this `total`.
fn cuts(cells: impl Iterator<Item = (u64, Edge)>, n_cells: usize, total: u64, n: usize) -> Vec<usize> {
    let share = |k: usize| u64::try_from(u128::from(total) * k as u128 / n.max(1) as u128).unwrap_or(total);
    let near = total / n.max(1) as u64 / NEAR;
    let mut found = vec![0];
    // The best place so far for the next cut: what lies there, how far from its share, and the position.
    let mut best: Option<(Edge, u64, usize)> = None;
    let mut before = 0_u64;
    for (at, (cost, edge)) in cells.enumerate() {
        while found.len() < n {
            let away = before.abs_diff(share(found.len()));
            let is_better = |(edge_there, away_there, _): (Edge, u64, usize)| {
                let here = if away <= near { edge } else { Edge::Row };
                let there = if away_there <= near { edge_there } else { Edge::Row };
                (here, away_there) > (there, away)
            };
            if best.is_none_or(is_better) {
                best = Some((edge, away, at));
            }
            if before <= share(found.len()).saturating_add(near) {
                break; // a later place may be better
            }
            let place = best.take().map_or(at, |(_, _, place)| place);
            found.push(place.max(found.last().copied().unwrap_or(0)));
        }
        before += cost;
    }
    while found.len() < n {
        let share = share(found.len());
        let end = (Edge::Part, total.abs_diff(share), n_cells);
        let place = best.take().filter(|best| best.1 < end.1).map_or(n_cells, |(_, _, place)| place);
        found.push(place.max(found.last().copied().unwrap_or(0)));
    }
    found.push(n_cells);
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(costs: &[u64], edges: &[(usize, Edge)], n: usize) -> Vec<usize> {
        let edge = |at: usize| edges.iter().find(|(place, _)| *place == at).map_or(Edge::Row, |(_, edge)| *edge);
        let cells = costs.iter().enumerate().map(|(at, &cost)| (cost, edge(at)));
        cuts(cells, costs.len(), costs.iter().sum(), n)
    }

    #[test]
    fn pieces_cost_the_same_and_end_where_parts_do() {
        let ones = vec![1; 1000];
        assert_eq!(cut(&ones, &[], 4), [0, 250, 500, 750, 1000]);
        assert_eq!(
            cut(&ones, &[(255, Edge::Part), (498, Edge::Shard), (700, Edge::Part)], 4),
            [0, 255, 498, 750, 1000]
        );
        assert_eq!(cut(&ones, &[(252, Edge::Shard), (260, Edge::Part)], 4)[1], 260);
        assert_eq!(cut(&[1, 1, 1, 97], &[], 2), [0, 3, 4]);
        assert_eq!(cut(&[97, 1, 1, 1], &[], 2), [0, 1, 4]);
        assert_eq!(cut(&[5], &[], 3), [0, 0, 1, 1]);
        assert_eq!(cut(&[], &[], 3), [0, 0, 0, 0]);
        assert_eq!(cut(&ones, &[], 1), [0, 1000]);
    }

    proptest! {
        #[test]
        fn all_cells_are_in_one_piece_of_about_its_share(
            costs in prop::collection::vec(1_u64..50, 0..2000),
            edges in prop::collection::vec((0_usize..2000, prop::bool::ANY), 0..20),
            n in 1_usize..40,
        ) {
            let edges: Vec<_> = edges.iter().map(|&(at, part)| (at, if part { Edge::Part } else { Edge::Shard })).collect();
            let found = cut(&costs, &edges, n);
            prop_assert!(found.len() == n + 1 && found[0] == 0 && found[n] == costs.len() && found.is_sorted());
            let share = costs.iter().sum::<u64>() / n as u64;
            for piece in found.windows(2) {
                let cost: u64 = costs[piece[0]..piece[1]].iter().sum();
                prop_assert!(cost.abs_diff(share) <= 2 * (share / NEAR) + 102, "{cost} of {share}");
            }
        }
    }
}
