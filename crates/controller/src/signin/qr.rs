//! A text as a QR code in SVG: geometry in attributes, colours in classes, no style and no script.

use qrcodegen::{QrCode, QrCodeEcc};

/// The quiet zone around it, in modules (ISO/IEC 18004).
const QUIET: i32 = 4;

/// The picture, or nothing when the text is longer than a code holds.
pub(super) fn svg(text: &str, label: &str) -> String {
    use std::fmt::Write;
    let Ok(code) = QrCode::encode_text(text, QrCodeEcc::Medium) else { return String::new() };
    let size = code.size() + 2 * QUIET;
    let mut path = String::new();
    for y in 0..code.size() {
        for x in (0..code.size()).filter(|x| code.get_module(*x, y)) {
            write!(path, "M{} {}h1v1h-1z", x + QUIET, y + QUIET).expect("writing to a String does not fail");
        }
    }
    let label: String = label.chars().filter(|c| !"<>&\"'".contains(*c)).collect();
    format!(
        "<svg class=\"qr\" viewBox=\"0 0 {size} {size}\" width=\"220\" height=\"220\" role=\"img\" aria-label=\"{label}\">\
         <rect width=\"{size}\" height=\"{size}\" fill=\"#fff\"/><path d=\"{path}\" fill=\"#000\"/></svg>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_is_the_code_with_its_quiet_zone_and_carries_no_markup_of_others() {
        let picture = svg("https://example.com/device", "a <b> & \"c\"");
        // Version 2 at level M: 25 modules and four around them.
        assert!(picture.contains("viewBox=\"0 0 33 33\""), "{}", &picture[..120]);
        // The finder's first module is at the quiet zone's corner.
        assert!(picture.contains("d=\"M4 4h1v1h-1z"), "{}", &picture[..400]);
        assert!(picture.contains("aria-label=\"a b  c\"") && !picture.contains("style"));
    }
}
