//! The status machine of a virtio device; transports are register maps over it.
//!
//! ```text
//!   0 ──▶ ACKNOWLEDGE ──▶ +DRIVER ──▶ +FEATURES_OK ──▶ +DRIVER_OK      any ──▶ +FAILED
//!   ▲      features may be written     queues may be     device active    device ──▶ +NEEDS_RESET
//!   └───────────────────────────────── write of 0: reset ─────────────────────────────────┘
//! ```

use std::io;
use std::sync::Arc;

use tracing::{debug, warn};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Error as QueueError, Queue, QueueT};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use super::interrupt::{InterruptLine, SharedStatus, Source};
use super::{Activation, ActiveQueue, Interrupt, QueuePosition, Start, VirtioDevice};
use crate::Memory;
use crate::limit::Warnings;

/// Bits of the status byte.
pub mod status {
    /// The guest noticed the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The guest knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// The driver is set up.
    pub const DRIVER_OK: u8 = 4;
    /// Features are agreed on.
    pub const FEATURES_OK: u8 = 8;
    /// The device is broken until it is reset.
    pub const NEEDS_RESET: u8 = 64;
    /// The driver gave up.
    pub const FAILED: u8 = 128;
}

/// Features of rings and transport that the state machine offers for every device.
pub const COMMON_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// A queue as the driver sets it up; nothing is checked before DRIVER_OK.
#[derive(Debug)]
pub struct QueueSetup {
    /// Largest size the device allows.
    pub max_size: u16,
    /// Size the driver chose.
    pub size: u16,
    /// Enabled by the driver.
    pub enabled: bool,
    /// Guest physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest physical address of the available ring.
    pub available: u64,
    /// Guest physical address of the used ring.
    pub used: u64,
    kick: Arc<EventFd>,
}

impl QueueSetup {
    fn new(max_size: u16) -> io::Result<Self> {
        let kick = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        Ok(Self { max_size, size: max_size, enabled: false, descriptors: 0, available: 0, used: 0, kick })
    }

    /// Signalled by the guest's notifications, directly (ioeventfd) or through the transport.
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    fn reset(&mut self) {
        (self.size, self.enabled) = (self.max_size, false);
        (self.descriptors, self.available, self.used) = (0, 0, 0);
        // A kick of the former driver must not reach the next one; an empty counter is the usual case.
        let _ = self.kick.read();
    }

    fn build(&self, memory: &Memory, event_idx: bool, position: Option<&QueuePosition>) -> Result<Queue, QueueError> {
        let mut queue = Queue::new(self.max_size)?;
        queue.try_set_size(self.size)?;
        queue.try_set_desc_table_address(GuestAddress(self.descriptors))?;
        queue.try_set_avail_ring_address(GuestAddress(self.available))?;
        queue.try_set_used_ring_address(GuestAddress(self.used))?;
        queue.set_event_idx(event_idx);
        if let Some(position) = position {
            queue.set_next_avail(position.next_available);
            queue.set_next_used(position.next_used);
        }
        queue.set_ready(true);
        // Address 0 means "never set" to the ring implementation.
        if self.available == 0 || !queue.is_valid(memory) {
            return Err(QueueError::QueueNotReady);
        }
        Ok(queue)
    }
}

/// Status, features and queues of a device as its driver sets them up.
pub struct VirtioState {
    pub(super) name: String,
    pub(super) device: Box<dyn VirtioDevice>,
    memory: Memory,
    pub(super) line: Arc<dyn InterruptLine>,
    pub(super) status: Arc<SharedStatus>,
    pub(super) offered: u64,
    pub(super) accepted: u64,
    pub(super) queues: Vec<QueueSetup>,
    pub(super) active: bool,
    warnings: Warnings,
}

impl VirtioState {
    /// A device in reset. `name` appears in the log.
    pub fn new(
        name: &str,
        device: Box<dyn VirtioDevice>,
        memory: Memory,
        line: Arc<dyn InterruptLine>,
    ) -> io::Result<Self> {
        let queues = device.queue_sizes().iter().map(|&size| QueueSetup::new(size)).collect::<io::Result<_>>()?;
        Ok(Self {
            name: name.to_owned(),
            offered: device.features() | COMMON_FEATURES,
            device,
            memory,
            line,
            status: Arc::default(),
            accepted: 0,
            queues,
            active: false,
            warnings: Warnings::default(),
        })
    }

    /// The name given to [`new`](Self::new).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Type of the device.
    pub fn device_type(&self) -> u32 {
        self.device.device_type()
    }

    /// Whether the device runs (DRIVER_OK was accepted and no reset came).
    pub fn active(&self) -> bool {
        self.active
    }

    /// The status byte.
    pub fn status(&self) -> u8 {
        self.status.get()
    }

    /// Counts changes of the device's configuration.
    pub fn config_generation(&self) -> u8 {
        self.status.generation()
    }

    /// The driver writes the status byte. 0 resets; otherwise bits can only be added, and FEATURES_OK and DRIVER_OK
    /// stay clear when the device does not agree.
    pub fn set_status(&mut self, value: u8) {
        if value == 0 {
            self.reset();
            return;
        }
        let old = self.status.get() & !status::NEEDS_RESET;
        if value & old != old {
            debug!(device = self.name, old, value, "driver tried to clear bits of the status; ignored");
            return;
        }
        let added = value & !old;
        self.status.add(added & (status::ACKNOWLEDGE | status::DRIVER | status::FAILED));
        if added & status::FEATURES_OK != 0 && self.features_acceptable() {
            self.status.add(status::FEATURES_OK);
        }
        if added & status::DRIVER_OK != 0 && self.status.get() & status::FEATURES_OK != 0 {
            self.status.add(status::DRIVER_OK);
            self.activate();
        }
    }

