//! The unix socket on which the server listens.
//!
//! The file has mode 0600 from the moment at which it exists: it is bound under a private name in the same folder,
//! then renamed. A socket that another process still serves is never taken away; one that nobody serves is replaced.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process answers there.
    #[error("{path}: another process listens there")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// A file that is no socket.
    #[error("{path}: exists and is not a socket")]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{path}: {source}")]
    System {
        /// The socket.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
}

/// A listening socket that removes its file when it is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Listens at `path`, whose folder is created (mode 0755) when it is missing.
    ///
    /// # Errors
    /// When somebody else listens there, or the system refuses.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let system = |source| SocketError::System { path: path.to_owned(), source };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(system)?;
        }
        refuse_if_served(path)?;
        let private = private_name(path);
        let listener = bind_private(&private).map_err(system)?;
        std::fs::rename(&private, path).map_err(|source| {
            // The error of the rename is the one to tell; the private file is best removed all the same.
            let _ = std::fs::remove_file(&private);
            system(source)
        })?;
        listener.set_nonblocking(true).map_err(system)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Another handle on the listening socket.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn listener(&self) -> std::io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Nothing to be done when it is gone already.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn refuse_if_served(path: &Path) -> Result<(), SocketError> {
    let path_owned = path.to_owned();
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(SocketError::System { path: path_owned, source }),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(SocketError::NotASocket { path: path_owned })
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
            Err(source) => Err(SocketError::System { path: path_owned, source }),
            Ok(_) => Err(SocketError::InUse { path: path_owned }),
        },
    }
}

fn private_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    PathBuf::from(name)
}

/// Binds and sets the mode before anybody is told the name, and before `listen` lets anybody connect.
fn bind_private(private: &Path) -> std::io::Result<UnixListener> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

    /// Clients waiting to be accepted.
    const BACKLOG: i32 = 64;

    match std::fs::remove_file(private) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => (),
    }
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrUnix::new(private)?)?;
    std::fs::set_permissions(private, std::fs::Permissions::from_mode(0o600))?;
    listen(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_for_its_owner_alone_and_goes_with_the_server() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("deep/rpc.sock");
        let socket = ControlSocket::bind(&path).expect("bound");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
        assert_eq!(std::fs::read_dir(path.parent().expect("folder")).expect("listed").count(), 0);
    }

    #[test]
    fn a_socket_that_is_served_is_not_taken_away() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("rpc.sock");
        let _served = ControlSocket::bind(&path).expect("bound");
        assert!(matches!(ControlSocket::bind(&path), Err(SocketError::InUse { .. })));
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn a_socket_that_nobody_serves_is_replaced() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("rpc.sock");
        drop(UnixListener::bind(&path).expect("bound"));
        assert!(path.exists());
        assert!(ControlSocket::bind(&path).is_ok());
    }

    #[test]
    fn a_file_in_the_way_is_kept() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("rpc.sock");
        std::fs::write(&path, "precious").expect("written");
        assert!(matches!(ControlSocket::bind(&path), Err(SocketError::NotASocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "precious");
    }
}
