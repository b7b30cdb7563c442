//! What the writer takes, the reader gives back: through files, without Python.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "small numbers")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dao_polars::batches::{Batch, BatchMatrix, BufferPool, Epoch};
use dao_polars::error::{ErrorKind, Result};
use dao_polars::genes::{Genes, Mapping};
use dao_polars::number::{Dtype, Layout, Values};
use dao_polars::read::schedule::Next;
use dao_polars::read::{MatrixForm, OpenStore, ReadRequest};
use dao_polars::sampling::{self, EpochPlan, Order};
use dao_polars::store::{Description, MatrixName, Record, Store};
use dao_polars::writer::{MatrixSpec, Mode, PartWriter};
use parquet::data_type::Int64Type;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;

const N_GENES: usize = 300;
const GENES: std::ops::Range<i32> = 0..300;

type Cells = Vec<BTreeMap<i32, u16>>;

/// Writes a table of so many cells, and publishes the part.
fn commit(writer: PartWriter, n_obs: usize) -> Result<()> {
    let schema = parse_message_type("message schema { required int64 cell; }").unwrap();
    let mut table = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::default()).unwrap();
    let mut group = table.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&vec![7; n_obs], None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    std::fs::write(writer.staging().join("obs.parquet"), table.into_inner().unwrap()).unwrap();
    ["var.parquet", "uns.json"].iter().for_each(|name| std::fs::write(writer.staging().join(name), "").unwrap());
    let tables = Description { feature_space: "space".into(), ..Description::default() };
    writer.commit(tables, None, &Record::now("write_dataset", String::new())).map(drop)
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
        transposed: false,
    }
}

/// Writes `cells` by rows or by columns, in blocks of `block`; row `i` goes to `rows[i]`.
fn write(
    store: &Path,
    part: &str,
    cells: &Cells,
    by_columns: bool,
    block: usize,
    rows: Option<Vec<u32>>,
) -> Result<()> {
    let mut writer = PartWriter::begin(store.to_str().unwrap(), &Vec::new(), part, Mode::New)?;
    let matrix = writer.begin_matrix(spec(cells.len(), rows), "float32", 0.0)?;
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
    let nnz = writer.finish_matrix()?;
    assert_eq!(nnz, cells.iter().map(|cell| cell.len() as u64).sum::<u64>());
    commit(writer, cells.len())
}

fn form(name: MatrixName, n_columns: usize, layout: Layout) -> MatrixForm {
    MatrixForm { name, n_columns, layout, dtype: Dtype::F32, normalize: None }
}

fn request(
    store: &OpenStore,
    keys: Vec<u64>,
    columns: Option<Vec<i32>>,
    forms: Vec<MatrixForm>,
) -> Result<Arc<ReadRequest>> {
    let numbers = store.store().manifest().parts.iter().map(|part| part.number);
    ReadRequest::open(store, Arc::new(keys.into()), &genes(numbers, columns, forms[0].n_columns), forms).map(Arc::new)
}

/// The genes of an output of `n_columns`, where each column of the parts becomes the one in `target`.
fn genes(numbers: impl Iterator<Item = u32>, target: Option<Vec<i32>>, n_columns: usize) -> Genes {
    let mapping = target.map(|target| {
        let pairs = (0..).zip(&target).filter_map(|(from, &to)| Some((from, u32::try_from(to).ok()?))).collect();
        Mapping::new(target.len(), n_columns, pairs).unwrap()
    });
    Genes { names: None, n_genes: n_columns, groups: vec![(numbers.collect(), mapping)] }
}

fn batches(request: &Arc<ReadRequest>, order: Vec<u32>, batch_size: usize, budget: u64, threads: usize) -> Vec<Batch> {
    let cut = sampling::batches(order.len(), batch_size, false);
    let pool = BufferPool::new(request.matrices.len());
    let mut epoch = Epoch::start(
        request.clone(),
        EpochPlan { order: order.into(), batches: cut, together: Vec::new() },
        None,
        budget,
        threads,
        pool,
    )
    .unwrap();
    let mut batches = Vec::new();
    loop {
        match epoch.next(Duration::from_secs(1)).unwrap() {
            Next::Ready(batch) => batches.push(batch),
            Next::Waiting => {}
            Next::Over => return batches,
        }
    }
}

