//! A UDP echo that says whom it saw, and the question to it: how the lab looks at its own NAT.
//! Both run as processes of this program inside a namespace.

use super::{daemon::Daemon, namespace::Namespace};
use crate::process::Interrupt;
use anyhow::{Context as _, Result, ensure};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};

/// How long a step of the lab waits for one of these processes.
const SHORT: Duration = Duration::from_secs(10);
/// What is printed when nothing was heard.
pub const SILENCE: &str = "silence";

/// How long a question waits: an answer in the lab takes microseconds.
const PATIENCE: Duration = Duration::from_millis(700);

/// How often the echo looks whether it shall end.
const TICK: Duration = Duration::from_millis(50);

/// Answers each datagram with the address it came from, until it is asked to end. With `greet` it first
/// asks that echo from its own port, which opens a mapping on the way, and says as whom it was seen.
///
/// # Errors
/// The address cannot be bound, the greeted echo is silent, or the end.
pub fn echo(listen: SocketAddr, greet: Option<SocketAddr>, interrupt: &Interrupt) -> Result<()> {
    let socket = UdpSocket::bind(listen).with_context(|| format!("cannot bind {listen}"))?;
    if let Some(greet) = greet {
        let seen = question(&socket, greet)?;
        println!("seen as {}", seen.unwrap_or_else(|| SILENCE.to_owned()));
    }
    println!("echo on {listen}");
    socket.set_read_timeout(Some(TICK))?;
    let mut buffer = [0; 2048];
    loop {
        interrupt.check()?;
        // Nothing came within a tick.
        let Ok((_, from)) = socket.recv_from(&mut buffer) else { continue };
        // Two echoes would talk for ever.
        if Some(from) != greet {
            // Whoever asked may be gone: the next one counts.
            let _ = socket.send_to(from.to_string().as_bytes(), from);
        }
    }
}

/// Asks each echo in turn from one port, and prints what each saw, or `silence`.
///
/// # Errors
/// The port cannot be bound.
pub fn ask(from: SocketAddr, echoes: &[SocketAddr]) -> Result<()> {
    let socket = UdpSocket::bind(from).with_context(|| format!("cannot bind {from}"))?;
    for echo in echoes {
        println!("{}", question(&socket, *echo)?.unwrap_or_else(|| SILENCE.to_owned()));
    }
    Ok(())
}

fn question(socket: &UdpSocket, echo: SocketAddr) -> Result<Option<String>> {
    socket.set_read_timeout(Some(PATIENCE))?;
    // A refused earlier datagram shows up here; silence is the finding then.
    let sent = socket.send_to(b"who am I", echo);
    let mut buffer = [0; 128];
    let heard = sent.and_then(|_| socket.recv_from(&mut buffer));
    Ok(heard.ok().map(|(length, _)| String::from_utf8_lossy(&buffer[..length]).into_owned()))
}

