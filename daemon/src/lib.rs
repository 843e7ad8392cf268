//! The daemon: Berth's REST front end.
//!
//! It speaks LXD's wire protocol on a unix socket and over HTTPS, and turns requests into calls of the crates below. It holds
//! no logic of theirs: routes check and convert, operations and events carry what takes time or happens.

mod access;
pub mod app;
pub mod client;
mod convert;
pub mod events;
mod guest_api;
pub mod http;
pub mod operations;
mod resources;
mod routes;
pub mod serve;
pub mod server;
pub mod settings;
pub mod stop;
pub mod sys;
mod tls;
mod trust;
pub mod warnings;
