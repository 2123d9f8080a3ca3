//! `tidegate admin set`: other values for an object that there is.

use super::{Kind, as_it_is, object_text, refused, resolve};
use crate::{
    cli::Kind::{
        Connectors, Devices, Groups, Organizations, Policies, Pops, Resources, ServiceAccounts, Sites, Users,
    },
    output::{CommandResult, Failure, Format, Outcome},
};
use enrol::ApiClient;
use serde_json::{Map, Value, json};

/// How the API changes a kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// Of some members (RFC 7396).
    Patch,
    /// Of its name, which is all that can be changed.
    Name,
}

/// What can be set of a kind, and how; nothing where nothing can.
const fn settable(kind: Kind) -> Option<(By, &'static [&'static str])> {
    Some(match kind {
        Organizations => (By::Patch, &["name", "grant_life_seconds", "renew_after_seconds"]),
        Sites => (By::Patch, &["name", "prefixes", "regions"]),
        Resources => (By::Patch, &["site", "name", "alias", "address", "ports", "mode"]),
        Groups => (By::Patch, &["name"]),
        Users => (By::Patch, &["name", "email", "role"]),
        Policies => (By::Patch, &["name", "groups", "resources"]),
        Pops => (By::Patch, &["address", "region", "zone"]),
        Connectors | Devices | ServiceAccounts => (By::Name, &["name"]),
        _ => return None,
    })
}

/// Members that are lists: their values stand with commas between them.
const LISTS: &[&str] = &["prefixes", "regions", "ports", "groups", "resources"];
const NUMBERS: &[&str] = &["grant_life_seconds", "renew_after_seconds"];

/// Changes an object.
pub(super) async fn set(
    api: &ApiClient,
    kind: Kind,
    named: &str,
    settings: &[String],
    format: Format,
) -> CommandResult {
    let Some((by, fields)) = settable(kind) else {
        let text = format!("{} cannot be changed; make another and remove this one", kind.path());
        return Err(Failure::say(Outcome::Usage, format_args!("{text}")));
    };
    let mut body = Map::new();
    for setting in settings {
        let (field, value) =
            read(setting, fields).map_err(|text| Failure::say(Outcome::Usage, format_args!("{text}")))?;
        let value = named_by_ids(api, field, value).await?;
        if body.insert(field.to_owned(), value).is_some() {
            return Err(Failure::say(Outcome::Usage, format_args!("{field} is set twice")));
        }
    }
    let id = resolve(api, kind, named).await?;
    let path = format!("/api/v1/{}/{id}", kind.path());
    let api = as_it_is(api, &path).await?;
    let answer: Value = match by {
        By::Patch => api.patch(&path, &body).await,
        By::Name => api.put(&path, &body).await,
    }
    .map_err(refused)?;
    format.print(&answer, || object_text(&answer));
    Ok(Outcome::Done)
}

/// A field and its value, as the API takes it. Nothing behind the `=` takes the value away.
fn read<'a>(setting: &'a str, fields: &[&str]) -> Result<(&'a str, Value), String> {
    let Some((field, text)) = setting.split_once('=') else {
        return Err(format!("expected FIELD=VALUE, got {setting:?}"));
    };
    if !fields.contains(&field) {
        return Err(format!("expected one of {}, got {field:?}", fields.join(", ")));
    }
    let value = if LISTS.contains(&field) {
        json!(text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>())
    } else if NUMBERS.contains(&field) {
        let number: u64 =
            text.parse().map_err(|_| format!("{field}: expected a whole number, got {text:?}"))?;
        json!(number)
    } else if text.is_empty() {
        Value::Null
    } else {
        json!(text)
    };
    Ok((field, value))
}

/// What names other objects may do so by their names.
async fn named_by_ids(api: &ApiClient, field: &str, value: Value) -> Result<Value, Failure> {
    let kind = match field {
        "site" => Sites,
        "groups" => Groups,
        "resources" => Resources,
        _ => return Ok(value),
    };
    match value {
        Value::String(name) => Ok(json!(resolve(api, kind, &name).await?)),
        Value::Array(names) => {
            let mut ids = Vec::new();
            for name in names.iter().filter_map(Value::as_str) {
                ids.push(resolve(api, kind, name).await?);
            }
            Ok(json!(ids))
        }
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_their_fields_take_them_and_other_fields_are_named() {
        let (_, fields) = settable(Resources).unwrap();
        assert_eq!(read("ports=443, udp/53", fields), Ok(("ports", json!(["443", "udp/53"]))));
        assert_eq!(read("alias=", fields), Ok(("alias", Value::Null)));
        assert_eq!(read("name=a=b", fields), Ok(("name", json!("a=b"))));
        assert!(read("colour=red", fields).unwrap_err().contains("one of site, name, alias"));
        assert!(read("name", fields).unwrap_err().contains("FIELD=VALUE"));
        let (_, fields) = settable(Organizations).unwrap();
        assert_eq!(read("grant_life_seconds=7200", fields), Ok(("grant_life_seconds", json!(7200))));
        assert!(read("grant_life_seconds=2h", fields).unwrap_err().contains("a whole number"));
        assert_eq!(settable(Kind::Tokens), None);
    }
}
