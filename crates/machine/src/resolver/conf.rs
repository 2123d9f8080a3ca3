//! `/etc/resolv.conf`: what it says, what we say in it, and how the path was before.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6},
    path::PathBuf,
};

/// resolv.conf(5) takes three; some systems list more, and we can use them.
const MAX_NAMESERVERS: usize = 8;
/// Options and search domains that are carried over; longer lines are cut off there.
const MAX_WORDS: usize = 32;
/// How what we write begins.
const HEADER: &str = "# Written by tidegate while its interface ";
/// DNS (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;

/// What a resolver configuration says, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// The servers, in order.
    pub nameservers: Vec<SocketAddr>,
    /// Search domains: of `search` and `domain` the last line counts.
    pub search: Vec<String>,
    /// Words of all `options` lines.
    pub options: Vec<String>,
    /// `sortlist` lines, as they are.
    sortlist: Vec<String>,
}

impl ResolvConf {
    /// Reads what is there. What is not understood is left out, as the C library does.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let mut conf = Self::default();
        let text = String::from_utf8_lossy(bytes);
        for line in text.lines() {
            // A comment begins a line (resolv.conf(5)); behind a value it is cut off by some libraries, and here.
            let line = line.split([';', '#']).next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            let Some(keyword) = words.next() else { continue };
            let words = words.take(MAX_WORDS).filter(|word| is_plain(word)).map(str::to_owned);
            match keyword {
                "nameserver" => {
                    let server = words.into_iter().next().and_then(|text| server(&text));
                    conf.nameservers.extend(server.filter(|_| conf.nameservers.len() < MAX_NAMESERVERS));
                }
                "search" => conf.search = words.collect(),
                "domain" => conf.search = words.take(1).collect(),
                "options" => {
                    conf.options.extend(words);
                    conf.options.truncate(MAX_WORDS);
                }
                "sortlist" => conf.sortlist = vec![words.collect::<Vec<_>>().join(" ")],
                _ => {}
            }
        }
        conf
    }

    /// The servers that questions go to, without `own`. A file without any means the machine itself.
    #[must_use]
    pub fn upstreams(&self, own: Ipv4Addr) -> Vec<SocketAddr> {
        if self.nameservers.is_empty() {
            return vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT))];
        }
        self.nameservers.iter().filter(|server| server.ip() != IpAddr::V4(own)).copied().collect()
    }
}

/// Nothing that could end a line or hide in a terminal is carried over.
fn is_plain(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_graphic())
}

fn server(text: &str) -> Option<SocketAddr> {
    if let Some((address, zone)) = text.split_once('%') {
        let index = zone.parse().ok().or_else(|| index_of(zone))?;
        return Some(SocketAddrV6::new(address.parse().ok()?, DNS_PORT, 0, index).into());
    }
    Some(SocketAddr::new(text.parse().ok()?, DNS_PORT))
}

fn index_of(interface: &str) -> Option<u32> {
    // A name, not a path.
    if interface.contains('/') || interface.starts_with('.') {
        return None;
    }
    std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex")).ok()?.trim().parse().ok()
}

/// What we write: every question comes to `own`, everything else is as in `old`.
#[must_use]
pub fn render(old: &ResolvConf, own: Ipv4Addr, interface: &str, search: &[String]) -> Vec<u8> {
    let mut text = format!(
        "{HEADER}{interface} is up: private names are answered on this machine,\n\
         # everything else goes to the servers that stood here before. The old file comes back when it ends.\n\
         # Should this ever be left behind, this puts the old one back: tidegate cleanup\n\
         nameserver {own}\n"
    );
    let mut domains: Vec<&String> = old.search.iter().collect();
    domains.extend(search.iter().filter(|domain| !old.search.contains(domain)));
    if !domains.is_empty() {
        text.push_str("search");
        for domain in domains {
            text.push(' ');
            text.push_str(domain);
        }
        text.push('\n');
    }
    for sortlist in &old.sortlist {
        text.push_str(&format!("sortlist {sortlist}\n"));
    }
    if !old.options.is_empty() {
        text.push_str(&format!("options {}\n", old.options.join(" ")));
    }
    text.into_bytes()
}

/// Whether this is what we write, for `own`, and names nobody else: never how a machine's resolver was before us.
pub(crate) fn is_left_over(bytes: &[u8], own: Ipv4Addr) -> bool {
    let conf = ResolvConf::parse(bytes);
    String::from_utf8_lossy(bytes).contains(HEADER)
        && !conf.nameservers.is_empty()
        && conf.upstreams(own).is_empty()
}

