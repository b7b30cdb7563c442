//! The values of string-like obs columns: those of a part, and in how many parts of a store each is.
//!
//! They are counted, so that a value goes from the store's list with the last part that has it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// A string column with more distinct values than this in the store has no category list.
const MAX_CATEGORIES: usize = 65_536;

/// The sorted values of each string-like obs column of a part; `None` for one that is no set of categories.
pub type PartCategories = BTreeMap<String, Option<BTreeSet<String>>>;

/// The values of each string-like obs column of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Categories(pub BTreeMap<String, ColumnCategories>);

/// The values of one column.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnCategories {
    /// The number of parts in which the column is no set of categories.
    pub unlisted: u32,
    /// In how many parts each value is; `None` for good once there were too many of them.
    pub values: Option<BTreeMap<String, u32>>,
}

impl ColumnCategories {
    /// The values, sorted, if the column is a set of categories in every part that has it.
    pub fn listed(&self) -> Option<impl Iterator<Item = &str>> {
        self.values.as_ref().filter(|_| self.unlisted == 0).map(|values| values.keys().map(String::as_str))
    }
}

impl Categories {
    /// Adds those of a part.
    pub fn add(&mut self, part: &PartCategories) {
        for (column, added) in part {
            let empty = || ColumnCategories { unlisted: 0, values: Some(BTreeMap::new()) };
            let known = self.0.entry(column.clone()).or_insert_with(empty);
            match (added, &mut known.values) {
                (None, _) => known.unlisted += 1,
                (Some(added), Some(values)) => {
                    for value in added {
                        *values.entry(value.clone()).or_default() += 1;
                    }
                    if values.len() > MAX_CATEGORIES {
                        known.values = None;
                    }
                }
                (Some(_), None) => {}
            }
        }
    }

    /// Takes away those of a part that was added before.
    pub fn remove(&mut self, part: &PartCategories) {
        for (column, removed) in part {
            let Some(known) = self.0.get_mut(column) else { continue };
            match (removed, &mut known.values) {
                (None, _) => known.unlisted = known.unlisted.saturating_sub(1),
                (Some(removed), Some(values)) => {
                    for value in removed {
                        if values.get_mut(value).is_some_and(|count| {
                            *count = count.saturating_sub(1);
                            *count == 0
                        }) {
                            values.remove(value);
                        }
                    }
                }
                (Some(_), None) => {}
            }
            // No part has the column any more, or none has a value in it.
            if known.unlisted == 0 && known.values.as_ref().is_some_and(BTreeMap::is_empty) {
                self.0.remove(column);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = String>) -> PartCategories {
        BTreeMap::from([("c".to_owned(), Some(values.into_iter().collect()))])
    }

    fn words(words: &[&str]) -> PartCategories {
        of(words.iter().map(|&word| word.to_owned()))
    }

    fn listed(categories: &Categories) -> Option<Vec<&str>> {
        categories.0["c"].listed().map(Iterator::collect)
    }

    #[test]
    fn values_of_parts_are_joined() {
        let mut all = Categories::default();
        all.add(&words(&["T", "B"]));
        all.add(&words(&["B", "NK"]));
        assert_eq!(listed(&all).unwrap(), ["B", "NK", "T"]);
        all.add(&BTreeMap::from([("c".to_owned(), None)]));
        assert!(listed(&all).is_none());
        all.remove(&BTreeMap::from([("c".to_owned(), None)]));
        all.remove(&words(&["T", "B"]));
        assert_eq!(listed(&all).unwrap(), ["B", "NK"]);
        all.remove(&words(&["B", "NK"]));
        assert_eq!(all, Categories::default());
    }

    #[test]
    fn category_lists_are_dropped_for_good_past_the_limit() {
        let mut all = Categories::default();
        all.add(&of((0..MAX_CATEGORIES).map(|i| i.to_string())));
        assert_eq!(listed(&all).unwrap().len(), MAX_CATEGORIES);
        all.add(&words(&["one more"]));
        assert!(listed(&all).is_none());
        all.add(&words(&["another"]));
        assert!(listed(&all).is_none());
    }
}
