use proptest::prelude::*;

use super::*;

const STORE: &str = "s3://bucket/atlas";
const OBJECT: &str = "parts/d/shard";

fn object(size: u64) -> Vec<u8> {
    (0..size).map(|at| (at.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect()
}

fn seen(size: u64) -> Seen {
    Seen { size, tag: Some("x".to_owned()), modified: None }
}

fn create(folder: &Path, size: u64) -> Entry {
    Entry::create(&folder.join("a.kept"), STORE, OBJECT, &seen(size)).unwrap().unwrap()
}

fn reopen(folder: &Path) -> Option<Entry> {
    Entry::open(&folder.join("a.kept"), STORE, OBJECT).unwrap()
}

fn part<'a>(bytes: &'a [u8], range: &Range<u64>) -> &'a [u8] {
    &bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
}

/// Flips a byte of the file.
fn damage(folder: &Path, at: u64) {
    let file = open(&folder.join("a.kept")).unwrap();
    let mut byte = [0];
    system::read_exact_at(&file, &mut byte, at).unwrap();
    system::write_all_at(&file, &[byte[0] ^ 4], at).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_was_put_comes_back_and_nothing_else(
        size in 1_u64..40_000, puts in prop::collection::vec((0_u64..40_000, 0_u64..20_000), 0..12),
        gets in prop::collection::vec((0_u64..40_000, 0_u64..9000), 1..30), again: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (bytes, mut entry) = (object(size), create(folder.path(), size));
        // By the letter: a page is there once a range that was put had all of it.
        let mut there = vec![false; usize::try_from(layout::n_pages(size)).unwrap()];
        for (start, len) in puts {
            let range = start.min(size)..(start + len).min(size);
            entry.put(&range, part(&bytes, &range)).unwrap();
            for (number, page) in there.iter_mut().enumerate() {
                let (first, end) = (number as u64 * PAGE, ((number as u64 + 1) * PAGE).min(size));
                *page |= range.start <= first && end <= range.end;
            }
        }
        if again {
            drop(entry);
            entry = reopen(folder.path()).unwrap();
        }
        prop_assert_eq!(entry.is_complete(), there.iter().all(|&page| page));
        for (start, len) in gets {
            let range = start..start + len;
            let expected = range.end <= size
                && (range.is_empty()
                    || (range.start / PAGE..=(range.end - 1) / PAGE).all(|page| there[usize::try_from(page).unwrap()]));
            prop_assert_eq!(entry.has(&range), expected);
            let got = entry.get(&range);
            prop_assert_eq!(got.is_some(), expected);
            if let Some(got) = got {
                prop_assert_eq!(&got[..], part(&bytes, &range));
            }
        }
    }

    #[test]
    fn a_damaged_file_never_gives_other_bytes(size in 1_u64..30_000, at: prop::sample::Index, cut: bool) {
        let folder = tempfile::tempdir().unwrap();
        let bytes = object(size);
        create(folder.path(), size).put(&(0..size), &bytes).unwrap();
        let len = usize::try_from(layout::len(size)).unwrap();
        let at = at.index(len) as u64;
        if cut {
            open(&folder.path().join("a.kept")).unwrap().set_len(at).unwrap();
        } else {
            damage(folder.path(), at);
        }
        let Some(entry) = reopen(folder.path()) else {
            // What is of no use is not there any more.
            prop_assert!(!folder.path().join("a.kept").exists());
            return Ok(());
        };
        prop_assert!(!cut);
        let got: Vec<u8> = (0..size).filter_map(|at| entry.get(&(at..at + 1))).flat_map(|byte| byte.to_vec()).collect();
        // The page that was damaged is absent; padding may be damaged and nobody sees it.
        let absent = size - got.len() as u64;
        prop_assert!(absent <= PAGE);
        entry.put(&(0..size), &bytes).unwrap();
        prop_assert_eq!(&entry.get(&(0..size)).unwrap()[..], &bytes[..]);
        prop_assert_eq!(&reopen(folder.path()).unwrap().get(&(0..size)).unwrap()[..], &bytes[..]);
    }
}

#[test]
fn two_who_have_it_open_see_what_the_other_put() {
    let folder = tempfile::tempdir().unwrap();
    let (size, one) = (10 * PAGE, create(folder.path(), 10 * PAGE));
    let bytes = object(size);
    let two = create(folder.path(), size); // it is there: opened
    assert!(!two.has(&(0..PAGE)));
    one.put(&(0..PAGE), part(&bytes, &(0..PAGE))).unwrap();
    assert_eq!(&two.get(&(5..PAGE)).unwrap()[..], part(&bytes, &(5..PAGE)));
    two.put(&(PAGE..size), part(&bytes, &(PAGE..size))).unwrap();
    assert!(one.has(&(0..size)) && one.is_complete());
}

#[test]
fn what_little_is_not_there_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let (size, entry) = (20 * PAGE - 5, create(folder.path(), 20 * PAGE - 5));
    let bytes = object(size);
    for range in [PAGE..5 * PAGE, 6 * PAGE..18 * PAGE] {
        assert_eq!(entry.rest(), None);
        entry.put(&range, part(&bytes, &range)).unwrap();
    }
    entry.put(&(18 * PAGE..19 * PAGE), part(&bytes, &(18 * PAGE..19 * PAGE))).unwrap();
    entry.put(&(0..PAGE), part(&bytes, &(0..PAGE))).unwrap();
    assert_eq!(entry.rest(), Some(vec![5 * PAGE..6 * PAGE, 19 * PAGE..size]));
    entry.put(&(0..size), &bytes).unwrap();
    assert!(entry.is_complete() && entry.rest() == Some(Vec::new()));
}

#[test]
fn what_was_removed_is_read_and_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let entry = create(folder.path(), 2 * PAGE);
    let bytes = object(2 * PAGE);
    entry.put(&(0..PAGE), part(&bytes, &(0..PAGE))).unwrap();
    std::fs::remove_file(folder.path().join("a.kept")).unwrap();
    assert_eq!(entry.put(&(PAGE..2 * PAGE), part(&bytes, &(PAGE..2 * PAGE))).unwrap(), 0);
    assert!(entry.is_gone() && entry.has(&(0..PAGE)) && !entry.has(&(0..PAGE + 1)));
    assert!(reopen(folder.path()).is_none());
}

#[test]
fn the_file_of_another_is_none() {
    let folder = tempfile::tempdir().unwrap();
    create(folder.path(), PAGE);
    let path = folder.path().join("a.kept");
    assert!(Entry::open(&path, STORE, "parts/d/other").unwrap().is_none() && !path.exists());
    std::fs::write(&path, "garbage").unwrap();
    assert!(reopen(folder.path()).is_none() && !path.exists());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing stays beside it");
}

#[test]
fn a_disk_that_is_full_is_an_error_and_no_page() {
    let folder = tempfile::tempdir().unwrap();
    let size = 4 * PAGE;
    create(folder.path(), size);
    let entry = reopen(folder.path()).unwrap();
    // A handle that cannot write, as a full disk cannot.
    let handle = Handle::open(folder.path().join("a.kept")).unwrap();
    let broken = Entry { file: LocalFile::of(folder.path().join("a.kept"), size, handle), ..entry };
    assert!(broken.put(&(0..size), &object(size)).is_err());
    assert!(!broken.has(&(0..1)) && broken.get(&(0..1)).is_none());
}
