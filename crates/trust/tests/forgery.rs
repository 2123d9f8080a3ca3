//! Structure-aware forgeries: each field alone, each wrong key and role, other installation, one
//! second off, cut and extended at each byte. Accepted: none.

mod installation;

use installation::{Body, Installation, NOW};
use std::time::Duration;
use trust::{
    Beacon, Certificate, CertificateError, Document, DocumentError, Grant, KeyRole, MAX_CLOCK_SKEW,
    Revocation, Role, RootHash, SigningKey, Slice, TrustChain, Unverified, decode_base64url,
    encode_base64url, issue_certificate, sign_document,
};

const SECOND: Duration = Duration::from_secs(1);

fn verify<D: Document>(home: &Installation, text: &str) -> Result<D, DocumentError> {
    verify_at(home, text, NOW)
}

fn verify_at<D: Document>(home: &Installation, text: &str, wall: trust::UnixMs) -> Result<D, DocumentError> {
    Unverified::<D>::parse(text).and_then(|document| document.verify(&home.bundle, wall))
}

/// Every forgery that can be made of a valid token without its key.
fn bent_texts(text: &str) -> Vec<String> {
    let mut forgeries = Vec::new();
    for at in 0..text.len() {
        forgeries.push(text[..at].to_owned());
        forgeries.push(format!("{}A{}", &text[..at], &text[at..]));
        let old = text.as_bytes()[at];
        for new in [b'A', b'B', b'_', b'.', old ^ 1] {
            if new != old && new.is_ascii() {
                let mut bytes = text.as_bytes().to_vec();
                bytes[at] = new;
                forgeries.push(String::from_utf8(bytes).expect("ascii"));
            }
        }
    }
    for tail in ["A", "=", ".", " ", "\n", "\0", ".AAAA"] {
        forgeries.push(format!("{text}{tail}"));
    }
    forgeries
}

/// The token's message with one leaf of its JSON changed, under the old signature.
fn bent_fields(text: &str) -> Vec<String> {
    let parts: Vec<&str> = text.split('.').collect();
    let body = decode_base64url(parts[2]).expect("own token");
    let (message, signature) = body.split_at(body.len() - 64);
    let value: serde_json::Value = serde_json::from_slice(message).expect("JSON");
    let mut paths = Vec::new();
    leaves(&value, String::new(), &mut paths);
    assert!(paths.len() > 4, "a document has fields to bend");
    paths
        .into_iter()
        .flat_map(|path| {
            let mut changed = value.clone();
            match changed.pointer_mut(&path).expect("a path of this value") {
                serde_json::Value::Number(n) => *n = (n.as_u64().expect("unsigned") + 1).into(),
                serde_json::Value::String(s) => s.push('x'),
                other => *other = serde_json::Value::Bool(true),
            }
            let mut removed = value.clone();
            if let Some((parent, key)) = path.rsplit_once('/')
                && let Some(serde_json::Value::Object(map)) = removed.pointer_mut(parent)
            {
                map.remove(key);
            }
            [changed, removed]
        })
        .map(|value| {
            let message = serde_json::to_vec(&value).expect("JSON");
            let body = encode_base64url(&[&message[..], signature].concat());
            format!("v4.public.{body}.{}", parts[3])
        })
        .filter(|forged| forged != text)
        .collect()
}

fn leaves(value: &serde_json::Value, path: String, out: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => {
            map.iter().for_each(|(key, value)| leaves(value, format!("{path}/{key}"), out));
        }
        serde_json::Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, value)| leaves(value, format!("{path}/{i}"), out));
        }
        _ => out.push(path),
    }
}

