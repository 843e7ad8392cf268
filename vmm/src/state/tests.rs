//! A guest of a few instructions, saved and continued under this host's KVM.

use std::fs::File;

use berth_devices::saved::Sections;
use berth_devices::seccomp::settle_allocator;
use kvm_bindings::kvm_regs;
use kvm_ioctls::{Kvm, VcpuExit, VmFd};
use vm_memory::{Bytes, GuestAddress};

use super::{cpu, platform, ram};
use crate::cpu::registers::{set_common, set_segments};
use crate::kvm;
use crate::kvm::vcpu::Vcpu;
use crate::memory::{self, Memory};
use crate::seccomp;

const MEMORY: u64 = 32 << 20;
const CODE: u64 = 0x1_0000;
const PORT: u16 = 0x80;
/// `inc dword [0x20000]; mov al, [0x20000]; out 0x80, al; jmp` back, in 32-bit protected mode without paging.
const PROGRAM: [u8; 15] = [0xff, 0x05, 0, 0, 2, 0, 0xa0, 0, 0, 2, 0, 0xe6, PORT as u8, 0xeb, 0xf1];

struct Guest {
    vcpu: Vcpu,
    vm: VmFd,
    memory: Memory,
}

impl Guest {
    fn new(kvm: &Kvm, memory: Memory) -> Self {
        let vm = kvm::create_vm(kvm).unwrap();
        kvm::map_memory(&vm, &memory).unwrap();
        Self { vcpu: Vcpu::new(&vm, 0).unwrap(), vm, memory }
    }

    fn boot(kvm: &Kvm) -> Self {
        let mut guest = Self::new(kvm, memory::allocate(MEMORY).unwrap());
        guest.vcpu.set_features(&kvm::supported_cpuid(kvm).unwrap()).unwrap();
        set_common(guest.vcpu.fd()).unwrap();
        let mut sregs = guest.vcpu.fd().get_sregs().unwrap();
        set_segments(&mut sregs, false);
        guest.vcpu.fd().set_sregs(&sregs).unwrap();
        let regs = kvm_regs { rip: CODE, rbx: 0x1234_5678, rflags: 2, ..Default::default() };
        guest.vcpu.fd().set_regs(&regs).unwrap();
        guest.memory.write_slice(&PROGRAM, GuestAddress(CODE)).unwrap();
        guest
    }

    /// Lets it count once; what it counted.
    fn next(&mut self) -> u8 {
        loop {
            match self.vcpu.fd_mut().run().unwrap() {
                VcpuExit::IoOut(PORT, &[count]) => return count,
                VcpuExit::IoOut(..) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// On a thread that may do what the owner of a machine may.
    fn save(&mut self, msrs: &[u32]) -> Sections {
        // As a paused CPU does: its last access is completed.
        self.vcpu.fd_mut().set_kvm_immediate_exit(1);
        assert!(self.vcpu.fd_mut().run().is_err());
        self.vcpu.fd_mut().set_kvm_immediate_exit(0);
        let Self { vcpu, vm, .. } = self;
        as_owner(move || {
            let mut sections = Sections::new();
            platform::save(vm, &mut sections).unwrap();
            cpu::save(0, vcpu, msrs, &mut sections).unwrap();
            sections
        })
    }
}

fn as_owner<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    settle_allocator().unwrap();
    let filter = seccomp::owner().unwrap();
    std::thread::scope(|scope| {
        let confined = || {
            filter.enter().unwrap();
            work()
        };
        scope.spawn(confined).join().unwrap()
    })
}

fn write_ram(memory: &Memory) -> File {
    let (file, memory) = (tempfile::tempfile().unwrap(), memory.clone());
    let written = file.try_clone().unwrap();
    as_owner(move || {
        let id = ram::RamId::draw().unwrap();
        let mut writer = ram::RamWriter::new(memory, written, id).unwrap();
        while !writer.step().unwrap() {}
    });
    file
}

#[test]
fn a_guest_goes_on_with_the_next_instruction() {
    // Where there is no KVM at all, the tests of the probe tell so.
    let Ok(kvm) = kvm::open() else { return };
    let msrs = kvm.get_msr_index_list().unwrap().as_slice().to_vec();
    let mut first = Guest::boot(&kvm);
    assert_eq!([first.next(), first.next(), first.next()], [1, 2, 3]);
    let saved = first.save(&msrs);
    let file = write_ram(&first.memory);
    drop(first);

    let mut second = Guest::new(&kvm, memory::map_file(MEMORY, &file).unwrap());
    let mut sections = saved;
    platform::restore(&second.vm, &mut sections).unwrap();
    cpu::restore(0, &mut second.vcpu, &kvm::supported_cpuid(&kvm).unwrap(), &mut sections).unwrap();
    sections.finish().unwrap();
    let regs = second.vcpu.fd().get_regs().unwrap();
    assert_eq!(regs.rbx, 0x1234_5678);
    assert_eq!([second.next(), second.next()], [4, 5]);
    // And again from there.
    second.save(&msrs);
}
