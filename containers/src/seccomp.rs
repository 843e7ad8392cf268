//! The system calls no container may make.
//!
//! A denylist, as LXD has it: what a user namespace does not guard by itself. The filter is written out by hand
//! because it has to let 32-bit programs run while denying them the same calls; filter generators end programs of
//! another ABI instead. The x32 ABI shares numbers with x86-64 under a flag bit, which is masked out.

use std::io;

use libc::sock_filter;

use crate::sys;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const NO_SUCH_CALL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
const DENIED: u32 = libc::SECCOMP_RET_ERRNO | libc::EACCES as u32;

/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
const SECOND_ARGUMENT: u32 = 24;

/// One ABI: its audit number, a mask for call numbers, the number of umount2, and the calls that do not exist.
struct Abi {
    arch: u32,
    mask: u32,
    umount2: u32,
    denied: &'static [u32],
}

#[cfg(target_arch = "x86_64")]
const ABIS: [Abi; 2] = [
    Abi {
        arch: 0xc000_003e,
        mask: !0x4000_0000,
        umount2: libc::SYS_umount2 as u32,
        denied: &[
            libc::SYS_kexec_load as u32,
            libc::SYS_kexec_file_load as u32,
            libc::SYS_open_by_handle_at as u32,
            libc::SYS_init_module as u32,
            libc::SYS_finit_module as u32,
            libc::SYS_delete_module as u32,
            // kexec_load of the x32 ABI.
            528,
        ],
    },
    // i386: kexec_load, open_by_handle_at, init_module, finit_module, delete_module.
    Abi { arch: 0x4000_0003, mask: !0, umount2: 52, denied: &[283, 342, 128, 350, 129] },
];

#[cfg(target_arch = "aarch64")]
const ABIS: [Abi; 2] = [
    Abi {
        arch: 0xc000_00b7,
        mask: !0,
        umount2: libc::SYS_umount2 as u32,
        denied: &[
            libc::SYS_kexec_load as u32,
            libc::SYS_kexec_file_load as u32,
            libc::SYS_open_by_handle_at as u32,
            libc::SYS_init_module as u32,
            libc::SYS_finit_module as u32,
            libc::SYS_delete_module as u32,
        ],
    },
    // 32-bit ARM, in the same order.
    Abi { arch: 0x4000_0028, mask: !0, umount2: 52, denied: &[347, 401, 371, 128, 379, 129] },
];

/// Applies the default filter to the calling process and all its descendants.
pub fn apply() -> io::Result<()> {
    sys::load_seccomp(&default_filter())
}

fn default_filter() -> Vec<sock_filter> {
    let mut program = vec![load(ARCH)];
    for abi in &ABIS {
        let body = abi_filter(abi);
        // Over to the next ABI if it is not this one.
        program.push(jump(libc::BPF_JEQ, abi.arch, 0, body.len() as u8));
        program.extend(body);
    }
    program.push(give(NO_SUCH_CALL));
    program
}

/// Ends in a verdict whatever the call.
fn abi_filter(abi: &Abi) -> Vec<sock_filter> {
    let mut body = vec![load(NR), statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, abi.mask)];
    for number in abi.denied {
        body.extend([jump(libc::BPF_JEQ, *number, 0, 1), give(NO_SUCH_CALL)]);
    }
    // A forced unmount of a network file system fails other users' requests too.
    body.extend([
        jump(libc::BPF_JEQ, abi.umount2, 0, 3),
        load(SECOND_ARGUMENT),
        jump(libc::BPF_JSET, libc::MNT_FORCE as u32, 0, 1),
        give(DENIED),
        give(ALLOW),
    ]);
    body
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn load(offset: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn jump(condition: u32, k: u32, yes: u8, no: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | condition | libc::BPF_K) as u16, jt: yes, jf: no, k }
}

fn give(verdict: u32) -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a filter as the kernel would.
    fn run(filter: &[sock_filter], arch: u32, nr: u32, second: u32) -> u32 {
        let (mut at, mut value) = (0, 0u32);
        loop {
            let op = &filter[at];
            let code = u32::from(op.code);
            at += 1;
            if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS {
                value = match op.k {
                    NR => nr,
                    ARCH => arch,
                    SECOND_ARGUMENT => second,
                    other => panic!("offset {other}"),
                };
            } else if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K {
                value &= op.k;
            } else if code == libc::BPF_RET | libc::BPF_K {
                return op.k;
            } else {
                let yes = match code & 0xf0 {
                    libc::BPF_JEQ => value == op.k,
                    libc::BPF_JSET => value & op.k != 0,
                    other => panic!("jump {other}"),
                };
                at += usize::from(if yes { op.jt } else { op.jf });
            }
        }
    }

    #[test]
    fn every_abi_is_denied_the_same() {
        let filter = default_filter();
        for abi in &ABIS {
            for number in abi.denied {
                assert_eq!(run(&filter, abi.arch, *number, 0), NO_SUCH_CALL);
            }
            assert_eq!(run(&filter, abi.arch, abi.umount2, libc::MNT_FORCE as u32), DENIED);
            assert_eq!(run(&filter, abi.arch, abi.umount2, libc::MNT_DETACH as u32), ALLOW);
            assert_eq!(run(&filter, abi.arch, 1, 1), ALLOW);
        }
        assert_eq!(run(&filter, 0x1234, 1, 0), NO_SUCH_CALL, "an unknown ABI");
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_x32_bit_is_no_way_round() {
        let filter = default_filter();
        let nr = 0x4000_0000 | libc::SYS_init_module as u32;
        assert_eq!(run(&filter, ABIS[0].arch, nr, 0), NO_SUCH_CALL);
    }

    /// Makes call `nr` of the i386 ABI from 64-bit code.
    #[cfg(target_arch = "x86_64")]
    fn call_i386(nr: i32, second: i32) -> i32 {
        let result: i32;
        // SAFETY: the calls made here are given no valid pointer and are refused. rbx, which the compiler keeps for
        // itself, is saved by hand; the first argument is null.
        unsafe {
            std::arch::asm!(
                "push rbx", "xor ebx, ebx", "int 0x80", "pop rbx",
                inlateout("eax") nr => result, in("ecx") second, in("edx") 0,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
        }
        result
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_kernel_applies_it_to_the_32_bit_abi_too() {
        // SAFETY: the child makes system calls and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let status = match apply() {
                Err(_) => 2,
                Ok(()) => {
                    let refused = call_i386(128, 0) == -libc::ENOSYS
                        && call_i386(52, libc::MNT_FORCE) == -libc::EACCES
                        && call_i386(52, 0) == -libc::EFAULT;
                    i32::from(!refused)
                }
            };
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(status) };
        }
        let mut status = 0;
        // SAFETY: waits for the child just made.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(libc::WEXITSTATUS(status), 0, "1: a call was not refused; 2: no filter could be loaded");
    }
}
