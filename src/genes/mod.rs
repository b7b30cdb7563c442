//! From the names of genes to columns: which columns of which part a request means.
//!
//! Owns feature spaces, requests for genes (`None`, names, `intersection`, `union`), sets of genes, what is
//! done about names that repeat within a part, and [`Columns`], by which rows are brought to the output's
//! columns. Every room that is given names of genes resolves them here. Reads names of var alone; knows no cells and no
//! batches.
//!
//! [`FeatureSpaces`] has the names of an open store's parts; [`resolve`] and [`GeneSets`] are pure.

mod columns;
mod nearest;
mod resolve;
mod sets;
mod space;
mod spaces;
#[cfg(test)]
pub mod testing;

pub use columns::{Columns, Mapping, sum_exactly, summing};
pub use nearest::{missing, unknown};
pub use resolve::{Duplicates, GeneRequest, Genes, Group, WantedGenes, match_names, resolve};
pub use sets::{GeneSet, Members, Rule};
pub use space::{FeatureSpace, feature_space_id};
pub use spaces::FeatureSpaces;

/// The first few names, for a message.
#[must_use]
pub fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 5;
    let names: Vec<&str> = names.into_iter().collect();
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| quoted(name)).collect();
    match (shown.is_empty(), names.len().saturating_sub(SHOWN)) {
        (true, _) => "none".into(),
        (_, 0) => shown.join(", "),
        (_, more) => format!("{} and {} more", shown.join(", "), grouped(more)),
    }
}

/// A name in quotes, as Python's `repr` writes it.
fn quoted(name: &str) -> String {
    let plain: String =
        name.chars().map(|c| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() }).collect();
    if plain.contains('\'') && !plain.contains('"') { format!("\"{plain}\"") } else { format!("'{plain}'") }
}

/// A number with a comma between thousands.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let comma = |i: usize| if i > 0 && (digits.len() - i).is_multiple_of(3) { "," } else { "" };
    digits.chars().enumerate().map(|(i, digit)| format!("{}{digit}", comma(i))).collect()
}
