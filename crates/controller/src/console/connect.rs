//! The commands that start a connector where the network is: in a container, as a service, in a cluster, or by hand.

use super::look::code;
use maud::{Markup, html};
use std::{fmt, str::FromStr};

/// A container image that has this program as its entry point, as its registry calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectorImage(String);

/// A text that cannot be the name of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected the name of a container image, letters, digits and any of . _ : / @ -, at most 255, as in \
     registry.example.org/tidegate:1; got {0:?}"
)]
pub struct NoImage(String);

impl FromStr for ConnectorImage {
    type Err = NoImage;

    /// It stands in commands that people paste into a shell.
    fn from_str(text: &str) -> Result<Self, NoImage> {
        let fits = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:/@-".contains(&byte));
        if fits && (1..=255).contains(&text.len()) && text.as_bytes()[0].is_ascii_alphanumeric() {
            Ok(Self(text.to_owned()))
        } else {
            Err(NoImage(text.chars().take(120).collect()))
        }
    }
}

impl fmt::Display for ConnectorImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name that a shell, a container and a service take.
pub(super) fn slug(name: &str) -> String {
    let kept: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(24)
        .collect();
    let kept = kept.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
    if kept.is_empty() { "connector".to_owned() } else { kept }
}

/// Without an image of one's own it runs this machine's program in a plain one.
fn docker(name: &str, image: Option<&ConnectorImage>) -> String {
    let program = match image {
        Some(image) => format!("  {image} \\\n  connector"),
        None => "  -v \"$(command -v tidegate)\":/usr/bin/tidegate:ro \\\n  debian:stable-slim \\\n  tidegate connector".into(),
    };
    format!(
        "mkdir -p -m 0700 tidegate-{name} && \\\ndocker run -d --name tidegate-{name} --restart unless-stopped \\\n  \
         --user \"$(id -u):$(id -g)\" --read-only --cap-drop ALL --network host \\\n  \
         -v \"$PWD/tidegate-{name}\":/var/lib/tidegate \\\n  -v \"$PWD/join.key\":/run/join.key:ro \\\n\
         {program} --state /var/lib/tidegate --join-file /run/join.key --name {name}"
    )
}

fn systemd(name: &str) -> String {
    format!(
        "sudo useradd --system --no-create-home tidegate 2>/dev/null\n\
         sudo install -d -o tidegate -m 0700 /var/lib/tidegate-{name}\n\
         sudo install -o tidegate -m 0400 join.key /etc/tidegate-{name}.key\n\
         sudo tee /etc/systemd/system/tidegate-{name}.service <<END\n\
         [Unit]\nDescription=Tidegate connector {name}\nAfter=network-online.target\nWants=network-online.target\n\n\
         [Service]\nUser=tidegate\nExecStart=$(command -v tidegate) connector --state /var/lib/tidegate-{name} --join-file /etc/tidegate-{name}.key --name {name}\n\
         Restart=always\nNoNewPrivileges=yes\nProtectSystem=strict\nReadWritePaths=/var/lib/tidegate-{name}\n\n\
         [Install]\nWantedBy=multi-user.target\nEND\n\
         sudo systemctl daemon-reload && sudo systemctl enable --now tidegate-{name}"
    )
}

/// Where nobody said which image, its name is a variable that the commands before it have set.
fn kubernetes(name: &str, image: Option<&ConnectorImage>) -> String {
    let image = image.map_or_else(|| "$IMAGE".to_owned(), ToString::to_string);
    format!(
        "kubectl create secret generic tidegate-{name} --from-file=join=join.key && \\\nkubectl apply -f - <<END\n\
         apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: tidegate-{name}}}\nspec:\n  serviceName: tidegate-{name}\n  \
         selector: {{matchLabels: {{app: tidegate-{name}}}}}\n  template:\n    metadata: {{labels: {{app: tidegate-{name}}}}}\n    \
         spec:\n      automountServiceAccountToken: false\n      \
         securityContext: {{runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, fsGroup: 65532, seccompProfile: {{type: RuntimeDefault}}}}\n      \
         containers:\n      - name: connector\n        image: {image}\n        \
         args: [connector, --state, /var/lib/tidegate/connector, --join-file, /run/tidegate/join, --name, {name}]\n        \
         securityContext: {{readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}\n        \
         volumeMounts:\n        - {{name: state, mountPath: /var/lib/tidegate}}\n        - {{name: join, mountPath: /run/tidegate, readOnly: true}}\n      \
         volumes: [{{name: join, secret: {{secretName: tidegate-{name}}}}}]\n  volumeClaimTemplates:\n  - metadata: {{name: state}}\n    \
         spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}\nEND"
    )
}

