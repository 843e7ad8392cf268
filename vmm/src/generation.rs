//! The generation id: 16 random bytes that change when a guest continues from a saved state, so that it draws new random
//! numbers (ACPI device in [`crate::acpi`]).

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};
use vm_memory::{Bytes, GuestAddress};

use crate::memory::{GENERATION_ID, Memory};

/// Writes another id.
pub fn renew(memory: &Memory) -> io::Result<()> {
    let mut id = [0; 16];
    // So few bytes come at once and whole.
    getrandom(&mut id, GetRandomFlags::empty())?;
    memory.write_slice(&id, GuestAddress(GENERATION_ID)).map_err(|error| io::Error::other(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_generation_has_another_id() {
        let memory = crate::memory::allocate(32 << 20).unwrap();
        let next = || {
            renew(&memory).unwrap();
            memory.read_obj::<u128>(GuestAddress(GENERATION_ID)).unwrap()
        };
        let (first, second) = (next(), next());
        assert_ne!(first, second);
        assert_ne!(first, 0);
    }
}