fn no_forgery_of<D: Document + std::fmt::Debug>(document: impl Fn(&Installation) -> D) {
    let home = Installation::new(1);
    let abroad = Installation::new(50);
    let genuine = sign_document(&home.key(D::ROLE), &document(&home)).expect("signs");
    verify::<D>(&home, &genuine).expect("the genuine one is accepted, else this test proves nothing");
    let mut tried = 0;
    let mut refuse = |what: &str, text: &str| {
        tried += 1;
        let outcome = verify::<D>(&home, text);
        assert!(outcome.is_err(), "{what} was accepted: {text}");
    };
    for text in bent_texts(&genuine) {
        refuse("a bent text", &text);
    }
    for text in bent_fields(&genuine) {
        refuse("a bent field", &text);
    }
    for role in KeyRole::ALL.into_iter().filter(|role| *role != D::ROLE) {
        refuse("a key of another role", &sign_document(&home.key(role), &document(&home)).expect("signs"));
    }
    for key in [&home.root, &home.rotation, &home.device_key(), &SigningKey::generate()] {
        refuse("a key outside the bundle", &sign_document(key, &document(&home)).expect("signs"));
    }
    refuse(
        "another installation's",
        &sign_document(&abroad.key(D::ROLE), &document(&abroad)).expect("signs"),
    );
    refuse(
        "another installation's content",
        &sign_document(&home.key(D::ROLE), &document(&abroad)).expect("signs"),
    );
    assert!(tried > 1_000, "only {tried} forgeries were tried");
    wear_a_genuine_key_id(&home, &document(&home));
}

/// Signatures whose footer names another key than the one that made them.
fn wear_a_genuine_key_id<D: Document + std::fmt::Debug>(home: &Installation, document: &D) {
    let message = serde_json::to_vec(document).expect("JSON");
    let domain = format!("tidegate/{}/1/{}", D::KIND, home.id);
    let signed = |key: &SigningKey, named: &SigningKey| {
        let footer = named.verifying_key().key_id().to_string();
        trust::paseto::sign(key, &message, footer.as_bytes(), domain.as_bytes())
    };
    let genuine = home.key(D::ROLE);
    verify::<D>(home, &signed(&genuine, &genuine)).expect("made as a document is made");
    let roles = KeyRole::ALL.into_iter().filter(|role| *role != D::ROLE).map(|role| home.key(role));
    let strangers = [SigningKey::generate(), home.device_key(), Installation::new(50).key(D::ROLE)];
    for other in roles.chain(strangers) {
        let refused = verify::<D>(home, &signed(&other, &genuine)).expect_err("signed by another key");
        assert_eq!(refused.label(), "signature", "a stranger's signature under a genuine key id");
        let refused = verify::<D>(home, &signed(&genuine, &other)).expect_err("another key is named");
        assert_eq!(refused.label(), "unknown_key", "a genuine signature under a stranger's key id");
    }
}

#[test]
fn no_forged_grant_is_accepted() {
    no_forgery_of::<Grant>(Installation::grant);
}

#[test]
fn no_forged_slice_is_accepted() {
    no_forgery_of::<Slice<Body>>(Installation::slice);
}

#[test]
fn no_forged_beacon_is_accepted() {
    no_forgery_of::<Beacon>(Installation::beacon);
}

#[test]
fn no_forged_revocation_is_accepted() {
    no_forgery_of::<Revocation>(Installation::revocation);
}

#[test]
fn a_document_of_one_kind_is_never_one_of_another() {
    // Beacons and revocations are signed by keys of the same role: only the domain parts them.
    let home = Installation::new(1);
    let beacon = sign_document(&home.key(KeyRole::Beacon), &home.beacon()).expect("signs");
    let as_revocation = verify::<Revocation>(&home, &beacon).expect_err("another kind");
    assert_eq!(as_revocation.label(), "signature");
}

