//! Clients that were made, kept to be used again: a new one has no open connection, and knows no temporary credentials.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use object_store::ObjectStore;

use super::options::{Cloud, Setting};
use crate::per_process::PerProcess;

/// The most clients that are kept; then all are forgotten.
const MOST: usize = 64;

/// What a client is made of: another setting, another client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    cloud: Cloud,
    address: String,
    settings: Vec<(&'static str, String)>,
}

/// A forked child makes its own: connections are its parent's.
static CLIENTS: PerProcess<Mutex<HashMap<Key, Arc<dyn ObjectStore>>>> = PerProcess::new();

/// The client for an address with these settings, made with `make` where there is none.
///
/// # Errors
/// What `make` fails with.
pub fn client(
    cloud: Cloud,
    address: &str,
    settings: &[Setting],
    make: impl FnOnce() -> object_store::Result<Arc<dyn ObjectStore>>,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let values = settings.iter().map(|setting| (setting.key, setting.value.clone())).collect();
    let key = Key { cloud, address: address.to_owned(), settings: values };
    // Entries are put whole, so a poisoned lock is safe to use.
    let clients = || CLIENTS.get().lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = clients().get(&key).cloned() {
        return Ok(known);
    }
    let made = make()?;
    let mut clients = clients();
    if clients.len() >= MOST {
        clients.clear();
    }
    Ok(clients.entry(key).or_insert(made).clone())
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::super::options::{Origin, Part};
    use super::*;

    #[test]
    fn one_client_for_what_is_the_same() {
        let made = |address: &str, region: &str| {
            let from = Origin::Option("region".to_owned());
            let setting = Setting { key: "aws_region", part: Part::Region, value: region.to_owned(), from };
            client(Cloud::S3, address, &[setting], || Ok(Arc::new(InMemory::new()))).unwrap()
        };
        let first = made("s3://one", "a");
        assert!(Arc::ptr_eq(&first, &made("s3://one", "a")));
        assert!(!Arc::ptr_eq(&first, &made("s3://one", "b")) && !Arc::ptr_eq(&first, &made("s3://two", "a")));
    }
}
