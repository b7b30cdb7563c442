//! How many requests are under way at a time, and which is next: those that were wanted first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Lets so many requests pass at a time.
#[derive(Debug, Default)]
pub struct Gate(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    n: usize,
    bytes: u64,
    /// The most requests and bytes that may be under way together.
    most: (usize, u64),
    /// Those who wait, by whose turn it is: the number of their read, then when they came.
    waiting: BTreeMap<(u64, u64), (u64, oneshot::Sender<Pass>)>,
    came: u64,
}

/// The right to have a request under way, until it is dropped.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    bytes: u64,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Counters are changed together, and nothing between them can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a request for so many bytes, of the read with this number, may be sent, where `most` requests and bytes
    /// (and at least one request) may be under way.
    pub async fn pass(self: &Arc<Self>, number: u64, bytes: u64, most: (usize, u64)) -> Pass {
        let waiting = {
            let mut state = self.lock();
            state.most = most;
            if state.waiting.is_empty() && state.has_room(bytes) {
                return state.let_in(self, bytes);
            }
            let (sender, receiver) = oneshot::channel();
            state.came += 1;
            let key = (number, state.came);
            state.waiting.insert(key, (bytes, sender));
            receiver
        };
        match waiting.await {
            Ok(pass) => pass,
            // The gate lives as long as `self`, and drops nobody who waits.
            Err(_) => self.lock().let_in(self, bytes),
        }
    }

    fn leave(self: &Arc<Self>, bytes: u64) {
        let mut passed = Vec::new();
        let mut state = self.lock();
        (state.n, state.bytes) = (state.n - 1, state.bytes - bytes);
        while let Some(next) = state.waiting.first_entry() {
            let wanted = next.get().0;
            // Who gave up waiting is passed over.
            if next.get().1.is_closed() {
                next.remove();
                continue;
            }
            if !state.has_room(wanted) {
                break;
            }
            if let Some((_, (bytes, sender))) = state.waiting.pop_first() {
                passed.push((sender, state.let_in(self, bytes)));
            }
        }
        drop(state);
        // One who gave up just now drops the pass, which comes back here.
        passed.into_iter().for_each(|(sender, pass)| drop(sender.send(pass)));
    }
}

impl State {
    fn has_room(&self, bytes: u64) -> bool {
        self.n == 0 || (self.n < self.most.0 && self.bytes.saturating_add(bytes) <= self.most.1)
    }

    fn let_in(&mut self, gate: &Arc<Gate>, bytes: u64) -> Pass {
        self.n += 1;
        self.bytes += bytes;
        Pass { gate: Arc::clone(gate), bytes }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.leave(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_pass_at_a_time_and_the_first_wanted_first() {
        let gate = Arc::new(Gate::default());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let first = gate.pass(5, 100, (9, 50)).await; // more than may be, but alone
            let passed = Arc::new(Mutex::new(Vec::new()));
            let others: Vec<_> = [(7, 20), (9, 20), (6, 30)]
                .map(|(number, bytes)| {
                    let (gate, passed) = (gate.clone(), passed.clone());
                    tokio::spawn(async move {
                        let pass = gate.pass(number, bytes, (9, 50)).await;
                        passed.lock().unwrap().push(number);
                        tokio::task::yield_now().await;
                        drop(pass);
                    })
                })
                .into();
            let gone = tokio::spawn({
                let gate = gate.clone();
                async move { drop(gate.pass(1, 10, (9, 50)).await) }
            });
            tokio::task::yield_now().await;
            gone.abort();
            assert!(gone.await.is_err() && passed.lock().unwrap().is_empty());
            drop(first);
            for other in others {
                other.await.unwrap();
            }
            let mut passed = passed.lock().unwrap().clone();
            passed[..2].sort_unstable(); // they pass together, and 9 after them
            assert_eq!(passed, [6, 7, 9]);
        });
        let state = gate.lock();
        assert!(state.n == 0 && state.bytes == 0 && state.waiting.is_empty());
    }
}
