//! Check digits.

/// ISO/IEC 7812-1, annex B (Luhn): payment cards.
pub(super) fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let n = u32::from(*digit) * if place % 2 == 1 { 2 } else { 1 };
            n / 10 + n % 10
        })
        .sum();
    sum.is_multiple_of(10)
}

/// ISO/IEC 7064, MOD 97-10 over letters and digits, as ISO 13616 has it for the IBAN: the first four characters go last.
pub(super) fn iban(text: &[u8]) -> bool {
    let Some((head, rest)) = text.split_at_checked(4) else {
        return false;
    };
    let mut remainder = 0_u32;
    for byte in rest.iter().chain(head) {
        remainder = match byte {
            b'0'..=b'9' => remainder * 10 + u32::from(byte - b'0'),
            b'A'..=b'Z' => remainder * 100 + u32::from(byte - b'A') + 10,
            _ => return false,
        } % 97;
    }
    remainder == 1
}

/// Verhoeff's code over the dihedral group of ten elements, computed instead of tabulated.
pub(super) fn verhoeff(digits: &[u8]) -> bool {
    const PERMUTATION: [u8; 10] = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4];
    let product = |a: u8, b: u8| match (a < 5, b < 5) {
        (true, true) => (a + b) % 5,
        (true, false) => (a + b - 5) % 5 + 5,
        (false, true) => (a + 5 - b) % 5 + 5,
        (false, false) => (a + 5 - b) % 5,
    };
    let mut check = 0;
    for (place, digit) in digits.iter().rev().enumerate() {
        let mut digit = *digit;
        for _ in 0..place % 8 {
            digit = PERMUTATION
                .get(usize::from(digit))
                .copied()
                .unwrap_or_default();
        }
        check = product(check, digit);
    }
    check == 0
}

/// The sum of digits under weights.
pub(super) fn weighted(digits: &[u8], weights: &[u32]) -> u32 {
    digits
        .iter()
        .zip(weights)
        .map(|(digit, weight)| u32::from(*digit) * weight)
        .sum()
}

/// EAN-13: the Swiss AHV number.
pub(super) fn ean13(digits: &[u8]) -> bool {
    digits.len() == 13
        && weighted(digits, &[1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1]).is_multiple_of(10)
}

/// The German tax number (§ 139b AO): of its first ten digits one stands there two or three times and no other more than
/// once; ISO/IEC 7064 MOD 11,10.
pub(super) fn de_tax_id(digits: &[u8]) -> bool {
    let Ok(digits) = <[u8; 11]>::try_from(digits) else {
        return false;
    };
    let [body @ .., check] = digits;
    let mut counts = [0_u8; 10];
    for digit in body {
        counts[usize::from(digit % 10)] += 1;
    }
    let mut repeated = counts.into_iter().filter(|n| *n > 1);
    let (Some(2 | 3), None) = (repeated.next(), repeated.next()) else {
        return false;
    };
    if body[0] == 0 {
        return false;
    }
    let mut product = 10;
    for digit in body {
        let sum = (u32::from(digit) + product) % 10;
        product = (if sum == 0 { 10 } else { sum }) * 2 % 11;
    }
    u32::from(check) == (11 - product) % 10
}

/// The Dutch BSN: the eleven test, with −1 for the last digit.
pub(super) fn nl_bsn(digits: &[u8]) -> bool {
    digits.len() == 9
        && digits.iter().any(|d| *d != 0)
        && (weighted(digits, &[9, 8, 7, 6, 5, 4, 3, 2]) + 11 * 9 - u32::from(digits[8]))
            .is_multiple_of(11)
}

/// The Polish PESEL: a date of birth, and a weighted sum.
pub(super) fn pl_pesel(digits: &[u8]) -> bool {
    if digits.len() != 11 {
        return false;
    }
    let two = |at: usize| u32::from(digits[at]) * 10 + u32::from(digits[at + 1]);
    // The century stands in the month: +80 for 18.., +20 for 20.., +40 for 21.., +60 for 22...
    let (month, day) = (two(2) % 20, two(4));
    (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && weighted(digits, &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1]).is_multiple_of(10)
}

/// The Brazilian CPF: two check digits; eleven equal digits pass the sums and are none.
pub(super) fn br_cpf(digits: &[u8]) -> bool {
    let check = |n: usize| {
        let weights: Vec<u32> = (2..=11).rev().skip(10 - n).collect();
        let sum = weighted(&digits[..n], &weights) * 10 % 11;
        sum % 10 == u32::from(digits[n])
    };
    digits.len() == 11 && digits.iter().any(|d| *d != digits[0]) && check(9) && check(10)
}

/// The French NIR: 97 less the number modulo 97. In Corsica 2A counts as 19 and 2B as 18.
pub(super) fn fr_nir(text: &[u8]) -> bool {
    if text.len() != 15 {
        return false;
    }
    let mut digits = Vec::with_capacity(15);
    for (place, byte) in text.iter().enumerate() {
        match (place, byte) {
            (_, b'0'..=b'9') => digits.push(u64::from(byte - b'0')),
            (6, b'A') => digits.push(9),
            (6, b'B') => digits.push(8),
            _ => return false,
        }
    }
    if matches!(text[6], b'A' | b'B') {
        if text[5] != b'2' {
            return false;
        }
        digits[5] = 1;
    }
    // Months beyond twelve stand for what isn't known, but not these.
    if matches!((digits[3], digits[4]), (0, 0) | (1, 3..=9)) {
        return false;
    }
    let number = |part: &[u64]| part.iter().fold(0, |n, d| n * 10 + d);
    let (body, key) = digits.split_at(13);
    97 - number(body) % 97 == number(key)
}

