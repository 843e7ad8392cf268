//! A name for a client that gave none: it must be known before the reply, which carries the instance's URL.

use rand::Rng;

use crate::app::App;

const LETTERS: &[u8] = b"abcdefghijkmnpqrstuvwxyz";

/// A name that is free now.
pub fn invent(app: &App, project: &str) -> String {
    loop {
        let mut rng = rand::rng();
        let tail: String = (0..6).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect();
        let name = format!("berth-{tail}");
        if app.instances.get(project, &name).is_err() {
            return name;
        }
    }
}
