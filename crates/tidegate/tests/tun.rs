//! TUN mode on a machine of its own: network, mounts and processes in namespaces, with a site beside it that has a
//! controller, a PoP, a connector, a web server and a public name server.
//!
//! Needs root, `unshare`, `ip` and `/dev/net/tun`; without them each test says so and checks nothing.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test fails by panicking, waits for conditions with deadlines, and says what it left out"
)]

#[path = "tun/machine.rs"]
mod machine;

use machine::{Machine, in_own_machine, kill, wait_until};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::{MetadataExt as _, chown, symlink},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

/// What the issue allows a guardian.
const RESTORED_WITHIN: Duration = Duration::from_secs(2);

/// Not a test of its own: the site's servers, when the machine's tests ask for them.
#[test]
fn site_services() {
    if std::env::var_os("TIDEGATE_TUN_SERVICES").is_some() {
        machine::serve_site();
    }
}

#[test]
fn programs_reach_resources_by_name_and_address_without_a_proxy_and_no_private_name_leaves_the_machine() {
    in_own_machine(|machine| {
        let before = machine.snapshot();
        machine.up(&[]);
        assert_eq!(machine::http("10.9.9.9:80"), "from the site");
        assert_eq!(machine::http("wiki.office.internal:80"), "from the site");
        assert_eq!(machine::http("portal:80"), "from the site");
        assert_eq!(machine::http("build.lab.internal:80"), "from the site");
        // A program that nobody here wrote, and the other way through the resolver.
        let curl =
            Command::new("curl").args(["-sS", "-m", "10", "http://wiki.office.internal/"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&curl.stdout), "from the site", "{curl:?}");
        // What is not private goes where it always went.
        assert_eq!(machine::look_up("public.example:1"), ["198.51.100.7:1"]);
        assert!(machine.asked_upstream().iter().any(|name| name == "public.example"));
        let leaked: Vec<String> = machine
            .asked_upstream()
            .into_iter()
            .filter(|name| name.contains("internal") || name.starts_with("portal"))
            .collect();
        assert!(leaked.is_empty(), "asked outside: {leaked:?}");

        let status = machine.status();
        let tun = &status["tun"];
        assert_eq!(tun["state"], "on");
        assert_eq!(tun["interface"], "tidegate0");
        assert_eq!(tun["addresses"][0], "100.64.0.2");
        assert_eq!(tun["dns"]["mode"], "file");
        assert_eq!(tun["dns"]["upstreams"], serde_json::json!(["192.0.2.1:53"]));
        assert_eq!(tun["privileges"]["capabilities"], false);
        assert_eq!(tun["privileges"]["no_new_privileges"], true);
        let routes = tun["routes"].as_array().unwrap();
        for expected in ["10.9.9.9/32", "100.97.0.0/16", "fd7a:7467:6e61::/96"] {
            assert!(routes.contains(&expected.into()), "{routes:?}");
        }
        // The kernel's own word on the worker, not only its own.
        let worker = machine.worker();
        let about = fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
        for line in ["CapPrm:", "CapEff:", "CapBnd:", "CapInh:", "CapAmb:"] {
            let value = about.lines().find_map(|text| text.strip_prefix(line)).unwrap().trim();
            assert_eq!(value, "0000000000000000", "{line}");
        }
        assert!(about.contains("NoNewPrivs:\t1"));
        // The guardian has what a guardian needs: not CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_SYS_MODULE.
        let about = fs::read_to_string(format!("/proc/{}/status", machine.guardian())).unwrap();
        for line in ["CapPrm:", "CapEff:", "CapBnd:"] {
            let value = about.lines().find_map(|text| text.strip_prefix(line)).unwrap().trim();
            let value = u64::from_str_radix(value, 16).unwrap();
            assert_eq!(value & (1 << 21 | 1 << 19 | 1 << 16), 0, "{line} {value:x}");
            assert_ne!(value & (1 << 12), 0, "{line} {value:x}");
        }

        machine.down();
        machine.assert_same(&before, "down");
    });
}

