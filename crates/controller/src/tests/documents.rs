//! The OpenAPI document is the one in `docs/openapi.json`.

use crate::openapi_json;
use serde_json::Value;
use std::{collections::BTreeSet, path::Path};

#[test]
fn the_openapi_document_is_the_golden_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let document = openapi_json();
    if std::env::var_os("TIDEGATE_WRITE_OPENAPI").is_some() {
        std::fs::write(&path, &document).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        golden == document,
        "docs/openapi.json is not what the code says; write it again with: TIDEGATE_WRITE_OPENAPI=1 cargo test -p controller openapi"
    );
}

#[test]
fn every_operation_has_its_own_id_and_says_what_errors_look_like() {
    let document: Value = serde_json::from_str(&openapi_json()).unwrap();
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} twice");
            for status in ["401", "403", "default"] {
                let content = &operation["responses"][status]["content"];
                let schema = &content["application/problem+json"]["schema"]["$ref"];
                assert_eq!(schema, "#/components/schemas/Problem", "{method} {path} {status}");
            }
        }
    }
    assert!(ids.len() > 40, "{}", ids.len());
    assert!(document["components"]["schemas"]["Problem"]["properties"]["field"].is_object());
}
