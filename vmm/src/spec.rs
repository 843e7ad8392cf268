//! What the daemon hands over to run a virtual machine.

use std::path::PathBuf;

use berth_supervisor::handshake::FdIndex;
use serde::{Deserialize, Serialize};

use crate::settings::{DiskSettings, NicSettings};

/// Most virtual CPUs of one machine: ids above 254 need x2APIC entries that the firmware tables do not carry.
pub const MAX_VCPUS: u8 = 254;
/// Least memory of a machine. Less than this no kernel with an initrd comes up in.
pub const MIN_MEMORY: u64 = 32 << 20;
/// Most disks of one machine; the descriptors of one message and the slots of one PCI bus are the limits.
pub const MAX_DISKS: usize = 16;
/// Most network devices of one machine.
pub const MAX_NICS: usize = 8;
/// Most initrds that are concatenated.
pub const MAX_INITRDS: usize = 8;
/// Longest kernel command line that every kernel takes (x86: `COMMAND_LINE_SIZE` less the final zero).
pub const MAX_CMDLINE: usize = 2047;

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// Uuid of the instance, 32 hexadecimal digits.
    pub uuid: String,
    /// Name for messages and logs.
    pub name: String,
    /// User and group the machine's process becomes: ids that nothing else on the host has.
    pub user: u32,
    /// Virtual CPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// Bytes of memory, a multiple of 4096 and at least [`MIN_MEMORY`].
    pub memory: u64,
    /// What it begins with.
    pub origin: OriginSpec,
    /// Disks in the order in which the guest finds them.
    pub disks: Vec<DiskSpec>,
    /// Network devices in the order in which the guest finds them.
    pub nics: Vec<NicSpec>,
    /// Context id of the vsock device; its sockets are `vsock/socket` and `vsock/socket_<port>` in the run directory.
    pub vsock_cid: Option<u32>,
    /// Log of the serial console.
    pub console_log: PathBuf,
}

/// What a machine begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OriginSpec {
    /// A kernel.
    Boot {
        /// ELF kernel with PVH note, or bzImage.
        kernel: FdIndex,
        /// Concatenated in this order, each padded to 512 bytes.
        initrds: Vec<FdIndex>,
        /// Kernel command line, at most [`MAX_CMDLINE`] bytes.
        cmdline: String,
    },
    /// The state that a machine of the same CPUs, memory and devices was saved in.
    Saved {
        /// Its sections.
        state: FdIndex,
        /// Its RAM, which is mapped, never written, and must not change while the machine runs.
        ram: FdIndex,
        /// Who goes on.
        heir: Heir,
    },
}

/// Who goes on from a saved state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Heir {
    /// The machine that was saved.
    Itself,
    /// Another one, which has to be told its name and its addresses before anybody hears of it.
    Another,
}