#[test]
fn a_pop_inside_a_range_of_a_resource_is_still_reached_outside_the_tunnel() {
    in_own_machine(|machine| {
        let before = machine.snapshot();
        machine.up(&[]);
        assert_eq!(machine::interface_to(machine::POP), "c0");
        for neighbour in ["203.0.113.8", "203.0.113.10", "203.0.113.200"] {
            assert_eq!(machine::interface_to(neighbour), "tidegate0", "{neighbour}: {}", machine.status());
        }
        let conflicts = machine.status()["tun"]["conflicts"].clone();
        let said =
            conflicts.as_array().unwrap().iter().find(|one| one["prefix"] == "203.0.113.0/24").unwrap();
        assert_eq!(said["routed"], true);
        assert!(said["why"].as_str().unwrap().contains(machine::POP), "{said}");
        assert_eq!(machine::http("wiki.office.internal:80"), "from the site");
        machine.down();
        machine.assert_same(&before, "down");
    });
}

#[test]
fn names_are_answered_by_tcp_too_and_after_any_rubbish() {
    in_own_machine(|machine| {
        machine.up(&["--search", "office.internal"]);
        // A short name, by the search domain that was asked for.
        assert_eq!(machine::http("wiki:80"), "from the site");
        let server = "100.64.0.2:53";
        assert_eq!(machine::ask_by_tcp(server, "wiki.office.internal"), (0, 1));
        assert_eq!(machine::ask_by_tcp(server, "public.example"), (0, 1));
        let mut random = machine::Random::new(7);
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..2_000 {
            let length = random.below(600) as usize;
            let bytes: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
            socket.send_to(&bytes, server).unwrap();
        }
        // Connections that begin and say nothing, more than it takes at once: they are closed after a while.
        let idle: Vec<_> = (0..80).map(|_| std::net::TcpStream::connect(server).unwrap()).collect();
        assert_eq!(machine::look_up("public.example:1"), ["198.51.100.7:1"]);
        assert_eq!(machine::look_up("wiki.office.internal:1").len(), 1);
        drop(idle);
        wait_until("connections are taken again", Duration::from_secs(30), || {
            std::panic::catch_unwind(|| machine::ask_by_tcp(server, "wiki.office.internal"))
                .is_ok_and(|said| said == (0, 1))
        });
        machine.down();
    });
}

#[test]
fn a_network_that_comes_and_goes_takes_its_range_along() {
    in_own_machine(|machine| {
        let before = machine.snapshot();
        machine.up(&[]);
        assert_eq!(machine::interface_to("10.9.9.9"), "tidegate0");
        machine::run("ip", &["link", "add", "lan0", "type", "veth", "peer", "name", "lan1"]);
        machine::run("ip", &["link", "set", "lan0", "up"]);
        machine::run("ip", &["link", "set", "lan1", "up"]);
        // By a router of that network; and an address, as that network's DHCP would give.
        machine::run("ip", &["address", "add", "192.168.77.5/24", "dev", "lan0"]);
        machine::run("ip", &["route", "append", "10.9.9.9/32", "via", "192.168.77.1", "dev", "lan0"]);
        machine::run("ip", &["address", "add", "192.168.78.5/24", "dev", "lan0"]);
        wait_until("the machine's own route has its way", Duration::from_secs(5), || {
            machine::interface_to("10.9.9.9") == "lan0"
        });
        let conflicts = machine.status()["tun"]["conflicts"].clone();
        let said = conflicts.as_array().unwrap().iter().find(|one| one["prefix"] == "10.9.9.9/32").unwrap();
        assert_eq!(said["routed"], false, "{said}");
        // Names go their own way: they have addresses of their own.
        assert_eq!(machine::http("wiki.office.internal:80"), "from the site");
        machine::run("ip", &["link", "del", "lan0"]);
        wait_until("the tunnel has it again", Duration::from_secs(5), || {
            machine::interface_to("10.9.9.9") == "tidegate0"
        });
        assert_eq!(machine::http("10.9.9.9:80"), "from the site");
        machine.down();
        machine.assert_same(&before, "down");
    });
}

