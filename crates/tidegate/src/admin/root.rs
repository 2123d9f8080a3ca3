//! What is done with the root key: it is opened by these commands alone, and never sent anywhere.

use super::refused;
use crate::{
    cli::{AdminArgs, RootCommand},
    output::{CommandResult, Failure, Format, Outcome, note},
    places, process,
};
use anyhow::Context as _;
use enrol::ApiClient;
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use trust::{MAX_ROTATION_LIFE, RootHash, RotationStatement, TrustChain, UnixMs, VerifyingKey};
use wire::{ControllerId, InstallationId};

/// Statements are dated back for controllers and agents whose clocks are behind.
const BACKDATED: Duration = Duration::from_secs(300);

/// Runs an `admin root` command.
pub(super) async fn run(args: &AdminArgs, command: &RootCommand, format: Format) -> CommandResult {
    match command {
        RootCommand::Export { file, phrase_file, remove } => {
            export(args, file, phrase_file.as_deref(), *remove, format)
        }
        RootCommand::NewRotationKey { root_key, phrase_file, without } => {
            let api = super::connect(args)?;
            let key = match root_key {
                Some(file) => file.clone(),
                None => {
                    let state = controller_state(args)?;
                    controller::expect_root(&state)?;
                    controller::root_key_file(&state)
                }
            };
            new_rotation_key(&api, &key, phrase_file.as_deref(), without, format).await
        }
    }
}

/// The state directory of the controller on this host, also where `serve` has it.
fn controller_state(args: &AdminArgs) -> Result<PathBuf, Failure> {
    let state = places::state_dir(args.state.as_deref(), "serve")?;
    let nested = state.join("controller");
    Ok(if nested.join(state::ABOUT_FILE).exists() { nested } else { state })
}

/// The recovery phrase, and where it came from in the words of an error.
fn phrase(file: Option<&Path>, why: &str) -> Result<(String, String), Failure> {
    let Some(path) = file else {
        note(why);
        let mut phrase = String::new();
        std::io::stdin().read_line(&mut phrase)?;
        return Ok((phrase.trim().to_owned(), "the recovery phrase on standard input".to_owned()));
    };
    let phrase =
        std::fs::read_to_string(path).with_context(|| format!("the phrase file {}", path.display()))?;
    Ok((phrase.trim().to_owned(), format!("the recovery phrase in {}", path.display())))
}

/// Works beside a running controller, on its state directory.
fn export(
    args: &AdminArgs,
    file: &Path,
    phrase_file: Option<&Path>,
    remove: bool,
    format: Format,
) -> CommandResult {
    let state = controller_state(args)?;
    controller::expect_root(&state)?;
    let (phrase, from) = phrase(phrase_file, "The recovery phrase, to prove that the copy opens:")?;
    let after = if remove { controller::AfterExport::Remove } else { controller::AfterExport::Keep };
    controller::export_root(&state, file, &phrase, after).context(from)?;
    format.print(&json!({"exported": file, "removed": remove}), || {
        let rest = if remove {
            "It is no longer on this host."
        } else {
            "It is still on this host; remove it with --remove."
        };
        format!(
            "The sealed root key is in {}. {rest}\nIt opens with the recovery phrase only.",
            file.display()
        )
    });
    Ok(Outcome::Done)
}

/// A value of the controller's offer.
fn offered<T>(offer: &Value, name: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<T, Failure> {
    offer[name].as_str().and_then(read).ok_or_else(|| {
        Failure::say(Outcome::Failed, format_args!("expected {name} in the controller's offer, got {offer}"))
    })
}

/// Asks the controller for a key, signs for it here, and gives it the signature.
async fn new_rotation_key(
    api: &ApiClient,
    root_key: &Path,
    phrase_file: Option<&Path>,
    without: &[ControllerId],
    format: Format,
) -> CommandResult {
    let (phrase, from) = phrase(phrase_file, "The recovery phrase, to open the root key:")?;
    let root = controller::open_root_file(root_key, &phrase).context(from)?;
    let offer: Value = api.post("/api/v1/rotation-key-offers", &json!({})).await.map_err(refused)?;
    let hash = RootHash::of(&root.verifying_key());
    let expected: RootHash = offered(&offer, "root_hash", |text| text.parse().ok())?;
    if hash != expected {
        return Err(Failure::say(
            Outcome::Failed,
            format_args!(
                "{} has the root key {hash}, and the installation's is {expected}: nothing was signed; name the right file with --root-key",
                root_key.display()
            ),
        ));
    }
    let key = |text: &str| trust::decode_base64url(text).ok()?.try_into().ok().map(VerifyingKey::from_bytes);
    let wall = UnixMs::from_millis(process::unix_ms());
    let nbf = wall.minus(BACKDATED);
    let statement = RotationStatement {
        installation: offered(&offer, "installation", |text| text.parse::<InstallationId>().ok())?,
        root: root.verifying_key(),
        rotation: offered(&offer, "rotation_key", key)?,
        epoch: offer["epoch"].as_u64().unwrap_or_default(),
        nbf,
        exp: nbf.plus(MAX_ROTATION_LIFE),
    };
    let signed = TrustChain::sign_rotation(&root, &statement).context("the statement for the root")?;
    let body = json!({"statement": signed, "without": without});
    let answer: Value = api.put("/api/v1/rotation-key", &body).await.map_err(refused)?;
    format.print(&answer, || {
        let gone = if without.is_empty() {
            String::new()
        } else {
            format!(
                "\nThe keys of {} controller(s) are gone, and everybody is signed out of the console.",
                without.len()
            )
        };
        format!(
            "rotation key {} is in place and published (bundle {}); it ends {}.{gone}",
            answer["epoch"],
            answer["serial"],
            answer["ends"].as_str().unwrap_or_default()
        )
    });
    Ok(Outcome::Done)
}
