//! What the writer takes, the reader gives back: through files, without Python.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dao_polars::error::{ErrorKind, Result};
use dao_polars::matrix::Cache;
use dao_polars::number::{Dtype, Layout, Values};
use dao_polars::read::{Batch, Columns, Epoch, Next, Part, Request, Source};
use dao_polars::sampling::{self, Order};
use dao_polars::store::{MatrixName, Store, TableMeta};
use dao_polars::writer::{DatasetWriter, MatrixSpec, Tables};
use proptest::prelude::*;

const N_GENES: usize = 300;
const GENES: std::ops::Range<i32> = 0..300;

type Cells = Vec<BTreeMap<i32, u16>>;

fn tables() -> Tables {
    let table = TableMeta::default();
    Tables {
        obs: table.clone(),
        var: table,
        organism: None,
        constants: serde_json::Map::new(),
        categories: BTreeMap::new(),
        feature_space: "space".into(),
    }
}

fn spec(n_obs: usize, rows: Option<Vec<u32>>) -> MatrixSpec {
    MatrixSpec {
        name: MatrixName::X,
        layout: Layout::Csr,
        portable: n_obs % 2 == 1,
        shape: [n_obs as u64, N_GENES as u64],
        stored: Dtype::U16,
        columns: None,
        rows,
        source_nnz: 0,
        totals: true,
        transposed: false,
    }
}

/// Writes `cells` by rows or by columns, in blocks of `block`; row `i` goes to `rows[i]`.
fn write(
    store: &Path,
    dataset: &str,
    cells: &Cells,
    by_columns: bool,
    block: usize,
    rows: Option<Vec<u32>>,
) -> Result<()> {
    let mut writer = DatasetWriter::begin(store.to_str().unwrap(), dataset)?;
    let mut matrix = writer.matrix(spec(cells.len(), rows), "float32", 0.0)?;
    let lines: Vec<Vec<(i32, u16)>> = if by_columns {
        let mut columns = vec![Vec::new(); N_GENES];
        for (row, cell) in (0..).zip(cells) {
            for (&gene, &count) in cell {
                columns[usize::try_from(gene).unwrap()].push((row, count));
            }
        }
        columns
    } else {
        // Backwards: a source need not be sorted.
        cells.iter().map(|cell| cell.iter().rev().map(|(&gene, &count)| (gene, count)).collect()).collect()
    };
    for lines in lines.chunks(block) {
        let mut indptr = vec![0];
        let (mut indices, mut data) = (Vec::new(), Vec::new());
        for line in lines {
            indices.extend(line.iter().map(|entry| entry.0));
            data.extend(line.iter().map(|entry| f32::from(entry.1)));
            indptr.push(i64::try_from(indices.len()).unwrap());
        }
        if by_columns {
            matrix.push_columns(&indptr, &indices, &Values::F32(data))?;
        } else {
            matrix.push_rows(&indptr, &indices, &Values::F32(data))?;
        }
    }
    let nnz = matrix.finish()?;
    assert_eq!(nnz, cells.iter().map(|cell| cell.len() as u64).sum::<u64>());
    writer.set_nnz(&MatrixName::X, nnz);
    writer.commit(tables())
}

fn request(source: &Source, keys: Vec<u64>, columns: Option<Vec<i32>>, n_columns: usize) -> Result<Arc<Request>> {
    let mut parts = HashMap::new();
    for entry in &source.store().manifest().datasets {
        let columns = columns.clone().map(|target| Columns::new(target, n_columns)).transpose()?;
        let part = Part {
            dataset: entry.name.clone(),
            n_obs: u32::try_from(entry.n_obs).unwrap(),
            matrix: source.matrix(entry, &MatrixName::X)?,
            columns,
        };
        parts.insert(entry.number, part);
    }
    let request = Request {
        keys,
        parts,
        n_columns,
        layout: Layout::Csr,
        dtype: Dtype::F32,
        normalize: None,
        cache: Cache::default(),
    };
    request.validate()?;
    Ok(Arc::new(request))
}

fn batches(request: &Arc<Request>, order: Vec<u32>, batch_size: usize, budget: u64, threads: usize) -> Vec<Batch> {
    let cut = sampling::batches(order.len(), batch_size, false);
    let mut epoch = Epoch::start(request.clone(), order.into(), cut, budget, threads, Arc::default()).unwrap();
    let mut batches = Vec::new();
    loop {
        match epoch.next(Duration::from_secs(1)).unwrap() {
            Next::Batch(batch) => batches.push(batch),
            Next::Waiting => {}
            Next::Over => return batches,
        }
    }
}

/// The rows of batches, as pairs of column and value.
fn rows(batches: &[Batch]) -> Vec<Vec<(i32, f32)>> {
    batches
        .iter()
        .flat_map(|batch| {
            let Values::F32(data) = &batch.data else { panic!("asked for float32") };
            batch.indptr.windows(2).map(|ends| {
                let range = usize::try_from(ends[0]).unwrap()..usize::try_from(ends[1]).unwrap();
                range.map(|at| (batch.indices[at], data[at])).collect()
            })
        })
        .collect()
}

