//! The keyboard controller (ports 0x60 to 0x64), of which only the reset line exists.

use vmm_sys_util::eventfd::EventFd;

use crate::BusDevice;
use crate::saved::{Sections, StateError};

/// Offset of the command and status port 0x64.
const COMMAND_PORT: u64 = 4;
/// "Pulse the reset line."
const COMMAND_RESET: u8 = 0xfe;

/// Offset 0 is port 0x60, 4 is port 0x64.
pub struct I8042 {
    reset: EventFd,
}

impl I8042 {
    /// Writes `reset` when the guest pulses the reset line.
    pub fn new(reset: EventFd) -> Self {
        Self { reset }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        // Status: input buffer empty, so that a command is accepted; no output.
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == COMMAND_PORT && data.first() == Some(&COMMAND_RESET) {
            // Fails only if the counter is full: then the reset is asked for already.
            let _ = self.reset.write(1);
        }
    }

    fn save(&self, _sections: &mut Sections) -> Result<(), StateError> {
        Ok(())
    }

    fn restore(&mut self, _sections: &mut Sections) -> Result<(), StateError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_utils::event_fd;

    #[test]
    fn only_the_reset_command_resets() {
        let reset = event_fd();
        let mut device = I8042::new(reset.try_clone().unwrap());
        device.write(0, &[0xfe]);
        device.write(4, &[0xfd]);
        device.write(4, &[]);
        assert!(reset.read().is_err());
        let mut status = [0xff];
        device.read(4, &mut status);
        assert_eq!(status, [0]);
        device.write(4, &[0xfe]);
        assert!(reset.read().is_ok());
    }
}
