//! Loop devices (`linux/loop.h`): files as block devices, which the kernel gives up with their last user.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Opcode, Setter, ioctl};

const LOOP_SET_CAPACITY: Opcode = 0x4c07;
const LOOP_CONFIGURE: Opcode = 0x4c0a;
const LOOP_CTL_GET_FREE: Opcode = 0x4c82;
/// `LO_FLAGS_AUTOCLEAR`.
const AUTOCLEAR: u32 = 4;
/// `LO_FLAGS_DIRECT_IO`: what is cached by the file system on the device need not be cached once more.
const DIRECT_IO: u32 = 16;
/// How often somebody else may be faster.
const ATTEMPTS: usize = 64;

/// `loop_info64`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `loop_config`.
#[repr(C)]
struct Configuration {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// A loop device. The kernel frees it when this is dropped, unless a mount goes on using it.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    device: File,
    path: PathBuf,
}

impl LoopDevice {
    /// Gives a file a loop device.
    pub(crate) fn attach(file: &Path) -> io::Result<LoopDevice> {
        let backing = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(file)?;
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
        for _ in 0..ATTEMPTS {
            // SAFETY: takes no argument.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
            if number < 0 {
                return Err(io::Error::last_os_error());
            }
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = OpenOptions::new().read(true).write(true).open(&path)?;
            match configure(&device, &backing) {
                Ok(()) => return Ok(LoopDevice { device, path }),
                // Somebody else took it.
                Err(Errno::BUSY) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::BUSY.into())
    }

    /// The loop device that a file has already.
    pub(crate) fn find(file: &Path) -> io::Result<Option<LoopDevice>> {
        let file = std::fs::canonicalize(file)?;
        for entry in std::fs::read_dir("/sys/block")? {
            let name = entry?.file_name();
            let backing = Path::new("/sys/block").join(&name).join("loop/backing_file");
            let Ok(backing) = std::fs::read(backing) else { continue };
            if backing.strip_suffix(b"\n").unwrap_or(&backing) == file.as_os_str().as_encoded_bytes() {
                let path = Path::new("/dev").join(name);
                let device = OpenOptions::new().read(true).write(true).open(&path)?;
                return Ok(Some(LoopDevice { device, path }));
            }
        }
        Ok(None)
    }

    /// Its device node.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes up the present size of the file.
    pub(crate) fn grow(&self) -> io::Result<()> {
        // SAFETY: takes a number that has no meaning.
        Ok(unsafe { ioctl(&self.device, IntegerSetter::<LOOP_SET_CAPACITY>::new_usize(0)) }?)
    }
}

fn configure(device: &File, backing: &File) -> Result<(), Errno> {
    let fd = u32::try_from(backing.as_raw_fd()).map_err(|_| Errno::BADF)?;
    let info = Info {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: AUTOCLEAR | DIRECT_IO,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    let configuration = Configuration { fd, block_size: 0, info, reserved: [0; 8] };
    // SAFETY: the request reads a `loop_config`.
    unsafe { ioctl(device, Setter::<LOOP_CONFIGURE, _>::new(configuration)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_kernel() {
        assert_eq!(size_of::<Info>(), 232);
        assert_eq!(size_of::<Configuration>(), 304);
    }
}
