use super::*;
use std::path::Path;

const OBJECT: &str = "parts/d/shard";

fn cache(folder: &Path, store: &str) -> Cache {
    let settings = Settings { folder: folder.join("cache"), limit: 1 << 30 };
    Cache::open(&settings, store.to_owned()).unwrap()
}

fn seen(tag: &str) -> Seen {
    Seen { size: 5000, tag: Some(tag.to_owned()), modified: None }
}

#[test]
fn objects_are_those_of_their_store_and_state() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (cache(folder.path(), "s3://a"), cache(folder.path(), "s3://b"));
    one.put(OBJECT, &seen("x"), &(0..5000), &[1; 5000]);
    assert!(other.entry(OBJECT).is_none() && one.entry("parts/d/other").is_none());
    let again = cache(folder.path(), "s3://a");
    let entry = again.entry(OBJECT).unwrap();
    assert_eq!((entry.seen(), entry.get(&(4999..5000)).unwrap()[0]), (&seen("x"), 1));
    // Another state of it: what was kept goes, and its bytes are not mixed with these.
    again.put(OBJECT, &seen("y"), &(0..4096), &[2; 4096]);
    assert!(cache(folder.path(), "s3://a").entry(OBJECT).is_none());
    again.put(OBJECT, &seen("y"), &(0..4096), &[2; 4096]);
    let entry = cache(folder.path(), "s3://a").entry(OBJECT).unwrap();
    assert!(entry.get(&(0..1)).unwrap()[0] == 2 && !entry.has(&(0..5000)));
}

#[test]
fn a_store_is_forgotten_whole_and_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (cache(folder.path(), "s3://a"), cache(folder.path(), "s3://b"));
    for cache in [&one, &other] {
        cache.put(OBJECT, &seen("x"), &(0..5000), &[1; 5000]);
        cache.put("parts/e/shard", &seen("x"), &(0..5000), &[1; 5000]);
    }
    one.forget();
    assert!(one.entry(OBJECT).is_none() && one.entry("parts/e/shard").is_none() && other.entry(OBJECT).is_some());
    one.put(OBJECT, &seen("z"), &(0..5000), &[1; 5000]);
    assert!(one.entry(OBJECT).is_some_and(|entry| entry.is_complete()));
}

#[test]
fn ranges_are_widened_to_pages() {
    assert_eq!(Cache::widened(&(5..6), 9000), 0..4096);
    assert_eq!(Cache::widened(&(4095..8193), 9000), 0..9000);
    assert_eq!(Cache::widened(&(7..7), 9000), 7..7);
    assert_eq!(Cache::widened(&(5..9001), 9000), 5..9001);
}