/// Asks a STUN server (RFC 8489) and prints as whom it saw this host, or `silence`. The request is as long
/// as the answer will be: a server that amplifies nothing answers no shorter one.
///
/// # Errors
/// The port cannot be bound, or the answer is not one.
pub fn stun(from: SocketAddr, server: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(from).with_context(|| format!("cannot bind {from}"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    // A binding request with a SOFTWARE attribute of 20 bytes (section 14.14).
    let mut request = vec![0x00, 0x01, 0x00, 24, 0x21, 0x12, 0xa4, 0x42];
    let transaction = *b"tidegate lab";
    request.extend(transaction);
    request.extend([0x80, 0x22, 0x00, 20]);
    request.extend(*b"tidegate's lab, 2026");
    socket.send_to(&request, server)?;
    let mut buffer = [0; 512];
    let Ok(length) = socket.recv(&mut buffer) else {
        println!("{SILENCE}");
        return Ok(());
    };
    let answer = &buffer[..length];
    ensure!(answer.get(..2) == Some(&[0x01, 0x01]), "no binding success: {answer:02x?}");
    ensure!(answer.get(8..20) == Some(&transaction), "another transaction: {answer:02x?}");
    println!("{}", mapped(&answer[20..]).with_context(|| format!("no mapped address: {answer:02x?}"))?);
    Ok(())
}

/// XOR-MAPPED-ADDRESS of an IPv4 host (section 14.2), among attributes.
fn mapped(mut attributes: &[u8]) -> Option<SocketAddr> {
    loop {
        let (head, rest) = attributes.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = rest.get(..length)?;
        if let ([0x00, 0x20], [_, 0x01, p, q, a, b, c, d]) = (&head[..2], value) {
            let port = u16::from_be_bytes([p ^ 0x21, q ^ 0x12]);
            return Some(SocketAddr::from(([a ^ 0x21, b ^ 0x12, c ^ 0xa4, d ^ 0x42], port)));
        }
        attributes = rest.get(length.next_multiple_of(4)..)?;
    }
}

/// Asks a STUN server from a host, by [`stun`] in a process there.
///
/// # Errors
/// It does not answer, or not with an address.
pub fn stun_from(host: &Namespace, from: SocketAddr, server: SocketAddr) -> Result<SocketAddr> {
    let program = &this_program();
    let (from, server) = (from.to_string(), server.to_string());
    let said = host.run(SHORT, program, &["lab", "stun-ask", "--from", &from, "--server", &server])?.stdout;
    said.trim().parse().with_context(|| format!("{server} said {said:?}"))
}

/// Inside a namespace: asks a resolver for the IPv4 address of a name, again and again, and prints how many microseconds
/// each answer took, as a JSON array.
///
/// # Errors
/// A question was not answered.
pub fn dns(server: IpAddr, name: &str, times: usize) -> Result<()> {
    let any =
        if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((server, 53))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut took = Vec::with_capacity(times);
    for id in (0..=u16::MAX).take(times) {
        // RFC 1035 section 4.1: one question, recursion desired.
        let mut question = id.to_be_bytes().to_vec();
        question.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        for label in name.split('.') {
            question.push(u8::try_from(label.len())?);
            question.extend(label.as_bytes());
        }
        question.extend([0, 0, 1, 0, 1]);
        let began = Instant::now();
        socket.send(&question)?;
        let mut answer = [0; 1500];
        let length = socket.recv(&mut answer).with_context(|| format!("{server} does not answer"))?;
        took.push(u64::try_from(began.elapsed().as_micros())?);
        ensure!(length >= 12 && answer[..2] == id.to_be_bytes(), "{server} answered another question");
        ensure!(answer[3] & 0x0F == 0 && answer[6..8] != [0, 0], "{server} knows no address of {name}");
    }
    println!("{}", serde_json::to_string(&took)?);
    Ok(())
}

/// This very program, for processes in namespaces: the running file, also when it was built anew meanwhile.
pub fn this_program() -> String {
    format!("/proc/{}/exe", std::process::id())
}

/// An address and a port.
pub fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

/// Starts an echo on a host and waits until it answers.
///
/// # Errors
/// It cannot be started.
pub fn start(
    host: &Namespace,
    listen: SocketAddr,
    greet: Option<SocketAddr>,
    directory: &Path,
    interrupt: &Interrupt,
) -> Result<Daemon> {
    let mut command = host.command(this_program());
    command.args(["lab", "udp-echo", "--listen", &listen.to_string()]);
    if let Some(greet) = greet {
        command.args(["--greet", &greet.to_string()]);
    }
    let mut daemon = Daemon::start(command, &directory.join(format!("echo-{}.log", listen.port())))?;
    daemon.wait_line("the echo", SHORT, interrupt, |line| line.starts_with("echo on").then_some(()))?;
    Ok(daemon)
}

/// Asks echoes from a host and gives what each saw.
///
/// # Errors
/// The question cannot be asked; that nobody answers is [`SILENCE`].
pub fn question_from(host: &Namespace, from: SocketAddr, echoes: &[SocketAddr]) -> Result<Vec<String>> {
    let program = &this_program();
    let (from, echoes): (String, Vec<String>) =
        (from.to_string(), echoes.iter().map(ToString::to_string).collect());
    let mut arguments = vec!["lab", "udp-ask", "--from", &from];
    arguments.extend(echoes.iter().map(String::as_str));
    let said = host.run(SHORT, program, &arguments)?.stdout;
    let seen: Vec<String> = said.lines().map(str::to_owned).collect();
    ensure!(seen.len() == echoes.len(), "expected {} answers, got {said:?}", echoes.len());
    Ok(seen)
}