/// Needs systemd-resolved, which the machine that runs the tests had better not run itself. `TIDEGATE_TEST_SYSTEMD` names
/// a directory with its files: `apt-get download systemd-resolved libsystemd-shared`, then `dpkg -x` of both into it.
#[test]
fn where_systemd_resolved_runs_it_asks_for_private_names_only_and_is_left_as_it_was() {
    in_own_machine(|machine| {
        if !machine.start_resolved() {
            eprintln!("left out, nothing checked: systemd-resolved and dbus-daemon are not here");
            return;
        }
        let before = machine.snapshot();
        machine.up(&[]);
        let status = machine.status();
        let dns = &status["tun"]["dns"];
        assert_eq!(dns["mode"], "resolved");
        // Whatever it is set to for the others, ours speaks plain DNS and has no signatures.
        for word in ["dnssec", "dnsovertls"] {
            let said = Command::new("resolvectl").args([word, "tidegate0"]).output().unwrap();
            let said = String::from_utf8_lossy(&said.stdout).trim().to_owned();
            assert!(said.ends_with(": no"), "{word}: {said}");
        }
        // An alias of one label is nothing that it asks anybody for, and that is said.
        assert!(dns["note"].as_str().unwrap().contains("portal"), "{dns}");
        assert_eq!(machine::http("wiki.office.internal:80"), "from the site");
        assert_eq!(machine::http("build.lab.internal:80"), "from the site");
        let passed_on = machine.status()["tun"]["dns"]["passed_on"].clone();
        assert_eq!(machine::look_up("public.example:1"), ["198.51.100.7:1"]);
        assert_eq!(machine.status()["tun"]["dns"]["passed_on"], passed_on, "a public name came by us");
        let synthetic = machine::look_up("wiki.office.internal:1").remove(0);
        let reverse =
            Command::new("getent").args(["hosts", synthetic.trim_end_matches(":1")]).output().unwrap();
        let reverse = String::from_utf8_lossy(&reverse.stdout).into_owned();
        assert!(reverse.contains("wiki.office.internal"), "{reverse}");
        let asked = machine.asked_upstream();
        assert!(
            !asked.iter().any(|name| name.contains("internal") || name.contains("100.in-addr")),
            "{asked:?}"
        );
        // Another network, other servers.
        machine::run("resolvectl", &["dns", "c0", "192.0.2.53"]);
        wait_until("the new servers are known", Duration::from_secs(5), || {
            let upstreams = machine.status()["tun"]["dns"]["upstreams"].clone();
            upstreams.as_array().unwrap().contains(&"192.0.2.53:53".into())
        });
        machine::run("resolvectl", &["revert", "c0"]);
        let guardian = machine.guardian();
        kill(machine.worker(), rustix::process::Signal::KILL);
        wait_until("the guardian has ended", RESTORED_WITHIN, || !machine::is_running(guardian));
        machine.assert_same(&before, "the worker was killed");
        let links = Command::new("resolvectl").arg("domain").output().unwrap();
        assert!(!String::from_utf8_lossy(&links.stdout).contains("internal"));
        machine.up(&[]);
        machine.down();
        machine.assert_same(&before, "down");
    });
}

#[test]
fn a_machine_without_ipv6_reaches_resources_by_ipv4_and_says_so() {
    in_own_machine(|machine| {
        for setting in ["default", "all"] {
            fs::write(format!("/proc/sys/net/ipv6/conf/{setting}/disable_ipv6"), "1").unwrap();
        }
        let before = machine.snapshot();
        machine.up(&[]);
        assert_eq!(machine::http("wiki.office.internal:80"), "from the site");
        let status = machine.status();
        assert_eq!(status["tun"]["addresses"], serde_json::json!(["100.64.0.2"]));
        assert!(status["tun"]["notes"][0].as_str().unwrap().contains("IPv6"), "{}", status["tun"]["notes"]);
        machine.down();
        machine.assert_same(&before, "down");
    });
}

