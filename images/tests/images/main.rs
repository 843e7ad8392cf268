//! The image store and its helper against good and hostile images. Needs root, `squashfs-tools` and `e2fsprogs`.

mod backup;
mod boot;
mod kit;
mod layouts;
mod squash;
mod store;
mod tarball;
