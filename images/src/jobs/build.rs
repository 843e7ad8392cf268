//! b
use crate::wire::*;
use std::path::*;
#[derive(clap::Args)]
/// x
pub struct Request {}
/// x
pub fn run(_: &Request) -> JobResult<i32> { Ok(0) }
/// x
pub fn hook(_: &Path) -> JobResult<i32> { Ok(0) }