#[test]
fn a_grant_is_valid_to_the_millisecond_and_no_longer() {
    let home = Installation::new(1);
    let grant = home.grant();
    let text = sign_document(&home.key(KeyRole::Grant), &grant).expect("signs");
    let at = |wall| Unverified::<Grant>::parse(&text).expect("parses").verify(&home.bundle, wall);
    assert!(at(grant.exp.minus(Duration::from_millis(1))).is_ok());
    assert_eq!(at(grant.exp), Err(DocumentError::Expired(grant.exp)));
    assert_eq!(at(grant.exp.plus(SECOND)), Err(DocumentError::Expired(grant.exp)));
    assert!(at(grant.nbf.minus(MAX_CLOCK_SKEW)).is_ok());
    assert_eq!(at(grant.nbf.minus(MAX_CLOCK_SKEW + SECOND)), Err(DocumentError::NotYetValid(grant.nbf)));
}

#[test]
fn a_slice_is_valid_to_the_millisecond_and_no_longer() {
    let home = Installation::new(1);
    let slice = home.slice();
    let text = sign_document(&home.key(KeyRole::Slice), &slice).expect("signs");
    let at = |wall| Unverified::<Slice<Body>>::parse(&text).expect("parses").verify(&home.bundle, wall);
    let (made, end) = (slice.header.iat, slice.header.exp);
    assert!(at(end.minus(SECOND)).is_ok() && at(end.minus(Duration::from_millis(1))).is_ok());
    assert_eq!(at(end), Err(DocumentError::Expired(end)));
    assert_eq!(at(end.plus(SECOND)), Err(DocumentError::Expired(end)));
    assert!(at(made.minus(MAX_CLOCK_SKEW)).is_ok());
    assert_eq!(at(made.minus(MAX_CLOCK_SKEW + SECOND)), Err(DocumentError::NotYetValid(made)));
}

/// What was made when its key was valid, and not later than now: to the millisecond, and one second off.
fn is_made_in_time<D: Document + PartialEq + std::fmt::Debug>(
    made_at: impl Fn(&Installation, trust::UnixMs) -> D,
) {
    let home = Installation::new(1);
    let key = home.bundle.keys(D::ROLE).next().expect("each role has a key").clone();
    let believed = |made: trust::UnixMs, wall| {
        let document = made_at(&home, made);
        let text = sign_document(&home.key(D::ROLE), &document).expect("signs");
        let outcome = verify_at::<D>(&home, &text, wall);
        outcome.map(|read| assert_eq!(read, document)).map_err(|error| error.label())
    };
    let millisecond = Duration::from_millis(1);
    let ahead = NOW.plus(MAX_CLOCK_SKEW);
    assert_eq!(believed(NOW, NOW), Ok(()));
    assert_eq!(believed(ahead, NOW), Ok(()));
    assert_eq!(believed(ahead.plus(millisecond), NOW), Err("not_yet_valid"));
    assert_eq!(believed(ahead.plus(SECOND), NOW), Err("not_yet_valid"));
    let first = key.nbf.minus(MAX_CLOCK_SKEW);
    assert_eq!(believed(first, first), Ok(()));
    assert_eq!(believed(first.minus(millisecond), first), Err("key_not_valid"));
    assert_eq!(believed(first.minus(SECOND), first), Err("key_not_valid"));
    assert_eq!(believed(key.exp.minus(millisecond), key.exp), Ok(()));
    assert_eq!(believed(key.exp.minus(SECOND), key.exp), Ok(()));
    assert_eq!(believed(key.exp, key.exp), Err("key_not_valid"));
    assert_eq!(believed(key.exp.plus(SECOND), key.exp.plus(SECOND)), Err("key_not_valid"));
}

#[test]
fn a_beacon_is_believed_of_the_time_of_its_key_and_of_nothing_ahead() {
    is_made_in_time::<Beacon>(|home, time| Beacon { time, ..home.beacon() });
}

#[test]
fn a_revocation_is_believed_of_the_time_of_its_key_and_of_nothing_ahead() {
    is_made_in_time::<Revocation>(|home, at| Revocation {
        at,
        keep_until: at.plus(SECOND),
        ..home.revocation()
    });
}

