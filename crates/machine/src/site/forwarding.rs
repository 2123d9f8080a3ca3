//! The kernel's IPv4 forwarding: switched on where it was off, and put back with what the switch itself changes.
//!
//! Switching `net.ipv4.ip_forward` sets the same switch of every interface and the default for redirects (Linux,
//! ip-sysctl). IPv6's is never touched: it makes a machine deaf to router advertisements, which may be how it has its
//! default route.

use crate::error::Unavailable;
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

const PROC: &str = "/proc/sys/net/ipv4";
/// What is written down of each interface: a machine has a few, a router some thousands.
const MAX_INTERFACES: usize = 4_096;

/// How it was before.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Before {
    /// `conf/all/accept_redirects`.
    accept_redirects: String,
    /// Interfaces (and `default`) that forwarded all the same.
    forwarding: Vec<String>,
}

/// The switches, below a directory that is a test's own in tests.
#[derive(Debug, Clone)]
pub(crate) struct Switches(PathBuf);

impl Default for Switches {
    fn default() -> Self {
        Self(PathBuf::from(PROC))
    }
}

impl Switches {
    fn read(&self, name: &str) -> io::Result<String> {
        Ok(fs::read_to_string(self.0.join(name))?.trim().to_owned())
    }

    fn write(&self, name: &str, value: &str) -> io::Result<()> {
        fs::write(self.0.join(name), value)
    }

    /// Whether packets are forwarded.
    pub fn is_on(&self) -> io::Result<bool> {
        Ok(self.read("ip_forward")? != "0")
    }

    /// How it is, where it is off.
    pub fn before(&self) -> Result<Option<Before>, Unavailable> {
        let read = || {
            if self.is_on()? {
                return Ok(None);
            }
            let mut forwarding = BTreeMap::new();
            for entry in fs::read_dir(self.0.join("conf"))?.take(MAX_INTERFACES) {
                let name = entry?.file_name();
                let Some(name) = name.to_str().filter(|name| *name != "all") else { continue };
                forwarding.insert(name.to_owned(), self.read(&format!("conf/{name}/forwarding"))?);
            }
            Ok(Some(Before {
                accept_redirects: self.read("conf/all/accept_redirects")?,
                forwarding: forwarding
                    .into_iter()
                    .filter(|(_, on)| on != "0")
                    .map(|(name, _)| name)
                    .collect(),
            }))
        };
        read().map_err(Unavailable::Forwarding)
    }

    /// Switches it on.
    pub fn switch_on(&self) -> Result<(), Unavailable> {
        self.write("ip_forward", "1").map_err(Unavailable::Forwarding)
    }

    /// Puts it back; whether it was still ours to put back.
    pub fn restore(&self, before: &Before) -> io::Result<bool> {
        if !self.is_on()? {
            return Ok(false);
        }
        self.write("ip_forward", "0")?;
        if self.read("conf/all/accept_redirects")? != before.accept_redirects {
            self.write("conf/all/accept_redirects", &before.accept_redirects)?;
        }
        for name in before.forwarding.iter().filter(|name| is_plain(name)) {
            let path = format!("conf/{name}/forwarding");
            // An interface may be gone.
            if self.0.join(&path).exists() {
                self.write(&path, "1")?;
            }
        }
        Ok(true)
    }
}

/// A name of an interface, and no way out of the directory.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && Path::new(name).components().count() == 1 && !matches!(name, "." | "..")
}

/// Whether the machine forwards IPv6 by itself.
pub(crate) fn is_ipv6_router() -> bool {
    fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding").is_ok_and(|on| on.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switches(dir: &Path, on: &str, redirects: &str, interfaces: &[(&str, &str)]) -> Switches {
        fs::create_dir_all(dir.join("conf/all")).unwrap();
        fs::write(dir.join("ip_forward"), format!("{on}\n")).unwrap();
        fs::write(dir.join("conf/all/accept_redirects"), format!("{redirects}\n")).unwrap();
        for (name, on) in interfaces {
            fs::create_dir_all(dir.join("conf").join(name)).unwrap();
            fs::write(dir.join("conf").join(name).join("forwarding"), format!("{on}\n")).unwrap();
        }
        Switches(dir.to_owned())
    }

    #[test]
    fn what_was_on_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(switches(dir.path(), "1", "1", &[]).before().unwrap(), None);
    }

    #[test]
    fn what_was_off_is_put_back_with_what_the_switch_changes() {
        let dir = tempfile::tempdir().unwrap();
        let switches = switches(dir.path(), "0", "0", &[("eth0", "0"), ("br0", "1"), ("gone", "1")]);
        let before = switches.before().unwrap().expect("off");
        switches.switch_on().unwrap();
        // As the kernel does.
        fs::write(dir.path().join("conf/all/accept_redirects"), "1").unwrap();
        fs::write(dir.path().join("conf/br0/forwarding"), "0").unwrap();
        fs::remove_dir_all(dir.path().join("conf/gone")).unwrap();
        assert!(switches.restore(&before).unwrap());
        let read = |name: &str| switches.read(name).unwrap();
        assert_eq!((read("ip_forward").as_str(), read("conf/all/accept_redirects").as_str()), ("0", "0"));
        assert_eq!((read("conf/br0/forwarding").as_str(), read("conf/eth0/forwarding").as_str()), ("1", "0"));
        assert!(!switches.restore(&before).unwrap(), "somebody switched it off: nothing is touched");
    }

    #[test]
    fn a_name_in_a_journal_leads_nowhere_else() {
        for (name, plain) in
            [("eth0", true), ("eth0.5", true), ("..", false), ("a/b", false), ("/etc", false), ("", false)]
        {
            assert_eq!(is_plain(name), plain, "{name}");
        }
    }
}
