//! System call filters of the confined helpers.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// Which filter a confined job gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// For the host's tools (`unsquashfs`, `mke2fs`, …), whose needs differ by version: what no unpacking tool
    /// needs is refused.
    Tools,
    /// The same with character devices, for our own code that unpacks: it makes some that are harmless.
    Restore,
    /// For our own parsers: only reading open files, writing to open pipes, memory and exit.
    Reader,
}

/// Calls refused to tools. Capabilities already rule most of them out; the filter keeps their code out of reach.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_socket,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// Calls a parser may make.
const READER: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_tgkill,
    libc::SYS_write,
    libc::SYS_writev,
];

fn arch() -> io::Result<TargetArch> {
    std::env::consts::ARCH.try_into().map_err(io::Error::other)
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    other: SeccompAction,
    matched: SeccompAction,
) -> io::Result<BpfProgram> {
    SeccompFilter::new(rules, other, matched, arch()?).and_then(TryInto::try_into).map_err(io::Error::other)
}

fn refused(calls: &[libc::c_long]) -> BTreeMap<i64, Vec<SeccompRule>> {
    let mut rules = BTreeMap::new();
    for &call in calls {
        insert(&mut rules, call, Vec::new());
    }
    rules
}

/// On x86-64 every call exists a second time with the x32 bit set.
fn insert(rules: &mut BTreeMap<i64, Vec<SeccompRule>>, call: libc::c_long, rule: Vec<SeccompRule>) {
    #[cfg(target_arch = "x86_64")]
    rules.insert(call | 0x4000_0000, rule.clone());
    rules.insert(call, rule);
}

fn masked(argument: u8, mask: u64, value: u64) -> io::Result<SeccompRule> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(io::Error::other)
}

fn tools(devices: &[u32]) -> io::Result<Vec<BpfProgram>> {
    let mut rules = refused(REFUSED);
    let devices = |argument| -> io::Result<Vec<SeccompRule>> {
        devices.iter().map(|kind| masked(argument, u64::from(libc::S_IFMT), u64::from(*kind))).collect()
    };
    #[cfg(target_arch = "x86_64")]
    insert(&mut rules, libc::SYS_mknod, devices(1)?);
    insert(&mut rules, libc::SYS_mknodat, devices(2)?);
    // A user namespace would give every capability back inside it.
    let user = libc::CLONE_NEWUSER as u64;
    insert(&mut rules, libc::SYS_clone, vec![masked(0, user, user)?]);
    let refuse = compile(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32))?;
    // The flags of clone3 lie in memory, out of the filter's sight; without it the C library uses clone.
    let mut newer = BTreeMap::new();
    insert(&mut newer, libc::SYS_clone3, Vec::new());
    Ok(vec![refuse, compile(newer, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))?])
}

fn reader() -> io::Result<Vec<BpfProgram>> {
    let rules = READER.iter().map(|&call| (call, Vec::new())).collect();
    Ok(vec![compile(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)?])
}

/// Applies the filter to this process for good.
pub fn apply(filter: Filter) -> io::Result<()> {
    let programs = match filter {
        Filter::Tools => tools(&[libc::S_IFCHR, libc::S_IFBLK])?,
        Filter::Restore => tools(&[libc::S_IFBLK])?,
        Filter::Reader => reader()?,
    };
    // Compiled beforehand: the reader's filter would stop the second installation.
    for program in &programs {
        seccompiler::apply_filter(program).map_err(io::Error::other)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile() {
        assert_eq!(tools(&[libc::S_IFCHR, libc::S_IFBLK]).expect("tools").len(), 2);
        assert_eq!(reader().expect("reader").len(), 1);
    }
}
