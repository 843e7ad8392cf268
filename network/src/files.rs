//! Small files, read and replaced as a whole.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::error::NetworkError;

/// No file of a network that is read back is larger.
const MAX: u64 = 16 * 1024 * 1024;

/// The text of a file, if it is there.
pub(crate) async fn read(path: &Path) -> Result<Option<String>, NetworkError> {
    use tokio::io::AsyncReadExt;
    let read = async {
        let mut text = Vec::new();
        tokio::fs::File::open(path).await?.take(MAX).read_to_end(&mut text).await?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&text).into_owned())
    };
    match read.await {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(NetworkError::path(path)(error)),
    }
}

/// Replaces a file at once: a reader sees the old text or the new one.
///
/// The name of the temporary file begins with a dot, so that dnsmasq passes it over. Everyone may read it, because
/// dnsmasq does not run as root.
pub(crate) async fn write(path: &Path, text: &str) -> Result<(), NetworkError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.new"));
    let write = async {
        tokio::fs::write(&draft, text).await?;
        tokio::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o644)).await?;
        tokio::fs::rename(&draft, path).await
    };
    let written = write.await.map_err(NetworkError::path(path));
    if written.is_err() {
        let _ = tokio::fs::remove_file(&draft).await;
    }
    written
}

/// Removes a file; `false` if it was not there.
pub(crate) async fn remove(path: &Path) -> Result<bool, NetworkError> {
    match tokio::fs::remove_file(path).await {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(NetworkError::path(path)(error)),
    }
}

/// Makes a directory with this mode, whatever the umask is.
pub(crate) async fn make_dir(path: &Path, mode: u32) -> Result<(), NetworkError> {
    let make = async {
        tokio::fs::create_dir_all(path).await?;
        tokio::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).await
    };
    make.await.map_err(NetworkError::path(path))
}