#[test]
fn the_machine_is_as_it_was_after_every_way_to_end() {
    in_own_machine(|machine| {
        let before = machine.snapshot();

        machine.up(&[]);
        let guardian = machine.guardian();
        kill(machine.worker(), rustix::process::Signal::KILL);
        let killed = Instant::now();
        wait_until("the guardian has ended", RESTORED_WITHIN, || !machine::is_running(guardian));
        assert!(killed.elapsed() <= RESTORED_WITHIN);
        machine.assert_same(&before, "the worker was killed");

        for signal in
            [rustix::process::Signal::TERM, rustix::process::Signal::INT, rustix::process::Signal::HUP]
        {
            machine.up(&[]);
            let guardian = machine.guardian();
            kill(guardian, signal);
            wait_until("the guardian has ended", Duration::from_secs(8), || !machine::is_running(guardian));
            machine.assert_same(&before, "the guardian got a signal");
        }

        machine.up(&[]);
        let worker = machine.worker();
        kill(machine.guardian(), rustix::process::Signal::KILL);
        wait_until("the worker has followed its guardian", RESTORED_WITHIN, || !machine::is_running(worker));
        let cleaned = machine.tidegate(&["--json", "cleanup"]);
        assert!(cleaned.stdout.contains("restored"), "{}", cleaned.stdout);
        machine.assert_same(&before, "the guardian was killed, then cleanup");

        machine.up(&[]);
        let (guardian, worker) = (machine.guardian(), machine.worker());
        kill(guardian, rustix::process::Signal::KILL);
        kill(worker, rustix::process::Signal::KILL);
        wait_until("both are gone", RESTORED_WITHIN, || !machine::is_running(worker));
        machine.tidegate(&["cleanup"]).success();
        machine.assert_same(&before, "both were killed, then cleanup");

        // The next start puts it right as well, at once after the kill.
        machine.up(&[]);
        let (guardian, worker) = (machine.guardian(), machine.worker());
        kill(guardian, rustix::process::Signal::KILL);
        kill(worker, rustix::process::Signal::KILL);
        machine.up(&[]);
        assert_eq!(machine::http("wiki.office.internal:80"), "from the site");
        // A directory of another namespace has nothing to do with this one.
        let elsewhere = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .arg("cleanup")
            .env("TIDEGATE_MACHINE_DIR", machine.scratch("elsewhere"))
            .output()
            .unwrap();
        // It changes nothing, and does not call a file that tidegate wrote nothing.
        let words = String::from_utf8_lossy(&elsewhere.stderr).into_owned();
        assert!(!elsewhere.status.success() && words.contains("TIDEGATE_MACHINE_DIR"), "{words}");
        let running = machine.tidegate(&["cleanup"]);
        assert!(running.code != Some(0) && running.stderr.contains("tidegate down"), "{}", running.stderr);
        machine.down();
        machine.assert_same(&before, "both were killed, then a start and down");

        // So does a start without an interface.
        machine.up(&[]);
        let (guardian, worker) = (machine.guardian(), machine.worker());
        kill(guardian, rustix::process::Signal::KILL);
        kill(worker, rustix::process::Signal::KILL);
        machine.tidegate_with_state(&["up", "--no-port-mapping"]).success();
        machine.settle(&before, RESTORED_WITHIN);
        machine.assert_same(&before, "both were killed, then a start without an interface");
        machine.down();

        // Somebody takes the interface away.
        machine.up(&[]);
        let guardian = machine.guardian();
        machine::run("ip", &["link", "del", "tidegate0"]);
        wait_until("the guardian has ended", Duration::from_secs(8), || !machine::is_running(guardian));
        machine.assert_same(&before, "the interface was removed");

        let nothing = machine.tidegate(&["--json", "cleanup"]);
        assert!(nothing.stdout.contains("nothing"), "{}", nothing.stdout);
    });
}

