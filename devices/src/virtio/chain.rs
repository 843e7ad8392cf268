//! Descriptor chains.
