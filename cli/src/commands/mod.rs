//! The commands, a module for each group.

pub mod backup;
pub mod config;
pub mod console;
pub mod copy;
pub mod delete;
pub mod device;
pub mod exec;
pub mod file;
mod file_transfer;
pub mod image;
mod image_transfer;
pub mod info;
pub mod launch;
pub mod list;
mod list_columns;
pub mod monitor;
pub mod network;
pub mod operation;
pub mod power;
pub mod profile;
pub mod project;
pub mod publish;
pub mod query;
pub mod rebuild;
pub mod snapshot;
pub mod storage;
pub mod warning;