#[test]
fn kills_at_random_moments_never_leave_a_changed_machine() {
    in_own_machine(|machine| {
        let seed = match std::env::var("TIDEGATE_TEST_SEED") {
            Ok(text) => text.parse().unwrap(),
            Err(_) => {
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
            }
        };
        eprintln!("TIDEGATE_TEST_SEED={seed}");
        let mut random = machine::Random::new(seed);
        let until = Instant::now() + Duration::from_secs(30);
        let (mut rounds, mut by_itself, mut forms) = (0_u32, 0_u32, [0_u32; 3]);
        while Instant::now() < until {
            let form = random.below(3) as usize;
            machine.set_resolver(form);
            let before = machine.snapshot();
            // Not waited for: a start takes less than 100 ms, and every moment of it can be the last.
            let mut starting = machine.start();
            std::thread::sleep(Duration::from_micros(random.below(200_000)));
            let (guardian, worker) = (machine.find("--tun=on"), machine.find("--seat"));
            let way = random.below(4);
            match way {
                0 => worker.into_iter().for_each(|pid| kill(pid, rustix::process::Signal::KILL)),
                1 => guardian.into_iter().for_each(|pid| kill(pid, rustix::process::Signal::KILL)),
                2 => guardian
                    .into_iter()
                    .chain(worker)
                    .for_each(|pid| kill(pid, rustix::process::Signal::KILL)),
                _ => guardian.into_iter().for_each(|pid| kill(pid, rustix::process::Signal::TERM)),
            }
            let _ = starting.wait();
            // What was not there yet when the signals were sent is ended in order.
            machine.end_whatever_runs();
            // A guardian that was not killed has put everything back itself; after one that was, `cleanup` does.
            let is_guardian_killed = matches!(way, 1 | 2) && guardian.is_some();
            if is_guardian_killed {
                machine.tidegate(&["cleanup"]).success();
            } else {
                by_itself += 1;
            }
            // The kernel takes a killed process apart step by step, its memory before its interface.
            machine.settle(&before, RESTORED_WITHIN);
            machine.assert_same(&before, &format!("round {rounds}, way {way}, form {form}, seed {seed}"));
            let left = machine.tidegate(&["--json", "cleanup"]).success();
            assert!(left.stdout.contains("nothing"), "way {way}, seed {seed}: {}", left.stdout);
            machine.unset_resolver(form);
            rounds += 1;
            forms[form] += 1;
        }
        eprintln!(
            "{rounds} rounds, {by_itself} without cleanup: a file {}, a link {}, a mount point {}",
            forms[0], forms[1], forms[2]
        );
        assert!(
            rounds >= 20 && by_itself >= 5,
            "only {rounds} rounds, {by_itself}: too slow to say anything"
        );
    });
}

#[test]
fn what_another_program_writes_meanwhile_is_what_the_machine_has_afterwards() {
    in_own_machine(|machine| {
        machine.up(&[]);
        // As a DHCP client does on another network: a new file under the old name.
        fs::write("/etc/resolv.conf.dhcp", "nameserver 192.0.2.53\nsearch new.example\n").unwrap();
        fs::rename("/etc/resolv.conf.dhcp", "/etc/resolv.conf").unwrap();
        wait_until("the new servers are taken over", Duration::from_secs(5), || {
            machine.status()["tun"]["dns"]["upstreams"] == serde_json::json!(["192.0.2.53:53"])
        });
        let now = fs::read_to_string("/etc/resolv.conf").unwrap();
        assert!(now.contains("nameserver 100.64.0.2") && now.contains("search new.example"), "{now}");
        assert_eq!(machine::http("wiki.office.internal:80"), "from the site");
        assert_eq!(machine.status()["tun"]["dns"]["rewritten"], 1);
        machine.down();
        assert_eq!(
            fs::read_to_string("/etc/resolv.conf").unwrap(),
            "nameserver 192.0.2.53\nsearch new.example\n"
        );
    });
}

