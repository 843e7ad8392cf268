//! The PCI function of a virtio device.

use std::io;
use std::sync::Arc;

use tracing::warn;

use super::common::{self, Common};
use super::line::MsixLine;
use super::{BAR, BAR_SIZE, COMMON, DEVICE, ISR, Kicks, MAX_QUEUES, NOTIFY, NOTIFY_STEP, PENDING, TABLE};
use crate::Memory;
use crate::limit::Warnings;
use crate::pci::{BarRequest, ConfigSpace, Identity, Msix, MsixBackend, PciDevice, msix};
use crate::saved::{Sections, StateError};
use crate::virtio::{VirtioDevice, VirtioState, device_type};

const VENDOR: u16 = 0x1af4;
/// Modern device ids: this plus the device type.
const DEVICE_BASE: u16 = 0x1040;
const CAPABILITY_VENDOR: u8 = 0x09;

const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_ISR: u8 = 3;
const CFG_DEVICE: u8 = 4;
const CFG_PCI: u8 = 5;

/// A virtio device on the PCI bus.
pub struct VirtioPci {
    pub(super) config: ConfigSpace,
    pub(super) msix: Msix,
    /// Registers of the MSI-X capability and of the access window.
    msix_register: u16,
    pub(super) window_register: u16,
    pub(super) common: Common,
    pub(super) state: VirtioState,
    pub(super) line: Arc<MsixLine>,
    kicks: Box<dyn Kicks>,
    /// Address at which each queue's eventfd is registered.
    registered: Vec<Option<u64>>,
    warnings: Warnings,
}

impl VirtioPci {
    /// Number of MSI-X vectors `device` uses: one for the configuration and one for each queue. The [`MsixBackend`]
    /// must have as many.
    pub fn vectors(device: &dyn VirtioDevice) -> u16 {
        device.queue_sizes().len() as u16 + 1
    }

    /// Puts `device` behind a PCI function. `name` names it in the log (`disk0`, `eth0`).
    pub fn new(
        name: &str,
        device: Box<dyn VirtioDevice>,
        memory: Memory,
        msix: Box<dyn MsixBackend>,
        kicks: Box<dyn Kicks>,
    ) -> io::Result<Self> {
        let queues = device.queue_sizes().len();
        if queues > MAX_QUEUES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a virtio device has at most 256 queues"));
        }
        let mut config = ConfigSpace::new(identity(device.device_type()));
        config.add_bar(BarRequest { index: BAR, size: BAR_SIZE });
        let msix = Msix::new(msix, Self::vectors(&*device));
        let (body, writable) = msix.capability(BAR, TABLE as u32, PENDING as u32);
        let msix_register = config.add_capability(msix::CAPABILITY_ID, &body, &writable);
        let window_register = add_virtio_capabilities(&mut config, queues);
        let line = Arc::new(MsixLine::new(&msix, queues)?);
        let state = VirtioState::new(name, device, memory, line.clone())?;
        let (common, registered) = (Common::default(), vec![None; queues]);
        Ok(Self {
            config,
            msix,
            msix_register,
            window_register,
            common,
            state,
            line,
            kicks,
            registered,
            warnings: Warnings::default(),
        })
    }

    /// The state machine behind the registers.
    pub fn state(&self) -> &VirtioState {
        &self.state
    }

    /// Registers the queues' eventfds where the guest's notifications go now, and nowhere while the device is idle.
    pub(super) fn sync_kicks(&mut self) {
        let base = self.config.bar_address(BAR).filter(|_| self.state.active());
        for (index, registered) in (0u16..).zip(&mut self.registered) {
            let Some(queue) = self.state.queue(index) else { return };
            let wanted = base.filter(|_| queue.enabled).map(|base| base + NOTIFY + u64::from(index) * NOTIFY_STEP);
            if *registered == wanted {
                continue;
            }
            if let Some(address) = registered.take()
                && let Err(error) = self.kicks.unregister(address, queue.kick())
                && self.warnings.allowed()
            {
                warn!(device = self.state.name(), index, %error, "notification of a queue cannot be taken back");
            }
            if let Some(address) = wanted {
                match self.kicks.register(address, queue.kick()) {
                    Ok(()) => *registered = Some(address),
                    // The transport's own notification registers work too, only slower.
                    Err(error) if self.warnings.allowed() => {
                        warn!(device = self.state.name(), index, %error, "notification of a queue is not accelerated");
                    }
                    Err(_) => {}
                }
            }
        }
    }

    /// Heeds the control word of MSI-X.
    pub(super) fn sync_msix(&mut self) {
        let control = self.config.word(self.msix_register + 2);
        self.msix.set_control(control);
        self.line.set_enabled(self.msix.enabled());
    }

    /// Access to the BAR through configuration space: what the window's registers point at.
    fn window(&self) -> Option<(u64, usize)> {
        let bar = self.config.dword(self.window_register + 4) as u8;
        let offset = self.config.dword(self.window_register + 8);
        let len = self.config.dword(self.window_register + 12) as usize;
        let aligned = matches!(len, 1 | 2 | 4) && (offset as usize).is_multiple_of(len);
        (bar == BAR && aligned && u64::from(offset) < BAR_SIZE).then_some((offset.into(), len))
    }

    fn is_window(&self, register: u16) -> bool {
        register == self.window_register + 16
    }

    fn notify(&self, offset: u64) {
        let queue = u16::try_from((offset - NOTIFY) / NOTIFY_STEP).ok().and_then(|index| self.state.queue(index));
        if let Some(queue) = queue {
            // Fails only if the counter is full: then the device comes anyway.
            let _ = queue.kick().write(1);
        }
    }
}

