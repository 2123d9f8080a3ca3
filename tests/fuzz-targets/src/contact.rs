//! What comes from sources that nobody knows: a PoP's first datagrams, and a client's own socket.

use crate::{HOME, installation::NOW};
use session::{Acceptor, AcceptorLimits, Dialler, LocalIdentity, Output};
use std::{
    cell::RefCell,
    net::SocketAddr,
    sync::LazyLock,
    time::{Duration, Instant},
};
use trust::Role;
use wire::{DatagramKind, PopId, classify};

const STRANGER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 4000);
const POP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1)), 443);

#[expect(clippy::disallowed_methods, reason = "an Instant has no other beginning")]
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn identity(role: Role) -> LocalIdentity {
    LocalIdentity::new(&HOME.certificate(role), &HOME.device_key()).expect("belongs together")
}

fn acceptor(seed: u8) -> Acceptor {
    let limits = AcceptorLimits::default();
    let made = Acceptor::new(
        &identity(Role::Pop),
        &HOME.device_key(),
        HOME.bundle.clone(),
        limits,
        *START,
        NOW,
        [seed; 32],
    );
    made.expect("an identity that can be used")
}

fn said(mut poll: impl FnMut() -> Output) -> Vec<Vec<u8>> {
    let mut said = Vec::new();
    loop {
        match poll() {
            Output::Transmit { payload, .. } => said.push(payload),
            Output::Event(_) => {}
            Output::Timeout { .. } => return said,
        }
    }
}

/// Whatever a source sends that has proven nothing: it costs no session and no kept byte, and gets no more bytes than
/// it sent (RFC 9000 section 8.1 allows three times as many).
pub(crate) fn first_contact(bytes: &[u8]) {
    thread_local! {
        static POP_SIDE: RefCell<Acceptor> = RefCell::new(acceptor(3));
    }
    if classify(bytes) != DatagramKind::Quic {
        return;
    }
    POP_SIDE.with_borrow_mut(|acceptor| {
        acceptor.handle_input(*START, STRANGER, bytes);
        assert_eq!((acceptor.incoming_buffer_bytes(), acceptor.stats().accepted), (0, 0));
        let answers = said(|| acceptor.poll_output(*START));
        assert!(answers.iter().map(Vec::len).sum::<usize>() <= bytes.len(), "{} answers", answers.len());
    });
}

/// The first datagram of an agent, and the one that answers a PoP's Retry (with another PoP's token key than the
/// target's: a token that proves nothing).
fn genuine_first_contacts() -> [Vec<u8>; 2] {
    let mut dialler = Dialler::new(identity(Role::Device), HOME.bundle.clone(), NOW, [5; 32]);
    dialler.dial(*START, PopId::from_bytes([7; 16]), POP).expect("dials");
    let first = said(|| dialler.poll_output(*START)).remove(0);
    let mut other = acceptor(4);
    other.handle_input(*START, STRANGER, &first);
    let retry = said(|| other.poll_output(*START)).remove(0);
    let later = *START + Duration::from_millis(1);
    dialler.handle_input(later, POP, &retry);
    let second = said(|| dialler.poll_output(later)).remove(0);
    [first, second]
}

/// What another program of the same user says to the client.
pub(crate) fn local_request(bytes: &[u8]) {
    let Ok(request) = serde_json::from_slice::<client::LocalRequest>(bytes) else { return };
    let text = serde_json::to_vec(&request).expect("a request has a JSON form");
    assert_eq!(serde_json::from_slice::<client::LocalRequest>(&text).expect("its own form"), request);
}

/// Seeds for both.
pub(crate) fn genuine() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let [first, second] = genuine_first_contacts();
    let request = |text: &str| text.as_bytes().to_vec();
    vec![
        ("first_contact", "initial", first),
        ("first_contact", "foreign-token", second),
        ("first_contact", "reset", [&[0x40][..], &[7; 40]].concat()),
        ("local_request", "status", request(r#"{"request":"status"}"#)),
        ("local_request", "why", request(r#"{"request":"why","resource":"payroll"}"#)),
        (
            "local_request",
            "forward",
            request(r#"{"request":"forward_add","listen":"127.0.0.1:0","target":"db.example:5432"}"#),
        ),
        (
            "local_request",
            "forward-socket",
            request(r#"{"request":"forward_remove","listen":"/run/user/1000/db.sock"}"#),
        ),
    ]
}
