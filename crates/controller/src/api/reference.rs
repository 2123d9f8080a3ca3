//! The reference of the API as a page: made from the OpenAPI document, without any script.

use axum::response::{Html, IntoResponse, Response};
use http::{HeaderValue, header};
use serde_json::Value;
use std::{fmt::Write as _, sync::LazyLock};

const STYLE: &str = "html{color-scheme:light dark;background:Canvas;color:CanvasText}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1.5rem}\
h2{margin-top:2.5rem;border-bottom:1px solid #8884}code,.m{font-family:ui-monospace,monospace;font-size:.92em}\
details{border:1px solid #8884;border-radius:6px;margin:.5rem 0;padding:.5rem .8rem}summary{cursor:pointer}\
.m{display:inline-block;min-width:4.5em;font-weight:700}table{border-collapse:collapse;width:100%;margin:.6rem 0}\
td,th{text-align:left;vertical-align:top;padding:.25rem .6rem .25rem 0;border-bottom:1px solid #8883}nav a{margin-right:.9em;white-space:nowrap}";

static PAGE: LazyLock<String> = LazyLock::new(|| {
    let document: Value = serde_json::from_str(&super::openapi_json()).expect("the document is JSON");
    page_of(&document)
});

/// The page.
pub(super) async fn page() -> Response {
    let mut response = Html(PAGE.as_str()).into_response();
    let headers = response.headers_mut();
    // The one style sheet is in the page, and is named by its hash.
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        base64(&trust::sha256(&[STYLE.as_bytes()]))
    );
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// The alphabet of CSP's hashes, which is not that of URLs.
fn base64(bytes: &[u8]) -> String {
    let mut text = trust::encode_base64url(bytes).replace('-', "+").replace('_', "/");
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Text with `code` in it.
fn prose(text: &str) -> String {
    let mut out = String::new();
    for (index, part) in text.split('`').enumerate() {
        let part = escaped(part);
        if index % 2 == 1 {
            let _ = write!(out, "<code>{part}</code>");
        } else {
            out.push_str(&part);
        }
    }
    out
}

fn anchor(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

fn page_of(document: &Value) -> String {
    let mut by_tag: std::collections::BTreeMap<&str, Vec<(&str, &str, &Value)>> =
        std::collections::BTreeMap::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in item.as_object().into_iter().flatten() {
            let tag = operation["tags"][0].as_str().unwrap_or("other");
            by_tag.entry(tag).or_default().push((path, method, operation));
        }
    }
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Tidegate API</title><style>{STYLE}</style></head><body><h1>Tidegate API</h1><p>{}</p>\
         <p>Authenticate with <code>Authorization: Bearer …</code>; <code>tidegate admin create token</code> makes a token. \
         The document for programs is <a href=\"/api/v1/openapi.json\">openapi.json</a>.</p><nav>",
        prose(document["info"]["description"].as_str().unwrap_or_default())
    );
    for tag in by_tag.keys() {
        let _ = write!(out, "<a href=\"#{}\">{}</a> ", anchor(tag), escaped(tag));
    }
    out.push_str("<a href=\"#schemas\">Schemas</a></nav>");
    for (tag, operations) in &by_tag {
        let _ = write!(out, "<h2 id=\"{}\">{}</h2>", anchor(tag), escaped(tag));
        for (path, method, operation) in operations {
            operation_of(&mut out, path, method, operation);
        }
    }
    out.push_str("<h2 id=\"schemas\">Schemas</h2>");
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        let _ = write!(
            out,
            "<details id=\"schema-{}\"><summary><code>{}</code></summary>",
            anchor(name),
            escaped(name)
        );
        if let Some(text) = schema["description"].as_str() {
            let _ = write!(out, "<p>{}</p>", prose(text));
        }
        members(&mut out, schema);
        out.push_str("</details>");
    }
    out.push_str("</body></html>");
    out
}

