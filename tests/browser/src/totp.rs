//! The code of an authenticator app, by another program than the one that checks it.

use anyhow::{Result, ensure};
use std::process::Command;

/// RFC 6238 with SHA-1, 6 digits and 30 s.
const CODE: &str = "import sys, hmac, base64, struct, time\n\
    key = base64.b32decode(sys.argv[1].replace(' ', ''))\n\
    step = int(time.time()) // 30 + int(sys.argv[2])\n\
    mac = hmac.new(key, struct.pack('>Q', step), 'sha1').digest()\n\
    at = mac[-1] & 15\n\
    print('%06d' % ((struct.unpack('>I', mac[at:at + 4])[0] & 0x7fffffff) % 10**6))";

/// The code that an app shows for a secret, now or so many steps later.
///
/// # Errors
/// Python is missing, or the secret is none.
pub fn totp_code(secret: &str, steps_ahead: u32) -> Result<String> {
    let output = Command::new("python3").args(["-c", CODE, secret, &steps_ahead.to_string()]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
