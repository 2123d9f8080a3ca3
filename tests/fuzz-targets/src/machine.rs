//! What the privileged process of TUN mode reads: the worker's messages, the machine's resolver file, and its own journal.

use base64::Engine as _;
use machine::{Cleaned, FromGuardian, FromWorker, Options, ResolvConf, Unavailable, cleanup, plan, render};
use serde_json::{Value, json};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::Path,
};

/// Whatever a worker says, nothing wide, nobody's loopback and no address that has to stay outside gets a route.
pub(crate) fn worker_message(bytes: &[u8]) {
    let _ = FromGuardian::parse(bytes);
    let Ok(message) = FromWorker::parse(bytes) else { return };
    let again = serde_json::to_vec(&message).expect("a message has a JSON form");
    assert_eq!(FromWorker::parse(&again).expect("its own form"), message);
    let FromWorker::Network(wanted) = message else { return };
    let server = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));
    let own = ["100.64.0.2/32".parse().expect("a prefix"), "100.97.0.0/16".parse().expect("a prefix")];
    for route in plan(&wanted, &[server], &own, &[]).routes {
        assert!(route.length() >= 8, "{route}");
        assert!(!route.contains(server), "{route}");
        assert!(!route.address().is_loopback() && !route.address().is_multicast(), "{route}");
        assert!(wanted.avoid.iter().all(|outside| !route.contains(*outside)), "{route}");
        assert!(
            own.iter().all(|own| !route.contains(own.address()) && !own.contains(route.address())),
            "{route}"
        );
    }
}

/// Whatever stands in the file, ours has one server, and keeps what it does not change.
pub(crate) fn resolver_file(bytes: &[u8]) {
    let own = Ipv4Addr::new(100, 64, 0, 2);
    let old = ResolvConf::parse(bytes);
    let ours = ResolvConf::parse(&render(&old, own, "tidegate0", &[]));
    assert_eq!(ours.nameservers, [(own, 53).into()]);
    assert_eq!((ours.search, ours.options), (old.search, old.options));
}

/// Where journals of the corpus have their files; each input gets a place of its own.
const PLACE: &str = "/etc/";

/// A machine on which a guardian was killed: the first line is its journal, the rest is what stands in the resolver file.
/// It is put back as the journal has it, or left to whoever wrote it since; and nothing else is touched.
pub(crate) fn left_behind(bytes: &[u8]) {
    let _ = cleaned(bytes);
}

fn cleaned(bytes: &[u8]) -> Option<Result<Cleaned, Unavailable>> {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let Ok(journal) = std::str::from_utf8(&bytes[..end]) else { return None };
    let now = bytes.get(end + 1..).unwrap_or_default();
    let place = crate::disk::place("left-behind");
    let _ = fs::remove_dir_all(&place);
    let (file, neighbour) = (place.join("resolv.conf"), place.join("shadow"));
    let mut options = Options::new("tidegate0", Ipv4Addr::new(100, 64, 0, 2));
    options.resolv_conf.clone_from(&file);
    options.journal = place.join("journal");
    let written = options.journal.join("resolver.json");
    machine::private_directory(&options.journal).expect("made");
    let journal = journal.replace(PLACE, &format!("{}/", place.to_str().expect("text")));
    fs::write(&written, &journal).expect("written");
    // Whatever this process makes: what others may write is not believed.
    fs::set_permissions(&written, fs::Permissions::from_mode(0o600)).expect("own file");
    // It looks as if it were ours, too.
    fs::write(&neighbour, now).expect("written");
    fs::write(&file, now).expect("written");

    let cleaned = cleanup(&options);
    let said: Value = serde_json::from_str(&journal).unwrap_or_default();
    match &cleaned {
        Ok(Cleaned::Restored) => is_as_before(&file, &said),
        Ok(Cleaned::Foreign) => {
            assert_eq!(fs::read(&file).expect("theirs"), now, "somebody else's was changed");
        }
        Ok(Cleaned::Nothing) => panic!("a journal was there"),
        Err(error) => {
            assert_eq!(fs::read_to_string(&written).expect("kept"), journal, "{error}");
            // Written over where it lies, it may be half of each.
            assert!(said["in_place"] == true || fs::read(&file).is_ok_and(|is| is == now), "{error}");
        }
    }
    assert_eq!(
        written.exists(),
        cleaned.is_err(),
        "forgotten before it was put back, or not at all: {cleaned:?}"
    );
    let about = Path::new(said["path"].as_str().unwrap_or_default());
    assert!(cleaned.is_err() || about == file, "it is about {}", about.display());
    assert_eq!(fs::read(&neighbour).expect("theirs"), now, "another file was changed");
    let beside = fs::read_dir(&place).expect("there").map(|entry| entry.expect("there").file_name());
    let known = ["resolv.conf", "shadow", "journal"];
    assert!(
        beside.into_iter().all(|name| known.contains(&name.to_str().unwrap_or_default())),
        "left beside it"
    );
    Some(cleaned)
}

