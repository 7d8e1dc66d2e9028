//! Time, ids and randomness, all passed in.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::error::{Error, Result};

/// Microseconds since 1970-01-01T00:00:00Z, up to the end of the year 9999.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// 9999-12-31T23:59:59.999999Z.
const MAX_MICROS: i64 = 253_402_300_799_999_999;

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);

    /// From microseconds since 1970.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) outside of the years 1970 to 9999.
    pub fn from_micros(micros: i64) -> Result<Self> {
        if (0..=MAX_MICROS).contains(&micros) {
            Ok(Self(micros))
        } else {
            Err(Error::invalid(format!(
                "time of {micros} µs is outside of the years 1970 to 9999"
            )))
        }
    }

    /// Microseconds since 1970.
    #[must_use]
    pub fn as_micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        (self.0 / 1000).unsigned_abs()
    }

    /// This time, `micros` later; saturating.
    #[must_use]
    pub fn plus_micros(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros).clamp(0, MAX_MICROS))
    }

    /// Parses any RFC 3339 time with a zone, as callers write it; finer parts than microseconds are cut.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for anything else.
    pub fn parse_rfc3339(text: &str) -> Result<Self> {
        if text.len() > 64 {
            return Err(Error::invalid("time is longer than 64 bytes"));
        }
        let parsed: jiff::Timestamp = text.parse().map_err(|e: jiff::Error| {
            Error::invalid(format!("time {text:?} is not RFC 3339 with a zone")).because(e)
        })?;
        Self::from_micros(parsed.as_microsecond())
    }

    /// Parses the one form that an entry may hold, `YYYY-MM-DDTHH:MM:SS.ffffffZ`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for any other form.
    pub fn parse(text: &str) -> Result<Self> {
        text.as_bytes()
            .try_into()
            .ok()
            .and_then(Self::from_bytes)
            .ok_or_else(|| {
                Error::invalid(format!(
                    "time {:?} is not of the form YYYY-MM-DDTHH:MM:SS.ffffffZ",
                    text.chars().take(40).collect::<String>()
                ))
            })
    }

    /// Reads the same form; `None` for any other.
    pub(crate) fn from_bytes(text: &[u8; 27]) -> Option<Self> {
        // jiff accepts more forms (offsets, lower case, leap seconds); one encoding per value is ours to hold.
        const FORM: &[u8; 27] = b"0000-00-00T00:00:00.000000Z";
        let shaped = text.iter().zip(FORM).all(|(b, form)| match form {
            b'0' => b.is_ascii_digit(),
            _ => b == form,
        });
        if !shaped {
            return None;
        }
        let number = |digits: Range<usize>| {
            text[digits]
                .iter()
                .fold(0_i64, |n, b| n * 10 + i64::from(b - b'0'))
        };
        let days = days_from_civil(number(0..4), number(5..7), number(8..10))?;
        let (hour, minute, second) = (number(11..13), number(14..16), number(17..19));
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
        Some(Self(seconds * 1_000_000 + number(20..26)))
    }

    /// Writes that form.
    pub(crate) fn to_ascii(self) -> [u8; 27] {
        let mut out = *b"0000-00-00T00:00:00.000000Z";
        let mut put = |digits: Range<usize>, mut n: i64| {
            for digit in out[digits].iter_mut().rev() {
                *digit = b'0' + (n % 10).to_le_bytes()[0];
                n /= 10;
            }
        };
        let seconds = self.0 / 1_000_000;
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil_from_days(days);
        put(0..4, year);
        put(5..7, month);
        put(8..10, day);
        put(11..13, rest / 3600);
        put(14..16, rest / 60 % 60);
        put(17..19, rest % 60);
        put(20..26, self.0 % 1_000_000);
        out
    }
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar, `None` if there is no such day.
fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if !(1970..=9999).contains(&year) || !(1..=length).contains(&day) {
        return None;
    }
    // Counting years from March puts the leap day at the end of a year.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    Some(365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468)
}

/// The inverse of [`days_from_civil`], by 400-year eras.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.to_ascii()).expect("digits and signs are ASCII"))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let ascii = self.to_ascii();
        serializer
            .serialize_str(std::str::from_utf8(&ascii).expect("digits and separators are ASCII"))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Timestamp;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time of the form YYYY-MM-DDTHH:MM:SS.ffffffZ")
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> std::result::Result<Timestamp, E> {
                Timestamp::parse(v).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// Where the time comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The wall clock.
    fn now(&self) -> Timestamp;
    /// A clock that never goes back, in microseconds from some start.
    fn monotonic_micros(&self) -> u64;
}

/// Where ids and random bytes come from.
pub trait IdSource: Send + Sync + fmt::Debug {
    /// Fills `bytes` with what no one can guess.
    fn fill(&self, bytes: &mut [u8]);

    /// A time-ordered id (RFC 9562, version 7).
    fn uuid_v7(&self, now: Timestamp) -> Uuid {
        let mut random = [0_u8; 10];
        self.fill(&mut random);
        uuid::Builder::from_unix_timestamp_millis(now.as_millis(), &random).into_uuid()
    }

    /// A random id (RFC 9562, version 4).
    fn uuid_v4(&self) -> Uuid {
        let mut random = [0_u8; 16];
        self.fill(&mut random);
        uuid::Builder::from_random_bytes(random).into_uuid()
    }
}

/// The operating system's clock and random numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct System;

impl Clock for System {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the clock"
    )]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(
            i64::try_from(since.as_micros())
                .unwrap_or(MAX_MICROS)
                .min(MAX_MICROS),
        )
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the clock"
    )]
    fn monotonic_micros(&self) -> u64 {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        let start = START.get_or_init(std::time::Instant::now);
        u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl IdSource for System {
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes)
            .expect("the operating system gives random bytes, or nothing here is safe");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_of_every_year_survives_a_round_trip() {
        let mut days = 0_i64;
        for year in 1970..=9999 {
            for month in 1..=12 {
                for day in 1..=31 {
                    if let Some(n) = days_from_civil(year, month, day) {
                        assert_eq!(n, days, "{year}-{month}-{day}");
                        days += 1;
                        if day == 1 || day > 27 {
                            let t = Timestamp(n * 86_400_000_000 + 86_399_999_999);
                            let text = t.to_string();
                            assert_eq!(
                                text,
                                format!("{year:04}-{month:02}-{day:02}T23:59:59.999999Z")
                            );
                            assert_eq!(Timestamp::parse(&text).unwrap(), t);
                        }
                    }
                }
            }
        }
        assert_eq!(days * 86_400_000_000 - 1, MAX_MICROS);
    }

    #[test]
    fn other_forms_of_a_time_are_refused() {
        let good = "2026-11-22T04:00:00.000001Z";
        assert_eq!(Timestamp::parse(good).unwrap().to_string(), good);
        for bad in [
            "2026-11-22T04:00:00Z",
            "2026-11-22T04:00:00.000001+00:00",
            "2026-11-22t04:00:00.000001z",
            "2026-02-29T04:00:00.000001Z",
            "2026-11-22T24:00:00.000001Z",
            "2026-11-22T04:00:60.000001Z",
            "1969-12-31T23:59:59.999999Z",
            "2026-11-22T04:00:00.00000éZ",
            "",
        ] {
            assert!(Timestamp::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn callers_may_write_any_zone() {
        let t = Timestamp::parse_rfc3339("2026-11-22T05:00:00.1234567+01:00").unwrap();
        assert_eq!(t.to_string(), "2026-11-22T04:00:00.123456Z");
        Timestamp::parse_rfc3339("2026-11-22T05:00:00").unwrap_err();
    }
}
