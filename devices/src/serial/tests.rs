use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::Serial;
use crate::BusDevice;
use crate::saved::Sections;
use crate::test_utils::event_fd;

struct Sink(Sender<u8>);

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        data.iter().for_each(|byte| self.0.send(*byte).unwrap());
        Ok(data.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn port() -> (Serial, Receiver<u8>, vmm_sys_util::eventfd::EventFd) {
    let (sender, output) = channel();
    let irq = event_fd();
    (Serial::new(irq.try_clone().unwrap(), Box::new(Sink(sender))).unwrap(), output, irq)
}

fn byte(serial: &mut Serial, offset: u64) -> u8 {
    let mut data = [0];
    serial.read(offset, &mut data);
    data[0]
}

#[test]
fn output_reaches_the_sink() {
    let (mut serial, output, _irq) = port();
    for value in b"hello" {
        serial.write(0, &[*value]);
    }
    assert_eq!(output.try_iter().collect::<Vec<_>>(), b"hello");
}

#[test]
fn long_input_waits_for_the_guest() {
    let (mut serial, _output, irq) = port();
    serial.write(1, &[1]);
    let input: Vec<u8> = (0..100_000u32).map(|value| value as u8).collect();
    let drained = serial.drained().unwrap();
    let taken = serial.enqueue(&input);
    assert!((64 << 10..input.len()).contains(&taken));
    assert!(irq.read().is_ok());
    for expected in &input[..taken] {
        assert_eq!(byte(&mut serial, 5) & 1, 1);
        assert_eq!(byte(&mut serial, 0), *expected);
    }
    assert_eq!(byte(&mut serial, 5) & 1, 0);
    assert!(irq.read().unwrap() <= taken as u64 / 32, "an interrupt is raised for a FIFO, not for a byte");
    assert!(drained.read().is_ok());
    assert_eq!(serial.enqueue(&input[taken..]), input.len() - taken);
}

#[test]
fn odd_accesses_are_survived() {
    let (mut serial, _output, _irq) = port();
    let mut data = [0; 8];
    for offset in [0, 7, 8, u64::MAX] {
        serial.read(offset, &mut data);
        serial.write(offset, &data);
        serial.read(offset, &mut []);
        serial.write(offset, &[]);
    }
}

#[test]
fn input_before_the_port_is_opened_is_told_on_opening() {
    let (mut serial, _output, irq) = port();
    assert_eq!(serial.enqueue(&[b'x'; 200]), 200);
    assert!(irq.read().is_err());
    serial.write(1, &[1]);
    assert!(irq.read().is_ok());
    assert_eq!(byte(&mut serial, 2) & 0xf, 4, "received data");
    let mut count = 0;
    while byte(&mut serial, 5) & 1 != 0 {
        assert_eq!(byte(&mut serial, 0), b'x');
        count += 1;
    }
    assert_eq!(count, 200);
}

#[test]
fn a_restored_port_has_registers_and_input_and_raises_its_interrupt() {
    let (mut serial, _output, _irq) = port();
    serial.write(1, &[1]);
    serial.write(7, &[0x5a]);
    let typed: Vec<u8> = (0..100).collect();
    assert_eq!(serial.enqueue(&typed), 100);
    let mut sections = Sections::new();
    serial.save(&mut sections).unwrap();
    let (mut other, output, irq) = port();
    other.restore(&mut sections.clone()).unwrap();
    let mut again = Sections::new();
    other.save(&mut again).unwrap();
    assert_eq!(again, sections);
    assert!(irq.read().is_ok(), "received data are told of");
    assert_eq!(byte(&mut other, 7), 0x5a);
    assert_eq!((0..100).map(|_| byte(&mut other, 0)).collect::<Vec<_>>(), typed);
    other.write(0, b"x");
    assert_eq!(output.try_iter().collect::<Vec<_>>(), b"x");
}
