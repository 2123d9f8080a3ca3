//! The firewall's part: one table of our own, put in and taken out as a whole by `nft -j -f -`, which does all of it or
//! nothing.

use crate::error::Unavailable;
use serde_json::{Value, json};
use std::{
    io::{self, Write as _},
    net::{Ipv4Addr, Ipv6Addr},
    process::{Command, Output, Stdio},
};

/// What the table is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ruleset {
    pub table: String,
    pub interface: String,
    pub v4: Ipv4Addr,
    pub v6: Option<Ipv6Addr>,
    /// Whether forwarding is on for this connector alone: then nobody else's packets are forwarded.
    pub only_ours: bool,
}

/// Interfaces of other connectors on this machine, whose packets `only_ours` leaves alone.
const SIBLINGS: &str = "tidesite*";

impl Ruleset {
    /// The commands that put the table there, in place of one of the same name that a killed process left.
    fn commands(&self) -> Value {
        let mut commands = vec![add_table(&self.table), delete_table(&self.table), add_table(&self.table)];
        let chain = |name: &str, kind: &str, hook: &str, priority: i32| {
            json!({"add": {"chain": {
                "family": "inet", "table": self.table, "name": name, "type": kind, "hook": hook, "prio": priority,
                "policy": "accept",
            }}})
        };
        // Priorities of nft(8): srcnat 100, filter 0.
        commands.push(chain("outward", "nat", "postrouting", 100));
        commands.push(chain("through", "filter", "forward", 0));
        commands.push(chain("here", "filter", "input", 0));
        let rule = |chain: &str, expressions: Vec<Value>| json!({"add": {"rule": {"family": "inet", "table": self.table, "chain": chain, "expr": expressions}}});
        let is = |left: Value, right: Value| json!({"match": {"op": "==", "left": left, "right": right}});
        let from = |family: &str| json!({"payload": {"protocol": family, "field": "saddr"}});
        let meta = |key: &str| json!({"meta": {"key": key}});
        let state =
            |words: Value| json!({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": words}});
        let (accept, drop) = (json!({"accept": null}), json!({"drop": null}));
        let sources: Vec<Value> =
            [Some(is(from("ip"), json!(self.v4))), self.v6.map(|v6| is(from("ip6"), json!(v6)))]
                .into_iter()
                .flatten()
                .collect();
        let (comes, goes) =
            (is(meta("iifname"), json!(self.interface)), is(meta("oifname"), json!(self.interface)));
        for source in &sources {
            commands.push(rule("outward", vec![source.clone(), json!({"masquerade": null})]));
        }
        // A packet that belongs to no connection would leave with an address that nobody can answer.
        commands.push(rule("through", vec![comes.clone(), state(json!(["invalid"])), drop.clone()]));
        for source in &sources {
            commands.push(rule("through", vec![comes.clone(), source.clone(), accept.clone()]));
        }
        commands.push(rule("through", vec![comes.clone(), drop.clone()]));
        // Nobody in the site begins anything with the connector's side.
        commands.push(rule(
            "through",
            vec![goes.clone(), state(json!(["established", "related"])), accept.clone()],
        ));
        commands.push(rule("through", vec![goes, drop.clone()]));
        if self.only_ours {
            for key in ["iifname", "oifname"] {
                commands.push(rule("through", vec![is(meta(key), json!(SIBLINGS)), accept.clone()]));
            }
            commands.push(rule("through", vec![is(meta("nfproto"), json!("ipv4")), drop.clone()]));
        }
        // Targets on this machine itself are reached without the kernel's forwarding.
        commands.push(rule("here", vec![comes, drop]));
        json!({"nftables": commands})
    }

    /// Puts the table there.
    pub fn install(&self) -> Result<(), Unavailable> {
        nft(&self.commands())
    }
}

fn add_table(table: &str) -> Value {
    json!({"add": {"table": {"family": "inet", "name": table}}})
}

fn delete_table(table: &str) -> Value {
    json!({"delete": {"table": {"family": "inet", "name": table}}})
}

/// Takes the table out, if it is there.
pub(crate) fn remove(table: &str) -> Result<(), Unavailable> {
    nft(&json!({"nftables": [add_table(table), delete_table(table)]}))
}

/// Whether the table is there. Where nobody can say, it is taken to be.
pub(crate) fn is_there(table: &str) -> bool {
    run(&["list", "table", "inet", table], b"").map_or(true, |output| output.status.success())
}

fn nft(commands: &Value) -> Result<(), Unavailable> {
    let output = run(&["-j", "-f", "-"], commands.to_string().as_bytes())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.lines().next().unwrap_or("nothing").chars().take(300).collect();
    Err(Unavailable::Nft(said))
}

fn run(arguments: &[&str], input: &[u8]) -> Result<Output, Unavailable> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Unavailable::NoNft,
        _ => Unavailable::Nft(source.to_string()),
    };
    let mut command = Command::new("nft");
    // Where Debian and others have it, whatever PATH a service is started with.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin:/usr/local/sbin"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that has ended says why itself.
        let _ = stdin.write_all(input);
    }
    child.wait_with_output().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruleset() -> Ruleset {
        Ruleset {
            table: "tidegate_tidesite7".into(),
            interface: "tidesite7".into(),
            v4: Ipv4Addr::new(100, 127, 254, 2),
            v6: Some("fd7a:7467:6e6f::2".parse().unwrap()),
            only_ours: true,
        }
    }

    /// What nft itself makes of the commands, without changing anything.
    fn check(commands: &Value) -> Option<Output> {
        run(&["-j", "-c", "-f", "-"], commands.to_string().as_bytes()).ok()
    }

    #[test]
    fn nft_takes_the_commands_with_and_without_ipv6_and_others() {
        if !crate::may_administer() || run(&["-v"], b"").is_err() {
            return;
        }
        for (v6, only_ours) in [(true, true), (false, false)] {
            let ruleset = Ruleset { v6: ruleset().v6.filter(|_| v6), only_ours, ..ruleset() };
            let output = check(&ruleset.commands()).expect("nft runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let refused = check(&json!({"nftables": [{"add": {"rule": {"family": "inet"}}}]})).expect("nft runs");
        assert!(!refused.status.success(), "the check can fail");
    }

    #[test]
    fn nothing_of_the_site_comes_in_unasked_and_nothing_goes_to_this_machine() {
        let text = ruleset().commands().to_string();
        let rules: Vec<String> = ruleset().commands()["nftables"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|command| command.pointer("/add/rule"))
            .map(|rule| {
                let words = rule["expr"].as_array().unwrap().last().unwrap();
                format!(
                    "{} {}",
                    rule["chain"].as_str().unwrap(),
                    words.as_object().unwrap().keys().next().unwrap()
                )
            })
            .collect();
        assert_eq!(
            rules,
            [
                "outward masquerade",
                "outward masquerade",
                "through drop",
                "through accept",
                "through accept",
                "through drop",
                "through accept",
                "through drop",
                "through accept",
                "through accept",
                "through drop",
                "here drop",
            ]
        );
        assert!(!text.contains("flush"), "nobody else's rules are touched");
    }
}