#[test]
fn a_slice_is_believed_of_the_time_of_its_key_and_of_nothing_ahead() {
    is_made_in_time::<Slice<Body>>(|home, iat| {
        let mut slice = home.slice();
        (slice.header.iat, slice.header.exp) = (iat, iat.plus(SECOND * 3600));
        slice
    });
}

#[test]
fn a_beacon_and_a_revocation_have_an_age_and_no_end() {
    let home = Installation::new(1);
    let years = NOW.plus(SECOND * 10 * 365 * 86_400);
    let beacon = sign_document(&home.key(KeyRole::Beacon), &home.beacon()).expect("signs");
    assert_eq!(verify_at::<Beacon>(&home, &beacon, years), Ok(home.beacon()));
    let strike = sign_document(&home.key(KeyRole::Beacon), &home.revocation()).expect("signs");
    assert_eq!(verify_at::<Revocation>(&home, &strike, years), Ok(home.revocation()));
}

#[test]
fn a_grant_that_outlives_its_bound_is_neither_made_nor_accepted() {
    let home = Installation::new(1);
    let long = Grant { exp: NOW.plus(Duration::from_secs(72 * 3600 + 1)), ..home.grant() };
    assert!(matches!(sign_document(&home.key(KeyRole::Grant), &long), Err(DocumentError::Rule(_))));
}

#[test]
fn a_document_signed_before_its_key_was_valid_is_refused() {
    let home = Installation::new(1);
    let early = Grant {
        iat: NOW.minus(SECOND * 2 * 86_400),
        nbf: NOW.minus(SECOND * 2 * 86_400),
        exp: NOW.plus(SECOND),
        ..home.grant()
    };
    let text = sign_document(&home.key(KeyRole::Grant), &early).expect("signs");
    assert_eq!(verify::<Grant>(&home, &text).expect_err("the key is younger").label(), "key_not_valid");
}

#[test]
fn an_unknown_field_is_refused_except_inside_ext() {
    let home = Installation::new(1);
    let newer = Grant { ext: Some(serde_json::json!({"later": [1, 2]})), ..home.grant() };
    let text = sign_document(&home.key(KeyRole::Grant), &newer).expect("signs");
    assert_eq!(verify::<Grant>(&home, &text), Ok(newer.clone()));
    let mut value = serde_json::to_value(home.grant()).expect("JSON");
    value["admin"] = true.into();
    assert!(serde_json::from_value::<Grant>(value).is_err());
}

#[test]
fn each_role_has_a_certificate_that_is_accepted_for_it() {
    let home = Installation::new(1);
    for role in Role::ALL {
        let certificate = Certificate::verify(&home.certificate(role), &home.bundle, NOW).expect("genuine");
        assert_eq!(certificate.identity(), home.identity(role));
        assert_eq!(
            (certificate.generation(), certificate.public_key()),
            (3, home.device_key().verifying_key())
        );
    }
}

#[test]
fn no_bent_certificate_is_accepted() {
    let home = Installation::new(1);
    let der = home.certificate(Role::Device);
    for at in 0..der.len() {
        for bit in 0..8 {
            let mut bent = der.clone();
            bent[at] ^= 1 << bit;
            assert!(Certificate::verify(&bent, &home.bundle, NOW).is_err(), "bit {bit} of byte {at}");
        }
        assert!(Certificate::verify(&der[..at], &home.bundle, NOW).is_err(), "cut at {at}");
        let mut longer = der.clone();
        longer.insert(at, 0);
        assert!(Certificate::verify(&longer, &home.bundle, NOW).is_err(), "extended at {at}");
    }
    assert_eq!(
        Certificate::verify(&[&der[..], &[0]].concat(), &home.bundle, NOW),
        Err(CertificateError::Malformed)
    );
}

