//! Tables of what is found, and what must not be.

use super::*;

fn found(text: &str, name: &str) -> Vec<(String, &'static str, String)> {
    let mut found = Vec::new();
    let wanted = Detector::NAMES
        .iter()
        .filter(|(name, _)| *name != "panics")
        .fold(Detectors::default(), |all, (name, _)| {
            all.with(Detectors::named(name).unwrap())
        });
    let place = Place {
        name,
        number: false,
    };
    find(text, place, wanted, &mut found);
    let mut found: Vec<_> = found
        .into_iter()
        .map(|f| {
            (
                text.get(f.range).expect("a range of characters").to_owned(),
                f.detector.name(),
                f.value,
            )
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Text, detector, what of the text it takes, and the value that pseudonyms are made of.
const TRUE: &[(&str, &str, &str, &str)] = &[
    (
        "write to John.Doe+x@Example.ORG.",
        "email",
        "John.Doe+x@Example.ORG",
        "john.doe+x@example.org",
    ),
    ("<mailto:a@b.co>", "email", "a@b.co", "a@b.co"),
    (
        "jörg@müller.de!",
        "email",
        "jörg@müller.de",
        "jörg@müller.de",
    ),
    (
        "用户@例子.公司",
        "email",
        "用户@例子.公司",
        "用户@例子.公司",
    ),
    (
        "x@mail.xn--fiqs8s",
        "email",
        "x@mail.xn--fiqs8s",
        "x@mail.xn--fiqs8s",
    ),
    ("«a@b.org»", "email", "a@b.org", "a@b.org"),
    ("'o'brien@b.org'", "email", "o'brien@b.org", "o'brien@b.org"),
    ("a@b.org,c@d.org", "email", "c@d.org", "c@d.org"),
    (
        "https://user:pw@host.example.com/",
        "email",
        "pw@host.example.com",
        "pw@host.example.com",
    ),
    (
        "4111 1111 1111 1111",
        "card",
        "4111 1111 1111 1111",
        "4111111111111111",
    ),
    (
        "card 4111111111111111.",
        "card",
        "4111111111111111",
        "4111111111111111",
    ),
    (
        "378282246310005",
        "card",
        "378282246310005",
        "378282246310005",
    ),
    (
        "3782-822463-10005",
        "card",
        "3782-822463-10005",
        "378282246310005",
    ),
    (
        "5555\u{a0}5555\u{a0}5555\u{a0}4444",
        "card",
        "5555\u{a0}5555\u{a0}5555\u{a0}4444",
        "5555555555554444",
    ),
    (
        "on 2024-01-05 4111 1111 1111 1111 01/27",
        "card",
        "4111 1111 1111 1111",
        "4111111111111111",
    ),
    (
        "4111\u{200b}1111\u{200b}1111\u{200b}1111",
        "card",
        "4111\u{200b}1111\u{200b}1111\u{200b}1111",
        "4111111111111111",
    ),
    (
        "Card4111111111111111",
        "card",
        "4111111111111111",
        "4111111111111111",
    ),
    (
        "2223003122003222",
        "card",
        "2223003122003222",
        "2223003122003222",
    ),
    (
        "6011000990139424",
        "card",
        "6011000990139424",
        "6011000990139424",
    ),
    (
        "IBAN: DE89 3704 0044 0532 0130 00 and more",
        "iban",
        "DE89 3704 0044 0532 0130 00",
        "DE89370400440532013000",
    ),
    (
        "gb82west12345698765432",
        "iban",
        "gb82west12345698765432",
        "GB82WEST12345698765432",
    ),
    (
        "(NO93 8601 1117 947)",
        "iban",
        "NO93 8601 1117 947",
        "NO9386011117947",
    ),
    (
        "FR14 2004 1010 0505 0001 3M02 606",
        "iban",
        "FR14 2004 1010 0505 0001 3M02 606",
        "FR1420041010050500013M02606",
    ),
    (
        "SSN 123-45-6789",
        "national_id.us_ssn",
        "123-45-6789",
        "123456789",
    ),
    (
        "my social security number is 123456789",
        "national_id.us_ssn",
        "123456789",
        "123456789",
    ),
    (
        "AB 12 34 56 C",
        "national_id.uk_nino",
        "AB 12 34 56 C",
        "AB123456C",
    ),
    ("ab123456c", "national_id.uk_nino", "ab123456c", "AB123456C"),
    (
        "IdNr 86 095 742 719",
        "national_id.de_tax_id",
        "86 095 742 719",
        "86095742719",
    ),
    (
        "86095742719",
        "national_id.de_tax_id",
        "86095742719",
        "86095742719",
    ),
    (
        "2 55 08 14 168 025 38",
        "national_id.fr_nir",
        "2 55 08 14 168 025 38",
        "255081416802538",
    ),
    (
        "180052A00400135",
        "national_id.fr_nir",
        "180052A00400135",
        "180052A00400135",
    ),
    (
        "RSSMRA85T10A562S",
        "national_id.it_codice_fiscale",
        "RSSMRA85T10A562S",
        "RSSMRA85T10A562S",
    ),
    (
        "DNI 12345678Z",
        "national_id.es_dni",
        "12345678Z",
        "12345678Z",
    ),
    (
        "x-1234567-l",
        "national_id.es_dni",
        "x-1234567-l",
        "X1234567L",
    ),
    (
        "BSN 123456782",
        "national_id.nl_bsn",
        "123456782",
        "123456782",
    ),
    (
        "756.9217.0769.85",
        "national_id.ch_ahv",
        "756.9217.0769.85",
        "7569217076985",
    ),
    (
        "7569217076985",
        "national_id.ch_ahv",
        "7569217076985",
        "7569217076985",
    ),
    (
        "44051401359",
        "national_id.pl_pesel",
        "44051401359",
        "44051401359",
    ),
    (
        "2341 2341 2346",
        "national_id.in_aadhaar",
        "2341 2341 2346",
        "234123412346",
    ),
    (
        "529.982.247-25",
        "national_id.br_cpf",
        "529.982.247-25",
        "52998224725",
    ),
    (
        "+49 151 23456789",
        "phone",
        "+49 151 23456789",
        "+4915123456789",
    ),
    (
        "+49 (0) 30 901820",
        "phone",
        "+49 (0) 30 901820",
        "+4930901820",
    ),
    (
        "call 0049 30 901820 now",
        "phone",
        "0049 30 901820",
        "+4930901820",
    ),
    ("(415) 555-0132", "phone", "(415) 555-0132", "4155550132"),
    ("1-415-555-0132", "phone", "1-415-555-0132", "4155550132"),
    ("415.555.0132", "phone", "415.555.0132", "4155550132"),
    ("020 7946 0958", "phone", "020 7946 0958", "02079460958"),
    ("01 23 45 67 89", "phone", "01 23 45 67 89", "0123456789"),
    ("0171/1234567", "phone", "0171/1234567", "01711234567"),
    ("tel: 2345678", "phone", "2345678", "2345678"),
    ("from 192.0.2.17.", "ip", "192.0.2.17", "192.0.2.17"),
    ("192.0.2.17:443", "ip", "192.0.2.17", "192.0.2.17"),
    ("[2001:db8::1]:443", "ip", "2001:db8::1", "2001:db8::1"),
    (
        "2001:0DB8:0:0:0:0:0:1 is",
        "ip",
        "2001:0DB8:0:0:0:0:0:1",
        "2001:db8::1",
    ),
    ("peer fe80::1: gone", "ip", "fe80::1", "fe80::1"),
    (
        "sk-ant-api03-abcdefghij0123456789",
        "secret.anthropic_key",
        "sk-ant-api03-abcdefghij0123456789",
        "sk-ant-api03-abcdefghij0123456789",
    ),
    (
        "key=sk-proj-abcdefghij0123456789",
        "secret.openai_key",
        "sk-proj-abcdefghij0123456789",
        "sk-proj-abcdefghij0123456789",
    ),
    (
        "AKIAIOSFODNN7EXAMPLE",
        "secret.aws_key",
        "AKIAIOSFODNN7EXAMPLE",
        "AKIAIOSFODNN7EXAMPLE",
    ),
    (
        "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH",
        "secret.huggingface_token",
        "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH",
        "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH",
    ),
    (
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "secret.github_token",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    ),
    (
        "xoxb-1234567890-abcdef",
        "secret.slack_token",
        "xoxb-1234567890-abcdef",
        "xoxb-1234567890-abcdef",
    ),
    (
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
        "secret.jwt",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
    ),
    (
        "a bearer abcdefghij0123456789==",
        "secret.bearer_token",
        "bearer abcdefghij0123456789==",
        "bearer abcdefghij0123456789==",
    ),
    (
        "x -----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- y",
        "secret.private_key",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
    ),
    (
        "-----BEGIN PRIVATE KEY-----\nMIIE cut",
        "secret.private_key",
        "-----BEGIN PRIVATE KEY-----\nMIIE cut",
        "-----BEGIN PRIVATE KEY-----\nMIIE cut",
    ),
];

/// Built here, since a scanner of repositories takes these for real ones.
fn built() -> Vec<(String, &'static str)> {
    vec![
        (
            format!(
                "AIza{}",
                "Sy0abcdefghijklmnopqrstuvwxyz012345".get(..35).unwrap()
            ),
            "secret.google_key",
        ),
        (
            format!("{}_live_{}", "sk", "abcdefghij0123456789"),
            "secret.stripe_key",
        ),
        (
            format!(
                "aws_secret_access_key = {}",
                "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
            ),
            "secret.aws_key",
        ),
    ]
}

/// Nothing is found in these.
const FALSE: &[&str] = &[
    "",
    "@",
    "a@b",
    "a@b.c",
    "npm i pkg@1.2.3",
    "@user said",
    "user@",
    "10 MB of @@@@@@@@@@",
    "4111 1111 1111 1112",
    "1234567890123456",
    "id 4111111111111111a",
    "x_4111111111111111",
    "0.4111111111111111",
    "-0.006929283495992422",
    "550e8400-e29b-41d4-a716-446655440000",
    "DE89 3704 0044 0532 0130 01",
    "GB82 WEST 1234",
    "XX82WEST12345698765432",
    "aDE89370400440532013000",
    "000-12-3456",
    "666-12-3456",
    "900-12-3456",
    "123-00-4567",
    "123-45-0000",
    "123456789",
    "GB123456A",
    "BG 12 34 56 A",
    "86095742718",
    "12345678A",
    "111222334",
    "2341 2341 2347",
    "529.982.247-26",
    "756.9217.0769.84",
    "44051401358",
    "RSSMRA85T10A562T",
    "2024-08-06T10:11:12Z",
    "05.11.2026 12:30",
    "2026-11-22 04:05:06.123456",
    "1700000000",
    "1700000000123",
    "1.2.3",
    "version 1.2.3.400",
    "127.0.0.1",
    "0.0.0.0",
    "::1",
    "std::vec",
    "a::b",
    "10:11:12",
    "00:1A:2B:3C:4D:5E",
    "sk-folding-cube-container-of-a-page",
    "task-abcdefghij0123456789",
    "hf_short",
    "eyJ.eyJ.x",
    "AKIA123",
    "bearer of the good news and nothing else",
    "-----BEGIN PUBLIC KEY-----\nMIIE\n-----END PUBLIC KEY-----",
    "gpt-4o-mini-2024-07-18",
    "claude-3-5-sonnet-20241022",
    "chatcmpl-123456789012345678901234",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
    "3.14159265358979323846",
    "4044404959645932768",
    "2021-01-02T03:04:05.12345678Z",
    "DOI: 10.1016/j.tcs.2013.06.013.",
    "Aug 09 2013 -0900 23:54:35",
    "IMP: R-03371-37637",
    "+262143-01-01T01:59:59.999999999+02:00",
    "5604044404959645932",
    "M1191 384h192a192 192 0 0 0 0-384h-192a192 192 0 0 0 0 384zm0-320a128 128 0",
    "149999 tokens of 150000",
    "pages 100-200, 300-400",
];

#[test]
fn a_detector_misses_what_it_is_for_or_takes_too_much_or_too_little_of_it() {
    let mut wrong = Vec::new();
    for (text, detector, part, value) in TRUE {
        let all = found(text, "");
        let wanted = ((*part).to_owned(), *detector, (*value).to_owned());
        if !all.contains(&wanted) {
            wrong.push(format!("{text:?} wants {wanted:?}, has {all:?}"));
        }
    }
    for (text, detector) in built() {
        if !found(&text, "").iter().any(|f| f.1 == detector) {
            wrong.push(format!("{text:?} wants {detector}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_detector_takes_what_it_is_not_for() {
    let wrong: Vec<_> = FALSE
        .iter()
        .map(|text| (text, found(text, "")))
        .filter(|(_, found)| !found.is_empty())
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_name_of_the_place_says_nothing_to_a_detector() {
    for (text, name, detector) in [
        ("123456782", "bsn", "national_id.nl_bsn"),
        ("123456782", "customerBsn", "national_id.nl_bsn"),
        ("123456789", "user_ssn", "national_id.us_ssn"),
        ("234123412346", "aadhaar", "national_id.in_aadhaar"),
        ("15123456789", "phoneNumber", "phone"),
        ("15123456789", "homeTel", "phone"),
    ] {
        assert!(
            found(text, "").iter().all(|f| f.1 != detector),
            "{text} without a name"
        );
        assert!(
            found(text, name).iter().any(|f| f.1 == detector),
            "{text} in {name}"
        );
    }
    for name in ["hotel", "intel", "subsnet", "telemetryId"] {
        assert!(
            found("15123456780", name).iter().all(|f| f.1 != "phone"),
            "{name}"
        );
    }
}

#[test]
fn a_number_that_counts_something_is_taken_for_an_id() {
    let number = |text: &str, name: &str| {
        let mut found = Vec::new();
        let all = Detectors(u32::MAX);
        find(text, Place { name, number: true }, all, &mut found);
        found.iter().map(|f| f.detector.name()).collect::<Vec<_>>()
    };
    for text in [
        "44051401359",
        "86095742719",
        "52998224725",
        "123456782",
        "1700000000",
    ] {
        assert!(number(text, "created").is_empty(), "{text}");
    }
    assert_eq!(number("44051401359", "pesel"), ["national_id.pl_pesel"]);
    assert_eq!(number("4111111111111111", "x"), ["card"]);
}

#[test]
fn hostile_text_takes_longer_than_its_length_or_breaks_a_detector() {
    let long = 300_000;
    for pattern in [
        "@",
        "a@",
        "@a.",
        "1",
        "1 ",
        "1.",
        "+",
        "(+",
        "DE89",
        "DE89 ",
        "::",
        ":1",
        "a:b:",
        "sk-",
        "eyJ.",
        "-",
        "ä",
        "٣",
        "+1 ",
        "eyJ-AKIAIOSFODNN7EXAMPLE-",
        "eyJaaaaaaaa.",
        "bearer a",
        "-----BEGIN PRIVATE KEY-----",
        "4111 1111 1111 111",
        "0",
        "A",
        "XY",
        "\u{a0}1",
    ] {
        let text: String = pattern.repeat(long / pattern.len());
        let mut all = Vec::new();
        find(&text, Place::default(), Detectors(u32::MAX), &mut all);
        for hit in all {
            assert!(text.get(hit.range).is_some());
        }
    }
    let jwt = "eyJhbGciOiJIUzI1NiJ9";
    let text = format!("x eyJ-eyJaaaaaaaa.{jwt}.{jwt}. {jwt}.{jwt}.{jwt}");
    let all = found(&text, "");
    assert!(
        all.iter().any(|f| f.0 == format!("{jwt}.{jwt}.{jwt}")),
        "{all:?}"
    );
}

#[test]
fn names_are_of_one_detector_or_one_group() {
    for name in Detectors::names() {
        assert!(!Detectors::named(name).unwrap().is_empty(), "{name}");
    }
    assert!(Detectors::named("secret").unwrap().has(D::Jwt));
    assert!(!Detectors::named("secret").unwrap().has(D::Card));
    assert_eq!(Detectors::named("e-mail"), None);
    assert_eq!(Detectors::named(""), None);
}
