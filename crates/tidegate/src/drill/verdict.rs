//! Pass levels: what was to be reached, and what was measured.

use crate::output::{Format, print_line};
use serde::Serialize;

/// One line of the verdict.
#[derive(Debug, Clone, Serialize)]
pub struct Level {
    /// What was looked at.
    pub what: String,
    /// What it had to be.
    pub to_reach: String,
    /// What it was.
    pub measured: String,
    /// Whether that is good enough.
    pub holds: bool,
}

impl Level {
    /// Prints it.
    pub fn print(&self, format: Format) {
        match format {
            Format::Json => print_line(&serde_json::to_string(self).unwrap_or_default()),
            Format::Text => print_line(&format!(
                "{}  {}: {} (to reach: {})",
                if self.holds { "holds " } else { "FAILED" },
                self.what,
                self.measured,
                self.to_reach
            )),
        }
    }
}
