//! Tells the host that the agent is up.

use std::{
    io::{self, Read},
    time::Duration,
};

use berth_agent::server::Connection;
use berth_guest::{
    frame,
    protocol::{Hello, PROTOCOL_VERSION, READY_PORT},
};

use crate::vsock;

/// Longest wait between two attempts.
const MAX_DELAY: Duration = Duration::from_secs(10);
const FIRST_DELAY: Duration = Duration::from_millis(50);

/// Keeps a connection to the host for ever; its loss, by a restored snapshot for instance, is the event on which it
/// dials again at once.
pub fn keep() -> ! {
    let mut delay = FIRST_DELAY;
    let mut loaded = false;
    loop {
        if let Ok(mut connection) = dial() {
            delay = FIRST_DELAY;
            // The host sends nothing: this returns when the connection is lost.
            let _ = connection.read(&mut [0]);
        } else if !loaded {
            // The initrd may have carried no transport that fits; the root has its own.
            loaded = true;
            vsock::load_transport();
        } else {
            // Nothing tells a guest that its host begins to listen.
            std::thread::sleep(delay);
            delay = (delay * 2).min(MAX_DELAY);
        }
    }
}

fn dial() -> io::Result<Connection> {
    let mut connection = Connection::new(vsock::connect(READY_PORT)?);
    let uname = rustix::system::uname();
    let hello = Hello {
        protocol: PROTOCOL_VERSION,
        agent_version: env!("CARGO_PKG_VERSION").into(),
        kernel: uname.release().to_string_lossy().into_owned(),
        hostname: uname.nodename().to_string_lossy().into_owned(),
    };
    frame::write_json(&mut connection, &hello)?;
    Ok(connection)
}
