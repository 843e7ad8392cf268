//! The daemon as a whole, over its socket.

mod common;
mod life;
mod rest;
