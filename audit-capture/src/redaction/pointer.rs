//! JSON pointers (RFC 6901) with `*` for every member and item.

use super::view::View;

/// Segments of one pointer.
const SEGMENTS_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pointer(Vec<Segment>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Any,
    Name(String),
}

/// One step of the way to a value.
#[derive(Debug, Clone)]
pub(super) enum Step<'b> {
    /// A member, by its name as it is written.
    Name(&'b [u8]),
    Item(usize),
}

impl Pointer {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let shown: String = text.chars().take(80).collect();
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!(
                "pointer {shown:?} doesn't begin with a slash (RFC 6901)"
            ));
        };
        let segments: Vec<&str> = rest.split('/').collect();
        if segments.len() > SEGMENTS_MAX {
            return Err(format!(
                "pointer {shown:?} has {} segments, allowed are {SEGMENTS_MAX}",
                segments.len()
            ));
        }
        segments
            .into_iter()
            .map(|segment| {
                if segment == "*" {
                    return Ok(Segment::Any);
                }
                let escapes = segment.split('~').skip(1);
                if escapes.clone().any(|e| !e.starts_with(['0', '1'])) {
                    return Err(format!(
                        "pointer {shown:?}: behind a ~ stands 0 or 1 (RFC 6901)"
                    ));
                }
                Ok(Segment::Name(segment.replace("~1", "/").replace("~0", "~")))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether it names the value at the end of this way.
    pub(super) fn names(&self, way: &[Step<'_>]) -> bool {
        self.0.len() == way.len()
            && self.0.iter().zip(way).all(|pair| match pair {
                (Segment::Any, _) => true,
                (Segment::Name(name), Step::Name(raw)) => View::of_json(raw).text == name.as_str(),
                (Segment::Name(name), Step::Item(n)) => name.parse() == Ok(*n),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_names_another_value_than_rfc_6901_says() {
        let names = |pointer: &str, way: &[Step<'_>]| Pointer::parse(pointer).unwrap().names(way);
        assert!(names("", &[]));
        assert!(names("/", &[Step::Name(b"")]));
        assert!(names(
            "/a~1b/m~0n",
            &[Step::Name(b"a/b"), Step::Name(b"m~n")]
        ));
        assert!(names("/~01", &[Step::Name(b"~1")]));
        assert!(names("/a", &[Step::Name(b"\\u0061")]));
        assert!(names(
            "/*/0/*",
            &[Step::Name(b"x"), Step::Item(0), Step::Item(7)]
        ));
        assert!(!names("/a", &[Step::Name(b"a"), Step::Item(0)]));
        assert!(!names("/a/b", &[Step::Name(b"a")]));
        for wrong in ["a", "/~", "/a~2b", "#/a"] {
            Pointer::parse(wrong).unwrap_err();
        }
    }
}