fn operation_of(out: &mut String, path: &str, method: &str, operation: &Value) {
    let summary = operation["summary"].as_str().unwrap_or_default();
    let _ = write!(
        out,
        "<details id=\"{}\"><summary><span class=\"m\">{}</span><code>{}</code> {}</summary>",
        anchor(operation["operationId"].as_str().unwrap_or_default()),
        method.to_uppercase(),
        escaped(path),
        prose(summary)
    );
    if let Some(text) = operation["description"].as_str().filter(|text| *text != summary) {
        let _ = write!(out, "<p>{}</p>", prose(text));
    }
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !parameters.is_empty() {
        out.push_str("<table><tr><th>parameter</th><th>in</th><th>what</th></tr>");
        for parameter in parameters {
            let _ = write!(
                out,
                "<tr><td><code>{}</code></td><td>{}</td><td>{} {}</td></tr>",
                escaped(parameter["name"].as_str().unwrap_or_default()),
                escaped(parameter["in"].as_str().unwrap_or_default()),
                prose(parameter["description"].as_str().unwrap_or_default()),
                kind(&parameter["schema"])
            );
        }
        out.push_str("</table>");
    }
    if let Some(schema) = operation.pointer("/requestBody/content/application~1json/schema") {
        let _ = write!(out, "<p>Body: {}</p>", kind(schema));
    }
    out.push_str("<table><tr><th>answer</th><th>what</th></tr>");
    for (status, answer) in operation["responses"].as_object().into_iter().flatten() {
        let schema = answer["content"].as_object().and_then(|content| content.values().next());
        let schema = schema.map(|media| kind(&media["schema"])).unwrap_or_default();
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{} {schema}</td></tr>",
            escaped(status),
            prose(answer["description"].as_str().unwrap_or_default())
        );
    }
    out.push_str("</table></details>");
}

/// A schema in a few words, linked where it has a name.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        return format!("<a href=\"#schema-{}\"><code>{}</code></a>", anchor(name), escaped(name));
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words
            .iter()
            .filter_map(|word| Some(format!("<code>{}</code>", escaped(word.as_str()?))))
            .collect();
        return words.join(" | ");
    }
    for all in ["oneOf", "anyOf", "allOf"] {
        if let Some(parts) = schema[all].as_array() {
            return parts.iter().map(kind).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" | ");
        }
    }
    let word = match &schema["type"] {
        Value::String(word) => word.clone(),
        Value::Array(words) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" | "),
        _ => String::new(),
    };
    if word.starts_with("array") {
        return format!("list of {}", kind(&schema["items"]));
    }
    escaped(&word)
}

fn members(out: &mut String, schema: &Value) {
    let Some(properties) = schema["properties"].as_object() else {
        let _ = write!(out, "<p>{}</p>", kind(schema));
        return;
    };
    let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
    out.push_str("<table><tr><th>member</th><th>type</th><th>what</th></tr>");
    for (name, member) in properties {
        let mark = if required.iter().any(|one| one == name) { "" } else { " (may be absent)" };
        let _ = write!(
            out,
            "<tr><td><code>{}</code>{mark}</td><td>{}</td><td>{}</td></tr>",
            escaped(name),
            kind(member),
            prose(member["description"].as_str().unwrap_or_default())
        );
    }
    out.push_str("</table>");
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_has_every_operation_and_schema_and_no_script() {
        let page = super::PAGE.as_str();
        let document: serde_json::Value = serde_json::from_str(&crate::openapi_json()).unwrap();
        for item in document["paths"].as_object().unwrap().values() {
            for operation in item.as_object().unwrap().values() {
                let id = super::anchor(operation["operationId"].as_str().unwrap());
                assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
            }
        }
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(page.contains(&format!("id=\"schema-{}\"", super::anchor(name))), "{name}");
        }
        assert!(!page.contains("<script"));
        for (at, _) in page.match_indices("href=\"#") {
            let target = page[at + 7..].split('"').next().unwrap();
            assert!(page.contains(&format!("id=\"{target}\"")), "{target} leads nowhere");
        }
    }
}