#[test]
fn a_certificate_signed_by_the_issuer_of_another_role_is_refused() {
    let home = Installation::new(1);
    let abroad = Installation::new(50);
    for role in Role::ALL {
        for issuer in KeyRole::ALL.into_iter().filter(|issuer| *issuer != role.issuer()) {
            let der = issue_certificate(&home.key(issuer), &home.request(role)).expect("issued");
            assert_eq!(
                Certificate::verify(&der, &home.bundle, NOW),
                Err(CertificateError::UnknownIssuer),
                "{role:?} by {issuer:?}"
            );
        }
        assert_eq!(
            Certificate::verify(&abroad.certificate(role), &home.bundle, NOW),
            Err(CertificateError::OtherInstallation)
        );
    }
}

#[test]
fn a_certificate_is_valid_for_its_time_and_thirty_days_at_most() {
    let home = Installation::new(1);
    let request = home.request(Role::Device);
    let der = home.certificate(Role::Device);
    assert_eq!(Certificate::verify(&der, &home.bundle, request.not_after), Err(CertificateError::Expired));
    let early = request.not_before.minus(MAX_CLOCK_SKEW + SECOND);
    assert_eq!(Certificate::verify(&der, &home.bundle, early), Err(CertificateError::NotYetValid));
    let long = trust::CertificateRequest { not_after: request.not_after.plus(SECOND * 3600), ..request };
    let der = issue_certificate(&home.key(KeyRole::DeviceIssuer), &long).expect("issued");
    assert_eq!(Certificate::verify(&der, &home.bundle, NOW), Err(CertificateError::LivesTooLong));
}

/// Certificates that a general-purpose library makes and a web-PKI verifier would take.
fn foreign(change: impl FnOnce(&mut rcgen::CertificateParams)) -> Result<Certificate, CertificateError> {
    use rcgen::{
        CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose as Extended, Issuer,
        KeyUsagePurpose, SanType, SerialNumber,
    };
    let home = Installation::new(1);
    let name = |text: String| {
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, text);
        name
    };
    let date = |time: trust::UnixMs| {
        time::OffsetDateTime::from_unix_timestamp(time.as_secs().try_into().expect("fits")).expect("a date")
    };
    let mut params = CertificateParams::default();
    params.not_before = date(NOW);
    params.not_after = date(NOW.plus(SECOND * 3600));
    let uri = home.identity(Role::Device).to_string();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ascii"))];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![Extended::ClientAuth];
    params.serial_number = Some(SerialNumber::from(vec![1; 17]));
    change(&mut params);
    let key = home.key(KeyRole::DeviceIssuer);
    let mut issuer = CertificateParams::default();
    issuer.distinguished_name = name(key.verifying_key().key_id().to_string());
    let issuer = Issuer::new(issuer, &key);
    let der = params.signed_by(&home.device_key().verifying_key(), &issuer).expect("signed");
    Certificate::verify(der.der(), &home.bundle, NOW)
}

