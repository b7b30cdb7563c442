//! Objects read into buffers that are no larger than what was asked for.

use std::ops::Range;

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{Error as ObjectError, GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore};

/// The most that is read of one object at once.
const MOST: u64 = 4 << 30;
/// The most that is asked of memory on a server's word, before the bytes come.
const AT_FIRST: u64 = 1 << 24;

/// What came of an answer.
pub enum Came {
    Head,
    Bytes(u64),
}

fn refused(what: String) -> ObjectError {
    ObjectError::Generic { store: "server", source: what.into() }
}

/// A whole object, which is as long as its header says.
pub async fn whole(store: &dyn ObjectStore, at: &ObjectPath, came: impl Fn(Came)) -> object_store::Result<Bytes> {
    let result = store.get_opts(at, GetOptions::default()).await?;
    came(Came::Head);
    let size = result.meta.size;
    if size > MOST {
        return Err(refused(format!("an object of {size} bytes, of which at most {MOST} are read at once")));
    }
    collected(result, size, came).await
}

/// A range of an object, or the part of it that the object has; and what the server says of the object.
pub async fn range(
    store: &dyn ObjectStore,
    at: &ObjectPath,
    range: Range<u64>,
    came: impl Fn(Came),
) -> object_store::Result<(Bytes, ObjectMeta)> {
    let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
    let result = store.get_opts(at, options).await?;
    came(Came::Head);
    let (got, wanted) = (result.range.end.saturating_sub(result.range.start), range.end - range.start);
    if result.range.start != range.start || got > wanted {
        return Err(refused(format!("asked for bytes {range:?}, the server sent {:?}", result.range)));
    }
    let meta = result.meta.clone();
    Ok((collected(result, got, came).await?, meta))
}

/// The `size` bytes of a body, no more and no fewer.
async fn collected(result: GetResult, size: u64, came: impl Fn(Came)) -> object_store::Result<Bytes> {
    let mut body = result.into_stream();
    let mut bytes = Vec::new();
    let mut got = 0;
    while let Some(part) = body.next().await {
        let part = part?;
        came(Came::Bytes(part.len() as u64));
        got += part.len() as u64;
        if got > size {
            return Err(refused(format!("a body of {size} bytes goes on after them")));
        }
        if got == size && bytes.is_empty() {
            return Ok(part); // in one piece: not copied
        }
        if bytes.is_empty() {
            reserve(&mut bytes, size.min(AT_FIRST))?;
        }
        let left = bytes.capacity() - bytes.len();
        if left < part.len() {
            // Doubled, but not beyond what comes at most.
            reserve(&mut bytes, (got.saturating_mul(2)).min(size) - (got - part.len() as u64))?;
        }
        bytes.extend_from_slice(&part);
    }
    if got < size {
        return Err(refused(format!("a body of {size} bytes ends after {got}")));
    }
    Ok(bytes.into())
}

fn reserve(bytes: &mut Vec<u8>, more: u64) -> object_store::Result<()> {
    let more = usize::try_from(more).ok().filter(|&more| bytes.try_reserve_exact(more).is_ok());
    more.map(drop).ok_or_else(|| refused("its bytes do not fit into memory".to_owned()))
}