#[test]
fn what_dhcp_writes_behind_a_link_is_asked_from_then_on() {
    in_own_machine(|machine| {
        machine.set_resolver(1);
        machine.up(&[]);
        fs::write("/etc/resolv.conf.real", "nameserver 192.0.2.53\n").unwrap();
        wait_until("the new servers are taken over", Duration::from_secs(5), || {
            machine.status()["tun"]["dns"]["upstreams"] == serde_json::json!(["192.0.2.53:53"])
        });
        assert_eq!(machine.status()["tun"]["dns"]["rewritten"], 0);
        assert_eq!(machine::http("wiki.office.internal:80"), "from the site");
        machine.down();
        assert_eq!(fs::read_link("/etc/resolv.conf").unwrap(), Path::new("resolv.conf.real"));
        assert_eq!(fs::read_to_string("/etc/resolv.conf").unwrap(), "nameserver 192.0.2.53\n");
    });
}

#[test]
fn the_resolver_file_is_ours_only_when_names_are_answered_and_routes_lead_there() {
    in_own_machine(|machine| {
        for _ in 0..5 {
            let mut starting = machine.start();
            let until = Instant::now() + Duration::from_secs(20);
            while !fs::read_to_string("/etc/resolv.conf").unwrap().contains("nameserver 100.64.0.2") {
                assert!(Instant::now() < until, "it does not start");
            }
            // The first moment in which a program can ask.
            assert_eq!(machine::ask_by_tcp("100.64.0.2:53", "public.example"), (0, 1));
            assert_eq!(machine::interface_to("10.9.9.9"), "tidegate0");
            assert!(starting.wait().unwrap().success());
            machine.down();
        }
    });
}

#[test]
fn what_others_may_have_written_is_not_put_back_as_root() {
    in_own_machine(|machine| {
        machine.up(&[]);
        let (guardian, worker) = (machine.guardian(), machine.worker());
        kill(guardian, rustix::process::Signal::KILL);
        kill(worker, rustix::process::Signal::KILL);
        wait_until("both are gone", RESTORED_WITHIN, || !machine::is_running(worker));
        let journal = Path::new("/var/lib/tidegate/machine/resolver.json");
        let left = fs::read_to_string("/etc/resolv.conf").unwrap();
        let refuse = |expected: &str| {
            for arguments in [&["cleanup"][..], &["up", "--tun"]] {
                let refused = machine.tidegate(arguments);
                assert_eq!(refused.code, Some(1), "{arguments:?}: {}", refused.stdout);
                assert!(refused.stderr.contains(expected), "{arguments:?}: {}", refused.stderr);
            }
            assert_eq!(fs::read_to_string("/etc/resolv.conf").unwrap(), left);
        };
        chown(journal, Some(12_345), None).unwrap();
        refuse("belongs to user 12345");
        chown(journal, Some(0), None).unwrap();
        // Gone: then nobody knows how it was, and that it is ours is not how it was.
        let aside = journal.with_extension("aside");
        fs::rename(journal, &aside).unwrap();
        refuse("what an earlier client wrote");
        fs::rename(&aside, journal).unwrap();
        let cleaned = machine.tidegate(&["--json", "cleanup"]).success();
        assert!(cleaned.stdout.contains("restored"), "{}", cleaned.stdout);
    });
}

