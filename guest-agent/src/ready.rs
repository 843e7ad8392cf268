//! Tells the host that the agent is up.

use std::{io, time::Duration};

use berth_agent::server::Connection;
use berth_guest::{
    frame,
    protocol::{Hello, PROTOCOL_VERSION, READY_PORT},
};

use crate::{vsock, welcome};

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
            // Returns when the connection is lost.
            let _ = listen(&mut connection);
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

/// Does what the host tells until it tells no more.
fn listen(connection: &mut Connection) -> io::Result<()> {
    while let Some(message) = frame::read(connection)? {
        frame::write_json(connection, &welcome::apply(&message.parse()?))?;
    }
    Ok(())
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