    fn features_acceptable(&self) -> bool {
        let begun = status::ACKNOWLEDGE | status::DRIVER;
        let foreign = self.accepted & !self.offered;
        let modern = self.accepted & 1 << VIRTIO_F_VERSION_1 != 0;
        if foreign != 0 || !modern {
            debug!(device = self.name, foreign, modern, "driver's choice of features is refused");
        }
        self.status.get() & begun == begun && foreign == 0 && modern
    }

    /// Hands the queues to the device; `positions` are those of a restored one.
    pub(super) fn hand_over(&mut self, start: Start, positions: &[QueuePosition]) -> Result<(), String> {
        let queues = self.build_queues(positions)?;
        let (memory, features, interrupt) = (self.memory.clone(), self.accepted, self.interrupt(Source::Config));
        let activation = Activation { start, memory, features, queues, interrupt };
        self.device.activate(activation).map_err(|error| error.to_string())
    }

    fn activate(&mut self) {
        match self.hand_over(Start::Fresh, &[]) {
            Ok(()) => {
                debug!(device = self.name, features = self.accepted, "device is active");
                self.active = true;
            }
            Err(error) => {
                if self.warnings.allowed() {
                    warn!(device = self.name, error, "device could not be activated; it asks the driver for a reset");
                }
                self.interrupt(Source::Config).needs_reset();
            }
        }
    }

    fn build_queues(&self, positions: &[QueuePosition]) -> Result<Vec<ActiveQueue>, String> {
        let event_idx = self.accepted & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let mut queues = Vec::with_capacity(self.queues.len());
        for (index, setup) in (0u16..).zip(&self.queues).filter(|(_, setup)| setup.enabled) {
            let position = positions.iter().find(|position| position.index == index);
            let queue =
                setup.build(&self.memory, event_idx, position).map_err(|error| format!("queue {index}: {error}"))?;
            let kick = setup.kick.clone();
            queues.push(ActiveQueue::new(index, queue, kick, self.interrupt(Source::Queue(index))));
        }
        Ok(queues)
    }

    fn interrupt(&self, source: Source) -> Interrupt {
        Interrupt::new(self.line.clone(), self.status.clone(), source)
    }

    /// Back to the state after power-on. Returns when the device's thread let go of guest memory.
    pub fn reset(&mut self) {
        // A device that failed to activate is told too: it may have got half way.
        if self.status.get() & status::DRIVER_OK != 0 {
            self.device.reset();
        }
        self.active = false;
        self.accepted = 0;
        self.queues.iter_mut().for_each(QueueSetup::reset);
        self.status.clear();
    }

    /// 32 feature bits the device offers, page `select`.
    pub fn device_features(&self, select: u32) -> u32 {
        page(self.offered, select)
    }

    /// 32 feature bits the driver chose, page `select`.
    pub fn driver_features(&self, select: u32) -> u32 {
        page(self.accepted, select)
    }

    /// The driver writes page `select` of its choice; not allowed any more once features are agreed on.
    pub fn set_driver_features(&mut self, select: u32, value: u32) {
        if self.status.get() & status::FEATURES_OK != 0 {
            debug!(device = self.name, "driver wrote features after FEATURES_OK; ignored");
            return;
        }
        match select {
            0 => self.accepted = self.accepted & !0xffff_ffff | u64::from(value),
            1 => self.accepted = self.accepted & 0xffff_ffff | u64::from(value) << 32,
            _ => {}
        }
    }

    /// Number of queues.
    pub fn queue_count(&self) -> u16 {
        self.queues.len() as u16
    }

    /// Queue `index` as set up.
    pub fn queue(&self, index: u16) -> Option<&QueueSetup> {
        self.queues.get(usize::from(index))
    }

    /// Queue `index` for changing: only while features are agreed on, the device is not running and the queue is not
    /// enabled yet.
    pub fn queue_mut(&mut self, index: u16) -> Option<&mut QueueSetup> {
        let bits = self.status.get();
        let settable = status::FEATURES_OK | status::DRIVER_OK | status::FAILED;
        if bits & settable != status::FEATURES_OK {
            debug!(device = self.name, status = bits, "driver wrote the set-up of a queue at the wrong time; ignored");
            return None;
        }
        self.queues.get_mut(usize::from(index)).filter(|queue| !queue.enabled)
    }

    /// Reads the device's configuration.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        self.device.read_config(offset, data);
    }

    /// Tells the driver if what the device stands for was changed by the host.
    pub fn look_again(&mut self) -> io::Result<()> {
        if self.device.look_again()? {
            match self.active {
                true => self.interrupt(Source::Config).config_changed(),
                // One that is reading it now reads it again.
                false => self.status.count_change(),
            }
        }
        Ok(())
    }

    /// Writes the device's configuration.
    pub fn write_config(&mut self, offset: u64, data: &[u8]) {
        if self.status.get() & status::DRIVER != 0 {
            self.device.write_config(offset, data);
        }
    }
}

fn page(bits: u64, select: u32) -> u32 {
    match select {
        0 => bits as u32,
        1 => (bits >> 32) as u32,
        _ => 0,
    }
}