#[test]
fn a_state_directory_of_another_user_makes_the_worker_that_user() {
    in_own_machine(|machine| {
        let before = machine.snapshot();
        // Root's own place, as its own commands made it.
        assert_eq!(fs::metadata("/var/lib/tidegate").unwrap().mode() & 0o777, 0o711);
        assert_eq!(fs::metadata(machine.client()).unwrap().mode() & 0o777, 0o700);
        machine.give_state_to(12_345);
        machine.up(&[]);
        let about = fs::read_to_string(format!("/proc/{}/status", machine.worker())).unwrap();
        assert!(about.contains("Uid:\t12345\t12345\t12345\t12345"), "{about}");
        assert!(about.contains("Gid:\t12345\t12345\t12345\t12345"), "{about}");
        let groups = about.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap().trim().to_owned();
        assert!(groups.is_empty() || groups == "12345", "{groups}");
        assert_eq!(machine::http("wiki.office.internal:80"), "from the site");
        assert_eq!(machine.status()["tun"]["privileges"]["uid"], 12_345);
        // Root wrote nothing into it.
        for entry in fs::read_dir(machine.client()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().uid(), 12_345, "{:?}", entry.path());
        }
        machine.down();
        machine.assert_same(&before, "down");
    });
}

#[test]
fn a_worker_that_stands_still_is_ended_and_names_work_again() {
    in_own_machine(|machine| {
        let before = machine.snapshot();
        machine.up(&[]);
        let guardian = machine.guardian();
        kill(machine.worker(), rustix::process::Signal::STOP);
        // Fifteen seconds of silence, and one look.
        wait_until("the guardian has ended", Duration::from_secs(20), || !machine::is_running(guardian));
        machine.assert_same(&before, "the worker stood still");
        assert_eq!(machine::look_up("public.example:1"), ["198.51.100.7:1"]);
    });
}

#[test]
fn a_guardian_that_stood_still_goes_on_with_its_worker() {
    in_own_machine(|machine| {
        let before = machine.snapshot();
        machine.up(&[]);
        let guardian = machine.guardian();
        kill(guardian, rustix::process::Signal::STOP);
        // Longer than a worker may be silent.
        std::thread::sleep(Duration::from_secs(17));
        kill(guardian, rustix::process::Signal::CONT);
        std::thread::sleep(Duration::from_secs(2));
        assert!(machine::is_running(guardian));
        assert_eq!(machine::http("wiki.office.internal:80"), "from the site");
        machine.down();
        machine.assert_same(&before, "down");
    });
}

