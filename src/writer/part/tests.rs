//! Parts that are begun, finished and given up.

use std::collections::BTreeSet;

use super::*;
use crate::error::ErrorKind;
use crate::number::{Dtype, Layout, Values};
use crate::store::testing::obs_table;
use crate::store::{FileMeta, PartCategories, Store};

fn spec(name: MatrixName, layout: Layout) -> MatrixSpec {
    MatrixSpec {
        name,
        layout,
        portable: false,
        shape: [2, 3],
        stored: Dtype::U8,
        columns: None,
        rows: None,
        source_nnz: 2,
        transposed: false,
    }
}

fn commit(writer: PartWriter, categories: PartCategories) -> Result<()> {
    let tables = Description { feature_space: "space".into(), categories, ..Description::default() };
    for (name, bytes) in [(OBS, obs_table(2)), (VAR, b"table".to_vec()), (UNS, b"{}".to_vec())] {
        std::fs::write(writer.staging().join(name), bytes).unwrap();
    }
    writer.commit(tables, Some("human".into()), &Record::now("write_dataset", String::new())).map(drop)
}

fn put(writer: &mut PartWriter, name: &MatrixName, layout: Layout) {
    let matrix = writer.begin_matrix(spec(name.clone(), layout), "float32", 4.0).unwrap();
    matrix.push_dense(3, &Values::U8(vec![0, 4, 0, 1, 0, 0])).unwrap();
    writer.finish_matrix().unwrap();
}

/// The files of a store.
fn left(folder: &Path) -> Vec<String> {
    Local::new(folder).unwrap().list_files("").unwrap().into_iter().map(|(path, _)| path).collect()
}

#[test]
fn of_two_writers_of_one_name_the_first_wins() {
    let folder = tempfile::tempdir().unwrap();
    let uri = folder.path().to_str().unwrap();
    let [mut first, mut second] = [(); 2].map(|()| PartWriter::begin(uri, &Vec::new(), "d", Mode::New).unwrap());
    put(&mut first, &MatrixName::X, Layout::Csr);
    put(&mut second, &MatrixName::X, Layout::Csr);
    commit(first, BTreeMap::new()).unwrap();
    assert_eq!(commit(second, BTreeMap::new()).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(PartWriter::begin(uri, &Vec::new(), "d", Mode::New).err().unwrap().kind(), ErrorKind::AlreadyExists);
    let store = Store::open(uri, &Vec::new(), None).unwrap();
    assert_eq!((store.manifest().parts.len(), store.manifest().version), (1, 1));
    let folders = Local::new(folder.path()).unwrap().list_folders(PARTS).unwrap();
    assert_eq!(
        folders.iter().map(|name| format!("{PARTS}/{name}")).collect::<Vec<_>>(),
        [&*store.manifest().parts[0].path]
    );
    assert!(!left(folder.path()).iter().any(|path| path.starts_with("writing")));
}

#[test]
fn parts_are_added_or_take_a_place() {
    let folder = tempfile::tempdir().unwrap();
    let uri = folder.path().to_str().unwrap();
    let write = |mode, space: &str, word: &str| {
        let mut writer = PartWriter::begin(uri, &Vec::new(), "d", mode).unwrap();
        put(&mut writer, &MatrixName::X, Layout::Csr);
        for (name, bytes) in [(OBS, obs_table(2)), (VAR, b"table".to_vec()), (UNS, b"{}".to_vec())] {
            std::fs::write(writer.staging().join(name), bytes).unwrap();
        }
        let categories = BTreeMap::from([("c".to_owned(), Some(BTreeSet::from([word.to_owned()])))]);
        let tables = Description { feature_space: space.into(), categories, ..Description::default() };
        let found = writer.commit(tables, None, &Record::now("write_dataset", String::new()))?;
        let words: Vec<String> = found.categories.0["c"].listed().unwrap().map(str::to_owned).collect();
        Ok((found.parts.iter().map(|part| part.number).collect::<Vec<_>>(), words.concat()))
    };
    let found: Result<_> = write(Mode::Append, "x", "a");
    assert_eq!(found.unwrap(), (vec![0], "a".into()));
    assert_eq!(write(Mode::Append, "x", "b").unwrap(), (vec![0, 1], "ab".into()));
    let error = write(Mode::Append, "y", "c").unwrap_err();
    assert!(error.to_string().contains("genes=store.var(dataset)"), "{error}");
    assert_eq!(write(Mode::Replace, "y", "d").unwrap(), (vec![2], "d".into()));
    assert_eq!(write(Mode::Append, "y", "a").unwrap(), (vec![2, 3], "ad".into()));
    let folders = Local::new(folder.path()).unwrap().list_folders(PARTS).unwrap();
    assert_eq!(folders.len(), 4, "older versions have theirs, and who failed has none");
}

#[test]
fn names_are_those_of_folders() {
    let folder = tempfile::tempdir().unwrap();
    let long = "x".repeat(201);
    for name in ["", ".", "..", ".hidden", "a/b", "a\\b", "a\nb", long.as_str()] {
        let error = PartWriter::begin(folder.path().to_str().unwrap(), &Vec::new(), name, Mode::New).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Value, "{name:?}");
    }
}