/// The rows of a CSR matrix of batches, as pairs of column and value.
fn rows<'a>(batches: impl Iterator<Item = &'a BatchMatrix>) -> Vec<Vec<(i32, f32)>> {
    batches
        .flat_map(|batch| {
            let Values::F32(data) = &batch.data else { panic!("asked for float32") };
            batch.indptr.windows(2).map(|ends| (ends[0]..ends[1]).map(|at| (batch.indices[at], data[at])).collect())
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

        let source = OpenStore::new(Store::open(store.to_str().unwrap(), &Vec::new(), None).unwrap());
        let request = request(&source, picked.iter().map(|pick| pick.0).collect(), columns, vec![form(MatrixName::X, n_columns, Layout::Csr)]).unwrap();
        let order = Order::Shuffled { seed }.positions(u32::try_from(picked.len()).unwrap(), 0);
        let got = batches(&request, order.clone(), batch_size, budget, threads);

        let positions: Vec<u32> = got.iter().flat_map(|batch| order[batch.rows.clone()].to_vec()).collect();
        prop_assert_eq!(&positions, &order);
        let expected: Vec<Vec<(i32, f32)>> = order.iter().map(|&position| {
            let mut row: Vec<_> = picked[position as usize].1.iter()
                .map(|(&gene, &count)| (map(gene), f32::from(count))).filter(|entry| entry.0 >= 0).collect();
            row.sort_by_key(|entry| entry.0);
            row
        }).collect();
        prop_assert_eq!(rows(got.iter().map(|batch| &batch.matrices[0])), expected);
        for entry in &source.store().manifest().parts {
            prop_assert_eq!(source.verify(entry).unwrap(), Vec::new());
        }
    }
}

#[test]
fn a_writer_that_is_dropped_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut writer = PartWriter::begin(store.to_str().unwrap(), &Vec::new(), "d", Mode::New).unwrap();
    let matrix = writer.begin_matrix(spec(2, None), "float32", 0.0).unwrap();
    matrix.push_rows(&[0, 1], &[0], &Values::F32(vec![1.0])).unwrap();
    let error = writer.finish_matrix().unwrap_err();
    assert!(error.to_string().contains("ended before all its rows"), "{error}");
    drop(writer);
    for folder in ["parts", "writing"] {
        assert!(store.join(folder).read_dir().unwrap().next().is_none(), "{folder}");
    }
    let error = Store::open(store.to_str().unwrap(), &Vec::new(), None).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn blocks_that_contradict_themselves_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = PartWriter::begin(folder.path().to_str().unwrap(), &Vec::new(), "d", Mode::New).unwrap();
    let matrix = writer.begin_matrix(spec(2, None), "float32", 0.0).unwrap();
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
    let source = OpenStore::new(Store::open(store, &Vec::new(), None).unwrap());
    for key in [3, 1 << 32] {
        assert_eq!(
            request(&source, vec![key], None, vec![form(MatrixName::X, N_GENES, Layout::Csr)]).err().unwrap().kind(),
            ErrorKind::Value
        );
    }
}

