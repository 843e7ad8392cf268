//! What each thread of the process may ask of the kernel. The lists of device threads are with the devices.
//!
//! | thread | made | filter |
//! |---|---|---|
//! | a device's | with the machine | its [`ThreadKind`](berth_devices::worker::ThreadKind)'s |
//! | loader | reads kernel and initrd, which come from the guest's disk, and ends | [`loader`] |
//! | virtual CPU | with the machine | [`vcpu`] |
//! | owner | with the process | [`owner`], once the machine is built |

use std::io;
use std::sync::Arc;

use berth_devices::seccomp::{Filter, Restricted};
use berth_devices::worker::ThreadSetup;
use kvm_bindings::{KVMIO, kvm_ioeventfd, kvm_irq_routing, kvm_irqfd, kvm_regs};

const fn ioctl(request: libc::Ioctl) -> Restricted {
    Restricted::with(libc::SYS_ioctl, 1, request as u32)
}

/// Requests to KVM that a virtual CPU makes (linux/kvm.h): it runs the guest, and serves what the guest does to the registers
/// of interrupts and notifications.
const VCPU: [Restricted; 6] = [
    ioctl(libc::_IO(KVMIO, 0x80)),                     // KVM_RUN
    ioctl(libc::_IOR::<kvm_regs>(KVMIO, 0x81)),        // KVM_GET_REGS
    ioctl(libc::_IO(KVMIO, 0xad)),                     // KVM_KVMCLOCK_CTRL
    ioctl(libc::_IOW::<kvm_ioeventfd>(KVMIO, 0x79)),   // KVM_IOEVENTFD
    ioctl(libc::_IOW::<kvm_irq_routing>(KVMIO, 0x6a)), // KVM_SET_GSI_ROUTING
    ioctl(libc::_IOW::<kvm_irqfd>(KVMIO, 0x76)),       // KVM_IRQFD
];

/// For the threads of devices.
pub fn devices() -> ThreadSetup {
    Arc::new(|kind| kind.filter()?.enter())
}

/// For the thread of a virtual CPU.
pub fn vcpu() -> io::Result<Filter> {
    Filter::new(&[libc::SYS_timerfd_settime], &VCPU)
}

/// For the thread that reads kernel and initrd.
pub fn loader() -> io::Result<Filter> {
    Filter::new(&[libc::SYS_fstat, libc::SYS_lseek, libc::SYS_pread64, libc::SYS_readv, libc::SYS_statx], &[])
}

/// For the owner of the machine, once that is built.
pub fn owner() -> io::Result<Filter> {
    let calls = [
        libc::SYS_accept4,
        libc::SYS_ftruncate,
        libc::SYS_poll,
        libc::SYS_ppoll,
        libc::SYS_pread64,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_sendto,
        libc::SYS_writev,
    ];
    let restricted = [
        ioctl(libc::FIONBIO),
        // The console's connections.
        Restricted::with(libc::SYS_socketpair, 0, libc::AF_UNIX as u32),
        // Devices that go with the machine take their eventfds back.
        VCPU[3],
        VCPU[5],
    ];
    Filter::new(&calls, &restricted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_numbers_of_the_kernel() {
        let numbers = [0xae80, 0x8090_ae81, 0xaead, 0x4040_ae79, 0x4008_ae6a, 0x4020_ae76];
        assert_eq!(VCPU, numbers.map(|number| ioctl(number as libc::Ioctl)));
    }

    #[test]
    fn the_filters_compile() {
        assert!(vcpu().is_ok() && loader().is_ok() && owner().is_ok());
    }
}
