//! The loopback proxy's credential: anybody on the machine can connect to a loopback port, so the
//! port asks for what only the user's own files say.

use base64::Engine as _;
use std::{
    fmt, io,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// The user name; the password is what counts.
const USER: &str = "tidegate";

/// Made at each start of the daemon, 128 random bits as text.
#[derive(Clone)]
pub struct Credential {
    password: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

impl Credential {
    /// From 128 random bits.
    #[must_use]
    pub fn from_random(bits: [u8; 16]) -> Self {
        Self { password: base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bits) }
    }

    /// Whether this user and password are it, in time that does not depend on what is wrong.
    #[must_use]
    pub fn admits(&self, user: &[u8], password: &[u8]) -> bool {
        // Lengths are no secret. Both comparisons always run.
        let user_fits = aws_lc_rs::constant_time::verify_slices_are_equal(user, USER.as_bytes()).is_ok();
        let password_fits =
            aws_lc_rs::constant_time::verify_slices_are_equal(password, self.password.as_bytes()).is_ok();
        user_fits & password_fits
    }

    /// Whether the value of `Proxy-Authorization` is it (RFC 7617).
    #[must_use]
    pub fn admits_basic(&self, header: &[u8]) -> bool {
        let Some((scheme, encoded)) = header.split_at_checked(6) else {
            return false;
        };
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return false;
        }
        let Ok(decoded) = base64::engine::general_purpose::STANDARD.decode(encoded.trim_ascii()) else {
            return false;
        };
        match decoded.iter().position(|byte| *byte == b':') {
            Some(at) => self.admits(&decoded[..at], &decoded[at + 1..]),
            None => false,
        }
    }

    /// Writes `http://user:password@address`, which curl and others take as a proxy, into a file that
    /// only its owner reads. `socks5h://` works with the same port and credential.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_proxy_url(&self, file: &Path, address: SocketAddr) -> io::Result<()> {
        let text = format!("http://{USER}:{}@{address}\n", self.password);
        // A file of its own, then renamed: a reader sees the old one or the new one, and an existing
        // file with wider permissions is replaced, not filled.
        let mut draft: PathBuf = file.to_owned();
        draft.as_mut_os_string().push(".new");
        match std::fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        out.write_all(text.as_bytes())?;
        std::fs::rename(&draft, file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn only_the_exact_user_and_password_are_admitted() {
        let credential = Credential::from_random([7; 16]);
        let password = credential.password.clone();
        assert!(credential.admits(b"tidegate", password.as_bytes()));
        assert!(!credential.admits(b"tidegat", password.as_bytes()));
        assert!(!credential.admits(b"tidegate", &password.as_bytes()[1..]));
        assert!(!credential.admits(b"tidegate", b""));
        assert!(!Credential::from_random([8; 16]).admits(b"tidegate", password.as_bytes()));
    }

    #[test]
    fn basic_takes_any_case_of_its_name_and_no_other_scheme() {
        let credential = Credential::from_random([7; 16]);
        let pair = format!("tidegate:{}", credential.password);
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        assert!(credential.admits_basic(format!("Basic {encoded}").as_bytes()));
        assert!(credential.admits_basic(format!("bASIC  {encoded} ").as_bytes()));
        for bad in [
            format!("Bearer {encoded}"),
            encoded.clone(),
            "Basic".into(),
            "Basic !".into(),
            "Basic dGlkZQ==".into(),
        ] {
            assert!(!credential.admits_basic(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn the_url_file_is_the_owners_alone_even_where_one_was_open_to_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("proxy-url");
        std::fs::write(&file, "old").expect("writes");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("sets");
        let credential = Credential::from_random([7; 16]);
        credential.write_proxy_url(&file, "127.0.0.1:1080".parse().expect("address")).expect("writes");
        let mode = std::fs::metadata(&file).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = std::fs::read_to_string(&file).expect("reads");
        assert_eq!(text, format!("http://tidegate:{}@127.0.0.1:1080\n", credential.password));
    }
}
