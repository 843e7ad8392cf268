//! Real containers around busybox. Needs root, busybox-static and a kernel with user namespaces.

mod common;
mod exec;
mod files;
mod life;
mod security;
