//! The API over HTTPS: the server's certificate, the handshake and the listeners.

mod addresses;
mod handshake;
mod identity;
mod listeners;

pub use addresses::reachable;
pub use handshake::acceptor;
pub use identity::Identity;
pub use listeners::Listeners;