/// What stands there is what the journal says stood there.
fn is_as_before(file: &Path, said: &Value) {
    let before = &said["before"];
    let bytes = |name: &str| {
        let text = before[name].as_str().expect("it was read as a text");
        base64::engine::general_purpose::STANDARD.decode(text).expect("it was read as bytes")
    };
    let about = fs::symlink_metadata(file);
    match before["was"].as_str() {
        Some("missing") => assert!(about.is_err(), "nothing was there"),
        Some("link") => {
            assert_eq!(fs::read_link(file).expect("a link").as_os_str().as_bytes(), bytes("target"));
        }
        _ => {
            let about = about.expect("a file");
            assert!(about.is_file());
            assert_eq!(fs::read(file).expect("a file"), bytes("bytes"));
            if let [Some(seconds @ 1..=4_000_000_000), Some(..1_000_000_000)] =
                [0, 1].map(|place| before["modified"][place].as_i64())
            {
                assert_eq!(about.mtime(), seconds);
            }
            if said["in_place"] == false {
                assert_eq!(
                    u64::from(about.mode() & 0o7777),
                    before["mode"].as_u64().unwrap_or_default() & 0o7777
                );
            }
        }
    }
}

/// Genuine journals, as a guardian of another boot wrote them.
pub(crate) fn genuine() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let old = b"nameserver 192.0.2.53\nsearch corp.example\n";
    let ours = render(&ResolvConf::parse(old), Ipv4Addr::new(100, 64, 0, 2), "tidegate0", &[]);
    let journal = |before: &Value, in_place: bool| {
        json!({
            "guardian": {"pid": 4_711, "start": 1, "boot": "another"}, "path": "/etc/resolv.conf", "before": before,
            "ours": base64(&ours), "in_place": in_place,
        })
    };
    let file = json!({
        "was": "file", "bytes": base64(old), "mode": 0o640, "uid": 0, "gid": 0, "modified": [1_795_219_200, 5],
    });
    let link = json!({"was": "link", "target": base64(b"../run/resolv.conf")});
    let mut late = file.clone();
    late["modified"] = json!([i64::MAX, u32::MAX]);
    let mut elsewhere = journal(&file, false);
    elsewhere["path"] = "/etc/shadow".into();
    // Killed when ours was written over what was longer, before that was cut off.
    let long = [&old[..], &b"# a line of somebody's\n".repeat(20)].concat();
    let mut longer = file.clone();
    longer["bytes"] = base64(&long).into();
    let half = [&ours[..], &long[ours.len()..]].concat();
    let of = |journal: Value, now: &[u8]| [journal.to_string().as_bytes(), b"\n", now].concat();
    vec![
        ("left_behind", "file", of(journal(&file, false), &ours)),
        ("left_behind", "link", of(journal(&link, false), &ours)),
        ("left_behind", "missing", of(journal(&json!({"was": "missing"}), false), &ours)),
        ("left_behind", "in-place", of(journal(&file, true), &ours)),
        ("left_behind", "in-place-half", of(journal(&longer, true), &half)),
        ("left_behind", "last-moment", of(journal(&late, false), &ours)),
        ("left_behind", "last-moment-in-place", of(journal(&late, true), &ours)),
        ("left_behind", "foreign", of(journal(&file, false), b"nameserver 192.0.2.54\n")),
        ("left_behind", "one-line-of-ours", of(journal(&file, false), b"nameserver 100.64.0.2\n# edited\n")),
        ("left_behind", "elsewhere", of(elsewhere, &ours)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_genuine_journal_is_put_back_unless_somebody_else_wrote_the_file_or_it_is_about_another() {
        for (_, name, bytes) in genuine() {
            match (cleaned(&bytes).expect("a journal"), name) {
                (Err(Unavailable::NotRoot), _) => {}
                (Err(error), _) => assert_eq!(name, "elsewhere", "{error}"),
                (Ok(done), _) => assert_eq!(done == Cleaned::Foreign, name == "foreign", "{name}: {done:?}"),
            }
        }
    }
}
