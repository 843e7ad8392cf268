//! Interrupt routing, and the two seams through which devices reach KVM: [`MsixBackend`] and [`Kicks`].

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use berth_devices::pci::{MsiMessage, MsixBackend};
use berth_devices::virtio::Kicks;
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

/// Interrupt of the first serial port, as ever.
pub const COM1_IRQ: u32 = 4;
/// Interrupt of the generic event device that tells of the power button.
pub const EVENT_IRQ: u32 = 9;
/// Interrupt of the generic event device that tells of a new generation id.
pub const GENERATION_IRQ: u32 = 10;
/// Pins of the I/O APIC; message signalled interrupts are numbered from here.
const IOAPIC_PINS: u32 = 24;
/// Most message signalled interrupts of a machine: 31 devices with at most 64 vectors, and KVM takes 4096 routes.
const MAX_MSIS: u32 = 2048;

/// Which interrupt goes where. One for a machine, shared by its devices.
pub struct Routing {
    vm: Arc<VmFd>,
    state: Mutex<State>,
}

struct State {
    routes: BTreeMap<u32, Route>,
    next: u32,
}

/// Where an interrupt goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    /// The pin of the I/O APIC with the same number.
    IoApic,
    /// A message.
    Msi(MsiMessage),
}

impl Route {
    fn entry(self, gsi: u32) -> kvm_irq_routing_entry {
        let mut entry = kvm_irq_routing_entry { gsi, ..Default::default() };
        match self {
            Self::IoApic => {
                entry.type_ = KVM_IRQ_ROUTING_IRQCHIP;
                entry.u.irqchip = kvm_irq_routing_irqchip { irqchip: KVM_IRQCHIP_IOAPIC, pin: gsi };
            }
            Self::Msi(message) => {
                entry.type_ = KVM_IRQ_ROUTING_MSI;
                entry.u.msi = kvm_irq_routing_msi {
                    address_lo: message.address as u32,
                    address_hi: (message.address >> 32) as u32,
                    data: message.data,
                    ..Default::default()
                };
            }
        }
        entry
    }
}

impl Routing {
    /// Routes the pins of the I/O APIC. (There is no PIC for the guest: the tables say so.)
    pub fn new(vm: Arc<VmFd>) -> io::Result<Arc<Self>> {
        let routes: BTreeMap<_, _> = (0..IOAPIC_PINS).map(|pin| (pin, Route::IoApic)).collect();
        let routing = Self { vm, state: Mutex::new(State { routes, next: IOAPIC_PINS }) };
        {
            let state = routing.state.lock().unwrap_or_else(PoisonError::into_inner);
            routing.apply(&state)?;
        }
        Ok(Arc::new(routing))
    }

    fn apply(&self, state: &State) -> io::Result<()> {
        let entries: Vec<_> = state.routes.iter().map(|(gsi, route)| route.entry(*gsi)).collect();
        let table = KvmIrqRouting::from_entries(&entries).map_err(|e| io::Error::other(e.to_string()))?;
        self.vm.set_gsi_routing(&table).map_err(io::Error::from)
    }

    /// An eventfd that raises pin `pin` of the I/O APIC (edge).
    pub fn line(&self, pin: u32) -> io::Result<EventFd> {
        let fd = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        self.vm.register_irqfd(&fd, pin)?;
        Ok(fd)
    }

    /// Vectors for one device.
    pub fn msix(self: &Arc<Self>, count: u16) -> io::Result<Box<dyn MsixBackend>> {
        let first = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let first = state.next;
            if first + u32::from(count) > IOAPIC_PINS + MAX_MSIS {
                return Err(io::Error::other("the machine's devices want more interrupts than there are"));
            }
            state.next += u32::from(count);
            first
        };
        let vectors = (0..u32::from(count))
            .map(|i| {
                let irqfd = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
                Ok(Vector { gsi: first + i, irqfd, connected: false })
            })
            .collect::<io::Result<_>>()?;
        Ok(Box::new(Vectors { routing: self.clone(), vectors }))
    }

    fn route(&self, gsi: u32, message: MsiMessage) -> io::Result<()> {
        let route = Route::Msi(message);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.routes.get(&gsi) == Some(&route) {
            return Ok(());
        }
        state.routes.insert(gsi, route);
        self.apply(&state)
    }
}

struct Vector {
    gsi: u32,
    irqfd: EventFd,
    /// KVM listens to the eventfd.
    connected: bool,
}

/// The vectors of one device.
struct Vectors {
    routing: Arc<Routing>,
    vectors: Vec<Vector>,
}

impl MsixBackend for Vectors {
    fn set_vector(&mut self, vector: u16, message: MsiMessage, masked: bool) -> io::Result<()> {
        let Some(vector) = self.vectors.get_mut(usize::from(vector)) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("there is no interrupt vector {vector}")));
        };
        if masked {
            if vector.connected {
                self.routing.vm.unregister_irqfd(&vector.irqfd, vector.gsi)?;
                vector.connected = false;
            }
            return Ok(());
        }
        self.routing.route(vector.gsi, message)?;
        if !vector.connected {
            // An interrupt raised meanwhile lies in the counter and is delivered now.
            self.routing.vm.register_irqfd(&vector.irqfd, vector.gsi)?;
            vector.connected = true;
        }
        Ok(())
    }

    fn irqfd(&self, vector: u16) -> &EventFd {
        &self.vectors[usize::from(vector)].irqfd
    }
}

/// ioeventfds for the notifications of virtio devices.
pub struct KvmKicks(pub Arc<VmFd>);

impl Kicks for KvmKicks {
    fn register(&mut self, address: u64, fd: &EventFd) -> io::Result<()> {
        Ok(self.0.register_ioevent(fd, &IoEventAddress::Mmio(address), NoDatamatch)?)
    }

    fn unregister(&mut self, address: u64, fd: &EventFd) -> io::Result<()> {
        Ok(self.0.unregister_ioevent(fd, &IoEventAddress::Mmio(address), NoDatamatch)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_routed_whole() {
        let entry = Route::Msi(MsiMessage { address: 0x1_fee0_1000, data: 0x4041 }).entry(30);
        // SAFETY: the entry is of the MSI type, whose member was written.
        let msi = unsafe { entry.u.msi };
        assert_eq!((entry.gsi, msi.address_hi, msi.address_lo, msi.data), (30, 1, 0xfee0_1000, 0x4041));
    }
}
