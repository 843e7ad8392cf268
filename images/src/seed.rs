//! The disk by which a guest's cloud-init gets its data (its data source NoCloud): a FAT file system with the label
//! `CIDATA`.

use std::io::{self, Cursor, Write};

/// As cloud-init looks for it.
const LABEL: [u8; 11] = *b"CIDATA     ";
/// Bytes of a cluster: a file occupies whole ones.
const CLUSTER: usize = 512;
/// Room for the boot sector, the root directory and the tables' least size, in bytes.
const OVERHEAD: usize = 64 << 10;
/// Each cluster takes up to four bytes in each of the two tables.
const PER_CLUSTER: usize = CLUSTER + 8;
/// The same files make the same disk: FAT's first day is as good as any.
const VOLUME_ID: u32 = 0x4245_5254;

/// The disk with these files, by their names in its root directory.
pub fn disk(files: &[(&str, &[u8])]) -> io::Result<Vec<u8>> {
    let clusters: usize = files.iter().map(|(_, content)| content.len().div_ceil(CLUSTER) + 1).sum();
    let size = (OVERHEAD + clusters * PER_CLUSTER).next_multiple_of(4096);
    let mut bytes = Cursor::new(vec![0; size]);
    let options =
        fatfs::FormatVolumeOptions::new().bytes_per_cluster(CLUSTER as u32).volume_label(LABEL).volume_id(VOLUME_ID);
    fatfs::format_volume(&mut bytes, options)?;
    let fs = fatfs::FileSystem::new(&mut bytes, fatfs::FsOptions::new())?;
    for (name, content) in files {
        fs.root_dir().create_file(name)?.write_all(content)?;
    }
    fs.unmount()?;
    Ok(bytes.into_inner())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn read(disk: Vec<u8>) -> BTreeMap<String, Vec<u8>> {
        let fs = fatfs::FileSystem::new(Cursor::new(disk), fatfs::FsOptions::new()).expect("it is FAT");
        assert_eq!(fs.volume_label(), "CIDATA");
        let entries = fs.root_dir().iter().map(|entry| entry.expect("it is whole"));
        let files = entries.map(|entry| {
            let mut content = Vec::new();
            entry.to_file().read_to_end(&mut content).expect("it can be read");
            (entry.file_name(), content)
        });
        files.collect()
    }

    #[test]
    fn the_host_knows_the_label() {
        use std::io::Write;
        let mut file = tempfile::NamedTempFile::new().expect("file");
        file.write_all(&disk(&[("meta-data", b"instance-id: x\n"), ("user-data", b"")]).expect("disk")).expect("write");
        let output = Command::new("blkid").args(["-p", "-o", "export"]).arg(file.path()).output().expect("blkid");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("TYPE=vfat") && text.contains("LABEL=CIDATA"), "{text}");
    }

    #[test]
    fn the_same_files_make_the_same_disk() {
        let make = || disk(&[("user-data", b"#cloud-config\n{}")]).expect("disk");
        assert!(make() == make());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            contents in proptest::collection::btree_map(
                "(meta-data|user-data|vendor-data|network-config)",
                proptest::collection::vec(any::<u8>(), 0..200_000),
                0..5,
            ),
        ) {
            let files: Vec<(&str, &[u8])> = contents.iter().map(|(name, content)| (&**name, &**content)).collect();
            prop_assert!(read(disk(&files).expect("disk")) == contents);
        }
    }
}
