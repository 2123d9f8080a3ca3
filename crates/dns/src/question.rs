//! What a query asks: read once, into types; everything else of it stays bytes.

use hickory_proto::{
    op::{Header, MessageType, OpCode, Query},
    rr::{DNSClass, Name, RecordType},
    serialize::binary::{BinDecodable as _, BinDecoder},
};
use policy::{HostName, Prefix};

/// How a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// One datagram.
    Udp,
    /// One message of a connection, without its length.
    Tcp,
}

/// What to do with bytes that came as a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Answer or pass on.
    One(Question),
    /// Not for us to answer (an update, a notify, another class): passed on as it is, unless it is about a
    /// private name.
    Foreign(Option<Question>),
    /// Answered with "format error": the id that the answer carries.
    Malformed(u16),
    /// Not a query at all: no answer, or two resolvers would answer each other for ever.
    Silence,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    /// Its id.
    pub id: u16,
    /// As asked, capitals included: the answer repeats them (draft-vixie-dnsext-dns0x20).
    pub query: Query,
    /// What it is about.
    pub about: About,
}

/// What a question is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum About {
    /// A host name, in lower case.
    Name(HostName),
    /// The addresses that a name below `in-addr.arpa` or `ip6.arpa` stands for.
    Reverse(Prefix),
    /// A name that no resource can have (the root, odd characters), and the longest part at its end that one
    /// could have.
    Odd(Option<HostName>),
}

/// Reads header and question.
pub(crate) fn read(bytes: &[u8]) -> Asked {
    let mut decoder = BinDecoder::new(bytes);
    let Ok(header) = Header::read(&mut decoder) else { return Asked::Silence };
    if header.message_type != MessageType::Query {
        return Asked::Silence;
    }
    let question = match header.counts.queries {
        0 => None,
        _ => {
            // Whatever the opcode: what cannot be read might be about a private name.
            let Ok(query) = Query::read(&mut decoder) else { return Asked::Malformed(header.id) };
            Some(Question { id: header.id, about: about(query.name()), query })
        }
    };
    if header.op_code != OpCode::Query {
        return Asked::Foreign(question);
    }
    // RFC 9619: a query has exactly one question.
    match question.filter(|_| header.counts.queries == 1) {
        None => Asked::Malformed(header.id),
        Some(question) if matches!(question.query.query_class(), DNSClass::IN | DNSClass::ANY) => {
            Asked::One(question)
        }
        foreign => Asked::Foreign(foreign),
    }
}

impl Question {
    pub fn kind(&self) -> RecordType {
        self.query.query_type()
    }
}

fn about(name: &Name) -> About {
    let lower = name.to_lowercase();
    let text = lower.to_ascii();
    if (text.ends_with(".in-addr.arpa.") || text.ends_with(".ip6.arpa."))
        && let Some(prefix) = reverse(&lower)
    {
        return About::Reverse(prefix);
    }
    text.parse().map_or_else(|_| About::Odd(longest_host_name(&lower)), About::Name)
}

fn longest_host_name(name: &Name) -> Option<HostName> {
    (1..usize::from(name.num_labels())).rev().find_map(|labels| name.trim_to(labels).to_ascii().parse().ok())
}

fn reverse(name: &Name) -> Option<Prefix> {
    let net = name.parse_arpa_name().ok()?;
    Prefix::new(net.network(), net.prefix_len()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Message;
    use proptest::prelude::*;

    fn query(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    #[test]
    fn a_name_is_read_in_lower_case_and_kept_as_asked() {
        let Asked::One(question) = read(&query("Db.EXAMPLE.", RecordType::A).to_vec().unwrap()) else {
            panic!("a question");
        };
        assert_eq!(question.about, About::Name("db.example".parse().unwrap()));
        assert_eq!(question.query.name().to_ascii(), "Db.EXAMPLE.");
    }

    #[test]
    fn of_an_odd_name_the_part_that_could_be_a_host_is_kept() {
        let mut message = Message::query();
        let odd = Name::from_labels([b"a b".as_slice(), b"corp", b"example"]).unwrap();
        message.add_query(Query::query(odd, RecordType::A));
        let Asked::One(question) = read(&message.to_vec().unwrap()) else { panic!("a question") };
        assert_eq!(question.about, About::Odd(Some("corp.example".parse().unwrap())));
        let Asked::One(root) = read(&query(".", RecordType::NS).to_vec().unwrap()) else {
            panic!("a question")
        };
        assert_eq!(root.about, About::Odd(None));
    }

    #[test]
    fn a_reverse_name_is_the_addresses_it_stands_for() {
        for (name, prefix) in [
            ("7.0.97.100.in-addr.arpa.", "100.97.0.7/32"),
            ("97.100.in-addr.arpa.", "100.97.0.0/16"),
            (
                "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.6.e.6.7.6.4.7.a.7.d.f.ip6.arpa.",
                "fd7a:7467:6e61::7/128",
            ),
        ] {
            let Asked::One(question) = read(&query(name, RecordType::PTR).to_vec().unwrap()) else {
                panic!("a question");
            };
            assert_eq!(question.about, About::Reverse(prefix.parse().unwrap()), "{name}");
        }
    }

    #[test]
    fn an_answer_is_met_with_silence_and_an_update_passed_on() {
        let mut answer = query("a.example.", RecordType::A);
        answer.metadata.message_type = MessageType::Response;
        assert_eq!(read(&answer.to_vec().unwrap()), Asked::Silence);
        let mut update = query("a.example.", RecordType::SOA);
        update.metadata.op_code = OpCode::Update;
        assert!(matches!(read(&update.to_vec().unwrap()), Asked::Foreign(Some(_))));
    }

    #[test]
    fn two_questions_or_half_a_one_are_a_format_error() {
        let mut two = query("a.example.", RecordType::A);
        two.add_query(Query::query(Name::from_ascii("b.example.").unwrap(), RecordType::A));
        assert_eq!(read(&two.to_vec().unwrap()), Asked::Malformed(two.metadata.id));
        let whole = query("a.example.", RecordType::A).to_vec().unwrap();
        for length in 12..whole.len() {
            assert!(matches!(read(&whole[..length]), Asked::Malformed(_)), "{length}");
        }
        assert_eq!(read(&whole[..11]), Asked::Silence);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
