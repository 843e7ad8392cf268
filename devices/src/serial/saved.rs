//! The port as saved state.

use serde::{Deserialize, Serialize};
use vm_superio::serial::SerialState;

use crate::saved::Saved;

/// Name of the port in saved state.
pub const NAME: &str = "com1";

/// Registers, FIFO, and input beyond it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSerial {
    divisor: [u8; 2],
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    fifo: Vec<u8>,
    pub(super) input: Vec<u8>,
}

impl Saved for SavedSerial {
    const KIND: &'static str = "serial";
    const VERSION: u32 = 1;
}

impl SavedSerial {
    /// A port in `state` with `input` that waits.
    pub fn of(state: &SerialState, input: Vec<u8>) -> Self {
        Self {
            divisor: [state.baud_divisor_low, state.baud_divisor_high],
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            fifo: state.in_buffer.clone(),
            input,
        }
    }

    /// The same as [`of`](Self::of) took.
    pub fn into_parts(self) -> (SerialState, Vec<u8>) {
        let [baud_divisor_low, baud_divisor_high] = self.divisor;
        let state = SerialState {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable: self.interrupt_enable,
            interrupt_identification: self.interrupt_identification,
            line_control: self.line_control,
            line_status: self.line_status,
            modem_control: self.modem_control,
            modem_status: self.modem_status,
            scratch: self.scratch,
            in_buffer: self.fifo,
        };
        (state, self.input)
    }
}