#[test]
fn a_store_that_lost_its_versions_is_not_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let uri = folder.path().to_str().unwrap();
    let mut writer = PartWriter::begin(uri, &Vec::new(), "d", Mode::New).unwrap();
    put(&mut writer, &MatrixName::X, Layout::Csr);
    commit(writer, BTreeMap::new()).unwrap();
    std::fs::remove_dir_all(folder.path().join("versions")).unwrap();
    assert_eq!(PartWriter::begin(uri, &Vec::new(), "e", Mode::New).err().unwrap().kind(), ErrorKind::NotFound);
}

#[test]
fn a_part_lists_its_matrices_and_checksums() {
    let folder = tempfile::tempdir().unwrap();
    let uri = folder.path().to_str().unwrap();
    let mut writer = PartWriter::begin(uri, &Vec::new(), "lung", Mode::New).unwrap();
    let (layer, pca) = (MatrixName::Layer("counts".into()), MatrixName::Obsm("X_pca".into()));
    put(&mut writer, &MatrixName::X, Layout::Csr);
    put(&mut writer, &layer, Layout::Csr);
    put(&mut writer, &pca, Layout::Dense);
    assert!(Store::open(uri, &Vec::new(), None).is_err(), "not visible before it is complete");
    commit(writer, BTreeMap::new()).unwrap();

    let store = Store::open(uri, &Vec::new(), None).unwrap();
    let part = store.part("lung").unwrap();
    assert_eq!((part.n_obs, part.n_vars, part.nnz), (2, 3, Some(2)));
    assert_eq!((&part.layers[..], &part.obsm[..]), (&["counts".into()][..], &["X_pca".into()][..]));
    let (description, part_path) = (store.description(part).unwrap(), part.path.clone());
    assert_eq!(description.matrices.keys().collect::<Vec<_>>(), [&MatrixName::X, &layer, &pca]);
    assert_eq!(description.files["var.parquet"], FileMeta::of(b"table"));
    let listed: BTreeSet<String> =
        description.files.into_keys().chain(["part.json", "outline"].map(str::to_owned)).collect();
    let found = Local::new(&folder.path().join(&part_path)).unwrap().list_files("").unwrap();
    assert_eq!(found.into_iter().map(|(path, _)| path).collect::<BTreeSet<_>>(), listed);
    for file in ["zarr/X/indices/c/0", "zarr/zarr.json", "zarr/layers/zarr.json", "zarr/obsm/zarr.json"] {
        assert!(listed.contains(file), "{file}");
    }
}

#[test]
fn categories_of_parts_are_joined() {
    let folder = tempfile::tempdir().unwrap();
    let uri = folder.path().to_str().unwrap();
    let words = |words: &[&str]| Some(words.iter().map(|&word| word.to_owned()).collect::<BTreeSet<_>>());
    let of = |names: [(&str, Option<BTreeSet<String>>); 2]| -> PartCategories {
        names.into_iter().map(|(name, values)| (name.to_owned(), values)).collect()
    };
    for (name, categories) in [
        ("a", of([("type", words(&["T", "B"])), ("barcode", words(&["x"]))])),
        ("b", of([("type", words(&["B", "NK"])), ("barcode", None)])),
    ] {
        let mut writer = PartWriter::begin(uri, &Vec::new(), name, Mode::New).unwrap();
        put(&mut writer, &MatrixName::X, Layout::Csr);
        commit(writer, categories).unwrap();
    }
    let store = Store::open(uri, &Vec::new(), None).unwrap();
    let listed = |column: &str| store.manifest().categories.0[column].listed().map(Iterator::collect::<Vec<_>>);
    assert_eq!((listed("type"), listed("barcode")), (Some(vec!["B", "NK", "T"]), None));
}

#[test]
fn a_part_without_x_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = PartWriter::begin(folder.path().to_str().unwrap(), &Vec::new(), "d", Mode::New).unwrap();
    put(&mut writer, &MatrixName::Layer("counts".into()), Layout::Csr);
    let error = commit(writer, BTreeMap::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Value);
    assert!(error.to_string().contains("matrix X"), "{error}");
    assert_eq!(left(folder.path()), Vec::<String>::new());
}

#[test]
fn a_part_needs_a_row_of_obs_for_each_cell() {
    let folder = tempfile::tempdir().unwrap();
    for (table, what) in [(None, "obs.parquet"), (Some(obs_table(3)), "expected 2 rows, found 3")] {
        let mut writer = PartWriter::begin(folder.path().to_str().unwrap(), &Vec::new(), "d", Mode::New).unwrap();
        put(&mut writer, &MatrixName::X, Layout::Csr);
        if let Some(table) = table {
            [(OBS, &table[..]), (VAR, b""), (UNS, b"")]
                .into_iter()
                .for_each(|(name, bytes)| std::fs::write(writer.staging().join(name), bytes).unwrap());
        }
        let error = writer.commit(Description::default(), None, &Record::default()).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(left(folder.path()), Vec::<String>::new());
    }
}