/// From this machine's program, where there is no image yet.
const MAKE_IMAGE: &str = "IMAGE=registry.example.org/tidegate\n\
     docker build -t \"$IMAGE\" -f - \"$(dirname \"$(command -v tidegate)\")\" <<'END' && docker push \"$IMAGE\"\n\
     FROM debian:stable-slim\nCOPY tidegate /usr/local/bin/tidegate\nENTRYPOINT [\"tidegate\"]\nEND";

/// The commands, each behind its tab.
pub(super) fn commands(name: &str, image: Option<&ConnectorImage>) -> Markup {
    let plain = format!("tidegate connector --state ./tidegate-{name} --join-file join.key --name {name}");
    html! {
        p { "Run the command where the network is. Later starts need no key: what it needs is in its state directory." }
        div class="tabset" {
            div class="tabs" role="radiogroup" aria-label="Where it runs" {
                @for (index, (value, text)) in [("docker", "Docker"), ("systemd", "systemd"), ("kubernetes", "Kubernetes")].iter().enumerate() {
                    label { input type="radio" name="where" value=(value) checked[index == 0]; (text) }
                }
            }
            div class="panel panel--docker" { (code("Docker command", html! { (docker(name, image)) })) p class="hint mt-2" { "No privileges: userspace forwarding, read-only file system, no capabilities." } }
            div class="panel panel--systemd" { (code("systemd command", html! { (systemd(name)) })) p class="hint mt-2" { "An own user without privileges; starts with the machine. The key is of no use once it was used." } }
            div class="panel panel--kubernetes" {
                @if image.is_none() {
                    p { "A cluster takes an image from a registry. This makes one, once; put a name in a registry of yours:" }
                    (code("Commands that make an image", html! { (MAKE_IMAGE) }))
                    p class="mt-2" { "Then, in the same shell:" }
                }
                (code("Kubernetes command", html! { (kubernetes(name, image)) }))
                p class="hint mt-2" {
                    "A user without privileges, a read-only file system, no capabilities, no token of the cluster."
                    @if image.is_none() { " Started with " code { "--connector-image" } ", the controller shows your image here." }
                }
            }
        }
        p class="mt-4" { "Or in the foreground, to try it:" }
        (code("Foreground command", html! { (plain) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

    #[test]
    fn a_name_in_a_command_is_one_word_whatever_the_site_is_called() {
        assert_eq!(slug("Hamburg DC"), "hamburg-dc");
        assert_eq!(slug("'; rm -rf / #"), "rm-rf");
        assert_eq!(slug("東京"), "connector");
    }

    #[test]
    fn an_image_s_name_cannot_leave_the_command_in_which_it_stands() {
        for good in ["tidegate", "registry.example.org:5000/net/tidegate:1.2", "r/t@sha256:0af1"] {
            assert_eq!(good.parse::<ConnectorImage>().unwrap().to_string(), good);
        }
        let long = "x".repeat(256);
        for bad in ["", "a b", "a;b", "$(id)", "a\nb", "-v/:/host", "\"", long.as_str()] {
            assert!(bad.parse::<ConnectorImage>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn commands_carry_no_key() {
        let shown = commands("hh-1", None).into_string();
        assert!(shown.contains("join.key") && !shown.contains("--join "), "{shown}");
    }

    /// A program that writes down what it was given: its arguments, and its standard input where it takes one.
    fn recording(directory: &Path, program: &str, then: &str) {
        let file = directory.join(program);
        let here = directory.display();
        let text = format!(
            "#!/bin/sh\nfor word in \"$@\"; do printf '%s\\n' \"$word\"; done >> {here}/{program}.said\n{then}\n"
        );
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs what somebody pastes; gives what `program` was given.
    fn pasted(directory: &Path, text: &str, program: &str) -> Vec<String> {
        let path = format!("{}:/usr/bin:/bin", directory.display());
        let mut shell = Command::new("sh");
        shell.arg("-euc").arg(text).current_dir(directory).env("PATH", path);
        let said = shell.output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let said = fs::read_to_string(directory.join(format!("{program}.said"))).unwrap();
        said.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_docker_command_starts_one_container_without_privileges_from_either_image() {
        for image in [None, Some("registry.example.org/tidegate:1".parse().unwrap())] {
            let scratch = tempfile::tempdir().unwrap();
            let here = scratch.path();
            recording(here, "docker", "");
            recording(here, "tidegate", "");
            let words = pasted(here, &docker("hh-1", image.as_ref()), "docker");
            let tail = [
                "connector",
                "--state",
                "/var/lib/tidegate",
                "--join-file",
                "/run/join.key",
                "--name",
                "hh-1",
            ];
            assert!(words.ends_with(&tail.map(str::to_owned)), "{words:?}");
            let has = |word: &str| words.iter().any(|known| known == word);
            for word in ["--read-only", "--cap-drop", "ALL", "--user"] {
                assert!(has(word), "{word}: {words:?}");
            }
            let program = format!("{}/tidegate:/usr/bin/tidegate:ro", here.display());
            assert_eq!(has(&program), image.is_none(), "{words:?}");
            assert_eq!(has("registry.example.org/tidegate:1"), image.is_some(), "{words:?}");
            let state = fs::metadata(here.join("tidegate-hh-1")).unwrap();
            assert_eq!(state.permissions().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn the_systemd_command_writes_a_service_that_systemd_takes() {
        let scratch = tempfile::tempdir().unwrap();
        let here = scratch.path();
        let unit = here.join("tidegate-hh-1.service");
        // Of everything that it asks root for, the unit alone is looked at.
        recording(here, "sudo", &format!("if [ \"$1\" = tee ]; then cat > {}; fi", unit.display()));
        recording(here, "tidegate", "");
        let words = pasted(here, &systemd("hh-1"), "sudo");
        for word in ["/etc/systemd/system/tidegate-hh-1.service", "daemon-reload", "/etc/tidegate-hh-1.key"] {
            assert!(words.iter().any(|known| known == word), "{word}: {words:?}");
        }
        let text = fs::read_to_string(&unit).unwrap();
        let start = format!("ExecStart={}/tidegate connector --state /var/lib/tidegate-hh-1", here.display());
        assert!(text.contains(&start), "{text}");
        match Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&unit).output() {
            Ok(said) => {
                let words = String::from_utf8_lossy(&said.stderr);
                assert!(said.status.success() && !words.contains("hh-1.service:"), "{words}");
            }
            Err(error) => println!("systemd-analyze does not judge it: {error}"),
        }
    }

    #[test]
    fn the_kubernetes_command_applies_the_golden_file_and_makes_an_image_where_there_is_none() {
        let scratch = tempfile::tempdir().unwrap();
        let here = scratch.path();
        let applied = here.join("applied.yaml");
        let keep = format!("if [ \"$1\" = apply ]; then cat > {}; fi", applied.display());
        recording(here, "kubectl", &keep);
        recording(here, "docker", "if [ \"$1\" = build ]; then cat >/dev/null; fi");
        recording(here, "tidegate", "");
        let image = "registry.example.org/tidegate".parse().unwrap();
        let words = pasted(here, &kubernetes("hh-1", Some(&image)), "kubectl");
        assert!(words.starts_with(&["create", "secret", "generic", "tidegate-hh-1"].map(str::to_owned)));
        let of_image = fs::read_to_string(&applied).unwrap();
        pasted(here, &format!("{MAKE_IMAGE}\n{}", kubernetes("hh-1", None)), "kubectl");
        assert_eq!(
            fs::read_to_string(&applied).unwrap(),
            of_image,
            "by its own image as by one that is named"
        );
        let docker = fs::read_to_string(here.join("docker.said")).unwrap();
        assert!(docker.contains("push\nregistry.example.org/tidegate\n"), "{docker}");
        // A judge of Kubernetes' own schemas reads the golden file.
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/connector.yaml");
        if std::env::var_os("TIDEGATE_WRITE_OPENAPI").is_some() {
            fs::write(&golden, &of_image).unwrap();
        }
        assert!(
            fs::read_to_string(&golden).unwrap_or_default() == of_image,
            "docs/connector.yaml is not what the console shows; write it again with: cargo xtask openapi"
        );
    }
}
