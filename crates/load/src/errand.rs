//! One connection through the tunnel that sends lines and expects them back.

use client::Target;
use client::core::{ClientNode, DialFault, DialId, NodeEvent};
use flow::{FlowId, Read};
use std::time::{Duration, Instant};

/// A refusal that says when to come back is tried again this often, as a browser's user would.
const MAX_TRIES: u32 = 3;

#[derive(Debug)]
enum Stage {
    /// Not dialled, or to be dialled again then.
    Waiting(Instant),
    Dialling(DialId),
    Open(FlowId),
}

/// What became of it in one step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Nothing,
    Opened,
    /// A line came back, this long after it was sent.
    Answered(Duration),
    /// The connection was open and is not any more.
    Cut,
    Failed(String),
}

/// A connection that asks one line at a time.
#[derive(Debug)]
pub(crate) struct Errand {
    stage: Stage,
    tries: u32,
    number: u64,
    /// When the line that is waited for was sent.
    asked: Option<Instant>,
    got: Vec<u8>,
}

impl Errand {
    pub(crate) const fn new(now: Instant) -> Self {
        Self { stage: Stage::Waiting(now), tries: 0, number: 0, asked: None, got: Vec::new() }
    }

    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    /// Since when an answer is waited for.
    pub(crate) const fn asked(&self) -> Option<Instant> {
        self.asked
    }

    /// When to call [`Self::begin`].
    pub(crate) const fn due(&self) -> Option<Instant> {
        match self.stage {
            Stage::Waiting(at) => Some(at),
            _ => None,
        }
    }

    /// Dials if it is time.
    pub(crate) fn begin(&mut self, now: Instant, node: &mut ClientNode, target: &Target) {
        if let Stage::Waiting(at) = self.stage
            && at <= now
        {
            self.tries += 1;
            self.stage = Stage::Dialling(node.dial(now, target));
        }
    }

    /// Sends the next line, if the last one is answered.
    pub(crate) fn ask(&mut self, now: Instant, node: &mut ClientNode) {
        let Stage::Open(flow) = self.stage else { return };
        if self.asked.is_some() {
            return;
        }
        self.number += 1;
        self.got.clear();
        self.asked = Some(now);
        let line = line(self.number);
        // A line is shorter than any window: what is not taken at once belongs to a flow that is over, and its
        // end is on its way.
        if node.write(now, flow, &line).is_ok_and(|taken| taken == line.len()) {
            node.flush(now);
        }
    }

    /// Takes what the node says.
    pub(crate) fn hear(&mut self, now: Instant, node: &mut ClientNode, event: &NodeEvent) -> Step {
        match (event, &self.stage) {
            (NodeEvent::Dialled { dial, result }, Stage::Dialling(mine)) if dial == mine => match result {
                Ok(flow) => {
                    self.stage = Stage::Open(*flow);
                    Step::Opened
                }
                Err(fault) => self.refused(now, fault),
            },
            (NodeEvent::Readable(flow), Stage::Open(mine)) if flow == mine => self.read(now, node, *flow),
            (NodeEvent::Ended { flow, .. }, Stage::Open(mine)) if flow == mine => {
                self.stage = Stage::Waiting(now);
                self.tries = 0;
                self.asked = None;
                Step::Cut
            }
            _ => Step::Nothing,
        }
    }

    fn refused(&mut self, now: Instant, fault: &DialFault) -> Step {
        match fault.retry_after {
            Some(after) if self.tries < MAX_TRIES => {
                self.stage = Stage::Waiting(now + after);
                Step::Nothing
            }
            _ => {
                self.stage = Stage::Waiting(now + Duration::from_secs(1));
                self.tries = 0;
                Step::Failed(fault.reason.label().to_owned())
            }
        }
    }

    fn read(&mut self, now: Instant, node: &mut ClientNode, flow: FlowId) -> Step {
        let mut buffer = [0; 256];
        while let Ok(Read::Bytes(count)) = node.read(now, flow, &mut buffer) {
            self.got.extend_from_slice(buffer.get(..count).unwrap_or_default());
        }
        node.flush(now);
        let expected = line(self.number);
        if self.got.len() < expected.len() {
            return Step::Nothing;
        }
        let Some(asked) = self.asked.take() else { return Step::Nothing };
        if self.got == expected {
            Step::Answered(now.saturating_duration_since(asked))
        } else {
            Step::Failed("wrong_bytes".to_owned())
        }
    }
}

/// No two lines of a connection are alike: an answer to an old one is no answer.
fn line(number: u64) -> Vec<u8> {
    format!("low tide {number:012}\n").into_bytes()
}
