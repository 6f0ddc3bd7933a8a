//! What several cells need and one of them makes.

use std::sync::{Arc, Mutex};

use anyhow::Result;

/// Values by their keys, each made when a cell first asks.
pub struct Memo<K, V>(Mutex<Vec<(K, Slot<V>)>>);

type Slot<V> = Arc<Mutex<Option<Arc<V>>>>;

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: PartialEq, V> Memo<K, V> {
    /// The value of a key.
    pub fn get(&self, key: K, make: impl FnOnce() -> Result<V>) -> Result<Arc<V>> {
        let slot = {
            let mut all = self.0.lock().expect("no cell panics with the lock");
            match all.iter().find(|(k, _)| *k == key) {
                Some((_, slot)) => slot.clone(),
                None => {
                    let slot = Slot::default();
                    all.push((key, slot.clone()));
                    slot
                }
            }
        };
        // Whoever asks for the same value waits here until it is there.
        let mut value = slot.lock().expect("no cell panics with the lock");
        if let Some(value) = &*value {
            return Ok(value.clone());
        }
        Ok(value.insert(Arc::new(make()?)).clone())
    }
}
