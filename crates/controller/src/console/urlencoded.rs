//! `application/x-www-form-urlencoded` as browsers send it (URL Standard, section 5.1).

/// The pairs of a form, decoded as far as they are text.
pub(crate) fn pairs(bytes: &[u8]) -> Vec<(String, String)> {
    bytes
        .split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.iter().position(|byte| *byte == b'=') {
            Some(at) => (decoded(&pair[..at]), decoded(&pair[at + 1..])),
            None => (decoded(pair), String::new()),
        })
        .collect()
}

fn decoded(part: &[u8]) -> String {
    let mut out = Vec::with_capacity(part.len());
    let mut rest = part;
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        match (byte, behind) {
            (b'+', _) => out.push(b' '),
            (b'%', [high, low, behind @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                out.push((digit(*high) << 4) | digit(*low));
                rest = behind;
            }
            _ => out.push(*byte),
        }
    }
    // A browser sends CR LF for each new line of a text field.
    String::from_utf8_lossy(&out).replace("\r\n", "\n")
}

/// The value of a hexadecimal digit.
const fn digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        _ => byte - b'A' + 10,
    }
}
