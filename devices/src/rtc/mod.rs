//! The CMOS clock (ports 0x70 and 0x71): tells the host's time in UTC, and nothing else.

mod calendar;

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::BusDevice;
use crate::saved::{Saved, Sections, StateError};
use calendar::Calendar;

const INDEX_PORT: u64 = 0;
const DATA_PORT: u64 = 1;

const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_D: u8 = 0x0d;
const CENTURY: u8 = 0x32;
/// Divider of a 32,768 Hz crystal, 1,024 Hz periodic rate; no update ever in progress.
const DIVIDER: u8 = 0x26;
/// 24 hours, BCD.
const HOURS_24: u8 = 0x02;
/// The battery is good.
const VALID: u8 = 0x80;

/// Name of the clock in saved state.
const NAME: &str = "rtc";

/// The clock as saved state.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedRtc {
    index: u8,
}

impl Saved for SavedRtc {
    const KIND: &'static str = "rtc";
    const VERSION: u32 = 1;
}

/// A clock that shows the host's time in UTC. Offset 0 is the index port, 1 the data port. What the guest writes is
/// ignored: the clock follows the host's.
#[derive(Debug, Default)]
pub struct Rtc {
    index: u8,
    /// The time when the guest began to read it, so that a read over several registers is consistent.
    latched: Option<Calendar>,
}

impl Rtc {
    /// The clock.
    pub fn new() -> Self {
        Self::default()
    }

    fn register(&mut self) -> u8 {
        let seconds = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        match self.index {
            // A driver reads "update in progress" first.
            STATUS_A => {
                self.latched = Some(Calendar::from_unix(seconds()));
                return DIVIDER;
            }
            STATUS_B => return HOURS_24,
            STATUS_D => return VALID,
            _ => {}
        }
        let fresh = self.index == 0 || self.latched.is_none();
        let now = match self.latched {
            Some(latched) if !fresh => latched,
            _ => Calendar::from_unix(seconds()),
        };
        self.latched = Some(now);
        let value = match self.index {
            0x00 => now.second,
            0x02 => now.minute,
            0x04 => now.hour,
            0x06 => now.weekday,
            0x07 => now.day,
            0x08 => now.month,
            0x09 => (now.year % 100) as u8,
            CENTURY => (now.year / 100) as u8,
            _ => return 0,
        };
        ((value / 10) << 4) | (value % 10)
    }
}

impl BusDevice for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let ([value, ..], DATA_PORT) = (data, offset) {
            *value = self.register();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let ([value, ..], INDEX_PORT) = (data, offset) {
            // Bit 7 masks the NMI, which does not exist here.
            self.index = value & 0x7f;
        }
    }

    fn save(&self, sections: &mut Sections) -> Result<(), StateError> {
        sections.add(NAME, &SavedRtc { index: self.index })
    }

    fn restore(&mut self, sections: &mut Sections) -> Result<(), StateError> {
        let saved: SavedRtc = sections.take(NAME)?;
        // The time that was latched is over.
        *self = Self { index: saved.index & 0x7f, latched: None };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(rtc: &mut Rtc, index: u8) -> u8 {
        let mut data = [0];
        rtc.write(0, &[index]);
        rtc.read(1, &mut data);
        data[0]
    }

    fn decimal(bcd: u8) -> u64 {
        u64::from(bcd >> 4) * 10 + u64::from(bcd & 15)
    }

    #[test]
    fn the_clock_tells_the_hosts_date() {
        let mut rtc = Rtc::new();
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(register(&mut rtc, STATUS_A) & 0x80, 0);
        let year = decimal(register(&mut rtc, CENTURY)) * 100 + decimal(register(&mut rtc, 9));
        let expected = Calendar::from_unix(before);
        assert_eq!(year, u64::from(expected.year));
        assert_eq!(decimal(register(&mut rtc, 8)), u64::from(expected.month));
        assert_eq!(register(&mut rtc, STATUS_D), 0x80);
        assert_eq!(register(&mut rtc, 0x7f), 0);
    }

    #[test]
    fn a_restored_clock_has_the_same_register_selected() {
        let mut rtc = Rtc::new();
        rtc.write(0, &[STATUS_D]);
        let mut sections = Sections::new();
        rtc.save(&mut sections).unwrap();
        let mut other = Rtc::new();
        other.restore(&mut sections.clone()).unwrap();
        let mut again = Sections::new();
        other.save(&mut again).unwrap();
        assert_eq!(again, sections);
        let mut data = [0];
        other.read(1, &mut data);
        assert_eq!(data, [VALID]);
    }

    #[test]
    fn odd_accesses_are_survived() {
        let mut rtc = Rtc::new();
        let mut data = [0; 8];
        rtc.write(1, &[1, 2, 3]);
        rtc.write(9, &[]);
        rtc.read(1, &mut data);
        rtc.read(1, &mut []);
        rtc.read(u64::MAX, &mut data);
    }
}
