//! The few calls into the C library that have no safe wrapper.

use std::{ffi::CString, mem::MaybeUninit};

/// Longest record of the user and group databases that is read.
const MAX_RECORD: usize = 1024 * 1024;

/// Name of a user; the number as text if the user is unknown. May block on a directory service.
pub fn user_name(uid: u32) -> String {
    let mut buffer = vec![0u8; 1024];
    loop {
        let mut record = MaybeUninit::<libc::passwd>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: all pointers are to live memory of the lengths told; the strings of the record point into `buffer`.
        let code =
            unsafe { libc::getpwuid_r(uid, record.as_mut_ptr(), buffer.as_mut_ptr().cast(), buffer.len(), &mut found) };
        if code == libc::ERANGE && buffer.len() < MAX_RECORD {
            buffer.resize(buffer.len() * 2, 0);
            continue;
        }
        if code != 0 || found.is_null() {
            return uid.to_string();
        }
        // SAFETY: the call succeeded, so `found` points to the filled record and its name is a C string in `buffer`.
        let name = unsafe { std::ffi::CStr::from_ptr((*found).pw_name) };
        return name.to_string_lossy().into_owned();
    }
}

/// Id of a group, if there is one of that name.
pub fn group_id(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    let mut buffer = vec![0u8; 1024];
    loop {
        let mut record = MaybeUninit::<libc::group>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: as in `user_name`; `name` is a C string.
        let code = unsafe {
            libc::getgrnam_r(name.as_ptr(), record.as_mut_ptr(), buffer.as_mut_ptr().cast(), buffer.len(), &mut found)
        };
        if code == libc::ERANGE && buffer.len() < MAX_RECORD {
            buffer.resize(buffer.len() * 2, 0);
            continue;
        }
        if code != 0 || found.is_null() {
            return None;
        }
        // SAFETY: the call succeeded, so `found` points to the filled record.
        return Some(unsafe { (*found).gr_gid });
    }
}

/// Keeps the C library from making an arena per thread: the daemon is small and mostly idle.
pub fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number in the allocator; called before other threads exist.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        // Fixed, so that large buffers go back to the system at once instead of raising the threshold.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 * 1024);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found() {
        assert_eq!(user_name(0), "root");
        assert_eq!(user_name(3_999_999_999), "3999999999");
        assert_eq!(group_id("root"), Some(0));
        assert_eq!(group_id("no-such-group-here"), None);
        assert_eq!(group_id("a\0b"), None);
    }
}
