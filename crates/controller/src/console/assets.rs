//! What pages bring along: one style sheet, htmx and one small script of our own. Each has its content's hash in its
//! name, so that a browser asks once; each is compressed once, when it is first asked for.

use axum::{Router, routing::get};
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, header};
use std::{collections::BTreeMap, io::Write as _, sync::LazyLock};
use trust::{encode_base64url, sha256};

const STYLE: &str = include_str!("../../assets/console.css");
const SCRIPT: &str = include_str!("../../assets/console.js");
/// `npm pack htmx.org@2.0.11`, `dist/htmx.min.js` (0BSD); a test holds it to the hash of that package.
const HTMX: &str = include_str!("../../assets/htmx-2.0.11.min.js");
/// The signs that pages use, one `symbol` a line.
const SYMBOLS: &str = include_str!("../../assets/symbols.svg");

/// One file as it is served.
#[derive(Debug)]
pub(super) struct Asset {
    /// Where it is.
    pub(super) path: String,
    text: &'static str,
    media: &'static str,
    packed: LazyLock<Vec<u8>, Box<dyn FnOnce() -> Vec<u8> + Send>>,
}

impl Asset {
    fn new(name: &str, extension: &str, media: &'static str, text: &'static str) -> Self {
        let digest = encode_base64url(&sha256(&[text.as_bytes()]));
        let path = format!("/assets/{name}-{}.{extension}", &digest[..16]);
        Self { path, text, media, packed: LazyLock::new(Box::new(move || pack(text.as_bytes()))) }
    }
}

pub(super) static STYLE_SHEET: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("console", "css", "text/css; charset=utf-8", STYLE));
pub(super) static OWN_SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("console", "js", "text/javascript; charset=utf-8", SCRIPT));
pub(super) static HTMX_SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("htmx", "js", "text/javascript; charset=utf-8", HTMX));

static BY_NAME: LazyLock<BTreeMap<&'static str, &'static str>> = LazyLock::new(|| {
    let lines = SYMBOLS.lines().filter_map(|line| {
        let name = line.strip_prefix("<symbol id=\"")?.split('"').next()?;
        Some((name, line))
    });
    lines.collect()
});

/// The signs that a page uses, as one hidden picture to refer to.
pub(super) fn sprite(page: &str) -> String {
    let mut used: Vec<&str> =
        page.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    used.sort_unstable();
    used.dedup();
    hidden(used.iter().filter_map(|name| BY_NAME.get(name).copied()).collect())
}

/// All of them: for a page whose parts may come to show others than it had.
pub(super) fn whole_sprite() -> String {
    hidden(BY_NAME.values().copied().collect())
}

fn hidden(symbols: String) -> String {
    format!("<svg class=\"sprite\" aria-hidden=\"true\" focusable=\"false\"><defs>{symbols}</defs></svg>")
}

fn pack(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("a vector takes every byte")
}

type Answer = (HeaderMap, Vec<u8>);

fn answer(asset: &Asset, asked: &HeaderMap) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.media));
    // The name changes with the content.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    let takes = asked.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    if takes.is_some_and(|takes| takes.split(',').any(|each| each.trim().starts_with("gzip"))) {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        return (headers, asset.packed.clone());
    }
    (headers, asset.text.as_bytes().to_vec())
}

pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route(&STYLE_SHEET.path, get(async |headers: HeaderMap| answer(&STYLE_SHEET, &headers)))
        .route(&OWN_SCRIPT.path, get(async |headers: HeaderMap| answer(&OWN_SCRIPT, &headers)))
        .route(&HTMX_SCRIPT.path, get(async |headers: HeaderMap| answer(&HTMX_SCRIPT, &headers)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn htmx_is_the_file_of_its_package() {
        let digest = sha256(&[HTMX.as_bytes()]);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717");
    }

    #[test]
    fn a_browser_that_takes_gzip_gets_the_same_text_packed() {
        let mut asked = HeaderMap::new();
        let (plain, text) = answer(&STYLE_SHEET, &asked);
        assert_eq!(plain.get(header::CONTENT_ENCODING), None);
        asked.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("br, gzip;q=0.8"));
        let (packed, bytes) = answer(&STYLE_SHEET, &asked);
        assert_eq!(packed[header::CONTENT_ENCODING], "gzip");
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut unpacked).unwrap();
        assert_eq!((text.as_slice(), unpacked.len()), (STYLE.as_bytes(), STYLE.len()));
        assert!(bytes.len() * 3 < text.len(), "{} of {}", bytes.len(), text.len());
    }

    #[test]
    fn a_page_brings_the_signs_that_it_uses_and_no_others() {
        let sprite = sprite("<use href=\"#home\"/><use href=\"#home\"/><a href=\"#nothing\">");
        assert_eq!(sprite.matches("<symbol").count(), 1);
        assert!(sprite.contains("id=\"home\""));
    }
}