/// The Italian codice fiscale: the last letter, over the fifteen before it (D.M. 23/12/1976).
pub(super) fn it_codice_fiscale(text: &[u8]) -> bool {
    const ODD: [u8; 26] = [
        1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24,
        23,
    ];
    let Some((last, body)) = text.split_last() else {
        return false;
    };
    if body.len() != 15 {
        return false;
    }
    let mut sum = 0_u32;
    for (place, byte) in body.iter().enumerate() {
        let value = match byte {
            b'0'..=b'9' => byte - b'0',
            b'A'..=b'Z' => byte - b'A',
            _ => return false,
        };
        // Places are counted from one, so the first is odd.
        sum += u32::from(if place % 2 == 0 {
            ODD.get(usize::from(value)).copied().unwrap_or_default()
        } else {
            value
        });
    }
    last.is_ascii_uppercase() && u32::from(last - b'A') == sum % 26
}

/// The Spanish DNI and NIE: the letter of the number modulo 23.
pub(super) fn es_dni(text: &[u8]) -> bool {
    let Ok([first, middle @ .., letter]) = <[u8; 9]>::try_from(text) else {
        return false;
    };
    let first = match first {
        b'0'..=b'9' => first - b'0',
        b'X'..=b'Z' => first - b'X',
        _ => return false,
    };
    let mut number = usize::from(first);
    for byte in middle {
        if !byte.is_ascii_digit() {
            return false;
        }
        number = number * 10 + usize::from(byte - b'0');
    }
    b"TRWAGMYFPDXBNJZSQVHLCKE".get(number % 23) == Some(&letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits(text: &str) -> Vec<u8> {
        text.bytes()
            .filter(u8::is_ascii_digit)
            .map(|b| b - b'0')
            .collect()
    }

    type Check = fn(&[u8]) -> bool;

    /// Numbers that authorities and standards print as examples.
    const NUMBERS: [(&str, Check, &[&str]); 8] = [
        (
            "luhn",
            luhn,
            &["4111111111111111", "378282246310005", "79927398713"],
        ),
        ("verhoeff", verhoeff, &["2363", "234123412346"]),
        ("ean13", ean13, &["7569217076985", "4006381333931"]),
        (
            "de",
            de_tax_id,
            &["86095742719", "47036892816", "65929970489"],
        ),
        ("nl", nl_bsn, &["111222333", "123456782"]),
        ("pl", pl_pesel, &["44051401359", "02070803628"]),
        ("br", br_cpf, &["52998224725", "11144477735"]),
        ("luhn again", luhn, &["6011000990139424"]),
    ];

    #[test]
    fn numbers_that_are_right_are_taken_for_wrong_or_a_changed_digit_is_not_seen() {
        for (name, check, examples) in NUMBERS {
            for example in examples {
                let right = digits(example);
                assert!(check(&right), "{name} {example}");
                for place in 0..right.len() {
                    for add in 1..10 {
                        let mut wrong = right.clone();
                        wrong[place] = (wrong[place] + add) % 10;
                        // The one weakness of a weighted sum modulo 11 with a check digit of ten values is none here:
                        // every single change shows.
                        assert!(!check(&wrong), "{name} {example}: {wrong:?}");
                    }
                }
                assert!(!check(&right[1..]) || name.starts_with("luhn") || name == "verhoeff");
            }
        }
    }

    #[test]
    fn letters_and_digits() {
        let yes: [(Check, &str); 12] = [
            (iban, "GB82WEST12345698765432"),
            (iban, "DE89370400440532013000"),
            (iban, "NO9386011117947"),
            (iban, "MT84MALT011000012345MTLCAST001S"),
            (fr_nir, "255081416802538"),
            (fr_nir, "184127645108946"),
            (fr_nir, "180052A00400135"),
            (it_codice_fiscale, "RSSMRA85T10A562S"),
            (it_codice_fiscale, "MRTMTT91D08F205J"),
            (es_dni, "12345678Z"),
            (es_dni, "X1234567L"),
            (es_dni, "Y1234567X"),
        ];
        let mut wrong = Vec::new();
        for (check, text) in yes {
            if !check(text.as_bytes()) {
                wrong.push(text);
            }
            let changed: String = text
                .char_indices()
                .map(|(at, c)| match (at, c) {
                    (7, '9') => '0',
                    (7, '0'..='8') => char::from_u32(u32::from(c) + 1).unwrap(),
                    (7, _) => 'Z',
                    _ => c,
                })
                .collect();
            assert!(changed != text && !check(changed.as_bytes()), "{changed}");
        }
        assert!(wrong.is_empty(), "{wrong:?}");
        for text in ["", "1", "ÄÄÄÄÄÄÄÄÄ", "DE89", "x1234567l"] {
            assert!(
                !es_dni(text.as_bytes()) && !fr_nir(text.as_bytes()),
                "{text}"
            );
            assert!(!iban(text.as_bytes()) && !it_codice_fiscale(text.as_bytes()));
        }
    }
}
