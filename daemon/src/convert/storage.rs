//! Storage pools.

use berth_api::storage::{StoragePool, StoragePoolPut};
use berth_storage::Pool;

/// A pool.
pub fn pool(pool: &Pool, used_by: Vec<String>) -> StoragePool {
    StoragePool {
        config: pool.config.clone(),
        description: pool.description.clone(),
        name: pool.name.clone(),
        driver: pool.driver.clone(),
        used_by,
        status: pool.status.clone(),
        locations: vec!["none".to_owned()],
    }
}

/// The part that a `PUT` may change.
pub fn put(pool: &Pool) -> StoragePoolPut {
    StoragePoolPut { config: pool.config.clone(), description: pool.description.clone() }
}
