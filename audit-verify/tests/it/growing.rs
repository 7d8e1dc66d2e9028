//! A log that grows while it is verified or exported is no tampered log.

use std::cell::Cell;
use std::io::Cursor;
use std::ops::Range;

use audit_core::datakey::KeyRecord;
use audit_core::row::{Parts, Row};
use audit_core::token::Token;
use audit_core::{ErrorKind, Result};
use audit_tlog::tile::Tile;
use audit_verify::bundle::{Reader, export};
use audit_verify::{Evidence, Policy, verify};
use uuid::Uuid;

use crate::world::{Mem, world};

/// Says its first size once; everything else is of the log as it is later.
struct Growing<'a> {
    first: Cell<Option<u64>>,
    log: &'a Mem,
}

impl Evidence for Growing<'_> {
    fn origin(&self) -> Result<Option<String>> {
        self.log.origin()
    }
    fn size(&self) -> Result<u64> {
        self.first.take().map_or_else(|| self.log.size(), Ok)
    }
    fn rows(&self, range: Range<u64>, parts: Parts) -> Result<Vec<Row>> {
        self.log.rows(range, parts)
    }
    fn token_rows(&self, after: Option<(Token, u64)>, limit: usize) -> Result<Vec<(Token, u64)>> {
        self.log.token_rows(after, limit)
    }
    fn tiles(&self, level: u8, after: Option<u64>, limit: usize) -> Result<Vec<Tile>> {
        self.log.tiles(level, after, limit)
    }
    fn checkpoints(&self, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        self.log.checkpoints(after, limit)
    }
    fn keys(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<KeyRecord>> {
        self.log.keys(after, limit)
    }
    fn key(&self, id: Uuid) -> Result<Option<KeyRecord>> {
        self.log.key(id)
    }
}

fn growing(first: u64) -> Growing<'static> {
    Growing {
        first: Cell::new(Some(first)),
        log: &world().log,
    }
}

#[test]
fn what_came_meanwhile_is_not_held_against_the_log() {
    let world = world();
    // At 100 the tiles were partial, data keys not there yet, and nothing was erased or rewrapped.
    for size in [world.log.size - 1, world.log.size - 4, 512, 100, 20, 8] {
        let policy = Policy {
            auditor: Some(world.auditor.clone()),
            operator: Some(&world.ring),
            ..world.public()
        };
        let verdict = verify(&growing(size), &policy, &mut ());
        assert_eq!(verdict.findings(), [], "{verdict}");
        assert!(
            verdict.notices().iter().any(|n| n.contains("the log grew")),
            "{verdict}"
        );
    }
}

#[test]
fn an_export_is_cut_at_the_size_that_it_began_with() {
    let world = world();
    let size = world.log.size - 1;
    let mut out = Vec::new();
    assert_eq!(export(&growing(size), &mut out, true).unwrap(), size);
    // The last checkpoint came later, so only the MACs speak for the erasure in it.
    let policy = Policy {
        auditor: Some(world.auditor.clone()),
        ..world.public()
    };
    let verdict = verify(&Reader::open(Cursor::new(&out)).unwrap(), &policy, &mut ());
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    assert_eq!(verdict.size(), size);
    // An erasure meanwhile would leave half of it in the bundle.
    let e = export(&growing(100), &mut Vec::new(), true).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable);
}
