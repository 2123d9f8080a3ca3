//! `tidegate login https://CONTROLLER`: a code, an address and a picture of it, and a person who confirms.

use crate::{
    admin,
    cli::LoginArgs,
    output::{Failure, Format, Outcome, note},
    places,
};
use enrol::{DeviceCode, EnrolError, ServerTrust, ServerUrl};
use qrcodegen::{QrCode, QrCodeEcc};
use std::{fmt::Write as _, io::IsTerminal as _};
use trust::{JoinKey, RootHash};

/// The controller's address, when that is what was given and not a key or a link that carries one.
pub fn controller(text: Option<&str>) -> Option<&str> {
    text.filter(|text| text.starts_with("https://") && !text.contains('#'))
}

/// The root, if its hash was given.
fn root(args: &LoginArgs) -> Result<Option<RootHash>, Failure> {
    let parsed = args.root.as_deref().map(|text| text.parse::<RootHash>());
    parsed.transpose().map_err(|_| {
        Failure::say(
            Outcome::Usage,
            "expected a root's hash with --root: the 43 characters that the console shows under its root key",
        )
    })
}

/// Shows a code and waits for the key.
pub async fn key(address: &str, args: &LoginArgs, format: Format) -> Result<JoinKey, Failure> {
    let url = address
        .trim_end_matches('/')
        .parse::<ServerUrl>()
        .map_err(|error| Failure::new(Outcome::Usage, error))?;
    let mut servers = ServerTrust::nobody().with_system_roots();
    if let Some(ca) = &args.ca {
        servers = servers.with_console_ca(&places::public_key_of_ca(ca)?);
    }
    let name = args.name.clone().unwrap_or_else(places::host_name);
    let code = DeviceCode::ask(&url, root(args)?, servers, &name).await.map_err(refused)?;
    let value = serde_json::json!({
        "event": "code",
        "user_code": code.user_code(),
        "address": code.address(),
        "address_with_code": code.address_with_code(),
        "root": code.root().to_string(),
        "seconds": code.life().as_secs(),
    });
    format.print(&value, || shown(&code));
    code.wait().await.map_err(refused)
}

fn shown(code: &DeviceCode) -> String {
    let mut text = String::new();
    if std::io::stdout().is_terminal() {
        text.push_str(&picture(code.address_with_code()));
    }
    let minutes = code.life().as_secs() / 60;
    let (address, user_code, root) = (code.address(), code.user_code(), code.root());
    write!(
        text,
        "Open {address} in a browser, sign in, and type the code\n\n    {user_code}\n\nThe page shows the same code and this \
         root: {root}\nWaiting; the code is good for {minutes} minutes."
    )
    .expect("writing to a String does not fail");
    text
}

fn refused(error: EnrolError) -> Failure {
    match error {
        EnrolError::Api(error) => {
            note(
                "A controller with a certificate of its own CA is believed with --ca FILE (its console-ca.pem), or by its \
                 root's hash with --root HASH.",
            );
            admin::refused(error)
        }
        EnrolError::CodeDenied => Failure::new(Outcome::Denied, error),
        EnrolError::CodeExpired => Failure::new(Outcome::Later, error),
        other => other.into(),
    }
}

/// A QR code of half blocks: two modules a character, dark on light whatever the terminal's colours are.
fn picture(text: &str) -> String {
    const QUIET: i32 = 2;
    let Ok(code) = QrCode::encode_text(text, QrCodeEcc::Low) else { return String::new() };
    let end = code.size() + QUIET;
    let mut out = String::new();
    for y in (-QUIET..end).step_by(2) {
        // Black on white (ECMA-48 section 8.3.117).
        out.push_str("\x1b[30;47m");
        for x in -QUIET..end {
            out.push(match (code.get_module(x, y), code.get_module(x, y + 1)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
        out.push_str("\x1b[0m\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_s_address_is_told_from_a_key_and_a_link() {
        assert_eq!(controller(Some("https://tide.example.org")), Some("https://tide.example.org"));
        assert_eq!(controller(Some("https://tide.example.org/join#tg1.x")), None);
        assert_eq!(controller(Some("tg1.device.x")), None);
        assert_eq!(controller(None), None);
    }

    #[test]
    fn the_picture_has_its_finders_and_a_quiet_zone_and_every_line_ends_plain() {
        let picture = picture("https://tide.example.org/device?code=BCDF-GHJK");
        let lines: Vec<&str> = picture.lines().collect();
        // Version 3 at level L holds 53 bytes: 29 modules and two around them, two a line.
        assert_eq!(lines.len(), 17);
        assert!(lines.iter().all(|line| line.starts_with("\x1b[30;47m") && line.ends_with("\x1b[0m")));
        let plain = |line: &str| line.replace("\x1b[30;47m", "").replace("\x1b[0m", "");
        assert!(plain(lines[0]).trim().is_empty(), "the quiet zone");
        assert!(plain(lines[1]).starts_with("  █▀▀▀▀▀█ "), "{}", plain(lines[1]));
    }
}
