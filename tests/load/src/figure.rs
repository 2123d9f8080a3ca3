//! A figure with its runs, and what it should be.

use crate::median;
use serde_json::{Value, json};

/// What a figure is to reach.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
}

/// One figure: what was measured, in what unit, what is to be reached, each run.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// Its unit.
    pub unit: &'static str,
    /// What it is to reach; a figure for comparison has none.
    pub goal: Option<Goal>,
    /// Each measurement.
    pub runs: Vec<f64>,
    /// What else is to be said, from its punctuation on.
    pub remark: String,
}

impl Figure {
    /// Whether the middle of the runs reaches the goal.
    #[must_use]
    pub fn holds(&self) -> Option<bool> {
        let (middle, ..) = median(&self.runs);
        self.goal.map(|goal| match goal {
            Goal::AtLeast(least) => middle >= least,
            Goal::AtMost(most) => middle <= most,
        })
    }

    /// One line for people.
    #[must_use]
    pub fn line(&self) -> String {
        let (middle, least, greatest) = median(&self.runs);
        let places = if greatest < 10.0 {
            2
        } else if greatest <= 100.0 {
            1
        } else {
            0
        };
        let (verdict, goal) = match (self.holds(), self.goal) {
            (Some(holds), Some(goal)) => {
                let (sign, value) = match goal {
                    Goal::AtLeast(value) => ("≥", value),
                    Goal::AtMost(value) => ("≤", value),
                };
                (if holds { "holds  " } else { "MISSED " }, format!(" (to reach: {sign} {value})"))
            }
            _ => ("       ", String::new()),
        };
        let Self { name, unit, remark, .. } = self;
        format!(
            "{verdict} {name}: {middle:.places$} {unit} [{least:.places$}–{greatest:.places$}]{goal}{remark}"
        )
    }

    /// The same for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let (middle, least, greatest) = median(&self.runs);
        let goal = self.goal.map(|goal| match goal {
            Goal::AtLeast(value) => json!({"at_least": value}),
            Goal::AtMost(value) => json!({"at_most": value}),
        });
        json!({
            "name": self.name, "unit": self.unit, "median": middle, "least": least, "greatest": greatest,
            "runs": self.runs, "goal": goal, "holds": self.holds(), "remark": self.remark.trim_matches([';', ' ']),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_the_runs_is_held_against_the_goal() {
        let figure = |goal| Figure {
            name: "f".to_owned(),
            unit: "a second",
            goal: Some(goal),
            runs: vec![9.0, 2.0, 4.0],
            remark: String::new(),
        };
        assert_eq!(figure(Goal::AtLeast(4.0)).holds(), Some(true));
        assert_eq!(figure(Goal::AtLeast(4.1)).holds(), Some(false));
        assert_eq!(figure(Goal::AtMost(4.0)).holds(), Some(true));
        assert_eq!(
            figure(Goal::AtMost(3.9)).line(),
            "MISSED  f: 4.00 a second [2.00–9.00] (to reach: ≤ 3.9)"
        );
    }
}