#[test]
fn names_usages_and_extensions_of_certificates_are_exact() {
    use rcgen::{
        BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose as Extended, IsCa, KeyUsagePurpose,
        SanType, SerialNumber,
    };
    let uri = |role| SanType::URI(Installation::new(1).identity(role).to_string().try_into().expect("ascii"));
    assert!(foreign(|_| ()).is_ok(), "the unchanged one is accepted, else this test proves nothing");
    let refusals = [
        (foreign(|p| p.subject_alt_names.push(uri(Role::Device))), CertificateError::Names),
        (
            foreign(|p| p.subject_alt_names.push(SanType::DnsName("a.example".try_into().expect("ascii")))),
            CertificateError::Names,
        ),
        (
            foreign(|p| p.subject_alt_names = vec![SanType::DnsName("a.example".try_into().expect("ascii"))]),
            CertificateError::Names,
        ),
        (foreign(|p| p.subject_alt_names.clear()), CertificateError::Names),
        (
            foreign(|p| p.subject_alt_names = vec![SanType::URI("spiffe://a/b".try_into().expect("ascii"))]),
            CertificateError::Identity,
        ),
        (foreign(|p| p.subject_alt_names = vec![uri(Role::Connector)]), CertificateError::UnknownIssuer),
        (foreign(|p| p.subject_alt_names = vec![uri(Role::Controller)]), CertificateError::Usage),
        (foreign(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), CertificateError::IsCa),
        (foreign(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)), CertificateError::Usage),
        (foreign(|p| p.key_usages.clear()), CertificateError::Usage),
        (foreign(|p| p.extended_key_usages = vec![Extended::ServerAuth]), CertificateError::Usage),
        (foreign(|p| p.extended_key_usages.push(Extended::ServerAuth)), CertificateError::Usage),
        (foreign(|p| p.extended_key_usages.clear()), CertificateError::Usage),
        (foreign(|p| p.extended_key_usages = vec![Extended::Any]), CertificateError::Usage),
        (foreign(|p| p.serial_number = Some(SerialNumber::from(vec![1; 16]))), CertificateError::Serial),
        (foreign(|p| p.serial_number = Some(SerialNumber::from(vec![2; 17]))), CertificateError::Serial),
        (
            foreign(|p| {
                let mut unknown =
                    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
                unknown.set_criticality(true);
                p.custom_extensions.push(unknown);
            }),
            CertificateError::Extension,
        ),
    ];
    for (at, (outcome, expected)) in refusals.into_iter().enumerate() {
        assert_eq!(outcome.expect_err("refused"), expected, "case {at}");
    }
}

#[test]
fn no_bent_chain_is_accepted() {
    let home = Installation::new(1);
    let pinned = RootHash::of(&home.root.verifying_key());
    let text = home.chain.to_text();
    let accept = |text: &str| TrustChain::parse(text).and_then(|chain| chain.verify(&pinned, NOW));
    accept(&text).expect("the genuine one");
    // The text ends in a line break that carries nothing.
    let signed = text.trim_end();
    for at in 0..signed.len() {
        assert!(accept(&signed[..at]).is_err(), "cut at {at}");
        let mut bent = signed.as_bytes().to_vec();
        bent[at] = if bent[at] == b'A' { b'B' } else { b'A' };
        assert!(accept(std::str::from_utf8(&bent).expect("ascii")).is_err(), "byte {at}");
    }
    let abroad = Installation::new(50);
    assert!(abroad.chain.verify(&pinned, NOW).is_err());
    let mixed = format!(
        "{}\n{}\n",
        text.lines().next().expect("rotation"),
        abroad.chain.to_text().lines().nth(1).expect("bundle")
    );
    assert!(accept(&mixed).is_err(), "another installation's bundle under our rotation key");
}

#[test]
fn a_new_root_is_believed_when_the_old_one_signed_it_in_and_only_then() {
    let home = Installation::new(1);
    let old = RootHash::of(&home.root.verifying_key());
    let new_root = SigningKey::from_seed(&[77; 32]);
    let statement = trust::RotationStatement {
        installation: home.id,
        root: new_root.verifying_key(),
        rotation: home.rotation.verifying_key(),
        epoch: 2,
        nbf: NOW,
        exp: NOW.plus(SECOND * 86_400),
    };
    let next = home.chain.with_successor(&home.root, &new_root, &statement, NOW).expect("signed");
    let bundle = next.verify(&old, NOW).expect("signed in by the old root");
    assert_eq!((bundle.root(), bundle.epoch()), (RootHash::of(&new_root.verifying_key()), 2));
    assert!(next.verify(&bundle.root(), NOW).is_ok(), "who pinned the new root needs no history");
    let usurper = SigningKey::from_seed(&[78; 32]);
    let forged = home.chain.with_successor(&usurper, &new_root, &statement, NOW).expect("signed");
    assert!(forged.verify(&old, NOW).is_err());
}

