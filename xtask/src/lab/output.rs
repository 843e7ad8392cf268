//! Output of the command, on its way from the lab.

use std::io::{self, Read, Write};

/// Comes after the last byte of a stream: a port of a virtual machine has no end of file.
const END: &[u8] = b"\0lab-end\0";

/// Where output goes: to `to` as it is, or line by line behind a label.
pub fn sink(to: impl Write + Send + 'static, label: Option<usize>) -> Box<dyn Write + Send> {
    match label {
        None => Box::new(to),
        Some(label) => Box::new(Labelled { to, label, line: Vec::new() }),
    }
}

/// Longer lines are broken.
const LINE_MAX: usize = 4096;

/// Puts the label before each line.
struct Labelled<W: Write> {
    to: W,
    label: usize,
    /// What came since the last end of a line.
    line: Vec<u8>,
}

impl<W: Write> Labelled<W> {
    /// In one write, so that the lines of two labs do not run into each other.
    fn put(&mut self) -> io::Result<()> {
        let text = [format!("{}| ", self.label).as_bytes(), &self.line, b"\n"].concat();
        self.line.clear();
        self.to.write_all(&text)
    }
}

impl<W: Write> Write for Labelled<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            if byte == b'\n' {
                self.put()?;
                continue;
            }
            self.line.push(byte);
            if self.line.len() == LINE_MAX {
                self.put()?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl<W: Write> Drop for Labelled<W> {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            // A reader that went away needs no last line.
            let _ = self.put();
        }
    }
}

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

    #[test]
    fn lines_are_labelled_whole() {
        use std::sync::{Arc, Mutex};
        #[derive(Clone, Default)]
        struct Shared(Arc<Mutex<Vec<u8>>>);
        impl Write for Shared {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let written = Shared::default();
        let mut sink = sink(written.clone(), Some(2));
        for part in ["on", "e\ntwo\nth", "ree"] {
            sink.write_all(part.as_bytes()).unwrap();
            sink.flush().unwrap();
        }
        drop(sink);
        assert_eq!(*written.0.lock().unwrap(), b"2| one\n2| two\n2| three\n");
    }
}