/// A study with X, a layer that is X + 1000, and an embedding whose rows are cell, 2 × cell, 3 × cell.
fn write_matrices(store: &Path, part: &str, cells: &Cells) {
    let mut writer = PartWriter::begin(store.to_str().unwrap(), &Vec::new(), part, Mode::New).unwrap();
    for (name, more) in [(MatrixName::X, 0.0), (MatrixName::Layer("more".into()), 1000.0)] {
        let spec = MatrixSpec { name, stored: Dtype::F32, ..spec(cells.len(), None) };
        let matrix = writer.begin_matrix(spec, "float32", 0.0).unwrap();
        for cell in cells {
            let columns: Vec<i32> = cell.keys().copied().collect();
            let values = cell.values().map(|&count| f32::from(count) + more).collect();
            matrix.push_rows(&[0, i64::try_from(columns.len()).unwrap()], &columns, &Values::F32(values)).unwrap();
        }
        writer.finish_matrix().unwrap();
    }
    let shape = [cells.len() as u64, 3];
    let spec = MatrixSpec {
        name: MatrixName::Obsm("X_pca".into()),
        layout: Layout::Dense,
        stored: Dtype::F32,
        shape,
        ..spec(cells.len(), None)
    };
    let matrix = writer.begin_matrix(spec, "float32", 0.0).unwrap();
    let embedding = (0..cells.len()).flat_map(|cell| (1..4).map(move |i| (cell * i) as f32)).collect();
    matrix.push_dense(3, &Values::F32(embedding)).unwrap();
    writer.finish_matrix().unwrap();
    commit(writer, cells.len()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]
    #[test]
    fn all_matrices_of_a_batch_are_of_its_cells(
        studies in prop::collection::vec(cells(40), 3),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..2000),
        (seed, batch_size, budget, threads) in (any::<u64>(), 1..1500usize, prop::sample::select(vec![0, 5000, 1 << 27]), 1..4usize),
        every_other_gene: bool, dense: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        for (i, cells) in studies.iter().enumerate() {
            write_matrices(folder.path(), &format!("d{i}"), cells);
        }
        let all: Vec<(u64, usize, &BTreeMap<i32, u16>)> = (0_u64..).zip(&studies)
            .flat_map(|(number, cells)| cells.iter().enumerate()
                .map(move |(row, cell)| ((number << 32) | row as u64, row, cell)))
            .collect();
        let picked: Vec<_> = picks.iter().map(|pick| *pick.get(&all)).collect();
        let map = |gene: i32| if every_other_gene { if gene % 2 == 0 { 149 - gene / 2 } else { -1 } } else { gene };
        let n_columns = if every_other_gene { 150 } else { N_GENES };
        let columns = every_other_gene.then(|| GENES.map(map).collect());
        let layout = if dense { Layout::Dense } else { Layout::Csr };
        let forms = vec![
            form(MatrixName::Obsm("X_pca".into()), 3, Layout::Dense),
            MatrixForm { dtype: Dtype::F64, ..form(MatrixName::Layer("more".into()), n_columns, layout) },
            form(MatrixName::X, n_columns, Layout::Csr),
        ];
        let store = OpenStore::new(Store::open(folder.path().to_str().unwrap(), &Vec::new(), None).unwrap());
        let genes = genes(0..3, columns, n_columns);
        let keys: Vec<u64> = picked.iter().map(|pick| pick.0).collect();
        let request = Arc::new(ReadRequest::open(&store, Arc::new(keys.into()), &genes, forms).unwrap());
        let order = Order::Shuffled { seed }.positions(u32::try_from(picked.len()).unwrap(), 0);
        let got = batches(&request, order.clone(), batch_size, budget, threads);

        let expected = |more: f32| -> Vec<Vec<(i32, f32)>> {
            let row = |&position: &u32| {
                let cell = picked[position as usize].2.iter();
                let mut row: Vec<_> = cell.map(|(&gene, &count)| (map(gene), f32::from(count) + more)).filter(|entry| entry.0 >= 0).collect();
                row.sort_by_key(|entry| entry.0);
                row
            };
            order.iter().map(row).collect()
        };
        let embedding: Vec<f32> = order.iter()
            .flat_map(|&position| (1..4).map(move |i| (position, i)))
            .map(|(position, i)| (picked[position as usize].1 * i) as f32).collect();
        let found: Vec<f32> = got.iter().flat_map(|batch| {
            let Values::F32(data) = &batch.matrices[0].data else { panic!("asked for float32") };
            data.clone()
        }).collect();
        prop_assert_eq!(found, embedding);
        prop_assert_eq!(rows(got.iter().map(|batch| &batch.matrices[2])), expected(0.0));
        let mut layer: Vec<Vec<(i32, f32)>> = Vec::new();
        for batch in &got {
            let Values::F64(data) = &batch.matrices[1].data else { panic!("asked for float64") };
            let narrow: Vec<f32> = data.iter().map(|&value| value as f32).collect();
            if dense {
                layer.extend(narrow.chunks(n_columns).map(|row| (0_i32..).zip(row.iter().copied()).filter(|entry| entry.1 != 0.0).collect()));
            } else {
                let csr = BatchMatrix { data: Values::F32(narrow), ..batch.matrices[1].clone() };
                layer.extend(rows(std::iter::once(&csr)));
            }
        }
        prop_assert_eq!(layer, expected(1000.0));
    }
}