impl PciDevice for VirtioPci {
    fn config_read(&mut self, register: u16, data: &mut [u8]) {
        self.config.read(register, data);
        if self.is_window(register)
            && let Some((offset, len)) = self.window()
            && len <= data.len()
        {
            self.bar_read(BAR, offset, &mut data[..len]);
        }
    }

    fn config_write(&mut self, register: u16, data: &[u8]) {
        self.config.write(register, data);
        if self.is_window(register)
            && let Some((offset, len)) = self.window()
            && len <= data.len()
        {
            self.bar_write(BAR, offset, &data[..len]);
        }
        self.sync_msix();
        self.sync_kicks();
    }

    fn bars(&self) -> Vec<BarRequest> {
        self.config.bars().to_vec()
    }

    fn set_bar_address(&mut self, index: u8, addr: u64) {
        self.config.set_bar_address(index, addr);
        self.sync_kicks();
    }

    fn bar_address(&self, index: u8) -> Option<u64> {
        self.config.bar_address(index)
    }

    fn bar_read(&mut self, _index: u8, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match offset {
            COMMON..ISR => self.common.read(&self.state, &self.line, offset - COMMON, data),
            ISR => data.iter_mut().take(1).for_each(|byte| *byte = self.line.take_isr()),
            DEVICE..NOTIFY => self.state.read_config(offset - DEVICE, data),
            TABLE..PENDING => self.msix.table_read(offset - TABLE, data),
            PENDING..BAR_SIZE => self.msix.pending_read(offset - PENDING, data),
            _ => {}
        }
    }

    fn bar_write(&mut self, _index: u8, offset: u64, data: &[u8]) {
        match offset {
            COMMON..ISR => {
                let before = self.state.status();
                self.common.write(&mut self.state, &self.line, offset - COMMON, data);
                if before != 0 && self.state.status() == 0 {
                    self.common.reset();
                    self.line.reset();
                }
                self.sync_kicks();
            }
            DEVICE..NOTIFY => self.state.write_config(offset - DEVICE, data),
            NOTIFY..TABLE => self.notify(offset),
            TABLE..PENDING => self.msix.table_write(offset - TABLE, data),
            _ => {}
        }
    }

    fn save(&mut self, sections: &mut Sections) -> Result<(), StateError> {
        self.save_function(sections)
    }

    fn restore(&mut self, sections: &mut Sections) -> Result<(), StateError> {
        self.restore_function(sections)
    }

    fn resume(&mut self) {
        self.state.resume();
    }

    fn look_again(&mut self) -> io::Result<()> {
        self.state.look_again()
    }
}

fn identity(kind: u32) -> Identity {
    let class = match kind {
        device_type::NET => 0x02_0000,
        device_type::BLOCK => 0x01_8000,
        device_type::VSOCK => 0x07_8000,
        _ => 0x00_ff00,
    };
    let device = DEVICE_BASE + kind as u16;
    Identity { vendor: VENDOR, device, revision: 1, class, subsystem_vendor: VENDOR, subsystem: device }
}

/// Adds the capabilities that tell the driver where everything is; returns the register of the access window.
fn add_virtio_capabilities(config: &mut ConfigSpace, queues: usize) -> u16 {
    let notify_len = queues as u32 * NOTIFY_STEP as u32;
    let step = (NOTIFY_STEP as u32).to_le_bytes();
    add_capability(config, CFG_COMMON, COMMON, common::SIZE as u32, &[], &[]);
    add_capability(config, CFG_ISR, ISR, 1, &[], &[]);
    add_capability(config, CFG_DEVICE, DEVICE, 0x1000, &[], &[]);
    add_capability(config, CFG_NOTIFY, NOTIFY, notify_len, &step, &[]);
    // BAR, offset and length of the window are the driver's to write, and so is its data.
    let mut writable = [0; 18];
    writable[2] = 0xff;
    writable[6..].fill(0xff);
    add_capability(config, CFG_PCI, 0, 0, &[0; 4], &writable)
}

fn add_capability(config: &mut ConfigSpace, kind: u8, offset: u64, len: u32, extra: &[u8], writable: &[u8]) -> u16 {
    let mut body = vec![16 + extra.len() as u8, kind, BAR, 0, 0, 0];
    body.extend_from_slice(&(offset as u32).to_le_bytes());
    body.extend_from_slice(&len.to_le_bytes());
    body.extend_from_slice(extra);
    config.add_capability(CAPABILITY_VENDOR, &body, writable)
}
