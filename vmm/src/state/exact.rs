//! Structures of KVM's interface in saved state.

use std::mem::size_of;

use serde::de::{Error, IntoDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A structure of KVM's interface, kept as its bytes. Exactly so many as it has: by themselves these types would take
/// fewer and more as well, and fill up with zeros or drop the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exact<T>(pub T);

impl<T: Serialize> Serialize for Exact<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Exact<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        if bytes.len() != size_of::<T>() {
            return Err(D::Error::custom(format_args!("{} bytes where there are {}", bytes.len(), size_of::<T>())));
        }
        T::deserialize(bytes.into_deserializer()).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::kvm_regs;

    #[test]
    fn only_the_exact_length_is_taken() {
        let regs = Exact(kvm_regs { rip: 7, rflags: 2, ..Default::default() });
        let mut json = serde_json::to_value(regs).unwrap();
        assert_eq!(serde_json::from_value::<Exact<kvm_regs>>(json.clone()).unwrap(), regs);
        json.as_array_mut().unwrap().pop();
        assert!(serde_json::from_value::<Exact<kvm_regs>>(json.clone()).is_err());
        json.as_array_mut().unwrap().extend([0.into(), 0.into()]);
        assert!(serde_json::from_value::<Exact<kvm_regs>>(json).is_err());
    }
}