#[test]
fn where_it_is_not_possible_it_says_what_to_do_and_changes_nothing() {
    in_own_machine(|machine| {
        let before = machine.snapshot();
        let refused = |machine: &Machine, what: &str, arguments: &[&str], expected: &str| {
            let mut all = vec!["up", "--tun"];
            all.extend(arguments);
            let output = machine.tidegate_with_state(&all);
            assert_eq!(output.code, Some(1), "{what}: {} {}", output.stdout, output.stderr);
            assert!(output.stderr.contains(expected), "{what}: {}", output.stderr);
        };

        let empty = machine.scratch("dev");
        machine::run("mount", &["--bind", empty.to_str().unwrap(), "/dev/net"]);
        refused(machine, "no device", &[], "/dev/net/tun");
        assert!(fs::read_dir("/dev/net").unwrap().next().is_none(), "a device node was made");
        // With `auto` the client starts all the same, and says what it lacks.
        machine.tidegate_with_state(&["up", "--tun=auto"]).success();
        let status = machine.status();
        assert_eq!(status["tun"]["state"], "unavailable");
        assert!(status["tun"]["reason"].as_str().unwrap().contains("/dev/net/tun"));
        machine.down();
        machine::run("umount", &["/dev/net"]);
        machine.assert_same(&before, "no device");

        let capless = Command::new("setpriv")
            .args(["--bounding-set", "-net_admin", "--inh-caps", "-all", env!("CARGO_BIN_EXE_tidegate")])
            .args(["up", "--tun", "--state"])
            .arg(machine.client())
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&capless.stderr).into_owned();
        assert!(!capless.status.success() && words.contains("CAP_NET_ADMIN"), "{words}");
        machine.assert_same(&before, "no capability");

        let name_server = std::net::UdpSocket::bind("0.0.0.0:53").unwrap();
        refused(machine, "port 53", &[], "port 53 of 100.64.0.2");
        drop(name_server);
        machine.assert_same(&before, "port 53");

        machine::run("ip", &["link", "add", "vpn0", "type", "veth", "peer", "name", "vpn1"]);
        machine::run("ip", &["link", "set", "vpn0", "up"]);
        let with_vpn = machine.snapshot();
        refused(machine, "the name", &["--interface", "vpn0"], "vpn0 is there already");
        machine.assert_same(&with_vpn, "the name is taken");
        machine::run("ip", &["address", "add", "100.64.0.2/32", "dev", "vpn0"]);
        let with_address = machine.snapshot();
        refused(machine, "the address", &[], "100.64.0.2");
        machine.assert_same(&with_address, "the address is taken");
        machine::run("ip", &["address", "del", "100.64.0.2/32", "dev", "vpn0"]);
        // Another VPN has the usual range: another one is taken; one that is named is not changed for another.
        machine::run("ip", &["route", "add", "100.96.0.0/11", "dev", "vpn0"]);
        let with_route = machine.snapshot();
        refused(machine, "the range", &["--synthetic-v4", "100.97.0.0/16"], "--synthetic-v4");
        machine.assert_same(&with_route, "the range is taken");
        machine.up(&[]);
        assert_eq!(machine.status()["tun"]["synthetic"][0], "100.81.0.0/16");
        assert_eq!(machine::http("wiki.office.internal:80"), "from the site");
        machine.down();
        machine.assert_same(&with_route, "another range");
        machine::run("ip", &["link", "del", "vpn0"]);

        // The machine is on a network with the resource's range: it keeps it, and that is said.
        machine::run("ip", &["address", "add", "10.9.9.9/32", "dev", "lo"]);
        let with_lan = machine.snapshot();
        machine.up(&[]);
        let status = machine.status();
        let conflicts = status["tun"]["conflicts"].as_array().unwrap();
        assert_eq!(
            (&conflicts[0]["prefix"], &conflicts[0]["routed"]),
            (&"10.9.9.9/32".into(), &false.into())
        );
        let routes = status["tun"]["routes"].as_array().unwrap();
        assert!(!routes.contains(&Value::from("10.9.9.9/32")));
        machine.down();
        machine.assert_same(&with_lan, "the same range");
        machine::run("ip", &["address", "del", "10.9.9.9/32", "dev", "lo"]);

        // A resolver file that cannot be written.
        machine::run("mount", &["--bind", "/etc", "/etc"]);
        machine::run("mount", &["-o", "remount,bind,ro", "/etc"]);
        let output = machine.tidegate_with_state(&["up", "--tun"]);
        assert_eq!(output.code, Some(1), "{}", output.stderr);
        assert!(output.stderr.contains("resolver"), "{}", output.stderr);
        machine::run("umount", &["/etc"]);
        machine.assert_same(&before, "a file that cannot be written");
    });
}

/// A symbolic link, a mount point or a file: what `/etc/resolv.conf` is on real machines.
impl Machine {
    fn set_resolver(&self, form: usize) {
        let conf = Path::new("/etc/resolv.conf");
        match form {
            1 => {
                fs::rename(conf, "/etc/resolv.conf.real").unwrap();
                symlink("resolv.conf.real", conf).unwrap();
            }
            2 => {
                let file = self.scratch("mounted").join("resolv.conf");
                fs::copy(conf, &file).unwrap();
                chown(&file, Some(7), Some(8)).unwrap();
                machine::run("mount", &["--bind", file.to_str().unwrap(), "/etc/resolv.conf"]);
            }
            _ => {}
        }
    }

    fn unset_resolver(&self, form: usize) {
        match form {
            1 => fs::rename("/etc/resolv.conf.real", "/etc/resolv.conf").unwrap(),
            2 => machine::run("umount", &["/etc/resolv.conf"]),
            _ => {}
        }
    }
}
