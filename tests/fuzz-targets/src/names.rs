//! Split DNS: what programs ask, and what upstream servers answer, or claim to.
#![expect(clippy::disallowed_methods, reason = "an arbitrary start; only differences to it are used")]

use dns::{Names, Origin, Output, Pool, Resolver, Settings};
use std::{sync::LazyLock, time::Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);
const PRIVATE: &str = "db.example.internal";

fn resolver() -> Resolver {
    let pool = Pool::new("100.97.0.0/16".parse().expect("v4"), "fd7a:7467:6e61::/96".parse().expect("v6"));
    let upstreams = vec!["192.0.2.53:53".parse().expect("a server")];
    let settings = Settings { upstreams, ..Settings::default() };
    let mut resolver = Resolver::new(settings, pool.expect("a range of each family"), [7; 32]);
    resolver
        .set_names(Names::new([PRIVATE.parse().expect("a name")], ["lab.internal".parse().expect("a name")]));
    resolver
}

/// A question by UDP and by TCP: answered, passed on or met with silence, and a private name never leaves.
pub(crate) fn dns_question(bytes: &[u8]) {
    for origin in [Origin::udp(1), Origin::tcp(2)] {
        let mut resolver = resolver();
        resolver.handle_query(*START, origin, bytes);
        for _ in 0..16 {
            match resolver.poll_output() {
                Output::Reply { to, bytes: answer } => {
                    assert_eq!(to, origin);
                    assert_eq!(answer.get(..2), bytes.get(..2), "an answer has its question's number");
                    assert!(answer.len() <= 65_535);
                }
                Output::Forward { bytes: sent, .. } => {
                    assert_eq!(sent.get(2..), bytes.get(2..), "what is not ours is not touched");
                    assert!(!asks_private(&sent), "a private name leaves the machine");
                }
                Output::Done(_) => {}
                Output::Timeout(_) => break,
            }
        }
    }
}

/// Whether the first question, in its plainest form, is the private name in whatever case.
fn asks_private(message: &[u8]) -> bool {
    let wire: Vec<u8> = PRIVATE
        .split('.')
        .flat_map(|label| {
            let length = u8::try_from(label.len()).expect("a short label");
            std::iter::once(length).chain(label.bytes())
        })
        .chain([0])
        .collect();
    let question = message.get(12..12 + wire.len());
    let one = message.get(4..6) == Some(&[0, 1]) && message.get(2).is_some_and(|flags| flags & 0xF8 == 0);
    one && question.is_some_and(|question| question.eq_ignore_ascii_case(&wire))
}

/// The answer to a foreign question: its own number is put back, and nothing else changes.
pub(crate) fn dns_answer(bytes: &[u8]) {
    let mut resolver = resolver();
    let asked = question("example.com", 1);
    resolver.handle_query(*START, Origin::udp(1), &asked);
    let Output::Forward { id, bytes: sent, .. } = resolver.poll_output() else {
        panic!("a foreign question is passed on")
    };
    // What comes has the number that was drawn: a forger who knows it. The rest is as it is.
    let mut answer = bytes.to_vec();
    if let (Some(number), Some(drawn)) = (answer.get_mut(..2), sent.get(..2)) {
        number.copy_from_slice(drawn);
    }
    resolver.handle_upstream(id, &answer);
    loop {
        match resolver.poll_output() {
            Output::Reply { to, bytes: reply } => {
                assert_eq!(to, Origin::udp(1));
                assert_eq!(reply.get(..2), asked.get(..2), "the number of who asked");
                assert_eq!(reply.get(2..), answer.get(2..), "what is not ours is not touched");
            }
            Output::Timeout(_) => break,
            Output::Done(_) | Output::Forward { .. } => {}
        }
    }
}

/// A query for one name (RFC 1035 section 4.1).
fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a short label"));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    bytes
}

/// Genuine messages.
pub(crate) fn genuine() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut answer = question("example.com", 1);
    answer[2] = 0x81;
    answer[3] = 0x80;
    answer[7] = 1;
    answer.extend_from_slice(&[0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    let mut with_options = question("example.com", 28);
    with_options[11] = 1;
    with_options.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    let mut empty = answer.clone();
    empty.truncate(question("example.com", 1).len());
    empty[7] = 0;
    vec![
        ("dns_question", "private", question(PRIVATE, 1)),
        ("dns_question", "private-mixed-case", question("DB.Example.Internal", 28)),
        ("dns_question", "below", question("a.lab.internal", 65)),
        ("dns_question", "foreign", question("example.com", 1)),
        ("dns_question", "options", with_options),
        ("dns_question", "reverse", question("1.0.97.100.in-addr.arpa", 12)),
        ("dns_question", "answer", answer.clone()),
        ("dns_answer", "address", answer),
        ("dns_answer", "empty", empty),
    ]
}
