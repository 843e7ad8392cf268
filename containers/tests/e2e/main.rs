//! Real containers around busybox. Needs root, busybox-static and a kernel with user namespaces.

mod change;
mod common;
mod devices;
mod exec;
mod files;
mod life;
mod proxies;
mod security;