fn cells(max: usize) -> impl Strategy<Value = Cells> {
    prop::collection::vec(prop::collection::btree_map(GENES, 1..=u16::MAX, 0..80), 1..max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn what_goes_in_comes_out(
        studies in prop::collection::vec((cells(60), any::<bool>(), 1..50usize), 1..4),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..80),
        (seed, batch_size, budget, threads) in (any::<u64>(), 1..40usize, prop::sample::select(vec![0, 5000, 1 << 27]), 1..4usize),
        every_other_gene: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        for (i, (cells, by_columns, block)) in studies.iter().enumerate() {
            // Rotated rows: a permutation that is no involution.
            let n = u32::try_from(cells.len()).unwrap();
            let rotated = (0..n).map(|row| (row + 1) % n).collect();
            write(&store, &format!("d{i}"), cells, *by_columns, *block, Some(rotated)).unwrap();
        }
        let all: Vec<(u64, &BTreeMap<i32, u16>)> = (0_u64..).zip(&studies)
            .flat_map(|(number, (cells, ..))| (0_u64..).zip(cells)
                .map(move |(row, cell)| ((number << 32) | ((row + 1) % cells.len() as u64), cell)))
            .collect();
        let picked: Vec<_> = picks.iter().map(|pick| *pick.get(&all)).collect();
        let map = |gene: i32| if every_other_gene { if gene % 2 == 0 { 149 - gene / 2 } else { -1 } } else { gene };
        let columns = every_other_gene.then(|| GENES.map(map).collect());
        let n_columns = if every_other_gene { 150 } else { N_GENES };

        let source = Source::new(Store::open(store.to_str().unwrap(), &Vec::new()).unwrap());
        let request = request(&source, picked.iter().map(|pick| pick.0).collect(), columns, n_columns).unwrap();
        let order = Order::Shuffled { seed }.positions(u32::try_from(picked.len()).unwrap(), 0);
        let got = batches(&request, order.clone(), batch_size, budget, threads);

        let positions: Vec<u32> = got.iter().flat_map(|batch| order[batch.places.clone()].to_vec()).collect();
        prop_assert_eq!(&positions, &order);
        let expected: Vec<Vec<(i32, f32)>> = order.iter().map(|&position| {
            let mut row: Vec<_> = picked[position as usize].1.iter()
                .map(|(&gene, &count)| (map(gene), f32::from(count))).filter(|entry| entry.0 >= 0).collect();
            row.sort_by_key(|entry| entry.0);
            row
        }).collect();
        prop_assert_eq!(rows(&got), expected);
        for entry in &source.store().manifest().datasets {
            prop_assert_eq!(source.verify(entry).unwrap(), Vec::new());
        }
    }
}

#[test]
fn a_writer_that_is_dropped_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut writer = DatasetWriter::begin(store.to_str().unwrap(), "d").unwrap();
    let mut matrix = writer.matrix(spec(2, None), "float32", 0.0).unwrap();
    matrix.push_rows(&[0, 1], &[0], &Values::F32(vec![1.0])).unwrap();
    let error = matrix.finish().unwrap_err();
    assert!(error.to_string().contains("ended before all its rows"), "{error}");
    drop(writer);
    assert!(!store.join("d").exists() && store.join(".staging").read_dir().unwrap().next().is_none());
    let error = Store::open(store.to_str().unwrap(), &Vec::new()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn blocks_that_contradict_themselves_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = DatasetWriter::begin(folder.path().to_str().unwrap(), "d").unwrap();
    let mut matrix = writer.matrix(spec(2, None), "float32", 0.0).unwrap();
    let one = Values::F32(vec![1.0]);
    for (indptr, indices) in [
        (vec![0, 2], vec![0]),
        (vec![0, -1], vec![0]),
        (vec![1, 1], vec![0]),
        (vec![0, 1], vec![GENES.end]),
        (vec![0, 1], vec![-1]),
    ] {
        assert_eq!(matrix.push_rows(&indptr, &indices, &one).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    let error = matrix.push_rows(&[0, 1], &[0], &Values::F32(vec![0.5])).unwrap_err();
    assert!(error.to_string().contains("0.5 does not fit into uint16"), "{error}");
}

#[test]
fn keys_of_no_cell_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().to_str().unwrap();
    write(folder.path(), "d", &vec![BTreeMap::from([(1, 2)]); 3], false, 2, None).unwrap();
    let source = Source::new(Store::open(store, &Vec::new()).unwrap());
    for key in [3, 1 << 32] {
        assert_eq!(request(&source, vec![key], None, N_GENES).err().unwrap().kind(), ErrorKind::Value);
    }
}