#[test]
fn a_retired_root_signs_nothing_for_who_believes_its_successor() {
    let home = Installation::new(1);
    let old = RootHash::of(&home.root.verifying_key());
    let (next, evil) = (SigningKey::from_seed(&[77; 32]), SigningKey::from_seed(&[78; 32]));
    let statement = |root: &SigningKey, epoch| trust::RotationStatement {
        installation: home.id,
        root: root.verifying_key(),
        rotation: home.rotation.verifying_key(),
        epoch,
        nbf: NOW,
        exp: NOW.plus(SECOND * 86_400),
    };
    let succeeded = home.chain.with_successor(&home.root, &next, &statement(&next, 2), NOW).expect("signed");
    let pinned = succeeded.verify(&old, NOW).expect("signed in").root();
    let by_old = |epoch| {
        let keys = home.bundle.all_keys().cloned().collect();
        let bundle = trust::BundleStatement { installation: home.id, serial: 9, iat: NOW, keys };
        TrustChain::sign(&home.root, &home.rotation, &statement(&home.root, epoch), &bundle).expect("signed")
    };
    assert!(by_old(9).verify(&pinned, NOW).is_err());
    // Nor does it name another successor, neither instead of the first nor behind it.
    let instead = home.chain.with_successor(&home.root, &evil, &statement(&evil, 9), NOW).expect("signed");
    assert!(instead.verify(&pinned, NOW).is_err());
    let behind = succeeded.with_successor(&home.root, &evil, &statement(&evil, 9), NOW).expect("signed");
    assert!(behind.verify(&pinned, NOW).is_err() && behind.verify(&old, NOW).is_err());
}

#[test]
fn a_controller_speaks_for_itself_alone() {
    let home = Installation::new(1);
    let other = wire::ControllerId::from_bytes([0xEE; 16]);
    let key = home.key(KeyRole::Beacon);
    let beacon = Beacon { controller: other, ..home.beacon() };
    let refused = verify::<Beacon>(&home, &sign_document(&key, &beacon).expect("signs"));
    assert_eq!(refused, Err(DocumentError::OtherOwner { speaker: other, owner: home.controller }));
    let strike = Revocation { signer: other, ..home.revocation() };
    let refused = verify::<Revocation>(&home, &sign_document(&key, &strike).expect("signs"));
    assert_eq!(refused, Err(DocumentError::OtherOwner { speaker: other, owner: home.controller }));
}

#[test]
fn an_older_bundle_never_replaces_a_newer_one() {
    let home = Installation::new(1);
    let pinned = RootHash::of(&home.root.verifying_key());
    let keys: Vec<_> = home.bundle.all_keys().cloned().collect();
    let statement = trust::BundleStatement { installation: home.id, serial: 2, iat: NOW, keys };
    let newer = home
        .chain
        .with_bundle(&home.rotation, &statement)
        .expect("signed")
        .verify(&pinned, NOW)
        .expect("genuine");
    let mut held = newer.clone();
    assert!(held.replace_with(home.bundle.clone()).is_err());
    assert_eq!(held.serial(), 2);
    held.replace_with(newer).expect("the same one again is fine");
}

#[test]
fn the_union_of_revocations_does_not_depend_on_their_order() {
    use trust::RevocationSet;
    let home = Installation::new(1);
    let entries: Vec<Revocation> =
        (1..=4).map(|n| Revocation { seq: n, generation: n % 3 + 1, ..home.revocation() }).collect();
    let forward = entries.iter().fold(RevocationSet::new(), |mut set, entry| {
        set.insert(entry);
        set
    });
    let backward = entries.iter().rev().fold(RevocationSet::new(), |mut set, entry| {
        set.insert(entry);
        set
    });
    assert_eq!(forward, backward);
    let subject = home.revocation().subject;
    assert!(forward.is_struck(subject, 3) && !forward.is_struck(subject, 4));
    let mut union = forward.clone();
    assert_eq!(union.union(&backward), trust::Changed::No);
}
