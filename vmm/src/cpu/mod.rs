//! What a virtual CPU is before it runs: its features ([`cpuid`]) and its registers ([`registers`]).

pub mod cpuid;
pub mod registers;