impl OriginSpec {
    fn validate(&self) -> Result<(), SpecError> {
        let Self::Boot { initrds, cmdline, .. } = self else { return Ok(()) };
        if cmdline.len() > MAX_CMDLINE {
            return Err(SpecError::Cmdline { length: cmdline.len() });
        }
        if cmdline.contains('\0') {
            return Err(SpecError::CmdlineZero);
        }
        if initrds.len() > MAX_INITRDS {
            return Err(SpecError::TooMany { what: "initrds", count: initrds.len(), max: MAX_INITRDS });
        }
        Ok(())
    }
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// Raw image or block device.
    pub file: FdIndex,
    /// The guest cannot write it.
    pub readonly: bool,
    /// What the guest reads as the disk's serial number, at most 20 bytes, and what changes name it by.
    pub id: String,
    /// What can be changed later.
    pub settings: DiskSettings,
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicSpec {
    /// What changes name it by.
    pub id: String,
    /// Tap device, opened with `IFF_VNET_HDR | IFF_NO_PI`.
    pub tap: FdIndex,
    /// MAC address.
    pub hwaddr: [u8; 6],
    /// Largest packet the link takes.
    pub mtu: u16,
    /// What can be changed later.
    pub settings: NicSettings,
}

/// A specification that no machine can be built from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// See the message.
    #[error("{vcpus} virtual CPUs were asked for; a machine has 1 to {MAX_VCPUS}")]
    Vcpus {
        /// What was asked for.
        vcpus: u8,
    },
    /// See the message.
    #[error("{memory} bytes of memory were asked for; at least {MIN_MEMORY} in whole pages of 4096 are needed")]
    Memory {
        /// What was asked for.
        memory: u64,
    },
    /// See the message.
    #[error("the kernel command line has {length} bytes; kernels take at most {MAX_CMDLINE}")]
    Cmdline {
        /// Its length.
        length: usize,
    },
    /// See the message.
    #[error("the kernel command line holds a zero byte")]
    CmdlineZero,
    /// See the message.
    #[error("{count} {what} were asked for; a machine has at most {max}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// What was asked for.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// See the message.
    #[error("the machine's process cannot be the user {0}, which is the host's; it needs one of its own")]
    User(u32),
    /// See the message.
    #[error("vsock context id {0} is reserved; guests have 3 and above")]
    Cid(u32),
}

impl VmSpec {
    /// Checks what can be checked without touching anything.
    pub fn validate(&self) -> Result<(), SpecError> {
        if self.user == 0 || self.user == u32::MAX {
            return Err(SpecError::User(self.user));
        }
        if self.vcpus == 0 || self.vcpus > MAX_VCPUS {
            return Err(SpecError::Vcpus { vcpus: self.vcpus });
        }
        if self.memory < MIN_MEMORY || !self.memory.is_multiple_of(4096) {
            return Err(SpecError::Memory { memory: self.memory });
        }
        self.origin.validate()?;
        for (what, count, max) in
            [("disks", self.disks.len(), MAX_DISKS), ("network devices", self.nics.len(), MAX_NICS)]
        {
            if count > max {
                return Err(SpecError::TooMany { what, count, max });
            }
        }
        match self.vsock_cid {
            Some(cid) if cid < 3 || cid == u32::MAX => Err(SpecError::Cid(cid)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn boot(initrds: Vec<FdIndex>, cmdline: &str) -> OriginSpec {
        OriginSpec::Boot { kernel: FdIndex(0), initrds, cmdline: cmdline.into() }
    }

    pub(crate) fn sample() -> VmSpec {
        VmSpec {
            uuid: "00112233445566778899aabbccddeeff".into(),
            name: "v1".into(),
            user: 1_000_000,
            vcpus: 2,
            memory: 256 << 20,
            origin: boot(vec![FdIndex(1)], "console=ttyS0"),
            disks: Vec::new(),
            nics: Vec::new(),
            vsock_cid: Some(3),
            console_log: "/dev/null".into(),
        }
    }

    #[test]
    fn limits_are_checked() {
        assert_eq!(sample().validate(), Ok(()));
        assert!(VmSpec { user: 0, ..sample() }.validate().is_err());
        assert!(VmSpec { vcpus: 0, ..sample() }.validate().is_err());
        assert!(VmSpec { vcpus: 255, ..sample() }.validate().is_err());
        assert!(VmSpec { memory: 1 << 20, ..sample() }.validate().is_err());
        assert!(VmSpec { memory: (64 << 20) + 1, ..sample() }.validate().is_err());
        assert!(VmSpec { origin: boot(vec![], &"x".repeat(2048)), ..sample() }.validate().is_err());
        assert!(VmSpec { origin: boot(vec![], "a\0b"), ..sample() }.validate().is_err());
        assert!(VmSpec { vsock_cid: Some(2), ..sample() }.validate().is_err());
        assert!(VmSpec { origin: boot(vec![FdIndex(0); 9], ""), ..sample() }.validate().is_err());
    }
}
