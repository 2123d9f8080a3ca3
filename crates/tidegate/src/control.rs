//! `tidegate controller`.

use crate::{
    cli::ControllerArgs,
    output::{CommandResult, Format, Outcome},
    places, process,
};

/// Runs a controller.
pub async fn run(args: &ControllerArgs, format: Format) -> CommandResult {
    let state = places::state_dir(args.state.as_deref(), "controller")?;
    let _ = (state, format);
    process::shutdown().await;
    Ok(Outcome::Done)
}
