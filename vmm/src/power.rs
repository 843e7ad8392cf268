//! Sleep and reset registers of the hardware-reduced ACPI model.

use berth_devices::BusDevice;
use berth_devices::saved::{Sections, StateError};

use crate::machine::{GuestSignal, SignalSender};

/// First port of the device.
pub const PORT: u16 = 0x600;
/// Number of ports.
pub const PORT_COUNT: u64 = 4;
/// Sleep control register.
pub const SLEEP_CONTROL: u16 = PORT;
/// Sleep status register.
pub const SLEEP_STATUS: u16 = PORT + 1;
/// Reset register.
pub const RESET: u16 = PORT + 2;
/// What the guest writes to [`RESET`].
pub const RESET_VALUE: u8 = 1;
/// Sleep type of S5 ("soft off"); the DSDT tells it.
pub const S5_TYPE: u8 = 5;

const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;

/// See the module's text.
pub struct Power {
    signals: SignalSender,
}

impl Power {
    /// Tells the machine's owner of what the guest asks.
    pub fn new(signals: SignalSender) -> Self {
        Self { signals }
    }
}

impl BusDevice for Power {
    fn read(&mut self, _: u64, data: &mut [u8]) {
        // No wake-up is ever pending.
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let Some(&value) = data.first() else { return };
        match PORT + offset as u16 {
            SLEEP_CONTROL if value & SLEEP_ENABLE != 0 => {
                let kind = (value & !SLEEP_ENABLE) >> SLEEP_TYPE_SHIFT & 0x7;
                if kind == S5_TYPE {
                    self.signals.send(GuestSignal::PowerOff);
                } else {
                    tracing::debug!(kind, "the guest asks for a sleep state that the machine does not have");
                }
            }
            RESET if value == RESET_VALUE => self.signals.send(GuestSignal::Reset),
            _ => {}
        }
    }

    fn save(&self, _: &mut Sections) -> Result<(), StateError> {
        Ok(())
    }

    fn restore(&mut self, _: &mut Sections) -> Result<(), StateError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::signals;

    #[test]
    fn only_what_the_tables_tell_has_an_effect() {
        let (sender, receiver) = signals().unwrap();
        let mut power = Power::new(sender);
        let mut write = |port: u16, value| power.write(u64::from(port - PORT), &[value]);
        write(SLEEP_CONTROL, S5_TYPE << 2);
        write(SLEEP_CONTROL, SLEEP_ENABLE | 3 << 2);
        write(SLEEP_STATUS, 0x80);
        write(RESET, 0);
        assert_eq!(receiver.try_next(), None);
        write(SLEEP_CONTROL, SLEEP_ENABLE | S5_TYPE << 2);
        write(RESET, RESET_VALUE);
        assert_eq!(receiver.try_next(), Some(GuestSignal::PowerOff));
        assert_eq!(receiver.try_next(), Some(GuestSignal::Reset));
        power.write(0, &[]);
    }
}
