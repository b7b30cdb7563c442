//! Planning, decoding and gathering, each alone: `cargo bench`.
//!
//! The matrix is made up like counts of single cells: columns about 14 apart, most values small.

#![allow(clippy::unwrap_used, reason = "a benchmark may fail")]

use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dao_polars::batches::{BufferPool, Epoch};
use dao_polars::codec::{BLOCK, Kind, SCRATCH, decode_block, directory, directory_len, encode};
use dao_polars::genes::Genes;
use dao_polars::number::{Dtype, Layout, Values};
use dao_polars::read::schedule::Next;
use dao_polars::read::{MatrixForm, OpenStore, ReadRequest, RowPlan};
use dao_polars::sampling::{EpochPlan, Order, batches};
use dao_polars::store::{Description, MatrixName, Record, Store};
use dao_polars::writer::{MatrixSpec, Mode, PartWriter};
use parquet::data_type::Int64Type;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

const CELLS: u32 = 10_000;
const GENES: i32 = 20_000;

/// A fixed stream of numbers (xorshift).
struct Stream(u64);

impl Stream {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Columns and counts of a cell.
fn cell(stream: &mut Stream) -> (Vec<i32>, Vec<u16>) {
    let (mut columns, mut counts, mut at) = (Vec::new(), Vec::new(), 0);
    loop {
        at += 1 + i32::try_from(stream.next() % 27).unwrap();
        if at >= GENES {
            return (columns, counts);
        }
        columns.push(at);
        // One, mostly; half as often for each doubling.
        counts.push(1 << (stream.next() | 1 << 9).trailing_zeros());
    }
}

fn codec(c: &mut Criterion) {
    let mut stream = Stream(88_172_645_463_325_252);
    let (mut columns, mut counts) = (Vec::new(), Vec::new());
    while columns.len() < 1 << 16 {
        let (more_columns, more_counts) = cell(&mut stream);
        columns.extend(more_columns.into_iter().map(|column| u16::try_from(column).unwrap()));
        counts.extend(more_counts);
    }
    let mut group = c.benchmark_group("codec");
    for (name, values, kind) in [("indices", &columns, Kind::Delta), ("counts", &counts, Kind::Plain)] {
        let values = &values[..1 << 16];
        let encoded = encode(values, kind).unwrap();
        let starts = directory(&encoded[..directory_len(values.len())], values.len(), encoded.len() as u64).unwrap();
        group.throughput(Throughput::Elements(values.len() as u64));
        group.bench_function(format!("encode {name}"), |b| b.iter(|| encode(values, kind)));
        let (mut out, mut scratch) = (vec![0.0_f32; BLOCK], SCRATCH);
        group.bench_function(format!("decode {name}"), |b| {
            b.iter(|| {
                for ends in starts.windows(2) {
                    let block = &encoded[ends[0] as usize..ends[1] as usize];
                    decode_block::<u16, f32>(block, kind, 0..BLOCK, &mut out, &mut scratch).unwrap();
                }
            });
        });
    }
    group.finish();
}

fn planning(c: &mut Criterion) {
    let positions = Order::Shuffled { seed: 0 }.positions(CELLS, 0);
    let keys: Vec<u64> = positions[..1024].iter().map(|&row| u64::from(row % 4) << 32 | u64::from(row)).collect();
    c.bench_function("plan 1024 cells", |b| b.iter(|| RowPlan::new(&keys)));
    c.bench_function("shuffle 10000 cells", |b| b.iter(|| Order::Shuffled { seed: 0 }.positions(CELLS, 1)));
}

/// A store of one part in `folder`, and its cells as a request.
fn request(folder: &std::path::Path, layout: Layout) -> Arc<ReadRequest> {
    let store = folder.join("store");
    if !store.exists() {
        let mut writer = PartWriter::begin(store.to_str().unwrap(), &Vec::new(), "bench", Mode::New).unwrap();
        let spec = MatrixSpec {
            name: MatrixName::X,
            layout: Layout::Csr,
            portable: false,
            shape: [CELLS.into(), u64::try_from(GENES).unwrap()],
            stored: Dtype::U16,
            columns: None,
            rows: None,
            source_nnz: 0,
            transposed: false,
        };
        let matrix = writer.begin_matrix(spec, "float32", 0.0).unwrap();
        let mut stream = Stream(1);
        for _ in 0..CELLS {
            let (columns, counts) = cell(&mut stream);
            matrix.push_rows(&[0, i64::try_from(columns.len()).unwrap()], &columns, &Values::U16(counts)).unwrap();
        }
        writer.finish_matrix().unwrap();
        let schema = parse_message_type("message schema { required int64 cell; }").unwrap();
        let mut table = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::default()).unwrap();
        let mut group = table.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&vec![7; usize::try_from(CELLS).unwrap()], None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        std::fs::write(writer.staging().join("obs.parquet"), table.into_inner().unwrap()).unwrap();
        ["var.parquet", "uns.json"].iter().for_each(|name| std::fs::write(writer.staging().join(name), "").unwrap());
        let tables = Description { feature_space: "space".into(), ..Description::default() };
        writer.commit(tables, None, &Record::now("write_dataset", String::new())).unwrap();
    }
    let store = OpenStore::new(Store::open(store.to_str().unwrap(), &Vec::new(), None).unwrap());
    let form = MatrixForm {
        name: MatrixName::X,
        n_columns: usize::try_from(GENES).unwrap(),
        layout,
        dtype: Dtype::F32,
        normalize: None,
    };
    let keys: Vec<u64> = (0..CELLS).map(u64::from).collect();
    Arc::new(ReadRequest::open(&store, Arc::new(keys.into()), &Genes::all([0], form.n_columns), vec![form]).unwrap())
}

fn epochs(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let mut group = c.benchmark_group("epoch of 10000 cells");
    group.throughput(Throughput::Elements(CELLS.into())).sample_size(20);
    for (name, layout, order) in [
        ("csr in order", Layout::Csr, Order::Frame),
        ("csr shuffled", Layout::Csr, Order::Shuffled { seed: 0 }),
        ("dense shuffled", Layout::Dense, Order::Shuffled { seed: 0 }),
    ] {
        let request = request(folder.path(), layout);
        let pool = BufferPool::new(1);
        group.bench_function(name, |b| {
            b.iter_batched(
                || order.positions(CELLS, 0).into(),
                |order| {
                    let batches = batches(CELLS as usize, 1024, false);
                    let mut epoch = Epoch::start(
                        request.clone(),
                        EpochPlan { order, batches, together: Vec::new() },
                        None,
                        128 << 20,
                        2,
                        pool.clone(),
                    )
                    .unwrap();
                    while !matches!(epoch.next(Duration::from_secs(1)).unwrap(), Next::Over) {}
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, codec, planning, epochs);
criterion_main!(benches);
