//! NVMe devices on this machine's PCI bus, as the kernel shows them: who drives them, who uses them, and what it takes to
//! hand them to SPDK and back.
//!
//! Everything is read from, and written to, `sysfs`, `procfs` and `/dev` below a root that tests put elsewhere.

mod plan;
mod scan;
#[cfg(test)]
mod tests;
mod usage;

use std::io;
use std::path::{Path, PathBuf};

pub use plan::{Action, Refusal, plan_bind, plan_unbind};
pub use scan::{Device, HugePages, Machine};
pub use spdk_rs::{BadAddress, PciAddress};
pub use usage::User;

/// The driver that gives a device to a process.
pub const VFIO: &str = "vfio-pci";
/// The kernel's own driver.
pub const NVME: &str = "nvme";

/// Where the kernel's files are.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Default for Root {
    fn default() -> Self {
        Self(PathBuf::from("/"))
    }
}

impl Root {
    /// Below `path`, for tests.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The path of an absolute path.
    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A file's text without the white space around it; `None` when there is none.
    fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        std::fs::read_to_string(self.path(path)).ok().map(|text| text.trim().to_owned())
    }

    /// The last part of where a link points to.
    fn link_name(&self, path: impl AsRef<Path>) -> Option<String> {
        let to = std::fs::read_link(self.path(path)).ok()?;
        Some(to.file_name()?.to_str()?.to_owned())
    }

    /// Names in a folder, in order; none when it is not there.
    fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Carries out an action.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn carry_out(&self, action: &Action) -> io::Result<()> {
        match action {
            Action::Load { module } => {
                let status = std::process::Command::new("modprobe").arg(module).status()?;
                status.success().then_some(()).ok_or_else(|| io::Error::other(format!("modprobe: {status}")))
            }
            Action::Write { path, text } => {
                // Files of sysfs are there, and take one write.
                use std::io::Write;
                std::fs::OpenOptions::new().write(true).open(self.path(path))?.write_all(text.as_bytes())
            }
        }
    }
}