/// How the path was before we touched it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "was", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Before {
    /// Nothing.
    Missing,
    /// A file.
    File {
        #[serde(with = "base64_bytes")]
        bytes: Vec<u8>,
        mode: u32,
        uid: u32,
        gid: u32,
        /// Seconds and nanoseconds since 1970.
        modified: (i64, u32),
    },
    /// A symbolic link; its target is not touched.
    Link {
        #[serde(with = "path_bytes")]
        target: PathBuf,
    },
}

/// Bytes as base64 text.
pub(crate) mod base64_bytes {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(d)?).map_err(D::Error::custom)
    }
}

/// A path, which need not be text.
mod path_bytes {
    use serde::{Deserializer, Serializer};
    use std::{
        ffi::OsString,
        os::unix::ffi::{OsStrExt as _, OsStringExt as _},
        path::{Path, PathBuf},
    };

    pub(super) fn serialize<S: Serializer>(path: &Path, s: S) -> Result<S::Ok, S::Error> {
        super::base64_bytes::serialize(path.as_os_str().as_bytes(), s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<PathBuf, D::Error> {
        Ok(OsString::from_vec(super::base64_bytes::deserialize(d)?).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};

    const OWN: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);

    #[test]
    fn what_the_c_library_would_use_is_used() {
        let text = "# a comment\n; another\nnameserver 192.0.2.53\nnameserver  2001:db8::53 # theirs\nnameserver nonsense\n\
                    domain old.example\nsearch corp.example lab.example\noptions ndots:2 timeout:1\noptions rotate\nsortlist 10.0.0.0\n";
        let conf = ResolvConf::parse(text.as_bytes());
        assert_eq!(
            conf.upstreams(OWN),
            ["192.0.2.53:53".parse().unwrap(), "[2001:db8::53]:53".parse().unwrap()]
        );
        assert_eq!(conf.search, ["corp.example", "lab.example"]);
        assert_eq!(conf.options, ["ndots:2", "timeout:1", "rotate"]);
    }

    #[test]
    fn our_own_address_is_no_upstream_and_a_file_without_servers_means_this_machine() {
        let own = ResolvConf::parse(b"nameserver 100.64.0.2\n");
        assert!(own.upstreams(OWN).is_empty());
        assert_eq!(ResolvConf::parse(b"").upstreams(OWN), ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn ours_keeps_search_and_options_and_says_who_wrote_it_and_how_to_undo_it() {
        let old = ResolvConf::parse(b"nameserver 192.0.2.53\nsearch a.example b.example\noptions ndots:3\n");
        let search = ["b.example".to_owned(), "corp.example".to_owned()];
        let text = String::from_utf8(render(&old, OWN, "tidegate0", &search)).unwrap();
        assert!(text.contains("tidegate cleanup") && text.contains("tidegate0"));
        assert!(is_left_over(text.as_bytes(), OWN));
        // Somebody's server in it makes it somebody's.
        assert!(!is_left_over((text.clone() + "nameserver 192.0.2.53\n").as_bytes(), OWN));
        assert!(!is_left_over(b"nameserver 100.64.0.2\n", OWN));
        let ours = ResolvConf::parse(text.as_bytes());
        assert_eq!(ours.nameservers, ["100.64.0.2:53".parse().unwrap()]);
        assert_eq!(ours.search, ["a.example", "b.example", "corp.example"]);
        assert_eq!(ours.options, old.options);
    }

    #[test]
    fn how_it_was_survives_the_journal_byte_by_byte() {
        let befores = [
            Before::Missing,
            Before::Link { target: PathBuf::from(OsString::from_vec(b"../\xff/x".to_vec())) },
            Before::File { bytes: vec![0, 255, 10], mode: 0o640, uid: 5, gid: 6, modified: (7, 8) },
        ];
        for before in befores {
            let text = serde_json::to_vec(&before).unwrap();
            assert_eq!(serde_json::from_slice::<Before>(&text).unwrap(), before);
        }
    }

    proptest! {
        #[test]
        fn whatever_stood_there_ours_has_one_server_and_it_is_ours(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let old = ResolvConf::parse(&bytes);
            let ours = ResolvConf::parse(&render(&old, OWN, "tidegate0", &[]));
            prop_assert_eq!(ours.nameservers, vec![SocketAddr::from((OWN, 53))]);
            prop_assert_eq!(ours.search, old.search);
            prop_assert_eq!(ours.options, old.options);
        }

        #[test]
        fn lines_like_those_of_a_resolver_survive_too(lines in proptest::collection::vec("(nameserver|search|options|domain|sortlist|#) [a-z0-9.: #;%\r\t]{0,30}", 0..12)) {
            let old = ResolvConf::parse(lines.join("\n").as_bytes());
            let ours = ResolvConf::parse(&render(&old, OWN, "tidegate0", &[]));
            prop_assert_eq!(ours.nameservers, vec![SocketAddr::from((OWN, 53))]);
            prop_assert_eq!(ours.search, old.search);
        }
    }
}
