//! A program on a terminal, as somebody sits before it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::run::{Run, ends, ends_within, patience, ready};

/// A running program and the terminal it is on.
pub struct Terminal {
    master: File,
    child: Child,
    shown: String,
    seen: Vec<u8>,
    /// What was expected is before this.
    at: usize,
}

impl Terminal {
    /// Starts a program on a terminal of 80 columns and 24 lines.
    pub fn start(run: Run) -> Self {
        let (command, shown) = run.into_command();
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal is free");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("a terminal can be opened");
        let name = ptsname(&master, Vec::new()).expect("a terminal has a name");
        let slave = OpenOptions::new().read(true).write(true).open(name.to_str().expect("it is ASCII"));
        let slave = slave.expect("the terminal can be opened");
        tcsetwinsize(&slave, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).expect("it has a size");
        // setsid(1) makes it the controlling terminal of the program.
        let mut on_terminal = Command::new("setsid");
        on_terminal.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            on_terminal.env(key, value.expect("variables are only added"));
        }
        let own = || Stdio::from(slave.try_clone().expect("a descriptor can be duplicated"));
        on_terminal.env("TERM", "xterm").stdin(own()).stdout(own()).stderr(own());
        let child = on_terminal.spawn().unwrap_or_else(|e| panic!("cannot run {shown}: {e}"));
        Self { master: File::from(master), child, shown, seen: Vec::new(), at: 0 }
    }

    /// Waits until the program has written the text; gives all it wrote since the last text that was waited for.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        loop {
            let new = &self.seen[self.at..];
            if let Some(found) = new.windows(text.len()).position(|window| window == text.as_bytes()) {
                let end = found + text.len();
                let said = String::from_utf8_lossy(&new[..end]).into_owned();
                self.at += end;
                return said;
            }
            assert!(self.more(), "{} never said \"{text}\", but:\n{}", self.shown, String::from_utf8_lossy(&self.seen));
        }
    }

    /// Whether the program has written the text by now, after what was expected last.
    pub fn saw(&mut self, text: &str) -> bool {
        while ready(&self.master, Duration::ZERO) && self.more() {}
        self.seen[self.at..].windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// Types something.
    pub fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the terminal takes input");
    }

    /// Types keys one by one until the program ends, as a person does who leaves a console by ctrl-a q: `lxc` takes two
    /// keys that it reads at once for one, and nothing tells when it has read the first.
    pub fn press_until_end(&mut self, keys: &[&str]) {
        let between = Duration::from_millis(200);
        let tries = patience().as_millis() / between.as_millis();
        for key in keys.iter().cycle().take(usize::try_from(tries).unwrap_or(usize::MAX)) {
            // It may have closed the terminal just now.
            let _ = self.master.write_all(key.as_bytes());
            if ends_within(&self.child, between) {
                return;
            }
        }
    }

    /// Makes the terminal another size.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).expect("the terminal can be resized");
    }

    /// Waits for the end of the program; gives its exit status and what it said after what was expected last.
    #[track_caller]
    pub fn end(mut self) -> (i32, String) {
        while self.more() {}
        if !ends(&self.child) {
            // It may have ended just now.
            let _ = self.child.kill();
            panic!("{} hangs; it said:\n{}", self.shown, String::from_utf8_lossy(&self.seen));
        }
        let status = self.child.wait().expect("a child can be waited for");
        let rest = String::from_utf8_lossy(&self.seen[self.at..]).into_owned();
        (status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()), rest)
    }

    /// Reads on; `false` if nobody has the terminal open any more or nothing came for too long.
    fn more(&mut self) -> bool {
        let mut buffer = [0; 4096];
        if !ready(&self.master, patience()) {
            return false;
        }
        match self.master.read(&mut buffer) {
            // EIO: the last one closed it (pty(7)).
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.seen.extend_from_slice(&buffer[..count]);
                true
            }
        }
    }
}

impl Drop for Terminal {
    /// After a failed test.
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
