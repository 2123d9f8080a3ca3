//! A UDP echo that says whom it saw, and the question to it: how the lab looks at its own NAT.
//! Both run as processes of this program inside a namespace.

use crate::process::Interrupt;
use anyhow::{Context as _, Result};
use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

/// How long a question waits: an answer in the lab takes microseconds.
const PATIENCE: Duration = Duration::from_millis(700);

/// How often the echo looks whether it shall end.
const TICK: Duration = Duration::from_millis(50);

/// Answers each datagram with the address it came from, until it is asked to end.
///
/// # Errors
/// The address cannot be bound, or the end.
pub fn echo(listen: SocketAddr, interrupt: &Interrupt) -> Result<()> {
    let socket = UdpSocket::bind(listen).with_context(|| format!("cannot bind {listen}"))?;
    println!("echo on {listen}");
    socket.set_read_timeout(Some(TICK))?;
    let mut buffer = [0; 2048];
    loop {
        interrupt.check()?;
        // Nothing came within a tick.
        let Ok((_, from)) = socket.recv_from(&mut buffer) else { continue };
        // Whoever asked may be gone: the next one counts.
        let _ = socket.send_to(from.to_string().as_bytes(), from);
    }
}

/// Asks each echo in turn from one port, and prints what each saw, or `silence`.
///
/// # Errors
/// The port cannot be bound.
pub fn ask(from: SocketAddr, echoes: &[SocketAddr]) -> Result<()> {
    let socket = UdpSocket::bind(from).with_context(|| format!("cannot bind {from}"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    for echo in echoes {
        // A refused earlier datagram shows up here; silence is the finding then.
        let sent = socket.send_to(b"who am I", echo);
        let mut buffer = [0; 128];
        match sent.and_then(|_| socket.recv_from(&mut buffer)) {
            Ok((length, _)) => println!("{}", String::from_utf8_lossy(&buffer[..length])),
            Err(_) => println!("silence"),
        }
    }
    Ok(())
}
