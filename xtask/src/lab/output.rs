//! Output of the command, on its way from the lab.

use std::io::{self, Read, Write};

/// Comes after the last byte of a stream: a port of a virtual machine has no end of file.
const END: &[u8] = b"\0lab-end\0";

/// Copies `from` to `to` until [`END`] or the end of the machine.
pub fn pump(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut held: Vec<u8> = Vec::new();
    loop {
        let n = match from.read(&mut buffer) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            // The machine was ended.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => 0,
            Err(e) => return Err(e),
        };
        held.extend_from_slice(&buffer[..n]);
        if n == 0 {
            return to.write_all(&held).and_then(|()| to.flush());
        }
        if let Some(rest) = held.strip_suffix(END) {
            return to.write_all(rest).and_then(|()| to.flush());
        }
        let keep = (1..END.len()).rev().find(|&n| held.ends_with(&END[..n])).unwrap_or(0);
        let ready = held.len() - keep;
        to.write_all(&held[..ready])?;
        to.flush()?;
        held.drain(..ready);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_mark_is_cut_off_wherever_reads_split_it() {
        struct Single<'a>(&'a [u8]);
        impl Read for Single<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let n = self.0.len().min(1);
                buffer[..n].copy_from_slice(&self.0[..n]);
                self.0 = &self.0[n..];
                Ok(n)
            }
        }
        let mut out = Vec::new();
        pump(Single(b"a\0lab-\0lab-end\0"), &mut out).unwrap();
        assert_eq!(out, b"a\0lab-");
        out.clear();
        pump(&b"no end\0lab"[..], &mut out).unwrap();
        assert_eq!(out, b"no end\0lab");
    }
}
